"""What published checkpoints hold, written down from PAPER and their projects, and not taken from our networks: names, shapes, numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, channels: int, out: int) -> Shapes:
    return {f"{name}.weight": (out, channels, 3, 3), f"{name}.bias": (out,)}


def norm(name: str, channels: int) -> Shapes:
    return {
        f"{name}.weight": (channels,),
        f"{name}.bias": (channels,),
        f"{name}.running_mean": (channels,),
        f"{name}.running_var": (channels,),
        f"{name}.num_batches_tracked": (),
    }


def head(dim: int) -> Shapes:
    return {"dense1.weight": (dim, dim), "dense1.bias": (dim,), **norm("bn", dim), "dense2.weight": (50, dim), "dense2.bias": (50,)}


def strided(layer: str, channels: int, out: int) -> Shapes:
    return {
        **conv(f"{layer}.conv_1", channels, out),
        **norm(f"{layer}.bn_1", out),
        **conv(f"{layer}.conv_2", out, out),
        **norm(f"{layer}.bn_2", out),
        **conv(f"{layer}.conv_3", channels, out),
        **norm(f"{layer}.bn_3", out),
    }


def residual(layer: str, channels: int) -> Shapes:
    return {
        **conv(f"{layer}.conv_1", channels, channels),
        **norm(f"{layer}.bn_1", channels),
        **conv(f"{layer}.conv_2", channels, channels),
        **norm(f"{layer}.bn_2", channels),
    }


SHORT_CHUNK: Shapes = {
    **norm("spec_bn", 1),
    **strided("layer1", 1, 128),
    **strided("layer2", 128, 128),
    **strided("layer3", 128, 256),
    **strided("layer4", 256, 256),
    **strided("layer5", 256, 256),
    **strided("layer6", 256, 256),
    **strided("layer7", 256, 512),
    **head(512),
}
SHORT_CHUNK_BUFFERS: Shapes = {"spec.spectrogram.window": (512,), "spec.mel_scale.fb": (257, 128)}

HARMONIC: Shapes = {
    "hstft.bw_Q": (1,),
    **norm("hstft_bn", 6),
    **conv("layer1.conv", 6, 128),
    **norm("layer1.bn", 128),
    **residual("layer2", 128),
    **residual("layer3", 128),
    **residual("layer4", 128),
    **conv("layer5.conv", 128, 256),
    **norm("layer5.bn", 256),
    **residual("layer6", 256),
    **residual("layer7", 256),
    **head(256),
}
HARMONIC_BUFFERS: Shapes = {"hstft.spec.window": (513,)}


def clip_tower(patch: int, layers: int = 12) -> Shapes:
    shapes: Shapes = {
        "class_embedding": (768,),
        "positional_embedding": ((224 // patch) ** 2 + 1, 768),
        "proj": (768, 512),
        "conv1.weight": (768, 3, patch, patch),
        "ln_pre.weight": (768,),
        "ln_pre.bias": (768,),
        "ln_post.weight": (768,),
        "ln_post.bias": (768,),
    }
    for number in range(layers):
        block = f"transformer.resblocks.{number}"
        shapes |= {
            f"{block}.ln_1.weight": (768,),
            f"{block}.ln_1.bias": (768,),
            f"{block}.attn.in_proj_weight": (2304, 768),
            f"{block}.attn.in_proj_bias": (2304,),
            f"{block}.attn.out_proj.weight": (768, 768),
            f"{block}.attn.out_proj.bias": (768,),
            f"{block}.ln_2.weight": (768,),
            f"{block}.ln_2.bias": (768,),
            f"{block}.mlp.c_fc.weight": (3072, 768),
            f"{block}.mlp.c_fc.bias": (3072,),
            f"{block}.mlp.c_proj.weight": (768, 3072),
            f"{block}.mlp.c_proj.bias": (768,),
        }
    return shapes


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Numbers that keep a network's maps at the size of one: no layer is dead, and none drowns the others."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1_000)
        elif name.endswith("bw_Q"):
            state[name] = torch.tensor([1.3])
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) / 4
    return state
