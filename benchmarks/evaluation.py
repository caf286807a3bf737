"""What evaluating costs on data of the paper's size: python benchmarks/evaluation.py [--sizes 1500 5000 15000]

n photos and n pieces of music in songs of three, unit vectors of 128 numbers around six emotions. Each line is a process of its own; its
peak memory includes Python and numpy. `retrieve` is one direction, `evaluate` all four, with intervals, confusions and hubness.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time

import numpy as np

from emoclim_cli import evaluation
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import RETRIEVAL_EMOTIONS
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind
from emoclim_cli.metrics import retrieve
from emoclim_cli.projections import Projection, unit

DIM = 128
PASS_THROUGH = Projection(np.eye(DIM), np.full(DIM, 9.0), np.eye(DIM), np.full(DIM, -9.0))


def items_of(kind: MediaKind, n: int) -> LabelledFeatures:
    rng = np.random.default_rng(len(kind))
    labels = rng.choice(len(RETRIEVAL_EMOTIONS), n)
    centres = np.random.default_rng(0).standard_normal((len(RETRIEVAL_EMOTIONS), DIM))
    vectors = unit(centres[labels] + 2 * rng.standard_normal((n, DIM)))
    songs = 3 if kind is MediaKind.MUSIC else 1
    names = [RETRIEVAL_EMOTIONS[label] for label in labels]
    items = tuple(LabelledItem(f"{i}", name, frozenset((name,)), f"group {i // songs}") for i, name in enumerate(names))
    return LabelledFeatures(kind, vectors, np.arange(n + 1), items)


def measure(what: str, n: int) -> str:
    features = {kind: items_of(kind, n) for kind in MediaKind}
    projections = dict.fromkeys(MediaKind, PASS_THROUGH)
    sides = evaluation.sides_of(projections, features)
    start = time.perf_counter()
    if what == "retrieve":
        photos, music = sides[MediaKind.PHOTO], sides[MediaKind.MUSIC]
        retrieve(photos.vectors, music.vectors, photos.labels, music.labels)
    else:
        evaluation.evaluate(projections, features)
    seconds = time.perf_counter() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024**2 if platform.system() == "Darwin" else 1024
    )  # bytes there, kB elsewhere
    return f"{what:10} {n:8,} {seconds:9.2f} {peak_mb:9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1500, 5000, 15_000])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one, options.sizes[0]))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{'what':10} {'n by n':>8} {'seconds':>9} {'peak MB':>9}")
    for size in options.sizes:
        for what in ("retrieve", "evaluate"):
            subprocess.run([sys.executable, __file__, "--one", what, "--sizes", str(size)], check=True)


if __name__ == "__main__":
    main()
