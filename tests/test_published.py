from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.errors import LabelError
from emoclim_cli.labels import read_labels
from emoclim_cli.published import MOST_COPIES, Clip, audioset_clips, is_audioset, is_deepemotion, placeholders

HEADER = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=20371, num_segs=20371, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
"""
IDS = {emotion: f"/t/mood{number}" for number, emotion in enumerate(EMOTIONS)}
OTHER = "/m/04rlf"  # music of no mood


def ontology(folder: Path, moods: Sequence[str] = EMOTIONS) -> None:
    """As AudioSet's, but for ids of our own; names are what counts."""
    classes = [{"id": OTHER, "name": "Music", "child_ids": list(IDS.values()), "restrictions": []}]
    classes += [{"id": IDS[mood], "name": f"{mood.title()} music", "child_ids": [], "restrictions": []} for mood in moods]
    (folder / "ontology.json").write_text(json.dumps(classes))


def audioset(folder: Path, *rows: str, clips: Sequence[str] = (), name: str = "eval_segments.csv", header: str = HEADER) -> str:
    """Rows name a mood by its word; in clips' names the suffix may be left out."""
    ontology(folder)
    text = header + "".join(f"{row}\n" for row in rows)
    for emotion, id_ in IDS.items():
        text = text.replace(f"<{emotion}>", id_)
    (folder / name).write_text(text.replace("<music>", OTHER))
    for clip in clips:
        file = folder / (clip if os.path.splitext(clip)[1] else f"{clip}.wav")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(clip)
    return str(folder)


def refusal(folder: str) -> LabelError:
    with pytest.raises(LabelError) as caught:
        audioset_clips(folder)
    return caught.value


# --- DeepEmotion -------------------------------------------------------------------------------------------------------------------------


def test_deepemotion_is_known_by_two_of_its_folders() -> None:
    assert is_deepemotion(["amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"])
    assert not is_deepemotion(["amusement", "anger", "contentment", "disgust", "excitement", "fear", "sadness"])


def test_placeholders_are_under_several_emotions_or_many(tmp_path: Path) -> None:
    def photos(content: str, *emotions: str) -> dict[str, str]:
        paths = {tmp_path / f"{content}-{i}.jpg": emotion for i, emotion in enumerate(emotions)}
        for path in paths:
            path.write_text(content)
        return {str(path): emotion for path, emotion in paths.items()}

    gone = photos("under two", "awe", "fear") | photos("often", *["anger"] * (MOST_COPIES + 1))
    kept = photos("once", "awe") | photos("uploaded twice", "fear", "fear") | photos("not that often", *["anger"] * MOST_COPIES)
    assert placeholders(gone | kept) == set(gone)


# --- AudioSet: good ----------------------------------------------------------------------------------------------------------------------


def test_clips_have_the_mood_of_their_segment(tmp_path: Path) -> None:
    rows = [f'{emotion:-<11}, 30.000, 40.000, "<music>,<{emotion}>"' for emotion in EMOTIONS]
    folder = audioset(
        tmp_path, *rows, 'music-alone, 0.000, 10.000, "<music>"', clips=[f"clips/{e:-<11}" for e in EMOTIONS] + ["music-alone"]
    )
    assert is_audioset(folder)
    lines = enumerate(EMOTIONS, start=4)
    clips = [Clip(f"{folder}/clips/{e:-<11}.wav", e, f"{e:-<11}", f"{folder}/eval_segments.csv, line {line}") for line, e in lines]
    assert audioset_clips(folder, pytest.fail) == clips
    items = read_labels(folder, note=pytest.fail)
    assert [(i.path, i.emotion, i.emotions, i.group, i.split, i.where) for i in items] == [
        (clip.path, clip.emotion, {clip.emotion}, clip.video, "", clip.where) for clip in clips
    ]


@pytest.mark.parametrize("video", ["abcdefghijk", "-_-_-_-_-_-", "Yabcdefghij", "__30_40_50_", "abcdefg_300", "YYYYYYYYYYY", "-0RWZT-miFs"])
@pytest.mark.parametrize(
    "name",
    [
        "{}.wav",
        "Y{}.wav",
        "{}_30.wav",
        "{}_30.000.wav",
        "{}_30000.m4a",
        "{}_30_40.flac",
        "{}_30000_40000.wav",
        "Y{}_30.000_40.000.OPUS",
        "a/b/{}.mp3",
    ],
)
def test_the_names_that_clips_go_by(tmp_path: Path, video: str, name: str) -> None:
    file = name.format(video)
    folder = audioset(tmp_path, f'{video}, 30.000, 40.000, "<sad>"', clips=[file, "unrelated_30"])
    assert [(clip.path, clip.video) for clip in audioset_clips(folder, pytest.fail)] == [(os.path.join(folder, file), video)]


@pytest.mark.parametrize(
    "name",
    [
        "abcdefghijk_40.wav",
        "abcdefghijk_40_30.wav",
        "abcdefghijk_3.wav",
        "abcdefghij.wav",
        "xabcdefghijk.wav",
        "abcdefghijk.json",
        "abcdefghijk.jpg",
        "abcdefghijk",
    ],
)
def test_names_of_something_else(tmp_path: Path, name: str) -> None:
    folder = audioset(tmp_path, 'abcdefghijk, 30.000, 40.000, "<sad>"')
    (tmp_path / name).write_text("{}")
    assert refusal(folder).message == f"{folder}: none of the clips that it lists (1) is there"


def test_segments_of_one_video_are_told_apart_by_their_start(tmp_path: Path) -> None:
    rows = ['abcdefghijk, 0.000, 10.000, "<sad>"', 'abcdefghijk, 30.000, 40.000, "<happy>"', 'abcdefghijk, 60.5, 70.5, "<angry>"']
    folder = audioset(tmp_path, *rows, clips=["abcdefghijk_0", "abcdefghijk_30000", "abcdefghijk_60"])
    assert [(Path(clip.path).name, clip.emotion) for clip in audioset_clips(folder)] == [
        ("abcdefghijk_0.wav", "sad"),
        ("abcdefghijk_30000.wav", "happy"),
        ("abcdefghijk_60.wav", "angry"),
    ]
    assert {clip.video for clip in audioset_clips(folder)} == {"abcdefghijk"}


def test_a_name_without_a_start_is_nobody_s_where_there_are_several(tmp_path: Path) -> None:
    rows = ['abcdefghijk, 0.000, 10.000, "<sad>"', 'abcdefghijk, 30.000, 40.000, "<happy>"']
    folder = audioset(tmp_path, *rows, clips=["abcdefghijk", "abcdefghijk_30"])
    notes: list[str] = []
    assert [clip.emotion for clip in audioset_clips(folder, notes.append)] == ["happy"]
    assert notes == [f"{folder}: 1 of 2 clips are not there and are skipped"]


def test_a_clip_that_is_there_twice_is_one(tmp_path: Path) -> None:
    folder = audioset(tmp_path, 'abcdefghijk, 30.000, 40.000, "<sad>"', clips=["a/abcdefghijk.wav", "b/Yabcdefghijk_30.wav"])
    assert [clip.path for clip in audioset_clips(folder)] == [f"{folder}/b/Yabcdefghijk_30.wav"]


def test_several_moods_and_missing_clips_are_counted(tmp_path: Path) -> None:
    rows = [
        'aaaaaaaaaaa, 30.000, 40.000, "<sad>,<tender>"',
        'bbbbbbbbbbb, 30.000, 40.000, "<sad>,<music>"',
        'ccccccccccc, 30.000, 40.000, "<happy>"',
        'ddddddddddd, 30.000, 40.000, "<happy>"',
        'eeeeeeeeeee, 30.000, 40.000, "<music>"',
    ]
    folder = audioset(tmp_path, *rows, clips=["aaaaaaaaaaa", "bbbbbbbbbbb", "eeeeeeeeeee"])
    notes: list[str] = []
    assert [clip.video for clip in audioset_clips(folder, notes.append)] == ["bbbbbbbbbbb"]
    assert notes == [
        f"{folder}: 1 of 4 segments have several moods and are left out",
        f"{folder}: 2 of 3 clips are not there and are skipped",
    ]


def test_several_lists_add_up(tmp_path: Path) -> None:
    """And a second mood in another list is a second mood. The list of class names, which AudioSet comes with, is none of segments."""
    audioset(tmp_path, 'aaaaaaaaaaa, 30.000, 40.000, "<sad>"', 'bbbbbbbbbbb, 0.000, 10.000, "<sad>"', clips=["aaaaaaaaaaa", "bbbbbbbbbbb"])
    audioset(
        tmp_path,
        'ccccccccccc, 0.000, 10.000, "<happy>"',
        'bbbbbbbbbbb, 0.000, 10.000, "<sad>"',
        name="unbalanced.csv",
        clips=["ccccccccccc"],
    )
    audioset(tmp_path, 'aaaaaaaaaaa, 30.000, 40.000, "<angry>"', name="balanced.csv")
    audioset(
        tmp_path,
        '276,<happy>,"Happy music"',
        '279,<tender>,"Tender music"',
        name="class_labels_indices.csv",
        header="index,mid,display_name\n",
    )
    assert [(clip.video, clip.emotion) for clip in audioset_clips(str(tmp_path))] == [("bbbbbbbbbbb", "sad"), ("ccccccccccc", "happy")]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("YTID,start_seconds,end_seconds,positive_labels\n", 'aaaaaaaaaaa,30,40,"<music>,<sad>"'),
        ("", 'aaaaaaaaaaa, 30.000, 40.000, "<music>,<sad>"'),
        ("", "aaaaaaaaaaa,30.000,40.000,<music>,<sad>"),
        ("\ufeff" + HEADER, 'aaaaaaaaaaa, 30.000, 40.000, "<music>,<sad>"\r'),
    ],
    ids=["names of columns", "no header", "no quotation marks", "BOM, CR LF"],
)
def test_lists_that_others_made(tmp_path: Path, header: str, row: str) -> None:
    folder = audioset(tmp_path, row, header=header, clips=["aaaaaaaaaaa"])
    assert [clip.emotion for clip in audioset_clips(folder)] == ["sad"]


def test_a_long_list_is_read_quickly(tmp_path: Path) -> None:
    """AudioSet has two million segments; those without a mood are not parsed, whatever they hold."""
    rows = ["this is no segment"] * 200_000
    folder = audioset(tmp_path, *rows, 'aaaaaaaaaaa, 30.000, 40.000, "<sad>"', clips=["aaaaaaaaaaa"])
    assert [clip.where for clip in audioset_clips(folder)] == [f"{folder}/eval_segments.csv, line 200004"]


# --- AudioSet: bad -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        'aaaaaaaaaaa, "<sad>"',
        'aaaaaaaaaaa, 30.000, forty, "<sad>"',
        ', 30.000, 40.000, "<sad>"',
        'aaaaaaaaaaa; 30.000; 40.000; "<sad>"',
        "<sad>",
    ],
)
def test_a_row_that_is_no_segment_is_named(tmp_path: Path, row: str) -> None:
    folder = audioset(tmp_path, 'bbbbbbbbbbb, 30.000, 40.000, "<sad>"', row, clips=["aaaaaaaaaaa", "bbbbbbbbbbb"])
    assert refusal(folder).message == f"{folder}/eval_segments.csv, line 5 is no segment"
    assert "YTID, start_seconds" in refusal(folder).hint


def test_no_clip_is_there(tmp_path: Path) -> None:
    folder = audioset(tmp_path, 'aaaaaaaaaaa, 30.000, 40.000, "<sad>"', 'bbbbbbbbbbb, 30.000, 40.000, "<sad>"')
    assert refusal(folder).message == f"{folder}: none of the clips that it lists (2) is there"
    assert "aaaaaaaaaaa.wav" in refusal(folder).hint


def test_no_segment_has_one_mood(tmp_path: Path) -> None:
    folder = audioset(
        tmp_path, 'aaaaaaaaaaa, 30.000, 40.000, "<music>"', 'bbbbbbbbbbb, 30.000, 40.000, "<sad>,<happy>"', clips=["bbbbbbbbbbb"]
    )
    assert refusal(folder).message.startswith(f"{folder}: no segment has one of the moods happy, funny")


def test_there_is_no_list_of_segments(tmp_path: Path) -> None:
    ontology(tmp_path)
    (tmp_path / "notes.csv").write_text("index,mid,display_name\n")
    (tmp_path / "empty.csv").write_text("")
    assert refusal(str(tmp_path)).message == f"{tmp_path} has an ontology.json, but no CSV of segments beside it"
    assert "eval_segments.csv" in refusal(str(tmp_path)).hint


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", "[" * 100_000, '[{"id": "/t/1"}]', "null", "\udcff"])
def test_what_is_no_ontology(tmp_path: Path, text: str) -> None:
    folder = audioset(tmp_path, 'aaaaaaaaaaa, 30.000, 40.000, "<sad>"')
    (tmp_path / "ontology.json").write_bytes(os.fsencode(text))
    assert refusal(folder).message.startswith(f"{folder}/ontology.json")


def test_an_ontology_without_a_mood(tmp_path: Path) -> None:
    folder = audioset(tmp_path, 'aaaaaaaaaaa, 30.000, 40.000, "<sad>"')
    ontology(tmp_path, [emotion for emotion in EMOTIONS if emotion not in ("tender", "sad")])
    assert refusal(folder).message == f"{folder}/ontology.json: there is no class tender music and no sad music"
