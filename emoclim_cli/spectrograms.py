"""Mel spectrograms as the published music networks were trained on. Shape letters: w windows, s samples, t frames, m mel bands."""

from __future__ import annotations

from functools import cache

import numpy as np

from emoclim_cli.errors import ModelError

# Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above; the default of librosa.
_LINEAR_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def mel_of_hz(hz: np.ndarray) -> np.ndarray:
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ_PER_MEL, _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP)


def hz_of_mel(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL)))


def triangles(bins_hz: np.ndarray, edges_hz: np.ndarray) -> np.ndarray:
    """(m, bins): each rises from an edge to 1 at the next and falls to 0 at the one after."""
    rise = (bins_hz - edges_hz[:-2, None]) / np.diff(edges_hz)[:-1, None]
    fall = (edges_hz[2:, None] - bins_hz) / np.diff(edges_hz)[1:, None]
    out: np.ndarray = np.maximum(0, np.minimum(rise, fall))
    return out


@cache
def mel_filters(sample_rate_hz: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """(m, n_fft / 2 + 1) float32 triangles of equal area on Slaney's scale."""
    bins_hz = np.fft.rfftfreq(n_fft, 1 / sample_rate_hz)
    low_mel, high_mel = mel_of_hz(np.array([low_hz, high_hz]))
    edges_hz = hz_of_mel(np.linspace(low_mel, high_mel, n_mels + 2))
    area = 2 / (edges_hz[2:] - edges_hz[:-2])
    filters: np.ndarray = (triangles(bins_hz, edges_hz) * area[:, None]).astype(np.float32)
    filters.flags.writeable = False
    return filters


@cache
def hann(length: int) -> np.ndarray:
    """The periodic Hann window."""
    window: np.ndarray = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
    window.flags.writeable = False
    return window


def mel_power(audio: np.ndarray, filters: np.ndarray, *, n_fft: int, window: int, hop: int, centred: bool) -> np.ndarray:
    """Power mel spectrogram: (w, s) -> (w, t, m) float32, Hann window of `window` samples, zero-padded to `n_fft`.

    `centred` puts frame i around sample i * hop, with zeros beyond the ends. Raises ModelError where the audio is shorter than one frame.
    """
    from scipy.fft import rfft

    if centred:
        audio = np.pad(audio, ((0, 0), (n_fft // 2, n_fft // 2)))
    if audio.shape[1] < window:
        raise ModelError(f"{audio.shape[1]} samples are too few for a spectrogram frame of {window}")
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float32, copy=False), window, axis=1)[:, ::hop]
    spectrum = rfft(frames * hann(window), n=n_fft, axis=-1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)  # (w, t, bins)
    mel: np.ndarray = power @ filters.T
    return mel
