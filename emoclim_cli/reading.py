"""One file of the user's, read for an encoder: its content digest, its tags and its sample; or why there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from emoclim_cli.changes import NEVER_SEEN, Task
from emoclim_cli.errors import EmoclimError, MissingDecoder, ModelError
from emoclim_cli.media import MediaItem, MediaKind, content_digest, time_of
from emoclim_cli.rows import SkippedFile
from emoclim_cli.tags import read_music_tags, read_photo_tags


@dataclass(frozen=True, slots=True)
class Loaded:
    task: Task
    item: MediaItem
    content: str
    """`media.content_digest`."""
    sample: Any


@dataclass(frozen=True, slots=True)
class Failed:
    task: Task
    reason: str
    file: SkippedFile | None
    """What to remember; nothing of a file that has vanished, or is just being changed."""
    there: bool = False
    """It is there and may be good: what is known of it stays."""


def read(load: Callable[[str], Any], task: Task) -> Loaded | Failed:
    """`load` is an encoder's. Raises ModelError, which is not this file's fault."""
    path = task.file.path
    try:
        status = os.stat(path)
        content = content_digest(path)
        sample = load(path)
        item = _described(MediaItem(path, task.kind, status.st_size, time_of(status)), sample)
        if _state_of(os.stat(path)) != _state_of(status):  # its digest would be one file's, its features another's
            return Failed(task, "it changed while it was read: the next run takes it", None, there=True)
    except ModelError:
        raise
    except FileNotFoundError:
        return Failed(task, "it vanished while it was to be read", None)
    except OSError as error:
        return failed(task, error.strerror or str(error), NEVER_SEEN, NEVER_SEEN)
    except MissingDecoder as error:
        return failed(task, reason_of(error), NEVER_SEEN, NEVER_SEEN)
    except Exception as error:  # noqa: BLE001 - a decoder's bug must cost one file, not the run
        return failed(task, reason_of(error), status.st_size, time_of(status))
    return Loaded(task, item, content, sample)


def _state_of(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _described(item: MediaItem, sample: Any) -> MediaItem:
    """With what its tags say."""
    if item.kind is MediaKind.PHOTO:
        photo = read_photo_tags(item.path)
        return replace(item, title=photo.title, taken=photo.taken)
    music = read_music_tags(item.path)
    # What was decoded is surer than what a header claims.
    duration_s = getattr(sample, "duration_s", 0.0) or music.duration_s
    return replace(item, title=music.title, artist=music.artist, album=music.album, duration_s=float(duration_s))


def failed(task: Task, reason: str, size: int, mtime_ns: int) -> Failed:
    return Failed(task, reason, SkippedFile(task.file.path, task.kind, size, mtime_ns, reason))


def reason_of(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than one file may take"
    if not isinstance(error, EmoclimError):
        return f"{type(error).__name__}: {error}"
    return f"{error.message} ({error.hint})" if error.hint else error.message
