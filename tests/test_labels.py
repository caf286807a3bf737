from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli.emotions import EMOTIONS, PARTIAL_WORDS, PHOTO_WORDS, QUADRANTS
from emoclim_cli.errors import LabelError
from emoclim_cli.labels import SPLITS, LabelledItem, assign_splits, read_labels
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
    outside, beside = tmp_path / "outside.jpg", tmp_path / "beside.jpg"
    outside.write_text("")
    beside.write_text("")
    (tmp_path / "data" / "in").mkdir(parents=True)
    (tmp_path / "data" / "in" / "ä, b.jpg").write_text("")
    path = labels(tmp_path / "data", f'file,emotion\n"in/ä, b.jpg",sad\n{outside},sad\n../beside.jpg,sad\n')
    expected = [str(tmp_path / "data" / "in" / "ä, b.jpg"), str(outside), str(tmp_path / "data" / ".." / "beside.jpg")]
    assert [item.path for item in read_labels(path)] == expected
    monkeypatch.chdir(tmp_path)
    assert [item.path for item in read_labels("data/labels.csv")] == expected


def test_one_split_of_several(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion,split\na.jpg,sad,train\nb.jpg,sad,val\nc.jpg,happy,train\nd.jpg,sad,\n", files="abcd")
    assert [os.path.basename(item.path) for item in read_labels(path, "train")] == ["a.jpg", "c.jpg"]
    assert len(read_labels(path)) == 4


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    """A spreadsheet in a German locale writes semicolons."""
    (tmp_path / "a, b.jpg").write_text("")
    text = "File; Emotion ;group\na, b.jpg;sad;one\nc.jpg;happy;two\n".replace(";", delimiter)
    items = read_labels(labels(tmp_path, text, files="c"))
    assert [(os.path.basename(item.path), item.emotion, item.group) for item in items] == [
        ("a, b.jpg", "sad", "one"),
        ("c.jpg", "happy", "two"),
    ]


@pytest.mark.parametrize("word", PARTIAL_WORDS)
def test_awe_and_disgust_leave_the_emotion_open(tmp_path: Path, word: str) -> None:
    (item,) = read_labels(labels(tmp_path, f"file,emotion,quadrant\na.jpg,{word.title()},Q3\n", files="a"))
    assert (item.emotion, item.emotions) == ("", PARTIAL_WORDS[word])


def test_a_file_that_is_listed_again_counts_once(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion\na.jpg,sad\nb.jpg,happy\na.jpg,sadness\n./a.jpg,sad\n", files="ab")
    notes: list[str] = []
    assert [item.path for item in read_labels(path, note=notes.append)] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert notes == [f"{path}: 2 of 4 rows name a file that an earlier one names, and are left out"]


def test_each_item_knows_its_line(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion\n\na.jpg,sad\nb.jpg,happy\n", files="ab")
    assert [item.where for item in read_labels(path)] == [f"{path}, line 3", f"{path}, line 4"]


def test_a_folder_for_each_emotion(tmp_path: Path) -> None:
    for name in ("sad/b.jpg", "sad/a.jpg", "Amusement/c.jpg", "tender/deeper/d.jpg", ".git/e.jpg", "sad/.hidden.jpg", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [(os.path.relpath(item.path, tmp_path), item.emotion, item.emotions, item.group) for item in read_labels(str(tmp_path))] == [
        ("Amusement/c.jpg", "funny", {"funny"}, str(tmp_path / "Amusement/c.jpg")),
        ("sad/a.jpg", "sad", {"sad"}, str(tmp_path / "sad/a.jpg")),
        ("sad/b.jpg", "sad", {"sad"}, str(tmp_path / "sad/b.jpg")),
        ("tender/deeper/d.jpg", "tender", {"tender"}, str(tmp_path / "tender/deeper/d.jpg")),
    ]


# --- labels: bad ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["melancholic", "wonder", "Q1", "happy+sad"])
def test_an_unknown_emotion_is_named_with_file_and_line(tmp_path: Path, word: str) -> None:
    path = labels(tmp_path, f"file,emotion\na.jpg,sad\n\nb.jpg,{word}\n", files="ab")
    error = refusal(path)
    assert error.message == f"{path}, line 4: unknown emotion '{word.lower()}'"
    assert all(known in error.hint for known in (*EMOTIONS, *PHOTO_WORDS, *PARTIAL_WORDS))


def test_a_missing_file_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,emotion\na.jpg,sad\nsub/b.jpg,sad\n", files="a")
    assert refusal(path).message == f"{path}, line 3: there is no file sub/b.jpg"


@pytest.mark.parametrize("name", ["a.jpg/x", "\0", "x" * 5000, "A.jpg", " a.jpg"])
def test_what_can_be_no_file_is_a_missing_one(tmp_path: Path, name: str) -> None:
    path = labels(tmp_path, f"file,emotion\n{name},sad\n", files="a")
    assert refusal(path).message == f"{path}, line 2: there is no file {name}"


@pytest.mark.parametrize(
    ("name", "complaint"), [("", "the column file is empty"), (" ", "the column file is empty"), (".", ". is a folder, not a file")]
)
def test_what_is_no_name_of_a_file(tmp_path: Path, name: str, complaint: str) -> None:
    path = labels(tmp_path, f"file,emotion\na.jpg,sad\n{name},sad\n", files="a")
    assert refusal(path).message == f"{path}, line 3: {complaint}"


@pytest.mark.parametrize(
    "again", ["a.jpg,happy,,train", "./a.jpg,happy,,train", "a.jpg,,Q3,train", "a.jpg,sad,,val", "a.jpg,sad,,", "a.jpg,disgust,,train"]
)
def test_a_file_with_two_labels_is_named_with_both_lines(tmp_path: Path, again: str) -> None:
    path = labels(tmp_path, f"file,emotion,quadrant,split\na.jpg,sad,,train\nb.jpg,sad,,val\n{again}\n", files="ab")
    file = again.split(",")[0]
    assert refusal(path).message == f"{path}, line 4: {file} has another emotion or split than in line 2"


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
    [("path,emotion", "file"), ("file,mood", "emotion"), ("a.jpg,sad", "emotion and file"), ("file emotion", "emotion and file")],
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
    for end in ("\n", "\r\n", "\r"):
        path = labels(tmp_path, f"file,emotion{end}a.jpg,sad{end}björk.jpg,sad{end}".encode("latin-1"), files="a")
        assert refusal(path).message.startswith(f"{path}, line 3 is not UTF-8: ")
        assert "UTF-8" in refusal(path).hint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_called_that(tmp_path: Path, encoding: str) -> None:
    """What some spreadsheets call Unicode."""
    path = labels(tmp_path, "file\temotion\na.jpg\tsad\n".encode(encoding), files="a")
    assert refusal(path).message == f"{path}, line 1 is UTF-16, not UTF-8"
    assert refusal(path).hint == "save it as CSV in UTF-8"


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
    assert refusal(str(empty)).message == f"{empty} has no labelled files"


def test_a_folder_of_an_unknown_emotion(tmp_path: Path) -> None:
    (tmp_path / "sad").mkdir()
    (tmp_path / "Train").mkdir()
    assert refusal(str(tmp_path)).message == f"{tmp_path / 'Train'}: unknown emotion 'train'"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "sad").mkdir(mode=0)
    assert refusal(str(tmp_path)).message == f"{tmp_path / 'sad'} cannot be read: Permission denied"


# --- DeepEmotion, as far as it is read here (test_published) -----------------------------------------------------------------------------


def test_deepemotion_loses_its_placeholders(tmp_path: Path) -> None:
    for folder in ("Amusement", "awe", "disgust/2", "Fear"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "photo.jpg").write_text(folder)
        (tmp_path / folder / "gone.jpg").write_text("no longer available")
    notes: list[str] = []
    items = read_labels(str(tmp_path), note=notes.append)
    assert [(os.path.relpath(item.path, tmp_path), item.emotion, item.emotions) for item in items] == [
        ("Amusement/photo.jpg", "funny", {"funny"}),
        ("Fear/photo.jpg", "scary", {"scary"}),
        ("awe/photo.jpg", "", PARTIAL_WORDS["awe"]),
        ("disgust/2/photo.jpg", "", PARTIAL_WORDS["disgust"]),
    ]
    assert notes == [f"{tmp_path}: 4 files are placeholders of photos that are no longer available, and are left out"]


def test_other_folders_keep_theirs(tmp_path: Path) -> None:
    for folder in ("amusement", "awe", "fear"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.jpg").write_text("one for all")
    assert len(read_labels(str(tmp_path), note=pytest.fail)) == 3
    (tmp_path / "disgust").mkdir()
    for number, folder in enumerate(("amusement", "awe", "fear")):
        (tmp_path / folder / "photo.jpg").write_text(f"{number}")
    assert len(read_labels(str(tmp_path), note=pytest.fail)) == 3


# --- splits: drawn -----------------------------------------------------------------------------------------------------------------------


def item(path: Path | str, emotion: str = "sad", group: str = "", split: str = "", where: str = "") -> LabelledItem:
    """A part-label where `emotion` is several, joined with +."""
    emotions = frozenset(emotion.split("+"))
    return LabelledItem(str(path), "" if len(emotions) > 1 else emotion, emotions, group or str(path), split=split, where=where)


def splits_of(items: Sequence[LabelledItem], seed: int = 0) -> dict[str, str]:
    return {item.path: item.split for item in assign_splits(items, seed, "labels.csv")}


def counts(splits: Iterable[str]) -> list[int]:
    found = Counter(splits)
    return [found[split] for split in SPLITS]


@pytest.mark.parametrize(
    ("examples", "expected"),
    [(3, [1, 1, 1]), (5, [3, 1, 1]), (10, [8, 1, 1]), (20, [16, 2, 2]), (100, [80, 10, 10]), (1234, [988, 123, 123])],
)
def test_an_emotion_is_shared_out_80_10_10(examples: int, expected: list[int]) -> None:
    drawn = splits_of([item(f"{emotion}-{i}", emotion) for emotion in ("sad", "happy", "tender+happy") for i in range(examples)])
    for emotion in ("sad", "happy", "tender+happy"):
        shares = counts(split for path, split in drawn.items() if path.startswith(f"{emotion}-"))
        assert np.abs(np.subtract(shares, expected)).max() <= (1 if examples > 100 else 0)


GROUPED = st.lists(
    st.tuples(st.sampled_from(["sad", "happy", "angry", "exciting+tender"]), st.integers(1, 30)), min_size=1, max_size=60
).map(lambda groups: [item(f"{g}-{i}", emotion, f"group {g}") for g, (emotion, size) in enumerate(groups) for i in range(size)])
"""Groups of one emotion each; no such file is on disk."""


@given(GROUPED, st.integers(0, 2**32), st.randoms())
def test_what_holds_of_every_draw(items: list[LabelledItem], seed: int, random: Random) -> None:
    groups_of = {stratum: {one.group for one in items if one.stratum == stratum} for stratum in {one.stratum for one in items}}
    if all(len(groups) < 3 for groups in groups_of.values()):
        with pytest.raises(LabelError, match=r"labels\.csv: nothing is left for val and test"):
            assign_splits(items, seed, "labels.csv")
        return
    drawn = assign_splits(items, seed, "labels.csv")
    assert [replace(one, split="") for one in drawn] == items
    split_of = {one.group: one.split for one in drawn}
    assert all(one.split == split_of[one.group] for one in drawn)
    for stratum, groups in groups_of.items():
        sizes = {group: sum(one.group == group for one in items) for group in groups}
        shares = {split: sum(size for group, size in sizes.items() if split_of[group] == split) for split in SPLITS}
        if len(groups) < 3:
            assert shares["val"] == shares["test"] == 0
            continue
        assert all(shares.values()), stratum
        for split in ("val", "test"):
            assert abs(shares[split] - 0.1 * sum(sizes.values())) <= max(sizes.values())
    shuffled = random.sample(items, len(items))
    assert {one.path: one.split for one in assign_splits(shuffled, seed, "labels.csv")} == {one.path: one.split for one in drawn}


def test_another_seed_is_another_draw() -> None:
    items = [item(f"{i:02}") for i in range(40)]
    held_out = [frozenset(path for path, split in splits_of(items, seed).items() if split == "test") for seed in range(10)]
    assert len(set(held_out)) == 10
    assert splits_of(items, 3) == splits_of(items, 3)


def test_every_group_may_be_held_out() -> None:
    """Large or small, first or last: over the seeds, each of ten photos is in the test split about a tenth of the time."""
    items = [item(f"{i}") for i in range(10)]
    times = Counter(path for seed in range(300) for path, split in splits_of(items, seed).items() if split == "test")
    assert len(times) == 10
    assert all(10 < count < 60 for count in times.values())


def test_more_files_of_one_emotion_do_not_move_another(tmp_path: Path) -> None:
    sad = [item(f"{i}", "sad") for i in range(30)]
    happy = [item(f"h{i}", "happy") for i in range(17)]
    together = splits_of([*happy, *sad])
    assert splits_of(sad).items() <= together.items()


def test_a_moved_folder_is_shared_out_alike() -> None:
    names = [f"{i}.jpg" for i in range(30)]
    here, there = (splits_of([item(f"{folder}/{name}") for name in names]) for folder in ("/home/me/photos", "data"))
    assert [here[f"/home/me/photos/{name}"] for name in names] == [there[f"data/{name}"] for name in names]


@pytest.mark.parametrize("sizes", [(1, 20, 20), (20, 20, 1), (2, 3, 40), (1, 1, 30)])
def test_three_songs_are_one_for_each_split(sizes: tuple[int, ...]) -> None:
    """Whichever are drawn, the largest is trained on."""
    items = [item(f"{song} {window}", group=f"song {song}") for song, size in enumerate(sizes) for window in range(size)]
    for seed in range(12):
        train, *held_out = counts(splits_of(items, seed).values())
        assert train == max(sizes)
        assert sorted((train, *held_out)) == sorted(sizes)


@pytest.mark.parametrize(
    ("songs", "others"), [(["sad", "tender+happy", "tender+happy"], "tender+happy"), (["happy", "sad", "sad"], "happy")]
)
def test_a_group_of_several_emotions_is_shared_out_with_one(songs: list[str], others: str) -> None:
    """That of most of its items; but with one that is known before one that is not."""
    mixed = [item(f"mixed {song} {i}", emotion, f"mixed {song}") for song in range(20) for i, emotion in enumerate(songs)]
    plain = [item(f"plain {song} {i}", others, f"plain {song}") for song in range(20) for i in range(3)]
    for seed in range(12):
        drawn = splits_of([*mixed, *plain], seed)
        assert counts(split for path, split in drawn.items() if path.startswith("mixed")) == [48, 6, 6]


def test_a_group_of_several_emotions_counts_as_one_example() -> None:
    mixed = [item(f"x{i}", emotion, "song x") for i, emotion in enumerate(["angry", "sad", "sad"])]
    notes: list[str] = []
    assign_splits([*(item(f"{i}") for i in range(10)), *mixed], 0, "labels.csv", notes.append)
    assert len(notes) == 1 and notes[0].startswith("labels.csv: angry has one example, none in ")


def test_an_emotion_with_one_example_is_told() -> None:
    items = [
        *(item(f"{i}") for i in range(10)),
        item("a1", "angry", "song"),
        item("a2", "angry", "song"),
        item("t", "tender"),
        item("u", "tender"),
    ]
    notes: list[str] = []
    drawn = assign_splits(items, 0, "labels.csv", notes.append)
    assert {one.split for one in drawn if one.emotion != "sad"} == {"train"}
    assert notes == [
        "labels.csv: tender has 2 examples, none in val and test: it cannot be measured there",
        "labels.csv: angry has one example, none in val and test: it cannot be measured there",
    ]


def test_too_few_to_split_says_what_to_do() -> None:
    with pytest.raises(LabelError) as caught:
        assign_splits([item("a"), item("b"), item("c", "happy")], 0, "labels.csv")
    assert caught.value.message == "labels.csv: nothing is left for val and test: no emotion has 3 photos or songs"
    assert "column split: train, val, test" in caught.value.hint


# --- splits: files with the same bytes ---------------------------------------------------------------------------------------------------


def test_the_same_bytes_are_one_group(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i:02}" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_text(f"{i % 20}")
    for seed in range(5):
        drawn = assign_splits([item(path) for path in paths], seed, "labels.csv")
        assert counts(one.split for one in drawn) == [32, 4, 4]
        assert [one.split for one in drawn[:20]] == [one.split for one in drawn[20:]]
        assert [one.group for one in drawn] == [str(path) for path in paths[:20]] * 2


def test_groups_that_share_a_file_are_one(tmp_path: Path) -> None:
    """b's copies chain three songs together."""
    for name, text in {"a1": "a", "b1": "b", "b2": "b", "c2": "c", "c3": "c", "d3": "d", "e4": "e"}.items():
        (tmp_path / name).write_text(text)
    songs = [item(tmp_path / name, group=f"song {name[1]}") for name in ("e4", "d3", "c3", "c2", "b2", "b1", "a1")]
    others = [item(f"{i}") for i in range(10)]
    groups = {Path(one.path).name: one.group for one in assign_splits([*songs, *others], 0, "labels.csv")[:7]}
    assert groups == {**dict.fromkeys(("a1", "b1", "b2", "c2", "c3", "d3"), "song 1"), "e4": "song 4"}


def test_the_same_bytes_with_other_emotions_are_of_no_use(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("one for all")
    (tmp_path / "d").write_text("another")
    others = [item(f"{i}") for i in range(10)]
    copies = [
        item(tmp_path / name, emotion, where=f"l.csv, line {line}")
        for name, emotion, line in (("b", "sad", 2), ("a", "sad", 3), ("c", "happy", 4))
    ]
    dropped: list[tuple[str, str]] = []
    kept = assign_splits([*copies, item(tmp_path / "d"), *others], 0, "labels.csv", dropped=lambda *told: dropped.append(told))
    assert [one.path for one in kept] == [str(tmp_path / "d"), *(one.path for one in others)]
    a, c = tmp_path / "a", tmp_path / "c"
    reason = f"the same bytes are labelled sad as {a} (l.csv, line 3) and happy as {c} (l.csv, line 4)"
    assert dropped == [(str(tmp_path / name), reason) for name in ("a", "b", "c")]
    with pytest.raises(LabelError, match=r"labels\.csv: all of its files are copies"):
        assign_splits(copies, 0, "labels.csv")


def test_emotions_that_do_not_exclude_each_other_are_no_contradiction(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("one for all")
    items = [item(tmp_path / "a", "angry"), item(tmp_path / "b", "angry+scary"), *(item(f"{i}") for i in range(10))]
    kept = assign_splits(items, 0, "labels.csv", dropped=lambda *told: pytest.fail(str(told)))
    assert len(kept) == len(items)
    assert kept[0].group == kept[1].group
    tagged = [replace(one, emotion="", emotions=frozenset()) for one in items]  # nothing is known of their emotion
    assert len(assign_splits(tagged, 0, "labels.csv", dropped=lambda *told: pytest.fail(str(told)))) == len(items)


# --- splits: given -----------------------------------------------------------------------------------------------------------------------


def test_splits_that_are_given_stay(tmp_path: Path) -> None:
    items = [
        item("a", split="test"),
        item("b", split="train"),
        item("c"),
        item("d", "happy", split="train"),
        item("e", "angry", split="test"),
    ]
    notes: list[str] = []
    assert assign_splits(items, 0, "labels.csv", notes.append) == items
    assert notes == [
        "labels.csv: 1 of 5 rows name no split and are in none",
        "labels.csv: happy has one example, none in test: it cannot be measured there",
        "labels.csv: angry has one example, none in train: it cannot be learnt",
    ]


def test_nothing_is_drawn_where_a_split_was_named_for_files_of_no_use(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("one for all")
    items = [item(tmp_path / "a", "sad", split="train"), item(tmp_path / "b", "happy"), *(item(f"{i}") for i in range(10))]
    notes: list[str] = []
    assert assign_splits(items, 0, "labels.csv", notes.append) == items[2:]
    assert notes == ["labels.csv: 10 of 10 rows name no split and are in none"]


def test_a_group_in_two_splits_is_refused_with_both_lines() -> None:
    items = [item("a", group="song", split="train", where="l.csv, line 2"), item("b", group="song", where="l.csv, line 3")]
    assert assign_splits(items, 0, "l.csv") == items
    items.append(item("c", group="song", split="val", where="l.csv, line 4"))
    with pytest.raises(LabelError) as caught:
        assign_splits(items, 0, "l.csv")
    assert (
        caught.value.message
        == "c (l.csv, line 4) is in the split val, but a (l.csv, line 2) in train: they are of one group, or the same bytes"
    )


def test_the_same_bytes_in_two_splits_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("one for all")
    (tmp_path / "c").write_text("another one")
    good = [item(tmp_path / "a", split="val"), item(tmp_path / "b", split="val"), item(tmp_path / "c", split="train")]
    assert [one.split for one in assign_splits(good, 0, "labels.csv")] == ["val", "val", "train"]
    three = [item(f"{i}", split=split) for i, split in enumerate(SPLITS)]
    assert assign_splits(three, 0, "labels.csv", pytest.fail) == three
    with pytest.raises(LabelError, match=rf"{tmp_path}/b is in the split train, but {tmp_path}/a in val"):
        assign_splits([good[0], replace(good[1], split="train")], 0, "labels.csv")


@pytest.mark.parametrize("split", ["validation", "Train", "fold1"])
def test_an_unknown_split_is_named_with_its_line(tmp_path: Path, split: str) -> None:
    path = labels(tmp_path, f"file,emotion,split\na.jpg,sad, train \nb.jpg,sad,{split}\n", files="ab")
    items = read_labels(path)
    assert [one.split for one in items] == ["train", split]
    with pytest.raises(LabelError) as caught:
        assign_splits(items, 0, path)
    assert caught.value.message == f"{path}, line 3: unknown split '{split}'"
    assert caught.value.hint == "splits are train, val, test"


def test_the_labels_of_the_shipped_space_can_be_split(shared_data: Path) -> None:
    for name in ("images.csv", "music.csv"):
        path = str(shared_data / name)
        items = read_labels(path, note=pytest.fail)
        notes: list[str] = []
        assert assign_splits(items, 0, path, notes.append) == items
        assert notes == []


def test_sad_music_is_shared_out_apart_from_what_is_sad_by_its_quadrant(tmp_path: Path) -> None:
    """Or a few sad songs among many pieces of the third quadrant may be missing in a split."""
    items = [LabelledItem(str(tmp_path / f"{i}"), "sad" if i < 8 else "", frozenset(("sad",)), f"{i}") for i in range(208)]
    for seed in range(10):
        kept = assign_splits(items, seed, "labels.csv")
        assert {item.split for item in kept if item.emotion} == {"train", "val", "test"}
