"""What a photo or a track is: kinds, items, the signatures of file formats, and the scan of folders.

Paths are `str` with surrogate escapes (`os.fsdecode`), so that every name the disk can hold survives, valid
UTF-8 or not; `os.fsencode` gives back the bytes. They are never resolved or normalised: what the user named is what is kept.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from emoclim_cli.errors import UnreadableMedia

HEAD_BYTES = 64
"""How much of a file `sniff` looks at."""


class MediaKind(StrEnum):
    PHOTO = "photo"
    MUSIC = "music"

    @property
    def other(self) -> MediaKind:
        return MediaKind.MUSIC if self is MediaKind.PHOTO else MediaKind.PHOTO

    @property
    def plural(self) -> str:
        return "photos" if self is MediaKind.PHOTO else "music"


def item_id(path: str) -> str:
    """32 hex digits that stand for a path wherever a filter or a file name cannot hold one."""
    return blake2b(os.fsencode(path), digest_size=16).hexdigest()


def time_of(status: os.stat_result) -> int:
    """When a file was modified, in ns. A clock that was wrong may have set it behind the year 2262, where 64 bits end."""
    return min(status.st_mtime_ns, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class FileStat:
    """One file as the scan saw it."""

    path: str
    size: int
    mtime_ns: int

    @property
    def id(self) -> str:
        return item_id(self.path)


@dataclass(frozen=True, slots=True)
class MediaItem:
    path: str
    kind: MediaKind
    size: int
    mtime_ns: int
    title: str = ""
    artist: str = ""
    album: str = ""
    duration_s: float = 0.0
    taken: str = ""
    """When a photo was taken, ISO 8601 without zone, or empty."""

    @property
    def id(self) -> str:
        return item_id(self.path)

    @property
    def display_title(self) -> str:
        return self.title or os.path.basename(self.path)


@dataclass(frozen=True, slots=True)
class Match:
    item: MediaItem
    score: float
    """Cosine of the emotion vectors, -1..1."""
    emotions: dict[str, float] = field(default_factory=dict)


# Extension -> kind: which names deserve an error when their bytes turn out to be something else, and what to try when
# the bytes alone do not tell (an MP3 that begins with junk, ISO media whose brand does not say audio).
SUFFIXES: dict[str, MediaKind] = {
    **dict.fromkeys(
        "jpg jpeg jpe jfif png apng webp gif tif tiff bmp dib avif avifs heic heif hif "
        "dng nef nrw cr2 cr3 arw sr2 orf rw2 raf pef srw".split(),
        MediaKind.PHOTO,
    ),
    **dict.fromkeys(
        "mp3 mp2 m4a m4b m4p aac flac ogg oga opus wma wav wave aif aiff aifc ape wv tta dsf dff mka weba ac3 mpc spx caf au".split(),
        MediaKind.MUSIC,
    ),
}
RAW_SUFFIXES = frozenset("dng nef nrw cr2 cr3 arw sr2 orf rw2 raf pef srw".split())

# First bytes -> kind, for the formats whose signature decides alone; with the version or size that follows where the letters alone could
# begin a text. Those that need a second look are in `sniff`.
SIGNATURES: tuple[tuple[bytes, MediaKind], ...] = (
    (b"\xff\xd8\xff", MediaKind.PHOTO),
    (b"\x89PNG\r\n\x1a\n", MediaKind.PHOTO),
    (b"GIF87a", MediaKind.PHOTO),
    (b"GIF89a", MediaKind.PHOTO),
    (b"II*\x00", MediaKind.PHOTO),
    (b"MM\x00*", MediaKind.PHOTO),
    (b"II+\x00", MediaKind.PHOTO),
    (b"MM\x00+", MediaKind.PHOTO),
    (b"IIRO", MediaKind.PHOTO),  # Olympus raw
    (b"IIU\x00", MediaKind.PHOTO),  # Panasonic raw
    (b"FUJIFILMCCD-RAW", MediaKind.PHOTO),
    (b"fLaC", MediaKind.MUSIC),
    (b"ID3\x02", MediaKind.MUSIC),
    (b"ID3\x03", MediaKind.MUSIC),
    (b"ID3\x04", MediaKind.MUSIC),
    (b"wvpk", MediaKind.MUSIC),
    (b"TTA1", MediaKind.MUSIC),
    (b"TTA2", MediaKind.MUSIC),
    (b"DSD \x1c\0\0\0", MediaKind.MUSIC),
    (b"FRM8", MediaKind.MUSIC),
    (b"MPCK", MediaKind.MUSIC),
    (b"MP+\x07", MediaKind.MUSIC),
    (b"MP+\x17", MediaKind.MUSIC),
    (b"caff\0\x01", MediaKind.MUSIC),
    (b".snd", MediaKind.MUSIC),
)
PHOTO_BRANDS = frozenset((b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"crx "))
MUSIC_BRANDS = frozenset((b"M4A ", b"M4B ", b"M4P "))


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()


def sniff(head: bytes, suffix: str) -> MediaKind | None:
    """The kind that a file's first bytes show; its suffix only decides where they leave it open.

    None: neither a photo nor music, and its name does not say that it is either. A text named `.jpg` is a photo here, so that
    the decoder refuses it and the user hears of it.
    """
    for signature, kind in SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" or head[:4] in (b"RF64", b"BW64"):
        return {b"WAVE": MediaKind.MUSIC, b"WEBP": MediaKind.PHOTO}.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return MediaKind.MUSIC
    if head[:4] == b"MAC " and head[5:6] in (b"\x0e", b"\x0f"):  # Monkey's Audio, version 3.58 to 4.09
        return MediaKind.MUSIC
    if head[:4] == b"OggS":
        return None if b"theora" in head else MediaKind.MUSIC
    if head[4:8] == b"ftyp":
        if head[8:12] in PHOTO_BRANDS:
            return MediaKind.PHOTO
        if head[8:12] in MUSIC_BRANDS:
            return MediaKind.MUSIC
    if head[:2] == b"BM" and len(head) >= 26 and head[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0"):
        return MediaKind.PHOTO
    if _is_mpeg_audio_frame(head):
        return MediaKind.MUSIC
    return SUFFIXES.get(suffix)


def _is_mpeg_audio_frame(head: bytes) -> bool:
    """An MP3, MP2 or ADTS AAC frame header. Layer I is refused: its sync word is also the UTF-16 byte order mark."""
    if len(head) < 4 or head[0] != 0xFF:
        return False
    if head[1] & 0xF6 == 0xF0:  # ADTS: layer bits are zero
        return (head[2] >> 2) & 0xF < 13
    return (
        head[1] & 0xE0 == 0xE0
        and (head[1] >> 3) & 3 != 1  # MPEG version
        and (head[1] >> 1) & 3 in (1, 2)  # layer III, II
        and head[2] >> 4 not in (0, 15)  # bit rate
        and (head[2] >> 2) & 3 != 3  # sample rate
    )


def check_file(path: str) -> None:
    """Raises UnreadableMedia unless this is a regular file with something in it: a decoder that opens a named pipe waits for ever."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UnreadableMedia(error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableMedia("is not a regular file")
    if status.st_size == 0:
        raise UnreadableMedia("is empty")


def kind_of_file(path: str) -> MediaKind | None:
    """`sniff` on the file's own bytes. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return sniff(file.read(HEAD_BYTES), suffix_of(path))


@dataclass(slots=True)
class Scan:
    """What a walk over one root found."""

    files: list[FileStat] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(folder or file, reason): nothing below such a path is known to be gone."""


def scan(root: str, exclude: Sequence[str] = (), avoid: Iterable[str] = ()) -> Scan:
    """Every regular file at or below `root`, sorted by path bytes, each folder on disk visited once.

    `exclude` are globs, matched against the name and against the path below the root. Hidden names and the folders in `avoid` (the library
    itself) are left out. Links to folders are followed, but a folder that was seen already is not walked again, so a loop ends;
    a link to a file that is found under its own name as well is not a second file.
    """
    result = Scan()
    try:
        status = os.stat(root)
    except OSError as error:
        result.unreadable.append((root, error.strerror or str(error)))
        return result
    if stat.S_ISREG(status.st_mode):
        result.files.append(FileStat(root, status.st_size, time_of(status)))
        return result
    if not stat.S_ISDIR(status.st_mode):
        result.unreadable.append((root, "is neither a file nor a folder"))
        return result
    shunned = {(s.st_dev, s.st_ino) for s in map(_stat_or_none, avoid) if s}
    seen_folders = {(status.st_dev, status.st_ino)}
    seen_files: set[tuple[int, int]] = set()
    linked: list[tuple[os.stat_result, str]] = []
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                listing = list(entries)
        except OSError as error:
            result.unreadable.append((folder, error.strerror or str(error)))
            continue
        for entry in listing:
            if entry.name.startswith(".") or _excluded(entry, root, exclude):
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if not entry.is_symlink():  # a dangling link is no file of the user's
                    result.unreadable.append((entry.path, error.strerror or str(error)))
                continue
            key = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode):
                if key not in seen_folders and key not in shunned:
                    seen_folders.add(key)
                    pending.append(entry.path)
            elif stat.S_ISREG(status.st_mode):
                if entry.is_symlink():
                    linked.append((status, entry.path))
                else:
                    seen_files.add(key)
                    result.files.append(FileStat(entry.path, status.st_size, time_of(status)))
    for status, path in sorted(linked, key=lambda pair: pair[1]):
        key = (status.st_dev, status.st_ino)
        if key not in seen_files:
            seen_files.add(key)
            result.files.append(FileStat(path, status.st_size, time_of(status)))
    result.files.sort(key=lambda file: os.fsencode(file.path))
    return result


def _stat_or_none(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _excluded(entry: os.DirEntry[str], root: str, exclude: Sequence[str]) -> bool:
    if not exclude:
        return False
    below = os.path.relpath(entry.path, root)
    return any(fnmatch.fnmatch(entry.name, glob) or fnmatch.fnmatch(below, glob) for glob in exclude)


# A file's content digest reads all of a small file and an even sample of a large one: enough to know a moved or copied file again, without
# reading a whole album from a slow disk. Photos and music are nearly always compressed, so that a change anywhere shifts what follows it.
DIGEST_WHOLE_BYTES = 4 << 20
DIGEST_CHUNK_BYTES = 64 << 10
DIGEST_CHUNKS = 16


def content_digest(path: str) -> str:
    """32 hex digits for a file's content and size. Raises OSError.

    Above DIGEST_WHOLE_BYTES it is of a sample: a large file without compression (BMP, TIFF, WAV) can be edited in place and keep it. So
    such a digest is taken to show that a file at another path was moved or copied, but not that the file at one path is what it was.
    """
    digest = blake2b(digest_size=16)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        for offset, length in _digest_parts(size):
            file.seek(offset)
            digest.update(file.read(length))
    return digest.hexdigest()


def _digest_parts(size: int) -> Iterator[tuple[int, int]]:
    if size <= DIGEST_WHOLE_BYTES:
        yield 0, size
        return
    stride = (size - DIGEST_CHUNK_BYTES) // (DIGEST_CHUNKS - 1)
    for chunk in range(DIGEST_CHUNKS):
        yield chunk * stride, DIGEST_CHUNK_BYTES


JOINERS = "\u200c\u200d"
"""They do not print, but hold together emoji families and Persian words."""


def printable(path: str) -> str:
    """A path as text that any terminal and any JSON reader takes: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode("ascii") for c in text)
