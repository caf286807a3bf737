from __future__ import annotations

import os
from pathlib import Path

import pytest

from emoclim_cli.emotions import EMOTIONS, PHOTO_WORDS, QUADRANTS
from emoclim_cli.errors import LabelError
from emoclim_cli.labels import LabelledItem, read_labels
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
