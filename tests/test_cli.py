"""The installed program, run as a user runs it: real files of every format, the real networks, the shipped space."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from filelock import FileLock
from media_makers import CODECS, make_photo, make_tone
from PIL import Image
from random_weights import TAGGERS, write_tagger
from test_playlists import read_back

from emoclim_cli import __version__
from emoclim_cli.cli import app, main
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import encoder_info
from emoclim_cli.media import MediaKind
from emoclim_cli.playlists import FORMATS
from emoclim_cli.projections import DEFAULT_SPACE, EmotionSpace, shipped_spaces
from emoclim_cli.weights import WEIGHTS

SPACE = EmotionSpace.load(shipped_spaces() / DEFAULT_SPACE)
NEEDED = {kind: encoder_info(encoder).weights for kind, encoder in SPACE.encoders.items()}
"""The weights that the default space needs."""
PHOTO_SUFFIXES = (".jpg", ".png", ".webp", ".gif", ".tif", ".bmp", ".avif")
RATE_HZ = 48000  # the one that Opus takes, too
ARTIST = "Beispiel & Söhne"

INDEX_KEYS = {"seen", "indexed", "unchanged", "moved", "gone", "skipped", "offline_roots", "errors", "photos", "music", "seconds"}
MATCH_KEYS = {"path", "kind", "score", "title", "artist", "duration_s", "emotions"}
HEAVY = {"torch", "onnxruntime", "lancedb", "onnx", "av", "PIL", "mutagen", "scipy"}

COMMANDS = [
    *([name] for name in ("index", "match", "status", "errors", "forget", "train", "evaluate", "tagging", "doctor")),
    *([name] for name in ("soundtrack", "slideshow", "gallery")),
    *(["models", name] for name in ("list", "fetch", "verify")),
    *(["spaces", name] for name in ("list", "show")),
]


# --- users, their files, and how they run it ---------------------------------------------------------------------------------------------


def scene(seed: int) -> Image.Image:
    """A picture unlike those of other seeds."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:90, 0:120] / 90
    waves = [127 + 127 * np.sin(random.uniform(1, 8) * x + random.uniform(1, 8) * y + random.uniform(0, 6)) for _ in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def chord(seed: int, seconds: float = 2.5) -> np.ndarray:
    """(2, n) float32: sounds unlike those of other seeds."""
    random = np.random.default_rng(seed)
    t = np.arange(int(RATE_HZ * seconds)) / RATE_HZ
    samples = sum(0.15 * np.sin(2 * np.pi * random.uniform(80, 2000) * t) for _ in range(4)) + 0.05 * random.standard_normal(len(t))
    return np.stack([samples, samples]).astype(np.float32)


def make_track(path: Path, seed: int, **metadata: str) -> Path:
    make_tone(path, samples=chord(seed), rate_hz=RATE_HZ, metadata=metadata)
    return path


def fingerprints(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Of every file: content, time, permissions."""
    found = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            status = path.stat()
            found[str(path)] = (hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mtime_ns, status.st_mode)
    return found


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class User:
    """Somebody with a home, a library and a folder of media. `env` is all that the program sees of the environment but for PATH."""

    home: Path
    media: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def library(self) -> Path:
        return self.home / "library"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "SYSTEMROOT")}
        below = {"HOME": "", "XDG_DATA_HOME": "data", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config", "EMOCLIM_LIBRARY": "library"}
        places = {name: str(self.home / folder) for name, folder in below.items()}
        return {**kept, **places, "EMOCLIM_OFFLINE": "1", "TERM": "xterm-256color", **self.env}

    def command(self, *args: str | Path, options: Sequence[str] = ()) -> list[str]:
        return [sys.executable, *options, "-m", "emoclim_cli", *map(str, args)]

    def run(self, *args: str | Path, options: Sequence[str] = (), cwd: Path | None = None) -> Done:
        command = self.command(*args, options=options)
        folder = cwd or self.home
        done = subprocess.run(command, env=self.environment(), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr.decode("utf-8", "backslashreplace"))

    def json(self, *args: str | Path, code: int = 0) -> Any:
        """What is on stdout, and there must be nothing else."""
        done = self.run(*args, "--json")
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        return done.json

    def imported(self, *args: str | Path) -> set[str]:
        """The packages that a run imports."""
        done = self.run(*args, options=["-X", "importtime"])
        assert done.code == 0, done.err
        names = re.findall(r"^import time: +\d+ \| +\d+ \| *([\w.]+)$", done.err, re.MULTILINE)
        packages = {name.split(".")[0] for name in names}
        assert "emoclim_cli" in packages  # or we read it wrongly
        return packages


TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes stdin the terminal of this session, so that Ctrl-C is a key, and becomes the command."""


@dataclass
class Terminal:
    """A command on a terminal of 80 columns, which sees all it writes."""

    process: subprocess.Popen[bytes]
    screen: int
    seen: bytes = b""

    @classmethod
    def start(cls, user: User, *args: str | Path) -> Terminal:
        screen, keyboard = os.openpty()
        fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        streams = {"stdin": keyboard, "stdout": keyboard, "stderr": keyboard}
        launch = [sys.executable, "-c", TAKE_TERMINAL, *user.command(*args)]
        process = subprocess.Popen(launch, env=user.environment(), cwd=user.home, start_new_session=True, **streams)
        os.close(keyboard)
        return cls(process, screen)

    def read_until(self, pattern: bytes) -> re.Match[bytes]:
        while not (found := re.search(pattern, self.seen)):
            chunk = self._read()
            assert chunk, f"{pattern!r} is not in {self.seen!r}"
        return found

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def finish(self, keys: bytes = b"") -> int:
        """`keys` are typed, and again where nothing follows: those that come before the program has its terminal ready may be lost."""
        self.type(keys)
        while True:
            if not select.select([self.screen], [], [], 5.0 if keys else None)[0]:
                self.type(keys)
            elif not self._read():
                break
        os.close(self.screen)
        return self.process.wait(timeout=60)

    def _read(self) -> bytes:
        try:
            chunk = os.read(self.screen, 65536)
        except OSError:  # it has ended (Linux)
            return b""
        self.seen += chunk
        return chunk

    @property
    def text(self) -> str:
        """Without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen.decode()).replace("\r\n", "\n")


@pytest.fixture(scope="session")
def cache(weights_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What EMOCLIM_CACHE names: the weights are those of the machine, all else is thrown away."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "weights").symlink_to(weights_cache, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def stock(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[User, Any]]:
    """A user with one file of every format, indexed; and what `index --json` said. Nobody may change it."""
    home = tmp_path_factory.mktemp("stock")
    user = User(home, home / "media", {"EMOCLIM_CACHE": str(cache)})
    photos, music = user.media / "Pictures", user.media / "Music"
    photos.mkdir(parents=True)
    music.mkdir()
    for i, suffix in enumerate(PHOTO_SUFFIXES):
        make_photo(photos / f"photo{i}{suffix}", scene(i))
    for i, suffix in enumerate(CODECS):
        make_track(music / f"track{i:02}{suffix}", i, title=f"Title {i}", artist=ARTIST if i < 8 else f"Artist {i}")
    before = fingerprints(user.media)
    assert len(before) == len(PHOTO_SUFFIXES) + len(CODECS)
    said = user.json("index", photos, music)
    yield user, said
    assert fingerprints(user.media) == before, "a file of the user's was changed"


@pytest.fixture
def user(stock: tuple[User, Any], tmp_path: Path) -> User:
    """Somebody with a library of their own, in which all of `stock` is indexed. The media are shared: not to be changed."""
    shutil.copytree(stock[0].library, tmp_path / "library")
    return replace(stock[0], home=tmp_path)


@pytest.fixture
def newcomer(cache: Path, tmp_path: Path) -> User:
    """Somebody who has never run emoclim."""
    media = tmp_path / "media"
    media.mkdir()
    return User(tmp_path, media, {"EMOCLIM_CACHE": str(cache)})


def a_photo(user: User) -> Path:
    return user.media / "Pictures" / "photo0.jpg"


def a_track(user: User) -> Path:
    return user.media / "Music" / "track00.mp3"


# --- the program itself ------------------------------------------------------------------------------------------------------------------


def test_the_script_and_the_module_are_one_program(newcomer: User) -> None:
    script = Path(sysconfig.get_path("scripts"), "emoclim")
    done = subprocess.run([script, "--version"], env=newcomer.environment(), capture_output=True, check=True)
    assert done.stdout.decode() == newcomer.run("--version").text == f"emoclim {__version__}\n"
    assert app.info.name == "emoclim"
    assert callable(main)


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_command_has_help(newcomer: User, command: list[str]) -> None:
    done = newcomer.run(*command, "--help")
    assert done.code == 0
    assert done.err == ""
    assert done.text.startswith(f"Usage: {' '.join(['emoclim', *command])} ")
    if command:
        assert "--json" in done.text
        assert "--library DIR" in done.text
    else:
        assert all(f"\n  {name} " in done.text for name, *_ in COMMANDS)


def test_help_costs_no_heavy_import(newcomer: User) -> None:
    assert not newcomer.imported("--help") & {*HEAVY, "numpy"}


@pytest.mark.parametrize(
    "args",
    [
        ["--no-such-option"],
        ["no-such-command"],
        ["index", "--no-such-option"],
        ["match"],
        ["match", "sad", "-k", "0"],
        ["match", "sad", "-k", "many"],
        ["match", "sad", "--min-score", "2"],
        ["match", "sad", "--to", "nothing"],
        ["match", "sad", "--format", "mp3"],
        ["match", "sad", "-o", "list.txt"],
        ["match", "sad", "-o", "-", "--json"],
        ["match", "sad", "-o", "-", "--paths"],
        ["models"],
        ["evaluate"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2_and_say_nothing_on_stdout(newcomer: User, args: list[str]) -> None:
    done = newcomer.run(*args)
    assert done.code == 2
    assert done.out == b"" or args == ["models"]  # whose help it shows
    assert done.err.startswith(("Usage: emoclim", "error: ")) or args == ["models"]
    assert "Traceback" not in done.err


def test_verbose_shows_where_an_error_comes_from_and_keeps_its_exit_code(newcomer: User) -> None:
    done = newcomer.run("-v", "status")
    assert done.code == 3
    assert "Traceback" in done.err
    assert done.err.splitlines()[-2].startswith("error: there is no library in")


# --- index -------------------------------------------------------------------------------------------------------------------------------


def adds_up(said: dict[str, Any]) -> bool:
    return bool(said["seen"] == said["indexed"] + said["unchanged"] + said["moved"] + said["skipped"])


def test_every_format_is_indexed(stock: tuple[User, Any]) -> None:
    said = stock[1]
    assert set(said) == INDEX_KEYS
    assert adds_up(said)
    assert said["errors"] == said["offline_roots"] == []
    assert (said["photos"], said["music"]) == (len(PHOTO_SUFFIXES), len(CODECS))
    assert said["seen"] == said["indexed"] == len(PHOTO_SUFFIXES) + len(CODECS)
    assert said["seconds"] > 0


def test_a_second_run_reads_nothing_and_loads_no_network(user: User) -> None:
    assert not user.imported("index") & (HEAVY | {"http", "requests"})
    said = user.json("index")
    assert set(said) == INDEX_KEYS
    assert said["seen"] == said["unchanged"] == len(PHOTO_SUFFIXES) + len(CODECS)
    assert adds_up(said)


def test_what_a_run_did_is_told_on_stderr(user: User) -> None:
    done = user.run("index")
    assert (done.code, done.out) == (0, b"")
    assert re.fullmatch(r"23 files seen, 0 indexed, 23 unchanged in \d+\.\d s\n", done.err)


def test_quiet_is_silent(user: User) -> None:
    assert user.run("-q", "index") == Done(0, b"", "")


def test_a_dry_run_makes_nothing(newcomer: User) -> None:
    make_track(newcomer.media / "a.flac", 1)
    make_photo(newcomer.media / "b.png", scene(1))
    (newcomer.media / "notes.txt").write_text("neither photo nor music")
    done = newcomer.run("index", newcomer.media, "--dry-run")
    assert done.code == 0
    assert done.text == f"new\t{newcomer.media}/a.flac\nnew\t{newcomer.media}/b.png\n"
    assert done.err == "2 files seen, 2 to index, 0 unchanged\n"
    said = newcomer.json("index", newcomer.media, "--dry-run")
    assert set(said) == INDEX_KEYS
    assert (said["seen"], said["indexed"], said["photos"]) == (2, 2, 0)
    assert adds_up(said)
    assert {path.name for path in newcomer.home.iterdir()} == {"media"}
    assert newcomer.run("status").code == 3


def test_a_dry_run_of_a_library_leaves_it_as_it_is(user: User, tmp_path: Path) -> None:
    before = fingerprints(user.library)
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy2(a_photo(user), new)
    done = user.run("index", new, "--dry-run")
    assert done.text == f"copied\t{new}/photo0.jpg\n"
    assert fingerprints(user.library) == before


def test_copies_are_taken_over_and_excludes_are_remembered(user: User, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    shutil.copytree(user.media / "Music", copies)
    said = user.json("index", copies, "--exclude", "*.flac", "--exclude", "track1*")
    assert said["indexed"] == 10 - 1
    assert said["music"] == len(CODECS) + 9
    assert adds_up(said)
    assert user.json("index")["seen"] == said["seen"] + len(PHOTO_SUFFIXES) + len(CODECS)
    assert user.json("index", copies)["unchanged"] == 9
    assert user.run("status").code == 0


def test_an_empty_folder(newcomer: User) -> None:
    said = newcomer.json("index", newcomer.media)
    assert {name: said[name] for name in ("seen", "indexed", "photos", "music", "errors")} == {
        "seen": 0, "indexed": 0, "photos": 0, "music": 0, "errors": [],
    }  # fmt: skip
    assert newcomer.run("status").code == 0
    done = newcomer.run("match", "sad")
    assert (done.code, done.out) == (1, b"")
    assert done.err == "error: no music in the library\n  try: emoclim index FOLDER...\n"


def test_a_path_that_is_not_there(newcomer: User) -> None:
    done = newcomer.run("index", newcomer.media / "nowhere")
    assert (done.code, done.out) == (2, b"")
    assert done.err == f"error: {newcomer.media}/nowhere: No such file or directory\n"
    assert newcomer.run("status").code == 3  # no library has come of it


def test_no_path_and_none_known(newcomer: User) -> None:
    done = newcomer.run("index")
    assert (done.code, done.out) == (2, b"")
    assert "no folder is known yet" in done.err
    assert "emoclim index ~/Pictures ~/Music" in done.err


@pytest.mark.parametrize(("flags", "env"), [(["--offline"], {"EMOCLIM_OFFLINE": ""}), ([], {"EMOCLIM_OFFLINE": "1"})])
def test_offline_without_weights_names_the_command(newcomer: User, flags: list[str], env: dict[str, str]) -> None:
    make_track(newcomer.media / "a.wav", 1)
    bare = replace(newcomer, env={"EMOCLIM_CACHE": str(newcomer.home / "empty"), **env})
    done = bare.run("index", bare.media, *flags)
    assert (done.code, done.out) == (3, b"")
    name = NEEDED[MediaKind.MUSIC][0]
    assert done.err.startswith(f"error: the weights {name} are not in")
    assert f"  try: emoclim models fetch {name}\n" in done.err
    assert newcomer.run("status").code == 3


def test_two_writers(user: User) -> None:
    with FileLock(user.library / "lock"):
        done = user.run("index")
        assert done.code == 1
        assert "another emoclim is writing to the library" in done.err
        assert user.run("match", "sad").code == 0  # readers go on
        assert user.run("status").code == 0
    assert user.run("index").code == 0


def test_a_space_in_a_folder_is_remembered(user: User, tmp_path: Path) -> None:
    space = tmp_path / "my space"
    shutil.copytree(shipped_spaces() / DEFAULT_SPACE, space)
    assert user.run("index", "--space", "my space", cwd=tmp_path).code == 0
    assert user.json("match", "sad")["space"] == str(space)
    assert user.json("status")["space"] == str(space)
    shutil.rmtree(space)
    done = user.run("match", "sad")
    assert done.code == 1
    assert str(space) in done.err


def test_an_unknown_space_and_where_it_is_named(user: User) -> None:
    for done in (user.run("index", "--space", "nothing"), replace(user, env={**user.env, "EMOCLIM_SPACE": "nothing"}).run("match", "sad")):
        assert done.code == 1
        assert done.err.startswith("error: there is no space 'nothing'")
        assert DEFAULT_SPACE in done.err


def test_the_library_of_the_flag_wins(user: User, tmp_path: Path) -> None:
    elsewhere = replace(user, env={**user.env, "EMOCLIM_LIBRARY": str(tmp_path / "nothing")})
    assert elsewhere.run("status").code == 3
    assert elsewhere.run("status", "--library", user.library).code == 0
    at_home = replace(user, env={**user.env, "EMOCLIM_LIBRARY": ""}).run("status")
    assert f"{user.home}/data/emoclim/library" in at_home.err


# --- progress and Ctrl-C -----------------------------------------------------------------------------------------------------------------


def test_progress_is_for_terminals_and_ctrl_c_keeps_what_is_done(newcomer: User) -> None:
    total = 16
    for i in range(total):
        make_track(newcomer.media / f"{i:02}.wav", i)
    terminal = Terminal.start(newcomer, "index", newcomer.media, "--batch-size", "1", "--jobs", "1")
    terminal.read_until(rb" [2-9]/16")
    terminal.type(b"\x03")
    assert terminal.finish() == 130
    assert "reading" in terminal.text
    assert "Traceback" not in terminal.text
    said = r"kept in the library: (\d+) files of this run; go on with: emoclim index [^\n]+\ninterrupted$"
    found = re.search(said, terminal.text, re.MULTILINE)
    assert found
    kept = int(found[1])
    assert 2 <= kept < total
    assert newcomer.run("status").code == 1

    done = newcomer.run("index", "--json")
    assert done.code == 0
    assert done.err == ""  # no terminal, no progress
    assert kept <= done.json["unchanged"] <= kept + 1  # the last batch may be in before it is counted
    assert done.json["unchanged"] + done.json["indexed"] == total
    assert adds_up(done.json)
    assert newcomer.run("status").code == 0


def test_an_interrupt_before_the_first_file(newcomer: User) -> None:
    """While the networks are imported: nothing to keep, no traceback."""
    make_photo(newcomer.media / "a.png", scene(1))
    process = subprocess.Popen(
        newcomer.command("index", newcomer.media),
        env=newcomer.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (newcomer.library / "lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    # Where Python was just making a class of a text (dataclasses do), it ends by the signal itself, exit code or not: 130 in a shell.
    assert process.returncode in (130, -signal.SIGINT) and out == b""
    assert err.strip() == b"interrupted"


def test_an_impatient_user(newcomer: User) -> None:
    """More than one Ctrl-C: what is under way is ended in good order all the same, without a traceback."""
    for i in range(6):
        make_photo(newcomer.media / f"{i}.png", scene(i))
    process = subprocess.Popen(
        newcomer.command("index", newcomer.media),
        env=newcomer.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (newcomer.library / "tables").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT) and out == b""
    assert b"Traceback" not in err and b"Exception ignored" not in err


def test_no_media_is_no_folder_to_remember(user: User, tmp_path: Path) -> None:
    before = user.json("status")["roots"]
    (tmp_path / "notes.txt").write_text("bread, milk")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (("notes.txt", "is neither a photo nor music"), ("pipe.jpg", "is neither a file nor a folder")):
        done = user.run("index", tmp_path / name)
        assert (done.code, done.out) == (2, b"") and reason in done.err
    assert user.json("status")["roots"] == before


def test_the_next_command_is_about_the_same_library(user: User, tmp_path: Path) -> None:
    done = user.run("status", "--library", tmp_path / "no where")
    assert done.err.endswith(f"try: emoclim index FOLDER... --library '{tmp_path}/no where'\n")
    assert user.run("match", "sad", "-k", "0").err.count("--library") == 0


def test_an_output_that_is_full(user: User) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(user.command("status"), env=user.environment(), stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"error: the output cannot be written: No space left on device\n")


# --- match -------------------------------------------------------------------------------------------------------------------------------


def test_the_answer_as_json(user: User) -> None:
    said = user.json("match", a_photo(user), "-k", "5")
    assert set(said) == {"query", "space", "matches"}
    assert said["query"] == str(a_photo(user))
    assert said["space"] == DEFAULT_SPACE
    assert len(said["matches"]) == 5
    scores = [match["score"] for match in said["matches"]]
    assert scores == sorted(scores, reverse=True)
    for match in said["matches"]:
        assert set(match) == MATCH_KEYS
        assert match["kind"] == "music"
        assert os.path.dirname(match["path"]) == str(user.media / "Music")
        assert -1 <= match["score"] <= 1
        assert 2 < match["duration_s"] < 3
        assert tuple(match["emotions"]) == EMOTIONS
        assert sum(match["emotions"].values()) == pytest.approx(1, abs=1e-3)


def kinds(said: dict[str, Any]) -> set[str]:
    return {match["kind"] for match in said["matches"]}


def test_the_other_kind_is_the_default_and_to_says_another(user: User) -> None:
    assert kinds(user.json("match", a_photo(user))) == {"music"}
    assert kinds(user.json("match", a_track(user))) == {"photo"}
    assert kinds(user.json("match", user.media / "Pictures")) == {"music"}
    assert kinds(user.json("match", "sad")) == {"music"}
    assert kinds(user.json("match", "sad", "--to", "photos")) == {"photo"}
    every = user.json("match", "sad", "--to", "all", "-k", "100")["matches"]
    assert len(every) == len(PHOTO_SUFFIXES) + len(CODECS)


def test_an_indexed_query_needs_no_network_and_no_database(user: User) -> None:
    for query in (a_photo(user), a_track(user), "tender+happy"):
        assert not user.imported("match", query) & HEAVY


def test_a_query_is_no_match_of_itself(user: User) -> None:
    said = user.json("match", a_photo(user), "--to", "photos", "-k", "100")
    assert len(said["matches"]) == len(PHOTO_SUFFIXES) - 1
    assert str(a_photo(user)) not in {match["path"] for match in said["matches"]}


def test_several_queries_are_blended(user: User) -> None:
    said = user.json("match", "sad", a_photo(user), "-k", "30")
    assert said["query"] == f"sad + {a_photo(user)}"
    alone = [user.json("match", query, "-k", "30") for query in ("sad", a_photo(user))]
    assert said["matches"] not in [one["matches"] for one in alone]


def test_the_same_query_gives_the_same_bytes(user: User) -> None:
    assert user.run("match", "sad", "--json").out == user.run("match", "sad", "--json").out


def test_limits(user: User) -> None:
    everything = user.json("match", "sad", "-k", "100")["matches"]
    assert len(everything) == len(CODECS)
    capped = user.json("match", "sad", "-k", "100", "--per-artist", "2")["matches"]
    assert [match["artist"] for match in everything].count(ARTIST) > 2
    assert [match["artist"] for match in capped].count(ARTIST) == 2
    middle = everything[len(everything) // 2]["score"]
    good = user.json("match", "sad", "-k", "100", "--min-score", str(middle))["matches"]
    assert good == [match for match in everything if match["score"] >= middle]
    none = user.run("match", "sad", "--min-score", "1", "--json")
    assert (none.code, none.json["matches"]) == (0, [])


def test_a_pipe_is_no_query(user: User, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    done = user.run("match", tmp_path / "pipe.jpg")
    assert (done.code, done.err) == (1, f"error: {tmp_path}/pipe.jpg: is not a regular file\n")


def test_files_that_are_not_indexed(user: User, tmp_path: Path) -> None:
    """They go through the networks, as the same files in the library did."""
    for known, name in ((a_photo(user), "new.jpg"), (a_track(user), "new.mp3")):
        new = tmp_path / name
        shutil.copy(known, new)
        asked, indexed = user.json("match", new, "-k", "30"), user.json("match", known, "-k", "30")
        assert [match["path"] for match in asked["matches"]] == [match["path"] for match in indexed["matches"]]
        for a, b in zip(asked["matches"], indexed["matches"], strict=True):
            assert a["score"] == pytest.approx(b["score"], abs=0.02)


def test_words_that_are_no_moods(user: User) -> None:
    for query in ("melancholic", "sad+melancholic"):
        done = user.run("match", query)
        assert (done.code, done.out) == (2, b"")
        assert "melancholic" in done.err
        assert all(emotion in done.err for emotion in EMOTIONS)


def test_files_that_cannot_be_asked_for(user: User, tmp_path: Path) -> None:
    text, broken, empty = tmp_path / "notes.txt", tmp_path / "broken.jpg", tmp_path / "empty"
    text.write_text("a text")
    broken.write_bytes(b"\xff\xd8\xff" + bytes(300))
    empty.mkdir()
    reasons = {
        tmp_path / "nowhere.jpg": "nowhere.jpg: No such file or directory",
        text: "notes.txt: this is neither a photo nor music",
        broken: "broken.jpg: is not a photo that can be decoded",
        empty: f"nothing in {empty} is in the library",
    }
    for path, reason in reasons.items():
        done = user.run("match", path)
        assert (done.code, done.out) == (1, b"")
        assert done.err.startswith("error: ")
        assert reason in done.err


def test_no_library(newcomer: User) -> None:
    for command in (["match", "sad"], ["status"], ["errors"], ["forget", "/x", "--yes"]):
        done = newcomer.run(*command)
        assert (done.code, done.out) == (3, b""), command
        assert "emoclim index FOLDER..." in done.err


def test_paths_only(user: User) -> None:
    done = user.run("match", "sad", "--paths", "-k", "4")
    lines = done.text.splitlines()
    assert lines == [match["path"] for match in user.json("match", "sad", "-k", "4")["matches"]]
    assert done.err == ""


def test_a_pipe_gets_tab_separated_lines_whatever_the_environment_says(user: User) -> None:
    colourful = replace(user, env={**user.env, "FORCE_COLOR": "1", "COLUMNS": "20"})
    rows = [line.split("\t") for line in colourful.run("match", "sad", "-k", "3").text.splitlines()]
    assert rows[0] == ["rank", "score", "artist", "title", "duration", "emotion", "path"]
    matches = user.json("match", "sad", "-k", "3")["matches"]
    assert [row[2] for row in rows[1:]] == [match["artist"] for match in matches]
    assert [row[-1] for row in rows[1:]] == [match["path"] for match in matches]


def test_a_terminal_gets_a_table(user: User) -> None:
    terminal = Terminal.start(user, "match", "sad", "-k", "3")
    assert terminal.finish() == 0
    title, header, *rows, legend = terminal.text.splitlines()
    assert (title, header.split()[:3], len(rows)) == ("sad", ["#", "score", "feels"], 3)
    assert legend.startswith("bars: happy")
    assert all(len(line) <= 80 for line in rows)


def test_a_terminal_without_unicode_gets_something(user: User) -> None:
    terminal = Terminal.start(replace(user, env={**user.env, "PYTHONIOENCODING": "latin-1"}), "match", "sad", "-k", "3")
    assert terminal.finish() == 0
    assert b"Traceback" not in terminal.seen


# --- playlists ---------------------------------------------------------------------------------------------------------------------------


def opens(path: bytes) -> bool:
    """Whether a player could."""
    if probe := shutil.which("ffprobe"):
        command = [os.fsencode(probe), b"-v", b"error", b"-show_entries", b"stream=codec_type", b"-of", b"csv=p=0", path]
        done = subprocess.run(command, capture_output=True, check=False)
        return done.returncode == 0 and done.stdout.startswith(b"audio")
    with av.open(os.fsdecode(path)) as file:
        return bool(file.streams.audio)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_entry_of_a_playlist_opens(user: User, tmp_path: Path, suffix: str) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    done = user.run("match", "sad", "-k", "4", "-o", f"lists/moo d.{suffix}", cwd=tmp_path)
    assert (done.code, done.out) == (0, b"")
    assert done.err == f"wrote lists/moo d.{suffix}: 4 entries\n"
    entries = read_back((lists / f"moo d.{suffix}").read_bytes(), suffix, str(lists))
    assert entries == [os.fsencode(match["path"]) for match in user.json("match", "sad", "-k", "4")["matches"]]
    assert all(map(opens, entries))


def test_a_playlist_on_stdout(user: User) -> None:
    expected = [os.fsencode(match["path"]) for match in user.json("match", "sad")["matches"]]
    for args, name in (([], "m3u8"), (["--format", "pls"], "pls"), (["--format", "json"], "json")):
        done = user.run("match", "sad", "-o", "-", *args)
        assert (done.code, done.err) == (0, "")
        assert read_back(done.out, name, "/elsewhere") == expected


def test_a_playlist_and_json_at_once(user: User, tmp_path: Path) -> None:
    said = user.json("match", "sad", "-o", tmp_path / "sad.m3u8")
    entries = read_back((tmp_path / "sad.m3u8").read_bytes(), "m3u8", str(tmp_path))
    assert entries == [os.fsencode(match["path"]) for match in said["matches"]]


def test_no_output_takes_the_place_of_a_photo_or_a_track(user: User, tmp_path: Path) -> None:
    """Whatever it is called. The fixture checks that the shared ones are what they were."""
    disguised = tmp_path / "list.m3u8"
    shutil.copy(a_photo(user), disguised)
    before = fingerprints(tmp_path)
    for target in (a_photo(user), a_track(user), disguised):
        done = user.run("match", "sad", "-o", target, "--format", "m3u8")
        assert (done.code, done.out) == (2, b"")
        assert "will not be overwritten" in done.err
    assert fingerprints(tmp_path) == before


def test_an_output_that_cannot_be_written(user: User, tmp_path: Path) -> None:
    for target in (tmp_path / "nowhere" / "list.m3u8", tmp_path):
        done = user.run("match", "sad", "-o", target, "--format", "m3u8")
        assert (done.code, done.out) == (2, b"")
        assert done.err.startswith("error: cannot write")


@pytest.mark.parametrize("args", [["--paths"], [], ["--json"], ["-o", "-"]], ids=" ".join)
def test_a_reader_that_has_seen_enough(user: User, args: list[str]) -> None:
    """As in `emoclim match sad | head -1`: its end of the pipe is closed before ours is written to."""
    process = subprocess.Popen(user.command("match", "sad", *args), env=user.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    with process.stderr as err:
        assert err.read() == b""
    assert process.wait() == 0


def test_closed_streams(user: User) -> None:
    command = subprocess.list2cmdline(user.command("match", "sad"))
    done = subprocess.run(f"exec {command} >&- 2>&-", shell=True, env=user.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- what was measured on another program (DESIGN, section 7) ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def awkward_stock(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[User, Done]:
    """A name that is not UTF-8, a link that leads back, a PNG of which only 300 bytes are there, a good photo, a text."""
    home = tmp_path_factory.mktemp("awkward")
    user = User(home, home / "media", {"EMOCLIM_CACHE": str(cache)})
    user.media.mkdir()
    make_photo(user.media / "good.png", scene(1))
    make_photo(os.fsdecode(os.fsencode(user.media) + b"/caf\xe9.jpg"), scene(2))
    (user.media / "album").mkdir()
    (user.media / "album" / "loop").symlink_to(user.media)
    whole = (user.media / "good.png").read_bytes()
    assert len(whole) > 1000
    (user.media / "truncated.png").write_bytes(whole[:300])
    (user.media / "notes.txt").write_text("a text")
    done = user.run("index", user.media, "--strict", "--json")
    return user, done


@pytest.fixture
def awkward(awkward_stock: tuple[User, Done], tmp_path: Path) -> User:
    shutil.copytree(awkward_stock[0].library, tmp_path / "library")
    return replace(awkward_stock[0], home=tmp_path)


def test_one_bad_file_costs_itself_alone_and_strict_tells(awkward_stock: tuple[User, Done]) -> None:
    user, done = awkward_stock
    assert done.code == 1  # --strict
    assert adds_up(done.json)
    assert {name: done.json[name] for name in ("seen", "indexed", "skipped", "photos", "music")} == {
        "seen": 3, "indexed": 2, "skipped": 1, "photos": 2, "music": 0,
    }  # fmt: skip
    (error,) = done.json["errors"]
    assert error["path"] == f"{user.media}/truncated.png"
    assert error["reason"]


def test_a_name_that_is_not_utf8_is_found_by_its_bytes(awkward: User) -> None:
    name = os.fsencode(awkward.media) + b"/caf\xe9.jpg"
    done = awkward.run("match", "happy", "--to", "photos", "--paths")
    assert sorted(done.out.split(b"\n")) == [b"", name, os.fsencode(awkward.media / "good.png")]
    said = awkward.json("match", "happy", "--to", "photos")
    assert name in {os.fsencode(match["path"]) for match in said["matches"]}
    asked = awkward.json("match", os.fsdecode(name), "--to", "photos")
    assert [match["path"] for match in asked["matches"]] == [f"{awkward.media}/good.png"]
    table = awkward.run("match", "happy", "--to", "photos").text
    assert rf"{awkward.media}/caf\xe9.jpg" in table
    listed = awkward.run("match", "happy", "--to", "photos", "-o", "-")
    assert name in read_back(listed.out, "m3u8", "/elsewhere")


def test_a_loop_of_links_is_walked_once(awkward: User) -> None:
    assert awkward.json("index")["seen"] == 3
    assert awkward.json("status")["photos"] == 2


def test_a_skipped_file_is_remembered_and_not_tried_again(awkward: User) -> None:
    assert not awkward.imported("index") & HEAVY
    said = awkward.json("index")
    assert (said["skipped"], len(said["errors"]), said["unchanged"]) == (1, 1, 2)
    assert awkward.run("index", "--strict").code == 1
    done = awkward.run("index")
    assert done.code == 0
    assert f"warning: {awkward.media}/truncated.png: " in done.err
    listed = awkward.json("errors")
    assert listed == {"errors": said["errors"]}
    assert awkward.run("errors").text.splitlines()[1] == f"{awkward.media}/truncated.png\t{said['errors'][0]['reason']}"
    assert awkward.run("status").code == 0  # there is nothing to do about it


def test_a_file_that_is_away_and_back(user: User, tmp_path: Path) -> None:
    """Copies of indexed files, so that no network is needed."""
    album, away = tmp_path / "album", tmp_path / "away.jpg"
    album.mkdir()
    for name in ("photo0.jpg", "photo1.png"):
        shutil.copy2(user.media / "Pictures" / name, album)
    user.json("index", album)

    def found() -> bool:
        said = user.json("match", "happy", "--to", "photos", "-k", "100")
        paths = [match["path"] for match in said["matches"]]
        assert len(paths) == len(PHOTO_SUFFIXES)  # copies are one match
        return user.json("status")["photos"] == len(PHOTO_SUFFIXES) + 2

    assert found()
    (album / "photo0.jpg").rename(away)
    assert user.json("index", album)["gone"] == 1
    assert not found()
    away.rename(album / "photo0.jpg")
    said = user.json("index", album)
    assert (said["gone"], said["unchanged"], said["indexed"]) == (0, 2, 0)
    assert found()


def test_a_folder_that_is_not_there(newcomer: User, tmp_path: Path) -> None:
    """Below one that is: what is known of it comes back with it, and its name is said."""
    for name in ("Garden/Old", "Home"):
        (newcomer.media / name).mkdir(parents=True)
        make_photo(newcomer.media / name / "a.png", scene(len(name)))
    assert newcomer.run("index", newcomer.media).code == 0
    (newcomer.media / "Garden").rename(tmp_path / "away")
    for options in (["--dry-run"], []):
        done = newcomer.run("index", *options)
        assert f"{newcomer.media}/Garden is not there: 1 item of it come back when it does\n" in done.err
    (tmp_path / "away").rename(newcomer.media / "Garden")
    said = newcomer.json("index")
    assert (said["photos"], said["indexed"], said["unchanged"]) == (2, 0, 2)


def test_a_disk_that_is_not_there(user: User, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    shutil.copy2(a_track(user), disk)
    user.json("index", disk)
    disk.rename(tmp_path / "unmounted")
    said = user.json("index")
    assert said["offline_roots"] == [str(disk)]
    assert (said["gone"], said["music"]) == (0, len(CODECS) + 1)
    assert f"warning: {disk} is not there now" in user.run("index").err
    assert user.run("status").code == 0


# --- status, errors, forget --------------------------------------------------------------------------------------------------------------


def test_status(user: User) -> None:
    said = user.json("status")
    assert {"library", "space", "photos", "music", "roots", "stale", "emotions"} <= set(said)
    assert said["library"] == str(user.library)
    assert said["space"] == DEFAULT_SPACE
    assert (said["photos"], said["music"], said["stale"]) == (len(PHOTO_SUFFIXES), len(CODECS), 0)
    assert said["roots"] == [str(user.media / "Pictures"), str(user.media / "Music")]
    for kind in MediaKind:
        assert tuple(said["emotions"][kind.plural]) == EMOTIONS
        assert sum(said["emotions"][kind.plural].values()) == said[kind.plural]
    assert not user.imported("status") & HEAVY


def test_status_is_1_while_something_waits(user: User, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    user.json("index", new)
    shutil.copy2(a_track(user), new)
    assert user.json("status", code=1)["stale"] == 1
    done = user.run("status")
    assert (done.code, done.err) == (1, "")
    assert "to do\t1 changes to take up: emoclim index\n" in done.text
    user.json("index")
    assert user.run("status").code == 0


def test_errors_are_tried_again_on_request(newcomer: User) -> None:
    """What was wrong may leave no trace in size or time: a codec that is installed now."""
    make_track(newcomer.media / "a.wav", 1)
    song = newcomer.media / "song.wav"
    make_track(song, 2)
    whole, status = song.read_bytes(), song.stat()

    def put(data: bytes) -> None:
        song.write_bytes(data)
        os.utime(song, ns=(status.st_atime_ns, status.st_mtime_ns))

    put(bytes(len(whole)))
    assert newcomer.json("index", newcomer.media)["skipped"] == 1
    put(whole)
    assert newcomer.json("index")["skipped"] == 1
    assert len(newcomer.json("errors")["errors"]) == 1
    said = newcomer.json("errors", "--retry")
    assert (said["indexed"], said["skipped"], said["errors"]) == (1, 0, [])
    assert newcomer.json("errors") == {"errors": []}
    done = newcomer.run("errors")
    assert (done.code, done.out, done.err) == (0, b"", "every file could be used\n")


def test_forget_drops_from_the_library_alone(user: User) -> None:
    one = a_photo(user)
    done = user.run("forget", one, "--yes", "--json")
    assert done.json == {"removed": 1}
    assert f"or: emoclim index {user.media}/Pictures --exclude NAME" in done.err
    assert user.json("status", code=1)["photos"] == len(PHOTO_SUFFIXES) - 1  # its folder is still known: it waits there
    assert user.json("forget", user.media / "Music", "--yes") == {"removed": len(CODECS)}
    assert user.json("status", code=1)["roots"] == [str(user.media / "Pictures")]
    done = user.run("forget", user.media, "--yes")
    assert done.err == f"dropped {len(PHOTO_SUFFIXES) - 1} items from the library; no file was touched\n"
    assert done.out == b""
    assert one.exists()
    assert user.run("index").code == 2  # no folder is known any more


def test_forget_asks(user: User) -> None:
    folder = user.media / "Music"
    done = user.run("forget", folder)
    assert (done.code, done.out) == (2, b"")
    assert "add --yes" in done.err
    for keys, code, music in ((b"n\n", 1, len(CODECS)), (b"\x03", 130, len(CODECS)), (b"y\n", 0, 0)):
        terminal = Terminal.start(user, "forget", folder)
        terminal.read_until(rb"Your files stay")
        assert terminal.finish(keys) == code
        assert user.json("status")["music"] == music


# --- models, spaces, doctor --------------------------------------------------------------------------------------------------------------


def test_models_list(newcomer: User) -> None:
    rows = newcomer.json("models", "list")["models"]
    assert [row["name"] for row in rows] == list(WEIGHTS)
    for row in rows:
        assert {"name", "kind", "licence", "bytes", "present", "source"} <= set(row)
        assert row["present"] is (row["name"] in ("clip-vit-b-16", "musicnn", "vibenet"))  # which the package index has
    bare = replace(newcomer, env={"EMOCLIM_CACHE": str(newcomer.home / "empty")})
    assert [row["present"] for row in bare.json("models", "list")["models"]] == [False] * len(WEIGHTS)
    lines = bare.run("models", "list").text.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["name", *WEIGHTS]


@pytest.mark.parametrize(("listing", "names"), [("models", list(WEIGHTS)), ("spaces", [DEFAULT_SPACE])])
def test_listings_are_readable_on_a_narrow_terminal(listing: str, names: list[str], newcomer: User) -> None:
    """Of 80 columns: where there is little room, sources and licences go over several lines, and names stay whole."""
    terminal = Terminal.start(newcomer, listing, "list")
    assert terminal.finish() == 0
    lines = terminal.text.splitlines()
    assert [line.split()[0] for line in lines if line[:1].strip()] == ["name", *names]
    assert all(len(line) <= 80 for line in lines)


def test_models_that_are_here_need_no_network(newcomer: User) -> None:
    done = newcomer.run("models", "fetch", "--offline", "--json")
    assert done.code == 0
    names = [name for kind in MediaKind for name in NEEDED[kind]]
    assert [row["name"] for row in done.json["models"]] == names
    assert done.err == "".join(f"{name}: here and intact\n" for name in names)
    verified = newcomer.json("models", "verify", "musicnn")["models"]
    assert [row["name"] for row in verified] == ["musicnn"]


def test_models_that_are_absent(newcomer: User) -> None:
    bare = replace(newcomer, env={"EMOCLIM_CACHE": str(newcomer.home / "empty")})
    done = bare.run("models", "fetch", "musicnn", "--offline")
    assert (done.code, done.out) == (3, b"")
    assert "emoclim models fetch musicnn" in done.err
    assert bare.run("models", "verify", "musicnn").code == 3
    none = bare.run("models", "verify")
    assert (none.code, none.err) == (0, "no weights are here: emoclim models fetch\n")
    for command in ("fetch", "verify"):
        unknown = bare.run("models", command, "nothing")
        assert unknown.code == 1
        assert all(name in unknown.err for name in WEIGHTS)
    carried = bare.run("models", "fetch", "musicnn", "--from", newcomer.media)
    assert carried.code == 3
    assert f"pip download --no-deps --ignore-requires-python {WEIGHTS['musicnn'].sources[0].requirement}" in carried.err
    assert bare.run("models", "fetch", "musicnn", "--from", newcomer.home / "nowhere").code == 2


def test_weights_that_no_network_gives(newcomer: User) -> None:
    bare = replace(newcomer, env={"EMOCLIM_CACHE": str(newcomer.home / "empty")})
    for flags in ([], ["--offline"]):
        done = bare.run("models", "fetch", "harmonic-cnn", *flags)
        assert (done.code, done.out) == (3, b"")
        assert 'best_model.pth of the published repository "sota-music-tagging-models"' in " ".join(done.err.split())
        assert "  try: emoclim models fetch harmonic-cnn --from best_model.pth\n" in done.err
    skipped = bare.run("models", "fetch", "--all", "--offline")
    assert skipped.code == 3  # the others are not here either
    for name in ("harmonic-cnn", "short-chunk-cnn"):
        assert f"{name}: on no network: emoclim models fetch {name} --from best_model.pth\n" in skipped.err


def test_a_checkpoint_of_the_users_is_taken_and_replaced(newcomer: User, tmp_path: Path) -> None:
    import torch

    from emoclim_cli.networks.taggers import HarmonicCnn

    user = replace(newcomer, env={"EMOCLIM_CACHE": str(tmp_path / "cache")})
    for seed, name in ((0, "best_model.pth"), (1, "other.pth")):
        torch.manual_seed(seed)
        torch.save(HarmonicCnn().state_dict(), tmp_path / name)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "wrong.pth")

    def fetch(path: Path) -> tuple[int, str]:
        done = user.run("models", "fetch", "harmonic-cnn", "--from", path)
        return done.code, done.err

    taken = f"taking harmonic-cnn from {tmp_path / 'best_model.pth'}\n"
    assert fetch(tmp_path / "best_model.pth") == (0, f"{taken}harmonic-cnn: here and intact\n")
    assert fetch(tmp_path / "best_model.pth") == (0, f"{taken}harmonic-cnn: here and intact\n")
    code, said = fetch(tmp_path / "other.pth")
    assert code == 0
    assert "harmonic-cnn: other weights than before; spaces and libraries made with the former do not fit them any more\n" in said
    code, said = fetch(tmp_path / "wrong.pth")
    assert code == 1
    assert "wrong.pth is not a checkpoint of this network" in said
    (row,) = user.json("models", "verify", "harmonic-cnn")["models"]
    assert (row["present"], row["source"]) == (True, "by hand: best_model.pth")


def with_weights_of_the_index(user: User, weights_cache: Path, cache: Path) -> User:
    """A cache that more can be put into."""
    (cache / "weights").mkdir(parents=True)
    for name in ("clip-vit-b-16", "musicnn", "vibenet"):
        for file in (WEIGHTS[name].file, f"{WEIGHTS[name].file}.json"):
            (cache / "weights" / file).symlink_to(weights_cache / file)
    return replace(user, env={"EMOCLIM_CACHE": str(cache)})


def test_all_weights_but_those_that_need_an_extra(newcomer: User, weights_cache: Path, tmp_path: Path) -> None:
    """Without huggingface_hub, what only a hub has does not keep the rest away."""
    user = with_weights_of_the_index(newcomer, weights_cache, tmp_path / "cache")
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *package: None if name == 'huggingface_hub' else find(name, *package)\n"
    )
    done = replace(user, env={**user.env, "PYTHONPATH": str(tmp_path), "EMOCLIM_OFFLINE": ""}).run("models", "fetch", "--all")
    assert done.code == 3
    for name in ("clip-vit-b-16", "musicnn", "vibenet"):
        assert f"{name}: here and intact\n" in done.err
    assert "cannot get the weights clip-vit-b-32: a model hub is reached with the extra `hub`" in " ".join(done.err.split())
    assert "pip install 'emoclim[hub]'" in done.err


def test_a_folder_of_files_carried_by_hand(newcomer: User, weights_cache: Path, tmp_path: Path) -> None:
    """Everything that it holds is taken, and what it lacks is said at the end; two networks of one file name have a folder each."""
    carried = tmp_path / "carried"
    user = with_weights_of_the_index(newcomer, weights_cache, tmp_path / "cache")
    for name in TAGGERS:
        (carried / name).mkdir(parents=True)
        write_tagger(name, carried / name / "best_model.pth")
    done = user.run("models", "fetch", "--all", "--from", carried)
    assert done.code == 3
    for name in ("clip-vit-b-16", "musicnn", "vibenet", *TAGGERS):
        assert f"{name}: here and intact\n" in done.err
    assert f"musicnn is here already: {carried} was not looked at\n" in done.err
    for name in ("clip-vit-b-32", "clap"):
        assert f"cannot get the weights {name} from {carried}" in done.err
    assert {row["name"] for row in user.json("models", "list")["models"] if row["present"]} >= set(TAGGERS)
    assert user.run("models", "fetch", "musicnn", "--from", tmp_path / "nowhere").code == 2


def test_damaged_weights_are_found_and_fetched_again(newcomer: User, weights_cache: Path) -> None:
    folder = newcomer.home / "damaged" / "weights"
    folder.mkdir(parents=True)
    for name in ("musicnn.onnx", "musicnn.onnx.json"):
        shutil.copy(weights_cache / name, folder)
    damaged = replace(newcomer, env={"EMOCLIM_CACHE": str(folder.parent)})
    assert damaged.run("models", "verify").code == 0
    with (folder / "musicnn.onnx").open("rb+") as file:
        file.seek(1000)
        file.write(b"damage")
    found = damaged.run("models", "verify")
    assert found.code == 1
    assert "  try: emoclim models fetch musicnn\n" in found.err
    mended = damaged.run("models", "fetch", "musicnn", "--from", newcomer.media)  # an empty folder: that it tried is enough
    assert mended.code == 3
    assert "cannot get the weights musicnn" in mended.err


def test_spaces(newcomer: User, tmp_path: Path) -> None:
    listed = newcomer.json("spaces", "list")["spaces"]
    assert DEFAULT_SPACE in [space["name"] for space in listed]
    for space in listed:
        assert {"name", "id", "photo_encoder", "music_encoder", "metrics"} <= set(space)
    shown = newcomer.json("spaces", "show")["spaces"]
    assert shown == [space for space in listed if space["name"] == DEFAULT_SPACE]
    assert f"id\t{shown[0]['id']}" in newcomer.run("spaces", "show", DEFAULT_SPACE).text
    assert newcomer.run("spaces", "show", "nothing").code == 1
    installed = newcomer.home / "data" / "emoclim" / "spaces" / "mine"
    shutil.copytree(shipped_spaces() / DEFAULT_SPACE, installed)
    assert len(newcomer.json("spaces", "list")["spaces"]) == len(listed) + 1
    assert newcomer.run("spaces", "show", "mine").code == 0


def test_doctor_tells_what_is_missing(newcomer: User) -> None:
    bare = replace(newcomer, env={"EMOCLIM_CACHE": str(newcomer.home / "empty")})
    checks = {check["name"]: check for check in bare.json("doctor", code=1)["checks"]}
    assert all({"name", "ok", "detail", "hint"} <= set(check) for check in checks.values())
    needed = [name for kind in MediaKind for name in NEEDED[kind]]
    assert [name for name, check in checks.items() if check["needed"] and not check["ok"]] == [f"weights {name}" for name in needed]
    assert checks["torch"]["ok"]
    assert checks["weights musicnn"]["hint"] == "emoclim models fetch musicnn"


# --- evaluate: that it is wired; what it computes is tested with its modules, and in test_models -----------------------------------------


def test_evaluate_names_file_and_line(newcomer: User) -> None:
    make_track(newcomer.media / "a.wav", 1)
    labels = newcomer.media / "labels.csv"
    labels.write_text("file,emotion\na.wav,sad\na.wav,melancholic\n")
    done = newcomer.run("evaluate", "--music", labels)
    assert (done.code, done.out) == (1, b"")
    assert f"{labels}, line 3: unknown emotion 'melancholic'" in done.err
    assert newcomer.run("evaluate", "--music", labels, "--level", "song").code == 2
    assert newcomer.run("evaluate", "--music", labels, "--plot", "a.jpg").code == 2


@pytest.fixture
def labelled(newcomer: User) -> Path:
    """Two happy tracks and two sad ones."""
    names = [make_track(newcomer.media / f"{seed}.wav", seed).name for seed in range(4)]
    labels = newcomer.media / "labels.csv"
    labels.write_text("file,emotion\n" + "".join(f"{name},{'happy' if i < 2 else 'sad'}\n" for i, name in enumerate(names)))
    return labels


@pytest.mark.parametrize("level", ["clip", "track", "sliding"])
def test_evaluate_draws_what_it_measures(newcomer: User, labelled: Path, level: str) -> None:
    figure = newcomer.home / "a.svg"
    said = newcomer.json("evaluate", "--music", labelled, "--level", level, "--plot", figure)
    assert (said["level"], said["plot"]) == (level, str(figure))
    (direction,) = said["directions"].values()
    assert {"p@1", "p@5", "mrr", "chance_p@5", "n", "per_emotion", "p@5_interval", "confusion", "hubness"} <= set(direction)
    assert (direction["n"], set(direction["confusion"])) == (4, {"happy", "sad"})
    assert figure.read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_evaluate_shows_what_is_taken_for_what_when_asked(newcomer: User, labelled: Path) -> None:
    short, long, verbose = (
        newcomer.run(*command, "--music", labelled).text for command in (["evaluate"], ["evaluate", "--confusion"], ["-v", "evaluate"])
    )
    header = "direction\tasked with\thappy\tfunny\texciting\tsad\tscary\tangry"
    assert header not in short
    assert long.startswith(short)
    assert long == verbose
    _, rows = long.split(header + "\n")
    assert [row.split("\t")[:2] for row in rows.splitlines()] == [["music->music", "happy"], ["music->music", "sad"]]
    for row in rows.splitlines():
        assert sum(map(float, row.split("\t")[2:])) == pytest.approx(1, abs=0.003)


# --- what must not be misread ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["forget", "", "--yes"], ["index", ""], ["match", ""]])
def test_an_empty_path_is_not_the_current_folder(user: User, command: list[str]) -> None:
    done = user.run(*command, cwd=user.media)
    assert done.code == 2
    assert user.run("status").code == 0


def test_excludes_add_up_until_their_folder_is_forgotten(newcomer: User) -> None:
    for name in ("a.jpg", "b.png", "c.webp"):
        make_photo(newcomer.media / name)
    newcomer.run("index", newcomer.media, "--exclude", "*.png")
    newcomer.run("index", "--exclude", "*.webp")
    assert newcomer.json("index")["seen"] == 1
    newcomer.run("forget", newcomer.media, "--yes")
    assert newcomer.json("index", newcomer.media)["seen"] == 3


@pytest.mark.parametrize(
    "wrong",
    [
        ["match", "sad", "--format", "xspf"],
        ["match", "sad", "--json", "--paths"],
        ["match", "sad", "--device", "abacus"],
        ["index", "--device", "abacus"],
    ],
)
def test_options_that_would_be_ignored_are_refused(user: User, wrong: list[str]) -> None:
    assert user.run(*wrong).code == 2


def test_weights_that_were_cut_off_are_damaged_not_absent(user: User, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "weights").mkdir(parents=True)
    for name in ("musicnn.onnx", "musicnn.onnx.json", "vibenet.onnx", "vibenet.onnx.json"):
        shutil.copy(Path(user.env["EMOCLIM_CACHE"]) / "weights" / name, cache / "weights" / name)
    cut = cache / "weights" / "musicnn.onnx"
    cut.write_bytes(cut.read_bytes()[:-100])
    done = replace(user, env={"EMOCLIM_CACHE": str(cache)}).run("models", "verify")
    assert done.code == 3
    assert "musicnn" in done.err
    assert "vibenet: intact" in done.err


def test_another_space_than_the_librarys_counts_nothing(user: User, tmp_path: Path) -> None:
    """Vectors of two spaces are never compared; and what a library remembers is what is evaluated."""
    rng = np.random.default_rng(0)
    other = replace(SPACE, prototypes=rng.standard_normal(SPACE.prototypes.shape).astype(np.float32))
    other.save(tmp_path / "other")
    elsewhere = replace(user, env=user.env | {"EMOCLIM_SPACE": str(tmp_path / "other")})
    said = elsewhere.json("status", code=1)
    assert said["space"] == SPACE.name
    assert not any(said["emotions"]["photos"].values())
    counted = user.json("status")
    told = [user.run("index", "--space", tmp_path / "other").err for _ in range(2)]
    assert [f"{counted['photos'] + counted['music']} items to map to the space" in text for text in told] == [True, False]
    checks = {check["name"]: check for check in user.json("doctor")["checks"]}
    assert other.id in checks["space"]["detail"]
