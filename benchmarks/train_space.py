"""Trains the shipped space and writes its model card: python benchmarks/train_space.py --photos images.csv --music music.csv models/emoclim-1

Only recordings with an emotion are used, no piece known by its quadrant alone. Whatever is chosen (music encoder, recipe) is chosen by cross-validation inside the
training split, songs never across folds; the validation split is only reported on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import platformdirs

from emoclim_cli import evaluation, training
from emoclim_cli.datasets import LabelledFeatures, labelled_features
from emoclim_cli.encoders import build, encoder_info
from emoclim_cli.labels import LabelledItem, read_labels
from emoclim_cli.media import MediaKind
from emoclim_cli.weights import fetch

CACHE = Path(os.environ.get("EMOCLIM_CACHE") or platformdirs.user_cache_dir("emoclim", appauthor=False))
PHOTO_ENCODER = "clip-vit-b-16"
MUSIC_ENCODERS = ("musicnn", "vibenet", "musicnn+vibenet")
FOLDS = 4
SEEDS = range(5)
SHOWN = (("image->music", "clip"), ("image->music", "track"), ("music->image", "clip"), ("image->image", "clip"), ("music->music", "clip"))

Features = Mapping[MediaKind, LabelledFeatures]
Figures = dict[tuple[str, str], tuple[float, float]]


def features_of(items: list[LabelledItem], encoder_name: str) -> LabelledFeatures:
    for name in encoder_info(encoder_name).weights:
        fetch(name, CACHE / "weights")

    def progress(done: int, total: int) -> None:
        print(f"\r{encoder_name}: {done}/{total}", end="" if done < total else "\n", flush=True)

    return labelled_features(items, build(encoder_name, CACHE / "weights"), CACHE / "features", progress=progress, unusable=print)


def figures(projections: Mapping[MediaKind, object], on: Features) -> Figures:
    """(direction, level) -> P@5, MRR."""
    reports = {level: evaluation.evaluate(projections, on, level) for level in evaluation.LEVELS}
    return {(name, level): (reports[level][name].p_at_5, reports[level][name].mrr) for name, level in SHOWN}


def folds_of(features: LabelledFeatures, seed: int) -> np.ndarray:
    """(n,) fold of each item: whole groups, each emotion spread evenly."""
    rng = np.random.default_rng(seed)
    label_of = {item.group: item.emotion for item in features.items}
    fold_of: dict[str, int] = {}
    for label in sorted(set(label_of.values())):
        groups = rng.permutation(sorted(group for group, of in label_of.items() if of == label))
        fold_of.update({str(group): i % FOLDS for i, group in enumerate(groups)})
    return np.array([fold_of[item.group] for item in features.items])


def cross_validated(photos: LabelledFeatures, music: LabelledFeatures, recipe: training.Recipe) -> list[Figures]:
    """Figures on each held-out fold."""
    music_fold, photo_fold = folds_of(music, 0), folds_of(photos, 0)
    rows = []
    for fold in range(FOLDS):
        trained = training.train(photos.take(photo_fold != fold), music.take(music_fold != fold), replace(recipe, seed=fold))
        rows.append(
            figures(
                trained.projections, {MediaKind.PHOTO: photos.take(photo_fold == fold), MediaKind.MUSIC: music.take(music_fold == fold)}
            )
        )
    return rows


def table(rows: Iterable[tuple[str, list[Figures]]], first: str) -> str:
    """Markdown: P@5 / MRR, mean and standard deviation."""
    head = [first, *(f"{name} ({level})" for name, level in SHOWN)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, runs in rows:
        cells = []
        for key in SHOWN:
            values = np.array([run[key] for run in runs])
            mean, spread = values.mean(axis=0), values.std(axis=0)
            cells.append(f"{mean[0]:.3f} ± {spread[0]:.3f} / {mean[1]:.3f} ± {spread[1]:.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts(report: dict[str, evaluation.Direction], part: str, name: str) -> str:
    lines = [f"| direction | {name} | P@5 | MRR | chance P@5 | queries |", "|---|---|---|---|---|---|"]
    for direction, result in report.items():
        for key, v in getattr(result, part).items():
            lines.append(f"| {direction} | {key} | {v['p@5']:.3f} | {v['mrr']:.3f} | {v['chance_p@5']:.3f} | {v['n']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()

    shipped, paper = training.RECIPES["shipped"], training.RECIPES["paper"]
    photos = features_of(read_labels(options.photos), PHOTO_ENCODER)
    photo_parts = dict(zip(("train", "val"), training.split(photos, 0), strict=True))
    recordings = [item for item in read_labels(options.music, "train") if item.emotion]
    by_encoder = []
    for name in MUSIC_ENCODERS:
        runs = cross_validated(photo_parts["train"], features_of(recordings, name), shipped)
        by_encoder.append((name, runs))
        print(table(by_encoder[-1:], "music encoder"), flush=True)
    chosen = max(by_encoder, key=lambda row: np.mean([run[key][0] for run in row[1] for key in SHOWN[:3]]))[0]

    music = features_of([item for item in read_labels(options.music) if item.emotion], chosen)
    music_parts = dict(zip(("train", "val"), training.split(music, 0), strict=True))
    train_on = {MediaKind.PHOTO: photo_parts["train"], MediaKind.MUSIC: music_parts["train"]}
    val = {MediaKind.PHOTO: photo_parts["val"], MediaKind.MUSIC: music_parts["val"]}
    by_recipe = []
    for name, recipe in (("paper", paper), ("shipped, unbalanced", replace(shipped, balanced=False)), ("shipped", shipped)):
        by_recipe.append((name, cross_validated(train_on[MediaKind.PHOTO], train_on[MediaKind.MUSIC], recipe)))
        print(table(by_recipe[-1:], "recipe"), flush=True)

    on_val = []
    for name, recipe in (("paper", paper), ("shipped", shipped)):
        runs = [
            training.train(train_on[MediaKind.PHOTO], train_on[MediaKind.MUSIC], replace(recipe, seed=seed)).projections for seed in SEEDS
        ]
        on_val.append((name, [figures(projections, val) for projections in runs]))
    infos = {info.kind: info for info in map(encoder_info, (PHOTO_ENCODER, chosen))}
    about = {"licence": LICENCE, "data": DATA}
    space, _ = training.train_space(options.output.name, train_on, val, shipped, infos, about=about)
    reports = {level: evaluation.evaluate(space.projections, val, level) for level in evaluation.LEVELS}
    metrics = {level: {name: direction.as_json() for name, direction in report.items()} for level, report in reports.items()}
    replace(space, about={**space.about, "metrics": metrics}).save(options.output)
    card = CARD.format(
        name=space.name,
        music_encoder=chosen,
        encoder_table=table(by_encoder, "music encoder"),
        recipe=", ".join(f"{key} {value}" for key, value in asdict(shipped).items()),
        recipe_table=table(by_recipe, "recipe"),
        val_table=table(on_val, "recipe"),
        per_emotion=parts(reports["clip"], "per_emotion", "emotion"),
        per_source=parts({"music->image": reports["clip"]["music->image"]}, "per_source", "source"),
        counts=", ".join(f"{part} {len(on[kind])} {kind.plural}" for part, on in (("train", train_on), ("val", val)) for kind in MediaKind),
    )
    (options.output / "README.md").write_text(card, encoding="utf-8")
    print(card)


LICENCE = "GPL-3.0-or-later for the projections; the data they learnt from is for personal and research use"
DATA = "DeepEmotion photos (Flickr, Instagram); recordings from stock, game, composer and text-to-music sources"
CARD = """# {name}

Maps photos and music into one 128-dimensional emotion space. Written by `benchmarks/train_space.py`; every figure below is of that one run.

## Encoders

Photos: `clip-vit-b-16`, OpenAI's CLIP ViT-B/16 image tower (MIT), from int8 weights read back to float32. Music: `{music_encoder}`, up to six 10-second windows
of a track, their features averaged. Both are frozen. The music encoder was chosen by 4-fold cross-validation on the recordings of the training split (P@5 / MRR,
mean ± standard deviation over folds; chance P@5 0.167):

{encoder_table}

## Data

Photos: 12,737 of DeepEmotion (You et al. 2016; Flickr and Instagram), six emotions. Music: 309 recordings with one of seven emotions (stock, games, a composer's
"feel" tags, horror games, text-to-music). Most labels of recordings are one person's word; exciting and angry overlap (battle music), and class partly follows source.

## Splits

Those of the data: {counts}. A song's recordings stand in one split. Encoder and recipe were chosen by cross-validation inside the training split, whole songs to a
fold; the validation split chose nothing, but for the softmax temperature that turns cosines into percentages.

## Training

The paper's four-term supervised contrastive loss (Eq. 2 to 4) on two MLPs. Recipe: {recipe}. Beyond the paper: each emotion equally often in a batch (`balanced`), and a softer temperature. Cross-validated:

{recipe_table}

## Metrics

Validation split, macro over six emotions, P@5 / MRR, mean ± standard deviation over 5 seeds of training, each the last epoch; chance P@5 is 0.167 in every column. A clip is a
10-second window of a recording, a track the mean of its windows; a query never finds its own photo or song.

{val_table}

The shipped projections (seed 0), clips, by emotion:

{per_emotion}

and by the source of the music asked with:

{per_source}

## Limits

The validation split holds 36 recordings, 30 of them of the six emotions, two of them angry: its music figures move by several points with a handful of pieces. Photos are
Western social media of 2014; music is mostly instrumental, game-like and short. Percentages are calibrated on the validation items, nearly all of
them photos: take them as an ordering more than as a probability. It says
what a photo or a track tends to evoke in the people who labelled the data, not what you feel.

## Licence

The projections: GPL-3.0-or-later. The photos are research material and most recordings may be used but not passed on; none of it is here. Personal and research use.
"""


if __name__ == "__main__":
    main()
