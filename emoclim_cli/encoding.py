"""From files to features: `local` is the engine of one machine.

An engine takes a kind and tasks of that kind, and yields what came of them in batches, each task once. What it yields is committed before
it is asked for more.
Shape letters: n files, d feature dim.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from emoclim_cli.changes import Task
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import ModelError
from emoclim_cli.media import MediaItem, MediaKind
from emoclim_cli.projections import EmotionSpace
from emoclim_cli.reading import Failed, Loaded, failed, read, reason_of
from emoclim_cli.workers import Lost, in_processes, on_threads

PATIENCE_S, BYTES_PER_S = 120.0, 1 << 20
"""A file may take so long to be read, and as much longer as its size takes at this rate: less than any disk or network share has."""


@dataclass(frozen=True, slots=True)
class Encoded:
    task: Task
    item: MediaItem
    content: str
    features: np.ndarray
    """(d,) float32."""


Batch = list[Encoded | Failed]
Engine = Callable[[MediaKind, Sequence[Task]], Generator[Batch, None, None]]


def local(
    encoders: Callable[[MediaKind], Encoder], space: EmotionSpace, *, jobs: int = 4, batch_size: int = 0, apart: bool = True
) -> Engine:
    """Files are read in `jobs` processes while batches are encoded in the caller's thread; `batch_size` 0 is what suits the encoder.

    `encoders` is asked for an encoder only when its kind has files to encode. `apart=False`: files are read on threads of this process, by
    encoders whose `load` cannot be pickled; a decoder that crashes or hangs then takes all with it. Raises ModelError.
    """

    def engine(kind: MediaKind, tasks: Sequence[Task]) -> Generator[Batch, None, None]:
        encoder = encoders(kind)
        space.check_features(kind, encoder.info.digest)
        size = batch_size or encoder.batch_size
        reading = partial(read, encoder.load)
        window = max(jobs, size)  # files read ahead of the batch in work: bounds memory
        if apart:
            processes = max(1, min(jobs, len(tasks)))
            results: Generator[Loaded | Failed | Lost[Task], None, None] = in_processes(reading, tasks, processes, window, _patience_s)
        else:
            results = on_threads(reading, tasks, jobs, window)
        with closing(results):
            for batch in _batches(results, size):
                yield encode(encoder, batch)

    return engine


def _patience_s(task: Task) -> float:
    return PATIENCE_S + task.file.size / BYTES_PER_S


def _batches(results: Iterable[Any], size: int) -> Generator[list[Any], None, None]:
    batch: list[Any] = []
    for result in results:
        batch.append(result)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def encode(encoder: Encoder, batch: Sequence[Loaded | Failed | Lost[Task]]) -> Batch:
    """What was read, encoded. One sample that the network cannot take costs one file. Raises ModelError."""
    loaded = [one for one in batch if isinstance(one, Loaded)]
    features, errors = _features(encoder, [one.sample for one in loaded])
    done: Batch = []
    number = -1
    for one in batch:
        if isinstance(one, Lost):
            file = one.argument.file
            done.append(failed(one.argument, one.reason, file.size, file.mtime_ns))
        elif isinstance(one, Failed):
            done.append(one)
        elif (number := number + 1) in errors:
            done.append(failed(one.task, errors[number], one.item.size, one.item.mtime_ns))
        else:
            done.append(Encoded(one.task, one.item, one.content, features[number]))
    return done


def _features(encoder: Encoder, samples: Sequence[Any]) -> tuple[np.ndarray, dict[int, str]]:
    """(n, d) features, and for those samples that have none the reason."""
    features = np.zeros((len(samples), encoder.info.dim), np.float32)
    errors: dict[int, str] = {}
    try:
        if samples:
            features[:] = encoder.encode(samples)
    except ModelError:
        raise
    except Exception:  # noqa: BLE001 - one sample can spoil a batch: which?
        for i, sample in enumerate(samples):
            try:
                features[i] = encoder.encode([sample])[0]
            except ModelError:
                raise
            except Exception as error:  # noqa: BLE001
                errors[i] = reason_of(error)
    for i in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        errors.setdefault(i, "its features are not finite")
    return features, errors
