"""The attacks of a track's notes and the beats among them: librosa's analysis (onset strength, peak picking, tempo, beats) in NumPy alone.

To import librosa takes two seconds, and half a minute when numba compiles for it; the tests hold this against it.

Shapes: `s` samples, `t` frames of HOP samples, `m` mel bands, `k` onsets, `b` beats.
"""

from __future__ import annotations

import math

import numpy as np

from emoclim_cli.spectrograms import mel_filters, mel_power

RATE_HZ = 22_050
HOP = 512
N_FFT = 2048
MELS = 128
FRAME_S = HOP / RATE_HZ
"""These four are librosa's own: its onsets are what a listener with that tool finds."""

LATE = N_FFT // (2 * HOP)
"""Frames by which a rise in the spectrogram is noted later, since a frame hears as far ahead of its middle."""

BLOCK = 256
"""Frames, or onsets, that are handled at once."""

SOUND_DB = -50.0
"""Below the loudest moment: what is softer is no sound that anyone would wait for."""
RANGE_DB = 80.0
"""Below the loudest moment: bands that are softer count as so soft."""
DELTA = 0.07
"""An onset is stronger by this part of the strongest than what is around it."""
DELTA_DB = 0.2
"""And by this much in any case. Decibels, as a mean over the mel bands."""
AUDIBLE = 0.03
"""A rise in the sum of the bands' amplitudes, relative to that sum, that can be an attack. Decibels alone make much of what a codec adds to
silent bands: a drone in AAC would have hundreds of onsets. It is 0.002 to 0.02 there, and 0.1 for the weakest attacks of music."""
STRONG_DB = 6.0
"""An onset of strength 1: one of the strongest tenth in music with drums."""

CLEAR = 0.13
"""Autocorrelation of the onset strength at the beat, from which on there is a tempo. That of notes at random is up to 0.12."""
SLOWEST_BPM, FASTEST_BPM = 40.0, 240.0
USUAL_BPM = 120.0
TEMPO_FRAMES = 384
"""Nine seconds: of so long parts the autocorrelation is taken."""
TIGHTNESS = 100.0
"""How much even beats are preferred to strong ones."""


def onset_strength(decibels: np.ndarray) -> np.ndarray:
    """(t,) from a mel spectrogram in decibels (t, m): how far bands rise from one frame to the next, mean over all (librosa's default).

    0 where a frame reaches beyond the beginning, which is no attack.
    """
    strength = np.zeros(len(decibels), dtype=np.float32)
    begin = 2 * LATE + 1
    rises = np.diff(decibels[LATE : max(LATE, len(decibels) - LATE)], axis=0)
    strength[begin:] = np.maximum(rises, 0.0).mean(axis=1)
    return strength


def heard_strength(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Onset strength (t,) of sound (s,) that is not all zeros, 0 where no rise can be heard; and its mel spectrogram in decibels (t, m)."""
    power = _mel(audio)
    decibels = _decibels(power)
    amplitude = np.sqrt(power)
    total = amplitude.sum(axis=1)
    rises = np.maximum(np.diff(amplitude, axis=0, prepend=amplitude[:1]), 0.0).sum(axis=1)
    audible = rises > AUDIBLE * np.maximum(total, total.max() * 10 ** (SOUND_DB / 20))
    near = around(np.concatenate([np.zeros(LATE), audible])[: len(audible)], 1, 1, 0.0).any(axis=1)
    return np.where(near, onset_strength(decibels), 0.0), decibels


def loudest(audio: np.ndarray) -> float:
    """The largest absolute value."""
    return float(max(audio.max(), -audio.min()))


def _mel(audio: np.ndarray) -> np.ndarray:
    """(s,) to the power (t, m) it has when its loudest sample is 1.

    Block by block: all frames at once would take many times the memory of the track.
    """
    filters = mel_filters(RATE_HZ, N_FFT, MELS, 0.0, RATE_HZ / 2)
    padded = np.pad(audio, N_FFT // 2)
    power = np.empty((1 + len(audio) // HOP, MELS), dtype=np.float32)
    for begin in range(0, len(power), BLOCK):
        block = padded[None, begin * HOP : (begin + BLOCK - 1) * HOP + N_FFT]
        power[begin : begin + BLOCK] = mel_power(block, filters, n_fft=N_FFT, window=N_FFT, hop=HOP, centred=False)[0]
    power /= loudest(audio) ** 2
    return power


def _decibels(power: np.ndarray) -> np.ndarray:
    decibels = 10.0 * np.log10(np.maximum(power, 1e-10))
    floored: np.ndarray = np.maximum(decibels, decibels.max() - RANGE_DB)
    return floored


def around(values: np.ndarray, before: int, after: int, fill: float) -> np.ndarray:
    """(t, before + 1 + after): each value with its neighbours, `fill` beyond the ends."""
    padded = np.pad(values.astype(np.float64), (before, after), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, before + 1 + after)


def prominence(strength: np.ndarray) -> np.ndarray:
    """(t,) how far each frame stands out from the mean of the tenth of a second on each side."""
    above: np.ndarray = strength - np.nanmean(around(strength, 4, 4, np.nan), axis=1)
    return above


def peaks(strength: np.ndarray) -> np.ndarray:
    """(k,) frames of onsets, as librosa.onset.onset_detect picks them, but the highest where two rise, and with a floor in decibels."""
    delta = max(DELTA * float(strength.max()), DELTA_DB)
    highest = (strength >= around(strength, 1, 1, 0.0).max(axis=1)) & (prominence(strength) >= delta)
    highest[1:] &= ~highest[:-1]  # of two that are equally strong, the first
    return np.flatnonzero(highest)


# An attack is looked for around the frame where it was noted, in frames of 23 ms that are 3 ms apart.
FINE_FFT, FINE_HOP, FINE_MELS, FINE_LAG = 512, 64, 40, 4
REACH_S = 0.08
EARLY_S = 0.004
"""By which the fastest rise comes before the attack, measured on clicks, drums and notes: a frame hears ahead of its middle."""


def attacks(audio: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """(k,) seconds: where around each frame the sound rises fastest. Frames alone tell it to 25 ms, and late."""
    filters = mel_filters(RATE_HZ, FINE_FFT, FINE_MELS, 0.0, RATE_HZ / 2)
    before = round(REACH_S * RATE_HZ) + FINE_FFT // 2
    after = round(REACH_S / 2 * RATE_HZ) + FINE_FFT // 2
    segments = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (before, after)), before + after)
    attacks_s = np.empty(len(frames))
    for begin in range(0, len(frames), BLOCK):
        centres = np.minimum(frames[begin : begin + BLOCK] * HOP, len(audio))
        power = mel_power(segments[centres], filters, n_fft=FINE_FFT, window=FINE_FFT, hop=FINE_HOP, centred=False)
        level = power**0.25  # between loudness, which hears an attack too early, and power, which hears only the loudest band
        rise = np.maximum(level[:, FINE_LAG:] - level[:, :-FINE_LAG], 0.0).sum(axis=2)
        offset = (rise.argmax(axis=1) + FINE_LAG / 2) * FINE_HOP + FINE_FFT / 2 + EARLY_S * RATE_HZ - before
        attacks_s[begin : begin + BLOCK] = np.clip((centres + offset) / RATE_HZ, 0.0, len(audio) / RATE_HZ)
    return attacks_s


def period_of(strength: np.ndarray) -> float:
    """Frames from beat to beat, 0.0 where no tempo is heard.

    The highest peak of the onset strength's autocorrelation, mean over parts of TEMPO_FRAMES, weighed by how usual a tempo is (Ellis, "Beat
    tracking by dynamic programming", J. New Music Research 36, 2007, equation 7; librosa's prior: a standard deviation of an octave).
    """
    size = min(TEMPO_FRAMES, len(strength))
    shortest, longest = math.ceil(60 / (FASTEST_BPM * FRAME_S)), math.floor(60 / (SLOWEST_BPM * FRAME_S))
    lags = np.arange(shortest, min(longest + 1, size // 2))
    if len(lags) == 0:
        return 0.0
    parts = np.lib.stride_tricks.sliding_window_view(strength.astype(np.float64), size)[:: max(1, size // 4)]
    parts = (parts - parts.mean(axis=1, keepdims=True)) * np.hanning(size)
    spectrum = np.fft.rfft(parts, 2 * size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :size]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 2 * size)) ** 2)[:size]
    varied = correlation[:, 0] > window[0] * (DELTA_DB / 2) ** 2
    if not varied.any():
        return 0.0
    clarity = (correlation[varied] / correlation[varied, :1]).mean(axis=0) * window[0] / np.maximum(window, window[0] / 100)
    octaves = np.log2(60 / (lags * FRAME_S) / USUAL_BPM)
    period = float(lags[np.argmax(np.maximum(clarity[lags], 0.0) * np.exp(-0.5 * octaves**2))])
    if clarity[int(period)] < CLEAR:
        return 0.0
    for count in (1, 2, 4):  # a frame is 5 % of a beat, and 1 % of four beats
        middle = round(count * period)
        if middle + 2 >= size // 2:
            break
        near = clarity[middle - 2 : middle + 3]
        top = int(near[1:4].argmax()) + 1
        bend = near[top - 1] - 2 * near[top] + near[top + 1]
        if near[top] < CLEAR or bend >= 0 or near[top] < max(near[top - 1], near[top + 1]):
            break
        period = (middle - 2 + top + 0.5 * (near[top - 1] - near[top + 1]) / bend) / count  # the top of the parabola
    return float(period)


def tempo_bpm(period: float) -> float:
    """0.0 where there is none."""
    return 60.0 / (period * FRAME_S) if period else 0.0


def beats(strength: np.ndarray, period: float) -> np.ndarray:
    """(b,) frames: the beats that are strong and a period apart, more or less (Ellis 2007, equation 5, as librosa does it)."""
    if period == 0.0:
        return np.empty(0, dtype=np.intp)
    reach = round(period)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) * 32.0 / period) ** 2)
    score = np.convolve(strength / strength.std(), bell)[reach : reach + len(strength)]
    nearest, farthest = max(1, round(period / 2)), round(2 * period)
    cost = TIGHTNESS * np.log(np.arange(farthest, nearest - 1, -1) / period) ** 2
    total, link = score.copy(), np.full(len(score), -1)
    for frame in range(nearest, len(score)):
        first = max(0, frame - farthest)
        before = total[first : frame - nearest + 1] - cost[-(frame - nearest + 1 - first) :]
        best = int(before.argmax())
        if before[best] > 0:  # or the beat begins here
            total[frame] += before[best]
            link[frame] = first + best
    link[: int(np.argmax(score >= 0.01 * score.max()))] = -1  # what is silent before the first sound has no beat
    tops = np.flatnonzero(total >= around(total, 1, 1, -np.inf).max(axis=1))
    chain = [int(tops[total[tops] >= np.median(total[tops]) / 2][-1])]
    while link[chain[-1]] >= 0:
        chain.append(int(link[chain[-1]]))
    found = np.array(chain[::-1])
    strong = np.flatnonzero(score[found] > 0.5 * math.sqrt(np.mean(score[found] ** 2)))
    return found[strong[0] : strong[-1] + 1]
