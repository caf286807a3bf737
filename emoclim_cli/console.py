"""Everything that a person or a script sees. stdout is data, stderr is progress, notes and errors.

On a terminal a table is drawn for eyes; into a pipe the same rows go as tab-separated lines.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emoclim_cli.errors import EmoclimError
from emoclim_cli.media import Match, MediaItem, MediaKind, printable

if TYPE_CHECKING:
    from emoclim_cli.evaluation import Direction
    from emoclim_cli.indexing import Summary
    from emoclim_cli.projections import EmotionSpace

BARS = " ▁▂▃▄▅▆▇█"
COLOURS = {
    "happy": "yellow",
    "funny": "bright_yellow",
    "exciting": "bright_red",
    "tender": "green",
    "sad": "blue",
    "scary": "magenta",
    "angry": "red",
}

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
quiet = False
"""Set by `-q`: no notes, no progress; errors stay."""
verbose = False
"""Set by `-v`: every skipped file, and the traceback of an error."""
ERRORS_SHOWN = 5


def write_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_json(data: Mapping[str, Any]) -> None:
    """One object on stdout. A name that is not UTF-8 keeps its bytes as surrogate escapes, as Python's `os.fsdecode` writes them."""
    write_bytes(json.dumps(data, ensure_ascii=False, indent=2, default=str).encode("utf-8", "backslashreplace") + b"\n")


def print_paths(paths: Sequence[str]) -> None:
    write_bytes(b"".join(os.fsencode(path) + b"\n" for path in paths))


def note(message: str) -> None:
    if not quiet:
        err.print(Text(message))


def warn(message: str) -> None:
    err.print(Text.assemble(("warning: ", "yellow"), message))


def show_error(error: EmoclimError) -> None:
    err.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        err.print(Text.assemble(("  try: ", "dim"), error.hint), soft_wrap=True)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, right: Sequence[str] = (), title: str = "", caption: str = "") -> None:
    if not out.is_terminal:
        lines = ["\t".join(columns)] + ["\t".join(" ".join(str(cell).split()) for cell in row) for row in rows]
        write_bytes(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
        return
    table = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left", box=None, header_style="bold dim", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def duration(seconds: float) -> str:
    if seconds <= 0:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def byte_size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def bars(emotions: Mapping[str, float]) -> Text:
    """One small bar for each emotion, as high as its probability, then the name of the likeliest."""
    text = Text()
    for name, p in emotions.items():
        text.append(BARS[max(1, round(p * (len(BARS) - 1)))], COLOURS.get(name, ""))
    best = max(emotions, key=lambda name: emotions[name])
    return text.append(f" {best}", COLOURS.get(best, ""))


def match_json(match: Match) -> dict[str, Any]:
    item = match.item
    return {
        "path": item.path,
        "kind": str(item.kind),
        "score": round(match.score, 6),
        "title": item.title,
        "artist": item.artist,
        "duration_s": round(item.duration_s, 3),
        "emotions": {name: round(p, 4) for name, p in match.emotions.items()},
    }


def show_matches(query: str, matches: Sequence[Match]) -> None:
    if not out.is_terminal:
        columns = ("rank", "score", "artist", "title", "duration", "emotion", "path")
        rows = [
            (str(rank), f"{m.score:.3f}", m.item.artist, m.item.display_title, duration(m.item.duration_s), max(m.emotions, key=lambda e: m.emotions[e]), m.item.path)
            for rank, m in enumerate(matches, 1)
        ]
        lines = ["\t".join(columns)] + ["\t".join(" ".join(cell.split()) if cell is not row[-1] else printable(cell) for cell in row) for row in rows]
        write_bytes(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
        return
    if not matches:
        note("nothing matches")
        return
    music = any(m.item.kind is MediaKind.MUSIC for m in matches)
    photos = any(m.item.kind is MediaKind.PHOTO for m in matches)
    columns = ["#", "score", "feels"]
    columns += ["artist", "title", "length"] if music else []
    columns += ["photo", "taken"] if photos else []
    table = [_match_row(rank, m, music=music, photos=photos) for rank, m in enumerate(matches, 1)]
    legend = "bars: " + " ".join(matches[0].emotions)
    show_table(columns, table, right=("#", "length"), title=f"{printable(query)}", caption=legend)


def _match_row(rank: int, match: Match, *, music: bool, photos: bool) -> list[str | Text]:
    item = match.item
    row: list[str | Text] = [str(rank), f"{match.score:.2f}", bars(match.emotions)]
    is_music = item.kind is MediaKind.MUSIC
    if music:
        row += [Text(item.artist), Text(_title(item)), duration(item.duration_s)] if is_music else ["", "", ""]
    if photos:
        row += [Text(_short_path(item.path)), item.taken[:10]] if not is_music else ["", ""]
    return row


def _title(item: MediaItem) -> str:
    return item.title or printable(os.path.splitext(os.path.basename(item.path))[0])


def _short_path(path: str) -> str:
    """Relative to here when that is shorter."""
    with_home = os.path.join("~", os.path.relpath(path, home)) if (home := os.path.expanduser("~")) != "/" and path.startswith(home + os.sep) else path
    relative = os.path.relpath(path)
    return printable(relative if len(relative) < len(with_home) else with_home)


def summary_json(summary: Summary, counts: Mapping[str, int], seconds: float) -> dict[str, Any]:
    return {**asdict(summary), **counts, "seconds": round(seconds, 3)}


def show_summary(summary: Summary, seconds: float, *, dry: bool = False) -> None:
    """What an index run did, on stderr: it is no data."""
    if quiet:
        return
    parts = [f"{summary.seen:,} files seen", f"{summary.indexed:,} {'to index' if dry else 'indexed'}", f"{summary.unchanged:,} unchanged"]
    parts += [f"{count:,} {name}" for name, count in (("moved", summary.moved), ("gone", summary.gone), ("skipped", summary.skipped)) if count]
    note(", ".join(parts) + ("" if dry else f" in {seconds:.1f} s"))
    for root in summary.offline_roots:
        warn(f"{printable(root)} is not there now; what is known of it is kept")
    shown = summary.errors if verbose else summary.errors[:ERRORS_SHOWN]
    for error in shown:
        warn(f"{printable(error['path'])}: {error['reason']}")
    if len(summary.errors) > len(shown):
        warn(f"{len(summary.errors) - len(shown):,} more; all of them: emoclim errors")


def show_errors(files: Sequence[tuple[str, str]]) -> None:
    show_table(("path", "reason"), [(printable(path), reason) for path, reason in files])


def emotion_rows(emotions: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, str]]:
    photos, music = emotions["photos"], emotions["music"]
    return [(name, f"{photos[name]:,}", f"{music[name]:,}") for name in photos]


def space_json(space: EmotionSpace) -> dict[str, Any]:
    encoders = {"photo_encoder": space.encoders[MediaKind.PHOTO], "music_encoder": space.encoders[MediaKind.MUSIC]}
    return {"name": space.name, "id": space.id, **encoders, "dim": space.dim, "emotions": list(space.emotions), **space.about}


def show_space(space: EmotionSpace) -> None:
    about = space.about
    rows = [("space", f"{space.name} ({space.id})"), ("photos", space.encoders[MediaKind.PHOTO]), ("music", space.encoders[MediaKind.MUSIC])]
    rows += [(key, str(about[key])) for key in ("data", "licence") if key in about]
    show_table(("space", "") if out.is_terminal else ("key", "value"), rows[1:] if out.is_terminal else rows, title=rows[0][1])
    for level, directions in about.get("metrics", {}).items():
        show_table(*_metric_table(directions), right=METRIC_COLUMNS[1:], title=f"validation, {level} level" if out.is_terminal else "")


METRIC_COLUMNS = ("direction", "P@1", "P@5", "MRR", "chance", "queries")


def _metric_table(directions: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    names = ("p@1", "p@5", "mrr", "chance_p@5")
    return METRIC_COLUMNS, [(name, *(f"{d[n]:.3f}" for n in names), f"{d['n']:,}") for name, d in directions.items()]


def show_report(report: Mapping[str, Direction], level: str) -> None:
    """Retrieval metrics: the macro averages, then P@5 and MRR for each emotion and each source."""
    directions = {name: direction.as_json() for name, direction in report.items()}
    show_table(*_metric_table(directions), right=METRIC_COLUMNS[1:], title=f"macro over emotions, {level} level" if out.is_terminal else "")
    for part, title in (("per_emotion", "emotion"), ("per_source", "source")):
        rows = [
            (name, of, f"{v['p@5']:.3f}", f"{v['mrr']:.3f}", f"{v['chance_p@5']:.3f}", f"{v['n']:,}")
            for name, direction in directions.items()
            for of, v in direction[part].items()
        ]
        if rows:
            write_bytes(b"\n")
            show_table(("direction", title, "P@5", "MRR", "chance", "queries"), rows, right=("P@5", "MRR", "chance", "queries"))


@contextmanager
def progress(label: str, total: int | None, *, bytes_: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal. Yields a function that takes how much is done so far."""
    if quiet or not err.is_terminal:
        yield lambda done: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn() if bytes_ else MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
