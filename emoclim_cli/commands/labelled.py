"""The features of labelled files, with progress and warnings, as every command on labelled data needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emoclim_cli import console
from emoclim_cli.commands import places

if TYPE_CHECKING:
    from emoclim_cli.datasets import LabelledFeatures
    from emoclim_cli.encoders import Encoder


def features_of(source: str, split: str, encoder: Encoder, *, quadrants: bool = False) -> LabelledFeatures:
    """Features of the labelled files; those known by quadrant only where they are of use."""
    from emoclim_cli.datasets import labelled_features
    from emoclim_cli.encoders.devices import cores
    from emoclim_cli.labels import read_labels

    items = [item for item in read_labels(source, split) if item.emotion or quadrants]
    with console.progress(f"features of {encoder.info.kind.plural}", len(items)) as advance:
        return labelled_features(
            items,
            encoder,
            places.cache() / "features",
            jobs=cores(),
            progress=lambda done, _total: advance(done),
            unusable=lambda path, reason: console.warn(f"{path}: {reason}"),
        )
