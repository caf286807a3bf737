"""The paper's two music taggers, Short-Chunk CNN and Harmonic CNN (Won et al. 2020), with the names of their published checkpoints.

Shape letters: b windows, s samples, d features, c channels, m bands, t frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emoclim_cli.networks import frontends

TAGS = 50
"""The most frequent ones of the Million Song Dataset."""


class StridedResidual(nn.Module):
    """Halves both sides by its stride; the shortcut is a convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        self.bn_1 = nn.BatchNorm2d(out)
        self.conv_2 = nn.Conv2d(out, out, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(out)
        self.conv_3 = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        self.bn_3 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn_2(self.conv_2(F.relu(self.bn_1(self.conv_1(x)))))
        return F.relu(self.bn_3(self.conv_3(x)) + y)


class Pooled(nn.Module):
    def __init__(self, channels: int, out: int, pool: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.bn = nn.BatchNorm2d(out)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn(self.conv(x))), self.pool)


class PooledResidual(nn.Module):
    def __init__(self, channels: int, pool: tuple[int, int]) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn_1 = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn_2(self.conv_2(F.relu(self.bn_1(self.conv_1(x)))))
        return F.max_pool2d(F.relu(x + y), self.pool)


class Tagger(nn.Module, ABC):
    """What the two share: seven layers, their maximum over bands and time as features, and a head that tells tags."""

    RATE_HZ: ClassVar[int] = frontends.RATE_HZ
    SAMPLES: ClassVar[int]
    """Of a window, as it was trained."""
    DIM: ClassVar[int]
    BUFFERS: ClassVar[frozenset[str]] = frozenset()
    """What a checkpoint may hold of torchaudio's spectrograms: windows and filters that nobody learned. Ours are made anew."""
    WINDOW: ClassVar[str] = ""
    """One of these whose length is a setting, which ours keeps."""

    @classmethod
    @abstractmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        """The network that these weights are for; they are not loaded yet."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        for number, layer in enumerate(layers, 1):
            self.add_module(f"layer{number}", layer)
        self.dense1 = nn.Linear(self.DIM, self.DIM)
        self.bn = nn.BatchNorm1d(self.DIM)
        self.dense2 = nn.Linear(self.DIM, TAGS)

    def pooled(self, x: Tensor) -> Tensor:
        """(b, c, m, t) -> (b, d)."""
        for number in range(1, 8):
            x = self.get_submodule(f"layer{number}")(x)
        return x.amax(dim=(2, 3))

    def tags(self, features: Tensor) -> Tensor:
        """(b, d) -> (b, 50) probabilities."""
        hidden = F.dropout(F.relu(self.bn(self.dense1(features))), 0.5, self.training)
        return torch.sigmoid(self.dense2(hidden))


class ShortChunkCnn(Tagger):
    """The residual variant: 12,104,244 parameters."""

    SAMPLES = 59_049  # 3.69 s
    DIM = 512
    BUFFERS = frozenset({"spec.spectrogram.window", "spec.mel_scale.fb"})

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:  # noqa: ARG003 - there is but one
        return cls()

    def __init__(self) -> None:
        channels = [1, 128, 128, 256, 256, 256, 256, self.DIM]
        super().__init__([StridedResidual(before, after) for before, after in pairwise(channels)])
        self.spec = frontends.MelSpectrogram()
        self.spec_bn = nn.BatchNorm2d(1)

    def forward(self, audio: Tensor) -> Tensor:
        """(b, s) mono at 16 kHz, in -1..1 -> (b, 512)."""
        return self.pooled(self.spec_bn(self.spec(audio)[:, None]))


class HarmonicCnn(Tagger):
    """3,631,551 parameters, one of them the width of its filters."""

    SAMPLES = 80_000  # 5 s
    DIM = 256
    WINDOW = "hstft.spec.window"

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        """Raises ValueError for a window of another shape than the published ones."""
        published = [(frame,) for frame in frontends.HARMONIC_FRAMES]
        shape = tuple(state[cls.WINDOW].shape) if cls.WINDOW in state else published[0]
        if shape not in published:
            raise ValueError(f"{cls.WINDOW} has the shape {shape}, not one of {published}")
        return cls(*shape)

    def __init__(self, frame: int = frontends.HARMONIC_FRAMES[0]) -> None:
        super().__init__(
            [
                Pooled(frontends.HARMONICS, 128, 2),
                *(PooledResidual(128, (2, 2)) for _ in range(3)),
                Pooled(128, self.DIM, 2),
                *(PooledResidual(self.DIM, (2, 3)) for _ in range(2)),
            ]
        )
        self.hstft = frontends.HarmonicSpectrogram(frame)
        self.hstft_bn = nn.BatchNorm2d(frontends.HARMONICS)

    def forward(self, audio: Tensor) -> Tensor:
        """(b, s) mono at 16 kHz, in -1..1 -> (b, 256)."""
        return self.pooled(self.hstft_bn(self.hstft(audio)))
