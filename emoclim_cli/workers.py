"""One function on many files: on threads, or in processes of their own, where a decoder that crashes or hangs costs one file."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from emoclim_cli.errors import WorkerError

T = TypeVar("T")
R = TypeVar("R")

MOST_BREAKS = 3
"""One after the other, without a result between them."""

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
    """As `on_threads`, but each call is in one of `jobs` processes and may take `seconds` of its argument.

    A call that is lost is made once more before it is given up: while a program is suspended its time runs on, and a system that is out of
    memory ends whom it likes. `function`, arguments and results are pickled; exceptions come through. Closing it ends the processes. They
    take no Ctrl-C: that is their parent's to answer. Raises WorkerError where processes end before they have done anything.
    """
    calls = _Calls(function, jobs, seconds)
    try:
        for argument in arguments:
            calls.add(argument)
            if len(calls.pending) > window:
                yield calls.take()
        while calls.pending:
            yield calls.take()
    finally:
        calls.end()


@dataclass(slots=True)
class _Call(Generic[T, R]):
    argument: T
    future: Future[R] = field(default_factory=Future)
    lost: bool = False
    """Once already."""


class _Calls(Generic[T, R]):
    """Calls under way in a pool of processes, which is begun again where it breaks: as when a process ends between two calls."""

    def __init__(self, function: Callable[[T], R], jobs: int, seconds: Callable[[T], float]) -> None:
        self._function, self._jobs, self._seconds = function, jobs, seconds
        self.pending: deque[_Call[T, R]] = deque()
        self._breaks = 0  # since the last result
        self._pool = _pool(jobs)

    def add(self, argument: T) -> None:
        self.pending.append(_Call(argument))
        self._schedule(self.pending[-1])

    def take(self) -> R | Lost[T]:
        """The result of the oldest call."""
        from pebble import ProcessExpired

        call = self.pending[0]
        while True:
            try:
                result: R | Lost[T] = call.future.result()
                break
            except TimeoutError:
                reason = f"could not be read within {self._seconds(call.argument):.0f} s"
            except ProcessExpired as error:
                reason = f"crashed its decoder ({_ending(error.exitcode)})"
            except (BrokenProcessPool, CancelledError):
                self._begin_again()
                continue
            if call.lost:
                result = Lost(call.argument, reason)
                break
            call.lost = True
            self._schedule(call)
        self.pending.popleft()
        self._breaks = 0
        return result

    def end(self) -> None:
        self._pool.stop()
        self._pool.join()

    def _schedule(self, call: _Call[T, R]) -> None:
        try:
            call.future = self._pool.schedule(self._function, (call.argument,), timeout=self._seconds(call.argument))
        except RuntimeError:  # it is broken
            self._begin_again()

    def _begin_again(self) -> None:
        self.end()
        self._breaks += 1
        if self._breaks > MOST_BREAKS:
            raise WorkerError("the processes that read files end as soon as they begin", "in a script of yours: if __name__ == '__main__':")
        self._pool = _pool(self._jobs)
        for call in self.pending:
            future = call.future
            if not future.done() or future.cancelled() or isinstance(future.exception(), BrokenProcessPool):
                self._schedule(call)


def _pool(jobs: int) -> Any:
    import multiprocessing
    from multiprocessing import resource_tracker

    from pebble import ProcessPool

    mask = getattr(signal, "pthread_sigmask", None)
    if mask is None:  # Windows
        return ProcessPool(jobs, initializer=_begin, context=multiprocessing.get_context("spawn"))
    resource_tracker.ensure_running()  # which would let Ctrl-C through again
    mask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # Not forked: a fork of a process with threads (ours, torch's, LanceDB's) can hang before its first line.
        pool = ProcessPool(jobs, initializer=_begin, context=multiprocessing.get_context("spawn"))
        assert pool.active  # its threads and processes begin here, and block what this thread blocks
    finally:
        mask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return pool


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
    with suppress(ValueError, OSError):  # macOS refuses
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
