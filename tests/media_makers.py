"""Tiny real photos and tracks, made by the libraries that write such files, and damaged ones. Plain functions: any test may call them."""

from __future__ import annotations

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
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    with av.open(str(path), "w", format=container) as file:
        file.metadata.update(metadata or {})
        encoder = av.codec.Codec(codec or CODECS[Path(path).suffix.lower()], "w")
        stream = file.add_stream(encoder.name, rate=rate_hz, layout=layout, options={"strict": "experimental"})  # vorbis is
        if bit_rate or encoder.name.startswith("wma"):  # wma does not open without
            stream.bit_rate = bit_rate or 96_000
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
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
