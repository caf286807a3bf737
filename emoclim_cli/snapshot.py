"""A table of the library as plain NumPy files, so that reading the library needs no LanceDB (which takes seconds to import).

A snapshot is derived: it is named by the version of the Lance table it was made from, made again where it is stale or missing, and never
the only copy of anything. Its files are mapped into memory, so that a query reads the pages it needs and no more.
Shape letters: n rows, m ids asked for, e emotion dim.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emoclim_cli.media import MediaItem, MediaKind
from emoclim_cli.sketches import Sketch, products

FORMAT = 2
"""Part of a snapshot's name: raise it when the files below mean something else."""
ID_DTYPE = np.dtype("S16")
"""16 raw bytes. NumPy compares such values as bytes, so they sort and can be searched."""
KIND_DTYPE = np.dtype("S5")
BLOCK_ROWS = 8192
SCORE_DECIMALS = 6
"""Scores are rounded to this: the last bits of a dot product depend on where in a block a row stands, and copies of a photo must tie."""
SKETCHED_ROWS = 50_000
"""From so many rows on a view has a sketch of its emotion vectors. With fewer, either way takes about a millisecond."""
PART_COMPARED = 8
"""A search whose result, or whose eligible rows, are no less than this part of all rows compares them all: bounds would save nothing."""
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

    def starting_with(self, prefix: bytes) -> np.ndarray:
        """(n,) bool."""
        starts = np.concatenate([[0], self.ends[:-1]]) if len(self) else np.zeros(0, np.int64)
        found: np.ndarray = np.asarray(self.ends - starts >= len(prefix))
        if prefix and found.any():
            windows = np.lib.stride_tricks.sliding_window_view(self.blob, len(prefix))
            wanted = np.frombuffer(prefix, np.uint8)
            for block in np.array_split(np.flatnonzero(found), len(self) // BLOCK_ROWS + 1):
                found[block] = (windows[starts[block]] == wanted).all(axis=1)
        return found


@dataclass(frozen=True)
class View:
    """The rows of one table at one moment, sorted by id.

    A table of skipped files has nothing but ids, kinds, sizes, times, paths, and the detail `reason`.
    """

    ids: np.ndarray
    """(n,) ID_DTYPE, sorted."""
    kind: np.ndarray
    """(n,) S5: a MediaKind."""
    size: np.ndarray
    """(n,) int64 bytes."""
    mtime_ns: np.ndarray
    """(n,) int64."""
    gone: np.ndarray
    """(n,) bool: the file was not there at the last index run."""
    content: np.ndarray
    """(n,) ID_DTYPE: the files' content digests."""
    duration_s: np.ndarray
    """(n,) float64, 0 where it is not known."""
    space_index: np.ndarray
    """(n,) int32 into `spaces`; -1 where a row has no emotion vector."""
    spaces: np.ndarray
    emotion: np.ndarray
    """(n, e) float32, unit rows."""
    path_bytes: Texts
    details: Mapping[str, Texts] = field(default_factory=dict)
    """Title, artist and so on, in UTF-8."""
    sketch: Sketch | None = None
    """Of `emotion`, in a view of many rows."""
    space_id: str = ""
    """The library's space: only rows whose emotion vector it made are searched."""

    @classmethod
    def empty(cls) -> View:
        none, ids, no_vectors = np.zeros(0, np.int64), np.zeros(0, ID_DTYPE), np.zeros((0, 0), np.float32)
        return cls(ids, ids, none, none, none.astype(bool), ids, none, none, np.zeros(0, "U1"), no_vectors, Texts.of([]))

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
        return np.isin(self.space_index, named[:1])

    @cached_property
    def searchable(self) -> np.ndarray:
        """(n,) bool: present and current."""
        both: np.ndarray = self.present & self.current
        return both

    @cached_property
    def searchable_count(self) -> int:
        return int(np.count_nonzero(self.searchable))

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

    def below(self, folder: str) -> np.ndarray:
        """(n,) bool: the path is inside of a folder, an absolute path."""
        return self.path_bytes.starting_with(os.fsencode(os.path.join(folder, "")))

    def detail(self, row: int, name: str) -> str:
        """One of `details`, empty where the row has none."""
        return self.details[name][row].decode() if name in self.details else ""

    def item(self, row: int) -> MediaItem:
        """The item in a row of a table of items."""
        details = {name: self.detail(row, name) for name in self.details}
        kind, duration_s = MediaKind(self.kind[row].decode()), float(self.duration_s[row])
        return MediaItem(self.path(row), kind, int(self.size[row]), int(self.mtime_ns[row]), duration_s=duration_s, **details)

    def search(self, vector: np.ndarray, k: int | None = None, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k rows nearest to an emotion vector (e,): rows and their cosines, best first, ties by path.

        Only rows that are present and current, and, where `among` (n,) bool is given, only those.
        """
        eligible = self.searchable if among is None else self.searchable & among
        count = self.searchable_count if among is None else int(np.count_nonzero(eligible))
        if not count or k == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float64)
        norm = float(np.linalg.norm(vector))
        unit = (vector / norm if norm else vector).astype(np.float32)
        few = len(self) // PART_COMPARED
        if self.sketch is not None and k is not None and k < few < count:
            rows = self.sketch.candidates(self.emotion, unit, k, eligible if count < len(self) else None)
        else:
            rows = np.flatnonzero(eligible)
        scores = np.clip(np.round(self._products(rows, unit).astype(np.float64), SCORE_DECIMALS), -1, 1)  # what is shown can be asked for
        if k is not None and k < len(rows):
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            best = scores >= least  # ties for the last place too, so that the path decides
            rows, scores = rows[best], scores[best]
        order = self._by_path(np.argsort(-scores, kind="stable"), rows, scores)[:k]
        return rows[order], scores[order]

    def _products(self, rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """(m,) of the emotion vectors in some rows."""
        if len(rows) * PART_COMPARED < len(self):
            return products(self.emotion[rows], unit)
        of_rows: np.ndarray = products(self.emotion, unit)[rows]
        return of_rows

    def _by_path(self, order: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """An order by score -> the same, ties by path."""
        edges = np.concatenate([[0], np.flatnonzero(np.diff(scores[order])) + 1, [len(order)]])
        for tie in np.flatnonzero(np.diff(edges) > 1).tolist():
            start, end = edges[tie], edges[tie + 1]
            order[start:end] = sorted(order[start:end].tolist(), key=lambda i: self.path_bytes[int(rows[i])])
        return order


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
    while numbers := versions(table):
        for number in sorted(numbers, reverse=True):
            with contextlib.suppress(FileNotFoundError):  # a writer has cleaned up between the listing and this: list again
                manifest = (table / "_versions" / numbers[number]).read_bytes()
                return Version(number, blake2b(manifest, digest_size=6).hexdigest())
    return None


def versions(table: Path) -> dict[int, str]:
    """The names of a table's manifests by number."""
    numbers: dict[int, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(table / "_versions"):
            if (number := version_number(name)) is not None:
                numbers[number] = name
    return numbers


def version_number(manifest: str) -> int | None:
    """From the name of a version's manifest; None where it is another file's."""
    stem, _, suffix = manifest.partition(".")
    if suffix != "manifest" or not stem.isdecimal():
        return None
    return int(stem) if len(stem) < 20 else 2**64 - 1 - int(stem)


_ARRAYS = ("ids", "kind", "size", "mtime_ns", "gone", "content", "duration_s", "space_index", "spaces", "emotion")
_SKETCH = ("axes", "rows")


def load(folder: Path, version: Version) -> View | None:
    """The snapshot of one table at a version, or None where it is missing or damaged."""
    here = folder / version.name
    try:
        arrays = {name: _mapped(here / f"{name}.npy") for name in np.load(here / "names.npy").tolist()}
        ends = {name.removesuffix(".ends"): array for name, array in arrays.items() if name.endswith(".ends")}
        texts = {name: Texts(arrays[name], ends[name]) for name in ends}
        columns: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        sketch = Sketch(*(arrays[f"sketch.{name}"] for name in _SKETCH)) if "sketch.rows" in arrays else None
        view = View(**columns, path_bytes=texts.pop("path_bytes"), details=texts, sketch=sketch)
    except (OSError, ValueError, EOFError, KeyError):
        return None
    whole = [len(value) for name, value in columns.items() if name != "spaces"] + [len(text) for text in (view.path_bytes, *texts.values())]
    return view if {len(view)} == {*whole, len(sketch.rows) if sketch else len(view)} else None


def _mapped(path: Path) -> np.ndarray:
    """Raises OSError, ValueError or EOFError for what is no array."""
    found: np.ndarray = np.load(path, mmap_mode="r").view(np.ndarray)  # slices of a plain array are cheaper
    return found


def save(folder: Path, version: Version, view: View) -> None:
    """Writes a snapshot as a whole or not at all, and removes those of earlier versions. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder))
    try:
        arrays = {name: getattr(view, name) for name in _ARRAYS}
        for name, texts in {"path_bytes": view.path_bytes, **view.details}.items():
            arrays |= {name: texts.blob, f"{name}.ends": texts.ends}
        if view.sketch is not None:
            arrays |= {f"sketch.{name}": getattr(view.sketch, name) for name in _SKETCH}
        for name, array in {**arrays, "names": np.array(list(arrays))}.items():
            with open(unfinished / f"{name}.npy", "wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())  # after a power cut a file may have its length and no bytes
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
            return abs(time.time() - entry.stat().st_mtime) > ABANDONED_S  # a clock may have gone back
        return False
    number = entry.name.split("-")[1:2]
    return not number or not number[0].isdecimal() or int(number[0]) <= version.number
