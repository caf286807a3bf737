"""CLAP's audio tower (Wu et al. 2023, HTSAT-tiny of Chen et al. 2022): music -> 512 features, of unit norm for each window of 10 s.

The tower is laion_clap's own, but only the file that holds it is imported: the package itself asks a model hub for tokenizers as soon as it
is imported, and builds the text tower even for audio alone. Shape letters: w windows, s samples.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from emoclim_cli.encoders import EncoderInfo, loading
from emoclim_cli.encoders.devices import choose_device
from emoclim_cli.encoders.torch_music import TorchMusicEncoder
from emoclim_cli.encoders.windows import Window
from emoclim_cli.errors import MissingExtra
from emoclim_cli.networks import htsat

WINDOW = Window(rate_hz=48_000, samples=480_000, whole_repeats=True)
"""Whatever is longer, laion_clap crops at random: the same file twice would not give the same features. What is shorter, it fills up so
("repeatpad")."""
CONFIG = {
    "model_name": "tiny",
    "class_num": htsat.CLASSES,
    "sample_rate": WINDOW.rate_hz,
    "window_size": htsat.FRAME,
    "hop_size": 480,
    "mel_bins": htsat.MELS,
    "fmin": 50,
    "fmax": 14_000,
}
"""`audio_cfg` of laion_clap's HTSAT-tiny.json, as far as the tower reads it."""
FULL_SCALE = 32_767.0
"""Of the 16 bits that the tower heard in training."""
ITEM_BYTES = 64 << 20
"""Of one window in float32: twice the 30.5 MB that torch's profiler saw at most at once on a CPU (122 MB for four), since convolutions and
matrix products take scratch memory beside their results."""

PACKAGE = "_emoclim_laion_clap"
"""A name of our own for the folder of laion_clap that holds the tower: who imports the real package gets the real one."""
_importing = Lock()  # warnings are switched off for a moment, which two threads cannot do at once


class ClapAudio(nn.Module):
    """(w, 480000) float32 audio at 48 kHz -> (w, 512) float32 features of unit norm. The names of its tensors are the checkpoint's."""

    def __init__(self) -> None:
        super().__init__()
        self.audio_branch = _tower()
        self.audio_projection = nn.Sequential(nn.Linear(htsat.TOWER_DIM, htsat.DIM), nn.ReLU(), nn.Linear(htsat.DIM, htsat.DIM))

    def forward(self, audio: Tensor) -> Tensor:
        out = self.audio_branch.forward_features(self.spectrogram(audio))["embedding"]
        return F.normalize(self.audio_projection(out).float(), dim=-1)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """(w, s) -> (w, 1, 256, 256): decibels of 64 mel bands, normalised and folded into a square, in float32 whatever the autocast."""
        branch = self.audio_branch
        with torch.autocast(audio.device.type, enabled=False):
            mel = branch.logmel_extractor(branch.spectrogram_extractor(quantized(audio)))  # (w, 1, time, band)
            out: Tensor = branch.reshape_wav2img(branch.bn0(mel.transpose(1, 3)).transpose(1, 3))
        return out


def quantized(audio: Tensor) -> Tensor:
    """Audio as 16 bits hold it, rounded towards zero (laion_clap's float32_to_int16 and int16_to_float32)."""
    return (audio.clamp(-1.0, 1.0) * FULL_SCALE).to(torch.int16).float() / FULL_SCALE


def network_of(name: str, path: Path) -> ClapAudio:
    """The network with the weights of a file. Raises ModelError where they do not fit it, MissingExtra where laion_clap is of no use."""
    from safetensors.torch import load_file

    with _Unfilled():
        network = ClapAudio()
    with loading(name):
        network.load_state_dict(load_file(path), assign=True)
    return network


def build(info: EncoderInfo, paths: Sequence[Path], device: str) -> TorchMusicEncoder:
    return TorchMusicEncoder(info, network_of(info.name, paths[0]), choose_device(device), WINDOW, ITEM_BYTES)


def _tower() -> Any:
    """laion_clap's HTSAT-tiny. Raises MissingExtra where it cannot be imported."""
    with _importing, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated calls in laion_clap and what it imports
        try:
            return _htsat().create_htsat_model(SimpleNamespace(**CONFIG))
        except Exception as error:  # besides ImportError, whatever a torchvision raises that is not this torch's
            raise MissingExtra(f"laion_clap's audio tower cannot be imported: {error}", "pip install 'emoclim[clap]'") from error


def _htsat() -> ModuleType:
    """The module laion_clap.clap_module.htsat, without running its parent packages."""
    if PACKAGE not in sys.modules:
        spec = find_spec("laion_clap")  # runs nothing
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("No module named 'laion_clap'")
        package = ModuleType(PACKAGE)
        package.__path__ = [str(Path(folder, "clap_module")) for folder in spec.submodule_search_locations]
        sys.modules[PACKAGE] = package
    return import_module(f"{PACKAGE}.htsat")


class _Unfilled(TorchFunctionMode):
    """Leaves new parameters as they come: random numbers for 31 million take longer than all else, and the file's take their place."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        changed = args[0] if args else kwargs.get("tensor")  # methods of tensors, functions of torch.nn.init
        if isinstance(changed, nn.Parameter) and func.__name__.endswith("_") and not func.__name__.startswith("_"):
            return changed
        return func(*args, **kwargs)
