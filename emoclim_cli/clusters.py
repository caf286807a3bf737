"""Encoding on several machines: `on_ray` has Ray Data map the local engine over parts of the tasks, one worker to a machine.

Workers read and encode, and write nothing: whoever runs the engine commits. A worker that is lost (its process, or its machine) is started
again, elsewhere if need be, and so is the part it was at; what had come back of that part is not taken twice. Paths, and a space's own
weights, must be the same on all machines; each has its own cache of the published weights.
Shape letters: n files.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.util import find_spec
from typing import Any

from emoclim_cli.changes import Task
from emoclim_cli.encoders import Encoder
from emoclim_cli.encoders.devices import cores
from emoclim_cli.encoding import Batch, Engine, local
from emoclim_cli.errors import ClusterError, EmoclimError, MissingExtra
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace

FILES_PER_PART = 512
"""What a worker takes at a time, and what a lost one costs at most. Reader processes are begun for each part, which takes some seconds."""
PARTS_PER_WORKER = 4
"""Or smaller parts, so that all have something to do until the end."""
GRAIN = {False: 32, True: 256}
"""Without and with GPUs: where the caller leaves the size of batches open, parts are multiples of this, which all encoders' batches divide.
A file is then in a batch with the same others as on one machine, and the last bits of its features are the same."""
ADDRESS_PATIENCE_S = 5.0
STORE_BYTES = 200 << 20
"""Shared memory of a cluster of our own: results wait there, and they are small."""


class _Worker:
    """In a process of the cluster: the local engine, its encoder built once. Errors are handed on, for Ray would hide them in its own."""

    def __init__(self, settings: Any) -> None:
        import ray

        encoders, space, kind, jobs, batch_size = ray.get(settings[0])
        vars(sys.modules["__main__"]).pop("__file__", None)  # each reader process would import it first, and Ray with it
        self._kind = kind
        self._engine = local(cache(encoders), space, jobs=jobs or cores(), batch_size=batch_size)

    def __call__(self, rows: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        from ray import cloudpickle

        for part in rows["part"]:
            try:
                for batch in self._engine(self._kind, cloudpickle.loads(part)):
                    yield {"done": [cloudpickle.dumps(batch)]}
            except EmoclimError as error:
                yield {"done": [cloudpickle.dumps(error)]}


@contextmanager
def on_ray(
    encoders: Callable[[MediaKind], Encoder],
    space: EmotionSpace,
    *,
    address: str = "",
    workers: int = 0,
    jobs: int = 0,
    batch_size: int = 0,
    gpus: bool = True,
) -> Iterator[Engine]:
    """An engine that yields batches in whatever order they are done. The cluster is left, or, if it is our own, stopped, at the end.

    `encoders` is pickled, and called in each worker once. `address`: host:port of a cluster's head, `auto` for the one that this machine
    is part of, or nothing for a cluster of this machine's own. `workers`: 0 is one for each GPU, or else one for each machine. `jobs`:
    reader processes of each; 0 is one per core. Raises MissingExtra; the engine raises ClusterError, ModelError, MissingWeights.
    """
    if find_spec("ray") is None:
        raise MissingExtra("--engine ray needs the extra `ray`, and ray cannot be found", "pip install 'emoclim[ray]'")

    def engine(kind: MediaKind, tasks: Sequence[Task]) -> Generator[Batch, None, None]:
        with _interrupted_later():
            ray = _connected(address, workers)
            from ray import cloudpickle, data

            resources = ray.cluster_resources()
            on_gpus = int(resources.get("GPU", 0)) if gpus else 0
            machines = sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes())
            count = workers or on_gpus or max(1, machines)
            grain = batch_size or GRAIN[bool(on_gpus)]
            size = grain * -(-min(FILES_PER_PART, -(-len(tasks) // (count * PARTS_PER_WORKER))) // grain)
            parts = [{"part": cloudpickle.dumps(tasks[start : start + size])} for start in range(0, len(tasks), size)]
            settings = ray.put((encoders, space, kind, jobs, batch_size))  # held here, so that a worker that is begun again finds them
            context = data.DataContext.get_current()
            context.enable_progress_bars = False
            context.target_max_block_size = 1  # so that each batch is handed over when it is done, not with the rest of its part
            mapped = data.from_items(parts, override_num_blocks=len(parts)).map_batches(
                _Worker,
                fn_constructor_args=([settings],),
                batch_size=1,
                batch_format="numpy",
                compute=data.ActorPoolStrategy(size=min(count, len(parts))),
                num_cpus=1,  # a worker uses all cores; Ray spreads workers over machines
                num_gpus=1 if on_gpus else 0,
            )
        try:
            for block in mapped.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for one in block["done"]:
                    done: Batch | EmoclimError = cloudpickle.loads(one)
                    if isinstance(done, EmoclimError):
                        raise done
                    yield done
        except ray.exceptions.RayTaskError:  # a bug of ours: its traceback is in it
            raise
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray gave up: {str(error).strip().splitlines()[-1]}", "ray status; then again: emoclim index") from error

    with redirect_stdout(io.StringIO()):  # where Ray tells of lost workers; stdout is data
        try:
            yield engine
        finally:
            _leave()


def _connected(address: str, workers: int) -> Any:
    """The module `ray`, in touch with a cluster. Raises ClusterError."""
    if address and address != "auto":
        _check_address(address)
    _quieten_before()
    import ray
    import ray.data

    if ray.is_initialized():
        return ray
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    own = {} if address else {"num_cpus": max(cores(), workers), "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        with _nothing_said():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ClusterError(f"no Ray cluster can be used {where}: {error}", "ray status; ray start --head begins one") from error
    return ray


def _check_address(address: str) -> None:
    """Ray itself would try for minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ClusterError(f"{address!r} is no address of a Ray cluster", "host:port of its head (6379 is usual), or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ADDRESS_PATIENCE_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}", "begin one there: ray start --head") from error


def _quieten_before() -> None:
    """Ray reads these when it begins: no report of its use to its makers, nothing on stderr from its C++ side."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Ctrl-C waits for the end: in the midst of its beginning, Ray would swallow it, and hang or leave processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray has put one of its own there, too
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _nothing_said() -> Iterator[None]:
    """Nothing is written to stderr, not by C++ either: what Ray says there while it begins is that it will say nothing."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _leave() -> None:
    if ray := sys.modules.get("ray"):  # or it has not been needed
        ray.shutdown()
