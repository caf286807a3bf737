"""What the README says is so: its commands run, its two set-up commands are those that were tried, every command is in it."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from media_makers import make_photo, make_tone, picture, tone
from random_weights import put_clip_b_32, write_tagger

from emoclim_cli.cli import app
from emoclim_cli.emotions import EMOTIONS

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


SHORTER = "--epochs 1 --steps 1 --batch 4"


def commands_of(block: str) -> list[str]:
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.startswith("emoclim ")]


def run(line: str, home: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """A line of the README in a shell, in a home with a few files, with the program that this environment has."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"HOME": str(home), "PATH": path, "EMOCLIM_CACHE": str(cache), "EMOCLIM_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], cwd=home, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def home(user_folders: Path) -> Path:
    for folder in ("Pictures/Holiday", "Music"):
        (user_folders / folder).mkdir(parents=True)
    make_photo(user_folders / "Pictures" / "beach.jpg")
    make_photo(user_folders / "beach.jpg")
    make_photo(user_folders / "Pictures" / "Holiday" / "harbour.jpg", picture(seed=1))
    make_tone(user_folders / "Music" / "song.mp3", 3.0)
    return user_folders


@pytest.fixture
def cache(weights_cache: Path, tmp_path: Path) -> Path:
    """The real weights, and room for features that no other test sees."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").symlink_to(weights_cache)
    return tmp_path / "cache"


def test_the_five_minutes_run(home: Path, cache: Path) -> None:
    (block,) = [block for block in BLOCKS if block.startswith("emoclim index ~/Pictures")]
    lines = commands_of(block)
    assert len(lines) == 11
    for line in lines:
        done = run(line, home, cache)
        assert done.returncode == 0, (line, done.stderr)
    assert (home / "beach.m3u8").read_text(encoding="utf-8").splitlines()[-1] == "Music/song.mp3"
    assert all((home / name).stat().st_size > 500 for name in ("holiday.m3u8", "holiday.mp4", "library.html"))


def test_training_runs(home: Path, cache: Path) -> None:
    """All its commands, of which that which trains is made shorter."""
    (block,) = [block for block in BLOCKS if block.startswith("emoclim train")]
    for kind in ("images", "music"):
        with open(home / f"{kind}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "emotion", "split"])
            for number, emotion in enumerate(EMOTIONS):
                for seed, split in enumerate(("train", "val"), start=2 * number):  # no copies: they would be of one split
                    name = f"{emotion}-{split}-{seed}.{'png' if kind == 'images' else 'wav'}"
                    if kind == "images":
                        make_photo(home / name, picture(seed=seed))
                    else:
                        make_tone(home / name, samples=tone(1.0, 16000, 1, seed), rate_hz=16000)
                    writer.writerow([name, emotion, split])
    train, *others = commands_of(block)
    for line in ["emoclim index ~/Pictures ~/Music", f"{train} {SHORTER}", *others]:
        done = run(line, home, cache)
        assert done.returncode == 0, (line, done.stderr)
    assert "image->music" in done.stdout
    status = run("emoclim status", home, cache)
    assert "my-space" in status.stdout


def test_the_papers_encoders_are_trained_as_it_says(home: Path, tmp_path: Path) -> None:
    """With random weights, and shorter: the commands for a space of CLIP ViT-B/32 and the Harmonic CNN, which is tuned."""
    (block,) = [block for block in BLOCKS if block.startswith("emoclim models fetch harmonic-cnn")]
    cache = tmp_path / "cache"
    put_clip_b_32(cache / "weights", tmp_path)
    write_tagger("harmonic-cnn", home / "best_model.pth")
    for number, emotion in enumerate(EMOTIONS):
        for folder in ("DeepEmotion", "AudioSet"):
            (home / folder / emotion).mkdir(parents=True)
        for i in range(3 if number < 3 else 1):  # of three one each is drawn for val and test; one alone is trained on
            make_photo(home / "DeepEmotion" / emotion / f"{i}.png", picture(seed=1 + 3 * number + i))
            make_tone(home / "AudioSet" / emotion / f"{i}.wav", samples=tone(1.0, 16000, 1, 3 * number + i), rate_hz=16000)
    fetch, train = commands_of(block)
    for line in (fetch, f"{train} {SHORTER}"):
        done = run(line, home, cache)
        assert done.returncode == 0, (line, done.stderr)
    assert {"space.json", "music-encoder.safetensors"} <= {path.name for path in (home / "paper-harmonic").iterdir()}


def test_every_command_is_in_it() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    groups = {group.typer_instance.info.name: group.typer_instance for group in app.registered_groups if group.typer_instance}
    for name in names:
        assert f"`emoclim {name}" in README, name
    for group, typer in groups.items():
        (line,) = [line for line in README.splitlines() if line.startswith(f"| `emoclim {group} ")]  # one row for the group
        for command in typer.registered_commands:
            assert f"{command.name}`" in line


def test_the_test_command_is_the_one_that_decides() -> None:
    assert any(block.strip() in (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8") for block in BLOCKS if "pytest" in block)


def test_the_wheel_carries_the_space(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(CHECKOUT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("pip reaches no package index to build with")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for folder in (CHECKOUT / "models").iterdir():
        for file in ("space.json", "weights.safetensors", "README.md"):
            assert f"emoclim_cli/models/{folder.name}/{file}" in names
    templates = {f"emoclim_cli/templates/{path.name}" for path in (CHECKOUT / "emoclim_cli" / "templates").iterdir()}
    assert templates and templates <= set(names)
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (CHECKOUT / target).exists(), target
