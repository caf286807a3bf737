"""The photos of a show in their order, each with its emotion vector. Those that the library does not hold are encoded now, and not kept.

Shape letters: n photos, e emotion dim.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from emoclim_cli import tags
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import UnreadableMedia, UsageError
from emoclim_cli.library import Library
from emoclim_cli.media import FileStat, MediaKind, kind_of_file, printable, scan
from emoclim_cli.projections import EmotionSpace

ORDERS = ("time", "name", "given")


@dataclass(frozen=True)
class Shots:
    paths: tuple[str, ...]
    vectors: np.ndarray
    """(n, e) unit norm."""
    times_s: np.ndarray
    """(n,) when each was taken, or else the time of the file, on the camera's clock."""
    dated: int = 0
    """How many say when they were taken."""
    encoded: int = 0
    """How many the library does not hold as they are now."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of photos that cannot be used."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Sequence[int]) -> Shots:
        chosen = list(rows)
        return replace(self, paths=tuple(self.paths[i] for i in chosen), vectors=self.vectors[chosen], times_s=self.times_s[chosen])


def gather(
    texts: Sequence[str],
    library: Library,
    space: EmotionSpace,
    encoder: Callable[[MediaKind], Encoder],
    *,
    order: str = "time",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Shots:
    """The photos that `texts` name, or that lie below the folders they name, each once.

    `order`: `time` (EXIF, or else the file's), `name`, or `given`: as in `texts`, a folder's by name. `encoder` is only called for photos
    that the library does not hold as they are now; `progress(done, total)` counts those. Photos that cannot be used are left out and
    listed. Raises UsageError for what is no photo and no folder, UnreadableMedia where no photo is left, ModelError.
    """
    if order not in ORDERS:
        raise UsageError(f"--order {printable(order)}: unknown", f"one of: {', '.join(ORDERS)}")
    files, skipped = _files(texts)
    if not files and not skipped:
        named = " and ".join(printable(text) for text in texts)
        raise UnreadableMedia(f"there are no photos in {named}", "name photos, or a folder that holds some")
    vectors: dict[str, np.ndarray] = {}
    taken: dict[str, str] = {}
    view = library.view(MediaKind.PHOTO)
    for file, row in zip(files, view.find([file.id for file in files]).tolist(), strict=True):
        if row >= 0 and view.current[row] and (view.size[row], view.mtime_ns[row]) == (file.size, file.mtime_ns):
            vectors[file.path] = view.emotion[row]
            taken[file.path] = view.detail(row, "taken")
    absent = [file for file in files if file.path not in vectors]
    if absent:
        vectors |= _encoded(absent, space, encoder(MediaKind.PHOTO), skipped, progress)
        read = [file.path for file in absent if file.path in vectors]
        with ThreadPoolExecutor() as pool:
            taken |= {path: found.taken for path, found in zip(read, pool.map(tags.read_photo_tags, read), strict=True)}
    usable = [file for file in files if file.path in vectors]
    if not usable:
        path, reason = skipped[0]
        raise UnreadableMedia(f"none of {len(skipped)} photos can be used; {printable(path)}: {reason}")
    shots = Shots(
        tuple(file.path for file in usable),
        np.stack([vectors[file.path] for file in usable]),
        np.array([_time_s(taken[file.path], file) for file in usable]),
        sum(bool(taken[file.path]) for file in usable),
        sum(file.path in vectors for file in absent),
        tuple(sorted(skipped)),
    )
    if order == "given":
        return shots
    return shots.take(sorted(range(len(shots)), key=lambda i: (shots.times_s[i] if order == "time" else 0.0, *_natural(shots.paths[i]))))


def _files(texts: Sequence[str]) -> tuple[list[FileStat], list[tuple[str, str]]]:
    """The photos, as they are named and below folders by name, and what cannot be read. Raises UsageError."""
    found: dict[str, FileStat] = {}
    skipped: list[tuple[str, str]] = []
    for text in texts:
        if not text:
            raise UsageError("an empty path", "name the folder; . is the current one")
        path = os.path.abspath(text)
        if not os.path.lexists(path):
            raise UsageError(f"{printable(text)}: there is no such file or folder", "name photos, or a folder that holds some")
        scanned = scan(path)
        skipped += scanned.unreadable
        for file in sorted(scanned.files, key=lambda file: _natural(file.path)):
            try:
                kind = kind_of_file(file.path)
            except OSError as error:
                skipped.append((file.path, error.strerror or str(error)))
                continue
            if kind is MediaKind.PHOTO:
                found.setdefault(file.path, file)
            elif file.path == path:
                hint = f"a show is made of photos; for this one: emoclim match {shlex.quote(printable(text))}"
                raise UsageError(f"{printable(text)} is no photo", hint)
    return list(found.values()), skipped


@dataclass(frozen=True, slots=True)
class _Bad:
    reason: str


def _encoded(
    files: Sequence[FileStat],
    space: EmotionSpace,
    encoder: Encoder,
    skipped: list[tuple[str, str]],
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """Path -> emotion vector; what cannot be read is added to `skipped`."""
    space.check_features(MediaKind.PHOTO, encoder.info.digest)
    vectors: dict[str, np.ndarray] = {}

    def load(path: str) -> object:
        try:
            return encoder.load(path)
        except UnreadableMedia as error:
            return _Bad(error.message)
        except OSError as error:
            return _Bad(error.strerror or str(error))

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), encoder.batch_size):
            progress(start, len(files))
            paths = [file.path for file in files[start : start + encoder.batch_size]]
            samples = dict(zip(paths, pool.map(load, paths), strict=True))
            skipped += [(path, sample.reason) for path, sample in samples.items() if isinstance(sample, _Bad)]
            good = [path for path in paths if not isinstance(samples[path], _Bad)]
            if good:
                features = encoder.encode([samples[path] for path in good])
                vectors |= zip(good, space.project(MediaKind.PHOTO, features), strict=True)
    progress(len(files), len(files))
    return vectors


def _time_s(taken: str, file: FileStat) -> float:
    """Seconds on the clock that the photo was taken by; a file's own time is read as local."""
    if taken:
        return (datetime.fromisoformat(taken) - datetime(1970, 1, 1)).total_seconds()
    try:
        local = datetime.fromtimestamp(file.mtime_ns / 1e9)
    except (OverflowError, ValueError, OSError):  # of a damaged disk: beyond what a calendar has
        return 0.0
    return (local - datetime(1970, 1, 1)).total_seconds()


DIGITS = re.compile("([0-9]+)")


def _natural(path: str) -> tuple[list[tuple[int, str]], bytes]:
    """Sorts IMG_9 before IMG_10; names that are alike but for case and leading zeros by their bytes."""
    parts: Iterable[str] = DIGITS.split(path.casefold())
    return [(int(part), "") if part.isascii() and part.isdecimal() else (-1, part) for part in parts], os.fsencode(path)
