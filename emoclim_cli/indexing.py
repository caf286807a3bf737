"""Bringing the library up to date: `apply` does what a plan says, as a stream of outcomes.

Rows whose files are not there any more are marked, never deleted, so that a disk that comes back costs nothing.
Shape letters: n files, d feature dim, e emotion dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from emoclim_cli.changes import NEVER_SEEN, Task, folders_above, inside, on_threads
from emoclim_cli.changes import Plan as Plan  # part of what this module offers
from emoclim_cli.changes import plan as plan
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import EmoclimError, MissingDecoder, ModelError
from emoclim_cli.library import FeatureSource, Library, Root, SpaceRef
from emoclim_cli.media import FileStat, MediaItem, MediaKind, content_digest, item_id
from emoclim_cli.projections import EmotionSpace
from emoclim_cli.rows import SKIPPED, Row, SkippedFile
from emoclim_cli.tags import read_music_tags, read_photo_tags

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


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file that was read."""

    task: Task
    item: MediaItem
    content: str
    sample: Any


@dataclass(frozen=True, slots=True)
class _Failed:
    task: Task
    reason: str
    file: SkippedFile | None
    """What to remember; nothing of a file that has vanished."""


def apply(
    plan: Plan,
    library: Library,
    encoders: Callable[[MediaKind], Encoder],
    space: EmotionSpace,
    *,
    jobs: int = 4,
    batch_size: int = 0,
) -> Generator[Outcome, None, None]:
    """Does what `plan` (made with this `space`) says, and yields an outcome for every file that was not `unchanged` or `skipped` in it.

    `encoders` is asked for an encoder only when its kind has files to encode. Files are read on `jobs` threads while batches are encoded in
    the caller's; `batch_size` 0 is what suits the encoder. A batch's outcomes are yielded when it is committed: whatever ends the run,
    Ctrl-C or `close()`, costs at most the batch in work. One file never ends it. Raises LibraryBusy, LibraryError, ModelError.
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
                encoder = encoders(kind)
                space.check_features(kind, encoder.info.digest)
                yield from _encode(of_kind, plan, library, encoder, space, jobs, batch_size)
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
    return (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)


def _settle(done: Sequence[Task], kind: MediaKind, plan: Plan, library: Library) -> None:
    """What else the library knew of paths that have a good row of this kind now."""
    library.remove(kind.other, [task.file.id for task in done if kind.other in task.rows])
    library.unskip([task.file.id for task in done if task.file.id in plan.known_skipped])


def _encode(
    tasks: Sequence[Task], plan: Plan, library: Library, encoder: Encoder, space: EmotionSpace, jobs: int, batch_size: int
) -> Iterator[Outcome]:
    kind = tasks[0].kind
    batch_size = batch_size or encoder.batch_size
    loaded: list[_Loaded] = []
    failed: list[_Failed] = []
    window = max(jobs, batch_size)  # files read ahead of the batch in work: bounds memory
    with closing(on_threads(partial(_load, encoder), tasks, jobs, window)) as results:
        for number, result in enumerate(results, 1):
            if isinstance(result, _Loaded):
                loaded.append(result)
            else:
                failed.append(result)
            if len(loaded) + len(failed) >= batch_size or number == len(tasks):
                yield from _commit(kind, loaded, failed, plan, library, encoder, space)
                loaded, failed = [], []


def _load(encoder: Encoder, task: Task) -> _Loaded | _Failed:
    """Reads one file, on a thread."""
    path = task.file.path
    try:
        # First: a file that is replaced while it is read is then seen as changed at the next run.
        status = os.stat(path)
        content = content_digest(path)
        sample = encoder.load(path)
    except ModelError:  # not this file's fault
        raise
    except FileNotFoundError:
        return _Failed(task, "it vanished while it was to be read", None)
    except OSError as error:
        return _failed(task, error.strerror or str(error), NEVER_SEEN, NEVER_SEEN)
    except MissingDecoder as error:
        return _failed(task, _message(error), NEVER_SEEN, NEVER_SEEN)
    except Exception as error:  # noqa: BLE001 - a decoder's bug must cost one file, not the run
        return _failed(task, _message(error), status.st_size, status.st_mtime_ns)
    item = MediaItem(path, task.kind, status.st_size, status.st_mtime_ns)
    if task.kind is MediaKind.PHOTO:
        photo = read_photo_tags(path)
        item = replace(item, title=photo.title, taken=photo.taken)
    else:
        music = read_music_tags(path)
        # What was decoded is surer than what a header claims.
        duration_s = getattr(sample, "duration_s", 0.0) or music.duration_s
        item = replace(item, title=music.title, artist=music.artist, album=music.album, duration_s=float(duration_s))
    return _Loaded(task, item, content, sample)


def _failed(task: Task, reason: str, size: int, mtime_ns: int) -> _Failed:
    return _Failed(task, reason, SkippedFile(task.file.path, task.kind, size, mtime_ns, reason))


def _message(error: Exception) -> str:
    if not isinstance(error, EmoclimError):
        return f"{type(error).__name__}: {error}"
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _commit(
    kind: MediaKind,
    loaded: Sequence[_Loaded],
    failed: list[_Failed],
    plan: Plan,
    library: Library,
    encoder: Encoder,
    space: EmotionSpace,
) -> Iterator[Outcome]:
    features, errors = _features(encoder, [one.sample for one in loaded])
    good = [i for i in range(len(loaded)) if i not in errors]
    emotion = space.project(kind, features[good]) if good else features[:0]
    for i, reason in errors.items():
        failed.append(_failed(loaded[i].task, reason, loaded[i].item.size, loaded[i].item.mtime_ns))
    library.upsert(kind, [Row(loaded[i].item, loaded[i].content, features[i], vector) for i, vector in zip(good, emotion, strict=True)])
    _settle([loaded[i].task for i in good], kind, plan, library)
    library.skip([failure.file for failure in failed if failure.file is not None])
    for known in MediaKind:  # what they were is not there any more
        library.mark_gone(known, [failure.task.file.id for failure in failed if known in failure.task.rows])
    for i in good:
        yield Outcome(loaded[i].item.path, kind, Status.INDEXED)
    for failure in failed:
        yield Outcome(failure.task.file.path, kind, Status.SKIPPED, failure.reason)


def _features(encoder: Encoder, samples: Sequence[Any]) -> tuple[np.ndarray, dict[int, str]]:
    """(n, d) features, and for those samples that have none the reason."""
    features = np.zeros((len(samples), encoder.info.dim), np.float32)
    errors: dict[int, str] = {}
    try:
        if samples:
            features[:] = encoder.encode(samples)
    except ModelError:
        raise
    except Exception:  # noqa: BLE001 - one sample can spoil a batch: which?
        for i, sample in enumerate(samples):
            try:
                features[i] = encoder.encode([sample])[0]
            except ModelError:
                raise
            except Exception as error:  # noqa: BLE001
                errors[i] = _message(error)
    for i in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        errors.setdefault(i, "its features are not finite")
    return features, errors


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
            (others if name == SKIPPED else items).update(view.id(row) for row in range(len(view)) if meant(view.path(row)))
        library.set_roots(root for root in library.roots if not meant(root.path))
        library.forget(items | others)
        library.compact()
        library.snapshot()
    return len(items)


def status(library: Library) -> LibraryStatus:
    """How much is indexed and how fresh it is."""
    photos, music = (int(library.view(kind).present.sum()) for kind in MediaKind)
    return LibraryStatus(photos, music, len(library.skipped()), library.roots, plan(library))
