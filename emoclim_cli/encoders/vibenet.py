"""VibeNet (GPL-3.0-or-later), an EfficientNet-B0 trained for valence, energy and five more on the Free Music Archive: -> 1,280 features."""

from __future__ import annotations

import numpy as np

from emoclim_cli.spectrograms import mel_filters, mel_power

SAMPLE_RATE_HZ = 16_000
N_FFT, WINDOW, HOP, N_MELS = 1024, 640, 320, 128
RANGE_DB = 80.0
DIM = 1280


def spectrogram(audio: np.ndarray) -> np.ndarray:
    """(w, s) -> (w, 128, t) mel spectrogram in dB, no more than 80 dB under its window's maximum."""
    filters = mel_filters(SAMPLE_RATE_HZ, N_FFT, N_MELS, 0.0, SAMPLE_RATE_HZ / 2)
    mel = mel_power(audio, filters, n_fft=N_FFT, window=WINDOW, hop=HOP, centred=False)
    db = 10 * np.log10(np.maximum(mel, 1e-10))
    out: np.ndarray = np.maximum(db, db.max(axis=(1, 2), keepdims=True) - RANGE_DB).transpose(0, 2, 1)
    return out
