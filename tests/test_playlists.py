from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import wave
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emoclim_cli.errors import UsageError
from emoclim_cli.outputs import write_atomically
from emoclim_cli.playlists import FORMATS, Entry, Playlist, format_of, render

XSPF = "{http://xspf.org/ns/0/}"
AWKWARD = [
    "plain.mp3",
    "Björk – Jóga.mp3",
    "caf\udce9.mp3",
    "#1 hit.mp3",
    "http:foo.mp3",
    "file:foo.mp3",
    "C:x.mp3",
    "100% [live] (50%20off) 'a' \"b\" & <c>.mp3",
    " leading.mp3",
    "trailing ",
    "nbsp\xa0",
    "-rf.mp3",
    "two\nlines\r\nand\x85more\u2028.mp3",
    "tab\there.mp3",
    "back\\slash.mp3",
    "日本語.mp3",
    "👨‍👩‍👧.mp3",
    "a=b;c.mp3",
    "File1=x",
    "?query#fragment.mp3",
    "~home.mp3",
    "...",
    "\x7f\x01",
    "\ufeffbom",
]


# --- readers, as plain as those of players; they know nothing of emoclim -------------------------------------------------


def path_of(place: str, folder: str) -> bytes:
    """A line of M3U or PLS: an URI when it begins like one, else a path."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", place):
        uri = urlsplit(place)
        assert (uri.scheme, uri.netloc, uri.query, uri.fragment) == ("file", "", "", "")
        return unquote_to_bytes(uri.path)
    assert "\\" not in place
    return os.path.join(os.fsencode(folder), place.encode("utf-8"))


def read_m3u(data: bytes, folder: str, encoding: str) -> list[bytes]:
    lines = [line.strip() for line in data.decode(encoding).splitlines()]  # splits at more than CR and LF, strips more than spaces
    assert lines[0] == "#EXTM3U"
    return [path_of(line, folder) for line in lines if line and not line.startswith("#")]


def read_pls(data: bytes, folder: str) -> list[bytes]:
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#", ";"), strict=True)
    parser.read_string(data.decode("utf-8"))
    section = parser["playlist"]
    assert section["Version"] == "2"
    return [path_of(section[f"File{i + 1}"], folder) for i in range(int(section["NumberOfEntries"]))]


def read_xspf(data: bytes, folder: str) -> list[bytes]:
    root = ET.fromstring(data)
    assert root.tag == f"{XSPF}playlist"
    uris = [urljoin(f"{Path(folder).as_uri()}/", location.text or "") for location in root.iter(f"{XSPF}location")]
    assert all(uri.startswith("file:///") and uri.isascii() for uri in uris)
    return [unquote_to_bytes(uri.removeprefix("file://")) for uri in uris]


def read_json(data: bytes, folder: str) -> list[bytes]:
    return [os.fsencode(os.path.join(folder, track["path"])) for track in json.loads(data.decode("utf-8"))["tracks"]]


def read_back(data: bytes, format_name: str, folder: str) -> list[bytes]:
    if format_name in ("m3u8", "m3u"):
        paths = read_m3u(data, folder, {"m3u8": "utf-8", "m3u": "latin-1"}[format_name])
    else:
        paths = {"pls": read_pls, "xspf": read_xspf, "json": read_json}[format_name](data, folder)
    return [os.path.normpath(path) for path in paths]


# --- what is written is what is read ------------------------------------------------------------------------------------

any_text = st.text(st.characters(codec=None) | st.sampled_from("\r\n\t\x00\x85\u2028\ud800#,;=%\"' &<"), max_size=20)
file_names = (
    st.one_of(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
        st.binary(min_size=1, max_size=40).map(lambda raw: os.fsdecode(raw.translate(None, b"/\0"))),
        st.tuples(st.sampled_from([*"#- \n'\"\\~[", "http:", "file:", "%41"]), st.text("ab:# %\n\r", max_size=9)).map("".join),
        st.sampled_from(AWKWARD),
    )
    .filter(lambda name: name not in ("", ".", ".."))
    .filter(lambda name: len(os.fsencode(name)) <= 255)
)
folders = st.lists(file_names, max_size=3).map(lambda names: "/" + "/".join(["no such folder", *names]))
entries = st.builds(
    Entry,
    path=st.tuples(folders, file_names).map("/".join),
    title=any_text,
    artist=any_text,
    duration_s=st.floats(allow_nan=False, allow_infinity=False) | st.just(0.0),
    score=st.floats(-1, 1),
)


@pytest.mark.parametrize("format_name", FORMATS)
@given(title=any_text, tracks=st.lists(entries, max_size=5), base=st.none() | folders)
@example(title="All\r\nof it", tracks=[Entry(f"/no such folder/{name}", title=name) for name in AWKWARD], base="/no such folder")
@example(title="", tracks=[Entry(f"/no such folder/{name}", artist=name) for name in AWKWARD], base="/no such folder/#lists\n\udcff")
@example(title="", tracks=[Entry(f"/no such folder/{name}") for name in AWKWARD], base=None)
def test_every_file_is_read_back(format_name: str, title: str, tracks: list[Entry], base: str | None) -> None:
    data = render(Playlist(title, tracks), format_name, base)
    # None: the reader is elsewhere, so the paths must be absolute
    assert read_back(data, format_name, base or "/elsewhere") == [os.path.normpath(os.fsencode(t.path)) for t in tracks]


@pytest.mark.parametrize("format_name", FORMATS)
def test_real_files_are_found_from_the_playlist_file(format_name: str, tmp_path: Path) -> None:
    music, lists = tmp_path / "mü sic #1", tmp_path / "lists"
    music.mkdir()
    lists.mkdir()
    made = []
    for name in AWKWARD:
        try:
            (music / name).write_bytes(os.fsencode(name))
        except OSError:  # a file system that takes only UTF-8
            continue
        made.append(os.fsencode(music / name))
    assert len(made) > 10
    target = lists / f"all.{format_name}"
    data = render(Playlist("t", [Entry(os.fsdecode(path)) for path in made]), format_of(str(target)), str(lists))
    write_atomically(str(target), data)
    found = read_back(target.read_bytes(), format_name, str(lists))
    assert [Path(os.fsdecode(path)).read_bytes() for path in found] == [os.path.basename(path) for path in made]


def test_paths_are_relative_to_the_playlist_and_absolute_without_one(tmp_path: Path) -> None:
    path = str(tmp_path / "music" / "a.mp3")

    def line(base: str | None) -> str:
        return render(Playlist("", [Entry(path)]), "m3u8", base).decode().splitlines()[-1]

    assert line(str(tmp_path)) == "music/a.mp3"
    assert line(str(tmp_path / "music")) == "a.mp3"
    assert line(str(tmp_path / "lists")) == "../music/a.mp3"
    assert line(None) == path


def test_relative_paths_and_bases_are_seen_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    playlist = Playlist("", [Entry("music/a.mp3")])
    assert render(playlist, "m3u8", "").splitlines()[-1] == b"music/a.mp3"
    assert render(playlist, "m3u8", "lists").splitlines()[-1] == b"../music/a.mp3"
    assert render(playlist, "m3u8", None).splitlines()[-1] == os.fsencode(tmp_path / "music" / "a.mp3")
    assert ET.fromstring(render(playlist, "xspf", None)).find(f".//{XSPF}location").text == (tmp_path / "music" / "a.mp3").as_uri()  # type: ignore[union-attr]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_linked_folder_does_not_lead_dotdot_astray(format_name: str, tmp_path: Path) -> None:
    """`lists` is a link to another depth: `lists/../music` is not beside it."""
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.mp3").write_bytes(b"a")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "lists").symlink_to(tmp_path / "deep" / "er")
    data = render(Playlist("", [Entry(str(tmp_path / "music" / "a.mp3"))]), format_name, str(tmp_path / "lists"))
    (path,) = read_back(data, format_name, str(tmp_path / "lists"))
    assert Path(os.fsdecode(path)).read_bytes() == b"a"
    # and a file named through such a `..` is the file that the disk finds there
    odd = str(tmp_path / "lists" / ".." / "b.mp3")
    (tmp_path / "deep" / "b.mp3").write_bytes(b"b")
    line = render(Playlist("", [Entry(odd)]), "m3u8", str(tmp_path)).decode().splitlines()[-1]
    assert (tmp_path / line).read_bytes() == b"b"


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
def test_ffprobe_opens_the_entries(tmp_path: Path) -> None:
    names = ["#1.wav", "-i.wav", "http:a.wav", "100% a.wav", "two\nlines.wav", " x.wav"]
    for seconds, name in enumerate(names, 1):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 1, 1000, 0, "NONE", ""))
            file.writeframes(bytes(1000 * seconds))
    data = render(Playlist("", [Entry(str(tmp_path / name)) for name in names]), "m3u8", str(tmp_path))
    places = [line for line in data.decode().splitlines() if not line.startswith("#")]
    command = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]
    # ffprobe does not decode URIs of its file protocol, so that one entry is decoded for it
    places = [os.fsdecode(unquote_to_bytes(place[7:])) if place.startswith("file://") else place for place in places]
    durations = [float(subprocess.run([*command, place], cwd=tmp_path, check=True, capture_output=True).stdout) for place in places]
    assert durations == [1, 2, 3, 4, 5, 6]


# --- each format, to the byte -------------------------------------------------------------------------------------------

TWO = Playlist(
    "Rainy\nday",
    [
        Entry("/music/a b.mp3", "Jóga\r\n", "Björk", 305.6, 0.75),
        Entry("/music/# \udce9.mp3", "", "", 0.0, -0.5),
    ],
)


def test_m3u8() -> None:
    assert render(TWO, "m3u8", "/music").decode("utf-8") == (
        "#EXTM3U\n#PLAYLIST:Rainy day\n#EXTINF:306,Björk - Jóga\na b.mp3\n#EXTINF:-1,# \\xe9.mp3\nfile:///music/%23%20%E9.mp3\n"
    )


def test_m3u_is_latin1_and_beyond_it_a_uri() -> None:
    playlist = Playlist("", [Entry("/music/Jóga.mp3", "Jóga"), Entry("/music/日.mp3", "日 – x")])
    assert render(playlist, "m3u", "/music") == (
        "#EXTM3U\n#EXTINF:-1,Jóga\nJóga.mp3\n#EXTINF:-1,? ? x\nfile:///music/%E6%97%A5.mp3\n".encode("latin-1")
    )


def test_pls() -> None:
    assert render(TWO, "pls", "/music").decode("utf-8") == (
        "[playlist]\nFile1=a b.mp3\nTitle1=Björk - Jóga\nLength1=306\n"
        "File2=file:///music/%23%20%E9.mp3\nTitle2=# \\xe9.mp3\nLength2=-1\nNumberOfEntries=2\nVersion=2\n"
    )


def test_xspf() -> None:
    assert render(TWO, "xspf", "/music").decode("utf-8") == (
        "<?xml version='1.0' encoding='utf-8'?>\n"
        '<playlist version="1" xmlns="http://xspf.org/ns/0/">\n  <title>Rainy day</title>\n  <trackList>\n'
        "    <track>\n      <location>a%20b.mp3</location>\n      <title>Jóga</title>\n      <creator>Björk</creator>\n"
        "      <duration>305600</duration>\n    </track>\n"
        "    <track>\n      <location>%23%20%E9.mp3</location>\n    </track>\n  </trackList>\n</playlist>\n"
    )


def test_json_keeps_everything() -> None:
    data = render(TWO, "json", None)
    assert b"# \\udce9.mp3" in data
    assert json.loads(data) == {
        "title": "Rainy\nday",
        "tracks": [
            {"path": "/music/a b.mp3", "title": "Jóga\r\n", "artist": "Björk", "duration_s": 305.6, "score": 0.75},
            {"path": "/music/# \udce9.mp3", "title": "", "artist": "", "duration_s": 0.0, "score": -0.5},
        ],
    }


@given(title=any_text, artist=any_text)
def test_fields_stay_on_their_line_and_in_their_document(title: str, artist: str) -> None:
    playlist = Playlist(title, [Entry("/a.mp3", title, artist)] * 2)
    lines = render(playlist, "m3u8", None).decode("utf-8").splitlines()
    assert [line for line in lines if not line.startswith(("#EXTM3U", "#PLAYLIST:", "#EXTINF:-1,"))] == ["/a.mp3"] * 2
    assert len(lines) in (5, 6)
    assert len(render(playlist, "pls", None).decode("utf-8").splitlines()) == 9
    ET.fromstring(render(playlist, "xspf", None))


def test_duration_that_is_no_number_of_seconds_is_unknown() -> None:
    for duration_s in (float("nan"), float("inf"), 1e300, -3.0, 0.0):
        playlist = Playlist("", [Entry("/a.mp3", duration_s=duration_s)])
        assert b"#EXTINF:-1,a.mp3" in render(playlist, "m3u8", None)
        assert b"<duration>" not in render(playlist, "xspf", None)


@pytest.mark.parametrize("format_name", FORMATS)
def test_an_empty_playlist_is_one(format_name: str) -> None:
    assert read_back(render(Playlist("", []), format_name, None), format_name, "/") == []


def test_format_of() -> None:
    assert [format_of(f"x/y.{name}") for name in FORMATS] == list(FORMATS)
    assert format_of("A.M3U8") == "m3u8"
    for path in ("list.txt", "list", "m3u8", ".m3u8", "caf\udce9.mp3"):
        with pytest.raises(UsageError) as caught:
            format_of(path)
        assert all(f".{name}" in caught.value.hint for name in FORMATS)
        (caught.value.message + caught.value.hint).encode("utf-8")


def test_unknown_format_lists_the_valid_ones() -> None:
    with pytest.raises(UsageError) as caught:
        render(TWO, "wpl", None)
    assert "wpl" in caught.value.message
    assert all(name in caught.value.hint for name in FORMATS)
