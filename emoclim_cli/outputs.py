"""The one way files are written for the user: whole or not at all, and never in the place of a photo or a track.

Paths are `str` with surrogate escapes, as in `media`.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emoclim_cli.errors import MediaError, UsageError
from emoclim_cli.media import kind_of_file, printable


def refuse_media(path: str) -> None:
    """Raises UsageError when a photo or a track is at `path`: no output may take its place. Raises MediaError when that cannot be told."""
    if not os.path.isfile(path):
        return
    try:
        kind = kind_of_file(path)
    except OSError as error:
        raise MediaError(f"cannot read {printable(path)}: {error.strerror}") from error
    if kind is not None:
        raise UsageError(f"{printable(path)} is one of your media files ({kind}) and will not be overwritten", "choose another output name")


def check(path: str) -> int | None:
    """Raises what writing to `path` would, as far as it can be told before. Gives type and permissions of the file that is there."""
    refuse_media(path)
    with _translated(path):
        return _mode(path)


def write_atomically(path: str, data: bytes) -> None:
    """Writes a file whole or not at all. A terminal, a pipe or a device is written to directly. Raises as `replacing` does."""
    mode = check(path)
    with _translated(path):
        if mode is not None and not stat.S_ISREG(mode):
            with open(path, "wb") as file:
                file.write(data)
            return
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """The name of an empty temporary file beside `path`, which takes its place when the block ends; an old file is intact until then.

    Whatever the block raises, Ctrl-C as well, the temporary file is removed. Follows a symbolic link, keeps the permissions of a file it
    replaces. Raises UsageError when `path` is a photo, a track, a folder, no regular file, write-protected or in a folder that does not
    exist; MediaError for any OSError, of the block as well: the disk refuses.
    """
    mode = check(path)
    with _translated(path):
        target = os.path.realpath(path)
        if mode is not None and not stat.S_ISREG(mode):
            raise UsageError(f"cannot write {printable(path)}: it is no regular file", "give the name of a file")
        temporary = os.path.join(os.path.dirname(target), f".emoclim-{secrets.token_hex(8)}.tmp")
        # Not tempfile: its files are private to the user, and a new playlist has the permissions that the umask gives.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            os.replace(temporary, target)
        except BaseException:  # Ctrl-C as well
            with suppress(OSError):
                os.unlink(temporary)
            raise


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(f"cannot write {printable(path)}: {error.strerror or error}") from error


def _mode(path: str) -> int | None:
    """Type and permissions of the file to replace, None when there is none yet."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            raise UsageError(f"cannot write {printable(path)}: there is no folder {printable(folder)}", "create the folder first") from None
        return None
    if stat.S_ISDIR(mode):
        raise UsageError(f"cannot write {printable(path)}: it is a folder", "give the name of a file")
    if not mode & 0o222:
        raise UsageError(f"cannot write {printable(path)}: it is write-protected", "choose another output name")
    return mode


def place(path: str, base: str | None) -> str:
    """Where a file is, as seen from a file in the folder `base` that names it: relative, with `/`, or absolute.

    Absolute where `base` is None, on another drive, and where a symbolic link would lead `..` astray.
    """
    absolute = str(Path(path).absolute())  # keeps "..", which means another folder after a symbolic link
    where = absolute
    if base is not None:
        with suppress(ValueError):  # another drive
            relative = os.path.relpath(absolute, base)
            if os.path.realpath(os.path.join(base, relative)) == os.path.realpath(absolute):
                where = relative
    return where.replace(os.sep, "/")
