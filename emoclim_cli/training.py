"""Training the two projections of a space by the losses of `losses` and the additions that the model card names.

On frozen features, or with the network that gives those of the music, which then learns, too (`tuning`).

Shape letters: n items, w windows, d feature dim, h hidden width, e emotion dim, c emotions, b batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emoclim_cli import __version__, checkpoints, evaluation
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.emotions import EMOTIONS, RETRIEVAL_EMOTIONS
from emoclim_cli.encoders.devices import enough_memory
from emoclim_cli.errors import LabelError, ModelError, UsageError
from emoclim_cli.losses import loss_named
from emoclim_cli.media import MediaKind
from emoclim_cli.metrics import macro
from emoclim_cli.projections import Projection
from emoclim_cli.recipes import Recipe
from emoclim_cli.tuning import Body, Tuning, below, moments, set_moments

Features = Mapping[MediaKind, LabelledFeatures]
Tell = Callable[[str], None]
PARTS = ("w1", "b1", "w2", "b2")
"""The arrays of a Projection."""


def spread(x: Tensor) -> Tensor:
    """(n, d) -> (d,): the standard deviation of each feature; 1 for one that is constant, which is not to be blown up where it varies."""
    std = x.std(0, correction=0)
    return torch.where(std < 1e-6, 1.0, std)


@torch.no_grad()
def folded(mean: Tensor, std: Tensor, first: nn.Linear, norm: nn.BatchNorm1d, second: nn.Linear) -> list[np.ndarray]:
    """Standardise - Linear - BatchNorm - ReLU - Linear at inference, as two affine layers: w1 (d, h), b1 (h,), w2 (h, e), b2 (e,)."""
    running_mean, running_var = norm.running_mean, norm.running_var
    assert running_mean is not None and running_var is not None  # track_running_stats is on
    scale = norm.weight / torch.sqrt(running_var + norm.eps)  # (h,)
    w1 = (first.weight * scale[:, None]).T / std[:, None]
    b1 = (first.bias - running_mean) * scale + norm.bias - mean @ w1
    return [t.contiguous().numpy().copy() for t in (w1, b1, second.weight.T, second.bias)]


@contextmanager
def one_thread() -> Iterator[None]:
    """The matrices are small: threads cost more than they give, and sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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

    def folded(self) -> Projection:
        return Projection(*folded(self.mean, self.std, self.first, self.norm, self.second))


@dataclass(frozen=True, slots=True)
class Epoch:
    number: int
    loss: dict[str, float]
    """The terms of the loss, their means over the epoch's batches."""
    val_loss: float
    """The loss on the validation items, NaN without any."""
    val: dict[str, tuple[float, float]]
    """Direction -> P@5 and MRR on the validation items, clip level; empty without any."""


@dataclass(frozen=True, slots=True)
class Trained:
    projections: dict[MediaKind, Projection]
    history: tuple[Epoch, ...]
    best_epoch: int
    tuned: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the music encoder in that epoch, where it was trained, too."""


class _Items:
    """Labelled features as tensors, drawn by emotion."""

    def __init__(self, features: LabelledFeatures, quadrants: bool) -> None:
        if not quadrants:
            features = features.take(features.labels != "")
        if not len(features):
            raise LabelError(f"no {features.kind.plural} with an emotion to train on")
        self.features = features
        self.windows = torch.from_numpy(features.windows)
        self.starts, self.counts = features.starts[:-1], np.diff(features.starts)
        self.sets = torch.from_numpy(features.emotion_sets(EMOTIONS))
        # One stratum for each emotion and one for each set of emotions that items may be.
        keys = np.array(["+".join(sorted(item.emotions)) for item in features.items])
        self.by_stratum = np.argsort(keys, kind="stable")
        self.stratum_sizes = np.unique(keys, return_counts=True)[1]
        self.stratum_starts = np.cumsum(self.stratum_sizes) - self.stratum_sizes

    def choose(self, rng: np.random.Generator, recipe: Recipe) -> np.ndarray:
        """(b,) items."""
        if recipe.balanced:
            strata = rng.integers(0, len(self.stratum_sizes), recipe.batch)
            chosen: np.ndarray = self.by_stratum[self.stratum_starts[strata] + rng.integers(0, self.stratum_sizes[strata])]
            return chosen
        return rng.integers(0, len(self.counts), recipe.batch)

    def draw(self, rng: np.random.Generator, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """(b, d) features and (b, c) emotion sets."""
        index = self.choose(rng, recipe)
        x = self.windows[self.starts[index] + rng.integers(0, self.counts[index])]
        return x, self.sets[index]

    def scatter(self) -> Tensor:
        """(w, d): how far each window lies from the mean of its item."""
        return self.windows - torch.from_numpy(self.features.pooled()[self.features.owner])


@dataclass(frozen=True, slots=True)
class _Teacher:
    items: _Items
    scatter: Tensor
    """(w, d). A teacher's rows are means: with the scatter of windows they look like windows, and are not told from them by it."""

    def mix(self, x: Tensor, sets: Tensor, rng: np.random.Generator, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """A batch in which the teacher's rows have the place of some."""
        taught, taught_sets = self.items.draw(rng, recipe)
        taught = taught + self.scatter[rng.integers(0, len(self.scatter), len(taught))]
        chosen = torch.from_numpy(rng.random(len(x)) < recipe.teacher_share)[:, None]
        return torch.where(chosen, taught, x), torch.where(chosen, taught_sets, sets)


class _Heard:
    """The same items, of which an encoder in training hears other segments each time."""

    def __init__(self, items: _Items, tuning: Tuning) -> None:
        self.items, self.tuning = items, tuning
        self.rows = tuning.body.chunks.rows_of(items.features.items)

    def draw(self, rng: np.random.Generator, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """(b, d) features, through which errors go back, and (b, c) emotion sets."""
        index = self.items.choose(rng, recipe)
        return self.tuning.features(self.rows[index], rng), self.items.sets[index]


@dataclass(slots=True)
class _State:
    """All that an epoch changes, which is what a checkpoint holds."""

    models: dict[MediaKind, Mlp]
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    """Draws the batches; torch's own draws what drops out."""
    tuning: Tuning | None = None
    history: list[Epoch] = field(default_factory=list)
    best: dict[MediaKind, Projection] = field(default_factory=dict)
    best_epoch: int = 0


def train(
    photos: LabelledFeatures,
    music: LabelledFeatures,
    recipe: Recipe,
    val: Features | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    *,
    teacher: LabelledFeatures | None = None,
    body: Body | None = None,
    checkpoint: Path | None = None,
    tell: Tell | None = None,
) -> Trained:
    """Two projections: of the last epoch, or, with `val` and `recipe.best_epoch`, of that with the lowest loss on it (paper, section 3.2).

    Of the music in a batch, `recipe.teacher_share` is the teacher's where there is one: features of other music. The same features, recipe
    and seed give the same projections on the same machine, bit for bit, also when training was interrupted: `checkpoint` names a file that
    holds the state after each epoch, and the same training goes on from there. It stays, as only the caller knows when the result is safe.
    What was found in it goes to `tell`, and its epochs go to `on_epoch` once more.

    With a `body`, and a recipe that is `unfrozen`, the network behind the features of the music is trained as well, from the audio that it
    hears. `music`, and the music in `val`, is what it gives before: that scales the projection's input, while every epoch is validated on
    the features of that epoch. Torch's threads are not limited to one then, and the bits are the same with the same number of them, on
    the CPU; of accelerators nothing is promised.

    Raises LabelError where a kind has nothing to train on, UsageError for an unknown loss or what does not go together, ModelError where
    training diverges or the checkpoint cannot be written.
    """
    if val is not None and set(val) != set(MediaKind):
        raise LabelError("validation needs both photos and music")
    if recipe.epochs < 1:
        raise UsageError("training needs at least one epoch")
    if recipe.batch < 2:
        raise UsageError("a batch needs at least two photos and two pieces of music", "without the others there is nothing to tell apart")
    if recipe.unfrozen != (body is not None):
        raise UsageError("a recipe that is unfrozen, and no other, trains the body of an encoder")
    if body and teacher:
        raise UsageError("a teacher's features are those of the frozen encoder, and do not fit one that is trained")
    if body:  # what could not be read this time
        music = body.chunks.shared(music)
    with nullcontext() if body else one_thread():
        return _train({MediaKind.PHOTO: photos, MediaKind.MUSIC: music}, recipe, val or {}, on_epoch, teacher, body, checkpoint, tell)


def _train(
    features: Features,
    recipe: Recipe,
    val: Features,
    on_epoch: Callable[[Epoch], None] | None,
    teacher: LabelledFeatures | None,
    body: Body | None,
    checkpoint: Path | None,
    tell: Tell | None,
) -> Trained:
    items = {kind: _Items(part, recipe.quadrants) for kind, part in features.items()}
    val_items = {kind: _Items(part, recipe.quadrants) for kind, part in val.items()}
    taught = _Teacher(_Items(teacher, recipe.quadrants), items[MediaKind.MUSIC].scatter()) if teacher and recipe.teacher_share else None
    state = _begin(items, recipe, body)
    music = _Heard(items[MediaKind.MUSIC], state.tuning) if state.tuning else items[MediaKind.MUSIC]
    learnt_from = (*features.values(), *val.values(), *((teacher,) if taught and teacher else ()))
    fingerprint = _fingerprint(recipe, learnt_from) if checkpoint else ""
    found = _go_on(state, checkpoint, fingerprint, recipe.epochs) if checkpoint else ""
    if found and tell:
        tell(found)
    if on_epoch:
        for epoch in state.history:
            on_epoch(epoch)
    for number in range(len(state.history) + 1, recipe.epochs + 1):
        with enough_memory(body.device if body else "this machine", f"--batch N, fewer than {recipe.batch}"):
            sums = _learn(number, state, {**items, MediaKind.MUSIC: music}, taught, recipe)
        projections = {kind: model.folded() for kind, model in state.models.items()}
        if state.tuning and val:
            val = {**val, MediaKind.MUSIC: state.tuning.validation()}
            val_items[MediaKind.MUSIC] = _Items(val[MediaKind.MUSIC], recipe.quadrants)
        val_loss = _val_loss(projections, val_items, recipe) if val_items else math.nan
        if not math.isfinite(sum(sums.values())) or (val_items and not math.isfinite(val_loss)):
            raise ModelError(f"training diverged in epoch {number}", "a smaller learning rate")
        if not val_items or not recipe.best_epoch or val_loss < min((e.val_loss for e in state.history), default=math.inf):
            state.best, state.best_epoch = projections, number
            if state.tuning:
                state.tuning.keep()
        epoch = Epoch(number, sums, val_loss, _retrieval(projections, val))
        state.history.append(epoch)
        if checkpoint:
            checkpoints.write(checkpoint, *_saved(state, fingerprint))
        if on_epoch:
            on_epoch(epoch)
    return Trained(state.best, tuple(state.history), state.best_epoch, state.tuning.best if state.tuning else {})


def _begin(items: Mapping[MediaKind, _Items], recipe: Recipe, body: Body | None) -> _State:
    torch.manual_seed(recipe.seed)
    models = {kind: Mlp(part.windows.mean(0), spread(part.windows), recipe) for kind, part in items.items()}
    parameters = [p for model in models.values() for p in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return _State(models, optimizer, np.random.default_rng(recipe.seed), Tuning(body, recipe) if body else None)


def _learn(
    number: int, state: _State, items: Mapping[MediaKind, _Items | _Heard], teacher: _Teacher | None, recipe: Recipe
) -> dict[str, float]:
    """One epoch: the terms of the loss, means over its batches."""
    loss = loss_named(recipe.loss)
    rates = {state.optimizer: recipe.learning_rate}
    if state.tuning:
        rates[state.tuning.optimizer] = recipe.body_learning_rate
    sums: dict[str, Tensor] = {}
    for step in range((number - 1) * recipe.steps, number * recipe.steps):
        for optimizer, rate in rates.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / (recipe.epochs * recipe.steps))) / 2
        batch = {kind: part.draw(state.rng, recipe) for kind, part in items.items()}
        if teacher:
            batch[MediaKind.MUSIC] = teacher.mix(*batch[MediaKind.MUSIC], state.rng, recipe)
        vectors = {kind: state.models[kind](x) for kind, (x, _) in batch.items()}
        terms = loss(vectors[MediaKind.PHOTO], vectors[MediaKind.MUSIC], batch[MediaKind.PHOTO][1], batch[MediaKind.MUSIC][1], recipe)
        for optimizer in rates:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in rates:
            optimizer.step()
        for name, term in terms.items():
            sums[name] = sums.get(name, torch.zeros(())) + term.detach() / recipe.steps
    return {name: term.item() for name, term in sums.items()}


def _val_loss(projections: Mapping[MediaKind, Projection], items: Mapping[MediaKind, _Items], recipe: Recipe) -> float:
    vectors = {kind: torch.from_numpy(projections[kind](part.features.pooled())) for kind, part in items.items()}
    photos, music = items[MediaKind.PHOTO], items[MediaKind.MUSIC]
    terms = loss_named(recipe.loss)(vectors[MediaKind.PHOTO], vectors[MediaKind.MUSIC], photos.sets, music.sets, recipe)
    return float(sum(term.item() for term in terms.values()))


def measurable(features: Features) -> dict[MediaKind, LabelledFeatures]:
    """The kinds that have items with an emotion on which retrieval is measured."""
    return {kind: part for kind, part in features.items() if np.isin(part.labels, RETRIEVAL_EMOTIONS).any()}


def _retrieval(projections: Mapping[MediaKind, Projection], val: Features) -> dict[str, tuple[float, float]]:
    """P@5 and MRR of `evaluation.evaluate` at clip level, without the rest of what it says, so that every epoch can have them."""
    sides = evaluation.sides_of(projections, measurable(val))
    return {
        name: (macro(result.precision[5], queries.labels)[0], macro(result.reciprocal_rank, queries.labels)[0])
        for name, queries, _, result in evaluation.retrievals(sides)
    }


# --- stopped and gone on with ------------------------------------------------------------------------------------------------------------


def _fingerprint(recipe: Recipe, parts: Iterable[LabelledFeatures]) -> str:
    """Two trainings with the same one are the same training."""
    digest = blake2b(json.dumps([__version__, torch.__version__, asdict(recipe)]).encode(), digest_size=16)
    for part in parts:
        labels = [(item.emotion, sorted(item.emotions), item.group) for item in part.items]
        digest.update(json.dumps([part.kind, part.windows.shape, labels]).encode())
        digest.update(np.ascontiguousarray(part.windows).tobytes() + part.starts.tobytes())
    return digest.hexdigest()


def _saved(state: _State, fingerprint: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A state as `checkpoints.write` takes it."""
    tensors = {"dropout": torch.get_rng_state()}
    for kind, model in state.models.items():
        tensors.update({f"{kind}.{name}": tensor for name, tensor in model.state_dict().items()})
    tensors.update({f"optimizer.{name}": tensor for name, tensor in moments(state.optimizer).items()})
    if state.tuning:
        tensors.update({f"body.{name}": tensor for name, tensor in state.tuning.saved().items()})
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    for kind, projection in state.best.items():
        arrays.update({f"best.{kind}.{part}": getattr(projection, part) for part in PARTS})
    history = [asdict(epoch) for epoch in state.history]
    return arrays, {
        "fingerprint": fingerprint,
        "batches": state.rng.bit_generator.state,
        "history": history,
        "best_epoch": state.best_epoch,
    }


def _go_on(state: _State, path: Path, fingerprint: str, epochs: int) -> str:
    """Brings a new state to where the checkpoint of the same training is; what to tell of it, empty where there is none."""
    try:
        saved = checkpoints.read(path)
    except ModelError as error:
        return f"{error.message}: training begins anew"
    if saved is None:
        return ""
    arrays, described = saved
    if described.get("fingerprint") != fingerprint:
        return f"{path.parent} holds an unfinished training with another recipe, other labels or other features: this one begins anew"
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for kind, model in state.models.items():
        model.load_state_dict({name: tensors[f"{kind}.{name}"] for name in model.state_dict()})
    set_moments(state.optimizer, below("optimizer.", tensors))
    if state.tuning:
        state.tuning.restore(below("body.", tensors))
    torch.set_rng_state(tensors["dropout"])
    state.rng.bit_generator.state = described["batches"]
    state.history = [
        Epoch(**{**epoch, "val": {name: (p, mrr) for name, (p, mrr) in epoch["val"].items()}}) for epoch in described["history"]
    ]
    state.best = {kind: Projection(*(arrays[f"best.{kind}.{part}"] for part in PARTS)) for kind in state.models}
    state.best_epoch = described["best_epoch"]
    return f"goes on after epoch {len(state.history)} of {epochs}, which was kept"
