"""Files that hold the same bytes, whatever they are called."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b, file_digest

SAMPLE_BYTES = 4 << 10
"""Read at the start, the middle and the end of each of several files of one size: uncompressed clips of one length are all of one size."""


def identical(paths: Iterable[str]) -> list[list[str]]:
    """The sets, of two or more, of files with the same bytes, each sorted; empty files and those that cannot be read are in none.

    Sizes are compared first, then samples, and all bytes only of files that agree in both.
    """
    together = [sorted(set(paths))]
    for key in (_size, _sample, _bytes):
        together = [part for files in together for part in _parted(files, key)]
    return together


def _parted(paths: Iterable[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    parts = defaultdict[Hashable, list[str]](list)
    for path in paths:
        try:
            parts[key(path)].append(path)
        except OSError:  # the same error comes when it is loaded, and is told then
            continue
    parts.pop(None, None)
    return [part for part in parts.values() if len(part) > 1]


def _size(path: str) -> int | None:
    """None for what has nothing to compare: an empty file, or a pipe, which would be waited for."""
    status = os.stat(path)
    return status.st_size or None if stat.S_ISREG(status.st_mode) else None


def _sample(path: str) -> bytes:
    digest = blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        end = max(os.fstat(file.fileno()).st_size - SAMPLE_BYTES, 0)
        for offset in (0, end // 2, end):
            file.seek(offset)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file_digest(file, blake2b).digest()
