from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from toys import ToyEncoder, toy_encoder, write_numbers

from emoclim_cli import datasets
from emoclim_cli.datasets import LabelledFeatures, labelled_features, read_features
from emoclim_cli.emotions import EMOTIONS, QUADRANTS
from emoclim_cli.errors import LabelError, UnreadableMedia
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC


# --- features ------------------------------------------------------------------------------------------------------------


def a_dataset(folder: Path, n: int = 6, dim: int = 2) -> tuple[list[LabelledItem], list[list[list[float]]]]:
    """n toy tracks of 1 to 3 windows, and their windows."""
    rng = np.random.default_rng(n)
    windows = [rng.standard_normal((i % 3 + 1, dim)).astype(np.float32).tolist() for i in range(n)]
    words = [("sad", frozenset(("sad",))), ("happy", frozenset(("happy",))), ("", QUADRANTS["Q1"])]
    items = [
        LabelledItem(write_numbers(folder / f"{i}.mp3", windows[i]), *words[i % 3], group=f"song {i // 2}", source="ab"[i % 2])
        for i in range(n)
    ]
    return items, windows


def item_windows(features: LabelledFeatures) -> list[list[list[float]]]:
    return [features.windows[start:end].tolist() for start, end in zip(features.starts[:-1], features.starts[1:], strict=True)]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("chunk", [1, 4, 128])
def test_each_item_gets_its_own_windows(tmp_path: Path, chunk: int, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CHUNK_ITEMS", chunk)
    items, windows = a_dataset(tmp_path)
    seen = []
    encoder = toy_encoder(MUSIC)
    features = labelled_features(
        items, encoder, tmp_path / "cache", batch_size=batch_size, progress=lambda done, all_: seen.append((done, all_))
    )
    assert features.kind is MUSIC
    assert features.items == tuple(items)
    assert features.windows.dtype == np.float32
    assert item_windows(features) == windows
    assert seen[-1] == (6, 6)
    assert seen == sorted(set(seen))
    assert max(encoder.batches) == min(batch_size, chunk, 6)


def test_columns_of_labelled_features(tmp_path: Path) -> None:
    items, windows = a_dataset(tmp_path)
    features = labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    assert len(features) == 6
    assert features.labels.tolist() == ["sad", "happy", "", "sad", "happy", ""]
    assert features.groups.tolist() == ["song 0", "song 0", "song 1", "song 1", "song 2", "song 2"]
    assert features.sources.tolist() == ["a", "b", "a", "b", "a", "b"]
    assert features.owner.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5]
    expected = [[sum(column) / len(column) for column in zip(*rows, strict=True)] for rows in windows]
    assert features.pooled().tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
    assert features.pooled().dtype == np.float32
    assert features.emotion_sets(EMOTIONS).tolist() == [[float(emotion in item.emotions) for emotion in EMOTIONS] for item in items]
    assert features.emotion_sets(("sad", "funny")).tolist() == [[1, 0], [0, 0], [0, 1]] * 2


def test_taking_some_items(tmp_path: Path) -> None:
    items, windows = a_dataset(tmp_path)
    features = labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    by_mask = features.take(features.labels == "happy")
    assert by_mask.items == (items[1], items[4])
    assert item_windows(by_mask) == [windows[1], windows[4]]
    by_index = features.take(np.array([5, 0, 5]))
    assert by_index.items == (items[5], items[0], items[5])
    assert item_windows(by_index) == [windows[5], windows[0], windows[5]]
    assert by_index.take(np.array([False, True, False])).items == (items[0],)


def test_taking_nothing_keeps_every_shape_and_type(tmp_path: Path) -> None:
    items, _ = a_dataset(tmp_path)
    nothing = labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache").take(np.zeros(6, bool))
    assert len(nothing) == 0
    assert nothing.windows.shape == nothing.pooled().shape == (0, 2)
    assert nothing.emotion_sets(EMOTIONS).shape == (0, 7)
    assert nothing.owner.shape == (0,)
    assert [column.dtype.kind for column in (nothing.labels, nothing.groups, nothing.sources)] == ["U"] * 3
    assert len(nothing.take(nothing.labels != "")) == 0


# --- the cache -----------------------------------------------------------------------------------------------------------


def test_the_second_call_encodes_nothing(tmp_path: Path) -> None:
    items, windows = a_dataset(tmp_path)
    first, second = toy_encoder(MUSIC), toy_encoder(MUSIC)
    labelled_features(items, first, tmp_path / "cache")
    assert sorted(first.loaded) == sorted(item.path for item in items)
    features = labelled_features(items, second, tmp_path / "cache")
    assert second.loaded == second.batches == []
    assert item_windows(features) == windows
    assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {".npz"}


def test_other_labels_for_the_same_files_encode_nothing(tmp_path: Path) -> None:
    items, _ = a_dataset(tmp_path)
    labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    relabelled = [LabelledItem(item.path, "angry", frozenset(("angry",)), "all one") for item in items]
    encoder = toy_encoder(MUSIC)
    assert set(labelled_features(relabelled, encoder, tmp_path / "cache").labels) == {"angry"}
    assert encoder.loaded == []


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_changed_file_is_noticed_and_costs_only_itself(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CHUNK_ITEMS", 2)
    items, windows = a_dataset(tmp_path)
    labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    before = os.stat(items[3].path)
    windows[3] = [[9.0, 8.0]] if what == "size" else [row[::-1] for row in windows[3]]
    write_numbers(items[3].path, windows[3])
    os.utime(items[3].path, ns=(before.st_atime_ns, before.st_mtime_ns + (what == "time")))
    assert (os.stat(items[3].path).st_size == before.st_size) == (what == "time")
    encoder = toy_encoder(MUSIC)
    assert item_windows(labelled_features(items, encoder, tmp_path / "cache")) == windows
    assert encoder.loaded == [items[3].path]


def test_other_neighbours_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row taken out of the labels, another order, one file twice."""
    monkeypatch.setattr(datasets, "CHUNK_ITEMS", 2)
    items, windows = a_dataset(tmp_path)
    labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    encoder = toy_encoder(MUSIC)
    chosen = [5, 0, 3, 0]
    features = labelled_features([items[i] for i in chosen], encoder, tmp_path / "cache")
    assert item_windows(features) == [windows[i] for i in chosen]
    assert encoder.loaded == []


def test_another_encoder_has_its_own_features(tmp_path: Path) -> None:
    items, _ = a_dataset(tmp_path)
    labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    other = toy_encoder(MUSIC, name="other")
    labelled_features(items, other, tmp_path / "cache")
    assert len(other.loaded) == 6


def test_an_interrupted_run_keeps_the_chunks_it_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CHUNK_ITEMS", 2)
    items, windows = a_dataset(tmp_path)

    def ctrl_c(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache", progress=ctrl_c)
    encoder = toy_encoder(MUSIC)
    assert item_windows(labelled_features(items, encoder, tmp_path / "cache")) == windows
    assert sorted(encoder.loaded) == [items[4].path, items[5].path]


@pytest.mark.parametrize("left", [b"", b"PK\x03\x04 cut short"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, left: bytes) -> None:
    """What a power cut can leave."""
    items, windows = a_dataset(tmp_path)
    labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob("*.npz")
    file.write_bytes(left)
    for loads in (6, 0):
        encoder = toy_encoder(MUSIC)
        assert item_windows(labelled_features(items, encoder, tmp_path / "cache")) == windows
        assert len(encoder.loaded) == loads


# --- files that cannot be used -------------------------------------------------------------------------------------------


def test_an_unreadable_file_is_reported_and_left_out_from_the_cache_as_well(tmp_path: Path) -> None:
    items, windows = a_dataset(tmp_path)
    Path(items[1].path).write_text("la la la")
    told: list[tuple[str, str]] = []
    for loads in (6, 0):
        encoder = toy_encoder(MUSIC)
        features = labelled_features(
            items, encoder, tmp_path / "cache", batch_size=2, unusable=lambda path, reason: told.append((path, reason))
        )
        assert told.pop() == (items[1].path, "these are not lines of 2 numbers")
        assert told == []
        assert features.items == (items[0], *items[2:])
        assert item_windows(features) == [windows[0], *windows[2:]]
        assert len(encoder.loaded) == loads


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp3")
    with open(path, "w") as file:
        file.write("1 2\n")
    write_numbers(tmp_path / "good.mp3", [[3, 4]])
    items = [LabelledItem(name, "sad", frozenset(("sad",)), name) for name in (path, str(tmp_path / "good.mp3"))]
    assert labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache").windows.tolist() == [[1, 2], [3, 4]]
    with open(path, "w") as file:
        file.write("la la la\n")
    told = []
    labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache", unusable=lambda path, reason: told.append(path))
    assert told == [f"{tmp_path}/caf\\xe9.mp3"]


def test_a_file_that_vanished_since_the_labels_were_read(tmp_path: Path) -> None:
    items, windows = a_dataset(tmp_path)
    os.remove(items[0].path)
    told: list[tuple[str, str]] = []
    features = labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache", unusable=lambda path, reason: told.append((path, reason)))
    assert features.items == tuple(items[1:])
    assert [path for path, _ in told] == [items[0].path]
    assert "No such file" in told[0][1]
    write_numbers(items[0].path, windows[0])
    assert item_windows(labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")) == windows


class FailingOnce(ToyEncoder):
    """A disk that fails and comes back: nothing about the file changes."""

    def load(self, path: str) -> np.ndarray:
        if path not in self.loaded:
            self.loaded.append(path)
            raise OSError(5, "Input/output error", path)
        return super().load(path)


def test_an_error_of_the_disk_is_not_remembered(tmp_path: Path) -> None:
    items, windows = a_dataset(tmp_path, n=2)
    encoder = FailingOnce(MUSIC)
    told: list[tuple[str, str]] = []
    with pytest.raises(LabelError):
        labelled_features(items, encoder, tmp_path / "cache", unusable=lambda path, reason: told.append((path, reason)))
    assert [path for path, _ in told] == [item.path for item in items]
    assert "Input/output error" in told[0][1]
    assert item_windows(labelled_features(items, encoder, tmp_path / "cache")) == windows


class Broken(ToyEncoder):
    def load(self, path: str) -> np.ndarray:
        raise ZeroDivisionError


def test_a_bug_of_an_encoder_is_not_taken_for_a_bad_file(tmp_path: Path) -> None:
    items, _ = a_dataset(tmp_path)
    with pytest.raises(ZeroDivisionError):
        labelled_features(items, Broken(MUSIC), tmp_path / "cache")


def test_features_that_are_not_finite_are_not_trained_on(tmp_path: Path) -> None:
    items, windows = a_dataset(tmp_path)
    write_numbers(items[2].path, [[1, 2], [float("nan"), 1]])
    told: list[tuple[str, str]] = []
    features = labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache", unusable=lambda path, reason: told.append((path, reason)))
    assert told == [(items[2].path, "its features are not finite")]
    assert item_windows(features) == [*windows[:2], *windows[3:]]


def test_nothing_can_be_read(tmp_path: Path) -> None:
    items, _ = a_dataset(tmp_path, n=3)
    for item in items:
        Path(item.path).write_text("la la la")
    with pytest.raises(LabelError, match="none of the 3 labelled files can be read"):
        labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    with pytest.raises(LabelError):
        labelled_features([], toy_encoder(MUSIC), tmp_path / "cache")


def test_unreadable_means_what_encoders_say(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("la")
    with pytest.raises(UnreadableMedia):
        toy_encoder(PHOTO).load(str(tmp_path / "a.jpg"))


# --- teachers ------------------------------------------------------------------------------------------------------------


def a_teacher(folder: Path, *rows: str, head: str = "mood,n_songs,f0,f1") -> str:
    (folder / "teacher.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(folder / "teacher.csv")


def test_a_teacher_is_features_with_a_mood_each(tmp_path: Path) -> None:
    told: list[str] = []
    path = a_teacher(tmp_path, "aggressive,3,1,-2.5", "danceable,3,9,9", "Happy,1,0,1e-1")
    teacher = read_features(path, MUSIC, 2, told.append)
    assert teacher.labels.tolist() == ["angry", "happy"]
    assert teacher.windows.tolist() == [[1, -2.5], [0, pytest.approx(0.1)]]
    assert teacher.windows.dtype == np.float32
    assert teacher.starts.tolist() == [0, 1, 2]
    assert teacher.items[1].where == f"{path}, line 4"
    assert {(item.source, item.split, item.emotions) for item in teacher.items} == {
        ("teacher", "train", frozenset(("angry",))),
        ("teacher", "train", frozenset(("happy",))),
    }
    assert told == [f"{path}: 1 of 3 rows have a mood that is none of the seven emotions, and are left out"]


def test_a_teacher_may_say_emotion(tmp_path: Path) -> None:
    assert read_features(a_teacher(tmp_path, "sad,1,2", head="emotion,f0,f1"), MUSIC, 2).labels.tolist() == ["sad"]


@pytest.mark.parametrize(("head", "dim"), [("mood,f0", 2), ("f0,f1", 2), ("mood,f0,f1,f2", 2), ("", 2)])
def test_a_teacher_of_another_encoder(tmp_path: Path, head: str, dim: int) -> None:
    with pytest.raises(LabelError, match="f0 to f1"):
        read_features(a_teacher(tmp_path, head=head), MUSIC, dim)


@pytest.mark.parametrize("number", ["", "much", "nan", "inf"])
def test_a_teacher_says_what_is_no_number(tmp_path: Path, number: str) -> None:
    with pytest.raises(LabelError, match="line 3: "):
        read_features(a_teacher(tmp_path, "sad,1,0,0", f"sad,1,{number},0"), MUSIC, 2)


def test_a_row_of_a_teacher_that_is_cut_short(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="line 2: "):
        read_features(a_teacher(tmp_path, "sad,1,0"), MUSIC, 2)


def test_a_teacher_that_teaches_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no row has one of the emotions"):
        read_features(a_teacher(tmp_path, "danceable,1,0,0"), MUSIC, 2)
