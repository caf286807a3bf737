from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.errors import ModelError
from emoclim_cli.media import MediaKind
from emoclim_cli.projections import EmotionSpace, Projection, load_space, shipped_spaces, space_folders, unit

DIMS = {MediaKind.PHOTO: 5, MediaKind.MUSIC: 3}


def a_projection(d: int, h: int = 4, e: int = 6, seed: int = 0) -> Projection:
    rng = np.random.default_rng(seed)
    return Projection(*(rng.standard_normal(shape).astype(np.float32) for shape in ((d, h), (h,), (h, e), (e,))))


def a_space(**changes: Any) -> EmotionSpace:
    space = EmotionSpace(
        name="toy",
        encoders={MediaKind.PHOTO: "toy-photo", MediaKind.MUSIC: "toy-music"},
        digests={MediaKind.PHOTO: "00aa", MediaKind.MUSIC: "11bb"},
        projections={kind: a_projection(d, seed=d) for kind, d in DIMS.items()},
        prototypes=unit(np.random.default_rng(9).standard_normal((len(EMOTIONS), 6))),
        temperature=0.2,
        about={"licence": "CC0-1.0", "metrics": {"image->music": {"p@5": 0.5}}},
    )
    return replace(space, **changes)


def projection_oracle(p: Projection, features: list[float]) -> list[float]:
    hidden = [
        max(0.0, sum(x * w for x, w in zip(features, column, strict=True)) + b)
        for column, b in zip(p.w1.T.tolist(), p.b1.tolist(), strict=True)
    ]
    out = [sum(x * w for x, w in zip(hidden, column, strict=True)) + b for column, b in zip(p.w2.T.tolist(), p.b2.tolist(), strict=True)]
    norm = math.sqrt(sum(x * x for x in out))
    return [x / norm for x in out]


# --- projections ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_projection_is_linear_relu_linear_unit_norm(n: int) -> None:
    p = a_projection(5)
    features = np.random.default_rng(1).standard_normal((n, 5)).astype(np.float32)
    vectors = p(features)
    assert vectors.shape == (n, 6)
    assert vectors.dtype == np.float32
    for row, vector in zip(features.tolist(), vectors.tolist(), strict=True):
        assert vector == pytest.approx(projection_oracle(p, row), abs=1e-6)


def test_features_of_another_precision_give_float32() -> None:
    features = np.random.default_rng(2).standard_normal((4, 5))
    assert a_projection(5)(features).dtype == np.float32
    assert a_projection(5)(features.astype(np.float16)).dtype == np.float32


@pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 6), (1, 2, 5)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="do not fit a projection from 5 numbers") as caught:
        a_projection(5)(np.zeros(shape, np.float32))
    assert str(shape) in caught.value.message


def test_unit_scales_rows_and_leaves_zeros() -> None:
    scaled = unit(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
    assert scaled.tolist() == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0, -1]]))
    assert unit(np.array([0.0, 5.0])).tolist() == [0, 1]


# --- spaces --------------------------------------------------------------------------------------------------------------


def test_each_kind_has_its_own_projection() -> None:
    space = a_space()
    for kind, d in DIMS.items():
        features = np.random.default_rng(3).standard_normal((2, d)).astype(np.float32)
        expected = [projection_oracle(space.projections[kind], row) for row in features.tolist()]
        assert space.project(kind, features).tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


def test_probabilities_are_the_softmax_over_the_prototypes() -> None:
    space = a_space()
    vectors = unit(np.random.default_rng(4).standard_normal((5, 6)))
    for vector, row in zip(vectors, space.probabilities(vectors), strict=True):
        weights = [math.exp(sum(x * y for x, y in zip(vector.tolist(), centre, strict=True)) / 0.2) for centre in space.prototypes.tolist()]
        assert row.tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-6)
    own = space.probabilities(space.prototypes)
    assert own.argmax(axis=1).tolist() == list(range(len(EMOTIONS)))
    cold = replace(space, temperature=1e-4).probabilities(vectors)  # no overflow
    assert cold.sum(axis=1).tolist() == pytest.approx([1] * 5)


def test_a_mood_is_a_prototype_or_the_direction_between_several() -> None:
    space = a_space()
    assert space.mood(["sad"]).tolist() == pytest.approx(space.prototypes[EMOTIONS.index("sad")].tolist(), abs=1e-6)
    between = space.mood(["tender", "happy"])
    assert float(between @ between) == pytest.approx(1)
    tender, happy = (float(between @ space.prototypes[EMOTIONS.index(emotion)]) for emotion in ("tender", "happy"))
    assert tender == pytest.approx(happy, abs=1e-6)
    assert between.tolist() == pytest.approx(space.mood(["happy", "tender"]).tolist(), abs=1e-6)


def test_a_mood_that_the_space_does_not_know() -> None:
    space = a_space(emotions=("sad", "happy"), prototypes=a_space().prototypes[:2])
    with pytest.raises(ModelError, match="toy does not know tender, scary") as caught:
        space.mood(["sad", "tender", "scary"])
    assert caught.value.hint == "it knows sad, happy"


# --- the id --------------------------------------------------------------------------------------------------------------


def with_part(kind: MediaKind, part: str, change: Callable[[np.ndarray], np.ndarray]) -> EmotionSpace:
    space = a_space()
    projection = space.projections[kind]
    changed = replace(projection, **{part: change(getattr(projection, part))})
    return replace(space, projections={**space.projections, kind: changed})


def nudged(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[-1] = np.nextafter(array.flat[-1], np.float32(np.inf))
    return array


CHANGED = {
    **{f"{kind}.{part}": with_part(kind, part, nudged) for kind in MediaKind for part in ("w1", "b1", "w2", "b2")},
    "prototypes": a_space(prototypes=nudged(a_space().prototypes)),
    **{f"{kind} digest": a_space(digests={**a_space().digests, kind: "22cc"}) for kind in MediaKind},
    **{f"{kind} encoder": a_space(encoders={**a_space().encoders, kind: "other"}) for kind in MediaKind},
    "digests swapped": a_space(digests={MediaKind.PHOTO: "11bb", MediaKind.MUSIC: "00aa"}),
}


def test_the_id_changes_with_the_last_bit_of_any_weight_and_with_any_digest() -> None:
    ids = {what: space.id for what, space in CHANGED.items()} | {"unchanged": a_space().id}
    assert len(set(ids.values())) == len(ids), ids


def test_the_id_does_not_change_with_what_makes_no_vector() -> None:
    other_order = {kind: a_space().projections[kind] for kind in reversed(MediaKind)}
    fortran = with_part(MediaKind.PHOTO, "w1", np.asfortranarray)
    double = with_part(MediaKind.PHOTO, "w2", lambda array: array.astype(np.float64))
    for space in (a_space(name="other", temperature=1.0, about={}), a_space(projections=other_order), fortran, double):
        assert space.id == a_space().id


def test_the_id_is_the_same_in_another_process() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_projections import a_space; print(a_space().id)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == a_space().id


# --- on disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    a_space().save(tmp_path / "toy")
    return tmp_path / "toy"


def edit(folder: Path, **changes: Any) -> None:
    """Changes keys of `space.json`; None removes one."""
    text = json.loads((folder / "space.json").read_text(encoding="utf-8")) | changes
    (folder / "space.json").write_text(json.dumps({key: value for key, value in text.items() if value is not None}), encoding="utf-8")


def edit_arrays(folder: Path, change: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> None:
    file = folder / "weights.safetensors"
    arrays = dict(change({name: array.copy() for name, array in load_file(file).items()}))
    file.unlink()
    save_file(arrays, file)


def test_a_space_survives_the_disk(folder: Path) -> None:
    saved, loaded = a_space(), EmotionSpace.load(folder)
    for name in ("id", "name", "encoders", "digests", "emotions", "temperature", "about", "dim"):
        assert getattr(loaded, name) == getattr(saved, name), name
    for kind, d in DIMS.items():
        features = np.random.default_rng(5).standard_normal((3, d)).astype(np.float32)
        assert (loaded.project(kind, features) == saved.project(kind, features)).all()
    assert (loaded.prototypes == saved.prototypes).all()


def test_the_folder_describes_itself_and_nothing_else_is_left_in_it(folder: Path) -> None:
    text = json.loads((folder / "space.json").read_text(encoding="utf-8"))
    space = a_space()
    assert text["format"] == 1
    assert text["id"] == space.id
    assert text["photo_encoder"] == "toy-photo"
    assert text["music_encoder"] == "toy-music"
    assert text["digests"] == {"photo": "00aa", "music": "11bb"}
    assert text["licence"] == "CC0-1.0"
    assert sorted(os.listdir(folder)) == ["space.json", "weights.safetensors"]


def test_saving_over_a_space_replaces_it(folder: Path) -> None:
    (folder / "README.md").write_text("the model card")
    other = a_space(name="other", about={})
    other.save(folder)
    assert EmotionSpace.load(folder).name == "other"
    assert EmotionSpace.load(folder).about == {}
    assert (folder / "README.md").read_text() == "the model card"


def test_a_card_is_saved_with_the_space(folder: Path) -> None:
    a_space(name="other").save(folder, "# other\n\nÜber alles.\n")
    assert sorted(os.listdir(folder)) == ["README.md", "space.json", "weights.safetensors"]
    assert (folder / "README.md").read_text(encoding="utf-8") == "# other\n\nÜber alles.\n"


@pytest.mark.parametrize("name", ["weights.safetensors", "space.json", "README.md"])
def test_a_space_that_cannot_be_written_whole_leaves_the_one_before(name: str, folder: Path) -> None:
    a_space().save(folder, "the card")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    in_the_way = folder / f".{name}.{os.getpid()}"
    in_the_way.mkdir()
    with pytest.raises(ModelError, match="cannot be written"):
        a_space(name="other", temperature=0.5, about={}).save(folder, "another")
    in_the_way.rmdir()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        a_space().save(tmp_path / "file")
    with pytest.raises(ModelError, match="cannot be written"):
        a_space().save(tmp_path / "file" / "below")


def flipped_bit(folder: Path) -> None:
    file = folder / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def truncated(folder: Path) -> None:
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def reshaped(name: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    return lambda folder: edit_arrays(folder, lambda arrays: arrays | {name: np.ones(shape, np.float32)})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of a weight": flipped_bit,
    "weights cut short": truncated,
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "no description": lambda folder: (folder / "space.json").unlink(),
    "empty description": lambda folder: (folder / "space.json").write_text(""),
    "description is a list": lambda folder: (folder / "space.json").write_text("[]"),
    "description is not UTF-8": lambda folder: (folder / "space.json").write_bytes(b'{"name": "\xe9"}'),
    "a weight missing": lambda folder: edit_arrays(folder, lambda arrays: {k: v for k, v in arrays.items() if k != "photo.w1"}),
    "other digest": lambda folder: edit(folder, digests={"photo": "00aa", "music": "22cc"}),
    "digest missing": lambda folder: edit(folder, digests={"photo": "00aa"}),
    "digests a list": lambda folder: edit(folder, digests=["00aa", "11bb"]),
    "other encoder": lambda folder: edit(folder, music_encoder="other"),
    "no encoder": lambda folder: edit(folder, music_encoder=None),
    "no id": lambda folder: edit(folder, id=None),
    "an emotion missing": lambda folder: edit(folder, emotions=list(EMOTIONS[1:])),
    "temperature zero": lambda folder: edit(folder, temperature=0),
    "temperature not a number": lambda folder: edit(folder, temperature=math.nan),
    "temperature a word": lambda folder: edit(folder, temperature="warm"),
    "w1 a vector": reshaped("photo.w1", (5,)),
    "w1 of another width": reshaped("photo.w1", (5, 3)),
    "b1 of another width": reshaped("music.b1", (3,)),
    "w2 of another width": reshaped("music.w2", (3, 6)),
    "w2 of another dim": reshaped("photo.w2", (4, 7)),
    "b2 of another dim": reshaped("photo.b2", (7,)),
    "a prototype missing": reshaped("prototypes", (len(EMOTIONS) - 1, 6)),
    "prototypes of another dim": reshaped("prototypes", (len(EMOTIONS), 5)),
    "temperature without bound": lambda folder: edit(folder, temperature=math.inf),
    "a weight that is no number": lambda folder: edit_arrays(folder, lambda arrays: arrays | {"photo.b1": arrays["photo.b1"] * np.nan}),
    "weights of another type": lambda folder: edit_arrays(
        folder, lambda arrays: arrays | {"photo.b1": arrays["photo.b1"].astype(np.float64)}
    ),
    "weights without numbers": reshaped("photo.w1", (0, 4)),
    "description without end": lambda folder: (folder / "space.json").write_text('{"format": 1, "name": ' + "[" * 100_000),
    "description of 17 MB": lambda folder: (folder / "space.json").write_text(" " * (17 << 20)),
    "weights that never end": lambda folder: [(folder / "weights.safetensors").unlink(), os.mkfifo(folder / "weights.safetensors")],
    "weights of a device": lambda folder: [
        *[(folder / "weights.safetensors").unlink(), (folder / "weights.safetensors").symlink_to("/dev/zero")],
    ],
    "a name that commands the terminal": lambda folder: edit(folder, name="\x1b]0;title\x07toy"),
    "a name of two lines": lambda folder: edit(folder, name="toy\nemoclim-1"),
    "a name without end": lambda folder: edit(folder, name="toy" * 1000),
    "no name": lambda folder: edit(folder, name=""),
    "an encoder that is a list": lambda folder: edit(folder, photo_encoder=["clip"]),
    "an emotion that is a number": lambda folder: edit(folder, emotions=[1, *EMOTIONS[1:]]),
    "an emotion that commands the terminal": lambda folder: edit(folder, emotions=["\x1b[2Jsad", *EMOTIONS[1:]]),
    "no emotions": lambda folder: edit(folder, emotions=[]),
    "emotions that are a word": lambda folder: edit(folder, emotions="abcdefg"),
    "a licence that commands the terminal": lambda folder: edit(folder, licence={"text": ["\x1b[31m"]}),
    "a recipe that is a list": lambda folder: edit(folder, recipe=[1]),
    "a seed that is a word": lambda folder: edit(folder, recipe={"seed": "x"}),
    "tuned weights elsewhere": lambda folder: edit(folder, tuned=["../../photo"]),
    "tuned weights of a number": lambda folder: edit(folder, tuned=7),
    "prototypes a vector": reshaped("prototypes", (6,)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_or_hostile_space_is_refused_and_named(folder: Path, what: str) -> None:
    DAMAGE[what](folder)
    with pytest.raises(ModelError) as caught:
        EmotionSpace.load(folder)
    assert str(folder) in caught.value.message


def test_tampered_weights_are_told_from_a_wrong_description(folder: Path) -> None:
    flipped_bit(folder)
    with pytest.raises(ModelError, match=r"the weights are not those that space\.json describes"):
        EmotionSpace.load(folder)


@pytest.mark.parametrize("weights", ["present", "elsewhere"])
def test_a_newer_format_is_refused_with_what_to_do(folder: Path, weights: str) -> None:
    edit(folder, format=2, encoders={"video": "not known yet"}, photo_encoder=None)
    if weights == "elsewhere":
        (folder / "weights.safetensors").rename(folder / "weights.new")
    with pytest.raises(ModelError, match="format 2, this emoclim reads 1") as caught:
        EmotionSpace.load(folder)
    assert caught.value.hint == "upgrade emoclim"


# --- finding spaces ------------------------------------------------------------------------------------------------------


def test_installed_spaces_are_found_by_name_and_any_space_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "spaces"
    a_space().save(installed / "mine")
    a_space(name="elsewhere").save(tmp_path / "elsewhere")
    (installed / "no space").mkdir()
    (installed / "a file").write_text("")
    assert space_folders(installed)["mine"] == installed / "mine"
    assert not {"no space", "a file"} & set(space_folders(installed))
    assert load_space("mine", installed).id == a_space().id
    assert load_space(str(tmp_path / "elsewhere"), installed).name == "elsewhere"
    monkeypatch.chdir(tmp_path)
    assert load_space("elsewhere", installed).name == "elsewhere"


def test_an_installed_space_wins_over_the_shipped_one_and_over_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    monkeypatch.setattr("emoclim_cli.projections.shipped_spaces", lambda: shipped)
    a_space(name="shipped").save(shipped / "toy")
    a_space(name="also shipped").save(shipped / "other")
    installed = tmp_path / "spaces"
    assert load_space("toy", installed).name == "shipped"
    a_space(name="installed").save(installed / "toy")
    a_space(name="here").save(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    assert load_space("toy", installed).name == "installed"
    assert load_space("./toy", installed).name == "here"
    assert load_space("other", installed).name == "also shipped"


def test_an_unknown_space_lists_the_known_ones(tmp_path: Path) -> None:
    for name in ("mine", "yours"):
        a_space().save(tmp_path / name)
    with pytest.raises(ModelError, match="there is no space 'their'") as caught:
        load_space("their", tmp_path)
    assert all(name in caught.value.hint for name in (*space_folders(tmp_path), "mine", "yours"))


def test_no_space_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emoclim_cli.projections.shipped_spaces", lambda: tmp_path / "nothing")
    with pytest.raises(ModelError) as caught:
        load_space("emoclim-1", tmp_path / "nothing")
    assert caught.value.hint.startswith("known: none")


def test_the_shipped_spaces_are_in_the_checkout_or_in_the_package() -> None:
    assert shipped_spaces().name == "models"


def test_a_space_is_applied_without_torch(folder: Path) -> None:
    code = (
        "import sys, pathlib, numpy; from emoclim_cli.media import MediaKind; from emoclim_cli.projections import EmotionSpace;"
        "EmotionSpace.load(pathlib.Path(sys.argv[1])).project(MediaKind.PHOTO, numpy.zeros((1, 5), numpy.float32));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=Path(__file__).parents[1])
