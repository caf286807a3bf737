"""evaluate: how well a space retrieves on labelled data."""

from __future__ import annotations

from typing import Annotated

import typer

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.commands.labelled import features_of
from emoclim_cli.commands.options import DeviceOption, JsonOption, LibraryOption, MusicOption, OfflineOption, PhotosOption, SpaceOption
from emoclim_cli.errors import UsageError
from emoclim_cli.media import MediaKind


def evaluate(
    photos: PhotosOption = "",
    music: MusicOption = "",
    space: SpaceOption = "",
    split: Annotated[str, typer.Option(metavar="NAME", help="Only rows of this split.")] = "",
    level: Annotated[str, typer.Option(metavar="clip|track", help="A piece of music is each 10-second window, or its mean.")] = "clip",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    library: LibraryOption = "",
    json: JsonOption = False,
) -> None:
    """Retrieval between labelled photos and music: P@1, P@5 and MRR in all four directions, macro-averaged over six emotions."""
    from emoclim_cli import evaluation
    from emoclim_cli.encoders import build, encoder_info

    if level not in evaluation.LEVELS:
        raise UsageError(f"--level {level}: unknown", f"one of: {', '.join(evaluation.LEVELS)}")
    if not photos and not music:
        raise UsageError("nothing to evaluate on", "emoclim evaluate --photos images.csv --music music.csv")
    loaded = places.load_space(space, places.known_library(library))
    features = {}
    for kind, source in ((MediaKind.PHOTO, photos), (MediaKind.MUSIC, music)):
        if source:
            info = encoder_info(loaded.encoders[kind])
            places.fetch(info.weights, places.is_offline(offline))
            features[kind] = features_of(source, split, build(info.name, places.weights_cache(), device))
    report = evaluation.evaluate(loaded.projections, features, level)
    if json:
        directions = {name: direction.as_json() for name, direction in report.items()}
        console.print_json({"space": loaded.name, "level": level, "split": split, "directions": directions})
        return
    console.show_report(report, level)
