"""Checkpoints of other projects -> safetensors: written here as those projects write them, with everything that must be refused."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_states import HARMONIC, HARMONIC_BUFFERS, SHORT_CHUNK, SHORT_CHUNK_BUFFERS, Shapes, clip_tower, random_state
from safetensors.torch import load_file, save_file
from torch import Tensor

from emoclim_cli.errors import ModelError
from emoclim_cli.networks.htsat import clap_shapes
from emoclim_cli.networks.taggers import HarmonicCnn, ShortChunkCnn, Tagger
from emoclim_cli.networks.vision import VisionTransformer
from emoclim_cli.spectrograms import hann
from emoclim_cli.torch_checkpoints import (
    INTEGERS,
    _save,
    arrays_digest,
    clap_from_checkpoint,
    clip_from_open_clip,
    harmonic_from_checkpoint,
    short_chunk_from_checkpoint,
    state_digest,
)

State = dict[str, Tensor]
Convert = Callable[[Mapping[str, Path], Path], None]

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def converted(convert: Convert, content: object, folder: Path, **options: Any) -> State:
    file = folder / "best_model.pth"
    torch.save(content, file, **options)
    convert({"best_model.pth": file}, folder / "out.safetensors")
    out = load_file(folder / "out.safetensors")
    (folder / "out.safetensors").unlink()  # up to 350 MB
    return out


def refused(convert: Convert, content: object, folder: Path, message: str) -> None:
    """`content`: bytes as they are, everything else as PyTorch saves it."""
    file = folder / "best_model.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ModelError, match=message) as caught:
        convert({"best_model.pth": file}, folder / "out.safetensors")
    assert "best_model.pth" in caught.value.message
    assert not (folder / "out.safetensors").exists()


def equal(state: State, expected: State) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


# --- the music taggers -------------------------------------------------------------------------------------------------------------------


def with_window(state: State, frame: int = 513) -> State:
    return {**state, "hstft.spec.window": torch.tensor(hann(frame))}


HARMONIC_STATE = with_window(random_state(HARMONIC))


@pytest.mark.parametrize(
    ("convert", "network", "shapes", "buffers"),
    [
        (short_chunk_from_checkpoint, ShortChunkCnn, SHORT_CHUNK, SHORT_CHUNK_BUFFERS),
        (harmonic_from_checkpoint, HarmonicCnn, HARMONIC, HARMONIC_BUFFERS),
    ],
)
def test_a_published_checkpoint_comes_through_whole(
    convert: Convert, network: type[Tagger], shapes: Shapes, buffers: Shapes, tmp_path: Path
) -> None:
    state = random_state(shapes)
    out = converted(convert, OrderedDict(**random_state(buffers), **state), tmp_path)
    assert equal(out, with_window(state) if network is HarmonicCnn else state)
    network().load_state_dict(out)


def test_buffers_are_passed_over_whatever_they_hold(tmp_path: Path) -> None:
    """The filters of an old torchaudio are empty until it has heard something."""
    state = random_state(SHORT_CHUNK)
    assert equal(converted(short_chunk_from_checkpoint, {**state, "spec.mel_scale.fb": torch.zeros(0)}, tmp_path), state)
    for frame in (512, 513):  # of which only the length is kept
        out = converted(harmonic_from_checkpoint, {**HARMONIC_STATE, "hstft.spec.window": torch.zeros(frame)}, tmp_path)
        assert equal(out, with_window(HARMONIC_STATE, frame))


@pytest.mark.parametrize(
    ("window", "shape"),
    [
        (torch.zeros(256), r"\(256,\)"),
        (torch.tensor(513.0), r"\(\)"),
        (torch.zeros(513, 1), r"\(513, 1\)"),
        (torch.zeros(1).expand(1 << 40), r"\(1099511627776,\)"),
    ],
)
def test_a_window_of_another_shape_is_refused(window: Tensor, shape: str, tmp_path: Path) -> None:
    message = rf"best_model\.pth: hstft\.spec\.window has the shape {shape}, not one of "
    refused(harmonic_from_checkpoint, {**HARMONIC_STATE, "hstft.spec.window": window}, tmp_path, message)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) for name, tensor in state.items()},
    ],
)
def test_wrappings_are_taken_off(wrap: Callable[[State], object], tmp_path: Path) -> None:
    assert equal(converted(harmonic_from_checkpoint, wrap(HARMONIC_STATE), tmp_path), HARMONIC_STATE)


def test_the_format_before_pytorch_1_6_is_read(tmp_path: Path) -> None:
    out = converted(harmonic_from_checkpoint, HARMONIC_STATE, tmp_path, _use_new_zipfile_serialization=False)
    assert equal(out, HARMONIC_STATE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(HARMONIC_STATE, tmp_path / "model")
    harmonic_from_checkpoint({"model": tmp_path / "model"}, tmp_path / "out")
    assert equal(load_file(tmp_path / "out"), HARMONIC_STATE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    other = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in HARMONIC_STATE.items()}
    out = converted(harmonic_from_checkpoint, other, tmp_path)
    assert {tensor.dtype for name, tensor in out.items() if not name.endswith("num_batches_tracked")} == {torch.float32}
    rounded = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in other.items()}
    assert equal(out, with_window(rounded))


def test_tensors_may_share_memory_and_lie_in_any_order(tmp_path: Path) -> None:
    state = dict(HARMONIC_STATE)
    state["layer3.bn_1.weight"] = state["layer2.bn_1.weight"]
    state["dense1.weight"] = state["dense1.weight"].T
    assert equal(converted(harmonic_from_checkpoint, state, tmp_path), state)


def test_counters_that_old_checkpoints_lack_are_restored(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in HARMONIC_STATE.items() if not name.endswith("num_batches_tracked")}
    out = converted(harmonic_from_checkpoint, state, tmp_path)
    HarmonicCnn().load_state_dict(out)
    assert out["bn.num_batches_tracked"] == 0


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that nested tensors may change
    NESTED = torch.nested.nested_tensor([torch.zeros(256)])


def without(*names: str) -> State:
    return {name: tensor for name, tensor in HARMONIC_STATE.items() if name not in names}


def with_number(name: str, number: float) -> State:
    tensor = HARMONIC_STATE[name].clone()
    tensor.view(-1)[-1] = number
    return {**HARMONIC_STATE, name: tensor}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("layer4.conv_2.bias"), r"it has no layer4\.conv_2\.bias$"),
        (without("hstft.bw_Q"), r"no hstft\.bw_Q$"),
        (without("bn.bias", "bn.weight", "dense2.bias", "dense2.weight"), r"no bn\.weight, bn\.bias, dense2\.weight and 1 more"),
        ({**HARMONIC_STATE, "layer8.conv.weight": torch.zeros(1)}, r"the unknown layer8\.conv\.weight$"),
        ({**without("bn.bias"), "bn.beta": torch.zeros(256)}, r"no bn\.bias and the unknown bn\.beta"),
        ({**HARMONIC_STATE, "spec.mel_scale.fb": torch.zeros(1)}, r"the unknown spec\.mel_scale\.fb"),
        (random_state({**SHORT_CHUNK, **SHORT_CHUNK_BUFFERS}), r"no layer1\.conv\.weight, .* and the unknown spec_bn\.weight, "),
        ({**HARMONIC_STATE, "dense2.weight": torch.zeros(56, 256)}, r"dense2\.weight has the shape \(56, 256\), not \(50, 256\)"),
        ({**HARMONIC_STATE, "dense2.bias": torch.zeros(50, dtype=torch.int8)}, r"dense2\.bias holds torch\.int8"),
        ({**HARMONIC_STATE, "bn.num_batches_tracked": torch.tensor(1.5)}, r"bn\.num_batches_tracked holds torch\.float32"),
        ({**HARMONIC_STATE, "bn.num_batches_tracked": torch.tensor(1j)}, r"bn\.num_batches_tracked holds torch\.complex64"),
        ({**HARMONIC_STATE, "bn.bias": torch.zeros(1).expand(1 << 40)}, r"bn\.bias has the shape \(1099511627776,\), not \(256,\)"),
        (with_number("layer1.conv.weight", float("nan")), r"layer1\.conv\.weight holds numbers that are not finite"),
        (with_number("layer7.bn_2.running_var", float("inf")), r"layer7\.bn_2\.running_var holds numbers that are not finite"),
        ({**HARMONIC_STATE, "bn.bias": torch.full((256,), 1e300, dtype=torch.float64)}, r"bn\.bias holds numbers that are not finite"),
        ({**HARMONIC_STATE, "bn.bias": torch.zeros(256).to_sparse()}, r"bn\.bias is no tensor"),
        ({**HARMONIC_STATE, "bn.bias": torch.zeros(256, device="meta")}, r"bn\.bias is no tensor"),
        ({**HARMONIC_STATE, "bn.bias": NESTED}, r"bn\.bias is no tensor"),
        ({**HARMONIC_STATE, "epoch": 3}, r"epoch is no tensor"),
        ({1: torch.zeros(1)}, r"1 is no tensor"),
        ({"state_dict": {}}, r"holds nothing"),
        ({}, r"holds nothing"),
        ([torch.zeros(1)], r"no state dict, but a list"),
        (torch.zeros(1), r"no state dict, but a Tensor"),
        (b"", r"no PyTorch checkpoint"),
        (b"best model", r"no PyTorch checkpoint"),
        (b"PK\3\4" + bytes(60), r"no PyTorch checkpoint"),
        (struct.pack("<Q", 1_000) + b"{}", r"is damaged"),
        (pickle.dumps({"a": 1}, protocol=5), r"no PyTorch checkpoint"),
    ],
)
def test_what_is_no_checkpoint_of_the_network_is_refused(content: object, message: str, tmp_path: Path) -> None:
    refused(harmonic_from_checkpoint, content, tmp_path, message)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_was_cut_off_is_refused(zipped: bool, tmp_path: Path) -> None:
    torch.save(HARMONIC_STATE, tmp_path / "whole", _use_new_zipfile_serialization=zipped)
    refused(harmonic_from_checkpoint, (tmp_path / "whole").read_bytes()[:-100_000], tmp_path, "no PyTorch checkpoint")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"best_model\.pth cannot be read: No such file"):
        harmonic_from_checkpoint({"best_model.pth": tmp_path / "best_model.pth"}, tmp_path / "out")


class Code:
    """Leaves a folder behind where it is unpickled as Python does."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("write", [torch.save, partial(torch.save, _use_new_zipfile_serialization=False), None])
def test_code_in_a_checkpoint_is_not_run(write: Callable[[object, Path], None] | None, tmp_path: Path) -> None:
    content, file = {**HARMONIC_STATE, "bn.bias": Code(tmp_path / "flag")}, tmp_path / "best_model.pth"
    if write is None:
        file.write_bytes(pickle.dumps({"bn.bias": Code(tmp_path / "flag")}, protocol=2))
    else:
        write(content, file)
    for convert in (harmonic_from_checkpoint, clap_from_checkpoint, partial(clip_from_open_clip, patch=32)):
        refused(convert, file.read_bytes(), tmp_path, r"asks for \w+\.mkdir, .* nothing in it was run")
    assert not (tmp_path / "flag").exists()
    torch.load(file, weights_only=False) if write else pickle.loads(file.read_bytes())
    assert (tmp_path / "flag").exists(), "this test should see that there was code"


def test_a_zip_that_unpacks_to_far_more_than_itself_is_refused(tmp_path: Path) -> None:
    """PyTorch would unpack it: here its pickle, of 100 MB in 100 kB."""
    file, bomb = tmp_path / "good.pth", tmp_path / "best_model.pth"
    torch.save(HARMONIC_STATE, file)
    with zipfile.ZipFile(file) as good, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name) + bytes(100 << 20) * name.endswith("data.pkl"))
    refused(harmonic_from_checkpoint, bomb.read_bytes(), tmp_path, "far more than it is itself")


def test_a_torchscript_program_is_refused_and_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program"))
    refused(partial(clip_from_open_clip, patch=32), (tmp_path / "program").read_bytes(), tmp_path, "is a TorchScript program")
    assert capfd.readouterr() == ("", "")


# --- CLIP --------------------------------------------------------------------------------------------------------------------------------

TEXT_TOWER = {
    "positional_embedding": torch.zeros(77, 512),
    "text_projection": torch.zeros(512, 512),
    "logit_scale": torch.tensor(4.6),
    "token_embedding.weight": torch.zeros(10, 512),
    "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(4, 4),
    "ln_final.weight": torch.zeros(512),
    "ln_final.bias": torch.zeros(512),
    "context_length": torch.tensor(77),
    "input_resolution": torch.tensor(224),
    "vocab_size": torch.tensor(49_408),
    "text.transformer.resblocks.0.ln_1.weight": torch.zeros(4),
}


def whole_clip(patch: int) -> State:
    """In half precision, as published. Most tensors are views of one number, which PyTorch saves as one number: the tower has 350 MB."""
    small = {name: shape for name, shape in clip_tower(patch).items() if len(shape) < 2 or name in ("proj", "conv1.weight")}
    numbers = random_state(small)
    one = torch.tensor(0.25).half()
    tower = {f"visual.{name}": numbers[name].half() if name in small else one.expand(shape) for name, shape in clip_tower(patch).items()}
    return {**tower, **TEXT_TOWER}


@pytest.mark.parametrize("patch", [16, 32])
def test_the_image_tower_of_a_clip_is_kept(patch: int, tmp_path: Path) -> None:
    whole = whole_clip(patch)
    out = converted(partial(clip_from_open_clip, patch=patch), {"state_dict": whole}, tmp_path)
    assert out.keys() == clip_tower(patch).keys()
    for name in ("proj", "conv1.weight", "ln_post.bias", "transformer.resblocks.11.mlp.c_proj.weight"):
        assert out[name].dtype == torch.float32
        assert torch.equal(out[name], whole[f"visual.{name}"].float())
    with torch.device("meta"):
        tower = VisionTransformer(patch)
    tower.load_state_dict(out, assign=True)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="the extra `open-clip` is not installed")
@pytest.mark.parametrize(("name", "patch"), [("ViT-B-32-quickgelu", 32), ("ViT-B-16-quickgelu", 16)])
def test_the_names_are_those_of_open_clip(name: str, patch: int, tmp_path: Path) -> None:
    import open_clip

    with torch.device("meta"):
        published = open_clip.create_model(name, device="meta").state_dict()
    whole = {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in published.items()}
    out = converted(partial(clip_from_open_clip, patch=patch), whole, tmp_path)
    assert {f"visual.{name}" for name in out} == {name for name in published if name.startswith("visual.")}


def test_a_clip_in_safetensors_is_read_as_one(tmp_path: Path) -> None:
    """Whole it would be a file of 170 MB; that its tensors are too few shows that they were read."""
    save_file({"visual.proj": torch.zeros(768, 512), **TEXT_TOWER}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=r"open_clip_model\.safetensors .* it has no visual\.class_embedding, .* and \d+ more$"):
        clip_from_open_clip({"x": tmp_path / "open_clip_model.safetensors"}, tmp_path / "out", patch=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.ln_pre.weight": None}, r"it has no visual\.ln_pre\.weight$"),
        ({"visual.trunk.weight": torch.zeros(1)}, r"the unknown visual\.trunk\.weight$"),
        ({"logit_bias": torch.zeros(1)}, r"it has logit_bias, which no CLIP has"),
        ({"transformer_x": torch.zeros(1)}, r"it has transformer_x,"),
        ({"visual.proj": torch.zeros(768, 768)}, r"visual\.proj has the shape \(768, 768\), not \(768, 512\)"),
        ({"visual.ln_post.bias": torch.full((768,), float("nan"))}, r"ln_post\.bias holds numbers that are not finite"),
    ],
)
def test_another_clip_is_refused(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    changed = {name: tensor for name, tensor in {**whole_clip(32), **change}.items() if tensor is not None}
    refused(partial(clip_from_open_clip, patch=32), changed, tmp_path, message)


def test_a_clip_of_another_patch_size_is_refused(tmp_path: Path) -> None:
    message = r"visual\.positional_embedding has the shape \(197, 768\), not \(50, 768\)"
    refused(partial(clip_from_open_clip, patch=32), whole_clip(16), tmp_path, message)


# --- CLAP --------------------------------------------------------------------------------------------------------------------------------


def clap_state() -> State:
    """Each tensor is a number of its own, and a view of it, which PyTorch saves as one number: the tower has 130 MB."""
    numbers = torch.linspace(-1, 1, len(clap_shapes()))
    state = {name: number.expand(shape) for number, (name, shape) in zip(numbers, clap_shapes().items(), strict=True)}
    indices = {name: torch.arange(64 * 64).view(64, 64) for name in state if name.endswith("relative_position_index")}
    return state | indices | {"audio_branch.bn0.num_batches_tracked": torch.tensor(1_000)}


CLAP = clap_state()
OTHERS = {
    "logit_scale_a": torch.tensor(2.6),
    "logit_scale_t": torch.tensor(2.6),
    "text_branch.embeddings.position_ids": torch.arange(4),
    "text_projection.0.weight": torch.zeros(4, 4),
    "text_transform.sequential.0.weight": torch.zeros(4, 4),
    "audio_transform.sequential.0.weight": torch.zeros(4, 4),
}


def trained(state: State) -> dict[str, object]:
    """As LAION's training leaves it."""
    return {
        "epoch": 45,
        "name": "2022_11",
        "best": np.float64(0.5),
        "metrics": {"map": np.float32(0.25), "n": np.int64(3)},
        "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in {**state, **OTHERS}.items()),
        "optimizer": {"state": {0: {"step": np.int64(7), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": np.float64(1e-4)}]},
    }


@pytest.mark.parametrize(
    ("wrap", "zipped"),
    [
        (trained, True),
        (trained, False),
        (lambda state: {**state, **OTHERS}, True),
        (lambda state: {"state_dict": {**state, **OTHERS}}, False),
    ],
)
def test_the_audio_tower_of_a_clap_is_kept(wrap: Callable[[State], object], zipped: bool, tmp_path: Path) -> None:
    assert equal(converted(clap_from_checkpoint, wrap(CLAP), tmp_path, _use_new_zipfile_serialization=zipped), CLAP)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_either_numpy_are_passed_over(module: bytes, tmp_path: Path) -> None:
    torch.save(trained(CLAP), tmp_path / "file", _use_new_zipfile_serialization=False)
    content = (tmp_path / "file").read_bytes()
    (ours,) = [name for name in (b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n") if name in content]
    (tmp_path / "file").write_bytes(content.replace(ours, b"c" + module + b"\n"))
    before = set(torch.serialization.get_safe_globals())
    clap_from_checkpoint({"630k-best.pt": tmp_path / "file"}, tmp_path / "out")
    assert equal(load_file(tmp_path / "out"), CLAP)
    (tmp_path / "out").unlink()
    assert set(torch.serialization.get_safe_globals()) == before, "nothing stays allowed"


def test_no_more_of_numpy_is_made(tmp_path: Path) -> None:
    message = r"asks for numpy\.\w+\.multiarray\._reconstruct, which no state dict needs"
    refused(clap_from_checkpoint, {**trained(CLAP), "scores": np.zeros(3)}, tmp_path, message)


INDEX = "audio_branch.layers.3.blocks.1.attn.relative_position_index"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_projection": None}, r"it has no audio_projection\.0\.weight, .* and 1 more$"),
        ({"audio_branch": None}, r"it has no audio_branch\.spectrogram_extractor\.stft\.conv_real\.weight, .* and 196 more$"),
        ({"audio_": None}, r"is not a checkpoint of this network: it has no audio_branch\..* and 200 more$"),
        ({"audio_branch.layers.2.blocks.3.attn_mask": None}, r"it has no audio_branch\.layers\.2\.blocks\.3\.attn_mask$"),
        (
            {"audio_branch.layers.2.blocks.6.norm1.bias": torch.zeros(384)},
            r"it has the unknown audio_branch\.layers\.2\.blocks\.6\.norm1\.bias$",
        ),
        (
            {"audio_projection.2.bias": None, "audio_projection.4.bias": torch.zeros(512)},
            r"it has no audio_projection\.2\.bias and the unknown audio_projection\.4\.bias$",
        ),
        ({"audio_branch.head.bias": torch.zeros(528)}, r"audio_branch\.head\.bias has the shape \(528,\), not \(527,\)"),
        ({"audio_branch.head.bias": torch.zeros(1).expand(1 << 40)}, r"head\.bias has the shape \(1099511627776,\), not \(527,\)"),
        ({INDEX: torch.zeros(64, 64)}, rf"{re.escape(INDEX)} holds torch\.float32, which is no torch\.int64"),
        ({INDEX: torch.zeros(64, 64, dtype=torch.bool)}, rf"{re.escape(INDEX)} holds torch\.bool, which is no torch\.int64"),
        ({"audio_branch.norm.bias": torch.zeros(768, dtype=torch.int64)}, r"norm\.bias holds torch\.int64, which is no torch\.float32"),
        ({"audio_branch.patch_embed.mel_conv2d.bias": torch.zeros(96)}, r"mel_conv2d\.bias belongs to a CLAP with fusion"),
        ({"audio_branch.bn0.weight": torch.full((64,), float("inf"))}, r"audio_branch\.bn0\.weight holds numbers that are not finite"),
    ],
)
def test_another_clap_is_refused(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    """`change`: tensors in place of others or beside them; None leaves out all that begin so."""
    gone = tuple(name for name, tensor in change.items() if tensor is None)
    kept = {name: tensor for name, tensor in CLAP.items() if not name.startswith(gone)}
    refused(
        clap_from_checkpoint,
        trained({**kept, **{name: tensor for name, tensor in change.items() if tensor is not None}}),
        tmp_path,
        message,
    )


def test_a_few_tensors_make_no_clap(tmp_path: Path) -> None:
    """Those by which one would know it."""
    few = ("audio_branch.patch_embed.proj.weight", "audio_branch.norm.weight", "audio_projection.")
    six = {name: tensor for name, tensor in CLAP.items() if name.startswith(few)}
    assert len(six) == 6
    refused(clap_from_checkpoint, six, tmp_path, r"is not a checkpoint of this network: it has no audio_branch\..* and 194 more$")


def test_a_counter_that_a_clap_lacks_is_restored(tmp_path: Path) -> None:
    counter = "audio_branch.bn0.num_batches_tracked"
    out = converted(clap_from_checkpoint, {name: tensor for name, tensor in CLAP.items() if name != counter}, tmp_path)
    assert equal(out, {**CLAP, counter: torch.tensor(0)})


def test_indices_stay_whole_numbers_in_half_precision(tmp_path: Path) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in CLAP.items()}
    out = converted(clap_from_checkpoint, half, tmp_path)
    assert {tensor.dtype for name, tensor in out.items() if not name.endswith(INTEGERS)} == {torch.float32}
    assert {tensor.dtype for name, tensor in out.items() if name.endswith(INTEGERS)} == {torch.int64}
    assert torch.equal(out[INDEX], CLAP[INDEX])


def test_what_is_no_integer_by_its_name_is_none_in_any_network() -> None:
    with torch.device("meta"):
        states = [network().state_dict() for network in (HarmonicCnn, ShortChunkCnn, partial(VisionTransformer, 32))]
    for state in (*states, CLAP):
        assert all(tensor.is_floating_point() != name.endswith(INTEGERS) for name, tensor in state.items())


def test_a_tensor_too_large_for_the_memory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"best_model\.pth: bn\.bias cannot be copied: "):
        _save({"bn.bias": torch.zeros(1).expand(1 << 60)}, tmp_path / "best_model.pth", tmp_path / "out")


# --- what identifies weights -------------------------------------------------------------------------------------------------------------

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(7), "empty": np.zeros((0, 3), np.float32)}


def test_the_digest_is_the_same_for_ever() -> None:
    """It is kept in records and spaces."""
    assert arrays_digest(ARRAYS) == "2734b1d9786c406c"
    assert arrays_digest(dict(reversed(ARRAYS.items()))) == arrays_digest(ARRAYS)
    assert arrays_digest({**ARRAYS, "b": np.asfortranarray(ARRAYS["b"])}) == arrays_digest(ARRAYS)


@pytest.mark.parametrize(
    "other",
    [
        {**ARRAYS, "a": np.array(8)},
        {**ARRAYS, "a": np.array([7])},
        {**ARRAYS, "a": np.array(7, np.int32)},
        {**ARRAYS, "b": ARRAYS["b"].reshape(3, 2)},
        {**ARRAYS, "b": ARRAYS["b"].view(np.int32)},
        {**ARRAYS, "empty": np.zeros((3, 0), np.float32)},
        {"b": ARRAYS["b"], "a": ARRAYS["a"]},
        {"b": ARRAYS["b"], "c": ARRAYS["a"], "empty": ARRAYS["empty"]},
    ],
)
def test_the_digest_sees_everything(other: dict[str, np.ndarray]) -> None:
    assert arrays_digest(other) != arrays_digest(ARRAYS)


def test_the_digest_of_a_file_is_that_of_its_tensors(tmp_path: Path) -> None:
    """Not of its header: written by another version it may have another order, metadata and padding."""
    state = {"b": torch.ones(3), "a": torch.arange(2), "c": torch.tensor(0.5)}
    save_file(state, tmp_path / "1")
    save_file(state, tmp_path / "2", {"made": "elsewhere"})
    data = b"".join(tensor.numpy().tobytes() for tensor in state.values())
    header = {
        "b": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "a": {"dtype": "I64", "shape": [2], "data_offsets": [12, 28]},
        "c": {"dtype": "F32", "shape": [], "data_offsets": [28, 32]},
    }
    packed = json.dumps(header, indent=3).encode()
    (tmp_path / "3").write_bytes(struct.pack("<Q", len(packed)) + packed + data)
    assert len({(tmp_path / name).read_bytes() for name in "123"}) == 3
    expected = arrays_digest({name: tensor.numpy() for name, tensor in state.items()})
    assert {state_digest(tmp_path / name) for name in "123"} == {expected}


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_the_digest_of_no_safetensors_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(ModelError, match="file cannot be read"):
        state_digest(tmp_path / "file")
