"""Where a sequence of photos changes: scenes, by emotion and by gaps in time.

Change points by optimal partitioning (Jackson et al. 2005, "An algorithm for optimal partitioning of data on an interval"): of all ways to
cut the sequence, that with the least sum of squared distances of the emotion vectors to the mean of their scene, plus a penalty for each
cut. A gap in time makes a cut cheaper.

Shape letters: n photos, e emotion dim.
"""

from __future__ import annotations

import math

import numpy as np

PENALTY = 0.6
"""Of a cut, times log n, in squared units of the emotion space. Chosen on sequences of photos that the space's projections had not learnt
from, by 4-fold cross-validation in the training split of emoclim-1: between 0.5 and 0.75 the cuts hardly change."""
GAP_DISCOUNT = 0.9
"""How much of the penalty the longest gaps take away."""
SHORT_GAP_S, LONG_GAP_S = 600.0, 6 * 3600.0
"""A gap below the first is none, whatever the others are; one above the second is as good as a night."""
LEAST_PHOTOS = 4
"""In a scene, where the whole show has as many: two or three photos are a digression."""


def cuts(vectors: np.ndarray, gaps_s: np.ndarray | None = None, *, least: int = LEAST_PHOTOS) -> list[int]:
    """The first photo of each scene but the first, by index.

    `vectors` (n, e) are emotion vectors in the order of the show, `gaps_s` (n - 1,) the seconds between neighbours, where they are in the
    order of time. No scene has fewer than `least` photos; fewer photos than twice that are one scene.
    """
    n, least = len(vectors), max(least, 1)
    penalties = PENALTY * math.log(max(n, 2)) * (1 - GAP_DISCOUNT * _gap_weights(gaps_s, n))
    sums = np.vstack([np.zeros(vectors.shape[1]), np.cumsum(vectors, axis=0, dtype=np.float64)])  # (n + 1, e)
    squares = (sums**2).sum(axis=1)
    # A scene's cost is the sum of its squared norms, the same however it is cut, less |sum of its vectors|^2 / its length.
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    previous = np.zeros(n + 1, np.int64)
    for end in range(least, n + 1):
        starts = np.arange(end - least + 1)
        gains = (squares[end] + squares[starts] - 2 * (sums[starts] @ sums[end])) / (end - starts)
        totals = best[starts] + penalties[starts] - gains
        previous[end] = starts[np.argmin(totals)]
        best[end] = totals[previous[end]]
    found: list[int] = []
    at = n if n >= least else 0
    while at := int(previous[at]):
        found.append(at)
    return found[::-1]


def _gap_weights(gaps_s: np.ndarray | None, n: int) -> np.ndarray:
    """(n,): 0 before the first photo and where there is no gap, 1 before a photo that comes after a long one.

    A gap counts by its ratio to those of this sequence on a logarithmic scale: the photos of an afternoon are minutes apart, those of a
    year are days.
    """
    weights = np.zeros(n)
    if gaps_s is None or n < 2:
        return weights
    usual = max(float(np.median(gaps_s)), SHORT_GAP_S)
    longest = max(LONG_GAP_S, 10 * usual)
    weights[1:] = np.clip(np.log(np.maximum(gaps_s, 1e-9) / usual) / math.log(longest / usual), 0, 1)
    return weights
