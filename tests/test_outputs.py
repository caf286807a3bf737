"""Files that are written for the user."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from emoclim_cli import outputs
from emoclim_cli.errors import MediaError, UsageError
from emoclim_cli.outputs import refuse_media, replacing, write_atomically


def test_refuse_media(tmp_path: Path) -> None:
    def refused(name: str, data: bytes) -> bool:
        (tmp_path / name).write_bytes(data)
        try:
            refuse_media(str(tmp_path / name))
        except UsageError as error:
            return name in error.message
        return False

    assert refused("renamed.m3u8", b"ID3\x04\0\0\0\0\0\0")
    assert refused("photo.json", b"\xff\xd8\xff\xe0")
    assert refused("empty.mp3", b"")
    assert not refused("list.m3u8", b"#EXTM3U\n")
    assert not refused("empty.m3u8", b"")
    refuse_media(str(tmp_path / "missing.mp3"))
    refuse_media(str(tmp_path))


def test_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "a.m3u8"
    old = os.umask(0o027)
    try:
        write_atomically(str(target), b"1")
    finally:
        os.umask(old)
    assert target.read_bytes() == b"1"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a.m3u8"]


def test_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "a.m3u8"
    target.write_bytes(b"a longer old file")
    target.chmod(0o606)
    write_atomically(str(target), b"2")
    assert target.read_bytes() == b"2"
    assert stat.S_IMODE(target.stat().st_mode) == 0o606
    assert os.listdir(tmp_path) == ["a.m3u8"]


def test_readers_of_the_old_file_keep_it(tmp_path: Path) -> None:
    target = tmp_path / "a.m3u8"
    target.write_bytes(b"old")
    with target.open("rb") as file:
        write_atomically(str(target), b"new")
        assert file.read() == b"old"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_followed(tmp_path: Path, dangling: bool) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.m3u8", tmp_path / "link.m3u8"
    if not dangling:
        real.write_bytes(b"old")
    link.symlink_to(real)
    write_atomically(str(link), b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert not real.is_symlink()


def test_names_that_are_awkward_or_as_long_as_can_be(tmp_path: Path) -> None:
    for name in ("#\n '\".m3u8", "x" * 250 + ".m3u8"):
        write_atomically(str(tmp_path / name), b"1")
        assert (tmp_path / name).read_bytes() == b"1"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.m3u8"
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(MediaError, match=r"a\.m3u8.*No space left"):
        write_atomically(str(target), b"new")
    monkeypatch.setattr(outputs.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.m3u8"]


def test_targets_that_make_no_sense(tmp_path: Path) -> None:
    (tmp_path / "folder.m3u8").mkdir()
    (tmp_path / "kept.m3u8").write_bytes(b"old")
    (tmp_path / "kept.m3u8").chmod(0o444)
    (tmp_path / "loop.m3u8").symlink_to("loop.m3u8")
    cases = {
        "folder.m3u8": (UsageError, "it is a folder"),
        "none/a.m3u8": (UsageError, r"there is no folder .*none"),
        "kept.m3u8": (UsageError, "write-protected"),
        "kept.m3u8/a.m3u8": (MediaError, r"kept\.m3u8/a\.m3u8: Not a directory"),
        "loop.m3u8": (MediaError, r"loop\.m3u8: "),
    }
    before = sorted(os.listdir(tmp_path))
    for name, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            write_atomically(str(tmp_path / name), b"new")
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "kept.m3u8").read_bytes() == b"old"
    assert (tmp_path / "loop.m3u8").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.m3u8"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(str(pipe), b"new")
    reader.join(10)
    assert received == [b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_file_takes_its_place_only_when_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "show.mp4"
    target.write_bytes(b"old")
    target.chmod(0o640)
    with replacing(str(target)) as temporary:
        Path(temporary).write_bytes(b"new")
        assert target.read_bytes() == b"old"
        assert Path(temporary).parent == tmp_path
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["show.mp4"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, UsageError("x"), ValueError])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, raised: type[BaseException] | BaseException) -> None:
    target = tmp_path / "show.mp4"
    target.write_bytes(b"old")
    with pytest.raises(raised if isinstance(raised, type) else type(raised)), replacing(str(target)) as temporary:  # noqa: PT012
        Path(temporary).write_bytes(b"half")
        raise raised
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["show.mp4"]


def test_a_pipe_is_no_file_to_take_the_place_of(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UsageError, match="no regular file"), replacing(str(tmp_path / "pipe.mp4")):
        pass
