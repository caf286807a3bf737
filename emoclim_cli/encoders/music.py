"""Music encoders on ONNX Runtime: each window of a track through one or more networks, pooled to one vector per track.

Shape letters: n tracks, w windows, s samples, p network inputs, d feature dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emoclim_cli.audio import AudioWindows, read_windows
from emoclim_cli.encoders import EncoderInfo, musicnn, vibenet
from emoclim_cli.encoders.devices import core_pool
from emoclim_cli.errors import ModelError

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 10.0
MAX_WINDOWS = 6
"""A minute of a track, spread over its length."""
MAX_OVERLAPPING_WINDOWS = 240
"""Ten minutes of a track at an overlap of 75 %; of a longer one as many, spread over its length."""


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


class MusicEncoder:
    def __init__(self, info: EncoderInfo, paths: Sequence[Path]) -> None:
        # ONNX Runtime's wheels report their use to its makers, unless told not to before it is loaded. Nothing is to leave this machine.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime as ort

        self.info = info
        self._pool = core_pool()
        self._networks = [NETWORKS[name] for name in info.weights]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # see core_pool
        try:
            self._sessions = [ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in paths]
        except Exception as error:  # ONNX Runtime's own exceptions share no base but Exception
            raise ModelError(f"the weights of {info.name} cannot be loaded: {error}", "emoclim models verify") from error

    def load(self, path: str) -> AudioWindows:
        overlap = self.info.overlap
        most = MAX_OVERLAPPING_WINDOWS if overlap else MAX_WINDOWS
        return read_windows(path, sample_rate_hz=SAMPLE_RATE_HZ, window_s=WINDOW_S, max_windows=most, overlap=overlap)

    def encode(self, samples: Sequence[AudioWindows]) -> np.ndarray:
        """(n, d): the mean over each track's windows."""
        return np.stack([windows.mean(axis=0) for windows in self.encode_windows(samples)])

    def encode_windows(self, samples: Sequence[AudioWindows]) -> list[np.ndarray]:
        """The features of each window: n arrays (w, d)."""
        features = list(self._pool.map(self._encode_window, (window for sample in samples for window in sample.audio)))
        return np.split(np.stack(features), np.cumsum([len(sample.audio) for sample in samples])[:-1])

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
