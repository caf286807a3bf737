"""CLIP's image towers (Radford et al. 2021): photos -> 512 features. Shape letters: b photos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emoclim_cli.encoders import EncoderInfo, loading
from emoclim_cli.encoders.devices import choose_device, placed, runner
from emoclim_cli.networks.vision import SIDE, VisionTransformer
from emoclim_cli.photos import read_photo

PATCHES = {"clip-vit-b-16": 16, "clip-vit-b-32": 32}
"""Weights -> side of a patch in pixels."""
PHOTOS_PER_CORE = 4
"""What one core computes at once: more gains nothing, fewer leave cores idle at the end of a batch."""
PHOTOS_PER_BATCH = {False: 32, True: 256}
"""What a caller best hands over at once, without and with an accelerator."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder:
    def __init__(self, info: EncoderInfo, path: Path, device: str) -> None:
        from safetensors.torch import load_file

        self.info = info
        self.load = partial(read_photo, side=SIDE)  # (224, 224, 3) uint8
        self.device = choose_device(device)
        self.batch_size = PHOTOS_PER_BATCH[self.device.accelerator]
        patch = PATCHES[info.weights[0]]
        with torch.device("meta"):
            tower = VisionTransformer(patch)
        with loading(info.name):
            tower.load_state_dict(load_file(path), assign=True)
        tower.compute_in(self.device.dtype)
        placed(tower, self.device)
        self.tower = tower
        self._mean, self._std = (torch.tensor(values, device=self.device.name).view(3, 1, 1) for values in (MEAN, STD))
        tokens = (SIDE // patch) ** 2 + 1
        # Of each token a block holds at once: itself, queries, keys and values, and the four times wider inside of its MLP three times.
        item_bytes = tokens * tower.conv1.out_channels * (1 + 3 + 3 * 4) * self.device.dtype.itemsize
        self._run = runner(self._features, self.device, item_bytes=item_bytes, per_core=PHOTOS_PER_CORE)

    def encode(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        return self._run(torch.from_numpy(np.stack(samples)))

    def encode_windows(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self.encode(samples)[:, None])

    def _features(self, photos: Tensor) -> Tensor:
        """(b, 224, 224, 3) uint8 -> (b, 512) float32. A quarter of what the pixels weigh as numbers is moved to a GPU."""
        pixels = photos.permute(0, 3, 1, 2).float().div_(255)
        out: Tensor = self.tower((pixels - self._mean) / self._std)
        return out


def build(info: EncoderInfo, paths: Sequence[Path], device: str) -> ClipEncoder:
    return ClipEncoder(info, paths[0], device)
