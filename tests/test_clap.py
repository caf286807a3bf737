"""CLAP's audio tower, with random weights: nothing here has seen the published ones.

What it is held against is laion_clap's own code. That cannot be imported without a network, so its functions are taken out of its files.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from media_makers import make_tone, tone
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from emoclim_cli import encoders, weights
from emoclim_cli.audio import AudioWindows
from emoclim_cli.encoders import EXTRAS, clap, encoder_info
from emoclim_cli.encoders.clap import ClapAudio
from emoclim_cli.encoders.torch_music import TorchMusicEncoder
from emoclim_cli.errors import MissingExtra, ModelError, UnreadableMedia
from emoclim_cli.networks import htsat
from emoclim_cli.networks.htsat import clap_shapes
from emoclim_cli.torch_checkpoints import INTEGERS, state_digest

CHECKOUT = Path(__file__).parents[1]
RATE_HZ = 48_000
SAMPLES = 480_000

IS_THERE = all(find_spec(package) for package in EXTRAS["clap"])
needs_extra = pytest.mark.skipif(not IS_THERE, reason="the extra `clap` is not installed")
pytestmark = pytest.mark.usefixtures("one_torch_thread")


# --- without the extra -------------------------------------------------------------------------------------------------------------------


def test_without_the_extra_the_encoder_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any weights are looked for: there are none here."""
    monkeypatch.setitem(EXTRAS, "clap", (*EXTRAS["clap"], "no_such_package"))
    with pytest.raises(MissingExtra, match=r"the encoder clap needs the extra `clap`, and .*no_such_package cannot be found") as caught:
        encoders.build("clap", tmp_path)
    assert caught.value.hint == "pip install 'emoclim[clap]'"
    assert caught.value.exit_code == 3


@pytest.mark.skipif(IS_THERE, reason="the extra `clap` is installed")
def test_the_extra_is_really_needed(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="the encoder clap needs the extra `clap`"):
        encoders.build("clap", tmp_path)
    with pytest.raises(MissingExtra, match="laion_clap's audio tower cannot be imported: No module named") as caught:
        clap.network_of("clap", tmp_path / "none.safetensors")
    assert caught.value.hint == "pip install 'emoclim[clap]'"


def test_a_sample_is_rounded_towards_zero_to_16_bits() -> None:
    """Held against whole numbers, and against the published functions below."""
    audio = torch.tensor([0.0, 0.4 / 32767, 0.9999 / 32767, -0.9999 / 32767, 1.5 / 32767, -2.5 / 32767, 1.0, -1.0, 1.7, -3.0])
    expected = np.array([0, 0, 0, 0, 1, -2, 32767, -32767, 32767, -32767]) / 32767
    np.testing.assert_array_equal(clap.quantized(audio).numpy(), expected.astype(np.float32))


# --- the network, and its oracle ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With weights from a checkpoint like the published one, but with the random values that laion_clap's tower begins with."""
    torch.manual_seed(0)
    network = ClapAudio()
    with torch.no_grad():  # as it comes, all bands are far below zero and all audio sounds alike to it
        network.audio_branch.bn0.running_mean.fill_(-30.0)
        network.audio_branch.bn0.running_var.fill_(400.0)
    text = {"text_branch.embeddings.position_ids": torch.arange(514)[None], "logit_scale_a": torch.tensor(2.66)}
    state = {f"module.{name}": tensor for name, tensor in (network.state_dict() | text).items()}
    folder = tmp_path_factory.mktemp("clap")
    torch.save({"epoch": 1, "name": "random", "state_dict": state}, folder / "random.pt")
    weights.fetch("clap", folder, from_path=folder / "random.pt")
    (folder / "random.pt").unlink()
    yield folder
    weights.path_of("clap", folder).unlink()  # 128 MB


@pytest.fixture(scope="module")
def weights_file(cache: Path) -> Path:
    return weights.path_of("clap", cache)


@pytest.fixture(scope="module")
def encoder(cache: Path) -> TorchMusicEncoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict, raising=False)  # in float32, as laion_clap computes
        encoder = encoders.build("clap", cache, "cpu")
    assert isinstance(encoder, TorchMusicEncoder)
    return encoder


@pytest.fixture(scope="module")
def network(encoder: TorchMusicEncoder) -> ClapAudio:
    assert isinstance(encoder.network, ClapAudio)
    return encoder.network


def package_file(name: str) -> Path:
    spec = find_spec("laion_clap")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], name)


def taken(file: str, names: dict[str, Any]) -> SimpleNamespace:
    """All functions of a file of laion_clap, methods as well, with `names` as all that they know of besides each other."""
    functions = [node for node in ast.walk(ast.parse(package_file(file).read_text())) if isinstance(node, ast.FunctionDef)]
    known = dict(names)
    for function in functions:
        function.decorator_list = []
        exec(compile(ast.Module([function], []), file, "exec"), known)
    return SimpleNamespace(**{function.name: known[function.name] for function in functions})


@pytest.fixture(scope="module")
def published(weights_file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """CLAP_Module.get_audio_embedding_from_data: (n, samples) of up to 10 s at 48 kHz -> (n, 512)."""
    htsat = clap._htsat()
    config = json.loads(package_file("clap_module/model_configs/HTSAT-tiny.json").read_text())
    names = {"np": np, "torch": torch, "nn": nn, "F": F, "suppress": suppress, "CLAPAudioCfp": None, "Optional": dict}
    data = taken("training/data.py", names | {"DataLoader": None, "args": None})
    model = taken("clap_module/model.py", names | dict.fromkeys(("Tuple", "Union", "Callable", "CLAPTextCfg", "CLAPVisionCfg"), dict))
    hook = taken("hook.py", names | vars(data))

    class Model(nn.Module):
        encode_audio = model.encode_audio
        get_audio_embedding = model.get_audio_embedding

        def __init__(self) -> None:
            super().__init__()
            self.audio_branch = htsat.create_htsat_model(SimpleNamespace(**config["audio_cfg"]))
            self.audio_projection = nn.Sequential(nn.Linear(768, 512), nn.ReLU(), nn.Linear(512, 512))

    whole = Model()
    whole.load_state_dict(load_file(weights_file))
    module = SimpleNamespace(model=whole, enable_fusion=False, model_cfg=config)
    return lambda audio: hook.get_audio_embedding_from_data(module, audio)  # type: ignore[no-any-return]


def noises(count: int, seconds: float = 10.0, seed: int = 0) -> np.ndarray:
    """(count, samples) float32: tones that glide and beat in noise, each unlike the others."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    audio = [
        0.3 * np.sin(2 * np.pi * (rng.uniform(80, 3000) * t + rng.uniform(-5, 200) * t * t)) * (1 + np.sin(rng.uniform(3, 30) * t))
        + 10 ** rng.uniform(-4, -1) * rng.standard_normal(len(t))
        for _ in range(count)
    ]
    return np.stack(audio).astype(np.float32)


def write(path: Path, audio: np.ndarray) -> str:
    """A track that holds exactly these samples."""
    make_tone(path, codec="pcm_f32le", rate_hz=RATE_HZ, samples=np.atleast_2d(audio))
    return str(path)


def windows_of(audio: np.ndarray) -> AudioWindows:
    return AudioWindows(audio, np.arange(len(audio)) * 10.0, 10.0 * len(audio))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# --- what it is made of ------------------------------------------------------------------------------------------------------------------


@needs_extra
def test_the_tower_is_the_published_one(network: ClapAudio) -> None:
    assert sum(p.numel() for p in network.audio_branch.parameters()) == 31_325_143
    assert sum(p.numel() for p in network.audio_projection.parameters()) == 656_384
    config = json.loads(package_file("clap_module/model_configs/HTSAT-tiny.json").read_text())["audio_cfg"]
    assert config.items() >= clap.CONFIG.items()
    assert config["clip_samples"] == clap.WINDOW.samples == SAMPLES
    with torch.inference_mode():
        out = network.audio_branch({"waveform": torch.from_numpy(noises(1))})
    assert out["embedding"].shape == (1, 768)
    assert network.audio_branch.training is False


@needs_extra
def test_the_features_are_those_of_these_weights(encoder: TorchMusicEncoder, weights_file: Path) -> None:
    assert encoder.info.identity == (state_digest(weights_file),)
    assert encoder.info.dim == htsat.DIM


@needs_extra
def test_the_tensors_are_those_that_a_checkpoint_is_checked_for(network: ClapAudio, weights_file: Path) -> None:
    tensors, saved = network.state_dict(), load_file(weights_file)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == clap_shapes()
    assert {name for name, tensor in tensors.items() if tensor.dtype is not torch.float32} == {n for n in tensors if n.endswith(INTEGERS)}
    assert saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, saved[name], rtol=0, atol=0, check_stride=False)


@needs_extra
def test_weights_of_another_network_are_refused(network: ClapAudio, tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    missing = ("audio_branch.layers.1.blocks.1.attn_mask", "audio_branch.logmel_extractor.melW", "audio_projection.2.bias")
    for name in missing:
        del state[name]
    state |= {"audio_branch.extra": torch.zeros(1), "audio_branch.norm.bias": torch.zeros(7)}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="the weights of clap cannot be loaded: ") as caught:
        clap.network_of("clap", tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").unlink()
    named = caught.value.message.partition("Missing key(s) in state_dict: ")[2].partition("\n")[0]
    assert all(f'"{name}"' in named for name in missing)
    assert 'Unexpected key(s) in state_dict: "audio_branch.extra"' in caught.value.message
    assert "size mismatch for audio_branch.norm.bias" in caught.value.message
    assert caught.value.hint.startswith("emoclim models ")


@needs_extra
@pytest.mark.parametrize("content", [b"", bytes(1000), b"garbage" * 1000])
def test_a_file_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "clap.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="the weights of clap cannot be loaded"):
        clap.network_of("clap", tmp_path / "clap.safetensors")


@needs_extra
def test_building_draws_no_random_numbers(weights_file: Path) -> None:
    before = torch.get_rng_state()
    clap.network_of("clap", weights_file)
    assert torch.equal(torch.get_rng_state(), before)


# --- what it computes --------------------------------------------------------------------------------------------------------------------


@needs_extra
def test_the_features_are_those_of_the_published_code(
    encoder: TorchMusicEncoder, published: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """From a file on: of exactly 10 s, and of less."""
    for seconds in (10.0, 5.0, 3.3, 0.05):
        audio = noises(1, seconds, seed=round(seconds * 100))
        path = write(tmp_path / f"{seconds}.wav", audio.clip(-1, 1))
        ours, theirs = encoder.encode([encoder.load(path)]), published(audio)
        assert (ours.shape, ours.dtype) == ((1, 512), np.float32)
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=f"{seconds} s")


@needs_extra
def test_each_window_is_a_clip_of_the_published_code(encoder: TorchMusicEncoder, published: Callable[[np.ndarray], np.ndarray]) -> None:
    audio = noises(2)
    (windows,) = encoder.encode_windows([windows_of(audio)])
    np.testing.assert_allclose(windows, published(audio), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(windows, axis=1), 1.0, atol=1e-6)
    assert windows[0] @ windows[1] < 0.99, "these clips should differ"
    np.testing.assert_array_equal(encoder.encode([windows_of(audio)]), [windows.mean(axis=0)])


@needs_extra
def test_quantised_as_published() -> None:
    data = taken("training/data.py", {"np": np, "torch": torch, "DataLoader": None, "args": None})
    audio = np.concatenate([np.linspace(-1.2, 1.2, 300_001), np.arange(-32_768, 32_768) / 32_767]).astype(np.float32)
    expected = data.int16_to_float32(data.float32_to_int16(audio))
    assert len(np.unique(expected)) == 65_535
    np.testing.assert_array_equal(clap.quantized(torch.from_numpy(audio)).numpy(), expected)


@needs_extra
def test_the_spectrogram_is_librosas(network: ClapAudio) -> None:
    """Decibels, of what the checkpoint's own filters hold where it is a published one."""
    librosa = pytest.importorskip("librosa")
    branch = network.audio_branch
    for audio in (noises(1, seed=5)[0], tone(10.0, RATE_HZ, 1)[0], np.zeros(SAMPLES, np.float32)):
        with torch.inference_mode():
            ours = branch.logmel_extractor(branch.spectrogram_extractor(torch.from_numpy(audio)[None]))[0, 0].numpy()
        power = librosa.feature.melspectrogram(
            y=audio, sr=RATE_HZ, n_fft=1024, hop_length=480, n_mels=64, fmin=50, fmax=14_000, pad_mode="reflect", power=2.0
        )
        theirs = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).T
        assert ours.shape == (1001, 64)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_extra
def test_the_square_is_the_published_fold(network: ClapAudio) -> None:
    """256 frames of 64 bands, four times on top of each other: the tower hears them as a picture of 256 x 256."""
    audio = torch.from_numpy(noises(1))
    branch = network.audio_branch
    with torch.inference_mode():
        square = network.spectrogram(audio)
        mel = branch.logmel_extractor(branch.spectrogram_extractor(clap.quantized(audio)))
        normal = (mel + 30.0) / np.sqrt(400.0 + branch.bn0.eps)
        wide = F.interpolate(normal, (1024, 64), mode="bicubic", align_corners=True)[0, 0]
    assert square.shape == (1, 1, 256, 256)
    expected = torch.cat([wide[256 * n : 256 * (n + 1)].T for n in range(4)])
    torch.testing.assert_close(square[0, 0], expected, rtol=1e-5, atol=1e-5)


@needs_extra
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(network: ClapAudio, dtype: torch.dtype) -> None:
    """As on an accelerator; loud audio has powers that half precision cannot hold, and the spectrogram does not know of it."""
    audio = torch.from_numpy(noises(2))
    audio[1] *= 1e3  # a square wave, almost
    with torch.inference_mode():
        exact, square = network(audio).numpy(), network.spectrogram(audio)
        with torch.autocast("cpu", dtype):
            half, under = network(audio), network.spectrogram(audio)
    assert half.dtype == torch.float32
    assert torch.equal(under, square)
    assert cosines(half.numpy(), exact).min() > 0.999
    assert not np.array_equal(half.numpy(), exact), "autocast did nothing"
    common = exact.mean(axis=0)
    assert cosines(half.numpy() - common, exact - common).min() > 0.999, "what clips have in common hides the error"


@needs_extra
def test_silence_has_features(encoder: TorchMusicEncoder) -> None:
    features = encoder.encode([windows_of(np.zeros((1, SAMPLES), np.float32))])
    assert np.linalg.norm(features) == pytest.approx(1.0, abs=1e-5)


# --- tracks ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def track_paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of 15, 10 and 0.3 seconds: two windows, one, and one that is repeated."""
    folder = tmp_path_factory.mktemp("tracks")
    for seed, seconds in enumerate((15.0, 10.0, 0.3)):
        make_tone(folder / f"{seed}.flac", samples=tone(seconds, 44_100, 2, seed=seed))
    return [str(folder / f"{n}.flac") for n in range(3)]


@needs_extra
def test_a_tracks_features_depend_on_nothing_else(encoder: TorchMusicEncoder, track_paths: list[str]) -> None:
    """To the last bit: each window goes through the network alone, and nothing is cropped at random."""
    with ThreadPoolExecutor(3) as pool:
        samples = list(pool.map(encoder.load, track_paths))
    windows = encoder.encode_windows(samples)
    assert [w.shape for w in windows] == [(2, 512), (1, 512), (1, 512)]
    np.random.seed(1)
    torch.manual_seed(1)
    together = encoder.encode(samples[::-1])[::-1]
    assert (together.shape, together.dtype) == ((3, 512), np.float32)
    np.testing.assert_array_equal(together, [w.mean(axis=0) for w in windows])
    np.testing.assert_array_equal(np.concatenate([encoder.encode([encoder.load(path)]) for path in track_paths]), together)
    assert cosines(together[0], together[2]) < 0.999, "these tracks should differ"


@needs_extra
@pytest.mark.parametrize("length", [1, 7, 24_000, 160_000, 200_000, 479_999, 480_000])
def test_a_short_track_is_repeated_as_often_as_it_fits(encoder: TorchMusicEncoder, length: int, tmp_path: Path) -> None:
    audio = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    sample = encoder.load(write(tmp_path / "short.wav", audio))
    expected = np.zeros(SAMPLES, np.float32)
    for n in range(int(SAMPLES / length)):
        expected[n * length : (n + 1) * length] = audio
    np.testing.assert_array_equal(sample.audio, [expected])
    assert sample.duration_s == pytest.approx(length / RATE_HZ)


@needs_extra
@pytest.mark.parametrize("length", [480_001, 700_000])
def test_a_longer_track_is_never_padded(encoder: TorchMusicEncoder, length: int, tmp_path: Path) -> None:
    audio = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    sample = encoder.load(write(tmp_path / "long.wav", audio))
    np.testing.assert_array_equal(sample.audio, [audio[:SAMPLES], audio[-SAMPLES:]])


@needs_extra
def test_of_a_long_track_a_minute_is_heard(encoder: TorchMusicEncoder, tmp_path: Path) -> None:
    make_tone(tmp_path / "long.mp3", samples=tone(100.0, 22_050, 1), rate_hz=22_050)
    sample = encoder.load(str(tmp_path / "long.mp3"))
    assert sample.audio.shape == (6, SAMPLES)
    assert sample.duration_s == pytest.approx(100.0, abs=0.2)


@needs_extra
def test_windows_that_overlap(weights_file: Path, track_paths: list[str]) -> None:
    sliding = clap.build(replace(encoder_info("clap"), overlap=0.75), [weights_file], "cpu")
    assert [len(sliding.load(path).audio) for path in track_paths] == [3, 1, 1]


@needs_extra
def test_real_tracks(encoder: TorchMusicEncoder, shared_data: Path) -> None:
    """The last window of each."""
    paths = sorted(str(path) for path in (shared_data / "music" / "game").iterdir())[:2]
    samples = [windows_of(encoder.load(path).audio[-1:]) for path in paths]
    features = encoder.encode(samples)
    assert features.shape == (2, 512)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(encoder.encode(samples[1:]), features[1:])
    assert cosines(features[0], features[1]) < 0.9999, "these tracks should differ"


@needs_extra
def test_what_is_no_track_is_refused(encoder: TorchMusicEncoder, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("This is text.\n" * 100)
    with pytest.raises(UnreadableMedia):
        encoder.load(str(tmp_path / "text.wav"))


# --- what it leaves alone ----------------------------------------------------------------------------------------------------------------

OFFLINE = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError(f"asks for the network: {arguments}")
class Refused(socket.socket):
    __init__ = refuse
socket.socket = Refused
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


@needs_extra
def test_no_network_no_text_tower_not_a_word(
    weights_file: Path, track_paths: list[str], encoder: TorchMusicEncoder, tmp_path: Path
) -> None:
    """In a fresh interpreter, built by two threads at once; and who imports laion_clap afterwards gets the whole of it."""
    code = f"""{OFFLINE}
import importlib.util, types, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, torch
torch.cpu.get_capabilities = dict  # float32, as in the fixture
from emoclim_cli.encoders import clap, encoder_info
paths, filters, real = list(sys.path), list(warnings.filters), importlib.util.find_spec("laion_clap")
assert real.origin.endswith("__init__.py")
def build(_):
    return clap.build(encoder_info("clap"), [Path({str(weights_file)!r})], "cpu")
with ThreadPoolExecutor(2) as pool:
    one, other = pool.map(build, range(2))
features = one.encode([one.load({track_paths[2]!r})])
assert np.array_equal(features, other.encode([other.load({track_paths[2]!r})]))
np.save({str(tmp_path / "features.npy")!r}, features)
tops = {{name.split(".")[0] for name in sys.modules}}
found = tops & {{"laion_clap", "clap_module", "transformers", "wandb", "wget", "webdataset", "huggingface_hub", "requests"}}
assert not found, found
assert sys.path == paths
assert warnings.filters == filters
assert importlib.util.find_spec("laion_clap").origin == real.origin
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), encoder.encode([encoder.load(track_paths[2])]))


@needs_extra
def test_a_laion_clap_that_is_loaded_already_stays(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here an empty stand-in, since the real one cannot be imported offline."""
    stand_in = ModuleType("laion_clap")
    stand_in.__spec__ = find_spec("laion_clap")
    monkeypatch.setitem(sys.modules, "laion_clap", stand_in)
    for name in [name for name in sys.modules if name.startswith(clap.PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)
    clap.network_of("clap", weights_file)
    assert sys.modules["laion_clap"] is stand_in
    assert not [name for name in sys.modules if name.startswith("laion_clap.")]
