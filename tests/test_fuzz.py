"""Bad media: every file of a corpus of damaged, hostile and odd ones is read rightly or refused with a reason (see bad_media.py)."""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_media import MUTATIONS, Special, mutated, specials, whole_photos, whole_tracks

from emoclim_cli.media import content_digest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")

TESTS = Path(__file__).parent
LIMIT_S = 60.0
"""For one file, with all readers, on a busy machine. The slowest take some seconds: bombs that stay just below what is refused."""
MOST_MB = 600
"""Of a process that reads damaged files of ordinary size."""
MOST_MB_OF_A_BOMB = 2600


@dataclass(frozen=True)
class Corpus:
    folder: Path
    specials: dict[str, Special]
    said: dict[str, dict[str, Any]]
    """Of each file, by its name, what was read in a process that reads nothing else."""
    before: dict[str, tuple[int, str]]
    """When it was changed, and its content."""


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    return {file.name: (file.stat().st_mtime_ns, content_digest(str(file))) for file in folder.iterdir()}


@pytest.fixture(scope="module")
def corpus(long: bool, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder, work = tmp_path_factory.mktemp("bad-media"), tmp_path_factory.mktemp("work")
    special = {one.name: one for one in specials(work, 15_000 if long else 3_000)}
    for one in special.values():
        (folder / one.name).write_bytes(one.data)
    whole = {**whole_photos(work), **whole_tracks(work)}
    bad = mutated(whole, rounds=20 if long else 1, mutations_each=5)
    for name, data in [*((f"whole_{name}", data) for name, data in whole.items()), *bad]:
        assert not (folder / name).exists()
        (folder / name).write_bytes(data)
    before = state_of(folder)
    said = {Path(one["path"]).name: one for one in read_in_child(sorted(folder.iterdir()), LIMIT_S)}
    return Corpus(folder, special, said, before)


def read_in_child(paths: Sequence[Path], limit_s: float) -> Iterator[dict[str, Any]]:
    """What `bad_media.read_all` says of each file; of one that ends the process, or takes longer than `limit_s`, its `fate`."""
    left = [str(path) for path in paths]
    while left:
        command = [sys.executable, "-W", "error", str(TESTS / "bad_media.py")]
        # What libtiff has to say of damaged files it writes to stderr itself.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdin and child.stdout
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                while left:
                    child.stdin.write(json.dumps(left[0]).encode() + b"\n")
                    child.stdin.flush()
                    said = _answer(child, selector, limit_s)
                    yield {**said, "path": left.pop(0)}
                    if "fate" in said:
                        break
        finally:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()


def _answer(child: subprocess.Popen[bytes], selector: selectors.BaseSelector, limit_s: float) -> dict[str, Any]:
    assert child.stdout
    heard, deadline = b"", time.monotonic() + 60.0  # the first file waits for imports
    begun = False
    while heard.count(b"\n") < 2:
        if not selector.select(max(0.0, deadline - time.monotonic())):
            return {"fate": f"takes longer than {limit_s} s"}
        piece = os.read(child.stdout.fileno(), 1 << 20)
        if not piece:
            return {"fate": f"ends the process: {child.wait()}"}
        heard += piece
        if not begun and b"\n" in heard:
            begun, deadline = True, time.monotonic() + limit_s
    said: dict[str, Any] = json.loads(heard.splitlines()[1])
    return said


def test_the_corpus_is_what_it_should_be(corpus: Corpus, long: bool) -> None:
    """All formats with all mutations, the same bytes each time."""
    names = set(corpus.before)
    assert len(names) >= (4000 if long else 340)
    for mutation in MUTATIONS:
        assert sum(f"-{mutation}-" in name for name in names) >= 20
    whole = {"a.jpg": bytes(range(256)) * 9, "b.mp3": bytes(range(255, -1, -1)) * 7}
    assert list(mutated(whole, 3, 4, seed=5)) == list(mutated(whole, 3, 4, seed=5)) != list(mutated(whole, 3, 4, seed=6))


def test_every_file_is_read_or_refused_with_a_reason(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.said.keys() == corpus.before.keys()
    assert {name: one for name, one in corpus.said.items() if "fate" in one or one["faults"]} == {}
    refused = {name: one["reason"] for name, one in corpus.said.items() if "reason" in one}
    unfit = {name: reason for name, reason in refused.items() if not reason.isprintable() or not reason or str(corpus.folder) in reason}
    assert unfit == {}
    read = corpus.said.keys() - refused.keys()
    assert min(len(read), len(refused)) > len(corpus.said) / 5
    slowest = max(corpus.said.values(), key=lambda one: one["seconds"])
    largest = max(corpus.said.values(), key=lambda one: one["peak_mb"])
    with capsys.disabled():
        sys.stdout.write(
            f"\nbad media: {len(corpus.said):,} files, {len(read):,} read, {len(refused):,} refused; slowest {slowest['seconds']:.1f} s "
            f"({Path(slowest['path']).name}), most memory {largest['peak_mb']:,.0f} MB ({Path(largest['path']).name})\n"
        )


def test_whole_files_are_read(corpus: Corpus) -> None:
    whole = [one for name, one in corpus.said.items() if name.startswith("whole_")]
    assert len(whole) > 40
    assert [one for one in whole if "reason" in one] == []


def test_memory_is_bounded(corpus: Corpus) -> None:
    peaks = {name: one["peak_mb"] for name, one in corpus.said.items() if "peak_mb" in one}
    bombs = {name for name in peaks if name.startswith("bomb-")}
    assert {name: peak for name, peak in peaks.items() if peak > MOST_MB and name not in bombs} == {}
    assert max(peaks[name] for name in bombs) < MOST_MB_OF_A_BOMB


def test_special_cases_come_out_exactly_so(corpus: Corpus) -> None:
    wrong: dict[str, Any] = {}
    for name, special in corpus.specials.items():
        said = corpus.said[name]
        if "fate" in said:
            wrong[name] = said["fate"]
        elif said.get("reason", "") != special.reason:
            wrong[name] = (said.get("reason", ""), special.reason)
        elif special.colour and np.abs(np.array([said["low"], said["high"]]) - special.colour).max() > special.tolerance:
            wrong[name] = (said["low"], said["high"], special.colour)
        elif special.duration_s and abs(said["duration_s"] - special.duration_s) > 0.1:
            wrong[name] = (said["duration_s"], special.duration_s)
        elif special.title is not None and said["title"] != special.title:
            wrong[name] = (said["title"], special.title)
    assert wrong == {}


def test_a_folder_of_it_all_is_indexed(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-W", "error", str(TESTS / "bad_media.py"), str(corpus.folder), str(tmp_path / "library")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 + len(corpus.said))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run = json.loads(done.stdout)
    assert run["seen"] == run["indexed"] + run["skipped"]
    assert (run["unchanged"], run["moved"], run["gone"]) == (0, 0, 0)
    refused = {Path(row["path"]).name: row["reason"] for row in run["errors"]}
    known = {Path(path).name: kind for path, kind in run["known"].items()}
    assert len(refused) == len(run["errors"]) == run["skipped"]
    assert len(known) == len(run["known"]) == run["indexed"]
    # As when they were read one by one; what is neither a photo nor music, by its bytes and its name, is not seen.
    seen = {name: one for name, one in corpus.said.items() if one.get("kind")}
    assert {name: one["kind"] for name, one in seen.items() if "reason" not in one} == known
    assert {name: one["reason"] for name, one in seen.items() if "reason" in one} == refused
    assert run["vectors"]
    assert (run["stale"], run["unchanged_again"], run["skipped_again"]) == (0, run["indexed"], run["skipped"])
    assert run["peak_mb"] < 800
    assert run["peak_mb_of_a_worker"] < MOST_MB_OF_A_BOMB
    with capsys.disabled():
        sys.stdout.write(
            f"\nbad media, indexed as a folder: {run['indexed']:,} indexed, {run['skipped']:,} skipped in {run['seconds']:.0f} s; "
            f"most memory {run['peak_mb']:,.0f} MB, of a reading process {run['peak_mb_of_a_worker']:,.0f} MB\n"
        )


def test_the_users_files_are_as_they_were(corpus: Corpus) -> None:
    """After all the tests above."""
    assert state_of(corpus.folder) == corpus.before


# --- our own parsers ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parsers() -> Any:
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    import fuzz_parsers

    return fuzz_parsers


PARSERS = ("sniff", "exif", "playlist", "cue-sheet", "labels", "audioset", "space", "training-state", "tensorflow", "pytorch", "onnx")


@pytest.mark.parametrize("name", PARSERS)
def test_parsers_refuse_what_is_wrong_as_they_should(name: str, parsers: Any, long: bool, tmp_path: Path) -> None:
    """Whatever is done to a good input; each target says what must hold of it."""
    target = parsers.TARGETS[name]
    seeds = {str(number): seed for number, seed in enumerate(target.seeds())}
    for seed in seeds.values():
        target.check(seed, tmp_path)
    for _, data in mutated(seeds, rounds=1000 if long else 20, mutations_each=3, seed=PARSERS.index(name)):
        target.check(data, tmp_path)


def test_parsers_hold_against_inputs_that_are_guided_by_coverage(parsers: Any, long: bool, tmp_path: Path) -> None:
    assert set(PARSERS) == set(parsers.TARGETS)
    targets = [] if long else ["tensorflow"]
    command = [sys.executable, str(TESTS / "fuzz_parsers.py"), *targets, "--seconds", "120" if long else "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-5000:]}"
    assert list(tmp_path.glob("*-crash-*")) == []
    assert int(re.findall(r"number_of_executed_units: (\d+)", done.stderr)[-1]) > 50
