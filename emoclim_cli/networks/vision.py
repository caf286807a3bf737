"""CLIP's image tower (Radford et al. 2021), a ViT, with open_clip's parameter names.

Shape letters: b photos, t tokens (1 + patches), w width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 224


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)  # holds the parameters; forward below is leaner
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, w) float32 -> the same. What the blocks add up stays float32, whatever their matrices compute in."""
        b, t, w = x.shape
        dtype = self.attn.in_proj_weight.dtype
        qkv = F.linear(self.ln_1(x).to(dtype), self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = qkv.view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.attn.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, w))
        hidden = self.mlp["c_fc"](self.ln_2(x).to(dtype))
        out: Tensor = x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))  # QuickGELU, as OpenAI trained it
        return out


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, w) -> the same."""
        out: Tensor = self.resblocks(x)
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

    def compute_in(self, dtype: torch.dtype) -> None:
        """Puts the matrices of the blocks, where nearly all of the time goes, into another number format.

        All else stays float32: in bfloat16 the patches' convolution alone takes the cosine to float32 of one photo in seven below 0.999,
        and the sums that go from block to block lose a little with each.
        """
        for block in self.transformer.resblocks:
            for part in (block.attn, block.mlp):
                part.to(dtype)
