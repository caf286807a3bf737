"""MusiCNN (Pons and Serra 2019), trained on the tags of the Million Song Dataset: 3-second patches -> 200 features."""

from __future__ import annotations

import numpy as np

from emoclim_cli.conversions import MUSICNN_FRAMES, MUSICNN_MELS
from emoclim_cli.spectrograms import mel_filters, mel_power

SAMPLE_RATE_HZ = 16_000
N_FFT, HOP = 512, 256
DIM = 200


def spectrogram(audio: np.ndarray) -> np.ndarray:
    """(w, s) -> (w, t, 96) log-mel, t = s // 256 + 1: librosa's defaults, then log10(10000 x + 1) as the network was trained."""
    filters = mel_filters(SAMPLE_RATE_HZ, N_FFT, MUSICNN_MELS, 0.0, SAMPLE_RATE_HZ / 2)
    mel = mel_power(audio, filters, n_fft=N_FFT, window=N_FFT, hop=HOP, centred=True)
    out: np.ndarray = np.log10(10_000 * mel + 1)
    return out


def patches(audio: np.ndarray) -> np.ndarray:
    """(w, s) -> (w * p, 187, 96): each window's spectrogram cut into p = t // 187 whole patches."""
    mel = spectrogram(audio)
    per_window = mel.shape[1] // MUSICNN_FRAMES
    return mel[:, : per_window * MUSICNN_FRAMES].reshape(-1, MUSICNN_FRAMES, MUSICNN_MELS)
