"""What a library keeps beside its tables: `library.json`, written whole or not at all, and the lock of its one writer."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emoclim_cli.errors import LibraryBusy, LibraryError, NoLibrary

FORMAT = 1


def read_state(folder: Path) -> dict[str, Any]:
    """Raises NoLibrary, and LibraryError for one that is damaged or of a newer emoclim."""
    try:
        data = (folder / "library.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NoLibrary(f"there is no library in {folder}", "emoclim index FOLDER...") from None
    except OSError as error:
        raise unusable(folder, error, "read") from error
    return checked_state(data, folder, folder / "library.json")


def checked_state(data: bytes, place: Path | str, file: Path | str) -> dict[str, Any]:
    """What is in library.json, `file`, of the library in `place`. Raises LibraryError where it is damaged or of a newer emoclim."""
    try:
        state = json.loads(data.decode("utf-8"))
        found = state["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise LibraryError(f"{file} is damaged: {error}", "delete the library folder and index again") from error
    if not isinstance(found, int) or found > FORMAT:
        raise LibraryError(f"the library {place} has format {found}; this emoclim reads up to {FORMAT}", "upgrade emoclim")
    return dict(state)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Whole or not at all. JSON escapes keep path bytes that are not UTF-8. Raises OSError."""
    unfinished = folder / "library.json.unfinished"
    with open(unfinished, "w", encoding="ascii") as file:
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / "library.json")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Raises LibraryBusy where another writer holds it, LibraryError where the folder cannot be written. It ends with its process."""
    from filelock import FileLock, Timeout

    held = FileLock(folder / "lock")
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise LibraryBusy(f"another emoclim is writing to the library {folder}", "try again when it has finished") from error
    except OSError as error:
        raise unusable(folder, error, "written") from error
    try:
        yield
    finally:
        held.release()


_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space on its disk and try again: nothing that was in the library is lost"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "look at the permissions of this folder, or name another with --library"),
}


def unusable(folder: Path, error: Exception, how: str) -> LibraryError:
    """`how`: what the folder cannot be. The system's reason is said alone, also where it is deep in a text of LanceDB's."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno else int(found[1]) if found else 0
    reason = os.strerror(number) if number else str(error)
    return LibraryError(f"the library {folder} cannot be {how}: {reason}", _HINTS.get(number, ""))
