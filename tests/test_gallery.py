"""The gallery: what is on the page, and what the page does in a browser (headless Chromium, where there is one)."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from html.parser import HTMLParser
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin

import numpy as np
import pytest
from media_makers import make_photo, make_tone, picture, tone
from PIL import Image
from toys import toy_encoder

from emoclim_cli import gallery, matching
from emoclim_cli.emotions import CIRCUMPLEX, EMOTIONS
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import LibraryError, MediaError, UsageError
from emoclim_cli.indexing import space_ref
from emoclim_cli.library import Library
from emoclim_cli.media import MediaItem, MediaKind, content_digest, item_id
from emoclim_cli.projections import EmotionSpace, Projection
from emoclim_cli.rows import Row

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
NASTY = """"Quoted" & </script><script>document.title = 'hacked'</script> <img src=x onerror=alert(1)>"""


def at(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], np.float32)


def towards(emotion: str) -> np.ndarray:
    return at(CIRCUMPLEX[emotion])


def make_space() -> EmotionSpace:
    """The circumplex itself: an emotion vector is a direction in it."""
    through = Projection(np.zeros((2, 1), np.float32), np.zeros(1, np.float32), np.zeros((1, 2), np.float32), np.zeros(2, np.float32))
    infos = {kind: toy_encoder(kind).info for kind in MediaKind}
    return EmotionSpace(
        name="toy",
        encoders={kind: info.name for kind, info in infos.items()},
        digests={kind: info.digest for kind, info in infos.items()},
        projections=dict.fromkeys(MediaKind, through),
        prototypes=np.array([towards(emotion) for emotion in EMOTIONS], np.float32),
        temperature=0.1,
    )


SPACE = make_space()


def make_library(folder: Path) -> Library:
    library = Library.create(folder)
    with library.writing():
        library.set_space(space_ref(SPACE))
    return library


def row(kind: MediaKind, path: Path | str, vector: np.ndarray, content: str = "", **details: Any) -> Row:
    """Of a file as it is, or of one that was there."""
    path = str(path)
    known = os.path.exists(path)
    digest = content or (content_digest(path) if known else item_id(path))
    item = MediaItem(path, kind, os.path.getsize(path) if known else 1, 1, **details)
    return Row(item, digest, np.zeros(2, np.float32), vector / np.linalg.norm(vector))


def add(library: Library, *rows: Row) -> None:
    with library.writing():
        for kind in MediaKind:
            library.upsert(kind, [row for row in rows if row.item.kind is kind])


class Page(HTMLParser):
    """The page as a browser's parser takes it apart."""

    def __init__(self, file: Path | str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.metas: dict[str, str] = {}
        self.style = ""
        self._inside = ""
        self.html = Path(file).read_bytes()
        self.feed(self.html.decode())
        self.library: dict[str, Any] = json.loads(next(text for about, text in self.scripts if about.get("id") == "library"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self._inside = tag
        if tag == "script":
            self.scripts.append((about, ""))
        elif tag == "meta":
            self.metas[about.get("http-equiv") or about.get("name") or "charset"] = about.get("content") or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            about, text = self.scripts[-1]
            self.scripts[-1] = (about, text + data)
        elif self._inside == "style":
            self.style += data

    @property
    def code(self) -> list[str]:
        return [text for about, text in self.scripts if about.get("type") != "application/json"]

    @property
    def thumbnails(self) -> list[str]:
        parts = [json.loads(text) for about, text in self.scripts if (about.get("id") or "").startswith("thumbnails-")]
        return [thumbnail for part in parts for thumbnail in part]

    def path_bytes(self, i: int) -> bytes:
        """Of an item, as its link gives it, seen from the page's folder."""
        return unquote_to_bytes(self.library["folders"][self.library["folder"][i]]["link"] + self.library["file"][i])


# --- the map -----------------------------------------------------------------------------------------------------------------------------


def test_emotions_stand_round_the_circle_in_the_order_of_the_circumplex() -> None:
    places = dict(zip(EMOTIONS, gallery.anchors(EMOTIONS), strict=True))
    assert all(math.hypot(*place) == pytest.approx(1) for place in places.values())
    angles = {emotion: math.degrees(math.atan2(-y, x)) % 360 for emotion, (x, y) in places.items()}  # y goes down
    order = sorted(EMOTIONS, key=lambda emotion: CIRCUMPLEX[emotion])
    for one, next_one in zip(order, order[1:] + order[:1], strict=True):
        assert (angles[next_one] - angles[one]) % 360 == pytest.approx(360 / len(EMOTIONS))
    assert places["exciting"][1] < -0.8 and places["tender"][1] > 0.8  # aroused is up
    assert places["happy"][0] > 0.5 and places["funny"][0] > 0.5 and places["scary"][0] < -0.5 and places["sad"][0] < -0.5


def test_an_emotion_of_somebody_elses_has_a_place_too() -> None:
    places = gallery.anchors(("sad", "happy", "nostalgic"))
    assert np.isfinite(places).all()
    assert len({tuple(place.round(6)) for place in places}) == 3


def test_an_item_lies_at_the_weighted_mean_of_the_emotions() -> None:
    vectors = np.stack([at(degrees) for degrees in range(0, 360, 25)])
    places, corners = gallery.layout(vectors, SPACE), gallery.anchors(EMOTIONS)
    for vector, place in zip(vectors, places, strict=True):
        weights = [math.exp(float(vector @ prototype) / 0.2) for prototype in SPACE.prototypes]
        for axis in (0, 1):
            mean = sum(w * corner[axis] for w, corner in zip(weights, corners, strict=True)) / sum(weights)
            assert place[axis] == pytest.approx(mean, abs=1e-5)


def test_where_an_item_lies_depends_on_itself_alone() -> None:
    vectors = np.stack([at(10), at(200), at(90)])
    assert gallery.layout(vectors, SPACE)[1] == pytest.approx(gallery.layout(vectors[1:2], SPACE)[0])


def least_distance(points: np.ndarray) -> float:
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    return float(apart[~np.eye(len(points), dtype=bool)].min())


def test_what_lies_together_is_moved_apart_but_not_far() -> None:
    rng = np.random.default_rng(0)
    crowd = np.concatenate([rng.normal((0.5, 0.5), 0.01, (80, 2)), rng.uniform(-0.7, 0.7, (60, 2)), np.full((10, 2), -0.4)])
    moved = gallery.spread(crowd)
    even = math.sqrt(math.pi * (crowd**2).sum(axis=1).mean() / len(crowd))
    assert least_distance(crowd) == 0 and least_distance(moved) > 0.2 * even
    assert np.linalg.norm(moved - crowd, axis=1).max() < 4 * even
    assert (moved == gallery.spread(crowd)).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_items_and_copies_have_a_place(count: int) -> None:
    moved = gallery.spread(np.zeros((count, 2)))
    assert np.isfinite(moved).all()
    assert count == 1 or least_distance(moved) > 0.1


def test_thousands_in_one_place_take_no_time() -> None:
    assert np.isfinite(gallery.spread(np.zeros((20_000, 2)))).all()


# --- colours -----------------------------------------------------------------------------------------------------------------------------

# Machado et al. 2009, table 1, severity 1: protanopia, deuteranopia, tritanopia; in linear RGB.
EYES = np.array(
    [
        np.eye(3).tolist(),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)


def linear(colour: str) -> np.ndarray:
    levels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Björn Ottosson 2020."""
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    axes = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(np.clip(rgb @ np.array(cones).T, 0, None)) @ np.array(axes).T


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_are_told_apart_by_every_eye(theme: int) -> None:
    colours = [gallery.COLOURS[emotion][theme] for emotion in EMOTIONS]
    for eye in EYES:
        seen = np.stack([oklab(np.clip(eye @ linear(colour), 0, 1)) for colour in colours])
        assert least_distance(seen) > 0.105
    page = re.findall(r"--page: (#\w{6})", (gallery.TEMPLATES / "gallery.css").read_text())[theme]
    assert all(contrast(colour, page) >= 3 for colour in colours)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_can_be_read(theme: int) -> None:
    css = (gallery.TEMPLATES / "gallery.css").read_text()
    tones = {name: re.findall(rf"--{name}: (#\w{{6}})", css)[theme] for name in ("page", "panel", "raised", "ink", "quiet")}
    for ground in ("page", "panel", "raised"):
        assert contrast(tones["ink"], tones[ground]) > 7
        assert contrast(tones["quiet"], tones[ground]) > 4.5


# --- matches -----------------------------------------------------------------------------------------------------------------------------


def no_encoder(kind: MediaKind) -> Encoder:
    raise AssertionError(f"the {kind} encoder is not needed")


def test_matches_are_those_of_emoclim_match(tmp_path: Path) -> None:
    """Copies, ties and all."""
    library = make_library(tmp_path / "library")
    rng = np.random.default_rng(1)
    rows = []
    for kind, count in ((PHOTO, 28), (MUSIC, 20)):
        for i in range(count):
            degrees = int(rng.integers(0, 12)) * 30  # many ties
            content = f"{degrees + 1000 * (i % 2) + 10_000 * (kind is PHOTO):032x}"
            rows.append(row(kind, tmp_path / "zyx"[i % 3] / f"{i}.{kind}", at(degrees), content))
    add(library, *rows)
    gallery.write(library, SPACE, str(tmp_path / "page.html"))
    page = Page(tmp_path / "page.html")
    data = page.library
    paths = [os.path.normpath(os.fsencode(tmp_path / os.fsdecode(page.path_bytes(i)))) for i in range(len(data["x"]))]
    for i, path in enumerate(paths):
        photo = i < data["photos"]
        table, number = (data["tracksOf"], i) if photo else (data["photosOf"], i - data["photos"])
        count, wanted = table["count"], gallery.TRACKS_OF_PHOTO if photo else gallery.PHOTOS_OF_TRACK
        first = data["photos"] if photo else 0
        query = matching.resolve([os.fsdecode(path)], library, SPACE, no_encoder)
        expected = matching.match(library, SPACE, query, [MUSIC if photo else PHOTO], limit=wanted)
        got = table["items"][number * count : (number + 1) * count]
        assert [paths[first + j] for j in got] == [os.fsencode(match.item.path) for match in expected]
        scores = table["scores"][number * count : (number + 1) * count]
        assert scores == [pytest.approx(100 * match.score, abs=0.51) for match in expected]


def test_without_music_there_are_no_matches(tmp_path: Path) -> None:
    library = make_library(tmp_path / "library")
    add(library, row(PHOTO, tmp_path / "a.jpg", at(0)))
    assert gallery.write(library, SPACE, str(tmp_path / "page.html")) == gallery.Written(1, 0)
    assert Page(tmp_path / "page.html").library["tracksOf"] == {"count": 0, "items": [], "scores": []}


# --- the file ----------------------------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    library: Library
    folder: Path
    file: str

    def page(self) -> Page:
        gallery.write(self.library, SPACE, self.file)
        return Page(self.file)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "media").mkdir()
    return Bench(make_library(tmp_path / "library"), tmp_path / "media", str(tmp_path / "page.html"))


def test_an_empty_library_names_the_next_command(bench: Bench) -> None:
    with pytest.raises(LibraryError) as caught:
        gallery.write(bench.library, SPACE, bench.file)
    assert "emoclim index" in caught.value.hint
    assert not os.path.exists(bench.file)


def test_only_what_is_there_and_of_this_space_is_shown(bench: Bench) -> None:
    add(bench.library, row(PHOTO, bench.folder / "there.jpg", at(0)))
    add(bench.library, row(PHOTO, bench.folder / "gone.jpg", at(0)))
    with bench.library.writing():
        bench.library.mark_gone(PHOTO, [item_id(str(bench.folder / "gone.jpg"))])
    assert [bench.page().path_bytes(0)] == [b"media/there.jpg"] and len(bench.page().library["x"]) == 1


def test_photos_are_embedded_upright_and_whole(bench: Bench) -> None:
    make_photo(bench.folder / "turned.jpg", picture((640, 320)), orientation=6)
    (bench.folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff nothing")
    add(bench.library, *(row(PHOTO, bench.folder / name, at(0)) for name in ("turned.jpg", "damaged.jpg", "lost.jpg")))
    page = bench.page()
    made = {os.path.basename(page.path_bytes(i)): thumbnail for i, thumbnail in enumerate(page.thumbnails)}
    assert made[b"damaged.jpg"] == made[b"lost.jpg"] == ""  # and yet they are on the page
    image = Image.open(BytesIO(b64decode(made[b"turned.jpg"])))
    assert (image.format, image.size) == ("WEBP", (96, 192))
    expected = picture((640, 320)).rotate(-90, expand=True).resize((96, 192), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(expected, float)).mean() < 6


def test_thumbnails_get_smaller_as_they_get_more() -> None:
    sides = [gallery.thumbnail_side(count) for count in (0, 1, 1000, 3000, 10_000, 20_000, 10**6)]
    assert sides == sorted(sides, reverse=True) and sides[0] == 192 and sides[-1] == 48
    assert gallery.thumbnail_side(20_000) ** 2 * gallery.BYTES_PER_PIXEL * 20_000 * 4 / 3 < 55e6  # base64 makes four bytes of three


def test_progress_counts_photos(bench: Bench) -> None:
    add(bench.library, *(row(PHOTO, bench.folder / f"{i}.jpg", at(i)) for i in range(gallery.THUMBNAILS_PER_SCRIPT + 3)))
    add(bench.library, row(MUSIC, bench.folder / "a.mp3", at(0)))
    heard: list[tuple[int, int]] = []
    assert gallery.write(bench.library, SPACE, bench.file, progress=lambda *counts: heard.append(counts)) == gallery.Written(131, 1)
    assert heard == [(done, 131) for done in range(1, 132)]
    assert len(Page(bench.file).thumbnails) == 131


def test_the_same_library_gives_the_same_page(bench: Bench) -> None:
    make_photo(bench.folder / "a.jpg")
    add(bench.library, row(PHOTO, bench.folder / "a.jpg", at(0)))
    add(bench.library, row(MUSIC, bench.folder / "a.mp3", at(0)))
    assert bench.page().html == bench.page().html


@pytest.mark.parametrize(
    "name", ["a b.mp3", "#1?.mp3", "50%41.mp3", "c:d.mp3", "日本 é.mp3", "'\"<&>.mp3", "line\nbreak.mp3", os.fsdecode(b"caf\xe9.mp3")]
)
def test_every_name_is_linked_and_shown(bench: Bench, name: str) -> None:
    path = str(bench.folder / "ä ?" / name)
    add(bench.library, row(MUSIC, path, at(0)))
    page = bench.page()
    assert urljoin("file:///x/page.html", (uri := page.library["folders"][0]["link"] + page.library["file"][0])) == f"file:///x/{uri}"
    assert os.path.join(os.fsencode(os.path.dirname(bench.file)), page.path_bytes(0)) == os.fsencode(path)
    assert all(ord(letter) < 128 for letter in uri)
    shown = page.library["names"].get("0", os.fsdecode(unquote_to_bytes(page.library["file"][0])))
    assert shown.isprintable() and shown.endswith(".mp3")


def test_folders_know_in_which_they_lie(bench: Bench) -> None:
    paths = ("Music/b/1.mp3", "Music/a/1.mp3", "Music/a/deep/down/2.mp3", "Pictures/3.mp3")
    add(bench.library, *(row(MUSIC, bench.folder / path, at(0)) for path in paths))
    data = bench.page().library
    folders = {folder["name"]: folder for folder in data["folders"]}
    assert list(folders) == ["media", "media/Music", "media/Music/a", "media/Music/a/deep/down", "media/Music/b", "media/Pictures"]
    names = list(folders)
    parents = {name: names[folder["parent"]] if folder["parent"] >= 0 else "" for name, folder in folders.items()}
    assert parents == {
        "media": "",
        "media/Music": "media",
        "media/Music/a": "media/Music",
        "media/Music/a/deep/down": "media/Music/a",
        "media/Music/b": "media/Music",
        "media/Pictures": "media",
    }


def test_nothing_from_a_file_can_become_code(bench: Bench) -> None:
    title = f"{NASTY} \u2028 <!-- ]]>"
    add(bench.library, row(MUSIC, bench.folder / "<script>x<" / "<b>&amp;.mp3", at(0), title=title, artist=NASTY, album=NASTY))
    page = bench.page()
    assert page.library["title"] == [title] and page.library["artist"] == [NASTY]
    assert len(page.code) == 1 and "hacked" not in page.code[0]
    assert page.html.count(b"hacked") == 3 and page.html.count(b"\\u003cscript\\u003edocument.title") == 3
    assert "\u2028" not in page.html.decode()


def test_nothing_from_a_strangers_space_can_become_code(bench: Bench, tmp_path: Path) -> None:
    """Its emotions are names that nobody has chosen here."""
    add(bench.library, row(MUSIC, bench.folder / "a.mp3", at(0)))
    hostile = replace(SPACE, name=NASTY, emotions=(NASTY, "\u2028javascript:alert(1)", *EMOTIONS[2:]))
    gallery.write(bench.library, hostile, str(tmp_path / "hostile.html"))
    page = Page(tmp_path / "hostile.html")
    assert [emotion["name"] for emotion in page.library["emotions"]][:2] == list(hostile.emotions[:2])
    assert len(page.code) == 1 and "hacked" not in page.code[0]
    assert page.html.count(b"hacked") == 1 and "\u2028" not in page.html.decode()


def test_the_policy_allows_our_script_and_nothing_of_the_network(bench: Bench) -> None:
    add(bench.library, row(MUSIC, bench.folder / "a.mp3", at(0)))
    page = bench.page()
    policy = dict(rule.strip().split(" ", 1) for rule in page.metas["Content-Security-Policy"].split(";"))
    for name, text in (("script-src", page.code[0]), ("style-src", page.style)):
        assert policy.pop(name) == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    assert policy == {
        **dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'"),
        "img-src": "data: 'self' file:",
        "media-src": "'self' file:",
    }
    assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", page.html)
    assert re.search(rb"innerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttpRequest", page.html) is None


def test_it_is_written_whole_or_not_at_all(bench: Bench) -> None:
    make_photo(bench.folder / "a.jpg")
    add(bench.library, row(PHOTO, bench.folder / "a.jpg", at(0)))
    Path(bench.file).write_text("before")

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.write(bench.library, SPACE, bench.file, progress=interrupted)
    assert Path(bench.file).read_text() == "before"
    assert sorted(os.listdir(os.path.dirname(bench.file))) == ["library", "media", "page.html"]
    with pytest.raises(UsageError, match="will not be overwritten"):
        gallery.write(bench.library, SPACE, str(bench.folder / "a.jpg"))
    with pytest.raises((UsageError, MediaError)):
        gallery.write(bench.library, SPACE, str(bench.folder / "none" / "page.html"))


# --- in a browser ------------------------------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
# Frames are counted, for none may be drawn where nothing has changed.
COUNT_FRAMES = """
    window.frames_drawn = 0;
    const real = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (call) => real((now) => { window.frames_drawn++; call(now); });
"""


@dataclass
class Opened:
    page: Any
    requests: list[str]
    errors: list[str]

    def wait(self, condition: str) -> None:
        """Playwright's own waiting evaluates texts, which the page's policy forbids."""
        end = time.monotonic() + 10
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"never: {condition}"
            self.page.wait_for_timeout(20)

    def status(self) -> str:
        return str(self.page.inner_text("#status"))

    def title(self) -> str:
        """Of the selected item, empty where there is none."""
        return str(self.page.inner_text("#item h2")) if self.page.is_visible("#item") else ""

    def colours_on_the_map(self) -> int:
        """Different ones among a sample of the canvas's pixels."""
        script = """() => {
            const map = document.getElementById("map"), pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
            const seen = new Set();
            for (let i = 0; i < pixels.length; i += 4 * 7) {
                if (pixels[i + 3]) seen.add(`${pixels[i] >> 4} ${pixels[i + 1] >> 4} ${pixels[i + 2] >> 4}`);
            }
            return seen.size;
        }"""
        return int(self.page.evaluate(script))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("there is no Chromium here")
    if not find_spec("playwright"):
        pytest.skip("playwright, which drives the browser, is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--autoplay-policy=no-user-gesture-required"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def gallery_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 photos, one of them damaged, and 5 tracks: one is WMA, one is lost, and one has a name that is not UTF-8."""
    folder = tmp_path_factory.mktemp("gallery")
    library = make_library(folder / "library")
    (folder / "Pictures" / "<i>Holiday").mkdir(parents=True)
    (folder / "Music").mkdir()
    rows = []
    for i in range(12):
        path = folder / "Pictures" / ("<i>Holiday" if i % 3 == 0 else "") / f"photo {i}.jpg"
        make_photo(path, picture((300, 200), seed=i + 1)) if i != 5 else path.write_bytes(b"\xff\xd8\xff damaged")
        rows.append(row(PHOTO, path, towards(("happy", "sad")[i % 2]) + 0.3 * at(30 * i)))
    for name, emotion, title in (
        ("one.wav", "happy", NASTY),
        (os.fsdecode(b"caf\xe9.wav"), "sad", ""),
        ("three.wav", "sad", "Trois Gymnopédies"),
        ("lost.wav", "angry", "Lost"),
        ("old.wma", "scary", "Old"),
    ):
        path = folder / "Music" / name
        if name != "lost.wav":
            make_tone(path, rate_hz=8000, samples=tone(6, 8000, 1, seed=len(rows))) if name != "old.wma" else path.write_bytes(
                b"0&\xb2u" * 50
            )
        rows.append(row(MUSIC, path, towards(emotion), title=title, artist=f"By {emotion}", album="Gnossiennes", duration_s=6.0))
    add(library, *rows)
    gallery.write(library, SPACE, str(folder / "page.html"))
    return folder / "page.html"


@pytest.fixture
def open_page(browser: Any, gallery_file: Path) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def opened(file: Path = gallery_file, **options: Any) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.add_init_script(COUNT_FRAMES)
        context.set_default_timeout(10_000)
        page = context.new_page()
        seen = Opened(page, [], [])
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: message.type in ("error", "warning") and seen.errors.append(message.text))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.goto(file.as_uri())
        seen.wait("window.frames_drawn > 0")
        return seen

    yield opened
    for context in contexts:
        context.close()


def test_the_page_opens_without_errors_and_without_the_network(open_page: Callable[..., Opened], gallery_file: Path) -> None:
    seen = open_page()
    assert seen.status() == "12 photos and 5 tracks shown"
    assert seen.colours_on_the_map() > 10
    seen.page.keyboard.press("n")
    seen.page.wait_for_timeout(200)
    assert seen.page.title() == "emoclim: 12 photos, 5 tracks"
    assert not seen.errors
    assert seen.requests[0] == gallery_file.as_uri()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in seen.requests)


def test_the_network_is_forbidden(open_page: Callable[..., Opened]) -> None:
    """The policy holds in this browser: a picture, a script and a fetch are all refused before they leave it."""
    seen = open_page()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        refused = seen.page.evaluate(
            """async (url) => {
                const refused = [];
                document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
                new Image().src = url;
                document.head.append(Object.assign(document.createElement("script"), { textContent: "document.title = 'hacked'" }));
                await fetch(url).catch(() => 0);
                await new Promise((done) => setTimeout(done, 200));
                return refused.sort();
            }""",
            f"http://127.0.0.1:{server.getsockname()[1]}/x.png",
        )
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    assert refused == ["connect-src", "img-src", "script-src-elem"]
    assert seen.page.title() != "hacked"


def test_nothing_is_drawn_when_nothing_changes(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    seen.page.wait_for_timeout(300)
    before = seen.page.evaluate("frames_drawn")
    seen.page.wait_for_timeout(300)
    assert seen.page.evaluate("frames_drawn") == before
    seen.page.click("#zoom-in")
    seen.page.wait_for_timeout(200)
    assert before < seen.page.evaluate("frames_drawn") < before + 5


def test_filters_change_what_is_shown(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    counts = {name: int(page.inner_text(f"[data-emotion='{EMOTIONS.index(name)}'] .quiet")) for name in EMOTIONS}
    assert sum(counts.values()) == 17
    page.get_by_role("button", name="sad").click()
    assert seen.status() == f"{counts['sad'] - 2} photos and 2 tracks shown"
    page.get_by_role("button", name="happy").click()
    assert seen.status() == f"{counts['sad'] + counts['happy'] - 3} photos and 3 tracks shown"
    page.get_by_role("button", name="show all").click()
    assert seen.status() == "12 photos and 5 tracks shown"
    page.get_by_role("radio", name="Music").check(force=True)
    assert seen.status() == "0 photos and 5 tracks shown"
    page.get_by_role("radio", name="Photos").check(force=True)
    assert seen.status() == "12 photos and 0 tracks shown"
    page.get_by_role("radio", name="All").check(force=True)
    options = [option.strip() for option in page.locator("#folder option").all_inner_texts()]
    assert options[0] == "All folders" and "<i>Holiday" in options
    page.select_option("#folder", index=options.index("<i>Holiday"))
    assert seen.status() == "4 photos and 0 tracks shown"
    page.select_option("#folder", index=options.index("Pictures"))
    assert seen.status() == "12 photos and 0 tracks shown"  # those of the folder in it as well
    assert not seen.errors


def test_search_finds_whatever_a_title_holds(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type('"quoted" <script>')
    assert page.locator("#results li").all_inner_texts()[0].startswith(NASTY[:20])
    page.keyboard.press("Enter")
    assert seen.title() == NASTY
    assert page.title() == "emoclim: 12 photos, 5 tracks" and page.locator("#item img[src=x]").count() == 0
    page.fill("#search", "GYMNOPEDIES gnoss")  # accents and order do not matter, and the album counts
    assert page.locator("#results li").count() == 1
    page.fill("#search", "\\xe9")
    assert page.locator("#results li").all_inner_texts()[0].startswith("caf\\xe9.wav")
    page.fill("#search", "photo")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    third = page.locator("#results li[aria-selected=true]")
    assert third.count() == 1 and third.get_attribute("id") == page.get_attribute("#search", "aria-activedescendant") == "result-2"
    page.fill("#search", "no such thing")
    assert page.inner_text("#more-results") == "Nothing found."
    page.keyboard.press("Escape")
    assert page.input_value("#search") == "" and page.is_hidden("#found")
    assert not seen.errors


def select(seen: Opened, words: str) -> None:
    seen.page.fill("#search", words)
    seen.page.keyboard.press("Enter")


def test_a_track_plays(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    select(seen, "caf")
    page.get_by_role("button", name="Play caf\\xe9.wav").first.click()
    seen.wait("audio.currentTime > 0.2")
    assert page.locator("#item .play").get_attribute("aria-label") == "Pause caf\\xe9.wav"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    assert page.evaluate("audio.paused")
    page.keyboard.press("Space")
    assert not page.evaluate("audio.paused")
    page.fill("#player-seek", "500")
    assert 2.9 < page.evaluate("audio.currentTime") < 4
    assert page.inner_text("#player-problem") == ""
    assert not seen.errors


@pytest.mark.parametrize(("title", "message"), [("Lost", "may have been moved"), ("Old", "cannot play WMA files")])
def test_what_does_not_play_says_why(open_page: Callable[..., Opened], title: str, message: str) -> None:
    seen = open_page()
    select(seen, title)
    seen.page.keyboard.press("Space")
    seen.wait("document.getElementById('player-problem').textContent")
    assert message in seen.page.inner_text("#player-problem")
    assert seen.page.locator("#player-problem a").get_attribute("href").startswith("Music/")


def test_photos_and_tracks_lead_to_each_other(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    select(seen, "photo 1.jpg")
    assert seen.title() == "photo 1.jpg"
    seen.wait("document.querySelector('#item figure img').naturalWidth === 300")  # not the thumbnail, which is 192 wide
    assert page.locator("#item .bars li").count() == len(EMOTIONS)
    assert page.locator("#item .row").count() == 5
    page.locator("#item .row .go").first.click()
    assert seen.title() != "photo 1.jpg" and page.locator("#item .grid button").count() == 12
    first = page.locator("#item .grid button").first
    name = first.get_attribute("aria-label")
    first.click()
    assert seen.title() in name
    select(seen, "photo 5.jpg")  # damaged
    page.wait_for_selector("#item .problem")
    assert page.locator("#item .row").count() == 5


def test_the_map_answers_to_the_pointer(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    select(seen, "photo 3.jpg")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert seen.title() == ""
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate("""() => {
        const map = document.getElementById("map"), { left, top, width, height } = map.getBoundingClientRect();
        for (let y = top + 40; y < top + height - 60; y += 10) {
            for (let x = left + 20; x < left + width - 70; x += 10) {
                map.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
                if (!document.getElementById("tip").hidden) return [x, y];
            }
        }
    }""")
    page.mouse.move(x, y)
    found = page.inner_text("#tip b")
    assert found
    page.mouse.down()
    page.mouse.up()
    assert seen.title() == found
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 50)
    page.mouse.up()
    assert seen.title() == found  # that was no click
    page.mouse.wheel(0, -300)
    page.mouse.wheel(0, -300)
    page.click("#tab-list")
    assert "in view" in page.inner_text("#list-count") and page.inner_text("#list-count") != "12 photos and 5 tracks in view"
    page.keyboard.press("0")
    seen.wait("document.getElementById('list-count').textContent === '12 photos and 5 tracks in view'")
    assert not seen.errors


def test_the_keyboard_is_enough(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    page.focus("#map")
    page.keyboard.press("Enter")
    first = seen.title()
    assert first
    page.keyboard.press("n")
    second = seen.title()
    page.keyboard.press("n")
    assert len({first, second, seen.title()}) == 3
    page.keyboard.press("p")
    assert seen.title() == second
    seen.wait(f"document.getElementById('announce').textContent.includes('{second}')")
    page.keyboard.press("Escape")
    assert seen.title() == ""
    page.click("#tab-list")
    page.focus("#map")
    for key in ("+", "+", "+", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    seen.wait("document.getElementById('list-count').textContent !== '12 photos and 5 tracks in view'")
    page.focus("#tab-list")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == "tab-item" and page.is_visible("#panel-item")
    assert not seen.errors


def test_the_list_says_all_that_the_map_shows(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    page.click("#tab-list")
    labels = page.locator("#list .go").evaluate_all("rows => rows.map(row => row.getAttribute('aria-label'))")
    assert len(labels) == 17 and any(label.startswith("photo, photo 3.jpg, ") for label in labels)
    assert f"track, {NASTY}, By happy, happy" in labels
    page.locator("#list .go").nth(3).click()
    assert seen.title() and page.is_visible("#item")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(open_page: Callable[..., Opened], scheme: str) -> None:
    seen = open_page(color_scheme=scheme)
    brightness = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((sum, x) => sum + Number(x), 0)"
    assert (seen.page.evaluate(brightness) > 600) == (scheme == "light")
    seen.page.get_by_role("button", name="Dark colours").click()
    assert (seen.page.evaluate(brightness) > 600) == (scheme == "dark")
    assert seen.page.get_attribute("#theme", "aria-pressed") == str(scheme == "light").lower()


UNNAMED = """() => [...document.querySelectorAll("button, input, select, a, canvas, [role=listbox], [role=tablist]")]
    .filter((e) => !(e.getAttribute("aria-label") || e.closest("label")?.textContent || (e.matches("button, a") && e.textContent.trim())))
    .map((e) => e.outerHTML)"""


def test_everything_that_can_be_used_has_a_name(open_page: Callable[..., Opened]) -> None:
    seen = open_page()
    page = seen.page
    select(seen, "photo 2.jpg")
    page.keyboard.press("Space")
    page.click("#tab-list")
    assert page.evaluate(UNNAMED) == []
    select(seen, "Trois")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("[...document.images].filter((image) => !image.hasAttribute('alt')).length") == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    named = page.evaluate(
        "[...document.querySelectorAll('[aria-controls], [aria-labelledby], [aria-describedby]')].flatMap("
        "(e) => ['controls', 'labelledby', 'describedby'].map((a) => e.getAttribute(`aria-${a}`)).filter(Boolean))"
    )
    assert set(named) <= set(ids)


def test_it_fits_a_phone(open_page: Callable[..., Opened]) -> None:
    seen = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, device_scale_factor=2)
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    select(seen, "Trois")
    page.keyboard.press("Space")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.is_visible("#player") and not seen.errors


def test_thousands_of_items(open_page: Callable[..., Opened], tmp_path: Path) -> None:
    """Without thumbnails. The scale that is promised, 20,000, is benchmarked: it takes too long for a test."""
    library = make_library(tmp_path / "library")
    rng = np.random.default_rng(0)
    many = [(PHOTO, i) for i in range(1500)] + [(MUSIC, i) for i in range(900)]
    add(library, *(row(kind, tmp_path / kind / f"{i:05}", rng.standard_normal(2).astype(np.float32)) for kind, i in many))
    gallery.write(library, SPACE, str(tmp_path / "page.html"))
    seen = open_page(tmp_path / "page.html")
    assert seen.status() == "1,500 photos and 900 tracks shown"
    assert seen.page.evaluate("document.querySelectorAll('*').length") < 400
    seen.page.click("#tab-list")
    assert seen.page.locator("#list .row").count() == 100
    seen.page.get_by_role("button", name="Show 100 more of 2,300").click()
    assert seen.page.locator("#list .row").count() == 200
    seen.page.fill("#search", "0")
    assert seen.page.locator("#results li").count() == 30
    assert seen.page.inner_text("#more-results").startswith("2,")
    assert not seen.errors
