"""Cue sheets: what is written is what is read, and what is wrong in one is named."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli import cues
from emoclim_cli.cues import CueSheet, PhotoCue, TrackCue
from emoclim_cli.errors import CueError
from emoclim_cli.playlists import of_sheet, render

PHOTOS = (
    PhotoCue("/pictures/a.jpg", 0.0, 4.0, 0.0, 1, "happy"),
    PhotoCue("/pictures/b.jpg", 4.0, 7.5, 0.8, 1, "happy"),
    PhotoCue("/pictures/c.jpg", 7.5, 12.0, 0.8, 2, "sad"),
)
TRACKS = (
    TrackCue("/music/one.mp3", 0.0, 9.0, 30.0, 0.02, 3.0, -2.5, 1, "One", "Ann"),
    TrackCue("/music/two.flac", 6.0, 12.0, 1.5, 3.0, 3.0, 1.25, 2, "Two"),
)
SHEET = CueSheet(PHOTOS, TRACKS, "emoclim-1")


def as_file(folder: Path, sheet: CueSheet, name: str = "show.json") -> str:
    (folder / name).write_bytes(cues.write(sheet, str(folder)))
    return str(folder / name)


def m3u8_of(sheet: CueSheet, base: str) -> bytes:
    return render(of_sheet(sheet, "show", base), "m3u8", base)


def test_a_sheet_is_read_back(tmp_path: Path) -> None:
    assert cues.read(as_file(tmp_path, SHEET)) == SHEET
    assert SHEET.duration_s == 12.0


def test_a_row_says_what_is_heard_with_the_photo() -> None:
    rows = json.loads(cues.write(SHEET, None))["photos"]
    assert [(row["track"], row["offset_s"]) for row in rows] == [
        ("/music/one.mp3", 30.0),
        ("/music/one.mp3", 34.0),
        ("/music/two.flac", 3.0),  # has taken over at 7.5 s
    ]


def test_what_a_row_says_of_the_track_is_not_looked_at(tmp_path: Path) -> None:
    document = json.loads(cues.write(SHEET, None))
    for row in document["photos"]:
        row["track"], row["offset_s"] = "elsewhere", -1
    (tmp_path / "show.json").write_text(json.dumps(document))
    assert cues.read(str(tmp_path / "show.json")) == SHEET


names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
moments = st.floats(0, 1e6).map(lambda value: round(value, 6))


@given(names, names, st.text(max_size=20), st.lists(st.floats(0.01, 1e4).map(lambda v: round(v, 6)), min_size=1, max_size=9), moments)
def test_any_names_and_times_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, photo: str, track: str, title: str, lengths: list[float], offset: float
) -> None:
    folder = tmp_path_factory.mktemp("sheet")
    title = title.encode("utf-8", "ignore").decode()
    times = [0.0]
    for length in lengths:
        times.append(round(times[-1] + length, 6))
    photos = tuple(PhotoCue(f"/p/{photo}", times[i], times[i + 1], 0.5, i + 1, "sad") for i in range(len(lengths)))
    sheet = CueSheet(photos, (TrackCue(f"/m/{track}", 0.0, times[-1], offset, 0.02, 1.0, -3.0, 1, title, ""),), "space")
    assert cues.read(as_file(folder, sheet)) == sheet
    (folder / "show.m3u8").write_bytes(m3u8_of(sheet, str(folder)))
    assert cues.read(str(folder / "show.m3u8")) == sheet


def test_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    path = os.fsdecode(b"/music/caf\xe9.mp3")
    sheet = replace(SHEET, tracks=(replace(TRACKS[0], path=path),))
    assert cues.read(as_file(tmp_path, sheet)).tracks[0].path == path
    (tmp_path / "show.m3u8").write_bytes(m3u8_of(sheet, str(tmp_path)))
    assert cues.read(str(tmp_path / "show.m3u8")).tracks[0].path == path


def test_a_sheet_moves_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    sheet = CueSheet((replace(PHOTOS[0], path=str(tmp_path / "here" / "a.jpg")),), ())
    as_file(tmp_path / "here", sheet)
    os.rename(tmp_path / "here", tmp_path / "there")
    assert cues.read(str(tmp_path / "there" / "show.json")).photos[0].path == str(tmp_path / "there" / "a.jpg")


def test_a_playlist_carries_the_sheet_and_players_see_only_tracks(tmp_path: Path) -> None:
    data = m3u8_of(SHEET, str(tmp_path))
    (tmp_path / "show.m3u8").write_bytes(data)
    assert cues.read(str(tmp_path / "show.m3u8")) == SHEET
    entries = [line for line in data.decode().splitlines() if not line.startswith("#")]
    assert [os.path.basename(line) for line in entries] == ["one.mp3", "two.flac"]


def edited(**changes: Any) -> Any:
    document = json.loads(cues.write(SHEET, None))
    for key, value in changes.items():
        part, _, rest = key.partition("_")
        if rest:
            document[part][1][rest] = value
        else:
            document[part] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (edited(format=2), "format is 2"),
        (edited(photos=[]), "no photos"),
        (edited(photos="x"), "no list of photos"),
        (edited(photos=[{"path": "/a.jpg"}]), "photo 1: it has no start_s"),
        (edited(photos_start_s=3.0), r"photo 2 starts at 3 s, and the one before ends at 4 s"),
        (edited(photos_start_s="4"), "photo 2: start_s is '4', not a number"),
        (edited(photos_start_s=float("nan")), "photo 2: start_s is no number that can be used"),
        (edited(tracks_gain_db=10**400), "track 2: gain_db is no number that can be used"),
        (edited(photos=[{**json.loads(cues.write(SHEET, None))["photos"][0], "end_s": 1e5}]), "photo 1 ends at 100000 s, and a show"),
        (edited(format=True), "format is True"),
        (edited(photos_end_s=3.0), "photo 2: it ends at 3 s and starts at 4 s"),
        (edited(photos_scene=1.5), "photo 2: scene is 1.5, not a whole number"),
        (edited(photos_path="a\0b"), "photo 2: path is"),
        (edited(tracks_offset_s=-1.0), "track 2: offset_s is -1, less than 0"),
        (edited(tracks_gain_db=True), "track 2: gain_db is True"),
        (edited(tracks_title=3), "track 2: title is 3, not text"),
        (edited(tracks=[1]), "track 1: it is no JSON object"),
        ([], "neither JSON nor an M3U playlist"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, document: object, message: str) -> None:
    (tmp_path / "show.json").write_text(json.dumps(document))
    with pytest.raises(CueError, match=message) as caught:
        cues.read(str(tmp_path / "show.json"))
    assert "show.json" in caught.value.message


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xd8\xff", b"#EXTM3U\na.mp3\n", b"[" * 100_000, b"#EXTM3U\n#EMOCLIM-SHOW:1\n"])
def test_what_is_no_sheet_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "show.json").write_bytes(data)
    with pytest.raises(CueError, match=r"show\.json"):
        cues.read(str(tmp_path / "show.json"))


def test_a_photo_that_is_taken_out_leaves_its_time_to_the_one_before(tmp_path: Path) -> None:
    document = json.loads(cues.write(SHEET, None))
    for gone, lengths in ((1, [(0.0, 7.5), (7.5, 12.0)]), (0, [(0.0, 7.5), (7.5, 12.0)]), (2, [(0.0, 4.0), (4.0, 7.5)])):
        photos = document["photos"][:gone] + document["photos"][gone + 1 :]
        (tmp_path / "show.json").write_text(json.dumps(document | {"photos": photos}))
        assert [(photo.start_s, photo.end_s) for photo in cues.read(str(tmp_path / "show.json")).photos] == lengths


def test_tracks_that_begin_after_the_end_are_not_part_of_the_show(tmp_path: Path) -> None:
    document = json.loads(cues.write(SHEET, None))
    (tmp_path / "show.json").write_text(json.dumps(document | {"photos": document["photos"][:1]}))
    assert cues.read(str(tmp_path / "show.json")).tracks == TRACKS[:1]


def test_notepads_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "show.json").write_bytes(b"\xef\xbb\xbf" + cues.write(SHEET, None))
    (tmp_path / "show.m3u8").write_bytes(b"\xef\xbb\xbf" + m3u8_of(SHEET, str(tmp_path)))
    assert cues.read(str(tmp_path / "show.json")) == cues.read(str(tmp_path / "show.m3u8")) == SHEET


def test_a_missing_sheet_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CueError, match="No such file") as caught:
        cues.read(str(tmp_path / "none.json"))
    assert "emoclim soundtrack" in caught.value.hint


def test_silence_has_no_foremost_track() -> None:
    assert replace(SHEET, tracks=()).heard(1.0) is None
    assert [SHEET.heard(at) for at in (0.0, 7.4, 7.5, 99.0)] == [TRACKS[0], TRACKS[0], TRACKS[1], TRACKS[1]]
