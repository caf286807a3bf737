"""MagnaTagATune as it comes, and any set of tagged clips in its shape: which clip carries which tags, and in which split it stands.

Shape letters: n clips, t tags.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from emoclim_cli.errors import LabelError
from emoclim_cli.labels import SPLITS, LabelledItem, csv_text

ANNOTATIONS = "annotations_final.csv"
TOP_TAGS = 50
FOLDER_SPLITS = {**dict.fromkeys("0123456789ab", "train"), "c": "val", **dict.fromkeys("def", "test")}
"""The usual split of MagnaTagATune: twelve folders, one, three."""
PATH = "mp3_path"
NO_TAGS = ("clip_id", PATH, "group", "split")
"""The columns that are no tags."""
UNENDED = "is there a quotation mark that never ends?"


@dataclass(frozen=True, slots=True)
class TagSet:
    tags: tuple[str, ...]
    """The most frequent first."""
    items: tuple[LabelledItem, ...]
    """The clips that are on disk and carry one of `tags` at least; none has an emotion, each has a split of SPLITS."""
    carried: np.ndarray
    """(n, t) bool: which clip carries which tag."""
    missing: int
    """Clips that are listed but not on disk."""
    untagged: int
    """Clips on disk that carry none of `tags`."""

    def carried_by(self, items: Sequence[LabelledItem]) -> np.ndarray:
        """(len(items), t) bool: the rows of `carried` of some of its items."""
        rows = {item.path: row for row, item in enumerate(self.items)}
        chosen: np.ndarray = self.carried[[rows[item.path] for item in items]]
        return chosen


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    name: str
    """The clip's path as the file says it."""
    group: str
    split: str


def read_tag_set(path: str, top: int = TOP_TAGS) -> TagSet:
    """A folder with `annotations_final.csv` and the clips below it or below its folder `mp3`; or such a CSV by its own name.

    The CSV is separated by tabs, commas or semicolons. It has a column `mp3_path`, and for each tag a column of 0 and 1; it may have
    `clip_id`, `split` (train, val or test) and `group` (clips of one song, which must not stand in two splits). Without `split` the
    clip's folder decides, as usual for MagnaTagATune: 0 to b train, c val, d to f test.

    The `top` tags that the most clips carry are kept, whether those are on disk or not; ties go by name, and a tag that nobody carries is
    none. Clips without any of them are left out, as Won et al. 2020 ("Evaluation of CNN-based automatic music tagging models") did for
    MagnaTagATune. Raises LabelError, with file and line where there is one, also when a split is left without a clip.
    """
    file = os.path.join(path, ANNOTATIONS) if os.path.isdir(path) else path
    if not os.path.exists(file):
        hint = f"--data names the folder of {ANNOTATIONS}, with the clips in folders 0 to 9 and a to f; or a CSV in its shape"
        raise LabelError(f"there is no file {file}", hint)
    names, rows, values = _read(file)
    counts = values.sum(axis=0)
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (-counts[i], names[i]))[:top]
    values = values[:, order]
    folder = os.path.dirname(os.path.abspath(file))
    paths = [_on_disk(folder, row.name) for row in rows]
    there = np.array([bool(path) for path in paths])
    kept = there & values.any(axis=1)
    items = tuple(
        LabelledItem(path, "", frozenset(), row.group, split=row.split, where=f"{file}, line {row.line}")
        for row, path, keep in zip(rows, paths, kept, strict=True)
        if keep
    )
    found = TagSet(tuple(names[i] for i in order), items, values[kept], int((~there).sum()), int((there & ~kept).sum()))
    _check_splits(found, file, len(rows))
    return found


def _check_splits(found: TagSet, file: str, listed: int) -> None:
    splits = {item.split for item in found.items}
    absent = [split for split in SPLITS if split not in splits]
    if absent:
        kept = f"of {listed} clips that {file} lists, {found.missing} are not on disk and {found.untagged} carry none of the tags"
        clips = os.path.join(os.path.dirname(file), "f", "some-clip-0-29.mp3")
        raise LabelError(f"no clip is left for {', '.join(absent)}: {kept}", f"a clip f/some-clip-0-29.mp3 is expected at {clips}")


def _on_disk(folder: str, name: str) -> str:
    """Where a clip is; empty where it is not."""
    candidates = (os.path.join(folder, name), os.path.join(folder, "mp3", name))
    return next((path for path in candidates if os.path.isfile(path)), "")


def _read(file: str) -> tuple[list[str], list[_Row], np.ndarray]:
    """The names of all t tags, the rows, and (n, t) bool: who carries what."""
    lines = _lines(file)
    header = [name.strip() for name in next(lines, (1, []))[1]]
    if PATH not in header:
        raise LabelError(
            f"{file}: the first line has no column {PATH}", f"it begins with clip_id, goes on with the tags and ends with {PATH}"
        )
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated or "" in header:
        raise LabelError(f"{file}: the first line has " + (f"two columns {repeated[0]!r}" if repeated else "a column without a name"))
    columns = {name: header.index(name) for name in NO_TAGS if name in header}
    tags = [i for i, name in enumerate(header) if name not in NO_TAGS]
    rows: list[_Row] = []
    values = []
    for line, fields in lines:
        where = f"{file}, line {line}"
        if len(fields) != len(header):
            raise LabelError(
                f"{where}: {len(fields)} fields, but the first line has {len(header)}", UNENDED if "\n" in "".join(fields) else ""
            )
        own = [fields[i] for i in tags]
        if not {"0", "1"}.issuperset(own):
            wrong = next(i for i in tags if fields[i] not in ("0", "1"))
            raise LabelError(f"{where}: {header[wrong]!r} is {fields[wrong]!r}, neither 0 nor 1", f"no tags are: {', '.join(NO_TAGS)}")
        values.append(np.frombuffer("".join(own).encode(), np.uint8) == ord("1"))
        name = fields[columns[PATH]]
        group = fields[columns["group"]] if "group" in columns else ""
        split = _split(fields[columns["split"]].strip() if "split" in columns else None, name, where)
        rows.append(_Row(line, name, group or name, split))
    if not rows or not tags:
        raise LabelError(f"{file} has no {'clips' if tags else 'tags'}")
    _check_rows(rows, file)
    return [header[i] for i in tags], rows, np.stack(values)


def _split(stated: str | None, name: str, where: str) -> str:
    if stated is not None:
        if stated not in SPLITS:
            raise LabelError(f"{where}: unknown split {stated!r}", f"one of: {', '.join(SPLITS)}")
        return stated
    folder = os.path.basename(os.path.dirname(name))
    if folder not in FOLDER_SPLITS:
        hint = "name the clip's folder 0 to b (train), c (val) or d to f (test), or add a column split"
        raise LabelError(f"{where}: the folder of {name!r} says no split", hint)
    return FOLDER_SPLITS[folder]


def _check_rows(rows: Sequence[_Row], file: str) -> None:
    clips: dict[str, _Row] = {}
    groups: dict[str, _Row] = {}
    for row in rows:
        where = f"{file}, line {row.line}"
        if clips.setdefault(row.name, row) is not row:
            raise LabelError(f"{where}: {row.name!r} stands in line {clips[row.name].line} already")
        first = groups.setdefault(row.group, row)
        if first.split != row.split:
            raise LabelError(f"{where}: the group {row.group!r} is in {row.split}, but in {first.split} in line {first.line}")


def _lines(file: str) -> Iterator[tuple[int, list[str]]]:
    """(number, fields) of each line that is not blank; of a line that goes on, since it is quoted, the number of its beginning."""
    text = csv_text(file)
    first_line = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first_line.count))
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelError(f"{file}, line {line}: {error}", UNENDED) from error
