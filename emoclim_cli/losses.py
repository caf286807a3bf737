"""The paper's losses, by equation number.

Shape letters: a anchors, b candidates, e emotion dim, c emotions. Emotion vectors are of unit norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEFAULT_TAU = 0.07


def overlap(x: Tensor, y: Tensor) -> Tensor:
    """(a, c) and (b, c), rows the sets of emotions an item may have (0 or 1) -> (a, b) how far two items are positives, 0 to 1.

    The share of what both may be in what either may be (Jaccard). With one emotion per item this is 1 for equal labels and 0 otherwise, as
    in the paper; a piece known only by its quadrant is a part-positive of every emotion in that quadrant.
    """
    both = x @ y.T
    either = x.sum(1, keepdim=True) + y.sum(1) - both
    return both / either.clamp(min=1e-12)


def contrastive(anchors: Tensor, candidates: Tensor, positives: Tensor, tau: float = DEFAULT_TAU, *, intra: bool = False) -> Tensor:
    """Equations 2 and 3: supervised contrastive loss of (a, e) anchors against (b, e) candidates; `positives` (a, b) >= 0.

    -1/a sum_i sum_p w_ip log( exp(a_i . b_p / tau) / sum_k exp(a_i . b_k / tau) ), w the rows of `positives` scaled to sum 1: 1/|P(i)| for
    0/1 positives. With `intra` the candidates are the anchors, and an anchor is neither its own positive nor in its own sum. An anchor
    without a positive adds nothing, but counts in a.
    """
    logits = anchors @ candidates.T / tau
    if intra:
        own = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
        logits = logits.masked_fill(own, -torch.inf)
        positives = positives.masked_fill(own, 0)
    log_p = logits.log_softmax(dim=1).masked_fill(positives == 0, 0)  # also keeps 0 * -inf out of the sum
    weights = positives / positives.sum(1, keepdim=True).clamp(min=1e-12)
    return -(weights * log_p).sum() / len(anchors)


def total(photos: Tensor, music: Tensor, photo_sets: Tensor, music_sets: Tensor, tau: float = DEFAULT_TAU) -> dict[str, Tensor]:
    """Equation 4 by its four terms, each already times 0.25: their sum is the loss. (a, e), (b, e); emotion sets (a, c), (b, c)."""
    across = overlap(photo_sets, music_sets)
    return {
        "photo->music": 0.25 * contrastive(photos, music, across, tau),
        "music->photo": 0.25 * contrastive(music, photos, across.T, tau),
        "photo->photo": 0.25 * contrastive(photos, photos, overlap(photo_sets, photo_sets), tau, intra=True),
        "music->music": 0.25 * contrastive(music, music, overlap(music_sets, music_sets), tau, intra=True),
    }
