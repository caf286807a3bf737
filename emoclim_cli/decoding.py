"""The only place that decodes: photos to square RGB, tracks to windows of mono audio.

Whatever a file holds, `read_photo` and `read_windows` return an array or raise `UnreadableMedia` with the reason (without the path).
Both may be called from several threads at once, and each call keeps to one core.

Shapes: `w` windows of a track.
"""

from __future__ import annotations

import math
import os
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.media import RAW_SUFFIXES, suffix_of

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from PIL import Image


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UnreadableMedia(error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableMedia("is not a regular file")
    if status.st_size == 0:
        raise UnreadableMedia("is empty")


# ---------------------------------------------------------------------------------------------------------------- photos

MAX_PIXELS = 250_000_000
"""Above what cameras make (200 megapixels in 2024); a file that claims more would take gigabytes to decode."""

PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF")
"""What Pillow may take a file for: never EPS, which runs Ghostscript."""

HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))

# EXIF orientation -> (the transposition that undoes it, whether stored columns, stored rows run backwards in the upright photo).
ORIENTATIONS: dict[int, tuple[str, bool, bool]] = {
    2: ("FLIP_LEFT_RIGHT", True, False),
    3: ("ROTATE_180", True, True),
    4: ("FLIP_TOP_BOTTOM", False, True),
    5: ("TRANSPOSE", False, False),
    6: ("ROTATE_270", False, True),
    7: ("TRANSVERSE", True, True),
    8: ("ROTATE_90", True, False),
}
ORIENTATION_TAG = 0x0112
ORIENTATION_OF_FLIP = {3: 3, 5: 8, 6: 6}
"""LibRaw's flip -> EXIF orientation."""


def read_photo(path: str, side: int) -> np.ndarray:
    """The upright photo as (side, side, 3) uint8 RGB: its shorter side scaled to `side` (bicubic), the centre of the longer one.

    Transparency shows white; of an animation the first frame counts. Raises UnreadableMedia.
    """
    _check_file(path)
    _hush_pillow()
    try:
        return _square(_open_photo(path, side), side)
    except UnreadableMedia:
        raise
    except Exception as error:  # on damaged files decoders raise nearly anything
        raise UnreadableMedia(_photo_reason(error)) from error


def _photo_reason(error: Exception) -> str:
    pillow = _pillow()
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, pillow.DecompressionBombError):
        return f"is larger than {MAX_PIXELS // 1_000_000} megapixels"
    if isinstance(error, pillow.UnidentifiedImageError):
        return "is not a photo that can be decoded"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    reason = str(error)
    return "is truncated" if "truncated" in reason.lower() else f"is damaged ({reason or type(error).__name__})"


@dataclass(frozen=True, slots=True)
class _Photo:
    image: Image.Image
    """Decoded, as stored."""
    extent: tuple[float, float]
    """Width and height in pixels of `image`; not whole where the last column or row of a JPEG decoded at 1/8 is only partly photo."""
    orientation: int
    """As in EXIF."""


def _open_photo(path: str, side: int) -> _Photo:
    with open(path, "rb") as file:
        head = file.read(64)
        file.seek(0)
        if suffix_of(path) in RAW_SUFFIXES or _is_raw(head):
            return _load_raw(file, side)
        if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head:
            return _load_heic(file)
        return _load_pillow(file, side)


def _is_raw(head: bytes) -> bool:
    return head.startswith((b"IIRO", b"IIU\0", b"FUJIFILMCCD-RAW", b"II*\0\x10\0\0\0CR")) or head[4:12] == b"ftypcrx "


def _load_pillow(file: Any, side: int) -> _Photo:
    image = _pillow().open(file, formats=PHOTO_FORMATS)
    drafted = image.draft(None, (side, side))  # a JPEG decodes at 1/2, 1/4 or 1/8, with neither side below `side`
    image.load()
    return _Photo(image, drafted[1][2:] if drafted else image.size, _orientation(image))


def _load_heic(file: Any) -> _Photo:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise UnreadableMedia("is HEIC, which needs the extra `heic`", hint="pip install 'emoclim[heic]'") from error
    opener: Any = HeifImageFile
    image = opener(file)
    if image.width * image.height > MAX_PIXELS:
        raise _pillow().DecompressionBombError
    image.load()
    return _Photo(image, image.size, _orientation(image))


def _load_raw(file: Any, side: int) -> _Photo:
    """The preview that the camera put into the file; developing it would take a second."""
    try:
        import rawpy
    except ImportError as error:
        raise UnreadableMedia("is camera RAW, which needs the extra `raw`", hint="pip install 'emoclim[raw]'") from error
    try:
        with rawpy.imread(file) as raw:
            sizes = raw.sizes
            try:
                preview = raw.extract_thumb()
            except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
                developed = _pillow().fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
                return _Photo(developed, developed.size, 1)
    except rawpy.LibRawFileUnsupportedError:  # a JPEG or TIFF that is called .dng
        file.seek(0)
        return _load_pillow(file, side)
    if preview.format == rawpy.ThumbFormat.JPEG:  # LibRaw has put the orientation into its EXIF, if there was none
        photo = _load_pillow(BytesIO(bytes(preview.data)), side)
    else:
        bitmap = _pillow().fromarray(preview.data)
        photo = _Photo(bitmap, bitmap.size, ORIENTATION_OF_FLIP.get(sizes.flip, 1))
    width, height = photo.extent
    if (width < height) != (sizes.width < sizes.height):  # it does not lie as the sensor does: the camera has turned it already
        return _Photo(photo.image, photo.extent, 1)
    return photo


@cache
def _pillow() -> Any:
    """PIL.Image with its plugins, and with its limit set: it raises above twice that limit, and only warns below."""
    from PIL import Image

    Image.init()  # Image.open(formats=...) must find every plugin, and threads must not be the first to load them
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    return Image


_HUSHED = r"(PIL|pillow_heif)\."
_hush_lock = threading.Lock()


def _hush_pillow() -> None:
    """Keeps what Pillow remarks on odd EXIF data and large photos from the user.

    The filter stays: `warnings.catch_warnings` would change the filters of other threads. It is put first again if others came before it.
    """
    with _hush_lock:
        first = warnings.filters[0] if warnings.filters else None
        if first is None or first[0] != "ignore" or getattr(first[3], "pattern", "") != _HUSHED:
            warnings.filterwarnings("ignore", module=_HUSHED)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - EXIF that cannot be parsed says nothing of the pixels
        return 1


def _square(photo: _Photo, side: int) -> np.ndarray:
    """Resize and centre crop as CLIP's preprocessing does, without scaling what the crop drops."""
    from PIL.Image import Resampling, Transpose

    transposition, *backwards = ORIENTATIONS.get(photo.orientation, ("", False, False))
    short = min(photo.extent)
    whole, inner, sizes, crop = [], [], [], []  # each first for x, then for y
    for extent, pixels, reversed_ in zip(photo.extent, photo.image.size, backwards, strict=True):
        scaled = int(side * extent / short)
        begin = round((scaled - side) / 2)  # these two round as torchvision does, in the upright photo
        if reversed_:
            begin = scaled - side - begin
        step = extent / scaled
        margin = math.ceil((2 * max(step, 1.0) + 1) / step)  # the filter reaches two pixels beyond
        low, high = max(0, begin - margin), min(scaled, begin + side + margin)
        first, last = low * step, min(high * step, extent)
        whole.append((math.floor(first), min(math.ceil(last), pixels)))
        inner.append((first - whole[-1][0], last - whole[-1][0]))
        sizes.append(high - low)
        crop.append(begin - low)
    (left, right), (top, bottom) = whole
    part = _scalable(photo.image, (left, top, right, bottom))
    (x0, x1), (y0, y1) = inner
    part = part.resize((sizes[0], sizes[1]), Resampling.BICUBIC, box=(x0, y0, x1, y1))
    part = part.crop((crop[0], crop[1], crop[0] + side, crop[1] + side))
    if part.mode == "RGBA":
        part = _pillow().alpha_composite(_pillow().new("RGBA", part.size, "white"), part)
    part = part.convert("RGB")
    if transposition:
        part = part.transpose(Transpose[transposition])
    return np.array(part, dtype=np.uint8)


def _scalable(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of `image` in `box`, as L, RGB or RGBA."""
    if box != (0, 0, *image.size):
        image = image.crop(box)
    if image.mode.startswith("I") or image.mode == "F":
        grey: Image.Image = _pillow().fromarray(_eight_bits(np.asarray(image)))
        return grey
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey levels of 16 or 32 bits, or of floating point, scaled to 0..255 uint8."""
    if grey.dtype.kind == "u" and grey.dtype.itemsize == 2:
        return (grey >> 8).astype(np.uint8)
    levels = np.nan_to_num(grey.astype(np.float64), posinf=0.0, neginf=0.0).clip(0.0)
    brightest = float(levels.max())
    # What white is, is not written anywhere: the least of the usual maxima that holds all levels.
    white = next((w for w in (1.0, 255.0, 65535.0) if brightest <= w and (w > 1 or grey.dtype.kind == "f")), brightest)
    return (levels * (255.0 / white) + 0.5).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------------- audio

AUDIO_FORMATS = "aac,ac3,eac3,aiff,ape,asf,au,caf,dsf,iff,flac,matroska,mov,mp3,mpc,mpc8,ogg,tta,wav,w64,wv"
"""What FFmpeg may take a file for: never a playlist, which would make it read other files or the net."""

INDEX_BYTES = str(64 << 20)
"""Where FFmpeg keeps the positions of packets that it seeks by. With its own limit, 1 MB, it goes astray in MP3 files of many hours."""

PROTECTED_TAGS = frozenset(("drms", "enca", "aavd"))

SEEK_FACTOR = 1.25
"""A track is sought in when it is so much longer than its windows; below that, decoding all of it costs no more."""

PREROLL_S = 0.3
"""Decoded and dropped before a window: after a seek MP3 needs up to nine frames (its bit reservoir), Opus 80 ms, AAC two frames."""

MARGIN_S = 0.02
"""Resampled and dropped on both sides of a window, so that the resampler's filter never sees the cut."""

JITTER_S = 0.005
"""Timestamps of some containers are whole milliseconds: a smaller jump than this is no gap."""


@dataclass(frozen=True, slots=True)
class AudioWindows:
    audio: np.ndarray
    """(w, samples) float32, mono, -1..1."""
    starts_s: np.ndarray
    """(w,) float64: where in the track each window begins."""
    duration_s: float
    """Of the whole track."""


def read_windows(path: str, *, sample_rate_hz: int, window_s: float, max_windows: int) -> AudioWindows:
    """At most `max_windows` windows of `window_s` seconds, evenly spaced over the track; a shorter track is repeated to fill one.

    The same file always gives the same windows. Of a long track only what they need is decoded, where its file can be sought in; where
    not, all of it is decoded, but little of it is kept. Packets that do not decode are left out.
    Raises UnreadableMedia, also when most packets do not decode.
    """
    _check_file(path)
    import av

    samples = round(window_s * sample_rate_hz)
    try:
        with _open_track(path) as track:
            long = track.said_s > SEEK_FACTOR * max_windows * window_s
            windows = (_windows_by_seeking if long else _windows_by_streaming)(track, sample_rate_hz, samples, max_windows)
        if windows is None:
            with _open_track(path) as track:
                windows = _windows_by_streaming(track, sample_rate_hz, samples, max_windows)
    except MemoryError as error:
        raise UnreadableMedia("needs more memory than there is") from error
    except (av.error.InvalidDataError, av.error.EOFError, av.error.ArgumentError) as error:
        raise UnreadableMedia("is not audio that can be decoded") from error
    except (av.error.FFmpegError, OSError) as error:
        raise UnreadableMedia(error.strerror or str(error)) from error
    except ValueError as error:  # PyAV's word for sample formats that it does not know
        raise UnreadableMedia(f"is not audio that can be decoded ({error})") from error
    np.clip(windows.audio, -1.0, 1.0, out=windows.audio)
    return windows


def _starts(length: int, samples: int, max_windows: int) -> list[int]:
    """Where the windows of a track of `length` samples begin."""
    count = max(1, math.ceil(length / samples))
    if count > max_windows:  # the centres of equal parts
        return [((2 * i + 1) * length // max_windows - samples) // 2 for i in range(max_windows)]
    return [i * (length - samples) // (count - 1) for i in range(count)] if count > 1 else [0]


class _Track:
    """The audio stream of an open container, and what came of decoding it."""

    def __init__(self, container: InputContainer, stream: av.AudioStream) -> None:
        self.container = container
        self.stream = stream
        self.tick_s = float(stream.time_base or 0)
        self.said_s = stream.duration * self.tick_s if stream.duration is not None else (container.duration or 0) / 1e6
        """What the header says of the duration, or what FFmpeg guesses from the bit rate; 0 when nobody knows."""
        self.good = 0
        """Frames."""
        self.bad = 0
        """Packets that do not decode."""
        self.finite = False
        """Whether there was any sample that is a number."""

    def frames(self) -> Iterator[av.AudioFrame]:
        """From where the container stands to the end."""
        import av

        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):  # what cannot be read any more is the end
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.bad += 1
                continue
            self.good += len(frames)
            yield from frames

    def mono(self, frame: av.AudioFrame) -> np.ndarray:
        """(samples,) float32: the mean of the channels, full scale is 1. What is no number is silent."""
        channels = frame.to_ndarray()
        if not frame.format.is_planar:
            channels = channels.reshape(-1, frame.layout.nb_channels).T
        kind, bits = channels.dtype.kind, 8 * channels.dtype.itemsize
        with np.errstate(over="ignore", invalid="ignore"):
            mono: np.ndarray = channels[0].astype(np.float32)
            for channel in channels[1:]:  # np.mean is slow over so short an axis
                mono += channel
            mono *= 1.0 / (len(channels) * (1.0 if kind == "f" else 2.0 ** (bits - 1)))
            if kind == "u":
                mono -= 1.0
            if np.isfinite(mono.sum()):
                self.finite = True
                return mono
        numbers = np.isfinite(mono)
        self.finite = self.finite or bool(numbers.any())
        mono[~numbers] = 0.0
        np.clip(mono, -1.0, 1.0, out=mono)
        return mono

    def seek(self, seconds: float) -> None:
        """To a packet that begins at least `seconds` after the start of the stream, or shortly before."""
        self.container.seek((self.stream.start_time or 0) + int(max(0.0, seconds) / self.tick_s), stream=self.stream)

    def check(self) -> None:
        if self.bad > self.good:
            raise UnreadableMedia(f"is damaged: {self.bad} packets do not decode, {self.good} do")
        if self.good == 0:
            raise UnreadableMedia("has no audio")
        if not self.finite:
            raise UnreadableMedia("has no sample that is a number")


@contextmanager
def _open_track(path: str) -> Iterator[_Track]:
    import av
    from av.stream import Disposition

    options = {"format_whitelist": AUDIO_FORMATS, "protocol_whitelist": "file", "indexmem": INDEX_BYTES}
    # Without `file:` a name like `concat:x` would be taken for a protocol.
    with av.open("file:" + path, options=options, metadata_errors="replace") as container:
        if any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video):
            raise UnreadableMedia("is a video")
        if not container.streams.audio:
            raise UnreadableMedia("has no audio")
        stream = container.streams.audio[0]
        context = stream.codec_context
        if "ASF_Protection_Type" in container.metadata or (context is not None and context.codec_tag in PROTECTED_TAGS):
            raise UnreadableMedia("is protected (DRM)")
        if context is None:
            raise UnreadableMedia("has audio of an unknown codec")
        context.thread_count = 1
        yield _Track(container, stream)


def _resampled(chunks: Iterable[tuple[np.ndarray, int]], rate_hz: int) -> Iterator[np.ndarray]:
    """Consecutive mono chunks, each with its own sample rate, at `rate_hz`."""
    import av

    resampler: av.AudioResampler | None = None
    resampler_hz = rate_hz
    for chunk, chunk_hz in chunks:
        if chunk_hz != resampler_hz:
            if resampler is not None:
                yield from _arrays(resampler.resample(None))
            resampler = None if chunk_hz == rate_hz else av.AudioResampler("fltp", "mono", rate_hz)
            resampler_hz = chunk_hz
        if resampler is None:
            yield chunk
        else:
            frame = av.AudioFrame.from_ndarray(chunk[None], "fltp", "mono")
            frame.sample_rate = chunk_hz
            yield from _arrays(resampler.resample(frame))
    if resampler is not None:
        yield from _arrays(resampler.resample(None))


def _arrays(frames: list[av.AudioFrame]) -> Iterator[np.ndarray]:
    return (frame.to_ndarray()[0] for frame in frames)


def _windows_by_seeking(track: _Track, rate_hz: int, samples: int, max_windows: int) -> AudioWindows | None:
    """None where the track cannot be sought in, or what its header or its timestamps say turns out wrong."""
    import av

    first = next(track.frames(), None)
    if first is None or first.pts is None:
        return None
    origin, source_hz = first.pts, first.sample_rate
    needed = math.ceil(samples * source_hz / rate_hz)
    unit_hz = math.gcd(source_hz, rate_hz)
    margin = math.ceil(MARGIN_S * unit_hz)  # times source_hz / unit_hz, or rate_hz / unit_hz: whole at either rate
    audio = []
    try:
        length = round(_duration_s(track, origin) * source_hz)
        if length < max_windows * needed:
            return None
        starts = _starts(length, needed, max_windows)
        for start in starts:
            low = start - margin * source_hz // unit_hz
            high = start + needed + margin * source_hz // unit_hz
            track.seek(low / source_hz - PREROLL_S)
            source, found = _collect(track, origin, source_hz, low, high)
            if found < needed // 2:
                return None
            window = np.concatenate(list(_resampled([(source, source_hz)], rate_hz)))[margin * rate_hz // unit_hz :]
            audio.append(window[:samples])
    except av.error.FFmpegError:
        return None
    track.check()
    return AudioWindows(np.stack(audio), np.array(starts) / source_hz, length / source_hz)


def _duration_s(track: _Track, origin: int) -> float:
    """Where the last packet ends, whatever the header says."""
    track.seek(track.said_s - 1.0)
    ends = (packet.pts + (packet.duration or 0) for packet in track.container.demux(track.stream) if packet.pts is not None)
    return (max(ends, default=origin) - origin) * track.tick_s


def _collect(track: _Track, origin: int, source_hz: int, low: int, high: int) -> tuple[np.ndarray, int]:
    """Samples low..high of the track from where its container stands, and how many were there; 0 stands for the others."""
    source = np.zeros(high - low, dtype=np.float32)
    found = 0
    position: int | None = None
    for frame in track.frames():
        if frame.pts is not None:
            stamped = round((frame.pts - origin) * track.tick_s * source_hz)
            if position is None or abs(stamped - position) > JITTER_S * source_hz:
                position = stamped
        if position is None or frame.sample_rate != source_hz:
            break
        chunk = track.mono(frame)
        begin, end = max(position, low), min(position + len(chunk), high)
        if begin < end:
            source[begin - low : end - low] = chunk[begin - position : end - position]
            found += end - begin
        position += len(chunk)
        if position >= high:
            break
    return source, found


def _windows_by_streaming(track: _Track, rate_hz: int, samples: int, max_windows: int) -> AudioWindows:
    """Decodes the whole track, but never keeps more than `4 * max_windows + 1` windows of it.

    It is cut into blocks of one window. Each time too many are kept, every second is dropped, and of those that follow only every second,
    fourth, ... is kept.
    """
    kept: list[np.ndarray] = []
    block = np.empty(samples, dtype=np.float32)
    stride, length = 1, 0
    for chunk in _resampled(((track.mono(frame), frame.sample_rate) for frame in track.frames()), rate_hz):
        done = 0
        while done < len(chunk):
            number, offset = divmod(length, samples)
            taken = min(samples - offset, len(chunk) - done)
            block[offset : offset + taken] = chunk[done : done + taken]
            done += taken
            length += taken
            if offset + taken == samples and number % stride == 0:
                kept.append(block.copy())
                if len(kept) > 4 * max_windows:
                    kept, stride = kept[::2], 2 * stride
    track.check()
    if length == 0:
        raise UnreadableMedia("has no audio")
    starts = _starts(length, samples, max_windows)
    if stride == 1:
        whole = np.concatenate([*kept, block[: length % samples]])
        audio = [np.resize(whole[s : s + samples], samples) for s in starts]  # np.resize repeats a short track
    else:
        step = stride * samples
        chosen = [min(round(s / step), len(kept) - 1) for s in starts]
        starts = [i * step for i in chosen]
        audio = [kept[i] for i in chosen]
    return AudioWindows(np.stack(audio), np.array(starts) / rate_hz, length / rate_hz)


# ---------------------------------------------------------------------------------------------------------------- codecs

DECODERS = {
    "mp3": "mp3float",
    "aac": "aac",
    "alac": "alac",
    "flac": "flac",
    "vorbis": "vorbis",
    "opus": "opus",
    "wma": "wmav2",
    "ape": "ape",
    "wavpack": "wavpack",
    "tta": "tta",
    "aiff": "pcm_s16be",
    "wav": "pcm_s16le",
    "dsd": "dsd_lsbf",
}
"""Format -> FFmpeg's decoder."""


def codecs() -> dict[str, bool]:
    """Format -> whether this installation decodes it, photos first. Nothing is decoded to find out."""
    import av
    from PIL import features

    return {
        "JPEG": bool(features.check("jpg")),
        "PNG": bool(features.check("zlib")),
        "WebP": bool(features.check("webp")),
        "GIF": True,
        "TIFF": bool(features.check("libtiff")),
        "BMP": True,
        "AVIF": bool(features.check("avif")),
        "HEIC": find_spec("pillow_heif") is not None,
        "RAW": find_spec("rawpy") is not None,
        **{name: decoder in av.codecs_available for name, decoder in DECODERS.items()},
    }
