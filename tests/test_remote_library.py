"""Libraries in object storage: a real S3 server (moto's, in a process of its own), the real client, real LanceDB tables in it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from media_makers import make_photo, picture
from test_encoding import PHOTO, SmallPhotos, space_of

from emoclim_cli import buckets
from emoclim_cli.buckets import Bucket, Lease
from emoclim_cli.commands import places
from emoclim_cli.encoding import local
from emoclim_cli.errors import LibraryBusy, LibraryError, NoLibrary, UsageError
from emoclim_cli.folders import Folder
from emoclim_cli.indexing import Summary, apply, forget, plan, space_ref
from emoclim_cli.library import Library, Root

pytestmark = pytest.mark.skipif(find_spec("moto") is None or find_spec("obstore") is None, reason="moto or the extra `s3` is not installed")

SERVER = """
import threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

app = DomainDispatcherApplication(create_backend_app)

def careless(environ, start_response):
    for header in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
        environ.pop(header, None)
    return app(environ, start_response)

servers = [make_server("127.0.0.1", 0, one, threaded=True) for one in (app, careless)]
print(*(server.server_port for server in servers), flush=True)
threading.Thread(target=servers[1].serve_forever, daemon=True).start()
servers[0].serve_forever()
"""
"""The ports of two servers of the same objects; the second ignores all conditions, as some stores do."""


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        first, second = map(int, process.stdout.readline().split())
        yield first, second
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def bucket(ports: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty one, and the environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(tmp_path))}"
    connection = http.client.HTTPConnection("127.0.0.1", ports[0])
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()
    found = places.library_folder(f"s3://{name}/some/library/")
    assert isinstance(found, Bucket) and found.url == f"s3://{name}/some/library"
    return found


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for i in range(9):
        make_photo(folder / f"{i}.png", picture(seed=i + 1))
    (folder / "no-photo.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    os.rename(folder / "7.png", os.fsencode(folder) + b"/it's \xff\n.png")
    return folder


def index(library: Library, media: Path) -> Summary:
    encoder = SmallPhotos()
    space = space_of(encoder)
    with library.writing():
        what = plan(library, [Root(str(media))], space_ref(space))
        summary = Summary.of(what)
        for outcome in apply(what, library, local(lambda _kind: encoder, space, jobs=2, batch_size=3, apart=False), space):
            summary.count(outcome)
    return summary


def test_it_is_as_one_in_a_folder(bucket: Bucket, media: Path, tmp_path: Path) -> None:
    with pytest.raises(NoLibrary):
        Library.open(bucket)
    remote, here = Library.create(bucket), Library.create(tmp_path / "library")
    for _ in range(2):
        assert index(remote, media) == index(here, media)
    other = Library.open(Bucket(bucket.url, tmp_path / "elsewhere", plain_http=True))  # as from another machine
    for library in (remote, other):
        view, expected = library.view(PHOTO), here.view(PHOTO)
        assert view.paths() == expected.paths() and len(view) == 9
        assert view.emotion.tobytes() == expected.emotion.tobytes()
        ids = [view.id(row) for row in range(9)]
        assert library.features(PHOTO, ids).tobytes() == here.features(PHOTO, ids).tobytes()
        assert [(file.path, file.reason) for file in library.skipped_files()] == [(f.path, f.reason) for f in here.skipped_files()]
        assert (library.roots, library.space) == (here.roots, here.space)
    (media / "0.png").unlink()
    assert forget(remote, [str(media / "1.png")]) == 1
    index(remote, media)
    view = other.view(PHOTO)  # it sees what the other machine has done
    assert len(view) == 9 and int(view.present.sum()) == 8
    assert len(list((tmp_path / "elsewhere").glob("photo*/*"))) == 1  # snapshots of versions that are past are gone


def test_both_stores_answer_alike(bucket: Bucket, tmp_path: Path) -> None:
    for store in (bucket, Folder(tmp_path / "library")):
        with pytest.raises(NoLibrary):
            store.read_state()
        store.make()
        state = store.read_state()
        assert state == {"format": 1, "space": None, "roots": []}
        store.write_state({**state, "roots": [{"path": "\udcff'", "exclude": []}]})
        store.make()  # which leaves what is there
        assert store.read_state()["roots"] == [{"path": "\udcff'", "exclude": []}]
        assert (store.names(), store.version("photo")) == ([], None)
        with store.lock(), pytest.raises(LibraryBusy, match="another emoclim is writing"), store.lock():
            pass
        with store.lock():
            pass
        store.write_state({"format": 99})
        with pytest.raises(LibraryError, match="this emoclim reads up to"):
            store.read_state()


def test_what_is_there_is_not_taken_for_a_library(bucket: Bucket) -> None:
    import obstore

    obstore.put(bucket._store, "holiday/photo.jpg", b"")
    with pytest.raises(LibraryError, match="is not a library and not empty"):
        Library.create(bucket)


class TestLease:
    def hold(self, bucket: Bucket) -> bool:
        try:
            bucket._taken()
        except LibraryBusy:
            return False
        return True

    def test_of_many_one_gets_it(self, bucket: Bucket) -> None:
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(self.hold, [bucket] * 8)) == 1

    def test_of_many_one_takes_over_from_a_writer_that_died(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket._taken()
        with pytest.raises(LibraryBusy, match=rf"\(process {os.getpid()} on .*\)") as caught:
            bucket._taken()
        assert "5 minutes" in caught.value.hint
        monkeypatch.setattr(buckets, "LEASE_S", 2.0)
        time.sleep(3.1)  # the store tells whole seconds
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(self.hold, [bucket] * 8)) == 1
        import obstore

        assert [one["path"] for one in obstore.list_with_delimiter(bucket._store)["objects"]] == ["lease"]

    def test_it_is_renewed(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(buckets, "LEASE_S", 2.0)
        monkeypatch.setattr(buckets, "RENEW_S", 0.3)
        with bucket.lock() as lease:
            time.sleep(3.5)
            assert not self.hold(bucket)
            lease.check()

    def test_a_writer_that_lost_it_writes_no_more(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        library = Library.create(bucket)
        monkeypatch.setattr(buckets, "RENEW_S", 0.3)
        with library.writing():
            library.set_roots([Root("/a")])
            bucket._put("lease", b"another's", "overwrite")
            time.sleep(1.0)
            with pytest.raises(LibraryError, match="could not be renewed"):
                library.set_roots([Root("/b")])
        assert Library.open(bucket).roots == (Root("/a"),)
        import obstore

        assert bytes(obstore.get(bucket._store, "lease").bytes()) == b"another's"

    def test_a_writer_that_was_suspended_writes_no_more(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        lease = Lease(bucket, bucket._taken())
        lease.check()
        monkeypatch.setattr(buckets, "TRUSTED_S", -1.0)
        with pytest.raises(LibraryError, match="could not be renewed in time"):
            lease.check()
        lease.release()

    def test_a_store_that_ignores_conditions_is_refused(
        self, bucket: Bucket, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports[1]}")
        with pytest.raises(LibraryError, match="ignores conditional writes"):
            Library.create(Bucket(bucket.url, bucket.snapshots, plain_http=True))


class TestErrors:
    def test_no_such_bucket(self, bucket: Bucket) -> None:
        nowhere = Bucket("s3://there-is-none/library", bucket.snapshots, plain_http=True)
        for call in (Library.open, Library.create):
            with pytest.raises(LibraryError, match="there is no such bucket: s3://there-is-none/library"):
                call(nowhere)

    def test_nobody_answers(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        began = time.monotonic()
        for call in (Library.open, Library.create):
            with pytest.raises(LibraryError, match=f"the library {bucket.url} cannot be") as caught:
                call(Bucket(bucket.url, bucket.snapshots, plain_http=True))
            assert "\n" not in caught.value.message and "AWS_ENDPOINT_URL" in caught.value.hint
        assert time.monotonic() - began < 20

    def test_no_credentials(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody is asked for them over the network."""
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(LibraryError, match="no credentials") as caught:
            places.library_folder(bucket.url)
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint

    @pytest.mark.parametrize("url", ["gs://bucket/library", "s3://bucket", "s3://bucket/", "s3:///library", "s3://b/l?x=1", "http://b/l"])
    def test_no_place_for_a_library(self, bucket: Bucket, url: str) -> None:
        with pytest.raises(UsageError, match="no place for a library"):
            places.library_folder(url)


def test_the_program(bucket: Bucket, media: Path, weights_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real network; and what is indexed is matched without LanceDB, from a snapshot on this machine."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").symlink_to(weights_cache)
    monkeypatch.setenv("EMOCLIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EMOCLIM_LIBRARY", bucket.url)

    def run(*args: Any, before: str = "") -> tuple[int, Any, str]:
        code = f"import sys; {before}\nfrom emoclim_cli.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr

    code, _, said = run("status", "--json")
    assert code == 3 and f"emoclim index --library {bucket.url}" in said
    code, found, said = run("index", media, "--offline", "--json")
    assert (code, found["indexed"], found["skipped"]) == (0, 9, 1), said
    no_lancedb = "sys.modules['lancedb'] = sys.modules['pyarrow'] = None"
    code, found, said = run("index", "--json", before=no_lancedb)
    assert (code, found["indexed"], found["unchanged"]) == (0, 0, 9), said
    code, found, said = run("match", media / "3.png", "--to", "photos", "--json", before=no_lancedb)
    assert (code, len(found["matches"])) == (0, 8), said
    code, found, said = run("forget", media / "3.png", "--yes", "--json")
    assert (code, found) == (0, {"removed": 1}), said
    code, found, said = run("status", "--json")
    assert (code, found["library"], found["photos"], found["stale"]) == (1, bucket.url, 8, 1), said
    code, found, said = run("doctor", "--json")
    (check,) = [check for check in found["checks"] if check["name"] == "library"]
    assert check["ok"] and check["detail"] == f"{bucket.url}: 8 photos, 0 music"
