"""What has changed on the disk since the library was last brought up to date.

A file is known by its path (the id), its size and its modification time. One whose size or time differs is compared by content before
it is called changed, and so is a new file that is as large as a known one: it may have been moved or copied. Of a file larger than
DIGEST_WHOLE_BYTES the content is only sampled: with another time it is changed, whatever the sample says; with another path and the same
sample it is moved or copied, and what was edited in place between the samples meanwhile is not noticed.
A root that is missing, or empty while items are known below it, is *offline*: nothing is concluded from it. A root that is the folder of
another root under a second name has no files of its own: they are known by the first name.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain

import numpy as np

from emoclim_cli.errors import UsageError
from emoclim_cli.library import Library, Root, SpaceRef
from emoclim_cli.media import (
    DIGEST_WHOLE_BYTES,
    SUFFIXES,
    FileStat,
    MediaKind,
    content_digest,
    item_id,
    kind_of_file,
    printable,
    scan,
    suffix_of,
)
from emoclim_cli.rows import SkippedFile
from emoclim_cli.snapshot import View, raw_ids
from emoclim_cli.workers import on_threads

DIGEST_THREADS = 4
NEVER_SEEN = -1
"""The remembered size of a file that could not even be opened, or whose decoder is not installed. It equals none, so that the file is tried
at every run: permissions and packages leave no trace in size or time."""


@dataclass(frozen=True, slots=True)
class Task:
    """One file to do something about."""

    file: FileStat
    kind: MediaKind
    rows: frozenset[MediaKind] = frozenset()
    """The kinds under which the library has a row of this path: the other kind's where a photo was replaced by music."""
    source: str = ""
    """For a move or a copy: the id of the row whose features this file takes over."""
    content: str = ""


@dataclass(slots=True)
class Plan:
    """What has changed since the last run.

    The `seen` files are each in exactly one of new, changed, moved, copied, unchanged, skipped and refused.
    """

    space: SpaceRef | None
    roots: list[Root] = field(default_factory=list)
    seen: int = 0
    new: list[Task] = field(default_factory=list)
    changed: list[Task] = field(default_factory=list)
    moved: list[Task] = field(default_factory=list)
    copied: list[Task] = field(default_factory=list)
    unchanged: int = 0
    """Among them those in `touched` and `returned`."""
    touched: list[Task] = field(default_factory=list)
    """Same content, other size or time."""
    returned: list[Task] = field(default_factory=list)
    """Marked gone, and there again."""
    gone: list[Task] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    """Could not be used before and have not changed: left alone."""
    refused: list[SkippedFile] = field(default_factory=list)
    """Cannot be opened."""
    dropped: list[tuple[MediaKind, str]] = field(default_factory=list)
    """Rows (kind, id) of a path that is of the other kind now."""
    cleared: list[str] = field(default_factory=list)
    """Ids of files that could not be used and are not there any more."""
    remap: int = 0
    """Rows whose emotion vectors are of another space."""
    offline_roots: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(folder or file, reason): what is below is left as it is known."""
    known_skipped: frozenset[str] = frozenset()
    """Ids in the library's list of skipped files."""
    retried: int = 0
    """How many of the new and the changed are only tried again, as at every run: see NEVER_SEEN."""

    @property
    def to_encode(self) -> int:
        """How many files have to be decoded."""
        return len(self.new) + len(self.changed)

    def missing_folders(self) -> dict[str, int]:
        """Folders that are not there, the highest ones, and how many of the `gone` were in them."""
        counts: dict[str, int] = {}
        there = cache(os.path.isdir)
        for task in self.gone:
            above = list(folders_above(task.file.path))
            if missing := [folder for folder in above if not there(folder)]:
                counts[missing[-1]] = counts.get(missing[-1], 0) + 1
        return counts

    @property
    def stale(self) -> int:
        """How many rows or files an index run would do something about."""
        changes = (self.new, self.changed, self.moved, self.copied, self.touched, self.returned, self.gone)
        refused = sum(item_id(file.path) not in self.known_skipped for file in self.refused)
        return sum(map(len, changes)) - self.retried + len(self.dropped) + len(self.cleared) + refused + self.remap


def plan(
    library: Library,
    roots: Sequence[Root] | None = None,
    space: SpaceRef | None = None,
    *,
    rebuild: bool = False,
    retry: bool = False,
) -> Plan:
    """What an index run over `roots` (or all that the library knows) would do, in `space` (or the library's own).

    Needs neither torch nor LanceDB. `rebuild`: encode every file again; `retry`: try again what could not be used.
    Raises UsageError for a root that is not there and of which nothing is known.
    """
    space = space or library.space
    result = Plan(space, list(library.roots if roots is None else roots))
    views = dict.fromkeys(MediaKind, View.empty())
    if space is not None:
        views = {kind: replace(library.view(kind, space.sources[kind]), space_id=space.id) for kind in MediaKind}
    skipped = library.skipped()
    files, scanned = _scan(library, result, views)

    ids = raw_ids(item_id(file.path) for file in files)
    sizes = np.array([file.size for file in files], np.int64)
    times = np.array([file.mtime_ns for file in files], np.int64)
    found = {kind: view.find(ids) for kind, view in views.items()}
    settled = np.zeros(len(files), bool)
    live = {kind: np.zeros(len(view), bool) for kind, view in views.items()}
    for kind, view in views.items():
        same = _same(view, found[kind], sizes, times) & ~settled
        if rebuild:
            same[:] = False
        settled |= same
        live[kind][found[kind][same]] = True
        for i in _where(same & _at(view.gone, found[kind])):
            result.returned.append(Task(files[i], kind))
        for i in _where(same & (found[kind.other] >= 0)):
            result.dropped.append((kind.other, files[i].id))
    result.unchanged = int(settled.sum())

    found_skipped = skipped.find(ids)
    still_bad = _same(skipped, found_skipped, sizes, times) & ~settled
    if rebuild or retry:
        still_bad[:] = False
    listed = {file.path: file for file in library.skipped_files()} if len(skipped) else {}
    result.skipped = [listed[files[i].path] for i in _where(still_bad)]
    result.known_skipped = frozenset(map(item_id, listed))

    tasks = []
    for i in _where(~(settled | still_bad)):
        rows = frozenset(kind for kind in MediaKind if found[kind][i] >= 0)
        if (task := _sniffed(files[i], rows, result.refused)) is not None:
            tasks.append(task)
    result.seen = result.unchanged + len(result.skipped) + len(result.refused) + len(tasks)

    if not rebuild:
        tasks = _with_content(tasks, views)
    remaining = []
    for task in tasks:
        row = _row_of(task, views)
        if row >= 0:
            live[task.kind][row] = True
        if row < 0 or not task.content or task.content != _content(views[task.kind], row):
            remaining.append(task)
        elif task.file.size > DIGEST_WHOLE_BYTES:
            remaining.append(replace(task, content=""))  # a sample does not show that it is what it was
        else:
            result.touched.append(task)
            result.unchanged += 1

    # Rows of a path where there is something else now are dealt with when that is indexed.
    replaced = {task.file.id for task in tasks} | {dropped for _, dropped in result.dropped}
    for kind, view in views.items():
        missing = view.present & ~live[kind]
        known = view.find(raw_ids(replaced))
        missing[known[known >= 0]] = False
        for row in _where(missing):
            if scanned(view.path(row)):
                result.gone.append(Task(FileStat(view.path(row), int(view.size[row]), int(view.mtime_ns[row])), kind))
    _share_out(result, remaining, views, live)
    never_seen = {item_id(file.path) for file in listed.values() if file.size == NEVER_SEEN}
    result.retried = sum(task.file.id in never_seen for task in (*result.new, *result.changed))

    pending = {task.file.id for task in remaining} | {item_id(file.path) for file in (*result.skipped, *result.refused)}
    seen = {file.path for file in files} if listed else set()
    result.cleared = [item_id(path) for path in listed if item_id(path) not in pending and (path in seen or scanned(path))]
    result.remap = sum(int((~view.current).sum()) for view in views.values())
    return result


def _scan(library: Library, plan: Plan, views: Mapping[MediaKind, View]) -> tuple[list[FileStat], Callable[[str], bool]]:
    """Every file below the plan's roots once, sorted by path; and whether a path would have been among them if it were there.

    Fills in the plan's `roots` (with the globs that the library remembers), `offline_roots` and `unreadable`.
    """
    known = {root.path: root for root in library.roots}
    roots = {root.path: root if root.exclude else known.get(root.path, root) for root in plan.roots}
    plan.roots = list(roots.values())
    files: dict[str, FileStat] = {}
    online: list[str] = []
    walked: dict[tuple[int, int], str] = {}
    first_name: dict[str, str] = {}
    known_below = _known_below(views)
    for root in plan.roots:
        try:
            status = os.stat(root.path)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and _was_deleted(root.path, views, roots):
                online.append(root.path)
            else:
                _set_offline(plan, root.path, root.path in known or known_below(root.path), error.strerror or str(error))
            continue
        key = (status.st_dev, status.st_ino)
        if key in walked:
            first_name[root.path] = walked[key]
            online.append(root.path)
            continue
        if stat.S_ISREG(status.st_mode) and known_below(root.path):
            plan.offline_roots.append(root.path)  # a folder was here
            continue
        exclude = [*root.exclude, *(glob for folder in folders_above(root.path) if folder in known for glob in known[folder].exclude)]
        found = scan(root.path, exclude, (other for other in chain([str(library.folder)], roots) if other != root.path))
        refusal = dict(found.unreadable).get(root.path)
        if refusal is not None:
            _set_offline(plan, root.path, root.path in known or known_below(root.path), refusal)
            continue
        walked[key] = root.path
        files.update((file.path, file) for file in found.files)
        plan.unreadable += found.unreadable
        online.append(root.path)
    filled = _folders_of(files)
    for path in online:
        empty = os.path.isdir(path) and first_name.get(path, path) not in filled
        if empty and known_below(path):  # most likely a mount point without its disk
            plan.offline_roots.append(path)
    inspected, unknown = frozenset(online), frozenset((*plan.offline_roots, *(path for path, _ in plan.unreadable)))

    @cache
    def at_or_above(folder: str) -> tuple[bool, bool]:
        places = {folder, *folders_above(folder)}
        return not places.isdisjoint(inspected), not places.isdisjoint(unknown)

    def scanned(path: str) -> bool:
        below_inspected, below_unknown = at_or_above(os.path.dirname(path))
        return (below_inspected or path in inspected) and not (below_unknown or path in unknown)

    return sorted(files.values(), key=lambda file: os.fsencode(file.path)), scanned


def inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/") and path != folder


def folders_above(path: str) -> Iterator[str]:
    """The folders that an absolute path is inside of, the nearest first."""
    while (folder := os.path.dirname(path)) != path:
        yield folder
        path = folder


def _folders_of(paths: Iterable[str]) -> set[str]:
    """Every folder that one of the paths is inside of."""
    found: set[str] = set()
    for path in paths:
        for folder in folders_above(path):
            if folder in found:
                break
            found.add(folder)
    return found


def _known_below(views: Mapping[MediaKind, View]) -> Callable[[str], bool]:
    """Whether items are known, and not gone, below a folder. The rows are walked once, and only if it is asked."""

    @cache
    def folders() -> set[str]:
        return _folders_of(view.path(row) for view in views.values() for row in _where(view.present))

    return lambda folder: folder in folders()


def _was_deleted(root: str, views: Mapping[MediaKind, View], roots: Mapping[str, Root]) -> bool:
    """A missing root is not offline but deleted if it was a file, or is below another root, and its folder still holds other things."""
    known_file = any(view.find([item_id(root)])[0] >= 0 for view in views.values())
    try:
        return (known_file or any(folder in roots for folder in folders_above(root))) and bool(os.listdir(os.path.dirname(root)))
    except OSError:
        return False


def _set_offline(plan: Plan, root: str, known: bool, reason: str) -> None:
    if not known:
        raise UsageError(f"{printable(root)}: {reason}")
    plan.offline_roots.append(root)


def _where(mask: np.ndarray) -> list[int]:
    rows: list[int] = np.flatnonzero(mask).tolist()
    return rows


def _at(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The values in rows; where a row is -1, zero."""
    if not len(values):
        return np.zeros(len(rows), values.dtype)
    return np.where(rows >= 0, values[rows], np.zeros(1, values.dtype))


def _same(view: View, rows: np.ndarray, sizes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(n,) bool: the file in each row is as it was."""
    same: np.ndarray = (rows >= 0) & (_at(view.size, rows) == sizes) & (_at(view.mtime_ns, rows) == times)
    return same


def _sniffed(file: FileStat, rows: frozenset[MediaKind], refused: list[SkippedFile]) -> Task | None:
    """What to do about a file that is not known as it is; None where it is no media."""
    try:
        kind = kind_of_file(file.path)
    except FileNotFoundError:
        return None
    except OSError as error:
        named = SUFFIXES.get(suffix_of(file.path))
        if named is not None:
            refused.append(SkippedFile(file.path, named, NEVER_SEEN, NEVER_SEEN, error.strerror or str(error)))
        return None
    return Task(file, kind, rows) if kind is not None else None


def _with_content(tasks: Sequence[Task], views: Mapping[MediaKind, View]) -> list[Task]:
    """The tasks, with the content digests of those files that are as large as a known one of their kind."""
    sizes = {kind: frozenset(view.size.tolist()) for kind, view in views.items()} if tasks else {}

    def digested(task: Task) -> Task:
        if task.file.size in sizes[task.kind]:
            with suppress(OSError):  # the same error comes when it is decoded, and is told then
                return replace(task, content=content_digest(task.file.path))
        return task

    with closing(on_threads(digested, tasks, DIGEST_THREADS, DIGEST_THREADS)) as results:
        return list(results)


def _row_of(task: Task, views: Mapping[MediaKind, View]) -> int:
    return int(views[task.kind].find([task.file.id])[0]) if task.kind in task.rows else -1


def _content(view: View, row: int) -> str:
    return view.content[row : row + 1].tobytes().hex()


def _share_out(plan: Plan, tasks: Sequence[Task], views: Mapping[MediaKind, View], live: Mapping[MediaKind, np.ndarray]) -> None:
    """Puts tasks into `new`, `changed`, `moved` and `copied`; a row whose file moved is not `gone`.

    A row at whose path there is a file now, a `live` one or that of a task, stays: of it there are only copies.
    """
    if not tasks:
        return
    missing = {(task.kind, task.file.id) for task in plan.gone}
    stay = {task.file.id for task in tasks}
    moves, copies = defaultdict[tuple[MediaKind, str], list[str]](list), dict[tuple[MediaKind, str], str]()
    for kind, view in views.items():
        wanted = raw_ids({task.content for task in tasks if task.content and task.kind is kind})
        for row in _where(np.isin(view.content, wanted)):
            source, content = view.id(row), (kind, _content(view, row))
            copies[content] = source
            if (kind, source) in missing or (view.gone[row] and not live[kind][row] and source not in stay):
                moves[content].append(source)
    claimed = set()
    for task in tasks:
        content = (task.kind, task.content)
        if moves[content]:
            source = moves[content].pop()
            claimed.add((task.kind, source))
            plan.moved.append(replace(task, source=source))
        elif content in copies:
            plan.copied.append(replace(task, source=copies[content]))
        else:
            (plan.changed if task.rows else plan.new).append(task)
    plan.gone = [task for task in plan.gone if (task.kind, task.file.id) not in claimed]
