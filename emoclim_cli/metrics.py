"""Retrieval metrics: rank all candidates by cosine, correct = the query's label. Shape letters: q queries, m candidates, e emotion dim.

Vectorised over blocks of queries, so that memory does not grow with q * m. Candidates of one score count as their orders do on average, so
that a space in which all is one point is no better than chance, whatever the order of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emoclim_cli.snapshot import SCORE_DECIMALS

QUERY_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One number per query; NaN where a query has no correct candidate left."""

    precision: dict[int, np.ndarray]
    """k -> (q,): the share of correct ones among the first k."""
    reciprocal_rank: np.ndarray
    """(q,): 1 / rank of the first correct one; where it ties with others, 1 / the rank to be expected."""
    chance: np.ndarray
    """(q,): the share of correct ones among all candidates, which is what random ranking gives for every k."""


def retrieve(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_labels: np.ndarray,
    candidate_labels: np.ndarray,
    *,
    ks: tuple[int, ...] = (1, 5),
    query_groups: np.ndarray | None = None,
    candidate_groups: np.ndarray | None = None,
) -> Retrieval:
    """(q, e) and (m, e) of unit norm. Candidates of the query's own group (the same photo, the same song) are left out of its ranking."""
    q = len(queries)
    precision = {k: np.full(q, np.nan) for k in ks}
    reciprocal_rank = np.full(q, np.nan)
    chance = np.full(q, np.nan)
    for start in range(0, q, QUERY_BLOCK):
        block = slice(start, min(start + QUERY_BLOCK, q))
        scores = np.round(queries[block] @ candidates.T, SCORE_DECIMALS)  # as the search does, so that copies tie
        correct = query_labels[block, None] == candidate_labels
        if query_groups is not None and candidate_groups is not None:
            own = query_groups[block, None] == candidate_groups
            scores[own] = -np.inf
            correct &= ~own
            left = (~own).sum(axis=1)
        else:
            left = np.full(len(scores), len(candidates))
        answerable = correct.any(axis=1)
        # No full sort: what stands before a score, and what ties with it, needs two counts.
        depth = min(max(ks), scores.shape[1])
        top = np.sort(np.partition(scores, -depth, axis=1)[:, -depth:], axis=1)[:, ::-1]
        for k in ks:
            last = min(k, depth)
            higher, tied = scores > top[:, last - 1 : last], scores == top[:, last - 1 : last]
            share = (last - higher.sum(axis=1)) / tied.sum(axis=1)
            hits = (higher & correct).sum(axis=1) + share * (tied & correct).sum(axis=1)
            precision[k][block] = np.where(answerable, hits / k, np.nan)
        best = np.where(correct, scores, -np.inf).max(axis=1, keepdims=True)
        tied = scores == best
        rank = (scores > best).sum(axis=1) + (tied.sum(axis=1) + 1) / ((tied & correct).sum(axis=1) + 1)
        reciprocal_rank[block] = np.where(answerable, 1 / rank, np.nan)
        chance[block] = np.where(answerable, correct.sum(axis=1) / np.maximum(left, 1), np.nan)
    return Retrieval(precision, reciprocal_rank, chance)


def macro(values: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, float]]:
    """The mean over labels of each label's mean, and each label's mean; NaN queries are left out."""
    known = ~np.isnan(values)
    per_label = {str(label): float(values[known & (labels == label)].mean()) for label in np.unique(labels[known])}
    return (float(np.mean(list(per_label.values()))) if per_label else float("nan")), per_label
