"""Music encoders in torch: each window of a track through a network. Shape letters: w windows, s samples, d feature dim."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from emoclim_cli.encoders import EncoderInfo
from emoclim_cli.encoders.devices import Device, placed, runner
from emoclim_cli.encoders.windows import Window, WindowEncoder

WINDOWS_AT_ONCE = 64
"""Those that overlap are views of one array, and as many copies would not fit into memory."""


class TorchMusicEncoder(WindowEncoder):
    """`network` maps (w, s) float32 audio to (w, d) features, and keeps its spectrograms in float32 under autocast."""

    def __init__(self, info: EncoderInfo, network: nn.Module, device: Device, window: Window, item_bytes: int) -> None:
        super().__init__(info, window)
        self.device = device
        self.network = placed(network, device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # convolutions are faster so
        run = partial(runner, device=device, item_bytes=item_bytes, per_core=1)  # one by one: the same bits in any batch
        self._run, self._run_whole = run(self._reduced), run(self.network)

    def _features(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        parts = [windows[start : start + WINDOWS_AT_ONCE] for start in range(0, len(windows), WINDOWS_AT_ONCE)]
        return np.concatenate([self._features_of(torch.from_numpy(np.stack(part))) for part in parts])

    def _features_of(self, audio: Tensor) -> np.ndarray:
        features = self._run(audio)
        lost = ~np.isfinite(features).all(axis=1)
        if lost.any():  # half precision ends at 65,504
            features[lost] = self._run_whole(audio[torch.from_numpy(lost)])
        return features

    def _reduced(self, audio: Tensor) -> Tensor:
        """In the device's number format."""
        with torch.autocast(self.device.name, self.device.dtype, enabled=self.device.dtype != torch.float32):
            out: Tensor = self.network(audio)
        return out.float()
