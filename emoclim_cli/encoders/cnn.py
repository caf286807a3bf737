"""Short-Chunk CNN and Harmonic CNN (Won et al. 2020), trained on the tags of the Million Song Dataset: -> 512 and 256 features.

A window is as long as what the network was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emoclim_cli.encoders import EncoderInfo, loading
from emoclim_cli.encoders.devices import choose_device
from emoclim_cli.encoders.torch_music import TorchMusicEncoder
from emoclim_cli.encoders.windows import Window
from emoclim_cli.networks.taggers import HarmonicCnn, ShortChunkCnn, Tagger

NETWORKS: dict[str, type[Tagger]] = {"harmonic-cnn": HarmonicCnn, "short-chunk-cnn": ShortChunkCnn}
"""Encoder -> network."""
ITEM_BYTES = 64 << 20
"""Of one window, above what either holds at once: 40 MB of the Harmonic CNN, whose first layer makes 128 maps of 128 x 313, twice."""


def network_of(name: str, path: Path) -> Tagger:
    """The network with the weights of a file, trainable. Raises ModelError where they do not fit it."""
    from safetensors.torch import load_file

    with loading(name):
        state = load_file(path)
        network = NETWORKS[name].of(state)
        network.load_state_dict(state)
    return network


def build(info: EncoderInfo, paths: Sequence[Path], device: str) -> TorchMusicEncoder:
    network = network_of(info.name, paths[0])
    return TorchMusicEncoder(info, network, choose_device(device), Window(network.RATE_HZ, network.SAMPLES), ITEM_BYTES)
