"""Every figure of the README about large libraries: python benchmarks/scale.py [--items N] [--rescan N] [--long]

A library of N tracks and a hundredth as many photos, whose features are real ones repeated with noise, and one of as many files as are
scanned again. Times of commands are those of whole processes, medians, with the files in the page cache unless it says otherwise. The
search is held against exact search over all rows, and against the index that LanceDB offers, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs
import synthetic

from emoclim_cli import matching
from emoclim_cli.library import Library, Row
from emoclim_cli.media import MediaItem, MediaKind
from emoclim_cli.projections import DEFAULT_SPACE, EmotionSpace, load_space
from emoclim_cli.snapshot import View

CACHE = Path(os.environ.get("EMOCLIM_CACHE") or platformdirs.user_cache_dir("emoclim", appauthor=False))
REPEATS = 5
QUERIES = 100
K = 50
COMMIT_ROWS = 32
NEW_FILES = 200
PAGE_CACHE = "/proc/sys/vm/drop_caches"

Figures = dict[str, object]


LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""
"""A small process between this one and the program: on Linux a child's peak memory begins with that of the process it was forked from."""


def process(*command: str, cold: bool = False, repeats: int = REPEATS) -> dict[str, float]:
    """Median wall time, time of both cores, and peak memory of the installed program."""
    measured = []
    for _ in range(repeats):
        if cold:
            subprocess.run(["sync"], check=True)
            Path(PAGE_CACHE).write_text("3")
        whole = [sys.executable, "-S", "-c", LAUNCHER, sys.executable, "-m", "emoclim_cli", *command]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        measured.append([float(number) for number in done.stdout.split()])
    seconds, busy, peak = zip(*measured, strict=True)
    unit = 1024**2 if platform.system() == "Darwin" else 1024  # bytes there, kB elsewhere
    return {
        "seconds": statistics.median(seconds),
        "best": min(seconds),
        "worst": max(seconds),
        "processor seconds": statistics.median(busy),
        "peak MB": max(peak) / unit,
    }


def match_processes(figures: Figures, name: str, library: Path, photo: str) -> None:
    command = ("match", photo, "--library", str(library))
    process(*command)  # fills the page cache
    figures[f"match of an indexed photo, {name}"] = process(*command)
    if os.access(PAGE_CACHE, os.W_OK):
        figures[f"the same, nothing in the page cache, {name}"] = process(*command, cold=True)
    figures[f"match sad, {name}"] = process("match", "sad", "--library", str(library))


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def spread(values: list[float], unit: str) -> dict[str, float]:
    return {f"median {unit}": statistics.median(values), f"p95 {unit}": float(np.quantile(values, 0.95))}


def query_sets(space: EmotionSpace, real: dict[MediaKind, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> (q, e): what people ask a library of music for."""
    rng = np.random.default_rng(1)
    found = {kind.value: space.project(kind, synthetic.features(real[kind], QUERIES, rng)) for kind in (MediaKind.PHOTO, MediaKind.MUSIC)}
    names = space.emotions
    found["mood"] = np.stack([space.mood([*{a, b}]) for a in names for b in names])
    return found


def processor_milliseconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1000


def search(view: View, queries: dict[str, np.ndarray]) -> Figures:
    """Of each set of queries: times, and how many of the 50 nearest rows of exact search are found."""
    exact = replace(view, sketch=None)
    figures: Figures = {}
    for name, vectors in queries.items():
        times, busy, exact_times, recalls, candidates = [], [], [], [], []
        for vector in vectors:
            view.search(vector, K)  # both are warm
            times.append(milliseconds(lambda v=vector: view.search(v, K)))
            busy.append(processor_milliseconds(lambda v=vector: view.search(v, K)))
            exact_times.append(milliseconds(lambda v=vector: exact.search(v, K)))
            found, expected = view.search(vector, K)[0], exact.search(vector, K)[0]
            recalls.append(float(np.isin(expected, found).mean()))
            if view.sketch is not None:
                candidates.append(len(view.sketch.candidates(view.emotion, vector, K)))
        figures[f"search, {name} queries, {len(view):,} rows"] = {
            **spread(times, "ms"),
            "processor ms": statistics.median(busy),
            f"recall@{K}": statistics.mean(recalls),
            "worst recall": min(recalls),
            "rows compared": statistics.mean(candidates) if candidates else len(view),
            **{f"{key} of exact search": value for key, value in spread(exact_times, "ms").items()},
        }
    return figures


def crossover(view: View, queries: dict[str, np.ndarray]) -> Figures:
    """From how many rows on the sketch pays, in a process that has the library open."""
    from emoclim_cli.sketches import Sketch

    figures: Figures = {}
    for n in (10_000, 30_000, 100_000, 300_000):
        if n < len(view):
            rows = np.linspace(0, len(view) - 1, n).astype(np.int64)
            taken = {
                name: getattr(view, name)[rows]
                for name in ("ids", "gone", "content", "space_index", "size", "mtime_ns", "kind", "duration_s")
            }
            emotion = np.ascontiguousarray(view.emotion[rows])
            texts = type(view.path_bytes).of([view.path_bytes[row] for row in rows.tolist()])
            part = replace(view, **taken, emotion=emotion, path_bytes=texts, details={}, sketch=Sketch.of(emotion))
            exact = replace(part, sketch=None)
            times = [[milliseconds(lambda v=v, p=p: p.search(v, K)) for v in queries["photo"] for _ in range(2)] for p in (part, exact)]
            figures[f"search, {n:,} rows"] = dict(zip(("ms", "ms of exact search"), map(statistics.median, times), strict=True))
    return figures


LANCE_QUERY = """
import sys, time, numpy as np
start = time.perf_counter()
import lancedb
table = lancedb.connect(sys.argv[1]).open_table("vectors")
asked = table.search(np.load(sys.argv[2])[0]).distance_type("cosine").nprobes(int(sys.argv[3]))
found = asked.limit(50).select(["row", "_distance"]).to_arrow()
assert found.num_rows == 50
print(time.perf_counter() - start)
"""


def lancedb_index(view: View, queries: dict[str, np.ndarray], folder: Path) -> Figures:
    """The same vectors in a LanceDB table with an index: what we would use if its import were not so slow."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfFlat

    from emoclim_cli.rows import vector_column

    figures: Figures = {}
    table = lancedb.connect(str(folder)).create_table(
        "vectors", pa.table({"row": np.arange(len(view)), "vector": vector_column(view.emotion)})
    )
    exact = replace(view, sketch=None)
    np.save(folder / "query.npy", queries["photo"][:1])
    partitions = max(1, int(len(view) ** 0.5))
    start = time.perf_counter()
    table.create_index("vector", config=IvfFlat(distance_type="cosine", num_partitions=partitions))
    built = time.perf_counter() - start
    for probes in (20, 60):
        times, recalls = [], []
        for name, vectors in queries.items():
            for vector in vectors[: QUERIES // 2]:

                def ask(v: np.ndarray = vector, probes: int = probes) -> np.ndarray:
                    asked = table.search(v).distance_type("cosine").nprobes(probes).limit(K).select(["row", "_distance"])
                    return np.asarray(asked.to_arrow()["row"])

                ask()
                times.append(milliseconds(ask))
                recalls.append((name, float(np.isin(exact.search(vector, K)[0], ask()).mean())))
        command = [sys.executable, "-c", LANCE_QUERY, str(folder), str(folder / "query.npy"), str(probes)]
        cold = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(REPEATS)]
        figures[f"LanceDB's IVF index, {partitions} partitions, {probes} probes"] = {
            **spread(times, "ms"),
            **{f"recall@{K} {name}": statistics.mean(r for n, r in recalls if n == name) for name in queries},
            "seconds of import and first query": statistics.median(cold),
            "seconds to build": built,
        }
    return figures


def bookkeeping(library: Library, space: EmotionSpace) -> Figures:
    """What writing costs in a library of this size."""
    figures: Figures = {}
    kind = MediaKind.MUSIC
    rng = np.random.default_rng(2)
    batch = rng.standard_normal((COMMIT_ROWS, space.projections[kind].features_dim)).astype(np.float32)
    emotion = space.project(kind, batch)
    times = {"commit": [], "mark gone": [], "rows": []}  # type: dict[str, list[float]]
    with library.writing():
        for step in range(40):
            items = [MediaItem(f"/new/{step}-{i}", kind, 1, 1, title="new") for i in range(COMMIT_ROWS)]
            rows = [Row(one, f"{i:032x}", batch[i], emotion[i]) for i, one in enumerate(items)]
            ids = [one.id for one in items]
            times["commit"].append(milliseconds(lambda rows=rows: library.upsert(kind, rows)))
            if step < REPEATS:
                times["mark gone"].append(milliseconds(lambda ids=ids: library.mark_gone(kind, ids)))
                times["rows"].append(milliseconds(lambda ids=ids: library.rows(kind, ids)))
        figures["seconds to compact, after 40 commits"] = milliseconds(library.compact) / 1000
        figures["seconds to make the snapshot"] = milliseconds(library.snapshot) / 1000
    for name, values in times.items():
        figures[f"{name}, {COMMIT_ROWS} rows"] = spread(values[1:], "ms")
    return figures


def size_on_disk(folder: Path, rows: int) -> dict[str, float]:
    sizes = {name: sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file()) for name in ("tables", "snapshots")}
    return {f"{name} MB": size / 1e6 for name, size in sizes.items()} | {"bytes an item": sum(sizes.values()) / rows}


def warm_match(library: Library, space: EmotionSpace, photos: list[str]) -> dict[str, float]:
    def no_encoder(kind: MediaKind) -> object:
        raise AssertionError(kind)

    def ask(photo: str) -> None:
        query = matching.resolve([photo], library, space, no_encoder)  # type: ignore[arg-type]
        assert len(matching.match(library, space, query, [MediaKind.MUSIC], limit=10)) == 10

    for photo in photos:
        ask(photo)
    return spread([milliseconds(lambda photo=photo: ask(photo)) for photo in photos], "ms")


def pictures(folder: Path, n: int) -> Path:
    """Real photo files, small, none like another."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        tiny = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
        tiny.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i:05}.jpg", quality=80)
    return folder


def memory(space: EmotionSpace, folder: Path, real: dict[MediaKind, np.ndarray], *, long: bool) -> Figures:
    """Peak memory of `emoclim index`, which must not depend on how much the library holds or how much there is to read."""
    figures: Figures = {}
    photos = pictures(folder / "new", NEW_FILES)
    for size in (1000, 10_000):
        library = folder / f"library of {size}"
        synthetic.make(library, space, {MediaKind.PHOTO: size // 2, MediaKind.MUSIC: size // 2}, folder / f"files of {size}", real)
        shutil.copytree(photos, folder / f"files of {size}" / "new")
        figures[f"index of {NEW_FILES} new photos into {size:,} items"] = process("-q", "index", "--library", str(library), repeats=1)
    if long:
        for size in (1000, 10_000):
            photos = pictures(folder / f"photos {size}", size)
            figures[f"index of {size:,} new photos"] = process(
                "-q", "index", str(photos), "--library", str(folder / f"fresh {size}"), repeats=1
            )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rescan", type=int, default=100_000)
    parser.add_argument("--long", action="store_true", help="also the memory of indexing 10,000 files (a quarter of an hour)")
    parser.add_argument("--skip", nargs="*", default=[], choices=["rescan", "small", "large", "lancedb", "memory"])
    parser.add_argument("--folder", help="where the libraries are made (3 kB an item); else the system's temporary folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    space = load_space(DEFAULT_SPACE, Path("none"))
    real = {kind: synthetic.real_features(CACHE, space, kind) for kind in MediaKind}
    figures: Figures = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"}
    figures["real vectors"] = {kind.value: len(found) for kind, found in real.items()}
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    both = {MediaKind.PHOTO, MediaKind.MUSIC}
    try:
        if "rescan" not in options.skip:
            library = folder / "rescan"
            synthetic.make(library, space, dict.fromkeys(both, options.rescan // 2), folder / "rescanned", real)
            command = ("-q", "index", "--library", str(library))
            process(*command)
            figures[f"index, {options.rescan:,} files unchanged"] = process(*command)
            shutil.rmtree(library)
            shutil.rmtree(folder / "rescanned")
        if "small" not in options.skip:
            small = synthetic.make(folder / "10000", space, dict.fromkeys(both, 5000), folder / "few", real)
            figures |= {f"{name} at 10,000": value for name, value in bookkeeping(small, space).items()}
            match_processes(figures, "10,000 items", small.folder, synthetic.path_of(MediaKind.PHOTO, 7, folder / "few"))
        if "large" not in options.skip:
            start = time.perf_counter()
            made = synthetic.make(folder / "large", space, {MediaKind.PHOTO: options.items // 100}, folder / "many", real)
            synthetic.make(folder / "large", space, {MediaKind.MUSIC: options.items}, folder / "many", real, touch=False)
            name = f"{options.items:,} items"
            figures[f"seconds to make the library, {name}"] = time.perf_counter() - start
            library_of_many = Library.open(made.folder)
            figures |= {f"{figure} at {name}": value for figure, value in bookkeeping(library_of_many, space).items()}
            figures[f"size on disk, {name}"] = size_on_disk(made.folder, options.items)
            photos = [
                synthetic.path_of(MediaKind.PHOTO, i, folder / "many")
                for i in range(0, options.items // 100, max(1, options.items // 10_000))
            ]
            match_processes(figures, name, made.folder, photos[0])
            figures[f"match of an indexed photo, library open, {name}"] = warm_match(library_of_many, space, photos)
            view = library_of_many.view(MediaKind.MUSIC)
            queries = query_sets(space, real)
            figures |= search(view, queries)
            figures |= crossover(view, queries)
            if "lancedb" not in options.skip:
                figures |= lancedb_index(view, queries, folder / "lancedb")
        if "memory" not in options.skip:
            figures |= memory(space, folder, real, long=options.long)
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        shown = ", ".join(f"{key} {number:.4g}" for key, number in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
