"""CLAP's audio tower, HTSAT-tiny (Chen et al. 2022), with its projection (Wu et al. 2023): what a checkpoint holds of them.

The network itself is laion_clap's; these names and shapes tell its weights from others without it.
"""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]

FRAME, MELS = 1024, 64
"""Of the spectrogram, whose transform is a convolution and whose filters are a matrix: both are in a checkpoint."""
PATCH = 4
GRID = 64
"""Patches on each side of the square of 256 x 256 that the spectrogram is folded into."""
WIDTH = 96
"""Of the first layer; each layer halves the grid and doubles the width."""
DEPTHS, HEADS = (2, 2, 6, 2), (4, 8, 16, 32)
WINDOW = 8
"""Patches on each side of what attends to itself. In every other block the windows are shifted by half, and a mask keeps apart what only
the shift brings together; the grid of the last layer is a single window, which is not shifted."""
CLASSES = 527
"""Of AudioSet, which the tower was first made to tell apart."""
TOWER_DIM, DIM = WIDTH * 2 ** (len(DEPTHS) - 1), 512
"""Of what the tower gives, 768, and of the features."""


def clap_shapes() -> Shapes:
    """The 204 tensors below `audio_branch` and `audio_projection`, in the order of the network's state dict."""
    tower: Shapes = {
        "spectrogram_extractor.stft.conv_real.weight": (FRAME // 2 + 1, 1, FRAME),
        "spectrogram_extractor.stft.conv_imag.weight": (FRAME // 2 + 1, 1, FRAME),
        "logmel_extractor.melW": (FRAME // 2 + 1, MELS),
        **_norm("bn0", MELS),
        "bn0.running_mean": (MELS,),
        "bn0.running_var": (MELS,),
        "bn0.num_batches_tracked": (),
        "patch_embed.proj.weight": (WIDTH, 1, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        **_norm("patch_embed.norm", WIDTH),
    }
    grid, width = GRID, WIDTH
    for number, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        if number:
            tower |= _downsample(f"layers.{number - 1}.downsample", width)
            grid, width = grid // 2, 2 * width
        for block in range(depth):
            windows = (grid // WINDOW) ** 2
            tower |= _block(f"layers.{number}.blocks.{block}", width, heads, masks=windows if block % 2 and windows > 1 else 0)
    tower |= _norm("norm", width)
    # Four bands of frequency lie on top of each other in the last grid; each is two patches high.
    tower |= {"tscam_conv.weight": (CLASSES, width, grid // 4, 3), "tscam_conv.bias": (CLASSES,)}
    tower |= _linear("head", CLASSES, CLASSES)
    projection = _linear("0", width, DIM) | _linear("2", DIM, DIM)
    return {f"audio_branch.{name}": shape for name, shape in tower.items()} | {
        f"audio_projection.{name}": shape for name, shape in projection.items()
    }


def _block(name: str, width: int, heads: int, masks: int) -> Shapes:
    """A block of a Swin transformer; `masks`: of how many windows, 0 where they are not shifted."""
    patches = WINDOW**2
    return {
        **({f"{name}.attn_mask": (masks, patches, patches)} if masks else {}),
        **_norm(f"{name}.norm1", width),
        f"{name}.attn.relative_position_bias_table": ((2 * WINDOW - 1) ** 2, heads),
        f"{name}.attn.relative_position_index": (patches, patches),
        **_linear(f"{name}.attn.qkv", width, 3 * width),
        **_linear(f"{name}.attn.proj", width, width),
        **_norm(f"{name}.norm2", width),
        **_linear(f"{name}.mlp.fc1", width, 4 * width),
        **_linear(f"{name}.mlp.fc2", 4 * width, width),
    }


def _downsample(name: str, width: int) -> Shapes:
    """Four neighbours become one patch of twice the width."""
    return {f"{name}.reduction.weight": (2 * width, 4 * width), **_norm(f"{name}.norm", 4 * width)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, width: int, out: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
