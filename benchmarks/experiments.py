"""What the training benchmarks share: labelled data as features, recipes side by side over folds or seeds on all cores, tables of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import platformdirs

from emoclim_cli import evaluation, modelcards, training
from emoclim_cli.datasets import LabelledFeatures, labelled_features
from emoclim_cli.emotions import RETRIEVAL_EMOTIONS
from emoclim_cli.encoders import build, encoder_info
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind
from emoclim_cli.metrics import macro, retrieve
from emoclim_cli.projections import Projection
from emoclim_cli.recipes import Recipe
from emoclim_cli.weights import fetch

CACHE = Path(os.environ.get("EMOCLIM_CACHE") or platformdirs.user_cache_dir("emoclim", appauthor=False))
PHOTO_ENCODER = "clip-vit-b-16"
FOLDS = 4
LESS_HUBS = ("music->image", "clip, less hubs")
SHOWN = (
    ("image->music", "clip"),
    ("image->music", "track"),
    ("music->image", "clip"),
    LESS_HUBS,
    ("image->image", "clip"),
    ("music->music", "clip"),
)
HUB_QUERIES = 100
"""Training windows of each emotion, by which hubs are told."""
HUB_NEIGHBOURS = 10
HUB_WEIGHT = 0.5

Features = Mapping[MediaKind, LabelledFeatures]
Figures = dict[tuple[str, str], tuple[float, ...]]
"""(direction, level) -> P@5, MRR, chance P@5, queries."""


@dataclass(frozen=True)
class Task:
    """One training. Names are keys of the features that the processes hold."""

    recipe: Recipe
    photos: str
    music: str
    teacher: str = ""
    fold: int = -1
    """Held out of the training split and measured on; -1: trained on all of it, measured on val."""
    fold_seed: int = 0


def features_of(items: Sequence[LabelledItem], encoder_name: str, *, overlap: float = 0.0) -> LabelledFeatures:
    for name in encoder_info(encoder_name).weights:
        fetch(name, CACHE / "weights")

    def progress(done: int, total: int) -> None:
        print(f"\r{encoder_name}: {done}/{total}", end="" if done < total else "\n", flush=True)

    encoder = build(encoder_name, CACHE / "weights", overlap=overlap)
    return labelled_features(items, encoder, CACHE / "features", progress=progress, unusable=print)


def of_split(features: LabelledFeatures, split: str) -> LabelledFeatures:
    return features.take(np.array([item.split == split for item in features.items], bool))


def folds_of(features: LabelledFeatures, seed: int) -> dict[str, int]:
    """Group -> fold: whole groups, each emotion spread evenly."""
    stratum_of = {item.group: item.stratum for item in features.items}
    fold_of: dict[str, int] = {}
    for stratum in sorted(set(stratum_of.values())):
        groups = np.random.default_rng(seed).permutation(sorted(group for group, of in stratum_of.items() if of == stratum))
        fold_of.update({str(group): i % FOLDS for i, group in enumerate(groups)})
    return fold_of


def learnt(features: LabelledFeatures, task: Task, measured: LabelledFeatures) -> LabelledFeatures:
    """What is trained on: train, without the groups of `measured` that are held out. A group that is not measured is in no fold."""
    part = of_split(features, "train")
    if task.fold < 0:
        return part
    fold_of = folds_of(of_split(measured, "train"), task.fold_seed)
    return part.take(np.array([fold_of.get(item.group) != task.fold for item in part.items], bool))


def held_out(measured: LabelledFeatures, task: Task) -> LabelledFeatures:
    """What is measured on: val, or a fold of train."""
    if task.fold < 0:
        return of_split(measured, "val")
    part = of_split(measured, "train")
    fold_of = folds_of(part, task.fold_seed)
    return part.take(np.array([fold_of[item.group] == task.fold for item in part.items], bool))


held: dict[str, LabelledFeatures] = {}
"""In a process that trains: all features, by name. "photos" and "music" are measured on."""


def _hold(features: dict[str, LabelledFeatures]) -> None:
    held.update(features)


def _run(task: Task) -> Figures:
    photos, music = learnt(held[task.photos], task, held["photos"]), learnt(held[task.music], task, held["music"])
    on = {MediaKind.PHOTO: held_out(held["photos"], task), MediaKind.MUSIC: held_out(held["music"], task)}
    teacher = held[task.teacher] if task.teacher else None
    trained = training.train(photos, music, task.recipe, on if task.recipe.best_epoch else None, teacher=teacher)
    corrected = _less_hubs(trained.projections, music, on)
    reports = {level: evaluation.evaluate(trained.projections, on, level) for level in evaluation.LEVELS}
    found = {(name, level): reports[level][name] for name, level in SHOWN if (name, level) != LESS_HUBS}
    figures = {key: (of.p_at_5, of.mrr, of.chance, of.n) for key, of in found.items()}
    return figures | {LESS_HUBS: (*corrected, *figures["music->image", "clip"][2:])}


def _less_hubs(projections: Mapping[MediaKind, Projection], music: LabelledFeatures, on: Features) -> tuple[float, float]:
    """P@5 and MRR of music->image where a photo that training music is near to on the whole is ranked lower.

    From its score is taken HUB_WEIGHT times its mean cosine to the HUB_NEIGHBOURS nearest of a sample of training windows (local scaling as
    in Conneau et al. 2018, "Word translation without parallel data").
    """
    sides = evaluation.sides_of(projections, on)
    queries, candidates = sides[MediaKind.MUSIC], sides[MediaKind.PHOTO]
    rng, emotions = np.random.default_rng(0), music.labels[music.owner]
    by_emotion = [np.flatnonzero(emotions == emotion) for emotion in RETRIEVAL_EMOTIONS]
    sample = np.concatenate([rng.choice(windows, HUB_QUERIES) for windows in by_emotion if len(windows)])
    cosines = projections[MediaKind.MUSIC](music.windows[sample]) @ candidates.vectors.T
    popularity = np.sort(cosines, axis=0)[-HUB_NEIGHBOURS:].mean(axis=0)
    result = retrieve(
        np.column_stack([queries.vectors, np.ones(len(queries.vectors), np.float32)]),
        np.column_stack([candidates.vectors, -HUB_WEIGHT * popularity]),
        queries.labels,
        candidates.labels,
    )
    return macro(result.precision[5], queries.labels)[0], macro(result.reciprocal_rank, queries.labels)[0]


def run(features: dict[str, LabelledFeatures], tasks: Mapping[str, Sequence[Task]]) -> dict[str, list[Figures]]:
    """Name -> the figures of its tasks; as many train at once as there are cores."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # of each process below
    flat = [task for of_name in tasks.values() for task in of_name]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _hold, (features,)) as pool:
        done = iter(pool.map(_run, flat))
        return {name: [next(done) for _ in of_name] for name, of_name in tasks.items()}


def over_seeds(task: Task, seeds: int) -> list[Task]:
    return [replace(task, recipe=replace(task.recipe, seed=seed)) for seed in range(seeds)]


def over_folds(task: Task, seed: int = 0) -> list[Task]:
    return [replace(task, fold=fold, fold_seed=seed, recipe=replace(task.recipe, seed=FOLDS * seed + fold)) for fold in range(FOLDS)]


def means_of_folds(runs: Sequence[Figures]) -> list[Figures]:
    """The figures of `over_folds` for one seed after another -> one for each seed."""
    of_seeds = [runs[start : start + FOLDS] for start in range(0, len(runs), FOLDS)]
    return [{key: tuple(np.mean([figures[key] for figures in of_seed], axis=0).tolist()) for key in SHOWN} for of_seed in of_seeds]


def table(rows: Iterable[tuple[str, Sequence[Figures]]], first: str) -> str:
    """Markdown: P@5 / MRR, mean and standard deviation over runs."""
    cells = []
    for name, runs in rows:
        values = {key: np.array([run[key] for run in runs]) for key in SHOWN}
        spread = {key: (of.mean(axis=0), of.std(axis=0)) for key, of in values.items()}
        cells.append((name, *(f"{mean[0]:.3f} ± {std[0]:.3f} / {mean[1]:.3f} ± {std[1]:.3f}" for mean, std in spread.values())))
    return modelcards.table((first, *(f"{name} ({level})" for name, level in SHOWN)), cells)
