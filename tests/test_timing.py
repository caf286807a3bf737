"""Parts of tracks, and photos on onsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoclim_cli.timing import LEAST_PIECE_S, SHARE, Piece, landed, pieces, slack

NONE = np.zeros(0)


def test_a_part_begins_and_ends_at_calm_places() -> None:
    breaks, calm = np.array([0.0, 31.0, 60.5, 93.0, 120.0]), np.array([0.2, 0.9, 0.1, 0.9, 0.2])
    [piece] = pieces(breaks, calm, NONE, 61.0, 1.5)
    assert (piece.offset_s, piece.length_s) == (31.0, 62.0)


def test_the_length_is_exact_where_it_must_be() -> None:
    breaks, calm = np.array([0.0, 31.0, 93.0, 120.0]), np.array([0.2, 0.9, 0.9, 0.2])
    [piece] = pieces(breaks, calm, NONE, 61.0, 0.0)
    assert (piece.offset_s, piece.length_s) == (31.0, 61.0)


def test_a_part_never_begins_so_late_that_the_track_ends_first() -> None:
    [piece] = pieces(np.array([1.0, 50.0, 100.0]), np.array([0.1, 1.0, 0.1]), NONE, 90.0, 1.0)
    assert piece.offset_s == 1.0


def test_a_part_with_music_in_it_is_preferred() -> None:
    breaks, calm = np.array([0.0, 50.0, 100.0]), np.array([1.0, 0.9, 1.0])
    assert pieces(breaks, calm, NONE, 40.0, 1.0)[0].offset_s == 0.0
    assert pieces(breaks, calm, np.arange(50.0, 90.0), 40.0, 1.0)[0].offset_s == 50.0


def test_what_has_been_heard_is_not_played_again() -> None:
    breaks, calm = np.arange(0.0, 121.0, 20.0), np.array([1.0, 0.2, 0.2, 0.2, 0.2, 0.2, 1.0])
    heard: list[Piece] = []
    for _ in range(3):
        heard += pieces(breaks, calm, np.arange(0.0, 30.0), 40.0, 1.0, heard)
    assert sorted(piece.offset_s for piece in heard) == [0.0, 40.0, 80.0]


def test_a_track_that_is_too_short_is_played_over_again() -> None:
    found = pieces(np.array([0.5, 10.5]), np.ones(2), NONE, 35.0, 1.0)
    assert [piece.offset_s for piece in found] == [0.5] * 4
    assert sum(piece.length_s for piece in found) == pytest.approx(35.0)


@given(
    st.lists(st.floats(0, 300), min_size=2, max_size=30, unique=True).map(sorted),
    st.floats(1, 400),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.integers(0, 9),
)
def test_parts_fit_their_track_and_their_slot(places: list[float], length_s: float, slack_s: float, seed: int) -> None:
    breaks = np.array(places)
    if breaks[-1] - breaks[0] < LEAST_PIECE_S:
        breaks = breaks[[0, -1]] + [0, LEAST_PIECE_S]
    found = pieces(breaks, np.random.default_rng(seed).uniform(0, 1, len(breaks)), breaks[::2], length_s, slack_s)
    assert abs(sum(piece.length_s for piece in found) - length_s) <= slack_s + 1e-6
    for piece in found:
        assert piece.length_s > 0
        assert breaks[0] - 1e-9 <= piece.offset_s and piece.offset_s + piece.length_s <= breaks[-1] + 1e-6


def test_photos_land_on_strong_onsets_and_beats() -> None:
    onsets = np.array([3.5, 4.1, 8.3, 11.9])
    strengths = np.array([0.9, 0.2, 0.5, 0.3])
    assert landed([4.0, 8.0, 12.0, 16.0], onsets, strengths, np.zeros(0), 1.0) == [3.5, 8.3, 11.9, 16.0]
    # A beat outweighs a little strength, and so does nearness.
    assert landed([4.0], onsets, np.array([0.4, 0.3, 0, 0]), np.array([0.1, 4.12]), 1.0) == [4.1]
    assert landed([4.0], onsets, np.array([0.4, 0.3, 0, 0]), np.zeros(0), 1.0) == [4.1]
    assert landed([4.0], np.zeros(0), np.zeros(0), np.zeros(0), 1.0) == [4.0]


@given(st.floats(0.5, 20), st.integers(1, 40), st.lists(st.floats(0, 800), max_size=200), st.integers(0, 99))
def test_no_photo_is_shown_for_too_short_a_time(photo_s: float, n: int, onsets: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = landed(
        [i * photo_s for i in range(1, n)],
        np.sort(np.array(onsets)),
        rng.uniform(0, 1, len(onsets)),
        np.arange(0, 800, 0.5),
        slack(photo_s),
    )
    lengths = np.diff([0.0, *times, n * photo_s])
    assert (lengths >= (1 - 2 * SHARE) * photo_s - 1e-9).all()
