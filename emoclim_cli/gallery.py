"""The gallery: the whole library as one page that needs nothing but a browser, with thumbnails inside and tracks linked.

The page is templates/gallery.html with gallery.css and the SCRIPTS put into it. What comes from files reaches it in two ways only: as JSON
in which nothing can end a script (`tojson`), and as base64. Its Content-Security-Policy forbids the network, and any script but its own.
Shape letters: n items (photos, then tracks), p photos, t tracks, e emotion dim, c emotions, k matches.
"""

from __future__ import annotations

import math
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from emoclim_cli import outputs, photos
from emoclim_cli.emotions import CIRCUMPLEX
from emoclim_cli.errors import LibraryError, UnreadableMedia
from emoclim_cli.library import Library
from emoclim_cli.media import MediaItem, MediaKind, printable
from emoclim_cli.projections import EmotionSpace
from emoclim_cli.snapshot import SCORE_DECIMALS

TRACKS_OF_PHOTO, PHOTOS_OF_TRACK = 8, 12
"""How many matches an item is shown with."""
BLOCK_ROWS = 256

SOFTER = 2.0
"""The map's temperature in those of the space. With the space's own, which says how sure an emotion is, most items lie in the corners."""
UNITS = 10_000
"""Of the map's whole numbers: this far from the centre lie the emotions."""
GAP, ROUNDS, NEIGHBOURS = 0.6, 20, 6
"""Items that lie closer than GAP times what an even spread would give push each other away, from that many neighbours, that many times."""
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))

THUMBNAIL_SIDES = (48, 192)
THUMBNAILS_BYTES = 36_000_000
BYTES_PER_PIXEL = 0.25
"""Of a WebP thumbnail of 80 to 100 pixels; photos as they come from cameras, mean over 150 of them: 0.22 to 0.24. Larger ones take less."""
THUMBNAILS_PER_SCRIPT = 128

# Emotion -> its colour on light and on dark. The hues are those of `plots.COLOURS`, and pink. Lightness and chroma were searched for with
# Machado et al. 2009, "A physiologically-based model for simulation of color vision deficiency": any two are at least 0.11 apart in Oklab
# to every eye (Okabe and Ito's seven: 0.076), and each has a contrast of 3 to the page.
COLOURS = {
    "happy": ("#d27a02", "#ffd433"),
    "funny": ("#007650", "#3dbd65"),
    "exciting": ("#0e95e8", "#a0d0f2"),
    "tender": ("#b340a0", "#c76fb6"),
    "sad": ("#233c82", "#4556da"),
    "scary": ("#0b0b14", "#faf8fa"),
    "angry": ("#d11101", "#d61f0b"),
}
NO_COLOUR = ("#777777", "#999999")
"""Of an emotion that only somebody else's space knows."""

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("items.js", "panel.js", "map.js", "drawing.js", "controls.js")
"""Parts of one function, in this order."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many items are on the page."""

    photos: int
    music: int


@dataclass(frozen=True, slots=True)
class _Shown:
    """The present and current items of one kind."""

    items: list[MediaItem]
    emotion: np.ndarray
    """(n, e) float32 unit rows."""
    content: np.ndarray
    """(n,) content digests."""


def write(
    library: Library, space: EmotionSpace, file: str, *, jobs: int = 2, progress: Callable[[int, int], None] | None = None
) -> Written:
    """Writes the page, whole or not at all. `space` is the library's; `jobs` threads make thumbnails; `progress` hears how many of all.

    A photo that cannot be read any more has no thumbnail. Raises LibraryError where nothing is indexed; UsageError, and MediaError where
    the disk refuses, as `outputs.replacing` does.
    """
    shown = {kind: _shown(library, kind) for kind in MediaKind}
    photo, music = shown[MediaKind.PHOTO], shown[MediaKind.MUSIC]
    if not photo.items and not music.items:
        raise LibraryError("nothing in the library can be shown: it holds neither photos nor music", "emoclim index FOLDER...")
    base = os.path.dirname(os.path.abspath(file))
    paths = [item.path for item in photo.items]
    template, own = _template()
    page = template.generate(
        **own,
        title=f"{len(photo.items):,} photos, {len(music.items):,} tracks",
        data=_data(photo, music, space, base),
        thumbnails=_thumbnails(paths, thumbnail_side(len(paths)), jobs, progress or (lambda _done, _total: None)),
    )
    with outputs.replacing(file) as temporary, open(temporary, "wb") as out:
        for text in page:
            out.write(text.encode())
    return Written(len(photo.items), len(music.items))


def _shown(library: Library, kind: MediaKind) -> _Shown:
    view = library.view(kind)
    rows = np.flatnonzero(view.present & view.current)
    return _Shown([view.item(row) for row in rows.tolist()], np.asarray(view.emotion[rows]), view.content[rows])


# --- the page ----------------------------------------------------------------------------------------------------------------------------


def _template() -> tuple[Any, dict[str, str]]:
    """The page, and what it is given that comes from no file of the user's."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    style, *parts = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("gallery.css", *SCRIPTS))
    script = "\n".join(['"use strict";', "(() => {", *parts, "})();"])
    return environment.get_template("gallery.html"), {"script": script, "style": style, "policy": _policy(script, style)}


def _policy(script: str, style: str) -> str:
    """The page's Content-Security-Policy. `'self'` is for a page that comes from the user's web server, `file:` for one from the disk."""

    def only(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    allowed = {"script-src": only(script), "style-src": only(style), "img-src": "data: 'self' file:", "media-src": "'self' file:"}
    forbidden = ("default-src", "base-uri", "form-action")
    return "; ".join([*(f"{name} 'none'" for name in forbidden), *(f"{name} {sources}" for name, sources in allowed.items())])


def thumbnail_side(count: int) -> int:
    """Pixels of the longer side, so that the thumbnails of `count` photos stay below THUMBNAILS_BYTES as long as they can be told apart."""
    least, most = THUMBNAIL_SIDES
    return min(most, max(least, int(math.sqrt(THUMBNAILS_BYTES / (BYTES_PER_PIXEL * max(count, 1))))))


def _thumbnails(paths: Sequence[str], side: int, jobs: int, progress: Callable[[int, int], None]) -> Iterator[list[str]]:
    """THUMBNAILS_PER_SCRIPT at a time, base64; empty for a photo that cannot be read."""

    def thumbnail(path: str) -> str:
        try:
            return b64encode(photos.thumbnail(path, side)).decode()
        except UnreadableMedia:
            return ""

    done = 0
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(paths), THUMBNAILS_PER_SCRIPT):
            some = []
            for made in pool.map(thumbnail, paths[start : start + THUMBNAILS_PER_SCRIPT]):
                some.append(made)
                done += 1
                progress(done, len(paths))
            yield some


def _data(photo: _Shown, music: _Shown, space: EmotionSpace, base: str) -> dict[str, Any]:
    """What the script reads: columns of n, p or t, and matrices row by row."""
    items = [*photo.items, *music.items]
    vectors = np.concatenate([shown.emotion for shown in (photo, music) if shown.items])
    shares = space.probabilities(vectors)
    places = np.rint(spread(layout(vectors, space)) * UNITS).astype(int)
    folders, folder_of = _folders([item.path for item in items], base)
    files = [quote(os.fsencode(os.path.basename(item.path))) for item in items]
    names = [printable(os.path.basename(item.path)) for item in items]
    tracks, track_scores = matches(photo, music, TRACKS_OF_PHOTO)
    pictures, picture_scores = matches(music, photo, PHOTOS_OF_TRACK)
    return {
        "emotions": [
            {"name": name, "x": round(float(x) * UNITS), "y": round(float(y) * UNITS), "colours": COLOURS.get(name, NO_COLOUR)}
            for name, (x, y) in zip(space.emotions, anchors(space.emotions), strict=True)
        ],
        "folders": folders,
        "photos": len(photo.items),
        "thumbnailsPerScript": THUMBNAILS_PER_SCRIPT,
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "emotion": shares.argmax(axis=1).tolist(),
        "shares": np.rint(shares * 100).astype(int).ravel().tolist(),
        "folder": folder_of,
        "file": files,
        "names": {i: name for i, (name, file) in enumerate(zip(names, files, strict=True)) if unquote(file) != name},
        "taken": [item.taken[:16].replace("T", " ") for item in photo.items],
        "title": [item.title for item in music.items],
        "artist": [item.artist for item in music.items],
        "album": [item.album for item in music.items],
        "seconds": [round(item.duration_s) for item in music.items],
        "tracksOf": {"count": tracks.shape[1], "items": tracks.ravel().tolist(), "scores": track_scores.ravel().tolist()},
        "photosOf": {"count": pictures.shape[1], "items": pictures.ravel().tolist(), "scores": picture_scores.ravel().tolist()},
    }


def _folders(paths: Sequence[str], base: str) -> tuple[list[dict[str, Any]], list[int]]:
    """The folders that hold items, and those in which several of them lie, parents first; and the folder of each path.

    `link` ends where the name of a file begins; `name` begins at the folder that holds all.
    """
    holding = {Path(path).parent for path in paths}
    inside: dict[Path, set[Path]] = {}
    for folder in holding:
        for lower, upper in pairwise([folder, *folder.parents]):
            inside.setdefault(upper, set()).add(lower)
    listed = sorted({*holding, *(folder for folder, lower in inside.items() if len(lower) > 1)}, key=lambda folder: folder.parts)
    index = {folder: i for i, folder in enumerate(listed)}
    rows = []
    for folder in listed:
        parent = next((index[upper] for upper in folder.parents if upper in index), -1)
        name = folder.relative_to(listed[0].parent) if listed[0] in (folder, *folder.parents) else folder
        rows.append({"name": printable(str(name)), "link": _link(str(folder), base), "parent": parent})
    return rows, [index[Path(path).parent] for path in paths]


def _link(folder: str, base: str) -> str:
    """The URI of a folder as seen from the page, with `/` at its end."""
    where = outputs.place(folder, base)
    uri = Path(where).as_uri() if os.path.isabs(where) else quote(os.fsencode(where))
    return uri if uri.endswith("/") else f"{uri}/"


# --- the map -----------------------------------------------------------------------------------------------------------------------------


def anchors(emotions: Sequence[str]) -> np.ndarray:
    """(c, 2): the emotions evenly around the unit circle, x right, y down, in the order of the circumplex and turned to lie near it.

    So what is pleasant lies right, and what is aroused on top. Emotions that the circumplex does not know come last.
    """
    order = sorted(range(len(emotions)), key=lambda i: (CIRCUMPLEX.get(emotions[i], math.inf), emotions[i]))
    angles = np.empty(len(emotions))
    angles[order] = np.arange(len(emotions)) * (2 * math.pi / len(emotions))
    known = [i for i, emotion in enumerate(emotions) if emotion in CIRCUMPLEX]
    away = np.radians([CIRCUMPLEX[emotions[i]] for i in known]) - angles[known]
    angles += np.angle(np.exp(1j * away).sum())
    return np.stack([np.cos(angles), -np.sin(angles)], axis=1)


def layout(vectors: np.ndarray, space: EmotionSpace) -> np.ndarray:
    """(n, e) -> (n, 2): each at the mean of the emotions' anchors, weighted by a softened softmax of the cosines.

    Where an item lies depends on itself alone, and not on its kind: photos and tracks that feel alike lie together.
    """
    logits = vectors @ space.prototypes.T / (SOFTER * space.temperature)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    out: np.ndarray = weights / weights.sum(axis=1, keepdims=True) @ anchors(space.emotions)
    return out


def spread(points: np.ndarray) -> np.ndarray:
    """(n, 2) -> (n, 2): moves apart what would lie on top of each other, as little as will do. The same points give the same places."""
    from scipy.spatial import KDTree

    n = len(points)
    radius = float(np.sqrt((points**2).sum(axis=1).mean()))
    gap = GAP * math.sqrt(math.pi / n) * (radius or 1.0)
    # What lies in one place, such as copies, first goes round it like the seeds of a sunflower: a push needs a direction.
    cells = np.rint(points / (gap / 2)).astype(np.int64)
    _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(cell.ravel(), kind="stable")
    seed = np.empty(n)
    seed[order] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = seed * GOLDEN_ANGLE
    points = points + (gap / 2 * np.sqrt(seed))[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for _ in range(ROUNDS):
        distances, near = KDTree(points).query(points, k=np.arange(2, NEIGHBOURS + 2), distance_upper_bound=gap)  # the first is itself
        touching = np.isfinite(distances)
        if not touching.any():
            break
        away = points[:, None] - points[np.where(touching, near, 0)]
        push = np.where(touching, (gap - np.where(touching, distances, 0)) / np.maximum(np.where(touching, distances, 1), 1e-9), 0)
        points = points + 0.35 * (away * push[:, :, None]).sum(axis=1)
    return points


# --- matches -----------------------------------------------------------------------------------------------------------------------------


def matches(ask: _Shown, find: _Shown, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each item of `ask` the best of `find`: (n, k) indices and (n, k) cosines in per cent, k = min(count, different contents).

    As `matching` ranks them: each content once, ties by path.
    """
    by_path = sorted(range(len(find.items)), key=lambda i: os.fsencode(find.items[i].path))
    _, first = np.unique(find.content[by_path], return_index=True)
    found = np.array(by_path, np.int64)[np.sort(first)]  # the first copy of each, by path
    k = min(count, len(found))
    best, scores = np.zeros((len(ask.items), k), np.int64), np.zeros((len(ask.items), k), np.int64)
    for start in range(0, len(ask.items) if k else 0, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cosines = ask.emotion[block] @ find.emotion[found].T
        whole = np.rint(cosines.astype(np.float64) * 10**SCORE_DECIMALS).astype(np.int64)
        keys = -whole * len(found) + np.arange(len(found))  # no two of a row are equal, so that the first k are certain
        keys = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
        best[block] = found[keys % len(found)]
        scores[block] = np.rint(-(keys // len(found)) / 10 ** (SCORE_DECIMALS - 2))
    return best, scores
