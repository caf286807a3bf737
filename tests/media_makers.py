"""Tiny real photos and tracks, made by the libraries that write such files, and damaged ones. Plain functions: any test may call them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

ORIENTATION_TAG = 0x0112

CODECS = {
    ".mp3": "libmp3lame", ".mp2": "mp2", ".m4a": "aac", ".aac": "aac", ".flac": "flac", ".ogg": "libopus", ".opus": "libopus",
    ".wma": "wmav2", ".wav": "pcm_s16le", ".aiff": "pcm_s16be", ".wv": "wavpack", ".tta": "tta", ".mka": "flac", ".ac3": "ac3",
    ".caf": "pcm_s16be", ".au": "pcm_s16be",
}  # fmt: skip
"""Suffix -> the encoder that make_tone takes unless it is told another."""


def picture(size: tuple[int, int] = (64, 48), mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth picture whose four corners differ, so that no turn, flip or shift of it looks like another."""
    width, height = size
    x = np.linspace(0.0, 1.0, width)[None, :]
    y = np.linspace(0.0, 1.0, height)[:, None]
    phase = float(np.random.default_rng(seed).uniform(0, 1)) if seed else 0.0
    red = 200 * x + 0 * y + 30
    green = 200 * y + 0 * x + 30
    blue = 100 + 90 * np.sin(2 * np.pi * (1.5 * x + 0.7 * y + phase))
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8)).convert(mode)


def make_photo(path: Path | str, image: Image.Image | None = None, *, orientation: int = 1, **options: Any) -> Image.Image:
    """Saves `image` (or `picture()`) in the format of the suffix, or `format=`; gives it back as stored, before any compression."""
    image = picture() if image is None else image
    if orientation != 1:
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        options["exif"] = exif
    image.save(path, **options)
    return image


def tone(seconds: float, rate_hz: int = 44100, channels: int = 2, seed: int = 0) -> np.ndarray:
    """(channels, samples) float32: a gliding tone with a little noise, so that every moment of it differs from every other."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(len(t))
    glide = 0.4 * np.sin(2 * np.pi * (220.0 * t + 15.0 * t * t / max(seconds / 20, 1.0))) + 0.03 * noise
    return np.stack([glide * (1.0 - 0.25 * c) for c in range(channels)]).astype(np.float32)


def make_tone(
    path: Path | str,
    seconds: float = 2.0,
    *,
    codec: str = "",
    rate_hz: int = 44100,
    channels: int = 2,
    samples: np.ndarray | None = None,
    container: str | None = None,
    bit_rate: int = 0,
    metadata: dict[str, str] | None = None,
) -> np.ndarray:
    """Writes `samples` (channels, n) float32, or `tone(seconds)`, and gives them back. The suffix says which container and codec."""
    if samples is None:
        samples = tone(seconds, rate_hz, channels)
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[len(samples)]
    with av.open(str(path), "w", format=container) as file:
        file.metadata.update(metadata or {})
        encoder = av.codec.Codec(codec or CODECS[Path(path).suffix.lower()], "w")
        stream = file.add_stream(encoder.name, rate=rate_hz, layout=layout, options={"strict": "experimental"})  # vorbis is
        if bit_rate or encoder.name.startswith("wma"):  # wma does not open without
            stream.bit_rate = bit_rate or 96_000
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, dtype=np.float32).reshape(1, -1), "flt", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate_hz, frame_size=stream.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return samples


def damaged_copies(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` copies of a file with random bytes changed; every third is cut short as well."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        copy = np.frombuffer(whole, dtype=np.uint8).copy()
        # From a few bytes to many, and more of them at the beginning, where the headers are.
        spots = (rng.random(1 + 2 ** (i % 6)) ** (3 if i % 2 else 1) * len(copy)).astype(int)
        copy[spots] = rng.integers(0, 256, len(spots), dtype=np.uint8)
        yield copy.tobytes()[: len(copy) if i % 3 else int(rng.integers(1, len(copy)))]


def png(width: int, height: int, pixels: bytes, *, bits: int = 8, colour: int = 2, before: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG of these chunks `before` and of this compressed `pixels` chunk; `colour` as in IHDR: 0 grey, 2 RGB, 6 RGBA."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)), *before, (b"IDAT", pixels), (b"IEND", b""))
    parts = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size without its pixels."""
    return png(width, height, b"x")


def short(tag: int, *values: int) -> tuple[int, int, int, bytes]:
    return tag, 3, len(values), struct.pack(f"<{len(values)}H", *values)


def long(tag: int, value: int) -> tuple[int, int, int, bytes]:
    return tag, 4, 1, struct.pack("<I", value)


def tiff_folder(entries: list[tuple[int, int, int, bytes]], at: int) -> bytes:
    """The folder at `at`; the values that do not fit into it follow."""
    beyond = at + 2 + 12 * len(entries) + 4
    rows, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in sorted(entries):
        fits = len(value) <= 4
        rows += struct.pack("<HHI", tag, kind, count) + (value.ljust(4, b"\0") if fits else struct.pack("<I", beyond + len(tail)))
        tail += b"" if fits else value + b"\0" * (len(value) % 2)
    return rows + struct.pack("<I", 0) + tail


def dng(orientation: int, preview: Image.Image | None, preview_orientation: int = 1, compression: int = 7) -> bytes:
    """A tiny camera RAW: a grey 64 x 48 sensor, and a preview as JPEG (compression 7) or bitmap (1)."""
    width, height = 64, 48
    sensor = np.tile(np.linspace(500, 20000, width), (height, 1)).astype("<u2").tobytes()
    file = io.BytesIO()
    if preview and compression == 7:
        make_photo(file, preview, orientation=preview_orientation, format="JPEG", quality=95)
    elif preview:
        file.write(preview.tobytes())
    pixels = file.getvalue() + b"\0" * (len(file.getvalue()) % 2)
    raw_at = 8 + len(sensor) + len(pixels)
    raw_entries = [
        *[long(254, 0), long(256, width), long(257, height), short(258, 16), short(259, 1), short(262, 32803), long(273, 8)],
        *[short(277, 1), long(278, height), long(279, len(sensor)), short(33421, 2, 2), (33422, 1, 4, b"\0\1\1\2"), long(50717, 65535)],
    ]
    raw = tiff_folder(raw_entries, raw_at)
    camera = [
        *[(271, 2, 5, b"Test\0"), (272, 2, 5, b"Test\0"), short(274, orientation), (50706, 1, 4, b"\1\4\0\0"), (50708, 2, 5, b"Test\0")],
        (50721, 10, 9, struct.pack("<18i", *(int(i in (0, 8, 16) or i % 2) for i in range(18)))),
        *[(50728, 5, 3, struct.pack("<6I", 1, 1, 1, 1, 1, 1)), short(50778, 21)],
    ]
    if preview:
        camera += [long(254, 1), long(256, preview.width), long(257, preview.height), short(258, 8, 8, 8), short(259, compression)]
        camera += [short(262, 6 if compression == 7 else 2), long(273, 8 + len(sensor)), short(277, 3), long(278, preview.height)]
        camera += [long(279, len(pixels)), long(330, raw_at)]
    else:
        camera += raw_entries
    main_at = raw_at + len(raw)
    return b"II*\0" + struct.pack("<I", main_at) + sensor + pixels + raw + tiff_folder(camera, main_at)
