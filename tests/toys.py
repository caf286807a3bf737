"""A toy encoder behind the real protocol. Its media are text files: one line of numbers for each window."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from emoclim_cli.encoders import Encoder, EncoderInfo
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.media import MediaKind


class ToyEncoder:
    """Its features are the numbers; it remembers what it was asked."""

    batch_size = 32

    def __init__(self, kind: MediaKind, dim: int = 2, name: str = "toy") -> None:
        self.info = EncoderInfo(f"{name}-{kind}", kind, dim, (), "MIT", "toy")
        self.loaded: list[str] = []
        self.batches: list[int] = []
        self._lock = threading.Lock()

    def load(self, path: str) -> np.ndarray:
        with self._lock:
            self.loaded.append(path)
        text = Path(path).read_bytes()
        try:
            rows = [[float(number) for number in line.split()] for line in text.decode("ascii").splitlines()]
            return np.array(rows, np.float32).reshape(len(rows) or 1, self.info.dim)
        except ValueError as error:
            raise UnreadableMedia(f"these are not lines of {self.info.dim} numbers") from error

    def encode(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([windows.mean(axis=0) for windows in self.encode_windows(samples)])

    def encode_windows(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.batches.append(len(samples))
        return list(samples)


def toy_encoder(kind: MediaKind, dim: int = 2, name: str = "toy") -> ToyEncoder:
    encoder = ToyEncoder(kind, dim, name)
    _: Encoder = encoder  # for the type checker
    return encoder


def write_numbers(path: Path | str, windows: Iterable[Iterable[float]]) -> str:
    """A toy photo or track; gives back its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(map(repr, map(float, window))) + "\n" for window in windows))
    return str(path)
