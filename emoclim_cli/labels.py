"""Labelled photos and music as they lie on disk: which file carries which emotion, and which files belong together."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from emoclim_cli.emotions import EMOTIONS, PHOTO_WORDS, QUADRANTS
from emoclim_cli.errors import LabelError


@dataclass(frozen=True, slots=True)
class LabelledItem:
    path: str
    emotion: str
    """In the music vocabulary; empty where only the quadrant is known."""
    emotions: frozenset[str]
    """What it may be: its emotion alone, or those of its quadrant."""
    group: str
    """The song or the photo: rows of one group are one thing."""
    source: str = ""
    split: str = ""


def read_labels(path: str, split: str = "") -> list[LabelledItem]:
    """A labels CSV, or a folder with one subfolder per emotion; with `split`, the rows of that split.

    The CSV has the columns `file` (relative to the CSV) and `emotion`, and may have `quadrant`, `group`, `source` and `split`. Raises
    LabelError, with file and line for an unknown emotion or quadrant or a missing file; and when nothing is left.
    """
    items = _read_folder(path) if os.path.isdir(path) else _read_csv(path)
    chosen = [item for item in items if not split or item.split == split]
    if not chosen:
        splits = ", ".join(sorted({item.split or "(none)" for item in items}))
        raise LabelError(f"{path} has no rows" + (f" of the split {split!r}" if split else ""), f"its splits: {splits}" if splits else "")
    return chosen


def _read_csv(path: str) -> list[LabelledItem]:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    reader = csv.DictReader(io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n")))
    try:
        columns, rows = reader.fieldnames or (), [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise LabelError(f"{path}, line {reader.line_num}: {error}", "is there a quotation mark that never ends?") from error
    missing = {"file", "emotion"} - set(columns)
    if missing:
        raise LabelError(f"{path}: the first line has no column {' and '.join(sorted(missing))}", "a labels CSV begins with: file,emotion")
    base = os.path.dirname(os.path.abspath(path))
    items = []
    for line, row in rows:
        where = f"{path}, line {line}"
        if None in row.values() or None in row:
            raise LabelError(f"{where}: the number of fields is not that of the first line")
        file = os.path.join(base, row["file"])
        emotion, emotions = _emotions(row["emotion"], row.get("quadrant", ""), where)
        if not os.path.isfile(file):
            raise LabelError(f"{where}: there is no file {row['file']}")
        items.append(LabelledItem(file, emotion, emotions, row.get("group") or file, row.get("source", ""), row.get("split", "")))
    return items


def _emotions(word: str, quadrant: str, where: str) -> tuple[str, frozenset[str]]:
    word = word.strip().lower()
    emotion = PHOTO_WORDS.get(word, word)
    if emotion in EMOTIONS:
        return emotion, frozenset((emotion,))
    if emotion:
        raise LabelError(f"{where}: unknown emotion {word!r}", f"known: {', '.join((*EMOTIONS, *PHOTO_WORDS))}")
    if quadrant.strip() not in QUADRANTS:
        raise LabelError(f"{where}: neither an emotion nor a quadrant (Q1 to Q4)")
    return "", QUADRANTS[quadrant.strip()]


def _read_folder(path: str) -> list[LabelledItem]:
    items = []
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith("."):
            emotion, emotions = _emotions(entry.name, "", entry.path)
            files = [file for file in os.scandir(entry.path) if file.is_file() and not file.name.startswith(".")]
            items += [LabelledItem(file.path, emotion, emotions, file.path) for file in sorted(files, key=lambda file: file.name)]
    return items
