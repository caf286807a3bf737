"""`emoclim tagging` as a user runs it: real MP3 files in MagnaTagATune's shape, the real network, the shipped space."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from media_makers import make_tone
from test_cli import Done, Terminal, User
from test_readme import BLOCKS, commands_of

from emoclim_cli.magnatagatune import ANNOTATIONS

FOLDERS = "0123456789abcdef"
TAGS = ("hum", "whistle", "hiss", "rare")
RATE_HZ = 16_000
KEYS = {"space", "encoder", "vectors", "epochs", "best_epoch", "splits", "missing", "untagged"}
KEYS |= {"roc_auc", "pr_auc", "chance_pr_auc", "clips", "per_tag"}


def sound(tags: Sequence[str], seed: int) -> np.ndarray:
    """(1, samples): what its tags say."""
    random = np.random.default_rng(seed)
    t = np.arange(RATE_HZ) / RATE_HZ
    samples = 0.005 * random.standard_normal(len(t))
    if "hum" in tags:
        samples += 0.3 * np.sin(2 * np.pi * random.uniform(90, 130) * t)
    if "whistle" in tags:
        samples += 0.3 * np.sin(2 * np.pi * random.uniform(2000, 2500) * t)
    if "hiss" in tags:
        samples += 0.15 * random.standard_normal(len(t))
    return samples[None].astype(np.float32)


@pytest.fixture(scope="module")
def somebody(weights_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a small set of tagged clips, of which one is listed alone, one is empty and one carries no tag. Nobody may change it."""
    home = tmp_path_factory.mktemp("tagger")
    (home / "cache").mkdir()
    (home / "cache" / "weights").symlink_to(weights_cache, target_is_directory=True)
    data = home / "mtat"
    rows: list[tuple[str, Sequence[str]]] = []
    for i in range(4 * len(FOLDERS)):
        letter = FOLDERS[i % len(FOLDERS)]
        tags = [tag for bit, tag in enumerate(TAGS[:3]) if (1 + (i * 5 + i // 16) % 7) >> bit & 1]  # every mixture of the three but none
        rows.append((f"{letter}/artist-album-01-track_{i}-0-29.mp3", [*tags, "rare"] if i == 0 else tags))
        (data / letter).mkdir(parents=True, exist_ok=True)
        make_tone(data / rows[-1][0], samples=sound(tags, i), rate_hz=RATE_HZ)
    rows += [("3/gone-0-29.mp3", ["hum"]), ("6/empty-0-29.mp3", ["hum"]), ("7/untagged-0-29.mp3", [])]
    (data / "6/empty-0-29.mp3").touch()
    make_tone(data / "7/untagged-0-29.mp3", samples=sound((), 0), rate_hz=RATE_HZ)
    with open(data / ANNOTATIONS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["clip_id", *TAGS, "never", "mp3_path"])
        writer.writerows([i, *(int(tag in tags) for tag in TAGS), 0, path] for i, (path, tags) in enumerate(rows))
    return User(home, data, {"EMOCLIM_CACHE": str(home / "cache")})


@pytest.fixture(scope="module")
def first(somebody: User) -> Done:
    return somebody.run("tagging", "--data", somebody.media, "--json")


def table(done: Done) -> list[dict[str, str]]:
    """The second of the two tables, as a script reads it."""
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.text.split("\n\n")[1]), delimiter="\t"))


def test_the_answer_as_json(first: Done) -> None:
    assert first.code == 0, first.err
    said = first.json
    assert set(said) == KEYS
    assert said["vectors"] == "emotion"
    assert said["splits"] == {"train": 48, "val": 4, "test": 12}
    assert (said["clips"], said["missing"], said["untagged"]) == (12, 1, 1)
    assert set(said["per_tag"]) == set(TAGS)
    measured = [said["per_tag"][tag] for tag in TAGS[:3]]
    for name in ("roc_auc", "pr_auc", "chance_pr_auc"):
        assert said[name] == pytest.approx(np.mean([figures[name] for figures in measured]))
    assert all(figures["chance_pr_auc"] == pytest.approx(figures["n"] / 12) for figures in measured)
    assert said["roc_auc"] > 0.7 and said["pr_auc"] > said["chance_pr_auc"] + 0.1  # it has learnt


def test_what_is_left_out_is_told(somebody: User, first: Done) -> None:
    assert "1 clip listed but not on disk: left out" in first.err
    assert "1 clip without any of the tags: left out" in first.err
    assert f"{somebody.media}/6/empty-0-29.mp3 is left out: is empty" in first.err
    assert "not measured" in first.err and "rare" in first.err
    assert first.json["per_tag"]["rare"] == {"roc_auc": None, "pr_auc": None, "chance_pr_auc": 0.0, "n": 0}


def test_the_same_seed_gives_the_same_bytes(somebody: User, first: Done) -> None:
    assert somebody.run("tagging", "--data", somebody.media, "--json", "--seed", "0").out == first.out


def test_features_for_a_pipe(somebody: User) -> None:
    done = somebody.run("tagging", "--data", somebody.media / ANNOTATIONS, "--vectors", "features", "--tags", "3", "--epochs", "20")
    assert done.text.startswith("vectors\tROC-AUC\tPR-AUC\tchance PR-AUC\tclips\nfeatures\t")
    rows = table(done)
    assert {row["tag"] for row in rows} == set(TAGS[:3])
    areas = [float(row["ROC-AUC"]) for row in rows]
    assert areas == sorted(areas, reverse=True)
    assert np.mean(areas) > 0.9
    assert math.isclose(float(done.text.splitlines()[1].split("\t")[1]), np.mean(areas), abs_tol=2e-3)


def test_a_terminal_gets_a_table_and_what_could_not_be_measured_is_last(somebody: User) -> None:
    screen = Terminal.start(somebody, "tagging", "--data", somebody.media)
    assert screen.finish() == 0, screen.text
    lines = [line.split() for line in screen.text.splitlines()]
    assert "macro over tags, test split" in screen.text
    assert lines[-1] == ["rare", "-", "-", "0.000", "0"]
    assert [line for line in lines if line[:1] == ["emotion"]]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--vectors", "audio"], 2, "--vectors audio: unknown"),
        (["--device", "abacus"], 2, "abacus"),
        (["--tags", "0"], 2, "--tags"),
        (["--space", "nowhere"], 1, "there is no space 'nowhere'"),
    ],
    ids=["vectors", "device", "tags", "space"],
)
def test_options_that_make_no_sense(somebody: User, args: list[str], code: int, said: str) -> None:
    done = somebody.run("tagging", "--data", somebody.media, *args)
    assert (done.code, done.out) == (code, b"")
    assert said in done.err
    assert "Traceback" not in done.err


def test_the_readme_runs(somebody: User, tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if block.startswith("emoclim tagging")]
    (tmp_path / "MagnaTagATune").symlink_to(somebody.media)
    (tmp_path / "mine").mkdir()
    songs = sorted(somebody.media.glob("*/artist*.mp3"))[:12]
    for i, song in enumerate(songs):
        (tmp_path / "mine" / f"{i}.mp3").symlink_to(song)
    rows = [f"{i}.mp3,{i % 2},{int(i < 9)},{('train', 'train', 'val', 'val', 'test', 'test')[i % 6]}" for i in range(12)]
    (tmp_path / "mine" / "tags.csv").write_text("\n".join(["mp3_path,one,other,split", *rows]))
    lines = commands_of(block)
    assert len(lines) == 3
    for line in lines:
        done = somebody.run(*line.split()[1:], cwd=tmp_path)
        assert done.code == 0, (line, done.err)
        assert table(done)


def test_data_that_cannot_be_used(somebody: User, tmp_path: Path) -> None:
    nothing = somebody.run("tagging", "--data", tmp_path)
    assert (nothing.code, nothing.out) == (1, b"")
    assert f"there is no file {tmp_path / ANNOTATIONS}" in nothing.err
    (tmp_path / ANNOTATIONS).write_text("clip_id\thum\tmp3_path\n1\t1\t0/a.mp3\n2\t3\t0/b.mp3\n")
    wrong = somebody.run("tagging", "--data", tmp_path)
    assert (wrong.code, wrong.out) == (1, b"")
    assert f"{tmp_path / ANNOTATIONS}, line 3: 'hum' is '3', neither 0 nor 1" in wrong.err
    assert somebody.run("tagging").code == 2


def test_without_weights_and_network(somebody: User, tmp_path: Path) -> None:
    bare = User(somebody.home, somebody.media, {"EMOCLIM_CACHE": str(tmp_path)})
    done = bare.run("tagging", "--data", bare.media)
    assert (done.code, done.out) == (3, b"")
    assert "emoclim models fetch" in done.err
