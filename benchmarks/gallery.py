"""How the gallery copes with many items: python benchmarks/gallery.py --photos DIR [--items N] [--chromium PROGRAM]

A library of N items, a fifth of them tracks, with random features; its photos are links to those in DIR, so that thumbnails are real. The
page is opened in headless Chromium without a graphics card: the time to the first frame, and from frame to frame while the map is moved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from emoclim_cli import gallery, indexing
from emoclim_cli.library import Library, Row
from emoclim_cli.media import MediaItem, MediaKind, kind_of_file, scan
from emoclim_cli.projections import DEFAULT_SPACE, EmotionSpace, load_space

COUNT_FRAMES = """
    window.starts = [];
    const real = requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (call) => real((now) => { starts.push(performance.now()); call(now); });
"""


def synthetic(folder: Path, space: EmotionSpace, photos: list[str], n: int) -> Library:
    """Emotion vectors as they are in real libraries: towards one emotion, with something of others and a little of anything."""
    library = Library.create(folder / "library")
    rng = np.random.default_rng(0)
    counts = {MediaKind.MUSIC: n // 5, MediaKind.PHOTO: n - n // 5}
    with library.writing():
        library.set_space(indexing.space_ref(space))
        for kind, count in counts.items():
            (folder / kind).mkdir()
            weights = rng.dirichlet(np.full(len(space.emotions), 0.3), count)
            vectors = weights @ space.prototypes + 0.03 * rng.standard_normal((count, space.dim))
            vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            features = np.zeros(space.projections[kind].features_dim, np.float32)
            rows = []
            for i, vector in enumerate(vectors):
                path = folder / kind / f"{i // 200:03}" / f"{i:06}"
                if kind is MediaKind.PHOTO:
                    path.parent.mkdir(exist_ok=True)
                    path.symlink_to(photos[i % len(photos)])
                rows.append(
                    Row(MediaItem(str(path), kind, 1, 1, title=f"Title {i}", artist=f"Artist {i % 97}"), f"{i:032x}", features, vector)
                )
            library.upsert(kind, rows)
        library.snapshot()
    return library


def in_browser(page: Path, chromium: str) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    figures = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        tab = browser.new_page(viewport={"width": 1360, "height": 850})
        tab.add_init_script(COUNT_FRAMES)
        start = time.perf_counter()
        tab.goto(page.as_uri())
        figures["open and loaded, s"] = time.perf_counter() - start
        figures["first frame, s"] = tab.evaluate("starts[0]") / 1000
        box = tab.locator("#map").bounding_box()
        assert box
        x, y = box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"]
        for name, notches in (("all", 0), ("thumbnails", 9)):
            tab.mouse.move(x, y)
            for _ in range(notches):
                tab.mouse.wheel(0, -120)
            tab.wait_for_timeout(1500)
            before = tab.evaluate("starts.length")
            tab.mouse.down()
            for step in range(60):
                tab.mouse.move(x + 3 * step, y + step)
            tab.mouse.up()
            starts = tab.evaluate(f"starts.slice({before})")
            gaps = sorted(after - at for at, after in pairwise(starts))
            figures[f"frame to frame, {name}, median ms"] = statistics.median(gaps)
            figures[f"frame to frame, {name}, 95 % ms"] = gaps[int(0.95 * len(gaps))]
        browser.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome") or "")
    options = parser.parse_args()
    photos = [file.path for file in scan(os.path.abspath(options.photos)).files if kind_of_file(file.path) is MediaKind.PHOTO]
    space = load_space(DEFAULT_SPACE, Path("none"))
    folder = Path(tempfile.mkdtemp())
    try:
        library, page = synthetic(folder, space, photos, options.items), folder / "page.html"
        start = time.perf_counter()
        print(gallery.write(library, space, str(page), jobs=os.cpu_count() or 1))
        figures = {"write, s": time.perf_counter() - start, "page, MB": page.stat().st_size / 1e6}
        for name, value in (figures | in_browser(page, options.chromium)).items():
            print(f"{name}: {value:.3g}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
