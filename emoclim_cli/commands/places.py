"""Where a user's library, caches and spaces are, and what is made ready from them for a command.

Flags win over environment variables, these over what the library remembers, that over the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emoclim_cli import console
from emoclim_cli.errors import MissingWeights, ModelError, UsageError
from emoclim_cli.media import MediaKind

if TYPE_CHECKING:
    from emoclim_cli.encoders import Encoder
    from emoclim_cli.library import Library
    from emoclim_cli.projections import EmotionSpace
    from emoclim_cli.weights import Weights


def library_folder(flag: str) -> str:
    if flag or os.environ.get("EMOCLIM_LIBRARY"):
        return flag or os.environ["EMOCLIM_LIBRARY"]
    import platformdirs

    return os.path.join(platformdirs.user_data_dir("emoclim", appauthor=False), "library")


def cache() -> Path:
    if os.environ.get("EMOCLIM_CACHE"):
        return Path(os.environ["EMOCLIM_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("emoclim", appauthor=False))


def weights_cache() -> Path:
    return cache() / "weights"


def installed_spaces() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("emoclim", appauthor=False)) / "spaces"


def load_space(flag: str, library: Library | None = None) -> EmotionSpace:
    """Flag > environment > what the library remembers > default."""
    from dataclasses import replace

    from emoclim_cli import projections

    remembered = library.space.name if library and library.space else ""
    name = flag or os.environ.get("EMOCLIM_SPACE", "") or remembered or projections.DEFAULT_SPACE
    space = projections.load_space(name, installed_spaces())
    # The folder of a space that is not installed is its name: under that a library finds it again.
    return space if name in projections.space_folders(installed_spaces()) else replace(space, name=os.path.abspath(name))


def open_library(flag: str) -> Library:
    """Raises NoLibrary also where an index run has failed before it began."""
    from emoclim_cli.errors import NoLibrary
    from emoclim_cli.library import Library

    library = Library.open(library_folder(flag))
    if library.space is None:
        raise NoLibrary(f"nothing is indexed yet in {library.folder}", "emoclim index FOLDER...")
    return library


def known_library(flag: str) -> Library | None:
    """The library if there is one, for commands that work without."""
    from emoclim_cli.errors import NoLibrary
    from emoclim_cli.library import Library

    try:
        return Library.open(library_folder(flag))
    except NoLibrary:
        return None


def is_offline(flag: bool) -> bool:
    return flag or os.environ.get("EMOCLIM_OFFLINE", "") not in ("", "0")


def fetch(names: Sequence[str], offline: bool, from_path: Path | None = None, *, check_bytes: bool = False) -> None:
    """Fetches what is absent or damaged, with a progress bar. Raises MissingWeights where that is forbidden.

    A file of the user's, for weights that may be made from any, is taken although others are here.
    """
    from emoclim_cli import weights

    if from_path is not None and not from_path.exists():
        raise UsageError(f"{from_path} is neither a file nor a folder", "name the file, or the folder that holds it, with --from")
    check = weights.verify if check_bytes else weights.path_of
    for name in names:
        row = weights.row_of(name)
        try:
            check(name, weights_cache())
        except ModelError as error:
            if offline and from_path is None and row.sources:
                raise MissingWeights(f"{error.message}, and --offline forbids fetching them", error.hint) from error
        else:
            if from_path is None:
                continue
            if not row.by_hand:
                console.note(f"{name} is here already: {from_path} was not looked at")
                continue
        _fetch_absent(row, from_path)


def _fetch_absent(row: Weights, from_path: Path | None) -> None:
    from emoclim_cli import weights

    def identity() -> str:
        try:
            return weights.identity_of(row.name, weights_cache())
        except MissingWeights:
            return ""

    before = identity()
    if from_path is not None:
        console.note(f"taking {row.name} from {from_path}")
        weights.fetch(row.name, weights_cache(), from_path=from_path)
    elif not row.sources:
        weights.fetch(row.name, weights_cache())  # which says what file is needed
    else:
        size = row.sources[0].size
        console.note(f"fetching {row.name} ({console.byte_size(size)}, {row.licence})")
        with console.progress(row.name, size, bytes_=True) as advance:
            weights.fetch(row.name, weights_cache(), progress=lambda done, _total: advance(done))
    if before and identity() != before:
        console.note(f"{row.name}: other weights than before; spaces and libraries made with the former do not fit them any more")


def ready_encoder(name: str, device: str, offline: bool, *, overlap: float = 0.0, tuned: Path | None = None) -> Encoder:
    """Loads an encoder, after fetching what it needs."""
    from emoclim_cli.encoders import build, check_extra, encoder_info

    info = encoder_info(name)
    check_extra(info)  # before gigabytes are fetched in vain
    if tuned is None:
        fetch(info.weights, offline)
    return build(name, weights_cache(), device, overlap=overlap, tuned=tuned)


def space_encoder(space: EmotionSpace, kind: MediaKind, device: str, offline: bool, *, overlap: float = 0.0) -> Encoder:
    """The encoder that a space was trained on. Raises ModelError where the weights at hand are others."""
    from dataclasses import replace

    encoder = ready_encoder(space.encoders[kind], device, offline, overlap=overlap, tuned=space.tuned.get(kind))
    space.check_features(kind, replace(encoder.info, overlap=0.0).digest)
    return encoder


def encoder_maker(space: EmotionSpace, device: str, offline: bool) -> Callable[[MediaKind], Encoder]:
    """Builds an encoder of the space when it is first needed. Raises UsageError for an unknown device at once."""
    from emoclim_cli.encoders.devices import check_name

    check_name(device)
    made: dict[MediaKind, Encoder] = {}

    def make(kind: MediaKind) -> Encoder:
        if kind not in made:
            made[kind] = space_encoder(space, kind, device, offline)
        return made[kind]

    return make


def playlist_format(output: str, name: str) -> str:
    """Refuses an output that cannot be written before anything is computed for it."""
    from emoclim_cli import outputs, playlists

    if name and name not in playlists.FORMATS:
        raise UsageError(f"--format {name}: unknown", f"one of: {', '.join(playlists.FORMATS)}")
    if name and not output:
        raise UsageError("--format is for a playlist", "add -o FILE, or -o - for stdout")
    if output in ("", "-"):
        return name or "m3u8"
    outputs.refuse_media(output)
    return name or playlists.format_of(output)
