"""The paper's losses, by equation number, those it compares with, and emoclim's own; LOSSES names them.

Shape letters: a anchors, b candidates, n items, e emotion dim, c emotions. Emotion vectors are of unit norm. An emotion set is a row of c
numbers, in the order of `EMOTIONS`: 1 for what the item may be, else 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from emoclim_cli.emotions import CIRCUMPLEX, EMOTIONS
from emoclim_cli.errors import UsageError
from emoclim_cli.recipes import TAU, Recipe

TINY = 1e-12

# --- which items belong together ---------------------------------------------------------------------------------------------------------


def overlap(x: Tensor, y: Tensor) -> Tensor:
    """(a, c) and (b, c) emotion sets -> (a, b) how far two items are positives, 0 to 1.

    The share of what both may be in what either may be (Jaccard). With one emotion per item this is 1 for equal labels and 0 otherwise, as
    in the paper; a piece known only by its quadrant is a part-positive of every emotion in that quadrant.
    """
    both = x @ y.T
    either = x.sum(1, keepdim=True) + y.sum(1) - both
    return both / either.clamp(min=TINY)


def directions(sets: Tensor) -> Tensor:
    """(n, c) emotion sets -> (n, 2) unit vectors of valence and arousal: where the emotion lies on the circumplex (Russell 1980).

    For an item that may be several, the mean of theirs, at unit norm.
    """
    angles = [math.radians(CIRCUMPLEX[emotion]) for emotion in EMOTIONS]
    places = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles], dtype=sets.dtype, device=sets.device)  # (c, 2)
    return F.normalize(sets @ places, dim=1)


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """(a, c) and (b, c) emotion sets -> (a, b) cosine of their directions on the circumplex."""
    return directions(x) @ directions(y).T


def graded(x: Tensor, y: Tensor, softness: float, sharpness: float) -> Tensor:
    """(a, c) and (b, c) emotion sets -> (a, b) how far two items are positives, 0 to 1, if their emotions differ, too.

    Where `overlap` is 0: softness * max(0, cosine on the circumplex) ** sharpness, so that with `softness` 0 it is `overlap`. The paper
    names emotion similarities inside the contrastive loss as future work.
    """
    same = overlap(x, y)
    near = similarity(x, y).clamp(min=0) ** sharpness
    return torch.where(same > 0, same, softness * near)


# --- contrastive losses ------------------------------------------------------------------------------------------------------------------


def contrastive(anchors: Tensor, candidates: Tensor, positives: Tensor, tau: float = TAU, *, intra: bool = False) -> Tensor:
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
    weights = positives / positives.sum(1, keepdim=True).clamp(min=TINY)
    return -(weights * log_p).sum() / len(anchors)


def total(
    photos: Tensor,
    music: Tensor,
    photo_sets: Tensor,
    music_sets: Tensor,
    tau: float = TAU,
    positives: Callable[[Tensor, Tensor], Tensor] = overlap,
) -> dict[str, Tensor]:
    """Equation 4 by its four terms, each already times 0.25: their sum is the loss. (a, e), (b, e); emotion sets (a, c), (b, c)."""
    across = positives(photo_sets, music_sets)
    return {
        "photo->music": 0.25 * contrastive(photos, music, across, tau),
        "music->photo": 0.25 * contrastive(music, photos, across.T, tau),
        "photo->photo": 0.25 * contrastive(photos, photos, positives(photo_sets, photo_sets), tau, intra=True),
        "music->music": 0.25 * contrastive(music, music, positives(music_sets, music_sets), tau, intra=True),
    }


# --- what the paper compares with --------------------------------------------------------------------------------------------------------


def regression(vectors: Tensor, sets: Tensor) -> Tensor:
    """Mean squared error of (n, 2) vectors as directions of valence and arousal (Won et al. 2021). Raises UsageError for another dim."""
    if vectors.shape[1] != 2:
        raise UsageError(f"valence and arousal are two numbers, not {vectors.shape[1]}", "a recipe with dim=2 (recipes.with_loss)")
    return F.mse_loss(vectors, directions(sets))


def triplet(scores: Tensor, overlaps: Tensor, margin: float, *, intra: bool = False) -> Tensor:
    """Mean over all triplets of max(0, margin - s_ap + s_an) (Won et al. 2021), from (a, b) cosines s and `overlap`; 0 without a triplet.

    Positives p have an overlap with the anchor, negatives n have none. With `intra` the candidates are the anchors, and an anchor is no
    positive of its own.
    """
    scores, is_positive = scores.contiguous(), overlaps > 0
    is_negative = ~is_positive
    if intra:
        is_positive = is_positive & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    negatives = (-scores.masked_fill(~is_negative, -torch.inf)).sort(dim=1).values  # negated: the nearest comes first
    # A positive's hinges are open for the negatives above s_ap - margin: the first ones in that order, and their sum is a running one.
    open_ = torch.searchsorted(negatives.detach(), (margin - scores).detach())  # (a, b): how many
    sums = F.pad(-negatives.masked_fill(negatives == torch.inf, 0).cumsum(dim=1), (1, 0))  # (a, 1 + b)
    hinges = open_ * (margin - scores) + sums.gather(1, open_)
    count = (is_positive.sum(1) * is_negative.sum(1)).sum()
    return hinges.masked_fill(~is_positive, 0).sum() / count.clamp(min=1)


def _supcon(photos: Tensor, music: Tensor, photo_sets: Tensor, music_sets: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    return total(photos, music, photo_sets, music_sets, recipe.tau)


def _va_regression(photos: Tensor, music: Tensor, photo_sets: Tensor, music_sets: Tensor, _recipe: Recipe) -> dict[str, Tensor]:
    return {"photo": regression(photos, photo_sets), "music": regression(music, music_sets)}


def _triplet(photos: Tensor, music: Tensor, photo_sets: Tensor, music_sets: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    scores, overlaps = photos @ music.T, overlap(photo_sets, music_sets)
    return {
        "photo->music": 0.5 * triplet(scores, overlaps, recipe.margin),
        "music->photo": 0.5 * triplet(scores.T, overlaps.T, recipe.margin),
    }


def _triplet_similarity(photos: Tensor, music: Tensor, photo_sets: Tensor, music_sets: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Doh et al. 2023: beside the triplets, every pair's cosine is to be that of its emotions on the circumplex."""
    terms = _triplet(photos, music, photo_sets, music_sets, recipe)
    return {**terms, "similarity": F.mse_loss(photos @ music.T, similarity(photo_sets, music_sets))}


# --- emoclim's own -----------------------------------------------------------------------------------------------------------------------


def _emoclim(photos: Tensor, music: Tensor, photo_sets: Tensor, music_sets: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Equation 4 with graded positives; to each of its four terms the triplets' mean hinge is added, `recipe.hinges` times.

    The contrastive terms go on pulling at what is in its place already; the hinges rest there, and push only where the order is wrong.
    """

    def positives(x: Tensor, y: Tensor) -> Tensor:
        return graded(x, y, recipe.softness, recipe.sharpness)

    def hinge(x: Tensor, y: Tensor, x_sets: Tensor, y_sets: Tensor, *, intra: bool = False) -> Tensor:
        return 0.25 * recipe.hinges * triplet(x @ y.T, overlap(x_sets, y_sets), recipe.margin, intra=intra)

    terms = total(photos, music, photo_sets, music_sets, recipe.tau, positives)
    hinges = {
        "photo->music": hinge(photos, music, photo_sets, music_sets),
        "music->photo": hinge(music, photos, music_sets, photo_sets),
        "photo->photo": hinge(photos, photos, photo_sets, photo_sets, intra=True),
        "music->music": hinge(music, music, music_sets, music_sets, intra=True),
    }
    return {name: term + hinges[name] for name, term in terms.items()}


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Recipe], dict[str, Tensor]]
"""Photo vectors (a, e), music vectors (b, e), emotion sets of the photos (a, c) and of the music (b, c), constants -> terms; their sum is
the loss."""

LOSSES: dict[str, Loss] = {
    "supcon": _supcon,
    "va-regression": _va_regression,
    "triplet": _triplet,
    "triplet-similarity": _triplet_similarity,
    "emoclim": _emoclim,
}
"""The paper's, the three it is compared with, and emoclim's own."""


def loss_named(name: str) -> Loss:
    """Raises UsageError with the valid names."""
    try:
        return LOSSES[name]
    except KeyError:
        raise UsageError(f"there is no loss {name!r}", f"one of: {', '.join(LOSSES)}") from None
