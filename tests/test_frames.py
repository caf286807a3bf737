"""Photos as the frames of a video."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from media_makers import make_photo, picture
from PIL import Image, ImageFilter

from emoclim_cli import frames
from emoclim_cli.cues import PhotoCue
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.frames import Look, frame_count, plans

SIZE = (320, 180)
RED, GREEN, BLUE = (200, 30, 40), (20, 180, 60), (30, 50, 190)


def show(paths: Sequence[Path | str], seconds: float = 1.0, fade_s: float = 0.4) -> list[PhotoCue]:
    return [PhotoCue(str(path), i * seconds, (i + 1) * seconds, fade_s, 1, "") for i, path in enumerate(paths)]


def solid(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = SIZE) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def all_frames(photos: Sequence[PhotoCue], size: tuple[int, int] = SIZE, fps: int = 10) -> np.ndarray:
    return np.stack(list(frames.frames(photos, size, fps)))


def planes(frame: np.ndarray, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width, height = size
    data = frame.tobytes()
    cut = (width * height, width * height * 5 // 4)
    luma, blue, red = (np.frombuffer(part, np.uint8) for part in (data[: cut[0]], data[cut[0] : cut[1]], data[cut[1] :]))
    return luma.reshape(height, width), blue.reshape(height // 2, -1), red.reshape(height // 2, -1)


def rgb(frame: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(height, width, 3): BT.709 of the limited range, undone by the book (ITU-R BT.709-6, 3.2 to 3.4)."""
    luma, blue, red = (plane.astype(float) for plane in planes(frame, size))
    y, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    cb, cr = (plane.repeat(2, 0).repeat(2, 1) for plane in (cb, cr))
    r, b = y + 1.5748 * cr, y + 1.8556 * cb
    return np.stack([r, (y - 0.2126 * r - 0.0722 * b) / 0.7152, b], axis=-1) * 255


def lit(number: int, photos: Sequence[PhotoCue], fps: int = 10) -> frames.Plan:
    return list(plans(photos, fps))[number]


# --- what is seen when -------------------------------------------------------------------------------------------------------------------


def random_show(seed: int) -> list[PhotoCue]:
    rng = np.random.default_rng(seed)
    edges = np.concatenate([[0.0], np.cumsum(rng.uniform(0.05, 2.0, 8))])
    return [PhotoCue("a.jpg", b, e, float(rng.choice([0.0, 0.3, 1.0, 5.0])), 1, "") for b, e in itertools.pairwise(edges.tolist())]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fps", [7, 30])
def test_the_photo_of_the_sheet_is_foremost(seed: int, fps: int) -> None:
    photos = random_show(seed)
    planned = list(plans(photos, fps))
    assert len(planned) == frame_count(photos, fps) == round(photos[-1].end_s * fps)
    for number, plan in enumerate(planned):
        at_s = (number + 0.5) / fps
        foremost = max(plan.views, key=lambda view: view.weight)
        truth = next((i for i, photo in enumerate(photos) if photo.start_s <= at_s < photo.end_s), len(photos) - 1)
        assert foremost.photo == truth or foremost.weight == pytest.approx(0.5)
        assert sum(view.weight for view in plan.views) == pytest.approx(1.0)
        assert [view.photo for view in plan.views] in ([truth], [truth, truth + 1], [truth - 1, truth])
        assert all(0.0 <= view.weight <= 1.0 for view in plan.views)
        assert all(1.0 <= view.zoom <= 1.0 + frames.ZOOM for view in plan.views)


@pytest.mark.parametrize("seed", range(4))
def test_zooms_go_on_through_crossfades_one_way_in_and_the_next_out(seed: int) -> None:
    seen: dict[int, list[Look]] = {}
    for plan in plans(random_show(seed), 60):
        for view in plan.views:
            seen.setdefault(view.photo, []).append(view)
    for photo, views in seen.items():
        steps = np.diff(np.log([view.zoom for view in views])) * (-1) ** photo
        assert (steps > 0).all()
        assert np.ptp(steps) < 1e-9  # steady


def test_a_photo_that_is_seen_for_long_zooms_further_but_not_on_and_on() -> None:
    assert lit(0, show("a", 60.0)).views[0].zoom == pytest.approx(1.0, abs=1e-3)
    assert lit(599, show("a", 60.0)).views[0].zoom == pytest.approx(1.0 + frames.ZOOM, abs=1e-3)
    assert lit(9, show("a", 1.0)).views[0].zoom == pytest.approx(1.0 + 0.95 * frames.ZOOM_PER_S, abs=1e-3)


def test_the_middle_of_a_crossfade_is_where_the_photo_starts() -> None:
    planned = list(plans(show("ab", 2.0, 1.0), 10))  # at_s 1.5 .. 2.5: frames 15 .. 24
    assert [len(plan.views) for plan in planned] == [1] * 15 + [2] * 10 + [1] * 15
    weights = [plan.views[1].weight for plan in planned[15:25]]
    assert weights == sorted(weights)
    assert np.array(weights) + weights[::-1] == pytest.approx(1.0)


def test_a_cut_has_no_crossfade_and_the_first_fade_counts_for_nothing() -> None:
    assert all(len(plan.views) == 1 for plan in plans(show("abc", 0.7, 0.0), 30))
    assert [view.photo for plan in plans(show("a", 1.0, 9.0), 30) for view in plan.views] == [0] * 30


def test_from_black_and_to_black() -> None:
    light = [plan.light for plan in plans(show("abc", 1.0), 30)]
    assert light[0] == light[-1] == 0.0
    assert light[15:60] == [1.0] * 45
    assert light[:16] == sorted(light[:16]) and light[59:] == sorted(light[59:], reverse=True)
    assert max(plan.light for plan in plans(show("a", 0.2), 30)) == 1.0


# --- what it looks like ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, (0, 0, 0), (255, 255, 255)])
def test_colours(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    made = all_frames(show([solid(tmp_path / "a.png", colour)], 1.6))
    for number in (5, 6):
        assert np.abs(rgb(made[number]) - colour).max() < 3.0
    assert [np.unique(plane).tolist() for plane in planes(made[0])] == [[16], [128], [128]]
    assert np.array_equal(made[0], made[-1])


def test_photos_in_their_order(tmp_path: Path) -> None:
    photos = show([solid(tmp_path / f"{i}.png", colour) for i, colour in enumerate((RED, GREEN, BLUE))], 2.0, 1.0)
    made = all_frames(photos)
    for number, colour in ((10, RED), (28, GREEN), (45, BLUE)):
        assert np.abs(rgb(made[number]) - colour).max() < 3.0
    halves = (rgb(made[19]) + rgb(made[20])) / 2
    assert np.abs(halves - (np.array(RED) + GREEN) / 2).max() < 3.0


def middle_frame(path: Path, size: tuple[int, int] = SIZE) -> np.ndarray:
    """RGB of a photo at zoom 1 (all but)."""
    return rgb(all_frames([PhotoCue(str(path), 0.0, 0.1, 0.0, 1, "")], size, 30)[1], size)


@pytest.mark.parametrize("size", [(90, 160), (160, 120), (900, 200), (1600, 1200), (40, 2000)])
def test_borders_are_the_photo_blurred(tmp_path: Path, size: tuple[int, int]) -> None:
    """Left half of the photo red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    image.save(tmp_path / "a.png")
    seen = middle_frame(tmp_path / "a.png")
    fit = min(SIZE[0] / size[0], SIZE[1] / size[1], frames.ENLARGED / (1 + frames.ZOOM))
    width, height = size[0] * fit, size[1] * fit
    margin_x, margin_y = round((SIZE[0] - width) / 2), round((SIZE[1] - height) / 2)
    inside = seen[margin_y + 3 : SIZE[1] - margin_y - 3, margin_x + 3 : SIZE[0] // 2 - 6]
    if inside.size:  # the narrow one is four pixels
        assert np.abs(inside - RED).max() < 12
    if margin_x > 12:
        assert np.abs(seen[:, :4] - np.array(RED) * frames.BORDER_LIGHT).max() < 4
        assert np.abs(seen[:, -4:] - np.array(BLUE) * frames.BORDER_LIGHT).max() < 4
    if margin_y > 12:
        assert np.abs(seen[:4, :100] - np.array(RED) * frames.BORDER_LIGHT).max() < 4
        row = seen[2, :, 0]
        assert np.abs(np.diff(row)).max() < 20  # 100 at the edge in the photo


def test_a_photo_that_nearly_fits_has_no_border(tmp_path: Path) -> None:
    for name, size in {"narrow": (314, 180), "low": (320, 178), "large": (1600, 905)}.items():
        seen = middle_frame(solid(tmp_path / f"{name}.png", GREEN, size))
        assert np.abs(seen - GREEN).max() < 4, name


def test_a_small_photo_is_enlarged_but_not_without_end(tmp_path: Path) -> None:
    def shown_width(width: int) -> int:
        seen = middle_frame(solid(tmp_path / "a.png", GREEN, (width, width * 9 // 16)), (640, 360))
        return int((np.abs(seen[180, :, 1] - GREEN[1]) < 8).sum())

    assert shown_width(640) == shown_width(320) == 640
    assert shown_width(64) == pytest.approx(64 * frames.ENLARGED / (1 + frames.ZOOM), abs=3)


def test_the_whole_photo_upright_and_where_it_belongs(tmp_path: Path) -> None:
    """Against Pillow: the photo in the middle of the frame, its colours in their places."""
    stored = picture((360, 480))
    for orientation, turn in ((1, None), (6, Image.Transpose.ROTATE_270), (3, Image.Transpose.ROTATE_180)):
        turned = stored if turn is None else stored.transpose(turn)
        make_photo(tmp_path / "a.png", stored, orientation=orientation)
        seen = middle_frame(tmp_path / "a.png")
        fit = min(SIZE[0] / turned.width, SIZE[1] / turned.height)
        width, height = round(turned.width * fit), round(turned.height * fit)
        expected = np.asarray(turned.resize((width, height), Image.Resampling.LANCZOS), dtype=float)
        left, top = (SIZE[0] - width) // 2, (SIZE[1] - height) // 2
        found = seen[top : top + height, left : left + width]
        difference = np.abs(found - expected)[4:-4, 4:-4]
        assert difference.mean() < 2.5 and difference.max() < 16, orientation


# --- how it moves ------------------------------------------------------------------------------------------------------------------------


def test_zoom_is_smooth_to_a_fraction_of_a_pixel(tmp_path: Path) -> None:
    """A spot goes out from the middle as the zoom does, and its colour with it."""
    spot = np.zeros((900, 1600, 3), dtype=np.float64)
    y, x = np.mgrid[:900, :1600]
    spot[..., 0] = 255 * np.exp(-((x - 1300.0) ** 2 + (y - 150.0) ** 2) / (2 * 30.0**2))
    spot[..., 2] = spot[..., 0]
    Image.fromarray(spot.round().astype(np.uint8)).save(tmp_path / "a.png")
    photos = show([tmp_path / "a.png"], 6.0)
    made = all_frames(photos)[6:48]
    zooms = np.array([plan.views[0].zoom for plan in plans(photos, 10)])[6:48]

    def centre(plane: np.ndarray, black: int) -> tuple[float, float]:
        weight = np.maximum(np.abs(plane.astype(float) - black) - 3, 0)
        rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]]
        return float((weight * columns).sum() / weight.sum()), float((weight * rows).sum() / weight.sum())

    where = np.array([centre(planes(frame)[0], 16) for frame in made]) + 0.5
    wide, high = 340 / 1600 / 1.06, 191 / 900 / 1.06  # laid out in whole pixels, six per cent larger
    expected = np.stack([160 + zooms * (1300.5 - 800) * wide, 90 + zooms * (150.5 - 450) * high], axis=-1)
    assert np.abs(where - expected).max() < 0.08
    assert (np.diff(where[:, 0]) > 0).all()
    # Sited as in MPEG-2: on the left of the two columns, between the two rows.
    colour = np.array([centre(planes(frame)[2], 128) for frame in made]) * 2 + (0.5, 1.0)
    assert np.abs(colour - expected).max() < 0.15


def test_zoom_does_not_change_how_sharp_a_photo_is(tmp_path: Path) -> None:
    """With linear interpolation of a plane without spare pixels detail would come and go as it moves by fractions of a pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (382, 680), dtype=np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(0.8)).save(tmp_path / "a.png")
    made = all_frames(show([tmp_path / "a.png"], 6.0), (640, 360))[6:48]
    detail = np.array([np.diff(planes(frame, (640, 360))[0][:, 300:340].astype(float), axis=0).std() for frame in made])
    assert detail.std() / detail.mean() < 0.06


def test_a_still_photo_does_not_flicker(tmp_path: Path) -> None:
    made = all_frames(show([solid(tmp_path / "a.png", GREEN)] * 3, 1.0))[6:20]
    assert (made == made[0]).all()


def test_the_same_photos_give_the_same_frames(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        make_photo(tmp_path / name, picture((500, 400), seed=ord(name[0])), quality=90)
    photos = show([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    assert np.array_equal(all_frames(photos), all_frames(photos))


@pytest.mark.parametrize("size", [(64, 64), (66, 90), (90, 66), (318, 182), (182, 318)])
def test_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    make_photo(tmp_path / "a.png", picture((400, 300)))
    made = all_frames(show([tmp_path / "a.png"], 0.3), size, 30)
    assert made.shape == (9, size[1] * 3 // 2, size[0])
    assert np.ptp(planes(made[4], size)[0]) > 40


# --- photos that cannot be read, and what is left behind ---------------------------------------------------------------------------------


def test_a_photo_that_breaks_is_named(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.png")
    make_photo(tmp_path / "b.jpg", picture((300, 300)))
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:2000])
    made = frames.frames(show([tmp_path / "a.png", tmp_path / "b.jpg"]), SIZE, 10)
    assert len([next(made) for _ in range(8)]) == 8  # up to the crossfade
    with pytest.raises(UnreadableMedia) as caught:
        next(made)
    assert caught.value.message == f"{tmp_path / 'b.jpg'}: is truncated"


def test_closing_ends_the_threads(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.png")
    before = set(threading.enumerate())
    with closing(frames.frames(show([tmp_path / "a.png"] * 50), SIZE, 10)) as made:
        next(made)
        assert set(threading.enumerate()) != before
    assert set(threading.enumerate()) == before


def test_few_photos_are_kept(tmp_path: Path) -> None:
    """In a process of its own: frames of 40 photos take hardly more memory than of 6."""
    for i in range(40):
        make_photo(tmp_path / f"{i:02}.png", picture((300, 200), seed=i + 1))
    script = """
import resource, sys
from emoclim_cli import frames
from emoclim_cli.cues import PhotoCue
for count in (6, 40):
    photos = [PhotoCue(f"{sys.argv[1]}/{i:02}.png", i / 5, (i + 1) / 5, 0.1, 1, "") for i in range(count)]
    for _ in frames.frames(photos, (1280, 720), 10):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True, text=True)
    few, many = map(int, done.stdout.split())
    assert many - few < 40_000 * (1024 if sys.platform == "darwin" else 1)  # one photo is laid out in 6 MB
