"""Training the two projections of a space on frozen features, by the paper's loss and the additions that the model card names.

Shape letters: n items, w windows, d feature dim, h hidden width, e emotion dim, c emotions, b batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emoclim_cli import losses
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import EncoderInfo
from emoclim_cli.errors import LabelError, ModelError
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, unit


@dataclass(frozen=True, slots=True)
class Recipe:
    """The defaults are the paper's (section 3.2) but for what its comment says.

    Always added: standardised features, and a cosine decay of the learning rate.
    """

    dim: int = 128
    hidden: int = 256
    dropout: float = 0.2
    tau: float = losses.DEFAULT_TAU
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    """AdamW's own default; the paper names none."""
    batch: int = 64
    """Photos, and as many pieces of music."""
    epochs: int = 15
    steps: int = 100
    """Batches in an epoch."""
    balanced: bool = False
    """Not the paper's: each emotion equally often in a batch, whatever its share of the data."""
    quadrants: bool = False
    """Not the paper's: pieces of which only the quadrant is known take part, as part-positives (`losses.overlap`)."""
    best_epoch: bool = True
    """Keep the epoch with the lowest validation loss, as the paper does; otherwise the last, so that validation items choose nothing."""
    seed: int = 0


class Mlp(nn.Module):
    """Standardise - Linear - BatchNorm - ReLU - Dropout - Linear - unit norm (paper, section 2.2)."""

    def __init__(self, mean: Tensor, std: Tensor, recipe: Recipe) -> None:
        super().__init__()
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)
        self.first = nn.Linear(len(mean), recipe.hidden)
        self.norm = nn.BatchNorm1d(recipe.hidden)
        self.dropout = nn.Dropout(recipe.dropout)
        self.second = nn.Linear(recipe.hidden, recipe.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        return F.normalize(self.second(self.dropout(F.relu(self.norm(self.first(x))))), dim=1)

    @torch.no_grad()
    def folded(self) -> Projection:
        """The same function at inference, as two affine layers."""
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None and var is not None  # track_running_stats is on
        scale = self.norm.weight / torch.sqrt(var + self.norm.eps)  # (h,)
        w1 = (self.first.weight * scale[:, None]).T / self.std[:, None]
        b1 = (self.first.bias - mean) * scale + self.norm.bias - self.mean @ w1
        return Projection(*(t.contiguous().numpy().copy() for t in (w1, b1, self.second.weight.T, self.second.bias)))


@dataclass(frozen=True, slots=True)
class Epoch:
    number: int
    loss: dict[str, float]
    """The four terms of equation 4 over the epoch's batches."""
    val_loss: float
    """Equation 4 on the validation items, NaN without any."""


@dataclass(frozen=True, slots=True)
class Trained:
    projections: dict[MediaKind, Projection]
    history: tuple[Epoch, ...]
    best_epoch: int


class _Items:
    """Labelled features as tensors, drawn by emotion."""

    def __init__(self, features: LabelledFeatures, quadrants: bool) -> None:
        if not quadrants:
            features = features.take(features.labels != "")
        if not len(features):
            raise LabelError(f"no {features.kind.plural} with an emotion to train on")
        self.windows = torch.from_numpy(features.windows)
        self.starts, self.counts = features.starts[:-1], np.diff(features.starts)
        self.sets = torch.from_numpy(features.emotion_sets(EMOTIONS))
        # One stratum for each emotion and one for each quadrant.
        keys = np.array(["+".join(sorted(item.emotions)) for item in features.items])
        self.strata = [np.flatnonzero(keys == key) for key in np.unique(keys)]
        self.pooled = torch.from_numpy(features.pooled())

    def draw(self, rng: np.random.Generator, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """(b, d) features and (b, c) emotion sets."""
        if recipe.balanced:
            picks = rng.integers(0, len(self.strata), recipe.batch)
            index = np.array([rng.choice(self.strata[stratum]) for stratum in picks])
        else:
            index = rng.integers(0, len(self.counts), recipe.batch)
        x = self.windows[self.starts[index] + rng.integers(0, self.counts[index])]
        return x, self.sets[index]


def train(
    photos: LabelledFeatures,
    music: LabelledFeatures,
    recipe: Recipe,
    val: Mapping[MediaKind, LabelledFeatures] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Two projections: of the last epoch, or, with `val` and `recipe.best_epoch`, of that with the lowest loss on it (paper, section 3.2).

    The same features, recipe and seed give the same projections on the same machine. Raises LabelError where a kind has nothing to train
    on, ModelError where training diverges.
    """
    if val is not None and set(val) != set(MediaKind):
        raise LabelError("validation needs both photos and music")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small: threads cost more than they give, and sum in another order
    try:
        return _train(photos, music, recipe, val or {}, on_epoch)
    finally:
        torch.set_num_threads(threads)


def _train(
    photos: LabelledFeatures,
    music: LabelledFeatures,
    recipe: Recipe,
    val: Mapping[MediaKind, LabelledFeatures],
    on_epoch: Callable[[Epoch], None] | None,
) -> Trained:
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    items = {MediaKind.PHOTO: _Items(photos, recipe.quadrants), MediaKind.MUSIC: _Items(music, recipe.quadrants)}
    val_items = {kind: _Items(features, recipe.quadrants) for kind, features in val.items()}
    models = {kind: Mlp(part.windows.mean(0), part.windows.std(0, correction=0).clamp(min=1e-6), recipe) for kind, part in items.items()}
    parameters = [p for model in models.values() for p in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * recipe.steps)
    history: list[Epoch] = []
    best: tuple[float, int, dict[MediaKind, Projection]] | None = None
    for number in range(1, recipe.epochs + 1):
        sums: dict[str, float] = {}
        for model in models.values():
            model.train()
        for _ in range(recipe.steps):
            batch = {kind: part.draw(rng, recipe) for kind, part in items.items()}
            vectors = {kind: models[kind](x) for kind, (x, _) in batch.items()}
            terms = losses.total(
                vectors[MediaKind.PHOTO], vectors[MediaKind.MUSIC], batch[MediaKind.PHOTO][1], batch[MediaKind.MUSIC][1], recipe.tau
            )
            optimizer.zero_grad(set_to_none=True)
            sum(terms.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.item() / recipe.steps
        for model in models.values():
            model.eval()
        val_loss = _validation_loss(models, val_items, recipe) if val_items else float("nan")
        if not np.isfinite(sum(sums.values())) or (val_items and not np.isfinite(val_loss)):
            raise ModelError(f"training diverged in epoch {number}", "a smaller learning rate")
        epoch = Epoch(number, sums, val_loss)
        history.append(epoch)
        if best is None or not val_items or not recipe.best_epoch or val_loss < best[0]:
            best = (val_loss, number, {kind: model.folded() for kind, model in models.items()})
        if on_epoch:
            on_epoch(epoch)
    if best is None:
        raise LabelError("training needs at least one epoch")
    return Trained(best[2], tuple(history), best[1])


@torch.no_grad()
def _validation_loss(models: Mapping[MediaKind, Mlp], items: Mapping[MediaKind, _Items], recipe: Recipe) -> float:
    photos, music = items[MediaKind.PHOTO], items[MediaKind.MUSIC]
    terms = losses.total(models[MediaKind.PHOTO](photos.pooled), models[MediaKind.MUSIC](music.pooled), photos.sets, music.sets, recipe.tau)
    return float(sum(term.item() for term in terms.values()))


def prototypes(projections: Mapping[MediaKind, Projection], features: Mapping[MediaKind, LabelledFeatures]) -> np.ndarray:
    """(c, e): the direction of each emotion's items, photos and music weighing the same. Raises LabelError for one without an item."""
    means = []
    for emotion in EMOTIONS:
        kinds = []
        for kind, part in features.items():
            chosen = part.labels == emotion
            if chosen.any():
                kinds.append(unit(projections[kind](part.pooled()[chosen]).mean(axis=0)))
        if not kinds:
            raise LabelError(f"no labelled item is {emotion}: the space would not know where that lies")
        means.append(unit(np.mean(kinds, axis=0)))
    return np.stack(means)


def calibrated_temperature(vectors: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> float:
    """The softmax temperature under which the labels of (n, e) vectors are most likely, given (c, e) prototypes.

    Unlabelled ones (empty) do not count. Raises LabelError where none is labelled.
    """
    vectors, labels = vectors[labels != ""], labels[labels != ""]
    if not len(labels):
        raise LabelError("no labelled validation item to calibrate the temperature on")
    targets = np.array([EMOTIONS.index(label) for label in labels])
    cosines = vectors @ centres.T
    candidates = np.geomspace(0.02, 1.0, 60)

    def mean_log_loss(temperature: float) -> float:
        logits = cosines / temperature
        logits = logits - logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets]))

    return float(min(candidates, key=mean_log_loss))


_SHIPPED = Recipe(tau=0.2, learning_rate=3e-4, epochs=12, balanced=True, best_epoch=False)
RECIPES = {"paper": Recipe(), "shipped": _SHIPPED, "quadrants": replace(_SHIPPED, quadrants=True)}
VAL_SHARE = 0.1


def with_changes(recipe: Recipe, *, seed: int, epochs: int | None) -> Recipe:
    return replace(recipe, seed=seed, epochs=epochs or recipe.epochs)


def split(features: LabelledFeatures, seed: int) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Training and validation items: by their column `split`, or else a tenth of the groups of each emotion, drawn by `seed`.

    Raises LabelError where a side would be empty.
    """
    splits = np.array([item.split for item in features.items])
    if splits.astype(bool).any():
        held_out = splits == "val"
        train = splits == "train"
    else:
        rng = np.random.default_rng(seed)
        chosen: set[str] = set()
        for label in np.unique(features.labels):
            groups = np.unique(features.groups[features.labels == label])
            chosen.update(rng.permutation(groups)[: round(len(groups) * VAL_SHARE)])
        held_out = np.isin(features.groups, sorted(chosen))
        train = ~held_out
    if not held_out.any() or not train.any():
        side = "validation" if not held_out.any() else "training"
        raise LabelError(f"no {features.kind.plural} are left for {side}", "name train and val in the column split, or have ten groups")
    return features.take(train), features.take(held_out)


def train_space(
    name: str,
    train_on: Mapping[MediaKind, LabelledFeatures],
    val: Mapping[MediaKind, LabelledFeatures],
    recipe: Recipe,
    encoders: Mapping[MediaKind, EncoderInfo],
    on_epoch: Callable[[Epoch], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[EmotionSpace, Trained]:
    """Trains, places the prototypes and calibrates the temperature on `val`. What it used and found is in the space's `about`."""
    trained = train(train_on[MediaKind.PHOTO], train_on[MediaKind.MUSIC], recipe, val, on_epoch)
    centres = prototypes(trained.projections, train_on)
    vectors = np.concatenate([trained.projections[kind](features.pooled()) for kind, features in val.items()])
    temperature = calibrated_temperature(vectors, np.concatenate([features.labels for features in val.values()]), centres)
    space = EmotionSpace(
        name=name,
        encoders={kind: info.name for kind, info in encoders.items()},
        digests={kind: info.digest for kind, info in encoders.items()},
        projections=trained.projections,
        prototypes=centres,
        temperature=temperature,
        about={
            "recipe": asdict(recipe),
            "best_epoch": trained.best_epoch,
            "items": {f"{kind}_{part}": len(on[kind]) for part, on in (("train", train_on), ("val", val)) for kind in MediaKind},
            **(about or {}),
        },
    )
    return space, trained
