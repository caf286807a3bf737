"""Encoding on a Ray cluster: real clusters on this machine, real files, real worker processes, of which some are killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_makers import make_photo, picture
from test_encoding import PHOTO, SmallPhotos, load, space_of

from emoclim_cli import clusters
from emoclim_cli.clusters import on_ray
from emoclim_cli.encoding import local
from emoclim_cli.errors import ClusterError, MissingExtra, ModelError
from emoclim_cli.indexing import Summary, apply, plan, space_ref
from emoclim_cli.library import Library, Root
from emoclim_cli.media import MediaKind

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")


class WatchedPhotos(SmallPhotos):
    """Leaves the id of its process in a folder, and takes its time."""

    def __init__(self, folder: Path, read: Any = load) -> None:
        super().__init__(read)
        (folder / str(os.getpid())).touch()

    def encode(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        time.sleep(0.2)
        return super().encode(samples)


def watched(folder: Path, _kind: MediaKind) -> WatchedPhotos:
    return WatchedPhotos(folder)


def broken(_kind: MediaKind) -> SmallPhotos:
    raise ModelError("the weights are damaged", "emoclim models verify")


def index(folder: Path, media: Path, engine: Any, kill: Any = lambda _count: None) -> tuple[Library, Summary]:
    space = space_of(SmallPhotos())
    library = Library.create(folder)
    what = plan(library, [Root(str(media))], space_ref(space))
    summary = Summary.of(what)
    for outcome in apply(what, library, engine, space):
        summary.count(outcome)
        kill(summary.indexed)
    return library, summary


@pytest.fixture(autouse=True)
def known_to_ray(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers find the encoders of this file; Ray, which keeps its token in the home, and in memory, has the same home in all tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    home = tmp_path_factory.getbasetemp() / "home-of-ray"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for i in range(40):
        make_photo(folder / f"{i:02}.png", picture(seed=i + 1))
    make_photo(folder / "crash.png", picture(seed=99))
    (folder / "no-photo.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    os.rename(folder / "07.png", os.fsencode(folder) + b"/\xff\n.png")
    return folder


@needs_ray
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")  # Ray sets what it has itself deprecated
def test_a_worker_that_is_killed_costs_nothing(media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def kill(indexed: int) -> None:
        if indexed >= 8 and not killed:
            killed.append(int(os.listdir(pids)[0]))
            os.kill(killed[0], signal.SIGKILL)

    space = space_of(SmallPhotos())
    terminate = signal.getsignal(signal.SIGTERM)
    with on_ray(partial(watched, pids), space, workers=2, jobs=1, batch_size=4) as engine:
        library, summary = index(tmp_path / "library", media, engine, kill)
    assert killed
    assert len(os.listdir(pids)) == 3  # two, and the one in place of the killed
    assert (summary.seen, summary.indexed, summary.skipped) == (42, 40, 2)
    assert signal.getsignal(signal.SIGTERM) is terminate

    alone, summary_alone = index(tmp_path / "alone", media, local(lambda _kind: SmallPhotos(), space, jobs=1, batch_size=4))
    assert sorted(map(str, summary.errors)) == sorted(map(str, summary_alone.errors))
    view, expected = library.view(PHOTO), alone.view(PHOTO)
    assert view.paths() == expected.paths() and len(view) == 40
    ids = [view.id(row) for row in range(40)]
    assert library.features(PHOTO, ids).tobytes() == alone.features(PHOTO, ids).tobytes()
    assert view.emotion.tobytes() == expected.emotion.tobytes()
    assert [file.path for file in library.skipped_files()] == [file.path for file in alone.skipped_files()]
    assert capfd.readouterr() == ("", "")
    deadline = time.monotonic() + 60  # on a busy machine Ray's processes end a moment after the cluster does
    while left := [pid for pid in os.listdir(pids) if _alive(int(pid))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@needs_ray
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")
def test_an_error_of_a_worker_is_said_as_it_is_at_home(media: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught, on_ray(broken, space_of(SmallPhotos()), workers=1) as engine:
        index(tmp_path / "library", media, engine)
    assert (caught.value.message, caught.value.hint) == ("the weights are damaged", "emoclim models verify")


def test_a_cluster_that_does_not_answer(media: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    for address, said in (
        (f"127.0.0.1:{port}", "no Ray cluster answers at"),
        ("nowhere.invalid:6379", "no Ray cluster answers at"),
        ("127.0.0.1", "is no address"),
        ("ray://127.0.0.1:10001", "is no address"),
        ("127.0.0.1:1000000", "no Ray cluster answers at"),
    ):
        with pytest.raises(ClusterError, match=said) as caught, on_ray(broken, space_of(SmallPhotos()), address=address) as engine:
            next(engine(PHOTO, []))
        assert caught.value.hint
    assert time.monotonic() - began < 20


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra) as caught, on_ray(broken, space_of(SmallPhotos())):
        pass
    assert caught.value.hint == "pip install 'emoclim[ray]'"


@needs_ray
def test_ctrl_c_keeps_what_is_committed(tmp_path: Path, weights_cache: Path) -> None:
    """The program and the real network on a cluster of this machine's own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        make_photo(folder / f"{i:02}.jpg", picture(seed=i + 1))
    environment = os.environ | {"EMOCLIM_CACHE": str(weights_cache.parent), "EMOCLIM_LIBRARY": str(tmp_path / "library")}
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "emoclim_cli"]
    options = ["--offline", "--engine", "ray", "--ray-workers", "1", "--jobs", "1", "--batch-size", "2"]
    process = subprocess.Popen(
        [*command, "index", str(folder), *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not _committed(tmp_path / "library"):
        time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "interrupted" and "kept in the library" in err and len(err.splitlines()) == 2
    assert seconds < 10  # 2 on a machine that does nothing else
    view = Library.open(tmp_path / "library").view(PHOTO)
    (kept,) = re.findall(r"(\d+) files of this run", err)
    assert 2 <= int(kept) <= len(view) < 40


def _committed(folder: Path) -> bool:
    """Two batches: the first version of a table is empty."""
    return len(list(folder.glob("tables/photo*/_versions/*"))) >= 3


@pytest.mark.parametrize(
    "options", [["--engine", "spark"], ["--ray-address", "127.0.0.1:6379"], ["--engine", "local", "--ray-workers", "2"]]
)
def test_what_makes_no_sense(options: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emoclim_cli", "index", str(tmp_path), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--engine" in done.stderr
    assert not Path(os.environ["EMOCLIM_LIBRARY"]).exists()
