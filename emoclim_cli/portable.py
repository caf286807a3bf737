"""A show as a folder that can be carried away: its tracks, its playlist, its cue sheet. The originals are read only, photos stay."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace

from emoclim_cli import cues, playlists
from emoclim_cli.cues import CueSheet, TrackCue
from emoclim_cli.errors import CueError, MediaError, UsageError
from emoclim_cli.media import printable, suffix_of
from emoclim_cli.outputs import replacing, write_atomically

NAME_BYTES = 200
"""A disk takes 255, and temporary names, numbers and suffixes need some."""
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
"""On the disks of some system (FAT, NTFS), or in a playlist's line."""


def check(folder: str) -> None:
    """Raises UsageError where no such folder can be made."""
    parent = os.path.dirname(os.path.abspath(folder))
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UsageError(f"{printable(folder)} is no folder", "give --copy-to the name of a new one")
    if not os.path.isdir(parent):
        raise UsageError(f"cannot make {printable(folder)}: there is no folder {printable(parent)}", "create the folder first")


def make(sheet: CueSheet, folder: str, title: str, progress: Callable[[int, int], None] = lambda _done, _total: None) -> CueSheet:
    """Fills a folder, which is made where it is absent, with the sheet's tracks, numbered in the show's order, a playlist and the sheet.

    Gives back the sheet with the copies in the tracks' place. Photos are named by where they are. A copy that is there already stays, and
    an older playlist or sheet of a show is replaced. Raises UsageError, before anything is written, where other files are in the folder or
    no folder can be made, and MediaError where a track cannot be read or the disk refuses: what this call has made is removed again.
    """
    check(folder)
    name = clean_name(title) or "show"
    lists = [os.path.join(folder, f"{name}.{suffix}") for suffix in ("m3u8", "json")]
    for path in lists:
        _refuse_others(path)
    first_cues = {cue.path: cue for cue in reversed(sheet.tracks)}
    paths = list(dict.fromkeys(cue.path for cue in sheet.tracks))
    copies = {path: os.path.join(folder, _name(number, first_cues[path])) for number, path in enumerate(paths, 1)}
    _refuse_more(folder, {*lists, *copies.values()})
    absent = {path: copy for path, copy in copies.items() if not _is_there(path, copy)}
    copied = replace(sheet, tracks=tuple(replace(cue, path=copies[cue.path]) for cue in sheet.tracks))
    with ExitStack() as undo:
        try:
            if not os.path.isdir(folder):
                os.mkdir(folder)
                undo.callback(_remove, os.rmdir, folder)
            for done, (path, copy) in enumerate(absent.items()):
                progress(done, len(absent))
                with replacing(copy) as temporary:
                    shutil.copyfile(path, temporary)
                undo.callback(_remove, os.unlink, copy)
            playlist = playlists.of_sheet(copied, title, folder, photos_stay=True)
            for path, data in zip(
                lists, (playlists.render(playlist, "m3u8", folder), cues.write(copied, folder, photos_stay=True)), strict=True
            ):
                new = not os.path.exists(path)
                write_atomically(path, data)
                if new:
                    undo.callback(_remove, os.unlink, path)
            progress(len(absent), len(absent))
        except OSError as error:
            raise MediaError(f"cannot make {printable(folder)}: {error.strerror or error}") from error
        undo.pop_all()
    return copied


def _remove(remove: Callable[[str], None], path: str) -> None:
    with suppress(OSError):
        remove(path)


def _refuse_more(folder: str, own: Collection[str]) -> None:
    """Raises UsageError where a folder holds what is not of this show; hidden files do not count."""
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if not name.startswith(".") and os.path.join(folder, name) not in own:
            message = f"{printable(folder)} holds other files: {printable(name)}"
            raise UsageError(message, "give --copy-to an empty folder, or the name of a new one")


def _refuse_others(path: str) -> None:
    """Raises UsageError where a file that is no playlist or sheet of a show has this name."""
    if os.path.lexists(path):
        try:
            cues.read(path)
        except CueError as error:
            raise UsageError(
                f"{printable(path)} is another file and will not be overwritten", "choose another folder for --copy-to"
            ) from error


def _is_there(path: str, copy: str) -> bool:
    """Raises UsageError where something else is in its place, MediaError where the track cannot be read."""
    try:
        os.stat(path)
        if not os.path.lexists(copy):
            return False
        if os.path.isfile(copy) and filecmp.cmp(path, copy, shallow=False):
            return True
    except OSError as error:
        raise MediaError(f"cannot read {printable(path)}: {error.strerror or error}", "emoclim index") from error
    raise UsageError(f"{printable(copy)} is another file and will not be overwritten", "choose another folder for --copy-to")


def _name(number: int, cue: TrackCue) -> str:
    """`01 Artist - Title.mp3`, or the file's own name where it has no title."""
    stem = " - ".join(filter(None, (cue.artist, cue.title))) if cue.title else os.path.splitext(os.path.basename(cue.path))[0]
    suffix = FORBIDDEN.sub("", suffix_of(cue.path))
    return f"{number:02} {clean_name(stem)}".rstrip() + (f".{suffix}" if suffix else "")


def clean_name(text: str) -> str:
    """Text as a file name of any system, at most NAME_BYTES long; may be empty."""
    one_line = " ".join(FORBIDDEN.sub(" ", text).split())
    return one_line.encode()[:NAME_BYTES].decode("utf-8", "ignore").strip(". ")
