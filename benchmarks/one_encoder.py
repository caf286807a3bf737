"""Indexing with one encoder, whatever the spaces have: python benchmarks/one_encoder.py ENCODER LIST FOLDER

LIST is a file with a path on each line, FOLDER the library that is made. Processes that read files begin by importing this script: it is
as light as the program.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import platformdirs

from emoclim_cli import encoding, indexing
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import build, encoder_info
from emoclim_cli.encoders.devices import cores
from emoclim_cli.library import Library, Root
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit

CACHE = Path(os.environ.get("EMOCLIM_CACHE") or platformdirs.user_cache_dir("emoclim", appauthor=False)) / "weights"


def space_of(photo_encoder: str, music_encoder: str) -> EmotionSpace:
    """Any projection does: its time is nothing beside the networks'."""
    rng = np.random.default_rng(0)
    infos = {MediaKind.PHOTO: encoder_info(photo_encoder), MediaKind.MUSIC: encoder_info(music_encoder)}
    shapes = {kind: ((info.dim, 128), (128,), (128, 128), (128,)) for kind, info in infos.items()}
    return EmotionSpace(
        "benchmark",
        {kind: info.name for kind, info in infos.items()},
        {kind: info.digest for kind, info in infos.items()},
        {kind: Projection(*(rng.normal(size=s).astype(np.float32) for s in shapes[kind])) for kind in infos},
        unit(rng.normal(size=(len(EMOTIONS), 128))),
    )


def index(paths: list[str], encoder: str, folder: str) -> Library:
    """What `emoclim index` does, with an encoder that no shipped space has."""
    kind = encoder_info(encoder).kind
    names = {MediaKind.PHOTO: "clip-vit-b-16", MediaKind.MUSIC: "vibenet", kind: encoder}
    space = space_of(names[MediaKind.PHOTO], names[MediaKind.MUSIC])
    library = Library.create(folder)
    plan = indexing.plan(library, [Root(path) for path in paths], indexing.space_ref(space))
    engine = encoding.local(lambda _kind: build(encoder, CACHE), space, jobs=cores())
    done = list(indexing.apply(plan, library, engine, space))
    assert all(outcome.status is indexing.Status.INDEXED for outcome in done)
    return library


if __name__ == "__main__":
    index(Path(sys.argv[2]).read_text().split("\n"), sys.argv[1], sys.argv[3])
