"""Music encoders on ONNX Runtime: each window of a track through one or more networks.

Shape letters: w windows, s samples, p network inputs, d feature dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emoclim_cli.encoders import EncoderInfo, loading, musicnn, vibenet
from emoclim_cli.encoders.devices import core_pool
from emoclim_cli.encoders.windows import Window, WindowEncoder
from emoclim_cli.errors import ModelError

WINDOW = Window(rate_hz=16_000, samples=160_000)


@dataclass(frozen=True, slots=True)
class Network:
    """A published network as an ONNX graph: audio (w, s) -> inputs (p, ...), p a multiple of w -> output (p, d)."""

    prepare: Callable[[np.ndarray], np.ndarray]
    input: str
    output: str
    dim: int


NETWORKS = {
    "musicnn": Network(musicnn.patches, "mel", "features", musicnn.DIM),
    "vibenet": Network(vibenet.spectrogram, "x", "mean_16", vibenet.DIM),
}


class MusicEncoder(WindowEncoder):
    def __init__(self, info: EncoderInfo, paths: Sequence[Path]) -> None:
        # ONNX Runtime's wheels report their use to its makers, unless told not to before it is loaded. Nothing is to leave this machine.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime as ort

        super().__init__(info, WINDOW)
        self._pool = core_pool()
        self._networks = [NETWORKS[name] for name in info.weights]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # see core_pool
        with loading(info.name):
            self._sessions = [ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in paths]

    def _features(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(list(self._pool.map(self._encode_window, windows)))

    def _encode_window(self, audio: np.ndarray) -> np.ndarray:
        """(s,) -> (d,), on one thread of the pool. Each input of a network goes by itself, so that none can change another's features."""
        parts = []
        for name, network, session in zip(self.info.weights, self._networks, self._sessions, strict=True):
            try:
                outputs = [
                    session.run([network.output], {network.input: x[None]})[0].reshape(network.dim) for x in network.prepare(audio[None])
                ]
            except Exception as error:
                raise ModelError(f"the network {name} cannot be run: {error}", "emoclim models verify") from error
            parts.append(np.mean(outputs, axis=0))  # a window may be several inputs (patches) of a network
        return np.concatenate(parts)


def build(info: EncoderInfo, paths: Sequence[Path], device: str) -> MusicEncoder:  # noqa: ARG001 - these networks are small: the CPU does
    return MusicEncoder(info, paths)
