"""From labelled features to a space: its splits, prototypes and temperature, and what it says of itself.

Shape letters: n items, e emotion dim, c emotions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emoclim_cli import evaluation
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import EncoderInfo
from emoclim_cli.errors import LabelError
from emoclim_cli.labels import SPLITS, LabelledItem
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit
from emoclim_cli.recipes import Recipe, settings
from emoclim_cli.training import Epoch, Features, Tell, Trained, measurable, train
from emoclim_cli.tuning import Body, write_weights


def by_split(features: Features) -> dict[str, dict[MediaKind, LabelledFeatures]]:
    """The features of the splits train, val and test, the last only of kinds that have one. Raises LabelError for an empty train or val."""
    for kind, whole in features.items():
        check_splits(whole.items, kind)
    parts: dict[str, dict[MediaKind, LabelledFeatures]] = {}
    for name in SPLITS:
        parts[name] = {}
        for kind, whole in features.items():
            part = whole.take(np.array([item.split == name for item in whole.items], bool))
            if len(part):
                parts[name][kind] = part
    return parts


def check_splits(items: Iterable[LabelledItem], kind: MediaKind) -> None:
    """Raises LabelError for an empty train or val."""
    found = {item.split for item in items}
    for name in ("train", "val"):
        if name not in found:
            raise LabelError(f"the split {name} has no {kind.plural}", "name train and val in the column split, or leave it out")


def _check_emotions(features: Features) -> None:
    """Raises LabelError for an emotion without an item."""
    for emotion in EMOTIONS:
        if not any((part.labels == emotion).any() for part in features.values()):
            hint = f"label a photo or a track as {emotion}"
            raise LabelError(f"no item of the split train is {emotion}: the space would not know where that lies", hint)


def prototypes(projections: Mapping[MediaKind, Projection], features: Features) -> np.ndarray:
    """(c, e): the direction of each emotion's items, photos and music weighing the same. Raises LabelError for one without an item."""
    _check_emotions(features)
    means = []
    for emotion in EMOTIONS:
        of_kinds = []
        for kind, part in features.items():
            chosen = part.labels == emotion
            if chosen.any():
                of_kinds.append(unit(projections[kind](part.pooled()[chosen]).mean(axis=0)))
        means.append(unit(np.mean(of_kinds, axis=0)))
    return np.stack(means)


def calibrated_temperature(vectors: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> float:
    """The softmax temperature under which the labels of (n, e) vectors are most likely, given (c, e) prototypes.

    Unlabelled ones (empty) do not count. Raises LabelError where none is labelled.
    """
    vectors, labels = vectors[labels != ""], labels[labels != ""]
    if not len(labels):
        raise LabelError("no labelled validation item to calibrate the temperature on")
    targets = np.array([EMOTIONS.index(label) for label in labels])
    cosines = vectors @ centres.T
    candidates = np.geomspace(0.02, 1.0, 60)

    def mean_log_loss(temperature: float) -> float:
        logits = cosines / temperature
        logits = logits - logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets]))

    return float(min(candidates, key=mean_log_loss))


def measured(projections: Mapping[MediaKind, Projection], features: Features) -> dict[str, Any]:
    """Level -> direction -> figures (`Direction.as_json`), for the `about` of a space."""
    reports = {level: evaluation.evaluate(projections, measurable(features), level) for level in evaluation.LEVELS}
    return {level: {name: direction.as_json() for name, direction in report.items()} for level, report in reports.items()}


def counted(parts: Mapping[str, Features]) -> dict[str, Any]:
    """photos, music -> by_emotion, by_source -> its name -> split -> items, for the `about` of a space.

    What is known in part only is of the emotion `partly`.
    """
    counts: dict[str, Any] = {kind.plural: {"by_emotion": {}, "by_source": {}} for kind in MediaKind}
    for split, features in parts.items():
        for kind, part in features.items():
            for column, names in (("by_emotion", [item.emotion or "partly" for item in part.items]), ("by_source", part.sources.tolist())):
                for name, count in sorted(Counter(names).items()):
                    if name:
                        counts[kind.plural][column].setdefault(name, {})[split] = count
    return counts


@dataclass(frozen=True, slots=True)
class Unfrozen:
    """A music encoder that is trained with its projection."""

    body: Body
    weights: Path
    """Where its tuned weights are written; the space that is trained names this file."""
    encode: Callable[[Path], tuple[EncoderInfo, LabelledFeatures]]
    """The encoder with such weights, and its features of all music."""


def train_space(
    name: str,
    parts: Mapping[str, Features],
    recipe: Recipe,
    encoders: Mapping[MediaKind, EncoderInfo],
    on_epoch: Callable[[Epoch], None] | None = None,
    *,
    teacher: LabelledFeatures | None = None,
    unfrozen: Unfrozen | None = None,
    about: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    tell: Tell | None = None,
) -> tuple[EmotionSpace, Trained]:
    """Trains on `parts` ("train", "val" and maybe "test", as `by_split` gives them), places the prototypes, calibrates on val, measures.

    What it used and found is in the space's `about`: `recipe`, `best_epoch`, `counts`, `metrics` on val with a test split,
    `test_metrics`, with a teacher, `teacher` (emotion -> rows). With an `unfrozen` encoder all but the training is done on the features
    that it gives at the end.
    """
    _check_emotions(parts["train"])  # before the work, not after it
    trained = train(
        parts["train"][MediaKind.PHOTO],
        parts["train"][MediaKind.MUSIC],
        recipe,
        parts["val"],
        on_epoch,
        teacher=teacher,
        body=unfrozen.body if unfrozen else None,
        checkpoint=checkpoint,
        tell=tell,
    )
    tuned = {}
    if unfrozen:
        write_weights(trained.tuned, unfrozen.weights)
        info, music = unfrozen.encode(unfrozen.weights)
        tuned[MediaKind.MUSIC] = unfrozen.weights
        encoders = {**encoders, MediaKind.MUSIC: info}
        anew = by_split({MediaKind.MUSIC: music})
        parts = {split: {**of_split, **anew[split]} for split, of_split in parts.items()}
    train_on, val = parts["train"], parts["val"]
    centres = prototypes(trained.projections, train_on)
    vectors = np.concatenate([trained.projections[kind](features.pooled()) for kind, features in val.items()])
    temperature = calibrated_temperature(vectors, np.concatenate([features.labels for features in val.values()]), centres)
    found = {
        "recipe": settings(recipe if teacher else replace(recipe, teacher_share=0.0)),
        "best_epoch": trained.best_epoch,
        "counts": counted(parts),
        "metrics": measured(trained.projections, val),
    }
    if teacher and recipe.teacher_share:
        found["teacher"] = dict(sorted(Counter(teacher.labels.tolist()).items()))
    if parts.get("test"):
        found["test_metrics"] = measured(trained.projections, parts["test"])
    space = EmotionSpace(
        name=name,
        encoders={kind: info.name for kind, info in encoders.items()},
        digests={kind: info.digest for kind, info in encoders.items()},
        projections=trained.projections,
        prototypes=centres,
        temperature=temperature,
        about={**found, **(about or {})},
        tuned=tuned,
    )
    return space, trained
