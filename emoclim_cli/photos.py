"""The only place that decodes photos: whatever a file holds, to RGB. A square for the networks, the whole photo for the eye.

`read_photo` and `read_picture` return an array or raise `UnreadableMedia` with the reason (without the path). They may be called from
several threads at once, and each call keeps to one core.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from emoclim_cli.errors import MissingDecoder, UnreadableMedia
from emoclim_cli.media import RAW_SUFFIXES, check_file, printable, suffix_of

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 250_000_000
"""Above what cameras make (200 megapixels in 2024); a file that claims more would take gigabytes to decode."""

MAX_SCANS = 500
"""Of a progressive JPEG; encoders write about ten. Each is a pass over all of the photo, and an empty one takes 14 bytes of the file."""
MAX_PNG_TEXT_BYTES = 16 << 20
"""Of a colour profile or a text in a PNG, unpacked. Pillow's own limit, 1 MB, refuses photos with a large profile or the workflow that
generated them."""
STRIP_PIXELS = 1 << 22
"""Of a photo in grey levels of more than eight bits, converted at once."""

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
SIDEWAYS = (5, 6, 7, 8)
"""Orientations in which the stored rows are the upright photo's columns."""
ORIENTATION_TAG, TILE_WIDTH_TAG, TILE_LENGTH_TAG = 0x0112, 0x0142, 0x0143
ORIENTATION_OF_FLIP = {3: 3, 5: 8, 6: 6}
"""LibRaw's flip -> EXIF orientation."""


def read_photo(path: str, side: int) -> np.ndarray:
    """The upright photo as (side, side, 3) uint8 RGB: its shorter side scaled to `side` (bicubic), the centre of the longer one.

    Transparency shows white; of an animation the first frame counts. Raises UnreadableMedia, and of it MissingDecoder for HEIC and camera
    RAW where the extra is not installed.
    """
    with _reading(path):
        return _square(_open_photo(path, side), side)


def read_picture(path: str, box: tuple[int, int]) -> np.ndarray:
    """The whole upright photo as (height, width, 3) uint8 RGB, scaled so that it fits into `box` (width, height), but never enlarged.

    Scaled with Lanczos' filter. Otherwise as `read_photo`, which raises the same errors.
    """
    with _reading(path):
        # The shorter side of what fits is never longer than that of the box: a JPEG that is decoded small is still large enough.
        return _fitted(_open_photo(path, min(box)), box)


def check_photo(path: str) -> None:
    """Raises what reading it would where the file is missing, is no photo, is too large or needs an extra; takes about a millisecond.

    Its pixels are not decoded: a photo that is damaged further on passes.
    """
    with _reading(path):
        _open_photo(path, None)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What reading a photo may raise, as UnreadableMedia with the reason."""
    check_file(path)
    _hush_pillow()
    try:
        yield
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
    said = error.args[0] if error.args else ""
    reason = said.decode(errors="replace") if isinstance(said, bytes) else str(error)  # LibRaw's words are bytes, libheif's several lines
    reason = " ".join(printable(reason.replace("\n", " ")).split())
    if "Decompressed data too large" in reason:
        return f"has a text or a profile of more than {MAX_PNG_TEXT_BYTES >> 20} MB"
    if "truncated" in reason.lower() or "decoder object" in reason:  # the second is WebP's
        return "is truncated"
    return f"is damaged ({reason or type(error).__name__})"


@dataclass(frozen=True, slots=True)
class _Photo:
    image: Image.Image
    """As stored; decoded, unless it was only opened."""
    extent: tuple[float, float]
    """Width and height in pixels of `image`; not whole where the last column or row of a JPEG decoded at 1/8 is only partly photo."""
    orientation: int
    """As in EXIF."""


def _open_photo(path: str, side: int | None) -> _Photo:
    """A JPEG may be decoded small, with neither side below `side`. None: what can be is left undecoded."""
    with open(path, "rb") as file:
        head = file.read(64)
        file.seek(0)
        if suffix_of(path) in RAW_SUFFIXES or _is_raw(head):
            return _load_raw(file, side)
        if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head:
            return _load_heic(file, side)
        return _load_pillow(file, side)


def _is_raw(head: bytes) -> bool:
    return head.startswith((b"IIRO", b"IIU\0", b"FUJIFILMCCD-RAW", b"II*\0\x10\0\0\0CR")) or head[4:12] == b"ftypcrx "


def _load_pillow(file: Any, side: int | None) -> _Photo:
    image = _pillow().open(file, formats=PHOTO_FORMATS)
    if image.format == "TIFF" and _tile_pixels(image) > MAX_PIXELS:
        raise _pillow().DecompressionBombError
    if side is None:
        return _Photo(image, image.size, 1)
    if image.info.get("progressive"):
        _check_scans(file)
    drafted = image.draft(None, (side, side))  # a JPEG decodes at 1/2, 1/4 or 1/8, with neither side below `side`
    image.load()
    return _Photo(image, drafted[1][2:] if drafted else image.size, _orientation(image))


def _tile_pixels(image: Image.Image) -> int:
    """A TIFF may say that its only tile is far larger than itself, and the decoder makes room for it."""
    tags: Any = getattr(image, "tag_v2", {})
    return int(tags.get(TILE_WIDTH_TAG, 0) or 0) * int(tags.get(TILE_LENGTH_TAG, 0) or 0)


def _check_scans(file: Any) -> None:
    place = file.tell()
    file.seek(0)
    scans = _scans(file.read())
    file.seek(place)
    if scans > MAX_SCANS:
        raise UnreadableMedia(f"has more than {MAX_SCANS} scans, as no photo has")


def _scans(jpeg: bytes) -> int:
    """How many there are, counted to one more than MAX_SCANS. Not those of a preview inside of a segment, or of what follows the end."""
    at, scans = 2, 0
    while (at := jpeg.find(b"\xff", at)) >= 0 and at + 4 <= len(jpeg) and scans <= MAX_SCANS:
        marker = jpeg[at + 1]
        if marker == 0xD9:  # the end
            break
        if marker == 0xFF:  # a byte that fills up
            at += 1
        elif marker == 0 or 0xD0 <= marker <= 0xD7:  # in the data of a scan no others follow 0xFF
            at += 2
        else:
            scans += marker == 0xDA
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return scans


def _load_heic(file: Any, side: int | None) -> _Photo:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MissingDecoder("is HEIC, which needs the extra `heic`", hint="pip install 'emoclim[heic]'") from error
    opener: Any = HeifImageFile
    image = opener(file)
    if image.width * image.height > MAX_PIXELS:
        raise _pillow().DecompressionBombError
    if side is None:
        return _Photo(image, image.size, 1)
    image.load()
    return _Photo(image, image.size, _orientation(image))


def _load_raw(file: Any, side: int | None) -> _Photo:
    """The preview that the camera put into the file; developing it would take a second."""
    try:
        import rawpy
    except ImportError as error:
        raise MissingDecoder("is camera RAW, which needs the extra `raw`", hint="pip install 'emoclim[raw]'") from error
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
    """PIL.Image with its plugins, and with its limits set: of pixels, it raises above twice the limit, and only warns below."""
    from PIL import Image, PngImagePlugin

    Image.init()  # Image.open(formats=...) must find every plugin, and threads must not be the first to load them
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PNG_TEXT_BYTES
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
    from PIL.Image import Resampling

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
    return _upright_rgb(part.crop((crop[0], crop[1], crop[0] + side, crop[1] + side)), transposition)


def _fitted(photo: _Photo, box: tuple[int, int]) -> np.ndarray:
    from PIL.Image import Resampling

    transposition = ORIENTATIONS.get(photo.orientation, ("", False, False))[0]
    width, height = photo.extent
    if photo.orientation in SIDEWAYS:
        box = (box[1], box[0])
    scale = min(1.0, box[0] / width, box[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    whole = _scalable(photo.image, (0, 0, *photo.image.size))
    # Three times the size is left to the filter: what is averaged before that is not seen.
    return _upright_rgb(whole.resize(size, Resampling.LANCZOS, box=(0.0, 0.0, width, height), reducing_gap=3.0), transposition)


def _upright_rgb(image: Image.Image, transposition: str) -> np.ndarray:
    """An L, RGB or RGBA image on white."""
    from PIL.Image import Transpose

    if image.mode == "RGBA":
        image = _pillow().alpha_composite(_pillow().new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if transposition:
        image = image.transpose(Transpose[transposition])
    return np.array(image, dtype=np.uint8)


def _scalable(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of `image` in `box`, as L, RGB or RGBA."""
    if box != (0, 0, *image.size):
        image = image.crop(box)
    if image.mode.startswith("I") or image.mode == "F":
        return _in_eight_bits(image)
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits, or of floating point, scaled to 0..255: strip by strip, as their arrays take many times the memory."""
    height = max(1, STRIP_PIXELS // image.width)
    boxes = [(0, top, image.width, min(top + height, image.height)) for top in range(0, image.height, height)]
    white = _white(np.asarray(image.crop(box)) for box in boxes)
    grey: Image.Image = _pillow().new("L", image.size)
    for box in boxes:
        grey.paste(_pillow().fromarray(_eight_bits(np.asarray(image.crop(box)), white)), box)
    return grey


def _levels(grey: np.ndarray) -> np.ndarray:
    """float32, not below 0; what is no number, or endless, is black."""
    levels = grey.astype(np.float32)
    with np.errstate(invalid="ignore"):  # of endlessly bright and endlessly dark
        sound = np.isfinite(levels.sum(dtype=np.float64))
    if not sound:
        np.nan_to_num(levels, copy=False, posinf=0.0, neginf=0.0)
    return np.maximum(levels, 0.0, out=levels)


def _white(strips: Iterator[np.ndarray]) -> float:
    """What white is, is not written anywhere but for 16 bits: the least of the usual maxima that holds all levels."""
    brightest, least = 0.0, 255.0
    for grey in strips:
        if grey.dtype.kind == "u" and grey.dtype.itemsize == 2:
            return 65535.0
        brightest = max(brightest, float(_levels(grey).max()))
        least = 1.0 if grey.dtype.kind == "f" else 255.0
    return next((white for white in (least, 255.0, 65535.0) if brightest <= white), brightest)


def _eight_bits(grey: np.ndarray, white: float) -> np.ndarray:
    if grey.dtype.kind == "u" and grey.dtype.itemsize == 2:
        return (grey >> 8).astype(np.uint8)
    levels = _levels(grey)
    levels *= 255.0 / white
    levels += 0.5
    return levels.astype(np.uint8)


def formats() -> dict[str, bool]:
    """Photo format -> whether this installation decodes it. Nothing is decoded to find out."""
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
    }


def thumbnail(path: str, side: int) -> bytes:
    """The whole upright photo as a WebP file, its longer side `side` pixels at most. Raises as `read_photo` does."""
    out = BytesIO()
    _pillow().fromarray(read_picture(path, (side, side))).save(out, "WEBP", quality=60, method=4)
    return out.getvalue()
