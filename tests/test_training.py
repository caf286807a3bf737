from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emoclim_cli import losses, training
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS, QUADRANTS
from emoclim_cli.encoders import encoder_info
from emoclim_cli.errors import LabelError, ModelError
from emoclim_cli.evaluation import evaluate
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit
from emoclim_cli.training import Epoch, Mlp, Recipe, Trained, calibrated_temperature, prototypes, split, train

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
DIMS = {PHOTO: 10, MUSIC: 7}
SMALL = Recipe(dim=6, hidden=16, learning_rate=1e-2, batch=32, epochs=3, steps=12)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These networks are small: on a busy machine torch's threads wait for each other twenty times as long as they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def labelled(kind: MediaKind, words: Sequence[str], windows: Sequence[np.ndarray]) -> LabelledFeatures:
    """Items by emotion or quadrant."""
    items = tuple(
        LabelledItem(f"{kind}{i}", "" if word in QUADRANTS else word, QUADRANTS.get(word, frozenset((word,))), f"{kind}{i}")
        for i, word in enumerate(words)
    )
    starts = np.cumsum([0, *map(len, windows)])
    return LabelledFeatures(kind, np.concatenate(windows).astype(np.float32), starts, items)


def toy_data(
    n: int, seed: int, *, words: Sequence[str] = EMOTIONS, noise: float = 0.4, max_windows: int = 3
) -> dict[MediaKind, LabelledFeatures]:
    """Each emotion has a place of its own in either kind's features, whose scales and offsets differ."""
    rng = np.random.default_rng(seed)
    places = {kind: np.random.default_rng(d).standard_normal((len(EMOTIONS), d)) for kind, d in DIMS.items()}
    data = {}
    for kind, d in DIMS.items():
        chosen = [words[i % len(words)] for i in range(n)]
        windows = []
        for word in chosen:
            place = places[kind][EMOTIONS.index(word)] if word in EMOTIONS else np.zeros(d)
            count = 1 if kind is PHOTO else int(rng.integers(1, max_windows + 1))
            windows.append(5 + np.arange(1, d + 1) * (place + noise * rng.standard_normal((count, d))))
        data[kind] = labelled(kind, chosen, windows)
    return data


def run(recipe: Recipe, data: Mapping[MediaKind, LabelledFeatures], val: Mapping[MediaKind, LabelledFeatures] | None = None) -> Trained:
    return train(data[PHOTO], data[MUSIC], recipe, val)


def same(one: Trained, other: Trained) -> bool:
    pairs = [
        (getattr(one.projections[kind], part), getattr(other.projections[kind], part))
        for kind in MediaKind
        for part in ("w1", "b1", "w2", "b2")
    ]
    return all(np.array_equal(a, b) for a, b in pairs)


# --- the network ---------------------------------------------------------------------------------------------------------


def test_the_folded_projection_is_the_network_at_inference() -> None:
    torch.manual_seed(0)
    x = 5 + 3 * torch.randn(200, 10)
    model = Mlp(x.mean(0), x.std(0), SMALL)
    for _ in range(20):  # so that the running statistics and the weights are not those of a new network
        model(x + torch.randn(10)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.eval()
    expected = model(x).detach().numpy()
    assert np.abs(model.folded()(x.numpy()) - expected).max() < 1e-5
    assert expected.std(axis=0).min() > 1e-3


def test_folding_copies() -> None:
    model = Mlp(torch.zeros(3), torch.ones(3), SMALL).eval()
    folded = model.folded()
    before = [array.copy() for array in (folded.w1, folded.b1, folded.w2, folded.b2)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(before, (folded.w1, folded.b1, folded.w2, folded.b2), strict=True))


def test_dropout_is_for_training_only() -> None:
    x = torch.randn(8, 3)
    model = Mlp(torch.zeros(3), torch.ones(3), replace(SMALL, dropout=0.5))
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_the_networks_vectors_are_of_unit_norm() -> None:
    vectors = Mlp(torch.zeros(3), torch.ones(3), SMALL)(torch.randn(8, 3))
    assert vectors.shape == (8, 6)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1] * 8, abs=1e-6)


def test_the_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.hidden, recipe.dim, recipe.dropout, recipe.tau) == (256, 128, 0.2, 0.07)
    assert (recipe.learning_rate, recipe.batch, recipe.epochs, recipe.steps) == (1e-4, 64, 15, 100)
    assert (recipe.balanced, recipe.quadrants, recipe.best_epoch) == (False, False, True)


# --- drawing batches -----------------------------------------------------------------------------------------------------


def numbered(words: Sequence[str], counts: Sequence[int]) -> LabelledFeatures:
    """Window j of item i is [i, 2**j]."""
    return labelled(MUSIC, words, [np.array([[i, 2.0**j] for j in range(count)]) for i, count in enumerate(counts)])


def drawn(features: LabelledFeatures, recipe: Recipe, seed: int = 0) -> tuple[list[list[float]], list[list[float]]]:
    x, sets = training._Items(features, recipe.quadrants).draw(np.random.default_rng(seed), recipe)
    assert len(x) == len(sets) == recipe.batch
    return x.tolist(), sets.tolist()


WORDS = ["happy"] * 16 + ["sad"] * 3 + ["Q1"]
COUNTS = [1, 2, 3, 4] * 5


@pytest.mark.parametrize("balanced", [False, True])
def test_every_row_drawn_is_of_one_item_and_has_its_emotions(balanced: bool) -> None:
    features = numbered(WORDS, COUNTS)
    recipe = Recipe(batch=4000, balanced=balanced, quadrants=True)
    rows, sets = drawn(features, recipe)
    windows_seen: dict[int, set[float]] = {i: set() for i in range(len(WORDS))}
    for (number, value), emotions in zip(rows, sets, strict=True):
        item = features.items[int(number)]
        assert emotions == [float(emotion in item.emotions) for emotion in EMOTIONS]
        windows_seen[int(number)].add(round(value, 3))
    for i, count in enumerate(COUNTS):
        assert windows_seen[i] == {2.0**j for j in range(count)}


def shares(recipe: Recipe) -> dict[str, float]:
    rows, _ = drawn(numbered(WORDS, COUNTS), replace(recipe, batch=6000))
    counts = Counter(WORDS[int(number)] for number, _ in rows)
    return {word: count / 6000 for word, count in counts.items()}


def test_a_plain_batch_is_like_the_data() -> None:
    assert shares(Recipe(quadrants=True)) == pytest.approx({"happy": 16 / 20, "sad": 3 / 20, "Q1": 1 / 20}, abs=0.03)


def test_a_balanced_batch_has_every_emotion_equally_often() -> None:
    assert shares(Recipe(balanced=True)) == pytest.approx({"happy": 1 / 2, "sad": 1 / 2}, abs=0.03)
    assert shares(Recipe(balanced=True, quadrants=True)) == pytest.approx({"happy": 1 / 3, "sad": 1 / 3, "Q1": 1 / 3}, abs=0.03)


def test_without_quadrants_only_what_has_an_emotion_takes_part() -> None:
    assert set(shares(Recipe())) == {"happy", "sad"}


def test_items_of_one_emotion_are_drawn_evenly_however_many_windows_they_have() -> None:
    rows, _ = drawn(numbered(["sad"] * 4, [1, 2, 3, 40]), Recipe(batch=4000, balanced=True))
    counts = Counter(int(number) for number, _ in rows)
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx([1 / 4] * 4, abs=0.03)


# --- training ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> dict[MediaKind, LabelledFeatures]:
    return toy_data(140, seed=1)


EXTRAS = replace(SMALL, balanced=True, quadrants=True)


@pytest.mark.parametrize("recipe", [SMALL, EXTRAS], ids=["paper", "extras"])
def test_a_seed_decides_everything(recipe: Recipe, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    recipe = replace(recipe, epochs=2, steps=4)
    first = run(recipe, data)
    torch.rand(3)
    np.random.default_rng().random(3)
    torch.manual_seed(77)
    assert same(first, run(recipe, data))
    assert not same(first, run(replace(recipe, seed=1), data))


def test_validation_does_not_change_what_is_learnt(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    plain, watched = run(SMALL, data), run(SMALL, data, toy_data(28, seed=2))
    assert [epoch.loss for epoch in plain.history] == [epoch.loss for epoch in watched.history]


def test_the_loss_falls_and_every_epoch_is_told(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    told: list[Epoch] = []
    trained = train(data[PHOTO], data[MUSIC], SMALL, on_epoch=told.append)
    assert tuple(told) == trained.history
    assert [epoch.number for epoch in told] == [1, 2, 3]
    totals = [sum(epoch.loss.values()) for epoch in told]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 0.8 * totals[0]
    assert set(told[0].loss) == {"photo->music", "music->photo", "photo->photo", "music->music"}


def test_without_validation_the_last_epoch_counts(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    trained = run(SMALL, data)
    assert trained.best_epoch == SMALL.epochs
    assert all(math.isnan(epoch.val_loss) for epoch in trained.history)
    val = toy_data(28, seed=2)
    assert equation_4(trained, val, SMALL.tau) == pytest.approx(run(SMALL, data, val).history[-1].val_loss, rel=1e-4)


def equation_4(trained: Trained, val: Mapping[MediaKind, LabelledFeatures], tau: float) -> float:
    vectors = {kind: torch.from_numpy(trained.projections[kind](part.pooled())) for kind, part in val.items()}
    sets = {kind: torch.from_numpy(part.emotion_sets(EMOTIONS)) for kind, part in val.items()}
    return float(sum(losses.total(vectors[PHOTO], vectors[MUSIC], sets[PHOTO], sets[MUSIC], tau).values()))


def test_the_epoch_with_the_lowest_validation_loss_is_kept() -> None:
    """Labels that mean nothing are learnt by heart: what comes after the first epochs is worse on items never seen."""

    def meaningless(n: int, seed: int) -> dict[MediaKind, LabelledFeatures]:
        rng = np.random.default_rng(seed)
        return {kind: labelled(kind, rng.choice(EMOTIONS, n).tolist(), list(rng.standard_normal((n, 1, d)))) for kind, d in DIMS.items()}

    train_on, val = meaningless(28, seed=3), meaningless(84, seed=4)
    recipe = replace(SMALL, dropout=0.0, learning_rate=3e-3, epochs=24, steps=10)
    trained = run(recipe, train_on, val)
    val_losses = [epoch.val_loss for epoch in trained.history]
    assert trained.best_epoch == 1 + val_losses.index(min(val_losses))
    assert 1 < trained.best_epoch < recipe.epochs
    assert equation_4(trained, val, recipe.tau) == pytest.approx(min(val_losses), rel=1e-4)
    assert min(val_losses) < min(val_losses[0], val_losses[-1]) - 0.05

    last = run(replace(recipe, best_epoch=False), train_on, val)
    assert last.best_epoch == recipe.epochs
    assert equation_4(last, val, recipe.tau) == pytest.approx(val_losses[-1], rel=1e-4)


@pytest.mark.parametrize("recipe", [replace(SMALL, steps=60), replace(EXTRAS, steps=60)], ids=["paper", "extras"])
def test_a_toy_problem_is_learnt(recipe: Recipe, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    trained, unseen = run(recipe, data), toy_data(70, seed=7)
    for level in ("clip", "track"):
        report = evaluate(trained.projections, unseen, level)
        for name, direction in report.items():
            assert direction.p_at_1 > 0.75, name
            assert direction.mrr > 0.8, name
            assert direction.chance < 0.3, name


def test_quadrants_teach_something() -> None:
    """Music of which no emotion is known finds its half of the photos all the same."""
    photos = toy_data(140, seed=8)[PHOTO]
    music = toy_data(140, seed=9)[MUSIC]
    known = {"happy": "Q1", "funny": "Q1", "exciting": "Q1", "scary": "Q2", "angry": "Q2", "sad": "Q3", "tender": "Q4"}
    windows = [music.windows[music.starts[i] : music.starts[i + 1]] for i in range(len(music))]
    vague = labelled(MUSIC, [known[item.emotion] for item in music.items], windows)
    trained = train(photos, vague, replace(EXTRAS, steps=40))
    unseen = toy_data(70, seed=10)
    centres = prototypes(trained.projections, {PHOTO: photos})
    nearest = (trained.projections[MUSIC](unseen[MUSIC].pooled()) @ centres.T).argmax(axis=1)
    found = [known[EMOTIONS[place]] == known[item.emotion] for place, item in zip(nearest, unseen[MUSIC].items, strict=True)]
    assert sum(found) / len(found) > 0.8
    with pytest.raises(LabelError, match="no music with an emotion to train on"):
        train(photos, vague.take(vague.labels == ""), SMALL)


def test_nothing_to_train_on(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    nothing = data[PHOTO].take(np.zeros(len(data[PHOTO]), bool))
    with pytest.raises(LabelError, match="no photos with an emotion to train on"):
        train(nothing, data[MUSIC], SMALL)


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
    with pytest.raises(LabelError, match="no labelled item is tender"):
        prototypes({PHOTO: identity(2)}, {PHOTO: features})


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


# --- training and validation items ---------------------------------------------------------------------------------------


def regrouped(features: LabelledFeatures, groups: Sequence[str], splits: Sequence[str] | None = None) -> LabelledFeatures:
    splits = splits or [""] * len(features)
    items = (replace(item, group=group, split=part) for item, group, part in zip(features.items, groups, splits, strict=True))
    return replace(features, items=tuple(items))


def test_a_tenth_of_the_groups_of_each_emotion_is_held_out() -> None:
    features = toy_data(len(EMOTIONS) * 60, seed=14)[MUSIC]
    features = regrouped(features, [f"{item.emotion} song {i // len(EMOTIONS) // 3}" for i, item in enumerate(features.items)])
    train_on, held_out = split(features, seed=0)
    assert not set(train_on.groups) & set(held_out.groups)
    assert {item.path for item in (*train_on.items, *held_out.items)} == {item.path for item in features.items}
    assert Counter(held_out.labels.tolist()) == dict.fromkeys(EMOTIONS, 6)
    assert [item.path for item in split(features, seed=0)[1].items] == [item.path for item in held_out.items]
    assert [item.path for item in split(features, seed=1)[1].items] != [item.path for item in held_out.items]


def test_a_column_of_splits_is_kept_to() -> None:
    features = toy_data(8, seed=15)[PHOTO]
    named = regrouped(features, ["one"] * 8, ["train", "val", "test", ""] * 2)
    train_on, held_out = split(named, seed=0)
    assert train_on.items == tuple(named.items[i] for i in (0, 4))
    assert held_out.items == tuple(named.items[i] for i in (1, 5))


@pytest.mark.parametrize(
    ("splits", "side"), [(["train"] * 3, "validation"), (["val"] * 3, "training"), (["test"] * 3, "validation"), ([""] * 3, "validation")]
)
def test_a_side_without_items_is_an_error(splits: list[str], side: str) -> None:
    features = regrouped(toy_data(3, seed=16)[PHOTO], ["a", "b", "c"], splits)
    with pytest.raises(LabelError, match=f"no photos are left for {side}"):
        split(features, seed=0)


def test_training_that_diverges_is_an_error(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    with pytest.raises(ModelError, match="diverged in epoch 1"):
        run(replace(SMALL, learning_rate=1e20), data)


def test_validation_needs_both_kinds(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    with pytest.raises(LabelError, match="both"):
        train(data[PHOTO], data[MUSIC], SMALL, {PHOTO: data[PHOTO]})


def test_training_leaves_torchs_threads_as_they_were(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    torch.set_num_threads(2)
    try:
        run(replace(SMALL, epochs=1, steps=1), data)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_one_window_is_enough_to_standardise() -> None:
    one = {kind: labelled(kind, ["sad"], [np.ones((1, d))]) for kind, d in DIMS.items()}
    trained = run(replace(SMALL, epochs=1, steps=2), one)
    assert all(np.isfinite(projection.w1).all() for projection in trained.projections.values())


def test_unlabelled_items_do_not_count_for_the_temperature() -> None:
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((len(EMOTIONS), 6)))
    vectors, labels = unit(rng.standard_normal((90, 6))), rng.choice(EMOTIONS, 90)
    with_unlabelled = np.concatenate([labels, [""] * 10]), np.concatenate([vectors, vectors[:10]])
    expected = calibrated_temperature(vectors, labels, centres)
    assert calibrated_temperature(with_unlabelled[1], with_unlabelled[0], centres) == expected
    with pytest.raises(LabelError, match="no labelled validation item"):
        calibrated_temperature(vectors, np.full(90, ""), centres)


def test_a_space_is_trained_saved_and_tells_how(tmp_path: Path, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    infos = {PHOTO: encoder_info("clip-vit-b-16"), MUSIC: encoder_info("musicnn")}
    val = toy_data(70, seed=5)
    recipe = replace(SMALL, steps=40)
    space, trained = training.train_space("toy", data, val, recipe, infos, about={"licence": "none"})
    space.save(tmp_path / "toy")
    read = EmotionSpace.load(tmp_path / "toy")
    assert read.id == space.id
    assert read.about["recipe"] == asdict(recipe)
    assert read.about["best_epoch"] == trained.best_epoch
    assert read.about["licence"] == "none"
    assert read.about["items"] == {f"{kind}_{part}": len(on[kind]) for part, on in (("train", data), ("val", val)) for kind in MediaKind}
    assert read.digests == {kind: info.digest for kind, info in infos.items()}
    # Each emotion's prototype is nearest to more of that emotion's unseen items than to any other's.
    photos = val[PHOTO]
    nearest = np.argmax(read.project(PHOTO, photos.pooled()) @ read.prototypes.T, axis=1)
    right = [EMOTIONS[i] == label for i, label in zip(nearest, photos.labels, strict=True) if label]
    assert np.mean(right) > 0.7
