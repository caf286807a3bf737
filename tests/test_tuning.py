"""The audio that a music encoder is trained on, and the state of that training."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from media_makers import make_tone, tone
from random_weights import TAGGERS, randomised
from toy_labels import MUSIC, labelled

from emoclim_cli.audio import read_windows
from emoclim_cli.encoders import build
from emoclim_cli.encoders.windows import Window
from emoclim_cli.errors import LabelError, ModelError
from emoclim_cli.labels import LabelledItem
from emoclim_cli.recipes import Recipe
from emoclim_cli.tuning import CHUNK_S, FULL_SCALE, TOGETHER, Audio, Body, Tuning, below, moments, read_audio, set_moments, write_weights

RATE_HZ = 16_000
CHUNK = Window(RATE_HZ, round(CHUNK_S * RATE_HZ))
SECOND = Window(RATE_HZ, RATE_HZ)
STEP = 1 / FULL_SCALE

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def a_track(folder: Path, name: str, seconds: float, seed: int = 0) -> LabelledItem:
    make_tone(folder / name, samples=tone(seconds, RATE_HZ, 1, seed), rate_hz=RATE_HZ)
    return LabelledItem(str(folder / name), "sad", frozenset(("sad",)), name)


# --- the audio ---------------------------------------------------------------------------------------------------------------------------


def test_chunks_are_the_windows_that_an_encoder_would_hear(tmp_path: Path) -> None:
    """A minute of a long track, all of a middling one, a short one again and again."""
    items = [a_track(tmp_path, name, seconds, i) for i, (name, seconds) in enumerate({"a.wav": 95.0, "b.flac": 12.5, "c.wav": 1.5}.items())]
    audio = read_audio(items, CHUNK, tmp_path / "kept")
    assert np.diff(audio.starts).tolist() == [6, 2, 1]
    assert audio.items == tuple(items)
    assert (audio.windows.dtype, audio.windows.shape) == (np.int16, (9, 160_000))
    for item, windows in zip(items, np.split(audio.windows, audio.starts[1:-1]), strict=True):
        expected = read_windows(item.path, sample_rate_hz=RATE_HZ, window_s=10.0, max_windows=6).audio
        assert np.abs(windows / FULL_SCALE - expected).max() <= 0.51 * STEP
    assert np.array_equal(audio.windows[-1, :24_000], audio.windows[-1, 24_000:48_000])


def test_the_file_has_no_name_and_is_gone_with_the_audio(tmp_path: Path) -> None:
    items = [a_track(tmp_path, f"{i}.wav", 1.0, i) for i in range(3)]
    audio = read_audio(items, SECOND, tmp_path / "kept")
    assert isinstance(audio.windows, np.memmap)
    assert not audio.windows.flags.writeable
    assert os.listdir(tmp_path / "kept") == []
    assert np.abs(audio.windows).max() > 1000  # and is read all the same
    maps = Path("/proc/self/maps")
    if maps.is_file():  # Linux tells
        assert str(tmp_path / "kept") in maps.read_text()
        del audio
        gc.collect()
        assert str(tmp_path / "kept") not in maps.read_text()


def test_more_tracks_than_are_read_at_once_keep_their_order(tmp_path: Path) -> None:
    items = [a_track(tmp_path, f"{i}.wav", 0.1 + 0.01 * i, i) for i in range(2 * TOGETHER + 1)]
    told: list[tuple[int, int]] = []
    audio = read_audio(items, SECOND, tmp_path, jobs=3, progress=lambda done, total: told.append((done, total)))
    n = len(items)
    assert told == [(0, n), (TOGETHER, n), (2 * TOGETHER, n), (n, n)]
    assert np.array_equal(audio.starts, np.arange(n + 1))
    for item, window in zip(items, audio.windows, strict=True):
        expected = read_windows(item.path, sample_rate_hz=RATE_HZ, window_s=1.0, max_windows=60).audio[0]
        assert np.abs(window / FULL_SCALE - expected).max() <= 0.51 * STEP


def test_files_that_cannot_be_read_are_told_and_left_out(tmp_path: Path) -> None:
    good = a_track(tmp_path, "good.wav", 1.0)
    (tmp_path / "bad.wav").write_bytes(b"no music")
    bad, absent = (replace(good, path=str(tmp_path / name)) for name in ("bad.wav", "absent.wav"))
    told: dict[str, str] = {}
    audio = read_audio([bad, good, absent], SECOND, tmp_path, unusable=told.__setitem__)
    assert set(told) == {bad.path, absent.path}
    assert all(told.values())
    assert (audio.items, audio.starts.tolist()) == ((good,), [0, 1])
    with pytest.raises(LabelError, match="none of the 2 labelled files can be read"):
        read_audio([bad, absent], SECOND, tmp_path)


def test_audio_that_cannot_be_kept(tmp_path: Path) -> None:
    item = a_track(tmp_path, "good.wav", 1.0)
    with pytest.raises(ModelError, match="cannot be kept in"):
        read_audio([item], SECOND, tmp_path / "good.wav")


def in_memory(counts: list[int], samples: int) -> Audio:
    """Sample t of window w of all is 100 w + t."""
    starts = np.cumsum([0, *counts])
    windows = (100 * np.arange(starts[-1])[:, None] + np.arange(samples)).astype(np.int16)
    return Audio(windows, starts, labelled(MUSIC, ["sad"] * len(counts), [np.zeros((count, 1)) for count in counts]).items)


class Loudness(torch.nn.Module):
    """(b, 4) audio -> (b, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.line = torch.nn.Linear(4, 3)
        self.unused = torch.nn.Linear(2, 2)  # as the head of a tagger

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.line(self.norm(audio)))


def a_body(seed: int = 0) -> Body:
    torch.manual_seed(seed)
    return Body(Loudness(), "cpu", in_memory([1, 3, 2], 10), in_memory([2, 1], 4))


def test_a_segment_is_any_part_of_any_chunk_of_its_item() -> None:
    body, rows = a_body(), np.array([0, 1, 2] * 3000)
    segments = body.segments(rows, np.random.default_rng(0))
    assert (segments.shape, segments.dtype) == ((9000, 4), torch.float32)
    samples = (segments.numpy().astype(np.float64) * FULL_SCALE).round().astype(int)
    assert (np.diff(samples) == 1).all()
    owner = np.repeat([0, 1, 2], [1, 3, 2])
    chunks, offsets = np.divmod(samples[:, 0], 100)
    assert np.array_equal(owner[chunks], rows)
    for row, count in enumerate([1, 3, 2]):
        seen, times = np.unique(np.stack([chunks[rows == row], offsets[rows == row]]), axis=1, return_counts=True)
        assert seen.shape[1] == count * 7  # every offset at which a segment fits
        assert times.min() > 0.6 * 3000 / (count * 7)


def test_what_is_shared_with_features() -> None:
    features = labelled(MUSIC, ["sad", "happy", "sad", "angry"], [np.full((2, 1), i) for i in range(4)])
    audio = Audio(np.zeros((2, 5), np.int16), np.arange(3), (features.items[3], features.items[1]))
    shared = audio.shared(features)
    assert shared.items == (features.items[1], features.items[3])
    assert shared.windows[:, 0].tolist() == [1, 1, 3, 3]
    assert audio.rows_of(shared.items).tolist() == [1, 0]
    with pytest.raises(KeyError):
        audio.rows_of(features.items)


# --- the network -------------------------------------------------------------------------------------------------------------------------


def learn(tuning: Tuning, steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        tuning.optimizer.zero_grad()
        tuning.features(rng.integers(0, 3, 5), rng).square().sum().backward()  # type: ignore[no-untyped-call]
        tuning.optimizer.step()


def test_a_copy_is_trained() -> None:
    body = a_body()
    before = {name: tensor.clone() for name, tensor in body.network.state_dict().items()}
    tuning = Tuning(body, Recipe(body_learning_rate=0.1))
    learn(tuning, 3)
    after = tuning.network.state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, body.network.state_dict()[name])
        assert torch.equal(tensor, after[name]) == name.startswith("unused.")


def test_a_network_that_was_frozen_learns() -> None:
    """Of an encoder, whose parameters ask for no gradient."""
    body = a_body()
    body.network.eval().requires_grad_(False)
    tuning = Tuning(body, Recipe(body_learning_rate=0.1))
    learn(tuning, 1)
    assert not torch.equal(tuning.network.get_parameter("line.weight"), body.network.get_parameter("line.weight"))
    assert not any(parameter.requires_grad for parameter in body.network.parameters())


def test_validation_is_without_learning() -> None:
    body = a_body()
    tuning = Tuning(body, Recipe())
    learn(tuning, 2)
    first, again = tuning.validation(), tuning.validation()
    assert np.array_equal(first.windows, again.windows)  # nor does batch norm learn
    assert (first.items, first.starts.tolist()) == (body.val.items, [0, 2, 3])
    tuning.network.eval()
    for window, features in zip(body.val.windows, first.windows, strict=True):
        alone = tuning.network(torch.from_numpy(window / FULL_SCALE).float()[None])[0]
        assert features.tolist() == pytest.approx(alone.tolist(), abs=1e-6)


def test_what_is_saved_brings_all_back() -> None:
    body, recipe = a_body(), Recipe(body_learning_rate=0.1)
    whole = Tuning(body, recipe)
    learn(whole, 2, seed=1)
    whole.keep()
    kept = {name: tensor.clone() for name, tensor in whole.best.items()}
    learn(whole, 2, seed=2)
    saved = {name: tensor.clone() for name, tensor in whole.saved().items()}
    learn(whole, 3, seed=3)
    again = Tuning(body, recipe)
    again.restore(saved)
    learn(again, 3, seed=3)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
        assert torch.equal(again.best[name], kept[name])  # which learning does not change
    assert not torch.equal(kept["line.weight"], whole.network.get_parameter("line.weight"))


def test_an_optimizer_goes_on() -> None:
    def some() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        line = torch.nn.Linear(3, 2)
        return line, torch.optim.AdamW(line.parameters(), lr=0.1)

    def step(line: torch.nn.Linear, optimizer: torch.optim.Optimizer, x: float) -> None:
        optimizer.zero_grad()
        line(torch.full((1, 3), x)).square().sum().backward()
        optimizer.step()

    (line, optimizer), (other, fresh) = some(), some()
    for x in (1.0, -2.0):
        step(line, optimizer, x)
    set_moments(fresh, {name: tensor.clone() for name, tensor in moments(optimizer).items()})
    other.load_state_dict(line.state_dict())
    for pair in ((line, optimizer), (other, fresh)):
        step(*pair, 3.0)
    assert torch.equal(line.weight, other.weight)
    assert {name.partition(".")[0] for name in moments(optimizer)} == {"0", "1"}


def test_below_a_prefix() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert below("a.", {"a.b.c": one, "ab.c": two}) == {"b.c": one}


# --- the tuned weights -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TAGGERS)
def test_tuned_weights_make_an_encoder_whose_features_are_those_of_training(name: str, tmp_path: Path) -> None:
    """But for the 16 bits of the audio that is kept, and bfloat16 where the encoder computes in it."""
    network = randomised(TAGGERS[name]())
    window = Window(network.RATE_HZ, network.SAMPLES)  # type: ignore[arg-type]
    items = [a_track(tmp_path, f"{i}.wav", seconds, i) for i, seconds in enumerate((1.0, 6.0))]
    audio = read_audio(items, window, tmp_path)
    tuning = Tuning(Body(network, "cpu", audio, audio), Recipe())
    tuning.features(np.arange(2), np.random.default_rng(0))  # which changes what batch norm knows
    expected = tuning.validation()
    tuning.keep()
    write_weights(tuning.best, tmp_path / "tuned.safetensors")

    encoder = build(name, tmp_path / "no-cache", "cpu", tuned=tmp_path / "tuned.safetensors")
    found = np.concatenate(encoder.encode_windows([encoder.load(item.path) for item in items]))
    assert found.shape == expected.windows.shape == (3, encoder.info.dim)
    error = np.abs(found - expected.windows).max()
    assert error < 0.03 * np.abs(expected.windows).max()
    assert np.abs(found - features_before(network, items, window)).max() > 3 * error
    write_weights(network.state_dict(), tmp_path / "other.safetensors")
    other = build(name, tmp_path / "no-cache", "cpu", tuned=tmp_path / "other.safetensors")
    assert other.info.digest != encoder.info.digest


def features_before(network: torch.nn.Module, items: list[LabelledItem], window: Window) -> np.ndarray:
    """Of the network as it was."""
    windows = [
        read_windows(item.path, sample_rate_hz=window.rate_hz, window_s=window.seconds, max_windows=window.most(0.0)).audio
        for item in items
    ]
    with torch.no_grad():
        features: np.ndarray = network(torch.from_numpy(np.concatenate(windows))).numpy()
    return features


def test_weights_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        write_weights({"a": torch.zeros(1)}, tmp_path / "not" / "there")
