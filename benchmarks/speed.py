"""Every speed figure of the README: python benchmarks/speed.py --photos DIR --music DIR [--items N]

Indexing is measured against its limit, the bare networks on input that is decoded already, on the same files in the same run. Query and
re-scan times are those of whole processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import platformdirs

from emoclim_cli import encoding, indexing
from emoclim_cli.encoders import build, encoder_info
from emoclim_cli.library import Library, Root, Row
from emoclim_cli.media import MediaItem, MediaKind, kind_of_file, scan
from emoclim_cli.projections import DEFAULT_SPACE, load_space
from emoclim_cli.weights import fetch

CACHE = Path(os.environ.get("EMOCLIM_CACHE") or platformdirs.user_cache_dir("emoclim", appauthor=False)) / "weights"
BATCH = 32
REPEATS = 5


def files_of(folder: str, kind: MediaKind, limit: int) -> list[str]:
    """Evenly spread over the folder, so that no one source or size is all there is."""
    found = [file.path for file in scan(os.path.abspath(folder)).files if kind_of_file(file.path) is kind]
    step = max(1, len(found) // limit)
    return found[::step][:limit]


def against_the_limit(kind: MediaKind, paths: list[str], space, folder: Path) -> dict[str, float]:
    encoder = build(space.encoders[kind], CACHE)
    samples = [encoder.load(path) for path in paths]
    encoder.encode(samples[:BATCH])  # warm
    rates: dict[str, list[float]] = {"bare network": [], "indexing": []}
    for repeat in range(3):
        start = time.perf_counter()
        for i in range(0, len(samples), BATCH):
            encoder.encode(samples[i : i + BATCH])
        rates["bare network"].append(len(paths) / (time.perf_counter() - start))
        library = Library.create(folder / f"{kind}-{repeat}")
        plan = indexing.plan(library, [Root(path) for path in paths], indexing.space_ref(space))
        start = time.perf_counter()
        engine = encoding.local(lambda _kind: encoder, space, jobs=os.cpu_count() or 1, batch_size=BATCH)
        done = list(indexing.apply(plan, library, engine, space))
        rates["indexing"].append(len(done) / (time.perf_counter() - start))
    result = {name: statistics.median(values) for name, values in rates.items()}
    # Neighbours in time are compared, so that a noisy machine troubles both alike.
    result["ratio"] = statistics.median(i / b for b, i in zip(rates["bare network"], rates["indexing"], strict=True))
    return result


def synthetic(folder: Path, n: int, files: Path) -> Library:
    """A library of n photos and n tracks that exist as empty files, with random vectors: bookkeeping alone."""
    space = load_space(DEFAULT_SPACE, Path("none"))
    library = Library.create(folder)
    rng = np.random.default_rng(0)
    with library.writing():
        library.set_space(indexing.space_ref(space))
        for kind in MediaKind:
            (files / kind.plural).mkdir(parents=True)
            dim = space.projections[kind].features_dim
            for start in range(0, n, 5000):
                rows = []
                for i in range(start, min(start + 5000, n)):
                    path = str(files / kind.plural / f"{i // 500:04}-{i:06}")
                    Path(path).touch()
                    status = os.stat(path)
                    features = rng.standard_normal(dim).astype(np.float32)
                    item = MediaItem(path, kind, status.st_size, status.st_mtime_ns, title=f"Title {i}", artist=f"Artist {i % 97}")
                    rows.append(Row(item, f"{i:032x}", features, space.project(kind, features[None])[0]))
                library.upsert(kind, rows)
        library.set_roots([Root(str(files))])
        library.compact()
        library.snapshot()
    return library


def process(*arguments: str) -> dict[str, float]:
    """Median wall time and peak memory of the installed program."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "emoclim_cli", *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:])}  # the first filled the disk cache


def peak_memory_mb(photos: list[str], music: list[str], folder: Path) -> float:
    """Of one `emoclim index` over real files, in a process of its own."""
    script = """
import resource, runpy, sys
sys.argv[0] = "emoclim"
try:
    runpy.run_module("emoclim_cli", run_name="__main__")
except SystemExit:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
    command = [sys.executable, "-c", script, "-q", "index", *photos, *music, "--library", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stderr.split()[-1]) / (1024**2 if platform.system() == "Darwin" else 1024)  # bytes there, kB elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    space = load_space(DEFAULT_SPACE, Path("none"))
    for encoder in space.encoders.values():
        for name in encoder_info(encoder).weights:
            fetch(name, CACHE)
    photos = files_of(options.photos, MediaKind.PHOTO, options.items)
    music = files_of(options.music, MediaKind.MUSIC, options.items)
    figures: dict[str, object] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"}
    folder = Path(tempfile.mkdtemp())
    try:
        figures[f"photos/s ({len(photos)} files)"] = against_the_limit(MediaKind.PHOTO, photos, space, folder)
        figures[f"tracks/s ({len(music)} files)"] = against_the_limit(MediaKind.MUSIC, music, space, folder)
        figures["peak MB of indexing"] = peak_memory_mb(photos[:64], music[:32], folder / "memory")
        figures["emoclim --help"] = process("--help")
        library = folder / "10000"
        synthetic(library, 5000, folder / "files")
        chosen = str(folder / "files" / "photos" / "0000-000007")
        figures["index, 10,000 files unchanged"] = process("-q", "index", "--library", str(library))
        figures["match of an indexed photo, 10,000 items"] = process("match", chosen, "--library", str(library))
        figures["match sad, 10,000 items"] = process("match", "sad", "--library", str(library))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures["peak MB of this benchmark"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        shown = ", ".join(f"{key} {number:.3g}" for key, number in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
