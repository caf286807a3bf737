"""train: labelled data in, a space out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.commands.labelled import features_of
from emoclim_cli.commands.options import DeviceOption, JsonOption, LibraryOption, MusicOption, OfflineOption, PhotosOption
from emoclim_cli.errors import UsageError
from emoclim_cli.media import MediaKind

if TYPE_CHECKING:
    from emoclim_cli.datasets import LabelledFeatures


def _check_writable(folder: str) -> None:
    """Before hours of work, not after them. Raises UsageError."""
    there = os.path.abspath(folder)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK):
        raise UsageError(f"{folder} cannot be written: {there} is no folder that may be written to", "name another with -o")


def train(
    photos: PhotosOption,
    music: MusicOption,
    output: Annotated[str, typer.Option("-o", metavar="DIR", help="Where the space is written; its name is the space's.")],
    photo_encoder: Annotated[str, typer.Option(metavar="NAME")] = "clip-vit-b-16",
    music_encoder: Annotated[str, typer.Option(metavar="NAME")] = "musicnn",
    recipe: Annotated[
        str, typer.Option(metavar="paper|shipped|quadrants", help="Settings; quadrants: shipped, and pieces without an emotion.")
    ] = "shipped",
    epochs: Annotated[int, typer.Option(min=0, help="0: the recipe's.")] = 0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    library: LibraryOption = "",  # noqa: ARG001
    json: JsonOption = False,
) -> None:
    """Trains a space on labelled photos and music. Rows with split `val` are held out to measure it; without any, a tenth of the groups."""
    from dataclasses import replace

    from emoclim_cli import evaluation, training
    from emoclim_cli.encoders import build, encoder_info

    if recipe not in training.RECIPES:
        raise UsageError(f"--recipe {recipe}: unknown", f"one of: {', '.join(training.RECIPES)}")
    infos = {info.kind: info for info in map(encoder_info, (photo_encoder, music_encoder))}
    if set(infos) != set(MediaKind):
        raise UsageError("--photo-encoder and --music-encoder are of one kind", "emoclim spaces show tells a pair that fits")
    _check_writable(output)
    changed = training.with_changes(training.RECIPES[recipe], seed=seed, epochs=epochs or None)
    parts: dict[str, dict[MediaKind, LabelledFeatures]] = {"train": {}, "val": {}}
    for kind, source in ((MediaKind.PHOTO, photos), (MediaKind.MUSIC, music)):
        places.fetch(infos[kind].weights, places.is_offline(offline))
        encoder = build(infos[kind].name, places.weights_cache(), device)
        parts["train"][kind], parts["val"][kind] = training.split(features_of(source, "", encoder, quadrants=changed.quadrants), seed)
    with console.progress("training", changed.epochs) as advance:
        name = os.path.basename(os.path.abspath(output))
        space, trained = training.train_space(name, parts["train"], parts["val"], changed, infos, lambda epoch: advance(epoch.number))
    metrics = {level: evaluation.evaluate(space.projections, parts["val"], level) for level in evaluation.LEVELS}
    figures = {level: {name: direction.as_json() for name, direction in report.items()} for level, report in metrics.items()}
    space = replace(space, about={**space.about, "metrics": figures})
    space.save(Path(output))
    if json:
        console.print_json(
            {"space": str(output), "epochs": changed.epochs, "best_epoch": trained.best_epoch, "val": space.about["metrics"]}
        )
        return
    console.note(f"wrote {output}: epoch {trained.best_epoch} of {changed.epochs}")
    console.show_space(space)
