"""What is heard in a track: its tempo, the attacks of its notes, its beats, and where a part of it may begin or end.

`pulse` and `analyse` may be called from several threads at once. Times are seconds from the first sample that decodes. What
librosa can hear is left to librosa: onsets are those that a listener with that tool finds.

Shapes: `s` samples, `t` frames of HOP samples, `m` mel bands, `k` onsets, `b` beats, `p` breaks.
"""

from __future__ import annotations

import json
import math
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache as once
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from emoclim_cli.audio import read_track, read_windows
from emoclim_cli.errors import MediaError, UsageError
from emoclim_cli.media import check_file, item_id
from emoclim_cli.outputs import write_atomically

RATE_HZ = 22_050
HOP = 512
N_FFT = 2048
MELS = 128
FRAME_S = HOP / RATE_HZ
"""These are librosa's own."""

PULSE_S = 30.0
MAX_TRACK_S = 1800.0
"""What is later in a track is left alone: half an hour has parts enough, and takes 0.8 GB."""

SOUND_DB = -50.0
"""Below the loudest moment: what is softer is no sound that anyone would wait for."""
RANGE_DB = 80.0
"""Below the loudest moment: what is softer counts as so soft."""
SILENT = 1e-4
"""A track whose loudest sample is softer has no sound (-80 dB of full scale)."""
TWICE_S = 0.02
"""Two attacks that are nearer are one."""
ON_BEAT_S = 0.06
"""A beat is at an attack that is so near."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """Of a track's middle 30 s."""

    tempo_bpm: float
    """0.0 where there is none."""
    energy: float
    """Mean onset strength: by how many dB a mel band rises from frame to frame, on average. Loudness does not count. 0 for silence."""


@dataclass(frozen=True)
class Rhythm:
    """All times are sorted and within 0 and the duration."""

    duration_s: float
    """At most MAX_TRACK_S: what comes later is not heard."""
    tempo_bpm: float
    """0.0 where there is none."""
    onsets_s: np.ndarray
    """(k,) float64: attacks, as an ear hears them."""
    strengths: np.ndarray
    """(k,) 0..1: how far each stands out, relative to what stands out most in the track. So librosa.onset.onset_detect weighs them: what is
    small beside the strongest is no onset there."""
    beats_s: np.ndarray
    """(b,) none where there is no tempo. On an attack where one is near."""
    breaks_s: np.ndarray
    """(p,) where a part may begin or end. First and last: the first and the last sound. Others: just before an attack, if one follows."""
    calm: np.ndarray
    """(p,) 0..1: how good a place each is. 1: silence, the beginning, the end."""


def pulse(path: str, cache: Path | None = None) -> Pulse:
    """Tempo and energy, from the middle of a track: fast enough for hundreds. `cache` is a folder, made when needed.

    Raises UnreadableMedia.
    """
    return _cached(path, cache, Pulse, _pulse)


def analyse(path: str, cache: Path | None = None) -> Rhythm:
    """All of a track. `cache` is a folder, made when needed. Raises UnreadableMedia."""
    return _cached(path, cache, Rhythm, _analyse)


def tempo_distance(a_bpm: np.ndarray | float, b_bpm: np.ndarray | float) -> np.ndarray:
    """0..0.5 octaves: how far apart tempi are when twice as fast is the same; 0 where one is unknown. Broadcasts."""
    a, b = np.broadcast_arrays(np.asarray(a_bpm, dtype=np.float64), np.asarray(b_bpm, dtype=np.float64))
    known = (a > 0) & (b > 0)
    octaves = np.log2(np.where(known, a, 1.0)) - np.log2(np.where(known, b, 1.0))
    distance: np.ndarray = np.abs(octaves - np.round(octaves))
    return distance


# --- the analysis ------------------------------------------------------------------------------------------------------------------------


def _pulse(path: str) -> Pulse:
    windows = read_windows(path, sample_rate_hz=RATE_HZ, window_s=PULSE_S, max_windows=1, may_be_silent=True)
    audio = windows.audio[0, : math.ceil(windows.duration_s * RATE_HZ)]  # a shorter track is repeated there
    if _loudest(audio) < SILENT:
        return Pulse(0.0, 0.0)
    strength, _ = _heard_strength(audio)
    tempo_bpm, _ = _beats(strength)
    return Pulse(tempo_bpm, float(strength.mean()))


def _analyse(path: str) -> Rhythm:
    audio = read_track(path, sample_rate_hz=RATE_HZ, max_s=MAX_TRACK_S)
    duration_s = len(audio) / RATE_HZ
    if _loudest(audio) < SILENT:
        nothing = np.empty(0)
        return Rhythm(duration_s, 0.0, nothing, nothing, nothing, np.array([0.0, duration_s]), np.ones(2))
    strength, decibels = _heard_strength(audio)
    onsets_s, strengths = _onsets(audio, strength)
    tempo_bpm, beats = _beats(strength)
    beats_s = np.unique(np.clip(_snapped(beats * FRAME_S, onsets_s, ON_BEAT_S), 0.0, duration_s))
    breaks_s, calm = _breaks(audio, decibels, onsets_s, strengths)
    return Rhythm(duration_s, tempo_bpm, onsets_s, strengths, beats_s, breaks_s, calm)


_librosa_lock = threading.Lock()
_HUSHED = r"(librosa|numba|audioread|soundfile|lazy_loader|<decorator)"


def _librosa() -> ModuleType:
    """The library. Its first import of all takes half a minute, in which numba compiles, and later ones some seconds.

    Two threads that import it at once could see it half-made. Its warnings are kept from the user by a filter that stays:
    `warnings.catch_warnings` would change the filters of other threads. It is put first again if others came before it.
    """
    with _librosa_lock:
        first = warnings.filters[0] if warnings.filters else None
        if first is None or first[0] != "ignore" or getattr(first[3], "pattern", "") != _HUSHED:
            warnings.filterwarnings("ignore", module=_HUSHED)
        return _imported()


@once
def _imported() -> ModuleType:
    import librosa

    # It imports its parts when they are first named.
    _ = librosa.autocorrelate, librosa.power_to_db, librosa.beat.beat_track, librosa.onset.onset_detect, librosa.util.peak_pick
    _ = librosa.feature.melspectrogram, librosa.feature.rms, librosa.feature.tempo
    return librosa


def _loudest(audio: np.ndarray) -> float:
    """The largest absolute value."""
    return float(max(audio.max(), -audio.min()))


BLOCK = 4096
"""Frames that are handled at once: all at once would take many times the memory of the track."""
LATE = N_FFT // (2 * HOP)
"""Frames by which librosa notes a rise in the spectrogram later, since a frame hears as far ahead of its middle."""
AUDIBLE = 0.03
"""A rise in the sum of the bands' amplitudes, relative to that sum, that can be an attack. Decibels alone make much of what a codec adds to
silent bands: a drone in AAC would have hundreds of onsets. It is 0.002 to 0.02 there, and 0.1 for the weakest attacks of music."""


def _heard_strength(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Onset strength (t,) of sound (s,) that is not all zeros, 0 where no rise can be heard; and its mel spectrogram in decibels (m, t)."""
    librosa = _librosa()
    padded = np.pad(audio, N_FFT // 2)
    power = np.empty((MELS, 1 + len(audio) // HOP), dtype=np.float32)
    for begin in range(0, power.shape[1], BLOCK):
        block = padded[begin * HOP : (begin + BLOCK - 1) * HOP + N_FFT]
        mel = librosa.feature.melspectrogram(y=block, sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP, n_mels=MELS, center=False)
        power[:, begin : begin + BLOCK] = mel
    power /= _loudest(audio) ** 2
    decibels = librosa.power_to_db(power, top_db=RANGE_DB)
    strength = librosa.onset.onset_strength(S=decibels, sr=RATE_HZ, hop_length=HOP)
    strength[: 2 * LATE + 1] = 0.0  # a frame that reaches beyond the beginning is no attack
    amplitude = np.sqrt(power)
    total = amplitude.sum(axis=0)
    rises = np.maximum(np.diff(amplitude, axis=1, prepend=amplitude[:, :1]), 0.0).sum(axis=0)
    audible = rises > AUDIBLE * np.maximum(total, total.max() * 10 ** (SOUND_DB / 20))
    noted = np.pad(audible, (LATE, 0))[: len(strength)]
    near = np.convolve(noted, np.ones(3))[1:-1] > 0
    return np.where(near, strength, 0.0), decibels


DELTA = 0.07
"""An onset stands out by this part of the strongest from what is around it: librosa's default."""
DELTA_DB = 0.2
"""And by this much in any case. Decibels, as a mean over the mel bands."""
NEAR_FRAMES = 4
"""What is around a frame, to each side: librosa's default, too."""


def _onsets(audio: np.ndarray, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) seconds and strengths. As librosa finds them, with a floor in decibels, and of two that rise the higher, not the first."""
    delta = max(DELTA * float(strength.max()), DELTA_DB)
    librosa = _librosa()
    frames = librosa.onset.onset_detect(
        onset_envelope=strength, sr=RATE_HZ, hop_length=HOP, normalize=False, delta=delta, pre_max=1, post_max=2
    )
    if len(frames) == 0:
        return np.empty(0), np.empty(0)
    around = librosa.util.frame(np.pad(strength.astype(np.float64), NEAR_FRAMES), frame_length=2 * NEAR_FRAMES + 1, hop_length=1)
    above = strength[frames] - around[:, frames].mean(axis=0)  # what the peak picking of librosa holds against its delta
    return _distinct(_attacks(audio, frames), above / above.max(), TWICE_S)


# An attack is looked for around the frame where it was noted, in frames of 23 ms that are 3 ms apart.
FINE_FFT, FINE_HOP, FINE_MELS, FINE_LAG = 512, 64, 40, 4
FINE_BLOCK = 256
"""Onsets that are handled at once."""
REACH_S = 0.08
EARLY_S = 0.004
"""By which the fastest rise comes before the attack, measured on clicks, drums and notes: a frame hears ahead of its middle."""


def _attacks(audio: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """(k,) seconds: where around each frame the sound rises fastest. Frames alone tell it to 25 ms, and late."""
    mel = _librosa().feature.melspectrogram
    before = round(REACH_S * RATE_HZ) + FINE_FFT // 2
    after = round(REACH_S / 2 * RATE_HZ) + FINE_FFT // 2
    segments = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (before, after)), before + after)
    attacks_s = np.empty(len(frames))
    for begin in range(0, len(frames), FINE_BLOCK):
        centres = np.minimum(frames[begin : begin + FINE_BLOCK] * HOP, len(audio))
        power = mel(y=segments[centres], sr=RATE_HZ, n_fft=FINE_FFT, hop_length=FINE_HOP, n_mels=FINE_MELS, center=False)
        level = power**0.25  # between loudness, which hears an attack too early, and power, which hears only the loudest band
        rise = np.maximum(level[..., FINE_LAG:] - level[..., :-FINE_LAG], 0.0).sum(axis=1)
        offset = (rise.argmax(axis=1) + FINE_LAG / 2) * FINE_HOP + FINE_FFT / 2 + EARLY_S * RATE_HZ - before
        attacks_s[begin : begin + FINE_BLOCK] = np.clip((centres + offset) / RATE_HZ, 0.0, len(audio) / RATE_HZ)
    return attacks_s


CLEAR = 0.13
"""Autocorrelation of the onset strength at the beat, from which on there is a tempo. That of notes at random is up to 0.12."""
SLOWEST_BPM, FASTEST_BPM = 40.0, 240.0
TEMPO_FRAMES = 384
"""Nine seconds: of so long parts the autocorrelation is taken, as librosa does."""


def _beats(strength: np.ndarray) -> tuple[float, np.ndarray]:
    """Tempo and the frames of the beats (b,), 0.0 and none where no tempo is heard. librosa's own would be heard in noise as well.

    The tempo is that of the beats: one from an autocorrelation is told in whole frames, which are 5 % of a beat.
    """
    librosa = _librosa()
    nothing = 0.0, np.empty(0, dtype=np.intp)
    size = min(TEMPO_FRAMES, len(strength))
    farthest = min(math.floor(60 / (SLOWEST_BPM * FRAME_S)), size // 2 - 1)
    if farthest < 60 / (FASTEST_BPM * FRAME_S):
        return nothing
    parts = librosa.util.frame(strength, frame_length=size, hop_length=max(1, size // 4))
    window = np.hanning(size)
    correlation = librosa.autocorrelate((parts - parts.mean(axis=0)) * window[:, None], axis=0)
    bias = librosa.autocorrelate(window)
    varied = correlation[0] > bias[0] * (DELTA_DB / 2) ** 2
    if not varied.any():
        return nothing
    clarity = np.zeros(size)
    lags = np.arange(farthest + 1)
    clarity[lags] = (correlation[lags][:, varied] / correlation[0, varied]).mean(axis=1) * bias[0] / bias[lags]
    tempogram = np.maximum(clarity, 0.0)[:, None]
    found_bpm = librosa.feature.tempo(tg=tempogram, sr=RATE_HZ, hop_length=HOP, max_tempo=FASTEST_BPM).item()
    if clarity[round(60 / (found_bpm * FRAME_S))] < CLEAR:
        return nothing
    _, beats = librosa.beat.beat_track(onset_envelope=strength, sr=RATE_HZ, hop_length=HOP, bpm=found_bpm)
    if len(beats) < 2:
        return nothing
    return float(60 * (len(beats) - 1) / ((beats[-1] - beats[0]) * FRAME_S)), beats


def _distinct(times_s: np.ndarray, worth: np.ndarray, apart_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Sorted, and of those that are less than `apart_s` apart only the best."""
    kept: list[int] = []
    for i in np.argsort(times_s, kind="stable"):
        if kept and times_s[i] - times_s[kept[-1]] < apart_s:
            if worth[i] > worth[kept[-1]]:
                kept[-1] = i
        else:
            kept.append(i)
    return times_s[kept], worth[kept]


def _snapped(times_s: np.ndarray, to_s: np.ndarray, reach_s: float) -> np.ndarray:
    """Each time at the nearest of `to_s` (sorted), if one is within reach."""
    if len(to_s) == 0:
        return times_s
    after = np.clip(np.searchsorted(to_s, times_s), 1, max(1, len(to_s) - 1))
    left, right = to_s[after - 1], to_s[np.minimum(after, len(to_s) - 1)]
    nearest = np.where(times_s - left <= right - times_s, left, right)
    snapped: np.ndarray = np.where(np.abs(nearest - times_s) <= reach_s, nearest, times_s)
    return snapped


# --- where a part may begin or end -------------------------------------------------------------------------------------------------------

LEVEL_S = 0.25
"""Over so long the level is averaged before its valleys are looked for."""
VALLEY_S = 1.5
"""A valley is the lowest point so far to both sides."""
SHALLOW_DB, DEEP_DB = 1.0, 18.0
"""How far a valley is below what is around it: the least, and what is as good as silence."""
SECTION_S = 8.0
"""What comes before and what comes after a boundary are compared over so long."""
CHANGE_DB = 2.5, 9.0
"""How far the mel bands must differ across a boundary, and from where on it is as clear as can be."""
CLEAREST = 0.7
"""The calm of a boundary that is no quiet point."""
WAIT_S = 2.0
"""After a quiet point, an attack is waited for so long, or until the music is back."""
LEAD_S = 0.01
"""A break is so long before its attack, so that nothing of it is lost."""
APART_S = 1.0
"""Between one break and the next."""


def _breaks(audio: np.ndarray, decibels: np.ndarray, onsets_s: np.ndarray, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p,) seconds, and how calm each is: quiet points, boundaries of sections, and the ends of the sound."""
    first_s, last_s = _sound(audio)
    quiet_s, rise_s, quiet = _valleys(audio)
    change_s, change = _boundaries(decibels)
    entry_s = np.array([_entry(*span_s, onsets_s) for span_s in zip(quiet_s, rise_s, strict=True)])
    change_s = np.array([_strongest(time_s, onsets_s, strengths) for time_s in change_s])
    long = entry_s - quiet_s > WAIT_S  # such a pause is left where it begins, and entered where it ends
    times_s = np.concatenate([entry_s, quiet_s[long], change_s])
    calm = np.concatenate([quiet, quiet[long], change])
    inside = (times_s > first_s + APART_S) & (times_s < last_s - APART_S)
    times_s, calm = _distinct(times_s[inside], calm[inside], APART_S)
    return np.concatenate([[first_s], times_s, [last_s]]), np.concatenate([[1.0], calm, [1.0]])


def _entry(quiet_s: float, rise_s: float, onsets_s: np.ndarray) -> float:
    """Just before the first attack after a quiet point, or the point itself where the music does not come back with one."""
    after = int(np.searchsorted(onsets_s, quiet_s))
    if after < len(onsets_s) and onsets_s[after] <= max(quiet_s + WAIT_S, rise_s + LEVEL_S):
        return float(onsets_s[after]) - LEAD_S
    return quiet_s


def _strongest(time_s: float, onsets_s: np.ndarray, strengths: np.ndarray) -> float:
    """Just before the strongest attack near a boundary, or the boundary itself where there is none."""
    off_s = np.abs(onsets_s - time_s)
    worth = np.where(off_s <= APART_S, strengths - off_s / APART_S / 2, -np.inf)
    return float(onsets_s[worth.argmax()]) - LEAD_S if (off_s <= APART_S).any() else time_s


def _sound(audio: np.ndarray) -> tuple[float, float]:
    """When the first sound begins and the last one ends, in blocks of 6 ms."""
    size = 128
    blocks = np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
    peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    heard = np.flatnonzero(peaks >= peaks.max() * 10 ** (SOUND_DB / 20))
    return heard[0] * size / RATE_HZ, min((heard[-1] + 1) * size, len(audio)) / RATE_HZ


def _valleys(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the level is lower than at all times near, where it has come half-way back, and 0..1: how far below the surroundings it is."""
    librosa = _librosa()
    rms = librosa.feature.rms(y=np.pad(audio, (0, -len(audio) % HOP)), frame_length=HOP, hop_length=HOP, center=False)[0]
    size = round(LEVEL_S / FRAME_S) | 1
    power = np.convolve(np.pad(rms**2, size // 2, mode="edge"), np.full(size, 1.0 / size), mode="valid")
    level = librosa.power_to_db(power, amin=1e-20, top_db=RANGE_DB)
    near, wide = round(VALLEY_S / FRAME_S), 2 * round(VALLEY_S / FRAME_S)
    picked = librosa.util.peak_pick(-level, pre_max=near, post_max=near + 1, pre_avg=wide, post_avg=wide + 1, delta=SHALLOW_DB, wait=0)
    found = picked[(picked == 0) | (level[picked] != level[picked - 1])]  # of an even silence, the beginning
    depth = np.array([np.percentile(level[max(0, i - wide) : i + wide + 1], 75) - level[i] for i in found])
    risen = np.array([i + np.argmax(np.append(level[i:] > level[i] + d / 2, True)) for i, d in zip(found, depth, strict=True)])
    return (found + 0.5) * FRAME_S, risen * FRAME_S, np.clip(depth / DEEP_DB, 0.0, 1.0)


def _boundaries(decibels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the mean spectrum of the next SECTION_S differs most from that of the last, and 0..CLEAREST: how much.

    The novelty of Foote ("Automatic audio segmentation using a measure of audio novelty", ICME 2000), whose checkerboard kernel is this
    difference, squared, where similarity is the inner product. librosa's agglomerative segments have to be so many, and it does not say how
    clear they are.
    """
    bands = decibels.reshape(-1, 4, decibels.shape[1]).mean(axis=1)  # (m / 4, t)
    sums = np.pad(np.cumsum(bands, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    size = round(SECTION_S / FRAME_S)
    middles = np.arange(size, bands.shape[1] - size + 1)
    if len(middles) == 0:
        return np.empty(0), np.empty(0)
    difference = (sums[:, middles + size] - 2 * sums[:, middles] + sums[:, middles - size]) / size
    change = np.sqrt(np.square(difference).mean(axis=0))
    reach = size // 2
    highest = _librosa().util.peak_pick(change, pre_max=reach, post_max=reach + 1, pre_avg=0, post_avg=1, delta=0.0, wait=0)
    found = highest[change[highest] >= CHANGE_DB[0]]
    return middles[found] * FRAME_S, CLEAREST * np.clip(change[found] / CHANGE_DB[1], 0.0, 1.0)


# --- the cache ---------------------------------------------------------------------------------------------------------------------------

FORMAT = 2
"""Of the files in the cache. It changes with the analysis, too: what another version has written is not taken."""

Heard = TypeVar("Heard", Pulse, Rhythm)


def _cached(path: str, cache: Path | None, kind: type[Heard], hear: Callable[[str], Heard]) -> Heard:
    """From the cache, if it is of this very file; or heard anew and kept. A cache that cannot be read or written costs time, no more."""
    check_file(path)
    if cache is None:
        return hear(path)
    absolute = os.path.abspath(path)
    status = os.stat(absolute)
    stamp = {"format": FORMAT, "kind": kind.__name__, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    file = cache / f"{item_id(absolute)}-{kind.__name__.lower()}.json"
    with suppress(OSError, ValueError, TypeError, RecursionError):
        document = json.loads(file.read_bytes())
        if isinstance(document, dict) and document.get("stamp") == stamp:
            return _heard(kind, document)
    heard = hear(path)
    with suppress(OSError, MediaError, UsageError):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(str(file), _document(heard, stamp))
    return heard


def _document(heard: Pulse | Rhythm, stamp: Mapping[str, Any]) -> bytes:
    rows = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(heard).items()}
    return json.dumps({"stamp": stamp, **rows}).encode("ascii")


def _heard(kind: type[Heard], document: Mapping[str, Any]) -> Heard:
    """Raises ValueError for a document that does not hold what it should."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = np.asarray(document.get(field.name), dtype=np.float64)
        if value.ndim != (field.type == "np.ndarray") or not np.isfinite(value).all():
            raise ValueError(f"{field.name} is damaged")
        values[field.name] = value if value.ndim else float(value)
    return kind(**values)
