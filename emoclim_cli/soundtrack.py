"""Photos in order -> scenes -> tracks -> a timed cue sheet.

A *slot* is what one track has to fill: a scene, or an equal part of one that is longer than most of the music.
Shape letters: n photos, m slots, t tracks, u pooled tracks, e emotion dim.
"""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from emoclim_cli import assignment, mixing, rhythm, timing
from emoclim_cli.cues import MOST_S, CueSheet, PhotoCue, TrackCue, rounded
from emoclim_cli.errors import LibraryError, NoLibrary, UnreadableMedia, UsageError
from emoclim_cli.library import Library
from emoclim_cli.matching import check_space
from emoclim_cli.media import MediaItem, MediaKind, printable
from emoclim_cli.projections import EmotionSpace, unit
from emoclim_cli.rhythm import Pulse, Rhythm
from emoclim_cli.scenes import LEAST_PHOTOS, cuts
from emoclim_cli.shots import Shots

LEAST_SCENE_S = 15.0
"""Shorter, and the music would change before it has begun."""
LEAST_SLOT_S = 30.0
"""A long scene is not cut into shorter parts than this for want of long tracks: they are played twice then."""
ENOUGH_TRACKS = 12
"""So many tracks must be long enough for a slot, or a third of them all in a small library; else the scene is cut into more slots."""
SHORT_COST = 1.0
"""Of a track that is too short for its slot: times the part of the slot that it leaves. A cosine is worth less."""
TEMPO_COST, ENERGY_COST = 0.1, 0.05
"""Of a change between neighbours: half an octave of tempo; one standard deviation of energy. Matches differ by about as much."""
AT_ONCE_COST = 1.0
"""Of a track that follows itself: where one has to be chosen twice, not in a row."""
PHOTO_FADE_S = 0.8
LEAST_FADE_S = 0.02
"""A cut in the music would click."""
GONE = "it is not there now"
LEFT_OUT_SHOWN = 5
MANY_ENCODED = 20
SOFTEST_LUFS = -56.0
"""A part that is softer is as good as silent: what would be heard of it is noise."""
LEAST_TRACK_S = 10.0
"""Jingles and noises are shorter, and are no music to look at photos by where there is other."""
WEAK = 0.0
"""A cosine below which a track does not feel like its scene at all."""


@dataclass(frozen=True, slots=True)
class Settings:
    photo_s: float = 4.0
    """For how long a photo is seen, on average."""
    crossfade_s: float = 3.0
    """From one track to the next."""
    per_artist: int = 2
    """Slots that go to one artist, if there are others."""

    @property
    def least_photos(self) -> int:
        """Of a scene."""
        return max(LEAST_PHOTOS, math.ceil(LEAST_SCENE_S / self.photo_s))


@dataclass(frozen=True, slots=True)
class Slot:
    scene: int
    """From 1."""
    first: int
    stop: int
    """Photos first to stop - 1."""
    emotion: str
    """The likeliest in its scene, by the mean of the photos' probabilities."""

    def planned_s(self, photo_s: float) -> float:
        return (self.stop - self.first) * photo_s


@dataclass(frozen=True)
class Tracks:
    """The music that can be chosen, each content once."""

    items: tuple[MediaItem, ...]
    vectors: np.ndarray
    """(t, e) unit norm."""

    @property
    def durations_s(self) -> np.ndarray:
        """(t,) what their headers say; infinite where they say nothing."""
        return np.array([item.duration_s or math.inf for item in self.items])

    def without(self, unusable: Container[MediaItem]) -> Tracks:
        """Those that are not `unusable`."""
        kept = [row for row, item in enumerate(self.items) if item not in unusable]
        return Tracks(tuple(self.items[row] for row in kept), self.vectors[kept])


@dataclass(frozen=True)
class Show:
    sheet: CueSheet
    slots: tuple[Slot, ...]
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of photos that are left out."""
    notes: tuple[str, ...]
    """What did not work out as one would wish, for people to read."""


class _Unusable(Exception):
    """Some of the tracks that were to be heard cannot be: which, and why."""

    def __init__(self, reasons: Mapping[MediaItem, str]) -> None:
        super().__init__()
        self.reasons = reasons


def compose(
    library: Library,
    space: EmotionSpace,
    shots: Shots,
    settings: Settings,
    *,
    by_time: bool,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Show:
    """The show of these photos with the library's music, exactly `settings.photo_s` times their number long.

    `by_time`: the photos are in the order of their times, so that gaps in time count. What is heard in tracks is kept in `cache`;
    `progress(done, total)` counts tracks that are listened to, and may begin anew. Raises UsageError for a show that is too long, NoLibrary
    where there is no music, LibraryError where none of it can be played, or the library is of another space.
    """
    if len(shots) * settings.photo_s > MOST_S:
        hint = f"fewer photos, or less than {MOST_S / len(shots):.1f} seconds for each"
        raise UsageError(f"a show of {len(shots)} photos would be longer than {MOST_S / 3600:.0f} hours", hint)
    check_space(library, space)
    tracks = tracks_of(library)
    unusable: dict[MediaItem, str] = {}
    measure = functools.cache(mixing.loudness)
    while True:
        slots = slots_of(space, shots, settings, tracks.durations_s, by_time=by_time)
        hear = _hearing(cache, progress)
        try:
            vectors = slot_vectors(shots, slots)
            rows = choose(vectors, slots, tracks, settings, hear)
            chosen = [tracks.items[row] for row in rows]
            different = list(dict.fromkeys(chosen))
            rhythms = dict(zip(different, hear(different, rhythm.analyse), strict=True))
            sheet = cue_sheet(space, shots, slots, chosen, rhythms, settings, measure)
        except _Unusable as error:
            if not unusable:  # where one is not there, its whole disk may be gone
                unusable |= {item: GONE for item in tracks.items if not os.path.exists(item.path)}
            unusable |= {item: reason for item, reason in error.reasons.items() if item not in unusable}
            tracks = tracks.without(unusable)
            if not tracks.items:
                item, reason = next(iter(unusable.items()))
                raise LibraryError(
                    f"none of {len(unusable)} tracks can be played; {printable(item.path)}: {reason}", "emoclim index"
                ) from error
            continue
        notes = [
            *_left_out(unusable),
            *_remarks_on_photos(shots, slots, settings, by_time=by_time),
            *_remarks_on_tracks(slots, chosen, rhythms, settings, len(tracks.items)),
        ]
        for slot, cosine in zip(slots, (vectors * tracks.vectors[rows]).sum(axis=1), strict=True):
            if cosine < WEAK:
                notes.append(f"no track feels much like the {slot.emotion} photos from number {slot.first + 1} on")
        return Show(sheet, tuple(slots), shots.skipped, tuple(dict.fromkeys(notes)))


def _left_out(unusable: Mapping[MediaItem, str]) -> Iterator[str]:
    for item, reason in list(unusable.items())[:LEFT_OUT_SHOWN]:
        yield f"{printable(item.path)} cannot be played: {reason}; others were chosen"
    if len(unusable) > LEFT_OUT_SHOWN:
        yield f"{len(unusable) - LEFT_OUT_SHOWN:,} more tracks cannot be played"


def tracks_of(library: Library) -> Tracks:
    """Each content once; without what is very short, if there is more. Raises NoLibrary where there is none."""
    view = library.view(MediaKind.MUSIC)
    rows = np.flatnonzero(view.present & view.current)
    if not len(rows):
        raise NoLibrary("no music in the library", "emoclim index ~/Music")
    by_path = sorted(rows.tolist(), key=lambda row: view.path_bytes[row])
    unique = list({view.content[row]: row for row in reversed(by_path)}.values())[::-1]  # of copies the first by path
    tracks = Tracks(tuple(view.item(row) for row in unique), np.asarray(view.emotion[unique]))
    short = {item for item in tracks.items if 0 < item.duration_s < LEAST_TRACK_S}
    return tracks if len(short) == len(tracks.items) else tracks.without(short)


def slots_of(space: EmotionSpace, shots: Shots, settings: Settings, durations_s: np.ndarray, *, by_time: bool) -> list[Slot]:
    """The scenes, those that are too long for most tracks in equal parts. `durations_s` (t,) of the music there is."""
    gaps_s = np.diff(shots.times_s) if by_time else None
    edges = [0, *cuts(shots.vectors, gaps_s, least=settings.least_photos), len(shots)]
    probabilities = space.probabilities(shots.vectors)
    slots = []
    for scene, (first, stop) in enumerate(pairwise(edges), 1):
        emotion = space.emotions[int(probabilities[first:stop].mean(axis=0).argmax())]
        parts = _parts((stop - first) * settings.photo_s, settings.crossfade_s, durations_s, stop - first)
        for low, high in pairwise(np.linspace(first, stop, parts + 1).round().astype(int).tolist()):
            slots.append(Slot(scene, low, high, emotion))
    return slots


def _parts(length_s: float, crossfade_s: float, durations_s: np.ndarray, photos: int) -> int:
    """Into how many slots a scene is cut, so that enough tracks are long enough for each."""
    enough = min(ENOUGH_TRACKS, math.ceil(len(durations_s) / 3))
    parts = 1
    while np.count_nonzero(durations_s >= length_s / parts + crossfade_s) < enough:
        if parts == photos or length_s / (parts + 1) < LEAST_SLOT_S:
            break
        parts += 1
    return parts


def slot_vectors(shots: Shots, slots: Sequence[Slot]) -> np.ndarray:
    """(m, e): the mean direction of each slot's photos."""
    return unit(np.stack([shots.vectors[slot.first : slot.stop].mean(axis=0) for slot in slots]))


Hear = Callable[[Sequence[MediaItem], Callable[..., Any]], list[Any]]


def _hearing(cache: Path | None, progress: Callable[[int, int], None]) -> Hear:
    def hear(items: Sequence[MediaItem], listen: Callable[[str, Path | None], Any]) -> list[Any]:
        """What `listen` finds in each, on threads. Raises _Unusable."""
        heard = []
        unusable: dict[MediaItem, str] = {}
        with ThreadPoolExecutor() as pool:
            futures = [pool.submit(listen, item.path, cache) for item in items]
            try:
                for done, (item, future) in enumerate(zip(items, futures, strict=True)):
                    progress(done, len(items))
                    try:
                        heard.append(future.result())
                    except UnreadableMedia as error:
                        unusable[item] = error.message
            finally:
                pool.shutdown(cancel_futures=True)
        progress(len(items), len(items))
        if unusable:
            raise _Unusable(unusable)
        return heard

    return hear


def choose(vectors: np.ndarray, slots: Sequence[Slot], tracks: Tracks, settings: Settings, hear: Hear) -> list[int]:
    """The track of each slot, as a row of `tracks`. `vectors` (m, e) of the slots."""
    match = match_of(vectors, np.array([slot.planned_s(settings.photo_s) for slot in slots]), tracks)
    pooled = assignment.pools(match)
    rows = np.unique(np.concatenate(pooled))  # (u,)
    pulses: list[Pulse] = hear([tracks.items[row] for row in rows.tolist()], rhythm.pulse) if len(slots) > 1 else []
    change = change_of(pulses) if pulses else np.zeros((len(rows), len(rows)))
    artists = [tracks.items[row].artist for row in rows.tolist()]
    places = [np.searchsorted(rows, pool) for pool in pooled]
    chosen = assignment.assign(match[:, rows], places, change, artists, assignment.Rules(settings.per_artist))
    return [int(rows[row]) for row in chosen]


def match_of(vectors: np.ndarray, lengths_s: np.ndarray, tracks: Tracks) -> np.ndarray:
    """(m, t): the cosine of slot and track, less what of the slot the track would leave."""
    left = np.clip(1 - tracks.durations_s[None, :] / lengths_s[:, None], 0, 1)
    match: np.ndarray = vectors @ tracks.vectors.T - SHORT_COST * left
    return match


def change_of(pulses: Sequence[Pulse]) -> np.ndarray:
    """(u, u): how much a change from one track to another jars."""
    tempo, energy = (np.array([getattr(pulse, name) for pulse in pulses]) for name in ("tempo_bpm", "energy"))
    spread = max(float(energy.std()), 1e-6)
    jump = np.abs(energy[:, None] - energy[None, :]) / spread
    change: np.ndarray = TEMPO_COST * rhythm.tempo_distance(tempo[:, None], tempo[None, :]) / 0.5 + ENERGY_COST * jump
    np.fill_diagonal(change, AT_ONCE_COST)
    return change


Measure = Callable[[str, float, float], float]
"""`mixing.loudness`, or one that remembers."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Of a track, when it is in front."""

    item: MediaItem
    scene: int
    start_s: float
    end_s: float
    offset_s: float


def cue_sheet(
    space: EmotionSpace,
    shots: Shots,
    slots: Sequence[Slot],
    chosen: Sequence[MediaItem],
    rhythms: Mapping[MediaItem, Rhythm],
    settings: Settings,
    measure: Measure,
) -> CueSheet:
    """When each photo is seen and each track heard. Raises _Unusable for a track that is silent, or cannot be played."""
    nearest = space.probabilities(shots.vectors).argmax(axis=1)
    slack_s = timing.slack(settings.photo_s)
    total_s = len(shots) * settings.photo_s
    starts: list[float] = []
    spans: list[_Span] = []
    begin = 0.0
    for slot, item in zip(slots, chosen, strict=True):
        heard = rhythms[item]
        last = slot.stop == len(shots)
        length_s = slot.stop * settings.photo_s - begin
        onsets, strengths, beats = [], [], []
        at = begin
        before = [timing.Piece(span.offset_s, span.end_s - span.start_s) for span in spans if span.item == item]
        for piece in timing.pieces(heard.breaks_s, heard.calm, heard.onsets_s, length_s, 0.0 if last else slack_s, before):
            end = at + piece.length_s
            sounds_s = min(piece.length_s, heard.duration_s - piece.offset_s)
            spans.append(_Span(item, slot.scene, at, at + sounds_s, piece.offset_s))
            within = (heard.onsets_s >= piece.offset_s) & (heard.onsets_s < piece.offset_s + piece.length_s)
            onsets.append(heard.onsets_s[within] - piece.offset_s + at)
            strengths.append(heard.strengths[within])
            beats.append(heard.beats_s - piece.offset_s + at)
            at = end
        end = total_s if last else at
        each_s = (end - begin) / (slot.stop - slot.first)
        planned = [begin + i * each_s for i in range(1, slot.stop - slot.first)]
        music = timing.landed(planned, np.concatenate(onsets), np.concatenate(strengths), np.concatenate(beats), timing.slack(each_s))
        starts += [begin, *music]
        begin = end
    scene_of = np.concatenate([np.full(slot.stop - slot.first, slot.scene) for slot in slots]).tolist()
    lengths = np.diff([*starts, total_s])
    fades = [0.0, *np.minimum(PHOTO_FADE_S, np.minimum(lengths[:-1], lengths[1:])).tolist()]
    names = [space.emotions[i] for i in nearest.tolist()]
    photos = map(PhotoCue, shots.paths, starts, [*starts[1:], total_s], fades, scene_of, names)
    tracks = _track_cues(spans, rhythms, settings.crossfade_s, total_s, measure)
    return rounded(CueSheet(tuple(photos), tuple(tracks), space.name))


def _track_cues(
    spans: Sequence[_Span], rhythms: Mapping[MediaItem, Rhythm], crossfade_s: float, total_s: float, measure: Measure
) -> list[TrackCue]:
    """Spans with fades: each begins half a crossfade before it is in front and ends half a one after it, as far as the track reaches."""
    cues = []
    for i, span in enumerate(spans):
        length_s = span.end_s - span.start_s
        half = min(crossfade_s, length_s) / 2
        before = min(half, span.offset_s, span.start_s)
        after = min(half, max(rhythms[span.item].duration_s - span.offset_s - length_s, 0.0), total_s - span.end_s)
        opening = span.offset_s <= rhythms[span.item].breaks_s[0] + 0.1  # the track's own beginning
        fade_in = max(2 * before, LEAST_FADE_S) if i or opening else max(half, LEAST_FADE_S)
        fade_out = 2 * after if i < len(spans) - 1 else min(2 * half, length_s / 2)
        try:
            level = measure(span.item.path, span.offset_s, length_s)
        except UnreadableMedia as error:
            raise _Unusable({span.item: error.message}) from error
        if level < SOFTEST_LUFS:
            raise _Unusable({span.item: "it is silent, or as good as that"})
        cues.append(
            TrackCue(
                path=span.item.path,
                start_s=span.start_s - before,
                end_s=span.end_s + after,
                offset_s=span.offset_s - before,
                fade_in_s=fade_in,
                fade_out_s=max(fade_out, LEAST_FADE_S),
                gain_db=mixing.TARGET_LUFS - level,
                scene=span.scene,
                title=span.item.title,
                artist=span.item.artist,
            )
        )
    return cues


def _remarks_on_photos(shots: Shots, slots: Sequence[Slot], settings: Settings, *, by_time: bool) -> Iterator[str]:
    n = len(shots)
    by_time = by_time and n > 1
    if by_time and not shots.dated:
        yield "no photo says when it was taken: they are in the order of the files' times; --order name goes by name"
    elif by_time and shots.dated < n:
        yield f"{n - shots.dated:,} of {n:,} photos do not say when they were taken: theirs is the time of the file"
    if slots[-1].scene == 1 and n >= 2 * settings.least_photos:
        yield "the photos feel much alike: they are one scene"
    elif slots[-1].scene == 1 and n >= 2 * LEAST_PHOTOS:
        yield f"the show is too short for several scenes, which take {LEAST_SCENE_S:.0f} s each"
    if shots.encoded >= MANY_ENCODED:
        yield f"{shots.encoded:,} photos are not in the library and were read for this show; emoclim index remembers them"


def _remarks_on_tracks(
    slots: Sequence[Slot], chosen: Sequence[MediaItem], rhythms: Mapping[MediaItem, Rhythm], settings: Settings, there: int
) -> list[str]:
    remarks = []
    for item, count in Counter(chosen).items():
        if count > 1:
            few = "is only 1 track" if there == 1 else f"are only {there} tracks"
            reason = f"there {few} for {len(slots)} parts" if there < len(slots) else "nothing else fits"
            remarks.append(f"{item.display_title} is chosen {count} times: {reason}")
    names = {item.artist.casefold(): item.artist for item in chosen if item.artist}
    for name, count in Counter(item.artist.casefold() for item in chosen if item.artist).items():
        if count > settings.per_artist:
            remarks.append(
                f"{names[name]} is chosen {count} times, more than --per-artist {settings.per_artist}: there is too little of others"
            )
    for slot, item in zip(slots, chosen, strict=True):
        breaks = rhythms[item].breaks_s
        length_s = slot.planned_s(settings.photo_s)
        if breaks[-1] - breaks[0] < length_s - timing.slack(settings.photo_s):
            remarks.append(f"{item.display_title} is shorter than the {length_s:.0f} s it is to fill: it is played over again")
    return remarks
