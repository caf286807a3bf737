"""Music tagging with frozen vectors (paper, Table 3): a small head is trained on them, and measured by ROC-AUC and PR-AUC.

Shape letters: n clips, d vector dim, h hidden width, t tags, b batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.errors import LabelError, ModelError, UsageError
from emoclim_cli.labels import SPLITS
from emoclim_cli.magnatagatune import TagSet
from emoclim_cli.projections import Projection
from emoclim_cli.training import folded, one_thread, spread

VECTORS = ("emotion", "features")
"""What a clip is to the head: its emotion vector, or the features that this is made from."""


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """The paper names the layers and the loss; the rest is chosen here."""

    hidden: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 64
    epochs: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Clips:
    vectors: np.ndarray
    """(n, d) float32."""
    carried: np.ndarray
    """(n, t) bool."""


@dataclass(frozen=True, slots=True)
class Head:
    """Linear - ReLU - Linear; batch norm and the vectors' standardisation are folded into the first layer."""

    w1: np.ndarray  # (d, h)
    b1: np.ndarray  # (h,)
    w2: np.ndarray  # (h, t)
    b2: np.ndarray  # (t,)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, t): the logit of each tag."""
        scores: np.ndarray = np.maximum(vectors @ self.w1 + self.b1, 0) @ self.w2 + self.b2
        return scores


@dataclass(frozen=True, slots=True)
class TrainedHead:
    head: Head
    best_epoch: int
    val_roc_auc: tuple[float, ...]
    """After each epoch, macro over tags."""


@dataclass(frozen=True, slots=True)
class TagFigures:
    """The areas are NaN where all clips carry the tag, or none."""

    roc_auc: float
    pr_auc: float
    chance_pr_auc: float
    """The share of clips that carry it; chance ROC-AUC is 0.5."""
    n: int
    """Clips that carry it."""


@dataclass(frozen=True, slots=True)
class TagReport:
    """Macro averages over the tags that could be measured."""

    roc_auc: float
    pr_auc: float
    chance_pr_auc: float
    clips: int
    per_tag: dict[str, TagFigures]

    @property
    def unmeasured(self) -> list[str]:
        return [tag for tag, figures in self.per_tag.items() if math.isnan(figures.roc_auc)]

    def as_json(self) -> dict[str, Any]:
        """CLI.md's keys; null where there was nothing to measure."""
        overall = {"roc_auc": self.roc_auc, "pr_auc": self.pr_auc, "chance_pr_auc": self.chance_pr_auc, "clips": self.clips}
        per_tag = {
            tag: {name: None if math.isnan(value) else value for name, value in asdict(figures).items()}
            for tag, figures in self.per_tag.items()
        }
        return {**overall, "per_tag": per_tag}


# --- metrics -----------------------------------------------------------------------------------------------------------------------------


def roc_auc(scores: np.ndarray, carried: np.ndarray) -> float:
    """The chance that a clip that carries the tag scores higher than one that does not, ties counting half; (n,) and (n,) bool.

    The area under the ROC curve by the Mann-Whitney statistic (Hanley and McNeil 1982). NaN without a clip of either sort.
    """
    positives, negatives = _by_score(scores, carried)
    pairs = positives.sum() * negatives.sum()
    if not pairs:
        return math.nan
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def average_precision(scores: np.ndarray, carried: np.ndarray) -> float:
    """PR-AUC: the mean of the precision at each recall, weighted by the step in recall, no interpolation; (n,) and (n,) bool.

    Clips of one score are one step. Davis and Goadrich 2006 tell why the curve must not be interpolated. NaN without a clip of either sort.
    """
    positives, negatives = (counts[::-1] for counts in _by_score(scores, carried))  # best first
    if not positives.sum() or not negatives.sum():
        return math.nan
    precision = np.cumsum(positives) / np.cumsum(positives + negatives)
    return float((precision * positives).sum() / positives.sum())


def _by_score(scores: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each score that there is, lowest first: how many clips with it carry the tag, and how many do not."""
    values, which = np.unique(scores, return_inverse=True)
    return np.bincount(which[carried], minlength=len(values)), np.bincount(which[~carried], minlength=len(values))


def measure(scores: np.ndarray, carried: np.ndarray, tags: Sequence[str]) -> TagReport:
    """(n, t) scores against (n, t) bool. Raises LabelError where no tag is carried by some clips and not by others."""
    per_tag = {
        tag: TagFigures(
            roc_auc(scores[:, i], carried[:, i]), average_precision(scores[:, i], carried[:, i]), carried[:, i].mean().item(), n
        )
        for i, (tag, n) in enumerate(zip(tags, carried.sum(axis=0).tolist(), strict=True))
    }
    measured = np.array([(f.roc_auc, f.pr_auc, f.chance_pr_auc) for f in per_tag.values() if not math.isnan(f.roc_auc)])
    if not len(measured):
        raise LabelError(f"no tag can be measured: all of the {len(carried)} clips carry it or none does, whichever tag it is")
    means = measured.mean(axis=0).tolist()
    return TagReport(means[0], means[1], means[2], len(carried), per_tag)


# --- clips -------------------------------------------------------------------------------------------------------------------------------


def split_clips(features: LabelledFeatures, tag_set: TagSet, projection: Projection | None = None) -> dict[str, Clips]:
    """The clips of each split: the mean of their windows' emotion vectors or, without a projection, of their features.

    Raises LabelError where a split is left without a clip.
    """
    vectors = replace(features, windows=projection(features.windows)) if projection else features
    means = vectors.pooled()
    carried = tag_set.carried_by(features.items)
    splits = np.array([item.split for item in features.items])
    absent = [split for split in SPLITS if split not in splits]
    if absent:
        raise LabelError(f"no clip is left for {', '.join(absent)}: none of that split can be read")
    return {split: Clips(means[splits == split], carried[splits == split]) for split in SPLITS}


# --- training ----------------------------------------------------------------------------------------------------------------------------


class HeadNetwork(nn.Module):
    """Standardise - Linear - BatchNorm - ReLU - Linear (paper, Table 3)."""

    def __init__(self, mean: Tensor, std: Tensor, tags: int, hidden: int) -> None:
        super().__init__()
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)
        self.first = nn.Linear(len(mean), hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.second = nn.Linear(hidden, tags)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(F.relu(self.norm(self.first((x - self.mean) / self.std))))
        return logits

    def folded(self) -> Head:
        return Head(*folded(self.mean, self.std, self.first, self.norm, self.second))


def train_head(train: Clips, val: Clips, recipe: HeadRecipe, on_epoch: Callable[[int, float], None] | None = None) -> TrainedHead:
    """The head of the epoch with the highest ROC-AUC on `val`, trained by binary cross-entropy; `on_epoch` is told its number and that.

    The same clips, recipe and seed give the same head on the same machine. Raises LabelError for fewer than two clips to train on, or where
    no tag can be measured on `val`; UsageError for no epoch, ModelError where training diverges.
    """
    if len(train.vectors) < 2:
        raise LabelError("a head needs two clips at least to be trained on")
    if recipe.epochs < 1:
        raise UsageError("training needs at least one epoch")
    with one_thread():
        return _train_head(train, val, recipe, on_epoch)


def _train_head(train: Clips, val: Clips, recipe: HeadRecipe, on_epoch: Callable[[int, float], None] | None) -> TrainedHead:
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    x, y = torch.from_numpy(train.vectors), torch.from_numpy(train.carried.astype(np.float32))
    network = HeadNetwork(x.mean(0), spread(x), y.shape[1], recipe.hidden)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = max(1, len(x) // recipe.batch)  # none smaller than `batch`: batch norm cannot do with one clip
    names = [str(i) for i in range(y.shape[1])]
    history: list[float] = []
    best: tuple[float, int, Head] | None = None
    for number in range(1, recipe.epochs + 1):
        network.train()
        for index in np.array_split(rng.permutation(len(x)), batches):
            loss = F.binary_cross_entropy_with_logits(network(x[index]), y[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        head = network.folded()
        scores = head(val.vectors)
        if not np.isfinite(scores).all():
            raise ModelError(f"training diverged in epoch {number}", "a smaller learning rate")
        history.append(measure(scores, val.carried, names).roc_auc)
        if best is None or history[-1] > best[0]:
            best = (history[-1], number, head)
        if on_epoch:
            on_epoch(number, history[-1])
    assert best is not None  # there was an epoch
    return TrainedHead(best[2], best[1], tuple(history))
