from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli import copies
from emoclim_cli.copies import SAMPLE_BYTES, identical


def write(folder: Path, **contents: bytes) -> list[str]:
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in contents]


def names(sets: list[list[str]]) -> list[list[str]]:
    return sorted([os.path.basename(path) for path in same] for same in sets)


def test_the_same_bytes_under_other_names(tmp_path: Path) -> None:
    paths = write(tmp_path, d=b"one", a=b"two", c=b"one", b=b"two", e=b"one", f=b"six", g=b"three")
    assert names(identical(paths)) == [["a", "b"], ["c", "d", "e"]]
    assert names(identical(iter(paths[:2]))) == []


@pytest.mark.parametrize("size", [1, SAMPLE_BYTES, SAMPLE_BYTES + 1, 3 * SAMPLE_BYTES, 40 * SAMPLE_BYTES])
def test_one_byte_anywhere_makes_another_file(tmp_path: Path, size: int) -> None:
    """Where the samples see it, and where only the whole file shows it."""
    data = os.urandom(size)
    for place in {0, size // 5, size // 3, size // 2, size * 3 // 4, size - 1}:
        other = bytearray(data)
        other[place] ^= 1
        assert names(identical(write(tmp_path, a=data, b=bytes(other), c=data))) == [["a", "c"]]


@given(st.lists(st.sampled_from([b"", b"a", b"b", b"ab", b"ba", b"a" * 9000, b"a" * 8999 + b"b"]), max_size=12))
def test_as_a_comparison_of_each_with_each(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("files")
    paths = write(folder, **{f"{i:02}": data for i, data in enumerate(contents)})
    pairs = {pair for same in identical(paths) for pair in combinations(same, 2)}
    assert pairs == {(a, b) for (a, x), (b, y) in combinations(zip(paths, contents, strict=True), 2) if x == y and x}


def test_a_path_twice_is_one_file_and_a_link_is_a_copy(tmp_path: Path) -> None:
    (path,) = write(tmp_path, a=b"one")
    assert identical([path, path]) == []
    os.symlink(path, tmp_path / "link")
    assert names(identical([path, str(tmp_path / "link")])) == [["a", "link"]]


def test_what_cannot_be_read_is_no_copy(tmp_path: Path) -> None:
    paths = write(tmp_path, a=b"one", b=b"one", empty=b"", nothing=b"")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe2")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder2").mkdir()
    more = [str(tmp_path / name) for name in ("missing", "missing2", "pipe", "pipe2", "folder", "folder2")]
    assert names(identical([*paths, *more])) == [["a", "b"]]


def test_a_file_that_vanishes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path, a=b"one", b=b"one", c=b"one")
    compare_samples = copies._sample

    def slow(path: str) -> bytes:
        Path(paths[1]).unlink(missing_ok=True)
        return compare_samples(path)

    monkeypatch.setattr(copies, "_sample", slow)
    assert names(identical(paths)) == [["a", "c"]]


def test_whole_files_are_read_only_where_samples_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand clips of one length are all of one size."""
    paths = write(tmp_path, **{f"{i}": bytes([i]) * 100_000 for i in range(20)}, twin=bytes(100_000))
    read: list[str] = []
    whole = copies._bytes
    monkeypatch.setattr(copies, "_bytes", lambda path: (read.append(path), whole(path))[1])
    assert names(identical(paths)) == [["0", "twin"]]
    assert names([read]) == [["0", "twin"]]
