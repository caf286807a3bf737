"""Retrieval between labelled photos and labelled music in all four directions (paper, section 4.1).

Shape letters: n photos, or pieces of music at a level; e emotion dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import RETRIEVAL_EMOTIONS
from emoclim_cli.errors import LabelError, UsageError
from emoclim_cli.media import MediaKind
from emoclim_cli.metrics import Retrieval, hubness, intervals, macro, retrieve
from emoclim_cli.projections import Projection, unit

LEVELS = ("clip", "track")
"""What a piece of music counts as, of the windows that a library keeps: each window for itself, or the mean of their features."""
SLIDING = "sliding"
"""The paper's level: the mean of the emotion vectors of a piece's windows, which are to overlap by SLIDING_OVERLAP (`encoders.build`)."""
SLIDING_OVERLAP = 0.75
DIRECTIONS = {
    "image->music": (MediaKind.PHOTO, MediaKind.MUSIC),
    "music->image": (MediaKind.MUSIC, MediaKind.PHOTO),
    "image->image": (MediaKind.PHOTO, MediaKind.PHOTO),
    "music->music": (MediaKind.MUSIC, MediaKind.MUSIC),
}


@dataclass(frozen=True, slots=True)
class Direction:
    """Macro averages over the emotions; `per_emotion` and `per_source` give the parts. `n` queries; `chance` is that of P@k for every k."""

    p_at_1: float
    p_at_5: float
    mrr: float
    chance: float
    n: int
    candidates: int
    per_emotion: dict[str, dict[str, float]]
    per_source: dict[str, dict[str, float]]
    intervals: dict[str, tuple[float, float]]
    """Of `p@1`, `p@5` and `mrr`: see `metrics.intervals`."""
    confusion: dict[str, dict[str, float]]
    """Emotion of the query -> emotion of a candidate -> its share of the first five; a row sums to 1."""
    hubness: float
    """Of the first five: see `metrics.hubness`."""

    def as_json(self) -> dict[str, Any]:
        """CLI.md's keys; null where there was nothing to measure."""
        values: dict[str, float | None] = {"p@1": self.p_at_1, "p@5": self.p_at_5, "mrr": self.mrr, "chance_p@5": self.chance, "n": self.n}
        values["hubness"] = self.hubness
        values = {name: None if value is None or math.isnan(value) else value for name, value in values.items()}
        bounds = {f"{name}_interval": None if math.isnan(low) else [low, high] for name, (low, high) in self.intervals.items()}
        parts = {"per_emotion": self.per_emotion, "per_source": self.per_source, "confusion": self.confusion}
        return {**values, **bounds, "candidates": self.candidates, **parts}


@dataclass(frozen=True, slots=True)
class Side:
    """Queries or candidates of one kind."""

    vectors: np.ndarray
    """(n, e) of unit norm."""
    labels: np.ndarray
    """(n,), each one of RETRIEVAL_EMOTIONS."""
    groups: np.ndarray
    sources: np.ndarray


def evaluate(
    projections: Mapping[MediaKind, Projection], features: Mapping[MediaKind, LabelledFeatures], level: str = "clip"
) -> dict[str, Direction]:
    """Every direction whose kinds are in `features`, on the six emotions that both kinds are labelled with.

    `level` is what a piece of music counts as, one of LEVELS or SLIDING. A query never finds its own song or photo. Raises LabelError where
    a kind has no item of the six emotions, UsageError for another level.
    """
    sides = sides_of(projections, features, level)
    return {name: _direction(queries, candidates, result) for name, queries, candidates, result in retrievals(sides)}


def retrievals(sides: Mapping[MediaKind, Side]) -> Iterator[tuple[str, Side, Side, Retrieval]]:
    """The direction, its queries, its candidates and what is found, for every direction whose kinds are there."""
    for name, (query_kind, candidate_kind) in DIRECTIONS.items():
        if query_kind in sides and candidate_kind in sides:
            queries, candidates = sides[query_kind], sides[candidate_kind]
            # Group names of photos and of music never meet, so they only matter within a kind.
            groups = (queries.groups, candidates.groups) if query_kind is candidate_kind else (None, None)
            result = retrieve(
                queries.vectors, candidates.vectors, queries.labels, candidates.labels, query_groups=groups[0], candidate_groups=groups[1]
            )
            yield name, queries, candidates, result


def sides_of(
    projections: Mapping[MediaKind, Projection], features: Mapping[MediaKind, LabelledFeatures], level: str = "clip"
) -> dict[MediaKind, Side]:
    """What `evaluate` measures on: the emotion vectors of the items of the six emotions. Raises as `evaluate` does."""
    if level not in (*LEVELS, SLIDING):
        raise UsageError(f"there is no level {level!r}", f"one of: {', '.join((*LEVELS, SLIDING))}")
    return {kind: _side(projections[kind], part, level) for kind, part in features.items()}


def _side(projection: Projection, features: LabelledFeatures, level: str) -> Side:
    known = features.take(np.isin(features.labels, RETRIEVAL_EMOTIONS))
    if not len(known):
        raise LabelError(f"no {features.kind.plural} labelled with one of {', '.join(RETRIEVAL_EMOTIONS)}")
    if level == "clip":
        owner = known.owner
        return Side(projection(known.windows), known.labels[owner], known.groups[owner], known.sources[owner])
    if level == SLIDING:
        vectors = unit(np.add.reduceat(projection(known.windows), known.starts[:-1], axis=0))
    else:
        vectors = projection(known.pooled())
    return Side(vectors, known.labels, known.groups, known.sources)


def _direction(queries: Side, candidates: Side, result: Retrieval) -> Direction:
    columns = {"p@1": result.precision[1], "p@5": result.precision[5], "mrr": result.reciprocal_rank, "chance_p@5": result.chance}
    overall = {name: macro(values, queries.labels) for name, values in columns.items()}
    emotions = sorted(overall["p@5"][1])
    per_source = {}
    for source in np.unique(queries.sources) if (queries.sources != "").any() else ():
        chosen = queries.sources == source
        if not np.isnan(result.reciprocal_rank[chosen]).all():
            means = {name: float(np.nanmean(values[chosen])) for name, values in columns.items()}
            per_source[str(source)] = means | {"n": int(chosen.sum())}
    uncertain = ("p@1", "p@5", "mrr")
    bounds = intervals(np.stack([columns[name] for name in uncertain], axis=1), queries.labels, queries.groups)
    return Direction(
        p_at_1=overall["p@1"][0],
        p_at_5=overall["p@5"][0],
        mrr=overall["mrr"][0],
        chance=overall["chance_p@5"][0],
        n=len(queries.labels),
        candidates=len(candidates.labels),
        per_emotion={e: {name: overall[name][1][e] for name in columns} | {"n": int((queries.labels == e).sum())} for e in emotions},
        per_source=per_source,
        intervals={name: (float(low), float(high)) for name, (low, high) in zip(uncertain, bounds, strict=True)},
        confusion=_confusion(result, queries.labels),
        hubness=hubness(result.occurrences),
    )


def _confusion(result: Retrieval, query_labels: np.ndarray) -> dict[str, dict[str, float]]:
    """In the order of RETRIEVAL_EMOTIONS; no row for an emotion of which no query has a correct candidate."""
    rows = {}
    for emotion in RETRIEVAL_EMOTIONS:
        shares = result.shares[(query_labels == emotion) & ~np.isnan(result.chance)]
        if len(shares):
            means = dict(zip(result.labels.tolist(), shares.mean(axis=0).tolist(), strict=True))
            rows[emotion] = {other: means.get(other, 0.0) for other in RETRIEVAL_EMOTIONS}
    return rows
