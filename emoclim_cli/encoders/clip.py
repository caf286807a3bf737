"""CLIP's image tower (Radford et al. 2021), ViT-B/16, in plain torch with open_clip's parameter names.

Shape letters: b photos, t tokens (1 + patches), w width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emoclim_cli.encoders import EncoderInfo
from emoclim_cli.encoders.devices import choose_device, core_pool
from emoclim_cli.errors import ModelError
from emoclim_cli.photos import read_photo

SIDE = 224
PHOTOS_PER_CORE = 4
"""What one core computes at once: more gains nothing, fewer leave cores idle at the end of a batch."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)  # holds the parameters; forward below is leaner
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        qkv = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = qkv.view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.attn.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, w))
        hidden = self.mlp["c_fc"](self.ln_2(x))
        out: Tensor = x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))  # QuickGELU, as OpenAI trained it
        return out


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, w) float32 -> the same, computed in the number format of the blocks."""
        out: Tensor = self.resblocks(x.to(next(self.parameters()).dtype)).float()
        return out


class VisionTransformer(nn.Module):
    def __init__(self, patch: int, width: int = 768, layers: int = 12, heads: int = 12, dim: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((SIDE // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, 224, 224) normalised pixels -> (b, 512), not of unit norm."""
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (b, t - 1, w)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class ClipEncoder:
    def __init__(self, info: EncoderInfo, path: Path, device: str) -> None:
        from safetensors.torch import load_file

        self.info = info
        self.device = choose_device(device)
        with torch.device("meta"):
            tower = VisionTransformer(patch=16)
        try:
            tower.load_state_dict(load_file(path), assign=True)
        except Exception as error:
            raise ModelError(f"the weights of {info.name} cannot be loaded: {error}", "emoclim models verify") from error
        self.tower = tower.eval().requires_grad_(False).to(self.device.name)
        # Nearly all of the time goes into the blocks. The patches stay float32: in bfloat16 their convolution alone takes the cosine to
        # float32 of one photo in seven below 0.999, all blocks together of none.
        self.tower.transformer.to(self.device.dtype)
        # On the CPU each thread of the pool computes on one core, see core_pool.
        self._pool = core_pool(partial(torch.set_num_threads, 1))
        self._mean = torch.tensor(MEAN).view(3, 1, 1)
        self._std = torch.tensor(STD).view(3, 1, 1)

    def load(self, path: str) -> np.ndarray:
        """(224, 224, 3) uint8."""
        return read_photo(path, SIDE)

    def encode(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2).float().div_(255)
        return self.encode_pixels((pixels - self._mean) / self._std)

    def encode_windows(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self.encode(samples)[:, None])

    def encode_pixels(self, pixels: Tensor) -> np.ndarray:
        """(b, 3, 224, 224) normalised pixels -> (b, 512) float32."""
        if self.device.name != "cpu":
            return self._forward(pixels)
        return np.concatenate(list(self._pool.map(self._forward, torch.split(pixels, PHOTOS_PER_CORE))))

    def _forward(self, pixels: Tensor) -> np.ndarray:
        with torch.inference_mode():
            features: np.ndarray = self.tower(pixels.to(self.device.name)).cpu().numpy()
        return features


def build(info: EncoderInfo, paths: Sequence[Path], device: str) -> ClipEncoder:
    return ClipEncoder(info, paths[0], device)
