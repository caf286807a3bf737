"""A table of the library as plain NumPy files, so that reading the library needs no LanceDB (which takes seconds to import).

A snapshot is derived: it is named by the version of the Lance table it was made from, made again where it is stale or missing, and never
the only copy of anything.
Shape letters: n rows, m ids asked for, e emotion dim.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emoclim_cli.media import MediaItem, MediaKind

FORMAT = 1
"""Part of a snapshot's name: raise it when the files below mean something else."""
ID_DTYPE = np.dtype("S16")
"""16 raw bytes. NumPy compares such values as bytes, so they sort and can be searched."""
BLOCK_ROWS = 8192
SCORE_DECIMALS = 6
"""Scores are rounded to this: the last bits of a dot product depend on where in a block a row stands, and copies of a photo must tie."""
ABANDONED_S = 3600.0


def raw_ids(ids: Iterable[str]) -> np.ndarray:
    """Ids as 32 hex digits -> (m,) of ID_DTYPE."""
    return np.frombuffer(bytes.fromhex("".join(ids)), ID_DTYPE)


class Texts:
    """n byte strings end to end, each read only when asked for."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        return cls(np.frombuffer(b"".join(texts), np.uint8), np.cumsum([len(text) for text in texts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])].tobytes()


@dataclass(frozen=True)
class View:
    """The rows of one table at one moment, sorted by id.

    A table of skipped files has nothing but ids, sizes, times, paths, and the details `kind` and `reason`.
    """

    ids: np.ndarray
    """(n,) ID_DTYPE, sorted."""
    size: np.ndarray
    """(n,) int64 bytes."""
    mtime_ns: np.ndarray
    """(n,) int64."""
    gone: np.ndarray
    """(n,) bool: the file was not there at the last index run."""
    content: np.ndarray
    """(n,) ID_DTYPE: the files' content digests."""
    space_index: np.ndarray
    """(n,) int32 into `spaces`; -1 where a row has no emotion vector."""
    spaces: np.ndarray
    emotion: np.ndarray
    """(n, e) float32, unit rows."""
    path_bytes: Texts
    details: Texts
    space_id: str = ""
    """The library's space: only rows whose emotion vector it made are searched."""

    @classmethod
    def empty(cls) -> View:
        none = np.zeros(0, np.int64)
        ids, no_texts = np.zeros(0, ID_DTYPE), Texts.of([])
        return cls(ids, none, none, none.astype(bool), ids, none, np.zeros(0, "U1"), np.zeros((0, 0), np.float32), no_texts, no_texts)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def present(self) -> np.ndarray:
        """(n,) bool."""
        return ~self.gone

    @cached_property
    def current(self) -> np.ndarray:
        """(n,) bool: the emotion vector was made by the library's space."""
        named = np.flatnonzero(self.spaces == self.space_id)
        return np.isin(self.space_index, named)

    def find(self, ids: np.ndarray | Sequence[str]) -> np.ndarray:
        """(m,) row of each id (ID_DTYPE, or 32 hex digits each), -1 where there is none."""
        wanted = ids if isinstance(ids, np.ndarray) else raw_ids(ids)
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        rows = np.minimum(np.searchsorted(self.ids, wanted), len(self) - 1)
        return np.where(self.ids[rows] == wanted, rows, -1)

    def id(self, row: int) -> str:
        return self.ids[row : row + 1].tobytes().hex()

    def path(self, row: int) -> str:
        return os.fsdecode(self.path_bytes[row])

    def paths(self) -> list[str]:
        return [self.path(row) for row in range(len(self))]

    def detail(self, row: int) -> dict[str, Any]:
        detail: dict[str, Any] = json.loads(self.details[row])
        return detail

    def item(self, row: int) -> MediaItem:
        """The item in a row of a table of items."""
        detail = self.detail(row)
        kind = MediaKind(detail.pop("kind"))
        return MediaItem(self.path(row), kind, int(self.size[row]), int(self.mtime_ns[row]), **detail)

    def search(self, vector: np.ndarray, k: int | None = None, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k rows nearest to an emotion vector (e,): rows and their cosines, best first, ties by path.

        Only rows that are present and current, and, where `among` (n,) bool is given, only those.
        """
        eligible = self.present & self.current
        if among is not None:
            eligible = eligible & among
        rows = np.flatnonzero(eligible)
        if not len(rows) or k == 0:
            return rows[:0], np.zeros(0, np.float32)
        norm = float(np.linalg.norm(vector))
        unit = (vector / norm if norm else vector).astype(np.float32)
        scores = np.concatenate([self.emotion[start : start + BLOCK_ROWS] @ unit for start in range(0, len(self), BLOCK_ROWS)])[rows]
        scores = np.clip(np.round(scores.astype(np.float64), SCORE_DECIMALS), -1, 1)  # as decimals, what is shown can be asked for
        if k is not None and k < len(rows):
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            best = scores >= least  # ties for the last place too, so that the path decides
            rows, scores = rows[best], scores[best]
        order = sorted(range(len(rows)), key=lambda i: (-scores[i], self.path_bytes[int(rows[i])]))[:k]
        return rows[order], scores[order]


class Version(NamedTuple):
    """Which state of a Lance table."""

    number: int
    digest: str
    """Of the manifest, which names the table's data files: a number alone comes again when a table is deleted and made anew."""

    @property
    def name(self) -> str:
        return f"{FORMAT}-{self.number}-{self.digest}"


def latest_version(table: Path) -> Version | None:
    """The latest version of a Lance table (its `.lance` folder), without LanceDB; None where there is no such table.

    Lance commits a version by making `_versions/<name>.manifest`. The name is the number, or, in the newer scheme, 20 digits that count
    down from 2**64 - 1, so that the latest is listed first.
    """
    numbers: dict[int, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(table / "_versions"):
            stem, _, suffix = name.partition(".")
            if suffix == "manifest" and stem.isdecimal():
                numbers[int(stem) if len(stem) < 20 else 2**64 - 1 - int(stem)] = name
    for number in sorted(numbers, reverse=True):
        with contextlib.suppress(FileNotFoundError):  # a writer may clean up between the listing and this
            manifest = (table / "_versions" / numbers[number]).read_bytes()
            return Version(number, blake2b(manifest, digest_size=6).hexdigest())
    return None


_ARRAYS = ("ids", "size", "mtime_ns", "gone", "content", "space_index", "spaces", "emotion")
_TEXTS = ("path_bytes", "details")


def load(folder: Path, version: Version) -> View | None:
    """The snapshot of one table at a version, or None where it is missing or damaged."""
    here = folder / version.name
    try:
        arrays: dict[str, Any] = {name: np.load(here / f"{name}.npy", mmap_mode="r" if name == "emotion" else None) for name in _ARRAYS}
        texts: dict[str, Any] = {
            name: Texts(np.load(here / f"{name}.npy", mmap_mode="r"), np.load(here / f"{name}.ends.npy")) for name in _TEXTS
        }
    except (OSError, ValueError, EOFError):
        return None
    counts = {len(value) for name, value in {**arrays, **texts}.items() if name != "spaces"}
    return View(**arrays, **texts) if len(counts) == 1 else None


def save(folder: Path, version: Version, view: View) -> None:
    """Writes a snapshot as a whole or not at all, and removes those of earlier versions. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder))
    try:
        for name in _ARRAYS:
            np.save(unfinished / f"{name}.npy", getattr(view, name))
        for name in _TEXTS:
            np.save(unfinished / f"{name}.npy", getattr(view, name).blob)
            np.save(unfinished / f"{name}.ends.npy", getattr(view, name).ends)
        target = folder / version.name
        if load(folder, version) is None:
            shutil.rmtree(target, ignore_errors=True)
            os.rename(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for entry in folder.iterdir():
        if _outdated(entry, version):
            shutil.rmtree(entry, ignore_errors=True)


def _outdated(entry: Path, version: Version) -> bool:
    if entry.name == version.name:
        return False
    if entry.name.startswith("unfinished-"):  # of a run that died, or of one that is at work now
        with contextlib.suppress(OSError):
            return time.time() - entry.stat().st_mtime > ABANDONED_S
        return False
    number = entry.name.split("-")[1:2]
    return not number or not number[0].isdecimal() or int(number[0]) <= version.number
