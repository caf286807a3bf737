"""A library in a bucket of object storage (s3://bucket/prefix): its state, the lease of its one writer, the versions of its tables.

    library.json   as in a folder
    tables/        LanceDB, which reads and commits there itself, by conditional writes
    lease          who writes, renewed while they do

Snapshots are derived, and so they are kept on the machine that reads. What must not be overwritten is written under conditions
(If-None-Match, If-Match): a store that ignores them is found out and refused.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from emoclim_cli.errors import LibraryBusy, LibraryError, MissingExtra, NoLibrary
from emoclim_cli.snapshot import Version, version_number
from emoclim_cli.state import FORMAT, checked_state

RENEW_S, LEASE_S = 30.0, 300.0
"""How often a writer renews its lease, and how long one that is not renewed is respected. By the store's clock, and no other."""
TRUSTED_S = LEASE_S / 2
"""How long after its last renewal a writer still commits, by its own steady clock: the rest is for the commit itself."""
CONNECT_S, ANSWER_S, RETRY_S, RETRIES = 5, 60, 20, 3
HINT = "look at the address, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, and the network"


@dataclass(frozen=True)
class Bucket:
    """Where a library is: as text, its URL. Credentials and endpoint are those of AWS's environment variables."""

    url: str
    snapshots: Path
    """A folder of this machine."""
    plain_http: bool = False
    """Whether an endpoint without TLS is allowed."""

    def __str__(self) -> str:
        return self.url

    @property
    def tables(self) -> str:
        return f"{self.url}/tables"

    @cached_property
    def _store(self) -> Any:
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise MissingExtra(f"{self.url} needs the extra `s3`, and obstore cannot be found", "pip install 'emoclim[s3]'") from error
        client = {"allow_http": self.plain_http, "connect_timeout": timedelta(seconds=CONNECT_S), "timeout": timedelta(seconds=ANSWER_S)}
        retries = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
        with self._translated("used"):
            return from_url(self.url, client_options=client, retry_config=retries)

    def make(self) -> None:
        """Raises LibraryError where something else is there, LibraryBusy where another process makes it at this moment."""
        import obstore

        with self._translated("made"):
            found = obstore.list_with_delimiter(self._store)
        names = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        if [name for name in names if name not in ("lease", "library.json") and not name.startswith("now-")]:
            raise LibraryError(f"{self.url} is not a library and not empty", "name another place with --library")
        with self.lock(), suppress(obstore.exceptions.AlreadyExistsError), self._translated("made"):
            self._put("library.json", _bytes({"format": FORMAT, "space": None, "roots": []}), "create")

    def read_state(self) -> dict[str, Any]:
        """Raises NoLibrary, and LibraryError for one that is damaged, of a newer emoclim, or out of reach."""
        import obstore

        try:
            with self._translated("read"):
                data = bytes(obstore.get(self._store, "library.json").bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise LibraryError(f"there is no such bucket: {self.url}", "make the bucket first") from error
            raise NoLibrary(f"there is no library in {self.url}", f"emoclim index --library {self.url} FOLDER...") from None
        return checked_state(data, self.url, f"{self.url}/library.json")

    def write_state(self, state: Mapping[str, Any]) -> None:
        with self._translated("written"):
            self._put("library.json", _bytes(state), "overwrite")

    def names(self) -> list[str]:
        """Of the tables."""
        import obstore

        with self._translated("read"):
            folders = obstore.list_with_delimiter(self._store, "tables")["common_prefixes"]
        return sorted(name.removesuffix(".lance") for folder in folders if (name := folder.rsplit("/", 1)[-1]).endswith(".lance"))

    def version(self, name: str) -> Version | None:
        """The latest version of a table."""
        found = self._manifests(name)
        if not found:
            return None
        number = max(found)
        return Version(number, blake2b(found[number].encode(), digest_size=6).hexdigest())

    def version_count(self, name: str) -> int:
        return len(self._manifests(name))

    def flush(self, name: str) -> None:
        """A bucket keeps what it has taken."""

    def _manifests(self, name: str) -> dict[int, str]:
        """Number of each version of a table -> the entity tag of its manifest."""
        import obstore

        with self._translated("read"):
            objects = obstore.list_with_delimiter(self._store, f"tables/{name}.lance/_versions")["objects"]
        numbers = {version_number(one["path"].rsplit("/", 1)[-1]): str(one["e_tag"]) for one in objects}
        return {number: tag for number, tag in numbers.items() if number is not None}

    @contextmanager
    def lock(self) -> Iterator[Lease]:
        """Raises LibraryBusy where another writer holds it and has renewed it within LEASE_S."""
        lease = Lease(self, self._taken())
        try:
            yield lease
        finally:
            lease.release()

    def _taken(self) -> Mapping[str, Any]:
        """The lease, ours now; as the store names it."""
        import obstore

        with self._translated("written"):
            try:
                mine = self._put("lease", _holder(), "create")
            except obstore.exceptions.AlreadyExistsError:
                mine = self._taken_over()
            # A store that takes no conditions would have two writers, and would let LanceDB's commits overwrite each other.
            with suppress(obstore.exceptions.AlreadyExistsError):
                self._put("lease", b"", "create")
                raise LibraryError(f"{self.url} ignores conditional writes, and so two writers could spoil it", "use another store")
        return mine

    def _taken_over(self) -> Mapping[str, Any]:
        import obstore

        try:
            held = obstore.get(self._store, "lease")
            holder, held_meta = bytes(held.bytes()).decode(), held.meta
            # The clock of this machine may be wrong: what time it is there, a new object tells.
            now = f"now-{os.urandom(16).hex()}"
            self._put(now, b"", "create")
            try:
                age = obstore.head(self._store, now)["last_modified"] - held_meta["last_modified"]
            finally:
                obstore.delete(self._store, now)
            if age.total_seconds() < LEASE_S:
                raise self._busy(holder.rpartition(",")[0], f"; one that died is waited for {LEASE_S / 60:.0f} minutes")
            return self._put("lease", _holder(), {"e_tag": held_meta["e_tag"]})
        except (FileNotFoundError, obstore.exceptions.PreconditionError) as error:
            raise self._busy("", "") from error  # released, or taken by another, at this moment

    def _busy(self, holder: str, more: str) -> LibraryBusy:
        by = f" ({holder})" if holder else ""
        return LibraryBusy(f"another emoclim is writing to the library {self.url}{by}", f"try again when it has finished{more}")

    def _put(self, name: str, data: bytes, mode: Any) -> Mapping[str, Any]:
        import obstore

        result: Mapping[str, Any] = obstore.put(self._store, name, data, mode=mode, use_multipart=False)
        return result

    def _delete(self, name: str) -> None:
        import obstore

        obstore.delete(self._store, name)

    @contextmanager
    def _translated(self, how: str) -> Iterator[None]:
        """obstore's exceptions -> LibraryError, but for those that are answers."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError as error:
            if how in ("read", "used") or "NoSuchBucket" not in str(error):
                raise
            raise LibraryError(f"there is no such bucket: {self.url}", "make the bucket first") from error
        except (BaseError, PermissionError, ValueError, NotImplementedError) as error:
            raise self.unusable(error, how) from error

    def unusable(self, error: Exception, how: str) -> LibraryError:
        reason = str(error).partition("\n")[0].strip()
        return LibraryError(f"the library {self.url} cannot be {how}: {reason}", HINT)


class Lease:
    """A writer's, renewed by a thread for as long as it is held."""

    def __init__(self, bucket: Bucket, taken: Mapping[str, Any]) -> None:
        self._bucket, self._taken = bucket, taken
        self._renewed = _clock_s()
        self._lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="emoclim lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LibraryError where another may be writing by now: this process was suspended, or could not reach the store."""
        if self._lost or _clock_s() - self._renewed > TRUSTED_S:
            raise LibraryError(
                f"the lease of the library {self._bucket} could not be renewed in time: another may be writing by now",
                "all that was committed is kept; go on with: emoclim index",
            )

    def _renew(self) -> None:
        from obstore.exceptions import BaseError, PreconditionError

        while not self._over.wait(RENEW_S) and not self._lost:
            asked = _clock_s()
            try:
                self._taken = self._bucket._put("lease", _holder(), {"e_tag": self._taken["e_tag"]})
                self._renewed = asked
            except PreconditionError:
                self._lost = True
            except (BaseError, OSError):  # tried again; `check` tells when that has gone on for too long
                pass

    def release(self) -> None:
        from obstore.exceptions import BaseError

        self._over.set()
        self._thread.join(CONNECT_S)  # a network that is down holds up no Ctrl-C; what is renewed after the deletion fails its condition
        if self._lost or _clock_s() - self._renewed > TRUSTED_S:
            return  # it may be another's
        with suppress(BaseError, OSError):  # then it runs out
            self._bucket._delete("lease")


def _clock_s() -> float:
    """Of a clock that goes on while the machine sleeps, where there is one: Linux stops the usual steady one, and macOS its `monotonic`."""
    clock = getattr(time, "CLOCK_BOOTTIME", None) or (getattr(time, "CLOCK_MONOTONIC", None) if sys.platform == "darwin" else None)
    return time.clock_gettime(clock) if clock is not None else time.monotonic()


def _holder() -> bytes:
    """Each is another, so that its entity tag is."""
    return f"process {os.getpid()} on {platform.node()}, {os.urandom(4).hex()}".encode()


def _bytes(state: Mapping[str, Any]) -> bytes:
    return json.dumps(state, indent=1).encode("ascii")
