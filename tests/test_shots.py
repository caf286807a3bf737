"""The photos of a show: which, in what order, and what is left out. Toy encoder; the order and the listing are real."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from media_makers import make_photo, make_tone
from PIL import Image
from toys import ToyEncoder, toy_encoder

from emoclim_cli import shots
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import UnreadableMedia, UsageError
from emoclim_cli.library import Library
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection
from emoclim_cli.shots import gather

DATE_TIME_ORIGINAL, EXIF_FOLDER = 0x9003, 0x8769


class PixelEncoder(ToyEncoder):
    """Reads real photos: its features are the mean red and green."""

    def load(self, path: str) -> np.ndarray:
        from emoclim_cli.photos import read_photo

        self.loaded.append(path)
        return read_photo(path, 32).reshape(-1, 3).mean(axis=0, keepdims=True)[:, :2] / 255


def space() -> EmotionSpace:
    same = Projection(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    encoders = {kind: toy_encoder(kind) for kind in MediaKind}
    return EmotionSpace(
        "toy",
        {kind: encoder.info.name for kind, encoder in encoders.items()},
        {kind: encoder.info.digest for kind, encoder in encoders.items()},
        dict.fromkeys(MediaKind, same),
        np.eye(2, dtype=np.float32),
        ("happy", "sad"),
    )


@pytest.fixture
def gathered(tmp_path: Path) -> Callable[..., shots.Shots]:
    library = Library.create(tmp_path / "library")
    encoder: Encoder = PixelEncoder(MediaKind.PHOTO)
    return lambda *texts, **options: gather([str(text) for text in texts], library, space(), lambda _kind: encoder, **options)


def photo(path: Path, taken: str = "", mtime: float = 0.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    exif = Image.Exif()
    if taken:
        exif.get_ifd(EXIF_FOLDER)[DATE_TIME_ORIGINAL] = taken
    make_photo(path, exif=exif)
    os.utime(path, (mtime, mtime))
    return path


def names(found: shots.Shots) -> list[str]:
    return [os.path.basename(path) for path in found.paths]


def test_the_order_of_time_is_exif_then_the_files(tmp_path: Path, gathered: Callable[..., shots.Shots]) -> None:
    between = datetime(2021, 5, 2).timestamp()
    photo(tmp_path / "p" / "a.jpg", "2021:05:03 10:00:00")
    photo(tmp_path / "p" / "b.jpg", "2021:05:01 10:00:00", mtime=2e9)
    photo(tmp_path / "p" / "c.jpg", mtime=between)
    found = gathered(tmp_path / "p")
    assert names(found) == ["b.jpg", "c.jpg", "a.jpg"]
    assert np.diff(found.times_s).tolist() == [14 * 3600, 34 * 3600]
    assert found.dated == 2


def test_the_order_of_names_counts_numbers(tmp_path: Path, gathered: Callable[..., shots.Shots]) -> None:
    for number, name in enumerate(("IMG_10.jpg", "img_9.jpg", "IMG_2.jpg", "IMG_002.jpg")):
        photo(tmp_path / "p" / name, mtime=number)
    assert names(gathered(tmp_path / "p", order="name")) == ["IMG_002.jpg", "IMG_2.jpg", "img_9.jpg", "IMG_10.jpg"]


def test_the_given_order_is_kept_and_each_photo_comes_once(tmp_path: Path, gathered: Callable[..., shots.Shots]) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(tmp_path / "p" / name)
    assert names(gathered(tmp_path / "p" / "c.jpg", tmp_path / "p", order="given")) == ["c.jpg", "a.jpg", "b.jpg"]


def test_photos_of_the_library_are_not_read_again(tmp_path: Path) -> None:
    from emoclim_cli import encoding, indexing
    from emoclim_cli.library import Root

    photo(tmp_path / "p" / "a.jpg", "2021:05:03 10:00:00")
    library = Library.create(tmp_path / "library")
    encoders: dict[MediaKind, Encoder] = {MediaKind.PHOTO: PixelEncoder(MediaKind.PHOTO), MediaKind.MUSIC: toy_encoder(MediaKind.MUSIC)}
    with library.writing():
        plan = indexing.plan(library, [Root(str(tmp_path / "p"))], indexing.space_ref(space()))
        for _ in indexing.apply(plan, library, encoding.local(encoders.__getitem__, space(), apart=False), space()):
            pass

    def never(kind: MediaKind) -> Encoder:
        raise AssertionError("no encoder is needed")

    known = gather([str(tmp_path / "p")], library, space(), never)
    assert (len(known), known.dated) == (1, 1)
    assert known.times_s[0] == (datetime(2021, 5, 3, 10) - datetime(1970, 1, 1)).total_seconds()
    photo(tmp_path / "p" / "b.jpg")
    asked: list[tuple[int, int]] = []
    fresh = PixelEncoder(MediaKind.PHOTO)
    both = gather([str(tmp_path / "p")], library, space(), lambda _kind: fresh, progress=lambda *done: asked.append(done))
    assert len(both) == 2
    assert [os.path.basename(path) for path in fresh.loaded] == ["b.jpg"]
    assert asked[-1] == (1, 1)
    np.testing.assert_allclose(np.linalg.norm(both.vectors, axis=1), 1, atol=1e-6)


def test_a_photo_that_cannot_be_read_is_left_out_and_listed(tmp_path: Path, gathered: Callable[..., shots.Shots]) -> None:
    photo(tmp_path / "p" / "a.jpg")
    whole = photo(tmp_path / "p" / "b.jpg").read_bytes()
    (tmp_path / "p" / "b.jpg").write_bytes(whole[:300])
    (tmp_path / "p" / "notes.txt").write_text("no photo")
    found = gathered(tmp_path / "p")
    assert names(found) == ["a.jpg"]
    [(path, reason)] = found.skipped
    assert os.path.basename(path) == "b.jpg"
    assert reason


def test_what_cannot_be_a_show(tmp_path: Path, gathered: Callable[..., shots.Shots]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    make_tone(tmp_path / "song.mp3", 0.5)
    with pytest.raises(UnreadableMedia, match=r"no photos in .*empty"):
        gathered(tmp_path / "empty")
    with pytest.raises(UnreadableMedia, match=r"none of 1 photos can be used; .*a\.jpg"):
        gathered(tmp_path / "bad")
    with pytest.raises(UsageError, match=r"none\.jpg: there is no such file"):
        gathered(tmp_path / "none.jpg")
    with pytest.raises(UsageError, match=r"song\.mp3 is no photo"):
        gathered(tmp_path / "song.mp3")
    with pytest.raises(UsageError, match="empty path"):
        gathered("")
    with pytest.raises(UsageError, match="--order size: unknown"):
        gathered(tmp_path, order="size")
