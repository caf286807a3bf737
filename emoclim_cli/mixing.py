"""What is heard of a show: parts of tracks, faded into each other, at one loudness.

Everything streams: of a show of any length, at most the parts that sound at the same time are open, and a block of samples of each is kept.
The same tracks give the same samples.

Sound is (2, s) float32: two channels of `s` samples at RATE_HZ, full scale is 1. A track of one channel is in both, of more than two FFmpeg
mixes the others into them. What is no number is silent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import chain, dropwhile
from typing import TYPE_CHECKING

import numpy as np

from emoclim_cli.audio import JITTER_S, MARGIN_S, PIECE, PREROLL_S, Track, open_track
from emoclim_cli.cues import TrackCue
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.media import printable

if TYPE_CHECKING:
    import av

RATE_HZ = 48_000
TARGET_LUFS = -16.0
SILENT_LUFS = -70.0
"""The absolute gate of EBU R128: what is not louder anywhere has no loudness."""

PEAK_DBTP = -1.0
MOST_GAIN_DB = 30.0
"""What is nearly silent was meant to be: by more than this `levelled` makes nothing louder."""

CLOSE_LU = 0.2
"""As near to the target as the ear needs, and nearer than 0.5."""

LIMIT_DB = -2.0
"""Where the limiter begins: between two samples the music may go higher than they do."""

STEP_DB = 0.1
"""The limit goes down by this more than what got past it."""

ROUNDS = 3
"""How often `levelled` corrects gain and limit by what they led to."""

BLOCK = RATE_HZ // 2
"""Samples of the show that are mixed at once."""

LOUDEST = 10.0
"""20 dB over full scale, which no music reaches: what is beyond is damage, and is clipped."""

LOUDEST_DB = 60.0
"""A cue sheet that was edited may ask for any gain; this is the largest."""

LONGEST_S = 1e8
"""It may also name any time; what is beyond three years would overflow FFmpeg's clock."""


def loudness(path: str, offset_s: float, duration_s: float) -> float:
    """Integrated loudness of a part of a track, in LUFS (EBU R128), as far as the track goes.

    SILENT_LUFS where it is silent, or shorter than the 0.4 s that R128 measures at once. Raises UnreadableMedia, without the path.
    """
    with closing(_sound(path, _samples(offset_s), _samples(duration_s))) as sound:
        return _measured(sound)[0]


def mix(tracks: Sequence[TrackCue], duration_s: float) -> Iterator[np.ndarray]:
    """The sound of a show, block by block: round(duration_s * RATE_HZ) samples in all.

    Each part is faded with equal power: where one goes as the next comes, the squares of their gains add up to 1. What a track does not
    have is silent, and what begins after the end of the show is not opened. Nothing is clipped. Raises UnreadableMedia, with the path.
    """
    total = round(duration_s * RATE_HZ)
    waiting = deque(sorted(tracks, key=lambda cue: cue.start_s))
    sounding: list[Generator[tuple[int, np.ndarray]]] = []
    try:
        for begin in range(0, total, BLOCK):
            block = np.zeros((2, min(BLOCK, total - begin)), dtype=np.float32)
            while waiting and _samples(waiting[0].start_s) < begin + block.shape[1]:
                sounding.append(_part(waiting.popleft()))
            for part in tuple(sounding):
                added = next(part, None)
                if added is None:
                    sounding.remove(part)
                else:
                    at, samples = added
                    there = block[:, at - begin : at - begin + samples.shape[1]]
                    there += samples[:, : there.shape[1]]
            yield block
    finally:
        for part in sounding:
            part.close()


def levelled(tracks: Sequence[TrackCue], duration_s: float) -> Iterator[np.ndarray]:
    """`mix` at TARGET_LUFS: one gain for the whole show, and a limiter that holds its true peaks below PEAK_DBTP.

    The show is mixed first to measure it, and up to ROUNDS times more where the limiter has to work: the gain gives back what it takes
    away, and its limit goes down by what gets past it between two samples. A silent show stays silent. Raises UnreadableMedia, with the
    path and before there is any sound.
    """
    lufs, peak_db = _measured(mix(tracks, duration_s))
    gain_db = min(TARGET_LUFS - lufs, MOST_GAIN_DB) if lufs > SILENT_LUFS else 0.0
    if peak_db + gain_db <= PEAK_DBTP:
        yield from _amplified(mix(tracks, duration_s), gain_db)
        return
    limit_db = LIMIT_DB
    for _ in range(ROUNDS):
        lufs, peak_db = _measured(_limited(mix(tracks, duration_s), gain_db, limit_db))
        short = TARGET_LUFS - lufs
        if abs(short) <= CLOSE_LU and peak_db <= PEAK_DBTP:
            break
        gain_db = min(gain_db + short, MOST_GAIN_DB)
        limit_db -= peak_db - PEAK_DBTP + STEP_DB if peak_db > PEAK_DBTP else 0.0
    yield from _limited(mix(tracks, duration_s), gain_db, limit_db)


# -- one part


def _part(cue: TrackCue) -> Generator[tuple[int, np.ndarray]]:
    """(where in the show, what is to be added there), once for each BLOCK of the show from the one it begins in, as far as there is any."""
    begin, end = _samples(cue.start_s), _samples(cue.end_s)
    gain = 10 ** (np.clip(cue.gain_db, -LOUDEST_DB, LOUDEST_DB) / 20)
    at = begin
    try:
        with closing(_sound(cue.path, _samples(cue.offset_s), end - begin)) as sound:
            for samples in _cut(sound, BLOCK - begin % BLOCK):
                middles = np.arange(at, at + samples.shape[1]) + 0.5
                envelope = gain * _fade((middles - begin) / RATE_HZ, cue.fade_in_s) * _fade((end - middles) / RATE_HZ, cue.fade_out_s)
                yield at, samples * envelope.astype(np.float32)
                at += samples.shape[1]
    except UnreadableMedia as error:
        raise UnreadableMedia(f"{printable(cue.path)}: {error.message}", error.hint) from error


def _samples(time_s: float) -> int:
    return round(min(time_s, LONGEST_S) * RATE_HZ)


def _fade(since_s: np.ndarray, fade_s: float) -> np.ndarray:
    """Equal power: the sine of a quarter turn that takes `fade_s`."""
    if since_s.min() >= fade_s:
        return np.ones_like(since_s)
    rising: np.ndarray = np.sin(np.pi / 2 * np.minimum(since_s / fade_s, 1.0))
    return rising


def _cut(sound: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same in pieces: `size` samples, then BLOCK at a time, then the rest."""
    kept: list[np.ndarray] = []
    length = 0
    for samples in sound:
        kept.append(samples)
        length += samples.shape[1]
        while length >= size:
            joined = np.concatenate(kept, axis=1)
            yield joined[:, :size]
            kept, length, size = [joined[:, size:]], length - size, BLOCK
    if length:
        yield np.concatenate(kept, axis=1)


# -- decoding

Placed = tuple[float, "av.AudioFrame"]
"""Where in the track a frame begins, in seconds, and the frame."""


def _sound(path: str, offset: int, length: int) -> Generator[np.ndarray]:
    """`length` samples of a track from sample `offset` on (both at RATE_HZ), or fewer where it ends. Raises UnreadableMedia."""
    for begin in (offset, 0):  # from the beginning where it cannot be sought in
        with open_track(path) as track:
            frames = _frames(track, begin)
            if frames is not None:
                yield from _first(_unbroken(offset, _resampled(frames)), length)
                _check(track)
                return


def _check(track: Track) -> None:
    if isinstance(track.lost, OSError):  # not the end of the file: the disk
        raise track.lost
    track.finite = True  # what is no number is silent here, and nothing to refuse a track for
    track.check()


def _frames(track: Track, offset: int) -> Iterator[Placed] | None:
    """From shortly before `offset` on; None where seeking does not find them. At 0 it always does."""
    import av

    first = next(track.frames(), None)
    if first is None:
        return iter(())
    rate_hz = first.sample_rate
    unit_hz = math.gcd(rate_hz, RATE_HZ)
    # A multiple of what the rates have in common: from there the resampler gives the same samples as from the beginning.
    low = (offset * unit_hz // RATE_HZ - math.ceil(MARGIN_S * unit_hz)) * (rate_hz // unit_hz)
    if low <= PREROLL_S * rate_hz:
        return _placed(track, chain([first], track.frames()), first.pts, 0.0)
    if first.pts is None:
        return None
    try:
        track.seek(low / rate_hz - PREROLL_S)
    except av.error.FFmpegError:
        return None
    stamped = dropwhile(lambda frame: frame.pts is None, track.frames())
    placed = _placed(track, stamped, first.pts, low / rate_hz)
    for number, (begin_s, frame) in enumerate(placed):
        begin = round(begin_s * rate_hz)
        if frame.sample_rate != rate_hz or (number == 0 and begin > low):
            return None
        if begin + frame.samples > low:
            return chain([(max(low, begin) / rate_hz, _without(frame, low - begin))], placed)
    return None


def _without(frame: av.AudioFrame, samples: int) -> av.AudioFrame:
    """A frame but for its first samples."""
    import av

    if samples <= 0:
        return frame
    width = 1 if frame.format.is_planar else frame.layout.nb_channels
    later = np.ascontiguousarray(frame.to_ndarray()[:, samples * width :])
    rest = av.AudioFrame.from_ndarray(later, frame.format.name, frame.layout.name)
    rest.sample_rate = frame.sample_rate
    return rest


def _placed(track: Track, frames: Iterable[av.AudioFrame], origin: int | None, settled_s: float) -> Iterator[Placed]:
    """Frames with their places; `origin` is the timestamp of the beginning.

    Frames follow each other; their timestamps say where the first one is, and where sound is missing. A single timestamp that is off says
    nothing: in Vorbis it is, wherever a short block follows a long one. After `settled_s` none moves the sound back, as it would where one
    file was appended to another, and none counts where the sample rate is another than in the beginning.
    """
    due_s: float | None = None
    rate_hz, late_s = 0, 0.0
    for frame in frames:
        rate_hz = rate_hz or frame.sample_rate
        if frame.sample_rate != rate_hz or frame.pts is None:
            origin = None
        if due_s is None:
            due_s = 0.0 if origin is None else (frame.pts - origin) * track.tick_s
        elif origin is not None:
            before_s, late_s = late_s, (frame.pts - origin) * track.tick_s - due_s
            step_s = min(before_s, late_s, key=abs)
            if step_s > JITTER_S or (step_s < -JITTER_S and due_s < settled_s):
                due_s += step_s
                late_s -= step_s
        yield due_s, frame
        due_s += frame.samples / frame.sample_rate


def _resampled(frames: Iterable[Placed]) -> Iterator[tuple[int, np.ndarray]]:
    """(where in the track at RATE_HZ, samples)."""
    import av

    resampler = av.AudioResampler()
    form: tuple[int, str, str] | None = None
    at, due_s = 0, 0.0
    for begin_s, frame in chain(frames, [(0.0, None)]):
        its_form = None if frame is None else (frame.sample_rate, frame.format.name, frame.layout.name)
        if its_form != form or begin_s > due_s + JITTER_S / 2:
            for whole in resampler.resample(None):
                yield at, whole.to_ndarray()
                at += whole.samples
            resampler, form, at = av.AudioResampler("fltp", "stereo", RATE_HZ, frame_size=PIECE), its_form, round(begin_s * RATE_HZ)
        if frame is not None:
            due_s = begin_s + frame.samples / frame.sample_rate
            frame.pts = None
            for whole in resampler.resample(frame):
                yield at, whole.to_ndarray()
                at += whole.samples


def _unbroken(at: int, sound: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """From sample `at` on, silent where there is none."""
    for begin, samples in sound:
        for gap in range(at, begin, BLOCK):
            yield np.zeros((2, min(BLOCK, begin - gap)), dtype=np.float32)
        at = max(at, begin)
        heard = samples[:, at - begin :]
        if heard.shape[1]:
            at += heard.shape[1]
            yield _numbers(heard)


def _first(sound: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Its first `length` samples."""
    for samples in sound if length > 0 else ():
        yield samples[:, :length]
        length -= samples.shape[1]
        if length <= 0:
            return


def _numbers(samples: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.abs(samples).max() <= LOUDEST:  # not where any is no number
            return samples
    numbers: np.ndarray = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    return numbers.clip(-LOUDEST, LOUDEST)


# -- the whole


def _amplified(sound: Iterable[np.ndarray], gain_db: float) -> Iterator[np.ndarray]:
    gain = np.float32(10 ** (gain_db / 20))
    return (samples * gain for samples in sound)


def _limited(sound: Iterable[np.ndarray], gain_db: float, limit_db: float) -> Iterator[np.ndarray]:
    options = {"limit": str(10 ** (limit_db / 20)), "attack": "5", "release": "100", "level": "0", "latency": "1"}
    return (frame.to_ndarray() for frame in _filtered(_amplified(sound, gain_db), "alimiter", options))


def _measured(sound: Iterable[np.ndarray]) -> tuple[float, float]:
    """(integrated loudness in LUFS, true peak in dBTP): ITU-R BS.1770, as EBU R128 uses it."""
    lufs, peak = SILENT_LUFS, 0.0
    for frame in _filtered(sound, "ebur128", {"metadata": "1", "peak": "true"}):
        found = frame.metadata  # of all so far; what is left in the end of less than 0.1 s has none
        lufs, peak = float(found.get("lavfi.r128.I", lufs)), float(found.get("lavfi.r128.true_peak", peak))
    return lufs, 20 * math.log10(peak) if peak > 0 else -math.inf


def _filtered(sound: Iterable[np.ndarray], name: str, options: dict[str, str]) -> Iterator[av.AudioFrame]:
    """What one of FFmpeg's filters makes of sound."""
    import av

    tick = Fraction(1, RATE_HZ)
    graph = av.filter.Graph()
    graph.link_nodes(
        source := graph.add_abuffer(sample_rate=RATE_HZ, format="fltp", layout="stereo", time_base=tick),
        graph.add(name, **options),
        graph.add("aformat", sample_fmts="fltp"),
        sink := graph.add("abuffersink"),
    ).configure()
    at = 0
    for samples in chain(sound, [None]):
        frame = None
        if samples is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", "stereo")
            frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, tick, at
            at += frame.samples
        source.push(frame)
        while True:
            try:
                yield sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):  # it wants more, or has no more
                break
