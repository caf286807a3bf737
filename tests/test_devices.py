"""Where networks compute, and how: on machines of every kind, as far as torch can be made to see them.

No GPU is at hand. What runs on one is run here on the CPU, with a device that says it is an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from media_makers import make_photo, picture
from torch import Tensor

from emoclim_cli.encoders import build, devices
from emoclim_cli.encoders.devices import Device, choose_device, enough_memory, placed, runner
from emoclim_cli.errors import ModelError, UsageError

# --- which one ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes torch see another machine."""

    def be(*, cuda: bool = False, mps: bool = False, **capabilities: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **capabilities}, raising=False)

    return be  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("wanted", "there", "name", "dtype"),
    [
        ("auto", {"cuda": True}, "cuda", torch.float16),
        ("cuda", {"cuda": True, "avx512_bf16": True}, "cuda", torch.float16),
        ("auto", {"mps": True}, "mps", torch.float16),
        ("mps", {"mps": True}, "mps", torch.float16),
        ("auto", {"cuda": True, "mps": True}, "cuda", torch.float16),
        ("mps", {"cuda": True, "mps": True}, "mps", torch.float16),
        ("cpu", {"mps": True}, "cpu", torch.float32),
        ("cpu", {"cuda": True, "avx512_bf16": True}, "cpu", torch.bfloat16),
        ("auto", {"avx512_bf16": True}, "cpu", torch.bfloat16),
        ("cpu", {"amx_bf16": True}, "cpu", torch.bfloat16),
        ("auto", {"avx512_bf16": False}, "cpu", torch.float32),
        ("auto", {}, "cpu", torch.float32),
        ("cpu", {}, "cpu", torch.float32),
    ],
)
def test_the_device_is_the_fastest_there_is(
    machine: Callable[..., None], wanted: str, there: dict[str, bool], name: str, dtype: torch.dtype
) -> None:
    machine(**there)
    device = choose_device(wanted)
    assert (device.name, device.dtype, device.accelerator) == (name, dtype, name != "cpu")
    assert device.reason
    assert ("Some GPU" in device.reason) == (name == "cuda")


def test_an_older_torch_cannot_tell_and_computes_in_float32(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_device("auto").dtype == torch.float32


def test_a_device_that_is_not_there(machine: Callable[..., None]) -> None:
    machine(avx512_bf16=True)
    for absent in ("cuda", "mps"):
        with pytest.raises(ModelError, match=f"torch sees no {absent.upper()} device") as caught:
            choose_device(absent)
        assert "--device auto" in caught.value.hint
    with pytest.raises(UsageError, match="there is no device 'tpu'") as used:
        choose_device("tpu")
    assert used.value.hint == "one of: auto, cpu, cuda, mps"


# --- running there -----------------------------------------------------------------------------------------------------------------------

GPU = Device("cpu", torch.bfloat16, "a CPU that says it is a GPU", accelerator=True)


class Doubler:
    """A network that remembers its batches, and has memory for so many inputs."""

    def __init__(self, room: int = 10**9, error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")) -> None:  # noqa: B008
        self.batches: list[int] = []
        self.room = room
        self.error = error

    def __call__(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.batches.append(len(x))
        if len(x) > self.room:
            raise self.error
        return 2 * x


def with_memory(free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_free_bytes", lambda device: free_bytes)


def numbers(n: int) -> Tensor:
    return torch.arange(n * 3, dtype=torch.float32).reshape(n, 3)


def test_the_cores_take_a_few_each() -> None:
    network = Doubler()
    run = runner(network, Device("cpu", torch.float32, ""), item_bytes=1, per_core=4)
    np.testing.assert_array_equal(run(numbers(10)), 2 * numbers(10).numpy())
    assert sorted(network.batches) == [2, 4, 4]


@pytest.mark.parametrize(("free", "item", "batch"), [(800, 100, 4), (10, 100, 1), (0, 100, 1)])
def test_a_batch_takes_half_of_the_free_memory(free: int, item: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(free, monkeypatch)
    network = Doubler()
    n = batch * 2 + 1
    np.testing.assert_array_equal(runner(network, GPU, item_bytes=item, per_core=4)(numbers(n)), 2 * numbers(n).numpy())
    assert network.batches == [batch, batch, 1]


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (of some GiB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    RuntimeError("Unable to find an engine to execute this computation"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_batch_and_goes_on(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(1600, monkeypatch)
    freed: list[Device] = []
    monkeypatch.setattr(devices, "_free_cache", freed.append)
    network = Doubler(room=3, error=error)
    run = runner(network, GPU, item_bytes=100, per_core=4)
    np.testing.assert_array_equal(run(numbers(7)), 2 * numbers(7).numpy())
    assert network.batches == [7, 3, 3, 1]
    assert len(freed) == 1
    network.batches.clear()
    run(numbers(7))
    assert network.batches == [3, 3, 1], "what did not fit once is not tried again"


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_what_does_not_fit_says_what_to_do(error: RuntimeError) -> None:
    with pytest.raises(ModelError, match="cuda has not enough free memory") as caught, enough_memory("cuda", "--batch N"):
        raise error
    assert caught.value.hint == "--batch N"
    with pytest.raises(RuntimeError, match="a bug"), enough_memory("cuda", "--batch N"):
        raise RuntimeError("a bug")


def test_a_network_that_does_not_fit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def to(self: torch.nn.Module, device: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Linear, "to", to)
    with pytest.raises(ModelError, match="cuda has not enough free memory") as caught:
        placed(torch.nn.Linear(2, 2), replace(GPU, name="cuda"))
    assert caught.value.hint == "--device cpu"


def test_what_does_not_fit_alone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(1600, monkeypatch)
    network = Doubler(room=0)
    with pytest.raises(ModelError, match="not enough free memory") as caught:
        runner(network, GPU, item_bytes=100, per_core=4)(numbers(8))
    assert caught.value.hint == "--device cpu"
    assert network.batches == [8, 4, 2, 1]


def test_other_errors_of_a_network_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        runner(broken, GPU, item_bytes=100, per_core=4)(numbers(8))


def test_cuda_gets_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of torch; whether it is faster, only a GPU can tell."""
    asked: list[object] = []

    def pinned(self: Tensor) -> Tensor:
        asked.append("pinned")
        return self

    real_to = Tensor.to

    def to(self: Tensor, *args: object, **options: object) -> Tensor:
        if args == ("cuda",):
            asked.append(options)
            return self
        return real_to(self, *args, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 2000))
    run = runner(Doubler(), replace(GPU, name="cuda"), item_bytes=100, per_core=4)
    np.testing.assert_array_equal(run(numbers(7)), 2 * numbers(7).numpy())
    assert asked == ["pinned", {"non_blocking": True}] * 2


def test_the_photo_encoder_goes_the_same_way(weights_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real tower on a faked accelerator, through memory that runs out, gives the features of the CPU."""
    for n in range(5):
        make_photo(tmp_path / f"{n}.png", picture((300, 260), seed=n))
    whole = build("clip-vit-b-16", weights_cache, "cpu")
    expected = whole.encode([whole.load(str(tmp_path / f"{n}.png")) for n in range(5)])

    monkeypatch.setattr("emoclim_cli.encoders.clip.choose_device", lambda wanted: GPU)
    with_memory(50_000_000, monkeypatch)
    faked = build("clip-vit-b-16", weights_cache)
    assert faked.batch_size > whole.batch_size
    network = faked._run._network  # type: ignore[attr-defined]
    seen: list[int] = []

    def tight(x: Tensor) -> Tensor:
        seen.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return network(x)  # type: ignore[no-any-return]

    faked._run._network = tight  # type: ignore[attr-defined]
    found = faked.encode([faked.load(str(tmp_path / f"{n}.png")) for n in range(5)])
    assert seen[0] > 2
    assert set(seen[1:]) <= {1, 2}
    cosines = (expected * found).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.999
