"""The model card of a space: what it was trained on, how, how well it does and what not to expect of it, as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import ENCODERS
from emoclim_cli.labels import SPLITS
from emoclim_cli.projections import EmotionSpace

FEW = 20
"""Items of an emotion in a split below which its figures are called uncertain."""
LEVEL_NAMES = {"clip": "A piece of music is each of its 10-second windows:", "track": "A piece of music is the mean of its windows:"}
HOW_MEASURED = (
    "All candidates are ranked by cosine; correct are those of the query's emotion. Macro averages over emotions; chance P@5 is that of a "
    "random order. A query never finds its own photo or song. In brackets: the 95 % interval."
)
FIGURES = {"p@1": "P@1", "p@5": "P@5", "mrr": "MRR", "chance_p@5": "chance P@5", "n": "queries"}

Rows = Iterable[Sequence[str]]


def render(space: EmotionSpace, sections: Mapping[str, str] | None = None) -> str:
    """The card from what the space says of itself (`about`). `sections` are headings and markdown.

    The text of a heading that the card has follows what stands there; other headings become sections before the limits.
    """
    about, added = space.about, dict(sections or {})
    own = {
        "Encoders": _encoders(space),
        "Data": _data(about),
        "Splits": _splits(about),
        "Training": _training(about),
        "Metrics": _metrics(about),
        "Limits": _limits(about),
        "Licence": str(about.get("licence") or _encoder_licences(space)),
    }
    last = ("Limits", "Licence")
    order = [*(name for name in own if name not in last), *(name for name in added if name not in own), *last]
    bodies = {name: "\n\n".join(part.strip() for part in (own.get(name, ""), added.get(name, "")) if part.strip()) for name in order}
    first = f"Maps photos and music into one {space.dim}-dimensional emotion space, with emoclim. Its id is `{space.id}`."
    return "\n\n".join([f"# {space.name}", first, *(f"## {name}\n\n{body}" for name, body in bodies.items() if body)]) + "\n"


def table(columns: Sequence[str], rows: Rows, *, words: int = 1) -> str:
    """Markdown; the first columns are words, those after them figures, which stand at the right."""
    lines = [columns, ["---"] * words + ["---:"] * (len(columns) - words), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def figure(value: float | None) -> str:
    """A count, or a share to three decimals; a dash where there was nothing to measure."""
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _encoders(space: EmotionSpace) -> str:
    rows = []
    for kind, name in space.encoders.items():
        info = ENCODERS.get(name)
        rows.append((kind.plural, f"`{name}`", str(info.dim) if info else "-", info.licence if info else "-", f"`{space.digests[kind]}`"))
    columns = ("of", "encoder", "features", "licence", "weights")
    said = "Frozen: only the projections behind them are trained."
    if space.tuned:
        names = " and ".join(f"`{space.encoders[kind]}`" for kind in space.tuned)
        rate = space.about.get("recipe", {}).get("body_learning_rate")
        said = f"{names} was trained together with its projection, at the learning rate {rate}, and its weights come with the space."
    return f"{said}\n\n" + table(columns, rows, words=len(columns))


def _data(about: Mapping[str, Any]) -> str:
    parts = [f"{str(about['data']).removesuffix('.')}."] if "data" in about else []
    files: Mapping[str, str] = about.get("labels", {})
    if files:
        parts.append("Labels: " + ", ".join(f"`{file}` ({kind})" for kind, file in files.items() if kind != "teacher") + ".")
    for kind, columns in about.get("counts", {}).items():
        for column, title in (("by_emotion", f"{kind} by emotion"), ("by_source", f"{kind} by source")):
            if columns.get(column):
                parts.append(_counts(title, columns[column]))
    if about.get("teacher"):
        rows = ", ".join(f"{count} {emotion}" for emotion, count in about["teacher"].items())
        of_file = f" (`{files['teacher']}`)" if "teacher" in files else ""
        parts.append(f"Features of other music, from a teacher{of_file}, in the training alone: {rows}.")
    return "\n\n".join(parts)


def _counts(title: str, counts: Mapping[str, Mapping[str, int]]) -> str:
    used = [split for split in SPLITS if any(split in of_split for of_split in counts.values())]
    names = sorted(counts, key=lambda name: (EMOTIONS.index(name) if name in EMOTIONS else len(EMOTIONS), name))
    rows = [(name, *(str(counts[name].get(split, 0)) for split in used)) for name in names]
    rows.append(("all", *(str(sum(of_split.get(split, 0) for of_split in counts.values())) for split in used)))
    return table((title, *used), rows)


def _splits(about: Mapping[str, Any]) -> str:
    what = "softmax temperature that turns cosines into percentages"
    best = about.get("recipe", {}).get("best_epoch")
    chosen = f"The epoch that is kept and the {what} are chosen" if best else f"The {what} is chosen"
    text = (
        "The splits are those of the labels or, where no row names one, 80/10/10 of each emotion, drawn by the recipe's seed. The rows of "
        f"a group (a song, a photo) are in one split. The projections learn from train. {chosen} on val."
    )
    return text + (" Nothing is chosen on test." if about.get("test_metrics") else "")


def _training(about: Mapping[str, Any]) -> str:
    recipe = about.get("recipe", {})
    if not recipe:
        return "Not recorded."
    kept = f"Epoch {about['best_epoch']} of {recipe['epochs']} is kept." if "best_epoch" in about else ""
    settings = ", ".join(f"{name} {value}" for name, value in recipe.items() if name != "loss")
    return f"Two MLPs, by the loss `{recipe['loss']}`. {kept} The recipe: {settings}."


def _metrics(about: Mapping[str, Any]) -> str:
    measured = [(split, about[key]) for split, key in (("val", "metrics"), ("test", "test_metrics")) if about.get(key)]
    if not measured:
        return "Not measured; chance is the share of candidates of the query's emotion."
    parts = [HOW_MEASURED]
    for split, levels in measured:
        for level, directions in levels.items():
            parts += [f"### {split}, {level} level", LEVEL_NAMES.get(level, ""), _directions(directions)]
        directions = levels.get("clip") or next(iter(levels.values()))
        for part, title in (("per_emotion", "emotion"), ("per_source", "source")):
            rows = [(name, of, *map(figure, _figures(v))) for name, d in directions.items() for of, v in d.get(part, {}).items()]
            if rows:
                parts += [f"### {split}, by {title}", table(("direction", title, *FIGURES.values()), rows, words=2)]
    return "\n\n".join(parts)


def _figures(values: Mapping[str, Any]) -> list[float | None]:
    return [values.get(name) for name in FIGURES]


def _directions(directions: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, values in directions.items():
        cells = [figure(values.get(key)) for key in FIGURES]
        for place, key in enumerate(FIGURES):
            if values.get(f"{key}_interval"):
                low, high = values[f"{key}_interval"]
                cells[place] += f" ({low:.3f} to {high:.3f})"
        rows.append((name, *cells))
    return table(("direction", *FIGURES.values()), rows)


def _limits(about: Mapping[str, Any]) -> str:
    few = []
    for kind, columns in about.get("counts", {}).items():
        for emotion, of_split in columns["by_emotion"].items():
            few += [f"{of_split.get(split, 0)} {emotion} {kind} in {split}" for split in SPLITS[:2] if of_split.get(split, 0) < FEW]
    parts = []
    if few:
        parts.append(f"Fewer than {FEW} items, so that what is learnt or measured there moves with a handful of files: {', '.join(few)}.")
    parts.append(
        "A space says what a photo or a track tends to evoke in the people who labelled the data, not what anybody feels. Percentages are "
        "calibrated on the validation items: take them as an ordering more than as a probability."
    )
    return "\n\n".join(parts)


def _encoder_licences(space: EmotionSpace) -> str:
    licences = [f"`{name}` {ENCODERS[name].licence}" for name in space.encoders.values() if name in ENCODERS]
    said = f" The encoders: {', '.join(licences)}." if licences else ""
    return (
        f"Whoever trained it has named none for the projections; the terms of the photos and the music that they learnt from count.{said}"
    )
