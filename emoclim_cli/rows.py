"""The rows of the library's tables, as Arrow columns and back.

Paths are bytes there, and vectors are lists of fixed size. pyarrow is imported here and in library.py only.
Shape letters: n rows, d feature dim, e emotion dim.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emoclim_cli.media import MediaItem, MediaKind, item_id
from emoclim_cli.sketches import Sketch
from emoclim_cli.snapshot import ID_DTYPE, KIND_DTYPE, SKETCHED_ROWS, Texts, View

SKIPPED = "skipped"
"""The table of files that could not be used. The others are named `<kind>.<encoder>.<digest>`."""
ITEM_TEXTS = ("title", "artist", "album", "taken")


@dataclass(frozen=True, slots=True)
class Row:
    """An item with what was computed for it."""

    item: MediaItem
    content: str
    """`media.content_digest`."""
    features: np.ndarray
    """(d,) float32."""
    emotion: np.ndarray
    """(e,) float32, unit norm, made by the library's space."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    path: str
    kind: MediaKind
    size: int
    mtime_ns: int
    reason: str


def item_columns(d: int, e: int) -> Any:
    """The Arrow schema of a table of items."""
    import pyarrow as pa

    types = {"id": pa.string(), "path": pa.binary(), "size": pa.int64(), "mtime_ns": pa.int64(), "content": pa.string()}
    types |= {**dict.fromkeys(ITEM_TEXTS, pa.string()), "duration_s": pa.float64(), "gone": pa.bool_()}
    types |= {"features": pa.list_(pa.float32(), d), "emotion": pa.list_(pa.float32(), e), "space": pa.string()}
    return pa.schema(types)


def item_table(rows: Sequence[Row], space_id: str, names: Sequence[str]) -> Any:
    """Rows as an Arrow table with columns in the order of `names`; the last of several rows of one path counts."""
    import pyarrow as pa

    latest = {row.item.id: row for row in rows}
    rows = list(latest.values())
    columns: dict[str, Any] = {
        "id": list(latest),
        "path": [os.fsencode(row.item.path) for row in rows],
        "size": [row.item.size for row in rows],
        "mtime_ns": [row.item.mtime_ns for row in rows],
        "content": [row.content for row in rows],
        **{name: [_storable(getattr(row.item, name)) for row in rows] for name in ITEM_TEXTS},
        "duration_s": [row.item.duration_s for row in rows],
        "gone": [False] * len(rows),
        "features": vector_column(np.stack([row.features for row in rows])),
        "emotion": vector_column(np.stack([row.emotion for row in rows])),
        "space": [space_id] * len(rows),
    }
    schema = item_columns(rows[0].features.size, rows[0].emotion.size)
    return pa.table({name: columns[name] for name in names}, pa.schema([schema.field(name) for name in names]))


def rows_of(table: Any, kind: MediaKind) -> dict[str, Row]:
    """A table of items with all its columns -> rows by id."""
    features, emotion = vectors(table["features"]), vectors(table["emotion"])
    found = {}
    for i, row in enumerate(table.drop_columns(["features", "emotion"]).to_pylist()):
        details = {key: row[key] for key in (*ITEM_TEXTS, "duration_s")}
        item = MediaItem(os.fsdecode(row["path"]), kind, row["size"], row["mtime_ns"], **details)
        found[row["id"]] = Row(item, row["content"], features[i], emotion[i])
    return found


def skipped_table(files: Sequence[SkippedFile]) -> Any:
    """Skipped files as an Arrow table; the last of several of one path counts."""
    import pyarrow as pa

    latest = {item_id(file.path): file for file in files}
    files = list(latest.values())
    columns = {
        "id": pa.array(latest, pa.string()),
        "path": pa.array([os.fsencode(file.path) for file in files], pa.binary()),
        "kind": pa.array([str(file.kind) for file in files], pa.string()),
        "size": pa.array([file.size for file in files], pa.int64()),
        "mtime_ns": pa.array([file.mtime_ns for file in files], pa.int64()),
        "reason": pa.array([_storable(file.reason) for file in files], pa.string()),
    }
    return pa.table(columns)


def _storable(text: str) -> str:
    """Text as UTF-8 can hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def vector_column(matrix: np.ndarray) -> Any:
    """(n, width) -> a column of fixed-size lists."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix, np.float32).ravel()), matrix.shape[1])


def vectors(column: Any) -> np.ndarray:
    """(n, width) float32 of a column of fixed-size lists; rows of null are zeros."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width = column.type.list_size
    values = column.values.slice(column.offset * width, len(column) * width).fill_null(0).to_numpy(zero_copy_only=False)
    matrix: np.ndarray = values.reshape(-1, width)
    if column.null_count:
        matrix = np.where(column.is_valid().to_numpy(zero_copy_only=False)[:, None], matrix, np.float32(0))
    return matrix


def view_of(name: str, table: Any) -> View:
    """A table without its features -> a view, sorted by id.

    Copies whole columns: Python objects for a million rows would fill gigabytes.
    """
    order = np.argsort(_ids(table["id"]))
    n, names = table.num_rows, set(table.schema.names)
    spaces, space_index = np.zeros(0, "U1"), np.full(n, -1, np.int32)
    emotion = np.zeros((n, 0), np.float32)
    if "emotion" in names:
        emotion = _ordered(table["emotion"], order)
        codes = table["space"].fill_null("").combine_chunks().dictionary_encode()
        spaces = np.array(codes.dictionary.to_pylist(), dtype=str)
        space_index = np.where(table["emotion"].is_valid().to_numpy(), codes.indices.to_numpy(), -1).astype(np.int32)[order]
        table = table.drop_columns(["emotion", "space"])
    table = table.combine_chunks().take(order)
    kinds = table["kind"].to_pylist() if name == SKIPPED else [name.partition(".")[0]]
    kind = np.broadcast_to(np.array(kinds, KIND_DTYPE), n)
    return View(
        ids=_ids(table["id"]),
        kind=kind,
        size=table["size"].to_numpy(),
        mtime_ns=table["mtime_ns"].to_numpy(),
        gone=table["gone"].to_numpy() if "gone" in names else np.zeros(n, bool),
        content=_ids(table["content"]) if "content" in names else np.zeros(n, ID_DTYPE),
        duration_s=table["duration_s"].to_numpy() if "duration_s" in names else np.zeros(n),
        space_index=space_index,
        spaces=spaces,
        emotion=emotion,
        path_bytes=_texts(table["path"]),
        details={name: _texts(table[name]) for name in ("reason", *ITEM_TEXTS) if name in names},
        sketch=Sketch.of(emotion) if emotion.shape[1] and n >= SKETCHED_ROWS else None,
    )


def _ordered(column: Any, order: np.ndarray) -> np.ndarray:
    """`vectors(column)[order]`, with one copy of the vectors in place of three: they are most of a table."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    matrix = np.empty((len(order), column.type.list_size), np.float32)
    start = 0
    for chunk in column.chunks:
        matrix[place[start : start + len(chunk)]] = vectors(chunk)
        start += len(chunk)
    return matrix


def _texts(column: Any) -> Texts:
    """A column of strings or bytes, null as empty."""
    import pyarrow as pa

    blobs, lengths = [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        large = chunk.cast(pa.large_binary()).fill_null(b"")
        _, offsets, data = large.buffers()
        ends = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
        if len(large) and data is not None:
            blobs.append(np.frombuffer(data, np.uint8)[ends[0] : ends[-1]])
        lengths.append(np.diff(ends))
    return Texts(np.concatenate(blobs), np.cumsum(np.concatenate(lengths)))


_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def _ids(column: Any) -> np.ndarray:
    """A column of ids, 32 hex digits each -> (n,) of ID_DTYPE. Raises ValueError for what is no such digit."""
    digits = _DIGITS[_texts(column).blob].reshape(len(column), 2 * ID_DTYPE.itemsize)
    if digits.size and digits.max() > 15:
        raise ValueError("an id is not of hex digits")
    return np.ascontiguousarray(digits[:, ::2] << 4 | digits[:, 1::2]).view(ID_DTYPE)[:, 0]
