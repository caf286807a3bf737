"""When things happen in a show: which part of a track is played, and when each photo appears, so that both fall on places of the music.

Times are seconds. Shape letters: p breaks of a track, k onsets, n photos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARE = 0.35
"""How far a photo's appearance may move from where it was planned, as a share of the time of one photo; so no photo is shown for less than
three tenths of it."""
MOST_S = 2.0
"""The same in seconds."""
BEAT_S = 0.05
"""An onset that is so near to a beat is on it."""
BEAT_BONUS = 0.2
"""What that is worth, beside its strength of 0 to 1."""
DISTANCE_COST = 0.3
"""For an onset at the very edge of where a photo may move to, beside its strength. Weak onsets hardly count to an ear, nor to librosa in a
mix with louder ones: when nearness weighed more, fewer cuts were on an onset of the mix."""


OFF_COST = 0.4
"""For an end of a part that is `slack_s` from where it was planned, beside its calm of 0 to 1."""
LIVELY_BONUS = 1.0
"""For the part of a track with the most onsets; as much as a perfect place to begin at."""


HEARD_COST = 5.0
"""For a part that has been heard before in the show; more than all that speaks for any other."""
LEAST_PIECE_S = 2.0
"""A track that is shorter than this is not repeated at once: silence follows."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a track: what is played without a break."""

    offset_s: float
    length_s: float


def slack(photo_s: float) -> float:
    """How far the appearance of a photo of that length may move."""
    return min(SHARE * photo_s, MOST_S)


def pieces(
    breaks_s: np.ndarray, calm: np.ndarray, onsets_s: np.ndarray, length_s: float, slack_s: float, heard: Sequence[Piece] = ()
) -> list[Piece]:
    """What of a track fills `length_s`, or up to `slack_s` more or less, if it can then begin and end at good places.

    `breaks_s` (p,) are the places where it can be entered or left, first and last sound included, and `calm` (p,) how good each is, 0 to 1;
    of parts that are as good, that with more onsets is taken: a long fade-out is no music to look at photos by; and what has been `heard`
    in the show is avoided. One piece where the track is long enough; else it is played as often as is needed, in equal pieces. With a
    `slack_s` of 0 the length is kept exactly.
    """
    first, last = float(breaks_s[0]), float(breaks_s[-1])
    slack_s = min(slack_s, length_s / 4)
    if last - first < length_s - slack_s:
        count = math.ceil(length_s / max(last - first, LEAST_PIECE_S))
        return [Piece(first, length_s / count)] * count
    starts = np.flatnonzero(breaks_s <= last - (length_s - slack_s) + 1e-9)
    lively = np.searchsorted(onsets_s, breaks_s[starts] + length_s) - np.searchsorted(onsets_s, breaks_s[starts])
    # An end that is nowhere in particular adds nothing.
    worth = calm[starts] + LIVELY_BONUS * lively / max(int(lively.max()), 1)
    for piece in heard:
        low, high = np.maximum(breaks_s[starts], piece.offset_s), np.minimum(breaks_s[starts] + length_s, piece.offset_s + piece.length_s)
        worth -= HEARD_COST * np.maximum(high - low, 0) / length_s
    lengths = np.minimum(length_s, last - breaks_s[starts])
    if slack_s > 0:
        spans = breaks_s[None, :] - breaks_s[starts, None]  # (starts, p)
        off = np.abs(spans - length_s) / slack_s
        gains = np.where(off <= 1, calm[None, :] - OFF_COST * off, -np.inf)
        best = gains.argmax(axis=1)
        gain = gains[np.arange(len(starts)), best]
        found = gain > 0
        worth = worth + np.where(found, gain, 0)
        lengths = np.where(found, spans[np.arange(len(starts)), best], lengths)
    chosen = int(worth.argmax())  # the first of equals: the nearest to the beginning
    return [Piece(float(breaks_s[starts[chosen]]), float(lengths[chosen]))]


def landed(planned_s: Sequence[float], onsets_s: np.ndarray, strengths: np.ndarray, beats_s: np.ndarray, slack_s: float) -> list[float]:
    """Each planned time moved to the best onset within `slack_s`: strong, on a beat, near. Where there is none it stays."""
    worth = strengths + BEAT_BONUS * _near(onsets_s, beats_s)
    times = []
    for planned in planned_s:
        off = np.abs(onsets_s - planned)
        within = np.flatnonzero(off <= slack_s)
        if len(within):
            best = within[np.argmax(worth[within] - DISTANCE_COST * off[within] / slack_s)]
            times.append(float(onsets_s[best]))
        else:
            times.append(planned)
    return times


def _near(onsets_s: np.ndarray, beats_s: np.ndarray) -> np.ndarray:
    """(k,) bool: whether a beat is within BEAT_S."""
    if not len(beats_s):
        return np.zeros(len(onsets_s), bool)
    after = np.clip(np.searchsorted(beats_s, onsets_s), 1, len(beats_s) - 1) if len(beats_s) > 1 else np.zeros(len(onsets_s), np.int64)
    nearest = np.minimum(np.abs(beats_s[after] - onsets_s), np.abs(beats_s[np.maximum(after - 1, 0)] - onsets_s))
    near: np.ndarray = nearest <= BEAT_S
    return near
