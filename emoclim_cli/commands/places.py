"""Where a user's library, caches and spaces are, and what is made ready from them for a command.

Flags win over environment variables, these over what the library remembers, that over the default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from emoclim_cli import console
from emoclim_cli.errors import LibraryError, MissingWeights, ModelError, UsageError
from emoclim_cli.media import MediaKind

if TYPE_CHECKING:
    from emoclim_cli.buckets import Bucket
    from emoclim_cli.encoders import Encoder
    from emoclim_cli.encoding import Engine
    from emoclim_cli.library import Library
    from emoclim_cli.projections import EmotionSpace
    from emoclim_cli.weights import Weights

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_SKIP_SIGNATURE")
"""One of them is set where a bucket can be reached. Without them the network would be asked for credentials, in vain on a home computer."""


def library_folder(flag: str) -> str | Bucket:
    """Raises UsageError for a URL that is not of a bucket, LibraryError where there are no credentials for it."""
    if named := flag or os.environ.get("EMOCLIM_LIBRARY", ""):
        return _bucket(named) if re.match(r"\w+://", named) else named
    import platformdirs

    return os.path.join(platformdirs.user_data_dir("emoclim", appauthor=False), "library")


def _bucket(url: str) -> Bucket:
    from hashlib import blake2b

    from emoclim_cli.buckets import Bucket

    if not re.fullmatch(r"s3://[\w.-]+/[^?#]*[^/?#]/*", url):
        raise UsageError(f"--library {url}: no place for a library", "a folder, or s3://BUCKET/PREFIX")
    if not any(os.environ.get(name) for name in CREDENTIALS):
        raise LibraryError(f"{url}: there are no credentials in the environment", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    url = url.rstrip("/")
    endpoint = next((os.environ[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if os.environ.get(name)), "")
    digest = blake2b(f"{endpoint}\n{url}".encode(), digest_size=8).hexdigest()
    plain_http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    return Bucket(url, cache() / "libraries" / digest, plain_http)


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


@dataclass(frozen=True, slots=True)
class Cluster:
    """Several machines under Ray, as `clusters.on_ray` takes them."""

    address: str
    workers: int


@contextmanager
def engine(
    space: EmotionSpace, kinds: Collection[MediaKind], device: str, offline: bool, *, jobs: int, batch_size: int, cluster: Cluster | None
) -> Iterator[Engine]:
    """What encodes files of these kinds: here, or on a cluster. What is missing here is said before the first file is read."""
    from emoclim_cli import clusters, encoding
    from emoclim_cli.encoders.devices import cores

    encoders = encoder_maker(space, device, offline)
    if cluster is None:
        for kind in sorted(kinds):
            encoders(kind)
        yield encoding.local(encoders, space, jobs=jobs or cores(), batch_size=batch_size)
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS", "")
    made_there = partial(space_encoder, space, device=device, offline=offline)
    with clusters.on_ray(
        made_there, space, address=address, workers=cluster.workers, jobs=jobs, batch_size=batch_size, gpus=device in ("auto", "cuda")
    ) as on_ray:
        yield on_ray


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
