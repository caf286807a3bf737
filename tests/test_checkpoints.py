from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from emoclim_cli import checkpoints
from emoclim_cli.errors import ModelError

ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3).T / 7,  # not contiguous
    "step": np.array(3.0, np.float32),
    "random": np.arange(256, dtype=np.uint8),
    "count": np.array([2**62], np.int64),
}
STATE = {
    "fingerprint": "ab",
    "history": [{"loss": 1 / 3, "val": {"image->music": [0.1, 0.7]}}],
    "batches": {"state": 2**127 + 1},
    "best_epoch": 1,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not" / "yet" / checkpoints.NAME


def test_what_is_written_is_read_to_the_last_bit(path: Path) -> None:
    checkpoints.write(path, ARRAYS, STATE)
    found = checkpoints.read(path)
    assert found is not None
    arrays, state = found
    assert state == STATE
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def test_what_is_not_a_number_survives(path: Path) -> None:
    checkpoints.write(path, {}, {"val_loss": math.nan})
    found = checkpoints.read(path)
    assert found is not None and math.isnan(found[1]["val_loss"])


def test_the_last_one_written_counts_and_nothing_else_is_left(path: Path) -> None:
    checkpoints.write(path, ARRAYS, STATE)
    checkpoints.write(path, {"weights": np.zeros(1)}, {"best_epoch": 2})
    found = checkpoints.read(path)
    assert found is not None and found[1] == {"best_epoch": 2} and set(found[0]) == {"weights"}
    assert os.listdir(path.parent) == [checkpoints.NAME]


def test_nothing_was_written(path: Path) -> None:
    assert checkpoints.read(path) is None
    checkpoints.remove(path)


def test_removed(path: Path) -> None:
    checkpoints.write(path, ARRAYS, STATE)
    checkpoints.remove(path)
    assert checkpoints.read(path) is None
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("damage", [b"", b"not such a file", None], ids=["empty", "another file", "cut off"])
def test_a_damaged_one_says_so(damage: bytes | None, path: Path) -> None:
    checkpoints.write(path, ARRAYS, STATE)
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    with pytest.raises(ModelError, match="cannot be read") as caught:
        checkpoints.read(path)
    assert str(path) in caught.value.message


def test_one_without_a_state(path: Path) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True)
    save_file({"weights": np.zeros(1)}, path)
    with pytest.raises(ModelError, match="cannot be read: 'state'"):
        checkpoints.read(path)


def test_a_state_without_end(path: Path) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True)
    save_file({"weights": np.zeros(1)}, path, metadata={"state": "[" * 100_000})
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoints.read(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ModelError, match="cannot be written"):
        checkpoints.write(tmp_path / "file" / checkpoints.NAME, ARRAYS, STATE)
    assert (tmp_path / "file").read_text() == "mine"


def test_one_that_cannot_be_written_leaves_the_one_before(path: Path) -> None:
    checkpoints.write(path, ARRAYS, STATE)
    (path.parent / f"{path.name}.{os.getpid()}").mkdir()  # in the way of the new one
    with pytest.raises(ModelError, match="cannot be written"):
        checkpoints.write(path, {}, {"best_epoch": 2})
    found = checkpoints.read(path)
    assert found is not None and found[1] == STATE
    with pytest.raises(ModelError, match="cannot be removed"):
        checkpoints.remove(path.parent)
