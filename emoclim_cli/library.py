"""The library: a folder, or a prefix in a bucket, that holds what is known of every indexed photo and track.

    library.json   format, space, roots
    tables/        LanceDB: one table for each (kind, encoder, weights), so that another encoder never costs features; and `skipped`
    snapshots/     derived: each table as NumPy files, for reading without LanceDB (see snapshot.py)
    lock           held by the one writer; readers go on

(In a bucket the lock is a lease, and snapshots are on the machine that reads: see buckets.py.)
Features are kept, emotion vectors are derived from them: each row names the space that made its vector, and one whose space is not the
library's is not searched until it is mapped again. Ids are those of media.py: 32 hex digits.
Shape letters: n rows, d feature dim, e emotion dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from emoclim_cli import snapshot
from emoclim_cli.buckets import Bucket, Lease
from emoclim_cli.errors import LibraryError, NoLibrary
from emoclim_cli.folders import Folder
from emoclim_cli.media import MediaKind
from emoclim_cli.rows import SKIPPED, Row, SkippedFile, item_columns, item_table, rows_of, skipped_table, vector_column, vectors, view_of
from emoclim_cli.snapshot import Version, View

IDS_PER_FILTER = 2000
ROWS_PER_REMAP, REMAP_COMMITS = 16384, 16
"""A batch, and about how many of them a larger table is mapped in: each commit writes the emotion vectors of all rows anew."""
FRAGMENTS_AT_WORK, FRAGMENTS_AT_REST, VERSIONS_AT_REST = 48, 12, 40
"""Each commit adds a version and often a fragment, and each manifest lists all fragments; compaction rewrites them as one. That is done
in the middle of a run for the first of these, at its end for the others."""
ROWS_PER_FRAGMENT = 5000
"""One more fragment and version is allowed for so many rows, since compaction rewrites all of them: while a large table grows, it takes a
few per cent of the time."""
ROWS_INDEXED = 20_000
"""A larger table has an index of its ids: without it each commit reads all of them, and a change of one column rewrites that column."""
READ_ATTEMPTS = 20
KEEP_VERSIONS = timedelta(minutes=10)
"""Longer than any reader needs to copy a table it has opened, and than any system keeps what is written from the disk."""
KEEP_ALL = timedelta(days=10_000)


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or file that the user named, as an absolute path, and the globs that are left out below it."""

    path: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """What made the features of one kind: features of different sources are never in one table."""

    encoder: str
    digest: str
    """Of the encoder's weights."""
    dim: int


@dataclass(frozen=True, slots=True)
class SpaceRef:
    """What the library remembers of its emotion space."""

    id: str
    name: str
    dim: int
    sources: Mapping[MediaKind, FeatureSource]


class Library:
    """Made by `open` or `create`. Everything that writes must be inside `with library.writing():`."""

    def __init__(self, folder: Path | Bucket) -> None:
        """Raises what `open` does."""
        self.folder = folder
        self._store = folder if isinstance(folder, Bucket) else Folder(folder)
        self._state = self._store.read_state()
        self._lease: Lease | None = None
        self._views: dict[str, tuple[Version, View]] = {}
        self._tables: dict[str, Any] = {}  # LanceDB tables that this writer has open
        self._connection: Any = None
        self._writers = 0

    @classmethod
    def open(cls, folder: str | Path | Bucket) -> Library:
        """Raises NoLibrary where there is none, LibraryError where it cannot be read or a newer emoclim wrote it."""
        return cls(folder if isinstance(folder, Bucket) else Path(os.path.abspath(folder)))

    @classmethod
    def create(cls, folder: str | Path | Bucket) -> Library:
        """Opens the library in `folder`, which is made where it is absent.

        Raises LibraryError for a folder that holds other things, LibraryBusy where another process makes it at this moment.
        """
        with suppress(NoLibrary):
            return cls.open(folder)
        store = folder if isinstance(folder, Bucket) else Folder(Path(os.path.abspath(folder)))
        store.make()
        return cls.open(folder)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the library's lock; may be nested. Raises LibraryBusy where another writer holds it."""
        if self._writers:
            self._writers += 1
            try:
                yield
            finally:
                self._writers -= 1
            return
        with self._store.lock() as self._lease:
            try:
                self._writers = 1
                self._state = self._store.read_state()
                yield
            finally:
                self._writers = 0
                self._tables.clear()

    # What the library remembers

    @property
    def roots(self) -> tuple[Root, ...]:
        return tuple(Root(root["path"], tuple(root["exclude"])) for root in self._state["roots"])

    def set_roots(self, roots: Iterable[Root]) -> None:
        self._remember(roots=[{"path": root.path, "exclude": list(root.exclude)} for root in roots])

    @property
    def space(self) -> SpaceRef | None:
        space = self._state["space"]
        if space is None:
            return None
        sources = {MediaKind(kind): FeatureSource(**source) for kind, source in space["sources"].items()}
        return SpaceRef(space["id"], space["name"], space["dim"], sources)

    def set_space(self, space: SpaceRef) -> None:
        """From here on only emotion vectors of this space are searched: `remap` makes them from the features of its encoders."""
        self._remember(space=asdict(space))

    def _remember(self, **changes: Any) -> None:
        self._check_writing()
        state = {**self._state, **changes}
        if state != self._state:
            self._store.write_state(state)
            self._state = state

    # Reading: without LanceDB where a snapshot is fresh

    def view(self, kind: MediaKind, source: FeatureSource | None = None) -> View:
        """The items of one kind that were encoded by `source`, or else by the encoder of the library's space."""
        source = source or (self.space.sources.get(kind) if self.space else None)
        return self._view(_table_name(kind, source)) if source else View.empty()

    def skipped(self) -> View:
        """The files that could not be used: only `ids`, `kind`, `size`, `mtime_ns`, paths, and the detail `reason`."""
        return self._view(SKIPPED)

    def skipped_files(self) -> list[SkippedFile]:
        """Sorted by path."""
        view = self.skipped()
        files = []
        for row in range(len(view)):
            kind = MediaKind(view.kind[row].decode())
            files.append(SkippedFile(view.path(row), kind, int(view.size[row]), int(view.mtime_ns[row]), view.detail(row, "reason")))
        return sorted(files, key=lambda file: os.fsencode(file.path))

    def views(self) -> dict[str, View]:
        """Every table by name, those of other encoders and `skipped` as well."""
        return {name: self._view(name) for name in self._store.names()}

    def snapshot(self) -> None:
        """Makes every snapshot fresh."""
        self.views()

    def features(self, kind: MediaKind, ids: Sequence[str]) -> np.ndarray:
        """(n, d) float32 in the order of `ids`. Raises LibraryError where one has no row."""
        rows = self.rows(kind, ids)
        if missing := set(ids) - set(rows):
            raise LibraryError(f"{len(missing)} of {len(ids)} {kind} items are not in the library", "emoclim index")
        return np.stack([rows[one].features for one in ids]) if rows else np.zeros((0, 0), np.float32)

    def rows(self, kind: MediaKind, ids: Sequence[str]) -> dict[str, Row]:
        """Rows by id; ids without a row are left out, and so are rows without an emotion vector of the library's space."""
        space = self._space()
        name = _table_name(kind, space.sources[kind])
        found: dict[str, Row] = {}
        if self._store.version(name) is None:
            return found
        with self._translated():
            table = self._connect().open_table(name)
            for start in range(0, len(ids), IDS_PER_FILTER):
                where = f"{_id_filter(ids[start : start + IDS_PER_FILTER])} AND space = '{space.id}' AND emotion IS NOT NULL"
                found |= rows_of(table.search().where(where).to_arrow().combine_chunks(), kind)
        return found

    # Writing: each call is one commit for each table it touches

    def upsert(self, kind: MediaKind, rows: Sequence[Row]) -> None:
        """Adds rows, or replaces those of the same path. They are present and belong to the library's space."""
        self._check_writing()
        if not rows:
            return
        space = self._space()
        with self._translated():
            table = self._table_of(kind)
            data = item_table(rows, space.id, table.schema.names)
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(data)

    def mark_gone(self, kind: MediaKind, ids: Iterable[str], gone: bool = True) -> None:
        """Rows whose files are not there (or are there again). Their features stay for the day they come back."""
        ids = sorted(set(ids))
        self._update(kind, {"id": ids, "gone": [gone] * len(ids)})

    def touch(self, kind: MediaKind, stats: Mapping[str, tuple[int, int]]) -> None:
        """The size and mtime_ns of files whose content is what it was. They are present."""
        sizes, times = [size for size, _ in stats.values()], [mtime_ns for _, mtime_ns in stats.values()]
        self._update(kind, {"id": list(stats), "size": sizes, "mtime_ns": times, "gone": [False] * len(stats)})

    def skip(self, files: Sequence[SkippedFile]) -> None:
        """Remembers files that could not be used."""
        self._check_writing()
        if not files:
            return
        with self._translated():
            data = skipped_table(files)
            table = self._table(SKIPPED, data.schema)
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(data)

    def unskip(self, ids: Iterable[str]) -> None:
        """Forgets that files could not be used."""
        self._delete(SKIPPED, ids)

    def remove(self, kind: MediaKind, ids: Iterable[str]) -> None:
        """Deletes the rows of the library's own encoder for this kind."""
        self._delete(_table_name(kind, self._space().sources[kind]), ids)

    def forget(self, ids: Iterable[str]) -> None:
        """Deletes rows from every table, those of other encoders and `skipped` as well."""
        wanted = sorted(set(ids))
        for name, view in self.views().items():
            known = view.find(wanted) >= 0
            self._delete(name, [one for one, here in zip(wanted, known, strict=True) if here])

    def remap(self, kind: MediaKind, project: Callable[[np.ndarray], np.ndarray]) -> int:
        """Makes the emotion vector of every row that has none of the library's space; returns how many.

        `project`: (n, d) features -> (n, e). Works in batches, each a commit, and goes on where it was interrupted.
        """
        import pyarrow as pa

        self._check_writing()
        space = self._space()
        name = _table_name(kind, space.sources[kind])
        if self._store.version(name) is None:
            return 0
        count = 0
        with self._translated():
            table = self._table_of(kind)
            # A second handle: it stays at the version it was opened at while this one commits.
            reader = self._connect().open_table(name).search().where(f"space IS NULL OR space != '{space.id}' OR emotion IS NULL")
            batch_size = max(ROWS_PER_REMAP, table.count_rows() // REMAP_COMMITS)
            for batch in reader.select(["id", "features"]).to_batches(batch_size=batch_size):
                if batch.num_rows == 0:
                    continue
                emotion = vector_column(project(vectors(batch["features"])))
                data = pa.table({"id": batch["id"], "emotion": emotion, "space": [space.id] * batch.num_rows})
                self._check_writing()  # another lease may have begun
                table.merge_insert("id").when_matched_update_all().execute(data)
                count += batch.num_rows
        return count

    def compact(self) -> None:
        """Where many small commits have left much behind: joins them, and deletes versions that no reader uses any more."""
        self._check_writing()
        for name in [*self._tables]:
            if self._exceeds(name, FRAGMENTS_AT_REST, VERSIONS_AT_REST):
                self._optimize(name)

    def _exceeds(self, name: str, fragments: int, versions: int | None = None) -> bool:
        with self._translated():
            stats = self._tables[name].stats()
        more = int(stats["num_rows"]) // ROWS_PER_FRAGMENT
        kept = self._store.version_count(name) if versions is not None else 0
        return int(stats["fragment_stats"]["num_fragments"]) > fragments + more or kept > (versions or 0) + more

    def _optimize(self, name: str) -> None:
        with self._translated():
            self._tables[name].optimize(cleanup_older_than=KEEP_ALL)
            self._store.flush(name)  # a power cut must not take the new files when the old ones are deleted
            self._check_writing()
            # delete_unverified: what a run that died left behind. Nobody else is writing, because this one holds the lock.
            self._tables[name].optimize(cleanup_older_than=KEEP_VERSIONS, delete_unverified=True)
            self._index_ids(name)

    def _index_ids(self, name: str) -> None:
        """Makes the index of ids where the table has become large; compaction keeps it up to date."""
        table = self._tables[name]
        if table.count_rows() >= ROWS_INDEXED and not table.list_indices():
            from lancedb.index import BTree

            table.create_index("id", config=BTree())

    # LanceDB

    def _check_writing(self) -> None:
        if not self._writers:
            raise RuntimeError("the library is written outside `with library.writing()`")
        if self._lease:
            self._lease.check()

    def _space(self) -> SpaceRef:
        if self.space is None:
            raise LibraryError(f"the library {self.folder} has no emotion space yet", "emoclim index FOLDER...")
        return self.space

    def _connect(self) -> Any:
        if self._connection is None:
            import lancedb

            self._connection = lancedb.connect(self._store.tables)
        return self._connection

    def _table(self, name: str, schema: Any) -> Any:
        """The writer's own handle of a table, which is made where it is absent."""
        if name not in self._tables:
            if self._store.version(name) is None:
                self._tables[name] = self._connect().create_table(name, schema=schema)
            else:
                self._tables[name] = self._connect().open_table(name)
            self._index_ids(name)
        if self._exceeds(name, FRAGMENTS_AT_WORK):
            self._optimize(name)
        return self._tables[name]

    def _table_of(self, kind: MediaKind) -> Any:
        """The writer's handle of the items of a kind, its emotion column as wide as the library's space."""
        space = self._space()
        source = space.sources[kind]
        schema = item_columns(source.dim, space.dim)
        table = self._table(_table_name(kind, source), schema)
        # A space of another width: every vector is of another space, so none is lost that could be searched.
        emotion = schema.field("emotion")
        if "emotion" in table.schema.names and table.schema.field("emotion").type != emotion.type:
            table.drop_columns(["emotion"])
        if "emotion" not in table.schema.names:
            table.add_columns(emotion)
        return table

    def _update(self, kind: MediaKind, columns: dict[str, Any]) -> None:
        """Writes some columns of rows that exist."""
        self._check_writing()
        if columns["id"]:
            import pyarrow as pa

            with self._translated():
                self._table_of(kind).merge_insert("id").when_matched_update_all().execute(pa.table(columns))

    def _delete(self, name: str, ids: Iterable[str]) -> None:
        self._check_writing()
        ids = sorted(set(ids))
        if not ids or self._store.version(name) is None:
            return
        with self._translated():
            table = self._table(name, None)
            for start in range(0, len(ids), IDS_PER_FILTER):
                self._check_writing()
                table.delete(_id_filter(ids[start : start + IDS_PER_FILTER]))

    def _view(self, name: str) -> View:
        version = self._store.version(name)
        if version is None:
            return View.empty()
        cached, view = self._views.get(name, (None, None))
        if view is None or cached != version:
            view = snapshot.load(self._store.snapshots / name, version)
            if view is None:
                version, view = self._read_table(name)
                with suppress(OSError):  # a library that cannot be written is read from LanceDB each time
                    snapshot.save(self._store.snapshots / name, version, view)
                    view = snapshot.load(self._store.snapshots / name, version) or view  # mapped: the other one is in memory
        space_id = self.space.id if self.space else ""
        if view.space_id != space_id:
            view = replace(view, space_id=space_id)
        self._views[name] = (version, view)  # the same view as long as nothing changes: it remembers what it has worked out
        return view

    def _read_table(self, name: str) -> tuple[Version, View]:
        with self._translated():
            table = self._connect().open_table(name)
            for _ in range(READ_ATTEMPTS):  # until no writer commits between the two lines
                version = self._store.version(name)
                try:
                    table.checkout_latest()
                    if version is not None and table.version == version.number:
                        wanted = [column for column in table.schema.names if column != "features"]
                        return version, view_of(name, table.search().select(wanted).to_arrow())
                except (RuntimeError, ValueError, OSError):
                    if self._store.version(name) == version:
                        raise
                    # A writer has deleted it as outdated: its clock is ahead, or this process was suspended.
        raise LibraryError(f"the table {name} of the library {self.folder} changes too fast to be read", "try again")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """LanceDB's exceptions are plain RuntimeError, ValueError, OSError: all of them mean that the library folder cannot be used."""
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            raise self._store.unusable(error, "used") from error


def _table_name(kind: MediaKind, source: FeatureSource) -> str:
    return f"{kind}.{source.encoder.replace('+', '.')}.{source.digest[:8]}"


def _id_filter(ids: Iterable[str]) -> str:
    quoted = ", ".join(f"'{one}'" for one in ids)
    return f"id IN ({quoted})"
