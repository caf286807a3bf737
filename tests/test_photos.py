from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from media_makers import ORIENTATION_TAG, damaged_copies, dng, long, make_photo, picture, png, png_header, short, tiff_folder
from PIL import Image, ImageOps

from emoclim_cli import photos
from emoclim_cli.errors import MissingDecoder, UnreadableMedia
from emoclim_cli.photos import check_photo, formats, read_photo, read_picture


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever is decoded, neither Python nor the libraries beneath it write to stdout or stderr."""
    yield
    assert capfd.readouterr() == ("", "")


def reason(read: Callable[[], object]) -> str:
    with pytest.raises(UnreadableMedia) as caught:
        read()
    return caught.value.message


PHOTO_SUFFIXES = ("jpg", "png", "webp", "gif", "tif", "bmp", "avif", "heic")
LOSSLESS = ("png", "tif", "bmp")


def save(path: Path, image: Image.Image, orientation: int = 1) -> None:
    if path.suffix == ".heic":
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        pillow_heif.from_pillow(image).save(str(path), quality=90, exif=exif.tobytes())
    else:
        make_photo(path, image, orientation=orientation, **({"quality": 95} if path.suffix in (".jpg", ".webp", ".avif") else {}))


def clip_preprocessing(image: Image.Image, side: int) -> np.ndarray:
    """Oracle: what torchvision's Resize and CenterCrop do to an upright RGB image, whole image first."""
    width, height = image.size
    short = min(width, height)
    scaled = (int(side * width / short), int(side * height / short))
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - side) / 2), round((scaled[1] - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return float(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("suffix", PHOTO_SUFFIXES)
def test_every_photo_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, picture((90, 60)))
    assert difference(read_photo(str(path), 32), clip_preprocessing(picture((90, 60)), 32)) <= (0 if suffix in LOSSLESS else 20)


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 1), (1, 50), (300, 7), (33, 32), (32, 33), (32, 32), (31, 31), (64, 48), (501, 333), (47, 1200)]
)
@pytest.mark.parametrize("side", [1, 32])
def test_geometry_is_that_of_clip(tmp_path: Path, size: tuple[int, int], side: int) -> None:
    path = tmp_path / "a.png"
    # Not of full contrast: between its two passes Pillow rounds and clips, and which pass is first depends on the size.
    noise = np.random.default_rng(0).integers(96, 160, (size[1], size[0], 3), dtype=np.uint8)
    image = make_photo(path, Image.fromarray(noise))
    assert difference(read_photo(str(path), side), clip_preprocessing(image, side)) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif", "heic"])
@pytest.mark.parametrize("size", [(91, 60), (60, 91)])  # 91 / 60 leaves an odd rest to crop, so that a mirrored crop would be seen
def test_orientation(tmp_path: Path, size: tuple[int, int], suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    stored = picture(size)
    save(path, stored, orientation)
    turned = upright(stored, orientation)
    assert (turned.size != size) == (orientation >= 5)
    assert difference(read_photo(str(path), 33), clip_preprocessing(turned, 33)) <= (1 if suffix in LOSSLESS else 20)


def test_an_avif_file_that_calls_itself_heif(tmp_path: Path) -> None:
    save(tmp_path / "a.avif", picture((90, 60)))
    whole = (tmp_path / "a.avif").read_bytes()
    assert whole[4:12] == b"ftypavif"
    (tmp_path / "b.avif").write_bytes(whole[:8] + b"mif1" + whole[12:])
    assert np.array_equal(read_photo(str(tmp_path / "b.avif"), 32), read_photo(str(tmp_path / "a.avif"), 32))


def test_nonsense_in_exif_is_ignored(tmp_path: Path) -> None:
    image = picture()
    for name, exif in {
        "high": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
        "text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0x\0\0\0\0\0\0\0",
        "cut": b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0\x01\0",
        "far": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "junk": b"Exif\0\0" + bytes(range(200)),
    }.items():
        path = tmp_path / f"{name}.jpg"
        image.save(path, quality=95, exif=exif)
        assert difference(read_photo(str(path), 32), clip_preprocessing(image, 32)) <= 12


@pytest.mark.parametrize(("size", "side", "decoded"), [
    ((1600, 1200), 224, (400, 300)), ((1791, 1791), 224, (448, 448)), ((1792, 1792), 224, (224, 224)), ((1801, 1797), 224, (226, 225)),
    ((447, 900), 224, (447, 900)), ((100, 100), 224, (100, 100)), ((5000, 250), 224, (5000, 250)),
])  # fmt: skip
def test_large_jpegs_are_decoded_small(tmp_path: Path, size: tuple[int, int], side: int, decoded: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    image = make_photo(path, picture(size), quality=95)
    photo = photos._open_photo(str(path), side)
    assert photo.image.size == decoded
    assert photo.extent[0] / photo.extent[1] == size[0] / size[1]
    assert difference(read_photo(str(path), side), clip_preprocessing(image, side)) <= 12


RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    if transparent:
        image.info["transparency"] = 1
    return image


def grey16(level: int, dtype: str = "<u2") -> Image.Image:
    return Image.fromarray(np.full((40, 50), level, dtype=dtype))


@pytest.mark.parametrize(("suffix", "image", "colour", "options"), [
    ("png", Image.new("L", (40, 30), 77), (77, 77, 77), {}),
    ("png", Image.new("LA", (40, 30), (77, 255)), (77, 77, 77), {}),
    ("png", Image.new("LA", (40, 30), (0, 0)), WHITE, {}),
    ("png", Image.new("RGBA", (40, 30), (*RED, 255)), RED, {}),
    ("png", Image.new("RGBA", (40, 30), (*RED, 0)), WHITE, {}),
    ("png", Image.new("RGBA", (40, 30), (0, 0, 0, 51)), (204, 204, 204), {}),
    ("webp", Image.new("RGBA", (40, 30), (*RED, 0)), WHITE, {"lossless": True}),
    ("tif", Image.new("RGBA", (40, 30), (*BLACK, 0)), WHITE, {}),
    ("avif", Image.new("RGBA", (40, 30), (*BLACK, 0)), WHITE, {}),
    ("png", palette(False), RED, {}),
    ("gif", palette(False), RED, {}),
    ("png", palette(True), WHITE, {"transparency": 1}),
    ("gif", palette(True), WHITE, {"transparency": 1}),
    ("png", Image.new("RGB", (40, 30), RED), WHITE, {"transparency": RED}),
    ("png", Image.new("L", (40, 30), 9), WHITE, {"transparency": 9}),
    ("png", Image.new("1", (40, 30), 1), WHITE, {}),
    ("tif", Image.new("1", (40, 30), 0), BLACK, {}),
    ("png", grey16(0x8000), (128, 128, 128), {}),
    ("png", grey16(0xFFFF), WHITE, {}),
    ("png", grey16(200), BLACK, {}),
    ("tif", grey16(0x8000), (128, 128, 128), {}),
    ("tif", grey16(0x8000, ">u2"), (128, 128, 128), {}),
    ("tif", Image.new("I", (40, 30), 65535), WHITE, {}),
    ("tif", Image.new("I", (40, 30), 128), (128, 128, 128), {}),
    ("tif", Image.new("I", (40, 30), 2**30), WHITE, {}),
    ("tif", Image.new("I", (40, 30), -5), BLACK, {}),
    ("tif", Image.new("F", (40, 30), 0.5), (128, 128, 128), {}),
    ("tif", Image.new("F", (40, 30), 128.0), (128, 128, 128), {}),
    ("tif", Image.new("F", (40, 30), math.nan), BLACK, {}),
    ("tif", Image.new("CMYK", (40, 30), (0, 255, 255, 0)), RED, {}),
    ("jpg", Image.new("CMYK", (40, 30), (0, 0, 0, 0)), WHITE, {}),
    ("jpg", Image.new("CMYK", (40, 30), (0, 0, 0, 255)), BLACK, {}),
    ("jpg", Image.new("L", (400, 300), 77), (77, 77, 77), {}),
    ("jpg", Image.new("RGB", (400, 300), (200, 100, 50)), (200, 100, 50), {"progressive": True, "quality": 98}),
    ("tif", Image.new("YCbCr", (40, 30), (255, 128, 128)), WHITE, {"compression": None}),
    ("tif", Image.new("RGB", (40, 30), RED), RED, {"compression": "tiff_lzw"}),
])  # fmt: skip
def test_colour_modes(tmp_path: Path, suffix: str, image: Image.Image, colour: tuple[int, int, int], options: dict[str, Any]) -> None:
    path = tmp_path / f"a.{suffix}"
    image.save(path, **options)
    pixels = read_photo(str(path), 20)
    assert difference(pixels, np.broadcast_to(np.array(colour, dtype=np.uint8), (20, 20, 3))) <= (3 if suffix == "jpg" else 1)


def test_levels_above_eight_bits_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.tile(np.linspace(0, 65535, 40).astype(np.uint16), (40, 1))).save(path)
    row = read_photo(str(path), 40)[0, :, 0].astype(int)
    assert row[0] == 0
    assert row[-1] == 255
    assert (np.diff(row) >= 5).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "avif", "mpo"])
def test_the_first_of_several_frames_counts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    first, second = Image.new("RGB", (640, 480), RED), Image.new("RGB", (640, 480), (0, 0, 255))
    first.save(path, save_all=True, append_images=[second])
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert difference(read_photo(str(path), 64), np.broadcast_to(np.array(RED, dtype=np.uint8), (64, 64, 3))) <= 4


@pytest.mark.parametrize("suffix", PHOTO_SUFFIXES)
@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.8, 0.95])
def test_truncated_photos_are_refused(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    save(path, Image.fromarray(noise))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert reason(lambda: read_photo(str(path), 32))


def test_a_png_cut_at_300_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make_photo(path, picture((200, 200)))
    path.write_bytes(path.read_bytes()[:300])
    assert reason(lambda: read_photo(str(path), 32)) == "is truncated"


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for width, height in ((60000, 60000), (251_000_000, 1), (15_812, 15_812)):
        path.write_bytes(png_header(width, height))
        assert reason(lambda: read_photo(str(path), 32)) == "is larger than 250 megapixels"
    path.write_bytes(png_header(15_811, 15_811))  # just small enough, where Pillow itself would warn
    assert "megapixels" not in reason(lambda: read_photo(str(path), 32))


def test_a_tile_that_is_far_larger_than_its_photo_is_refused(tmp_path: Path) -> None:
    """The decoder makes room for it: 2 GB here."""
    tile = zlib.compress(bytes(64 * 64))
    entries = [long(256, 64), long(257, 64), short(258, 8), short(259, 8), short(262, 1), short(277, 1), long(324, 8), long(325, len(tile))]
    path = tmp_path / "a.tif"
    at = 8 + len(tile) + len(tile) % 2
    for (width, height), refused in (((40_000, 50_000), True), ((64, 64), False)):
        folder = tiff_folder([*entries, long(322, width), long(323, height)], at)
        path.write_bytes(b"II*\0" + struct.pack("<I", at) + tile.ljust(at - 8, b"\0") + folder)
        if refused:
            assert reason(lambda: read_photo(str(path), 32)) == "is larger than 250 megapixels"
        else:
            assert (read_photo(str(path), 32) == 0).all()


@pytest.mark.parametrize(("repeats", "taken"), [(400, True), (600, False)])
def test_scans_without_end_are_refused(tmp_path: Path, repeats: int, taken: bool) -> None:
    """Each takes as long as a whole photo, and only a few bytes of the file."""
    path = tmp_path / "a.jpg"
    make_photo(path, picture((64, 48)), progressive=True)
    data = path.read_bytes()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * repeats + data[-2:])
    if taken:
        assert read_photo(str(path), 32).shape == (32, 32, 3)
    else:
        assert "has more than 500 scans" in reason(lambda: read_photo(str(path), 32))


def test_a_film_behind_a_photo_has_no_scans(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    make_photo(path, picture((64, 48)), progressive=True)
    before = read_photo(str(path), 32)
    with open(path, "ab") as file:
        file.write(b"\xff\xda" * 1000)
    assert (read_photo(str(path), 32) == before).all()


@pytest.mark.parametrize("chunk", [(b"zTXt", b"Comment\0\0"), (b"iCCP", b"a profile\0\0")])
def test_large_texts_and_profiles_in_a_png_are_no_damage_and_bombs_are(tmp_path: Path, chunk: tuple[bytes, bytes]) -> None:
    path, (name, head) = tmp_path / "a.png", chunk
    for size, taken in ((5 << 20, True), (20 << 20, False)):
        path.write_bytes(png(1, 1, zlib.compress(b"\0\x80\x80\x80"), before=((name, head + zlib.compress(bytes(size))),)))
        if taken:
            assert (read_photo(str(path), 4) == 128).all()
        else:
            assert reason(lambda: read_photo(str(path), 4)) == "has a text or a profile of more than 16 MB"


@pytest.mark.parametrize("dtype", ["<f4", "<u2", "<i4"])
def test_grey_levels_are_scaled_alike_in_all_strips(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is white is decided for the whole photo: here the brightest pixel is in the last row."""
    path = tmp_path / "a.tif"
    levels = np.tile(np.arange(90)[:, None], (1, 90)).astype(dtype) * 7
    levels[-1, -1] = 30_000
    Image.fromarray(levels).save(path)
    whole = read_photo(str(path), 90)
    monkeypatch.setattr(photos, "STRIP_PIXELS", 200)
    assert np.array_equal(read_photo(str(path), 90), whole)
    white = 65_535
    expected = levels >> 8 if dtype == "<u2" else np.rint(levels.astype(float) * 255 / white)
    assert np.abs(whole[:, :, 0].astype(int) - expected).max() <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_floating_point_costs_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("F", (6000, 6000), 99.0).save(path, compression="tiff_adobe_deflate")  # 144 MB of pixels
    done = subprocess.run([sys.executable, "-W", "error", "-c", MEASURE, str(path)], capture_output=True, check=True, text=True)
    mean, kilobytes = json.loads(done.stdout)
    assert mean == 99
    assert kilobytes < 350_000


MEASURE = """
import json, resource, sys
from emoclim_cli.photos import read_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mean = float(read_photo(sys.argv[1], 224).mean())
print(json.dumps([mean, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (90_000, 300)])
def test_absurd_shapes_cost_little_memory(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "a.png"
    Image.new("L", size, 99).save(path)
    done = subprocess.run([sys.executable, "-W", "error", "-c", MEASURE, str(path)], capture_output=True, check=True, text=True)
    mean, kilobytes = json.loads(done.stdout)
    assert mean == 99
    assert kilobytes < 150_000


def test_what_is_no_photo(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert reason(lambda: read_photo(str(path), 32)) == "No such file or directory"
    assert reason(lambda: read_photo(str(tmp_path), 32)) == "is not a regular file"
    path.write_bytes(b"")
    assert reason(lambda: read_photo(str(path), 32)) == "is empty"
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    for content in (b"\0", b"hello\n" * 100, b"\xff\xd8\xff\xe0" + bytes(100), postscript):
        path.write_bytes(content)
        assert reason(lambda: read_photo(str(path), 32))
    picture().save(path, format="PPM")  # Pillow could; not a format of the list
    assert reason(lambda: read_photo(str(path), 32)) == "is not a photo that can be decoded"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert reason(lambda: read_photo(str(tmp_path / "a.jpg"), 32)) == "is not a regular file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert reason(lambda: read_photo(str(tmp_path / "a.png"), 32)) == "Permission denied"


def test_extras_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.heic", picture())
    (tmp_path / "a.dng").write_bytes(dng(1, picture((640, 480))))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    for name, extra in (("a.heic", "heic"), ("a.dng", "raw")):
        with pytest.raises(MissingDecoder) as caught:
            read_photo(str(tmp_path / name), 32)
        assert f"`{extra}`" in caught.value.message
        assert f"emoclim[{extra}]" in caught.value.hint


def upright(image: Image.Image, orientation: int) -> Image.Image:
    image = image.copy()
    image.getexif()[ORIENTATION_TAG] = orientation
    return ImageOps.exif_transpose(image)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("compression", [1, 7])
def test_camera_raw_shows_its_preview_upright(tmp_path: Path, orientation: int, compression: int) -> None:
    path = tmp_path / "a.DNG"
    path.write_bytes(dng(orientation, picture((640, 480)), compression=compression))
    assert difference(read_photo(str(path), 64), clip_preprocessing(upright(picture((640, 480)), orientation), 64)) <= 12


def test_a_raw_preview_that_is_upright_or_says_how_it_lies_is_not_turned_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    for preview, orientation in ((picture((480, 640)), 1), (picture((640, 480)), 6)):
        path.write_bytes(dng(6, preview, orientation))
        assert difference(read_photo(str(path), 64), clip_preprocessing(upright(preview, orientation), 64)) <= 12


def test_camera_raw_without_preview_is_developed(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    path.write_bytes(dng(1, None))
    columns = read_photo(str(path), 16).mean(axis=(0, 2))
    assert columns[-1] > columns[0] + 50
    path.write_bytes(dng(6, None))
    rows = read_photo(str(path), 16).mean(axis=(1, 2))
    assert rows[-1] > rows[0] + 50


def test_a_jpeg_that_is_called_raw_is_a_jpeg(tmp_path: Path) -> None:
    image = make_photo(tmp_path / "a.nef", picture((90, 60)), format="JPEG", quality=95)
    assert difference(read_photo(str(tmp_path / "a.nef"), 32), clip_preprocessing(image, 32)) <= 12


@pytest.mark.parametrize("suffix", [*PHOTO_SUFFIXES, "dng", "mpo"])
def test_damaged_photos_are_decoded_or_refused(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "dng":
        path.write_bytes(dng(1, picture((640, 480))))
    else:
        save(path, picture((120, 90)), 6)
    refusals = set()
    for content in damaged_copies(path.read_bytes(), 60, 5):
        path.write_bytes(content)
        try:
            assert read_photo(str(path), 24).shape == (24, 24, 3)
        except UnreadableMedia as error:
            refusals.add(error.message)
    assert "" not in refusals
    assert not any(str(tmp_path) in message for message in refusals)


def test_warnings_stay_inside_whatever_the_filters_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture().save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0\x01\0")
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as image:
        image.getexif()
    for action in ("error", "always"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            read_photo(str(path), 32)
        assert caught == []


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe 100% [a].png"
    try:
        with open(name, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    make_photo(tmp_path / "a.png")
    os.replace(tmp_path / "a.png", name)
    assert read_photo(os.fsdecode(name), 32).shape == (32, 32, 3)


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.jpg", picture((900, 700)))
    assert np.array_equal(read_photo(str(tmp_path / "a.jpg"), 64), read_photo(str(tmp_path / "a.jpg"), 64))


def test_many_threads(tmp_path: Path) -> None:
    for suffix in PHOTO_SUFFIXES:
        save(tmp_path / f"a.{suffix}", picture((300, 200)), 6)
    paths = [str(tmp_path / f"a.{suffix}") for suffix in PHOTO_SUFFIXES]
    alone = [read_photo(path, 32) for path in paths]
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            warnings.filterwarnings("error", category=UserWarning)

    with ThreadPoolExecutor(8) as pool:
        other = pool.submit(disturb)
        together = list(pool.map(lambda path: read_photo(path, 32), paths * 6))
        stop.set()
        other.result()
    for i, pixels in enumerate(together):
        assert np.array_equal(pixels, alone[i % len(paths)])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be counted here")
def test_no_file_stays_open(tmp_path: Path) -> None:
    save(tmp_path / "a.heic", picture())
    (tmp_path / "a.dng").write_bytes(dng(1, picture((640, 480))))
    (tmp_path / "bad.png").write_bytes(png_header(9, 9))
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a.heic", "a.dng", "bad.png"):
        try:
            read_photo(str(tmp_path / name), 32)
        except UnreadableMedia:
            assert name == "bad.png"
    assert len(os.listdir("/proc/self/fd")) == before


def fitted(image: Image.Image, box: tuple[int, int]) -> np.ndarray:
    """Oracle: an upright RGB image scaled by Pillow to the largest size within the box, but not enlarged."""
    scale = min(1.0, box[0] / image.width, box[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


@pytest.mark.parametrize("suffix", PHOTO_SUFFIXES)
@pytest.mark.parametrize("box", [(60, 60), (40, 200), (500, 500)])
def test_whole_pictures_of_every_format(tmp_path: Path, suffix: str, box: tuple[int, int]) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, picture((90, 64)))
    tolerance = 0 if suffix in LOSSLESS else 45 if suffix == "gif" else 20  # 256 colours
    assert difference(read_picture(str(path), box), fitted(picture((90, 64)), box)) <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "heic"])
@pytest.mark.parametrize("box", [(80, 30), (30, 80), (300, 200)])
def test_whole_pictures_are_upright(tmp_path: Path, suffix: str, orientation: int, box: tuple[int, int]) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, picture((91, 60)), orientation)
    expected = fitted(upright(picture((91, 60)), orientation), box)
    assert difference(read_picture(str(path), box), expected) <= (2 if suffix in LOSSLESS else 20)


@pytest.mark.parametrize("size", [(1600, 1200), (1200, 1600), (1607, 1203), (2400, 500), (500, 2400), (3001, 203)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_no_smaller_than_they_are_shown(tmp_path: Path, size: tuple[int, int], orientation: int) -> None:
    path = tmp_path / "a.jpg"
    image = upright(make_photo(path, picture(size), quality=95, orientation=orientation), orientation)
    for box in ((400, 300), (300, 400), (193, 108)):
        found = read_picture(str(path), box)
        assert found.shape[0] <= box[1] and found.shape[1] <= box[0]
        assert found.shape[0] == box[1] or found.shape[1] == box[0]
        assert difference(found, fitted(image, box)) <= 14
        decoded = photos._open_photo(str(path), min(box)).image.size
        assert min(decoded) >= min(found.shape[:2]) and max(decoded) >= max(found.shape[:2])


def test_whole_pictures_show_white_through(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (40, 30), (0, 0, 0, 51)).save(path)
    assert difference(read_picture(str(path), (20, 20)), np.full((15, 20, 3), 204, dtype=np.uint8)) <= 1
    Image.fromarray(np.full((30, 40), 0x8000, dtype=np.uint16)).save(path)
    assert difference(read_picture(str(path), (20, 20)), np.full((15, 20, 3), 128, dtype=np.uint8)) <= 1


def test_whole_pictures_of_camera_raw(tmp_path: Path) -> None:
    path = tmp_path / "a.DNG"
    path.write_bytes(dng(6, picture((640, 480))))
    assert difference(read_picture(str(path), (90, 90)), fitted(upright(picture((640, 480)), 6), (90, 90))) <= 14


@pytest.mark.parametrize(("size", "shape"), [((20_000, 1), (1, 100, 3)), ((1, 20_000), (60, 1, 3)), ((1, 1), (1, 1, 3))])
def test_whole_pictures_of_absurd_shape(tmp_path: Path, size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    path = tmp_path / "a.png"
    Image.new("L", size, 99).save(path)
    found = read_picture(str(path), (100, 60))
    assert found.shape == shape and found.flags.writeable
    assert (found == 99).all()


def outcome(read: Callable[[], Any]) -> Any:
    """What is read, or the reason why not."""
    try:
        return read()
    except UnreadableMedia as error:
        return error.message


@pytest.mark.parametrize("suffix", [*PHOTO_SUFFIXES, "dng", "mpo"])
def test_damaged_pictures_are_read_or_refused_and_checked_alike(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "dng":
        path.write_bytes(dng(1, picture((640, 480))))
    else:
        save(path, picture((120, 90)), 6)
    check_photo(str(path))
    for content in damaged_copies(path.read_bytes(), 40, 6):
        path.write_bytes(content)
        checked, found = outcome(lambda: check_photo(str(path))), outcome(lambda: read_picture(str(path), (24, 24)))
        assert checked != ""
        if isinstance(found, str):
            assert found
        else:
            assert checked is None and max(found.shape[:2]) <= 24


def test_a_check_is_what_reading_would_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    for content in (None, b"", b"hello\n" * 100, png_header(60_000, 60_000)):
        if content is not None:
            path.write_bytes(content)
        assert reason(lambda: check_photo(str(path))) == reason(lambda: read_picture(str(path), (9, 9)))
    assert reason(lambda: check_photo(str(tmp_path))) == "is not a regular file"
    path.write_bytes(png_header(9, 9))
    check_photo(str(path))  # its pixels are not looked at
    assert reason(lambda: read_picture(str(path), (9, 9)))
    save(tmp_path / "a.heic", picture())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read in (lambda: check_photo(str(tmp_path / "a.heic")), lambda: read_picture(str(tmp_path / "a.heic"), (9, 9))):
        with pytest.raises(MissingDecoder):
            read()


def test_formats() -> None:
    found = formats()
    assert " ".join(found) == "JPEG PNG WebP GIF TIFF BMP AVIF HEIC RAW"
    assert all(value is True for value in found.values())  # all of them are in the development environment


def test_formats_without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    found = formats()
    assert (found["HEIC"], found["RAW"], found["JPEG"]) == (False, False, True)


def test_importing_the_module_imports_no_decoder() -> None:
    code = "import sys, emoclim_cli.photos; print([m for m in ('av', 'PIL', 'rawpy', 'pillow_heif') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
