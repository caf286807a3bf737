"""Projections from frozen features into the emotion space, and the space itself as it is kept on disk.

Shape letters: n items, d feature dim, h hidden width, e emotion dim, c emotions.

A space is a folder: `space.json` (describes itself), `weights.safetensors` (arrays only), `README.md` (its model card). Applying a
projection is two small matrix products, so it is done in numpy: a query and a re-map need no torch.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.errors import ModelError
from emoclim_cli.media import MediaKind

FORMAT_VERSION = 1
SPACE_FILE, WEIGHTS_FILE = "space.json", "weights.safetensors"
LARGEST_FILES = {SPACE_FILE: 16 << 20, WEIGHTS_FILE: 1 << 30}
"""Bytes; a shipped space has 20 kB and 2 MB. What comes from a stranger may be a device, or never end."""
TUNED_FILE = "{kind}-encoder.safetensors"
"""An encoder's own weights, in a space that was trained with it unfrozen."""
PARTS = ("w1", "b1", "w2", "b2")
"""Of a projection."""
LONGEST_NAME = 200
DEFAULT_SPACE = "emoclim-1"


@dataclass(frozen=True, slots=True)
class Projection:
    """Linear - ReLU - Linear - unit norm (paper, section 2.2).

    Batch norm and the features' standardisation are folded into the first layer.
    """

    w1: np.ndarray  # (d, h)
    b1: np.ndarray  # (h,)
    w2: np.ndarray  # (h, e)
    b2: np.ndarray  # (e,)

    @property
    def features_dim(self) -> int:
        return int(self.w1.shape[0])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, e) float32 of unit norm. Raises ModelError for another feature dim."""
        if features.ndim != 2 or features.shape[1] != self.features_dim:
            raise ModelError(f"features of shape {features.shape} do not fit a projection from {self.features_dim} numbers")
        hidden = np.maximum(features.astype(np.float32, copy=False) @ self.w1 + self.b1, 0)
        return unit(hidden @ self.w2 + self.b2)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to unit norm; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    out: np.ndarray = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return out


@dataclass(frozen=True)
class EmotionSpace:
    name: str
    encoders: Mapping[MediaKind, str]
    digests: Mapping[MediaKind, str]
    """`EncoderInfo.digest` of each encoder: the features that the projections were trained on."""
    projections: Mapping[MediaKind, Projection]
    prototypes: np.ndarray
    """(c, e): where each emotion lies, unit norm."""
    emotions: tuple[str, ...] = EMOTIONS
    temperature: float = 0.1
    """Of the softmax that turns cosines to prototypes into probabilities; calibrated when the space was trained."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Training configuration, data, licence, metrics: what a reader of `space.json` needs to know."""
    tuned: Mapping[MediaKind, Path] = field(default_factory=dict)
    """The weights of encoders that were trained together with their projection, in place of the published ones."""

    @property
    def dim(self) -> int:
        return int(self.prototypes.shape[1])

    @property
    def id(self) -> str:
        """Digest of everything that decides an emotion vector: vectors with different ids must never be compared."""
        digest = blake2b(digest_size=8)
        for kind in sorted(self.encoders):
            digest.update(f"{kind}={self.encoders[kind]}:{self.digests[kind]};".encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(name.encode() + str(array.shape).encode() + array.tobytes())
        return digest.hexdigest()

    def project(self, kind: MediaKind, features: np.ndarray) -> np.ndarray:
        """(n, d) features -> (n, e) emotion vectors of unit norm."""
        return self.projections[kind](features)

    def check_features(self, kind: MediaKind, digest: str) -> None:
        """Raises ModelError where an encoder of this `EncoderInfo.digest` gives other features than the projections were trained on."""
        if digest != self.digests[kind]:
            name = self.encoders[kind]
            hint = f"emoclim models fetch {name} --from FILE, those that it was trained on; or train a space on these"
            raise ModelError(f"the space {self.name} was trained on other weights of {name} than those here", hint)

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """(n, e) -> (n, c): softmax over the cosines to the prototypes."""
        logits = vectors @ self.prototypes.T / self.temperature
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        out: np.ndarray = exp / exp.sum(axis=1, keepdims=True)
        return out

    def mood(self, emotions: Sequence[str]) -> np.ndarray:
        """(e,): the direction of one emotion, or between several. Raises ModelError for one that the space does not know."""
        unknown = [emotion for emotion in emotions if emotion not in self.emotions]
        if unknown:
            raise ModelError(f"the space {self.name} does not know {', '.join(unknown)}", f"it knows {', '.join(self.emotions)}")
        mean: np.ndarray = unit(self.prototypes[[self.emotions.index(emotion) for emotion in emotions]].mean(axis=0))
        return mean

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"prototypes": self.prototypes}
        for kind, projection in self.projections.items():
            for part in PARTS:
                arrays[f"{kind}.{part}"] = getattr(projection, part)
        return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}

    def save(self, folder: Path, card: str = "") -> None:
        """Writes `space.json`, `weights.safetensors`, tuned weights and, where there is one, the card; a space there is replaced whole.

        Raises ModelError where the folder cannot be written.
        """
        from safetensors.numpy import save as to_bytes

        own = {
            "format": FORMAT_VERSION,
            "name": self.name,
            "id": self.id,
            "photo_encoder": self.encoders[MediaKind.PHOTO],
            "music_encoder": self.encoders[MediaKind.MUSIC],
            "digests": {str(kind): digest for kind, digest in self.digests.items()},
            "dim": self.dim,
            "emotions": list(self.emotions),
            "temperature": self.temperature,
            **({"tuned": sorted(self.tuned)} if self.tuned else {}),
        }
        description = own | {key: value for key, value in self.about.items() if key not in own}
        files = {WEIGHTS_FILE: to_bytes(self._arrays()), SPACE_FILE: (json.dumps(description, indent=2) + "\n").encode()}
        if card:
            files["README.md"] = card.encode()
        temporaries: dict[str, Path] = {}
        try:
            files.update({TUNED_FILE.format(kind=kind): path.read_bytes() for kind, path in self.tuned.items()})
            temporaries = {name: folder / f".{name}.{os.getpid()}" for name in files}
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                temporaries[name].write_bytes(data)
            for name, temporary in temporaries.items():  # none before all are on the disk: they belong together
                os.replace(temporary, folder / name)
            for kind in set(MediaKind) - set(self.tuned):  # of the space that was there before
                (folder / TUNED_FILE.format(kind=kind)).unlink(missing_ok=True)
        except OSError as error:
            raise ModelError(f"the space cannot be written to {folder}: {error.strerror}") from error
        finally:
            with suppress(OSError):
                for temporary in temporaries.values():
                    temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> EmotionSpace:
        """Raises ModelError where the folder is no space, is damaged, or needs a newer emoclim."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            text = dict(json.loads(_sound_file(folder / SPACE_FILE).read_text(encoding="utf-8")))
            # First: a newer format may keep its weights elsewhere.
            if text.get("format") != FORMAT_VERSION:
                raise ModelError(
                    f"{folder} is a space of format {text.get('format')}, this emoclim reads {FORMAT_VERSION}", "upgrade emoclim"
                )
            arrays = load_file(_sound_file(folder / WEIGHTS_FILE))
        except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
            raise ModelError(f"{folder} is not a readable emotion space: {error}", "emoclim spaces list") from error
        _check_description(text, folder)
        own = {"format", "name", "id", "photo_encoder", "music_encoder", "digests", "dim", "emotions", "temperature", "tuned"}
        try:
            stated_id = text["id"]
            space = cls(
                name=str(text["name"]),
                encoders={MediaKind.PHOTO: text["photo_encoder"], MediaKind.MUSIC: text["music_encoder"]},
                digests={kind: text["digests"][kind] for kind in MediaKind},
                projections={kind: Projection(*(arrays[f"{kind}.{part}"] for part in PARTS)) for kind in MediaKind},
                prototypes=arrays["prototypes"],
                emotions=tuple(text["emotions"]),
                temperature=float(text["temperature"]),
                about={key: value for key, value in text.items() if key not in own},
                tuned={kind: folder / TUNED_FILE.format(kind=kind) for kind in map(MediaKind, text.get("tuned", ()))},
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{folder}: space.json or the weights lack {error}") from error
        _check_shapes(space, folder)
        for path in space.tuned.values():
            if not path.is_file():
                raise ModelError(f"{folder} lacks {path.name}, the tuned weights of its encoder", "install the space again")
        if stated_id != space.id:
            raise ModelError(f"{folder}: the weights are not those that space.json describes", "install the space again")
        return space


def _sound_file(path: Path) -> Path:
    """The path itself. Raises OSError, and ModelError for what is no file or too large; a link counts as what it leads to."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILES[path.name]:
        raise ModelError(f"{path} is no file of a space, or far too large for one", "emoclim spaces list")
    return path


def _check_description(text: Mapping[str, Any], folder: Path) -> None:
    """It may come from a stranger: nothing of it is to reach a terminal or a page but text, and what is reckoned with are numbers."""
    names = [text.get("name"), text.get("photo_encoder"), text.get("music_encoder")]
    emotions = text.get("emotions")
    names += emotions if isinstance(emotions, list) and emotions else [None]
    if not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable() for name in names):
        raise ModelError(f"{folder}: in space.json a name is missing, or is no line of text")
    if not all(c.isprintable() or c in "\n\t" for word in _texts(text) for c in word):
        raise ModelError(f"{folder}: space.json holds characters that do not print")
    seed = recipe.get("seed", 0) if isinstance(recipe := text.get("recipe", {}), dict) else None
    if type(seed) is not int:
        raise ModelError(f"{folder}: the recipe in space.json is not what `emoclim train` writes")


def _texts(value: Any) -> Iterator[str]:
    """All keys and values that are text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield key
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)


def _check_shapes(space: EmotionSpace, folder: Path) -> None:
    parts = {f"{kind}.{part}": getattr(projection, part) for kind, projection in space.projections.items() for part in PARTS}
    for name, array in {"prototypes": space.prototypes, **parts}.items():
        if array.dtype != np.float32 or array.size == 0 or not np.isfinite(array).all():
            raise ModelError(f"{folder}: {name} in the weights is empty, not float32, or holds what is no number")
    if space.prototypes.ndim != 2 or len(space.prototypes) != len(space.emotions) or not 0 < space.temperature < math.inf:
        raise ModelError(f"{folder}: the prototypes do not fit the emotions")
    for kind, p in space.projections.items():
        h = p.w1.shape[1] if p.w1.ndim == 2 else -1
        if p.b1.shape != (h,) or p.w2.shape != (h, space.dim) or p.b2.shape != (space.dim,):
            raise ModelError(f"{folder}: the {kind} projection's arrays do not fit each other")


def shipped_spaces() -> Path:
    """The folder of spaces that come with emoclim: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def space_folders(installed: Path) -> dict[str, Path]:
    """Name -> folder of every space: the shipped ones, then the user's in `installed`, which win."""
    found: dict[str, Path] = {}
    for parent in (shipped_spaces(), installed):
        if parent.is_dir():
            found.update({folder.name: folder for folder in sorted(parent.iterdir()) if (folder / SPACE_FILE).is_file()})
    return found


def load_space(name_or_folder: str, installed: Path) -> EmotionSpace:
    """A space by name, or by the path of its folder. Raises ModelError with the known names."""
    folders = space_folders(installed)
    if name_or_folder in folders:
        return EmotionSpace.load(folders[name_or_folder])
    if (Path(name_or_folder) / SPACE_FILE).is_file():
        return EmotionSpace.load(Path(name_or_folder))
    if Path(name_or_folder).is_dir():
        raise ModelError(
            f"the folder {name_or_folder!r} holds no space: there is no {SPACE_FILE} in it", f"known: {', '.join(folders) or 'none'}"
        )
    raise ModelError(f"there is no space {name_or_folder!r}", f"known: {', '.join(folders) or 'none'}; or give the folder of one")
