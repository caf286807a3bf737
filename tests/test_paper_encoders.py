"""The paper's own encoders on real files: their weights cannot be had here, so they have random ones, in the form that is published.

With the extra `clap` installed CLAP is among them, and with `open-clip` our CLIP towers are held against open_clip's.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from media_makers import make_photo, make_tone, picture, tone
from random_weights import TAGGERS, put_clip_b_32, randomised, write_clip, write_tagger
from test_cli import User

from emoclim_cli import weights
from emoclim_cli.audio import AudioWindows
from emoclim_cli.encoders import EXTRAS, build, check_extra, encoder_info, torch_music
from emoclim_cli.encoders.devices import Device
from emoclim_cli.encoders.torch_music import TorchMusicEncoder
from emoclim_cli.errors import MissingExtra, MissingWeights, ModelError
from emoclim_cli.networks.vision import VisionTransformer

CHECKOUT = Path(__file__).parents[1]
HAS_CLAP = all(importlib.util.find_spec(package) for package in EXTRAS["clap"])
needs_clap = pytest.mark.skipif(not HAS_CLAP, reason="the extra `clap` is not installed")
needs_open_clip = pytest.mark.skipif(not importlib.util.find_spec("open_clip"), reason="the extra `open-clip` is not installed")
MUSIC = [*TAGGERS, pytest.param("clap", marks=needs_clap)]


def write_clap(file: Path, seed: int = 0) -> Path:
    """`630k-best.pt`, without the text tower but for one tensor of it."""
    from emoclim_cli.encoders.clap import ClapAudio

    state = randomised(ClapAudio(), seed).state_dict()
    tensors = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 1, "state_dict": {**tensors, "module.logit_scale_a": torch.ones(())}}, file)
    return file


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `encoders.build` takes it."""
    folder, cache = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("cache") / "weights"
    for name in TAGGERS:
        weights.fetch(name, cache, from_path=write_tagger(name, folder / "best_model.pth"))
    put_clip_b_32(cache, folder)
    if HAS_CLAP:
        weights.fetch("clap", cache, from_path=write_clap(folder / "630k-best.pt"))
    return cache


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of several formats, rates and lengths."""
    folder = tmp_path_factory.mktemp("tracks")
    for n, (suffix, seconds, rate_hz) in enumerate([(".flac", 23.0, 44_100), (".wav", 7.0, 16_000), (".opus", 1.5, 48_000)]):
        make_tone(folder / f"{n}{suffix}", rate_hz=rate_hz, samples=tone(seconds, rate_hz, 2, seed=n))
    return sorted(str(path) for path in folder.iterdir())


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# --- CLIP --------------------------------------------------------------------------------------------------------------------------------


def test_the_image_towers_have_the_published_sizes() -> None:
    counts = {patch: sum(p.numel() for p in VisionTransformer(patch).parameters()) for patch in (16, 32)}
    assert counts == {16: 86_192_640, 32: 87_849_216}


@needs_open_clip
@pytest.mark.parametrize("patch", [16, 32])
def test_the_image_towers_are_open_clips(patch: int) -> None:
    """The same names, and with the same weights the same features: so open_clip, which needs gigabytes and 8 s to start, is not needed."""
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.create_model(f"ViT-B-{patch}-quickgelu", pretrained=None, load_weights=False).visual.eval()
    ours = VisionTransformer(patch)
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    randomised(ours)
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        a, b = ours(pixels), theirs(pixels)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
    assert cosines(a.numpy()[:1], a.numpy()[1:]).max() < 0.999, "these pixels should differ"


def test_clip_b_32_encodes_photos(cache: Path, tmp_path: Path) -> None:
    for n, suffix in enumerate((".jpg", ".png", ".webp")):
        make_photo(tmp_path / f"{n}{suffix}", picture((300, 260 + n), seed=n))
    encoder = build("clip-vit-b-32", cache, "cpu")
    samples = [encoder.load(str(path)) for path in sorted(tmp_path.iterdir())]
    features = encoder.encode(samples)
    assert (features.shape, features.dtype) == ((3, 512), np.float32)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(encoder.encode(samples), features)
    assert cosines(np.concatenate([encoder.encode([sample]) for sample in samples]), features).min() > 0.9995
    assert encoder.info.digest == encoder_info("clip-vit-b-32").digest


def test_one_definition_of_the_features_of_b_16(weights_cache: Path, tmp_path: Path) -> None:
    """The hub's file, which holds what the package's does in another form, gives the same features under the same name."""
    from safetensors.torch import load_file, save_file

    tower = load_file(weights_cache / "clip-vit-b-16.safetensors")
    published = tmp_path / "open_clip_model.safetensors"
    save_file({**{f"visual.{name}": tensor for name, tensor in tower.items()}, "logit_scale": torch.tensor(1.0)}, published)
    row = weights.WEIGHTS["clip-vit-b-16"]
    hub = row.sources[1]
    assert hub.convert is not None
    cache = tmp_path / "cache"
    cache.mkdir()
    hub.convert({published.name: published}, cache / row.file)
    for name, tensor in load_file(cache / row.file).items():
        torch.testing.assert_close(tensor, tower[name], rtol=0, atol=0)
    record = json.loads((weights_cache / f"{row.file}.json").read_text())
    record.update(members=dict(hub.members), bytes=(cache / row.file).stat().st_size)
    (cache / f"{row.file}.json").write_text(json.dumps(record))
    from_hub, from_package = build(row.name, cache, "cpu"), build(row.name, weights_cache, "cpu")
    assert from_hub.info.digest == from_package.info.digest == encoder_info(row.name).digest
    make_photo(tmp_path / "photo.png", picture((300, 260)))
    sample = from_hub.load(str(tmp_path / "photo.png"))
    np.testing.assert_array_equal(from_hub.encode([sample]), from_package.encode([sample]))


# --- music -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MUSIC)
def test_a_track_has_the_same_vector_twice_and_in_any_batch(name: str, cache: Path, tracks: list[str]) -> None:
    """To the last bit: on the CPU each window goes through the network alone."""
    encoder = build(name, cache, "cpu")
    samples = [encoder.load(path) for path in tracks]
    together = encoder.encode(samples)
    assert (together.shape, together.dtype) == ((3, encoder.info.dim), np.float32)
    assert np.isfinite(together).all()
    assert cosines(together[:1], together[1:]).max() < 0.99999, "these tracks should differ"
    np.testing.assert_array_equal(encoder.encode([encoder.load(path) for path in tracks]), together)
    np.testing.assert_array_equal(np.concatenate([encoder.encode([sample]) for sample in samples[::-1]])[::-1], together)
    np.testing.assert_array_equal([windows.mean(axis=0) for windows in encoder.encode_windows(samples)], together)


@pytest.mark.parametrize(("name", "seconds", "most"), [("harmonic-cnn", 5.0, 12), ("short-chunk-cnn", 59_049 / 16_000, 16)])
def test_a_window_is_what_the_network_was_trained_on(name: str, seconds: float, most: int, cache: Path, tmp_path: Path) -> None:
    make_tone(tmp_path / "long.wav", rate_hz=16_000, samples=tone(70.0, 16_000, 1))
    encoder = build(name, cache, "cpu")
    sample = encoder.load(str(tmp_path / "long.wav"))
    assert sample.audio.shape == (most, round(seconds * 16_000))  # a minute
    sliding = build(name, cache, "cpu", overlap=0.75).load(str(tmp_path / "long.wav"))
    np.testing.assert_allclose(np.diff(sliding.starts_s), seconds / 4, rtol=0.02)  # as the paper evaluates
    assert sliding.starts_s[-1] + seconds == pytest.approx(70.0, abs=0.05)


@pytest.mark.parametrize("name", MUSIC)
def test_many_windows_stay_in_order(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_music, "WINDOWS_AT_ONCE", 2)
    encoder = build(name, cache, "cpu")
    assert isinstance(encoder, TorchMusicEncoder)
    samples, rate_hz = encoder.window.samples, encoder.window.rate_hz
    audio = np.stack([tone(samples / rate_hz, rate_hz, 1, seed=n)[0] * 0.3**n for n in range(5)])
    (windows,) = encoder.encode_windows([AudioWindows(audio, np.arange(5.0), 50.0)])
    for n in range(5):
        np.testing.assert_array_equal(encoder.encode([AudioWindows(audio[n : n + 1], np.zeros(1), 10.0)])[0], windows[n])


def on(device: Device, name: str, cache: Path) -> TorchMusicEncoder:
    """The encoder on another device than this machine would choose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"emoclim_cli.encoders.{encoder_info(name).module}.choose_device", lambda wanted: device)
        encoder = build(name, cache)
    assert isinstance(encoder, TorchMusicEncoder)
    assert encoder.device is device
    return encoder


FLOAT32 = Device("cpu", torch.float32, "a CPU without bfloat16")
HALVES = {
    "bfloat16": Device("cpu", torch.bfloat16, "a CPU with bfloat16"),
    "gpu": Device("cpu", torch.float16, "a CPU that says it is a GPU", accelerator=True),
}


@pytest.mark.parametrize("name", MUSIC)
@pytest.mark.parametrize("half", HALVES)
def test_half_precision_gives_nearly_the_same_features(name: str, half: str, cache: Path, tracks: list[str]) -> None:
    """The spectrograms stay float32: otherwise it would not be so."""
    whole, halved = on(FLOAT32, name, cache), on(HALVES[half], name, cache)
    samples = [whole.load(path) for path in tracks[1:]]
    expected, found = whole.encode(samples), halved.encode(samples)
    assert found.dtype == np.float32
    assert not np.array_equal(expected, found)
    assert cosines(expected, found).min() > (0.9999 if half == "gpu" else 0.999)
    assert halved.info.digest == whole.info.digest


def test_what_is_too_large_for_half_precision_is_computed_in_float32(cache: Path) -> None:
    """That window alone: the features of the others do not depend on it."""
    whole, half = (on(device, "harmonic-cnn", cache) for device in (FLOAT32, HALVES["gpu"]))
    for encoder in (whole, half):
        norm = encoder.network.get_submodule("hstft_bn")
        assert isinstance(norm.weight, torch.Tensor) and isinstance(norm.bias, torch.Tensor)
        norm.weight.fill_(1000.0)  # of silence, -100 dB, more than half precision holds; of noise near 0 dB, less
    quiet, loud = np.zeros((1, 80_000), np.float32), tone(5.0, 16_000, 1) * 2
    both = AudioWindows(np.concatenate([loud, quiet]), np.zeros(2), 10.0)
    alone, exact = (encoder.encode([AudioWindows(loud, np.zeros(1), 5.0)])[0] for encoder in (half, whole))
    (found,), (expected,) = half.encode_windows([both]), whole.encode_windows([both])
    assert not np.array_equal(alone, exact)
    np.testing.assert_allclose(found[0], alone, rtol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)


@pytest.mark.parametrize("name", MUSIC)
def test_weights_tell_features_apart(name: str, cache: Path, tmp_path: Path) -> None:
    """What is known of the features of one checkpoint is never taken for those of another."""
    write = write_clap if name == "clap" else lambda file, seed: write_tagger(name, file, seed)
    other = weights.fetch(name, tmp_path / "cache", from_path=write(tmp_path / "other.pth", seed=1)).parent
    again = weights.fetch(name, tmp_path / "again", from_path=write(tmp_path / "same.pth", seed=0)).parent
    identities = [weights.identity_of(name, folder) for folder in (cache, other, again)]
    assert identities[0] == identities[2] != identities[1]
    assert build(name, cache, "cpu").info.identity == (identities[0],)


def test_only_what_can_be_tuned_is_read_from_a_space(weights_cache: Path) -> None:
    """A space of a stranger's does not give ONNX Runtime a file of its own."""
    with pytest.raises(ModelError, match="musicnn cannot be tuned"):
        build("musicnn", weights_cache, tuned=weights_cache / "musicnn.onnx")


# --- checkpoints that are others ---------------------------------------------------------------------------------------------------------


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    state = torch.load(file, weights_only=True)
    change(state.get("state_dict", state))
    torch.save(state, file)
    return file


@pytest.mark.parametrize("name", MUSIC)
def test_a_checkpoint_with_a_missing_or_unknown_key_is_refused(name: str, tmp_path: Path) -> None:
    """And what was here before stays."""
    file = write_clap(tmp_path / "a.pt") if name == "clap" else write_tagger(name, tmp_path / "a.pth")
    weights.fetch(name, tmp_path / "cache", from_path=file)
    before = weights.identity_of(name, tmp_path / "cache")
    prefix = "module.audio_branch." if name == "clap" else ""
    known = "layers.0.blocks.0.norm1.weight" if name == "clap" else "layer3.bn_1.weight"
    changed(file, lambda state: state.update({f"{prefix}layer9.weight": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"the unknown (audio_branch\.)?layer9\.weight"):
        weights.fetch(name, tmp_path / "cache", from_path=file)
    changed(file, lambda state: (state.pop(f"{prefix}layer9.weight"), state.pop(prefix + known)))
    with pytest.raises(ModelError, match=rf"no (audio_branch\.)?{known.replace('.', '[.]')}"):
        weights.fetch(name, tmp_path / "cache", from_path=file)
    assert weights.identity_of(name, tmp_path / "cache") == before


def test_a_clip_of_another_size_is_refused(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "open_clip_model.safetensors", patch=16)
    with pytest.raises(ModelError, match=r"visual\.conv1\.weight|visual\.positional_embedding"):
        weights.WEIGHTS["clip-vit-b-32"].convert({file.name: file}, tmp_path / "out")
    with pytest.raises(MissingWeights, match=r"open_clip_model\.safetensors"):  # known by its sha256
        weights.fetch("clip-vit-b-32", tmp_path / "cache", from_path=file)


# --- what is not installed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(HAS_CLAP, reason="the extra `clap` is installed")
def test_without_the_extra_its_command_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="the encoder clap needs the extra `clap`") as caught:
        build("clap", tmp_path)
    assert caught.value.hint == "pip install 'emoclim[clap]'"
    assert caught.value.exit_code == 3


def test_only_clap_needs_an_extra() -> None:
    for name in ("clip-vit-b-16", "clip-vit-b-32", "musicnn", "harmonic-cnn", "short-chunk-cnn"):
        check_extra(encoder_info(name))


def test_the_paper_encoders_import_nothing_that_needs_an_extra(cache: Path) -> None:
    code = f"""
import sys; from pathlib import Path; from emoclim_cli.encoders import build, clip
for name in ("harmonic-cnn", "short-chunk-cnn"): build(name, Path({str(cache)!r}), "cpu")
print(*(name for name in ("torchvision", "torchaudio", "librosa", "open_clip", "laion_clap", "transformers") if name in sys.modules))"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- as a user -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def user(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    """With labelled photos and music of each emotion, and the weights at hand."""
    from emoclim_cli.emotions import EMOTIONS

    home = tmp_path_factory.mktemp("paper")
    media = home / "media"
    media.mkdir()
    for kind, suffix in (("photos", ".png"), ("music", ".wav")):
        with open(media / f"{kind}.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "emotion", "split"])
            for number, emotion in enumerate(EMOTIONS):
                for i in range(2):
                    path = media / kind / f"{emotion}{i}{suffix}"
                    path.parent.mkdir(exist_ok=True)
                    if kind == "photos":
                        make_photo(path, picture((40 + number, 50), seed=2 * number + i + 1))
                    else:
                        make_tone(path, rate_hz=16_000, samples=tone(1.0, 16_000, 1, seed=2 * number + i) * 0.9**number)
                    rows.writerow([f"{kind}/{path.name}", emotion, ("train", "val")[i]])
    (home / "cache").mkdir()
    (home / "cache" / "weights").symlink_to(cache, target_is_directory=True)
    return User(home, media, {"EMOCLIM_CACHE": str(home / "cache")})


@pytest.mark.parametrize("music", ["short-chunk-cnn", pytest.param("clap", marks=needs_clap)])
def test_a_space_of_the_papers_encoders_in_one_command(music: str, user: User) -> None:
    """Trained, indexed with, asked, evaluated: the installed program, from labels to matches."""
    space = user.home / f"space-{music}"
    labels = ["--photos", user.media / "photos.csv", "--music", user.media / "music.csv"]
    encoders = ["--photo-encoder", "clip-vit-b-32", "--music-encoder", music]
    user.json("train", *labels, *encoders, "--epochs", "1", "--steps", "1", "--batch", "4", "-o", space)
    described = json.loads((space / "space.json").read_text())
    assert (described["photo_encoder"], described["music_encoder"]) == ("clip-vit-b-32", music)
    library = user.home / f"library-{music}"
    indexed = user.json("index", user.media / "photos" / "sad0.png", user.media / "music", "--space", space, "--library", library)
    assert (indexed["photos"], indexed["music"], indexed["errors"]) == (1, 14, [])
    matches = user.json("match", user.media / "photos" / "sad0.png", "--library", library)["matches"]
    assert len(matches) == 10
    assert {match["kind"] for match in matches} == {"music"}
    measured = user.json("evaluate", *labels, "--space", space, "--split", "val")
    assert measured["directions"]["image->music"]["p@5"] is not None


def test_weights_that_are_missing_are_said_before_anything_is_read(user: User, tmp_path: Path) -> None:
    labels = ["--photos", user.media / "photos.csv", "--music", user.media / "music.csv"]
    options = ["--photo-encoder", "clip-vit-b-32", "--music-encoder", "harmonic-cnn", "-o", tmp_path / "space"]
    nothing = User(user.home, user.media, {"EMOCLIM_CACHE": str(tmp_path / "empty")})
    done = nothing.run("train", *labels, *options)
    assert done.code == 3
    assert "emoclim models fetch clip-vit-b-32" in done.err
    if not HAS_CLAP:
        done = nothing.run("train", *labels, "--music-encoder", "clap", "-o", tmp_path / "space")
        assert done.code == 3
        assert "pip install 'emoclim[clap]'" in done.err
    assert not os.path.exists(tmp_path / "space")
