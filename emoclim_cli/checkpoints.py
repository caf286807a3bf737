"""The state of a training that is not done, in one file: arrays, and what goes into JSON. Nothing in it can run code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from emoclim_cli.errors import ModelError

NAME = ".checkpoint.safetensors"
"""Its name in the folder that the space will be written to."""


def write(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Whole or not at all. Raises ModelError where the folder cannot be written."""
    from safetensors.numpy import save

    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
        temporary.write_bytes(save(contiguous, metadata={"state": json.dumps(state)}))
        os.replace(temporary, path)
    except OSError as error:
        raise ModelError(f"the state of training cannot be written to {path.parent}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # it is there only where something went wrong before
            temporary.unlink()


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """What `write` was given; None without a file. Raises ModelError for one that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="numpy") as file:
            state = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, dict(state)  # noqa: SIM118
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def remove(path: Path) -> None:
    """Raises ModelError where it is there and stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{path} cannot be removed: {error.strerror}") from error
