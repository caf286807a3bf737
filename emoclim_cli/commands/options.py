"""The options that several commands share, each with one wording."""

from __future__ import annotations

from typing import Annotated

import typer

from emoclim_cli import console


def _remembered(library: str) -> str:
    console.library = library
    return library


LibraryOption = Annotated[
    str, typer.Option("--library", metavar="DIR|s3://...", help="A folder or a bucket (or EMOCLIM_LIBRARY).", callback=_remembered)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
SpaceOption = Annotated[str, typer.Option("--space", metavar="NAME|DIR", help="The emotion space; the library remembers it.")]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where the networks in torch compute.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never use the network (or EMOCLIM_OFFLINE=1).")]
PhotosOption = Annotated[str, typer.Option(metavar="CSV|DIR", help="Labelled photos: a CSV (file, emotion) or a folder per emotion.")]
MusicOption = Annotated[str, typer.Option(metavar="CSV|DIR", help="Labelled music, the same way.")]
