from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from toys import ToyEncoder, toy_encoder, write_numbers

from emoclim_cli import datasets
from emoclim_cli.datasets import LabelledFeatures, LabelledItem, labelled_features, read_labels
from emoclim_cli.emotions import EMOTIONS, PHOTO_WORDS, QUADRANTS
from emoclim_cli.errors import LabelError, UnreadableMedia
from emoclim_cli.media import MediaKind

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC


def labels(folder: Path, text: str | bytes, *, files: str = "") -> str:
    """A labels CSV beside the files that it names: `files`, by their first letters."""
    for name in files:
        (folder / f"{name}.jpg").write_text(name)
    (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder / "labels.csv")


def refusal(path: str, split: str = "") -> LabelError:
    with pytest.raises(LabelError) as caught:
        read_labels(path, split)
    return caught.value


# --- labels: good --------------------------------------------------------------------------------------------------------


def test_every_column(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion,quadrant,group,source,split\na.jpg,sad,,one,web,train\nb.jpg,,Q4,,,\n", files="ab")
    assert read_labels(path) == [
        LabelledItem(str(tmp_path / "a.jpg"), "sad", frozenset(("sad",)), "one", "web", "train"),
        LabelledItem(str(tmp_path / "b.jpg"), "", QUADRANTS["Q4"], str(tmp_path / "b.jpg"), "", ""),
    ]


def test_two_columns_are_enough_and_others_are_nobodys_business(tmp_path: Path) -> None:
    path = labels(tmp_path, "emotion,rating,file\nHAPPY ,5,a.jpg\n", files="a")
    assert read_labels(path) == [LabelledItem(str(tmp_path / "a.jpg"), "happy", frozenset(("happy",)), str(tmp_path / "a.jpg"))]


@pytest.mark.parametrize("word", [*EMOTIONS, *PHOTO_WORDS])
def test_both_vocabularies(tmp_path: Path, word: str) -> None:
    (item,) = read_labels(labels(tmp_path, f"file,emotion\na.jpg,{word}\n", files="a"))
    assert item.emotion == PHOTO_WORDS.get(word, word)
    assert item.emotions == {item.emotion}


@pytest.mark.parametrize("quadrant", QUADRANTS)
def test_a_quadrant_alone_leaves_the_emotion_open(tmp_path: Path, quadrant: str) -> None:
    (item,) = read_labels(labels(tmp_path, f"file,emotion,quadrant\na.jpg,, {quadrant}\n", files="a"))
    assert item.emotion == ""
    assert item.emotions == QUADRANTS[quadrant]


def test_an_emotion_is_more_than_its_quadrant(tmp_path: Path) -> None:
    (item,) = read_labels(labels(tmp_path, "file,emotion,quadrant\na.jpg,funny,Q1\n", files="a"))
    assert item.emotions == {"funny"}


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbffile,emotion\na.jpg,sad\nb.jpg,happy\n",
        b"file,emotion\r\na.jpg,sad\r\nb.jpg,happy\r\n",
        b"file,emotion\ra.jpg,sad\rb.jpg,happy\r",
        b"file,emotion\r\na.jpg,sad\nb.jpg,happy",
        b'\xef\xbb\xbf"file","emotion"\r\n"a.jpg","sad"\r\n\r\n"b.jpg","happy"\r\n\r\n',
    ],
    ids=["BOM", "CR LF", "CR", "mixed, no end", "quoted, blank lines"],
)
def test_what_spreadsheets_write(tmp_path: Path, text: bytes) -> None:
    items = read_labels(labels(tmp_path, text, files="ab"))
    assert [(os.path.basename(item.path), item.emotion) for item in items] == [("a.jpg", "sad"), ("b.jpg", "happy")]


def test_files_are_looked_for_beside_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside.jpg"
    outside.write_text("")
    (tmp_path / "data" / "in").mkdir(parents=True)
    (tmp_path / "data" / "in" / "ä, b.jpg").write_text("")
    path = labels(tmp_path / "data", f'file,emotion\n"in/ä, b.jpg",sad\n{outside},sad\n../outside.jpg,sad\n')
    expected = [str(tmp_path / "data" / "in" / "ä, b.jpg"), str(outside), str(tmp_path / "data" / ".." / "outside.jpg")]
    assert [item.path for item in read_labels(path)] == expected
    monkeypatch.chdir(tmp_path)
    assert [item.path for item in read_labels("data/labels.csv")] == expected


def test_one_split_of_several(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion,split\na.jpg,sad,train\nb.jpg,sad,val\nc.jpg,happy,train\nd.jpg,sad,\n", files="abcd")
    assert [os.path.basename(item.path) for item in read_labels(path, "train")] == ["a.jpg", "c.jpg"]
    assert len(read_labels(path)) == 4


def test_a_folder_for_each_emotion(tmp_path: Path) -> None:
    for name in ("sad/b.jpg", "sad/a.jpg", "Amusement/c.jpg", "tender/deeper/d.jpg", ".git/e.jpg", "sad/.hidden.jpg", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [(os.path.relpath(item.path, tmp_path), item.emotion, item.emotions, item.group) for item in read_labels(str(tmp_path))] == [
        ("Amusement/c.jpg", "funny", {"funny"}, str(tmp_path / "Amusement/c.jpg")),
        ("sad/a.jpg", "sad", {"sad"}, str(tmp_path / "sad/a.jpg")),
        ("sad/b.jpg", "sad", {"sad"}, str(tmp_path / "sad/b.jpg")),
    ]


# --- labels: bad ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["melancholic", "awe", "disgust", "happy+sad"])
def test_an_unknown_emotion_is_named_with_file_and_line(tmp_path: Path, word: str) -> None:
    path = labels(tmp_path, f"file,emotion\na.jpg,sad\n\nb.jpg,{word}\n", files="ab")
    error = refusal(path)
    assert error.message == f"{path}, line 4: unknown emotion '{word}'"
    assert all(known in error.hint for known in (*EMOTIONS, *PHOTO_WORDS))


def test_a_missing_file_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion\na.jpg,sad\nsub/b.jpg,sad\n", files="a")
    assert refusal(path).message == f"{path}, line 3: there is no file sub/b.jpg"


@pytest.mark.parametrize("name", ["", ".", "a.jpg/x", "\0", "x" * 5000])
def test_what_can_be_no_file_is_a_missing_one(tmp_path: Path, name: str) -> None:
    path = labels(tmp_path, f"file,emotion\n{name},sad\n", files="a")
    assert refusal(path).message == f"{path}, line 2: there is no file {name}"


@pytest.mark.parametrize("row", ["a.jpg,sad,extra", "a.jpg", '"a.jpg,sad', "a.jpg;sad"])
def test_another_number_of_fields(tmp_path: Path, row: str) -> None:
    path = labels(tmp_path, f"file,emotion\n{row}\n", files="a")
    assert refusal(path).message.startswith(f"{path}, line 2: the number of fields")


def test_a_quotation_mark_that_never_ends(tmp_path: Path) -> None:
    """It makes one field of the rest of a long file: more than the csv module takes."""
    path = labels(tmp_path, 'file,emotion\na.jpg,sad\n"b.jpg,sad\n' + "a.jpg,sad\n" * 20_000, files="a")
    assert refusal(path).message.startswith(f"{path}, line ")
    path = labels(tmp_path, '"file,emotion\n' + "a.jpg,sad\n" * 20_000)
    assert path in refusal(path).message


@pytest.mark.parametrize("row", ["a.jpg,,", "a.jpg,,Q5", "a.jpg,,q1"])
def test_neither_emotion_nor_quadrant(tmp_path: Path, row: str) -> None:
    path = labels(tmp_path, f"file,emotion,quadrant\n{row}\n", files="a")
    assert refusal(path).message == f"{path}, line 2: neither an emotion nor a quadrant (Q1 to Q4)"


def test_no_emotion_and_no_column_of_quadrants(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion\na.jpg,\n", files="a")
    assert "line 2: neither an emotion nor a quadrant" in refusal(path).message


@pytest.mark.parametrize(
    ("head", "missing"),
    [("path,emotion", "file"), ("file,mood", "emotion"), ("a.jpg,sad", "emotion and file"), ("file;emotion", "emotion and file")],
)
def test_columns_are_missing(tmp_path: Path, head: str, missing: str) -> None:
    path = labels(tmp_path, f"{head}\na.jpg,sad\n", files="a")
    error = refusal(path)
    assert error.message == f"{path}: the first line has no column {missing}"
    assert "file,emotion" in error.hint


@pytest.mark.parametrize("text", ["", "\n", "\ufeff"])
def test_an_empty_file_has_no_columns(tmp_path: Path, text: str) -> None:
    path = labels(tmp_path, text)
    assert "has no column" in refusal(path).message


def test_not_utf_8(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion\nbjörk.jpg,sad\n".encode("latin-1"))
    assert refusal(path).message.startswith(f"{path} is not UTF-8: ")
    assert refusal(path).message.endswith("at byte 15")


def test_there_is_no_such_csv(tmp_path: Path) -> None:
    path = str(tmp_path / "none.csv")
    assert refusal(path).message == f"{path} cannot be read: No such file or directory"


def test_a_split_without_rows_names_those_there_are(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion,split\na.jpg,sad,train\nb.jpg,sad,\n", files="ab")
    error = refusal(path, "test")
    assert error.message == f"{path} has no rows of the split 'test'"
    assert error.hint == "its splits: (none), train"


def test_no_rows_at_all(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion\n")
    assert refusal(path).message == f"{path} has no rows"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(str(empty)).message == f"{empty} has no rows"


def test_a_folder_of_an_unknown_emotion(tmp_path: Path) -> None:
    (tmp_path / "sad").mkdir()
    (tmp_path / "awe").mkdir()
    assert refusal(str(tmp_path)).message == f"{tmp_path / 'awe'}: unknown emotion 'awe'"


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
    assert not [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".npz")]


def test_other_labels_for_the_same_files_encode_nothing(tmp_path: Path) -> None:
    items, _ = a_dataset(tmp_path)
    labelled_features(items, toy_encoder(MUSIC), tmp_path / "cache")
    relabelled = [LabelledItem(item.path, "angry", frozenset(("angry",)), "all one") for item in items]
    encoder = toy_encoder(MUSIC)
    assert set(labelled_features(relabelled, encoder, tmp_path / "cache").labels) == {"angry"}
    assert encoder.loaded == []


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_changed_file_is_noticed_and_costs_only_its_chunk(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert sorted(encoder.loaded) == [items[2].path, items[3].path]


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
    (file,) = (tmp_path / "cache").iterdir()
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
    labelled_features(items[1:], toy_encoder(MUSIC), tmp_path / "cache")
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
