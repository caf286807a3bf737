from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_labels import DIMS, MUSIC, PHOTO, labelled, toy_data

from emoclim_cli import losses, training
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.errors import LabelError, ModelError, UsageError
from emoclim_cli.evaluation import evaluate
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import unit
from emoclim_cli.recipes import Recipe, with_loss
from emoclim_cli.training import Epoch, Mlp, Trained, train
from emoclim_cli.tuning import FULL_SCALE, Audio, Body, Tuning

pytestmark = pytest.mark.usefixtures("one_torch_thread")
SMALL = Recipe(dim=6, hidden=16, learning_rate=1e-2, batch=32, epochs=3, steps=12)


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


LEARNERS = {
    "paper": SMALL,
    "extras": EXTRAS,
    "triplet": with_loss(SMALL, "triplet"),
    "triplet-similarity": with_loss(SMALL, "triplet-similarity"),
    "emoclim": with_loss(EXTRAS, "emoclim"),
}


@pytest.mark.parametrize("recipe", [replace(recipe, steps=60) for recipe in LEARNERS.values()], ids=list(LEARNERS))
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
    vectors = trained.projections[PHOTO](photos.pooled())
    centres = unit(np.stack([vectors[photos.labels == emotion].mean(axis=0) for emotion in EMOTIONS]))
    nearest = (trained.projections[MUSIC](unseen[MUSIC].pooled()) @ centres.T).argmax(axis=1)
    found = [known[EMOTIONS[place]] == known[item.emotion] for place, item in zip(nearest, unseen[MUSIC].items, strict=True)]
    assert sum(found) / len(found) > 0.8
    with pytest.raises(LabelError, match="no music with an emotion to train on"):
        train(photos, vague.take(vague.labels == ""), SMALL)


def test_a_teacher_knows_an_emotion_that_no_music_has() -> None:
    """Angry photos find angry music if a teacher alone has shown some, and not by its rows being means."""
    photos, music, unseen = toy_data(140, seed=8)[PHOTO], toy_data(140, seed=9)[MUSIC], toy_data(140, seed=10)
    calm = music.take(music.labels != "angry")
    angry = toy_data(280, seed=11)[MUSIC]
    angry = angry.take(angry.labels == "angry")
    teacher = LabelledFeatures(MUSIC, angry.pooled(), np.arange(len(angry) + 1), angry.items)
    recipe = replace(EXTRAS, steps=40, teacher_share=0.2)
    found = {}
    for name, taught in (("alone", None), ("taught", teacher)):
        trained = train(photos, calm, recipe, teacher=taught)
        found[name] = evaluate(trained.projections, unseen)["image->music"].per_emotion["angry"]["p@5"]
    assert found["taught"] > 0.8 > found["alone"]
    assert same(
        train(photos, calm, replace(recipe, teacher_share=0.0), teacher=teacher), train(photos, calm, replace(recipe, teacher_share=0.0))
    )


def test_a_teachers_rows_scatter_like_windows() -> None:
    music = toy_data(70, seed=1, max_windows=3)[MUSIC]
    part = training._Items(music, quadrants=False)
    expected = [window - np.mean(windows, axis=0) for windows in np.split(music.windows, music.starts[1:-1]) for window in windows]
    assert np.allclose(part.scatter().numpy(), np.array(expected), atol=1e-4)
    means = LabelledFeatures(MUSIC, np.full((1, DIMS[MUSIC]), 100, np.float32), np.arange(2), music.items[:1])
    teacher = training._Teacher(training._Items(means, quadrants=False), part.scatter())
    recipe, rng = replace(SMALL, batch=4000, teacher_share=0.3), np.random.default_rng(0)
    x, sets = teacher.mix(torch.zeros(4000, DIMS[MUSIC]), torch.zeros(4000, len(EMOTIONS)), rng, recipe)
    taught = sets.sum(1) > 0
    assert 0.25 < taught.float().mean() < 0.35
    assert torch.equal(taught, x[:, 0] != 0)
    assert torch.allclose(x[taught].mean(0), torch.tensor(100.0), atol=1)
    assert torch.allclose(x[taught].std(0), part.scatter().std(0), rtol=0.2)


def test_a_feature_that_is_constant_in_training_is_not_blown_up(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    def with_column(features: LabelledFeatures, value: float) -> LabelledFeatures:
        return replace(features, windows=np.column_stack([features.windows, np.full(len(features.windows), value, np.float32)]))

    trained = train(with_column(data[PHOTO], 0.0), with_column(data[MUSIC], 0.0), SMALL)
    for kind in MediaKind:
        same_column, other = (trained.projections[kind](with_column(data[kind], value).pooled()) for value in (0.0, 0.01))
        assert np.allclose(same_column, other, atol=0.05)


def test_matrices_this_small_are_computed_on_one_thread(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    """Others would wait for each other, and sum in another order."""
    seen: list[int] = []
    torch.set_num_threads(2)
    try:
        train(data[PHOTO], data[MUSIC], SMALL, on_epoch=lambda _: seen.append(torch.get_num_threads()))
        assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(1)


def test_nothing_to_train_on(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    nothing = data[PHOTO].take(np.zeros(len(data[PHOTO]), bool))
    with pytest.raises(LabelError, match="no photos with an emotion to train on"):
        train(nothing, data[MUSIC], SMALL)


# --- what cannot be ------------------------------------------------------------------------------------------------------


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


def test_an_unknown_loss_and_no_epoch(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    with pytest.raises(UsageError, match="there is no loss 'none'"):
        run(replace(SMALL, loss="none"), data)
    with pytest.raises(UsageError, match="one epoch"):
        run(replace(SMALL, epochs=0), data)
    with pytest.raises(UsageError, match="two numbers, not 6"):
        run(replace(SMALL, loss="va-regression"), data)


# --- every epoch on validation items -------------------------------------------------------------------------------------


def test_every_epoch_is_measured_as_evaluate_does(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    val = toy_data(28, seed=2)
    trained = run(replace(SMALL, best_epoch=False), data, val)
    expected = {name: (direction.p_at_5, direction.mrr) for name, direction in evaluate(trained.projections, val).items()}
    assert trained.history[-1].val == {name: pytest.approx(figures) for name, figures in expected.items()}
    assert set(expected) == {"image->music", "music->image", "image->image", "music->music"}
    assert trained.history[0].val != trained.history[-1].val
    assert run(SMALL, data).history[-1].val == {}


def test_validation_items_of_which_retrieval_says_nothing(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    """No photo is labelled as tender, so tender music is the answer to none."""
    tender = toy_data(6, seed=2, words=["tender"])[MUSIC]
    trained = run(SMALL, data, {PHOTO: toy_data(28, seed=2)[PHOTO], MUSIC: tender})
    assert set(trained.history[-1].val) == {"image->image"}
    assert math.isfinite(trained.history[-1].val_loss)


def test_valence_and_arousal_are_learnt(data: Mapping[MediaKind, LabelledFeatures]) -> None:
    trained, unseen = run(with_loss(replace(SMALL, steps=60), "va-regression"), data), toy_data(70, seed=7)
    for kind, part in unseen.items():
        targets = losses.directions(torch.from_numpy(part.emotion_sets(EMOTIONS))).numpy()
        cosines = (trained.projections[kind](part.pooled()) * targets).sum(axis=1)
        assert cosines.mean() > 0.9
    assert set(trained.history[0].loss) == {"photo", "music"}


# --- stopped and gone on with --------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def interrupted(recipe: Recipe, data: Mapping[MediaKind, LabelledFeatures], checkpoint: Path, *, after: int, **options: object) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.number == after:
            raise Stop

    with pytest.raises(Stop):
        train(data[PHOTO], data[MUSIC], recipe, on_epoch=stop, checkpoint=checkpoint, **options)  # type: ignore[arg-type]


def gone_on(
    recipe: Recipe, data: Mapping[MediaKind, LabelledFeatures], checkpoint: Path, val: Mapping[MediaKind, LabelledFeatures] | None = None
) -> tuple[Trained, list[str], list[Epoch]]:
    told: list[str] = []
    epochs: list[Epoch] = []
    trained = train(data[PHOTO], data[MUSIC], recipe, val, epochs.append, checkpoint=checkpoint, tell=told.append)
    return trained, told, epochs


def test_another_teacher_is_another_training(tmp_path: Path, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    recipe, teacher = replace(SMALL, teacher_share=0.5), toy_data(14, seed=3)[MUSIC]
    interrupted(recipe, data, tmp_path / "state", after=1, teacher=teacher)
    trained, told, _ = gone_on(recipe, data, tmp_path / "state")
    assert "begins anew" in told[0]
    assert same(trained, run(recipe, data))
    assert not same(trained, train(data[PHOTO], data[MUSIC], recipe, teacher=teacher))


FOUR = replace(EXTRAS, epochs=4, best_epoch=True, dropout=0.3)


@pytest.mark.parametrize("after", [1, 3])
def test_gone_on_with_it_is_as_if_never_stopped(after: int, tmp_path: Path, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    val, checkpoint = toy_data(28, seed=2), tmp_path / "space" / "state"
    whole = run(FOUR, data, val)
    interrupted(FOUR, data, checkpoint, after=after, val=val)
    torch.rand(3)  # whatever the process that goes on has drawn before
    trained, told, epochs = gone_on(FOUR, data, checkpoint, val)
    assert same(trained, whole)
    assert trained.history == whole.history == tuple(epochs)
    assert trained.best_epoch == whole.best_epoch
    assert told == [f"goes on after epoch {after} of 4, which was kept"]


def test_stopped_within_an_epoch(tmp_path: Path, data: Mapping[MediaKind, LabelledFeatures], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls, supcon = run(FOUR, data), 0, losses.LOSSES["supcon"]

    def stopping(*args: object) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 2 * FOUR.steps + 5:
            raise KeyboardInterrupt
        return supcon(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setitem(losses.LOSSES, "supcon", stopping)
        with pytest.raises(KeyboardInterrupt):
            gone_on(FOUR, data, tmp_path / "state")
    trained, told, _ = gone_on(FOUR, data, tmp_path / "state")
    assert same(trained, whole)
    assert "after epoch 2 " in told[0]


def test_the_best_epoch_may_be_one_before_the_stop(tmp_path: Path) -> None:
    """Labels that mean nothing: validation gets worse, so that the best epoch lies behind."""
    rng = np.random.default_rng(3)
    data, val = (
        {kind: labelled(kind, rng.choice(EMOTIONS, 40).tolist(), list(rng.standard_normal((40, 1, d)))) for kind, d in DIMS.items()}
        for _ in range(2)
    )
    recipe = replace(SMALL, epochs=6, learning_rate=3e-2, dropout=0.0)
    whole = run(recipe, data, val)
    assert whole.best_epoch < 5
    interrupted(recipe, data, tmp_path / "state", after=5, val=val)
    trained, _, _ = gone_on(recipe, data, tmp_path / "state", val)
    assert same(trained, whole)
    assert trained.best_epoch == whole.best_epoch


def test_a_training_that_is_done_is_not_done_again(tmp_path: Path, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    val = toy_data(28, seed=2)
    first, told, _ = gone_on(SMALL, data, tmp_path / "state", val)
    assert told == []
    again, told, epochs = gone_on(SMALL, data, tmp_path / "state", val)
    assert told == ["goes on after epoch 3 of 3, which was kept"]
    assert same(again, first)
    assert tuple(epochs) == first.history


def other_label(data: Mapping[MediaKind, LabelledFeatures]) -> dict[MediaKind, LabelledFeatures]:
    first, *others = data[MUSIC].items
    other = replace(first, emotion="angry", emotions=frozenset(("angry",)))
    assert other != first
    return {PHOTO: data[PHOTO], MUSIC: replace(data[MUSIC], items=(other, *others))}


def other_feature(data: Mapping[MediaKind, LabelledFeatures]) -> dict[MediaKind, LabelledFeatures]:
    windows = data[PHOTO].windows.copy()
    windows[-1, -1] = np.nextafter(windows[-1, -1], np.float32(99))
    return {PHOTO: replace(data[PHOTO], windows=windows), MUSIC: data[MUSIC]}


@pytest.mark.parametrize("what", ["recipe", "label", "feature", "validation"])
def test_another_training_begins_anew(what: str, tmp_path: Path, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    checkpoint, val = tmp_path / "state", toy_data(28, seed=2)
    interrupted(SMALL, data, checkpoint, after=2, val=val)
    recipe = replace(SMALL, epochs=4) if what == "recipe" else SMALL
    changed = {"label": other_label, "feature": other_feature}.get(what, lambda data: data)(data)
    val = toy_data(28, seed=3) if what == "validation" else val
    trained, told, _ = gone_on(recipe, changed, checkpoint, val)
    assert told == [f"{tmp_path} holds an unfinished training with another recipe, other labels or other features: this one begins anew"]
    assert same(trained, run(recipe, changed, val))
    assert gone_on(recipe, changed, checkpoint, val)[1][0].startswith("goes on after epoch")  # it is this one's now


def test_a_damaged_state_is_no_state(tmp_path: Path, data: Mapping[MediaKind, LabelledFeatures]) -> None:
    interrupted(SMALL, data, tmp_path / "state", after=2)
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[: len(whole) // 2])
    trained, told, _ = gone_on(SMALL, data, tmp_path / "state")
    assert len(told) == 1 and told[0].startswith(f"{tmp_path / 'state'} cannot be read: ") and told[0].endswith(": training begins anew")
    assert same(trained, run(SMALL, data))


# --- with the encoder of the music -----------------------------------------------------------------------------------------------


class Ear(nn.Module):
    """(b, 8) audio -> (b, 7): what a rhythm of four samples sounds like, wherever it begins."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.line = nn.Linear(3, DIMS[MUSIC])

    def forward(self, audio: Tensor) -> Tensor:
        return torch.tanh(self.line(self.norm(torch.log(1e-3 + torch.fft.rfft(audio).abs()[:, ::2]))))


def rhythms(n: int, seed: int, samples: int) -> Audio:
    """Each emotion has its own."""
    rng = np.random.default_rng(seed)
    of_emotions = np.random.default_rng(7).uniform(-1, 1, (len(EMOTIONS), 4))
    words = [EMOTIONS[i % len(EMOTIONS)] for i in range(n)]
    counts = rng.integers(1, 4, n)
    bars = np.stack([of_emotions[EMOTIONS.index(word)] for word, count in zip(words, counts, strict=True) for _ in range(count)])
    sound = np.tile(bars, samples // 4) + 0.05 * rng.standard_normal((len(bars), samples))
    items = labelled(MUSIC, words, [np.zeros((count, 1)) for count in counts]).items
    return Audio((sound.clip(-1, 1) * FULL_SCALE).astype(np.int16), np.cumsum([0, *counts]), items)


Heard = tuple[Body, dict[MediaKind, LabelledFeatures], dict[MediaKind, LabelledFeatures]]


@pytest.fixture(scope="module")
def heard() -> Heard:
    """An encoder's body; and what to train on and to validate on, with the features of the music that it gives."""
    torch.manual_seed(5)
    body = Body(Ear(), "cpu", rhythms(70, 1, 12), rhythms(28, 2, 8))
    whole = replace(body, val=replace(body.chunks, windows=body.chunks.windows[:, :8]))
    music = Tuning(whole, Recipe()).validation()
    val = {PHOTO: toy_data(28, seed=2)[PHOTO], MUSIC: Tuning(body, Recipe()).validation()}
    return body, {PHOTO: toy_data(70, seed=1)[PHOTO], MUSIC: music}, val


UNFROZEN = replace(SMALL, unfrozen=True, body_learning_rate=1e-2, best_epoch=False)


def unfrozen(recipe: Recipe, heard: Heard, **options: object) -> Trained:
    body, data, val = heard
    return train(data[PHOTO], data[MUSIC], recipe, val, body=body, **options)  # type: ignore[arg-type]


def moved(heard: Heard, trained: Trained) -> float:
    """How far the weights have come."""
    before = {name: parameter.detach() for name, parameter in heard[0].network.named_parameters()}
    return float(sum((trained.tuned[name] - parameter).abs().sum() for name, parameter in before.items()))


def test_an_unfrozen_encoder_learns_with_its_projection(heard: Heard) -> None:
    body, data, val = heard
    before = {name: tensor.clone() for name, tensor in body.network.state_dict().items()}
    assert run(replace(UNFROZEN, unfrozen=False), data, val).tuned == {}
    trained = unfrozen(replace(UNFROZEN, steps=40), heard)
    assert set(trained.tuned) == set(before)
    assert not any(torch.equal(trained.tuned[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(tensor, body.network.state_dict()[name]) for name, tensor in before.items())  # a copy is trained
    totals = [sum(epoch.loss.values()) for epoch in trained.history]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 0.9 * totals[0]


def test_it_learns_where_its_projection_alone_cannot(heard: Heard) -> None:
    """A deaf ear has to change."""
    body, data, val = heard
    deaf = Ear()
    deaf.load_state_dict(body.network.state_dict())
    with torch.no_grad():
        deaf.line.weight.zero_()
    body = replace(body, network=deaf)
    whole = replace(body, val=replace(body.chunks, windows=body.chunks.windows[:, :8]))
    data = {PHOTO: data[PHOTO], MUSIC: Tuning(whole, Recipe()).validation()}
    val = {PHOTO: val[PHOTO], MUSIC: Tuning(body, Recipe()).validation()}
    recipe = replace(UNFROZEN, steps=80, body_learning_rate=3e-2)
    found = {
        "frozen": run(replace(recipe, unfrozen=False), data, val).history[-1].val["image->music"],
        "unfrozen": unfrozen(recipe, (body, data, val)).history[-1].val["image->music"],
    }
    assert found["unfrozen"][0] > 0.8 > 0.4 > found["frozen"][0]


def test_it_has_a_learning_rate_of_its_own(heard: Heard) -> None:
    recipe = replace(UNFROZEN, steps=10)
    far, near, none = (moved(heard, unfrozen(replace(recipe, body_learning_rate=rate), heard)) for rate in (1e-2, 1e-3, 0.0))
    assert 5 * near < far < 20 * near
    assert none == 0 < near


def test_its_learning_rate_decays_likewise(heard: Heard) -> None:
    """AdamW's steps are nearly as large as the learning rate while gradients keep their signs: 1, then 3/4, then 1/4 of it."""
    recipe = replace(UNFROZEN, steps=1, weight_decay=0.0, body_learning_rate=1e-5)
    rates = []
    for epochs, share in ((1, 1.0), (3, 2.0)):
        trained = unfrozen(replace(recipe, epochs=epochs, learning_rate=1e-9, dropout=0.0), heard)
        steps = (trained.tuned["line.weight"] - heard[0].network.state_dict()["line.weight"]).abs() / 1e-5
        assert float(steps.max()) == pytest.approx(share, rel=0.02)
        rates.append(steps)
    assert float(rates[0].min()) == pytest.approx(1, rel=0.02)


def test_validation_is_on_the_features_of_the_epoch(heard: Heard) -> None:
    """What the tuned network and its projection give, and not what the frozen one gave."""
    body, _, val = heard
    trained = unfrozen(UNFROZEN, heard)
    tuned = Ear()
    tuned.load_state_dict(trained.tuned)
    now = {**val, MUSIC: Tuning(replace(body, network=tuned), Recipe()).validation()}
    assert equation_4(trained, now, UNFROZEN.tau) == pytest.approx(trained.history[-1].val_loss, rel=1e-5)
    assert equation_4(trained, val, UNFROZEN.tau) != pytest.approx(trained.history[-1].val_loss, rel=1e-3)
    expected = {name: (direction.p_at_5, direction.mrr) for name, direction in evaluate(trained.projections, now).items()}
    assert trained.history[-1].val == {name: pytest.approx(figures) for name, figures in expected.items()}


def test_the_best_epoch_has_its_own_weights(heard: Heard) -> None:
    """Learning that leaps about gets worse after a while."""
    body, _, val = heard
    recipe = replace(UNFROZEN, best_epoch=True, epochs=8, steps=6, body_learning_rate=0.3)
    trained = unfrozen(recipe, heard)
    val_losses = [epoch.val_loss for epoch in trained.history]
    assert trained.best_epoch == 1 + val_losses.index(min(val_losses)) < recipe.epochs
    tuned = Ear()
    tuned.load_state_dict(trained.tuned)
    now = {**val, MUSIC: Tuning(replace(body, network=tuned), Recipe()).validation()}
    assert equation_4(trained, now, recipe.tau) == pytest.approx(min(val_losses), rel=1e-5)


def test_an_unfrozen_training_without_validation(heard: Heard) -> None:
    body, data, _ = heard
    trained = train(data[PHOTO], data[MUSIC], UNFROZEN, body=body)
    assert trained.best_epoch == UNFROZEN.epochs
    assert moved(heard, trained) > 0


def test_what_has_no_audio_is_left_out(heard: Heard) -> None:
    """A file that was there when its features were computed, and then no more."""
    body, data, val = heard
    count = int(body.chunks.starts[50])
    fewer = Audio(body.chunks.windows[:count], body.chunks.starts[:51], body.chunks.items[:50])
    recipe = replace(UNFROZEN, epochs=1)
    one = unfrozen(recipe, (replace(body, chunks=fewer), data, val))
    assert same(one, unfrozen(recipe, (replace(body, chunks=fewer), {**data, MUSIC: data[MUSIC].take(np.arange(50))}, val)))


def test_a_seed_decides_what_is_heard(heard: Heard) -> None:
    recipe = replace(UNFROZEN, epochs=2, steps=4)
    first, again, other = unfrozen(recipe, heard), unfrozen(recipe, heard), unfrozen(replace(recipe, seed=1), heard)
    assert same(first, again) and not same(first, other)
    assert all(torch.equal(tensor, again.tuned[name]) for name, tensor in first.tuned.items())


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("best_epoch", [False, True])
def test_an_unfrozen_training_goes_on_as_if_never_stopped(after: int, best_epoch: bool, tmp_path: Path, heard: Heard) -> None:
    """To the last bit, with as many threads as before; the best epoch may lie before the stop."""
    body, data, val = heard
    recipe = replace(UNFROZEN, epochs=4, dropout=0.3, best_epoch=best_epoch, body_learning_rate=0.3)
    whole = unfrozen(recipe, heard)
    interrupted(recipe, data, tmp_path / "state", after=after, val=val, body=body)
    told: list[str] = []
    trained = unfrozen(recipe, heard, checkpoint=tmp_path / "state", tell=told.append)
    assert told == [f"goes on after epoch {after} of 4, which was kept"]
    assert same(trained, whole)
    assert trained.history == whole.history
    assert all(torch.equal(tensor, whole.tuned[name]) for name, tensor in trained.tuned.items())
    again = unfrozen(recipe, heard, checkpoint=tmp_path / "state")  # which was done, and is not done again
    assert all(torch.equal(tensor, whole.tuned[name]) for name, tensor in again.tuned.items())


def test_a_frozen_training_does_not_go_on_with_an_unfrozen_one(tmp_path: Path, heard: Heard) -> None:
    body, data, val = heard
    interrupted(UNFROZEN, data, tmp_path / "state", after=1, val=val, body=body)
    frozen = replace(UNFROZEN, unfrozen=False)
    trained, told, _ = gone_on(frozen, data, tmp_path / "state", val)
    assert "begins anew" in told[0]
    assert same(trained, run(frozen, data, val))


def test_convolutions_have_all_threads(heard: Heard) -> None:
    seen: list[int] = []
    torch.set_num_threads(2)
    try:
        unfrozen(replace(UNFROZEN, epochs=1, steps=1), heard, on_epoch=lambda _: seen.append(torch.get_num_threads()))
        assert seen == [2]
    finally:
        torch.set_num_threads(1)


def test_what_does_not_go_together(heard: Heard) -> None:
    body, data, _ = heard
    with pytest.raises(UsageError, match="and no other, trains the body"):
        train(data[PHOTO], data[MUSIC], SMALL, body=body)
    with pytest.raises(UsageError, match="and no other, trains the body"):
        train(data[PHOTO], data[MUSIC], UNFROZEN)
    with pytest.raises(UsageError, match="those of the frozen encoder"):
        train(data[PHOTO], data[MUSIC], UNFROZEN, body=body, teacher=data[MUSIC])
    with pytest.raises(UsageError, match="at least two"):
        train(data[PHOTO], data[MUSIC], replace(SMALL, batch=1))
