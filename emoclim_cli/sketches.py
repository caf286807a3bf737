"""The nearest of a million vectors, exactly, by looking closely at a few thousand of them.

A sketch keeps of each vector x its coordinates z on the few axes along which the vectors differ most (their principal components), and the
length r of what those leave out. For a query q with the coordinates y and the rest s, the inequality of Cauchy and Schwarz gives
q.x <= y.z + s r: one product with a short row bounds every cosine from above. Rows whose bound is below the k-th best cosine found so far
cannot be among the k best; the others are compared in full. So the result is that of exact search, at a fraction of the memory traffic.
(Partial distances with principal components: e.g. Cheng, Gersho, Ramamurthi and Shoham, ICASSP 1984.)
Shape letters: n rows, m candidates, e emotion dim, a axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AXES = 15
"""With the rest, 64 bytes a row. Of real emotion vectors these leave out less than a tenth of the variance."""
SAMPLE_ROWS = 1 << 16
"""The axes are those of evenly spread rows: they only decide how tight the bounds are."""
BLOCK_ROWS = 1 << 14
PRODUCT_NUMBERS = 8192
"""Of a matrix at once: below 9,216 OpenBLAS stays on one thread."""
PILOT_STRIDE, PILOT_ROWS = 32, 8
"""The k-th best cosine is first looked for among the rows with the highest bounds, and those are told by a part of the rows."""
SLACK = 1e-5
"""Bounds and cosines are float32, and cosines are rounded to 6 decimals: rows as near as this to the last place count."""


@dataclass(frozen=True)
class Sketch:
    axes: np.ndarray
    """(e, a) float32, orthonormal columns."""
    rows: np.ndarray
    """(n, a + 1) float32: coordinates, and the length of the rest."""

    @classmethod
    def of(cls, vectors: np.ndarray) -> Sketch:
        """Of vectors (n, e). The same vectors give the same sketch."""
        n = len(vectors)
        sample = vectors[:: max(1, n // SAMPLE_ROWS)].astype(np.float64)
        _, components = np.linalg.eigh(sample.T @ sample)  # about zero, not the mean: it is a cosine that is bounded
        axes = np.ascontiguousarray(components[:, ::-1][:, :AXES], np.float32)
        rows = np.empty((n, axes.shape[1] + 1), np.float32)
        for start in range(0, n, BLOCK_ROWS):
            rows[start : start + BLOCK_ROWS] = _sketched(vectors[start : start + BLOCK_ROWS], axes)
        return cls(axes, rows)

    def bounds(self, query: np.ndarray) -> np.ndarray:
        """(e,) -> (n,): no row's product with the query is greater."""
        return products(self.rows, _sketched(query[None], self.axes)[0])

    def candidates(self, vectors: np.ndarray, query: np.ndarray, k: int, eligible: np.ndarray | None = None) -> np.ndarray:
        """(m,) rows in order, among them every one of the k >= 1 nearest to `query` (e,), and those that tie with the last of them.

        Only `eligible` (n,) rows, where that is given; all of them where they are fewer than k.
        """
        bounds = self.bounds(query)
        if eligible is not None:
            bounds[~eligible] = -np.inf
        pilot = _highest(bounds, k)
        if len(pilot) < k:
            return np.flatnonzero(bounds > -np.inf)
        cosines = products(vectors[pilot], query)
        floor = np.partition(cosines, len(pilot) - k)[len(pilot) - k] - SLACK
        return np.flatnonzero(bounds >= floor)


def products(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(n, e) and (e,) -> (n,), on one core.

    It is memory that limits such a product, so a second thread gains little; and to wait for one takes ten times as long as the product
    itself where other programs keep the cores busy.
    """
    n, width = matrix.shape
    rows = max(1, PRODUCT_NUMBERS // max(1, width))
    whole = n - n % rows
    blocks = matrix[:whole].reshape(n // rows, rows, width) @ vector
    return np.concatenate([blocks.ravel(), matrix[whole:] @ vector])


def _sketched(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(m, e) -> (m, a + 1)."""
    coordinates = vectors @ axes
    # Not by Pythagoras: the difference of squares would lose the small rests to rounding, and a bound must hold.
    rest = np.linalg.norm(vectors - coordinates @ axes.T, axis=1)
    return np.column_stack([coordinates, rest]).astype(np.float32, copy=False)


def _highest(bounds: np.ndarray, k: int) -> np.ndarray:
    """Rows with the highest bounds, k of them or some more; fewer only where no more are finite."""
    part = bounds[::PILOT_STRIDE]
    place = max(PILOT_ROWS, 4 * k // PILOT_STRIDE)
    if place < len(part):
        least = np.partition(part, len(part) - place)[len(part) - place]
        rows = np.flatnonzero(bounds >= max(least, np.finfo(np.float32).min))
        if len(rows) >= k:
            return rows
    if k < len(bounds):
        least = np.partition(bounds, len(bounds) - k)[len(bounds) - k]
        return np.flatnonzero(bounds >= max(least, np.finfo(np.float32).min))
    return np.flatnonzero(bounds > -np.inf)
