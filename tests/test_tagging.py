from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli import tagging
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.errors import LabelError, ModelError, UsageError
from emoclim_cli.labels import SPLITS, LabelledItem
from emoclim_cli.magnatagatune import TagSet
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import Projection
from emoclim_cli.tagging import (
    Clips,
    Head,
    HeadNetwork,
    HeadRecipe,
    TrainedHead,
    average_precision,
    measure,
    roc_auc,
    split_clips,
    train_head,
)

SMALL = HeadRecipe(hidden=16, learning_rate=1e-2, batch=16, epochs=8)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


# --- metrics -----------------------------------------------------------------------------------------------------------------------------


def every_pair(scores: Sequence[float], carried: Sequence[bool]) -> float:
    """ROC-AUC as it is defined: of all pairs of a clip with the tag and one without, the share that is in order; ties count half."""
    good, pairs = 0.0, 0
    for score, has in zip(scores, carried, strict=True):
        for other, other_has in zip(scores, carried, strict=True):
            if has and not other_has:
                pairs += 1
                good += 1.0 if score > other else 0.5 if score == other else 0.0
    return good / pairs if pairs else math.nan


def every_threshold(scores: Sequence[float], carried: Sequence[bool]) -> float:
    """Average precision as it is defined: the threshold goes down over all scores; precision times what each step adds to recall."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [has for score, has in zip(scores, carried, strict=True) if score >= threshold]
        recall = sum(found) / sum(carried)
        total += sum(found) / len(found) * (recall - recall_before)
        recall_before = recall
    return total


# Few scores, so that there are ties; two are close.
SCORED = st.lists(st.tuples(st.sampled_from([-1.5, 0.0, 1e-7, 0.25, 0.5, 3.0]), st.booleans()), min_size=2, max_size=25)


@given(SCORED)
def test_the_areas_are_those_of_their_definitions(rows: list[tuple[float, bool]]) -> None:
    scores, carried = map(list, zip(*rows, strict=True))
    got = [metric(np.array(scores, np.float32), np.array(carried, bool)) for metric in (roc_auc, average_precision)]
    if any(carried) and not all(carried):
        assert got == pytest.approx([every_pair(scores, carried), every_threshold(scores, carried)], abs=1e-12)
    else:
        assert all(map(math.isnan, got))


@pytest.mark.parametrize("tied", [False, True])
def test_the_areas_are_those_of_scikit_learn(tied: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        carried = rng.random(300) < rng.uniform(0.02, 0.9)
        scores = rng.standard_normal(300) + carried
        scores = np.round(scores, 1) if tied else scores
        assert roc_auc(scores, carried) == pytest.approx(metrics.roc_auc_score(carried, scores), abs=1e-12)
        assert average_precision(scores, carried) == pytest.approx(metrics.average_precision_score(carried, scores), abs=1e-12)


def test_the_ends_of_the_scale() -> None:
    carried = np.array([True, False, True, False, False])
    for scores, areas in (
        (carried.astype(float), (1.0, 1.0)),
        (-carried.astype(float), (0.0, 0.4)),  # all or nothing: the only threshold with recall is the lowest
        (np.zeros(5), (0.5, 0.4)),  # no order at all: chance
    ):
        assert (roc_auc(scores, carried), average_precision(scores, carried)) == pytest.approx(areas)


def test_the_order_of_tied_clips_is_nothing() -> None:
    rng = np.random.default_rng(1)
    scores, carried = rng.integers(0, 3, 40).astype(np.float32), rng.random(40) < 0.3
    by_tag = np.argsort(~carried, kind="stable")  # all that carry it first
    for metric in (roc_auc, average_precision):
        assert metric(scores[by_tag], carried[by_tag]) == metric(scores, carried) == metric(scores[::-1], carried[::-1])


def test_random_scores_are_chance() -> None:
    rng = np.random.default_rng(2)
    carried = rng.random((5000, 3)) < [0.05, 0.3, 0.8]
    report = measure(rng.standard_normal(carried.shape), carried, "abc")
    for figures in report.per_tag.values():
        assert figures.roc_auc == pytest.approx(0.5, abs=0.04)
        assert figures.pr_auc == pytest.approx(figures.chance_pr_auc, abs=0.04)


def test_the_report_is_macro_over_what_can_be_measured() -> None:
    carried = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    scores = np.array([[2, 1, 1, 1], [1, 1, 1, 2], [3, 1, 1, 0]], np.float32)
    report = measure(scores, carried, ["a", "never", "always", "b"])
    assert report.per_tag["a"] == tagging.TagFigures(0.5, 0.5, pytest.approx(1 / 3), 1)
    assert report.per_tag["b"] == tagging.TagFigures(0.5, pytest.approx(5 / 6), pytest.approx(2 / 3), 2)
    assert [(report.per_tag[tag].chance_pr_auc, report.per_tag[tag].n) for tag in ("never", "always")] == [(0, 0), (1, 3)]
    assert report.unmeasured == ["never", "always"]
    assert (report.roc_auc, report.pr_auc, report.chance_pr_auc, report.clips) == pytest.approx((0.5, 2 / 3, 0.5, 3))
    said = report.as_json()
    assert set(said) == {"roc_auc", "pr_auc", "chance_pr_auc", "clips", "per_tag"}
    assert said["per_tag"]["never"] == {"roc_auc": None, "pr_auc": None, "chance_pr_auc": 0.0, "n": 0}
    assert said["per_tag"]["a"]["roc_auc"] == 0.5


def test_nothing_to_measure() -> None:
    with pytest.raises(LabelError, match="all of the 2 clips carry it or none does"):
        measure(np.zeros((2, 2)), np.array([[True, False]] * 2), "ab")


# --- clips -------------------------------------------------------------------------------------------------------------------------------


def tagged(splits: Sequence[str], windows: Sequence[int], dim: int = 3) -> tuple[LabelledFeatures, TagSet]:
    """A clip for each split, of so many windows; and a set that has one clip more, as if that could not be read."""
    rng = np.random.default_rng(0)
    items = tuple(LabelledItem(f"{i}.mp3", "", frozenset(), f"{i}", split=split) for i, split in enumerate(splits))
    features = LabelledFeatures(
        MediaKind.MUSIC, rng.standard_normal((sum(windows), dim)).astype(np.float32), np.cumsum([0, *windows]), items
    )
    unread = LabelledItem("unread.mp3", "", frozenset(), "unread", split="train")
    return features, TagSet(("a", "b"), (unread, *items), rng.random((len(items) + 1, 2)) < 0.5, 0, 0)


def test_a_clip_is_the_mean_of_its_windows_vectors() -> None:
    features, tag_set = tagged(["test", "train", "val", "train"], [2, 1, 3, 4])
    rng = np.random.default_rng(1)
    projection = Projection(*(rng.standard_normal(shape).astype(np.float32) for shape in ((3, 5), (5,), (5, 2), (2,))))
    for vectors, given_projection in ((features.windows, None), (projection(features.windows), projection)):
        clips = split_clips(features, tag_set, given_projection)
        assert set(clips) == set(SPLITS)
        for split, members in (("test", [0]), ("train", [1, 3]), ("val", [2])):
            expected = [vectors[features.starts[i] : features.starts[i + 1]].mean(axis=0) for i in members]
            assert clips[split].vectors == pytest.approx(np.stack(expected), abs=1e-6)
            assert clips[split].vectors.dtype == np.float32
            assert clips[split].carried.tolist() == tag_set.carried[[i + 1 for i in members]].tolist()


def test_a_split_of_which_no_clip_can_be_read() -> None:
    with pytest.raises(LabelError, match="no clip is left for val, test"):
        split_clips(*tagged(["train", "train"], [1, 1]))


# --- the head ----------------------------------------------------------------------------------------------------------------------------


def test_the_layers_are_the_papers() -> None:
    network = HeadNetwork(torch.zeros(5), torch.ones(5), tags=3, hidden=7)
    assert [type(layer).__name__ for layer in network.children()] == ["Linear", "BatchNorm1d", "Linear"]
    x = torch.randn(20, 5)
    expected = network.second(torch.clamp(network.norm(network.first(x)), min=0))
    assert torch.allclose(network(x), expected, atol=1e-6)
    assert network(x).shape == (20, 3)


def test_the_folded_head_is_the_network_at_inference() -> None:
    torch.manual_seed(0)
    x = 5 + 3 * torch.randn(200, 10)
    network = HeadNetwork(x.mean(0), x.std(0), tags=4, hidden=16)
    for _ in range(20):  # so that the running statistics and the weights are not those of a new network
        network(x + torch.randn(10)).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    expected = network.eval()(x).detach().numpy()
    folded = network.folded()
    assert np.abs(folded(x.numpy()) - expected).max() < 1e-4
    assert expected.std(axis=0).min() > 1e-2
    before = folded.w1.copy()
    with torch.no_grad():
        network.first.weight.zero_()
    assert np.array_equal(folded.w1, before)  # it is a copy


def toy_clips(n: int, seed: int, *, noise: float = 0.5) -> Clips:
    """Three tags, each carried where a direction of its own points; the first number of a vector is the same for all."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((3, 6))
    vectors = rng.standard_normal((n, 6))
    carried = vectors @ directions.T + noise * rng.standard_normal((n, 3)) > 0.5
    return Clips(np.column_stack([np.full(n, 7.0), 10 * vectors]).astype(np.float32), carried)


def same(one: TrainedHead, other: TrainedHead) -> bool:
    pairs = [(getattr(one.head, part), getattr(other.head, part)) for part in ("w1", "b1", "w2", "b2")]
    return all(np.array_equal(a, b) for a, b in pairs)


def test_what_can_be_learnt_is_learnt() -> None:
    train, val, test = toy_clips(300, 0), toy_clips(100, 1), toy_clips(200, 2)
    trained = train_head(train, val, SMALL)
    report = measure(trained.head(test.vectors), test.carried, "abc")
    assert report.roc_auc > 0.93
    assert report.pr_auc > report.chance_pr_auc + 0.4
    shuffled = replace(train, carried=np.random.default_rng(0).permutation(train.carried))
    untaught = train_head(shuffled, val, SMALL)
    assert measure(untaught.head(test.vectors), test.carried, "abc").roc_auc < 0.75


def test_logits_are_of_probabilities() -> None:
    """Binary cross-entropy: where nothing but chance decides, the head says the share of clips that carry the tag."""
    rng = np.random.default_rng(3)
    clips = Clips(rng.standard_normal((2000, 2)).astype(np.float32), rng.random((2000, 2)) < [0.1, 0.7])
    scores = train_head(clips, clips, replace(SMALL, hidden=4, epochs=15)).head(clips.vectors)
    assert (1 / (1 + np.exp(-scores))).mean(axis=0) == pytest.approx([0.1, 0.7], abs=0.03)


def test_the_best_epoch_is_that_of_the_highest_roc_auc_on_val() -> None:
    told = []
    train, val = toy_clips(60, 0, noise=3), toy_clips(60, 1, noise=3)
    trained = train_head(train, val, replace(SMALL, epochs=12), lambda number, area: told.append((number, area)))
    assert [area for _, area in told] == list(trained.val_roc_auc)
    assert [number for number, _ in told] == list(range(1, 13))
    assert trained.best_epoch == int(np.argmax(trained.val_roc_auc)) + 1
    assert trained.best_epoch < 12  # or nothing was chosen
    assert measure(trained.head(val.vectors), val.carried, "abc").roc_auc == max(trained.val_roc_auc)
    assert same(train_head(train, val, replace(SMALL, epochs=trained.best_epoch)), trained)


def test_a_seed_gives_one_head_and_threads_are_as_before() -> None:
    train, val = toy_clips(50, 0), toy_clips(30, 1)
    torch.set_num_threads(2)
    one = train_head(train, val, SMALL)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    torch.randn(5)  # the state of torch's own generator does not matter
    assert same(one, train_head(train, val, SMALL))
    assert not same(one, train_head(train, val, replace(SMALL, seed=1)))


@pytest.mark.parametrize("n", [2, 3, 16, 17, 33])
def test_every_number_of_clips_can_be_trained_on(n: int) -> None:
    """Batch norm cannot do with one clip, so no batch may be left with one."""
    assert np.isfinite(train_head(toy_clips(n, 0), toy_clips(30, 1), replace(SMALL, epochs=2)).head.w1).all()


def test_too_little_to_train_on() -> None:
    for n in (0, 1):
        with pytest.raises(LabelError, match="two clips"):
            train_head(toy_clips(n, 0), toy_clips(30, 1), SMALL)
    with pytest.raises(UsageError, match="at least one epoch"):
        train_head(toy_clips(10, 0), toy_clips(30, 1), replace(SMALL, epochs=0))
    val = toy_clips(30, 1)
    with pytest.raises(LabelError, match="no tag can be measured"):
        train_head(toy_clips(10, 0), replace(val, carried=np.ones_like(val.carried)), SMALL)


def test_a_training_that_diverges() -> None:
    with pytest.raises(ModelError, match="diverged in epoch 1"), np.errstate(all="ignore"):
        train_head(toy_clips(30, 0), toy_clips(30, 1), replace(SMALL, learning_rate=1e30))


def test_a_head_is_two_affine_layers() -> None:
    head = Head(np.array([[1.0, -1.0]]), np.array([0.0, 1.0]), np.array([[2.0], [3.0]]), np.array([0.5]))
    assert head(np.array([[2.0], [-2.0]])).tolist() == [[2 * 2 + 0 + 0.5], [0 + 3 * 3 + 0.5]]
