"""Retrieval between labelled photos and labelled music in all four directions (paper, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import RETRIEVAL_EMOTIONS
from emoclim_cli.errors import LabelError, UsageError
from emoclim_cli.media import MediaKind
from emoclim_cli.metrics import macro, retrieve
from emoclim_cli.projections import Projection

LEVELS = ("clip", "track")
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

    def as_json(self) -> dict[str, Any]:
        """CLI.md's keys; null where there was nothing to measure."""
        values: dict[str, float | None] = {"p@1": self.p_at_1, "p@5": self.p_at_5, "mrr": self.mrr, "chance_p@5": self.chance, "n": self.n}
        values = {name: None if value is None or math.isnan(value) else value for name, value in values.items()}
        return {**values, "candidates": self.candidates, "per_emotion": self.per_emotion, "per_source": self.per_source}


@dataclass(frozen=True, slots=True)
class _Side:
    vectors: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    sources: np.ndarray


def evaluate(
    projections: Mapping[MediaKind, Projection], features: Mapping[MediaKind, LabelledFeatures], level: str = "clip"
) -> dict[str, Direction]:
    """Every direction whose kinds are in `features`, on the six emotions that both kinds are labelled with.

    `level` is what a piece of music counts as: "clip", each window for itself, or "track", the mean of its features. A query never finds
    its own song or photo. Raises LabelError where a kind has no item of the six emotions, UsageError for another
    level.
    """
    if level not in LEVELS:
        raise UsageError(f"there is no level {level!r}", f"one of: {', '.join(LEVELS)}")
    sides = {kind: _side(projections[kind], part, level) for kind, part in features.items()}
    report = {}
    for name, (query_kind, candidate_kind) in DIRECTIONS.items():
        if query_kind in sides and candidate_kind in sides:
            report[name] = _direction(sides[query_kind], sides[candidate_kind], same=query_kind is candidate_kind)
    return report


def _side(projection: Projection, features: LabelledFeatures, level: str) -> _Side:
    known = features.take(np.isin(features.labels, RETRIEVAL_EMOTIONS))
    if not len(known):
        raise LabelError(f"no {features.kind.plural} labelled with one of {', '.join(RETRIEVAL_EMOTIONS)}")
    if level == "track":
        return _Side(projection(known.pooled()), known.labels, known.groups, known.sources)
    owner = known.owner
    return _Side(projection(known.windows), known.labels[owner], known.groups[owner], known.sources[owner])


def _direction(queries: _Side, candidates: _Side, *, same: bool) -> Direction:
    # Group names of photos and of music never meet, so they only matter within a kind.
    groups = (queries.groups, candidates.groups) if same else (None, None)
    result = retrieve(
        queries.vectors, candidates.vectors, queries.labels, candidates.labels, query_groups=groups[0], candidate_groups=groups[1]
    )
    columns = {"p@1": result.precision[1], "p@5": result.precision[5], "mrr": result.reciprocal_rank, "chance_p@5": result.chance}
    overall = {name: macro(values, queries.labels) for name, values in columns.items()}
    emotions = sorted(overall["p@5"][1])
    per_source = {}
    for source in np.unique(queries.sources) if queries.sources.any() else ():
        chosen = queries.sources == source
        if not np.isnan(result.reciprocal_rank[chosen]).all():
            means = {name: float(np.nanmean(values[chosen])) for name, values in columns.items()}
            per_source[str(source)] = means | {"n": int(chosen.sum())}
    return Direction(
        p_at_1=overall["p@1"][0],
        p_at_5=overall["p@5"][0],
        mrr=overall["mrr"][0],
        chance=overall["chance_p@5"][0],
        n=len(queries.labels),
        candidates=len(candidates.labels),
        per_emotion={e: {name: overall[name][1][e] for name in columns} | {"n": int((queries.labels == e).sum())} for e in emotions},
        per_source=per_source,
    )
