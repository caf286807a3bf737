"""What becomes of labelled features: splits, prototypes, a temperature, and a space that says how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import Ear, rhythms
from toy_labels import MUSIC, PHOTO, labelled, toy_data

from emoclim_cli import evaluation
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import EncoderInfo, encoder_info
from emoclim_cli.errors import LabelError
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit
from emoclim_cli.recipes import Recipe, settings
from emoclim_cli.spaces import Unfrozen, by_split, calibrated_temperature, counted, measured, prototypes, train_space
from emoclim_cli.training import Epoch
from emoclim_cli.tuning import Audio, Body, Tuning

INFOS = {PHOTO: encoder_info("clip-vit-b-16"), MUSIC: encoder_info("musicnn")}
SMALL = Recipe(dim=6, hidden=16, learning_rate=1e-2, batch=32, epochs=3, steps=40)


# --- splits --------------------------------------------------------------------------------------------------------------


def in_splits(features: LabelledFeatures, splits: Sequence[str], sources: Sequence[str] = ()) -> LabelledFeatures:
    """The splits, and sources, again and again."""
    items = (
        replace(item, split=splits[i % len(splits)], source=sources[i % len(sources)] if sources else "")
        for i, item in enumerate(features.items)
    )
    return replace(features, items=tuple(items))


def paths(features: LabelledFeatures) -> list[str]:
    return [item.path for item in features.items]


def test_each_item_goes_to_its_split() -> None:
    data = {kind: in_splits(part, ["train", "val", "test", "train", ""]) for kind, part in toy_data(10, seed=1).items()}
    parts = by_split(data)
    assert list(parts) == ["train", "val", "test"]
    for kind in MediaKind:
        assert paths(parts["train"][kind]) == [f"{kind}{i}" for i in (0, 3, 5, 8)]
        assert paths(parts["val"][kind]) == [f"{kind}{i}" for i in (1, 6)]
        assert paths(parts["test"][kind]) == [f"{kind}{i}" for i in (2, 7)]
        i = int(parts["val"][kind].starts[1])
        assert np.array_equal(parts["val"][kind].windows[:i], data[kind].take(np.array([1])).windows)


def test_a_test_split_is_not_needed() -> None:
    data = toy_data(10, seed=1)
    parts = by_split({PHOTO: in_splits(data[PHOTO], ["train", "val", "test"]), MUSIC: in_splits(data[MUSIC], ["train", "val"])})
    assert list(parts["test"]) == [PHOTO]
    assert by_split({kind: in_splits(part, ["train", "val"]) for kind, part in data.items()})["test"] == {}


@pytest.mark.parametrize(("splits", "empty"), [(["train"], "val"), (["val", "test"], "train"), ([""], "train")])
def test_an_empty_split_says_what_to_do(splits: list[str], empty: str) -> None:
    data = toy_data(6, seed=1)
    with pytest.raises(LabelError, match=f"^the split {empty} has no music$") as caught:
        by_split({PHOTO: in_splits(data[PHOTO], ["train", "val"]), MUSIC: in_splits(data[MUSIC], splits)})
    assert caught.value.hint == "name train and val in the column split, or leave it out"


def test_items_are_counted_by_emotion_and_by_source() -> None:
    photos = in_splits(toy_data(6, seed=1, words=["sad", "happy"])[PHOTO], ["train", "train", "val"])
    music = in_splits(toy_data(4, seed=1, words=["Q1", "angry"])[MUSIC], ["train", "val"], ["game", "", "game"])
    assert counted(by_split({PHOTO: photos, MUSIC: music})) == {
        "photos": {"by_emotion": {"happy": {"train": 2, "val": 1}, "sad": {"train": 2, "val": 1}}, "by_source": {}},
        "music": {"by_emotion": {"partly": {"train": 2}, "angry": {"val": 2}}, "by_source": {"game": {"train": 2, "val": 1}}},
    }


# --- prototypes and temperature ------------------------------------------------------------------------------------------


def identity(d: int, scale: float = 1.0) -> Projection:
    """Passes positive features through."""
    eye = np.eye(d, dtype=np.float32)
    return Projection(eye * scale, np.zeros(d, np.float32), eye, np.zeros(d, np.float32))


def test_a_prototype_is_the_direction_of_its_items_photos_and_music_weighing_the_same() -> None:
    rng = np.random.default_rng(11)
    words = {PHOTO: [*EMOTIONS[:-1], *EMOTIONS, "sad", "sad", "Q1"], MUSIC: [*EMOTIONS[:-2], "happy", "Q2"]}
    features = {kind: labelled(kind, of_kind, [rng.random((i % 3 + 1, 4)) for i in range(len(of_kind))]) for kind, of_kind in words.items()}
    projections = {PHOTO: identity(4), MUSIC: identity(4, 3.0)}
    found = prototypes(projections, features)
    for emotion, centre in zip(EMOTIONS, found, strict=True):
        of_kinds = []
        for part in features.values():
            vectors = []
            for i, item in enumerate(part.items):
                if item.emotion == emotion:
                    mean = part.windows[part.starts[i] : part.starts[i + 1]].astype(float).mean(axis=0)
                    vectors.append(mean / math.sqrt(sum(x * x for x in mean)))
            if vectors:
                mean = sum(vectors) / len(vectors)
                of_kinds.append(mean / math.sqrt(sum(x * x for x in mean)))
        between = sum(of_kinds) / len(of_kinds)
        assert centre.tolist() == pytest.approx((between / math.sqrt(sum(x * x for x in between))).tolist(), abs=1e-6)
    assert found.shape == (len(EMOTIONS), 4)
    assert np.linalg.norm(found, axis=1).tolist() == pytest.approx([1] * len(EMOTIONS), abs=1e-6)


def test_every_emotion_needs_an_item() -> None:
    words = [emotion for emotion in EMOTIONS if emotion != "tender"]
    features = labelled(PHOTO, [*words, "Q4"], [np.ones((1, 2))] * (len(words) + 1))
    with pytest.raises(LabelError, match="no item of the split train is tender") as caught:
        prototypes({PHOTO: identity(2)}, {PHOTO: features})
    assert caught.value.hint == "label a photo or a track as tender"
    told: list[Epoch] = []
    with pytest.raises(LabelError, match="is tender"):
        train_space("toy", {"train": toy_data(35, seed=1, words=words), "val": toy_data(14, seed=1)}, SMALL, INFOS, told.append)
    assert told == []  # said before the work


def log_loss(vectors: np.ndarray, labels: Sequence[str], centres: np.ndarray, temperature: float) -> float:
    loss = 0.0
    for vector, label in zip(vectors.tolist(), labels, strict=True):
        weights = [math.exp(sum(x * y for x, y in zip(vector, centre, strict=True)) / temperature) for centre in centres.tolist()]
        loss -= math.log(weights[EMOTIONS.index(label)] / sum(weights))
    return loss / len(labels)


@pytest.mark.parametrize("true_temperature", [0.1, 0.4])
def test_the_temperature_is_the_most_likely_one(true_temperature: float) -> None:
    rng = np.random.default_rng(12)
    centres, vectors = unit(rng.standard_normal((len(EMOTIONS), 8))), unit(rng.standard_normal((3000, 8)))
    weights = np.exp(vectors @ centres.T / true_temperature)
    labels = np.array([rng.choice(EMOTIONS, p=row / row.sum()) for row in weights.astype(np.float64)])
    found = calibrated_temperature(vectors, labels, centres)
    assert found == pytest.approx(true_temperature, rel=0.15)
    few = vectors[:200], labels[:200].tolist(), centres
    best = calibrated_temperature(few[0], labels[:200], centres)
    assert all(log_loss(*few, best) <= log_loss(*few, best * factor) + 1e-9 for factor in (0.8, 0.9, 1.1, 1.25))


def test_a_temperature_for_labels_that_are_always_right_does_not_overflow() -> None:
    centres = unit(np.random.default_rng(13).standard_normal((len(EMOTIONS), 8)))
    assert 0 < calibrated_temperature(centres, np.array(EMOTIONS), centres) <= 0.05


def test_unlabelled_items_do_not_count_for_the_temperature() -> None:
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((len(EMOTIONS), 6)))
    vectors, labels = unit(rng.standard_normal((90, 6))), rng.choice(EMOTIONS, 90)
    with_unlabelled = np.concatenate([labels, [""] * 10]), np.concatenate([vectors, vectors[:10]])
    expected = calibrated_temperature(vectors, labels, centres)
    assert calibrated_temperature(with_unlabelled[1], with_unlabelled[0], centres) == expected
    with pytest.raises(LabelError, match="no labelled validation item"):
        calibrated_temperature(vectors, np.full(90, ""), centres)


# --- the whole way ---------------------------------------------------------------------------------------------------------------


def split_data(n: int, seed: int) -> dict[str, dict[MediaKind, LabelledFeatures]]:
    return by_split({kind: in_splits(part, ["train"] * 5 + ["val"] * 2 + ["test"]) for kind, part in toy_data(n, seed=seed).items()})


def test_a_space_is_trained_saved_and_tells_how(tmp_path: Path) -> None:
    parts = split_data(371, seed=1)
    space, trained = train_space("toy", parts, SMALL, INFOS, about={"licence": "none"})
    space.save(tmp_path / "toy")
    read = EmotionSpace.load(tmp_path / "toy")
    assert read.id == space.id
    assert read.name == "toy"
    assert read.about["recipe"] == settings(SMALL)
    assert read.about["best_epoch"] == trained.best_epoch
    assert read.about["licence"] == "none"
    assert read.about["counts"] == counted(parts)
    assert read.about["metrics"] == as_read(measured(space.projections, parts["val"]))
    assert read.about["test_metrics"] == as_read(measured(space.projections, parts["test"]))
    assert read.about["metrics"] != read.about["test_metrics"]
    assert read.digests == {kind: info.digest for kind, info in INFOS.items()}
    # Each emotion's prototype is nearest to more of that emotion's unseen items than to any other's.
    photos = parts["val"][PHOTO]
    nearest = np.argmax(read.project(PHOTO, photos.pooled()) @ read.prototypes.T, axis=1)
    right = [EMOTIONS[i] == label for i, label in zip(nearest, photos.labels, strict=True) if label]
    assert np.mean(right) > 0.7


def as_read(figures: object) -> object:
    import json

    return json.loads(json.dumps(figures))


def test_figures_are_those_of_evaluate_at_every_level() -> None:
    val = split_data(140, seed=2)["val"]
    projections = {kind: identity(part.windows.shape[1]) for kind, part in val.items()}
    cut = {kind: Projection(p.w1, p.b1, p.w2[:, :5], p.b2[:5]) for kind, p in projections.items()}
    figures = measured(cut, val)
    assert list(figures) == list(evaluation.LEVELS)
    for level, directions in figures.items():
        expected = evaluation.evaluate(cut, val, level)
        assert directions == {name: direction.as_json() for name, direction in expected.items()}


def test_what_cannot_be_measured_is_left_out() -> None:
    """Neither a space without a test split, nor music of which retrieval says nothing, is an error."""
    data = toy_data(140, seed=3)
    tender = toy_data(12, seed=3, words=["tender"])[MUSIC]
    parts: dict[str, Mapping[MediaKind, LabelledFeatures]] = {
        "train": data,
        "val": {PHOTO: toy_data(28, seed=4)[PHOTO], MUSIC: tender},
        "test": {},
    }
    space, _ = train_space("toy", parts, replace(SMALL, steps=2), INFOS)
    assert "test_metrics" not in space.about
    assert {name for directions in space.about["metrics"].values() for name in directions} == {"image->image"}


def test_a_space_of_valence_and_arousal() -> None:
    space, _ = train_space("plane", split_data(140, seed=5), replace(SMALL, loss="va-regression", dim=2), INFOS)
    assert space.dim == 2
    assert set(space.about["metrics"]) == set(evaluation.LEVELS)


def test_a_space_with_an_unfrozen_encoder_is_that_of_the_tuned_features(tmp_path: Path) -> None:
    """Prototypes, temperature and metrics are of what the encoder gives in the end, and its weights come with the space."""
    from safetensors.torch import load_file

    torch.manual_seed(0)
    whole = rhythms(96, 1, 12)
    splits = ["train"] * 5 + ["val"] * 2 + ["test"]
    whole = replace(whole, items=tuple(replace(item, split=splits[i % 8]) for i, item in enumerate(whole.items)))
    heard = replace(whole, windows=whole.windows[:, :8])
    body = Body(Ear(), "cpu", whole, heard)
    encoded: list[LabelledFeatures] = []

    def encode(weights: Path) -> tuple[EncoderInfo, LabelledFeatures]:
        tuned = Ear()
        tuned.load_state_dict(load_file(weights))
        encoded.append(Tuning(replace(body, network=tuned), Recipe()).validation())
        return replace(INFOS[MUSIC], identity=("tuned",)), encoded[-1]

    photos = {PHOTO: in_splits(toy_data(96, seed=1)[PHOTO], splits)}
    parts = by_split({**photos, MUSIC: Tuning(body, Recipe()).validation()})
    recipe = replace(SMALL, unfrozen=True, body_learning_rate=1e-2, best_epoch=False)
    (tmp_path / "scratch").mkdir()
    unfrozen = Unfrozen(replace(body, val=heard_of(heard, "val")), tmp_path / "scratch" / "tuned", encode)
    space, trained = train_space("ear", parts, recipe, INFOS, unfrozen=unfrozen)
    anew = by_split({**photos, MUSIC: encoded[0]})
    assert np.array_equal(space.prototypes, prototypes(trained.projections, anew["train"]))
    assert not np.array_equal(space.prototypes, prototypes(trained.projections, parts["train"]))
    assert space.about["metrics"] == measured(trained.projections, anew["val"])
    assert space.about["test_metrics"] == measured(trained.projections, anew["test"])
    assert space.about["recipe"]["unfrozen"] is True
    assert space.about["recipe"]["body_learning_rate"] == 1e-2
    assert space.digests == {PHOTO: INFOS[PHOTO].digest, MUSIC: replace(INFOS[MUSIC], identity=("tuned",)).digest}
    for level, name in (("clip", "image->music"), ("clip", "music->image")):
        directions = space.about["metrics"][level][name]
        last = trained.history[-1].val[name]
        assert (directions["p@5"], directions["mrr"]) == pytest.approx(last)  # the last epoch was measured on the same features

    space.save(tmp_path / "ear")
    (tmp_path / "scratch" / "tuned").unlink()
    read = EmotionSpace.load(tmp_path / "ear")
    assert read.id == space.id
    again = load_file(read.tuned[MUSIC])
    assert set(again) == set(trained.tuned)
    assert all(torch.equal(tensor, trained.tuned[name]) for name, tensor in again.items())


def heard_of(audio: Audio, split: str) -> Audio:
    """The items of a split."""
    chosen = [i for i, item in enumerate(audio.items) if item.split == split]
    windows = [audio.windows[audio.starts[i] : audio.starts[i + 1]] for i in chosen]
    return Audio(np.concatenate(windows), np.cumsum([0, *map(len, windows)]), tuple(audio.items[i] for i in chosen))


@pytest.mark.parametrize("unfrozen", [False, True])
def test_a_space_tells_of_an_encoder_that_was_trained_and_of_no_other(unfrozen: bool) -> None:
    said = settings(Recipe(unfrozen=unfrozen))
    assert ("unfrozen" in said, "body_learning_rate" in said) == (unfrozen, unfrozen)
