"""What the commands on labelled data share: which items a split has, and what the user is told of those that are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import toy_encoder, write_numbers

from emoclim_cli import console
from emoclim_cli.commands.labelled import features_of, features_of_items, labelled_items
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.errors import LabelError
from emoclim_cli.labels import SPLITS
from emoclim_cli.media import MediaKind


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Twelve happy ones, twelve sad ones, and nine that are known by quadrant only: no split is named."""
    rows = ["file,emotion,quadrant"]
    for number in range(33):
        write_numbers(tmp_path / f"{number}.jpg", [(number, 1)])
        rows.append(f"{number}.jpg,{('happy', 'sad')[number % 2]}," if number < 24 else f"{number}.jpg,,Q4")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    return str(tmp_path / "photos.csv")


def paths(features: LabelledFeatures) -> list[str]:
    return [item.path for item in features.items]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_split_of_a_seed_is_what_training_kept_aside(photos: str, seed: int) -> None:
    items = labelled_items(photos, seed)
    encoder = toy_encoder(MediaKind.PHOTO)
    everything = features_of_items(items, encoder)
    assert len(everything) == 33
    for split in SPLITS:
        features = features_of(photos, split, encoder, quadrants=True, seed=seed)
        aside = everything.take(np.array([item.split == split for item in everything.items]))
        assert features.items == aside.items
        assert np.array_equal(features.windows, aside.windows)
        of_emotions = features_of(photos, split, encoder, seed=seed)
        assert paths(of_emotions) == [item.path for item in features.items if item.emotion]
    assert sorted(path for split in SPLITS for path in paths(features_of(photos, split, encoder, quadrants=True, seed=seed))) == sorted(
        paths(everything)
    )


def test_seeds_differ(photos: str) -> None:
    encoder = toy_encoder(MediaKind.PHOTO)
    drawn = {tuple(paths(features_of(photos, "test", encoder, seed=seed))) for seed in range(5)}
    assert len(drawn) > 1


def test_without_a_split_every_file_counts(photos: str) -> None:
    assert len(features_of(photos, "", toy_encoder(MediaKind.PHOTO), quadrants=True)) == 33
    assert len(features_of(photos, "", toy_encoder(MediaKind.PHOTO))) == 24


def test_named_splits_stay_and_may_have_any_name_where_they_are_not_trained_on(tmp_path: Path) -> None:
    for name in "abc":
        write_numbers(tmp_path / f"{name}.jpg", [(ord(name), 0)])
    labels = tmp_path / "labels.csv"
    labels.write_text("file,emotion,split\na.jpg,sad,test\nb.jpg,sad,fold 1\nc.jpg,sad,\n")
    encoder = toy_encoder(MediaKind.PHOTO)
    assert paths(features_of(str(labels), "fold 1", encoder)) == [str(tmp_path / "b.jpg")]
    with pytest.raises(LabelError, match="line 3: unknown split 'fold 1'"):
        features_of(str(labels), "test", encoder)
    labels.write_text("file,emotion,split\na.jpg,sad,test\nb.jpg,sad,train\nc.jpg,sad,\n")
    assert paths(features_of(str(labels), "test", encoder, seed=3)) == [str(tmp_path / "a.jpg")]
    with pytest.raises(LabelError, match="has no rows of the split 'val'") as caught:
        features_of(str(labels), "val", encoder)
    assert caught.value.hint == "its splits: (none), test, train"


def test_nothing_but_quadrants(tmp_path: Path) -> None:
    write_numbers(tmp_path / "a.jpg", [(1, 0)])
    (tmp_path / "labels.csv").write_text("file,emotion,quadrant\na.jpg,,Q3\n")
    with pytest.raises(LabelError, match=r"labels\.csv: no file has an emotion of its own"):
        features_of(str(tmp_path / "labels.csv"), "", toy_encoder(MediaKind.PHOTO))


@pytest.mark.parametrize(("verbose", "shown"), [(False, console.ERRORS_SHOWN), (True, 8)])
def test_what_is_left_out_is_told(
    photos: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verbose: bool, shown: int
) -> None:
    monkeypatch.setattr(console, "verbose", verbose)
    folder = Path(photos).parent
    rows = Path(photos).read_text()
    for number, emotion in enumerate(("sad", "scary") * 4):
        write_numbers(folder / f"copy {number}.jpg", [(0.5, 0.5)])
        rows += f"\ncopy {number}.jpg,{emotion},"
    write_numbers(folder / "angry.jpg", [(0.25, 0.5)])
    Path(photos).write_text(rows + "\nangry.jpg,angry,\nangry.jpg,anger,")
    assert len(labelled_items(photos, 0)) == 34
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0] == f"{photos}: 1 of 43 rows name a file that an earlier one names, and are left out"
    assert lines[1].startswith(f"warning: {photos}: angry has one example, none in val and test")
    assert len([line for line in lines if "copy" in line and "is left out: the same bytes are labelled" in line]) == shown
    assert any("8 of 42 files are left out" in line for line in lines) == (not verbose)
