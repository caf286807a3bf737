"""Libraries of any size for the benchmarks: real features repeated with noise, and files that are there but empty, or not there at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from emoclim_cli import indexing
from emoclim_cli.library import Library, Root, Row
from emoclim_cli.media import MediaItem, MediaKind
from emoclim_cli.projections import EmotionSpace

NOISE = 0.3
"""In standard deviations of each feature: such a copy is about as near to its original (cosine 0.99) as the nearest other real photo is."""
ROWS_PER_COMMIT = 10_000
FILES_PER_FOLDER = 500


def real_features(cache: Path, space: EmotionSpace, kind: MediaKind) -> np.ndarray:
    """(m, d) float32: what emoclim keeps of labelled files in its cache, one row a file; (0, d) where it keeps nothing."""
    found = [np.zeros((0, space.projections[kind].features_dim), np.float32)]
    for file in sorted((cache / "features" / space.digests[kind]).glob("*.npz")):
        with np.load(file) as saved:
            windows, counts = saved["windows"], saved["counts"]
        kept = counts > 0
        if kept.any():
            starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[kept]
            found.append((np.add.reduceat(windows, starts, axis=0) / counts[kept][:, None]).astype(np.float32))
    return np.concatenate(found)


def features(real: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(m, d) -> (n, d): real ones with noise, or noise alone where there are none."""
    noise = rng.standard_normal((n, real.shape[1]), dtype=np.float32)
    return real[rng.integers(0, len(real), n)] + NOISE * real.std(axis=0) * noise if len(real) else noise


def make(
    folder: Path,
    space: EmotionSpace,
    counts: Mapping[MediaKind, int],
    files: Path,
    real: Mapping[MediaKind, np.ndarray] | None = None,
    *,
    touch: bool = True,
) -> Library:
    """A library of so many items below `files`, which are empty files (`touch`) or none."""
    library = Library.create(folder)
    rng = np.random.default_rng(0)
    with library.writing():
        library.set_space(indexing.space_ref(space))
        for kind, n in counts.items():
            source = real[kind] if real else np.zeros((0, space.projections[kind].features_dim), np.float32)
            for start in range(0, n, ROWS_PER_COMMIT):
                numbers = range(start, min(start + ROWS_PER_COMMIT, n))
                batch = features(source, len(numbers), rng)
                items = [item(kind, i, files, touch=touch) for i in numbers]
                emotion = space.project(kind, batch)
                library.upsert(kind, [Row(items[j], f"{i:032x}", batch[j], emotion[j]) for j, i in enumerate(numbers)])
        library.set_roots([Root(str(files))])
        library.compact()
        library.snapshot()
    return library


def path_of(kind: MediaKind, number: int, files: Path) -> str:
    return str(files / kind.plural / f"{number // FILES_PER_FOLDER:04}" / f"{number:07}")


def item(kind: MediaKind, number: int, files: Path, *, touch: bool) -> MediaItem:
    path = path_of(kind, number, files)
    size = mtime_ns = 0
    if touch:
        if number % FILES_PER_FOLDER == 0:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
        status = os.stat(path)
        size, mtime_ns = status.st_size, status.st_mtime_ns
    details = (
        {"artist": f"Artist {number % 9973}", "album": f"Album {number // 12}", "duration_s": 200.5} if kind is MediaKind.MUSIC else {}
    )
    return MediaItem(path, kind, size, mtime_ns, title=f"Title {number}", **details)
