"""Bad photos and tracks: a corpus made by mutating real files of every format, special cases made by hand, and a process that reads them.

The same arguments make the same bytes, but for what another version of an encoder writes. Run as a script, it reads paths from stdin, each
with all readers, and prints a line of JSON for each: a crash of a decoder, or a hang, is then seen by whoever started it.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import mutagen.id3
import numpy as np
import pillow_heif
from media_makers import CODECS, dng, long, make_photo, make_tone, picture, png, png_header, short, tiff_folder, tone
from PIL import Image

from emoclim_cli import audio, media, photos, tags
from emoclim_cli.changes import plan
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import EncoderInfo
from emoclim_cli.encoders.windows import Window, WindowEncoder
from emoclim_cli.encoding import local
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.indexing import Summary, apply
from emoclim_cli.library import Library, Root
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit

# --- whole files -------------------------------------------------------------------------------------------------------------------------


def whole_photos(folder: Path) -> dict[str, bytes]:
    """Name -> the bytes of a small photo, for each format and for what is special in some."""
    image = picture((120, 88))
    noisy = Image.fromarray(np.clip(np.asarray(image) + np.random.default_rng(0).integers(-9, 9, (88, 120, 3)), 0, 255).astype(np.uint8))
    frames = {"save_all": True, "append_images": [picture((120, 88), seed=1), picture((120, 88), seed=2)]}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0132] = 6, "A walk", "2024:05:01 10:00:00"
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "plain.jpg": (noisy, {"quality": 90, "exif": exif}),
        "progressive.jpg": (noisy, {"progressive": True}),
        "cmyk.jpg": (noisy.convert("CMYK"), {}),
        "two.mpo": (image, frames),
        "plain.png": (noisy, {"exif": exif}),
        "palette.png": (image.quantize(64), {"transparency": 3}),
        "animated.png": (image, frames),
        "plain.webp": (noisy, {"quality": 80, "exif": exif}),
        "lossless.webp": (noisy.convert("RGBA"), {"lossless": True}),
        "animated.webp": (image, frames),
        "plain.gif": (image, {}),
        "animated.gif": (image, frames),
        "plain.tif": (noisy, {"exif": exif}),
        "lzw.tif": (noisy, {"compression": "tiff_lzw"}),
        "deflate.tif": (image.convert("F"), {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (noisy, {"compression": "jpeg"}),
        "plain.bmp": (noisy, {}),
        "palette.bmp": (image.quantize(16), {}),
        "plain.avif": (noisy, {"exif": exif, "speed": 10}),
        "animated.avif": (image, {**frames, "speed": 10}),
    }
    for name, (frame, options) in made.items():
        make_photo(folder / name, frame, **options)
    Image.fromarray(np.linspace(0, 65535, 120 * 88).astype(np.uint16).reshape(88, 120)).save(folder / "grey16.png")
    pillow_heif.from_pillow(noisy).save(str(folder / "plain.heic"), quality=70, exif=exif.tobytes())
    (folder / "preview.dng").write_bytes(dng(6, picture((320, 240))))
    (folder / "developed.dng").write_bytes(dng(1, None))
    return _taken_up(folder)


TRACK_S = 1.0


def whole_tracks(folder: Path) -> dict[str, bytes]:
    """Name -> the bytes of a short track, for each container and codec that FFmpeg can write."""
    made = {f"plain{suffix}": codec for suffix, codec in CODECS.items()}
    made |= {"alac.m4a": "alac", "vorbis.ogg": "vorbis", "flac.ogg": "flac", "opus.mka": "libopus", "v1.wma": "wmav1", "eac3.mka": "eac3"}
    made |= {f"{codec}.wav": codec for codec in ("pcm_u8", "pcm_s24le", "pcm_f32le", "adpcm_ms", "adpcm_ima_wav", "pcm_alaw")}
    for name, codec in made.items():
        make_tone(folder / name, TRACK_S, codec=codec, rate_hz=48_000 if "opus" in codec else 32_000, metadata={"title": "A tune"})
    return _taken_up(folder)


def _taken_up(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.iterdir())
    whole = {file.name: file.read_bytes() for file in files}
    for file in files:
        file.unlink()
    return whole


# --- mutations ---------------------------------------------------------------------------------------------------------------------------

Mutation = Callable[[bytes, np.random.Generator, bytes], bytes]
"""The file, chance, and another file -> a bad file."""


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Anywhere, but half of the time near the beginning, where the headers are."""
    return int(len(data) * rng.random() ** (4 if rng.random() < 0.5 else 1))


def _run(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    begin = _place(data, rng)
    return begin, begin + int(2 ** rng.uniform(0, 9))


def _cut(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    return data[: max(1, _place(data, rng))]


def _flipped(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    bad = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 6))):
        bad[min(_place(data, rng), len(bad) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(bad)


def _filled(with_: int) -> Mutation:
    def fill(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
        begin, end = _run(data, rng)
        return data[:begin] + bytes([with_]) * len(data[begin:end]) + data[end:]

    return fill


def _spliced(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _dropped(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    begin, end = _run(data, rng)
    return data[:begin] + data[end:] or data[:1]


def _doubled(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    begin, end = _run(data, rng)
    return data[:begin] + data[begin:end] * int(rng.integers(2, 40)) + data[end:]


NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x0001_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)


def _number(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    """One to four numbers of a header are the least, the most, or signed."""
    bad = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        form = (">I", "<I", ">H", "<H")[rng.integers(4)]
        value = int(rng.choice(NUMBERS)) % 256 ** struct.calcsize(form)
        at = min(int(min(len(data), 1024) * rng.random() ** 2) // 2 * 2, len(data) - 4)
        if at >= 0:
            struct.pack_into(form, bad, at, value)
    return bytes(bad)


def _behind_junk(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    return rng.integers(0, 256, int(rng.integers(1, 600)), dtype=np.uint8).tobytes() + data


MUTATIONS: dict[str, Mutation] = {
    "cut": _cut,
    "flipped": _flipped,
    "zeros": _filled(0),
    "ones": _filled(0xFF),
    "spliced": _spliced,
    "dropped": _dropped,
    "doubled": _doubled,
    "number": _number,
    "behind-junk": _behind_junk,
    "misnamed": lambda data, _rng, _other: data,
}


def mutated(whole: Mapping[str, bytes], rounds: int, mutations_each: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of `rounds * mutations_each` bad copies of each file; the mutations are taken in turns, so that a few meet all."""
    names, kinds = list(whole), list(MUTATIONS)
    turn = 0
    for number in range(rounds):
        for i, name in enumerate(names):
            rng = np.random.default_rng((seed, number, i))
            for _ in range(mutations_each):
                kind = kinds[turn % len(kinds)]
                turn += 1
                stem, suffix = os.path.splitext(name)
                near = [other for other in names if other.endswith(suffix) and other != name]  # of its own kind, if there is one
                other = str(rng.choice(near if near and rng.random() < 0.5 else names))
                bad = MUTATIONS[kind](whole[name], rng, whole[other])
                suffix = os.path.splitext(other)[1] if kind == "misnamed" else suffix
                yield f"{stem}-{suffix[1:]}-{kind}-{number:03d}-{turn:05d}{suffix}", bad
        turn += 3  # not the same mutations of the same files in the next round


# --- special cases -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Special:
    name: str
    data: bytes
    reason: str = ""
    """Why it is refused, whole; empty: it is read."""
    colour: tuple[int, int, int] | None = None
    """That of all pixels, to within `tolerance`."""
    tolerance: int = 3
    duration_s: float = 0.0
    """To within 0.1 s."""
    title: str | None = None


RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)
BOMB = "is larger than 250 megapixels"


def specials(folder: Path, bomb_side: int) -> list[Special]:
    """`folder` is an empty one to work in; bombs unpack to squares of `bomb_side` pixels: 15,000 are nearly the limit."""
    return [*_special_photos(bomb_side), *_special_tracks(folder)]


def _saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def _zeros(count: int) -> bytes:
    """`count` zeros, compressed as zlib does, at no cost: the same block again and again, and the checksum that zeros have."""
    pack = zlib.compressobj(9, wbits=-15)
    million = pack.compress(bytes(1 << 20)) + pack.flush(zlib.Z_FULL_FLUSH)
    pack = zlib.compressobj(9, wbits=-15)
    rest = pack.compress(bytes(count % (1 << 20))) + pack.flush()
    return b"\x78\xda" + million * (count >> 20) + rest + struct.pack(">HH", count % 65_521, 1)


def _special_photos(side: int) -> Iterator[Special]:
    red = Image.new("RGB", (64, 48), RED)
    pixels = zlib.compress(b"\0" + b"\x80" * 9)
    yield Special("claims-50000.png", png_header(50_000, 50_000), BOMB)
    yield Special("claims-4-gigapixels.gif", b"GIF89a\xff\xff\xff\xff" + _saved(red, "GIF")[10:], BOMB)
    yield Special("bomb-grey.png", png(side, side, _zeros((side + 1) * side), colour=0), colour=(0, 0, 0))
    for name, size in (("large", 4 << 20), ("bomb", 1 << 28)):
        reason = "has a text or a profile of more than 16 MB" if name == "bomb" else ""
        colour = GREY if name == "large" else None
        yield Special(f"{name}-text.png", png(3, 1, pixels, before=((b"zTXt", b"Comment\0\0" + _zeros(size)),)), reason, colour)
        yield Special(f"{name}-profile.png", png(3, 1, pixels, before=((b"iCCP", b"x\0\0" + _zeros(size)),)), reason, colour)
    yield Special("bomb-rgba.png", png(side, side, _zeros((4 * side + 1) * side), colour=6), colour=WHITE)
    yield Special("bomb-float.tif", _float_bomb(side), colour=(0, 0, 0))
    yield Special("bomb-tile.tif", _huge_tile(), BOMB)
    yield Special("bomb-progressive.jpg", _progressive_bomb(side), colour=GREY, tolerance=8)
    yield Special("scans.jpg", _many_scans(), "has more than 500 scans, as no photo has")
    yield Special("wide.png", _saved(Image.new("L", (100_000, 1), 128), "PNG"), colour=GREY)
    yield Special("high.png", _saved(Image.new("L", (1, 100_000), 128), "PNG"), colour=GREY)
    yield Special("wide.jpg", _saved(Image.new("L", (65_500, 1), 128), "JPEG"), colour=GREY)
    yield Special("one.png", _saved(Image.new("L", (1, 1), 128), "PNG"), colour=GREY)
    yield Special("animated.png", _saved(red, "PNG", save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")]), colour=RED)
    cmyk = _saved(Image.new("CMYK", (64, 48), (0, 255, 255, 0)), "JPEG", quality=95)
    yield Special("cmyk-adobe.jpg", cmyk, colour=RED)
    at = cmyk.index(b"\xff\xee")
    # What a file without the marker means is disputed; browsers and ImageMagick take it as all others, and so does Pillow.
    yield Special("cmyk-unmarked.jpg", cmyk[:at] + cmyk[at + 2 + int.from_bytes(cmyk[at + 2 : at + 4], "big") :], colour=RED)
    yield Special("cmyk.tif", _saved(Image.new("CMYK", (64, 48), (0, 255, 255, 0)), "TIFF"), colour=RED)
    yield Special("grey16.png", _saved(Image.fromarray(np.full((40, 50), 0x8000, np.uint16)), "PNG"), colour=GREY)
    rgb16 = zlib.compress((b"\0" + struct.pack(">HHH", 0xFFFF, 0, 0) * 20) * 20)
    yield Special("rgb16.png", png(20, 20, rgb16, bits=16), colour=RED)
    shown = Image.new("P", (40, 40), 1)
    shown.putpalette([0, 0, 0, 255, 0, 0])
    yield Special("palette.png", _saved(shown, "PNG"), colour=RED)
    yield Special("palette-transparent.png", _saved(shown, "PNG", transparency=1), colour=WHITE)
    yield Special("palette-transparent.gif", _saved(shown, "GIF", transparency=1), colour=WHITE)
    yield Special("progressive.jpg", _saved(red, "JPEG", progressive=True, quality=95), colour=RED)
    for name, exif in _absurd_exif().items():
        yield Special(f"exif-{name}.jpg", _saved(red, "JPEG", exif=exif, quality=95), colour=(254, 0, 0), title="")
    yield Special("profile.jpg", _saved(red, "JPEG", icc_profile=b"no profile" * 90_000, quality=95), colour=(254, 0, 0))
    loop = bytearray(_saved(red, "TIFF"))
    first = int.from_bytes(loop[4:8], "little")
    entries = int.from_bytes(loop[first : first + 2], "little")
    loop[first + 2 + 12 * entries :][:4] = loop[4:8]
    struct.pack_into("<I", loop, first + 2 + 12 * entries, first)
    yield Special("loop.tif", bytes(loop), colour=RED)
    yield Special("nan.tif", _saved(Image.new("F", (40, 30), float("nan")), "TIFF"), colour=(0, 0, 0))
    yield Special("inf.tif", _saved(Image.new("F", (40, 30), float("inf")), "TIFF"), colour=(0, 0, 0))
    both = np.full((30, 40), 0.5, np.float32)
    both[0, :2] = np.inf, -np.inf
    yield Special("both-inf.tif", _saved(Image.fromarray(both), "TIFF"), colour=GREY, tolerance=130)
    yield Special("a-photo.mp3", _saved(red, "PNG"), colour=RED)
    yield Special("text.jpg", b"This is no photo.\n" * 50, "is not a photo that can be decoded")
    yield Special(
        "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not a photo that can be decoded"
    )
    yield Special("empty.jpg", b"", "is empty")
    yield Special("zeros.png", bytes(5000), "is not a photo that can be decoded")


def _float_bomb(side: int) -> bytes:
    """A grey TIFF of floating-point zeros, compressed in strips."""
    rows = side // 30
    strip = _zeros(4 * side * rows)
    count = side // rows
    at = 8 + len(strip)
    entries = [
        long(256, side),
        long(257, side),
        short(258, 32),
        short(259, 8),
        short(262, 1),
        short(277, 1),
        long(278, rows),
        short(339, 3),
    ]
    entries += [(273, 4, count, struct.pack(f"<{count}I", *[8] * count)), (279, 4, count, struct.pack(f"<{count}I", *[len(strip)] * count))]
    at += at % 2
    return b"II*\0" + struct.pack("<I", at) + strip.ljust(at - 8, b"\0") + tiff_folder(entries, at)


def _huge_tile() -> bytes:
    """A TIFF of 64 x 64 pixels in one tile of 2 gigabytes."""
    tile = zlib.compress(bytes(64 * 64))
    at = 8 + len(tile) + len(tile) % 2
    entries = [long(256, 64), long(257, 64), short(258, 8), short(259, 8), short(262, 1), short(277, 1)]
    entries += [long(322, 40_000), long(323, 50_000), long(324, 8), long(325, len(tile))]
    return b"II*\0" + struct.pack("<I", at) + tile.ljust(at - 8, b"\0") + tiff_folder(entries, at)


def _progressive_bomb(side: int) -> bytes:
    """A few bytes that say that they are a progressive JPEG of 225 megapixels: its coefficients alone take 1.3 GB."""
    data = bytearray(_saved(picture((64, 48)), "JPEG", progressive=True, subsampling=0))
    at = data.index(b"\xff\xc2")
    struct.pack_into(">HH", data, at + 5, side, side)
    return bytes(data)


def _many_scans() -> bytes:
    """A progressive JPEG whose first scan of fine detail is repeated 3,000 times: each is a pass over all coefficients."""
    data = _saved(picture((4000, 3000)), "JPEG", progressive=True, quality=1)
    starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    return data[: starts[-1]] + data[starts[-1] : -2] * 3000 + data[-2:]


def _absurd_exif() -> dict[str, bytes]:
    def folder(entries: bytes, count: int) -> bytes:
        return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + struct.pack("<I", 8)  # the next folder is itself

    return {
        "high": folder(struct.pack("<HHII", 0x0112, 3, 1, 99), 1),
        "long": folder(struct.pack("<HHII", 0x010E, 2, 0xFFFF_FFFF, 8), 1),
        "loop": folder(struct.pack("<HHII", 0x8769, 4, 1, 8), 1),
        "zero": folder(struct.pack("<HHII", 0x9003, 5, 1, 0) + struct.pack("<HHII", 0x0132, 12, 1, 0), 2),
        "many": folder(struct.pack("<HHII", 0x0112, 3, 1, 1) * 5000, 5000),
        "junk": b"Exif\0\0" + np.random.default_rng(0).integers(0, 256, 60_000, dtype=np.uint8).tobytes(),
    }


def _track(folder: Path, name: str, seconds: float = 2.0, **options: Any) -> bytes:
    make_tone(folder / name, seconds, **options)
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    return data


def _patched(data: bytes, mark: bytes, offset: int, form: str, *values: int) -> bytes:
    bad = bytearray(data)
    struct.pack_into(form, bad, data.index(mark) + offset, *values)
    return bytes(bad)


def _special_tracks(folder: Path) -> Iterator[Special]:
    quiet = tone(3.0, 16_000, 2)
    for name in ("silence.wav", "silence.flac", "silence.mp3", "silence.m4a"):
        yield Special(name, _track(folder, name, samples=0 * quiet, rate_hz=16_000), "is silent")
    float_wav: dict[str, Any] = {"codec": "pcm_f32le", "rate_hz": 16_000}
    yield Special("hum.wav", _track(folder, "a.wav", samples=quiet * 2e-4, **float_wav), "is silent")
    yield Special("quiet.wav", _track(folder, "a.wav", samples=quiet * 2e-3, **float_wav), duration_s=3.0)
    late = np.concatenate([np.zeros((2, 16_000 * 20), np.float32), quiet], axis=1)
    yield Special("late.wav", _track(folder, "a.wav", samples=late, rate_hz=16_000), duration_s=23.0)
    for name in ("short.wav", "short.flac", "short.mp3", "short.ogg"):
        yield Special(name, _track(folder, name, 0.1, rate_hz=48_000), duration_s=0.1)
    yield Special("one-sample.wav", _track(folder, "a.wav", samples=np.full((1, 1), 0.5, np.float32), **float_wav))
    for name in ("eight.wav", "eight.flac", "eight.m4a"):
        yield Special(name, _track(folder, name, 3.0, channels=8), duration_s=3.0)
    for name in ("fast.wav", "fast.flac", "fast.wv"):
        yield Special(name, _track(folder, name, 3.0, rate_hz=192_000), duration_s=3.0)
    m4a = _track(folder, "a.m4a", 3.0)
    yield Special("protected.m4p", m4a.replace(b"mp4a", b"drms"), "is protected (DRM)")
    for channel in (0, 1):
        bad = quiet.copy()
        bad[channel, ::3] = np.nan
        bad[channel, 1::3] = np.inf
        yield Special(f"nan-{channel}.wav", _track(folder, "a.wav", samples=bad, **float_wav), duration_s=3.0)
    yield Special("nan.wav", _track(folder, "a.wav", samples=quiet * np.nan, **float_wav), "has no sample that is a number")
    yield Special("inf.wav", _track(folder, "a.wav", samples=np.sign(quiet) * np.inf, **float_wav), "has no sample that is a number")
    yield from _wrong_headers(folder, m4a)
    yield from _bad_tags(folder)
    yield from _structures(folder, m4a)


def _wrong_headers(folder: Path, m4a: bytes) -> Iterator[Special]:
    mp3 = _track(folder, "a.mp3", 5.0, rate_hz=16_000)
    mark = b"Xing" if b"Xing" in mp3 else b"Info"
    (frames,) = struct.unpack_from(">I", mp3, mp3.index(mark) + 8)
    yield Special("says-hours.mp3", _patched(mp3, mark, 8, ">I", frames * 2000), duration_s=5.0)
    yield Special("says-nothing.mp3", _patched(mp3, mark, 8, ">I", 1), duration_s=5.0)
    yield Special("says-hours.m4a", _patched(_patched(m4a, b"mvhd", 20, ">I", 2**30), b"mdhd", 20, ">I", 2**30), duration_s=3.0)
    flac = _track(folder, "a.flac", 5.0, rate_hz=16_000)
    yield Special("says-hours.flac", flac[:22] + struct.pack(">I", 2**31) + flac[26:], duration_s=5.0)
    wav = _track(folder, "a.wav", 5.0, rate_hz=16_000, channels=1)
    yield Special("says-hours.wav", _patched(wav, b"data", 4, "<I", 0xFFFF_FFFF), duration_s=5.0)
    yield Special("one-hertz.wav", _patched(wav, b"fmt ", 12, "<I", 1), "has a sample rate of 1 Hz")
    yield Special("gigahertz.wav", _patched(wav, b"fmt ", 12, "<I", 2**31 - 1), "has a sample rate of 2,147,483,647 Hz")
    yield Special("no-hertz.wav", _patched(wav, b"fmt ", 12, "<I", 0), "is not audio that can be decoded")
    yield Special("many-channels.wav", _patched(wav, b"fmt ", 10, "<H", 65_535), "is damaged: 2 packets do not decode, 0 do")
    yield Special("no-channels.wav", _patched(wav, b"fmt ", 10, "<H", 0), "is damaged: 80 packets do not decode, 0 do")


def _bad_tags(folder: Path) -> Iterator[Special]:
    mp3 = _track(folder, "a.mp3", 2.0, rate_hz=16_000)
    bare = mp3[mp3.index(b"\xff\xf3") if b"\xff\xf3" in mp3 else 0 :]
    cover = mutagen.id3.ID3()
    cover.add(mutagen.id3.APIC(encoding=3, mime="image/jpeg", type=3, desc="", data=_saved(picture(), "JPEG")))
    cover.save(folder / "a.mp3")
    yield Special("cover-alone.mp3", _taken_up(folder)["a.mp3"], "is not audio that can be decoded")
    for name, count, size in (("giant-frame", 1, 24 << 20), ("many-frames", 20_000, 40)):
        frames = b"".join(b"TXXX" + _synchsafe(size + 4) + b"\0\0\0" + b"%02x\0" % (i % 256) + b"x" * size for i in range(count))
        frames = b"TIT2" + _synchsafe(5) + b"\0\0\3Song" + frames
        yield Special(f"{name}.mp3", b"ID3\4\0\0" + _synchsafe(len(frames)) + frames + bare, duration_s=2.0, title="Song")
    bomb = _zeros(3 << 30)
    frame = b"TIT2" + _synchsafe(len(bomb) + 4) + b"\0\x09" + _synchsafe(100) + bomb  # with more than 100, FFmpeg unpacks it, too
    yield Special("tag-bomb.mp3", b"ID3\4\0\0" + _synchsafe(len(frame)) + frame + bare, duration_s=2.0, title="")
    yield Special("tag-of-256-megabytes.mp3", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bare, "is not audio that can be decoded")


def _synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def _structures(folder: Path, m4a: bytes) -> Iterator[Special]:
    deep = b""
    for _ in range(20_000):
        deep = struct.pack(">I", len(deep) + 8) + b"moov" + deep
    yield Special("deep.m4a", m4a[: int.from_bytes(m4a[:4], "big")] + deep, "is not audio that can be decoded")
    at = m4a.index(b"stsz") - 4
    bad = bytearray(m4a)
    struct.pack_into(">II", bad, at + 12, 1, 2**31 - 1)  # two thousand million packets of one byte, which need no table
    yield Special("packets.m4a", bytes(bad), "has no audio")
    flac = _track(folder, "a.flac", 2.0)
    yield Special("pictures.flac", flac[:42] + (b"\6\0\0\0" * 100_000) + flac[42:], duration_s=2.0)
    yield Special("behind-zeros.mp3", bytes(60_000) + _track(folder, "a.mp3", 3.0), duration_s=3.0)
    yield Special("a-track.jpg", _track(folder, "a.flac", 3.0), duration_s=3.0)
    yield Special("zeros.mp3", bytes(5000), "is not audio that can be decoded")
    yield Special("playlist.mp3", b"#EXTM3U\nother.mp3\n", "is not audio that can be decoded")


# --- reading and indexing in a process of its own -----------------------------------------------------------------------------------------

PHOTO_SIDE, BOX, RATE_HZ, HEARD_S = 48, (40, 30), 16_000, 20


def read_all(path: str) -> dict[str, Any]:
    """What the readers say of one file. Any other exception than UnreadableMedia is in `faults`."""
    said: dict[str, Any] = {"path": path, "faults": []}
    began = time.perf_counter()

    def attempt(read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        try:
            return read(path)
        except UnreadableMedia as error:
            return {"reason": error.message}
        except Exception as error:
            said["faults"].append(f"{read.__name__}: {type(error).__name__}: {error}")
            return {}

    kind = media.kind_of_file(path)
    if kind is not MediaKind.MUSIC:
        attempt(_as_picture)
        said |= attempt(_photo_tags) | attempt(_as_photo)
    if kind is not MediaKind.PHOTO:
        attempt(_as_heard)
        said |= attempt(_music_tags) | attempt(_as_track)
    return said | {"kind": kind, "seconds": time.perf_counter() - began}


def _as_photo(path: str) -> dict[str, Any]:
    pixels = photos.read_photo(path, PHOTO_SIDE)
    assert pixels.shape == (PHOTO_SIDE, PHOTO_SIDE, 3) and pixels.dtype == np.uint8
    return {"low": pixels.min(axis=(0, 1)).tolist(), "high": pixels.max(axis=(0, 1)).tolist()}


def _as_track(path: str) -> dict[str, Any]:
    windows = WINDOW.read(path)
    assert windows.audio.shape[1:] == (WINDOW.samples,) and 1 <= len(windows.audio) <= WINDOW.most(0.0)
    assert windows.audio.dtype == np.float32 and np.isfinite(windows.audio).all() and 1e-4 <= np.abs(windows.audio).max() <= 1
    return {"duration_s": windows.duration_s}


def _as_picture(path: str) -> dict[str, Any]:
    pixels = photos.read_picture(path, BOX)
    assert pixels.dtype == np.uint8 and pixels.shape[0] <= BOX[1] and pixels.shape[1] <= BOX[0]
    return {}


def _as_heard(path: str) -> dict[str, Any]:
    heard = audio.read_track(path, sample_rate_hz=RATE_HZ, max_s=HEARD_S)
    assert heard.dtype == np.float32 and 0 < len(heard) <= HEARD_S * RATE_HZ and np.abs(heard).max() <= 1
    return {}


def _photo_tags(path: str) -> dict[str, Any]:
    return asdict(tags.read_photo_tags(path))


def _music_tags(path: str) -> dict[str, Any]:
    found = asdict(tags.read_music_tags(path))
    assert math.isfinite(found["duration_s"]) and found.pop("duration_s") >= 0
    return found


class PlainPhotos:
    """Photos as they are really read, behind the smallest of networks: the mean colour of 16 parts."""

    batch_size = 16

    def __init__(self) -> None:
        self.info = EncoderInfo("plain-photos", MediaKind.PHOTO, 48, (), "MIT", "toy")
        self.load = partial(photos.read_photo, side=PHOTO_SIDE)

    def encode(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        parts = np.stack(samples).reshape(-1, 4, PHOTO_SIDE // 4, 4, PHOTO_SIDE // 4, 3)
        return parts.mean(axis=(2, 4)).reshape(len(parts), -1).astype(np.float32) + 1

    def encode_windows(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self.encode(samples)[:, None])


WINDOW = Window(rate_hz=RATE_HZ, samples=10 * RATE_HZ)


class PlainMusic(WindowEncoder):
    """Music as it is really read, behind the smallest of networks: the loudness of 16 parts."""

    def __init__(self) -> None:
        super().__init__(EncoderInfo("plain-music", MediaKind.MUSIC, 16, (), "MIT", "toy"), WINDOW)

    def _features(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.abs(window).reshape(16, -1).mean(axis=1) for window in windows])


def index(folder: str, library_folder: str) -> dict[str, Any]:
    """As `emoclim index FOLDER` does it."""
    encoders: dict[MediaKind, Any] = {MediaKind.PHOTO: PlainPhotos(), MediaKind.MUSIC: PlainMusic()}
    rng = np.random.default_rng(0)
    projections = {
        kind: Projection(*(rng.normal(size=shape).astype(np.float32) for shape in ((encoder.info.dim, 8), (8,), (8, 6), (6,))))
        for kind, encoder in encoders.items()
    }
    names, digests = ({kind: getattr(encoder.info, field) for kind, encoder in encoders.items()} for field in ("name", "digest"))
    space = EmotionSpace("plain", names, digests, projections, unit(rng.normal(size=(len(EMOTIONS), 6))))
    library = Library.create(Path(library_folder))
    found = plan(library, [Root(folder)])
    summary = Summary.of(found)
    began = time.perf_counter()
    for outcome in apply(found, library, local(encoders.__getitem__, space, jobs=2), space):
        summary.count(outcome)
    seconds = time.perf_counter() - began
    views = {kind: library.view(kind) for kind in MediaKind}
    known = {view.path(row): kind for kind, view in views.items() for row in range(len(view))}
    again = plan(library)
    rest = {"known": known, "stale": again.stale, "unchanged_again": again.unchanged, "skipped_again": len(again.skipped)}
    return asdict(summary) | rest | {"seconds": seconds, "vectors": all(np.isfinite(view.emotion).all() for view in views.values())}


def peak_mb() -> float:
    """The most memory that this process has held since this was last called."""
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def _say(said: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main() -> None:
    if len(sys.argv) > 1:
        said = index(*sys.argv[1:])
        _say(said | {"peak_mb": peak_mb(), "peak_mb_of_a_worker": getrusage(RUSAGE_CHILDREN).ru_maxrss / 1000})
        return
    for line in sys.stdin:
        path = json.loads(line)
        _say({"begun": path})
        said = read_all(path)
        _say(said | {"peak_mb": peak_mb()})


if __name__ == "__main__":
    main()
