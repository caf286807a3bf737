"""Each loss beside a slow and obvious one: plain Python numbers in a double loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from emoclim_cli.emotions import CIRCUMPLEX, EMOTIONS, QUADRANTS
from emoclim_cli.errors import UsageError
from emoclim_cli.losses import LOSSES, contrastive, directions, graded, loss_named, overlap, regression, total, triplet
from emoclim_cli.recipes import TAU, Recipe


def overlap_oracle(x: list[set[str]], y: list[set[str]]) -> list[list[float]]:
    return [[len(one & other) / len(one | other) for other in y] for one in x]


def contrastive_oracle(
    anchors: list[list[float]], candidates: list[list[float]], positives: list[list[float]], tau: float, intra: bool
) -> float:
    def exp_dot(one: list[float], other: list[float]) -> float:
        return math.exp(sum(p * q for p, q in zip(one, other, strict=True)) / tau)

    loss = 0.0
    for i, anchor in enumerate(anchors):
        others = [k for k in range(len(candidates)) if not (intra and k == i)]
        weight = sum(positives[i][k] for k in others)
        if weight == 0:
            continue
        everything = sum(exp_dot(anchor, candidates[k]) for k in others)
        for p in others:
            loss -= positives[i][p] / weight * math.log(exp_dot(anchor, candidates[p]) / everything)
    return loss / len(anchors)


def units(n: int, dim: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dim))), dim=1)


def sets(kinds: list[set[str]]) -> Tensor:
    return torch.tensor([[float(emotion in kind) for emotion in EMOTIONS] for kind in kinds], dtype=torch.float64)


ONE_EACH = [{"happy"}, {"sad"}, {"happy"}, {"angry"}, {"sad"}, {"happy"}]
OTHERS = [{"sad"}, {"happy"}, {"sad"}, {"scary"}, {"tender"}]
"""Nothing angry: that anchor has no positive here, and no other angry one among its own."""
SOFT = [set(QUADRANTS["Q1"]), {"happy"}, set(QUADRANTS["Q4"]), {"sad"}, set(QUADRANTS["Q2"]), {"exciting"}, {"angry"}]


@pytest.mark.parametrize(("x", "y"), [(ONE_EACH, OTHERS), (SOFT, ONE_EACH), (SOFT, SOFT)])
def test_overlap_is_jaccards(x: list[set[str]], y: list[set[str]]) -> None:
    assert overlap(sets(x), sets(y)).tolist() == overlap_oracle(x, y)


def test_overlap_of_single_emotions_is_equality() -> None:
    expected = [[float(one == other) for other in OTHERS] for one in ONE_EACH]
    assert overlap(sets(ONE_EACH), sets(OTHERS)).tolist() == expected


def test_overlap_with_nothing_is_nothing() -> None:
    assert overlap(torch.zeros(2, 7), torch.zeros(3, 7)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("tau", [TAU, 0.5, 1.0])
@pytest.mark.parametrize(("x", "y"), [(ONE_EACH, OTHERS), (OTHERS, ONE_EACH), (SOFT, ONE_EACH), (OTHERS, SOFT)])
def test_across_kinds(x: list[set[str]], y: list[set[str]], tau: float) -> None:
    a, b = units(len(x), 5, seed=1), units(len(y), 5, seed=2)
    expected = contrastive_oracle(a.tolist(), b.tolist(), overlap_oracle(x, y), tau, intra=False)
    assert contrastive(a, b, overlap(sets(x), sets(y)), tau).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tau", [TAU, 0.5])
@pytest.mark.parametrize("x", [ONE_EACH, OTHERS, SOFT])
def test_within_a_kind_an_anchor_is_left_out_of_its_own(x: list[set[str]], tau: float) -> None:
    a = units(len(x), 5, seed=3)
    expected = contrastive_oracle(a.tolist(), a.tolist(), overlap_oracle(x, x), tau, intra=True)
    positives = overlap(sets(x), sets(x))
    assert contrastive(a, a, positives, tau, intra=True).item() == pytest.approx(expected, abs=1e-6)
    assert contrastive(a, a, positives, tau).item() != pytest.approx(expected, abs=1e-3)


def test_an_anchor_without_a_positive_adds_nothing_but_counts() -> None:
    a, b = units(2, 4, seed=4), units(3, 4, seed=5)
    positives = overlap(sets([{"happy"}, {"angry"}]), sets([{"happy"}, {"sad"}, {"happy"}]))
    both = contrastive(a, b, positives)
    alone = contrastive(a[:1], b, positives[:1])
    assert both.item() == pytest.approx(alone.item() / 2, abs=1e-12)
    assert contrastive(a[1:], b, positives[1:]).item() == 0


@pytest.mark.parametrize("intra", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_gradient_is_that_of_the_loss_and_finite_without_positives(n: int, intra: bool) -> None:
    a = units(n, 2, seed=6).requires_grad_()
    positives = overlap(sets(ONE_EACH[:n]), sets(ONE_EACH[:n]))  # for n = 1 and 2 within a kind: no positive at all
    b = a if intra else units(n, 2, seed=7)
    assert torch.autograd.gradcheck(lambda x: contrastive(x, x if intra else b, positives, 0.5, intra=intra), (a,))


def test_a_small_tau_does_not_overflow() -> None:
    a = units(4, 3, seed=8).float()
    positives = overlap(sets(ONE_EACH[:4]), sets(ONE_EACH[:4])).float()
    assert torch.isfinite(contrastive(a, -a, positives, 1e-3))
    assert torch.isfinite(contrastive(a, a, positives, 1e-3, intra=True))


def test_the_best_arrangement_has_the_lowest_loss() -> None:
    """Equal emotions at one point and different ones far apart: only 1/|P| of the candidates' entropy is left."""
    corners = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = [{"happy"}, {"sad"}, {"happy"}, {"sad"}]
    good, bad = corners[[0, 1, 0, 1]], corners[[0, 1, 1, 0]]
    positives = overlap(sets(labels), sets(labels))
    assert contrastive(good, good, positives).item() == pytest.approx(math.log(2), abs=1e-6)
    assert contrastive(bad, good, positives).item() > contrastive(good, good, positives).item() + 1


@pytest.mark.parametrize(("x", "y"), [(ONE_EACH, OTHERS), (SOFT, OTHERS)])
def test_equation_4_is_a_quarter_of_each_direction(x: list[set[str]], y: list[set[str]]) -> None:
    photos, music = units(len(x), 6, seed=9), units(len(y), 6, seed=10)
    p, m = photos.tolist(), music.tolist()
    terms = total(photos, music, sets(x), sets(y), 0.2)
    expected = {
        "photo->music": 0.25 * contrastive_oracle(p, m, overlap_oracle(x, y), 0.2, intra=False),
        "music->photo": 0.25 * contrastive_oracle(m, p, overlap_oracle(y, x), 0.2, intra=False),
        "photo->photo": 0.25 * contrastive_oracle(p, p, overlap_oracle(x, x), 0.2, intra=True),
        "music->music": 0.25 * contrastive_oracle(m, m, overlap_oracle(y, y), 0.2, intra=True),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-6)


def test_the_default_tau_is_the_papers() -> None:
    photos, music = units(6, 4, seed=11), units(5, 4, seed=12)
    assert total(photos, music, sets(ONE_EACH), sets(OTHERS)) == total(photos, music, sets(ONE_EACH), sets(OTHERS), 0.07)


# --- emotions on the circumplex ----------------------------------------------------------------------------------------------------------


def direction_oracle(emotions: set[str]) -> tuple[float, float]:
    x = sum(math.cos(math.radians(CIRCUMPLEX[emotion])) for emotion in emotions)
    y = sum(math.sin(math.radians(CIRCUMPLEX[emotion])) for emotion in emotions)
    length = math.hypot(x, y)
    return x / length, y / length


def cosine_oracle(one: set[str], other: set[str]) -> float:
    (a, b), (c, d) = direction_oracle(one), direction_oracle(other)
    return a * c + b * d


def graded_oracle(x: list[set[str]], y: list[set[str]], softness: float, sharpness: float) -> list[list[float]]:
    rows = overlap_oracle(x, y)
    for i, one in enumerate(x):
        for j, other in enumerate(y):
            if not one & other:
                rows[i][j] = softness * max(0.0, cosine_oracle(one, other)) ** sharpness
    return rows


@pytest.mark.parametrize("kinds", [[{emotion} for emotion in EMOTIONS], SOFT], ids=["one each", "several"])
def test_a_direction_is_the_angle_of_the_emotion_or_the_mean_of_several(kinds: list[set[str]]) -> None:
    found = directions(sets(kinds))
    assert found.tolist() == [pytest.approx(direction_oracle(kind), abs=1e-9) for kind in kinds]
    assert found.norm(dim=1).tolist() == pytest.approx([1] * len(kinds))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("softness", [0.2, 1.0])
@pytest.mark.parametrize(("x", "y"), [(ONE_EACH, OTHERS), (SOFT, ONE_EACH), (SOFT, SOFT)])
def test_graded_positives(x: list[set[str]], y: list[set[str]], softness: float, sharpness: float) -> None:
    expected = graded_oracle(x, y, softness, sharpness)
    assert graded(sets(x), sets(y), softness, sharpness).tolist() == [pytest.approx(row, abs=1e-9) for row in expected]


def test_neighbours_on_the_circumplex_are_positives_in_part_and_opposites_are_not() -> None:
    (row,) = graded(sets([{"scary"}]), sets([{"scary"}, {"angry"}, {"exciting"}, {"tender"}]), 0.5, 2.0).tolist()
    assert row[0] == 1
    assert 0.5 > row[1] > row[2] > row[3] == 0


def test_without_softness_graded_positives_are_the_overlap() -> None:
    assert torch.equal(graded(sets(SOFT), sets(ONE_EACH), 0.0, 2.0), overlap(sets(SOFT), sets(ONE_EACH)))


# --- what the paper compares with --------------------------------------------------------------------------------------------------------


def regression_oracle(vectors: list[list[float]], kinds: list[set[str]]) -> float:
    errors = [
        (x - target) ** 2
        for vector, kind in zip(vectors, kinds, strict=True)
        for x, target in zip(vector, direction_oracle(kind), strict=True)
    ]
    return sum(errors) / len(errors)


def triplet_oracle(
    anchors: list[list[float]], candidates: list[list[float]], overlaps: list[list[float]], margin: float, intra: bool = False
) -> float:
    def cosine(one: list[float], other: list[float]) -> float:
        return sum(p * q for p, q in zip(one, other, strict=True))

    hinges = [
        max(0.0, margin - cosine(anchor, candidates[p]) + cosine(anchor, candidates[n]))
        for i, (anchor, row) in enumerate(zip(anchors, overlaps, strict=True))
        for p in range(len(candidates))
        for n in range(len(candidates))
        if row[p] > 0 and row[n] == 0 and not (intra and p == i)
    ]
    return sum(hinges) / len(hinges) if hinges else 0.0


SAME, STRANGERS = [{"sad"}, {"sad"}], [{"angry"}, {"happy"}]


@pytest.mark.parametrize("kinds", [ONE_EACH, SOFT])
def test_valence_arousal_regression(kinds: list[set[str]]) -> None:
    vectors = units(len(kinds), 2, seed=13)
    assert regression(vectors, sets(kinds)).item() == pytest.approx(regression_oracle(vectors.tolist(), kinds), abs=1e-6)
    there = torch.tensor([direction_oracle(kind) for kind in kinds], dtype=torch.float64)
    assert regression(there, sets(kinds)).item() == pytest.approx(0, abs=1e-12)


def test_valence_and_arousal_are_two_numbers() -> None:
    with pytest.raises(UsageError, match="two numbers, not 3"):
        regression(units(6, 3, seed=13), sets(ONE_EACH))


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.4, 2.5])
@pytest.mark.parametrize(
    ("x", "y"), [(ONE_EACH, OTHERS), (OTHERS, ONE_EACH), (SOFT, ONE_EACH), (SOFT, SOFT), (SAME, SAME), (SAME, STRANGERS)]
)
def test_triplets(x: list[set[str]], y: list[set[str]], margin: float) -> None:
    a, b = units(len(x), 3, seed=14), units(len(y), 3, seed=15)
    expected = triplet_oracle(a.tolist(), b.tolist(), overlap_oracle(x, y), margin)
    assert triplet(a @ b.T, overlap(sets(x), sets(y)), margin).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kinds", [ONE_EACH, OTHERS, SOFT, SAME, STRANGERS])
def test_triplets_within_a_kind(kinds: list[set[str]]) -> None:
    a, overlaps = units(len(kinds), 3, seed=14), overlap_oracle(kinds, kinds)
    expected = triplet_oracle(a.tolist(), a.tolist(), overlaps, 0.4, intra=True)
    assert triplet(a @ a.T, overlap(sets(kinds), sets(kinds)), 0.4, intra=True).item() == pytest.approx(expected, abs=1e-6)


def test_many_triplets() -> None:
    """Single precision as in training, more than a batch: the running sums lose nothing that counts."""
    rng = np.random.default_rng(16)
    x, y = ([{str(emotion)} for emotion in rng.choice(EMOTIONS, n)] for n in (20, 150))
    a, b = units(20, 3, seed=17), units(150, 3, seed=18)
    found = triplet((a @ b.T).float(), overlap(sets(x), sets(y)).float(), 0.4)
    assert found.item() == pytest.approx(triplet_oracle(a.tolist(), b.tolist(), overlap_oracle(x, y), 0.4), abs=1e-6)


# --- the table ---------------------------------------------------------------------------------------------------------------------------

RECIPE = Recipe(tau=0.2, margin=0.3, hinges=3.0, softness=0.4, sharpness=1.5)
Oracle = Callable[[list[list[float]], list[list[float]], list[set[str]], list[set[str]]], dict[str, float]]


def eq_4_oracle(positives: Callable[[list[set[str]], list[set[str]]], list[list[float]]]) -> Oracle:
    def oracle(p: list[list[float]], m: list[list[float]], x: list[set[str]], y: list[set[str]]) -> dict[str, float]:
        return {
            "photo->music": 0.25 * contrastive_oracle(p, m, positives(x, y), RECIPE.tau, intra=False),
            "music->photo": 0.25 * contrastive_oracle(m, p, positives(y, x), RECIPE.tau, intra=False),
            "photo->photo": 0.25 * contrastive_oracle(p, p, positives(x, x), RECIPE.tau, intra=True),
            "music->music": 0.25 * contrastive_oracle(m, m, positives(y, y), RECIPE.tau, intra=True),
        }

    return oracle


def regressions_oracle(p: list[list[float]], m: list[list[float]], x: list[set[str]], y: list[set[str]]) -> dict[str, float]:
    return {"photo": regression_oracle(p, x), "music": regression_oracle(m, y)}


def triplets_oracle(p: list[list[float]], m: list[list[float]], x: list[set[str]], y: list[set[str]]) -> dict[str, float]:
    return {
        "photo->music": 0.5 * triplet_oracle(p, m, overlap_oracle(x, y), RECIPE.margin),
        "music->photo": 0.5 * triplet_oracle(m, p, overlap_oracle(y, x), RECIPE.margin),
    }


def similarity_oracle(p: list[list[float]], m: list[list[float]], x: list[set[str]], y: list[set[str]]) -> dict[str, float]:
    errors = [
        (sum(s * t for s, t in zip(one, other, strict=True)) - cosine_oracle(of_one, of_other)) ** 2
        for one, of_one in zip(p, x, strict=True)
        for other, of_other in zip(m, y, strict=True)
    ]
    return {**triplets_oracle(p, m, x, y), "similarity": sum(errors) / len(errors)}


def ours_oracle(p: list[list[float]], m: list[list[float]], x: list[set[str]], y: list[set[str]]) -> dict[str, float]:
    graded = eq_4_oracle(lambda x, y: graded_oracle(x, y, RECIPE.softness, RECIPE.sharpness))(p, m, x, y)
    hinges = {
        "photo->music": triplet_oracle(p, m, overlap_oracle(x, y), RECIPE.margin),
        "music->photo": triplet_oracle(m, p, overlap_oracle(y, x), RECIPE.margin),
        "photo->photo": triplet_oracle(p, p, overlap_oracle(x, x), RECIPE.margin, intra=True),
        "music->music": triplet_oracle(m, m, overlap_oracle(y, y), RECIPE.margin, intra=True),
    }
    return {name: graded[name] + 0.25 * RECIPE.hinges * hinges[name] for name in graded}


ORACLES: dict[str, Oracle] = {
    "supcon": eq_4_oracle(overlap_oracle),
    "va-regression": regressions_oracle,
    "triplet": triplets_oracle,
    "triplet-similarity": similarity_oracle,
    "emoclim": ours_oracle,
}


@pytest.mark.parametrize(
    ("x", "y"), [(ONE_EACH, OTHERS), (OTHERS, SOFT), (SOFT, SOFT), (SAME, STRANGERS), ([{"sad"}], [{"sad"}]), ([{"sad"}], [{"angry"}])]
)
@pytest.mark.parametrize("name", ORACLES)
def test_every_loss_is_that_of_its_double_loop(name: str, x: list[set[str]], y: list[set[str]]) -> None:
    dim = 2 if name == "va-regression" else 5
    photos, music = units(len(x), dim, seed=19), units(len(y), dim, seed=20)
    terms = LOSSES[name](photos, music, sets(x), sets(y), RECIPE)
    expected = ORACLES[name](photos.tolist(), music.tolist(), x, y)
    assert {term: value.item() for term, value in terms.items()} == pytest.approx(expected, abs=1e-6)


def test_every_loss_has_its_double_loop() -> None:
    assert list(ORACLES) == list(LOSSES)


@pytest.mark.parametrize(("x", "y"), [(ONE_EACH, OTHERS), (SOFT, SOFT), (SAME, STRANGERS), (SAME, SAME)])
@pytest.mark.parametrize("name", LOSSES)
def test_every_gradient_is_that_of_the_loss(name: str, x: list[set[str]], y: list[set[str]]) -> None:
    """Also where no anchor has a positive, and where nothing is a negative."""
    photos, music = (units(len(kinds), 2, seed=seed).requires_grad_() for kinds, seed in ((x, 21), (y, 22)))
    assert torch.autograd.gradcheck(
        lambda a, b: torch.stack(list(LOSSES[name](a, b, sets(x), sets(y), RECIPE).values())).sum(), (photos, music)
    )


@pytest.mark.parametrize("kinds", [(SAME, STRANGERS), (SAME, SAME)], ids=["no positive", "no negative"])
def test_a_batch_without_a_triplet_costs_nothing_and_moves_nothing(kinds: tuple[list[set[str]], list[set[str]]]) -> None:
    photos, music = units(2, 4, seed=23).requires_grad_(), units(2, 4, seed=24).requires_grad_()
    loss = sum(LOSSES["triplet"](photos, music, sets(kinds[0]), sets(kinds[1]), RECIPE).values(), torch.zeros(()))
    loss.backward()
    assert loss.item() == 0
    assert photos.grad is not None and music.grad is not None
    assert photos.grad.tolist() == music.grad.tolist() == [[0.0] * 4] * 2


def test_without_softness_and_hinges_ours_is_the_papers_to_the_last_bit() -> None:
    photos, music = units(len(SOFT), 5, seed=25).float(), units(len(ONE_EACH), 5, seed=26).float()
    args = photos, music, sets(SOFT).float(), sets(ONE_EACH).float(), replace(RECIPE, softness=0.0, hinges=0.0)
    ours, papers = LOSSES["emoclim"](*args), LOSSES["supcon"](*args)
    assert {name: term.item() for name, term in ours.items()} == {name: term.item() for name, term in papers.items()}


def test_an_unknown_loss_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="there is no loss 'infonce'") as caught:
        loss_named("infonce")
    assert caught.value.hint == "one of: supcon, va-regression, triplet, triplet-similarity, emoclim"
