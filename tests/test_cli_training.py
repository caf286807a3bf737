"""`emoclim train` as a user runs it: real photos and sounds, the real networks.

A run of the program takes seconds before it does anything: what refuses, or what only one setting differs in, runs in this process.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_makers import make_photo, make_tone
from PIL import Image
from random_weights import write_tagger
from safetensors.numpy import load_file
from test_cli import Done, Terminal, User, fingerprints

from emoclim_cli import weights
from emoclim_cli.cli import main
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.evaluation import DIRECTIONS, LEVELS
from emoclim_cli.projections import DEFAULT_SPACE, EmotionSpace, shipped_spaces

SPLIT = ("train", "train", "val", "test")
"""Of the music of each emotion. The photos lie in folders, of which the same is drawn."""
RATE_HZ = 16_000
FILES = {"README.md", "space.json", "weights.safetensors"}
LIGHT = ("--epochs", "4", "--steps", "40")
"""More than a second for Ctrl-C after the first epoch."""
LEAST = ("--epochs", "1", "--steps", "1", "--batch", "4")


def a_picture(emotion: int, seed: int) -> Image.Image:
    """A colour for each emotion, and some noise."""
    random = np.random.default_rng(seed)
    colour = np.random.default_rng(emotion).integers(0, 256, 3)
    return Image.fromarray(np.clip(colour + random.normal(0, 30, (48, 64, 3)), 0, 255).astype(np.uint8))


def a_sound(emotion: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    t = np.arange(RATE_HZ) / RATE_HZ
    samples = 0.3 * np.sin(2 * np.pi * 110 * 1.5**emotion * t * random.uniform(0.98, 1.02)) + 0.02 * random.standard_normal(len(t))
    return samples[None].astype(np.float32)


@pytest.fixture(scope="module")
def somebody(weights_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with some photos and sounds of each emotion: folders of photos, a CSV of music. Nobody may change them."""
    home = tmp_path_factory.mktemp("trainer")
    (home / "cache").mkdir()
    (home / "cache" / "weights").symlink_to(weights_cache, target_is_directory=True)
    media = home / "media"
    (media / "music").mkdir(parents=True)
    with open(media / "music.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "emotion", "split"])
        for number, emotion in enumerate(EMOTIONS):
            (media / "photos" / emotion).mkdir(parents=True)
            for i, split in enumerate(SPLIT):
                make_photo(media / "photos" / emotion / f"{i}.png", a_picture(number, 100 * number + i))
                make_tone(media / "music" / f"{emotion}{i}.wav", samples=a_sound(number, 100 * number + i), rate_hz=RATE_HZ)
                writer.writerow([f"music/{emotion}{i}.wav", emotion, split])
    return User(home, media, {"EMOCLIM_CACHE": str(home / "cache")})


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """(user, argument...) -> what `user.run` gives, but run in this process, which has imported torch already."""

    def run(user: User, *args: str | Path) -> Done:
        for name, value in user.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(user.home)
        monkeypatch.setattr(sys, "argv", ["emoclim", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfdbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, out, err.decode())

    return run


def labels(user: User) -> list[str | Path]:
    return ["--photos", user.media / "photos", "--music", user.media / "music.csv"]


def described(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "space.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def first(somebody: User) -> Done:
    return somebody.run("train", *labels(somebody), "-o", "first", *LIGHT, "--json")


def test_the_answer_as_json(somebody: User, first: Done) -> None:
    assert first.code == 0, first.err
    said = first.json
    assert set(said) == {"space", "epochs", "best_epoch", "val"}
    assert (said["space"], said["epochs"], said["best_epoch"]) == ("first", 4, 4)
    assert set(said["val"]) == set(LEVELS)
    assert all(set(directions) == set(DIRECTIONS) for directions in said["val"].values())
    assert said["val"]["clip"]["image->music"]["n"] == 6  # no photo is tender in the paper's eyes


def test_every_epoch_is_a_line(first: Done) -> None:
    lines = first.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"epoch {number}/4" for number in (1, 2, 3, 4)]
    assert all("val loss" in line and "music->music" in line for line in lines)


def test_the_space_describes_itself(somebody: User, first: Done) -> None:
    folder = somebody.home / "first"
    assert {path.name for path in folder.iterdir()} == FILES
    space = EmotionSpace.load(folder)
    assert space.about["metrics"] == first.json["val"]
    assert set(space.about["test_metrics"]) == set(LEVELS)
    assert space.about["labels"] == {"photos": "photos", "music": "music.csv"}
    assert space.about["counts"]["music"]["by_emotion"] == {emotion: {"train": 2, "val": 1, "test": 1} for emotion in EMOTIONS}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# first\n")
    assert "### test, clip level" in card
    assert str(somebody.home) not in card + (folder / "space.json").read_text()


def test_another_loss(somebody: User, first: Done, run_here: Callable[..., Done]) -> None:
    done = run_here(somebody, "train", *labels(somebody), "-o", "plane", *LEAST, "--loss", "va-regression", "--recipe", "paper")
    assert done.code == 0, done.err
    assert "epoch 1/1: photo " in done.err
    found = described(somebody.home / "plane")
    assert (found["dim"], found["recipe"]["loss"], found["recipe"]["learning_rate"]) == (2, "va-regression", 1e-4)
    assert run_here(somebody, "evaluate", *labels(somebody), "--space", "./plane").code == 0


def test_a_teacher(somebody: User, first: Done, run_here: Callable[..., Done]) -> None:
    head = ",".join(["mood", *(f"f{i}" for i in range(200))])
    rows = [",".join([mood, *["0.5"] * 200]) for mood in ("aggressive", "danceable", "sad", "sad")]
    (somebody.media / "teacher.csv").write_text("\n".join([head, *rows]) + "\n")
    done = run_here(somebody, "train", *labels(somebody), "-o", "taught", *LEAST, "--teacher", somebody.media / "teacher.csv")
    assert done.code == 0, done.err
    assert "1 of 4 rows have a mood that is none of the seven emotions" in done.err
    assert described(somebody.home / "taught")["teacher"] == {"angry": 1, "sad": 2}
    card = (somebody.home / "taught" / "README.md").read_text(encoding="utf-8")
    assert "from a teacher (`teacher.csv`), in the training alone: 1 angry, 2 sad." in card


def test_stopped_and_gone_on_with(somebody: User, first: Done) -> None:
    """What was in the folder stays until all is done, and then it is the very space that the same command made without a stop."""
    folder = somebody.home / "stopped"
    shutil.copytree(shipped_spaces() / DEFAULT_SPACE, folder)
    before = fingerprints(folder)
    (folder / ".checkpoint.safetensors").write_bytes(b"of an older emoclim")
    screen = Terminal.start(somebody, "train", *labels(somebody), "-o", "stopped", *LIGHT, "--restart")
    screen.read_until(rb" 1/4 ")
    screen.type(b"\x03")
    assert screen.finish() == 130
    assert "begins anew" not in screen.text  # --restart asks for it
    said = screen.text.splitlines()
    assert said[-1] == "interrupted"
    told = next(line for line in said if line.startswith("kept in stopped: "))
    assert " of 4 epochs; go on with: emoclim train " in told
    assert before.items() <= fingerprints(folder).items()
    assert {path.name for path in folder.iterdir()} == FILES | {".checkpoint.safetensors"}

    again = shlex.split("".join(said[said.index(told) : -1]).partition("go on with: ")[2])
    assert "--restart" not in again
    done = somebody.run(*again[1:])
    assert done.code == 0, done.err
    assert "goes on after epoch " in done.err
    assert {path.name for path in folder.iterdir()} == FILES
    assert described(folder)["id"] == described(somebody.home / "first")["id"]


def test_a_state_of_another_training_is_told(somebody: User, first: Done, run_here: Callable[..., Done]) -> None:
    (somebody.home / "other").mkdir()
    (somebody.home / "other" / ".checkpoint.safetensors").write_bytes(b"of an older emoclim")
    done = run_here(somebody, "train", *labels(somebody), "-o", "other", *LEAST)
    assert done.code == 0, done.err
    assert "cannot be read" in done.err
    assert "begins anew" in done.err
    assert {path.name for path in (somebody.home / "other").iterdir()} == FILES


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--loss", "infonce"], 2, "one of: supcon, va-regression, triplet, triplet-similarity, emoclim"),
        (["--recipe", "mine"], 2, "one of: paper, shipped, quadrants"),
        (["--music-encoder", "clip-vit-b-16"], 2, "are of one kind"),
        (["--music-encoder", "mine"], 1, "there is no encoder 'mine'"),
        (["-o", "media/music.csv"], 2, "media/music.csv cannot be written"),
        (["--teacher", "media/music.csv", "--recipe", "paper"], 2, "--recipe paper has no use for a --teacher"),
        (["--teacher", "media/music.csv"], 1, "media/music.csv: the first line has not the columns"),
    ],
    ids=["loss", "recipe", "kinds", "encoder", "output", "untaught", "teacher"],
)
def test_options_that_make_no_sense(somebody: User, run_here: Callable[..., Done], args: list[str], code: int, said: str) -> None:
    done = run_here(somebody, "train", *labels(somebody), "-o", "nothing", *args)
    assert (done.code, done.out) == (code, b"")
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (somebody.home / "nothing").exists()


def test_a_folder_with_other_files_is_left_alone(somebody: User, run_here: Callable[..., Done]) -> None:
    folder = somebody.home / "project"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    for output in ("project", "media/photos", ""):
        done = run_here(somebody, "train", *labels(somebody), "-o", output, *LEAST)
        assert (done.code, done.out) == (2, b"")
        assert "-o" in done.err
    assert [path.name for path in folder.iterdir()] == ["README.md"]
    assert (folder / "README.md").read_text() == "mine"


def test_an_empty_split_says_what_to_do_and_writes_nothing(somebody: User, run_here: Callable[..., Done]) -> None:
    text = (somebody.media / "music.csv").read_text(encoding="utf-8")
    (somebody.media / "no-val.csv").write_text(text.replace(",val", ",train"), encoding="utf-8")
    done = run_here(somebody, "train", "--photos", somebody.media / "photos", "--music", somebody.media / "no-val.csv", "-o", "nothing")
    assert (done.code, done.out) == (1, b"")
    assert "the split val has no music" in done.err
    assert "name train and val in the column split" in done.err
    assert not (somebody.home / "nothing").exists()


# --- with the encoder of the music -------------------------------------------------------------------------------------------------------

VALIDATED = EMOTIONS[:3]
"""The emotions on which the tuned space is measured."""
QUICK = ("--epochs", "2", "--steps", "1", "--batch", "4")


@pytest.fixture(scope="module")
def tuner(somebody: User, first: Done, weights_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    """Who has a published checkpoint of the Harmonic CNN, here with random weights; and a cache of their own, photos encoded."""
    home = tmp_path_factory.mktemp("tuner")
    (home / "cache" / "weights").mkdir(parents=True)
    for file in weights_cache.glob("clip-vit-b-16*"):
        (home / "cache" / "weights" / file.name).symlink_to(file)
    shutil.copytree(somebody.home / "cache" / "features", home / "cache" / "features")
    for name, suffix in (("photos", ".png"), ("music", ".wav")):
        rows = ["file,emotion,split"]
        for emotion in EMOTIONS:
            for i, split in enumerate(("train", "val") if emotion in VALIDATED else ("train",)):
                file = f"photos/{emotion}/{i}{suffix}" if name == "photos" else f"music/{emotion}{i}{suffix}"
                rows.append(f"{somebody.media / file},{emotion},{split}")
        (home / f"{name}.csv").write_text("\n".join(rows) + "\n")
    weights.fetch("harmonic-cnn", home / "cache" / "weights", from_path=write_tagger("harmonic-cnn", home / "best_model.pth"))
    return User(home, somebody.media, {"EMOCLIM_CACHE": str(home / "cache")})


UNFREEZE = ("train", "--photos", "photos.csv", "--music", "music.csv", "--music-encoder", "harmonic-cnn", "--unfreeze-music")


@pytest.fixture(scope="module")
def tuned(tuner: User) -> Done:
    return tuner.run(*UNFREEZE, "-o", "tuned", *QUICK)


def test_an_encoder_is_trained_with_its_projection(tuner: User, tuned: Done) -> None:
    assert tuned.code == 0, tuned.err
    assert "harmonic-cnn is trained on the processor" in tuned.err
    assert "2 steps of 4 pieces of music" in tuned.err
    folder = tuner.home / "tuned"
    assert {path.name for path in folder.iterdir()} == FILES | {"music-encoder.safetensors"}
    assert set(os.listdir(tuner.home / "cache")) == {"weights", "features"}  # and no audio
    said = described(folder)
    assert said["tuned"] == ["music"]
    recipe = said["recipe"]
    assert (recipe["unfrozen"], recipe["body_learning_rate"], recipe["steps"], recipe["batch"]) == (True, 1e-5, 1, 4)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "`harmonic-cnn` was trained together with its projection, at the learning rate 1e-05" in card
    assert "Frozen" not in card
    published, own = (
        load_file(file) for file in (tuner.home / "cache" / "weights" / "harmonic-cnn.safetensors", folder / "music-encoder.safetensors")
    )
    assert set(own) == set(published)
    assert 5e-6 < np.abs(own["layer1.conv.weight"] - published["layer1.conv.weight"]).max() < 1e-4
    assert np.array_equal(own["dense2.weight"], published["dense2.weight"])  # what tells tags takes no part


def test_such_a_space_works_without_the_published_weights(tuner: User, tuned: Done, tmp_path: Path) -> None:
    assert tuned.code == 0, tuned.err
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    for file in (tuner.home / "cache" / "weights").glob("clip-vit-b-16*"):
        (tmp_path / "cache" / "weights" / file.name).symlink_to(file)
    user = User(tmp_path, tuner.media, {"EMOCLIM_CACHE": str(tmp_path / "cache")})
    space = tuner.home / "tuned"
    photo = tuner.media / "photos" / "sad" / "0.png"
    said = user.json("index", photo, *(tuner.media / "music" / f"{emotion}0.wav" for emotion in VALIDATED), "--space", space)
    assert (said["music"], said["errors"]) == (3, [])
    matches = user.json("match", photo, "-k", "3")["matches"]
    assert [match["kind"] for match in matches] == ["music"] * 3
    labels = ["--photos", tuner.home / "photos.csv", "--music", tuner.home / "music.csv"]
    figures = user.json("evaluate", *labels, "--space", space, "--split", "val")["directions"]
    for name, expected in described(space)["metrics"]["clip"].items():
        assert figures[name]["mrr"] == pytest.approx(expected["mrr"])


def test_an_unfrozen_training_stopped_and_gone_on_with(tuner: User, tuned: Done) -> None:
    assert tuned.code == 0, tuned.err
    screen = Terminal.start(tuner, *UNFREEZE, "-o", "again", *QUICK)
    screen.read_until(rb" 1/2 ")
    screen.type(b"\x03")
    assert screen.finish() == 130
    assert "kept in again: 1 of 2 epochs; go on with: emoclim train " in screen.text
    assert os.listdir(tuner.home / "again") == [".checkpoint.safetensors"]
    assert set(os.listdir(tuner.home / "cache")) == {"weights", "features"}
    done = tuner.run(*UNFREEZE, "-o", "again", *QUICK)
    assert done.code == 0, done.err
    assert "goes on after epoch 1 of 2" in done.err
    one, other = (load_file(tuner.home / name / "music-encoder.safetensors") for name in ("tuned", "again"))
    for name, array in one.items():
        assert np.array_equal(other[name], array), name
    assert described(tuner.home / "again")["id"] == described(tuner.home / "tuned")["id"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--unfreeze-music"], "--music-encoder harmonic-cnn or short-chunk-cnn"),
        (["--unfreeze-music", "--music-encoder", "vibenet"], "vibenet cannot be trained here"),
        (["--unfreeze-music", "--music-encoder", "harmonic-cnn", "--teacher", "x.csv"], "its features are those of the frozen encoder"),
        (["--batch", "1"], "--batch 2 or more"),
    ],
    ids=["default", "vibenet", "teacher", "batch"],
)
def test_encoders_that_cannot_be_trained(somebody: User, run_here: Callable[..., Done], args: list[str], said: str) -> None:
    done = run_here(somebody, "train", *labels(somebody), "-o", "nothing", *args)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err
    assert not (somebody.home / "nothing").exists()


def test_absent_weights_are_said_before_anything_is_encoded(somebody: User, run_here: Callable[..., Done], tmp_path: Path) -> None:
    user = User(tmp_path, somebody.media, {"EMOCLIM_CACHE": str(tmp_path / "cache")})
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    for file in (somebody.home / "cache" / "weights").glob("clip-vit-b-16*"):
        (tmp_path / "cache" / "weights" / file.name).symlink_to(file)
    done = run_here(user, "train", *labels(user), "-o", "nothing", "--music-encoder", "short-chunk-cnn", "--unfreeze-music")
    assert (done.code, done.out) == (3, b"")
    assert "emoclim models fetch short-chunk-cnn --from" in done.err
    assert os.listdir(tmp_path / "cache") == ["weights"]
