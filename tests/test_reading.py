from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from media_makers import make_photo, make_tone

from emoclim_cli.audio import read_windows
from emoclim_cli.changes import NEVER_SEEN, Task
from emoclim_cli.errors import MissingDecoder, ModelError, UnreadableMedia
from emoclim_cli.media import FileStat, MediaKind, content_digest
from emoclim_cli.photos import read_photo
from emoclim_cli.reading import Failed, Loaded, read

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
photo_sample = partial(read_photo, side=8)
music_sample = partial(read_windows, sample_rate_hz=16_000, window_s=1.0, max_windows=4)


def task_of(path: Path, kind: MediaKind = PHOTO) -> Task:
    status = path.stat() if path.exists() else None
    return Task(FileStat(str(path), status.st_size if status else 0, status.st_mtime_ns if status else 0), kind)


def test_a_photo(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make_photo(path)
    found = read(photo_sample, task_of(path))
    assert isinstance(found, Loaded)
    assert found.content == content_digest(str(path))
    assert (found.item.path, found.item.kind, found.item.size) == (str(path), PHOTO, path.stat().st_size)
    np.testing.assert_array_equal(found.sample, read_photo(str(path), 8))
    again = pickle.loads(pickle.dumps(found))
    assert again.item == found.item and (again.sample == found.sample).all()


def test_a_track_with_its_tags_and_the_duration_that_was_decoded(tmp_path: Path) -> None:
    import mutagen

    path = tmp_path / "a.flac"
    make_tone(path, 3.0)
    tags = mutagen.File(path, easy=True)
    tags.update(title="Rain", artist="Ada", album="Days")
    tags.save()
    found = read(music_sample, task_of(path, MUSIC))
    assert isinstance(found, Loaded)
    assert (found.item.title, found.item.artist, found.item.album) == ("Rain", "Ada", "Days")
    assert found.item.duration_s == pytest.approx(3.0, abs=0.01)
    assert found.sample.audio.shape == (3, 16_000)


def test_what_is_wrong_with_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8\xff no photo")
    found = read(photo_sample, task_of(path))
    assert isinstance(found, Failed) and found.file is not None
    assert found.reason == "is not a photo that can be decoded"
    assert (found.file.size, found.file.mtime_ns, found.file.reason) == (path.stat().st_size, path.stat().st_mtime_ns, found.reason)


def test_a_file_that_has_vanished_is_not_remembered(tmp_path: Path) -> None:
    found = read(photo_sample, task_of(tmp_path / "away.jpg"))
    assert isinstance(found, Failed) and found.file is None and "vanished" in found.reason


@pytest.mark.parametrize(
    ("error", "reason", "remembered"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied", False),
        (MissingDecoder("is HEIC", "pip install it"), "is HEIC (pip install it)", False),
        (UnreadableMedia("is empty"), "is empty", True),
        (ZeroDivisionError("of a decoder"), "ZeroDivisionError: of a decoder", True),
    ],
)
def test_which_failures_are_tried_again(tmp_path: Path, error: Exception, reason: str, remembered: bool) -> None:
    path = tmp_path / "a.png"
    make_photo(path)

    def refuses(_path: str) -> None:
        raise error

    found = read(refuses, task_of(path))
    assert isinstance(found, Failed) and found.file is not None
    assert found.reason == reason
    assert found.file.size == (os.path.getsize(path) if remembered else NEVER_SEEN)


def test_a_missing_model_is_no_files_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make_photo(path)

    def refuses(_path: str) -> None:
        raise ModelError("no weights")

    with pytest.raises(ModelError):
        read(refuses, task_of(path))
