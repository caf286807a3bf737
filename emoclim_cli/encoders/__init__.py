"""The frozen pretrained networks: the Encoder protocol and the ENCODERS table.

To add one: a module in this folder with a class that fulfils `Encoder`, a row in ENCODERS, a row in `weights.WEIGHTS` for each weights
file it reads, and its check values in `tests/test_encoders.py`.
Shape letters: n items, w windows of one item, d feature dim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from emoclim_cli.errors import MissingExtra, ModelError
from emoclim_cli.media import MediaKind
from emoclim_cli.torch_checkpoints import state_digest
from emoclim_cli.weights import digest_of, identity_of, path_of


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    name: str
    kind: MediaKind
    dim: int
    weights: tuple[str, ...]
    """Names in `weights.WEIGHTS`."""
    licence: str
    module: str
    """Module of this package whose `build(info, paths, device)` makes the encoder."""
    extra: str = ""
    """A key of EXTRAS, where it needs packages that not everybody has."""
    tunable: bool = False
    """Whether it can be trained with its projection, so that a space carries weights of its own for it."""
    overlap: float = 0.0
    """Of a track's windows: how much of itself each shares with the next. 0 is what libraries and spaces are made with."""
    identity: tuple[str, ...] = ()
    """Which weights those are that `build` has found, where the table leaves it open, or a space carries its own."""

    @property
    def digest(self) -> str:
        """Names the features: the same digest, the same numbers for the same file, but for what a device's number format rounds.

        Raises ModelError for weights that the table leaves open, unless it is of an encoder that was built.
        """
        weights = self.identity or map(digest_of, self.weights)
        parts = [self.name, *weights, *([f"overlap {self.overlap}"] if self.overlap else [])]
        return blake2b("/".join(parts).encode(), digest_size=8).hexdigest()


class Encoder(Protocol):
    @property
    def info(self) -> EncoderInfo: ...

    @property
    def batch_size(self) -> int:
        """How many samples a caller best hands over at once."""

    @property
    def load(self) -> Callable[[str], Any]:
        """Reads and prepares one file. Can be pickled, without the network, to be called in other processes; is called on threads too.

        It raises UnreadableMedia, OSError.
        """

    def encode(self, samples: Sequence[Any]) -> np.ndarray:
        """(n, d) float32 features of n loaded samples. An item's features do not depend on the others in the batch."""

    def encode_windows(self, samples: Sequence[Any]) -> list[np.ndarray]:
        """The features of each item's parts: n arrays (w, d), of which `encode` gives the mean; a photo has one."""


ENCODERS: dict[str, EncoderInfo] = {
    info.name: info
    for info in (
        EncoderInfo("clip-vit-b-16", MediaKind.PHOTO, 512, ("clip-vit-b-16",), "MIT", "clip"),
        EncoderInfo("clip-vit-b-32", MediaKind.PHOTO, 512, ("clip-vit-b-32",), "MIT", "clip"),
        EncoderInfo("musicnn", MediaKind.MUSIC, 200, ("musicnn",), "ISC", "music"),
        EncoderInfo("vibenet", MediaKind.MUSIC, 1280, ("vibenet",), "GPL-3.0-or-later", "music"),
        EncoderInfo("musicnn+vibenet", MediaKind.MUSIC, 1480, ("musicnn", "vibenet"), "GPL-3.0-or-later", "music"),
        EncoderInfo("clap", MediaKind.MUSIC, 512, ("clap",), "CC0-1.0", "clap", extra="clap"),
        EncoderInfo("harmonic-cnn", MediaKind.MUSIC, 256, ("harmonic-cnn",), "MIT", "cnn", tunable=True),
        EncoderInfo("short-chunk-cnn", MediaKind.MUSIC, 512, ("short-chunk-cnn",), "MIT", "cnn", tunable=True),
    )
}

EXTRAS = {"clap": ("laion_clap", "torchvision")}
"""Extra -> the packages by which it is seen to be installed."""


def encoder_info(name: str) -> EncoderInfo:
    """Raises ModelError with the valid names."""
    try:
        return ENCODERS[name]
    except KeyError:
        raise ModelError(f"there is no encoder {name!r}", f"one of: {', '.join(ENCODERS)}") from None


def weights_of(encoders: Mapping[MediaKind, str], tuned: Collection[MediaKind] = ()) -> list[str]:
    """The weights that the encoders of a space need, but for those that it carries itself."""
    return [name for kind, encoder in encoders.items() if kind not in tuned for name in encoder_info(encoder).weights]


def check_extra(info: EncoderInfo) -> None:
    """Raises MissingExtra where the packages that the encoder needs are not installed. Imports nothing."""
    missing = [package for package in EXTRAS.get(info.extra, ()) if find_spec(package) is None]
    if missing:
        reason = f"the encoder {info.name} needs the extra `{info.extra}`, and {' and '.join(missing)} cannot be found"
        raise MissingExtra(reason, f"pip install 'emoclim[{info.extra}]'")


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Raises ModelError for whatever goes wrong with the weights of an encoder: the libraries that read them share no exception."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"the weights of {name} cannot be loaded: {error}", "emoclim models verify") from error


def build(name: str, cache: Path, device: str = "auto", *, overlap: float = 0.0, tuned: Path | None = None) -> Encoder:
    """Loads the network; `overlap` is that of a music encoder's windows, `tuned` a space's own weights in place of those in `cache`.

    Raises MissingExtra, MissingWeights where its weights are not in `cache`, ModelError where they are damaged.
    """
    info = encoder_info(name)
    check_extra(info)
    if tuned and not info.tunable:
        raise ModelError(f"{name} cannot be tuned, and {tuned} says that it was", "get the space again from where it came")
    paths = [tuned] if tuned else [path_of(weights, cache) for weights in info.weights]
    identity = (state_digest(tuned),) if tuned else tuple(identity_of(weights, cache) for weights in info.weights)
    found = replace(info, overlap=overlap, identity=identity)
    encoder: Encoder = import_module(f"{__name__}.{info.module}").build(found, paths, device)
    return encoder
