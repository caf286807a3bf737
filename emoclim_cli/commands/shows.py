"""soundtrack, slideshow, gallery: photos and music together, to be heard and seen."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.commands.options import DeviceOption, JsonOption, LibraryOption, OfflineOption
from emoclim_cli.errors import UsageError
from emoclim_cli.media import printable

if TYPE_CHECKING:
    from emoclim_cli.cues import CueSheet
    from emoclim_cli.soundtrack import Show

PhotoArguments = Annotated[list[str], typer.Argument(metavar="PHOTO|FOLDER", help="Photos, and folders of photos.")]
SecondsOption = Annotated[float, typer.Option("--seconds-per-photo", min=0.5, max=600, metavar="S", help="How long a photo is seen.")]
OrderOption = Annotated[str, typer.Option(metavar="time|name|given", help="Time taken (or of the file), file name, or as named.")]
CrossfadeOption = Annotated[float, typer.Option(min=0, max=30, metavar="S", help="How long one track fades into the next.")]
PerArtistOption = Annotated[int, typer.Option("--per-artist", min=1, metavar="N", help="No more tracks than this by one artist.")]


def soundtrack(
    photos: PhotoArguments,
    output: Annotated[str, typer.Option("-o", metavar="FILE", help="Write a playlist: .m3u8 .m3u .xspf .pls .json; - is stdout.")] = "",
    format: Annotated[str, typer.Option(metavar="NAME", help="Playlist format, where -o's suffix does not tell.")] = "",  # noqa: A002
    seconds_per_photo: SecondsOption = 4.0,
    order: OrderOption = "time",
    crossfade: CrossfadeOption = 3.0,
    per_artist: PerArtistOption = 2,
    cue: Annotated[str, typer.Option(metavar="FILE.json", help="Write the cue sheet, which `emoclim slideshow --cue` renders.")] = "",
    copy_to: Annotated[
        str, typer.Option("--copy-to", metavar="DIR", help="Make a folder of tracks, playlist and cue sheet to carry.")
    ] = "",
    library: LibraryOption = "",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """A timed soundtrack for photos, from the music in the library: scenes, a track for each, cuts on the music."""
    from emoclim_cli import cues, outputs, playlists, portable
    from emoclim_cli.changes import inside

    if output == "-" and json:
        raise UsageError("-o - writes a playlist to stdout, and so no other output can go there", "leave out --json")
    playlist_format = places.playlist_format(output, format)
    if cue == "-":
        raise UsageError("--cue writes a file", "name it: --cue show.json; a playlist that carries the sheet goes to stdout with -o -")
    if output and cue and os.path.realpath(output) == os.path.realpath(cue):
        raise UsageError(f"{printable(output)} cannot be the playlist and the cue sheet", "give -o and --cue two names")
    for path in (output, cue):
        if path not in ("", "-"):
            outputs.check(path)
    if copy_to:
        portable.check(copy_to)
    show = _compose(photos, seconds_per_photo, order, crossfade, per_artist, library, device, offline)
    title = _title(photos)
    if not json and output != "-" and (console.out.is_terminal or not (output or cue or copy_to)):
        _show_table(show)
    if output:
        base = None if output == "-" else os.path.dirname(os.path.abspath(output))
        data = playlists.render(playlists.of_sheet(show.sheet, title, base), playlist_format, base)
        if output == "-":
            console.write_bytes(data)
        else:
            outputs.write_atomically(output, data)
            console.note(f"wrote {printable(output)}: {console.duration(show.sheet.duration_s)}")
            if playlist_format not in ("m3u8", "m3u"):
                console.note("it names whole tracks; which parts are heard is in .m3u8 and in the cue sheet (--cue)")
    if cue:
        outputs.write_atomically(cue, cues.write(show.sheet, os.path.dirname(os.path.abspath(cue))))
        named = shlex.quote(printable(cue))
        console.note(f"wrote {printable(cue)}; to see it: emoclim slideshow --cue {named} -o show.mp4")
    if copy_to:
        folder = os.path.abspath(copy_to)
        with console.progress("copying", None) as advance:
            copied = portable.make(show.sheet, folder, title, advance)
        count = console.counted(len({track.path for track in copied.tracks}), "track")
        console.note(f"copied {count} to {printable(copy_to)}, with a playlist and the cue sheet; photos stay where they are")
        if any(inside(folder, root.path) for root in places.open_library(library).roots):
            console.note(f"{printable(copy_to)} is in an indexed folder: the copies will be indexed, too, unless you --exclude them")
    if json:
        console.print_json(_as_json(show))


def _title(photos: Sequence[str]) -> str:
    """What is shown: names of one or two, or the folder that all are in."""
    paths = [os.path.abspath(photo) for photo in photos]
    return " + ".join(map(os.path.basename, paths if len(paths) <= 2 else [os.path.commonpath(paths)]))


def _as_json(show: Show) -> dict[str, Any]:
    sheet = show.sheet
    scenes = []
    for number, of_scene in groupby(show.slots, lambda slot: slot.scene):
        slots = list(of_scene)
        seen = sheet.photos[slots[0].first : slots[-1].stop]
        parts = []
        for slot in slots:
            begin, end = sheet.photos[slot.first].start_s, sheet.photos[slot.stop - 1].end_s
            heard = sheet.heard(begin)
            parts.append({"track": heard.path if heard else "", "start_s": round(begin, 3), "end_s": round(end, 3)})
        whole = {"track": parts[0]["track"], "start_s": parts[0]["start_s"], "end_s": parts[-1]["end_s"]}
        about = {"scene": number, "emotion": slots[0].emotion, **whole, "parts": parts}
        scenes.append({**about, "photos": [photo.path for photo in seen]})
    return {"duration_s": round(sheet.duration_s, 3), "space": sheet.space, "scenes": scenes, **_counts(sheet), **_not_used(show)}


def _counts(sheet: CueSheet) -> dict[str, int]:
    return {"photos": len(sheet.photos), "tracks": len({track.path for track in sheet.tracks})}


def _not_used(show: Show | None) -> dict[str, Any]:
    """What a script may want to look at; nothing where a sheet is replayed."""
    skipped = [{"path": path, "reason": reason} for path, reason in show.skipped] if show else []
    return {"skipped": skipped, "notes": list(show.notes) if show else []}


def _show_table(show: Show) -> None:
    sheet = show.sheet
    rows: list[Sequence[console.Cell]] = []
    for slot in show.slots:
        begin = sheet.photos[slot.first].start_s
        heard = sheet.heard(begin)
        artist, title, at = "", "", ""
        if heard is not None:
            artist = heard.artist
            title = heard.title or printable(os.path.splitext(os.path.basename(heard.path))[0])
            at = _clock(heard.offset_s + begin - heard.start_s)
        rows.append((_clock(begin), f"{slot.stop - slot.first:,}", console.emotion_cell(slot.emotion), artist, title, at))
    columns = ("from", "photos", "feels", "artist", "title", "at")
    caption = f"{console.counted(len(sheet.photos), 'photo')}, {console.duration(sheet.duration_s)}; at: where in the track"
    console.show_table(columns, rows, right=("from", "photos", "at"), elastic=("artist", "title"), caption=caption)


def _clock(seconds: float) -> str:
    return console.duration(seconds) or "0:00"


def _compose(
    photos: Sequence[str],
    seconds_per_photo: float,
    order: str,
    crossfade: float,
    per_artist: int,
    library: str,
    device: str,
    offline: bool,
) -> Show:
    from emoclim_cli import shots
    from emoclim_cli import soundtrack as use_case

    opened = places.open_library(library)
    space = places.load_space("", opened)
    encoders = places.encoder_maker(space, device, places.is_offline(offline))
    with console.progress("reading photos", None) as advance:
        gathered = shots.gather(photos, opened, space, encoders, order=order, progress=advance)
    for path, reason in gathered.skipped:
        console.warn(f"{printable(path)} is left out: {reason}")
    settings = use_case.Settings(seconds_per_photo, crossfade, per_artist)
    heard = places.cache() / "rhythms"
    if not heard.exists():
        console.note("listening to music for the first time: librosa gets ready for half a minute, once")
    with console.progress("listening", None) as advance:
        show = use_case.compose(opened, space, gathered, settings, by_time=order == "time", cache=heard, progress=advance)
    for remark in show.notes:
        console.note(remark)
    return show


def slideshow(
    context: typer.Context,
    photos: Annotated[list[str] | None, typer.Argument(metavar="PHOTO|FOLDER", help="Photos, and folders of photos.")] = None,
    output: Annotated[str, typer.Option("-o", metavar="FILE.mp4", help="The video.")] = "",
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="In pixels.")] = "1920x1080",
    cue: Annotated[str, typer.Option(metavar="FILE.json", help="Render this cue sheet, or a playlist that carries one.")] = "",
    seconds_per_photo: SecondsOption = 4.0,
    order: OrderOption = "time",
    crossfade: CrossfadeOption = 3.0,
    per_artist: PerArtistOption = 2,
    library: LibraryOption = "",
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Photos as a video with a soundtrack from the music in the library."""
    from emoclim_cli import cues, outputs
    from emoclim_cli import slideshow as use_case

    if bool(photos) == bool(cue):
        wrong = "photos and a cue sheet are two shows" if cue else "nothing to show"
        raise UsageError(wrong, "name photos, or a cue sheet with --cue: emoclim slideshow ~/Pictures/Holiday -o holiday.mp4")
    if os.path.splitext(output)[1].lower() != ".mp4":
        raise UsageError("a slideshow is written to an MP4 file" if output else "where to?", "name it: -o holiday.mp4")
    width, height = _size(size)
    use_case.check_size((width, height))
    outputs.check(output)
    show = None
    if cue:
        for name in ("seconds_per_photo", "order", "crossfade", "per_artist"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(f"--{name.replace('_', '-')} is for a new show; --cue renders one as it is written", "edit the cue sheet")
        sheet = cues.read(cue)
    else:
        show = _compose(photos or (), seconds_per_photo, order, crossfade, per_artist, library, device, offline)
        sheet = show.sheet
    with console.progress("rendering", None) as advance:
        use_case.render(sheet, output, size=(width, height), progress=advance)
    if json:
        about = {"path": os.path.abspath(output), "duration_s": round(sheet.duration_s, 3)}
        console.print_json({**about, **_counts(sheet), **_not_used(show)})
    else:
        counts = ", ".join(console.counted(count, name.removesuffix("s")) for name, count in _counts(sheet).items())
        console.note(f"wrote {printable(output)}: {counts}, {console.duration(sheet.duration_s)}")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", text.lower())
    if found is None:
        raise UsageError(f"--size {printable(text)}: not a size", "width and height in pixels: --size 1920x1080")
    return int(found[1]), int(found[2])


def gallery(
    output: Annotated[str, typer.Option("-o", metavar="FILE.html", help="The page.")] = "",
    library: LibraryOption = "",
    json: JsonOption = False,
) -> None:
    """The library as one page: its emotion map, the tracks of each photo, the photos of each track."""
    from emoclim_cli import gallery as use_case
    from emoclim_cli import outputs
    from emoclim_cli.encoders.devices import cores
    from emoclim_cli.matching import check_space

    if os.path.splitext(output)[1].lower() not in (".html", ".htm"):
        raise UsageError("a gallery is written to an HTML file" if output else "where to?", "name it: -o library.html")
    outputs.check(output)
    opened = places.open_library(library)
    space = places.load_space("", opened)
    check_space(opened, space)
    with console.progress("thumbnails", None) as advance:
        written = use_case.write(opened, space, output, jobs=cores(), progress=advance)
    if json:
        console.print_json({"path": os.path.abspath(output), "photos": written.photos, "music": written.music})
    else:
        counts = f"{console.counted(written.photos, 'photo')}, {console.counted(written.music, 'track')}"
        console.note(f"wrote {printable(output)}: {counts}; open it in a browser")
