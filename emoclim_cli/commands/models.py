"""models, spaces, doctor: what emoclim works with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.commands.options import JsonOption, LibraryOption, OfflineOption
from emoclim_cli.errors import EmoclimError
from emoclim_cli.media import MediaKind

models_app = typer.Typer(
    name="models", help="The pretrained networks: where from, size, licence, present.", no_args_is_help=True, rich_markup_mode=None
)
spaces_app = typer.Typer(
    name="spaces", help="The emotion spaces: trained projections, shipped and installed.", no_args_is_help=True, rich_markup_mode=None
)


@models_app.command("list")
def models_list(library: LibraryOption = "", json: JsonOption = False) -> None:  # noqa: ARG001 - every command takes --library
    """The weights, and whether they are here."""
    from emoclim_cli import weights

    rows = weights.listing(places.weights_cache())
    if json:
        console.print_json({"models": rows})
        return
    console.show_weights(rows)


@models_app.command("fetch")
def models_fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Weights; none: those of the default space.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All weights that a network gives.")] = False,
    from_path: Annotated[str, typer.Option("--from", metavar="PATH", help="Take a file, or a folder's, instead of the network.")] = "",
    library: LibraryOption = "",  # noqa: ARG001
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Downloads weights, checks and converts them. What is here already is only checked."""
    from emoclim_cli import weights
    from emoclim_cli.encoders import weights_of

    given = Path(from_path) if from_path else None
    wanted = list(names or ())
    if everything:
        wanted = [row.name for row in weights.WEIGHTS.values() if row.sources or given]
        for row in weights.WEIGHTS.values():
            if row.name not in wanted:
                console.note(f"{row.name}: on no network: {row.command}")
    if not wanted:
        space = places.load_space("")
        wanted = weights_of(space.encoders, space.tuned)
    for name in wanted:
        weights.row_of(name)  # an unknown name is said before anything is fetched
    done: list[str] = []
    failed: list[EmoclimError] = []
    for name in wanted:
        try:
            places.fetch([name], places.is_offline(offline), given, check_bytes=True)
            done.append(name)
        except EmoclimError as error:
            if not everything:
                raise
            failed.append(error)
    for name in done:
        console.note(f"{name}: here and intact")
    _raise_all(failed)
    if json:
        console.print_json({"models": [row for row in weights.listing(places.weights_cache()) if row["name"] in wanted]})


def _raise_all(errors: Sequence[EmoclimError]) -> None:
    """Shows all but the last, and raises that; nothing where there is none."""
    for error in errors[:-1]:
        console.show_error(error)
    if errors:
        raise errors[-1]


@models_app.command("verify")
def models_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Weights; none: all that are here.")] = None,
    library: LibraryOption = "",  # noqa: ARG001
    json: JsonOption = False,
) -> None:
    """Reads the weights on disk again and compares their checksums."""
    from emoclim_cli import weights

    rows = weights.listing(places.weights_cache())
    cache = places.weights_cache()
    wanted = list(names or ()) or [row.name for row in weights.WEIGHTS.values() if (cache / row.file).exists()]
    damaged: list[EmoclimError] = []
    for name in wanted:
        try:
            weights.verify(name, cache)
            console.note(f"{name}: intact")
        except EmoclimError as error:
            damaged.append(error)
    if not wanted:
        console.note("no weights are here: emoclim models fetch")
    if json:
        console.print_json({"models": [row for row in rows if row["name"] in wanted]})
    _raise_all(damaged)


@spaces_app.command("list")
def spaces_list(library: LibraryOption = "", json: JsonOption = False) -> None:  # noqa: ARG001
    """The emotion spaces."""
    from emoclim_cli.projections import EmotionSpace, space_folders

    spaces = [EmotionSpace.load(folder) for folder in space_folders(places.installed_spaces()).values()]
    if json:
        console.print_json({"spaces": [console.space_json(space) for space in spaces]})
        return
    rows = [(s.name, s.id, s.encoders[MediaKind.PHOTO], s.encoders[MediaKind.MUSIC], str(s.about.get("licence", ""))) for s in spaces]
    console.show_table(("name", "id", "photos", "music", "licence"), rows, elastic=("licence",))


@spaces_app.command("show")
def spaces_show(
    name: Annotated[str, typer.Argument(metavar="NAME|DIR")] = "",
    library: LibraryOption = "",  # noqa: ARG001
    json: JsonOption = False,
) -> None:
    """One space: how it was trained, on what, and how well it does."""
    space = places.load_space(name)
    if json:
        console.print_json({"spaces": [console.space_json(space)]})
        return
    console.show_space(space)


def doctor(library: LibraryOption = "", json: JsonOption = False) -> None:
    """What works on this machine: device, extras, weights, codecs. Exit 1 where something needed is missing."""
    from emoclim_cli import checks

    results = checks.run(
        places.library_folder(library), places.weights_cache(), lambda: places.load_space("", places.known_library(library))
    )
    if json:
        console.print_json({"checks": [check.as_json() for check in results]})
    else:
        console.show_checks(results)
    if any(check.needed and not check.ok for check in results):
        raise typer.Exit(1)
