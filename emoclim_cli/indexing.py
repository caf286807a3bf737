"""Bringing the library up to date: `apply` does what a plan says, as a stream of outcomes.

Rows whose files are not there any more are marked, never deleted, so that a disk that comes back costs nothing.
Shape letters: n files, d feature dim, e emotion dim.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

import numpy as np

from emoclim_cli.changes import Plan as Plan  # part of what this module offers
from emoclim_cli.changes import Task, folders_above, inside
from emoclim_cli.changes import plan as plan
from emoclim_cli.encoding import Batch, Encoded, Engine
from emoclim_cli.library import FeatureSource, Library, Root, SpaceRef
from emoclim_cli.media import FileStat, MediaKind, item_id, time_of
from emoclim_cli.projections import EmotionSpace
from emoclim_cli.reading import Failed
from emoclim_cli.rows import SKIPPED, Row

ROWS_PER_COPY = 1000


class Status(StrEnum):
    INDEXED = "indexed"
    MOVED = "moved"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    path: str
    kind: MediaKind
    status: Status
    reason: str = ""


@dataclass(slots=True)
class Summary:
    """What a run did. After all of `apply`'s outcomes: seen == indexed + unchanged + moved + skipped."""

    seen: int = 0
    indexed: int = 0
    unchanged: int = 0
    moved: int = 0
    gone: int = 0
    skipped: int = 0
    offline_roots: list[str] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    """`path` and `reason` of every file that was skipped, and of folders that could not be read."""

    @classmethod
    def of(cls, plan: Plan) -> Summary:
        """What the plan knows already; `count` adds the outcomes."""
        errors = [*plan.unreadable, *((file.path, file.reason) for file in plan.skipped)]
        return cls(
            seen=plan.seen,
            unchanged=plan.unchanged,
            gone=len(plan.gone),
            skipped=len(plan.skipped),
            offline_roots=list(plan.offline_roots),
            errors=[{"path": path, "reason": reason} for path, reason in errors],
        )

    def count(self, outcome: Outcome) -> None:
        setattr(self, outcome.status, getattr(self, outcome.status) + 1)
        if outcome.status is Status.SKIPPED:
            self.errors.append({"path": outcome.path, "reason": outcome.reason})

    @classmethod
    def forecast(cls, plan: Plan) -> Summary:
        """What a run would do if every file could be used."""
        summary = cls.of(plan)
        summary.indexed = plan.to_encode + len(plan.copied)
        summary.moved = len(plan.moved)
        for file in plan.refused:
            summary.count(Outcome(file.path, file.kind, Status.SKIPPED, file.reason))
        return summary


@dataclass(frozen=True, slots=True)
class LibraryStatus:
    photos: int
    music: int
    skipped: int
    roots: tuple[Root, ...]
    plan: Plan
    """Against all roots; `plan.stale` is 0 for a fresh library."""


def space_ref(space: EmotionSpace) -> SpaceRef:
    """What the library remembers of a space."""
    sources = {
        kind: FeatureSource(encoder, space.digests[kind], space.projections[kind].features_dim) for kind, encoder in space.encoders.items()
    }
    return SpaceRef(space.id, space.name, space.dim, sources)


def apply(plan: Plan, library: Library, engine: Engine, space: EmotionSpace) -> Generator[Outcome, None, None]:
    """Does what `plan` (made with this `space`) says, and yields an outcome for every file that was not `unchanged` or `skipped` in it.

    A batch of the engine is committed before its outcomes are yielded: whatever ends the run, Ctrl-C or `close()`, costs at most the batch
    in work. One file never ends it. Raises LibraryBusy, LibraryError, ModelError.
    """
    with library.writing():
        library.set_roots(_merged(library.roots, plan.roots))
        library.set_space(space_ref(space))
        for kind in MediaKind:
            if plan.remap:
                library.remap(kind, partial(space.project, kind))
        _mark(plan, library)
        yield from _refuse(plan, library)
        tasks = [*plan.new, *plan.changed]
        tasks += yield from _take_over(plan, library)
        for kind in MediaKind:
            of_kind = sorted((task for task in tasks if task.kind is kind), key=lambda task: os.fsencode(task.file.path))
            if of_kind:
                with closing(engine(kind, of_kind)) as batches:
                    for batch in batches:
                        yield from _commit(kind, batch, plan, library, space)
        library.compact()
        library.snapshot()


def _merged(known: Sequence[Root], named: Sequence[Root]) -> list[Root]:
    """The roots to remember: those named replace known ones of the same path, and are left out where a known one covers them."""
    roots = {root.path: root for root in known}
    everything = {root.path for root in known if not root.exclude}
    for root in named:
        covered = any(folder in everything and "/." not in root.path[len(folder.rstrip("/")) :] for folder in folders_above(root.path))
        if root.path in roots or root.exclude or not covered:
            roots[root.path] = root
    return list(roots.values())


def _mark(plan: Plan, library: Library) -> None:
    """What costs no reading of files."""
    for kind in MediaKind:
        library.touch(kind, {task.file.id: (task.file.size, task.file.mtime_ns) for task in plan.touched if task.kind is kind})
        library.mark_gone(kind, [task.file.id for task in plan.returned if task.kind is kind], gone=False)
        library.mark_gone(kind, [task.file.id for task in plan.gone if task.kind is kind])
        library.remove(kind, [dropped for of_kind, dropped in plan.dropped if of_kind is kind])
    library.unskip(plan.cleared)


def _refuse(plan: Plan, library: Library) -> Iterator[Outcome]:
    library.skip([file for file in plan.refused if item_id(file.path) not in plan.known_skipped])
    for file in plan.refused:
        yield Outcome(file.path, file.kind, Status.SKIPPED, file.reason)


def _take_over(plan: Plan, library: Library) -> Generator[Outcome, None, list[Task]]:
    """Gives moved and copied files the features that are known; returns the tasks of those that are not what they were when planned."""
    tasks = [*plan.moved, *plan.copied]
    moved = {task.file.id for task in plan.moved}
    left: list[Task] = []
    for kind in MediaKind:
        of_kind = [task for task in tasks if task.kind is kind]
        for start in range(0, len(of_kind), ROWS_PER_COPY):
            part = of_kind[start : start + ROWS_PER_COPY]
            sources = library.rows(kind, sorted({task.source for task in part}))
            done, rows = [], []
            for task in part:
                row = sources.get(task.source)
                if row is None or row.content != task.content or not _is_as_planned(task.file):
                    left.append(task)
                    continue
                file = task.file
                rows.append(replace(row, item=replace(row.item, path=file.path, size=file.size, mtime_ns=file.mtime_ns)))
                done.append(task)
            library.upsert(kind, rows)
            library.remove(kind, {task.source for task in done if task.file.id in moved} - {task.file.id for task in done})
            _settle(done, kind, plan, library)
            library.mark_gone(kind, [task.source for task in left if task.kind is kind and task.file.id in moved])
            for task in done:
                yield Outcome(task.file.path, kind, Status.MOVED if task.file.id in moved else Status.INDEXED)
    return left


def _is_as_planned(file: FileStat) -> bool:
    try:
        status = os.stat(file.path)
    except OSError:
        return False
    return (status.st_size, time_of(status)) == (file.size, file.mtime_ns)


def _settle(done: Sequence[Task], kind: MediaKind, plan: Plan, library: Library) -> None:
    """What else the library knew of paths that have a good row of this kind now."""
    library.remove(kind.other, [task.file.id for task in done if kind.other in task.rows])
    library.unskip([task.file.id for task in done if task.file.id in plan.known_skipped])


def _commit(kind: MediaKind, batch: Batch, plan: Plan, library: Library, space: EmotionSpace) -> Iterator[Outcome]:
    good = [one for one in batch if isinstance(one, Encoded)]
    failed = [one for one in batch if isinstance(one, Failed)]
    if good:
        emotion = space.project(kind, np.stack([one.features for one in good]))
        library.upsert(kind, [Row(one.item, one.content, one.features, vector) for one, vector in zip(good, emotion, strict=True)])
    _settle([one.task for one in good], kind, plan, library)
    library.skip([failure.file for failure in failed if failure.file is not None])
    for known in MediaKind:  # what they were is not there any more
        library.mark_gone(known, [failure.task.file.id for failure in failed if known in failure.task.rows and not failure.there])
    for one in good:
        yield Outcome(one.item.path, kind, Status.INDEXED)
    for failure in failed:
        yield Outcome(failure.task.file.path, kind, Status.SKIPPED, failure.reason)


def forget(library: Library, paths: Sequence[str]) -> int:
    """Drops roots and items at or below `paths` from the library, never from the disk; returns how many items it knew there.

    What is below a root that stays is indexed again at the next run. Raises LibraryBusy.
    """

    def meant(path: str) -> bool:
        return any(path == top or inside(path, top) for top in paths)

    with library.writing():
        items: set[str] = set()
        others: set[str] = set()
        for name, view in library.views().items():
            rows = view.find([item_id(top) for top in paths]).tolist()
            rows += [row for top in paths for row in np.flatnonzero(view.below(top)).tolist()]
            (others if name == SKIPPED else items).update(view.id(row) for row in rows if row >= 0)
        library.set_roots(root for root in library.roots if not meant(root.path))
        library.forget(items | others)
        library.compact()
        library.snapshot()
    return len(items)


def status(library: Library, space: SpaceRef | None = None) -> LibraryStatus:
    """How much is indexed and how fresh it is, were it to be in `space` (or its own)."""
    photos, music = (int(np.count_nonzero(library.view(kind).present)) for kind in MediaKind)
    return LibraryStatus(photos, music, len(library.skipped()), library.roots, plan(library, space=space))
