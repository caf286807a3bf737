"""train: labelled data in, a space out."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.commands.labelled import audio_of_items, features_of_items, labelled_items
from emoclim_cli.commands.options import DeviceOption, JsonOption, LibraryOption, MusicOption, OfflineOption, PhotosOption
from emoclim_cli.errors import LabelError, UsageError
from emoclim_cli.media import MediaKind
from emoclim_cli.recipes import RECIPES, Recipe, with_loss

if TYPE_CHECKING:
    from emoclim_cli.datasets import LabelledFeatures
    from emoclim_cli.encoders import EncoderInfo
    from emoclim_cli.labels import LabelledItem
    from emoclim_cli.training import Epoch, Features
    from emoclim_cli.tuning import Body


def _check_writable(folder: str) -> None:
    """Before hours of work, not after them. Raises UsageError."""
    from emoclim_cli import checkpoints
    from emoclim_cli.projections import SPACE_FILE

    if not folder:
        raise UsageError("-o is empty", "name the folder of the space with -o")
    there = os.path.abspath(folder)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK):
        raise UsageError(f"{folder} cannot be written: {there} is no folder that may be written to", "name another with -o")
    names = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    if names and not names & {SPACE_FILE, checkpoints.NAME}:
        raise UsageError(f"{folder} holds other files, and no space that could be replaced", "name a new folder with -o")


def _recipe(name: str, loss: str, seed: int, *, epochs: int, steps: int, batch: int, unfrozen: bool) -> Recipe:
    """Raises UsageError where there is no such recipe or loss."""
    from dataclasses import replace

    from emoclim_cli.losses import loss_named

    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: unknown", f"one of: {', '.join(RECIPES)}")
    if batch == 1:
        raise UsageError("--batch 1: alone, a photo or a piece of music has none to be told apart from", "--batch 2 or more")
    recipe = with_loss(RECIPES[name], loss) if loss else RECIPES[name]
    loss_named(recipe.loss)
    epochs, steps, batch = epochs or recipe.epochs, steps or recipe.steps, batch or recipe.batch
    return replace(recipe, seed=seed, epochs=epochs, steps=steps, batch=batch, unfrozen=unfrozen)


def _items(source: str, recipe: Recipe, kind: MediaKind) -> list[LabelledItem]:
    """Every file that is in a split and of use to the recipe. Raises LabelError, before anything is fetched or encoded."""
    from emoclim_cli.spaces import check_splits

    items = [item for item in labelled_items(source, recipe.seed) if item.split and (item.emotion or recipe.quadrants)]
    if not items:
        raise LabelError(f"{source}: no split has {kind.plural} with an emotion", "the column split says train, val or test")
    check_splits(items, kind)
    return items


def _check_unfreezing(encoder: str, teacher: str) -> None:
    """Raises UsageError."""
    from emoclim_cli.encoders import ENCODERS

    if not ENCODERS[encoder].tunable:
        tunable = " or ".join(name for name, info in ENCODERS.items() if info.tunable)
        raise UsageError(f"--unfreeze-music: {encoder} cannot be trained here", f"--music-encoder {tunable}")
    if teacher:
        raise UsageError("--unfreeze-music with a --teacher: its features are those of the frozen encoder", "leave one of the two out")


def _body(info: EncoderInfo, parts: Mapping[str, Features], recipe: Recipe, device: str) -> Body:
    """The network of the music encoder, with what it hears, decoded. Says what it costs."""
    from emoclim_cli.encoders.cnn import network_of
    from emoclim_cli.encoders.devices import choose_device
    from emoclim_cli.encoders.windows import Window
    from emoclim_cli.tuning import CHUNK_S, Body
    from emoclim_cli.weights import path_of

    chosen = choose_device(device)
    if not chosen.accelerator:
        steps = console.counted(recipe.epochs * recipe.steps, "step")
        less = "--epochs and --steps make it shorter, --batch also takes less memory"
        console.note(f"{info.name} is trained on the processor, which is slow: {steps} of {recipe.batch} pieces of music each; {less}")
    network = network_of(info.name, path_of(info.weights[0], places.weights_cache()))
    window = Window(network.RATE_HZ, network.SAMPLES)
    return Body(
        network,
        chosen.name,
        audio_of_items(parts["train"][MediaKind.MUSIC].items, Window(network.RATE_HZ, round(CHUNK_S * network.RATE_HZ))),
        audio_of_items(parts["val"][MediaKind.MUSIC].items, window),
    )


def _same_command() -> str:
    return shlex.join(["emoclim", *(word for word in sys.argv[1:] if word != "--restart")])


def train(
    photos: PhotosOption,
    music: MusicOption,
    output: Annotated[str, typer.Option("-o", metavar="DIR", help="Where the space is written; its name is the space's.")],
    photo_encoder: Annotated[str, typer.Option(metavar="NAME")] = "clip-vit-b-16",
    music_encoder: Annotated[str, typer.Option(metavar="NAME")] = "musicnn",
    recipe: Annotated[
        str, typer.Option(metavar="paper|shipped|quadrants", help="Settings; quadrants: shipped, and items whose emotion is known in part.")
    ] = "shipped",
    loss: Annotated[
        str, typer.Option(metavar="NAME", help="supcon, va-regression, triplet, triplet-similarity, emoclim; else the recipe's.")
    ] = "",
    teacher: Annotated[
        str, typer.Option(metavar="CSV", help="Features of more music (mood, f0, f1, ...), computed by the same music encoder.")
    ] = "",
    unfreeze_music: Annotated[
        bool, typer.Option("--unfreeze-music", help="Train the music encoder, too: harmonic-cnn or short-chunk-cnn; best on a GPU.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=0, help="0: the recipe's.")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Batches in an epoch; 0: the recipe's.")] = 0,
    batch: Annotated[int, typer.Option(min=0, help="Photos in a batch, and as many pieces of music; 0: the recipe's.")] = 0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where the same training was interrupted.")] = False,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    library: LibraryOption = "",  # noqa: ARG001
    json: JsonOption = False,
) -> None:
    """Trains a space on labelled photos and music, and measures it on the split val, and on test if there is one.

    Where no row names a split, 80/10/10 are drawn. Stopped with Ctrl-C, the same command goes on where it was.
    """
    from emoclim_cli import checkpoints, modelcards, spaces
    from emoclim_cli.datasets import read_features
    from emoclim_cli.encoders import check_extra, encoder_info

    chosen = _recipe(recipe, loss, seed, epochs=epochs, steps=steps, batch=batch, unfrozen=unfreeze_music)
    infos = {info.kind: info for info in map(encoder_info, (photo_encoder, music_encoder))}
    if set(infos) != set(MediaKind):
        raise UsageError("--photo-encoder and --music-encoder are of one kind", "emoclim spaces show tells a pair that fits")
    for info in infos.values():
        check_extra(info)
    if unfreeze_music:
        _check_unfreezing(music_encoder, teacher)
    _check_writable(output)
    if teacher and not chosen.teacher_share:
        raise UsageError(f"--recipe {recipe} has no use for a --teacher", "--recipe shipped has")
    taught = read_features(teacher, MediaKind.MUSIC, infos[MediaKind.MUSIC].dim, console.note) if teacher else None
    sources = {MediaKind.PHOTO: photos, MediaKind.MUSIC: music}
    named = {kind.plural: source for kind, source in sources.items()} | ({"teacher": teacher} if teacher else {})
    items = {kind: _items(source, chosen, kind) for kind, source in sources.items()}
    for info in infos.values():  # before any of the long work
        places.fetch(info.weights, places.is_offline(offline))
    features = {}
    for kind, info in infos.items():
        encoder = places.ready_encoder(info.name, device, places.is_offline(offline))
        infos[kind] = encoder.info  # which names the weights
        features[kind] = features_of_items(items[kind], encoder)
    parts = spaces.by_split(features)
    body = _body(infos[MediaKind.MUSIC], parts, chosen, device) if unfreeze_music else None
    checkpoint = Path(output) / checkpoints.NAME
    if restart:
        checkpoints.remove(checkpoint)
    done = 0
    try:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as screen:
            show = screen.enter_context(console.training_table(chosen.epochs))

            def on_epoch(epoch: Epoch) -> None:
                nonlocal done
                done = epoch.number
                show(epoch)

            def encode(weights: Path) -> tuple[EncoderInfo, LabelledFeatures]:
                screen.close()  # one thing that moves at a time
                encoder = places.ready_encoder(music_encoder, device, places.is_offline(offline), tuned=weights)
                return encoder.info, features_of_items(items[MediaKind.MUSIC], encoder)

            space, trained = spaces.train_space(
                os.path.basename(os.path.abspath(output)),
                parts,
                chosen,
                infos,
                on_epoch,
                teacher=taught,
                unfrozen=spaces.Unfrozen(body, Path(scratch, "tuned.safetensors"), encode) if body else None,
                about={"labels": {name: os.path.basename(os.path.abspath(source)) for name, source in named.items()}},
                checkpoint=checkpoint,
                tell=console.note,
            )
            space.save(Path(output), modelcards.render(space))
    except KeyboardInterrupt:
        if done:
            console.note(f"kept in {output}: {done} of {console.counted(chosen.epochs, 'epoch')}; go on with: {_same_command()}")
        raise
    checkpoints.remove(checkpoint)
    if json:
        console.print_json({"space": str(output), "epochs": chosen.epochs, "best_epoch": trained.best_epoch, "val": space.about["metrics"]})
        return
    console.note(f"wrote {output}: epoch {trained.best_epoch} of {chosen.epochs}")
    console.show_space(space)
