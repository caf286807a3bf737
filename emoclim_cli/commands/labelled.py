"""The features of labelled files, and their audio, with progress and warnings, as every command on labelled data needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.errors import LabelError
from emoclim_cli.media import printable

if TYPE_CHECKING:
    from emoclim_cli.datasets import LabelledFeatures
    from emoclim_cli.encoders import Encoder
    from emoclim_cli.encoders.windows import Window
    from emoclim_cli.labels import LabelledItem
    from emoclim_cli.tuning import Audio


def labelled_items(source: str, seed: int) -> list[LabelledItem]:
    """The labelled files of `source` with a split each: its own, or drawn by `seed`. What is left out is shown."""
    from emoclim_cli.labels import assign_splits, read_labels

    left_out: list[tuple[str, str]] = []
    items = read_labels(source, note=console.note)
    items = assign_splits(items, seed, source, console.warn, lambda path, reason: left_out.append((path, reason)))
    _tell(left_out, len(left_out) + len(items))
    return items


def _items(source: str, split: str) -> list[LabelledItem]:
    """Those of all splits, or of one that has a name of the user's own."""
    from emoclim_cli.labels import distinct, read_labels

    left_out: list[tuple[str, str]] = []
    items = distinct(read_labels(source, split, console.note), source, lambda path, reason: left_out.append((path, reason)))
    _tell(left_out, len(left_out) + len(items))
    return items


def _tell(left_out: Sequence[tuple[str, str]], total: int) -> None:
    shown = left_out if console.verbose else left_out[: console.ERRORS_SHOWN]
    for path, reason in shown:
        console.warn(f"{printable(path)} is left out: {reason}")
    if len(left_out) > len(shown):
        console.warn(f"{len(left_out):,} of {total:,} files are left out; all of them and why: emoclim -v")


def features_of(source: str, split: str, encoder: Encoder, *, quadrants: bool = False, seed: int = 0) -> LabelledFeatures:
    """Features of the labelled files of a split, or of all; those whose emotion is known in part only where they are of use.

    Where no file has a split of its own, train, val and test are those that `labelled_items` draws by `seed`.
    """
    from emoclim_cli.labels import SPLITS, of_split

    items = of_split(labelled_items(source, seed), split, source) if split in SPLITS else _items(source, split)
    chosen = [item for item in items if item.emotion or quadrants]
    if not chosen:
        raise LabelError(f"{source}: no file has an emotion of its own, only a quadrant, awe or disgust")
    return features_of_items(chosen, encoder)


@contextmanager
def _shown(what: str, total: int) -> Iterator[tuple[Callable[[int, int], None], Callable[[str, str], None]]]:
    """A progress bar's `progress(done, total)`, and `unusable(path, reason)`, which is told below it at the end."""
    left_out: list[tuple[str, str]] = []
    try:
        with console.progress(what, total) as advance:
            yield lambda done, _total: advance(done), lambda path, reason: left_out.append((path, reason))
    finally:
        _tell(left_out, total)


def features_of_items(items: Sequence[LabelledItem], encoder: Encoder) -> LabelledFeatures:
    from emoclim_cli.datasets import labelled_features
    from emoclim_cli.encoders.devices import cores

    with _shown(f"features of {encoder.info.kind.plural}", len(items)) as (progress, unusable):
        return labelled_features(items, encoder, places.cache() / "features", jobs=cores(), progress=progress, unusable=unusable)


def audio_of_items(items: Sequence[LabelledItem], window: Window) -> Audio:
    """The windows of labelled music, decoded, in a file that is gone when they are."""
    from emoclim_cli.encoders.devices import cores
    from emoclim_cli.tuning import read_audio

    with _shown("audio", len(items)) as (progress, unusable):
        return read_audio(items, window, places.cache(), jobs=cores(), progress=progress, unusable=unusable)
