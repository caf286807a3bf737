"""The cue sheet: which photo is seen and which part of which track is heard, from when to when. It is kept as JSON, and replays exactly.

Times are seconds from the beginning of the show. `photos` decide what is seen, `tracks` what is heard. In the file a photo's row also has
the track and the place in it that are heard as it appears; these are there to be read, and are not looked at when the sheet is replayed.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from emoclim_cli.errors import CueError
from emoclim_cli.media import printable
from emoclim_cli.outputs import place

FORMAT = 1
DECIMALS = 6
"""Times are kept to a microsecond: a sample at 48 kHz is 21."""
TOLERANCE_S = 0.001
FOREMOST_S = 0.05
"""A track that will have taken over so soon is foremost: one that begins without a fade takes a hundredth of a second."""
MOST_S = 24 * 3600.0
"""The longest show. More in a sheet is a slip, which would fill the disk."""
LARGEST = 1e6
"""Of any number in a sheet."""
M3U_SHOW, M3U_PHOTO, M3U_TRACK = "#EMOCLIM-SHOW:", "#EMOCLIM-PHOTO:", "#EMOCLIM-TRACK:"
"""Beginnings of the lines in which an M3U8 playlist carries a cue sheet: comments to every player."""


@dataclass(frozen=True, slots=True)
class PhotoCue:
    path: str
    start_s: float
    """The middle of the crossfade from the photo before."""
    end_s: float
    """Where the next photo starts."""
    fade_s: float
    """How long the crossfade from the photo before takes: half before `start_s`, half after. 0: a cut."""
    scene: int
    """From 1."""
    emotion: str


@dataclass(frozen=True, slots=True)
class TrackCue:
    """A part of a track. Neighbours overlap where one fades into the other."""

    path: str
    start_s: float
    end_s: float
    """First and last moment that anything of it is heard."""
    offset_s: float
    """Where in the track it is at `start_s`."""
    fade_in_s: float
    """From `start_s` on; equal power."""
    fade_out_s: float
    """Up to `end_s`."""
    gain_db: float
    """Brings the part to the loudness of the show."""
    scene: int
    title: str = ""
    artist: str = ""

    @property
    def full_s(self) -> float:
        """When it has taken over from the part before: half of its power is there."""
        return self.start_s + self.fade_in_s / 2


@dataclass(frozen=True)
class CueSheet:
    photos: tuple[PhotoCue, ...]
    """In order, without gaps."""
    tracks: tuple[TrackCue, ...]
    """In the order in which they begin."""
    space: str = ""
    """The emotion space that chose them."""

    @property
    def duration_s(self) -> float:
        return self.photos[-1].end_s

    def heard(self, at_s: float) -> TrackCue | None:
        """The part that is foremost at a time."""
        begun = bisect_right([track.full_s for track in self.tracks], at_s + FOREMOST_S)
        return self.tracks[max(begun - 1, 0)] if self.tracks else None


Cue = TypeVar("Cue", PhotoCue, TrackCue)


def rounded(sheet: CueSheet) -> CueSheet:
    """The sheet as it will be read back."""
    return replace(sheet, photos=tuple(map(_rounded, sheet.photos)), tracks=tuple(map(_rounded, sheet.tracks)))


def _rounded(cue: Cue) -> Cue:
    times: dict[str, Any] = {key: round(value, DECIMALS) for key, value in asdict(cue).items() if isinstance(value, float)}
    return replace(cue, **times)


def write(sheet: CueSheet, base: str | None, *, photos_stay: bool = False) -> bytes:
    """The cue sheet as JSON; paths are relative to the folder `base`, which it will be in, or absolute where that is None.

    `photos_stay`: those of photos are absolute, for a sheet that will be carried away with its tracks alone.
    """
    photos = [_photo_row(sheet, photo, base, None if photos_stay else base) for photo in sheet.photos]
    rows = {"photos": photos, "tracks": [_row(track, base) for track in sheet.tracks]}
    head = {"format": FORMAT, "duration_s": round(sheet.duration_s, DECIMALS), "space": sheet.space}
    return json.dumps(head | rows, indent=1).encode("ascii") + b"\n"


def m3u_comments(sheet: CueSheet, base: str | None, *, photos_stay: bool = False) -> tuple[list[str], list[list[str]]]:
    """The cue sheet as comments of an M3U8 playlist: lines for its head, and lines for each of the tracks, which stand before its entry.

    The other arguments are those of `write`.
    """
    head = [M3U_SHOW + json.dumps({"format": FORMAT, "space": sheet.space})]
    lines = [
        # VLC plays just that part; other players play the whole track.
        [
            f"#EXTVLCOPT:start-time={t.offset_s:.3f}",
            f"#EXTVLCOPT:stop-time={t.offset_s + t.end_s - t.start_s:.3f}",
            M3U_TRACK + json.dumps(_row(t, base)),
        ]
        for t in sheet.tracks
    ]
    for photo in sheet.photos:
        foremost = sheet.heard(photo.start_s)
        where = head if foremost is None else lines[sheet.tracks.index(foremost)]
        where.append(M3U_PHOTO + json.dumps(_row(photo, None if photos_stay else base)))
    return head, lines


def read(path: str) -> CueSheet:
    """A cue sheet from its JSON, or from a playlist that carries one. Raises CueError, which names the file and the row that is wrong."""
    name = printable(path)
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise CueError(f"cannot read {name}: {error.strerror}", "make one: emoclim soundtrack PHOTOS --cue FILE.json") from error
    base = os.path.dirname(os.path.abspath(path))
    try:
        text = text.removeprefix("\ufeff")
        if not text.startswith("#EXTM3U") and not text.lstrip().startswith("{"):
            raise ValueError("it is neither JSON nor an M3U playlist")
        document = _m3u_document(text) if text.startswith("#EXTM3U") else json.loads(text)
        return _sheet(document, base)
    except RecursionError as error:
        raise CueError(f"{name} is no cue sheet: it is nested too deeply") from error
    except ValueError as error:
        raise CueError(f"{name} is no cue sheet that can be used: {error}", "mend that in the file, or make a new one") from error


def _m3u_document(text: str) -> dict[str, Any]:
    def rows(mark: str) -> list[Any]:
        return [json.loads(line.removeprefix(mark)) for line in text.splitlines() if line.startswith(mark)]

    heads = rows(M3U_SHOW)
    if len(heads) != 1 or not isinstance(heads[0], dict):
        raise ValueError("this playlist carries none")
    return heads[0] | {"photos": rows(M3U_PHOTO), "tracks": rows(M3U_TRACK)}


def _photo_row(sheet: CueSheet, photo: PhotoCue, base: str | None, photo_base: str | None) -> dict[str, Any]:
    foremost = sheet.heard(photo.start_s)
    if foremost is None:
        return _row(photo, photo_base)
    offset_s = max(0.0, foremost.offset_s + photo.start_s - foremost.start_s)
    return _row(photo, photo_base) | {"track": place(foremost.path, base), "offset_s": round(offset_s, DECIMALS)}


def _row(cue: Cue, base: str | None) -> dict[str, Any]:
    return asdict(_rounded(cue)) | {"path": place(cue.path, base)}


def _sheet(document: object, base: str) -> CueSheet:
    """Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    if document.get("format") != FORMAT or document.get("format") is True:
        raise ValueError(f"its format is {document.get('format')!r}, this emoclim reads {FORMAT}")
    photos = _cues(document, "photos", PhotoCue, base)
    tracks = sorted(_cues(document, "tracks", TrackCue, base), key=lambda track: track.start_s)
    if not photos:
        raise ValueError("it has no photos")
    for number, (before, photo) in enumerate(pairwise(photos), 2):
        if photo.start_s < before.end_s - TOLERANCE_S:
            raise ValueError(f"photo {number} starts at {photo.start_s:g} s, and the one before ends at {before.end_s:g} s")
    # Where photos have been taken out of the sheet, those before stay.
    starts = [0.0, *(photo.start_s for photo in photos[1:])]
    photos = [
        replace(photo, start_s=start, end_s=end) for photo, start, end in zip(photos, starts, [*starts[1:], photos[-1].end_s], strict=True)
    ]
    if photos[-1].end_s > MOST_S:
        raise ValueError(f"photo {len(photos)} ends at {photos[-1].end_s:g} s, and a show is no longer than {MOST_S / 3600:.0f} hours")
    return CueSheet(tuple(photos), tuple(track for track in tracks if track.start_s < photos[-1].end_s), str(document.get("space", "")))


def _cues(document: Mapping[str, Any], key: str, make: Callable[..., Cue], base: str) -> list[Cue]:
    rows = document.get(key)
    if not isinstance(rows, list):
        raise ValueError(f"it has no list of {key}")
    cues = []
    for number, row in enumerate(rows, 1):
        try:
            cues.append(_cue(row, make, base))
        except ValueError as error:
            raise ValueError(f"{key.removesuffix('s')} {number}: {error}") from error
    return cues


def _cue(row: object, make: Callable[..., Cue], base: str) -> Cue:
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    known: Sequence[Any] = fields(make)  # type: ignore[arg-type]  # both are dataclasses
    values: dict[str, Any] = {}
    for field in known:
        if field.name in row:
            values[field.name] = _value(field.name, field.type, row[field.name])
        elif field.name not in ("title", "artist"):
            raise ValueError(f"it has no {field.name}")
    values["path"] = _tidy(os.path.join(base, values["path"]))
    cue = make(**values)
    if not cue.end_s > cue.start_s:
        raise ValueError(f"it ends at {cue.end_s:g} s and starts at {cue.start_s:g} s")
    return cue


def _tidy(path: str) -> str:
    """Without `..`, where that is the same place: after a symbolic link it may not be."""
    tidy = os.path.normpath(path)
    return tidy if os.path.realpath(tidy) == os.path.realpath(path) else path


NOT_NEGATIVE = ("start_s", "offset_s", "fade_s", "fade_in_s", "fade_out_s")


def _value(name: str, type_: str, value: object) -> object:
    """Raises ValueError for a value that is not of the field's type."""
    if type_ == "float":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {value!r}, not a number")
        if not abs(value) <= LARGEST:  # nor NaN
            raise ValueError(f"{name} is no number that can be used")
        if name in NOT_NEGATIVE and value < 0:
            raise ValueError(f"{name} is {value:g}, less than 0")
        return float(value)
    if type_ == "int":
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
            raise ValueError(f"{name} is {value!r}, not a whole number")
        return value
    if not isinstance(value, str) or (name == "path" and ("\0" in value or not value)):
        raise ValueError(f"{name} is {value!r}, not {'a path' if name == 'path' else 'text'}")
    return value
