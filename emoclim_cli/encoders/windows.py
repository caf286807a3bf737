"""What all music encoders share: a track is cut into windows, each has features of its own, and the track's are their mean.

Shape letters: n tracks, w windows, s samples, d feature dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from emoclim_cli.audio import AudioWindows, read_windows
from emoclim_cli.encoders import EncoderInfo

HEARD_S = 60.0
"""Of a track, spread over its length."""
HEARD_SLIDING_S = 600.0
"""With windows that overlap: of a longer track as many windows as ten minutes have, spread over its length."""


@dataclass(frozen=True, slots=True)
class Window:
    rate_hz: int
    samples: int
    whole_repeats: bool = False
    """A track that is shorter than a window fills it with whole repeats alone, and silence after them."""

    @property
    def seconds(self) -> float:
        return self.samples / self.rate_hz

    def most(self, overlap: float) -> int:
        """How many of a track are taken."""
        return round((HEARD_SLIDING_S if overlap else HEARD_S) / (self.seconds * (1 - overlap)))

    def read(self, path: str, overlap: float = 0.0) -> AudioWindows:
        """Those of a track. Raises UnreadableMedia, OSError."""
        most = self.most(overlap)
        track = read_windows(path, sample_rate_hz=self.rate_hz, window_s=self.seconds, max_windows=most, overlap=overlap)
        length = round(track.duration_s * self.rate_hz)
        if self.whole_repeats and length < self.samples:
            track.audio[:, self.samples // length * length :] = 0.0
        return track


class WindowEncoder(ABC):
    def __init__(self, info: EncoderInfo, window: Window) -> None:
        self.info = info
        self.window = window
        self.load = partial(window.read, overlap=info.overlap)
        # Decoded, a minute takes a dozen megabytes at most, ten minutes a hundred.
        self.batch_size = 4 if info.overlap else 32

    def encode(self, samples: Sequence[AudioWindows]) -> np.ndarray:
        """(n, d): the mean over each track's windows."""
        return np.stack([windows.mean(axis=0) for windows in self.encode_windows(samples)])

    def encode_windows(self, samples: Sequence[AudioWindows]) -> list[np.ndarray]:
        """The features of each window: n arrays (w, d)."""
        features = self._features([window for sample in samples for window in sample.audio])
        return np.split(features, np.cumsum([len(sample.audio) for sample in samples])[:-1])

    @abstractmethod
    def _features(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """w arrays (s,) -> (w, d) float32. A window's features do not depend on the others."""
