"""The shipped spaces: each loads, has a model card, and does what its card says it does."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emoclim_cli.emotions import EMOTIONS, RETRIEVAL_EMOTIONS
from emoclim_cli.encoders import encoder_info
from emoclim_cli.evaluation import DIRECTIONS, LEVELS
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import DEFAULT_SPACE, EmotionSpace, load_space, shipped_spaces, space_folders
from emoclim_cli.weights import WEIGHTS

FOLDERS = sorted(path for path in shipped_spaces().iterdir() if path.is_dir())
HEADINGS = ("## Data", "## Encoders", "## Splits", "## Metrics", "## Licence", "## Limits")
PHOTOS_PER_EMOTION = 10


def test_the_default_space_is_shipped(tmp_path: Path) -> None:
    assert DEFAULT_SPACE in [folder.name for folder in FOLDERS]
    assert load_space(DEFAULT_SPACE, tmp_path).name == DEFAULT_SPACE
    assert sorted(space_folders(tmp_path).values()) == FOLDERS  # every folder is a space


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_space_loads_and_fits_the_encoders(folder: Path) -> None:
    space = EmotionSpace.load(folder)
    assert space.name == folder.name
    assert space.emotions == EMOTIONS
    assert {path.name for path in folder.iterdir()} == {"README.md", "space.json", "weights.safetensors"}
    for kind in MediaKind:
        info = encoder_info(space.encoders[kind])
        assert info.kind is kind
        assert space.digests[kind] == info.digest  # the weights that it was trained on are those that are fetched
        assert set(info.weights) <= set(WEIGHTS)
        features = np.random.default_rng(0).standard_normal((3, info.dim)).astype(np.float32)
        vectors = space.project(kind, features)
        assert vectors.shape == (3, space.dim)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(space.prototypes, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_space_has_a_model_card(folder: Path) -> None:
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    starts = {heading: lines.index(heading) for heading in HEADINGS}  # raises for one that is not there
    for heading, start in starts.items():
        section: list[str] = []
        for line in lines[start + 1 :]:
            if line.startswith("## "):
                break
            section.append(line)
        assert any(line.strip() for line in section), f"{heading} is empty"
        if heading == "## Metrics":
            assert "chance" in " ".join(section).lower()
        if heading == "## Encoders":
            space = EmotionSpace.load(folder)
            assert all(encoder in " ".join(section) for encoder in space.encoders.values())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_space_carries_its_metrics(folder: Path) -> None:
    metrics = EmotionSpace.load(folder).about["metrics"]
    assert set(metrics) == set(LEVELS)
    for level in LEVELS:
        assert set(metrics[level]) == set(DIRECTIONS)
        for name, direction in metrics[level].items():
            assert {"p@1", "p@5", "mrr", "chance_p@5", "n", "per_emotion"} <= set(direction)
            assert set(direction["per_emotion"]) == set(RETRIEVAL_EMOTIONS)
            assert direction["n"] > 0
            assert direction["p@5"] > direction["chance_p@5"], f"{level}, {name}"


# --- what it can do, measured again ------------------------------------------------------------------------------------------------------


def rows_of(csv_path: Path) -> list[dict[str, str]]:
    with csv_path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_labels(path: Path, data: Path, rows: list[dict[str, str]]) -> Path:
    names = ("file", "emotion", "group", "source")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "file": str(data / row["file"])} for row in rows)
    return path


@pytest.fixture(scope="module")
def report(shared_data: Path, weights_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `emoclim evaluate` says of some photos and all recordings of the validation split."""
    folder = tmp_path_factory.mktemp("evaluate")
    cache = folder / "cache"
    cache.mkdir()
    (cache / "weights").symlink_to(weights_cache, target_is_directory=True)
    photos = [row for row in rows_of(shared_data / "images.csv") if row["split"] == "val"]
    words = sorted({row["emotion"] for row in photos})
    some = [row for word in words for row in [row for row in photos if row["emotion"] == word][:PHOTOS_PER_EMOTION]]
    music = [
        row
        for row in rows_of(shared_data / "music.csv")
        if row["split"] == "val" and row["file"].endswith(".opus") and row["emotion"] in RETRIEVAL_EMOTIONS
    ]
    labels = [
        *("--photos", write_labels(folder / "photos.csv", shared_data, some)),
        *("--music", write_labels(folder / "music.csv", shared_data, music)),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "emoclim_cli", "evaluate", *labels, "--json"],
        env={**os.environ, "EMOCLIM_CACHE": str(cache), "EMOCLIM_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"is left out" not in done.stderr  # every file could be read
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["directions"]["image->image"]["n"] == len(some) == PHOTOS_PER_EMOTION * len(RETRIEVAL_EMOTIONS)
    assert said["directions"]["image->music"]["n"] == len(some)
    assert said["directions"]["music->image"]["n"] >= len(music)  # windows
    return said


def test_the_report_is_of_the_default_space(report: dict[str, Any]) -> None:
    assert report["space"] == DEFAULT_SPACE
    assert set(report["directions"]) == set(DIRECTIONS)
    for direction in report["directions"].values():
        assert 0.1 < direction["chance_p@5"] < 0.18  # a sixth, less what of the same song or photo does not count
        assert set(direction["per_emotion"]) == set(RETRIEVAL_EMOTIONS)


def test_photos_find_photos_of_their_emotion(report: dict[str, Any]) -> None:
    assert report["directions"]["image->image"]["p@5"] > 2 / 6  # chance is a sixth


def test_photos_find_music_of_their_emotion(report: dict[str, Any]) -> None:
    assert report["directions"]["image->music"]["p@5"] > 1.5 / 6
    assert report["directions"]["image->music"]["mrr"] > 2 / 6


def test_music_finds_photos_of_its_emotion(report: dict[str, Any]) -> None:
    assert report["directions"]["music->image"]["p@5"] > 1.3 / 6
