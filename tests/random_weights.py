"""Checkpoints as they are published, but with random weights: for networks whose weights cannot be had where these tests run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from emoclim_cli import weights
from emoclim_cli.networks.taggers import HarmonicCnn, ShortChunkCnn
from emoclim_cli.networks.vision import VisionTransformer

TAGGERS: dict[str, Callable[[], HarmonicCnn | ShortChunkCnn]] = {"harmonic-cnn": HarmonicCnn, "short-chunk-cnn": ShortChunkCnn}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Numbers of a size at which features neither vanish nor explode, and statistics of batch norm as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point() or name.startswith("hstft."):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(1 + 0.1 * noise.abs())
        else:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
            tensor.copy_(noise * (2.0 / fan_in) ** 0.5)
    return network.eval().requires_grad_(False)


def write_tagger(name: str, file: Path, seed: int = 0) -> Path:
    """`best_model.pth` of harmonic-cnn or short-chunk-cnn."""
    torch.save(randomised(TAGGERS[name](), seed).state_dict(), file)
    return file


def write_clip(file: Path, patch: int, seed: int = 0) -> Path:
    """`open_clip_model.safetensors`: the image tower, and a little of the text tower."""
    tower = randomised(VisionTransformer(patch), seed).state_dict()
    tensors = {f"visual.{name}": tensor for name, tensor in tower.items()}
    save_file({**tensors, "logit_scale": torch.tensor(1.0), "ln_final.weight": torch.ones(4)}, file)
    return file


def put(name: str, content: bytes, cache: Path) -> None:
    """A converted file as if its weights had been fetched: of a row whose files are known by sha256, others are refused."""
    row = weights.WEIGHTS[name]
    cache.mkdir(parents=True, exist_ok=True)
    (cache / row.file).write_bytes(content)
    record = {"members": dict(row.sources[0].members), "conversion": row.conversion, "bytes": len(content)}
    record["sha256"] = hashlib.sha256(content).hexdigest()
    (cache / f"{row.file}.json").write_text(json.dumps(record))


def put_clip_b_32(cache: Path, folder: Path) -> None:
    """Through the conversion that the published file goes through."""
    row = weights.WEIGHTS["clip-vit-b-32"]
    published = write_clip(folder / "open_clip_model.safetensors", patch=32)
    row.convert({published.name: published}, folder / row.file)
    put(row.name, (folder / row.file).read_bytes(), cache)
