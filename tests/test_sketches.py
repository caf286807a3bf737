"""Bounds that hold, and candidates that hold every nearest row; the oracle compares all rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoclim_cli import sketches
from emoclim_cli.projections import unit
from emoclim_cli.sketches import AXES, SLACK, Sketch, products


def clustered(n: int, width: int, seed: int, spread: float) -> np.ndarray:
    """(n, width) unit rows around a few directions, as emotion vectors lie."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((7, width))
    return unit((centres[rng.integers(0, 7, n)] + spread * rng.standard_normal((n, width))).astype(np.float32))


def nearest(vectors: np.ndarray, query: np.ndarray, k: int, eligible: np.ndarray) -> set[int]:
    """The rows whose cosine, in float64, is not below the k-th best, row by row."""
    cosines = {row: sum(float(a) * float(b) for a, b in zip(vectors[row], query, strict=True)) for row in np.flatnonzero(eligible).tolist()}
    if not cosines:
        return set()
    least = sorted(cosines.values(), reverse=True)[min(k, len(cosines)) - 1]
    return {row for row, cosine in cosines.items() if cosine >= least}


shapes = st.tuples(
    st.integers(1, 400), st.sampled_from([2, 5, AXES, AXES + 1, 40]), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 1.0, 5.0])
)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 50), st.sampled_from([1.0, 0.5, 0.05, 0.0]), st.booleans())
def test_every_nearest_row_is_a_candidate(shape: tuple[int, int, int, float], k: int, share: float, foreign: bool) -> None:
    n, width, seed, spread = shape
    vectors = clustered(n, width, seed, spread)
    rng = np.random.default_rng(seed)
    query = unit(rng.standard_normal(width).astype(np.float32)) if foreign else vectors[rng.integers(n)]
    eligible = rng.random(n) < share
    sketch = Sketch.of(vectors)
    found = sketch.candidates(vectors, query, k, eligible)
    assert eligible[found].all()
    assert (np.diff(found) > 0).all()
    assert nearest(vectors, query, k, eligible) <= set(found.tolist())
    everyone = np.ones(n, bool)
    assert nearest(vectors, query, k, everyone) <= set(sketch.candidates(vectors, query, k).tolist())


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_no_cosine_is_above_its_bound(shape: tuple[int, int, int, float]) -> None:
    n, width, seed, spread = shape
    vectors = clustered(n, width, seed, spread)
    queries = np.concatenate([vectors[:20], clustered(20, width, seed + 1, 1.0)])
    sketch = Sketch.of(vectors)
    for query in queries:
        assert (sketch.bounds(query) + SLACK / 2 >= vectors.astype(np.float64) @ query.astype(np.float64)).all()


def test_bounds_are_tight_where_the_axes_hold_everything() -> None:
    """Rows of few dimensions: what the axes leave out is rounding, and a bound that lost it would cut off copies of the best row."""
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.standard_normal((64, 64)))
    vectors = unit((rng.standard_normal((2000, AXES)) @ turned[:AXES]).astype(np.float32))
    sketch = Sketch.of(vectors)
    for query in vectors[:20]:
        np.testing.assert_allclose(sketch.bounds(query), vectors @ query, atol=SLACK)


def test_ties_for_the_last_place_are_all_candidates() -> None:
    vectors = np.repeat(clustered(40, 32, 0, 1.0), 30, axis=0)[np.random.default_rng(0).permutation(1200)]
    sketch = Sketch.of(vectors)
    for query in vectors[:10]:
        same = set(np.flatnonzero((vectors == query).all(axis=1)).tolist())
        for k in (1, 7, 29, 30):
            assert same <= set(sketch.candidates(vectors, query, k).tolist())


def test_rows_without_a_vector() -> None:
    vectors = clustered(500, 24, 0, 1.0)
    vectors[::2] = 0
    found = Sketch.of(vectors).candidates(vectors, vectors[1], 5)
    assert nearest(vectors, vectors[1], 5, np.ones(500, bool)) <= set(found.tolist())


def test_few_rows_are_compared_and_the_same_vectors_give_the_same_sketch() -> None:
    vectors = clustered(20_000, 128, 3, 0.3)
    sketch, again = Sketch.of(vectors), Sketch.of(vectors)
    np.testing.assert_array_equal(sketch.axes, again.axes)
    np.testing.assert_array_equal(sketch.rows, again.rows)
    np.testing.assert_allclose(sketch.axes.T @ sketch.axes, np.eye(AXES), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(sketch.rows, axis=1), 1, atol=1e-5)
    for query in vectors[:5]:
        candidates = sketch.candidates(vectors, query, 50)
        assert len(candidates) >= 50
        assert set(np.argsort(-(vectors @ query))[:50].tolist()) <= set(candidates.tolist())


@pytest.mark.parametrize("k", [1, 50, 3000, 10_000])
def test_only_a_part_of_real_looking_rows_is_compared(k: int) -> None:
    rng = np.random.default_rng(0)
    scale = np.geomspace(1, 0.01, 64)  # as the principal components of real emotion vectors fall off
    vectors = unit((rng.standard_normal((60_000, 64)) * scale).astype(np.float32))
    found = Sketch.of(vectors).candidates(vectors, vectors[7], k)
    assert k <= len(found) <= 0.05 * len(vectors) + 5 * k


def test_the_sample_of_rows_is_what_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(3000, 32, 1, 1.0)
    monkeypatch.setattr(sketches, "SAMPLE_ROWS", 100)
    sketch = Sketch.of(vectors)
    monkeypatch.setattr(sketches, "SAMPLE_ROWS", 1 << 16)
    np.testing.assert_array_equal(sketch.axes, Sketch.of(vectors[::30]).axes)
    query = vectors[5]
    assert nearest(vectors, query, 20, np.ones(3000, bool)) <= set(sketch.candidates(vectors, query, 20).tolist())


@pytest.mark.parametrize(("n", "width"), [(0, 4), (1, 1), (511, 16), (512, 16), (513, 16), (5000, 128), (3, 9000), (0, 0), (4, 0)])
def test_products_are_those_of_each_row(n: int, width: int) -> None:
    rng = np.random.default_rng(0)
    matrix, vector = rng.standard_normal((n, width)).astype(np.float32), rng.standard_normal(width).astype(np.float32)
    found = products(matrix, vector)
    assert (found.dtype, found.shape) == (np.float32, (n,))
    np.testing.assert_allclose(found, [sum(float(a) * float(b) for a, b in zip(row, vector, strict=True)) for row in matrix], atol=1e-4)
