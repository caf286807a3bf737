"""Labelled features that have no files behind them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS, QUADRANTS
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
DIMS = {PHOTO: 10, MUSIC: 7}


def labelled(kind: MediaKind, words: Sequence[str], windows: Sequence[np.ndarray]) -> LabelledFeatures:
    """Items by emotion or quadrant."""
    items = tuple(
        LabelledItem(f"{kind}{i}", "" if word in QUADRANTS else word, QUADRANTS.get(word, frozenset((word,))), f"{kind}{i}")
        for i, word in enumerate(words)
    )
    starts = np.cumsum([0, *map(len, windows)])
    return LabelledFeatures(kind, np.concatenate(windows).astype(np.float32), starts, items)


def toy_data(
    n: int, seed: int, *, words: Sequence[str] = EMOTIONS, noise: float = 0.4, max_windows: int = 3
) -> dict[MediaKind, LabelledFeatures]:
    """Each emotion has a place of its own in either kind's features, whose scales and offsets differ."""
    rng = np.random.default_rng(seed)
    places = {kind: np.random.default_rng(d).standard_normal((len(EMOTIONS), d)) for kind, d in DIMS.items()}
    data = {}
    for kind, d in DIMS.items():
        chosen = [words[i % len(words)] for i in range(n)]
        windows = []
        for word in chosen:
            place = places[kind][EMOTIONS.index(word)] if word in EMOTIONS else np.zeros(d)
            count = 1 if kind is PHOTO else int(rng.integers(1, max_windows + 1))
            windows.append(5 + np.arange(1, d + 1) * (place + noise * rng.standard_normal((count, d))))
        data[kind] = labelled(kind, chosen, windows)
    return data
