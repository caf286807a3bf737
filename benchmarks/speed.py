"""How fast files are indexed: python benchmarks/speed.py --photos DIR --music DIR [--items N] [--track-seconds S]

Indexing is measured against its limit, the bare networks on input that is decoded already, on the same files in the same run. Queries and
re-scans: scale.py. Labelled recordings are short; with --track-seconds they are joined to MP3 files of that length,
as a person's music is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
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
from emoclim_cli.audio import read_track
from emoclim_cli.encoders import build, encoder_info
from emoclim_cli.library import Library, Root
from emoclim_cli.media import MediaKind, kind_of_file, scan
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


def joined(paths: list[str], seconds: float, count: int, folder: Path) -> list[str]:
    """MP3 files (44.1 kHz, stereo, 192 kbit/s) of `seconds`, each of several recordings that follow each other."""
    import av

    following = itertools.cycle(paths)
    made = []
    folder.mkdir()
    for number in range(count):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < seconds * 44_100:
            parts.append(read_track(next(following), sample_rate_hz=44_100, max_s=seconds))
        mono = np.concatenate(parts)[: round(seconds * 44_100)]
        made.append(str(folder / f"{number:04}.mp3"))
        with av.open(made[-1], "w") as file:
            stream = file.add_stream("libmp3lame", rate=44_100, layout="stereo")
            stream.bit_rate = 192_000
            for start in range(0, len(mono), 1152):
                frame = av.AudioFrame.from_ndarray(np.stack([mono[start : start + 1152]] * 2), "fltp", "stereo")
                frame.sample_rate, frame.pts = 44_100, start
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    return made


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


def process(*arguments: str) -> dict[str, float]:
    """Median wall time and peak memory of the installed program."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "emoclim_cli", *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:])}  # the first filled the disk cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--track-seconds", type=float, default=0.0)
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
        if options.track_seconds:
            music = joined(music, options.track_seconds, options.items, folder / "joined")
        figures[f"photos/s ({len(photos)} files)"] = against_the_limit(MediaKind.PHOTO, photos, space, folder)
        figures[f"tracks/s ({len(music)} files)"] = against_the_limit(MediaKind.MUSIC, music, space, folder)
        figures["emoclim --help"] = process("--help")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        shown = ", ".join(f"{key} {number:.3g}" for key, number in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
