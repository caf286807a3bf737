"""Each loss beside a slow and obvious one: plain Python numbers in a double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from emoclim_cli.emotions import EMOTIONS, QUADRANTS
from emoclim_cli.losses import DEFAULT_TAU, contrastive, overlap, total


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


@pytest.mark.parametrize("tau", [DEFAULT_TAU, 0.5, 1.0])
@pytest.mark.parametrize(("x", "y"), [(ONE_EACH, OTHERS), (OTHERS, ONE_EACH), (SOFT, ONE_EACH), (OTHERS, SOFT)])
def test_across_kinds(x: list[set[str]], y: list[set[str]], tau: float) -> None:
    a, b = units(len(x), 5, seed=1), units(len(y), 5, seed=2)
    expected = contrastive_oracle(a.tolist(), b.tolist(), overlap_oracle(x, y), tau, intra=False)
    assert contrastive(a, b, overlap(sets(x), sets(y)), tau).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tau", [DEFAULT_TAU, 0.5])
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
