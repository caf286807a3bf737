"""How a space is trained: every setting in one record, and the sets of them that have a name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

TAU = 0.07
"""The paper's temperature."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The defaults are the paper's (section 3.2) but for what its comment says.

    Always added: standardised features, and a cosine decay of the learning rate.
    """

    loss: str = "supcon"
    """A name in `losses.LOSSES`."""
    dim: int = 128
    hidden: int = 256
    dropout: float = 0.2
    tau: float = TAU
    """Temperature of the contrastive losses."""
    margin: float = 0.4
    """Of the triplet losses: how much nearer than a negative a positive is to be (Won et al. 2021)."""
    hinges: float = 8.0
    """Of the loss `emoclim`: what the triplets' hinges weigh beside the contrastive terms."""
    softness: float = 0.0
    """Of the loss `emoclim`: how much of a positive another emotion at the same angle would be."""
    sharpness: float = 2.0
    """Of the loss `emoclim`: the higher, the nearer an emotion must lie to be a positive in part."""
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    """AdamW's own default; the paper names none."""
    unfrozen: bool = False
    """The music encoder is trained with its projection (`tuning`)."""
    body_learning_rate: float = 1e-5
    """Of an unfrozen encoder, which has learnt already and is to move less; it decays likewise. The paper names none."""
    batch: int = 64
    """Photos, and as many pieces of music."""
    epochs: int = 15
    steps: int = 100
    """Batches in an epoch."""
    balanced: bool = False
    """Not the paper's: each emotion equally often in a batch, whatever its share of the data."""
    quadrants: bool = False
    """Not the paper's: items whose emotion is known in part only take part, as part-positives (`losses.overlap`)."""
    teacher_share: float = 0.0
    """Not the paper's: how much of a batch's music is a teacher's, where there is one (`datasets.read_features`)."""
    best_epoch: bool = True
    """Keep the epoch with the lowest validation loss, as the paper does; otherwise the last, so that validation items choose nothing."""
    seed: int = 0


_SHIPPED = Recipe(loss="emoclim", tau=0.2, learning_rate=3e-4, epochs=12, teacher_share=0.3, best_epoch=False)
RECIPES = {"paper": Recipe(), "shipped": _SHIPPED, "quadrants": replace(_SHIPPED, quadrants=True)}

LOSS_SETTINGS: dict[str, dict[str, Any]] = {"va-regression": {"dim": 2}}
"""Loss -> what it asks of any recipe: valence and arousal are two numbers."""


def with_loss(recipe: Recipe, loss: str) -> Recipe:
    """The recipe with another loss, and with what that loss asks for."""
    return replace(recipe, loss=loss, **LOSS_SETTINGS.get(loss, {}))


CONSTANTS = {
    "tau": ("supcon", "emoclim"),
    "margin": ("triplet", "triplet-similarity", "emoclim"),
    "hinges": ("emoclim",),
    "softness": ("emoclim",),
    "sharpness": ("emoclim",),
}
"""Setting -> the losses that read it, for those that not all do."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """What a space says of its recipe: every setting that had a say."""
    said = {name: value for name, value in asdict(recipe).items() if recipe.loss in CONSTANTS.get(name, (recipe.loss,))}
    if not recipe.softness:
        said.pop("sharpness", None)
    if not recipe.teacher_share:
        said.pop("teacher_share")
    if not recipe.unfrozen:
        said = {name: value for name, value in said.items() if name not in ("unfrozen", "body_learning_rate")}
    return said
