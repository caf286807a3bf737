from __future__ import annotations

import itertools

import pytest

from emoclim_cli.emotions import CIRCUMPLEX, EMOTIONS, PARTIAL_WORDS, PHOTO_WORDS, QUADRANTS, RETRIEVAL_EMOTIONS, parse_mood
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


def test_the_two_words_without_a_counterpart_are_known_in_part() -> None:
    expected = {"awe": {"exciting", "tender"}, "disgust": {"angry", "scary"}}
    assert expected == PARTIAL_WORDS
    assert not set(PARTIAL_WORDS) & {*EMOTIONS, *PHOTO_WORDS}


def test_the_circumplex_has_a_place_for_every_emotion() -> None:
    assert tuple(CIRCUMPLEX) == EMOTIONS
    assert list(CIRCUMPLEX.values()) == [7.8, 24.9, 48.6, 328.6, 207.5, 116.0, 99.0]


@pytest.mark.parametrize(("quadrant", "low", "high"), [("Q1", 0, 90), ("Q2", 90, 180), ("Q3", 180, 270), ("Q4", 270, 360)])
def test_an_emotion_lies_in_its_quadrant_of_the_circumplex(quadrant: str, low: int, high: int) -> None:
    """But for the contentment in Q4, which counts as happy."""
    assert all(low < CIRCUMPLEX[emotion] < high for emotion in QUADRANTS[quadrant] - ({"happy"} if quadrant == "Q4" else set()))


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
