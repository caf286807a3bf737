"""Where torch computes, in which number format, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoclim_cli.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    dtype: torch.dtype
    reason: str


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_pool(on_start: Callable[[], object] | None = None) -> ThreadPoolExecutor:
    """One thread for each core that this process may use, for networks that compute on one core each.

    Several single-core runs side by side give a fifth more photos and tracks than one run on all cores, and unlike it they do not wait for
    each other while files are decoded on the same cores. `on_start` is called in each thread first.
    """
    return ThreadPoolExecutor(cores(), "encode", on_start)


def check_name(device: str) -> None:
    """Raises UsageError for an unknown one, without torch."""
    if device not in DEVICES:
        raise UsageError(f"there is no device {device!r}", f"one of: {', '.join(DEVICES)}")


def choose_device(wanted: str = "auto") -> Device:
    """CUDA in half precision where torch sees it, else the CPU: bfloat16 where the processor computes it natively, else float32.

    Raises UsageError for an unknown name, ModelError where CUDA is asked for and absent.
    """
    import torch

    check_name(wanted)
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("torch sees no CUDA device", "use --device auto or cpu; `emoclim doctor` tells what torch sees")
    if wanted != "cpu" and torch.cuda.is_available():
        return Device("cuda", torch.float16, f"{torch.cuda.get_device_name()}, half precision")
    if _has_bfloat16():
        return Device("cpu", torch.bfloat16, "the processor computes bfloat16")
    return Device("cpu", torch.float32, "the processor has no bfloat16 arithmetic")


def _has_bfloat16() -> bool:
    """Native bfloat16: emulated, it is slower than float32."""
    import torch

    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.10
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
