"""Retrieval metrics beside a slow and obvious ranking: every order that tied candidates may come in, and the mean over them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli import metrics
from emoclim_cli.metrics import Retrieval, macro, retrieve

KS = (1, 2, 5)


def oracle(query: list[float], candidates: list[list[float]], correct: list[bool], k: int) -> tuple[float, float, float]:
    """P@k, the rank of the first correct one, both expected over all orders of the tied, and chance."""
    scores = [round(sum(p * q for p, q in zip(query, candidate, strict=True)), 6) for candidate in candidates]
    by_score: dict[float, list[bool]] = defaultdict(list)
    for score, is_correct in zip(scores, correct, strict=True):
        by_score[score].append(is_correct)
    tied = [by_score[score] for score in sorted(by_score, reverse=True)]
    rankings = [list(itertools.chain(*orders)) for orders in itertools.product(*(list(itertools.permutations(group)) for group in tied))]
    precision = [sum(ranking[:k]) / k for ranking in rankings]
    first = [ranking.index(True) + 1 for ranking in rankings]
    return sum(precision) / len(rankings), sum(first) / len(rankings), sum(correct) / len(correct)


def check(
    result: Retrieval,
    queries: np.ndarray,
    candidates: np.ndarray,
    query_labels: np.ndarray,
    candidate_labels: np.ndarray,
    query_groups: np.ndarray | None = None,
    candidate_groups: np.ndarray | None = None,
) -> None:
    for i, query in enumerate(queries.tolist()):
        left = [
            j for j in range(len(candidates)) if query_groups is None or candidate_groups is None or query_groups[i] != candidate_groups[j]
        ]
        correct = [bool(query_labels[i] == candidate_labels[j]) for j in left]
        if not any(correct):
            assert all(math.isnan(values[i]) for values in (*result.precision.values(), result.reciprocal_rank, result.chance))
            continue
        for k, values in result.precision.items():
            precision, rank, chance = oracle(query, [candidates[j].tolist() for j in left], correct, k)
            assert values[i] == pytest.approx(precision, abs=1e-9)
        assert result.reciprocal_rank[i] == pytest.approx(1 / rank, abs=1e-9)
        assert result.chance[i] == pytest.approx(chance, abs=1e-9)


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
