"""soundtrack, slideshow, gallery: photos and music together, to be heard and seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

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
    from emoclim_cli import outputs

    if output == "-" and json:
        raise UsageError("-o - writes a playlist to stdout, and so no other output can go there", "leave out --json")
    playlist_format = places.playlist_format(output, format)
    if cue:
        outputs.refuse_media(cue)
    show = _compose(photos, seconds_per_photo, order, crossfade, per_artist, library, device, offline)
    title = " + ".join(os.path.basename(os.path.normpath(photo)) for photo in photos)
    if output:
        data = _playlist(show.sheet, title, playlist_format, None if output == "-" else os.path.dirname(os.path.abspath(output)))
        if output == "-":
            console.write_bytes(data)
        else:
            outputs.write_atomically(output, data)
            console.note(f"wrote {printable(output)}: {len(show.sheet.tracks)} entries, {console.duration(show.sheet.duration_s)}")
    if cue:
        _write_cue(show.sheet, cue)
    if copy_to:
        _copy(show.sheet, copy_to, title)
    if json:
        console.print_json(console.show_json(show))
    elif output != "-" and (console.out.is_terminal or not (output or cue or copy_to)):
        console.show_soundtrack(show)


def _write_cue(sheet: CueSheet, cue: str) -> None:
    from emoclim_cli import cues, outputs

    outputs.write_atomically(cue, cues.write(sheet, os.path.dirname(os.path.abspath(cue))))
    console.note(
        f"wrote {printable(cue)}: {console.counted(len(sheet.photos), 'photo')}; to see it: emoclim slideshow --cue {printable(cue)}"
    )


def _copy(sheet: CueSheet, folder: str, title: str) -> None:
    from emoclim_cli import outputs, portable

    with console.progress("copying", None) as advance:
        copied = portable.copy_tracks(sheet, os.path.abspath(folder), lambda done, total: advance(done, total))
    name = portable.clean_name(title) or "show"
    outputs.write_atomically(os.path.join(folder, f"{name}.m3u8"), _playlist(copied, title, "m3u8", os.path.abspath(folder)))
    _write_cue(copied, os.path.join(folder, f"{name}.json"))
    console.note(f"copied {console.counted(len({cue.path for cue in copied.tracks}), 'track')} to {printable(folder)}")


def _playlist(sheet: CueSheet, title: str, format_name: str, base: str | None) -> bytes:
    from emoclim_cli import cues, playlists

    head, comments = cues.m3u_comments(sheet, base)
    entries = [
        playlists.Entry(track.path, track.title, track.artist, track.end_s - track.start_s, comments=tuple(lines))
        for track, lines in zip(sheet.tracks, comments, strict=True)
    ]
    return playlists.render(playlists.Playlist(title, entries, tuple(head)), format_name, base)


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
    with console.progress("listening", None) as advance:
        show = use_case.compose(
            opened, space, gathered, settings, by_time=order == "time", cache=places.cache() / "rhythms", progress=advance
        )
    for remark in show.notes:
        console.note(remark)
    return show


def slideshow(
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
        raise UsageError("name photos, or a cue sheet with --cue", "emoclim slideshow ~/Pictures/Holiday -o holiday.mp4")
    if os.path.splitext(output)[1].lower() != ".mp4":
        raise UsageError("a slideshow is written to an MP4 file" if output else "where to?", "name it: -o holiday.mp4")
    width, height = _size(size)
    outputs.refuse_media(output)
    if cue:
        sheet = cues.read(cue)
    else:
        sheet = _compose(photos or (), seconds_per_photo, order, crossfade, per_artist, library, device, offline).sheet
    with console.progress("rendering", None) as advance:
        use_case.render(sheet, output, size=(width, height), progress=advance)
    tracks = len({track.path for track in sheet.tracks})
    if json:
        about = {"path": os.path.abspath(output), "duration_s": round(sheet.duration_s, 3), "photos": len(sheet.photos), "tracks": tracks}
        console.print_json(about)
    else:
        counts = f"{console.counted(len(sheet.photos), 'photo')}, {console.counted(tracks, 'track')}"
        console.note(f"wrote {printable(output)}: {counts}, {console.duration(sheet.duration_s)}")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal()):
        raise UsageError(f"--size {printable(text)}: not a size", "width and height in pixels: --size 1920x1080")
    return int(width), int(height)


def gallery(
    output: Annotated[str, typer.Option("-o", metavar="FILE.html", help="The page.")] = "",
    library: LibraryOption = "",
    json: JsonOption = False,
) -> None:
    """The library as one page: its emotion map, the tracks of each photo, the photos of each track."""
    from emoclim_cli import gallery as use_case
    from emoclim_cli import outputs

    if os.path.splitext(output)[1].lower() not in (".html", ".htm"):
        raise UsageError("a gallery is written to an HTML file" if output else "where to?", "name it: -o library.html")
    outputs.refuse_media(output)
    from emoclim_cli.encoders.devices import cores
    from emoclim_cli.matching import check_space

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
