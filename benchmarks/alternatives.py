"""What a user would run instead: python benchmarks/alternatives.py --photos DIR --music LABELS.csv [--items N] [--track-seconds S]

Music: the command line of the package `vibenet` (installed into an environment of its own unless --vibenet names it) against indexing with
the same network, as whole processes on the same files in the same run; and what can be learnt from either's output, by grouped
cross-validation. Photos: the same tower in plain Pillow and torch against indexing. With --track-seconds the recordings are joined to MP3
files of that length, as a person's music is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import torch
from one_encoder import CACHE, index
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speed import files_of, joined

from emoclim_cli.encoders.clip import MEAN, STD
from emoclim_cli.labels import read_labels
from emoclim_cli.media import MediaKind, item_id
from emoclim_cli.networks.vision import SIDE, VisionTransformer
from emoclim_cli.weights import fetch

VIBENET = "vibenet==0.1.0"
FOLDS, SEEDS = 5, 5


def installed_vibenet(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", VIBENET], check=True)
    return str(folder / "bin" / "vibenet")


def plain(paths: list[str]) -> None:
    """The tower as one would write it down: Pillow, one photo after the other, float32, batches of 32."""
    from safetensors.torch import load_file

    tower = VisionTransformer(16)
    tower.load_state_dict(load_file(CACHE / "clip-vit-b-16.safetensors"))
    tower.eval()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def prepared(path: str) -> torch.Tensor:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            scale = SIDE / min(rgb.size)
            rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.BICUBIC)
            left, top = (rgb.width - SIDE) // 2, (rgb.height - SIDE) // 2
            pixels = np.array(rgb.crop((left, top, left + SIDE, top + SIDE)))
        return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std

    with torch.inference_mode():
        for start in range(0, len(paths), 32):
            tower(torch.stack([prepared(path) for path in paths[start : start + 32]]))


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def side_by_side(commands: dict[str, list[str]], n: int, repeats: int) -> dict[str, float]:
    """Files per second of each; they take turns, so that a noisy machine troubles both alike."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(repeats):
        for name, command in commands.items():
            times[name].append(seconds(*(part.replace("REPEAT", str(repeat)) for part in command)))
    ours, theirs = commands
    rates = {name: n / statistics.median(values) for name, values in times.items()}
    return rates | {"ratio": statistics.median(t / o for o, t in zip(times[ours], times[theirs], strict=True))}


def learnt(features: np.ndarray, emotions: list[str], groups: list[str]) -> dict[str, float]:
    """Macro-averaged accuracy of a logistic regression on recordings of groups that it never saw: mean and spread over seeds."""
    classes = sorted(set(emotions))
    truth = np.array([classes.index(emotion) for emotion in emotions])
    scores = []
    for seed in range(SEEDS):
        guess = np.zeros(len(truth), int)
        for train, held in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(features, truth, groups):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))
            guess[held] = model.fit(features[train], truth[train]).predict(features[held])
        scores.append(np.mean([(guess[truth == c] == c).mean() for c in range(len(classes))]))
    return {"mean": float(np.mean(scores)), "sd over seeds": float(np.std(scores, ddof=1)), "chance": 1 / len(classes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True, help="labels of recordings: emoclim train --help")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--track-seconds", type=float, default=0.0)
    parser.add_argument("--vibenet", default="", help="its command, where it is installed already")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        plain(Path(options.child).read_text().split("\n"))
        return
    for name in ("clip-vit-b-16", "vibenet"):
        fetch(name, CACHE)
    figures: dict[str, object] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        vibenet = options.vibenet or installed_vibenet(folder / "vibenet")

        def child(what: str, paths: list[str]) -> list[str]:
            listed = folder / f"{what}.txt"
            listed.write_text("\n".join(paths))
            if what == "plain":
                return [sys.executable, __file__, "--photos", options.photos, "--music", options.music, "--child", str(listed)]
            return [sys.executable, str(Path(__file__).with_name("one_encoder.py")), what, str(listed), str(folder / f"{what}-REPEAT")]

        labelled = [item for item in read_labels(options.music) if item.emotion and not item.path.endswith(".mid")]
        tracks = [item.path for item in labelled][:: max(1, len(labelled) // options.items)][: options.items]
        if options.track_seconds:
            tracks = joined(tracks, options.track_seconds, options.items, folder / "joined")
        music = {"emoclim": child("vibenet", tracks), "vibenet": [vibenet, "-q", "-f", "json", *tracks]}
        figures[f"tracks/s ({len(tracks)} files)"] = side_by_side(music, len(tracks), options.repeats)
        photos = files_of(options.photos, MediaKind.PHOTO, options.items)
        plainly = {"emoclim": child("clip-vit-b-16", photos), "plain Pillow and torch": child("plain", photos)}
        figures[f"photos/s ({len(photos)} files)"] = side_by_side(plainly, len(photos), options.repeats)

        said = subprocess.run([vibenet, "-q", "-f", "json", *(item.path for item in labelled)], check=True, capture_output=True, text=True)
        rows = {row.pop("path"): list(row.values()) for row in json.loads(said.stdout)}
        known = [item for item in labelled if item.path in rows]
        emotions, groups = [item.emotion for item in known], [item.group for item in known]
        library = index([item.path for item in known], "vibenet", str(folder / "metrics"))
        features = library.features(MediaKind.MUSIC, [item_id(item.path) for item in known])
        seven = np.array([rows[item.path] for item in known])
        figures[f"emotion of {len(known)} recordings, from vibenet's seven values"] = learnt(seven, emotions, groups)
        figures[f"emotion of {len(known)} recordings, from emoclim's features"] = learnt(features, emotions, groups)
    for name, value in figures.items():
        shown = ", ".join(f"{key} {number:.3g}" for key, number in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
