"""The folder that can be carried away."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli import cues, portable
from emoclim_cli.cues import CueSheet, PhotoCue, TrackCue
from emoclim_cli.errors import MediaError, UsageError
from emoclim_cli.portable import clean_name


def sheet_of(*tracks: TrackCue) -> CueSheet:
    return CueSheet((PhotoCue("/p/a.jpg", 0.0, 60.0, 0.0, 1, "sad"),), tracks)


def cue(path: Path, start_s: float = 0.0, title: str = "", artist: str = "") -> TrackCue:
    return TrackCue(str(path), start_s, start_s + 5.0, 0.0, 0.1, 0.1, 0.0, 1, title, artist)


def copy_tracks(sheet: CueSheet, folder: str) -> CueSheet:
    return portable.make(sheet, folder, "Show")


def music(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / "one.mp3", folder / "two.flac"]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 5000)
    return paths


def test_tracks_are_copied_in_the_order_of_the_show(tmp_path: Path) -> None:
    one, two = music(tmp_path / "music")
    sheet = sheet_of(cue(two, 0, "Last", "Bo/Bo"), cue(one, 10), cue(two, 20, "Last", "Bo/Bo"))
    copied = copy_tracks(sheet, str(tmp_path / "usb"))
    assert sorted(os.listdir(tmp_path / "usb")) == ["01 Bo Bo - Last.flac", "02 one.mp3", "Show.json", "Show.m3u8"]
    assert cues.read(str(tmp_path / "usb" / "Show.json")) == cues.read(str(tmp_path / "usb" / "Show.m3u8")) == copied
    assert [os.path.basename(track.path) for track in copied.tracks] == ["01 Bo Bo - Last.flac", "02 one.mp3", "01 Bo Bo - Last.flac"]
    assert (tmp_path / "usb" / "02 one.mp3").read_bytes() == one.read_bytes()
    assert [replace(track, path="") for track in copied.tracks] == [replace(track, path="") for track in sheet.tracks]


def test_again_into_the_same_folder_copies_nothing(tmp_path: Path) -> None:
    one, _ = music(tmp_path / "music")
    copy_tracks(sheet_of(cue(one)), str(tmp_path / "usb"))
    before = os.stat(tmp_path / "usb" / "01 one.mp3").st_mtime_ns
    copy_tracks(sheet_of(cue(one)), str(tmp_path / "usb"))
    assert os.stat(tmp_path / "usb" / "01 one.mp3").st_mtime_ns == before


def test_another_file_is_never_overwritten(tmp_path: Path) -> None:
    one, two = music(tmp_path / "music")
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "02 two.flac").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"02 two\.flac"):
        copy_tracks(sheet_of(cue(one), cue(two, 10)), str(tmp_path / "usb"))
    assert os.listdir(tmp_path / "usb") == ["02 two.flac"]
    assert (tmp_path / "usb" / "02 two.flac").read_bytes() == b"mine"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = music(tmp_path / "music")
    whole = portable.shutil.copyfile

    def full(source: str, target: str) -> None:
        if source == str(two):
            Path(target).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        whole(source, target)

    monkeypatch.setattr(portable.shutil, "copyfile", full)
    with pytest.raises(MediaError, match="No space left"):
        copy_tracks(sheet_of(cue(one), cue(two, 10)), str(tmp_path / "usb"))
    assert not (tmp_path / "usb").exists()
    assert one.exists() and two.exists()


def test_a_track_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.mp3"):
        copy_tracks(sheet_of(cue(tmp_path / "gone.mp3")), str(tmp_path / "usb"))
    assert not (tmp_path / "usb").exists()


def test_a_folder_in_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    one, _ = music(tmp_path / "music")
    with pytest.raises(UsageError, match=r"there is no folder .*none"):
        copy_tracks(sheet_of(cue(one)), str(tmp_path / "none" / "usb"))


def test_another_show_is_not_mixed_in(tmp_path: Path) -> None:
    one, two = music(tmp_path / "music")
    copy_tracks(sheet_of(cue(one)), str(tmp_path / "usb"))
    before = sorted(os.listdir(tmp_path / "usb"))
    with pytest.raises(UsageError, match=r"holds other files: 01 one\.mp3"):
        copy_tracks(sheet_of(cue(two)), str(tmp_path / "usb"))
    assert sorted(os.listdir(tmp_path / "usb")) == before


@pytest.mark.parametrize("name", ["Show.m3u8", "Show.json"])
def test_a_list_of_the_users_is_never_overwritten(tmp_path: Path, name: str) -> None:
    one, _ = music(tmp_path / "music")
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match=name):
        copy_tracks(sheet_of(cue(one)), str(tmp_path / "usb"))
    assert os.listdir(tmp_path / "usb") == [name]
    assert (tmp_path / "usb" / name).read_bytes() == b"mine"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    one, _ = music(tmp_path / "music")
    (tmp_path / "usb").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is no folder"):
        copy_tracks(sheet_of(cue(one)), str(tmp_path / "usb"))


def test_the_folder_can_be_carried_away_and_photos_are_found_where_they_are(tmp_path: Path) -> None:
    one, _ = music(tmp_path / "music")
    copy_tracks(sheet_of(cue(one)), str(tmp_path / "usb"))
    (tmp_path / "far" / "away").mkdir(parents=True)
    os.rename(tmp_path / "usb", tmp_path / "far" / "away" / "usb")
    for name in ("Show.m3u8", "Show.json"):
        sheet = cues.read(str(tmp_path / "far" / "away" / "usb" / name))
        assert [track.path for track in sheet.tracks] == [str(tmp_path / "far" / "away" / "usb" / "01 one.mp3")]
        assert [photo.path for photo in sheet.photos] == ["/p/a.jpg"]


@given(st.text(max_size=300))
def test_names_fit_every_disk(text: str) -> None:
    name = clean_name(text)
    assert not set(name) & set('<>:"/\\|?*\n\r\t\0')
    assert len(os.fsencode(f".emoclim-0123456789abcdef.tmp{name}.m3u8")) <= 255
    assert name == name.strip() and not name.endswith(".")


def test_two_tracks_of_one_name_are_two_files(tmp_path: Path) -> None:
    one, two = music(tmp_path / "music")
    copied = copy_tracks(sheet_of(cue(one, 0, "A/B"), cue(two, 10, "A?B")), str(tmp_path / "usb"))
    assert len({track.path for track in copied.tracks}) == 2
