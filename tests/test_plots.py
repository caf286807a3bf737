"""The figure: what is on it, that it is written whole or not at all, and that the same input is the same picture."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from emoclim_cli import plots
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS, RETRIEVAL_EMOTIONS
from emoclim_cli.errors import MissingExtra, PlotError, UsageError
from emoclim_cli.evaluation import Direction, Side, evaluate, sides_of
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit

DIM = 8
CENTRES = unit(np.random.default_rng(0).standard_normal((len(EMOTIONS), DIM)))
NOTHING = Projection(np.eye(DIM), np.full(DIM, 9.0), np.eye(DIM), np.full(DIM, -9.0))
"""Changes no vector: its ReLU never cuts."""

Evaluated = tuple[dict[MediaKind, Side], dict[str, Direction]]


def space(name: str = "my-space") -> EmotionSpace:
    both = dict.fromkeys(MediaKind, "toy")
    return EmotionSpace(name, both, both, dict.fromkeys(MediaKind, NOTHING), CENTRES)


def evaluated(*, level: str = "clip", noise: float = 0.2, **counts: int) -> Evaluated:
    """So many items of each of the six emotions for each kind, each of them near its emotion's prototype."""
    rng = np.random.default_rng(1)
    features = {}
    for kind, count in counts.items():
        labels = [emotion for emotion in RETRIEVAL_EMOTIONS for _ in range(count)]
        items = tuple(LabelledItem(f"{i}", label, frozenset((label,)), f"{i}") for i, label in enumerate(labels))
        vectors = CENTRES[[EMOTIONS.index(label) for label in labels]] + noise * rng.standard_normal((len(items), DIM))
        windows = vectors.astype(np.float32)
        features[MediaKind(kind)] = LabelledFeatures(MediaKind(kind), windows, np.arange(len(items) + 1), items)
    projections = space().projections
    return sides_of(projections, features, level), evaluate(projections, features, level)


@pytest.fixture(scope="module")
def both() -> Evaluated:
    return evaluated(photo=6, music=2)


def figure_of(evaluated: Evaluated, level: str = "clip", name: str = "my-space") -> Figure:
    return plots._figure(space(name), *evaluated, level, seed=0)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def points(figure: Figure) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Marker -> (n, 2) places and their colours."""
    found: dict[str, tuple[np.ndarray, list[str]]] = {}
    names = {mpl.markers.MarkerStyle(mark).get_path().vertices.shape[0]: mark for mark in "o^*"}
    for drawn in figure.axes[0].collections:
        marker = names[drawn.get_paths()[0].vertices.shape[0]]
        places, colours = np.asarray(drawn.get_offsets()), [mpl.colors.to_hex(c).upper() for c in drawn.get_facecolors()]
        before = found.get(marker, (np.zeros((0, 2)), []))
        found[marker] = np.concatenate([before[0], places]), before[1] + colours
    return found


# --- the file ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "b.SVG", "c.pdf"])
def test_each_format_is_what_its_name_says_and_the_same_each_time(name: str, both: Evaluated, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        plots.draw(tmp_path / name, space(), *both, "clip")
        assert os.listdir(tmp_path) == [name]
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    if name == "a.png":
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size) == ("PNG", (1920, 1080))
            assert len(set(image.convert("RGB").resize((480, 270)).get_flattened_data())) > 100
    elif name == "b.SVG":
        assert ET.fromstring(contents[0]).tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert contents[0].startswith(b"%PDF-")


@pytest.mark.parametrize("name", ["a.jpg", "a", ".png", "a.png.gz"])
def test_another_format_is_refused_before_anything_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="no figure can be written in that format") as caught:
        plots.check(Path(name))
    assert ".png, .svg, .pdf" in caught.value.hint


@pytest.mark.parametrize("package", ["matplotlib.figure", "sklearn.manifold"])
def test_the_extra_is_named_where_it_is_not_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match="the extra `plot`") as caught:
        plots.check(Path("a.png"))
    assert caught.value.hint == "pip install 'emoclim[plot]'"
    assert caught.value.exit_code == 3


def test_a_folder_that_is_not_there(both: Evaluated, tmp_path: Path) -> None:
    for refused in (plots.check, lambda file: plots.draw(file, space(), *both, "clip")):
        with pytest.raises(PlotError, match="no folder") as caught:
            refused(tmp_path / "absent" / "a.png")
        assert caught.value.hint == f"mkdir -p {tmp_path / 'absent'}"


def test_what_cannot_be_written_leaves_nothing_behind(both: Evaluated, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(PlotError, match=r"a\.png cannot be written"):
        plots.draw(tmp_path / "a.png", space(), *both, "clip")
    assert os.listdir(tmp_path) == ["a.png"]


def test_nobodys_settings_of_matplotlib_change_the_figure(both: Evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots.draw(tmp_path / "a.png", space(), *both, "clip")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "savefig.bbox": "tight"}):
        plots.draw(tmp_path / "b.png", space(), *both, "clip")
        assert mpl.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_window_is_ever_opened() -> None:
    """Even where the settings ask for one."""
    code = "import sys; from pathlib import Path; from emoclim_cli import plots; plots.check(Path('a.png'))\n"
    code += "import numpy as np; plots.layout(np.eye(5)); print([name for name in sys.modules if name in ('matplotlib.pyplot', 'tkinter')])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"MPLBACKEND": "tkagg"}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


# --- what is on it -----------------------------------------------------------------------------------------------------------------------


def test_every_item_is_drawn_once_in_its_emotions_colour(both: Evaluated) -> None:
    drawn = points(figure_of(both))
    for marker, kind in (("o", MediaKind.PHOTO), ("^", MediaKind.MUSIC)):
        places, colours = drawn[marker]
        assert len(places) == len(both[0][kind].labels)
        assert colours == [plots.COLOURS[label] for label in both[0][kind].labels]
    places, colours = drawn["*"]
    assert colours == [plots.COLOURS[emotion] for emotion in RETRIEVAL_EMOTIONS]
    assert set(plots.COLOURS) == set(RETRIEVAL_EMOTIONS)


def test_names_and_figures_are_on_it(both: Evaluated) -> None:
    said = texts(figure_of(both))
    assert "my-space, clip level" in said
    assert {"36 photos", "12 clips of music", *RETRIEVAL_EMOTIONS} <= set(said)
    for name, direction in both[1].items():
        low, high = direction.intervals["p@5"]
        figures = f"P@5 {direction.p_at_5:.2f} ({low:.2f}–{high:.2f}), MRR {direction.mrr:.2f}"
        assert f"{name.replace('->', ' → ')}\n{figures}" in said
        assert f"{name.split('>')[1]} found (by chance {100 * direction.chance:.0f} % are right)" in said
    assert "12 pieces of music" in texts(figure_of(both, "track"))


def test_cells_of_a_confusion_are_percents_of_its_rows(both: Evaluated) -> None:
    figure = figure_of(both)
    for ax, direction in zip(figure.axes[1:], both[1].values(), strict=True):
        said = {text.get_position(): text.get_text() for text in ax.texts}
        for (i, one), (j, other) in itertools.product(enumerate(RETRIEVAL_EMOTIONS), repeat=2):
            assert said[j, i] == f"{100 * direction.confusion[one][other]:.0f}"
        assert [label.get_text() for label in ax.get_xticklabels()] == list(RETRIEVAL_EMOTIONS)
        assert [label.get_text() for label in ax.get_yticklabels()] == list(RETRIEVAL_EMOTIONS)


def test_a_name_is_no_formula(both: Evaluated) -> None:
    figure = figure_of(both, name="my $x_1$ space $")
    assert "my $x_1$ space $, clip level" in texts(figure)
    figure.canvas.draw()


@pytest.mark.parametrize(("kind", "name"), [("photo", "image → image"), ("music", "music → music")])
def test_one_kind_alone_has_one_matrix(kind: str, name: str) -> None:
    figure = figure_of(evaluated(**{kind: 3}))
    assert len(figure.axes) == 2
    assert any(text.startswith(name) for text in texts(figure))


def test_where_nothing_could_be_measured_it_says_so(tmp_path: Path) -> None:
    """One photo of each emotion: none has another of its own."""
    alone = evaluated(photo=1)
    figure = figure_of(alone)
    assert "image → image\nnothing to measure" in texts(figure)
    assert not any("nan" in text for text in texts(figure))
    plots.draw(tmp_path / "a.png", space(), *alone, "clip")


def test_of_many_items_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    many = evaluated(photo=8, music=1)
    monkeypatch.setattr(plots, "MAX_DRAWN", {MediaKind.PHOTO: 20, MediaKind.MUSIC: 100})
    drawn = {seed: plots._figure(space(), *many, "clip", seed=seed) for seed in (0, 1)}
    assert "20 of 48 photos" in texts(drawn[0])
    assert "6 clips of music" in texts(drawn[0])
    some = [plots._some(48, 20, seed) for seed in (0, 0, 1)]
    assert len(set(some[0].tolist())) == 20
    assert some[0].tolist() == some[1].tolist() != some[2].tolist()
    assert points(drawn[0])["o"][1] == [plots.COLOURS[many[0][MediaKind.PHOTO].labels[i]] for i in some[0]]


# --- the layout --------------------------------------------------------------------------------------------------------------------------


def test_what_lies_close_in_the_space_lies_close_on_paper() -> None:
    sides, _ = evaluated(photo=20, noise=0.05)
    side = sides[MediaKind.PHOTO]
    places = plots.layout(side.vectors)
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :5]
    assert (side.labels[nearest] == side.labels[:, None]).mean() > 0.99
    assert np.array_equal(places, plots.layout(side.vectors))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("same", [False, True])
def test_a_few_points_and_copies_have_a_layout(n: int, same: bool) -> None:
    vectors = unit(np.random.default_rng(2).standard_normal((n, DIM)))
    places = plots.layout(vectors[:1].repeat(n, axis=0) if same else vectors)
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()
    if n > 1 and not same:
        assert len(np.unique(places.round(3), axis=0)) == n


# --- colours -----------------------------------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, table 1, severity 1: linear RGB -> what is seen of it.
COLOUR_VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, vision: str) -> np.ndarray:
    """CIE L*a*b* of a colour as somebody sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = TO_XYZ @ np.clip(np.array(COLOUR_VISION[vision]) @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_everybody_tells_the_colours_apart(vision: str) -> None:
    seen = {emotion: lab(colour, vision) for emotion, colour in plots.COLOURS.items()} | {"paper": lab("white", vision)}
    for (one, a), (other, b) in itertools.combinations(seen.items(), 2):
        assert np.linalg.norm(a - b) > 16, f"{one} and {other}"
