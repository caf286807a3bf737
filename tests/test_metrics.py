"""Retrieval metrics beside a slow and obvious ranking: every order that tied candidates may come in, and the mean over them."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skew

from emoclim_cli import metrics
from emoclim_cli.metrics import Retrieval, hubness, intervals, macro, retrieve

KS = (1, 2, 5)


def rankings(query: list[float], candidates: list[list[float]]) -> list[list[int]]:
    """Every order that the candidates may come in: those of one score, any way round."""
    by_score: dict[float, list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        by_score[round(sum(p * q for p, q in zip(query, candidate, strict=True)), 6)].append(index)
    tied = [by_score[score] for score in sorted(by_score, reverse=True)]
    return [list(itertools.chain(*orders)) for orders in itertools.product(*(list(itertools.permutations(group)) for group in tied))]


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def check(
    result: Retrieval,
    queries: np.ndarray,
    candidates: np.ndarray,
    query_labels: np.ndarray,
    candidate_labels: np.ndarray,
    query_groups: np.ndarray | None = None,
    candidate_groups: np.ndarray | None = None,
) -> None:
    """Everything that it says, beside the mean over all orders."""
    occurrences = [0.0] * len(candidates)
    names = sorted(set(candidate_labels.tolist()))
    assert result.labels.tolist() == names
    for i, query in enumerate(queries.tolist()):
        left = [
            j for j in range(len(candidates)) if query_groups is None or candidate_groups is None or query_groups[i] != candidate_groups[j]
        ]
        orders = [[left[place] for place in order] for order in rankings(query, [candidates[j].tolist() for j in left])]
        depth = min(max(result.precision), len(left))
        for order in orders:
            for j in order[:depth]:
                occurrences[j] += 1 / len(orders)
        correct = [bool(query_labels[i] == candidate_labels[j]) for j in range(len(candidates))]
        if not any(correct[j] for j in left):
            assert all(math.isnan(values[i]) for values in (*result.precision.values(), result.reciprocal_rank, result.chance))
            assert np.isnan(result.shares[i]).all()
            continue
        for k, values in result.precision.items():
            assert values[i] == pytest.approx(mean(sum(correct[j] for j in order[:k]) / k for order in orders), abs=1e-9)
        first = mean([correct[j] for j in order].index(True) + 1 for order in orders)
        assert result.reciprocal_rank[i] == pytest.approx(1 / first, abs=1e-9)
        assert result.chance[i] == pytest.approx(mean(correct[j] for j in left), abs=1e-9)
        shares = [mean(mean(candidate_labels[j] == name for j in order[:depth]) for order in orders) for name in names]
        assert result.shares[i] == pytest.approx(shares, abs=1e-9)
        assert result.shares[i].sum() == pytest.approx(1)
    assert result.occurrences == pytest.approx(occurrences, abs=1e-9)


def units(n: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_by_hand() -> None:
    """Candidates at 0, 10, 20, ... degrees from the query; those at 10 and 40 are correct."""
    angles = np.radians([0, 10, 20, 30, 40, 50])
    candidates = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array(["sad", "happy", "sad", "angry", "happy", "sad"])
    result = retrieve(np.array([[1, 0]], np.float32), candidates, np.array(["happy"]), labels, ks=(1, 2, 5))
    assert {k: float(values[0]) for k, values in result.precision.items()} == {1: 0, 2: 1 / 2, 5: 2 / 5}
    assert result.reciprocal_rank.tolist() == [1 / 2]
    assert result.chance.tolist() == [2 / 6]
    assert result.labels.tolist() == ["angry", "happy", "sad"]
    assert result.shares.tolist() == [[1 / 5, 2 / 5, 2 / 5]]
    assert result.occurrences.tolist() == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("block", [1, 3, metrics.QUERY_BLOCK])
def test_as_the_oracle_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "QUERY_BLOCK", block)
    rng = np.random.default_rng(0)
    queries, candidates = units(11, 4, seed=1), units(17, 4, seed=2)
    labels = rng.choice(["happy", "sad", "angry"], 11), rng.choice(["happy", "sad"], 17)  # nobody else is angry
    result = retrieve(queries, candidates, *labels, ks=KS)
    assert np.isnan(result.chance).any()
    assert not np.isnan(result.chance).all()
    check(result, queries, candidates, *labels)


@pytest.mark.parametrize("block", [2, metrics.QUERY_BLOCK])
def test_within_a_kind_no_query_finds_its_own_group(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "QUERY_BLOCK", block)
    rng = np.random.default_rng(3)
    vectors, labels = units(13, 4, seed=4), rng.choice(["happy", "sad"], 13)
    groups = np.array([f"song {i // 2}" for i in range(13)])
    result = retrieve(vectors, vectors, labels, labels, ks=KS, query_groups=groups, candidate_groups=groups)
    check(result, vectors, vectors, labels, labels, groups, groups)


def test_the_only_one_of_its_emotion_has_no_answer_within_its_kind() -> None:
    vectors, groups = units(4, 3, seed=5), np.arange(4)
    labels = np.array(["happy", "happy", "happy", "sad"])
    result = retrieve(vectors, vectors, labels, labels, query_groups=groups, candidate_groups=groups)
    assert np.isnan(result.reciprocal_rank).tolist() == [False, False, False, True]
    assert result.chance[:3].tolist() == [2 / 3] * 3


def test_labels_and_groups_that_only_queries_have() -> None:
    """Before, between and behind those of the candidates."""
    queries, candidates = units(5, 3, seed=13), units(6, 3, seed=14)
    labels = np.array(["angry", "happy", "joyful", "sad", "zany"]), np.array(["happy", "sad"] * 3)
    groups = np.array([0, 2, 5, 8, 9]), np.array([2, 2, 4, 4, 8, 8])
    result = retrieve(queries, candidates, *labels, query_groups=groups[0], candidate_groups=groups[1])
    check(result, queries, candidates, *labels, *groups)
    assert np.isnan(result.chance).tolist() == [True, False, True, False, True]


def test_a_query_whose_whole_kind_is_its_own_group_has_no_answer() -> None:
    vectors, labels, groups = units(2, 3, seed=6), np.array(["sad", "sad"]), np.array(["one", "one"])
    result = retrieve(vectors, vectors, labels, labels, query_groups=groups, candidate_groups=groups)
    assert np.isnan(result.precision[1]).all()
    assert np.isnan(result.chance).all()


def test_fewer_candidates_than_k_count_as_wrong_ones() -> None:
    vectors, labels = units(3, 3, seed=7), np.array(["sad", "sad", "sad"])
    assert retrieve(vectors, vectors, labels, labels).precision[5].tolist() == [3 / 5] * 3
    groups = np.arange(3)
    result = retrieve(vectors, vectors, labels, labels, query_groups=groups, candidate_groups=groups)
    assert result.precision[5].tolist() == [2 / 5] * 3


corners = st.sampled_from([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)])
words = st.sampled_from(["happy", "sad"])


@given(
    st.lists(st.tuples(corners, words, st.integers(0, 2)), min_size=1, max_size=6),
    st.lists(st.tuples(corners, words, st.integers(0, 2)), min_size=1, max_size=3),
)
def test_ties_count_as_their_orders_do_on_average(
    many: list[tuple[tuple[float, float], str, int]], few: list[tuple[tuple[float, float], str, int]]
) -> None:
    (candidates, labels, groups), (queries, query_labels, query_groups) = (
        (np.array([row[0] for row in rows], np.float32), np.array([row[1] for row in rows]), np.array([row[2] for row in rows]))
        for rows in (many, few)
    )
    check(retrieve(queries, candidates, query_labels, labels, ks=KS), queries, candidates, query_labels, labels)
    result = retrieve(queries, candidates, query_labels, labels, ks=KS, query_groups=query_groups, candidate_groups=groups)
    check(result, queries, candidates, query_labels, labels, query_groups, groups)


@pytest.mark.parametrize("order", ["sad first", "sad last"])
def test_a_space_in_which_all_is_one_point_is_no_better_than_chance(order: str) -> None:
    """Whatever the order of the candidates: labelled data come sorted by emotion."""
    labels = np.array(["sad"] * 50 + ["happy"] * 150)
    labels = labels if order == "sad first" else labels[::-1]
    point = units(1, 64, seed=8)
    result = retrieve(point.repeat(3, axis=0), point.repeat(200, axis=0), np.array(["sad", "sad", "happy"]), labels)
    for values in (*result.precision.values(), result.chance):
        assert values.tolist() == pytest.approx([1 / 4, 1 / 4, 3 / 4])
    assert result.reciprocal_rank.tolist() == pytest.approx([51 / 201, 51 / 201, 151 / 201])


def test_copies_tie_wherever_they_stand() -> None:
    """The last bits of a dot product differ with the row's place in the matrix."""
    rng = np.random.default_rng(9)
    for dim in (127, 128, 130):
        point, queries = units(1, dim, seed=dim), units(7, dim, seed=10)
        labels = rng.choice(["happy", "sad"], 37)
        result = retrieve(queries, point.repeat(37, axis=0), np.array(["sad"] * 7), labels)
        assert result.precision[1].tolist() == pytest.approx([(labels == "sad").mean()] * 7)


def test_nothing_given_is_changed() -> None:
    arrays = units(5, 3, seed=11), units(6, 3, seed=12), np.array(["a"] * 5), np.array(["a", "b"] * 3)
    before = [array.copy() for array in arrays]
    retrieve(*arrays, query_groups=np.arange(5), candidate_groups=np.arange(6))
    assert all((one == other).all() for one, other in zip(arrays, before, strict=True))


def test_macro_weighs_every_label_the_same() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0, np.nan, 0.5, np.nan])
    labels = np.array(["happy", "happy", "happy", "sad", "sad", "angry", "scary"])
    mean, per_label = macro(values, labels)
    sums: dict[str, list[float]] = defaultdict(list)
    for value, label in zip(values.tolist(), labels.tolist(), strict=True):
        if not math.isnan(value):
            sums[label].append(value)
    expected = {label: sum(numbers) / len(numbers) for label, numbers in sums.items()}
    assert per_label == expected == {"happy": 1.0, "sad": 0.0, "angry": 0.5}
    assert mean == sum(expected.values()) / 3 == 0.5


def test_macro_of_nothing_is_not_a_number() -> None:
    for values in (np.full(2, np.nan), np.zeros(0)):
        mean, per_label = macro(values, np.array(["happy", "sad"])[: len(values)])
        assert math.isnan(mean)
        assert per_label == {}


# --- intervals ---------------------------------------------------------------------------------------------------------------------------


def slow_intervals(values: np.ndarray, labels: list[str], groups: list[str], seed: int) -> list[list[float]]:
    """The same draws, one resample after the other, one query after the other."""
    rng = np.random.default_rng(seed)
    known = [i for i in range(len(labels)) if not np.isnan(values[i]).any()]
    names = sorted({labels[i] for i in known})
    means = [[[0.0] * len(names) for _ in range(metrics.RESAMPLES)] for _ in values[0]]
    for n, name in enumerate(names):
        members: dict[str, list[int]] = defaultdict(list)
        for i in known:
            if labels[i] == name:
                members[groups[i]].append(i)
        songs = [members[group] for group in sorted(members)]
        for start in range(0, metrics.RESAMPLES, metrics.RESAMPLE_BLOCK):
            for r, draw in enumerate(rng.integers(0, len(songs), (metrics.RESAMPLE_BLOCK, len(songs)))):
                clips = [i for song in draw for i in songs[song]]
                for v, of_metric in enumerate(means):
                    of_metric[start + r][n] = mean(values[i, v] for i in clips)
    macros = [sorted(mean(row) for row in of_metric) for of_metric in means]
    last = metrics.RESAMPLES - 1

    def percentile(ordered: list[float], percent: float) -> float:
        low, rest = divmod(percent / 100 * last, 1)
        return ordered[int(low)] + rest * (ordered[min(int(low) + 1, last)] - ordered[int(low)])

    return [[percentile(ordered, percent) for percent in (2.5, 97.5)] for ordered in macros]


def test_intervals_as_a_slow_loop_with_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 60)
    monkeypatch.setattr(metrics, "RESAMPLE_BLOCK", 20)
    rng = np.random.default_rng(20)
    values = rng.random((40, 2))
    values[[3, 11, 30]] = np.nan
    labels = rng.choice(["happy", "sad", "angry"], 40)
    labels[:2], values[:2] = "scary", np.nan  # of which nothing is known
    groups = np.array([f"song {i}" for i in rng.integers(0, 12, 40)])
    for seed in (0, 1):
        found = intervals(values, labels, groups, seed=seed)
        assert found == pytest.approx(np.array(slow_intervals(values, labels.tolist(), groups.tolist(), seed)), abs=1e-9)
    assert (intervals(values, labels, groups) == intervals(values, labels, groups)).all()
    assert (intervals(values, labels, groups, seed=1) != intervals(values, labels, groups)).any()


def test_an_interval_is_about_as_wide_as_theory_says() -> None:
    """Of the mean of n values that are each their own group, 2 * 1.96 standard errors; of clips in songs, that of the songs."""
    rng = np.random.default_rng(21)
    of_songs = rng.random(400)
    labels = np.array(["happy"] * 200 + ["sad"] * 200)
    standard_error = math.sqrt(sum(of_songs[labels == name].var() / 200 for name in ("happy", "sad"))) / 2
    alone = intervals(of_songs[:, None], labels, np.arange(400))[0]
    assert alone[1] - alone[0] == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert alone.mean() == pytest.approx(macro(of_songs, labels)[0], abs=0.005)
    clips = intervals(of_songs.repeat(9)[:, None], labels.repeat(9), np.arange(400).repeat(9))[0]
    assert clips == pytest.approx(alone)
    mistaken = intervals(of_songs.repeat(9)[:, None], labels.repeat(9), np.arange(3600))[0]
    assert mistaken[1] - mistaken[0] < (alone[1] - alone[0]) / 2.5


def test_one_group_of_a_label_tells_nothing_of_others() -> None:
    values, labels = np.array([[0.0, 1.0], [1.0, 1.0], [0.25, 0.0]]), np.array(["sad", "sad", "happy"])
    assert np.isnan(intervals(values, labels, np.array(["a", "a", "b"]))).all()
    assert np.isnan(intervals(values, labels, np.array(["a", "c", "b"]))).all()
    assert not np.isnan(intervals(values[:2], labels[:2], np.array(["a", "c"]))).any()


def test_an_interval_of_nothing_is_not_a_number() -> None:
    for n in (0, 2):
        assert np.isnan(intervals(np.full((n, 3), np.nan), np.array(["sad"] * n), np.arange(n))).all()


# --- hubness -----------------------------------------------------------------------------------------------------------------------------


def test_hubness_is_the_skewness_of_the_occurrences() -> None:
    occurrences = np.random.default_rng(22).poisson(5, 50) ** 2.0
    mu = mean(occurrences.tolist())
    sigma = math.sqrt(mean((x - mu) ** 2 for x in occurrences.tolist()))
    assert hubness(occurrences) == pytest.approx(mean(((x - mu) / sigma) ** 3 for x in occurrences.tolist()))
    assert hubness(occurrences) == pytest.approx(skew(occurrences))
    assert hubness(np.array([0.0, 0, 0, 0, 9])) > 1  # a hub
    assert hubness(-occurrences) == pytest.approx(-hubness(occurrences))


def test_where_all_are_found_equally_often_hubness_has_no_value() -> None:
    assert math.isnan(hubness(np.full(7, 5 / 7)))
    point, labels = units(1, 64, seed=23).repeat(9, axis=0), np.array(["sad"] * 9)
    assert math.isnan(hubness(retrieve(point, point, labels, labels).occurrences))


def test_near_the_mean_of_many_dimensions_there_are_hubs() -> None:
    """Radovanovic et al. 2010, section 3."""
    scattered = units(300, 100, seed=24)
    around_a_mean = scattered + units(1, 100, seed=25)
    around_a_mean /= np.linalg.norm(around_a_mean, axis=1, keepdims=True)
    groups, labels = np.arange(300), np.array(["sad"] * 300)
    on_a_ball, near_a_mean = (
        hubness(retrieve(vectors, vectors, labels, labels, query_groups=groups, candidate_groups=groups).occurrences)
        for vectors in (units(300, 3, seed=26), around_a_mean)
    )
    assert near_a_mean > on_a_ball + 1


# --- what it costs -----------------------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_queries_times_candidates() -> None:
    vectors, groups = units(4000, 8, seed=27), np.arange(4000) // 3
    labels = np.random.default_rng(28).choice(["happy", "sad"], 4000)
    tracemalloc.start()
    retrieve(vectors, vectors, labels, labels, query_groups=groups, candidate_groups=groups)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 4000 * 4 / 3
