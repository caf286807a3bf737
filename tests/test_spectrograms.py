"""Mel spectrograms against slow, direct sums."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from emoclim_cli.encoders import musicnn, vibenet
from emoclim_cli.errors import ModelError
from emoclim_cli.spectrograms import hz_of_mel, mel_filters, mel_of_hz, mel_power

RATE_HZ = 16_000
MUSICNN = (RATE_HZ, 512, 96, 0.0, 8_000.0)
VIBENET = (RATE_HZ, 1024, 128, 0.0, 8_000.0)
SMALL = (8_000, 64, 6, 100.0, 3_500.0)


# --- slow references ---------------------------------------------------------------------------------------------------------------------


def slow_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def slow_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def slow_filters(rate_hz: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float) -> list[list[float]]:
    low, high = slow_mel(low_hz), slow_mel(high_hz)
    corners = [slow_hz(low + (high - low) * i / (n_mels + 1)) for i in range(n_mels + 2)]
    rows = []
    for left, top, right in zip(corners, corners[1:], corners[2:], strict=False):
        row = []
        for k in range(n_fft // 2 + 1):
            hz = k * rate_hz / n_fft
            if left <= hz <= top:
                height = (hz - left) / (top - left)
            elif top < hz <= right:
                height = (right - hz) / (right - top)
            else:
                height = 0.0
            row.append(height * 2 / (right - left))
        rows.append(row)
    return rows


def slow_mel_power(audio: list[float], filters: np.ndarray, n_fft: int, window: int, hop: int, centred: bool) -> list[list[float]]:
    if centred:
        audio = [0.0] * (n_fft // 2) + audio + [0.0] * (n_fft // 2)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * i / window) for i in range(window)]
    turns = [cmath.exp(-2j * math.pi * i / n_fft) for i in range(n_fft)]
    rows = []
    for start in range(0, len(audio) - window + 1, hop):
        power = []
        for k in range(n_fft // 2 + 1):
            value = sum(audio[start + i] * hann[i] * turns[k * i % n_fft] for i in range(window))
            power.append(abs(value) ** 2)
        rows.append([sum(float(f) * p for f, p in zip(row, power, strict=True)) for row in filters])
    return rows


# --- the scale ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hz", "mel"), [(0, 0), (200, 3), (440, 6.6), (1000, 15), (6400, 42), (40_960, 69), (1000 * 6.4 ** (1 / 27), 16)])
def test_slaneys_scale(hz: float, mel: float) -> None:
    assert float(mel_of_hz(np.array(hz))) == pytest.approx(mel, abs=1e-9)
    assert float(hz_of_mel(np.array(mel))) == pytest.approx(hz, abs=1e-9)


def test_the_scale_rises_without_a_jump_and_can_be_undone() -> None:
    hz = np.linspace(0, 20_000, 10_001)
    mel = mel_of_hz(hz)
    assert (np.diff(mel) > 0).all()
    assert np.diff(mel).max() == pytest.approx(0.03)  # 2 Hz, where it is steepest
    np.testing.assert_allclose(hz_of_mel(mel), hz, rtol=1e-12, atol=1e-12)


# --- the filters -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [MUSICNN, VIBENET, SMALL])
def test_filters_are_those_of_the_slow_reference(arguments: tuple[int, int, int, float, float]) -> None:
    filters = mel_filters(*arguments)
    assert filters.shape == (arguments[2], arguments[1] // 2 + 1)
    assert filters.dtype == np.float32
    np.testing.assert_allclose(filters, slow_filters(*arguments), rtol=1e-5, atol=1e-9)


def test_every_filter_has_the_same_area() -> None:
    """Measured on a grid of 0.25 Hz, where the triangles are whole: each integrates to 1 over frequency."""
    filters = mel_filters(RATE_HZ, 64_000, 96, 0.0, 8_000.0)
    np.testing.assert_allclose(filters.sum(axis=1) * 0.25, 1.0, rtol=1e-3)


def test_filters_are_computed_once_and_cannot_be_changed() -> None:
    assert mel_filters(*MUSICNN) is mel_filters(*MUSICNN)
    with pytest.raises(ValueError, match="read-only"):
        mel_filters(*MUSICNN)[0, 0] = 1


# --- the spectrogram ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("n_fft", "window", "hop"), [(64, 64, 32), (64, 40, 20), (64, 40, 64)])
def test_power_is_that_of_the_slow_reference(n_fft: int, window: int, hop: int, centred: bool) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 203)).astype(np.float32)
    filters = mel_filters(*SMALL)
    mel = mel_power(audio, filters, n_fft=n_fft, window=window, hop=hop, centred=centred)
    slow = [slow_mel_power(row.tolist(), filters, n_fft, window, hop, centred) for row in audio]
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, slow, rtol=1e-4, atol=1e-9)


def test_one_frame_is_the_least() -> None:
    filters = mel_filters(*SMALL)
    options = {"n_fft": 64, "window": 40, "hop": 20}
    assert mel_power(np.ones((1, 40), np.float32), filters, centred=False, **options).shape == (1, 1, 6)
    with pytest.raises(ModelError, match="39 samples are too few for a spectrogram frame of 40"):
        mel_power(np.ones((1, 39), np.float32), filters, centred=False, **options)
    assert mel_power(np.ones((1, 1), np.float32), filters, centred=True, **options).shape == (1, 2, 6)


# --- as the networks take it -------------------------------------------------------------------------------------------------------------


def noise(windows: int, samples: int) -> np.ndarray:
    """Noise that fades in: some of it lies more than 80 dB under its maximum."""
    rng = np.random.default_rng(1)
    return (rng.uniform(-1, 1, (windows, samples)) * np.linspace(0, 1, samples) ** 8).astype(np.float32)


def test_musicnn_spectrogram() -> None:
    audio = noise(2, 1_100)
    mel = musicnn.spectrogram(audio)
    assert mel.shape == (2, 5, 96)
    filters = np.array(slow_filters(*MUSICNN))
    slow = np.array([slow_mel_power(row.tolist(), filters, 512, 512, 256, centred=True) for row in audio])
    np.testing.assert_allclose(mel, np.log10(10_000 * slow + 1), atol=1e-4)


def test_musicnn_patches_are_whole_and_in_order() -> None:
    audio = noise(3, 16_000 * 7)  # 438 frames: two patches and a rest
    mel, patches = musicnn.spectrogram(audio), musicnn.patches(audio)
    assert patches.shape == (6, 187, 96)
    for window in range(3):
        for patch in range(2):
            np.testing.assert_array_equal(patches[2 * window + patch], mel[window, 187 * patch : 187 * (patch + 1)])


def test_vibenet_spectrogram() -> None:
    audio = noise(2, 1_610)
    audio[1] *= 0.01  # each window has its own maximum
    mel = vibenet.spectrogram(audio)
    assert mel.shape == (2, 128, 4)
    filters = np.array(slow_filters(*VIBENET))
    for ours, row in zip(mel, audio, strict=True):
        power = np.array(slow_mel_power(row.tolist(), filters, 1024, 640, 320, centred=False)).T
        slow = 10 * np.log10(np.maximum(power, 1e-10))
        slow = np.maximum(slow, slow.max() - 80)
        assert (slow == slow.min()).sum() > 10, "this test should see the floor"
        np.testing.assert_allclose(ours, slow, atol=1e-3)


@pytest.mark.parametrize("spectrogram", [musicnn.spectrogram, vibenet.spectrogram])
def test_silence_is_finite(spectrogram: object) -> None:
    mel = spectrogram(np.zeros((1, 16_000), np.float32))  # type: ignore[operator]
    assert np.isfinite(mel).all()
    assert np.ptp(mel) == 0
