"""Spectrogram front ends of the music taggers: mono audio -> decibels, with torchaudio's definitions and without torchaudio.

Always float32, also under autocast: half precision cannot hold the range of a power spectrum.
Shape letters: b windows, s samples, f frequency bins, t frames, m bands, h harmonics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from emoclim_cli.spectrograms import hann, triangles

RATE_HZ = 16_000
HOP = 256
FLOOR = 1e-10
"""The least power: -100 dB."""

MEL_FRAME = 512
MEL_BINS = MEL_FRAME // 2 + 1
MEL_BANDS = 128

HARMONIC_FRAMES = (513, 512)
"""As the front end was published, and as the taggers' authors and the paper's set it; a checkpoint may tell by its window. Both have as
many bins and frames, and with the same weights features of a cosine of 0.9999."""
HARMONIC_BINS = 257
HARMONICS = 6
NOTES_PER_SEMITONE = 2
LOWEST_NOTE = 24
"""C1, 32.7 Hz, as MIDI counts."""
HIGHEST_NOTE = round(69 + 12 * float(np.log2(RATE_HZ / (2 * HARMONICS) / 440)))
"""88: the note nearest to the frequency whose last harmonic is half the rate. It is the end, and no centre itself."""
NOTES = (HIGHEST_NOTE - LOWEST_NOTE) * NOTES_PER_SEMITONE
BANDWIDTH_PER_HZ, BANDWIDTH_HZ = 0.1079, 24.7
"""How wide a band the ear hears as one, by its centre: 24.7 (4.37 f / 1000 + 1) Hz (Glasberg and Moore 1990)."""


def mel_filters() -> np.ndarray:
    """(f, m) float32: triangles of height 1 between neighbours on HTK's mel scale, 2595 log10(1 + hz / 700), from 0 to half the rate.

    The scale is so fine at its low end that some bands lie between two bins and stay empty.
    """
    bins_hz = np.linspace(0, RATE_HZ / 2, MEL_BINS)
    edges_mel = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), MEL_BANDS + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    filters: np.ndarray = triangles(bins_hz, edges_hz).T.astype(np.float32)
    return filters


def harmonic_centres() -> np.ndarray:
    """(h * m,) Hz: all notes, then twice, three times ... their frequencies."""
    notes = np.arange(NOTES) / NOTES_PER_SEMITONE + LOWEST_NOTE
    centres: np.ndarray = np.outer(np.arange(1, HARMONICS + 1), 440 * 2 ** ((notes - 69) / 12)).ravel()
    return centres


def harmonic_distances() -> np.ndarray:
    """(f, h * m) float32: how far each bin is from each centre, in halves of the bandwidth at Q = 1.

    As published, the bins are spread evenly from 0 to half the rate, although those of an odd frame end just below.
    """
    bins_hz = np.linspace(0, RATE_HZ / 2, HARMONIC_BINS)[:, None]
    centres_hz = harmonic_centres()
    distances: np.ndarray = (np.abs(bins_hz - centres_hz) * 2 / (BANDWIDTH_PER_HZ * centres_hz + BANDWIDTH_HZ)).astype(np.float32)
    return distances


@cache
def _on(device: torch.device, make: Callable[..., np.ndarray], *arguments: int) -> Tensor:
    """What `make` gives, once for each device."""
    with torch.inference_mode(False):  # the first to ask may be an encoder; training uses the same tensor
        return torch.tensor(make(*arguments), device=device)


def power(audio: Tensor, frame: int) -> Tensor:
    """(b, s) -> (b, f, t): squared magnitudes; frame i lies around sample i * HOP, and the ends are reflected."""
    spectrum = torch.stft(
        audio, frame, HOP, window=_on(audio.device, hann, frame), center=True, pad_mode="reflect", onesided=True, return_complex=True
    )
    return spectrum.real.square() + spectrum.imag.square()


def decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power.clamp(min=FLOOR))


class MelSpectrogram(nn.Module):
    def forward(self, audio: Tensor) -> Tensor:
        """(b, s) at 16 kHz -> (b, m, t) dB."""
        with torch.autocast(audio.device.type, enabled=False):
            return decibels(_on(audio.device, mel_filters).T @ power(audio.float(), MEL_FRAME))


class HarmonicSpectrogram(nn.Module):
    """Won et al. 2020, "Data-driven harmonic filters for audio representation learning"."""

    def __init__(self, frame: int) -> None:
        super().__init__()
        self.bw_Q = nn.Parameter(torch.ones(1))
        self.spec = nn.Module()  # as torchaudio's spectrogram is called in a checkpoint
        self.spec.register_buffer("window", torch.tensor(hann(frame)))

    def filters(self, device: torch.device) -> Tensor:
        """(f, h * m): triangles max(0, 1 - 2 |f - f0| / bandwidth), bandwidth = (0.1079 f0 + 24.7) / Q."""
        return (1 - _on(device, harmonic_distances) * self.bw_Q.float()).clamp(min=0)

    def forward(self, audio: Tensor) -> Tensor:
        """(b, s) at 16 kHz -> (b, h, m, t) dB."""
        with torch.autocast(audio.device.type, enabled=False):
            bands = self.filters(audio.device).T @ power(audio.float(), len(self.spec.get_buffer("window")))  # (b, h * m, t)
            return decibels(bands.view(len(audio), HARMONICS, NOTES, -1))
