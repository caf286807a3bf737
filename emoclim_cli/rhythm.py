"""What is heard in a track: its tempo, the attacks of its notes, its beats, and where a part of it may begin or end.

`pulse` and `analyse` may be called from several threads at once. Times are seconds from the first sample that decodes.

Shapes: `s` samples, `t` frames of HOP samples, `m` mel bands, `k` onsets, `b` beats, `p` breaks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emoclim_cli import onsets
from emoclim_cli.audio import read_track, read_windows
from emoclim_cli.errors import MediaError, UsageError
from emoclim_cli.media import check_file, item_id
from emoclim_cli.onsets import FRAME_S, HOP, RANGE_DB, RATE_HZ, SOUND_DB, STRONG_DB, around, loudest
from emoclim_cli.outputs import write_atomically

PULSE_S = 30.0
MAX_TRACK_S = 1800.0
"""What is later in a track is left alone: half an hour has parts enough, and takes 0.6 GB."""

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
    """(k,) 0..1: how far each stands out. On the same scale for every track."""
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
    windows = read_windows(path, sample_rate_hz=RATE_HZ, window_s=PULSE_S, max_windows=1)
    audio = windows.audio[0, : math.ceil(windows.duration_s * RATE_HZ)]  # a shorter track is repeated there
    if loudest(audio) < SILENT:
        return Pulse(0.0, 0.0)
    strength, _ = onsets.heard_strength(audio)
    return Pulse(onsets.tempo_bpm(onsets.period_of(strength)), float(strength.mean()))


def _analyse(path: str) -> Rhythm:
    audio = read_track(path, sample_rate_hz=RATE_HZ, max_s=MAX_TRACK_S)
    duration_s = len(audio) / RATE_HZ
    if loudest(audio) < SILENT:
        nothing = np.empty(0)
        return Rhythm(duration_s, 0.0, nothing, nothing, nothing, np.array([0.0, duration_s]), np.ones(2))
    strength, decibels = onsets.heard_strength(audio)
    frames = onsets.peaks(strength)
    onsets_s = onsets.attacks(audio, frames)
    strengths = np.clip(onsets.prominence(strength)[frames] / STRONG_DB, 0.0, 1.0)
    onsets_s, strengths = _distinct(onsets_s, strengths, TWICE_S)
    period = onsets.period_of(strength)
    beats_s = np.unique(np.clip(_snapped(onsets.beats(strength, period) * FRAME_S, onsets_s, ON_BEAT_S), 0.0, duration_s))
    breaks_s, calm = _breaks(audio, decibels, onsets_s, strengths)
    return Rhythm(duration_s, onsets.tempo_bpm(period), onsets_s, strengths, beats_s, breaks_s, calm)


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


def _blocks(audio: np.ndarray, size: int) -> np.ndarray:
    """(s,) to (blocks, size), silent at the end."""
    return np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)


def _sound(audio: np.ndarray) -> tuple[float, float]:
    """When the first sound begins and the last one ends, in blocks of 6 ms."""
    size = 128
    blocks = _blocks(audio, size)
    peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    heard = np.flatnonzero(peaks >= peaks.max() * 10 ** (SOUND_DB / 20))
    return heard[0] * size / RATE_HZ, min((heard[-1] + 1) * size, len(audio)) / RATE_HZ


def _valleys(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the level is lower than at all times near, where it has come half-way back, and 0..1: how far below the surroundings it is."""
    blocks = _blocks(audio, HOP)
    squares = np.einsum("ij,ij->i", blocks, blocks) / HOP
    size = round(LEVEL_S / FRAME_S) | 1
    power = np.convolve(np.pad(squares, size // 2, mode="edge"), np.full(size, 1.0 / size), mode="valid")
    level = 10.0 * np.log10(np.maximum(power, power.max() * 10 ** (-RANGE_DB / 10)))
    reach = round(VALLEY_S / FRAME_S)
    near = around(level, reach, reach, np.inf)
    lowest = level <= near.min(axis=1)
    lowest[1:] &= ~(lowest[:-1] & (level[1:] == level[:-1]))  # of an even silence, the beginning
    found = np.flatnonzero(lowest)
    wide = around(level, 2 * reach, 2 * reach, np.nan)[found]
    depth = np.nanpercentile(wide, 75, axis=1) - level[found] if len(found) else np.empty(0)
    found, depth = found[depth >= SHALLOW_DB], depth[depth >= SHALLOW_DB]
    half = level[found] + depth / 2
    risen = np.array([begin + np.argmax(np.append(level[begin:], np.inf) > top) for begin, top in zip(found, half, strict=True)])
    return (found + 0.5) * FRAME_S, risen * FRAME_S, np.clip(depth / DEEP_DB, 0.0, 1.0)


def _boundaries(decibels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the mean spectrum of the next SECTION_S differs most from that of the last, and 0..CLEAREST: how much.

    The novelty of Foote ("Automatic audio segmentation using a measure of audio novelty", ICME 2000), whose checkerboard kernel is this
    difference, squared, where similarity is the inner product.
    """
    bands = decibels.reshape(len(decibels), -1, 4).mean(axis=2)  # (t, m / 4)
    sums = np.concatenate([np.zeros((1, bands.shape[1])), np.cumsum(bands, axis=0, dtype=np.float64)])
    size = round(SECTION_S / FRAME_S)
    middles = np.arange(size, len(bands) - size + 1)
    if len(middles) == 0:
        return np.empty(0), np.empty(0)
    difference = (sums[middles + size] - 2 * sums[middles] + sums[middles - size]) / size
    change = np.sqrt(np.square(difference).mean(axis=1))
    highest = change >= around(change, size // 2, size // 2, 0.0).max(axis=1)
    found = np.flatnonzero(highest & (change >= CHANGE_DB[0]))
    return middles[found] * FRAME_S, CLEAREST * np.clip(change[found] / CHANGE_DB[1], 0.0, 1.0)


# --- the cache ---------------------------------------------------------------------------------------------------------------------------

FORMAT = 1
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
