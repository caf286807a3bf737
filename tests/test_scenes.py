"""Change points against all ways to cut a short sequence."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli import scenes
from emoclim_cli.projections import unit
from emoclim_cli.scenes import cuts

MINUTE, HOUR = 60.0, 3600.0


def noisy(directions: list[int], counts: list[int], noise: float = 0.6, seed: int = 0) -> np.ndarray:
    """(sum of counts, 8): runs of unit vectors, each around an axis."""
    rng = np.random.default_rng(seed)
    rows = [np.eye(8)[axis] + noise * rng.standard_normal((n, 8)) / math.sqrt(8) for axis, n in zip(directions, counts, strict=True)]
    return unit(np.concatenate(rows))


def cost_of(vectors: np.ndarray, chosen: tuple[int, ...], discounts: np.ndarray) -> float:
    """The sum over scenes of squared distances to the mean, plus the penalties, by definition."""
    n = len(vectors)
    total = sum(scenes.PENALTY * math.log(n) * (1 - scenes.GAP_DISCOUNT * discounts[i]) for i in chosen)
    edges = [0, *chosen, n]
    for first, stop in pairwise(edges):
        scene = vectors[first:stop].astype(np.float64)
        total += sum(float(((row - scene.mean(axis=0)) ** 2).sum()) for row in scene)
    return total


def best_by_force(vectors: np.ndarray, least: int, discounts: np.ndarray) -> float:
    n = len(vectors)
    costs = []
    for count in range(n):
        for chosen in combinations(range(1, n), count):
            edges = [0, *chosen, n]
            if all(stop - first >= least for first, stop in pairwise(edges)) or not chosen:
                costs.append(cost_of(vectors, chosen, discounts))
    return min(costs)


@pytest.mark.parametrize("seed", range(12))
def test_the_cuts_are_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((10, 3)) + 2 * np.repeat(rng.standard_normal((5, 3)), 2, axis=0))
    least = 1 + seed % 3
    none = np.zeros(10)
    assert cost_of(vectors, tuple(cuts(vectors, least=least)), none) == pytest.approx(best_by_force(vectors, least, none), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_they_are_with_gaps_as_well(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((9, 3)))
    gaps = rng.choice([1.0, 5 * MINUTE, 30 * MINUTE, HOUR, 9 * HOUR], 8)
    usual = max(float(np.median(gaps)), 600.0)
    longest = max(6 * HOUR, 10 * usual)
    discounts = np.array([0.0, *(min(max(math.log(gap / usual) / math.log(longest / usual), 0.0), 1.0) for gap in gaps)])
    assert cost_of(vectors, tuple(cuts(vectors, gaps, least=1)), discounts) == pytest.approx(best_by_force(vectors, 1, discounts), abs=1e-9)


def test_runs_of_one_feeling_are_scenes() -> None:
    vectors = noisy([0, 1, 0, 2], [12, 20, 7, 15])
    assert cuts(vectors) == [12, 32, 39]


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_one_scene(seed: int) -> None:
    assert cuts(noisy([3], [200], seed=seed)) == []


def test_a_night_is_a_cut_and_a_pause_is_none() -> None:
    vectors = noisy([0], [30])
    gaps = np.full(29, 2 * MINUTE)
    gaps[19] = 10 * HOUR
    assert cuts(vectors, gaps) == [20]
    gaps[19] = 8 * MINUTE
    assert cuts(vectors, gaps) == []


def test_photos_that_are_all_days_apart_are_not_each_a_scene() -> None:
    rng = np.random.default_rng(0)
    assert len(cuts(noisy([0], [60]), rng.uniform(12, 60, 59) * HOUR)) <= 2


def test_a_moment_of_another_feeling_is_no_scene() -> None:
    vectors = noisy([0, 1, 0], [20, 3, 20])
    assert cuts(vectors) == []
    assert cuts(vectors, least=3) == [20, 23]


@given(st.integers(0, 30), st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_no_scene_is_too_short(n: int, least: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(np.eye(4)[np.sort(rng.integers(0, 4, n))] + 0.1 * rng.standard_normal((n, 4))) if n else np.zeros((0, 4), np.float32)
    found = cuts(vectors, rng.uniform(0, 1e6, max(n - 1, 0)), least=least)
    lengths = np.diff([0, *found, n])
    assert (lengths >= least).all() or not found
    assert (lengths > 0).all() or n == 0
