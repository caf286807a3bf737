"""Music encoders on ONNX Runtime: each window of a track through one or more networks, pooled to one vector per track.

Shape letters: n tracks, w windows, p network inputs, d feature dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emoclim_cli.audio import read_windows
from emoclim_cli.encoders import EncoderInfo, musicnn, vibenet
from emoclim_cli.encoders.devices import core_pool
from emoclim_cli.errors import ModelError

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 10.0
MAX_WINDOWS = 6
"""A minute of a track, spread over its length."""


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


@dataclass(frozen=True, slots=True)
class MusicSample:
    inputs: tuple[np.ndarray, ...]
    """One array (p, ...) for each network."""
    windows: int
    duration_s: float


class MusicEncoder:
    def __init__(self, info: EncoderInfo, paths: Sequence[Path]) -> None:
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

    def load(self, path: str) -> MusicSample:
        return self.prepare(read_windows(path, sample_rate_hz=SAMPLE_RATE_HZ, window_s=WINDOW_S, max_windows=MAX_WINDOWS))

    def prepare(self, windows: Any) -> MusicSample:
        """`audio.AudioWindows` -> what the networks take."""
        inputs = tuple(network.prepare(windows.audio) for network in self._networks)
        return MusicSample(inputs, len(windows.audio), windows.duration_s)

    def encode(self, samples: Sequence[MusicSample]) -> np.ndarray:
        """(n, d): the mean over each track's windows."""
        return np.stack([windows.mean(axis=0) for windows in self.encode_windows(samples)])

    def encode_windows(self, samples: Sequence[MusicSample]) -> list[np.ndarray]:
        """The features of each window: n arrays (w, d)."""
        columns = [self._run(index, [sample.inputs[index] for sample in samples]) for index in range(len(self._networks))]
        results = []
        for n, sample in enumerate(samples):
            # A window may be several inputs (patches) of a network: their mean is the window's.
            parts = [column[n].reshape(sample.windows, -1, column[n].shape[1]).mean(axis=1) for column in columns]
            results.append(np.concatenate(parts, axis=1))
        return results

    def _run(self, index: int, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each input by itself: (p, ...) of each track -> (p, d) of each track, which no neighbour can change."""
        network, session = self._networks[index], self._sessions[index]

        def run(x: np.ndarray) -> np.ndarray:
            output: np.ndarray = session.run([network.output], {network.input: x[None]})[0]
            return output.reshape(network.dim)

        try:
            outputs = list(self._pool.map(run, (x for of_track in inputs for x in of_track)))
        except Exception as error:
            raise ModelError(f"the network {self.info.weights[index]} cannot be run: {error}", "emoclim models verify") from error
        return np.split(np.stack(outputs), np.cumsum([len(of_track) for of_track in inputs])[:-1])


def build(info: EncoderInfo, paths: Sequence[Path], device: str) -> MusicEncoder:  # noqa: ARG001 - these networks are small: the CPU does
    return MusicEncoder(info, paths)
