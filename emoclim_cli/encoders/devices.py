"""Where torch computes, in which number format, and why; and how a network is run there on many inputs.

Nothing here has seen a GPU (README: "What was not checked"). What depends on one is therefore kept to this module and to few lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from emoclim_cli.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DEVICES = ("auto", "cpu", "cuda", "mps")

NO_MEMORY = ("out of memory", "ALLOC_FAILED", "nable to find an engine", "can't allocate memory")
"""What an error says where torch has no class of its own for it: MPS, cuBLAS, cuDNN and the CPU have their own words."""


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    """As torch calls it."""
    dtype: torch.dtype
    """Of what takes the time; what is delicate (spectrograms, the first layer of a ViT) is computed in float32 everywhere."""
    reason: str
    accelerator: bool = False
    """It has a memory of its own and computes large batches, while the CPU decodes."""


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
    """CUDA, else Apple's MPS, where torch sees it, in half precision; else the CPU: bfloat16 where it computes it natively, else float32.

    Raises UsageError for an unknown name, ModelError where a device is asked for and absent.
    """
    import torch

    check_name(wanted)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted in there and not there[wanted]:
        raise ModelError(f"torch sees no {wanted.upper()} device", "use --device auto or cpu; `emoclim doctor` tells what torch sees")
    if wanted in ("auto", "cuda") and there["cuda"]:
        return Device("cuda", torch.float16, f"{torch.cuda.get_device_name()}, half precision", accelerator=True)
    if wanted in ("auto", "mps") and there["mps"]:
        return Device("mps", torch.float16, "Apple's GPU, half precision", accelerator=True)
    gpu = "the GPU is left alone" if any(there.values()) else "torch sees no GPU"
    if _has_bfloat16():
        return Device("cpu", torch.bfloat16, f"{gpu}, the processor computes bfloat16")
    return Device("cpu", torch.float32, f"{gpu}, the processor has no bfloat16 arithmetic")


def _has_bfloat16() -> bool:
    """Native bfloat16: emulated, it is slower than float32."""
    import torch

    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.10
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


@contextmanager
def enough_memory(device: str, hint: str) -> Iterator[None]:
    """Raises ModelError with the hint where the device's memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise ModelError(f"{device} has not enough free memory", hint) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in NO_MEMORY)


def placed(network: nn.Module, device: Device) -> nn.Module:
    """The network on the device, for inference. Raises ModelError where it does not fit."""
    with enough_memory(device.name, "--device cpu"):
        return network.eval().requires_grad_(False).to(device.name)


def runner(network: Callable[[Tensor], Tensor], device: Device, *, item_bytes: int, per_core: int) -> Callable[[Tensor], np.ndarray]:
    """What computes `network` for (n, ...) inputs that are in the CPU's memory: (n, d) float32.

    On the CPU each core takes `per_core` of them at a time; on an accelerator as many go together as its memory has room for, at
    `item_bytes` each.
    """
    if device.accelerator:
        return _OnAccelerator(network, device, item_bytes)
    import torch

    return partial(_on_cores, network, core_pool(partial(torch.set_num_threads, 1)), per_core)


def _on_cores(network: Callable[[Tensor], Tensor], pool: ThreadPoolExecutor, per_core: int, inputs: Tensor) -> np.ndarray:
    import torch

    def run(part: Tensor) -> np.ndarray:
        with torch.inference_mode():
            out: np.ndarray = network(part).numpy()
        return out

    return np.concatenate(list(pool.map(run, torch.split(inputs, per_core))))


class _OnAccelerator:
    """Batches sized to the free memory; where it runs out all the same, half of it, and on."""

    def __init__(self, network: Callable[[Tensor], Tensor], device: Device, item_bytes: int) -> None:
        self._network = network
        self._device = device
        # Half: the memory is not ours alone, and the kernels want room to work in.
        self._batch = max(1, _free_bytes(device) // (2 * item_bytes))

    def __call__(self, inputs: Tensor) -> np.ndarray:
        import torch

        outputs: list[Tensor] = []
        done = 0
        # TF32 would leave float32 convolutions ten bits, those that are a spectrogram among them.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            while done < len(inputs):
                part = inputs[done : done + self._batch]
                try:
                    outputs.append(self._network(self._moved(part)))
                except RuntimeError as error:
                    if not _is_out_of_memory(error):
                        raise
                    if len(part) == 1:
                        raise ModelError(f"{self._device.name} has not enough free memory for one input", "--device cpu") from error
                    self._batch = len(part) // 2
                else:
                    done += len(part)
                    continue
                _free_cache(self._device)  # after the handler: until then the error holds on to what did not fit
        # Copied at the end, all at once: a copy waits for the device, which is to go on meanwhile.
        out: np.ndarray = torch.cat(outputs).cpu().numpy()
        return out

    def _moved(self, part: Tensor) -> Tensor:
        if self._device.name == "cuda":  # from pinned memory the copy runs beside the batch before
            return part.pin_memory().to("cuda", non_blocking=True)
        return part.to(self._device.name)


def _free_bytes(device: Device) -> int:
    import torch

    if device.name == "cuda":
        return torch.cuda.mem_get_info()[0]
    if device.name == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 1 << 30


def _free_cache(device: Device) -> None:
    import torch

    if device.name == "cuda":
        torch.cuda.empty_cache()
    elif device.name == "mps":
        torch.mps.empty_cache()
