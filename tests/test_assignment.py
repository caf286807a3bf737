"""The choice of tracks against all choices there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest

from emoclim_cli import assignment
from emoclim_cli.assignment import Rules, assign, pools


def worth(match: np.ndarray, change: np.ndarray, artists: Sequence[str], rules: Rules, chosen: Sequence[int]) -> float:
    """By definition."""
    total = sum(match[slot, track] for slot, track in enumerate(chosen))
    total -= sum(change[a, b] for a, b in pairwise(chosen))
    total -= sum(rules.repeat * count * (count - 1) / 2 for count in Counter(chosen).values())
    if rules.per_artist is not None:
        by_artist = Counter(artists[track].casefold() for track in chosen if artists[track])
        total -= sum(rules.crowding * step for count in by_artist.values() for step in range(1, count - rules.per_artist + 1))
    return float(total)


def problem(m: int, t: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    # Slots alike, so that they want the same tracks.
    match = rng.uniform(-1, 1, (1, t)) + 0.1 * rng.standard_normal((m, t))
    return match, rng.uniform(0, 0.4, (t, t)), [("", "Ann", "ann", "Bo")[i] for i in rng.integers(0, 4, t)]


@pytest.mark.parametrize(("m", "t"), [(1, 1), (1, 5), (2, 5), (3, 6), (4, 5), (5, 3), (4, 1), (3, 2)])
@pytest.mark.parametrize("per_artist", [None, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_the_best_of_all(m: int, t: int, per_artist: int | None, seed: int) -> None:
    match, change, artists = problem(m, t, seed)
    rules = Rules(per_artist)
    chosen = assign(match, pools(match), change, artists, rules)
    best = max(worth(match, change, artists, rules, every) for every in product(range(t), repeat=m))
    assert worth(match, change, artists, rules, chosen) == pytest.approx(best, abs=1e-6)


def test_the_best_within_pools_that_leave_some_out() -> None:
    match, change, artists = problem(4, 8, 5)
    pooled = [np.array(pool) for pool in ([0, 1, 2], [2, 3, 4], [2, 5], [0, 6, 7])]
    chosen = assign(match, pooled, change, artists, Rules(1))
    best = max(worth(match, change, artists, Rules(1), every) for every in product(*(pool.tolist() for pool in pooled)))
    assert worth(match, change, artists, Rules(1), chosen) == pytest.approx(best, abs=1e-6)


def test_no_track_twice_where_there_are_enough() -> None:
    match, change, artists = problem(30, 30, 0)
    assert sorted(assign(match, pools(match), change, artists, Rules())) == list(range(30))


def test_too_few_tracks_are_shared_out_evenly() -> None:
    match, change, artists = problem(7, 3, 0)
    counts = Counter(assign(match, pools(match), change, artists, Rules()))
    assert sorted(counts.values()) == [2, 2, 3]


def test_neighbours_go_well_together() -> None:
    match = np.zeros((3, 4))
    change = np.ones((4, 4))
    change[2, 0] = change[0, 3] = 0.0
    assert assign(match, pools(match), change, [""] * 4, Rules()) == [2, 0, 3]


def test_stretches_of_a_long_show_know_what_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    match, change, _ = problem(9, 12, 1)
    monkeypatch.setattr(assignment, "SLOTS_AT_ONCE", 4)
    chosen = assign(match, pools(match), change, ["Ann", "ann", "Bo", "Cy"] * 3, Rules(4))
    assert len(set(chosen)) == 9
    assert max(Counter("aabc"[track % 4] for track in chosen).values()) <= 4


def test_a_long_show_with_a_middling_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its later stretches choose from what is left: from pools as small as those of the first, or they would take minutes."""
    rng = np.random.default_rng(0)
    match = rng.uniform(-1, 1, (1, 138)) + 0.05 * rng.standard_normal((80, 138))
    largest: list[int] = []
    stretch = assignment._stretch
    monkeypatch.setattr(assignment, "_stretch", lambda m, pooled, *rest: largest.append(max(map(len, pooled))) or stretch(m, pooled, *rest))
    chosen = assign(match, pools(match), rng.uniform(0, 0.2, (138, 138)), [""] * 138, Rules())
    assert len(set(chosen)) == 80
    assert len(largest) == 2
    assert max(largest) <= assignment.BEST + assignment.ROUNDS


def test_pools_hold_the_best_and_enough_for_all() -> None:
    rng = np.random.default_rng(0)
    match = rng.uniform(-1, 1, (1, 300)) + 0.01 * rng.standard_normal((20, 300))
    pooled = pools(match)
    for slot, pool in enumerate(pooled):
        assert set(np.argsort(-match[slot])[: assignment.BEST].tolist()) <= set(pool.tolist())
        assert len(set(pool.tolist())) == len(pool)
    assert len(np.unique(np.concatenate(pooled))) >= 20 * assignment.ROUNDS
