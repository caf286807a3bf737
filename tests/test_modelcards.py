from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.media import MediaKind
from emoclim_cli.modelcards import render, table
from emoclim_cli.projections import EmotionSpace, Projection, unit
from emoclim_cli.recipes import Recipe, settings

HEADINGS = ["Encoders", "Data", "Splits", "Training", "Metrics", "Limits", "Licence"]


def direction(p_at_5: float | None, n: int, **more: Any) -> dict[str, Any]:
    return {"p@1": 0.5, "p@5": p_at_5, "mrr": 0.625, "chance_p@5": 0.1875, "n": n, **more}


METRICS = {
    "clip": {
        "image->music": direction(
            0.4375,
            1436,
            **{"p@5_interval": [0.4, 0.475]},
            per_emotion={"sad": direction(0.25, 36) | {"mrr": 0.75}},
            per_source={},
        ),
        "music->image": direction(0.375, 7, per_emotion={}, per_source={"game": direction(0.125, 3)}),
    },
    "track": {"image->music": direction(None, 0, per_emotion={}, per_source={})},
}
ABOUT = {
    "recipe": settings(Recipe(loss="triplet", epochs=12)),
    "best_epoch": 9,
    "labels": {"photos": "images.csv", "music": "my|music.csv"},
    "counts": {
        "photos": {"by_emotion": {"sad": {"train": 200, "val": 21}, "happy": {"train": 100, "val": 20}}, "by_source": {}},
        "music": {
            "by_emotion": {"partly": {"train": 30}, "angry": {"train": 21, "val": 2, "test": 1}},
            "by_source": {"game": {"train": 51, "val": 2, "test": 1}},
        },
    },
    "metrics": METRICS,
}


def a_space(**about: Any) -> EmotionSpace:
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return EmotionSpace(
        name="mine",
        encoders={MediaKind.PHOTO: "clip-vit-b-16", MediaKind.MUSIC: "a-network-of-mine"},
        digests={MediaKind.PHOTO: "00aa", MediaKind.MUSIC: "11bb"},
        projections={kind: Projection(some(4, 3), some(3), some(3, 2), some(2)) for kind in MediaKind},
        prototypes=unit(some(len(EMOTIONS), 2)),
        about=about,
    )


def sections_of(card: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return {heading: body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def rows_of(section: str, first: str) -> list[list[str]]:
    """The cells of the table whose first column is `first`, below its head."""
    lines = section.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    end = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : end]]


CARD = render(a_space(**ABOUT))
SECTIONS = sections_of(CARD)


def test_it_begins_with_the_name_and_what_it_is() -> None:
    assert CARD.startswith(
        f"# mine\n\nMaps photos and music into one 2-dimensional emotion space, with emoclim. Its id is `{a_space().id}`.\n\n## "
    )
    assert CARD.endswith("\n") and not CARD.endswith("\n\n")
    assert "\n\n\n" not in CARD


def test_its_sections() -> None:
    assert list(SECTIONS) == HEADINGS
    assert all(SECTIONS.values())


def test_encoders_with_their_licences() -> None:
    assert rows_of(SECTIONS["Encoders"], "of") == [
        ["photos", "`clip-vit-b-16`", "512", "MIT", "`00aa`"],
        ["music", "`a-network-of-mine`", "-", "-", "`11bb`"],
    ]


def test_files_and_counts() -> None:
    data = SECTIONS["Data"]
    assert "Labels: `images.csv` (photos), `my|music.csv` (music)." in data
    assert rows_of(data, "photos by emotion") == [["happy", "100", "20"], ["sad", "200", "21"], ["all", "300", "41"]]
    assert rows_of(data, "music by emotion") == [["angry", "21", "2", "1"], ["partly", "30", "0", "0"], ["all", "51", "2", "1"]]
    assert rows_of(data, "music by source") == [["game", "51", "2", "1"], ["all", "51", "2", "1"]]
    assert "photos by source" not in data
    assert sections_of(render(a_space(data="Photos of mine")))["Data"] == "Photos of mine."


def test_how_it_was_trained() -> None:
    assert "by the loss `triplet`. Epoch 9 of 12 is kept." in SECTIONS["Training"]
    assert "margin 0.4" in SECTIONS["Training"]
    assert "tau" not in SECTIONS["Training"]  # which that loss does not know
    assert "The epoch that is kept and the softmax temperature that turns cosines into percentages are chosen on val." in SECTIONS["Splits"]
    last = sections_of(render(a_space(recipe=settings(Recipe(best_epoch=False)))))
    assert ". The softmax temperature that turns cosines into percentages is chosen on val." in last["Splits"]


def test_metrics_with_chance_and_counts_and_intervals() -> None:
    metrics = SECTIONS["Metrics"]
    clips, tracks = metrics.split("### val, track level")
    assert rows_of(clips, "direction") == [
        ["image->music", "0.500", "0.438 (0.400 to 0.475)", "0.625", "0.188", "1436"],
        ["music->image", "0.500", "0.375", "0.625", "0.188", "7"],
    ]
    assert rows_of(tracks, "direction")[0] == ["image->music", "0.500", "-", "0.625", "0.188", "0"]
    by_emotion, by_source = tracks.split("### val, by emotion")[1].split("### val, by source")
    assert rows_of(by_emotion, "direction") == [["image->music", "sad", "0.500", "0.250", "0.750", "0.188", "36"]]
    assert rows_of(by_source, "direction") == [["music->image", "game", "0.500", "0.125", "0.625", "0.188", "3"]]
    assert "test" not in metrics


def test_a_test_split_is_told_beside_the_validation_split() -> None:
    card = sections_of(render(a_space(**ABOUT, test_metrics={"clip": {"image->music": direction(0.25, 9, per_emotion={}, per_source={})}})))
    assert rows_of(card["Metrics"].split("### test, clip level")[1], "direction") == [
        ["image->music", "0.500", "0.250", "0.625", "0.188", "9"]
    ]
    assert "### val, clip level" in card["Metrics"]
    assert "Nothing is chosen on test." in card["Splits"]
    assert "Nothing is chosen on test." not in SECTIONS["Splits"]


def test_small_counts_are_limits() -> None:
    assert "Fewer than 20 items" in SECTIONS["Limits"]
    assert ": 0 partly music in val, 2 angry music in val." in SECTIONS["Limits"]


def test_a_licence_that_is_not_named_is_not_made_up() -> None:
    assert "`clip-vit-b-16` MIT" in SECTIONS["Licence"]
    assert sections_of(render(a_space(licence="CC0-1.0")))["Licence"] == "CC0-1.0"


def test_sections_of_the_caller_are_added() -> None:
    more = {"Ablation": "| recipe | P@5 |", "Limits": "Photos are of 2014.", "Data": "", "Metrics": "Over 5 seeds."}
    card = render(a_space(**ABOUT), more)
    sections = sections_of(card)
    assert list(sections) == [*HEADINGS[:-2], "Ablation", *HEADINGS[-2:]]
    assert sections["Ablation"] == "| recipe | P@5 |"
    assert sections["Limits"] == SECTIONS["Limits"] + "\n\nPhotos are of 2014."
    assert sections["Metrics"] == SECTIONS["Metrics"] + "\n\nOver 5 seeds."
    assert sections["Data"] == SECTIONS["Data"]


def test_a_space_that_says_nothing_of_itself_has_a_card_all_the_same() -> None:
    sections = sections_of(render(a_space()))
    assert sections["Training"] == "Not recorded."
    assert "Not measured" in sections["Metrics"]
    assert "chance" in sections["Metrics"]
    assert "Data" not in sections  # nothing to say


@pytest.mark.parametrize("cell", ["a|b", "a\nb"])
def test_a_cell_cannot_break_its_table(cell: str) -> None:
    lines = table(("name", "count"), [(cell, "1")]).splitlines()
    assert len(lines) == 3
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == 3
    assert lines[1] == "| --- | ---: |"


def test_the_same_space_has_the_same_card() -> None:
    assert render(a_space(**ABOUT)) == CARD
    assert render(replace(a_space(**ABOUT), name="another")) != CARD


def test_an_encoder_that_was_trained_is_not_called_frozen() -> None:
    recipe = settings(Recipe(unfrozen=True, body_learning_rate=3e-5))
    space = replace(a_space(recipe=recipe), tuned={MediaKind.MUSIC: Path("music-encoder.safetensors")})
    said = sections_of(render(space))["Encoders"]
    assert said.startswith("`a-network-of-mine` was trained together with its projection, at the learning rate 3e-05, ")
    assert "Frozen" not in said
    assert sections_of(CARD)["Encoders"].startswith("Frozen: ")
