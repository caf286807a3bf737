"""index, match, status, errors, forget: the library and what is asked of it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.commands.options import DeviceOption, JsonOption, LibraryOption, OfflineOption, SpaceOption
from emoclim_cli.errors import NoLibrary, UsageError
from emoclim_cli.media import MediaKind, kind_of_file, printable

if TYPE_CHECKING:
    from emoclim_cli.changes import Plan
    from emoclim_cli.library import Library, Root

ENGINES = ("local", "ray")
FOLDERS_TOLD = 5


def index(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Folders and files; none: those known already.")] = None,
    library: LibraryOption = "",
    space: SpaceOption = "",
    device: DeviceOption = "auto",
    jobs: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that read files; 0: one per core.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=0, metavar="N", help="Files that are encoded and committed together; 0: what suits the device.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Names or paths below PATH to leave out; remembered; more add up.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 where a file could not be used.")] = False,
    offline: OfflineOption = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read and encode every file again.")] = False,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="Where files are read and encoded.")] = "local",
    ray_address: Annotated[
        str, typer.Option(metavar="HOST:PORT|auto", help="The cluster (or RAY_ADDRESS); none: one of this machine's own.")
    ] = "",
    ray_workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Worker processes of the cluster; 0: one for each machine, or for each GPU.")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Reads photos and music into the library. Files that have not changed are skipped."""
    import tempfile

    from emoclim_cli.library import Library

    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: unknown", f"one of: {', '.join(ENGINES)}")
    if engine == "local" and (ray_address or ray_workers):
        raise UsageError("--ray-address and --ray-workers are for a Ray cluster", "add --engine ray")
    folder = places.library_folder(library)
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
            offline=places.is_offline(offline),
            rebuild=rebuild,
            cluster=places.Cluster(ray_address, ray_workers) if engine == "ray" else None,
            json=json,
        )
        return
    from emoclim_cli import indexing

    with tempfile.TemporaryDirectory() as nothing:  # a dry run makes no library
        try:
            opened = Library.open(folder)
        except NoLibrary:
            opened = Library.create(nothing)
        roots = _roots(opened, paths, exclude or [])
        plan = indexing.plan(opened, roots, indexing.space_ref(places.load_space(space, opened)), rebuild=rebuild)
        summary = indexing.Summary.forecast(plan)
        if json:
            console.print_json(console.summary_json(summary, _counts(opened), 0.0))
            return
        for label in ("new", "changed", "moved", "copied", "gone"):
            for task in getattr(plan, label):
                console.write_bytes(f"{label}\t{printable(task.file.path)}\n".encode())
        _tell_missing(plan)
        console.show_summary(summary, 0.0, dry=True)


def _absolute(paths: Sequence[str]) -> list[str]:
    """Raises UsageError for an empty path, which a script's unset variable gives and which would mean the current folder."""
    if not all(paths):
        raise UsageError("an empty path", "name the folder; . is the current one")
    return list(dict.fromkeys(map(os.path.abspath, paths)))


def _roots(library: Library, paths: Sequence[str] | None, exclude: Sequence[str]) -> list[Root]:
    """What to scan. Globs are remembered and add up, until their root is forgotten."""
    from emoclim_cli.library import Root

    def globs(remembered: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*remembered, *exclude]))

    known = {root.path: root for root in library.roots}
    if not paths:
        if not known:
            raise UsageError("no folder is known yet", "name what to index: emoclim index ~/Pictures ~/Music")
        return [Root(root.path, globs(root.exclude)) for root in known.values()]
    absolute = _absolute(paths)
    for path in absolute:
        if path not in known and os.path.isfile(path) and os.access(path, os.R_OK) and kind_of_file(path) is None:
            raise UsageError(f"{printable(path)} is neither a photo nor music", "name a folder, a photo or a track")
    return [Root(path, globs(known[path].exclude if path in known else ())) for path in absolute]


def _tell_missing(plan: Plan) -> None:
    """Folders of which something is known, and which are not there, as a disk that is not: what was in them comes back with them."""
    missing = sorted(plan.missing_folders().items())
    for folder, count in missing[:FOLDERS_TOLD]:
        console.note(f"{printable(folder)} is not there: {console.counted(count, 'item')} of it come back when it does")
    if len(missing) > FOLDERS_TOLD:
        console.note(f"and {len(missing) - FOLDERS_TOLD:,} more folders")


def _counts(library: Library) -> dict[str, int]:
    """How many items of each kind are there to be matched."""
    return {kind.plural: library.view(kind).searchable_count for kind in MediaKind}


def _index(
    library: Library,
    paths: Sequence[str] | None = None,
    *,
    space: str = "",
    device: str = "auto",
    jobs: int = 0,
    batch_size: int = 0,
    exclude: Sequence[str] = (),
    strict: bool = False,
    offline: bool = False,
    rebuild: bool = False,
    retry: bool = False,
    cluster: places.Cluster | None = None,
    json: bool = False,
) -> None:
    import time

    from emoclim_cli import indexing

    started = time.perf_counter()
    with library.writing():
        loaded = places.load_space(space, library)
        roots = _roots(library, paths, exclude)
        plan = indexing.plan(library, roots, indexing.space_ref(loaded), rebuild=rebuild, retry=retry)
        summary = indexing.Summary.of(plan)
        if plan.remap:
            console.note(f"{console.counted(plan.remap, 'item')} to map to the space {loaded.name} anew, from stored features")
        _tell_missing(plan)
        waiting = {task.file.path for task in (*plan.new, *plan.changed)}
        kinds = {task.kind for task in (*plan.new, *plan.changed)}
        done = 0
        try:
            with (
                places.engine(loaded, kinds, device, offline, jobs=jobs, batch_size=batch_size, cluster=cluster) as engine,
                console.progress("reading", plan.to_encode) as advance,
            ):
                for outcome in indexing.apply(plan, library, engine, loaded):
                    summary.count(outcome)
                    done += outcome.path in waiting
                    advance(done)
        except KeyboardInterrupt:
            command = console.again(" ".join(["emoclim index", *(shlex.quote(printable(path)) for path in paths or ())]))
            console.note(f"kept in the library: {console.counted(summary.indexed, 'file')} of this run; go on with: {command}")
            raise
    seconds = time.perf_counter() - started
    if json:
        console.print_json(console.summary_json(summary, _counts(library), seconds))
    else:
        console.show_summary(summary, seconds)
    if strict and summary.skipped:
        raise typer.Exit(1)


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
    from emoclim_cli import matching, outputs, playlists

    kinds = {"music": [MediaKind.MUSIC], "photos": [MediaKind.PHOTO], "all": list(MediaKind)}
    if to and to not in kinds:
        raise UsageError(f"--to {to}: unknown", f"one of: {', '.join(kinds)}")
    if json and paths:
        raise UsageError("--json and --paths are two outputs", "choose one of them")
    if output == "-" and (json or paths):
        raise UsageError("-o - writes a playlist to stdout, and so no other output can go there", "leave out --json and --paths")
    playlist_format = places.playlist_format(output, format)
    opened = places.open_library(library)
    space = places.load_space("", opened)
    resolved = matching.resolve(query, opened, space, places.encoder_maker(space, device, places.is_offline(offline)))
    wanted = kinds[to] if to else [resolved.kind.other if resolved.kind else MediaKind.MUSIC]
    matches = matching.match(opened, space, resolved, wanted, limit=limit, per_artist=per_artist, min_score=min_score)
    if output:
        entries = [playlists.Entry(m.item.path, m.item.title, m.item.artist, m.item.duration_s, m.score) for m in matches]
        base = None if output == "-" else os.path.dirname(os.path.abspath(output))
        data = playlists.render(playlists.Playlist(resolved.text, entries), playlist_format, base)
        if output == "-":
            console.write_bytes(data)
            return
        outputs.write_atomically(output, data)
        console.note(f"wrote {printable(output)}: {len(entries)} entries")
    if json:
        console.print_json({"query": resolved.text, "space": space.name, "matches": [console.match_json(m) for m in matches]})
    elif paths:
        console.print_paths([m.item.path for m in matches])
    elif not output or console.out.is_terminal:
        console.show_matches(resolved.text, matches)


def status(library: LibraryOption = "", json: JsonOption = False) -> None:
    """What is indexed, how fresh it is, and how it feels. Exit 0: fresh, 1: index again, 3: no library."""
    from emoclim_cli import indexing, matching

    opened = places.open_library(library)
    space = places.load_space("", opened)
    now = indexing.status(opened, indexing.space_ref(space))
    fresh = now.plan.stale == 0 and opened.space is not None and opened.space.id == space.id
    emotions = matching.emotion_counts(opened, space)
    roots = [root.path for root in now.roots]
    if json:
        about = {"photos": now.photos, "music": now.music, "roots": roots, "stale": now.plan.stale, "offline_roots": now.plan.offline_roots}
        console.print_json(
            {
                "library": str(opened.folder),
                "space": opened.space.name if opened.space else "",
                **about,
                "skipped": now.skipped,
                "emotions": emotions,
            }
        )
    else:
        rows = [
            ("library", printable(str(opened.folder))),
            ("space", opened.space.name if opened.space else ""),
            ("photos", f"{now.photos:,}"),
            ("music", f"{now.music:,}"),
            ("could not be used", f"{now.skipped:,}" + (f"  ({console.again('emoclim errors')})" if now.skipped else "")),
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
    command = console.again("emoclim index")
    return f"{stale:,} changes to take up: {command}" if stale else f"the space is another one now: {command}"


def errors(
    retry: Annotated[bool, typer.Option("--retry", help="Try them again now.")] = False,
    library: LibraryOption = "",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Files that could not be used, and why."""
    opened = places.open_library(library)
    if retry:
        _index(opened, device=device, offline=places.is_offline(offline), retry=True, json=json)
        return
    files = opened.skipped_files()
    if json:
        console.print_json({"errors": [{"path": file.path, "reason": file.reason} for file in files]})
    elif files:
        console.show_errors([(file.path, file.reason) for file in files])
    else:
        console.note("every file could be used")


def forget(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Folders or files to drop from the library; the files stay.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    library: LibraryOption = "",
    json: JsonOption = False,
) -> None:
    """Drops folders or items from the library, never from the disk."""
    from emoclim_cli import indexing
    from emoclim_cli.changes import inside

    absolute = _absolute(paths)
    opened = places.open_library(library)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("forgetting is asked for without a terminal to confirm it", "add --yes")
        names = ", ".join(map(printable, paths))
        if not typer.confirm(f"Drop {names} from the library? (Your files stay.)", err=True):
            raise typer.Exit(1)
    with opened.writing():
        removed = indexing.forget(opened, absolute)
    for root in opened.roots:
        if any(inside(path, root.path) for path in absolute):
            folder = shlex.quote(printable(root.path))
            command = console.again(f"emoclim index {folder} --exclude NAME")
            console.note(f"{folder} is still known, and the next run takes up all that is in it; or: {command}")
    if json:
        console.print_json({"removed": removed})
    else:
        console.note(f"dropped {console.counted(removed, 'item')} from the library; no file was touched")
