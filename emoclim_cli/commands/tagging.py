"""tagging: how much of music tags is in frozen vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from emoclim_cli import console
from emoclim_cli.commands import places
from emoclim_cli.commands.labelled import features_of_items
from emoclim_cli.commands.options import DeviceOption, JsonOption, LibraryOption, OfflineOption, SpaceOption
from emoclim_cli.errors import UsageError
from emoclim_cli.media import MediaKind

if TYPE_CHECKING:
    from emoclim_cli.magnatagatune import TagSet


def tagging(
    data: Annotated[str, typer.Option(metavar="DIR|CSV", help="MagnaTagATune: annotations_final.csv, clips in 0 to f. Or a CSV like it.")],
    space: SpaceOption = "",
    vectors: Annotated[
        str, typer.Option(metavar="emotion|features", help="Emotion vectors, or the encoder's features they are made from.")
    ] = "emotion",
    tags: Annotated[int, typer.Option(min=1, metavar="N", help="The N tags that most clips carry.")] = 50,
    epochs: Annotated[int, typer.Option(min=0, metavar="N", help="Of the head; 0: as usual.")] = 0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    library: LibraryOption = "",
    json: JsonOption = False,
) -> None:
    """Trains a small head on frozen music vectors to tell tags, and measures it on the test split: ROC-AUC and PR-AUC, macro over tags."""
    from dataclasses import replace

    from emoclim_cli import tagging
    from emoclim_cli.encoders.devices import check_name
    from emoclim_cli.magnatagatune import read_tag_set

    if vectors not in tagging.VECTORS:
        raise UsageError(f"--vectors {vectors}: unknown", f"one of: {', '.join(tagging.VECTORS)}")
    check_name(device)
    loaded = places.load_space(space, places.known_library(library))
    tag_set = read_tag_set(data, tags)
    _tell(tag_set)
    encoder = places.space_encoder(loaded, MediaKind.MUSIC, device, places.is_offline(offline))
    features = features_of_items(tag_set.items, encoder)
    clips = tagging.split_clips(features, tag_set, loaded.projections[MediaKind.MUSIC] if vectors == "emotion" else None)
    recipe = tagging.HeadRecipe(seed=seed)
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    with console.progress("training", recipe.epochs) as advance:
        trained = tagging.train_head(clips["train"], clips["val"], recipe, lambda number, _roc_auc: advance(number))
    test = clips["test"]
    report = tagging.measure(trained.head(test.vectors), test.carried, tag_set.tags)
    if report.unmeasured:
        names = ", ".join(report.unmeasured)
        console.warn(f"not measured, and left out of the mean, since no clip of the test split carries them or all do: {names}")
    if json:
        about = {"space": loaded.name, "encoder": encoder.info.name, "vectors": vectors}
        course = {"epochs": recipe.epochs, "best_epoch": trained.best_epoch}
        sizes = {split: len(part.vectors) for split, part in clips.items()}
        console.print_json(
            {**about, **course, "splits": sizes, "missing": tag_set.missing, "untagged": tag_set.untagged, **report.as_json()}
        )
        return
    console.show_tagging(report, vectors)


def _tell(tag_set: TagSet) -> None:
    console.note(f"{console.counted(len(tag_set.items), 'clip')}, {console.counted(len(tag_set.tags), 'tag')}")
    if tag_set.missing:
        console.warn(f"{console.counted(tag_set.missing, 'clip')} listed but not on disk: left out")
    if tag_set.untagged:
        console.note(f"{console.counted(tag_set.untagged, 'clip')} without any of the tags: left out")
