"""The paper's Table 2 on any labelled data: python benchmarks/compare_losses.py --photos images.csv --music music.csv

Every loss of `losses.LOSSES` with the same features, splits and number of steps: `supcon` by the paper's recipe, the methods that it
compares with by the same recipe with their loss, and emoclim's own by the recipe of the shipped space; with `--teacher CSV`, that with and
without a teacher. `--music-encoder NAME` takes another encoder, `--seeds N` more seeds than five.

Measured twice: on the validation split, and by cross-validation inside the training split, where every song is held out once. The paper's
recipe keeps the epoch with the lowest loss on what is measured; emoclim's keeps the last, and chooses nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from experiments import FOLDS, PHOTO_ENCODER, SHOWN, Figures, Task, features_of, means_of_folds, over_folds, over_seeds, run, table

from emoclim_cli.datasets import read_features
from emoclim_cli.encoders import encoder_info
from emoclim_cli.labels import assign_splits, read_labels
from emoclim_cli.losses import LOSSES
from emoclim_cli.media import MediaKind
from emoclim_cli.recipes import RECIPES, with_loss

OURS = "emoclim"


def show(title: str, runs: Mapping[str, Sequence[Figures]]) -> None:
    """The figures of each loss, a row of runs of several seeds."""
    first = next(iter(runs.values()))
    chance = ", ".join(
        f"{name} ({level}) {first[0][name, level][2]:.3f} of {first[0][name, level][3]:.0f} queries" for name, level in SHOWN
    )
    print(f"\n{title}: P@5 / MRR, macro over emotions, mean ± standard deviation over {len(first)} seeds.\n")
    print(table(runs.items(), "loss"))
    print(f"\nChance P@5: {chance}.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("--music-encoder", default="musicnn")
    parser.add_argument("--teacher")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()

    started = time.perf_counter()
    features = {}
    for name, source, encoder in (("photos", options.photos, PHOTO_ENCODER), ("music", options.music, options.music_encoder)):
        items = [item for item in assign_splits(read_labels(source), 0, source, print) if item.split and item.emotion]
        features[name] = features_of(items, encoder)
    paper = RECIPES["paper"]
    tasks = {loss: Task(with_loss(paper, loss), "photos", "music") for loss in LOSSES if loss != OURS}
    ours = Task(replace(RECIPES["shipped"], epochs=paper.epochs, steps=paper.steps), "photos", "music")
    tasks[OURS] = ours
    if options.teacher:
        features["teacher"] = read_features(options.teacher, MediaKind.MUSIC, encoder_info(options.music_encoder).dim, print)
        tasks[f"{OURS}, with a teacher"] = replace(ours, teacher="teacher")
    counts = ", ".join(
        f"{split} {sum(item.split == split for item in of.items)} {name}"
        for name, of in features.items()
        if name != "teacher"
        for split in ("train", "val")
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    seeds = range(options.seeds)
    show("On val", run(features, {name: over_seeds(task, options.seeds) for name, task in tasks.items()}))
    by_fold = run(features, {name: [one for seed in seeds for one in over_folds(task, seed)] for name, task in tasks.items()})
    show(f"By {FOLDS}-fold cross-validation in train", {name: means_of_folds(of) for name, of in by_fold.items()})
    print(f"\nItems: {counts}; {PHOTO_ENCODER}, {options.music_encoder}.")
    print(f"{paper.epochs} epochs of {paper.steps} steps each. {machine}: {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
