"""The figure of `emoclim evaluate --plot`: the emotion space on paper, and which emotions are taken for which.

Shape letters: n points (photos, music, prototypes), e emotion dim.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emoclim_cli.emotions import RETRIEVAL_EMOTIONS
from emoclim_cli.errors import MissingExtra, PlotError, UsageError
from emoclim_cli.evaluation import Direction, Side
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
MAX_DRAWN = {MediaKind.PHOTO: 1500, MediaKind.MUSIC: 1000}
"""More would hide each other, and t-SNE takes its time."""
PERPLEXITY = 30.0

# Six of the eight colours of Okabe and Ito (2008), which people of any colour vision tell apart; yellow is too pale on white.
COLOURS = {
    "happy": "#E69F00",
    "funny": "#009E73",
    "exciting": "#56B4E9",
    "sad": "#0072B2",
    "scary": "#000000",
    "angry": "#D55E00",
}
MARKERS = {MediaKind.PHOTO: "o", MediaKind.MUSIC: "^"}
SIZES = {MediaKind.PHOTO: 14.0, MediaKind.MUSIC: 80.0}
STAR_SIZE = 420.0
"""Areas in square points, as matplotlib has them."""
INK, QUIET = "#222222", "#666666"


def check(file: Path) -> None:
    """Raises what `draw` would of its name and of what is installed, before anything is computed."""
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{file}: no figure can be written in that format", f"end its name in one of: {', '.join(SUFFIXES)}")
    try:
        import matplotlib.figure  # noqa: F401
        import sklearn.manifold  # noqa: F401
    except ImportError as error:
        raise MissingExtra("a figure needs the extra `plot`", "pip install 'emoclim[plot]'") from error
    if not file.absolute().parent.is_dir():
        raise PlotError(f"{file}: there is no folder of that name to write to", f"mkdir -p {file.absolute().parent}")


def draw(
    file: Path, space: EmotionSpace, sides: Mapping[MediaKind, Side], report: Mapping[str, Direction], level: str, *, seed: int = 0
) -> None:
    """Writes the figure, whole or not at all: `sides` and `report` as `evaluation` gives them for the level.

    Of many items MAX_DRAWN of each kind are drawn, chosen by `seed`. Raises UsageError, MissingExtra, and PlotError where the file cannot
    be written.
    """
    check(file)
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # the same figure for everybody, whatever their settings of matplotlib
        mpl.rcParams["svg.hashsalt"] = "emoclim"
        _save(_figure(space, sides, report, level, seed), file)


def _figure(space: EmotionSpace, sides: Mapping[MediaKind, Side], report: Mapping[str, Direction], level: str, seed: int) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(16, 9), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.06), facecolor="white")
    figure.suptitle(f"{space.name}, {level} level", fontsize=19, fontweight="bold", color=INK, parse_math=False)
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1), squeeze=False)[0]
    left.suptitle("The emotion space: what feels alike lies close (t-SNE)", fontsize=14, color=INK)
    _draw_space(left.subplots(), space, sides, level, seed)
    right.suptitle("Asked with one emotion, which ones are found? % of the first five", fontsize=14, color=INK)
    side = math.ceil(math.sqrt(len(report)))
    for ax, (name, direction) in zip(right.subplots(side, side, squeeze=False).ravel(), report.items(), strict=True):
        _draw_confusion(ax, name, direction)
    return figure


def layout(vectors: np.ndarray) -> np.ndarray:
    """(n, e) -> (n, 2): t-SNE (van der Maaten and Hinton 2008), begun from the two principal components.

    The same vectors give the same layout. Fewer than four are laid out by the components alone.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    centred = vectors - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    components = np.zeros((len(vectors), 2), np.float32)
    components[:, : len(s)] = (u * s)[:, :2]
    if len(vectors) < 4:
        return components
    start = components * (1e-4 / max(float(components[:, 0].std()), 1e-9))  # as small as t-SNE wants it
    # On one core: on a machine that does something else too, threads that wait for each other take several times as long as one alone.
    with threadpool_limits(limits=1):
        out: np.ndarray = TSNE(perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3), init=start, random_state=0).fit_transform(vectors)
    return out


def _draw_space(ax: Axes, space: EmotionSpace, sides: Mapping[MediaKind, Side], level: str, seed: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    chosen = {kind: _some(len(side.labels), MAX_DRAWN[kind], seed) for kind, side in sides.items()}
    centres = [emotion for emotion in space.emotions if emotion in RETRIEVAL_EMOTIONS]
    prototypes = space.prototypes[[space.emotions.index(emotion) for emotion in centres]]
    points = layout(np.concatenate([*(side.vectors[chosen[kind]] for kind, side in sides.items()), prototypes]))
    begin = 0
    for kind, side in sides.items():
        there = points[begin : begin + len(chosen[kind])]
        begin += len(there)
        photos = kind is MediaKind.PHOTO
        ax.scatter(
            there[:, 0],
            there[:, 1],
            s=SIZES[kind],
            c=[COLOURS[label] for label in side.labels[chosen[kind]]],
            marker=MARKERS[kind],
            alpha=0.55 if photos else 1,
            linewidths=0 if photos else 0.8,
            edgecolors="none" if photos else "white",
            zorder=2 if photos else 3,
        )
    for emotion, place in zip(centres, points[begin:], strict=True):
        ax.scatter(place[0], place[1], s=STAR_SIZE, c=COLOURS[emotion], marker="*", edgecolors="white", linewidths=1.6, zorder=4)
        text = ax.annotate(emotion, place, (0, 13), textcoords="offset points", ha="center", fontsize=13, fontweight="bold", color=INK)
        text.set_path_effects([withStroke(linewidth=3.5, foreground="white")])
        text.set_zorder(5)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.03)
    for spine in ax.spines.values():
        spine.set_visible(False)
    words = {MediaKind.PHOTO: "photos", MediaKind.MUSIC: "clips of music" if level == "clip" else "pieces of music"}
    marks = [
        (MARKERS[kind], QUIET, SIZES[kind], _counted(len(chosen[kind]), len(side.labels), words[kind])) for kind, side in sides.items()
    ]
    marks.append(("*", QUIET, STAR_SIZE / 2, "where the space has an emotion"))
    marks += [("", QUIET, 0.0, "")] * (3 - len(marks))  # columns of three: the marks, then the emotions
    marks += [("s", COLOURS[emotion], 80.0, emotion) for emotion in RETRIEVAL_EMOTIONS]
    handles = [Line2D([], [], ls="", marker=marker, color=colour, ms=size**0.5, label=label) for marker, colour, size, label in marks]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False, fontsize=11, labelcolor=INK)


def _some(n: int, most: int, seed: int) -> np.ndarray:
    """Indices of all, or of `most` of them."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _counted(drawn: int, of: int, words: str) -> str:
    return f"{drawn:,} {words}" if drawn == of else f"{drawn:,} of {of:,} {words}"


def _draw_confusion(ax: Axes, name: str, direction: Direction) -> None:
    shares = np.array([[direction.confusion.get(one, {}).get(other, np.nan) for other in RETRIEVAL_EMOTIONS] for one in RETRIEVAL_EMOTIONS])
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        text = "–" if np.isnan(share) else f"{100 * share:.0f}"
        ax.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=11,
            color="white" if share > 0.5 else INK,
            fontweight="bold" if i == j else "normal",
        )
    ticks = range(len(RETRIEVAL_EMOTIONS))
    ax.set_xticks(ticks, RETRIEVAL_EMOTIONS, fontsize=10, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(ticks, RETRIEVAL_EMOTIONS, fontsize=10)
    ax.tick_params(length=0, labelcolor=INK)
    for spine in ax.spines.values():
        spine.set_visible(False)
    asked, found = name.split("->")
    ax.set_ylabel(f"{asked} asked with", color=QUIET)
    if not direction.confusion:
        ax.set_title(f"{asked} → {found}\nnothing to measure", fontsize=11.5, loc="left", color=INK)
        return
    ax.set_xlabel(f"{found} found (by chance {100 * direction.chance:.0f} % are right)", color=QUIET)
    low, high = direction.intervals["p@5"]
    figures = f"P@5 {direction.p_at_5:.2f} ({low:.2f}–{high:.2f}), MRR {direction.mrr:.2f}"
    ax.set_title(f"{asked} → {found}\n{figures}", fontsize=11.5, loc="left", color=INK)


def _save(figure: Figure, file: Path) -> None:
    form = file.suffix.lower().removeprefix(".")
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        date = {"svg": "Date", "pdf": "CreationDate"}.get(form)  # without it, the same figure is the same bytes
        figure.savefig(temporary, format=form, dpi=120, metadata={date: None} if date else None)
        os.replace(temporary, file)
    except OSError as error:
        raise PlotError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
