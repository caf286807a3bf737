"""Frozen features of labelled photos and music, computed once and cached.

Shape letters: n items, w windows (of all items together), d feature dim, c emotions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from emoclim_cli.emotions import EMOTIONS, MOOD_WORDS
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import LabelError, MissingDecoder, UnreadableMedia
from emoclim_cli.labels import LabelledItem, csv_rows
from emoclim_cli.media import MediaKind, printable

CHUNK_ITEMS = 128
"""Features are cached in files of this many items: what Ctrl-C can lose."""


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """Frozen features of labelled items, each a run of windows (a photo has one)."""

    kind: MediaKind
    windows: np.ndarray
    """(w, d) float32."""
    starts: np.ndarray
    """(n + 1,): item i owns the windows starts[i] to starts[i + 1]."""
    items: tuple[LabelledItem, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> np.ndarray:
        return np.array([item.emotion for item in self.items], np.str_)

    @property
    def groups(self) -> np.ndarray:
        return np.array([item.group for item in self.items], np.str_)

    @property
    def sources(self) -> np.ndarray:
        return np.array([item.source for item in self.items], np.str_)

    @property
    def owner(self) -> np.ndarray:
        """(w,): the item that each window belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def pooled(self) -> np.ndarray:
        """(n, d): the mean of each item's windows."""
        out: np.ndarray = np.add.reduceat(self.windows, self.starts[:-1], axis=0) / np.diff(self.starts)[:, None]
        return out.astype(np.float32)

    def emotion_sets(self, emotions: Sequence[str]) -> np.ndarray:
        """(n, c) float32, 1 where the item may have the emotion."""
        sets = [[emotion in item.emotions for emotion in emotions] for item in self.items]
        return np.array(sets, np.float32).reshape(len(self), len(emotions))

    def take(self, chosen: np.ndarray) -> LabelledFeatures:
        """The items of a boolean mask or of indices, in that order."""
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        parts = [self.windows[self.starts[i] : self.starts[i + 1]] for i in indices]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        windows = np.concatenate(parts) if parts else self.windows[:0]
        return LabelledFeatures(self.kind, windows, starts, tuple(self.items[i] for i in indices))


def read_features(path: str, kind: MediaKind, dim: int, note: Callable[[str], None] | None = None) -> LabelledFeatures:
    """A teacher: features that were computed elsewhere, of items or of the means of several, each with one emotion.

    A CSV with the columns `emotion` or `mood`, and f0, f1, ... for each of the `dim` numbers. Rows of a mood that is none of the seven
    emotions are counted and told to `note`. Raises LabelError, with file and line.
    """
    columns, table = csv_rows(path)
    needed = [f"f{i}" for i in range(dim)]
    word = next((name for name in ("emotion", "mood") if name in columns), "")
    if not word or not set(needed) <= set(columns) or f"f{dim}" in columns:
        raise LabelError(f"{path}: the first line has not the columns emotion (or mood) and f0 to f{dim - 1}, the encoder's features")
    source = os.path.splitext(os.path.basename(path))[0]
    rows, items, others = [], [], 0
    for line, row in table:
        where = f"{path}, line {line}"
        mood = (row[word] or "").strip().lower()
        emotion = MOOD_WORDS.get(mood, mood)
        if emotion not in EMOTIONS:
            others += 1
            continue
        try:
            with np.errstate(over="ignore"):
                rows.append(np.array([float(row[column]) for column in needed]).astype(np.float32))
        except (TypeError, ValueError) as error:
            raise LabelError(f"{where}: {error}", "every feature is a number") from error
        if not np.isfinite(rows[-1]).all():
            raise LabelError(f"{where}: a feature is not finite")
        items.append(LabelledItem(where, emotion, frozenset((emotion,)), where, source, "train", where))
    if not items:
        raise LabelError(f"{path}: no row has one of the emotions {', '.join(EMOTIONS)}")
    if others and note:
        note(f"{path}: {others:,} of {others + len(items):,} rows have a mood that is none of the seven emotions, and are left out")
    return LabelledFeatures(kind, np.stack(rows), np.arange(len(items) + 1), tuple(items))


def labelled_features(
    items: Sequence[LabelledItem],
    encoder: Encoder,
    cache: Path,
    *,
    jobs: int = 2,
    batch_size: int = 0,
    progress: Callable[[int, int], None] | None = None,
    unusable: Callable[[str, str], None] | None = None,
) -> LabelledFeatures:
    """Features of labelled files, through a cache that notices changed files (size, mtime) and another encoder.

    `batch_size` files are encoded together, 0: as many as suit the encoder.
    A file that cannot be read is left out and told to `unusable(path, reason)`. Raises LabelError where none is left.
    """
    folder = cache / encoder.info.digest
    folder.mkdir(parents=True, exist_ok=True)
    keys = [_key(item.path) for item in items]
    found = _read_cache(folder, set(keys))
    missing = {key: item.path for key, item in zip(keys, items, strict=True) if key not in found}
    done = len(items) - sum(key in missing for key in keys)
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(missing), CHUNK_ITEMS):
            if progress:
                progress(done + start, len(items))
            chunk = dict(list(missing.items())[start : start + CHUNK_ITEMS])
            encoded = _encode_chunk(chunk, encoder, pool, batch_size or encoder.batch_size)
            _write_chunk(folder, {key: part for key, part in encoded.items() if part.lasting})
            found.update(encoded)
    if progress:
        progress(len(items), len(items))
    for item, key in zip(items, keys, strict=True):
        if unusable and found[key].reason:
            unusable(printable(item.path), found[key].reason)
    kept = [(item, found[key].windows) for item, key in zip(items, keys, strict=True) if not found[key].reason]
    if not kept:
        raise LabelError(f"none of the {len(items)} labelled files can be read")
    starts = np.concatenate([[0], np.cumsum([len(windows) for _, windows in kept])]).astype(np.int64)
    return LabelledFeatures(encoder.info.kind, np.concatenate([windows for _, windows in kept]), starts, tuple(item for item, _ in kept))


@dataclass(frozen=True, slots=True)
class _Encoded:
    windows: np.ndarray
    """(w, d), w = 0 where the file could not be used."""
    reason: str = ""
    """Why it could not be used."""
    lasting: bool = True
    """Whether it holds as long as the file stays as it is."""


def _key(path: str) -> str:
    return blake2b(os.fsencode(path) + f":{_size_and_time(path)}".encode(), digest_size=16).hexdigest()


def _encode_chunk(chunk: Mapping[str, str], encoder: Encoder, pool: ThreadPoolExecutor, batch_size: int) -> dict[str, _Encoded]:
    """Key -> path in, key -> features out."""
    nothing = np.zeros((0, encoder.info.dim), np.float32)
    encoded: dict[str, _Encoded] = {}
    keys = list(chunk)
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    following = {key: pool.submit(encoder.load, chunk[key]) for key in batches[0]}
    for batch, next_batch in zip(batches, [*batches[1:], []], strict=True):
        # One batch ahead and no more: of long tracks a batch may be half a gigabyte.
        futures, following = following, {key: pool.submit(encoder.load, chunk[key]) for key in next_batch}
        samples, owners = [], []
        for key in batch:
            try:
                samples.append(futures.pop(key).result())
                owners.append(key)
            except (UnreadableMedia, OSError) as error:
                # A disk, permissions or a missing extra may be mended without a trace in size or time.
                encoded[key] = _Encoded(
                    nothing, str(error), lasting=isinstance(error, UnreadableMedia) and not isinstance(error, MissingDecoder)
                )
        if samples:
            for key, windows in zip(owners, encoder.encode_windows(samples), strict=True):
                finite = np.isfinite(windows).all()
                encoded[key] = _Encoded(windows) if finite else _Encoded(nothing, "its features are not finite")
    return encoded


def _write_chunk(folder: Path, encoded: Mapping[str, _Encoded]) -> None:
    if not encoded:
        return
    name = blake2b("".join(encoded).encode(), digest_size=16).hexdigest()
    temporary = folder / f"{name}.{os.getpid()}.tmp"
    parts = list(encoded.values())
    with open(temporary, "wb") as out:
        np.savez(
            out,
            keys=np.array(list(encoded)),
            windows=np.concatenate([part.windows for part in parts]),
            counts=np.array([len(part.windows) for part in parts]),
            reasons=np.array([part.reason for part in parts], dtype=np.str_),
        )
    os.replace(temporary, folder / f"{name}.npz")


def _read_cache(folder: Path, wanted: set[str]) -> dict[str, _Encoded]:
    found: dict[str, _Encoded] = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with open(file, "rb") as raw, np.load(raw) as saved:
                keys, windows, counts, reasons = (saved[name] for name in ("keys", "windows", "counts", "reasons"))
        except (OSError, ValueError, EOFError, KeyError, BadZipFile):  # what a power cut may leave
            continue
        parts = np.split(windows, np.cumsum(counts)[:-1])
        for key, part, reason in zip(keys.tolist(), parts, reasons.tolist(), strict=True):
            if key in wanted:
                found[key] = _Encoded(part, reason)
    return found


def _size_and_time(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # the same error comes when it is loaded, and is told then
        return None
    return status.st_size, status.st_mtime_ns
