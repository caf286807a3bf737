"""What a person sees, drawn on a terminal of a given width, and what a script reads from a pipe."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from test_projections import a_space

from emoclim_cli import console
from emoclim_cli.changes import Plan
from emoclim_cli.checks import Check
from emoclim_cli.emotions import EMOTIONS, RETRIEVAL_EMOTIONS
from emoclim_cli.errors import EmoclimError
from emoclim_cli.evaluation import Direction
from emoclim_cli.indexing import Summary
from emoclim_cli.media import Match, MediaItem, MediaKind
from emoclim_cli.tagging import TagFigures, TagReport
from emoclim_cli.training import Epoch

LONG_TITLE = "A Very Long Title That Goes On And On, Op. 27 No. 2, in C-sharp minor, Quasi una fantasia: III. Presto agitato"
LONG_FOLDER = "/home/somebody/Pictures/2021 Ein sehr langer Ordnername, der nicht aufhört/Tag 01"
MARKUP = "[bold red]not markup[/] [/nothing] [x"
WIDE = "夜に駆ける東京の空の下でずっと待っている人がいる"


class Screen:
    """Both streams, as one terminal shows them; no colours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
        self.width = width
        self.file = io.StringIO()
        for name in ("out", "err"):
            stream = Console(file=self.file, force_terminal=True, width=width, color_system=None, highlight=False)
            monkeypatch.setattr(console, name, stream)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.file.getvalue().splitlines()]


@pytest.fixture(params=[80, 120])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch, request.param)


@pytest.fixture(autouse=True)
def loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", False)
    monkeypatch.setattr(console, "verbose", False)


def a_match(path: str, kind: MediaKind = MediaKind.MUSIC, *, score: float = 0.5, best: str = "exciting", **tags: str | float) -> Match:
    emotions = {emotion: 0.7 if emotion == best else 0.05 for emotion in EMOTIONS}
    return Match(MediaItem(path, kind, 1, 1, **tags), score, emotions)  # type: ignore[arg-type]


TRACKS = [
    a_match("/music/1.mp3", title=LONG_TITLE, artist="The Extremely Long Named Philharmonic Orchestra of Somewhere", duration_s=3723),
    a_match("/music/2.mp3", title=WIDE, artist="宇多田ヒカル", duration_s=61, best="tender"),
    a_match("/music/3.mp3", title=MARKUP, artist=MARKUP, duration_s=9),
    a_match("/music/new\nline.mp3", score=-0.25),
]
PHOTOS = [
    a_match(f"{LONG_FOLDER}/IMG_0001.jpg", MediaKind.PHOTO, taken="2021-08-14T12:00:00"),
    a_match(f"{LONG_FOLDER}/{WIDE}.jpg", MediaKind.PHOTO),
    a_match("/photos/[/]/caf\udce9 \x1b[31m.jpg", MediaKind.PHOTO),
]


# --- tables on a terminal ----------------------------------------------------------------------------------------------------------------


def test_music_fits_the_terminal_and_loses_only_of_titles_and_artists(screen: Screen) -> None:
    console.show_matches("sad", TRACKS)
    title, header, *rows, legend = screen.lines
    assert title == "sad"
    assert header.split() == ["#", "score", "feels", "artist", "title", "length"]
    assert legend == "bars: happy funny exciting tender sad scary angry"
    assert len(rows) == len(TRACKS)  # one line each
    assert all(cell_len(line) <= screen.width for line in screen.lines)
    for rank, (row, match) in enumerate(zip(rows, TRACKS, strict=True), 1):
        assert row.split()[:2] == [str(rank), f"{match.score:.2f}"]
        assert re.search(r"[▁▂▃▄▅▆▇█]{7} (exciting|tender)", row)
    assert [row.split()[-1] for row in rows[:3]] == ["1:02:03", "1:01", "0:09"]
    assert "…" in rows[0]
    assert "A Very Long" in rows[0]
    assert "not markup" in rows[2]
    assert r"new\nline" in rows[3]


def test_photos_keep_the_end_of_their_paths(screen: Screen) -> None:
    console.show_matches("sad", PHOTOS)
    rows = screen.lines[2:-1]
    assert len(rows) == len(PHOTOS)
    assert all(cell_len(line) <= screen.width for line in screen.lines)
    assert re.search(r"…\S*.*/IMG_0001\.jpg +2021-08-14$", rows[0])
    assert rows[1].endswith("待っている人がいる.jpg")
    assert rows[2].endswith(r"/photos/[/]/caf\xe9 \x1b[31m.jpg")


def test_both_kinds_in_one_table(screen: Screen) -> None:
    console.show_matches("tender+happy", [*TRACKS, *PHOTOS])
    header, *rows = screen.lines[1:-1]
    assert header.split(maxsplit=4) == ["#", "score", "feels", "kind", "artist, title or file"]
    assert len(rows) == len(TRACKS) + len(PHOTOS)
    assert all(cell_len(line) <= screen.width for line in screen.lines)
    assert [row.split()[4] for row in rows] == ["music"] * len(TRACKS) + ["photo"] * len(PHOTOS)
    assert f"宇多田ヒカル – {WIDE[:8]}" in rows[1]
    assert rows[-2].endswith("待っている人がいる.jpg")


@pytest.mark.parametrize("width", [20, 40, 60, 79, 200])
def test_no_width_breaks_a_table(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, width)
    console.show_matches(MARKUP, TRACKS)
    console.show_matches(MARKUP, PHOTOS)
    console.show_facts([("library", LONG_FOLDER)])
    assert screen.lines[0] == MARKUP
    assert all(cell_len(line) <= max(width, len(MARKUP)) or line.startswith("bars:") for line in screen.lines)


def test_nothing_matches(screen: Screen) -> None:
    console.show_matches("sad", [])
    assert screen.lines == ["nothing matches"]


def test_a_path_is_shown_relative_or_from_home_where_that_is_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    screen = Screen(monkeypatch, 200)
    paths = [here / "sub/a.jpg", home / "Pictures/b.jpg", Path("/photos/c.jpg")]
    console.show_matches("sad", [a_match(str(path), MediaKind.PHOTO) for path in paths])
    assert [row.split()[-1] for row in screen.lines[2:-1]] == ["sub/a.jpg", "~/Pictures/b.jpg", "/photos/c.jpg"]


def whole(lines: Sequence[str]) -> str:
    """What stands in a table with one wrapped column, without the places where it was wrapped."""
    return "".join("".join(lines).split())


def test_what_could_not_be_used_is_shown_whole(screen: Screen) -> None:
    console.show_errors([(f"{LONG_FOLDER}/[/]{WIDE}\x1b.jpg", "is not a photo that can be decoded")])
    assert all(cell_len(line) <= screen.width for line in screen.lines)
    assert screen.lines[0].split() == ["path", "reason"]
    text = whole(screen.lines)
    assert "…" not in text
    assert sorted(text) == sorted(whole(["path reason", LONG_FOLDER, rf"/[/]{WIDE}\x1b.jpg", "is not a photo that can be decoded"]))


def test_facts_have_no_header_and_wrap_their_values(screen: Screen) -> None:
    folder = f"{LONG_FOLDER}/[/]/library"
    console.show_facts([("library", folder), ("photos", "1,234")])
    assert all(cell_len(line) <= screen.width for line in screen.lines)
    assert whole(screen.lines) == whole(["library", folder, "photos", "1,234"])


def test_checks_say_what_mends_them(screen: Screen) -> None:
    checks = [
        Check("torch", True, "2.6"),
        Check("weights musicnn", False, f"ISC, not in {LONG_FOLDER}", "emoclim models fetch musicnn"),
        Check("extra heic", False, "photos in HEIC", "pip install 'emoclim[heic]'", needed=False),
    ]
    console.show_checks(checks)
    text = "\n".join(screen.lines)
    assert all(cell_len(line) <= screen.width for line in screen.lines)
    assert re.search(r"^torch +ok +2\.6$", text, re.MULTILINE)
    assert re.search(r"^weights musicnn +MISSING +ISC, not in", text, re.MULTILINE)
    assert re.search(r"^extra heic +absent +photos in HEIC$", text, re.MULTILINE)
    assert "  try: pip install 'emoclim[heic]'" in text
    assert "  try: emoclim models fetch musicnn" in text


def a_direction(n: int, *, known: bool = True) -> Direction:
    nan, row = float("nan"), {"p@1": 0.5, "p@5": 0.25, "mrr": 0.75, "chance_p@5": 0.125, "n": n}
    bounds = dict.fromkeys(("p@1", "p@5", "mrr"), (0.2, 0.3) if known else (nan, nan))
    confusion = {"exciting": dict.fromkeys(RETRIEVAL_EMOTIONS, 1 / 6)}
    parts = ({"exciting": row}, {"horror-game": row}, bounds, confusion) if known else ({}, {}, bounds, {})
    return Direction(*((0.5, 0.25, 0.75, 0.125) if known else (nan,) * 4), n, 7, *parts, 12.3456 if known else nan)


def test_a_report_fits_the_terminal(screen: Screen, capfd: pytest.CaptureFixture[str]) -> None:
    report = {"image->music": a_direction(99_999), "music->music": a_direction(1, known=False)}
    console.show_report(report, "sliding", confusion=True)
    assert all(cell_len(line) <= screen.width for line in screen.lines)
    title, header, first, second = screen.lines[:4]
    assert title == "macro over emotions, sliding level"
    names = ["direction", "P@1", "P@5", "P@5 95 %", "MRR", "MRR 95 %", "chance", "hubs", "queries"]
    assert re.split("  +", header) == names
    assert re.split("  +", first) == ["image->music", *"0.500 0.250 0.20-0.30 0.750 0.20-0.30 0.125 12.35 99,999".split()]
    assert re.split("  +", second) == ["music->music", *"-------", "1"]
    assert re.split("  +", screen.lines[-1]) == ["image->music", "exciting", *["0.167"] * 6]
    screen.file.truncate(0)
    console.show_report(report, "sliding")
    assert "0.167" not in "\n".join(screen.lines)
    assert set(capfd.readouterr().out) == {"\n"}  # between tables


# --- notes, warnings, errors -------------------------------------------------------------------------------------------------------------


def test_long_messages_are_wrapped_by_the_terminal_alone(screen: Screen) -> None:
    """A line break in the middle of a path could not be copied."""
    path = f"{LONG_FOLDER}/{LONG_FOLDER}/[/].jpg"
    console.note(f"wrote {path}")
    console.warn(f"{path}: is empty")
    console.show_error(EmoclimError(f"there is no library in {path}", f"emoclim index {path}"))
    assert screen.lines == [
        f"wrote {path}",
        f"warning: {path}: is empty",
        f"error: there is no library in {path}",
        f"  try: emoclim index {path}",
    ]


def test_quiet_leaves_warnings_and_errors(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", True)
    console.note("a note")
    console.show_summary(Summary(seen=1, errors=[{"path": "/x", "reason": "is empty"}]), 1.0)
    with console.progress("reading", 3) as advance:
        advance(1)
    assert screen.lines == []
    console.warn("a warning")
    console.show_error(EmoclimError("an error"))
    assert screen.lines == ["warning: a warning", "error: an error"]


def test_the_summary_of_a_run(screen: Screen) -> None:
    errors = [{"path": f"/photos/{i}\n.jpg", "reason": "is empty"} for i in range(7)]
    summary = Summary(seen=1234, indexed=1200, unchanged=20, moved=7, gone=1, skipped=7, offline_roots=["/disk"], errors=errors)
    console.show_summary(summary, 12.34)
    assert screen.lines == [
        "1,234 files seen, 1,200 indexed, 20 unchanged, 7 moved, 1 gone, 7 skipped in 12.3 s",
        "warning: /disk is not there now; what is known of it is kept",
        *(rf"warning: /photos/{i}\n.jpg: is empty" for i in range(5)),
        "warning: 2 more; all of them: emoclim errors",
    ]


def test_the_summary_of_a_dry_run_and_of_a_verbose_one(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    console.show_summary(Summary.forecast(Plan(None, seen=1)), 0.0, dry=True)
    assert screen.lines == ["1 file seen, 0 to index, 0 unchanged"]
    monkeypatch.setattr(console, "verbose", True)
    console.show_summary(Summary(errors=[{"path": str(i), "reason": "is empty"} for i in range(7)]), 0.0)
    assert len(screen.lines) == 2 + 7


def test_progress_is_drawn_on_a_terminal_and_leaves_nothing_behind(screen: Screen) -> None:
    with console.progress("reading", 36) as advance:
        advance(12)
    drawn = screen.file.getvalue()
    assert "reading" in drawn
    assert "12/36" in drawn
    assert drawn.rstrip("\n").endswith("\x1b[2K")  # the line is erased


def test_a_download_counts_bytes(screen: Screen) -> None:
    with console.progress("musicnn", 29_292_476, bytes_=True) as advance:
        advance(12_000_000)
    assert "12.0/29.3 MB" in screen.file.getvalue()


EPOCHS = [
    Epoch(
        number,
        {"photo->music": 0.9, "music->photo": 0.8, "photo->photo": 0.7, "music->music": 0.6 / number},
        12.345,
        {"image->music": (0.5, 0.6), "music->image": (0.4, 0.5), "image->image": (0.7, 0.8), "music->music": (0.3, number / 5)},
    )
    for number in (1, 2)
]


def test_training_is_a_table_that_grows_and_stays(screen: Screen) -> None:
    with console.training_table(15) as show:
        for epoch in EPOCHS:
            show(epoch)
    text = screen.file.getvalue()
    drawn = text[text.rindex("\x1b[2K") :].replace("\x1b[2K", "").replace("\x1b[?25h", "")
    lines = [line.split() for line in drawn.splitlines() if line.strip()]
    assert lines[0] == ["photo", "music", "photo", "music", "val", "image", "music", "image", "music"]
    assert lines[1] == ["epoch", ">music", ">photo", ">photo", ">music", "loss", ">music", ">image", ">image", ">music"]
    assert lines[2] == "1/15 0.900 0.800 0.700 0.600 12.345 0.50/0.60 0.40/0.50 0.70/0.80 0.30/0.20".split()
    assert lines[3] == "2/15 0.900 0.800 0.700 0.300 12.345 0.50/0.60 0.40/0.50 0.70/0.80 0.30/0.40".split()
    assert max(cell_len(line.rstrip()) for line in drawn.splitlines()) <= 80
    assert "P@5/MRR" in drawn


def test_training_of_which_nothing_is_measured(screen: Screen) -> None:
    with console.training_table(3) as show:
        show(Epoch(1, {"photo": 0.5, "music": 0.25}, float("nan"), {}))
    assert ["1/3", "0.500", "0.250", "nan"] in [line.split() for line in screen.lines]


def test_training_into_a_pipe_is_a_line_for_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=file, force_terminal=False))
    with console.training_table(15) as show:
        show(EPOCHS[0])
    assert file.getvalue() == (
        "epoch 1/15: photo->music 0.900, music->photo 0.800, photo->photo 0.700, music->music 0.600, val loss 12.345, "
        "image->music 0.50/0.60, music->image 0.40/0.50, image->image 0.70/0.80, music->music 0.30/0.20\n"
    )


def test_training_is_quiet_where_that_was_asked_for(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", True)
    with console.training_table(15) as show:
        show(EPOCHS[0])
    assert screen.file.getvalue() == ""


def test_no_progress_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=file, force_terminal=False))
    with console.progress("reading", 36) as advance:
        advance(12)
    assert file.getvalue() == ""


# --- pipes: pytest's stdout is none ------------------------------------------------------------------------------------------------------


def fields(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_matches_are_tab_separated_lines(capfd: pytest.CaptureFixture[str]) -> None:
    odd = a_match("/photos/caf\udce9\t\n.jpg", MediaKind.PHOTO, title="two\nlines\tand tabs", score=0.12345)
    console.show_matches("sad", [TRACKS[0], odd])
    assert fields(capfd.readouterr().out) == [
        ["rank", "score", "artist", "title", "duration", "emotion", "path"],
        ["1", "0.500", TRACKS[0].item.artist, LONG_TITLE, "1:02:03", "exciting", "/music/1.mp3"],
        ["2", "0.123", "", "two lines and tabs", "", "exciting", r"/photos/caf\xe9\t\n.jpg"],
    ]


def test_no_match_is_a_header_alone(capfd: pytest.CaptureFixture[str]) -> None:
    console.show_matches("sad", [])
    assert len(fields(capfd.readouterr().out)) == 1


def test_other_tables_are_tab_separated_lines(capfd: pytest.CaptureFixture[str]) -> None:
    console.show_facts([("library", "/a [/] b")])
    console.show_errors([("/x\ty\udce9", "is\nempty")])
    console.show_checks([Check("torch", False, "no", "pip install torch"), Check("pip", False, "no", needed=False)])
    assert fields(capfd.readouterr().out) == [
        ["key", "value"],
        ["library", "/a [/] b"],
        ["path", "reason"],
        [r"/x\ty\xe9", "is empty"],
        ["check", "state", "detail", "hint"],
        ["torch", "MISSING", "no", "pip install torch"],
        ["pip", "absent", "no", ""],
    ]


def test_tags_come_best_first_and_the_unmeasured_last(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    per_tag = {"rare": TagFigures(nan, nan, 0.0, 0), MARKUP: TagFigures(0.0, 0.25, 0.25, 300), "b": TagFigures(0.5, 0.5, 0.5, 600)}
    report = TagReport(0.25, 0.375, 0.375, 1200, per_tag | {"a": TagFigures(0.5, 0.125, 0.5, 600)})
    console.show_tagging(report, "emotion")
    assert fields(capfd.readouterr().out) == [
        ["vectors", "ROC-AUC", "PR-AUC", "chance PR-AUC", "clips"],
        ["emotion", "0.250", "0.375", "0.375", "1,200"],
        [""],
        ["tag", "ROC-AUC", "PR-AUC", "chance PR-AUC", "clips"],
        ["a", "0.500", "0.125", "0.500", "600"],
        ["b", "0.500", "0.500", "0.500", "600"],
        [MARKUP, "0.000", "0.250", "0.250", "300"],
        ["rare", "-", "-", "0.000", "0"],
    ]
    screen = Screen(monkeypatch, 80)
    console.show_tagging(report, "emotion")
    assert screen.lines[0] == "macro over tags, test split"
    assert any(line.startswith(MARKUP) for line in screen.lines)
    assert screen.lines[-1].split() == ["rare", "-", "-", "0.000", "0"]


def test_paths_are_their_bytes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console.print_paths(["/photos/caf\udce9.jpg", "/music/夜.mp3"])
    assert capfdbinary.readouterr().out == b"/photos/caf\xe9.jpg\n" + "/music/夜.mp3\n".encode()


def test_json_keeps_every_byte_of_a_path(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = "/photos/caf\udce9 \\udce9 夜 \x1b\n.jpg"
    console.print_json({"path": path})
    data = capfdbinary.readouterr().out
    assert "夜".encode() in data
    assert os.fsencode(json.loads(data)["path"]) == os.fsencode(path)


# --- numbers as people read them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, ""), (-1, ""), (0.4, "0:00"), (9.5, "0:10"), (59.6, "1:00"), (3599.7, "1:00:00"), (36000, "10:00:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (78_462_149, "78 MB"), (2.5e9, "2.5 GB")])
def test_sizes(count: int, text: str) -> None:
    assert console.byte_size(count) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 files"), (1, "1 file"), (1234, "1,234 files")])
def test_counts(count: int, text: str) -> None:
    assert console.counted(count, "file") == text


def test_bars_rise_with_probability() -> None:
    bars = console.bars({"happy": 0.0, "sad": 0.4, "angry": 1.0}).plain
    assert bars == "▁▃█ angry"
    heights = [console.bars({"sad": p / 100}).plain[0] for p in range(101)]
    assert heights == sorted(heights)
    assert all(emotion in console.COLOURS for emotion in EMOTIONS)


@pytest.mark.parametrize(
    "metrics", [[], "high", {"clip": []}, {"clip": {"a": 1}}, {"clip": {"a": {"p@5": "x"}}}, {"clip": {"a": {"p@5_interval": [0.1]}}}, 7]
)
def test_metrics_that_a_stranger_wrote_are_no_crash(metrics: object, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, 80)
    console.show_space(replace(a_space(), about={"metrics": metrics, "licence": MARKUP}))
    text = screen.file.getvalue()
    assert MARKUP in text
    assert "not shown" in text
