"""A show as a folder that can be carried away: its tracks, its playlist, its cue sheet. The originals are read only."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from emoclim_cli.cues import CueSheet, TrackCue
from emoclim_cli.errors import MediaError, UsageError
from emoclim_cli.media import content_digest, printable, suffix_of
from emoclim_cli.outputs import replacing

NAME_LENGTH = 120
"""Characters: short enough for any disk, also where each takes two bytes."""
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
"""On the disks of some system (FAT, NTFS), or in a playlist's line."""


def copy_tracks(sheet: CueSheet, folder: str, progress: Callable[[int, int], None] = lambda _done, _total: None) -> CueSheet:
    """Copies the sheet's tracks into a folder, which is made where it is absent; gives back the sheet with the copies in their place.

    They are numbered in the order of the show. A copy that is there already stays. Raises UsageError, before anything is copied, where
    another file has the name of one, and MediaError where a track cannot be read or the disk refuses: what this call has copied is
    removed again.
    """
    first_cues = {cue.path: cue for cue in reversed(sheet.tracks)}
    paths = list(dict.fromkeys(cue.path for cue in sheet.tracks))
    copies = {path: os.path.join(folder, _name(number, first_cues[path])) for number, path in enumerate(paths, 1)}
    absent = {path: copy for path, copy in copies.items() if not _is_there(path, copy)}
    with ExitStack() as undo:
        try:
            if not os.path.isdir(folder):
                Path(folder).mkdir()
                undo.callback(_remove, os.rmdir, folder)
            for done, (path, copy) in enumerate(absent.items()):
                progress(done, len(absent))
                with replacing(copy) as temporary:
                    shutil.copyfile(path, temporary)
                undo.callback(_remove, os.unlink, copy)
            progress(len(absent), len(absent))
        except OSError as error:
            raise MediaError(f"cannot make {printable(folder)}: {error.strerror or error}", "name a folder in one that exists") from error
        undo.pop_all()
    return replace(sheet, tracks=tuple(replace(cue, path=copies[cue.path]) for cue in sheet.tracks))


def _remove(remove: Callable[[str], None], path: str) -> None:
    with suppress(OSError):
        remove(path)


def _is_there(path: str, copy: str) -> bool:
    """Raises UsageError where something else is in its place, MediaError where the track cannot be read."""
    try:
        size, digest = os.stat(path).st_size, content_digest(path)
    except OSError as error:
        raise MediaError(f"cannot read {printable(path)}: {error.strerror or error}", "emoclim index") from error
    if not os.path.lexists(copy):
        return False
    with suppress(OSError):
        if os.path.isfile(copy) and os.stat(copy).st_size == size and content_digest(copy) == digest:
            return True
    raise UsageError(f"{printable(copy)} is another file and will not be overwritten", "choose another folder for --copy-to")


def _name(number: int, cue: TrackCue) -> str:
    """`01 Artist - Title.mp3`, or the file's own name where it has no title."""
    stem = " - ".join(filter(None, (cue.artist, cue.title))) if cue.title else os.path.splitext(os.path.basename(cue.path))[0]
    suffix = FORBIDDEN.sub("", suffix_of(cue.path))
    return f"{number:02} {clean_name(stem)}".rstrip() + (f".{suffix}" if suffix else "")


def clean_name(text: str) -> str:
    """Text as a file name of any system; may be empty."""
    return " ".join(FORBIDDEN.sub(" ", text).split())[:NAME_LENGTH].strip(". ")
