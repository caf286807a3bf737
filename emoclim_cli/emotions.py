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
"""The photo vocabulary (DeepEmotion) -> the music vocabulary. Its `awe` and `disgust` have no counterpart."""

QUADRANTS: dict[str, frozenset[str]] = {
    "Q1": frozenset(("happy", "funny", "exciting")),
    "Q2": frozenset(("scary", "angry")),
    "Q3": frozenset(("sad",)),
    "Q4": frozenset(("tender", "happy")),
}
"""What a piece may be of which only the quadrant is known: valence and arousal ++, -+, --, +-.

Contentment counts as happy, so happy is in two."""


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
