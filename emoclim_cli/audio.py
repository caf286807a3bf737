"""The only place that decodes music: a track to windows of mono audio.

Whatever a file holds, `read_windows` returns windows or raises `UnreadableMedia` with the reason (without the path). It may be called from
several threads at once, and each call keeps to one core.

Shapes: `w` windows of a track.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.media import check_file

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

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

JITTER_S, ODD_S = 0.005, 0.1
"""Timestamps of some containers are whole milliseconds, and one alone of Vorbis is half a long block late: smaller jumps are no gaps."""

PIECE = 16_384
"""Samples that are handled at once. Frames are smaller, and each call costs more than its samples; of larger pieces the resampler's buffers
come fresh from the system each time, and filling in their pages costs more than the resampling."""

SILENT, LEAST_HZ, MOST_HZ = 1e-4, 1_000, 6_000_000
"""-80 dBFS is below the hum of any recording, and a network hears an emotion in silence as in all else. Samples at 1 Hz would be resampled
to thousands of times as many; DSD at its fastest decodes to 5.6 MHz."""

DTYPES = {name: np.dtype(code) for name, code in (("u8", "u1"), ("s16", "i2"), ("s32", "i4"), ("s64", "i8"), ("flt", "f4"), ("dbl", "f8"))}
"""FFmpeg's name of a sample format -> what NumPy calls it."""


@dataclass(frozen=True, slots=True)
class AudioWindows:
    audio: np.ndarray
    """(w, samples) float32, mono, -1..1. Windows that overlap may be views of one array, which cannot be written to."""
    starts_s: np.ndarray
    """(w,) float64: where in the track each window begins."""
    duration_s: float
    """Of the whole track."""


def read_windows(
    path: str, *, sample_rate_hz: int, window_s: float, max_windows: int, overlap: float = 0.0, may_be_silent: bool = False
) -> AudioWindows:
    """At most `max_windows` windows of `window_s` seconds, evenly spaced over the track; a shorter track is repeated to fill one.

    As far as `max_windows` allow, windows cover the whole track, each sharing at least `overlap` (0 to below 1) of it with the next.
    The same file always gives the same windows. Of a long track only what they need is decoded, where its file can be sought in; where
    not, all of it is decoded, but little of it is kept. Packets that do not decode are left out.
    Raises UnreadableMedia, also when most packets do not decode, and when nothing is heard in any window, unless it `may_be_silent`.
    """
    samples = round(window_s * sample_rate_hz)
    with open_track(path) as track:
        long = track.said_s > SEEK_FACTOR * max_windows * window_s
        windows = (_windows_by_seeking if long else _windows_by_streaming)(track, sample_rate_hz, samples, max_windows, overlap)
    if windows is None:
        with open_track(path) as track:
            windows = _windows_by_streaming(track, sample_rate_hz, samples, max_windows, overlap)
    if not may_be_silent and max(windows.audio.max(), -windows.audio.min()) < SILENT:
        raise UnreadableMedia("is silent")
    return windows


def read_track(path: str, *, sample_rate_hz: int, max_s: float) -> np.ndarray:
    """(samples,) float32, mono, -1..1: a track from its beginning on, at most `max_s` seconds of it.

    Where its clock jumps ahead, it is silent. Packets that do not decode are left out.
    Raises UnreadableMedia, also when most packets do not decode.
    """
    kept: list[np.ndarray] = []
    most, length = round(max_s * sample_rate_hz), 0
    with open_track(path) as track:
        for chunk in _resampled(_by_the_clock(track.pieces()), sample_rate_hz):
            kept.append(chunk[: most - length])
            length += len(kept[-1])
            if length == most:
                break
        track.check()
        if length == 0:
            raise UnreadableMedia("has no audio")
        audio = np.concatenate(kept)
        return np.clip(audio, -1.0, 1.0, out=audio)


def _by_the_clock(pieces: Iterator[_Piece]) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces and their sample rates, with silence where one begins later than the one before ends."""
    end_s = math.inf
    for piece in _placed(pieces):
        if piece.position is not None:
            gap = round(max(0.0, piece.position / piece.rate_hz - end_s) * piece.rate_hz)
            yield from ((np.zeros(min(PIECE, gap - done), dtype=np.float32), piece.rate_hz) for done in range(0, gap, PIECE))
            end_s = (piece.position + len(piece.mono)) / piece.rate_hz
        yield piece.mono, piece.rate_hz


def _placed(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """Pieces, each where the one before ends, unless its timestamp is later and that of the next as well; or, if none follows, by ODD_S.

    Alone it says nothing: the timestamps of Vorbis are late wherever a short block follows a long one. But one that lies far back sets
    right what came before: after a seek, FFmpeg gives the frames of the first page of FLAC in Ogg the times of the second.
    """
    due_s = -math.inf
    piece = next(pieces, None)
    while piece is not None:
        following = next(pieces, None)
        if piece.position is not None:
            begin_s, length_s, odd_s = piece.position / piece.rate_hz, len(piece.mono) / piece.rate_hz, ODD_S
            if following is not None and following.position is not None:
                begin_s, odd_s = min(begin_s, following.position / following.rate_hz - length_s), JITTER_S
            begin_s = due_s if due_s - ODD_S <= begin_s <= due_s + odd_s else begin_s
            piece = _Piece(piece.mono, piece.rate_hz, round(begin_s * piece.rate_hz))
            due_s = begin_s + length_s
        yield piece
        piece = following


def window_starts(length: int, samples: int, max_windows: int, overlap: float = 0.0) -> list[int]:
    """Where the windows of a track of `length` samples begin. Those that overlap are equally far apart, to the sample."""
    count = max(1, 1 + math.ceil((length - samples) / (samples * (1 - overlap)) - 1e-9))
    if overlap:
        step = (length - samples) // max(1, min(count, max_windows) - 1)  # the last may end a few samples before the track does
        return [i * step for i in range(min(count, max_windows))]
    if count > max_windows:  # the centres of equal parts
        return [((2 * i + 1) * length // max_windows - samples) // 2 for i in range(max_windows)]
    return [i * (length - samples) // (count - 1) for i in range(count)] if count > 1 else [0]


@dataclass(frozen=True, slots=True)
class _Piece:
    mono: np.ndarray
    """(samples,) float32."""
    rate_hz: int
    position: int | None
    """Where in the track it begins, in samples at `rate_hz`; None where no timestamp tells."""


class Track:
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
        self.lost: av.error.FFmpegError | None = None
        """Why no more could be read."""

    def frames(self) -> Iterator[av.AudioFrame]:
        """From where the container stands to the end."""
        import av

        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:  # what cannot be read any more is the end
                self.lost = error
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.bad += 1
                continue
            self.good += len(frames)
            yield from frames

    def pieces(self, origin: int = 0, until: float = math.inf) -> Iterator[_Piece]:
        """From where the container stands to the end, or to sample `until` after timestamp `origin`: its frames, joined if they can be."""
        run: list[av.AudioFrame] = []
        length = 0
        form: tuple[int, str, int] | None = None
        position: int | None = None
        for frame in self.frames():
            rate_hz = frame.sample_rate
            if not LEAST_HZ <= rate_hz <= MOST_HZ:
                raise UnreadableMedia(f"has a sample rate of {rate_hz:,} Hz")
            jump = None
            if frame.pts is not None:
                stamped = round((frame.pts - origin) * self.tick_s * rate_hz)
                if position is None or abs(stamped - position) > JITTER_S * rate_hz:
                    jump = stamped
            its_form = (rate_hz, frame.format.name, frame.layout.nb_channels)
            if run and (jump is not None or its_form != form or length >= PIECE):
                yield self._joined(run, length, position)
                run, length = [], 0
            form = its_form
            position = jump if jump is not None else position
            run.append(frame)
            length += frame.samples
            if position is not None:
                position += frame.samples
                if position >= until:
                    break
        if run:
            yield self._joined(run, length, position)

    def _joined(self, run: list[av.AudioFrame], length: int, end: int | None) -> _Piece:
        form, width = run[0].format, run[0].layout.nb_channels
        dtype = DTYPES[form.name.removesuffix("p")]
        step = 1 if form.is_planar else width
        size = step * dtype.itemsize  # a plane is longer than its samples
        count = width // step  # of eight planes, PyAV gives more, which are none
        # AudioFrame.to_ndarray takes several times as long.
        parts = zip(*([memoryview(plane)[: frame.samples * size] for plane in frame.planes[:count]] for frame in run), strict=True)
        planes = [np.frombuffer(b"".join(part), dtype) for part in parts]
        mono = self._mono([plane[offset::step] for plane in planes for offset in range(step)])
        return _Piece(mono, run[0].sample_rate, None if end is None else end - length)

    def _mono(self, channels: Sequence[np.ndarray]) -> np.ndarray:
        """(samples,) float32: the mean of the channels, full scale is 1. What is no number is silent."""
        kind, bits = channels[0].dtype.kind, 8 * channels[0].dtype.itemsize
        with np.errstate(over="ignore", invalid="ignore"):
            mono: np.ndarray = channels[0].astype(np.float32)
            for channel in channels[1:]:
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
def open_track(path: str) -> Iterator[Track]:
    """A track, from its beginning on. Raises UnreadableMedia, also in place of what FFmpeg raises while the track is open."""
    check_file(path)
    import av

    try:
        with _opened(path) as track:
            yield track
    except MemoryError as error:
        raise UnreadableMedia("needs more memory than there is") from error
    except (av.error.InvalidDataError, av.error.EOFError, av.error.ArgumentError) as error:
        raise UnreadableMedia("is not audio that can be decoded") from error
    except (av.error.FFmpegError, OSError) as error:
        senseless = error.errno == errno.EPERM  # so FFmpeg calls some headers; a file that is forbidden is EACCES
        raise UnreadableMedia("is not audio that can be decoded" if senseless else error.strerror or str(error)) from error
    except ValueError as error:  # PyAV's word for what it does not know
        raise UnreadableMedia(f"is not audio that can be decoded ({error})") from error


@contextmanager
def _opened(path: str) -> Iterator[Track]:
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
        yield Track(container, stream)


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
            size = math.ceil(len(chunk) / max(1, round(len(chunk) / PIECE)))  # no small rest: each call costs more than its samples
            for begin in range(0, len(chunk), size):
                frame = av.AudioFrame.from_ndarray(chunk[None, begin : begin + size], "fltp", "mono")
                frame.sample_rate = chunk_hz
                yield from _arrays(resampler.resample(frame))
    if resampler is not None:
        yield from _arrays(resampler.resample(None))


def _arrays(frames: list[av.AudioFrame]) -> Iterator[np.ndarray]:
    return (frame.to_ndarray()[0] for frame in frames)


def _windows_by_seeking(track: Track, rate_hz: int, samples: int, max_windows: int, overlap: float = 0.0) -> AudioWindows | None:
    """None where the track cannot be sought in, or what its header or its timestamps say turns out wrong."""
    import av

    first = next(track.frames(), None)
    if first is None or first.pts is None:
        return None
    origin, source_hz = first.pts, first.sample_rate
    needed = math.ceil(samples * source_hz / rate_hz)
    unit_hz = math.gcd(source_hz, rate_hz)
    margin = math.ceil(MARGIN_S * unit_hz)  # times source_hz / unit_hz, or rate_hz / unit_hz: whole at either rate
    source_margin, margin = margin * source_hz // unit_hz, margin * rate_hz // unit_hz
    source = np.empty(source_margin + needed + source_margin, dtype=np.float32)
    audio = np.empty((max_windows, samples), dtype=np.float32)
    try:
        length = round(_duration_s(track, origin) * source_hz)
        if length < max_windows * needed:
            return None
        starts = window_starts(length, needed, max_windows, overlap)
        for window, start in zip(audio, starts, strict=True):
            low = start - source_margin
            track.seek(low / source_hz - PREROLL_S)
            if _collect(track, origin, source_hz, low, source) < needed // 2:
                return None
            resampled = np.concatenate(list(_resampled([(source, source_hz)], rate_hz)))
            np.clip(resampled[margin : margin + samples], -1.0, 1.0, out=window)
    except av.error.FFmpegError:
        return None
    track.check()
    return AudioWindows(audio, np.array(starts) / source_hz, length / source_hz)


def _duration_s(track: Track, origin: int) -> float:
    """Where the last packet ends, whatever the header says."""
    track.seek(track.said_s - 1.0)
    ends = (packet.pts + (packet.duration or 0) for packet in track.container.demux(track.stream) if packet.pts is not None)
    return (max(ends, default=origin) - origin) * track.tick_s


def _collect(track: Track, origin: int, source_hz: int, low: int, source: np.ndarray) -> int:
    """Fills `source` with the track from sample `low` on, and says how many samples were there; 0 stands for the others."""
    source[:] = 0.0
    high = low + len(source)
    found = 0
    for piece in _placed(track.pieces(origin, high + ODD_S * source_hz)):
        if piece.position is None or piece.rate_hz != source_hz:
            break
        begin, end = max(piece.position, low), min(piece.position + len(piece.mono), high)
        if begin < end:
            source[begin - low : end - low] = piece.mono[begin - piece.position : end - piece.position]
            found += end - begin
    return found


def _windows_by_streaming(track: Track, rate_hz: int, samples: int, max_windows: int, overlap: float = 0.0) -> AudioWindows:
    """Decodes the whole track, but never keeps more than `4 * max_windows + 1` windows of it.

    It is cut into blocks of one window. Each time too many are kept, every second is dropped, and of those that follow only every second,
    fourth, ... is kept.
    """
    kept: list[np.ndarray] = []
    block = np.empty(samples, dtype=np.float32)
    stride, length = 1, 0
    for chunk in _resampled(((piece.mono, piece.rate_hz) for piece in track.pieces()), rate_hz):
        done = 0
        while done < len(chunk):
            number, offset = divmod(length, samples)
            taken = min(samples - offset, len(chunk) - done)
            np.clip(chunk[done : done + taken], -1.0, 1.0, out=block[offset : offset + taken])
            done += taken
            length += taken
            if offset + taken == samples and number % stride == 0:
                kept.append(block.copy())
                if len(kept) > 4 * max_windows:
                    kept, stride = kept[::2], 2 * stride
    track.check()
    if length == 0:
        raise UnreadableMedia("has no audio")
    starts = window_starts(length, samples, max_windows, overlap)
    if stride == 1:
        whole = np.concatenate([*kept, block[: length % samples]])
        if overlap and len(starts) > 1:  # as views: copied, ten minutes would take four times their memory
            audio = np.lib.stride_tricks.sliding_window_view(whole, samples)[: starts[-1] + 1 : starts[1]]
        else:
            audio = np.stack([np.resize(whole[s : s + samples], samples) for s in starts])  # np.resize repeats a short track
    else:
        step = stride * samples
        chosen = [min(round(s / step), len(kept) - 1) for s in starts]
        starts = [i * step for i in chosen]
        audio = np.stack([kept[i] for i in chosen])
    return AudioWindows(audio, np.array(starts) / rate_hz, length / rate_hz)


_DECODERS = "mp3:mp3float aac:aac alac:alac flac:flac vorbis:vorbis opus:opus wma:wmav2 ape:ape wavpack:wavpack tta:tta aiff:pcm_s16be"
DECODERS = dict(pair.split(":") for pair in f"{_DECODERS} wav:pcm_s16le dsd:dsd_lsbf".split())
"""Format -> FFmpeg's decoder."""


def formats() -> dict[str, bool]:
    """Music format -> whether this installation decodes it. Nothing is decoded to find out."""
    import av

    return {name: decoder in av.codecs_available for name, decoder in DECODERS.items()}
