"""What a slideshow costs next to plain FFmpeg: python benchmarks/slideshow.py --photos DIR --music FILE [--count 300]

Both make a video of the same photos and track, 1920x1080 at 30 frames a second, in turns: emoclim with borders, zoom and crossfades, and
`ffmpeg` with its concat demuxer and its own settings, which only scales the photos and puts them on black.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from emoclim_cli import cues
from emoclim_cli.cues import CueSheet, PhotoCue, TrackCue
from emoclim_cli.media import MediaKind, kind_of_file, scan

SIZE, FPS = (1920, 1080), 30
RENDER = f"""
import sys
from emoclim_cli import cues, slideshow
slideshow.render(cues.read(sys.argv[1]), sys.argv[2], size={SIZE}, fps={FPS})
"""


def photos_of(folder: str, count: int) -> list[str]:
    """`count` photos in order; from the beginning again where there are fewer."""
    found = [file.path for file in scan(os.path.abspath(folder)).files if kind_of_file(file.path) is MediaKind.PHOTO]
    if not found:
        sys.exit(f"no photos in {folder}")
    return [found[i % len(found)] for i in range(count)]


def sheet_of(photos: list[str], music: str, seconds: float, fade_s: float) -> CueSheet:
    """The track again and again, as FFmpeg's -stream_loop plays it."""
    shown = [PhotoCue(path, i * seconds, (i + 1) * seconds, fade_s, 1, "") for i, path in enumerate(photos)]
    end_s, track_s = len(photos) * seconds, track_seconds(music)
    starts = [i * track_s for i in range(int(end_s / track_s) + 1) if i * track_s < end_s]
    heard = [TrackCue(os.path.abspath(music), s, min(s + track_s, end_s), 0.0, 0.5, 0.5, 0.0, 1) for s in starts]
    return CueSheet(tuple(shown), tuple(heard))


def track_seconds(music: str) -> float:
    command = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", music]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def plain(photos: list[str], music: str, seconds: float, folder: Path) -> list[str]:
    """The command of FFmpeg."""
    rows = [f"file '{path.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}'" for path in photos]
    listed = folder / "photos.ffconcat"
    # The last photo is named twice, or its duration would not count.
    listed.write_text("ffconcat version 1.0\n" + "".join(f"{row}\nduration {seconds}\n" for row in rows) + rows[-1] + "\n")
    scaled = f"scale={SIZE[0]}:{SIZE[1]}:force_original_aspect_ratio=decrease,pad={SIZE[0]}:{SIZE[1]}:-1:-1,format=yuv420p"
    inputs = ["-f", "concat", "-safe", "0", "-i", str(listed), "-stream_loop", "-1", "-i", music, "-t", str(len(photos) * seconds)]
    encoders = ["-vf", scaled, "-r", str(FPS), "-c:v", "libx264", "-c:a", "aac"]
    return ["ffmpeg", "-v", "error", "-y", *inputs, *encoders, str(folder / "plain.mp4")]


def measured(command: list[str], made: Path) -> dict[str, float]:
    """Seconds on the clock and of all cores, peak memory of the process, size of the file."""
    begin = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    figures = {"seconds": time.perf_counter() - begin, "core seconds": usage.ru_utime + usage.ru_stime}
    return figures | {"peak MB": usage.ru_maxrss / 1024, "file MB": made.stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seconds-per-photo", type=float, default=4.0)
    parser.add_argument("--crossfade", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    photos = photos_of(options.photos, options.count)
    folder = Path(tempfile.mkdtemp())
    try:
        sheet = sheet_of(photos, options.music, options.seconds_per_photo, options.crossfade)
        (folder / "show.json").write_bytes(cues.write(sheet, None))
        ours = [sys.executable, "-c", RENDER, str(folder / "show.json"), str(folder / "emoclim.mp4")]
        theirs = plain(photos, options.music, options.seconds_per_photo, folder)
        figures = {"emoclim": measured(ours, folder / "emoclim.mp4"), "plain ffmpeg": measured(theirs, folder / "plain.mp4")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures["ratio"] = {name: figures["emoclim"][name] / figures["plain ffmpeg"][name] for name in figures["emoclim"]}
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{len(photos)} photos, {round(sheet.duration_s * FPS)} frames, {SIZE[0]}x{SIZE[1]}, {os.cpu_count()} cores")
    for name, row in figures.items():
        print(f"{name}: " + ", ".join(f"{value:.3g} {key}" if name == "ratio" else f"{value:.1f} {key}" for key, value in row.items()))


if __name__ == "__main__":
    main()
