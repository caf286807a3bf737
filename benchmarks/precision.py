"""What bfloat16 on the CPU costs and brings: python benchmarks/precision.py --photos images.csv --music music.csv [--items 200]

The blocks of CLIP's tower in float32 and in bfloat16, on the same photos in the same run: photos per second, the cosine between a photo's
features, and retrieval by a space with either. Of the music encoder's features one set serves both.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np
import torch
from experiments import CACHE, features_of
from safetensors.torch import load_file

from emoclim_cli import evaluation
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.encoders import build
from emoclim_cli.encoders.clip import ClipEncoder
from emoclim_cli.labels import LabelledItem, assign_splits, read_labels
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import DEFAULT_SPACE, load_space
from emoclim_cli.weights import path_of

FORMATS = (torch.float32, torch.bfloat16)
REPEATS = 3
BATCH = 32


def timed(encoder: ClipEncoder, samples: list[np.ndarray], dtype: torch.dtype) -> tuple[float, np.ndarray]:
    """Seconds and features, with the blocks in this format."""
    weights = load_file(path_of(encoder.info.weights[0], CACHE / "weights"))  # anew: what was rounded once stays rounded
    encoder.tower.float().load_state_dict(weights)
    encoder.tower.compute_in(dtype)
    start = time.perf_counter()
    features = np.concatenate([encoder.encode(samples[i : i + BATCH]) for i in range(0, len(samples), BATCH)])
    return time.perf_counter() - start, features


def as_labelled(items: list[LabelledItem], features: np.ndarray) -> LabelledFeatures:
    return LabelledFeatures(MediaKind.PHOTO, features, np.arange(len(items) + 1), tuple(items))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("--space", default=DEFAULT_SPACE)
    parser.add_argument("--split", default="val")
    parser.add_argument("--items", type=int, default=200, help="photos that the speed is measured on; retrieval takes all of the split")
    options = parser.parse_args()
    space = load_space(options.space, CACHE / "spaces")
    photos, pieces = (
        [item for item in assign_splits(read_labels(source), 0, source) if item.split == options.split and item.emotion]
        for source in (options.photos, options.music)
    )
    music = features_of(pieces, space.encoders[MediaKind.MUSIC])
    encoder = build(space.encoders[MediaKind.PHOTO], CACHE / "weights", "cpu")
    assert isinstance(encoder, ClipEncoder)
    samples = [encoder.load(item.path) for item in photos]

    spread = np.arange(len(samples))[:: max(1, len(samples) // options.items)][: options.items]
    few = [samples[i] for i in spread]
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in FORMATS}
    whole: dict[torch.dtype, np.ndarray] = {}
    for _ in range(REPEATS):  # one after the other, so that a noisy machine troubles both alike
        for dtype in FORMATS:
            seconds[dtype].append(timed(encoder, few, dtype)[0])
    for dtype in FORMATS:
        whole[dtype] = timed(encoder, samples, dtype)[1]

    a, b = whole.values()
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}; {len(samples)} photos of {options.split}")
    for name, some in ((f"{len(few)} photos", cosines[spread]), ("all", cosines)):
        print(f"cosine of a photo's features in both, {name}: least {some.min():.5f}, median {np.median(some):.5f}")
    ratios = [slow / fast for slow, fast in zip(*seconds.values(), strict=True)]
    rates = {dtype: len(few) / float(np.median(values)) for dtype, values in seconds.items()}
    print(f"{len(few)} photos, photos/s: " + ", ".join(f"{dtype} {rate:.1f}" for dtype, rate in rates.items()))
    print(f"speed-up: median {np.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f} in {REPEATS} rounds)")
    worst = 0.0
    for level in evaluation.LEVELS:
        reports = [
            evaluation.evaluate(space.projections, {MediaKind.PHOTO: as_labelled(photos, features), MediaKind.MUSIC: music}, level)
            for features in whole.values()
        ]
        for name in reports[0]:
            one, other = (report[name].as_json() for report in reports)
            for metric in ("p@1", "p@5", "mrr"):
                worst = max(worst, abs(one[metric] - other[metric]))
                print(f"{name}, {level}, {metric}: {one[metric]:.4f} in float32, {other[metric]:.4f} in bfloat16")
    print(f"largest difference of a metric: {worst:.4f}")


if __name__ == "__main__":
    main()
