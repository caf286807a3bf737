"""Retrieval metrics: rank all candidates by cosine, correct = the query's label.

Shape letters: q queries, b queries of a block, m candidates, e emotion dim, c labels of candidates, v metrics.

Vectorised over blocks of queries, so that memory does not grow with q * m. In P@k, candidates of one score count as their orders do on
average; in MRR, by the rank to be expected: a space in which all is one point is no better than chance, whatever the order of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emoclim_cli.snapshot import SCORE_DECIMALS

QUERY_BLOCK = 256
RESAMPLES = 1000
RESAMPLE_BLOCK = 100
INTERVAL_PERCENT = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One number, or row, per query; NaN where a query has no correct candidate left."""

    precision: dict[int, np.ndarray]
    """k -> (q,): the share of correct ones among the first k."""
    reciprocal_rank: np.ndarray
    """(q,): 1 / rank of the first correct one; where it ties with others, 1 / the rank to be expected."""
    chance: np.ndarray
    """(q,): the share of correct ones among all candidates, which is what random ranking gives for every k up to their number."""
    labels: np.ndarray
    """(c,): the labels that candidates have, sorted."""
    shares: np.ndarray
    """(q, c): the share of each of `labels` among the first candidates, as many as the greatest k. Rows sum to 1."""
    occurrences: np.ndarray
    """(m,): in how many queries' first candidates each candidate is; all queries count here, since this asks for no label."""


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
    q, m, depth = len(queries), len(candidates), min(max(ks), len(candidates))
    labels = np.unique(candidate_labels)
    c = len(labels)
    # In the order of their labels, each label's candidates are one slice.
    order = np.argsort(candidate_labels, kind="stable")
    candidates, candidate_label = candidates[order], _places(labels, candidate_labels[order])
    query_label = _places(labels, query_labels)
    starts = np.searchsorted(candidate_label, np.arange(c))
    left, correct = np.full(q, m), np.where(query_label >= 0, np.bincount(candidate_label)[query_label], 0)
    query_group = candidate_group = None
    if query_groups is not None and candidate_groups is not None:
        groups = np.unique(candidate_groups)
        query_group, candidate_group = _places(groups, query_groups), _places(groups, candidate_groups[order])
        grouped = query_group >= 0
        left[grouped] -= np.bincount(candidate_group)[query_group[grouped]]
        of_both = np.bincount(candidate_label * len(groups) + candidate_group, minlength=c * len(groups))
        correct[grouped] -= of_both[(query_label * len(groups) + query_group)[grouped]]
    answerable = correct > 0

    precision = {k: np.zeros(q) for k in ks}
    reciprocal_rank, shares, occurrences = np.zeros(q), np.zeros((q, c)), np.zeros(m)
    for start in range(0, q, QUERY_BLOCK):
        block = slice(start, min(start + QUERY_BLOCK, q))
        own_label = (np.arange(block.stop - start), query_label[block])
        scores = queries[block] @ candidates.T  # (b, m)
        scores *= 10**SCORE_DECIMALS  # rounded as the search does, so that copies tie
        np.rint(scores, out=scores)
        if query_group is not None:
            np.copyto(scores, -np.inf, where=query_group[block, None] == candidate_group)
        # No sort: the few that stand among the first are picked by the score of the last of them, and those that tie with it are too.
        top = np.sort(np.partition(scores, m - depth, axis=1)[:, m - depth :], axis=1)[:, ::-1]  # (b, depth)
        row, column = np.divmod(np.flatnonzero(scores >= np.maximum(top[:, -1:], np.finfo(scores.dtype).min)), m)
        picked = scores[row, column]
        for k in sorted(ks):
            weights = _among_the_first(min(k, depth), picked, top[:, min(k, depth) - 1], row)
            first = np.bincount(row * c + candidate_label[column], weights, minlength=len(top) * c).reshape(-1, c)
            precision[k][block] = first[own_label] / k
        shares[block] = first / np.maximum(first.sum(axis=1, keepdims=True), 1)
        occurrences += np.bincount(column, weights, minlength=m)
        best = np.maximum.reduceat(scores, starts, axis=1)[own_label][:, None]
        higher = (scores > best).sum(axis=1)
        no_lower = np.add.reduceat(scores >= best, starts, axis=1, dtype=np.int32)  # (b, c)
        tied = no_lower.sum(axis=1) - higher
        reciprocal_rank[block] = 1 / (higher + (tied + 1) / (no_lower[own_label] + 1))
    chance = correct / np.maximum(left, 1)
    for values in (*precision.values(), reciprocal_rank, chance, shares):
        values[~answerable] = np.nan
    in_given_order = np.empty(m)
    in_given_order[order] = occurrences
    return Retrieval(precision, reciprocal_rank, chance, labels, shares, in_given_order)


def _places(names: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in sorted `names` each one stands; -1 where it does not."""
    places = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
    return np.where(names[places] == wanted, places, -1)


def _among_the_first(k: int, scores: np.ndarray, thresholds: np.ndarray, row: np.ndarray) -> np.ndarray:
    """How much of each picked score is among its row's first k: 1 above the (b,) threshold; those at it share the places that are left."""
    higher, tied = scores > thresholds[row], scores == thresholds[row]
    places = k - np.bincount(row, higher, minlength=len(thresholds))
    share: np.ndarray = places / np.maximum(np.bincount(row, tied, minlength=len(thresholds)), 1)
    return np.where(higher, 1.0, tied * share[row])


def macro(values: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, float]]:
    """The mean over labels of each label's mean, and each label's mean; NaN queries are left out."""
    known = ~np.isnan(values)
    per_label = {str(label): float(values[known & (labels == label)].mean()) for label in np.unique(labels[known])}
    return (float(np.mean(list(per_label.values()))) if per_label else float("nan")), per_label


def intervals(values: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(q, v) -> (v, 2): the 95 % bootstrap interval of each metric's `macro`; NaN without a query, or with one group alone of a label.

    Whole groups of queries (songs; each photo is its own) are drawn with replacement within each label, since clips of one song are no
    independent measurements (percentile interval; Efron and Tibshirani 1993, chapters 8 and 13). Candidates stay as they are: where they
    are a few dozen songs, which songs those are is the greater uncertainty, and this interval is too narrow.
    """
    known = ~np.isnan(values).any(axis=1)
    if not known.any():
        return np.full((values.shape[1], 2), np.nan)
    rng = np.random.default_rng(seed)
    names = np.unique(labels[known])
    means = np.zeros((RESAMPLES, values.shape[1]))
    for label in names:
        chosen = known & (labels == label)
        group = np.unique(groups[chosen], return_inverse=True)[1]
        counts = np.bincount(group)
        if len(counts) == 1:  # how far others would lie from it nobody knows, which is not nowhere
            return np.full((values.shape[1], 2), np.nan)
        sums = np.stack([np.bincount(group, column) for column in values[chosen].T], axis=1)
        for start in range(0, RESAMPLES, RESAMPLE_BLOCK):
            drawn = rng.integers(0, len(counts), (RESAMPLE_BLOCK, len(counts)))
            offsets = np.arange(RESAMPLE_BLOCK)[:, None] * len(counts)
            times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
            means[start : start + RESAMPLE_BLOCK] += times @ sums / (times @ counts)[:, None] / len(names)
    out: np.ndarray = np.percentile(means, INTERVAL_PERCENT, axis=0).T
    return out


def hubness(occurrences: np.ndarray) -> float:
    """The skewness of (m,) k-occurrences, S_Nk = E[(N_k - mu)^3] / sigma^3 (Radovanovic, Nanopoulos and Ivanovic 2010, equation 1).

    0 where every candidate is found about as often as others; the greater, the more a few candidates (hubs) are found by everybody. NaN
    where all are found equally often.
    """
    centred = occurrences - occurrences.mean()
    variance = np.mean(centred**2)
    return float(np.mean(centred**3) / variance**1.5) if variance > 1e-12 else float("nan")
