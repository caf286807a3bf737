"""Which files are photos and music, where they are, and how they are known again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_makers import CODECS, make_photo, make_tone, picture

from emoclim_cli import media
from emoclim_cli.media import MediaItem, MediaKind, content_digest, item_id, kind_of_file, printable, scan, sniff
from emoclim_cli.photos import PHOTO_FORMATS

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
MISNAMED = ".txt"
"""A suffix that promises nothing."""


def ftyp(brand: bytes) -> bytes:
    return b"\x00\x00\x00\x20ftyp" + brand + b"\x00\x00\x00\x00mif1"


# --- kinds -------------------------------------------------------------------------------------------------------------------------------


def test_kinds_are_each_others_other() -> None:
    assert (PHOTO.other, MUSIC.other) == (MUSIC, PHOTO)
    assert (PHOTO.plural, MUSIC.plural) == ("photos", "music")


@pytest.mark.parametrize(("signature", "kind"), media.SIGNATURES)
def test_every_signature_decides_alone(signature: bytes, kind: MediaKind) -> None:
    for suffix in ("", "txt", "jpg", "mp3"):
        assert sniff(signature + bytes(60), suffix) is kind
    assert sniff(b"\x00" + signature, "") is None


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        *((ftyp(brand), PHOTO) for brand in sorted(media.PHOTO_BRANDS)),
        *((ftyp(brand), MUSIC) for brand in sorted(media.MUSIC_BRANDS)),
        (ftyp(b"isom"), None),
        (ftyp(b"qt  "), None),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", MUSIC),
        (b"RF64\xff\xff\xff\xffWAVEds64", MUSIC),
        (b"BW64\xff\xff\xff\xffWAVEds64", MUSIC),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", PHOTO),
        (b"RIFF\x00\x00\x00\x00AVI LIST", None),
        (b"FORM\x00\x00\x00\x00AIFFCOMM", MUSIC),
        (b"FORM\x00\x00\x00\x00AIFCFVER", MUSIC),
        (b"FORM\x00\x00\x00\x00ILBMBMHD", None),
        (b"OggS\x00\x02" + bytes(20) + b"\x01\x1e\x01vorbis", MUSIC),
        (b"OggS\x00\x02" + bytes(20) + b"\x01\x13OpusHead", MUSIC),
        (b"OggS\x00\x02" + bytes(20) + b"\x01\x2a\x80theora", None),
        *((b"BM" + bytes(12) + bytes([size, 0, 0, 0]) + bytes(40), PHOTO) for size in (12, 40, 108, 124)),
        (b"BM" + bytes(12) + b"\x07\x00\x00\x00" + bytes(40), None),
        (b"BM", None),
        (b"MAC " + (3990).to_bytes(2, "little") + bytes(20), MUSIC),
        (b"\xff\xfb\x90\x64", MUSIC),  # MPEG 1 layer III
        (b"\xff\xf3\x40\xc4", MUSIC),  # MPEG 2 layer III
        (b"\xff\xe3\x40\xc4", MUSIC),  # MPEG 2.5 layer III
        (b"\xff\xfd\xa0\x04", MUSIC),  # layer II
        (b"\xff\xf1\x50\x80", MUSIC),  # AAC with its own headers
        (b"\xff\xf9\x50\x80", MUSIC),
        (b"\xff\xff\x90\x64", None),  # layer I
        (b"\xff\xeb\x90\x64", None),  # no MPEG version
        (b"\xff\xfb\xf0\x64", None),  # no bit rate
        (b"\xff\xfb\x00\x64", None),
        (b"\xff\xfb\x9c\x64", None),  # no sample rate
        (b"\xff\xf1\x7c\x80", None),
        (b"\xff\xfb\x90", None),
        (b"", None),
        (bytes(64), None),
    ],
)
def test_signatures_that_need_a_second_look(head: bytes, kind: MediaKind | None) -> None:
    assert sniff(head, "txt") is kind


TEXTS = [
    "MAC addresses of my computers",
    "MAC\r\n",
    "ID3 tags: what they are",
    "caffeine, and how to live without it",
    "DSD and other bad ideas",
    "MP+ is short for Musepack",
    "BM: Benchmarks of all the things that I have",
    "RIFF is a container",
    "OK",
    "ÿþ is how a byte order mark looks",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_text_is_neither(text: str, encoding: str) -> None:
    assert sniff(text.encode(encoding)[: media.HEAD_BYTES], "txt") is None


def test_the_suffix_decides_only_what_bytes_leave_open() -> None:
    assert sniff(b"This is text.", "jpg") is PHOTO  # the decoder will refuse it, and the user hears of it
    assert sniff(b"This is text.", "mp3") is MUSIC
    assert sniff(b"This is text.", "docx") is None
    assert sniff(ftyp(b"isom"), "m4a") is MUSIC
    assert sniff(ftyp(b"isom"), "mp4") is None
    assert sniff(b"fLaC", "jpg") is MUSIC
    assert sniff(b"\x89PNG\r\n\x1a\n", "mp3") is PHOTO


# Matroska and ASF hold videos as well, and the two bytes that AC-3 begins with are too few; all others are found under any name.
NAME_DECIDES = {".mka", ".wma", ".ac3"}


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_real_tracks_are_found_under_any_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"track{suffix}"
    make_tone(path, 0.2, rate_hz=48_000)
    assert kind_of_file(str(path)) is MUSIC
    path = path.rename(path.with_suffix(MISNAMED))
    assert kind_of_file(str(path)) is (None if suffix in NAME_DECIDES else MUSIC)
    path = path.rename(path.with_suffix(".JPG"))
    assert kind_of_file(str(path)) is (PHOTO if suffix in NAME_DECIDES else MUSIC)


@pytest.mark.parametrize("format_", sorted({*PHOTO_FORMATS} - {"DIB"}))  # which is BMP without the header that tells it
def test_real_photos_are_found_under_any_name(tmp_path: Path, format_: str) -> None:
    path = tmp_path / f"photo{MISNAMED}"
    make_photo(path, picture((32, 24)), format=format_)
    assert kind_of_file(str(path)) is PHOTO
    assert kind_of_file(str(path.rename(path.with_suffix(".mp3")))) is PHOTO


def test_real_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(picture((64, 64))).save(tmp_path / "photo.heic")
    assert kind_of_file(str((tmp_path / "photo.heic").rename(tmp_path / "photo.txt"))) is PHOTO


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kind_of_file(str(tmp_path / "absent.jpg"))


@given(st.binary(max_size=media.HEAD_BYTES), st.sampled_from(["", "txt", "jpg", "mp3"]))
def test_no_bytes_break_sniff(head: bytes, suffix: str) -> None:
    assert sniff(head, suffix) in (None, PHOTO, MUSIC)


# --- items -------------------------------------------------------------------------------------------------------------------------------


def test_the_id_is_of_the_path_alone() -> None:
    item = MediaItem("/music/it's.mp3", MUSIC, 1, 2)
    assert item.id == MediaItem("/music/it's.mp3", PHOTO, 3, 4, title="It").id == item_id("/music/it's.mp3")
    assert len(item.id) == 32
    assert bytes.fromhex(item.id)
    assert item_id("/music/its.mp3") != item.id
    assert item_id(os.fsdecode(b"/music/caf\xe9.mp3")) != item_id("/music/café.mp3")


def test_a_track_without_a_title_is_called_as_its_file() -> None:
    assert MediaItem("/music/a b.mp3", MUSIC, 1, 2).display_title == "a b.mp3"
    assert MediaItem("/music/a b.mp3", MUSIC, 1, 2, title="A").display_title == "A"


# --- scan --------------------------------------------------------------------------------------------------------------------------------


def grow(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names_in(root: Path, **options: object) -> list[str]:
    found = scan(str(root), **options)  # type: ignore[arg-type]
    assert not found.unreadable
    return [os.path.relpath(file.path, root) for file in found.files]


def test_scan_finds_every_file_in_the_order_of_path_bytes(tmp_path: Path) -> None:
    names = ["b.jpg", "a/z.mp3", "a.jpg", "a/b/c/d.txt", "B.jpg", "ä.jpg"]
    grow(tmp_path, *names)
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.jpg").touch()
    found = scan(str(tmp_path))
    assert [file.path for file in found.files] == sorted((str(tmp_path / name) for name in [*names, "none.jpg"]), key=os.fsencode)
    for file in found.files:
        status = os.stat(file.path)
        assert (file.size, file.mtime_ns, file.id) == (status.st_size, status.st_mtime_ns, item_id(file.path))


def test_scan_keeps_paths_as_they_were_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, "a/b.jpg")
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in scan(".").files] == [os.path.join(".", "a", "b.jpg")]
    assert [file.path for file in scan(os.path.join("a", "..", "a")).files] == [os.path.join("a", "..", "a", "b.jpg")]
    assert [file.path for file in scan("a/b.jpg").files] == ["a/b.jpg"]


def test_scan_of_one_file_takes_it_whatever_its_name(tmp_path: Path) -> None:
    grow(tmp_path, ".hidden.jpg")
    assert [file.path for file in scan(str(tmp_path / ".hidden.jpg"), ["*"]).files] == [str(tmp_path / ".hidden.jpg")]


def test_scan_of_nothing(tmp_path: Path) -> None:
    found = scan(str(tmp_path / "absent"))
    assert not found.files
    assert found.unreadable == [(str(tmp_path / "absent"), "No such file or directory")]


def test_scan_of_a_broken_name_is_reported(tmp_path: Path) -> None:
    found = scan(str(tmp_path / ("a" * 5000)))
    assert not found.files
    ((_, reason),) = found.unreadable
    assert reason == "File name too long"


def test_scan_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    grow(tmp_path, ".a.jpg", ".cache/b.jpg", "c/.d/e.jpg", "f.jpg")
    assert names_in(tmp_path) == ["f.jpg"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ([], ["a/thumbs/1.jpg", "a/x.jpg", "thumbs/2.jpg", "x.png"]),
        (["thumbs"], ["a/x.jpg", "x.png"]),
        (["*.jpg"], ["x.png"]),
        (["a/*"], ["thumbs/2.jpg", "x.png"]),
        (["a/thumbs"], ["a/x.jpg", "thumbs/2.jpg", "x.png"]),
        (["x.*", "2.*"], ["a/thumbs/1.jpg"]),
        (["[!x]*"], ["x.png"]),
        ([""], ["a/thumbs/1.jpg", "a/x.jpg", "thumbs/2.jpg", "x.png"]),
    ],
)
def test_scan_leaves_out_what_is_excluded(tmp_path: Path, exclude: list[str], left: list[str]) -> None:
    grow(tmp_path, "a/thumbs/1.jpg", "a/x.jpg", "thumbs/2.jpg", "x.png")
    assert names_in(tmp_path, exclude=exclude) == left


def test_scan_avoids_the_library_by_any_of_its_names(tmp_path: Path) -> None:
    grow(tmp_path, "library/rows.jpg", "a.jpg")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "library")
    assert names_in(tmp_path, avoid=[str(tmp_path / "library"), str(tmp_path / "absent")]) == ["a.jpg"]
    assert names_in(tmp_path, avoid=[str(tmp_path / "elsewhere")]) == ["a.jpg"]


def test_scan_ends_where_links_make_a_loop(tmp_path: Path) -> None:
    grow(tmp_path, "a/1.jpg", "2.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "a/round").symlink_to("round")
    assert names_in(tmp_path) == ["2.jpg", "a/1.jpg"]
    assert len(scan(str(tmp_path / "a")).files) == 2  # the other file by way of `up`


def test_scan_follows_links_to_folders_once(tmp_path: Path) -> None:
    grow(tmp_path, "root/1.jpg", "outside/2.jpg")
    (tmp_path / "root/one").symlink_to(tmp_path / "outside")
    (tmp_path / "root/two").symlink_to(tmp_path / "outside")
    assert len(names_in(tmp_path / "root")) == 2


def test_scan_takes_a_linked_file_once(tmp_path: Path) -> None:
    grow(tmp_path, "root/z.jpg", "outside.jpg")
    (tmp_path / "root/a.jpg").symlink_to("z.jpg")
    (tmp_path / "root/b.jpg").symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "root/c.jpg").symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "root/dangling.jpg").symlink_to(tmp_path / "absent")
    assert names_in(tmp_path / "root") == ["b.jpg", "z.jpg"]
    ((size, link_size),) = [(f.size, os.lstat(f.path).st_size) for f in scan(str(tmp_path / "root")).files if f.path.endswith("b.jpg")]
    assert size == len("outside.jpg") != link_size


def test_scan_keeps_hard_links(tmp_path: Path) -> None:
    """Two names of one file are two files to the user."""
    grow(tmp_path, "a.jpg")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert names_in(tmp_path) == ["a.jpg", "b.jpg"]


def test_scan_leaves_out_what_is_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.mp3")
        assert names_in(tmp_path) == []
    assert not scan(str(tmp_path / "pipe.jpg")).files


def test_scan_takes_every_name_that_the_disk_can_hold(tmp_path: Path) -> None:
    names = [b"caf\xe9.jpg", b"two\nlines.jpg", b"bell\x07.mp3", b"\xff\xfe.jpg", b'it\'s "so".jpg', b" ", b"-rf.jpg", b"#1.mp3", b"*.jpg"]
    folder = os.fsencode(tmp_path) + b"/\xe9t\xe9"
    os.mkdir(folder)
    for name in names:
        with open(folder + b"/" + name, "wb") as file:
            file.write(name)
    found = scan(str(tmp_path))
    assert not found.unreadable
    assert [os.fsencode(file.path) for file in found.files] == sorted(folder + b"/" + name for name in names)
    for file in found.files:
        assert Path(file.path).read_bytes() == os.path.basename(os.fsencode(file.path))
        content_digest(file.path)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Below the system's temporary folder, which others may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)
    shutil.rmtree(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions do not bind root: as somebody else, if we are root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_scan_reports_folders_that_cannot_be_read_and_goes_on(public_folder: Path) -> None:
    grow(public_folder, "closed/1.jpg", "open/2.jpg", "names-only/3.jpg")
    (public_folder / "closed").chmod(0o000)
    (public_folder / "names-only").chmod(0o444)
    with without_privileges():
        found = scan(str(public_folder))
        alone = scan(str(public_folder / "closed"))
    assert [os.path.relpath(file.path, public_folder) for file in found.files] == ["open/2.jpg"]
    denied = {os.path.relpath(path, public_folder): reason for path, reason in found.unreadable}
    assert denied == {"closed": "Permission denied", "names-only/3.jpg": "Permission denied"}
    assert alone.unreadable == [(str(public_folder / "closed"), "Permission denied")]


def test_scan_of_a_deep_tree(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(300):
        folder /= "d"
    grow(folder, "deep.jpg")
    assert len(names_in(tmp_path)) == 1


# --- digests -----------------------------------------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_the_digest_is_of_content_alone(tmp_path: Path) -> None:
    grow(tmp_path, "a.jpg", "b.jpg")
    digest = content_digest(str(tmp_path / "a.jpg"))
    assert len(bytes.fromhex(digest)) == 16
    assert content_digest(str(tmp_path / "b.jpg")) != digest
    copy = shutil.copyfile(tmp_path / "a.jpg", tmp_path / "c.mp3")
    os.utime(copy, (1, 1))
    assert content_digest(str(copy)) == digest
    with pytest.raises(OSError, match="No such file"):
        content_digest(str(tmp_path / "absent"))


@pytest.mark.parametrize("size", [1, 4096, media.DIGEST_CHUNK_BYTES, (1 << 20) + 1, media.DIGEST_WHOLE_BYTES])
def test_any_byte_of_a_small_file_counts(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(size))
    seen = {content_digest(str(path))}
    offsets = sorted({0, size // 30, size // 2, size - 1})
    for offset in offsets:
        flip(path, offset)
        seen.add(content_digest(str(path)))
    assert len(seen) == 1 + len(offsets)


@pytest.mark.parametrize("size", [media.DIGEST_WHOLE_BYTES + 1, 100_000_003])
def test_a_large_file_is_sampled_evenly_from_its_first_byte_to_its_last(tmp_path: Path, size: int) -> None:
    path = tmp_path / "album.flac"
    path.touch()
    os.truncate(path, size)  # zeros that take no space
    whole = content_digest(str(path))
    parts = list(media._digest_parts(size))
    assert parts[0][0] == 0
    assert size - media.DIGEST_CHUNKS < sum(parts[-1]) <= size
    assert len(parts) == media.DIGEST_CHUNKS
    for offset, length in parts:
        for changed in (offset, offset + length - 1):
            flip(path, changed)
            assert content_digest(str(path)) != whole, changed
            flip(path, changed)
    assert content_digest(str(path)) == whole
    os.truncate(path, size + 1)
    assert content_digest(str(path)) != whole


# --- names for people --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"/music/a b.mp3", "/music/a b.mp3"),
        ("/music/Żółć ☕ 日本.mp3".encode(), "/music/Żółć ☕ 日本.mp3"),
        (b"caf\xe9.jpg", r"caf\xe9.jpg"),
        (b"two\nlines\t.jpg", r"two\nlines\t.jpg"),
        (b"\x1b[31mred\x07\x7f.jpg", r"\x1b[31mred\x07\x7f.jpg"),
        ("turned\u202egpj.exe".encode(), r"turned\u202egpj.exe"),
        ("line\u2028feed".encode(), r"line\u2028feed"),
        (b"\xf0\x9f\x92", r"\xf0\x9f\x92"),
    ],
)
def test_printable(name: bytes, shown: str) -> None:
    assert printable(os.fsdecode(name)) == shown


def bytes_of_names() -> st.SearchStrategy[bytes]:
    return st.binary(max_size=30) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "ignore"))


@given(bytes_of_names())
def test_what_is_printable_can_be_shown_everywhere_and_stays_as_it_is(name: bytes) -> None:
    shown = printable(os.fsdecode(name))
    assert shown.isprintable()
    assert shown.encode("utf-8").decode() == shown
    assert json.loads(json.dumps(shown)) == shown
    assert printable(shown) == shown
