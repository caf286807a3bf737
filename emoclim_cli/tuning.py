"""Training a music encoder's network together with its projection: the audio it learns from, and its state.

Shape letters: n items, w windows of all items together, s samples, b batch, d feature dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor, nn

from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.encoders.windows import Window
from emoclim_cli.errors import LabelError, ModelError, UnreadableMedia
from emoclim_cli.labels import LabelledItem
from emoclim_cli.media import MediaKind, printable
from emoclim_cli.recipes import Recipe

CHUNK_S = 10.0
"""Of music to learn from, what is kept in one piece: AudioSet's clips, from which the paper cuts its segments, are as long."""
FULL_SCALE = 32_767
TOGETHER = 16
"""Tracks that are read, and validation windows that go through the network, at once: either takes up to some hundred megabytes."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Windows of labelled music in a file that has no name, so that it is gone when nobody holds it any more, however a process ends."""

    windows: np.ndarray
    """(w, s) int16."""
    starts: np.ndarray
    """(n + 1,): item i owns the windows starts[i] to starts[i + 1]."""
    items: tuple[LabelledItem, ...]

    def shared(self, features: LabelledFeatures) -> LabelledFeatures:
        """Those of the items whose audio is here, too."""
        paths = {item.path for item in self.items}
        return features.take(np.array([item.path in paths for item in features.items], bool))

    def rows_of(self, items: Sequence[LabelledItem]) -> np.ndarray:
        """(len(items),): where each of them is here. Raises KeyError for one that is not."""
        rows = {item.path: row for row, item in enumerate(self.items)}
        return np.array([rows[item.path] for item in items])


def read_audio(
    items: Sequence[LabelledItem],
    window: Window,
    folder: Path,
    *,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
    unusable: Callable[[str, str], None] | None = None,
) -> Audio:
    """Decodes each piece once, into a file in `folder`: the windows that an encoder with such a `window` would hear.

    A file that cannot be read is left out and told to `unusable(path, reason)`. Raises LabelError where none is left, ModelError where the
    audio cannot be kept.
    """
    kept: list[LabelledItem] = []
    starts = [0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file, ThreadPoolExecutor(jobs) as pool:
            for start in range(0, len(items), TOGETHER):
                if progress:
                    progress(start, len(items))
                batch = items[start : start + TOGETHER]
                for item, windows in zip(batch, pool.map(partial(_read, window), batch), strict=True):
                    if isinstance(windows, np.ndarray):
                        file.write(windows.tobytes())
                        kept.append(item)
                        starts.append(starts[-1] + len(windows))
                    elif unusable:
                        unusable(printable(item.path), windows)
            if progress:
                progress(len(items), len(items))
            if not kept:
                raise LabelError(f"none of the {len(items)} labelled files can be read")
            file.flush()
            mapped = np.memmap(file, np.int16, "r", shape=(starts[-1], window.samples))
    except OSError as error:
        raise ModelError(f"the decoded audio cannot be kept in {folder}: {error.strerror}", "free some space there") from error
    return Audio(mapped, np.array(starts), tuple(kept))


def _read(window: Window, item: LabelledItem) -> np.ndarray | str:
    """(w, s) int16, or why it cannot be read."""
    try:
        audio = window.read(item.path).audio
    except (UnreadableMedia, OSError) as error:
        return str(error)
    scaled: np.ndarray = np.rint(audio * FULL_SCALE).astype(np.int16)
    return scaled


def _sound(windows: np.ndarray) -> Tensor:
    """int16 -> float32, -1..1."""
    return torch.from_numpy(np.asarray(windows, np.float32) / FULL_SCALE)


@dataclass(frozen=True, slots=True)
class Body:
    """What is trained, and on what: nothing of it is changed."""

    network: nn.Module
    """(b, s) float32 audio -> (b, d) float32 features; the weights that training begins with."""
    device: str
    """As torch calls it."""
    chunks: Audio
    """Of the items that are trained on, to cut segments from."""
    val: Audio
    """All validation items, in windows as long as the network's input."""

    @property
    def samples(self) -> int:
        return int(self.val.windows.shape[1])

    def segments(self, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """(b,) rows of `chunks` -> (b, s): of each item a random segment (paper, section 3.2) of a random chunk."""
        windows, starts = self.chunks.windows, self.chunks.starts
        numbers = starts[rows] + rng.integers(0, np.diff(starts)[rows])
        offsets = rng.integers(0, windows.shape[1] - self.samples + 1, len(rows))
        return _sound(np.stack([windows[number, at : at + self.samples] for number, at in zip(numbers, offsets, strict=True)]))


class Tuning:
    """A body in training: a copy of its network, an optimizer, and the weights of the best epoch."""

    def __init__(self, body: Body, recipe: Recipe) -> None:
        self.body = body
        self.network = deepcopy(body.network).to(body.device).requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.body_learning_rate, weight_decay=recipe.weight_decay)
        self.best: dict[str, Tensor] = {}

    def features(self, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """(b,) rows of the body's chunks -> (b, d) features of random segments, through which errors go back, in the CPU's memory."""
        self.network.train()
        features: Tensor = self.network(self.body.segments(rows, rng).to(self.body.device)).cpu()
        return features

    def validation(self) -> LabelledFeatures:
        """The features of the validation items now: an encoder's, but in float32 on any device."""
        audio = self.body.val
        self.network.eval()
        with torch.no_grad():
            parts = [
                self.network(_sound(audio.windows[start : start + TOGETHER]).to(self.body.device)).cpu().numpy()
                for start in range(0, len(audio.windows), TOGETHER)
            ]
        return LabelledFeatures(MediaKind.MUSIC, np.concatenate(parts), audio.starts, audio.items)

    def keep(self) -> None:
        """These weights are the best so far."""
        self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.network.state_dict().items()}

    def saved(self) -> dict[str, Tensor]:
        """All that training changes, by name, in the CPU's memory."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments(self.optimizer).items()}
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Brings it to where `saved` was called."""
        self.network.load_state_dict(below("network.", tensors))
        self.best = below("best.", tensors)
        set_moments(self.optimizer, below("optimizer.", tensors))


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers: number of the parameter, a dot, name -> tensor."""
    return {f"{number}.{name}": tensor for number, of in optimizer.state_dict()["state"].items() for name, tensor in of.items()}


def set_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """A network's weights as `encoders.build` takes them for `tuned`. Raises ModelError where they cannot be written."""
    from safetensors.torch import save

    try:
        path.write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}))
    except OSError as error:
        raise ModelError(f"the tuned weights cannot be written to {path}: {error.strerror}") from error
