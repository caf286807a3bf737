"""Everything that a person or a script sees. stdout is data, stderr is progress, notes and errors.

On a terminal a table is drawn for eyes; into a pipe the same rows go as tab-separated lines.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from emoclim_cli.emotions import RETRIEVAL_EMOTIONS
from emoclim_cli.errors import EmoclimError, OutputError
from emoclim_cli.media import Match, MediaItem, MediaKind, printable

if TYPE_CHECKING:
    from emoclim_cli.checks import Check
    from emoclim_cli.evaluation import Direction
    from emoclim_cli.indexing import Summary
    from emoclim_cli.projections import EmotionSpace
    from emoclim_cli.tagging import TagReport
    from emoclim_cli.training import Epoch

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

# Only the streams tell what is a terminal: rich also believes FORCE_COLOR, which some build servers set, and scripts read our pipes.
out = Console(highlight=False, force_terminal=os.isatty(1))
err = Console(stderr=True, highlight=False, force_terminal=os.isatty(2))
quiet = False
"""Set by `-q`: no notes, no progress; errors stay."""
verbose = False
"""Set by `-v`: every skipped file, and the traceback of an error."""
library = ""
"""Set by `--library`: what a user is told to run next is to be about the same library."""
OF_A_LIBRARY = re.compile(r"emoclim (index|match|status|errors|forget)\b[^;]*$")
"""A hint that ends in such a command."""
ERRORS_SHOWN = 5


def write_bytes(data: bytes) -> None:
    if sys.stdout is None:  # it was closed before we began
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again at its end
        if not isinstance(error, BrokenPipeError):  # else: whoever read our output has seen enough
            raise OutputError(f"the output cannot be written: {error.strerror}") from error


def print_json(data: Mapping[str, Any]) -> None:
    """One object on stdout. A name that is not UTF-8 keeps its bytes as surrogate escapes, as Python's `os.fsdecode` writes them."""
    write_bytes(json.dumps(data, ensure_ascii=False, indent=2, default=str).encode("utf-8", "backslashreplace") + b"\n")


def print_paths(paths: Sequence[str]) -> None:
    write_bytes(b"".join(os.fsencode(path) + b"\n" for path in paths))


def note(message: str) -> None:
    if not quiet:
        err.print(Text(message), soft_wrap=True)


def warn(message: str) -> None:
    err.print(Text.assemble(("warning: ", "yellow"), message), soft_wrap=True)


def again(command: str) -> str:
    """A command of ours as the user is to type it."""
    named = f" --library {shlex.quote(printable(library))}" if library and "--library" not in command else ""
    return command + named


def show_error(error: EmoclimError) -> None:
    err.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        hint = again(error.hint) if OF_A_LIBRARY.search(error.hint) else error.hint
        err.print(Text.assemble(("  try: ", "dim"), hint), soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Tail:
    """A table cell that loses its beginning where there is no room: of a path the end tells most."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self.text
        while cell_len(text) > max(options.max_width, 1):
            text = "…" + text.removeprefix("…")[1:]
        yield Text(text, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, cell_len(self.text)).with_maximum(options.max_width)


Cell = str | Text | Tail


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    right: Sequence[str] = (),
    elastic: Sequence[str] = (),
    title: str = "",
    caption: str = "",
    header: bool = True,
) -> None:
    """On a terminal the `elastic` columns alone give way where there is little room: their cells go over several lines.

    The title, the caption and no header are for terminals only.
    """
    if not out.is_terminal:
        _write_tabbed(columns, [[str(cell) for cell in row] for row in rows])
        return
    if title:
        out.print(Text(title, "bold"), soft_wrap=True)
    table = Table(box=None, header_style="bold dim", pad_edge=False, show_header=header)
    for column in columns:
        # A column that may be wrapped is the first to be made narrower.
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold", no_wrap=column not in elastic)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))  # or rich would read [x] as markup
    out.print(table)
    if caption:
        out.print(Text(caption, "dim"), soft_wrap=True)


def _write_tabbed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = ["\t".join(columns), *("\t".join(" ".join(cell.split()) for cell in row) for row in rows)]
    write_bytes(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))


def duration(seconds: float) -> str:
    if seconds <= 0:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


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
        _write_tabbed(MATCH_FIELDS, [_match_fields(rank, m) for rank, m in enumerate(matches, 1)])
        return
    if not matches:
        note("nothing matches")
        return
    kinds = {m.item.kind for m in matches}
    mixed = len(kinds) > 1
    columns = MIXED_COLUMNS if mixed else MATCH_COLUMNS[kinds.pop()]
    rows = [(str(rank), f"{m.score:.2f}", bars(m.emotions), *_match_cells(m.item, mixed=mixed)) for rank, m in enumerate(matches, 1)]
    legend = "bars: " + " ".join(matches[0].emotions)
    elastic = ("artist", "title", "photo", "artist, title or file")
    show_table(("#", "score", "feels", *columns), rows, right=("#", "length"), elastic=elastic, title=printable(query), caption=legend)


MATCH_FIELDS = ("rank", "score", "artist", "title", "duration", "emotion", "path")
MATCH_COLUMNS = {MediaKind.MUSIC: ("artist", "title", "length"), MediaKind.PHOTO: ("photo", "taken")}
MIXED_COLUMNS = ("kind", "artist, title or file")


def _match_fields(rank: int, match: Match) -> list[str]:
    item, emotions = match.item, match.emotions
    texts = [item.artist, item.display_title, duration(item.duration_s), max(emotions, key=lambda name: emotions[name])]
    return [str(rank), f"{match.score:.3f}", *texts, printable(item.path)]


def _match_cells(item: MediaItem, *, mixed: bool) -> list[Cell]:
    if mixed:
        named = " – ".join(filter(None, (item.artist, _title(item))))
        return [str(item.kind), _clipped(named) if item.kind is MediaKind.MUSIC else Tail(_short_path(item.path))]
    if item.kind is MediaKind.MUSIC:
        return [_clipped(item.artist), _clipped(_title(item)), duration(item.duration_s)]
    return [Tail(_short_path(item.path)), item.taken[:10]]


def _clipped(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _title(item: MediaItem) -> str:
    return item.title or printable(os.path.splitext(os.path.basename(item.path))[0])


def _short_path(path: str) -> str:
    """Relative to here, or with `~`, when that is shorter."""
    home = os.path.expanduser("~")
    names = [path, os.path.relpath(path)]
    if home != "/" and path.startswith(home + os.sep):
        names.append(os.path.join("~", os.path.relpath(path, home)))
    return printable(min(names, key=len))


def emotion_cell(name: str) -> Text:
    return Text(name, COLOURS.get(name, ""))


def summary_json(summary: Summary, counts: Mapping[str, int], seconds: float) -> dict[str, Any]:
    return {**asdict(summary), **counts, "seconds": round(seconds, 3)}


def show_summary(summary: Summary, seconds: float, *, dry: bool = False) -> None:
    """What an index run did, on stderr: it is no data."""
    if quiet:
        return
    indexed = f"{summary.indexed:,} {'to index' if dry else 'indexed'}"
    parts = [f"{counted(summary.seen, 'file')} seen", indexed, f"{summary.unchanged:,} unchanged"]
    others = {"moved": summary.moved, "gone": summary.gone, "skipped": summary.skipped}
    parts += [f"{count:,} {name}" for name, count in others.items() if count]
    note(", ".join(parts) + ("" if dry else f" in {seconds:.1f} s"))
    for root in summary.offline_roots:
        warn(f"{printable(root)} is not there now; what is known of it is kept")
    shown = summary.errors if verbose else summary.errors[:ERRORS_SHOWN]
    for error in shown:
        warn(f"{printable(error['path'])}: {error['reason']}")
    if len(summary.errors) > len(shown):
        warn(f"{len(summary.errors) - len(shown):,} more; all of them: {again('emoclim errors')}")


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    show_table(("key", "value"), facts, elastic=("value",), header=False)


def show_errors(files: Sequence[tuple[str, str]]) -> None:
    show_table(("path", "reason"), [(printable(path), reason) for path, reason in files], elastic=("path", "reason"))


def emotion_rows(emotions: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, str]]:
    photos, music = emotions["photos"], emotions["music"]
    return [(name, f"{photos[name]:,}", f"{music[name]:,}") for name in photos]


def show_checks(checks: Sequence[Check]) -> None:
    states = ["ok" if check.ok else "MISSING" if check.needed else "absent" for check in checks]
    if out.is_terminal:  # has no room for a column that is mostly empty
        rows = [(c.name, state, c.detail + (f"\n  try: {c.hint}" if c.hint else "")) for c, state in zip(checks, states, strict=True)]
        show_table(("check", "", "detail"), rows, elastic=("detail",))
    else:
        _write_tabbed(("check", "state", "detail", "hint"), [(c.name, s, c.detail, c.hint) for c, s in zip(checks, states, strict=True)])


def show_weights(rows: Sequence[Mapping[str, Any]]) -> None:
    table = [
        (r["name"], r["kind"], r["licence"], byte_size(r["bytes"]) if r["bytes"] else "-", "yes" if r["present"] else "no", r["source"])
        for r in rows
    ]
    show_table(("name", "kind", "licence", "download", "present", "source"), table, right=("download",), elastic=("source",))


def space_json(space: EmotionSpace) -> dict[str, Any]:
    encoders = {"photo_encoder": space.encoders[MediaKind.PHOTO], "music_encoder": space.encoders[MediaKind.MUSIC]}
    own = {"name": space.name, "id": space.id, **encoders, "dim": space.dim, "emotions": list(space.emotions)}
    return {**own, "metrics": {}, **space.about}


def show_space(space: EmotionSpace) -> None:
    about = space.about
    facts = [("name", space.name), ("id", space.id), *((kind.plural, encoder) for kind, encoder in space.encoders.items())]
    facts += [(key, str(about[key])) for key in ("data", "licence") if key in about]
    show_facts(facts)
    try:
        tables = {level: _metric_table(directions) for level, directions in about.get("metrics", {}).items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # a stranger may have written anything there
        note("its metrics are not as emoclim writes them, and are not shown")
        return
    for level, table in tables.items():
        show_table(*table, right=METRIC_COLUMNS[1:], title=f"\nvalidation, {level} level")


def figure(value: float | None, decimals: int = 3) -> str:
    """A metric; a dash where there was nothing to measure."""
    return "-" if value is None else f"{value:.{decimals}f}"


METRIC_COLUMNS = ("direction", "P@1", "P@5", "P@5 95 %", "MRR", "MRR 95 %", "chance", "hubs", "queries")


def _metric_table(directions: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for name, d in directions.items():
        p_at_5, mrr = ((figure(d[n]), _interval(d.get(f"{n}_interval"))) for n in ("p@5", "mrr"))
        rows.append((name, figure(d["p@1"]), *p_at_5, *mrr, figure(d["chance_p@5"]), figure(d.get("hubness"), 2), f"{d['n']:,}"))
    return METRIC_COLUMNS, rows


def _interval(bounds: Sequence[float] | None) -> str:
    """A dash also for a space that was trained by an emoclim which measured none."""
    return "-" if bounds is None else f"{bounds[0]:.2f}-{bounds[1]:.2f}"


def show_report(report: Mapping[str, Direction], level: str, *, confusion: bool = False) -> None:
    """Retrieval metrics: the macro averages, then P@5 and MRR for each emotion and each source, then perhaps what is taken for what."""
    directions = {name: direction.as_json() for name, direction in report.items()}
    show_table(*_metric_table(directions), right=METRIC_COLUMNS[1:], title=f"macro over emotions, {level} level")
    for part, title in (("per_emotion", "emotion"), ("per_source", "source")):
        rows = [
            (name, of, f"{v['p@5']:.3f}", f"{v['mrr']:.3f}", f"{v['chance_p@5']:.3f}", f"{v['n']:,}")
            for name, direction in directions.items()
            for of, v in direction[part].items()
        ]
        if rows:
            write_bytes(b"\n")
            show_table(("direction", title, "P@5", "MRR", "chance", "queries"), rows, right=("P@5", "MRR", "chance", "queries"))
    if confusion:
        rows = [
            (name, asked, *(f"{shares[found]:.3f}" for found in RETRIEVAL_EMOTIONS))
            for name, direction in directions.items()
            for asked, shares in direction["confusion"].items()
        ]
        write_bytes(b"\n")
        title = "of the first five, the share of each emotion"
        show_table(("direction", "asked with", *RETRIEVAL_EMOTIONS), rows, right=RETRIEVAL_EMOTIONS, title=title)


def show_tagging(report: TagReport, vectors: str) -> None:
    """The macro averages, then each tag, the best first; those that could not be measured are last."""
    said = report.as_json()
    names = ("roc_auc", "pr_auc", "chance_pr_auc")
    columns = ("ROC-AUC", "PR-AUC", "chance PR-AUC", "clips")
    overall = (vectors, *(figure(said[name]) for name in names), f"{report.clips:,}")
    show_table(("vectors", *columns), [overall], right=columns, title="macro over tags, test split")
    write_bytes(b"\n")
    best_first = sorted(said["per_tag"].items(), key=lambda row: (-(row[1]["roc_auc"] if row[1]["roc_auc"] is not None else -1), row[0]))
    rows = [(tag, *(figure(values[name]) for name in names), f"{values['n']:,}") for tag, values in best_first]
    show_table(("tag", *columns), rows, right=columns, elastic=("tag",))


@contextmanager
def progress(label: str, total: int | None, *, bytes_: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr where that is a terminal. Yields a function that takes how much is done so far, and of how much if that is new."""
    if quiet or not err.is_terminal:
        yield lambda _done, _total=None: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    count = DownloadColumn() if bytes_ else MofNCompleteColumn()
    # The time that has passed moves while the networks are loaded and the first batch is read.
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, of=None: bar.update(task, completed=done, total=of)


@contextmanager
def training_table(epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """A table on stderr that grows by a row with each epoch, where that is a terminal; or else a line for each, unless quiet.

    Yields a function that takes an epoch.
    """
    if not err.is_terminal or quiet:
        yield lambda epoch: note(f"epoch {epoch.number}/{epochs}: {', '.join(' '.join(cell) for cell in _epoch_figures(epoch))}")
        return
    from rich.live import Live

    caption = Text("terms of the loss, its sum on validation items, and P@5/MRR there", "dim")
    table = Table(box=None, header_style="bold dim", pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")

    def add(epoch: Epoch) -> None:
        figures = _epoch_figures(epoch)
        if not table.columns:
            for name in ("epoch", *(name for name, _ in figures)):
                # The names are longer than the figures: two lines each.
                table.add_column(Text(name.replace("->", "\n>").replace(" ", "\n")), justify="right", no_wrap=True)
        table.add_row(f"{epoch.number}/{epochs}", *(value for _, value in figures))
        live.refresh()

    with Live(table, console=err, auto_refresh=False, vertical_overflow="visible") as live:
        yield add


def _epoch_figures(epoch: Epoch) -> list[tuple[str, str]]:
    """Name and value: the terms of the loss, the loss on validation items, and P@5/MRR of each direction there."""
    terms = [(name, f"{value:.3f}") for name, value in epoch.loss.items()]
    directions = [(name, "-" if p_at_5 != p_at_5 else f"{p_at_5:.2f}/{mrr:.2f}") for name, (p_at_5, mrr) in epoch.val.items()]
    return [*terms, ("val loss", f"{epoch.val_loss:.3f}"), *directions]
