"""What a file says of itself: title, artist, album and duration of music (mutagen); title and time taken of a photo (EXIF).

Tags are decoration. A file without tags, with broken tags, or that is not there at all has empty ones, and nothing here raises an error:
whether a file can be used is for the decoder to say. Files are opened for reading only.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

MAX_CHARACTERS = 500
"""Longer text is cut: some files carry a whole lyric, or a megabyte of padding, as their title."""


MAX_FRAME_BYTES = 16 << 20
"""Of a compressed ID3 frame: more than any cover."""


@dataclass(frozen=True, slots=True)
class MusicTags:
    title: str = ""
    artist: str = ""
    """Several artists are joined by ", "."""
    album: str = ""
    duration_s: float = 0.0
    """0.0 when unknown."""


@dataclass(frozen=True, slots=True)
class PhotoTags:
    taken: str = ""
    """YYYY-MM-DDTHH:MM:SS on the camera's clock, or empty."""
    title: str = ""


# The names under which tag formats keep the same thing, best first. Lower case: EasyID3, EasyMP4, Vorbis comments and APEv2 (which ignores
# case). Four capitals: plain ID3, which mutagen gives for WAV, AIFF, DSF and DSDIFF. The rest: ASF (WMA).
TITLE_KEYS = ("title", "TIT2", "Title")
ARTIST_KEYS = ("artist", "TPE1", "Author", "albumartist", "album artist", "TPE2", "WM/AlbumArtist")
ALBUM_KEYS = ("album", "TALB", "WM/AlbumTitle")


class _BoundedZlib:
    """What mutagen needs of zlib, for the compressed frames of ID3, in which a megabyte could unpack to a gigabyte."""

    error = zlib.error

    @staticmethod
    def decompress(data: bytes) -> bytes:
        unpack = zlib.decompressobj()
        unpacked = unpack.decompress(data, MAX_FRAME_BYTES)
        if not unpack.eof:
            raise zlib.error("damaged, or too large")
        return unpacked


@cache
def _mutagen() -> ModuleType:
    """mutagen, which offers no bound of its own."""
    from mutagen.id3 import _frames

    _frames.zlib = _BoundedZlib
    return import_module("mutagen")


def read_music_tags(path: str) -> MusicTags:
    """Tags of any format that mutagen knows. Never raises for what is in the file."""
    mutagen = _mutagen()
    from mutagen.apev2 import APEv2
    from mutagen.easyid3 import EasyID3

    file: Any = _attempt(lambda: mutagen.File(path, easy=True))
    # A file whose own format holds no text may still begin with ID3 (ADTS AAC) or end with APEv2 (MP3 of older taggers).
    sources: list[Callable[[], Any]] = [lambda: file.tags, partial(EasyID3, path), partial(APEv2, path)]
    texts = (_attempt(partial(_texts, source)) for source in sources)
    title, artist, album = next(filter(None, texts), ("", "", ""))
    return MusicTags(title, artist, album, _attempt(lambda: _duration_s(file)) or 0.0)


def _texts(source: Callable[[], Any]) -> tuple[str, str, str] | None:
    """Title, artist, album; None when all are empty."""
    tags = source()
    if not tags:
        return None
    texts = (_first(tags, TITLE_KEYS), _first(tags, ARTIST_KEYS), _first(tags, ALBUM_KEYS))
    return texts if any(texts) else None


def _first(tags: Any, keys: Iterable[str]) -> str:
    for key in keys:
        value = tags.get(key)
        value = getattr(value, "text", value)  # an ID3 frame holds its list there
        values = [value] if isinstance(value, str) else list(value or ())
        text = _clean(", ".join(filter(None, (_clean(str(v)) for v in values))))
        if text:
            return text
    return ""


def _duration_s(file: Any) -> float:
    length = float(file.info.length)
    return length if math.isfinite(length) and length > 0 else 0.0


# EXIF tag numbers (CIPA DC-008). The first three are tried in this order.
DATE_TIME_ORIGINAL, DATE_TIME_DIGITIZED, DATE_TIME = 0x9003, 0x9004, 0x0132
IMAGE_DESCRIPTION, XP_TITLE, EXIF_FOLDER = 0x010E, 0x9C9B, 0x8769

EXIF_TIME = re.compile(r"\s*([0-9]{4})[:/.-]([0-9]{1,2})[:/.-]([0-9]{1,2})[ T]+([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")
FIRST_PHOTO_YEAR = 1826
"""Earlier dates (0001-01-01 of a program's empty date) are no dates of photos."""

# What cameras, phones and programs write as the description of every picture.
CAMERA_JUNK = re.compile(
    r"""
    .*\bdigital\ (still\ )?camera        # OLYMPUS, MINOLTA, KODAK ... DIGITAL CAMERA
    | .*\bcamera\ pictures               # SAMSUNG CAMERA PICTURES
    | (sony|minolta|nikon)\ dsc
    | <?(samsung|kenox|digimax)\b.*      # <KENOX S630  / Samsung S630>
    | (my\ beautiful|exif[ _]jpeg|jpeg)[ _]picture
    | lead\ technologies.* | file\ written\ by\ .* | created\ with\ .* | processed\ with\ .*
    | dcim | default | untitled | image | photo | picture | screenshot | binary\ comment
    | (img|imag|image|dsc|dscn|dscf|pict?|photo|p|pxl|sam|gopr|dji)[ _-]?[0-9][0-9_ -]*(\.[a-z]{3,4})?   # a camera's file name
    """,
    re.IGNORECASE | re.VERBOSE,
)


def read_photo_tags(path: str) -> PhotoTags:
    """EXIF of any format that Pillow opens, without decoding a pixel. Never raises for what is in the file."""
    pillow = _pillow()
    _hush_pillow()
    return _attempt(lambda: _photo_tags(pillow, path)) or PhotoTags()


@cache
def _pillow() -> ModuleType:
    from PIL import Image

    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image


_hush_lock = threading.Lock()
PILLOW_MODULES = r"PIL\."


def _hush_pillow() -> None:
    """Pillow warns of damaged EXIF and of large images; neither is news here.

    Not `catch_warnings`: it swaps the filters of the whole process, and this runs on threads. Looked up at each call, because others do
    swap them.
    """
    with _hush_lock:
        first = warnings.filters[0] if warnings.filters else ("", None, Warning, None, 0)
        if (first[0], getattr(first[3], "pattern", "")) != ("ignore", PILLOW_MODULES):
            warnings.filterwarnings("ignore", module=PILLOW_MODULES)


def _photo_tags(pillow: ModuleType, path: str) -> PhotoTags:
    with pillow.open(path) as image:
        # The method of the base class: that of PNG files decodes all pixels to look for EXIF behind them.
        exif = pillow.Image.getexif(image)
        tags: dict[int, Any] = dict(exif)
        # A damaged folder must not cost the tags beside it.
        tags |= _attempt(lambda: dict(exif.get_ifd(EXIF_FOLDER))) or {}
    times = (_time(tags.get(tag)) for tag in (DATE_TIME_ORIGINAL, DATE_TIME_DIGITIZED, DATE_TIME))
    # XPTitle first: where a program writes both, the other is the same text with "?" for what is not ASCII.
    titles = (_title(_utf16(tags.get(XP_TITLE))), _title(_latin1_or_utf8(tags.get(IMAGE_DESCRIPTION))))
    return PhotoTags(next(filter(None, times), ""), next(filter(None, titles), ""))


def _time(value: object) -> str:
    match = EXIF_TIME.match(_latin1_or_utf8(value))
    if match is None:
        return ""
    try:
        taken = datetime(*map(int, match.groups()))  # type: ignore[arg-type]  # six numbers
    except ValueError:
        return ""
    return taken.isoformat() if taken.year >= FIRST_PHOTO_YEAR else ""


def _title(text: str) -> str:
    text = _clean(text)
    return text if any(map(str.isalpha, text)) and not CAMERA_JUNK.fullmatch(text) else ""


def _utf16(value: object) -> str:
    """XP tags are UTF-16 bytes, which Pillow gives as bytes or as a tuple of numbers."""
    if isinstance(value, tuple):
        value = bytes(value)
    return value.decode("utf-16-le", "replace") if isinstance(value, bytes) else ""


def _latin1_or_utf8(value: object) -> str:
    """EXIF text is ASCII by the standard and UTF-8 in practice; Pillow reads it as Latin-1."""
    raw = value.encode("latin-1", "replace") if isinstance(value, str) else value
    if not isinstance(raw, bytes):
        return ""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")


def _clean(text: str) -> str:
    """One line of at most MAX_CHARACTERS."""
    return " ".join(text.translate(CONTROLS).split())[:MAX_CHARACTERS].rstrip()


def _attempt(read: Callable[[], T | None]) -> T | None:
    """What `read` returns, or None when the file defeats it.

    The one place where any exception is taken as "no tags". mutagen and Pillow have error types of their own, but on damaged files their
    parsers also raise struct.error, IndexError, KeyError, TypeError, ZeroDivisionError, SyntaxError, MemoryError and more.
    The price: a bug in a `read` looks like a file without tags. So each is small, and the tests read real tags of every format.
    """
    try:
        return read()
    except Exception:  # noqa: BLE001
        return None
