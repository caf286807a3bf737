"""Music tagging with frozen vectors on a small real set: python benchmarks/tagging.py --music music.csv [--photos images.csv]

The set is made in MagnaTagATune's shape from the recordings of a labels CSV: tags are their emotion, the halves of the valence-arousal
plane it lies in, and their source; the folder is a hash of the song (the column `group`) and the seed, so that every seed has another split
and no song stands in two. Nothing is copied: the clips are symbolic links in a temporary folder.

A shipped space has learnt from the emotions of most of these recordings, also of those that are tested on here. With `--photos` a
projection is trained for each seed as well, on the photos and on the songs of the train folders alone: that row is the fair one.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import platformdirs

from emoclim_cli import projections, tagging, training
from emoclim_cli.datasets import LabelledFeatures, labelled_features
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import build, encoder_info
from emoclim_cli.labels import LabelledItem, read_labels
from emoclim_cli.magnatagatune import ANNOTATIONS, PATH, TagSet, read_tag_set
from emoclim_cli.media import MediaKind
from emoclim_cli.recipes import RECIPES
from emoclim_cli.weights import fetch

CACHE = Path(os.environ.get("EMOCLIM_CACHE") or platformdirs.user_cache_dir("emoclim", appauthor=False))
SEEDS = range(5)
HALVES = {
    "positive": ("happy", "funny", "exciting", "tender"),
    "negative": ("sad", "scary", "angry"),
    "aroused": ("happy", "funny", "exciting", "scary", "angry"),
    "calm": ("sad", "tender"),
}


def write_tag_set(folder: Path, items: Sequence[LabelledItem], seed: int) -> None:
    """`annotations_final.csv` and links to the recordings in folders 0 to f."""
    tags = [*EMOTIONS, *HALVES, *sorted({item.source for item in items if item.source})]
    with open(folder / ANNOTATIONS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["clip_id", *tags, PATH])
        for number, item in enumerate(items):
            letter = f"{blake2b(f'{seed}/{item.group}'.encode(), digest_size=1).digest()[0] % 16:x}"
            name = f"{letter}/{number}{Path(item.path).suffix}"
            (folder / letter).mkdir(exist_ok=True)
            (folder / name).symlink_to(os.path.abspath(item.path))
            own = {item.emotion, item.source, *(half for half, emotions in HALVES.items() if item.emotion in emotions)}
            writer.writerow([number, *(int(tag in own) for tag in tags), name])


def features_of(items: Sequence[LabelledItem], encoder_name: str) -> LabelledFeatures:
    for name in encoder_info(encoder_name).weights:
        fetch(name, CACHE / "weights")
    return labelled_features(items, build(encoder_name, CACHE / "weights"), CACHE / "features", unusable=print)


def report_of(features: LabelledFeatures, tag_set: TagSet, projection: projections.Projection | None, seed: int) -> tagging.TagReport:
    clips = tagging.split_clips(features, tag_set, projection)
    trained = tagging.train_head(clips["train"], clips["val"], tagging.HeadRecipe(seed=seed))
    return tagging.measure(trained.head(clips["test"].vectors), clips["test"].carried, tag_set.tags)


def spread(values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    return f"{np.mean(known):.3f} ± {np.std(known):.3f}" if known else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--music", required=True)
    parser.add_argument("--photos", help="labelled photos, for a projection that has not seen the test songs")
    parser.add_argument("--space", default=projections.DEFAULT_SPACE)
    options = parser.parse_args()

    space = projections.load_space(options.space, Path(platformdirs.user_data_dir("emoclim", appauthor=False)) / "spaces")
    recordings = [item for item in read_labels(options.music) if item.emotion]
    features = features_of(recordings, space.encoders[MediaKind.MUSIC])
    photos = features_of(read_labels(options.photos), space.encoders[MediaKind.PHOTO]) if options.photos else None
    runs: dict[str, list[tagging.TagReport]] = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            write_tag_set(Path(folder), recordings, seed)
            tag_set = read_tag_set(folder)
            # By what the links lead to, so that the features are those of the first time.
            own = {os.path.realpath(item.path): item for item in tag_set.items}
        links = [own[os.path.realpath(item.path)] for item in features.items]
        items = [replace(item, path=link.path, split=link.split) for item, link in zip(features.items, links, strict=True)]
        tagged = replace(features, items=tuple(items))
        ways = {"features": None, f"emotion, {space.name} (has seen the test songs)": space.projections[MediaKind.MUSIC]}
        if photos is not None:
            train = tagged.take(np.array([item.split == "train" for item in items]))
            trained = training.train(photos, train, replace(RECIPES["shipped"], seed=seed))
            ways["emotion, trained on the train folders"] = trained.projections[MediaKind.MUSIC]
        for name, projection in ways.items():
            runs.setdefault(name, []).append(report_of(tagged, tag_set, projection, seed))

    tested = np.mean([run.clips for run in runs["features"]])
    print(f"{len(recordings)} recordings, {len(SEEDS)} seeds, on average {tested:.0f} in the test split\n")
    print("| vectors | ROC-AUC | PR-AUC |\n|---|---|---|")
    print(f"| chance | 0.500 | {spread([run.chance_pr_auc for run in runs['features']])} |")
    for name, reports in runs.items():
        print(f"| {name} | {spread([r.roc_auc for r in reports])} | {spread([r.pr_auc for r in reports])} |")
    print("\n| tag | chance PR-AUC | " + " | ".join(f"{name}: ROC-AUC / PR-AUC" for name in runs) + " |\n|---|---|" + "---|" * len(runs))
    for tag in sorted({tag for run in runs["features"] for tag in run.per_tag}):
        of = {name: [report.per_tag[tag] for report in reports if tag in report.per_tag] for name, reports in runs.items()}
        cells = [f"{spread([f.roc_auc for f in figures])} / {spread([f.pr_auc for f in figures])}" for figures in of.values()]
        print(f"| {tag} | {spread([f.chance_pr_auc for f in of['features']])} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
