"""Frozen features of labelled photos and music, computed once and cached.

Shape letters: n items, w windows (of all items together), d feature dim, c emotions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import LabelError, UnreadableMedia
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind

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


def labelled_features(
    items: Sequence[LabelledItem],
    encoder: Encoder,
    cache: Path,
    *,
    jobs: int = 2,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
    unusable: Callable[[str, str], None] | None = None,
) -> LabelledFeatures:
    """Features of labelled files, through a cache that notices changed files (size, mtime) and another encoder.

    A file that cannot be read is left out and told to `unusable(path, reason)`. Raises LabelError where none is left.
    """
    cache.mkdir(parents=True, exist_ok=True)
    parts: list[np.ndarray] = []
    counts: list[int] = []
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(items), CHUNK_ITEMS):
            chunk = items[start : start + CHUNK_ITEMS]
            windows, chunk_counts, reasons = _cached_chunk(chunk, encoder, cache, pool, batch_size)
            parts.append(windows)
            counts.extend(chunk_counts)
            for path, reason in reasons:
                if unusable:
                    unusable(path, reason)
            if progress:
                progress(start + len(chunk), len(items))
    kept = tuple(item for item, count in zip(items, counts, strict=True) if count)
    if not kept:
        raise LabelError(f"none of the {len(items)} labelled files can be read")
    starts = np.concatenate([[0], np.cumsum([count for count in counts if count])]).astype(np.int64)
    return LabelledFeatures(encoder.info.kind, np.concatenate(parts), starts, kept)


def _cached_chunk(
    chunk: Sequence[LabelledItem], encoder: Encoder, cache: Path, pool: ThreadPoolExecutor, batch_size: int
) -> tuple[np.ndarray, list[int], list[tuple[str, str]]]:
    key = blake2b(encoder.info.digest.encode(), digest_size=16)
    for item in chunk:
        key.update(os.fsencode(item.path) + f":{_size_and_time(item.path)};".encode())
    file = cache / f"{key.hexdigest()}.npz"
    saved = _read_cached(file)
    if saved:
        return saved
    reasons: list[tuple[str, str]] = []
    lasting = True
    counts = [0] * len(chunk)
    parts = [np.zeros((0, encoder.info.dim), np.float32)]
    futures = [pool.submit(encoder.load, item.path) for item in chunk]
    for start in range(0, len(chunk), batch_size):
        samples, owners = [], []
        for index in range(start, min(start + batch_size, len(chunk))):
            try:
                samples.append(futures[index].result())
                owners.append(index)
            except (UnreadableMedia, OSError) as error:
                reasons.append((_shown(chunk[index].path), str(error)))
                lasting = lasting and isinstance(error, UnreadableMedia)
        if samples:
            for index, windows in zip(owners, encoder.encode_windows(samples), strict=True):
                if not np.isfinite(windows).all():
                    reasons.append((_shown(chunk[index].path), "its features are not finite"))
                    continue
                counts[index] = len(windows)
                parts.append(windows)
    windows = np.concatenate(parts)
    if not lasting:  # a disk or permissions may be mended without a trace in size or time
        return windows, counts, reasons
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "wb") as out:
        np.savez(out, windows=windows, counts=np.array(counts), reasons=np.array(reasons, dtype=np.str_).reshape(-1, 2))
    os.replace(temporary, file)
    return windows, counts, reasons


def _size_and_time(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # the same error comes when it is loaded, and is told then
        return None
    return status.st_size, status.st_mtime_ns


def _read_cached(file: Path) -> tuple[np.ndarray, list[int], list[tuple[str, str]]] | None:
    """None where the file is missing or, after a power cut, damaged."""
    try:
        with open(file, "rb") as raw, np.load(raw) as saved:
            return saved["windows"], saved["counts"].tolist(), [(path, reason) for path, reason in saved["reasons"].tolist()]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
