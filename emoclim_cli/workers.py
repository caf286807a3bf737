"""One function on many files: on threads, or in processes of their own, where a decoder that crashes or hangs costs one file."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LEAST_MEMORY, MOST_MEMORY = 2 << 30, 8 << 30
"""Bytes that a process may take: half of the machine's memory, within these. The largest photos (250 megapixels) take 2 GB."""


@dataclass(frozen=True, slots=True)
class Lost(Generic[T]):
    """A call that gave no result: its process crashed, or did not end in time."""

    argument: T
    reason: str


def on_threads(function: Callable[[T], R], arguments: Iterable[T], jobs: int, window: int) -> Generator[R, None, None]:
    """Results in order; at most `window` calls are under way or waiting to be taken.

    Closing it drops the calls that have not begun and waits for those that have.
    """
    pool = ThreadPoolExecutor(jobs, "emoclim")
    pending: deque[Future[R]] = deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(function, argument))
            if len(pending) > window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(
    function: Callable[[T], R], arguments: Iterable[T], jobs: int, window: int, seconds: Callable[[T], float]
) -> Generator[R | Lost[T], None, None]:
    """As `on_threads`, but each call is in one of `jobs` processes and may take `seconds` of its argument; no exception passes between.

    `function`, arguments and results are pickled. Closing it ends the processes. They take no Ctrl-C: that is their parent's to answer.
    """
    import multiprocessing

    from pebble import ProcessExpired, ProcessPool

    # Not forked: a fork of a process with threads (ours, torch's, LanceDB's) can hang before its first line.
    pool = ProcessPool(jobs, initializer=_begin, context=multiprocessing.get_context("spawn"))
    pending: deque[tuple[T, Future[R]]] = deque()

    def taken() -> R | Lost[T]:
        argument, future = pending.popleft()
        try:
            return future.result()
        except TimeoutError:
            return Lost(argument, f"could not be read within {seconds(argument):.0f} s")
        except ProcessExpired as error:
            return Lost(argument, f"crashed its decoder ({_ending(error.exitcode)})")

    try:
        for argument in arguments:
            pending.append((argument, pool.schedule(function, (argument,), timeout=seconds(argument))))
            if len(pending) > window:
                yield taken()
        while pending:
            yield taken()
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _ending(code: int) -> str:
    if code < 0 and -code in set(signal.Signals):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _begin() -> None:
    """In each process, first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others remark there, past Python, on what is damaged
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = min(max(half, LEAST_MEMORY), MOST_MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
