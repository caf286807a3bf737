"""What a show looks like: its photos to the frames of a video.

A photo is seen whole, before a blurred and darkened copy of itself where its shape is not that of the video, and slowly comes nearer or
goes away. One fades into the next; the first comes from black and the last goes there. The same photos give the same frames.

What is done for each frame is little: a photo is laid out once, somewhat larger than the video, as planes of luma and colour, and a frame
is taken from these by one affine map with linear interpolation. That is as sharp as bicubic interpolation, at any zoom, because the luma
plane has twice the pixels that there is detail for.

A frame is (3/2 height, width) uint8: the planes of yuv420p one after the other, BT.709, 16..235, colour sited as in MPEG-2.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from emoclim_cli.cues import PhotoCue
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.media import printable
from emoclim_cli.photos import read_picture

ZOOM = 0.06
"""How much nearer a photo comes at the most: what it loses at its edges on the way is hardly missed."""

ZOOM_PER_S = 0.0125
"""Of a photo that is seen for a short time it is less."""

ENLARGED = 3.0
"""How many times a small photo is enlarged at the most; beyond, it is less ugly with a wider border."""

CROPPED = 1.03
"""A photo that fills the video when it is enlarged by this fills it: a border of a few pixels would look like a mistake."""

BORDER_LIGHT = 0.6
"""How bright the blurred copy is, so that the photo stands out before it."""

BLUR = 0.02
"""Standard deviation of its blur, in widths of the video."""

FINE = 2
"""Pixels of the luma plane per pixel of the layout, on each side."""

FROM_BLACK_S = 0.5
TO_BLACK_S = 1.0
AHEAD = 4
"""Frames that are made while the encoder works on the ones before."""

BLACK = (16, 128, 128)

# RGB 0..255 to luma 16..235 and colour 16..240, ITU-R BT.709 (Kr = 0.2126, Kb = 0.0722).
TO_YUV = np.array(
    [
        [0.2126 * 219 / 255, 0.7152 * 219 / 255, 0.0722 * 219 / 255, 16],
        [-0.2126 / 1.8556 * 224 / 255, -0.7152 / 1.8556 * 224 / 255, 0.9278 / 1.8556 * 224 / 255, 128],
        [0.7874 / 1.5748 * 224 / 255, -0.7152 / 1.5748 * 224 / 255, -0.0722 / 1.5748 * 224 / 255, 128],
    ]
)


@dataclass(frozen=True, slots=True)
class Look:
    """One of the photos that are seen in a frame."""

    photo: int
    zoom: float
    """From 1, where all of the layout is seen, to 1 + ZOOM."""
    weight: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What is seen in a frame."""

    views: tuple[Look, ...]
    """One, or two while one photo fades into the next; their weights add up to 1."""
    light: float
    """0: black."""


def frame_count(photos: Sequence[PhotoCue], fps: int) -> int:
    """At least one, though the show may be shorter than that."""
    return max(1, round(photos[-1].end_s * fps))


def plans(photos: Sequence[PhotoCue], fps: int) -> Iterator[Plan]:
    """What is seen in each of the frames. A frame stands for the middle of its time.

    A crossfade is no longer than either of its photos, so that never more than two are seen at once.
    """
    count = frame_count(photos, fps)
    lengths = [photo.end_s - photo.start_s for photo in photos]
    fades = [0.0, *(min(photo.fade_s, *both) for photo, both in zip(photos[1:], pairwise(lengths), strict=True)), 0.0]
    starts = [photo.start_s for photo in photos]
    seen = [(photo.start_s - fades[i] / 2, photo.end_s + fades[i + 1] / 2) for i, photo in enumerate(photos)]

    def view(i: int, at_s: float, weight: float) -> Look:
        begin, end = seen[i]
        part = min(max((at_s - begin) / (end - begin), 0.0), 1.0)
        most = min(ZOOM, ZOOM_PER_S * (end - begin))
        return Look(i, (1.0 + most) ** (1.0 - part if i % 2 else part), weight)  # as many per cent in each second

    from_black, to_black = (min(fade_s * fps, count / 4) for fade_s in (FROM_BLACK_S, TO_BLACK_S))
    for number in range(count):
        at_s = (number + 0.5) / fps
        i = max(bisect_right(starts, at_s) - 1, 0)
        other, since_s, fade_s = i, 0.0, 0.0
        if at_s < starts[i] + fades[i] / 2:
            other, since_s, fade_s = i - 1, at_s - starts[i], fades[i]
        elif i + 1 < len(photos) and at_s > starts[i + 1] - fades[i + 1] / 2:
            other, since_s, fade_s = i + 1, starts[i + 1] - at_s, fades[i + 1]
        weight = _eased(0.5 + since_s / fade_s) if other != i else 1.0
        views = [view(i, at_s, weight)] + ([view(other, at_s, 1.0 - weight)] if other != i else [])
        light = min(1.0, number / from_black, (count - 1 - number) / to_black)
        yield Plan(tuple(sorted(views, key=lambda view: view.photo)), light)


def _eased(part: float) -> float:
    """0..1 to 0..1, gently at both ends."""
    return part * part * (3.0 - 2.0 * part)


def frames(photos: Sequence[PhotoCue], size: tuple[int, int], fps: int) -> Generator[np.ndarray]:
    """All frames of the show. `size` is (width, height), even numbers.

    Frames are made ahead on one thread and photos on another, while the caller does something with the frames before. Raises
    UnreadableMedia, with the path, when it comes to a photo that cannot be decoded. Close it, if it is not read to its end.
    """
    decoder = ThreadPoolExecutor(1, "photos")
    maker = ThreadPoolExecutor(1, "frames")
    try:
        layouts: dict[int, Future[_Layout]] = {}
        waiting: deque[Future[np.ndarray]] = deque()
        for plan in plans(photos, fps):
            first, last = plan.views[0].photo, plan.views[-1].photo
            for i in range(first, min(last + 2, len(photos))):
                if i not in layouts:
                    layouts[i] = decoder.submit(_layout, photos[i].path, size)
            for i in [i for i in layouts if i < first]:
                del layouts[i]
            waiting.append(maker.submit(_frame, plan, [layouts[view.photo] for view in plan.views], size))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for pool in (maker, decoder):
            pool.shutdown(wait=False, cancel_futures=True)
        with suppress(KeyboardInterrupt):  # a second Ctrl-C does not wait
            maker.shutdown()
            decoder.shutdown()


# --- a photo -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """A photo before its border, as it is seen at zoom 1, larger than the video by ZOOM."""

    luma: np.ndarray
    """(FINE height, FINE width)."""
    blue: np.ndarray
    red: np.ndarray
    """(height, width)."""


def _layout(path: str, size: tuple[int, int]) -> _Layout:
    import cv2

    cv2.setNumThreads(1)  # there are as many threads as cores already
    width, height = (math.ceil(side * (1.0 + ZOOM)) for side in size)
    try:
        picture = read_picture(path, (width, height))
    except UnreadableMedia as error:
        raise type(error)(f"{printable(path)}: {error.message}", error.hint) from error
    fit, fill = sorted((width / picture.shape[1], height / picture.shape[0]))
    scale = min(fill if fill <= CROPPED * fit else fit, ENLARGED)
    shown = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    photo = picture if shown == picture.shape[1::-1] else cv2.resize(picture, shown, interpolation=cv2.INTER_CUBIC)
    photo = _centre(photo, (width, height))
    if photo.shape[:2] == (height, width):
        canvas = photo
    else:
        canvas = _border(picture, (width, height))
        top, left = (height - photo.shape[0]) // 2, (width - photo.shape[1]) // 2
        canvas[top : top + photo.shape[0], left : left + photo.shape[1]] = photo
    luma, blue, red = cv2.split(cv2.transform(canvas, TO_YUV))
    fine = cv2.resize(luma, (FINE * width, FINE * height), interpolation=cv2.INTER_CUBIC)
    # The video has one colour for four pixels: without this, fine patterns of colour would flicker.
    return _Layout(fine, cv2.GaussianBlur(blue, (3, 3), 0), cv2.GaussianBlur(red, (3, 3), 0))


def _border(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3): the middle of the picture, blurred and darkened. `size` is (width, height)."""
    import cv2

    width, height = size
    scale = min(picture.shape[1] / width, picture.shape[0] / height)
    middle = _centre(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
    # Blurred at an eighth of the size, where nothing of it is lost.
    small = cv2.resize(middle, (math.ceil(width / 8), math.ceil(height / 8)), interpolation=cv2.INTER_AREA).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), BLUR * width / 8) * BORDER_LIGHT
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC).round().clip(0, 255).astype(np.uint8))


def _centre(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As much of the middle as `size` (width, height) holds."""
    top, left = max(0, picture.shape[0] - size[1]) // 2, max(0, picture.shape[1] - size[0]) // 2
    return picture[top : top + size[1], left : left + size[0]]


# --- a frame -----------------------------------------------------------------------------------------------------------------------------


def _frame(plan: Plan, layouts: Sequence[Future[_Layout]], size: tuple[int, int]) -> np.ndarray:
    import cv2

    views = [_seen(layout.result(), view.zoom, size) for layout, view in zip(layouts, plan.views, strict=True)]
    frame = views[0] if len(views) == 1 else cv2.addWeighted(views[0], plan.views[0].weight, views[1], plan.views[1].weight, 0.0)
    if plan.light < 1.0:
        for plane, black in zip(_planes(frame, size), BLACK, strict=True):
            cv2.convertScaleAbs(plane, plane, plan.light, black * (1.0 - plan.light))
    return np.asarray(frame)


def _seen(layout: _Layout, zoom: float, size: tuple[int, int]) -> np.ndarray:
    """The frame that shows a layout alone."""
    import cv2

    frame = np.empty((size[1] * 3 // 2, size[0]), dtype=np.uint8)
    step = (1.0 + ZOOM) / zoom  # pixels of the layout from one pixel of the frame to the next
    height, width = layout.blue.shape
    # Where the middle of the first pixel of the frame, and of its colour (between two rows, on the left column), lies in the layout.
    left, top = (width - size[0] * step) / 2, (height - size[1] * step) / 2
    luma = (FINE * step, FINE * (left + 0.5 * step) - 0.5, FINE * (top + 0.5 * step) - 0.5)
    colour = (2.0 * step, left + 0.5 * step - 0.5, top + step - 0.5)
    sources = ((layout.luma, luma), (layout.blue, colour), (layout.red, colour))
    for plane, (source, (scale, x, y)) in zip(_planes(frame, size), sources, strict=True):
        map_ = np.array([[scale, 0.0, x], [0.0, scale, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(source, map_, plane.shape[::-1], dst=plane, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return frame


def _planes(frame: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Views of a frame: luma, blue, red."""
    width, height = size
    flat = frame.reshape(-1)
    luma, blue, red = np.split(flat, (width * height, width * height * 5 // 4))
    return [luma.reshape(height, width), blue.reshape(height // 2, width // 2), red.reshape(height // 2, width // 2)]
