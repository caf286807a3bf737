"""The frozen pretrained networks: the Encoder protocol and the ENCODERS table.

To add one: a module in this folder with a class that fulfils `Encoder`, a row in ENCODERS, a row in `weights.WEIGHTS` for each weights
file it reads, and its check values in `tests/test_encoders.py`.
Shape letters: n items, w windows of one item, d feature dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from emoclim_cli.errors import ModelError
from emoclim_cli.media import MediaKind
from emoclim_cli.weights import digest_of, path_of


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
    overlap: float = 0.0
    """Of a track's windows: how much of itself each shares with the next. 0 is what libraries and spaces are made with."""

    @property
    def digest(self) -> str:
        """Names the features: the same digest, the same numbers for the same file."""
        parts = [self.name, *map(digest_of, self.weights), *([f"overlap {self.overlap}"] if self.overlap else [])]
        return blake2b("/".join(parts).encode(), digest_size=8).hexdigest()


class Encoder(Protocol):
    @property
    def info(self) -> EncoderInfo: ...

    def load(self, path: str) -> Any:
        """Reads and prepares one file; called from several threads. Raises UnreadableMedia, OSError."""

    def encode(self, samples: Sequence[Any]) -> np.ndarray:
        """(n, d) float32 features of n loaded samples. An item's features do not depend on the others in the batch."""

    def encode_windows(self, samples: Sequence[Any]) -> list[np.ndarray]:
        """The features of each item's parts: n arrays (w, d), of which `encode` gives the mean; a photo has one."""


ENCODERS: dict[str, EncoderInfo] = {
    info.name: info
    for info in (
        EncoderInfo("clip-vit-b-16", MediaKind.PHOTO, 512, ("clip-vit-b-16",), "MIT", "clip"),
        EncoderInfo("musicnn", MediaKind.MUSIC, 200, ("musicnn",), "ISC", "music"),
        EncoderInfo("vibenet", MediaKind.MUSIC, 1280, ("vibenet",), "GPL-3.0-or-later", "music"),
        EncoderInfo("musicnn+vibenet", MediaKind.MUSIC, 1480, ("musicnn", "vibenet"), "GPL-3.0-or-later", "music"),
    )
}


def encoder_info(name: str) -> EncoderInfo:
    """Raises ModelError with the valid names."""
    try:
        return ENCODERS[name]
    except KeyError:
        raise ModelError(f"there is no encoder {name!r}", f"one of: {', '.join(ENCODERS)}") from None


def build(name: str, cache: Path, device: str = "auto", *, overlap: float = 0.0) -> Encoder:
    """Loads the network; `overlap` is that of a music encoder's windows.

    Raises MissingWeights where its weights are not in `cache`, ModelError where they are damaged.
    """
    info = replace(encoder_info(name), overlap=overlap)
    paths = [path_of(weights, cache) for weights in info.weights]
    encoder: Encoder = import_module(f"{__name__}.{info.module}").build(info, paths, device)
    return encoder
