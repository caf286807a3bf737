"""Which track for which slot of a show: one optimisation over the whole sequence, a mixed-integer programme that HiGHS solves.

Shape letters: m slots, t tracks, u pooled tracks, k pooled tracks of one slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

BEST, ROUNDS = 6, 8
"""How many tracks are thought of for each slot: beyond them the match is so much worse that no smooth change makes up for it."""
SLOTS_AT_ONCE = 40
"""A longer show is solved in stretches of so many slots, each with what the ones before have used taken into account."""
NODE_LIMIT = 100
"""Of the search tree: one node is nearly always enough; where hundreds would be needed the best choice so far is a few thousandths away."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What breaking a rule costs, in units of the match. Far more than a match can bring: a rule is broken where there is no other way."""

    per_artist: int | None = None
    """Slots that may go to one artist."""
    repeat: float = 50.0
    """For the second slot of a track; twice that for its third, and so on, so that too few tracks are shared out evenly."""
    crowding: float = 10.0
    """For the first slot of an artist beyond `per_artist`; twice that for the next, and so on."""


def pools(match: np.ndarray) -> list[np.ndarray]:
    """For each slot the tracks that are thought of: its best, and those of ROUNDS assignments, each of tracks that none before had.

    `match` (m, t): what each track is worth in each slot. Where there are enough tracks there is a choice in which none comes twice, and
    slots that feel alike do not all think of the same few.
    """
    from scipy.optimize import linear_sum_assignment

    t = match.shape[1]
    best = min(BEST, t)
    chosen = [set(np.argpartition(-row, best - 1)[:best].tolist()) for row in match]
    free = np.arange(t)
    for _ in range(ROUNDS):
        slots, columns = linear_sum_assignment(match[:, free], maximize=True)
        for slot, track in zip(slots.tolist(), free[columns].tolist(), strict=True):
            chosen[slot].add(track)
        free = np.delete(free, columns)
        if not len(free):
            break
    return [np.array(sorted(tracks), np.int64) for tracks in chosen]


def assign(match: np.ndarray, pooled: Sequence[np.ndarray], change: np.ndarray, artists: Sequence[str], rules: Rules) -> list[int]:
    """The track of each slot: the most of the sum of matches, less the changes between neighbours, less what broken rules cost.

    `match` (m, t) of all tracks or of those that `pooled` (indices into them, for each slot) leaves; `change` (t, t): what it costs that
    the one is followed by the other; `artists` (t,): those without a name count for nobody. The best there is within the pools, for a show
    of up to SLOTS_AT_ONCE slots that is solved within NODE_LIMIT.
    """
    chosen: list[int] = []
    for start in range(0, len(pooled), SLOTS_AT_ONCE):
        stop = min(start + SLOTS_AT_ONCE, len(pooled))
        free = _left(pooled[start:stop], match[start:stop], chosen)
        chosen += _stretch(match[start:stop], free, change, artists, rules, chosen)
    return chosen


def _left(pooled: Sequence[np.ndarray], match: np.ndarray, before: Sequence[int]) -> Sequence[np.ndarray]:
    """The pools of a stretch; after another one new pools of what that has left, where it is enough. `match` (m, t) of the stretch."""
    unused = np.setdiff1d(np.arange(match.shape[1]), before)
    if not before or len(unused) < len(pooled):
        return pooled
    return [unused[pool] for pool in pools(match[:, unused])]


def _stretch(
    match: np.ndarray, pooled: Sequence[np.ndarray], change: np.ndarray, artists: Sequence[str], rules: Rules, before: Sequence[int]
) -> list[int]:
    """Variables: x[j, i], slot j has the i-th track of its pool; y[j, i, l], slot j has that and the next one the l-th of its own; and for
    each track and each artist how far it is beyond what the rules allow. Only x must be whole: the others follow.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    first_x = np.cumsum([0, *(len(pool) for pool in pooled)])
    edges = [len(a) * len(b) for a, b in pairwise(pooled)]
    first_y = first_x[-1] + np.cumsum([0, *edges])
    tracks, owner = np.unique(np.concatenate(pooled), return_inverse=True)  # of each x
    limits = _limits(tracks, owner, artists, rules, before)
    steps = [len(limit.xs) - limit.allowed for limit in limits]  # how far beyond each one could go
    first_excess = int(first_y[-1]) + np.cumsum([0, *steps])
    cost = np.zeros(first_excess[-1])
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # rows, columns, values
    low: list[float] = []
    high: list[float] = []

    def require(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, least: float, most: float) -> None:
        """Adds a block of constraints; `rows` count from 0."""
        entries.append((rows + len(low), columns, values))
        count = int(rows.max()) + 1
        low.extend([least] * count)
        high.extend([most] * count)

    for j, pool in enumerate(pooled):
        xs = np.arange(first_x[j], first_x[j + 1])
        cost[xs] = -match[j, pool]
        if j == 0 and before:
            cost[xs] += change[before[-1], pool]
        require(np.zeros(len(xs), np.int64), xs, np.ones(len(xs)), 1, 1)
    for j, (pool, following) in enumerate(pairwise(pooled)):
        a, b = len(pool), len(following)
        ys = np.arange(first_y[j], first_y[j + 1])
        cost[ys] = change[np.ix_(pool, following)].ravel()
        rows_a, rows_b = np.repeat(np.arange(a), b), np.tile(np.arange(b), a)
        for rows, first, count in ((rows_a, first_x[j], a), (rows_b, first_x[j + 1], b)):
            own = np.arange(count)
            columns = np.concatenate([ys, first + own])
            values = np.concatenate([np.ones(len(ys)), -np.ones(count)])
            require(np.concatenate([rows, own]), columns, values, 0, 0)
    for number, limit in enumerate(limits):
        excess = np.arange(first_excess[number], first_excess[number + 1])
        cost[excess] = limit.price * (limit.exceeded + np.arange(1, len(excess) + 1))
        columns = np.concatenate([limit.xs, excess])
        values = np.concatenate([np.ones(len(limit.xs)), -np.ones(len(excess))])
        require(np.zeros(len(columns), np.int64), columns, values, -np.inf, limit.allowed)
    rows, columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = coo_array((values, (rows, columns)), shape=(len(low), len(cost))).tocsr()
    whole = np.zeros(len(cost))
    whole[: first_x[-1]] = 1
    options = {"mip_rel_gap": 0.0, "node_limit": NODE_LIMIT}
    solved = milp(cost, integrality=whole, bounds=Bounds(0, 1), constraints=LinearConstraint(system, low, high), options=options)
    x = solved.x[: first_x[-1]]
    return [int(pool[np.argmax(x[first_x[j] : first_x[j + 1]])]) for j, pool in enumerate(pooled)]


@dataclass(frozen=True, slots=True)
class _Limit:
    """What of one thing, a track or an artist, the rules allow in a stretch."""

    xs: np.ndarray
    """The variables that have it."""
    allowed: int
    exceeded: int
    """By how much the stretches before went beyond the rule."""
    price: float


def _limits(tracks: np.ndarray, owner: np.ndarray, artists: Sequence[str], rules: Rules, before: Sequence[int]) -> list[_Limit]:
    """Of each track, and each artist, that could come too often. `owner`: of each x, its place in `tracks`."""

    def limit(has: np.ndarray, most: int, used: int, price: float) -> _Limit:
        return _Limit(np.flatnonzero(has), max(0, most - used), max(0, used - most), price)

    limits = [limit(owner == number, 1, before.count(track), rules.repeat) for number, track in enumerate(tracks.tolist())]
    if rules.per_artist is not None:
        names = np.array([artists[track].casefold() for track in tracks.tolist()], dtype=object)
        used = Counter(artists[track].casefold() for track in before)
        limits += [limit((names == name)[owner], rules.per_artist, used[name], rules.crowding) for name in sorted({*names} - {""})]
    return [one for one in limits if len(one.xs) > one.allowed]
