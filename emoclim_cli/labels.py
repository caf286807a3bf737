"""Labelled photos and music as they lie on disk: which file carries which emotion, which belong together, and in which split they are."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from emoclim_cli import published
from emoclim_cli.copies import identical
from emoclim_cli.emotions import EMOTIONS, PARTIAL_WORDS, PHOTO_WORDS, QUADRANTS
from emoclim_cli.errors import LabelError
from emoclim_cli.media import scan

SPLITS = ("train", "val", "test")
HELD_OUT = {"test": 0.1, "val": 0.1}
"""The shares of each emotion that are not trained on (paper, section 3.1)."""
FEWEST_EXAMPLES = len(SPLITS)
"""An emotion with fewer is trained on alone."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LabelledItem:
    path: str
    emotion: str
    """In the music vocabulary; empty where it is known in part only."""
    emotions: frozenset[str]
    """What it may be: its emotion alone, or those of its quadrant, or of `awe` or `disgust`."""
    group: str
    """The song or the photo: rows of one group are one thing."""
    source: str = ""
    split: str = ""
    where: str = field(default="", compare=False)
    """The file and line that label it; empty where its folder does."""

    @property
    def stratum(self) -> str:
        """What a split is balanced by: its emotion, or all that it may be, marked: a known emotion is not one that a quadrant leaves."""
        return self.emotion or f"{'+'.join(sorted(self.emotions))}?"

    def __str__(self) -> str:
        return f"{self.path} ({self.where})" if self.where else self.path


# --- reading -----------------------------------------------------------------------------------------------------------------------------


def read_labels(path: str, split: str = "", note: Tell | None = None) -> list[LabelledItem]:
    """A labels CSV, a folder with one subfolder per emotion, or one of the paper's two sets; with `split`, the rows of that split.

    The CSV has the columns `file` (relative to the CSV) and `emotion`, and may have `quadrant`, `group`, `source` and `split`; commas,
    semicolons or tabs separate them. DeepEmotion is known by its folders `awe` and `disgust`, and loses its placeholders; the mood subset
    of AudioSet by its `ontology.json` (`published.audioset_clips`). What is left out is counted and told to `note`. Raises LabelError, with
    file and line for a row that cannot be used; and when nothing is left.
    """
    if not os.path.isdir(path):
        items = _read_csv(path, note)
    elif published.is_audioset(path):
        clips = published.audioset_clips(path, note)
        items = [LabelledItem(clip.path, clip.emotion, frozenset((clip.emotion,)), clip.video, where=clip.where) for clip in clips]
    else:
        items = _read_folder(path, note)
    return of_split(items, split, path)


def of_split(items: Sequence[LabelledItem], split: str, path: str) -> list[LabelledItem]:
    """The items of one split, or all where it is empty. Raises LabelError where there are none; `path` is that of the labels."""
    chosen = [item for item in items if not split or item.split == split]
    if not chosen:
        if not items and os.path.isdir(path):
            raise LabelError(
                f"{path} has no labelled files", "it takes a subfolder for each emotion, such as happy or sad, with files in it"
            )
        splits = ", ".join(sorted({item.split or "(none)" for item in items}))
        raise LabelError(f"{path} has no rows" + (f" of the split {split!r}" if split else ""), f"its splits: {splits}" if splits else "")
    return chosen


def _read_csv(path: str, note: Tell | None) -> list[LabelledItem]:
    columns, rows = csv_rows(path)
    missing = {"file", "emotion"} - set(columns)
    if missing:
        raise LabelError(f"{path}: the first line has no column {' and '.join(sorted(missing))}", "a labels CSV begins with: file,emotion")
    base = os.path.dirname(os.path.abspath(path))
    items: dict[str, LabelledItem] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if None in row.values() or None in row:
            raise LabelError(f"{where}: the number of fields is not that of the first line")
        emotion, emotions = _emotions(row["emotion"], row.get("quadrant", ""), where)
        file = _file(base, row["file"], where)
        item = LabelledItem(file, emotion, emotions, row.get("group") or file, row.get("source", ""), row.get("split", "").strip(), where)
        known = items.setdefault(os.path.normpath(file), item)
        if (known.emotion, known.emotions, known.split) != (emotion, emotions, item.split):
            raise LabelError(f"{where}: {row['file']} has another emotion or split than in line {known.where.rpartition(' ')[2]}")
    if note and len(items) < len(rows):
        note(f"{path}: {len(rows) - len(items):,} of {len(rows):,} rows name a file that an earlier one names, and are left out")
    return list(items.values())


def csv_rows(path: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names of the columns, in lower case, and each row with the number of its last line.

    Commas, semicolons or tabs separate them. A row of another length has None among its keys or values. Raises LabelError.
    """
    text = csv_text(path)
    first_line = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first_line.count))
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        return columns, [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise LabelError(f"{path}, line {reader.line_num}: {error}", "is there a quotation mark that never ends?") from error


def csv_text(path: str) -> str:
    """Line ends are LF. Raises LabelError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}") from error
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    hint = "save it as CSV in UTF-8"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2]:
        raise LabelError(f"{path}, line 1 is UTF-16, not UTF-8", hint)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelError(f"{path}, line {line} is not UTF-8: {error.reason}", hint) from error


def _file(base: str, name: str, where: str) -> str:
    file = os.path.join(base, name)
    if os.path.isfile(file):
        return file
    if not name.strip():
        raise LabelError(f"{where}: the column file is empty")
    if os.path.isdir(file):
        raise LabelError(f"{where}: {name} is a folder, not a file")
    raise LabelError(f"{where}: there is no file {name}", f"files are looked for in {base}, the folder of the CSV")


def _emotions(word: str, quadrant: str, where: str) -> tuple[str, frozenset[str]]:
    word = word.strip().lower()
    emotion = PHOTO_WORDS.get(word, word)
    if emotion in EMOTIONS:
        return emotion, frozenset((emotion,))
    if emotion in PARTIAL_WORDS:
        return "", PARTIAL_WORDS[emotion]
    if emotion:
        raise LabelError(f"{where}: unknown emotion {word!r}", f"known: {', '.join((*EMOTIONS, *PHOTO_WORDS, *PARTIAL_WORDS))}")
    if quadrant.strip() not in QUADRANTS:
        raise LabelError(f"{where}: neither an emotion nor a quadrant (Q1 to Q4)")
    return "", QUADRANTS[quadrant.strip()]


def _read_folder(path: str, note: Tell | None) -> list[LabelledItem]:
    try:
        folders = [entry for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}") from error
    items, words = [], {}
    for folder in sorted(folders, key=lambda folder: folder.name):
        emotion, emotions = _emotions(folder.name, "", folder.path)
        walk = scan(folder.path)
        if walk.unreadable:
            raise LabelError("{} cannot be read: {}".format(*walk.unreadable[0]))
        items += [LabelledItem(file.path, emotion, emotions, file.path) for file in walk.files]
        words.update({file.path: folder.name.lower() for file in walk.files})
    if published.is_deepemotion(folder.name.lower() for folder in folders):
        gone = published.placeholders(words)
        items = [item for item in items if item.path not in gone]
        if note and gone:
            note(f"{path}: {len(gone):,} files are placeholders of photos that are no longer available, and are left out")
    return items


# --- splits ------------------------------------------------------------------------------------------------------------------------------


def assign_splits(
    items: Sequence[LabelledItem],
    seed: int,
    path: str,
    note: Tell | None = None,
    dropped: Callable[[str, str], None] | None = None,
) -> list[LabelledItem]:
    """The items with a split each: their own where any has one, or else drawn by `seed`, 80/10/10 of each emotion (paper, section 3.1).

    What is drawn depends on neither the order of the items nor the folder that they are all in. A group is never shared out, and files with
    the same bytes are in one group (`distinct`). Every emotion, and every set of emotions that items may be, with three groups at least has
    one in each split; with fewer it is trained on alone. Emotions that a split lacks are told to `note`. `path` is that of the labels, for
    messages.

    Raises LabelError where a split is drawn empty; for a name that is none of SPLITS; where a group, or the same bytes, have two splits.
    """
    kept = distinct(items, path, dropped)
    if any(item.split for item in items):
        _check_splits(kept)
        unnamed = sum(not item.split for item in kept)
        if note and unnamed:
            note(f"{path}: {unnamed:,} of {len(kept):,} rows name no split and are in none")
    else:
        kept = _drawn(kept, seed, path)
    if note:
        for lack in _lacks(kept):
            note(f"{path}: {lack}")
    return kept


def distinct(items: Sequence[LabelledItem], path: str, dropped: Callable[[str, str], None] | None = None) -> list[LabelledItem]:
    """The items, those with the same bytes in one group. Where their emotions exclude each other they are left out and told to
    `dropped(path, reason)`. Raises LabelError where none is left; `path` is that of the labels.
    """
    same = identical(item.path for item in items)
    kept = _merged(_consistent(items, same, dropped), same)
    if not kept:
        raise LabelError(f"{path}: all of its files are copies of one another with different emotions")
    return kept


def _consistent(
    items: Sequence[LabelledItem], same: Iterable[Sequence[str]], dropped: Callable[[str, str], None] | None
) -> list[LabelledItem]:
    by_path = {item.path: item for item in items}
    reasons: dict[str, str] = {}
    for paths in same:
        first, *others = (by_path[path] for path in paths)
        other = next((item for item in others if item.emotions != first.emotions), first)
        if other is not first and not first.emotions.intersection(*(item.emotions for item in others)):
            reason = f"the same bytes are labelled {first.stratum} as {first} and {other.stratum} as {other}"
            reasons.update(dict.fromkeys(paths, reason))
    if dropped:
        for path, reason in reasons.items():
            dropped(path, reason)
    return [item for item in items if item.path not in reasons]


def _merged(items: Sequence[LabelledItem], same: Iterable[Sequence[str]]) -> list[LabelledItem]:
    """Groups that share the bytes of a file become one, named like the first of them."""
    group_of = {item.path: item.group for item in items}
    above = {group: group for group in group_of.values()}

    def top(group: str) -> str:
        while above[group] != group:
            above[group] = group = above[above[group]]
        return group

    for paths in same:
        tops = {top(group_of[path]) for path in paths if path in group_of}
        above.update(dict.fromkeys(tops, min(tops, default="")))
    return [replace(item, group=top(item.group)) for item in items]


def _check_splits(items: Iterable[LabelledItem]) -> None:
    first: dict[str, LabelledItem] = {}
    for item in items:
        if not item.split:
            continue
        if item.split not in SPLITS:
            raise LabelError(f"{item.where or item.path}: unknown split {item.split!r}", f"splits are {', '.join(SPLITS)}")
        known = first.setdefault(item.group, item)
        if known.split != item.split:
            raise LabelError(
                f"{item} is in the split {item.split}, but {known} in {known.split}: they are of one group, or the same bytes",
                "give them one split, or drop one of them: what was trained on cannot be measured on",
            )


def _drawn(items: Sequence[LabelledItem], seed: int, path: str) -> list[LabelledItem]:
    members = defaultdict[str, list[LabelledItem]](list)
    for item in items:
        members[item.group].append(item)
    strata = defaultdict[str, list[str]](list)
    for group in sorted(members):
        strata[_stratum(members[group])].append(group)
    split_of: dict[str, str] = {}
    for groups in strata.values():
        drawn = np.random.default_rng(seed).permutation(len(groups))  # afresh: a file of one emotion more or less does not move another's
        order = [groups[i] for i in drawn]
        split_of.update(zip(order, _shared_out(np.array([len(members[group]) for group in order])), strict=True))
    empty = [split for split in SPLITS if split not in split_of.values()]
    if empty:
        raise LabelError(
            f"{path}: nothing is left for {' and '.join(empty)}: no emotion has {FEWEST_EXAMPLES} photos or songs",
            f"label more, or name the splits yourself, in a column split: {', '.join(SPLITS)}",
        )
    return [replace(item, split=split_of[item.group]) for item in items]


def _stratum(members: Iterable[LabelledItem]) -> str:
    """That of most of a group's items; those with an emotion of their own go first."""
    counts = Counter((bool(item.emotion), item.stratum) for item in members)
    return min(counts, key=lambda key: (not key[0], -counts[key], key[1]))[1]


def _shared_out(sizes: np.ndarray) -> list[str]:
    """A split for each group of one stratum, in the order drawn: that in whose share of the stratum's items its middle lies."""
    if len(sizes) < FEWEST_EXAMPLES:
        return ["train"] * len(sizes)
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    bounds = np.cumsum(list(HELD_OUT.values()))
    splits = np.array([*HELD_OUT, "train"])[np.searchsorted(bounds, middles, side="right")]
    for split in HELD_OUT:
        if split not in splits:  # the smallest group that is not the only one of its split
            counts = Counter(splits.tolist())
            givers = [i for i, giver in enumerate(splits) if counts[giver] > 1]
            splits[min(givers, key=lambda i: sizes[i])] = split
    return [str(split) for split in splits]


def _lacks(items: Sequence[LabelledItem]) -> Iterable[str]:
    used = [split for split in SPLITS if any(item.split == split for item in items)]
    for emotion in EMOTIONS:
        own = [item for item in items if item.emotion == emotion and item.split]
        lacking = [split for split in used if all(item.split != split for item in own)]
        if own and lacking:
            count = len({item.group for item in own})
            examples = "one example" if count == 1 else f"{count:,} examples"
            why = "it cannot be learnt" if "train" in lacking else "it cannot be measured there"
            yield f"{emotion} has {examples}, none in {' and '.join(lacking)}: {why}"
