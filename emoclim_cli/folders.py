"""A library in a folder of this machine: what `buckets.Bucket` is for one in object storage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoclim_cli import state
from emoclim_cli.errors import LibraryError
from emoclim_cli.snapshot import Version, latest_version, versions

EDGE_BYTES = 16


@dataclass(frozen=True)
class Folder:
    path: Path

    @property
    def tables(self) -> str:
        return str(self.path / "tables")

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def make(self) -> None:
        """Raises LibraryError for a folder that holds other things, LibraryBusy where another process makes it at this moment."""
        folder = self.path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            strangers = [name for name in os.listdir(folder) if name != "lock" and not name.startswith("library.json")]
            if strangers and not os.path.exists(folder / "library.json"):  # it was made since it was looked for
                raise LibraryError(f"{folder} is not a library and not empty", "name another folder with --library")
            with self.lock():
                if not os.path.exists(folder / "library.json"):  # another emoclim may have made it meanwhile, and filled it
                    state.write_state(folder, {"format": state.FORMAT, "space": None, "roots": []})
        except OSError as error:
            raise LibraryError(f"the library cannot be made in {folder}: {error.strerror}", "name another folder with --library") from error

    def read_state(self) -> dict[str, Any]:
        """Raises NoLibrary, and LibraryError for one that is damaged or of a newer emoclim."""
        return state.read_state(self.path)

    def write_state(self, new: Mapping[str, Any]) -> None:
        """Raises LibraryError."""
        try:
            state.write_state(self.path, new)
        except OSError as error:
            raise self.unusable(error, "written") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Raises LibraryBusy where another writer holds it, LibraryError where the folder cannot be written. It ends with its process."""
        with state.lock(self.path):
            try:
                for name in self.names():
                    _take_back_torn(self.path / "tables" / f"{name}.lance")
            except OSError as error:
                raise self.unusable(error, "written") from error
            yield

    def names(self) -> list[str]:
        """Of the tables."""
        with suppress(FileNotFoundError):
            return [name.removesuffix(".lance") for name in sorted(os.listdir(self.tables)) if name.endswith(".lance")]
        return []

    def version(self, name: str) -> Version | None:
        """The latest version of a table."""
        return latest_version(self.path / "tables" / f"{name}.lance")

    def version_count(self, name: str) -> int:
        return len(os.listdir(self.path / "tables" / f"{name}.lance" / "_versions"))

    def flush(self, name: str) -> None:
        """Waits until all of a table is on the disk, which Lance does not. Raises OSError."""
        for parent, _, files in os.walk(self.path / "tables" / f"{name}.lance"):
            for file in files:
                with open(os.path.join(parent, file), "rb+") as opened:
                    os.fsync(opened.fileno())

    def unusable(self, error: Exception, how: str) -> LibraryError:
        return state.unusable(self.path, error, how)


def _take_back_torn(table: Path) -> None:
    """Deletes the latest versions of a Lance table as long as a power cut has torn them, so that the last whole one counts again.

    A file system may keep a name whose bytes had not reached the disk: such a file is empty or zeros, and Lance does not open the table any
    more. Only for the one who holds the lock. Raises OSError.
    """
    found = versions(table)
    # A deletion file is named FRAGMENT-VERSION-NUMBER, after the version that its commit came behind.
    named = {path: re.match(r"\d+-(\d+)-\d+\.", path.name) for path in (table / "_deletions").glob("*")}
    deletions = {path: int(match[1]) for path, match in named.items() if match and _is_torn(path)}
    while found:
        latest = max(found)
        manifest = table / "_versions" / found[latest]
        listed = manifest.read_bytes()
        data = (path for path in (table / "data").glob("*") if path.name.encode() in listed)
        if all(behind >= latest for behind in deletions.values()) and not any(_is_torn(path) for path in (manifest, *data)):
            break
        manifest.unlink()
        del found[latest]
    for path in deletions:  # no version has them now, but the next one of the same number must not be taken for torn
        path.unlink()


def _is_torn(path: Path) -> bool:
    """Manifests, data and small deletion files end in letters; a bitmap of many deletions begins with a number, and may end in zeros."""
    with open(path, "rb") as file:
        if path.suffix != ".bin":
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - EDGE_BYTES))
        return not any(file.read(EDGE_BYTES))
