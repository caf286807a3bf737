"""PyTorch checkpoints of other projects -> safetensors with float32 tensors under their published names. No code in a file is run.

Each conversion reads the `members` of a source (member name -> file) and writes `destination`. They run once, after a fetch.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emoclim_cli.errors import ModelError
from emoclim_cli.networks.htsat import clap_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from emoclim_cli.networks.taggers import Tagger

# --- the paper's music taggers -----------------------------------------------------------------------------------------------------------


def harmonic_from_checkpoint(members: Mapping[str, Path], destination: Path) -> None:
    """`best_model.pth` of the Harmonic CNN -> the state dict of `networks.taggers.HarmonicCnn`.

    Raises ModelError, with the file and the name in it, where a tensor is missing, unknown, of another shape or not finite, and where the
    file is no checkpoint.
    """
    from emoclim_cli.networks.taggers import HarmonicCnn

    _tagger(members, destination, HarmonicCnn)


def short_chunk_from_checkpoint(members: Mapping[str, Path], destination: Path) -> None:
    """`best_model.pth` of the residual Short-Chunk CNN -> the state dict of `networks.taggers.ShortChunkCnn`. Raises as above."""
    from emoclim_cli.networks.taggers import ShortChunkCnn

    _tagger(members, destination, ShortChunkCnn)


def _tagger(members: Mapping[str, Path], destination: Path, kind: type[Tagger]) -> None:
    (path,) = members.values()
    state = {name: tensor for name, tensor in _read(path).items() if name not in kind.BUFFERS}
    try:
        network = kind.of(state)
    except ValueError as error:
        raise ModelError(f"{path.name}: {error}") from error
    if kind.WINDOW:  # of its length, but never with its numbers
        state[kind.WINDOW] = network.get_buffer(kind.WINDOW)
    _save(_fitted(state, _shapes(network), path), path, destination)


# --- CLIP --------------------------------------------------------------------------------------------------------------------------------

IMAGE_TOWER = "visual."
TEXT_TOWER = re.compile(
    r"(text|transformer|token_embedding|ln_final)\..+"
    r"|positional_embedding|text_projection|logit_scale|context_length|input_resolution|vocab_size"
)


def clip_from_open_clip(members: Mapping[str, Path], destination: Path, *, patch: int) -> None:
    """A whole CLIP as open_clip keeps it, safetensors or PyTorch -> the state dict of `networks.vision.VisionTransformer(patch)`.

    The text tower is left out. Raises as `harmonic_from_checkpoint` does.
    """
    import torch

    from emoclim_cli.networks.vision import VisionTransformer

    (path,) = members.values()
    whole = {name: tensor for name, tensor in _read(path).items() if not TEXT_TOWER.fullmatch(name)}
    unknown = [name for name in whole if not name.startswith(IMAGE_TOWER)]
    if unknown:
        raise ModelError(f"{path.name} is not a CLIP of open_clip: it has {_some(unknown)}, which no CLIP has")
    state = {name.removeprefix(IMAGE_TOWER): tensor for name, tensor in whole.items()}
    with torch.device("meta"):
        shapes = _shapes(VisionTransformer(patch))
    _save(_fitted(state, shapes, path, prefix=IMAGE_TOWER), path, destination)


# --- CLAP --------------------------------------------------------------------------------------------------------------------------------

AUDIO_TOWER = ("audio_branch.", "audio_projection.")
FUSION = ("audio_branch.patch_embed.mel_conv2d.", "audio_branch.patch_embed.fusion_model.")


def clap_from_checkpoint(members: Mapping[str, Path], destination: Path) -> None:
    """A checkpoint of LAION's CLAP, such as `630k-best.pt` -> its `audio_branch.*` and `audio_projection.*`; all else is left out.

    Raises as `harmonic_from_checkpoint` does, also where the tower is not HTSAT-tiny or made for fusion.
    """
    (path,) = members.values()
    state = {name.removeprefix("module."): tensor for name, tensor in _read(path).items()}
    state = {name: tensor for name, tensor in state.items() if name.startswith(AUDIO_TOWER)}
    fusion = [name for name in state if name.startswith(FUSION)]
    if fusion:
        raise ModelError(f"{path.name}: {fusion[0]} belongs to a CLAP with fusion, and emoclim takes one without, such as 630k-best.pt")
    _save(_fitted(state, clap_shapes(), path), path, destination)


# --- what identifies weights -------------------------------------------------------------------------------------------------------------


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """16 hex digits over names, types, shapes and bytes, in the order of the names."""
    digest = blake2b(digest_size=8)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def state_digest(file: Path) -> str:
    """`arrays_digest` of what a safetensors file holds: the same tensors have it in any order and beside any metadata.

    Raises ModelError where the file cannot be read.
    """
    from safetensors.numpy import load_file

    try:
        return arrays_digest(load_file(str(file)))
    except Exception as error:  # safetensors has its own, and OSError
        raise ModelError(f"{file} cannot be read: {error}") from error


# --- reading, checking, writing ----------------------------------------------------------------------------------------------------------

COUNTER = "num_batches_tracked"
"""Of batch norm: PyTorch before 0.4.1 did not keep it, and no network here uses it."""
INTEGERS = (COUNTER, "relative_position_index")
"""What alone is no floating-point number, by the end of its name."""


UNPACKED_RATIO_LIMIT = 4
"""PyTorch packs without compressing."""


class _Unused:
    """Stands for what training leaves beside the tensors: it is neither made nor used."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


NUMPY_SCALARS = (("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"))
"""Module and name that a pickle has for numpy's numbers and their types, by numpy 1 and 2."""
_STAND_INS: list[Any] = [type(name, (_Unused,), {"__module__": module}) for module, name in NUMPY_SCALARS]


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name; `module.` before every name, which training on several GPUs leaves, is removed."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    content = _load_safetensors(path) if head[8:] == b"{" else _load_pytorch(path, is_zip=head.startswith(b"PK\3\4"))
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path.name} holds no state dict, but a {type(content).__name__}")
    if not content:
        raise ModelError(f"{path.name} holds nothing")
    for name, value in content.items():
        if not isinstance(name, str) or not _is_plain_tensor(value):
            raise ModelError(f"{path.name} holds no state dict: {name!s} is no tensor")
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: value.detach() for name, value in content.items()}


def _is_plain_tensor(value: object) -> bool:
    import torch

    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return not value.is_quantized and not value.is_nested


def _load_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors' own
        raise ModelError(f"{path.name} is damaged: {error}") from error


def _load_pytorch(path: Path, *, is_zip: bool) -> object:
    """Tensors and plain Python alone are made: any other name in the pickle ends it."""
    import torch

    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > UNPACKED_RATIO_LIMIT * path.stat().st_size:
                raise ModelError(f"{path.name} unpacks to {unpacked:,} bytes, far more than it is itself: no checkpoint is packed so")
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore")  # of storages that PyTorch has renamed since
            # Checkpoints with an optimizer are several times as large as what is kept of them; the format before 1.6 cannot be mapped.
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)
    except ModelError:
        raise
    except Exception as error:  # of pickle, zipfile, struct, torch
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise ModelError(f"{path.name} asks for {code[1]}, which no state dict needs: nothing in it was run") from error
        if "TorchScript" in str(error):
            raise ModelError(f"{path.name} is a TorchScript program, and a state dict is needed") from error
        raise ModelError(f"{path.name} is no PyTorch checkpoint, or a damaged one") from error


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _fitted(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path, prefix: str = "") -> dict[str, Tensor]:
    """`state`, if it is exactly what a network of these shapes has; `prefix` is what its names have in the file."""
    import torch

    counters = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items() if name.endswith(COUNTER)}
    fitted = {**counters, **state}
    missing = [prefix + name for name in shapes if name not in fitted]
    unknown = [prefix + name for name in fitted if name not in shapes]
    wrong = [f"no {_some(missing)}"] * bool(missing) + [f"the unknown {_some(unknown)}"] * bool(unknown)
    if wrong:
        raise ModelError(f"{path.name} is not a checkpoint of this network: it has {' and '.join(wrong)}")
    for name, shape in shapes.items():
        tensor, integer = fitted[name], name.endswith(INTEGERS)
        if tuple(tensor.shape) != shape:
            raise ModelError(f"{path.name}: {prefix}{name} has the shape {tuple(tensor.shape)}, not {shape}")
        if not (tensor.dtype is torch.int64 if integer else tensor.is_floating_point()):
            raise ModelError(f"{path.name}: {prefix}{name} holds {tensor.dtype}, which is no {torch.int64 if integer else torch.float32}")
    return fitted


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _save(state: Mapping[str, Tensor], path: Path, destination: Path) -> None:
    """Numbers as float32, counters and indices as they are; `path` is named where a tensor is not finite or cannot be copied."""
    import torch
    from safetensors.torch import save_file

    saved = {}
    for name, tensor in state.items():
        try:
            # A copy each: tensors of a checkpoint may share their memory, which safetensors refuses.
            saved[name] = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
            finite = bool(torch.isfinite(saved[name]).all())
        except (RuntimeError, MemoryError) as error:  # of memory, or of a type that torch does not convert
            raise ModelError(f"{path.name}: {name} cannot be copied: {error}") from error
        if not finite:
            raise ModelError(f"{path.name}: {name} holds numbers that are not finite")
    save_file(saved, str(destination))
