"""Retrieval in four directions beside a slow and obvious ranking, query by query."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS, QUADRANTS, RETRIEVAL_EMOTIONS
from emoclim_cli.errors import LabelError, UsageError
from emoclim_cli.evaluation import DIRECTIONS, LEVELS, SLIDING, Direction, evaluate, sides_of
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind
from emoclim_cli.metrics import intervals
from emoclim_cli.projections import Projection

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC


def labelled(kind: MediaKind, rows: Sequence[tuple[str, str, str, Sequence[Sequence[float]]]]) -> LabelledFeatures:
    """Rows of emotion (or quadrant), group, source, windows."""
    items = tuple(
        LabelledItem(f"{i}", "" if word in QUADRANTS else word, QUADRANTS.get(word, frozenset((word,))), group or f"{i}", source)
        for i, (word, group, source, _) in enumerate(rows)
    )
    windows = np.array([window for row in rows for window in row[3]], np.float32)
    return LabelledFeatures(kind, windows, np.cumsum([0, *(len(row[3]) for row in rows)]), items)


def random_rows(n: int, dim: int, windows: int, seed: int, sources: Sequence[str] = ("",)) -> list[tuple[str, str, str, list[list[float]]]]:
    rng = np.random.default_rng(seed)
    words = ["happy", "funny", "sad", "angry", "tender", "Q1"]
    return [
        (
            str(rng.choice(words)),
            f"song {i // 2}",
            str(rng.choice(sources)),
            rng.standard_normal((int(rng.integers(1, windows + 1)), dim)).tolist(),
        )
        for i in range(n)
    ]


def random_projection(d: int, seed: int) -> Projection:
    rng = np.random.default_rng(seed)
    return Projection(*(rng.standard_normal(shape).astype(np.float32) for shape in ((d, 8), (8,), (8, 4), (4,))))


class Thing(NamedTuple):
    vector: list[float]
    label: str
    group: str
    source: str


def things(features: LabelledFeatures, projection: Projection, level: str) -> list[Thing]:
    found = []
    for i, item in enumerate(features.items):
        if item.emotion in ("", "tender"):
            continue
        windows = features.windows[features.starts[i] : features.starts[i + 1]]
        if level == SLIDING:
            total = sum(projection(window[None])[0].astype(float) for window in windows)
            vectors = [total / math.sqrt(sum(x * x for x in total.tolist()))]
        else:
            vectors = [projection(part[None])[0] for part in ([windows.mean(axis=0)] if level == "track" else windows)]
        found += [Thing(vector.tolist(), item.emotion, item.group, item.source) for vector in vectors]
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def oracle(queries: Sequence[Thing], candidates: Sequence[Thing], same: bool) -> dict[str, object]:
    by_emotion: dict[str, list[dict[str, float]]] = defaultdict(list)
    by_source: dict[str, list[dict[str, float]]] = defaultdict(list)
    taken_for: dict[str, list[str]] = defaultdict(list)
    times = dict.fromkeys(range(len(candidates)), 0)
    for query in queries:
        left = [thing for thing in candidates if not (same and thing.group == query.group)]
        ranked = sorted(left, key=lambda thing, query=query: -sum(x * y for x, y in zip(thing.vector, query.vector, strict=True)))  # type: ignore[misc]
        correct = [thing.label == query.label for thing in ranked]
        for thing in ranked[:5]:
            times[candidates.index(thing)] += 1
        if any(correct):
            taken_for[query.label] += [thing.label for thing in ranked[:5]]
            values = {
                "p@1": sum(correct[:1]),
                "p@5": sum(correct[:5]) / 5,
                "mrr": 1 / (correct.index(True) + 1),
                "chance_p@5": mean(correct),
            }
            by_emotion[query.label].append(values)
            by_source[query.source].append(values)
    columns = ("p@1", "p@5", "mrr", "chance_p@5")
    per_emotion = {emotion: {name: mean([row[name] for row in rows]) for name in columns} for emotion, rows in by_emotion.items()}
    return {
        "macro": {name: mean([row[name] for row in per_emotion.values()]) for name in columns},
        "per_emotion": {e: row | {"n": sum(query.label == e for query in queries)} for e, row in per_emotion.items()},
        "per_source": {
            source: {name: mean([row[name] for row in rows]) for name in columns} | {"n": sum(query.source == source for query in queries)}
            for source, rows in by_source.items()
        },
        "confusion": {one: {other: taken.count(other) / len(taken) for other in RETRIEVAL_EMOTIONS} for one, taken in taken_for.items()},
        "hubness": mean([(n - mean([*times.values()])) ** 3 for n in times.values()])
        / mean([(n - mean([*times.values()])) ** 2 for n in times.values()]) ** 1.5,
    }


def check_direction(found: Direction, queries: Sequence[Thing], candidates: Sequence[Thing], same: bool) -> None:
    expected = oracle(queries, candidates, same)
    assert {"p@1": found.p_at_1, "p@5": found.p_at_5, "mrr": found.mrr, "chance_p@5": found.chance} == pytest.approx(expected["macro"])
    assert found.n == len(queries)
    assert found.candidates == len(candidates)
    assert found.hubness == pytest.approx(expected["hubness"])
    for part in ("per_emotion", "per_source", "confusion"):
        rows = expected[part]
        assert isinstance(rows, dict)
        assert set(getattr(found, part)) == set(rows)
        for name, row in getattr(found, part).items():
            assert row == pytest.approx(rows[name]), name


@pytest.mark.parametrize("level", [*LEVELS, SLIDING])
def test_every_direction_as_the_oracle(level: str) -> None:
    features = {
        PHOTO: labelled(PHOTO, random_rows(40, 5, 1, seed=1, sources=("web", "film"))),
        MUSIC: labelled(MUSIC, random_rows(30, 3, 4, seed=2, sources=("jam", "net"))),
    }
    projections = {PHOTO: random_projection(5, seed=3), MUSIC: random_projection(3, seed=4)}
    report = evaluate(projections, features, level)
    assert list(report) == ["image->music", "music->image", "image->image", "music->music"]
    sides = {kind: things(features[kind], projections[kind], level) for kind in MediaKind}
    for name, (one, other) in DIRECTIONS.items():
        check_direction(report[name], sides[one], sides[other], one is other)


def test_intervals_are_those_of_the_queries_by_song() -> None:
    """With the slow ranking's numbers for each query."""
    music = labelled(MUSIC, random_rows(30, 3, 4, seed=2))
    projection = random_projection(3, seed=4)
    (found,) = evaluate({MUSIC: projection}, {MUSIC: music}).values()
    queries = things(music, projection, "clip")
    rows = []
    for query in queries:
        alone = oracle([query], queries, True)["per_emotion"]
        assert isinstance(alone, dict)
        rows.append([alone[query.label][name] if alone else math.nan for name in ("p@1", "p@5", "mrr")])
    expected = intervals(np.array(rows), np.array([query.label for query in queries]), np.array([query.group for query in queries]))
    assert list(found.intervals) == ["p@1", "p@5", "mrr"]
    assert np.array([*found.intervals.values()]) == pytest.approx(expected)
    for name, middle in (("p@1", found.p_at_1), ("p@5", found.p_at_5), ("mrr", found.mrr)):
        low, high = found.intervals[name]
        assert low < middle < high


def test_the_level_makes_a_difference_for_music_alone() -> None:
    features = {PHOTO: labelled(PHOTO, random_rows(40, 5, 1, seed=1)), MUSIC: labelled(MUSIC, random_rows(30, 3, 4, seed=2))}
    projections = {PHOTO: random_projection(5, seed=3), MUSIC: random_projection(3, seed=4)}
    clips, tracks, sliding = (evaluate(projections, features, level) for level in ("clip", "track", "sliding"))
    assert clips["image->image"] == tracks["image->image"] == sliding["image->image"]
    assert clips["music->music"].n > tracks["music->music"].n == sliding["music->music"].n
    assert len({report["music->music"].mrr for report in (clips, tracks, sliding)}) == 3


def test_an_unknown_level() -> None:
    with pytest.raises(UsageError, match="there is no level 'song'") as caught:
        evaluate(*both(photo=[("sad", "", "", [EAST])]), "song")
    assert caught.value.hint == "one of: clip, track, sliding"


def test_the_sides_are_unit_vectors_with_what_is_known_of_them() -> None:
    rows = [("sad", "a song", "net", [EAST, NORTH, NORTH]), ("tender", "", "", [EAST]), ("happy", "", "", [(3, 4), (3, 4)])]
    projections, features = both(music=rows)
    for level, vectors in {
        "clip": [EAST, NORTH, NORTH, (0.6, 0.8), (0.6, 0.8)],
        "track": [(1 / math.sqrt(5), 2 / math.sqrt(5)), (0.6, 0.8)],
        "sliding": [(1 / math.sqrt(5), 2 / math.sqrt(5)), (0.6, 0.8)],
    }.items():
        (side,) = sides_of(projections, features, level).values()
        assert side.vectors == pytest.approx(np.array(vectors))
        assert side.vectors.dtype == np.float32
        assert len(side.labels) == len(side.groups) == len(side.sources) == len(vectors)
        assert (side.labels[0], side.groups[0], side.sources[0], side.labels[-1]) == ("sad", "a song", "net", "happy")


RIGHT = Projection(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
EAST, NORTH = (1.0, 0.0), (0.0, 1.0)


def both(
    **rows: Sequence[tuple[str, str, str, Sequence[Sequence[float]]]],
) -> tuple[Mapping[MediaKind, Projection], dict[MediaKind, LabelledFeatures]]:
    return dict.fromkeys(MediaKind, RIGHT), {MediaKind(kind): labelled(MediaKind(kind), of_kind) for kind, of_kind in rows.items()}


def test_by_hand() -> None:
    """Happy is east and sad is north; one sad song lies with the happy ones."""
    photos = [("happy", "", "", [EAST]), ("sad", "", "", [NORTH])]
    music = [("happy", "", "", [(1, 0.1)]), ("happy", "", "", [(1, 0.2)]), ("sad", "", "", [(1, 0.05)]), ("sad", "", "", [(0.3, 1)])]
    report = evaluate(*both(photo=photos, music=music))
    there = report["image->music"]
    assert there.per_emotion["happy"] == {"p@1": 0, "p@5": 2 / 5, "mrr": 1 / 2, "chance_p@5": 1 / 2, "n": 1}
    assert there.per_emotion["sad"] == {"p@1": 1, "p@5": 2 / 5, "mrr": 1, "chance_p@5": 1 / 2, "n": 1}
    assert (there.p_at_1, there.p_at_5, there.mrr, there.chance, there.n, there.candidates) == (1 / 2, 2 / 5, 3 / 4, 1 / 2, 2, 4)
    assert there.confusion == {
        "happy": dict.fromkeys(RETRIEVAL_EMOTIONS, 0.0) | {"happy": 1 / 2, "sad": 1 / 2},  # there are but four to find
        "sad": dict.fromkeys(RETRIEVAL_EMOTIONS, 0.0) | {"happy": 1 / 2, "sad": 1 / 2},
    }
    assert list(there.confusion) == ["happy", "sad"]
    assert list(there.confusion["sad"]) == list(RETRIEVAL_EMOTIONS)
    assert math.isnan(there.hubness)  # both find all four
    back = report["music->image"]
    assert back.per_emotion["sad"]["p@1"] == 1 / 2
    assert back.per_emotion["happy"]["p@1"] == 1


def test_a_song_never_finds_its_own_clips() -> None:
    music = [
        ("happy", "one song", "", [EAST, EAST]),
        ("happy", "one song", "", [EAST]),
        ("sad", "", "", [(1, 0.1)]),
        ("happy", "", "", [NORTH]),
    ]
    found = evaluate(*both(music=music))
    assert list(found) == ["music->music"]
    assert found["music->music"].per_emotion["happy"]["p@1"] == 0
    alone = evaluate(*both(music=music[:3]))["music->music"]
    assert math.isnan(alone.mrr)
    assert alone.per_emotion == alone.confusion == {}
    said = alone.as_json()
    assert [said[name] for name in ("p@5", "mrr", "chance_p@5", "p@1_interval", "p@5_interval", "mrr_interval")] == [None] * 6
    assert (alone.n, alone.candidates) == (4, 4)


def test_photos_and_music_of_one_group_name_do_find_each_other() -> None:
    found = evaluate(*both(photo=[("sad", "1", "", [EAST])], music=[("sad", "1", "", [EAST]), ("happy", "2", "", [NORTH])]))
    assert found["image->music"].p_at_1 == 1


@pytest.mark.parametrize(("kind", "name"), [(PHOTO, "image->image"), (MUSIC, "music->music")])
def test_one_kind_alone_gives_its_own_direction(kind: MediaKind, name: str) -> None:
    assert list(evaluate(*both(**{kind: [("sad", "", "", [EAST]), ("sad", "", "", [NORTH])]}))) == [name]


def test_what_photos_are_not_labelled_with_is_neither_query_nor_candidate() -> None:
    music = [("sad", "", "", [EAST]), ("sad", "", "", [EAST]), ("tender", "", "", [EAST]), ("Q3", "", "", [EAST])]
    found = evaluate(*both(music=music))["music->music"]
    assert (found.n, found.candidates, set(found.per_emotion)) == (2, 2, {"sad"})


@pytest.mark.parametrize("word", ["tender", "Q4"])
def test_nothing_of_the_six_emotions(word: str) -> None:
    with pytest.raises(LabelError, match="no music labelled with one of happy, funny"):
        evaluate(*both(photo=[("sad", "", "", [EAST])], music=[(word, "", "", [EAST])]))


def test_sources_are_only_told_apart_where_they_are_named() -> None:
    rows = [("sad", "", "", [EAST]), ("sad", "", "", [NORTH])]
    assert evaluate(*both(photo=rows))["image->image"].per_source == {}
    named = [("sad", "", "web", [EAST]), ("sad", "", "", [NORTH])]
    assert set(evaluate(*both(photo=named))["image->image"].per_source) == {"web", ""}


def test_as_json_has_the_documented_keys() -> None:
    rows = [(word, "", "", [EAST]) for word in EMOTIONS for _ in range(2)]
    found = evaluate(*both(photo=rows))["image->image"]
    text = found.as_json()
    assert set(text) >= {"p@1", "p@5", "mrr", "chance_p@5", "n", "per_emotion"}
    assert (text["p@1"], text["p@5"], text["mrr"], text["chance_p@5"]) == (found.p_at_1, found.p_at_5, found.mrr, found.chance)
    assert set(text["per_emotion"]) == set(text["confusion"]) == set(EMOTIONS) - {"tender"}
    assert all(sum(row.values()) == pytest.approx(1) for row in text["confusion"].values())
    assert (text["confusion"], text["hubness"]) == (found.confusion, None)
    assert [tuple(text[f"{name}_interval"]) for name in ("p@1", "p@5", "mrr")] == [*found.intervals.values()]
    assert json.loads(json.dumps(text)) == text
