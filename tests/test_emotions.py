from __future__ import annotations

import itertools

import pytest

from emoclim_cli.emotions import EMOTIONS, PHOTO_WORDS, QUADRANTS, RETRIEVAL_EMOTIONS, parse_mood
from emoclim_cli.errors import UsageError


def test_both_vocabularies_and_their_mapping_are_the_papers() -> None:
    assert sorted(EMOTIONS) == ["angry", "exciting", "funny", "happy", "sad", "scary", "tender"]
    assert PHOTO_WORDS == {
        "amusement": "funny",
        "contentment": "happy",
        "excitement": "exciting",
        "anger": "angry",
        "fear": "scary",
        "sadness": "sad",
    }
    assert set(RETRIEVAL_EMOTIONS) == set(PHOTO_WORDS.values())
    assert [emotion for emotion in EMOTIONS if emotion in RETRIEVAL_EMOTIONS] == list(RETRIEVAL_EMOTIONS)


def test_the_quadrants_cover_every_emotion_and_only_happy_is_in_two() -> None:
    assert frozenset().union(*QUADRANTS.values()) == set(EMOTIONS)
    shared = {emotion for a, b in itertools.combinations(QUADRANTS.values(), 2) for emotion in a & b}
    assert shared == {"happy"}


@pytest.mark.parametrize("word", EMOTIONS)
def test_every_emotion_is_a_mood(word: str) -> None:
    assert parse_mood(word) == parse_mood(f" {word.upper()} ") == (word,)


@pytest.mark.parametrize(("text", "mood"), [*((word, (emotion,)) for word, emotion in PHOTO_WORDS.items())])
def test_the_photo_vocabulary_is_mapped(text: str, mood: tuple[str, ...]) -> None:
    assert parse_mood(text) == mood


@pytest.mark.parametrize(
    ("text", "mood"),
    [
        ("tender+happy", ("tender", "happy")),
        ("happy + tender", ("happy", "tender")),
        ("sad+sadness+SAD", ("sad",)),
        ("anger+scary+angry", ("angry", "scary")),
    ],
)
def test_a_blend_keeps_its_order_and_names_each_emotion_once(text: str, mood: tuple[str, ...]) -> None:
    assert parse_mood(text) == mood


@pytest.mark.parametrize("text", ["", "+", "song", "awe", "disgust", "fish+chips", "sadly", "sad happy", "Q1"])
def test_what_holds_no_mood_word_is_not_a_mood(text: str) -> None:
    assert parse_mood(text) is None


@pytest.mark.parametrize(
    "text", ["./sad", "sad/", "/mnt/sad", "sad.jpg", "./happy+sad", "holiday/fun+sad", "sad+dog.jpg", "sad+.mp3", "c:\\sad+happy"]
)
def test_what_looks_like_a_path_is_not_a_mood(text: str) -> None:
    assert parse_mood(text) is None


@pytest.mark.parametrize(
    ("text", "unknown"), [("sad+hapy", "hapy"), ("awe+sad", "awe"), ("sad+", "(nothing)"), ("fish+sad+chips", "fish, chips")]
)
def test_a_blend_with_an_unknown_word_names_it_and_the_known_ones(text: str, unknown: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_mood(text)
    assert caught.value.message == f"no such mood: {unknown}"
    assert all(emotion in caught.value.hint for emotion in EMOTIONS)
