"""Labels of the shared training data, with its MIDI rendered: python benchmarks/prepare_data.py DATA OUT

DATA is the folder with images.csv, music.csv and render_midi.sh (which needs fluidsynth, fluid-soundfont-gm and ffmpeg). OUT gets the rendered pieces and music.csv.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    data, out = (Path(argument).resolve() for argument in sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(["sh", str(data / "render_midi.sh"), str(out)], check=True)
    with open(data / "music.csv", newline="", encoding="utf-8") as source, open(out / "music.csv", "w", newline="", encoding="utf-8") as target:
        reader = csv.DictReader(source)
        writer = csv.DictWriter(target, reader.fieldnames or [])
        writer.writeheader()
        for row in reader:
            file = out / row["file"].replace(".mid", ".wav") if row["file"].endswith(".mid") else data / row["file"]
            writer.writerow(row | {"file": os.path.relpath(file, out)})


if __name__ == "__main__":
    main()
