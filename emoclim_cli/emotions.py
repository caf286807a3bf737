"""The words for emotions: the paper's two vocabularies, their mapping, and where each lies in the valence-arousal plane."""

from __future__ import annotations

from emoclim_cli.errors import UsageError

EMOTIONS = ("happy", "funny", "exciting", "tender", "sad", "scary", "angry")
"""The music vocabulary (AudioSet's moods), warm to cold."""

RETRIEVAL_EMOTIONS = ("happy", "funny", "exciting", "sad", "scary", "angry")
"""The six that photos are labelled with as well; retrieval is measured on these (paper, section 3.1)."""

PHOTO_WORDS = {
    "amusement": "funny",
    "contentment": "happy",
    "excitement": "exciting",
    "anger": "angry",
    "fear": "scary",
    "sadness": "sad",
}
"""The photo vocabulary (DeepEmotion) -> the music vocabulary. Its other two words are in PARTIAL_WORDS."""

PARTIAL_WORDS: dict[str, frozenset[str]] = {
    "awe": frozenset(("exciting", "tender")),
    "disgust": frozenset(("angry", "scary")),
}
"""The photo words that have no counterpart, and what such a photo may be in the music vocabulary: known in part, as by a quadrant."""

MOOD_WORDS = {"aggressive": "angry"}
"""What mood taggers say -> the music vocabulary, beside its own words."""

QUADRANTS: dict[str, frozenset[str]] = {
    "Q1": frozenset(("happy", "funny", "exciting")),
    "Q2": frozenset(("scary", "angry")),
    "Q3": frozenset(("sad",)),
    "Q4": frozenset(("tender", "happy")),
}
"""What a piece may be of which only the quadrant is known: valence and arousal ++, -+, --, +-.

Contentment counts as happy, so happy is in two."""

CIRCUMPLEX: dict[str, float] = {
    "happy": 7.8,
    "funny": 24.9,  # delighted
    "exciting": 48.6,  # excited
    "tender": 328.6,  # serene
    "sad": 207.5,
    "scary": 116.0,  # afraid
    "angry": 99.0,
}
"""The angle in degrees of each emotion in the valence-arousal plane: 0 is pleasant, 90 aroused.

The circular scaling coordinates of Russell 1980, "A circumplex model of affect", of the word itself or of the one named beside it."""


def parse_mood(text: str) -> tuple[str, ...] | None:
    """The emotions of a mood query such as `sad` or `tender+happy`, either vocabulary; None where it is not one, or looks like a path.

    Raises UsageError where only some of the words are known.
    """
    if any(mark in text for mark in "/\\."):  # `./fun+sad` and `sad+dog.jpg` are files
        return None
    words = [word.strip().lower() for word in text.split("+")]
    known = [word in EMOTIONS or word in PHOTO_WORDS for word in words]
    if not any(known):
        return None
    if not all(known):
        unknown = ", ".join(word or "(nothing)" for word, is_known in zip(words, known, strict=True) if not is_known)
        raise UsageError(f"no such mood: {unknown}", f"moods are {', '.join(EMOTIONS)}; join them with +")
    return tuple(dict.fromkeys(PHOTO_WORDS.get(word, word) for word in words))
