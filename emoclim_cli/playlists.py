"""Playlists as bytes, for every format in FORMATS.

Paths are `str` with surrogate escapes, as in `media`. In a playlist they are relative to the folder of the playlist file (`base`), with `/`
between the parts, so that music and playlist can move together. They are absolute when there is no such folder (`base` is None, standard
output), on another drive, and where a symbolic link would lead `..` astray.

No file is ever left out. M3U and PLS hold one path per line in one encoding, and some names cannot stand there: with a line break or
another control character, a space at the end, a backslash, or bytes outside the encoding. Such a file is written as an absolute
`file://` URI, percent-encoded, which is plain ASCII and which players that read these formats take in place of a path.
"""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from emoclim_cli.cues import CueSheet, m3u_comments
from emoclim_cli.errors import UsageError
from emoclim_cli.media import printable, suffix_of
from emoclim_cli.outputs import place


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    title: str = ""
    artist: str = ""
    duration_s: float = 0.0
    """0.0 when unknown."""
    score: float = 0.0
    """Cosine of the emotion vectors, -1..1. Only JSON has a place for it."""
    comments: tuple[str, ...] = ()
    """Lines that begin with `#`, for M3U alone."""


@dataclass(frozen=True, slots=True)
class Playlist:
    title: str
    entries: list[Entry]
    comments: tuple[str, ...] = ()
    """Lines that begin with `#`, for M3U alone."""


def of_sheet(sheet: CueSheet, title: str, base: str | None, *, photos_stay: bool = False) -> Playlist:
    """The tracks of a show in their order, as long as they are heard; the cue sheet is in the comments (see `cues.m3u_comments`)."""
    head, comments = m3u_comments(sheet, base, photos_stay=photos_stay)
    entries = [
        Entry(track.path, track.title, track.artist, track.end_s - track.start_s, comments=tuple(lines))
        for track, lines in zip(sheet.tracks, comments, strict=True)
    ]
    return Playlist(title, entries, tuple(head))


Format = Callable[[Playlist, str | None], bytes]


def render(playlist: Playlist, format_name: str, base: str | None) -> bytes:
    """The playlist file. `base` is the folder it will be in, None when it has none. Raises UsageError for an unknown format."""
    if format_name not in FORMATS:
        raise UsageError(f"unknown playlist format {format_name!r}", f"valid formats: {', '.join(FORMATS)}")
    return FORMATS[format_name](playlist, base)


def format_of(path: str) -> str:
    """The format that a file's suffix names. Raises UsageError when it names none."""
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        raise UsageError(
            f"{printable(path)}: the suffix does not name a playlist format",
            f"use one of {', '.join('.' + name for name in FORMATS)}",
        )
    return suffix


def _m3u8(playlist: Playlist, base: str | None) -> bytes:
    """UTF-8 without byte order mark."""
    return _m3u(playlist, base, "utf-8")


def _m3u_latin1(playlist: Playlist, base: str | None) -> bytes:
    """Latin-1, as players read this suffix: a path beyond Latin-1 is a URI, a letter beyond it in a title is a "?"."""
    return _m3u(playlist, base, "latin-1")


def _m3u(playlist: Playlist, base: str | None, encoding: str) -> bytes:
    lines = ["#EXTM3U"]
    if _line(playlist.title):
        lines.append(f"#PLAYLIST:{_line(playlist.title)}")
    lines += playlist.comments
    for entry in playlist.entries:
        lines += [f"#EXTINF:{_seconds(entry)},{_label(entry)}", *entry.comments, _line_path(entry.path, base, encoding)]
    return "".join(f"{line}\n" for line in lines).encode(encoding, "replace")


def _pls(playlist: Playlist, base: str | None) -> bytes:
    lines = ["[playlist]"]
    for number, entry in enumerate(playlist.entries, 1):
        lines += [
            f"File{number}={_line_path(entry.path, base, 'utf-8')}",
            f"Title{number}={_label(entry)}",
            f"Length{number}={_seconds(entry)}",
        ]
    lines += [f"NumberOfEntries={len(playlist.entries)}", "Version=2"]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _xspf(playlist: Playlist, base: str | None) -> bytes:
    root = ET.Element("playlist", {"version": "1", "xmlns": "http://xspf.org/ns/0/"})
    _add_text(root, "title", playlist.title)
    tracks = ET.SubElement(root, "trackList")
    for entry in playlist.entries:
        track = ET.SubElement(tracks, "track")
        where = place(entry.path, base)
        location = _uri(entry.path) if os.path.isabs(where) else quote(os.fsencode(where))
        ET.SubElement(track, "location").text = location
        _add_text(track, "title", entry.title)
        _add_text(track, "creator", entry.artist)
        if _has_duration(entry):
            ET.SubElement(track, "duration").text = str(round(entry.duration_s * 1000))
    ET.indent(root)
    document: bytes = ET.tostring(root, "utf-8", xml_declaration=True)
    return document + b"\n"


# Noncharacters and surrogates, which XML 1.0 forbids; the control characters that it forbids as well are gone after `_line`.
NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


def _add_text(parent: ET.Element, name: str, text: str) -> None:
    text = NOT_XML.sub("", _line(text))
    if text:
        ET.SubElement(parent, name).text = text


def _json(playlist: Playlist, base: str | None) -> bytes:
    """Text is kept as it is. Bytes of a path that are not UTF-8 are the escapes \\udc80 to \\udcff, as in Python."""
    tracks = [{key: value for key, value in asdict(entry).items() if key != "comments"} for entry in playlist.entries]
    for track in tracks:
        track["path"] = place(track["path"], base)
    text = json.dumps({"title": playlist.title, "tracks": tracks}, ensure_ascii=False, indent=2)
    return text.encode("utf-8", "backslashreplace") + b"\n"


FORMATS: dict[str, Format] = {"m3u8": _m3u8, "m3u": _m3u_latin1, "xspf": _xspf, "pls": _pls, "json": _json}


def _uri(path: str) -> str:
    return Path(path).absolute().as_uri()


# Some reader takes any of these for the end of a line.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Beginnings of a relative path that mean something else: a comment, an option, a URI, a space that readers strip.
NEEDS_DOT = re.compile(r"[#\s-]|[A-Za-z][A-Za-z0-9+.-]*:")


def _line_path(path: str, base: str | None, encoding: str) -> str:
    """A path that survives on a line of its own, or the file's URI. A backslash is a separator to players that also run on Windows."""
    where = place(path, base)
    if not os.path.isabs(where) and NEEDS_DOT.match(where):
        where = f"./{where}"
    try:
        where.encode(encoding)
    except UnicodeEncodeError:
        return _uri(path)
    return _uri(path) if CONTROLS.search(where) or "\\" in where or where != where.strip() else where


def _line(text: str) -> str:
    """Text folded to one line."""
    return " ".join(CONTROLS.sub(" ", text).split())


def _label(entry: Entry) -> str:
    title = _line(entry.title) or printable(os.path.basename(entry.path))
    return " - ".join(filter(None, (_line(entry.artist), title)))


LONGEST_S = 366 * 24 * 3600
"""A track that claims more than a year has a damaged header: its duration is unknown."""


def _has_duration(entry: Entry) -> bool:
    return 0 < entry.duration_s < LONGEST_S


def _seconds(entry: Entry) -> int:
    """Whole seconds; -1 says "unknown" in M3U and in PLS."""
    return round(entry.duration_s) if _has_duration(entry) else -1
