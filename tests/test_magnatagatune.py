from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from emoclim_cli.errors import LabelError
from emoclim_cli.magnatagatune import ANNOTATIONS, FOLDER_SPLITS, TagSet, read_tag_set

FOLDERS = "0123456789abcdef"
Clips = Sequence[tuple[str, str]]
"""Path and tags, with a space between them."""


def published(clips: Clips, tags: Sequence[str]) -> str:
    """As `annotations_final.csv` comes: tabs, quotation marks around all, CR LF."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", quoting=csv.QUOTE_ALL)
    writer.writerow(["clip_id", *tags, "mp3_path"])
    for number, (path, own) in enumerate(clips, 2):
        writer.writerow([number, *(int(tag in own.split()) for tag in tags), path])
    return out.getvalue()


def lay(folder: Path, text: str | bytes, paths: Sequence[str] = (), *, name: str = ANNOTATIONS) -> str:
    """Writes the annotations and a file for each path; gives back the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())
    return str(folder)


def a_clip_per_folder(tags: str = "rock") -> list[tuple[str, str]]:
    return [(f"{letter}/artist-album-01-song-{i}-0-29.mp3", tags) for i, letter in enumerate(FOLDERS)]


def refusal(path: str | Path, top: int = 50) -> LabelError:
    with pytest.raises(LabelError) as caught:
        read_tag_set(str(path), top)
    return caught.value


def tags_of(found: TagSet) -> dict[str, set[str]]:
    """File name -> its tags."""
    rows = zip(found.items, found.carried, strict=True)
    return {os.path.basename(item.path): {tag for tag, has in zip(found.tags, row, strict=True) if has} for item, row in rows}


# --- as it comes -------------------------------------------------------------------------------------------------------------------------


def test_the_set_as_it_comes(tmp_path: Path) -> None:
    clips = [*a_clip_per_folder("rock"), ("0/a-b-02-x-29-58.mp3", "rock slow"), ("e/a-b-02-y-0-29.mp3", "slow")]
    data = lay(tmp_path, published(clips, ["slow", "rock", "no vocals"]), [path for path, _ in clips])
    found = read_tag_set(data)
    assert found.tags == ("rock", "slow")  # by frequency; nobody carries the third
    assert [item.path for item in found.items] == [str(tmp_path / path) for path, _ in clips]
    assert found.items[3].where == f"{tmp_path / ANNOTATIONS}, line 5"
    assert all(item.emotion == "" and not item.emotions for item in found.items)
    assert found.carried.dtype == bool
    assert found.carried.tolist() == [[True, False]] * 16 + [[True, True], [False, True]]
    assert (found.missing, found.untagged) == (0, 0)


def test_the_usual_split_by_folder(tmp_path: Path) -> None:
    clips = a_clip_per_folder()
    found = read_tag_set(lay(tmp_path, published(clips, ["rock"]), [path for path, _ in clips]))
    assert [item.split for item in found.items] == ["train"] * 12 + ["val"] + ["test"] * 3
    assert "".join(FOLDER_SPLITS) == FOLDERS


def test_clips_may_be_in_a_folder_mp3(tmp_path: Path) -> None:
    clips = a_clip_per_folder()
    on_disk = [f"mp3/{path}" if i % 2 else path for i, (path, _) in enumerate(clips)]
    found = read_tag_set(lay(tmp_path, published(clips, ["rock"]), on_disk))
    assert [item.path for item in found.items] == [str(tmp_path / path) for path in on_disk]
    named = [(f"mp3/{path}", tags) for path, tags in clips]
    again = read_tag_set(lay(tmp_path / "named", published(named, ["rock"]), [path for path, _ in named]))
    assert [item.split for item in again.items] == [item.split for item in found.items]


@pytest.mark.parametrize(
    ("top", "expected"), [(1, ["b"]), (2, ["b", "a"]), (3, ["b", "a", "c"]), (4, ["b", "a", "c", "d"]), (50, ["b", "a", "c", "d"])]
)
def test_the_top_tags_are_those_that_most_clips_carry_and_ties_go_by_name(tmp_path: Path, top: int, expected: list[str]) -> None:
    clips = [(path, "b a" if i < 9 else "b c" if i < 15 else "b") for i, (path, _) in enumerate(a_clip_per_folder())]
    extra = [(f"0/{tag}{i}-0-29.mp3", tag) for tag in "cd" for i in range(3 if tag == "c" else 9)]  # a, c and d: 9 each
    data = lay(tmp_path, published([*clips, *extra], ["never", *"dcba"]), [path for path, _ in [*clips, *extra]])
    assert list(read_tag_set(data, top).tags) == expected


def test_clips_without_a_top_tag_are_left_out_and_counted(tmp_path: Path) -> None:
    clips = [*a_clip_per_folder("rock"), ("1/rare-0-29.mp3", "sitar"), ("1/none-0-29.mp3", "")]
    data = lay(tmp_path, published(clips, ["sitar", "rock"]), [path for path, _ in clips])
    found = read_tag_set(data, 1)
    assert (found.tags, len(found.items), found.untagged) == (("rock",), 16, 2)
    assert not {"rare-0-29.mp3", "none-0-29.mp3"} & set(tags_of(found))
    assert read_tag_set(data).untagged == 1


def test_clips_that_are_not_on_disk_are_left_out_and_counted_but_count_for_the_tags(tmp_path: Path) -> None:
    clips = [*a_clip_per_folder("rock"), *((f"2/gone{i}-0-29.mp3", "harp") for i in range(17))]
    data = lay(tmp_path, published(clips, ["rock", "harp"]), [path for path, _ in clips[:16]])
    (tmp_path / "2" / "gone0-0-29.mp3").mkdir()  # no file
    found = read_tag_set(data)
    assert (found.tags, found.missing, found.untagged, len(found.items)) == (("harp", "rock"), 17, 0, 16)
    only_harp = refusal(data, 1)
    assert "no clip is left for train, val, test" in only_harp.message
    assert "17 are not on disk and 16 carry none of the tags" in only_harp.message


def test_some_of_its_clips(tmp_path: Path) -> None:
    clips = [(path, "a b" if i % 3 else "a") for i, (path, _) in enumerate(a_clip_per_folder())]
    found = read_tag_set(lay(tmp_path, published(clips, ["a", "b"]), [path for path, _ in clips]))
    assert found.carried_by([found.items[i] for i in (4, 3, 4)]).tolist() == [[True, True], [True, False], [True, True]]
    assert found.carried_by(found.items).tolist() == found.carried.tolist()


# --- a set of one's own ------------------------------------------------------------------------------------------------------------------

OWN = "mp3_path,warm,cold,split,group\nx/1.wav,1,0,train,s\nx/2.wav,0,1,train,s\ny/3.opus,1,1,val,\n4.mp3,1,0,test,t\n"
OWN_FILES = ("x/1.wav", "x/2.wav", "y/3.opus", "4.mp3")


def test_a_csv_of_ones_own(tmp_path: Path) -> None:
    lay(tmp_path, OWN, OWN_FILES, name="mine.csv")
    found = read_tag_set(str(tmp_path / "mine.csv"))
    assert found.tags == ("warm", "cold")
    assert tags_of(found) == {"1.wav": {"warm"}, "2.wav": {"cold"}, "3.opus": {"warm", "cold"}, "4.mp3": {"warm"}}
    assert [item.split for item in found.items] == ["train", "train", "val", "test"]
    assert [item.group for item in found.items] == ["s", "s", "y/3.opus", "t"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("warm", " warm ").replace("val", "val "),
        lambda text: text.replace("x/1.wav", '"x/1.wav"').replace("warm", '"warm"'),
    ],
    ids=["semicolons", "tabs", "BOM", "CR LF", "CR", "blank lines", "no end", "spaces", "quoted"],
)
def test_what_spreadsheets_write(tmp_path: Path, change: object) -> None:
    assert callable(change)
    expected = read_tag_set(lay(tmp_path, OWN, OWN_FILES))
    found = read_tag_set(lay(tmp_path, change(OWN)))
    assert (found.tags, tags_of(found)) == (expected.tags, tags_of(expected))


def test_a_tag_may_have_any_name(tmp_path: Path) -> None:
    text = OWN.replace("warm", '"wärme, ""Ähnliches"""').replace("cold", "[cold]")
    assert read_tag_set(lay(tmp_path, text, OWN_FILES)).tags == ('wärme, "Ähnliches"', "[cold]")


def test_paths_are_looked_for_beside_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "set", OWN, OWN_FILES)
    monkeypatch.chdir(tmp_path)
    for name in ("set", f"set/{ANNOTATIONS}"):
        assert [item.path for item in read_tag_set(name).items] == [str(tmp_path / "set" / path) for path in OWN_FILES]


# --- what cannot be used -----------------------------------------------------------------------------------------------------------------


def test_a_folder_without_annotations(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.message == f"there is no file {tmp_path / ANNOTATIONS}"
    assert ANNOTATIONS in error.hint and "0 to 9 and a to f" in error.hint
    assert "nowhere.csv" in refusal(tmp_path / "nowhere.csv").message


BAD: Mapping[str, tuple[str, str, str]] = {
    "neither 0 nor 1": ("x/2.wav,0,1", "x/2.wav,0,2", "line 3: 'cold' is '2', neither 0 nor 1"),
    "an empty value": ("x/2.wav,0,1", "x/2.wav,,1", "line 3: 'warm' is '', neither 0 nor 1"),
    "a word": ("4.mp3,1,0", "4.mp3,yes,no", "line 5: 'warm' is 'yes', neither 0 nor 1"),
    "two digits that join to others": ("x/2.wav,0,1", "x/2.wav,01,", "line 3: 'warm' is '01', neither 0 nor 1"),
    "a field too few": ("4.mp3,1,0,test,t", "4.mp3,1,0,test", "line 5: 4 fields, but the first line has 5"),
    "a field too many": ("4.mp3,1,0,test,t", "4.mp3,1,0,test,t,", "line 5: 6 fields, but the first line has 5"),
    "an unknown split": ("4.mp3,1,0,test", "4.mp3,1,0,exam", "line 5: unknown split 'exam'"),
    "an empty split": ("4.mp3,1,0,test", "4.mp3,1,0,", "line 5: unknown split ''"),
    "a clip twice": ("x/2.wav", "x/1.wav", "line 3: 'x/1.wav' stands in line 2 already"),
    "a group in two splits": ("test,t", "test,s", "line 5: the group 's' is in test, but in train in line 2"),
    "no path column": ("mp3_path", "path", "the first line has no column mp3_path"),
    "a tag twice": ("warm,cold", "warm,warm", "the first line has two columns 'warm'"),
    "a tag without a name": ("warm,cold", "warm,", "the first line has a column without a name"),
    "a quotation mark that never ends": ("x/2.wav", '"x/2.wav', "line 3: 1 fields"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_file_and_line(tmp_path: Path, name: str) -> None:
    good, bad, said = BAD[name]
    assert OWN.count(good) >= 1
    data = lay(tmp_path, OWN.replace(good, bad, 1), OWN_FILES)
    message = refusal(data).message
    assert message.startswith(str(tmp_path / ANNOTATIONS))
    assert said in message


def test_a_quotation_mark_that_never_ends_is_suspected(tmp_path: Path) -> None:
    assert "quotation mark" in refusal(lay(tmp_path, OWN.replace("x/2.wav", '"x/2.wav'), OWN_FILES)).hint
    long = "x" * (csv.field_size_limit() + 1)
    error = refusal(lay(tmp_path, OWN.replace("4.mp3", long), OWN_FILES))
    assert "line 5: field larger" in error.message
    assert "quotation mark" in error.hint


@pytest.mark.parametrize("path", ["g/1.mp3", "1.mp3", "ab/1.mp3", "F/1.mp3"])
def test_a_folder_that_says_no_split(tmp_path: Path, path: str) -> None:
    error = refusal(lay(tmp_path, published([*a_clip_per_folder(), (path, "rock")], ["rock"])))
    assert f"line 18: the folder of {path!r} says no split" in error.message
    assert "add a column split" in error.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the first line has no column mp3_path"),
        ("mp3_path,warm,split\n", "has no clips"),
        ("mp3_path,split\n1.mp3,train\n", "has no tags"),
        (b"mp3_path,w\xe4rme,split\n", "line 1 is not UTF-8"),
    ],
)
def test_files_with_nothing_in_them(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refusal(lay(tmp_path, text)).message


def test_a_split_that_is_left_without_a_clip(tmp_path: Path) -> None:
    clips = a_clip_per_folder()
    error = refusal(lay(tmp_path, published(clips, ["rock"]), [path for path, _ in clips if path[0] not in "cdef"]))
    assert "no clip is left for val, test: of 16 clips" in error.message
    assert "4 are not on disk and 0 carry none of the tags" in error.message
    assert str(tmp_path / "f") in error.hint


def test_the_whole_set_is_read_in_seconds(tmp_path: Path) -> None:
    """25,863 clips and 188 tags."""
    rng = np.random.default_rng(0)
    carried = rng.random((25_863, 188)) < np.linspace(0.2, 0.001, 188)
    folders = rng.integers(0, 16, len(carried))
    (tmp_path / "mp3").mkdir()
    for letter in FOLDERS:
        (tmp_path / "mp3" / letter).mkdir()
        (tmp_path / "mp3" / letter / "there-0-29.mp3").touch()
    named = set()
    lines = ["\t".join(["clip_id", *(f"tag {i:03}" for i in range(188)), "mp3_path"])]
    for i, (row, folder) in enumerate(zip(carried.astype(np.uint8).tolist(), folders, strict=True)):
        name = "there" if folder not in named else f"song-{i}"
        named.add(folder)
        lines.append("\t".join([str(i), *map(str, row), f"{folder:x}/{name}-0-29.mp3"]))
    data = lay(tmp_path, "\n".join(lines))
    found = read_tag_set(data)
    assert len(found.tags) == 50
    assert set(found.tags) == {f"tag {i:03}" for i in np.argsort(-carried.sum(axis=0), kind="stable")[:50]}
    assert len(found.items) + found.untagged == 16
    assert found.missing == 25_863 - 16
