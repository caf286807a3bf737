"""Held against librosa, which the analysis follows, and against sound of known times."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from emoclim_cli import onsets
from emoclim_cli.onsets import FRAME_S, HOP, RATE_HZ


@pytest.fixture(scope="module")
def librosa() -> ModuleType:
    import librosa

    return librosa


def notes(times_s: np.ndarray, duration_s: float, *, attack_s: float = 0.003, hiss: float = 0.0, seed: int = 0) -> np.ndarray:
    """(s,) float32: notes of seven harmonics and random pitch, which die away in a quarter of a second."""
    rng = np.random.default_rng(seed)
    audio = hiss * rng.standard_normal(round(duration_s * RATE_HZ))
    t = np.arange(round(0.6 * RATE_HZ)) / RATE_HZ
    shape = np.minimum(1.0, t / attack_s) * np.exp(-t / 0.25) * np.minimum(1.0, (0.6 - t) / 0.05)
    for time_s in times_s:
        pitch_hz = 220.0 * 2 ** (rng.integers(24) / 12)
        note = shape * sum(np.sin(2 * np.pi * h * pitch_hz * t) / h for h in range(1, 8))
        begin = round(time_s * RATE_HZ)
        audio[begin : begin + len(note)] += 0.15 * note[: len(audio) - begin]
    return audio.astype(np.float32)


def uneven(count: int, seed: int = 0) -> np.ndarray:
    """(count,) times, 0.35 to 0.9 s apart."""
    return 0.5 + np.cumsum(np.random.default_rng(seed).uniform(0.35, 0.9, count))


def test_onset_strength_is_librosas(librosa: ModuleType) -> None:
    audio = notes(uneven(12), 10.0, hiss=0.001)
    strength, decibels = onsets.heard_strength(audio)
    mel = librosa.feature.melspectrogram(y=audio / np.abs(audio).max(), sr=RATE_HZ)
    assert decibels == pytest.approx(librosa.power_to_db(mel).T, abs=0.01)
    theirs = librosa.onset.onset_strength(y=audio, sr=RATE_HZ)
    assert strength.shape == theirs.shape
    assert onsets.onset_strength(decibels)[5:] == pytest.approx(theirs[5:], abs=1e-3)
    loud = np.flatnonzero(theirs > 2.0)
    loud = loud[loud >= 5]
    assert len(loud) >= 12
    assert strength[loud] == pytest.approx(theirs[loud], abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_onsets_are_librosas(librosa: ModuleType, seed: int) -> None:
    audio = notes(uneven(12, seed), 10.0, hiss=0.001, seed=seed)
    strength = librosa.onset.onset_strength(y=audio, sr=RATE_HZ)
    theirs = librosa.onset.onset_detect(onset_envelope=strength, sr=RATE_HZ)
    assert len(theirs) >= 12
    ours = onsets.peaks(strength)
    assert len(ours) == len(theirs)
    assert ((ours == theirs) | (ours == theirs + 1)).all(), "librosa takes the first of two frames that rise, this the highest"
    assert onsets.peaks(1e-3 * strength).tolist() == [], "so weak are none"


def test_of_equal_neighbours_the_first_is_the_onset() -> None:
    strength = np.zeros(40)
    strength[20:22] = 5.0
    assert onsets.peaks(strength).tolist() == [20]


@pytest.mark.parametrize("attack_s", [0.0005, 0.005, 0.04])
@pytest.mark.parametrize("hiss", [0.0, 0.003])
def test_attacks(attack_s: float, hiss: float) -> None:
    times_s = uneven(20)
    audio = notes(times_s, 15.0, attack_s=attack_s, hiss=hiss)
    late = np.random.default_rng(1).integers(0, 2, len(times_s))  # as a peak of the onset strength is
    found = onsets.attacks(audio, np.round(times_s / FRAME_S).astype(int) + late)
    error_s = found - times_s
    assert error_s.min() > -0.01
    assert error_s.max() < 0.01 + attack_s / 2
    if attack_s < 0.04:
        assert abs(np.median(error_s)) < 0.003


def test_prominence_by_hand() -> None:
    strength = np.random.default_rng(0).uniform(0, 1, 50)
    by_hand = [strength[i] - strength[max(0, i - 4) : i + 5].mean() for i in range(50)]
    assert onsets.prominence(strength) == pytest.approx(by_hand)


def test_around_by_hand() -> None:
    assert onsets.around(np.array([1, 2, 3]), 2, 1, -9).tolist() == [[-9, -9, 1, 2], [-9, 1, 2, 3], [1, 2, 3, -9]]


def clicks(bpm: float, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(s,) float32 and the times: every fourth click is stronger and higher."""
    rng = np.random.default_rng(0)
    audio = 0.002 * rng.standard_normal(round(duration_s * RATE_HZ))
    t = np.arange(2000) / RATE_HZ
    times_s = np.arange(0.3, duration_s - 0.2, 60 / bpm)
    for i, time_s in enumerate(times_s):
        begin = round(time_s * RATE_HZ)
        audio[begin : begin + 2000] += (0.3 if i % 4 else 0.5) * np.sin(2 * np.pi * (1000 if i % 4 else 1500) * t) * np.exp(-t / 0.03)
    return audio.astype(np.float32), times_s


@pytest.mark.parametrize("bpm", [61.3, 84.0, 97.3, 120.0, 141.2])
def test_tempo_and_beats(librosa: ModuleType, bpm: float) -> None:
    audio, times_s = clicks(bpm, 20.0)
    strength, _ = onsets.heard_strength(audio)
    period = onsets.period_of(strength)
    assert onsets.tempo_bpm(period) == pytest.approx(bpm, rel=0.003)
    assert librosa.feature.tempo(onset_envelope=strength, sr=RATE_HZ)[0] == pytest.approx(bpm, rel=0.03)
    beats = onsets.beats(strength, period)
    assert len(times_s) - 2 <= len(beats) <= len(times_s)
    assert np.abs(beats * FRAME_S - times_s[-len(beats) :]).max() < 0.05 or np.abs(beats * FRAME_S - times_s[: len(beats)]).max() < 0.05


def test_beats_are_librosas(librosa: ModuleType) -> None:
    """At a tempo of whole frames, which is what librosa knows; ours may begin anew, so that the first beats can differ."""
    audio = notes(np.sort(np.concatenate([np.arange(0.4, 29, 22 * FRAME_S), np.arange(0.4, 29, 33 * FRAME_S)])), 30.0, hiss=0.002)
    strength, _ = onsets.heard_strength(audio)
    _, theirs = librosa.beat.beat_track(onset_envelope=strength, sr=RATE_HZ, bpm=60 / (22 * FRAME_S))
    ours = onsets.beats(strength, 22.0)
    assert len(theirs) > 45
    assert len(np.intersect1d(ours, theirs)) >= len(theirs) - 3
    assert len(ours) <= len(theirs) + 2


def test_no_tempo() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for audio in (notes(np.sort(rng.uniform(0, 29, 60)), 30.0, seed=seed), 0.1 * rng.standard_normal(30 * RATE_HZ).astype(np.float32)):
            strength, _ = onsets.heard_strength(audio)
            assert onsets.period_of(strength) == 0.0
            assert onsets.beats(strength, 0.0).tolist() == []
    assert onsets.tempo_bpm(0.0) == 0.0
    assert onsets.period_of(np.zeros(1000)) == 0.0


@pytest.mark.parametrize("length", [1, 2, 100, HOP, 5 * HOP + 3, 12 * HOP, 40 * HOP])
def test_sound_of_any_length(length: int) -> None:
    audio = np.random.default_rng(length).uniform(0.1, 1, length).astype(np.float32)
    strength, decibels = onsets.heard_strength(audio)
    assert strength.shape == (1 + length // HOP,)
    assert decibels.shape == (len(strength), onsets.MELS)
    frames = onsets.peaks(strength)
    found = onsets.attacks(audio, frames)
    assert ((found >= 0) & (found <= length / RATE_HZ)).all()
    onsets.beats(strength, onsets.period_of(strength))
