from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import mutagen
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutagen import apev2, asf, id3
from PIL import Image, TiffImagePlugin

from emoclim_cli import tags
from emoclim_cli.tags import MusicTags, PhotoTags, read_music_tags, read_photo_tags

SECONDS = 2

# --- makers -------------------------------------------------------------------------------------------------------------

CODECS = {
    "mp3": ("libmp3lame", "mp3"),
    "flac": ("flac", "flac"),
    "m4a": ("aac", "ipod"),
    "aac": ("aac", "adts"),
    "ogg": ("vorbis", "ogg"),
    "opus": ("libopus", "opus"),
    "wav": ("pcm_s16le", "wav"),
    "aiff": ("pcm_s16be", "aiff"),
    "wma": ("wmav2", "asf"),
    "wv": ("wavpack", "wv"),
    "tta": ("tta", "tta"),
    "ac3": ("ac3", "ac3"),
    "mka": ("flac", "matroska"),
}
TAGGED = ["mp3", "flac", "m4a", "ogg", "opus", "wav", "aiff", "wma", "wv", "tta"]


def tone(folder: Path, suffix: str, name: str = "a") -> str:
    """Two seconds of a tone, without tags. Skips the test when this build of PyAV has no such encoder."""
    path = str(folder / f"{name}.{suffix}")
    codec, container = CODECS[suffix]
    try:
        encoder = av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"no {codec} encoder")
    rate = 48000 if suffix == "opus" else 44100
    with av.open(path, "w", format=container, options={"write_id3v2": "0", "id3v2_version": "0"} if suffix == "mp3" else {}) as out:
        stream = out.add_stream(codec, rate=rate, options={"strict": "experimental"})
        stream.layout, stream.format, stream.bit_rate = "stereo", encoder.audio_formats[0], 128_000
        stream.codec_context.open()  # only now is the frame size known
        frame_size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, "stereo", rate, frame_size=frame_size)
        samples = (8000 * np.sin(np.arange(rate * SECONDS) / 20)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.repeat(2)[None], "s16", "stereo")
        frame.sample_rate, frame.pts = rate, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


def write_tags(path: str, title: list[str], artist: list[str], album: list[str]) -> None:
    """In the way of each format, by mutagen's plain (not its easy) interface."""
    file: Any = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    suffix = path.rpartition(".")[2]
    if suffix in ("mp3", "wav", "aiff", "tta"):
        file.tags.add(id3.TIT2(encoding=3, text=title))
        file.tags.add(id3.TPE1(encoding=3, text=artist))
        file.tags.add(id3.TALB(encoding=3, text=album))
    else:
        keys = {"m4a": ("\xa9nam", "\xa9ART", "\xa9alb"), "wma": ("Title", "Author", "WM/AlbumTitle"), "wv": ("Title", "Artist", "Album")}
        for key, values in zip(keys.get(suffix, ("TITLE", "ARTIST", "ALBUM")), (title, artist, album), strict=True):
            file.tags[key] = values
    file.save()


def exif_of(folder: dict[int, Any] | None = None, **main: Any) -> Image.Exif:
    exif = Image.Exif()
    for name, value in main.items():
        exif[{"date_time": 0x0132, "description": 0x010E, "xp_title": 0x9C9B}[name]] = value
    if folder:
        exif.get_ifd(0x8769).update(folder)
    return exif


def photo(path: Path, exif: Image.Exif | bytes) -> str:
    options: dict[str, Any] = {"exif": exif} if exif else {}
    if path.suffix == ".tif" and isinstance(exif, Image.Exif):  # Pillow leaves the folder out of a TIFF
        options = {"tiffinfo": TiffImagePlugin.ImageFileDirectory_v2()}
        options["tiffinfo"].update({**exif, 0x8769: dict(exif.get_ifd(0x8769))})
    Image.new("RGB", (16, 12), "teal").save(path, **options)
    return str(path)


def raw_exif(tag: int, kind: int, value: bytes, extra: bytes = b"") -> bytes:
    """EXIF of one value (kind 1: bytes, 2: text) with any bytes in it, and other entries as they are."""
    entries = 1 + len(extra) // 12
    entry = struct.pack("<HHII", tag, kind, len(value), 8 + 2 + 12 * entries + 4)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + entry + extra + bytes(4) + value


# --- music --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", TAGGED)
def test_tags_of_every_format(suffix: str, tmp_path: Path) -> None:
    path = tone(tmp_path, suffix)
    write_tags(path, ["Jóga 日"], ["Björk", "Second, Jr."], ["Homogenic"])
    found = read_music_tags(path)
    assert (found.title, found.artist, found.album) == ("Jóga 日", "Björk, Second, Jr.", "Homogenic")
    assert found.duration_s == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("suffix", TAGGED)
def test_tags_are_one_clean_line(suffix: str, tmp_path: Path) -> None:
    path = tone(tmp_path, suffix)
    write_tags(path, [" two\r\nlines\tand\x85\u2028 more \x07\x9b31m "], ["", " \n", "A\nB"], ["\n"])
    found = read_music_tags(path)
    assert (found.title, found.artist, found.album) == ("two lines and more 31m", "A B", "")


@pytest.mark.parametrize("suffix", TAGGED)
def test_huge_tags_are_cut(suffix: str, tmp_path: Path) -> None:
    path = tone(tmp_path, suffix)
    # ASF holds 64 kB of text in its plain fields
    size = 30_000 if suffix == "wma" else 1_000_000
    write_tags(path, ["ab " * (size // 3)], ["x" * 400, "y" * 400], [""])
    found = read_music_tags(path)
    assert found.title == ("ab " * 200)[: tags.MAX_CHARACTERS].strip()
    assert found.artist == "x" * 400 + ", " + "y" * 98
    assert found.duration_s == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("suffix", [*TAGGED, "aac", "ac3"])
def test_without_tags_there_is_the_duration(suffix: str, tmp_path: Path) -> None:
    found = read_music_tags(tone(tmp_path, suffix))
    assert (found.title, found.artist, found.album) == ("", "", "")
    assert found.duration_s == pytest.approx(SECONDS, abs=0.2)


def test_formats_and_files_that_mutagen_does_not_know(tmp_path: Path) -> None:
    assert read_music_tags(tone(tmp_path, "mka")) == MusicTags()
    (tmp_path / "text.mp3").write_text("not music")
    (tmp_path / "empty.flac").touch()
    assert read_music_tags(str(tmp_path / "text.mp3")) == MusicTags()
    assert read_music_tags(str(tmp_path / "empty.flac")) == MusicTags()
    assert read_music_tags(str(tmp_path / "missing.mp3")) == MusicTags()
    assert read_music_tags(str(tmp_path)) == MusicTags()


def test_tags_of_another_format_than_the_files_own(tmp_path: Path) -> None:
    aac = tone(tmp_path, "aac")
    header = id3.ID3()
    header.add(id3.TIT2(encoding=3, text="In front"))
    header.save(aac)
    assert read_music_tags(aac).title == "In front"
    mp3 = tone(tmp_path, "mp3")
    behind = apev2.APEv2()
    behind["Title"], behind["Artist"] = "Behind", ["One", "Two"]
    behind.save(mp3)
    assert read_music_tags(mp3) == MusicTags("Behind", "One, Two", "", read_music_tags(mp3).duration_s)
    assert read_music_tags(mp3).duration_s == pytest.approx(SECONDS, abs=0.2)


def test_id3v1_and_latin1(tmp_path: Path) -> None:
    path = tone(tmp_path, "mp3")
    with open(path, "ab") as file:
        file.write(b"TAG" + b"J\xf3ga \xff\xfe".ljust(30, b"\0") + b"Bj\xf6rk".ljust(30, b"\0") + bytes(65))
    found = read_music_tags(path)
    assert (found.title, found.artist) == ("Jóga ÿþ", "Björk")


def test_an_album_artist_stands_in(tmp_path: Path) -> None:
    mp3, flac, wma = (tone(tmp_path, suffix) for suffix in ("mp3", "flac", "wma"))
    header = id3.ID3()
    header.add(id3.TPE2(encoding=3, text="Band"))
    header.save(mp3)
    for path, key in ((flac, "albumartist"), (wma, "WM/AlbumArtist")):
        file: Any = mutagen.File(path)
        file.tags[key] = ["Band"]
        file.save()
    assert [read_music_tags(path).artist for path in (mp3, flac, wma)] == ["Band"] * 3


def test_tags_that_are_no_text(tmp_path: Path) -> None:
    path = tone(tmp_path, "wv")
    file: Any = mutagen.File(path)
    file.tags["Title"] = apev2.APEValue(b"\x00\xff\x01", apev2.BINARY)
    file.tags["Artist"] = "Someone"
    file.save()
    assert read_music_tags(path).duration_s == pytest.approx(SECONDS, abs=0.2)
    path = tone(tmp_path, "wma")
    file = asf.ASF(path)
    file.tags["Title"] = asf.ASFDWordAttribute(7)
    file.tags["Author"] = asf.ASFUnicodeAttribute("Someone")
    file.save()
    assert read_music_tags(path).artist == "Someone"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tone(tmp_path, "flac")
    write_tags(path, ["T"], [], [])
    try:
        os.rename(path, odd := os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.flac"))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    assert read_music_tags(odd).title == "T"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file cut short, or with some bytes replaced: near its beginning, near its end or anywhere."""
    raw = bytearray(data)
    if rng.random() < 0.2:
        return bytes(raw[: rng.randrange(len(raw))])
    reach = rng.choice([64, 512, 2048, len(raw)])
    for _ in range(rng.choice([1, 4, 16])):
        at = rng.randrange(min(reach, len(raw)))
        raw[rng.choice([at, -1 - at])] = rng.choice([0, 0xFF, 0x7F, rng.randrange(256)])
    return bytes(raw)


@pytest.mark.parametrize("suffix", TAGGED)
def test_damaged_music_is_never_an_error_and_never_dirty(suffix: str, tmp_path: Path) -> None:
    rng = random.Random(suffix)
    path = tone(tmp_path, suffix)
    write_tags(path, ["title"], ["one", "two"], ["album"])
    data = Path(path).read_bytes()
    for _ in range(60):
        Path(path).write_bytes(damaged(data, rng))
        found = read_music_tags(path)
        for text in (found.title, found.artist, found.album):
            assert text == text.strip()
            assert not any(c in text for c in "\r\n\0")
            assert len(text) <= tags.MAX_CHARACTERS
            text.encode("utf-8")
        assert 0.0 <= found.duration_s < float("inf")


def test_tags_outlive_an_error_of_the_parser(tmp_path: Path) -> None:
    """WavPack with a sample rate of its own: good music, on which mutagen stumbles with an error that is not one of its own."""
    path = tone(tmp_path, "wv")
    write_tags(path, ["T"], ["A"], ["L"])
    raw = bytearray(Path(path).read_bytes())
    raw[26] |= 0x80  # bits 23 to 26 of the flags: an index into the known rates, 15 for none of them
    raw[27] |= 0x07
    Path(path).write_bytes(raw)
    with pytest.raises(IndexError):
        mutagen.File(path)
    assert read_music_tags(path) == MusicTags("T", "A", "L", 0.0)


@pytest.mark.parametrize("unpacked", [30, 60_000, tags.MAX_FRAME_BYTES + 1000])
def test_compressed_frames_are_read_and_bombs_are_not(tmp_path: Path, unpacked: int) -> None:
    path = Path(tone(tmp_path, "mp3"))
    packed = zlib.compress(b"\x03" + b"a" * unpacked)

    def synchsafe(number: int) -> bytes:
        return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))

    title = b"TIT2" + synchsafe(len(packed) + 4) + b"\0\x09" + synchsafe(unpacked + 1) + packed
    artist = b"TPE1" + synchsafe(4) + b"\0\0\x03Abc"
    sound = path.read_bytes()
    path.write_bytes(b"ID3\4\0\0" + synchsafe(len(title + artist)) + title + artist + sound)
    tracemalloc.start()
    found = read_music_tags(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * tags.MAX_FRAME_BYTES
    assert found.duration_s == pytest.approx(SECONDS, abs=0.2)
    if unpacked < tags.MAX_FRAME_BYTES:
        assert (found.title, found.artist) == ("a" * min(unpacked, tags.MAX_CHARACTERS), "Abc")
    else:
        assert found.title == ""


def test_files_are_not_changed(tmp_path: Path) -> None:
    music, picture = tone(tmp_path, "mp3"), photo(tmp_path / "a.jpg", exif_of(date_time="2020:01:02 03:04:05"))
    for path, read in ((music, read_music_tags), (picture, read_photo_tags)):
        os.chmod(path, 0o444)
        before = (Path(path).read_bytes(), os.stat(path).st_mtime_ns)
        read(path)
        assert (Path(path).read_bytes(), os.stat(path).st_mtime_ns) == before


# --- photos -------------------------------------------------------------------------------------------------------------

FORMATS = ["jpg", "png", "webp", "tif", "avif", "heic"]


def saves(suffix: str) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif suffix == "avif" and ".avif" not in Image.registered_extensions():
        pytest.skip("Pillow without AVIF")


@pytest.mark.parametrize("suffix", FORMATS)
def test_time_and_title_of_every_format(suffix: str, tmp_path: Path) -> None:
    saves(suffix)
    folder = {0x9003: "2019:07:06 05:04:03", 0x9004: "2020:01:01 00:00:00"}
    exif = exif_of(folder, date_time="2021:01:01 00:00:00", description="A pier at dusk")
    assert read_photo_tags(photo(tmp_path / f"a.{suffix}", exif)) == PhotoTags("2019-07-06T05:04:03", "A pier at dusk")


@pytest.mark.parametrize("suffix", FORMATS)
def test_without_exif(suffix: str, tmp_path: Path) -> None:
    saves(suffix)
    assert read_photo_tags(photo(tmp_path / f"a.{suffix}", b"")) == PhotoTags()


def test_heic_is_opened_without_any_help_from_outside(tmp_path: Path) -> None:
    """`saves` registered the opener in this process; in a new one the module must do so."""

    pytest.importorskip("pillow_heif")
    saves("heic")
    path = photo(tmp_path / "a.heic", exif_of(date_time="2019:07:06 05:04:03"))
    code = "import sys; from emoclim_cli.tags import read_photo_tags; print(read_photo_tags(sys.argv[1]).taken)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, path], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2019-07-06T05:04:03\n", "")


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("2019:07:06 05:04:03", "2019-07-06T05:04:03"),
        ("2019-07-06 05:04:03", "2019-07-06T05:04:03"),
        ("2019-07-06T05:04:03+02:00", "2019-07-06T05:04:03"),
        ("2019:7:6 5:04:03.25", "2019-07-06T05:04:03"),
        ("2020:02:29 23:59:59", "2020-02-29T23:59:59"),
        ("0000:00:00 00:00:00", ""),
        ("    :  :     :  :  ", ""),
        ("2019:02:29 00:00:00", ""),
        ("2019:13:01 00:00:00", ""),
        ("2019:07:06 24:00:00", ""),
        ("2019:07:06 05:04:033", ""),
        ("2019:07:06", ""),
        ("0001:01:01 00:00:00", ""),
        ("٢٠١٩:07:06 05:04:03", ""),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_times(written: str, taken: str, tmp_path: Path) -> None:
    assert read_photo_tags(photo(tmp_path / "a.jpg", raw_exif(0x9003, 2, written.encode() + b"\0"))).taken == taken
    assert read_photo_tags(photo(tmp_path / "b.png", exif_of({0x9003: written}, description="x"))).taken == taken


def test_an_invalid_time_gives_way_to_the_next(tmp_path: Path) -> None:
    zero = "0000:00:00 00:00:00"
    exif = exif_of({0x9003: zero, 0x9004: "2020:02:03 04:05:06"}, date_time="2021:01:01 00:00:00")
    assert read_photo_tags(photo(tmp_path / "a.jpg", exif)).taken == "2020-02-03T04:05:06"
    exif = exif_of({0x9003: zero, 0x9004: zero}, date_time="2021:01:01 00:00:00")
    assert read_photo_tags(photo(tmp_path / "a.jpg", exif)).taken == "2021-01-01T00:00:00"


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("Summer at the lake", "Summer at the lake"),
        ("  two\r\nlines \x07", "two lines"),
        ("image of my mother", "image of my mother"),
        ("Default settings of joy", "Default settings of joy"),
        ("P.S. I love you", "P.S. I love you"),
        ("x" * 2000, "x" * 500),
        ("OLYMPUS DIGITAL CAMERA         ", ""),
        ("SAMSUNG CAMERA PICTURES", ""),
        ("KONICA MINOLTA DIGITAL CAMERA", ""),
        ("SONY DSC", ""),
        ("DCIM", ""),
        ("<KENOX S630  / Samsung S630>", ""),
        ("My beautiful picture", ""),
        ("Exif_JPEG_PICTURE", ""),
        ("DSC_0042.JPG", ""),
        ("IMG_20190706_050403", ""),
        ("untitled", ""),
        ("12:34", ""),
        ("....", ""),
        ("   ", ""),
        ("", ""),
    ],
)
def test_titles(written: str, title: str, tmp_path: Path) -> None:
    assert read_photo_tags(photo(tmp_path / "a.jpg", exif_of(description=written))).title == title


@pytest.mark.parametrize("written", [b"Caf\xc3\xa9\0", b"Caf\xe9\0", b"Caf\xe9\0\xff\xfe rest"])
def test_a_title_is_utf8_or_latin1(written: bytes, tmp_path: Path) -> None:
    assert read_photo_tags(photo(tmp_path / "a.jpg", raw_exif(0x010E, 2, written))).title == "Café"


def test_xp_title(tmp_path: Path) -> None:
    def title(xp: str | bytes, description: str = "") -> str:
        raw = xp.encode("utf-16-le") if isinstance(xp, str) else xp
        return read_photo_tags(photo(tmp_path / "a.jpg", exif_of(xp_title=raw, description=description))).title

    assert title("Море\0", "????") == "Море"
    assert title("DCIM\0", "A pier") == "A pier"
    assert title(b"A\0\x00\xd8") in ("A", "A\ufffd")  # half a surrogate pair
    title(b"A").encode("utf-8")


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    """A photo cut off behind its header still tells its time; a PNG that is searched for EXIF behind the pixels would not."""
    exif = exif_of({0x9003: "2019:07:06 05:04:03"}, description="A pier")  # Pillow writes no EXIF that has only a folder to a PNG
    noise = Image.frombytes("RGB", (200, 200), random.Random(1).randbytes(120_000))
    for suffix in ("jpg", "png"):
        path = tmp_path / f"a.{suffix}"
        noise.save(path, exif=exif)
        path.write_bytes(path.read_bytes()[:3000])
        assert read_photo_tags(str(path)).taken == "2019-07-06T05:04:03"
    bare = tmp_path / "b.png"
    noise.save(bare)
    decoded: list[bool] = []
    original = Image.core.zip_decoder

    def spy(*arguments: Any) -> Any:
        decoded.append(True)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.core, "zip_decoder", spy)
        read_photo_tags(str(bare))
        assert decoded == []
        Image.open(bare).load()
        assert decoded


def test_files_that_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "empty.jpg").touch()
    for name in ("text.jpg", "empty.jpg", "missing.jpg", ""):
        assert read_photo_tags(str(tmp_path / name)) == PhotoTags()
    assert read_photo_tags(photo(tmp_path / "garbage.jpg", b"Exif\0\0" + bytes(range(200)))) == PhotoTags()


def broken_folder(path: Path) -> str:
    """EXIF whose sub-folder lies behind the end, so that Pillow warns; its own date is good."""
    return photo(path, raw_exif(0x0132, 2, b"2019:07:06 05:04:03\0", struct.pack("<HHII", 0x8769, 4, 1, 60_000)))


def test_no_warning_escapes(tmp_path: Path) -> None:
    path = broken_folder(tmp_path / "a.jpg")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Image.open(path).getexif().get_ifd(0x8769)
    assert seen, "the file does not make Pillow warn, so this test shows nothing"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert read_photo_tags(path).taken == "2019-07-06T05:04:03"
    assert seen == []


def test_no_warning_escapes_from_threads(tmp_path: Path) -> None:
    path = broken_folder(tmp_path / "a.jpg")
    taken: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=lambda: taken.extend(read_photo_tags(path).taken for _ in range(50))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == []
    assert taken == ["2019-07-06T05:04:03"] * 400


def test_a_large_photo_has_tags_and_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photo(tmp_path / "a.jpg", exif_of(date_time="2019:07:06 05:04:03"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # the photo has 192
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert read_photo_tags(path).taken == "2019-07-06T05:04:03"
    assert seen == []


@given(seed=st.integers(0, 2**32), suffix=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]))
def test_damaged_photos_are_never_an_error(seed: int, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    exif = exif_of({0x9003: "2019:07:06 05:04:03"}, description="A pier", xp_title="A pier".encode("utf-16-le"))
    good = BytesIO()
    Image.new("RGB", (16, 12), "teal").save(good, suffix, exif=exif)
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged(good.getvalue(), random.Random(seed)))
    found = read_photo_tags(str(path))
    assert "\n" not in found.title
    found.title.encode("utf-8")
    assert len(found.taken) in (0, 19)


def test_a_damaged_folder_does_not_cost_the_tags_beside_it(tmp_path: Path) -> None:
    """A negative offset, on which Pillow raises ValueError."""
    path = photo(tmp_path / "a.jpg", raw_exif(0x0132, 2, b"2019:07:06 05:04:03\0", struct.pack("<HHIi", 0x8769, 9, 1, -16)))
    with Image.open(path) as image, pytest.raises(ValueError, match="negative"):
        image.getexif().get_ifd(0x8769)
    assert read_photo_tags(path).taken == "2019-07-06T05:04:03"


def test_ctrl_c_is_not_taken_for_a_damaged_file() -> None:
    def stop() -> Callable[[], str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tags._attempt(stop)
