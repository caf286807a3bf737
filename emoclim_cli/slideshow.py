"""A cue sheet to a video: H.264 and AAC in MP4.

Picture and sound go into the file in step, as they are made: the memory it takes does not depend on how long the show is.
The same sheet gives the same bytes on the same machine.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emoclim_cli import frames, mixing
from emoclim_cli.cues import CueSheet
from emoclim_cli.errors import MediaError, UnreadableMedia, UsageError
from emoclim_cli.media import printable
from emoclim_cli.outputs import replacing
from emoclim_cli.photos import check_photo

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer

SMALLEST, LARGEST = 64, 7680
VIDEO_ENCODER: Final = "libx264"
AUDIO_ENCODER: Final = "aac"
H264 = {"preset": "veryfast", "crf": "21", "profile": "high", "x264-params": "subme=1:partitions=none:b-adapt=0"}
"""For slow zooms and crossfades: as small and as good as the preset alone, in 60 % of its time."""

AAC_BIT_RATE = 192_000
MOST_THREADS = 12
"""Of the encoder. Each holds a few frames."""

BT709 = 1
"""FFmpeg's number for primaries, transfer and matrix alike."""
LIMITED = 1
"""FFmpeg's number for the range 16..235."""


def render(
    sheet: CueSheet,
    file: str,
    *,
    size: tuple[int, int] = (1920, 1080),
    fps: int = 30,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Writes the video, whole or not at all: `frames.frame_count` frames of `size` (width, height), and the sheet's music, if it has any.

    `progress(done, total)` counts frames; before the first all of the music is measured. Raises UsageError for a size that cannot be, and
    as `outputs.replacing` does; UnreadableMedia, with the path, for a photo or a track that cannot be used: before anything is rendered,
    unless it is damaged further on; MediaError where the disk refuses.
    """
    import av

    check_size(size)
    _check_photos(sheet)
    with replacing(file) as temporary:
        try:
            # Without `file:` a name like `concat:x` would be taken for a protocol.
            container = av.open("file:" + temporary, "w", format="mp4", options={"movflags": "+faststart"})
            try:
                _fill(container, sheet, size, fps, progress)
                container.close()
            finally:
                with suppress(av.error.FFmpegError):  # after another error: what it has to say of the end of the file is no news
                    container.close()
        except av.error.FFmpegError as error:
            reason = os.strerror(error.errno) if error.errno in errno.errorcode else str(error)
            raise MediaError(f"cannot write {printable(file)}: {reason}") from error


def encoders() -> dict[str, bool]:
    """FFmpeg's encoder -> whether this installation has it."""
    import av

    return {name: name in av.codecs_available for name in (VIDEO_ENCODER, AUDIO_ENCODER)}


def check_size(size: tuple[int, int]) -> None:
    """Raises UsageError for a (width, height) that a video cannot have."""
    if any(side % 2 or not SMALLEST <= side <= LARGEST for side in size):
        raise UsageError(f"{size[0]}x{size[1]}: no size for a video", f"even numbers from {SMALLEST} to {LARGEST}: 1920x1080")


def _check_photos(sheet: CueSheet) -> None:
    for path in dict.fromkeys(photo.path for photo in sheet.photos):
        try:
            check_photo(path)
        except UnreadableMedia as error:
            hint = error.hint or "put it back, or take it out of the cue sheet"
            raise type(error)(f"{printable(path)}: {error.message}", hint) from error


def _fill(container: OutputContainer, sheet: CueSheet, size: tuple[int, int], fps: int, progress: Callable[[int, int], None]) -> None:
    video = container.add_stream(VIDEO_ENCODER, rate=fps, options=H264)
    video.width, video.height, video.pix_fmt = *size, "yuv420p"
    context = video.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED
    context.thread_count = min(3 * (os.cpu_count() or 1) // 2, MOST_THREADS)  # x264's own choice; more threads, other bytes
    count = frames.frame_count(sheet.photos, fps)
    sound = _sound(container, sheet, count / fps) if sheet.tracks else iter(())
    with closing(frames.frames(sheet.photos, size, fps)) as pictures:
        heard_s = 0.0  # how far the sound is
        for number, picture in enumerate(pictures):
            while heard_s <= number / fps and (step := next(sound, None)):
                heard_s, packets = step
                container.mux(packets)
            container.mux(video.encode(_video_frame(picture, number, fps)))
            progress(number + 1, count)
    container.mux(video.encode(None))
    for _, packets in sound:
        container.mux(packets)


def _video_frame(picture: np.ndarray, number: int, fps: int) -> av.VideoFrame:
    import av

    frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, fps)
    frame.color_primaries = frame.color_trc = frame.colorspace = BT709
    frame.color_range = LIMITED
    return frame


def _sound(container: OutputContainer, sheet: CueSheet, duration_s: float) -> Iterator[tuple[float, list[Any]]]:
    """The music in packets, each time with the end of what went into the encoder."""
    stream = container.add_stream(AUDIO_ENCODER, rate=mixing.RATE_HZ, layout="stereo")
    stream.bit_rate = AAC_BIT_RATE
    return _encoded(stream, sheet, duration_s)


def _encoded(stream: av.AudioStream, sheet: CueSheet, duration_s: float) -> Iterator[tuple[float, list[Any]]]:
    import av

    done = 0
    for block in mixing.levelled(sheet.tracks, duration_s):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = mixing.RATE_HZ, done, Fraction(1, mixing.RATE_HZ)
        done += block.shape[1]
        yield done / mixing.RATE_HZ, stream.encode(frame)
    yield duration_s, stream.encode(None)
