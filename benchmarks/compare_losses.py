"""The paper's Table 2 on any labelled data: python benchmarks/compare_losses.py --photos images.csv --music music.csv

Every loss of `losses.LOSSES` with the same features, splits and number of steps, measured on the validation split: `supcon` by the paper's
recipe, the methods that it compares with by the same recipe with their loss, and emoclim's own by the recipe of the shipped space.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch
from train_space import PHOTO_ENCODER, SHOWN, features_of, table

from emoclim_cli import evaluation, spaces, training
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.labels import assign_splits, read_labels
from emoclim_cli.losses import LOSSES
from emoclim_cli.media import MediaKind
from emoclim_cli.recipes import RECIPES, Recipe, with_loss

OURS = "emoclim"
Parts = Mapping[str, Mapping[MediaKind, LabelledFeatures]]
parts: Parts = {}
"""In a process that trains: what it trains on."""


def recipe_of(loss: str) -> Recipe:
    paper = RECIPES["paper"]
    return replace(with_loss(RECIPES["shipped"], OURS), epochs=paper.epochs, steps=paper.steps) if loss == OURS else with_loss(paper, loss)


def set_parts(given: Parts) -> None:
    global parts
    parts = given


def run(recipe: Recipe) -> dict[tuple[str, str], tuple[float, ...]]:
    """(direction, level) -> P@5, MRR, chance P@5, queries; all on the validation split."""
    train_on, val = parts["train"], parts["val"]
    trained = training.train(train_on[MediaKind.PHOTO], train_on[MediaKind.MUSIC], recipe, val if recipe.best_epoch else None)
    reports = {level: evaluation.evaluate(trained.projections, val, level) for level in evaluation.LEVELS}
    found = {(name, level): reports[level][name] for name, level in SHOWN}
    return {key: (of.p_at_5, of.mrr, of.chance, of.n) for key, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("--music-encoder", default="musicnn")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()

    started = time.perf_counter()
    recipes = {loss: recipe_of(loss) for loss in LOSSES}
    partly = any(recipe.quadrants for recipe in recipes.values())
    features = {}
    for kind, source, encoder in (
        (MediaKind.PHOTO, options.photos, PHOTO_ENCODER),
        (MediaKind.MUSIC, options.music, options.music_encoder),
    ):
        items = [item for item in assign_splits(read_labels(source), 0, source, print) if item.split and (item.emotion or partly)]
        features[kind] = features_of(items, encoder)
    given = spaces.by_split(features)
    tasks = [replace(recipe, seed=seed) for seed in range(options.seeds) for recipe in recipes.values()]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # of each process below: as many train as there are cores
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), set_parts, (given,)) as pool:
        done = list(pool.map(run, tasks))
    rows = [(loss, [found for task, found in zip(tasks, done, strict=True) if task.loss == loss]) for loss in recipes]
    counts = ", ".join(f"{name} {len(of[kind])} {kind.plural}" for name, of in given.items() for kind in of)
    chance = ", ".join(f"{name} ({level}) {done[0][name, level][2]:.3f} of {done[0][name, level][3]} queries" for name, level in SHOWN)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"P@5 / MRR on val, macro over emotions: mean ± standard deviation over {options.seeds} seeds of training.\n")
    print(table(rows, "loss"))
    print(f"\nChance P@5: {chance}. Items: {counts}; {PHOTO_ENCODER}, {options.music_encoder}.")
    paper = recipes["supcon"]
    print(f"{paper.epochs} epochs of {paper.steps} steps each. {machine}: {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
