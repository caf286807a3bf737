"""evaluate: how well a space retrieves on labelled data."""

from __future__ import annotations

from pathlib import Path
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
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draws the splits of labels that name none; else the seed that the space was trained with.")
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            metavar="clip|track|sliding", help="A piece of music is each 10-second window, their mean, or a sliding window's mean."
        ),
    ] = "clip",
    confusion: Annotated[bool, typer.Option("--confusion", help="Show which emotions are taken for which.")] = False,
    plot: Annotated[str, typer.Option(metavar="FILE", help="Draw the space and the confusions: .png, .svg or .pdf.")] = "",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    library: LibraryOption = "",
    json: JsonOption = False,
) -> None:
    """Retrieval between labelled photos and music: P@1, P@5 and MRR in all four directions, macro-averaged over six emotions."""
    from emoclim_cli import evaluation, plots

    if level not in (*evaluation.LEVELS, evaluation.SLIDING):
        raise UsageError(f"--level {level}: unknown", f"one of: {', '.join((*evaluation.LEVELS, evaluation.SLIDING))}")
    if not photos and not music:
        raise UsageError("nothing to evaluate on", "emoclim evaluate --photos images.csv --music music.csv")
    if plot:
        plots.check(Path(plot))
    loaded = places.load_space(space, places.known_library(library))
    trained_with = int(loaded.about.get("recipe", {}).get("seed", 0))
    drawn_by = trained_with if seed is None else seed
    features = {}
    for kind, source in ((MediaKind.PHOTO, photos), (MediaKind.MUSIC, music)):
        if source:
            slides = kind is MediaKind.MUSIC and level == evaluation.SLIDING
            overlap = evaluation.SLIDING_OVERLAP if slides else 0.0
            encoder = places.space_encoder(loaded, kind, device, places.is_offline(offline), overlap=overlap)
            features[kind] = features_of(source, split, encoder, seed=drawn_by)
    if not split:
        console.note("measured on all rows: on those that the space has learnt from the figures say nothing; --split val or test")
    report = evaluation.evaluate(loaded.projections, features, level)
    if plot:
        plots.draw(Path(plot), loaded, evaluation.sides_of(loaded.projections, features, level), report, level, seed=drawn_by)
        console.note(f"drawn: {plot}")
    if json:
        directions = {name: direction.as_json() for name, direction in report.items()}
        console.print_json({"space": loaded.name, "level": level, "split": split, "directions": directions, "plot": plot})
        return
    console.show_report(report, level, confusion=confusion or console.verbose)
