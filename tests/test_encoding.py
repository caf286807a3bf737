from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_makers import make_photo, picture

from emoclim_cli import encoding
from emoclim_cli.changes import plan
from emoclim_cli.encoders import EncoderInfo
from emoclim_cli.encoding import PATIENCE_S, Encoded, encode, local
from emoclim_cli.errors import ModelError
from emoclim_cli.indexing import Status, Summary, apply, space_ref
from emoclim_cli.library import Library, Root
from emoclim_cli.media import MediaKind
from emoclim_cli.photos import read_photo
from emoclim_cli.projections import EmotionSpace, Projection, unit
from emoclim_cli.reading import Failed, Loaded

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC


def load(path: str) -> np.ndarray:
    """The real reader; but a file whose name begins with `crash` meets a decoder's worst bug."""
    if os.path.basename(path).startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return read_photo(path, 4)


class SmallPhotos:
    """A real encoder of real photos: 4 x 4 pixels are its features."""

    batch_size = 5

    def __init__(self, read: Any = load) -> None:
        self.info = EncoderInfo("small", PHOTO, 48, (), "MIT", "toy")
        self.load = read

    def encode(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([sample.ravel() / np.float32(255) for sample in samples])

    def encode_windows(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self.encode(samples)[:, None])


def space_of(encoder: SmallPhotos) -> EmotionSpace:
    rng = np.random.default_rng(0)
    projection = Projection(*(rng.normal(size=shape).astype(np.float32) for shape in ((48, 8), (8,), (8, 6), (6,))))
    info = encoder.info
    return EmotionSpace(
        "toy",
        dict.fromkeys(MediaKind, info.name),
        dict.fromkeys(MediaKind, info.digest),
        dict.fromkeys(MediaKind, projection),
        unit(rng.normal(size=(8, 6))),
    )


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for i in range(12):
        make_photo(folder / f"{i:02}.png", picture(seed=i + 1))
    return folder


def test_a_decoder_that_crashes_costs_one_file(media: Path, tmp_path: Path) -> None:
    for name in ("crash.png", "crash-2.png"):
        make_photo(media / name)
    encoder = SmallPhotos()
    space = space_of(encoder)
    library = Library.create(tmp_path / "library")
    what = plan(library, [Root(str(media))], space_ref(space))
    summary = Summary.of(what)
    for outcome in apply(what, library, local(lambda _kind: encoder, space, jobs=2), space):
        summary.count(outcome)
    assert (summary.indexed, summary.skipped, summary.seen) == (12, 2, 14)
    assert {(os.path.basename(error["path"]), error["reason"]) for error in summary.errors} == {
        ("crash.png", "crashed its decoder (SIGSEGV)"),
        ("crash-2.png", "crashed its decoder (SIGSEGV)"),
    }
    view = library.view(PHOTO)
    for row in range(len(view)):
        expected = encoder.encode([read_photo(view.path(row), 4)])[0]
        np.testing.assert_allclose(library.features(PHOTO, [view.id(row)])[0], expected)
    again = plan(library, [Root(str(media))], space_ref(space))
    assert (again.to_encode, again.stale, len(again.skipped)) == (0, 0, 2)


def test_what_does_not_end_in_time_is_one_file_less(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PATIENCE_S", 1.0)
    encoder = SmallPhotos(slow)
    space = space_of(encoder)
    library = Library.create(tmp_path / "library")
    make_photo(media / "slow.png")
    what = plan(library, [Root(str(media))], space_ref(space))
    outcomes = list(apply(what, library, local(lambda _kind: encoder, space, jobs=2), space))
    lost = [outcome for outcome in outcomes if outcome.status is Status.SKIPPED]
    assert [(os.path.basename(one.path), one.reason) for one in lost] == [("slow.png", "could not be read within 1 s")]
    assert len(outcomes) == 13


def slow(path: str) -> np.ndarray:
    if path.endswith("slow.png"):
        threading.Event().wait(600)
    return read_photo(path, 4)


@pytest.mark.parametrize("apart", [True, False])
def test_batches_are_as_large_as_asked_and_hold_every_task_once(media: Path, tmp_path: Path, apart: bool) -> None:
    encoder = SmallPhotos(partial(read_photo, side=4))
    space = space_of(encoder)
    tasks = plan(Library.create(tmp_path / "library"), [Root(str(media))], space_ref(space)).new
    for batch_size, sizes in ((0, [5, 5, 2]), (12, [12]), (7, [7, 5])):
        batches = list(local(lambda _kind: encoder, space, jobs=2, batch_size=batch_size, apart=apart)(PHOTO, tasks))
        assert [len(batch) for batch in batches] == sizes
        done = [one for batch in batches for one in batch]
        assert all(isinstance(one, Encoded) for one in done)
        assert [one.task for one in done] == tasks


def test_a_large_file_may_take_longer() -> None:
    from emoclim_cli.changes import Task
    from emoclim_cli.media import FileStat

    patience = [encoding._patience_s(Task(FileStat("a", size, 0), MUSIC)) for size in (0, 10 << 20, 4 << 30)]
    assert patience == [PATIENCE_S, PATIENCE_S + 10, PATIENCE_S + 4096]


def test_weights_that_the_space_was_not_trained_on(media: Path, tmp_path: Path) -> None:
    encoder = SmallPhotos()
    space = space_of(encoder)
    other = SmallPhotos()
    other.info = EncoderInfo("small", PHOTO, 48, (), "MIT", "toy", identity=("others",))
    with pytest.raises(ModelError):
        next(local(lambda _kind: other, space)(PHOTO, []))


class TestEncode:
    def loaded(self, value: float) -> Any:
        from emoclim_cli.changes import Task
        from emoclim_cli.media import FileStat, MediaItem

        task = Task(FileStat(f"/photos/{value}", 1, 1), PHOTO)
        return Loaded(task, MediaItem(task.file.path, PHOTO, 1, 1), "0" * 32, np.full(48, value, np.float32))

    def test_one_sample_spoils_its_batch_and_not_the_others(self) -> None:
        encoder = SmallPhotos()
        odd = self.loaded(2.0)
        odd = Loaded(odd.task, odd.item, odd.content, np.zeros((1, 7), np.float32))
        done = encode(encoder, [self.loaded(1.0), odd, self.loaded(3.0)])
        assert [type(one) for one in done] == [Encoded, Failed, Encoded]
        assert isinstance(done[1], Failed) and done[1].file is not None and "ValueError" in done[1].reason

    def test_features_that_are_not_finite(self) -> None:
        done = encode(SmallPhotos(), [self.loaded(float("nan")), self.loaded(3.0)])
        assert isinstance(done[0], Failed) and done[0].reason == "its features are not finite"
        assert isinstance(done[1], Encoded)
