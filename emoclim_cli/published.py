"""The paper's two labelled sets as they are published: how to know them, which clip is which, and what of them to leave out."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from emoclim_cli.copies import identical
from emoclim_cli.emotions import EMOTIONS, PARTIAL_WORDS
from emoclim_cli.errors import LabelError
from emoclim_cli.media import SUFFIXES, MediaKind, scan, suffix_of

# --- DeepEmotion -------------------------------------------------------------------------------------------------------------------------

MOST_COPIES = 5
"""A photo that is there more often than this is what the photo site serves for any photo that it no longer has."""


def is_deepemotion(words: Iterable[str]) -> bool:
    """Whether folders of these names, in lower case, are those of You et al. 2016: two of its eight emotions are in no other set."""
    return set(PARTIAL_WORDS) <= set(words)


def placeholders(words: Mapping[str, str]) -> set[str]:
    """Of photo path -> emotion word, the photos that stand for others: the same bytes under several emotions, or many times under one."""
    return {path for same in identical(words) if len({words[path] for path in same}) > 1 or len(same) > MOST_COPIES for path in same}


# --- the mood subset of AudioSet ---------------------------------------------------------------------------------------------------------

ONTOLOGY = "ontology.json"
COLUMNS = "YTID, start_seconds, end_seconds, positive_labels"
NUMBER = re.compile(r"(.+)_(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Clip:
    path: str
    emotion: str
    video: str
    """The YouTube id: clips of one video belong together."""
    where: str
    """File and line of the first segment list that has it."""


@dataclass(slots=True)
class _Segment:
    video: str
    start_s: float
    where: str
    emotions: set[str]


def is_audioset(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, ONTOLOGY))


def audioset_clips(folder: str, note: Callable[[str], None] | None = None) -> list[Clip]:
    """The clips of one of AudioSet's seven mood classes, from `ontology.json`, the segment lists (CSV) beside it and the clips below it.

    Segments of several moods are left out, those without a clip as well: many videos are gone. Both are counted and told to `note`. A clip
    is named by its YouTube id, `Y` before it or not; an underscore and the start, in seconds or milliseconds, may follow, and then one and
    the end. Raises LabelError, with file and line for what is no segment, and where no clip is left.
    """
    tell = note or (lambda _: None)
    moods = _moods(os.path.join(folder, ONTOLOGY))
    listed = _segments(folder, moods)
    segments = [segment for segment in listed if len(segment.emotions) == 1]
    if not segments:
        raise LabelError(f"{folder}: no segment has one of the moods {', '.join(moods.values())}")
    if len(segments) < len(listed):
        tell(f"{folder}: {len(listed) - len(segments):,} of {len(listed):,} segments have several moods and are left out")
    found = _files(folder, {segment.video for segment in segments})
    alone = {video for video, count in Counter(segment.video for segment in listed).items() if count == 1}
    clips = []
    for segment in segments:
        path = next((path for path, start in found[segment.video] if _is_start(start, segment, segment.video in alone)), None)
        if path is not None:
            (emotion,) = segment.emotions
            clips.append(Clip(path, emotion, segment.video, segment.where))
    if not clips:
        hint = f"a clip is named by its YouTube id, such as {segments[0].video}.wav"
        raise LabelError(f"{folder}: none of the clips that it lists ({len(segments):,}) is there", hint)
    if len(clips) < len(segments):
        tell(f"{folder}: {len(segments) - len(clips):,} of {len(segments):,} clips are not there and are skipped")
    return clips


def _moods(path: str) -> dict[str, str]:
    """Class id -> emotion."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = {str(entry["name"]).lower(): str(entry["id"]) for entry in json.load(file)}
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LabelError(f"{path} is not AudioSet's ontology: a list of classes with id and name", f"{error!r}") from error
    missing = [emotion for emotion in EMOTIONS if f"{emotion} music" not in names]
    if missing:
        raise LabelError(f"{path}: there is no class {' and no '.join(f'{emotion} music' for emotion in missing)}")
    return {names[f"{emotion} music"]: emotion for emotion in EMOTIONS}


def _segments(folder: str, moods: Mapping[str, str]) -> list[_Segment]:
    """Those with a mood at least, in the order of their first line; the moods of a segment that is listed several times add up."""
    segments: dict[tuple[str, float], _Segment] = {}
    try:
        csvs = sorted(entry.path for entry in os.scandir(folder) if entry.is_file() and suffix_of(entry.name) == "csv")
        lists = [path for path in csvs if _is_segment_list(path)]
        for path in lists:
            for segment in _mood_rows(path, moods):
                segments.setdefault((segment.video, segment.start_s), segment).emotions.update(segment.emotions)
    except OSError as error:
        raise LabelError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not lists:
        hint = f"such as eval_segments.csv, with the columns {COLUMNS}"
        raise LabelError(f"{folder} has an {ONTOLOGY}, but no CSV of segments beside it", hint)
    return list(segments.values())


def _is_segment_list(path: str) -> bool:
    """The set's other CSV, of class names, is none. The first line tells: a comment, the names of the columns, or a segment."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().strip()
    return first.startswith("#") or first.lower().startswith("ytid") or _segment(first, "", {}) is not None


def _mood_rows(path: str, moods: Mapping[str, str]) -> Iterator[_Segment]:
    """Raises LabelError for a row that names a mood and is no segment."""
    has_mood = re.compile("|".join(map(re.escape, moods)))  # nearly all of AudioSet's 2 million lines have none, and are not parsed
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith("#") or not has_mood.search(line):
                continue
            where = f"{path}, line {number}"
            segment = _segment(line, where, moods)
            if segment is None:
                raise LabelError(f"{where} is no segment", f"its columns are {COLUMNS}")
            if segment.emotions:
                yield segment


def _segment(line: str, where: str, moods: Mapping[str, str]) -> _Segment | None:
    """None where the line is none. Some lists have their labels in quotation marks, as AudioSet's own do, and some do not."""
    try:
        video, start, end, *labels = next(csv.reader([line], skipinitialspace=True))
        start_s, _ = float(start), float(end)
    except (ValueError, csv.Error, StopIteration):
        return None
    found = {moods[label.strip()] for label in ",".join(labels).split(",") if label.strip() in moods}
    return _Segment(video.strip(), start_s, where, found) if video.strip() else None


def _files(folder: str, videos: Collection[str]) -> defaultdict[str, list[tuple[str, float | None]]]:
    """Video -> its files below the folder and the start that each one's name tells, if any; those with a start first."""
    walk = scan(folder)
    if walk.unreadable:
        raise LabelError("{} cannot be read: {}".format(*walk.unreadable[0]))
    found = defaultdict[str, list[tuple[str, float | None]]](list)
    for file in walk.files:
        if SUFFIXES.get(suffix_of(file.path)) is not MediaKind.MUSIC:
            continue
        for name, start in _readings(os.path.splitext(os.path.basename(file.path))[0]):
            video = next((video for video in (name, name.removeprefix("Y")) if video in videos), None)
            if video is not None:
                found[video].append((file.path, start))
                break
    for files in found.values():
        files.sort(key=lambda file: file[1] is None)
    return found


def _readings(stem: str) -> Iterator[tuple[str, float | None]]:
    """What a clip's name may mean: (id, start). Ids have underscores and digits themselves, so the longest that is known counts."""
    yield stem, None
    one = NUMBER.fullmatch(stem)
    if one:
        yield one[1], float(one[2])
        two = NUMBER.fullmatch(one[1])
        if two:
            yield two[1], float(two[2])


def _is_start(start: float | None, segment: _Segment, alone: bool) -> bool:
    """Whether a file whose name tells this start, in seconds or milliseconds, is the segment; one that tells none if that is alone."""
    if start is None:
        return alone
    return abs(start - segment.start_s) < 1 or abs(start - 1000 * segment.start_s) < 1
