"""A query (files, folders, moods, or a blend of them) -> ranked matches. Shape letters: n rows, e emotion dim."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from emoclim_cli.emotions import EMOTIONS, parse_mood
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import LibraryError, UnreadableMedia, UsageError
from emoclim_cli.library import Library
from emoclim_cli.media import Match, MediaKind, check_file, content_digest, item_id, kind_of_file, printable, time_of
from emoclim_cli.projections import EmotionSpace, unit
from emoclim_cli.snapshot import View, raw_ids

FETCH_FACTOR, FETCH_GROWTH = 4, 16
"""How many more rows than asked for are ranked at first, because duplicates and the artist cap take some away; and how many more each time
that this was not enough."""
BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked for, as one direction in the emotion space."""

    text: str
    vector: np.ndarray
    """(e,) unit norm."""
    kind: MediaKind | None
    """Of the files asked for; None where all are moods."""
    contents: frozenset[bytes]
    """Content digests of the files asked for: they, and copies of them, are no matches of themselves."""


def resolve(texts: Sequence[str], library: Library, space: EmotionSpace, encoder: Callable[[MediaKind], Encoder]) -> Query:
    """The mean of all that is asked for. `encoder` is only called for a file that the library does not hold as it now is.

    A mood's word means the mood even where a file has that name; `./sad` means the file. Raises UsageError for what is neither a file, a
    folder nor a mood, UnreadableMedia, LibraryError for a folder of which nothing is indexed, ModelError for an encoder of other weights.
    """
    if not texts or not all(texts):  # an empty text would mean the current folder
        raise UsageError("no query", "give a photo, a track, a folder or a mood: emoclim match photo.jpg")
    check_space(library, space)
    views = {kind: library.view(kind) for kind in MediaKind}
    vectors, kinds, contents = [], [], set()
    for text in texts:
        mood = parse_mood(text)
        if mood:
            vectors.append(space.mood(mood))
            continue
        kind, vector, own = _resolve_path(text, views, space, encoder)
        vectors.append(vector)
        kinds.append(kind)
        contents.update(own)
    return Query(" + ".join(texts), unit(np.mean(vectors, axis=0)), kinds[0] if kinds else None, frozenset(contents))


def check_space(library: Library, space: EmotionSpace) -> None:
    """Raises LibraryError where the library's vectors are of another space than the one loaded."""
    if library.space is not None and library.space.id != space.id:
        raise LibraryError(
            f"the library was mapped by another version of the space {space.name}", "map it again, without reading a file: emoclim index"
        )


def _resolve_path(
    text: str, views: dict[MediaKind, View], space: EmotionSpace, encoder: Callable[[MediaKind], Encoder]
) -> tuple[MediaKind, np.ndarray, set[bytes]]:
    path = os.path.abspath(text)
    if os.path.isdir(path):
        return _resolve_folder(path, views)
    key = raw_ids([item_id(path)])
    try:
        status = os.stat(path)
    except OSError as error:
        status = None
        reason = error.strerror
    for kind, view in views.items():
        row = int(view.find(key)[0])
        if row >= 0 and view.current[row]:
            same = status is not None and (status.st_size, time_of(status)) == (view.size[row], view.mtime_ns[row])
            if same or status is None:  # what is on a disk that is not there now can still be asked for
                return kind, view.emotion[row], {view.content[row]}
    if status is None:
        with suppress(LibraryError):  # the same for a folder
            return _resolve_folder(path, views)
        if any(mark in text for mark in "/\\."):
            raise UnreadableMedia(f"{printable(text)}: {reason}")
        raise UsageError(f"{printable(text)} is neither a file nor a mood", f"moods: {', '.join(EMOTIONS)}; join them with +")
    with _named(text):
        check_file(path)
        kind_now = kind_of_file(path)
        if kind_now is None:
            raise UnreadableMedia("this is neither a photo nor music")
    network = encoder(kind_now)
    space.check_features(kind_now, network.info.digest)
    with _named(text):
        features = network.encode([network.load(path)])
        if not np.isfinite(features).all():
            raise UnreadableMedia("its features are not finite")
        content = raw_ids([content_digest(path)])
    return kind_now, space.project(kind_now, features)[0], set(content.tolist())


@contextmanager
def _named(text: str) -> Iterator[None]:
    """Puts the path as it was typed before what is wrong with the file."""
    try:
        yield
    except UnreadableMedia as error:
        raise UnreadableMedia(f"{printable(text)}: {error.message}", error.hint) from error
    except OSError as error:
        raise UnreadableMedia(f"{printable(text)}: {error.strerror or error}") from error


def _resolve_folder(folder: str, views: dict[MediaKind, View]) -> tuple[MediaKind, np.ndarray, set[bytes]]:
    """The mean of the kind that the folder holds more of."""
    below = {kind: np.flatnonzero(view.searchable & view.below(folder)) for kind, view in views.items()}
    kind = max(below, key=lambda kind: len(below[kind]))
    rows = below[kind]
    if not len(rows):
        raise LibraryError(f"nothing in {printable(folder)} is in the library", f"emoclim index {shlex.quote(printable(folder))}")
    total = sum(views[kind].emotion[block].sum(axis=0, dtype=np.float64) for block in _blocks(rows))
    return kind, unit(total / len(rows)), set(views[kind].content[rows].tolist())


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Rows in parts whose vectors fit into memory."""
    return np.array_split(rows, len(rows) // BLOCK_ROWS + 1)


def match(
    library: Library,
    space: EmotionSpace,
    query: Query,
    to: Sequence[MediaKind],
    *,
    limit: int,
    per_artist: int | None = None,
    min_score: float = -1.0,
) -> list[Match]:
    """The best `limit` items of the kinds in `to`: best first, each content once, no more than `per_artist` of one artist.

    Raises LibraryError where nothing of these kinds is indexed.
    """
    found: list[tuple[float, bytes, Match]] = []
    searchable = 0
    for kind in to:
        view = library.view(kind)
        searchable += view.searchable_count
        for row, score in _ranked(view, query, limit, per_artist, min_score):
            emotions = space.probabilities(view.emotion[row : row + 1])[0]
            item = view.item(row)
            named = dict(zip(space.emotions, map(float, emotions), strict=True))
            found.append((-score, os.fsencode(item.path), Match(item, score, named)))
    if not searchable:
        wanted = " and ".join(kind.plural for kind in to)
        raise LibraryError(f"no {wanted} in the library", "emoclim index FOLDER...")
    found.sort(key=lambda entry: entry[:2])
    return [entry[2] for entry in found[:limit]]


def _ranked(view: View, query: Query, limit: int, per_artist: int | None, min_score: float) -> list[tuple[int, float]]:
    """Rows and scores. Ranks a few more rows than asked for, and more of them only while that was not enough."""
    chosen: list[tuple[int, float]] = []
    k = limit * FETCH_FACTOR + len(query.contents)
    while True:
        chosen.clear()
        seen = set(query.contents)
        artists: Counter[str] = Counter()
        rows, scores = view.search(query.vector, k)
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            if score < min_score or len(chosen) == limit:
                return chosen
            content = view.content[row]
            if content in seen:
                continue
            artist = view.detail(row, "artist").casefold() if per_artist is not None else ""
            if artist:
                if artists[artist] == per_artist:
                    continue
                artists[artist] += 1
            seen.add(content)
            chosen.append((row, score))
        if len(chosen) == limit or k >= len(view):
            return chosen
        k *= FETCH_GROWTH


def emotion_counts(library: Library, space: EmotionSpace) -> dict[str, dict[str, int]]:
    """Kind -> emotion -> how many items lie nearest to it; zeros where the library's vectors are of another space."""
    if library.space is None or library.space.id != space.id:
        return {kind.plural: dict.fromkeys(space.emotions, 0) for kind in MediaKind}
    counts = {}
    for kind in MediaKind:
        view = library.view(kind)
        totals = np.zeros(len(space.emotions), np.int64)
        for rows in _blocks(np.flatnonzero(view.searchable)):
            if len(rows):
                totals += np.bincount(np.argmax(view.emotion[rows] @ space.prototypes.T, axis=1), minlength=len(totals))
        counts[kind.plural] = dict(zip(space.emotions, map(int, totals), strict=True))
    return counts
