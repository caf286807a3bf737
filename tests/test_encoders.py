"""The real networks: their published values, and that a file's features depend on nothing but the file.

The check values were measured on the networks as they were published, before any of this code was written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from media_makers import make_photo, make_tone, picture, tone
from random_weights import put

from emoclim_cli import weights
from emoclim_cli.audio import AudioWindows
from emoclim_cli.datasets import labelled_features
from emoclim_cli.encoders import ENCODERS, build, encoder_info, music, musicnn, vibenet
from emoclim_cli.encoders.clip import MEAN, STD, ClipEncoder
from emoclim_cli.encoders.music import MusicEncoder
from emoclim_cli.errors import MissingWeights, ModelError, UnreadableMedia
from emoclim_cli.labels import LabelledItem

CHECKOUT = Path(__file__).parents[1]
RATE_HZ = 16_000


def clip_in(capabilities: dict[str, bool], cache: Path) -> ClipEncoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        encoder = build("clip-vit-b-16", cache, "cpu")
    assert isinstance(encoder, ClipEncoder)
    return encoder


@pytest.fixture(scope="module")
def clip32(weights_cache: Path) -> ClipEncoder:
    return clip_in({}, weights_cache)


@pytest.fixture(scope="module")
def clip16(weights_cache: Path) -> ClipEncoder:
    return clip_in({"avx512_bf16": True}, weights_cache)


@pytest.fixture(scope="module", params=["musicnn", "vibenet", "musicnn+vibenet"])
def music_encoder(weights_cache: Path, request: pytest.FixtureRequest) -> MusicEncoder:
    encoder = build(request.param, weights_cache)
    assert isinstance(encoder, MusicEncoder)
    return encoder


def one_window(encoder: MusicEncoder, audio: np.ndarray) -> np.ndarray:
    (features,) = encoder.encode([AudioWindows(audio[None], np.zeros(1), audio.size / RATE_HZ)])
    return features


def sine(seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# --- check values ------------------------------------------------------------------------------------------------------------------------


def test_clip_is_the_published_tower(clip32: ClipEncoder) -> None:
    assert clip32.device.dtype == torch.float32
    ramp = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    zeros, ramps = clip32.tower(torch.cat([torch.zeros_like(ramp), ramp])).numpy()
    np.testing.assert_allclose(zeros[:5], [0.3731, -0.5872, -0.3152, 0.4428, -0.0469], atol=2e-4)
    np.testing.assert_allclose(ramps[:5], [0.4081, -0.7893, -0.1357, 0.2671, -0.2420], atol=2e-4)
    assert np.linalg.norm(zeros) == pytest.approx(11.303, abs=2e-3)
    assert np.linalg.norm(ramps) == pytest.approx(11.264, abs=2e-3)


def test_musicnn_is_the_published_network(weights_cache: Path) -> None:
    session = ort.InferenceSession(str(weights.path_of("musicnn", weights_cache)))
    features, tags = session.run(["features", "tags"], {"mel": musicnn.spectrogram(sine(3.2)[None])[:, :187]})
    np.testing.assert_allclose(features[0, :5], [-2.8874, -0.3030, -0.7031, -4.5028, 5.0920], atol=2e-4)
    assert np.linalg.norm(features) == pytest.approx(42.636, abs=2e-3)
    order = {"ambient": 28, "electronic": 4, "experimental": 30, "instrumental": 23}  # of the Million Song Dataset's 50 tags
    assert list(np.argsort(-tags[0])[:4]) == list(order.values())
    np.testing.assert_allclose(tags[0, list(order.values())], [0.3512, 0.1792, 0.1386, 0.1065], atol=2e-4)


def test_vibenet_is_the_published_network(weights_cache: Path) -> None:
    features = one_window(build("vibenet", weights_cache), sine(10))  # type: ignore[arg-type]
    largest = [220, 1078, 385, 381, 1176]
    assert list(np.argsort(-features)[:5]) == largest
    np.testing.assert_allclose(features[largest], [2.9532, 2.3624, 2.0169, 1.7573, 1.5693], atol=2e-4)
    assert np.linalg.norm(features) == pytest.approx(5.4127, abs=5e-4)


# --- photos ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo_paths(tmp_path: Path) -> list[str]:
    for n, size in enumerate([(300, 260), (224, 224), (40, 900)]):
        make_photo(tmp_path / f"{n}.png", picture(size, seed=n))
    return [str(tmp_path / f"{n}.png") for n in range(3)]


def test_clip_takes_photos_as_it_was_trained(clip32: ClipEncoder, photo_paths: list[str]) -> None:
    sample = clip32.load(photo_paths[0])
    assert (sample.shape, sample.dtype) == ((224, 224, 3), np.uint8)
    pixels = (sample.astype(np.float64) / 255 - MEAN) / STD
    direct = clip32.tower(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())
    np.testing.assert_allclose(clip32.encode([sample]), direct.numpy(), atol=1e-4)


def test_a_photos_features_depend_on_nothing_else(clip32: ClipEncoder, photo_paths: list[str]) -> None:
    """In float32 to the last digits but two, since matrices of other sizes are summed in another order; the same call, exactly."""
    samples = [clip32.load(path) for path in photo_paths]
    together = clip32.encode(samples)
    assert (together.shape, together.dtype) == ((3, 512), np.float32)
    np.testing.assert_array_equal(clip32.encode(samples), together)
    np.testing.assert_allclose(np.concatenate([clip32.encode([s]) for s in samples]), together, atol=1e-4)
    assert cosines(together[0], together[2]) < 0.99, "these photos should differ"


def test_bfloat16_gives_the_same_features_in_any_batch(clip16: ClipEncoder, clip32: ClipEncoder, photo_paths: list[str]) -> None:
    assert clip16.device.dtype == torch.bfloat16
    samples = [clip16.load(path) for path in photo_paths]
    together = clip16.encode(samples)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(clip16.encode(samples), together)
    assert cosines(np.concatenate([clip16.encode([s]) for s in samples]), together).min() > 0.9995
    assert cosines(clip32.encode(samples), together).min() >= 0.999


def test_bfloat16_is_close_to_float32_on_real_photos(clip32: ClipEncoder, clip16: ClipEncoder, shared_data: Path) -> None:
    paths = [str(sorted(folder.iterdir())[n]) for folder in sorted((shared_data / "images").iterdir()) for n in (0, -1)]
    assert len(paths) == 12
    samples = [clip32.load(path) for path in paths]
    whole, half = clip32.encode(samples), clip16.encode(samples)
    assert cosines(whole, half).min() >= 0.999
    assert cosines(whole[:-1], whole[1:]).max() < 0.98, "these photos should differ"


def test_a_photo_is_its_only_window(clip16: ClipEncoder, photo_paths: list[str]) -> None:
    samples = [clip16.load(path) for path in photo_paths]
    windows = clip16.encode_windows(samples)
    assert [w.shape for w in windows] == [(1, 512)] * 3
    np.testing.assert_array_equal([w.mean(axis=0) for w in windows], clip16.encode(samples))


# --- music -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def track_paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of 25, 10 and 0.3 seconds: three windows, one, and one that is repeated to be whole."""
    folder = tmp_path_factory.mktemp("tracks")
    for seed, seconds in enumerate((25.0, 10.0, 0.3)):
        make_tone(folder / f"{seed}.wav", rate_hz=RATE_HZ, samples=tone(seconds, RATE_HZ, 1, seed=seed))
    return [str(folder / f"{n}.wav") for n in range(3)]


def test_a_tracks_features_depend_on_nothing_else(music_encoder: MusicEncoder, track_paths: list[str]) -> None:
    """As for photos: exactly in the same call, in float32 to the last digits but two in another batch."""
    with ThreadPoolExecutor(3) as pool:
        samples = list(pool.map(music_encoder.load, track_paths))
    together = music_encoder.encode(samples)
    assert (together.shape, together.dtype) == ((3, music_encoder.info.dim), np.float32)
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(music_encoder.encode(samples), together)
    np.testing.assert_allclose(music_encoder.encode(samples[::-1])[::-1], together, rtol=1e-4, atol=1e-4)
    alone = np.concatenate([music_encoder.encode([music_encoder.load(path)]) for path in track_paths])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    assert cosines(together[0], together[2]) < 0.999, "these tracks should differ"

    windows = music_encoder.encode_windows(samples)
    assert [w.shape for w in windows] == [(w, music_encoder.info.dim) for w in (3, 1, 1)]
    np.testing.assert_allclose([w.mean(axis=0) for w in windows], together, atol=1e-5)
    assert cosines(windows[0][0], windows[0][2]) < 0.9999, "these windows should differ"


def test_both_networks_together_are_their_concatenation(weights_cache: Path, track_paths: list[str]) -> None:
    first, second, both = (build(name, weights_cache) for name in ("musicnn", "vibenet", "musicnn+vibenet"))
    for path in track_paths[1:]:
        apart = np.concatenate([encoder.encode([encoder.load(path)]) for encoder in (first, second)], axis=1)
        np.testing.assert_array_equal(both.encode([both.load(path)]), apart)


def test_a_window_is_the_mean_of_its_patches(weights_cache: Path) -> None:
    audio = tone(10.0, RATE_HZ, 1)
    patches = musicnn.patches(audio)
    assert patches.shape == (3, 187, 96)
    session = ort.InferenceSession(str(weights.path_of("musicnn", weights_cache)))
    apart = np.concatenate([session.run(["features"], {"mel": patch[None]})[0] for patch in patches])
    np.testing.assert_allclose(one_window(build("musicnn", weights_cache), audio[0]), apart.mean(axis=0), atol=1e-4)


def test_a_short_track_is_repeated(weights_cache: Path, track_paths: list[str]) -> None:
    """To the precision of a file's 16 bits."""
    encoder = build("musicnn+vibenet", weights_cache)
    sample = encoder.load(track_paths[2])
    assert sample.audio.shape == (1, 10 * RATE_HZ)
    assert sample.duration_s == pytest.approx(0.3)
    repeated = np.resize(tone(0.3, RATE_HZ, 1, seed=2)[0], 10 * RATE_HZ)
    np.testing.assert_allclose(encoder.encode([sample])[0], one_window(encoder, repeated), atol=0.05)  # type: ignore[arg-type]


def test_windows_that_overlap_are_other_features(weights_cache: Path, track_paths: list[str], tmp_path: Path) -> None:
    """Those of a window slid over the whole track; the cache tells them from the usual ones."""
    plain, sliding = build("musicnn", weights_cache), build("musicnn", weights_cache, overlap=0.75)
    assert isinstance(plain, MusicEncoder)
    assert plain.info.digest == encoder_info("musicnn").digest
    assert len({encoder.info.digest for encoder in (plain, sliding, build("musicnn", weights_cache, overlap=0.5))}) == 3

    (windows,) = sliding.encode_windows([sliding.load(track_paths[0])])  # of 25 s
    samples = tone(25.0, RATE_HZ, 1, seed=0)[0]
    starts = np.arange(7) * 40_000
    apart = np.stack([one_window(plain, samples[start : start + 160_000]) for start in starts])
    np.testing.assert_allclose(windows, apart, atol=0.05)  # to the precision of a file's 16 bits
    for path in track_paths[1:]:  # one window is one window
        np.testing.assert_array_equal(sliding.encode([sliding.load(path)]), plain.encode([plain.load(path)]))

    items = [LabelledItem(path, "sad", frozenset(("sad",)), path) for path in track_paths]
    for _ in range(2):
        counts = [np.diff(labelled_features(items, encoder, tmp_path).starts).tolist() for encoder in (plain, sliding)]
        assert counts == [[3, 1, 1], [7, 1, 1]]


def test_many_windows_stay_in_order(weights_cache: Path) -> None:
    encoder = build("vibenet", weights_cache)
    assert isinstance(encoder, MusicEncoder)
    audio = np.concatenate([tone(1.0, RATE_HZ, 1, seed=n) * 0.1 ** (n % 3) for n in range(9)])
    (windows,) = encoder.encode_windows([AudioWindows(audio, np.arange(len(audio)), 15.0)])
    for n in range(9):
        np.testing.assert_array_equal(windows[n], one_window(encoder, audio[n]))


def test_silence_has_features(music_encoder: MusicEncoder) -> None:
    assert np.isfinite(one_window(music_encoder, np.zeros(10 * RATE_HZ, np.float32))).all()


# --- files that are none -----------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_refused(clip32: ClipEncoder, music_encoder: MusicEncoder, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("This is text.\n" * 100)
    for encoder in (clip32, music_encoder):
        for bad in (path, tmp_path / "absent", tmp_path):
            with pytest.raises((UnreadableMedia, OSError)):
                encoder.load(str(bad))


# --- the table ---------------------------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_fits_its_weights() -> None:
    for name, info in ENCODERS.items():
        assert info.name == name
        assert encoder_info(name) is info
        rows = [weights.WEIGHTS[w] for w in info.weights]
        assert {row.kind for row in rows} == {info.kind}
        assert info.licence in {row.licence for row in rows}
        assert "GPL" in info.licence or not any("GPL" in row.licence for row in rows)
        if info.module == "music":
            assert info.dim == sum(music.NETWORKS[w].dim for w in info.weights)
    assert {musicnn.SAMPLE_RATE_HZ, vibenet.SAMPLE_RATE_HZ} == {music.WINDOW.rate_hz}


def test_the_shipped_features_keep_their_names() -> None:
    """Libraries and spaces know features by these digests."""
    digests = {
        "clip-vit-b-16": "636f7aee6f2ab645",
        "musicnn": "9852297874b7b2d8",
        "vibenet": "ae07620829f48ec6",
        "musicnn+vibenet": "b67017f5b8f7fc18",
    }
    assert {name: ENCODERS[name].digest for name in digests} == digests


@pytest.mark.parametrize("name", ["harmonic-cnn", "short-chunk-cnn", "clap"])
def test_features_of_weights_that_the_table_leaves_open_have_no_name_yet(name: str) -> None:
    with pytest.raises(ModelError):
        _ = ENCODERS[name].digest
    of_one, of_other = (replace(ENCODERS[name], identity=(identity,)).digest for identity in ("a", "b"))
    assert len({of_one, of_other}) == 2


@pytest.mark.parametrize("ask", [encoder_info, lambda name: build(name, Path())])
def test_an_unknown_encoder_is_answered_with_those_there_are(ask: Callable[[str], object]) -> None:
    with pytest.raises(ModelError, match="there is no encoder 'vggish'") as caught:
        ask("vggish")
    assert caught.value.hint == f"one of: {', '.join(ENCODERS)}"


@pytest.mark.parametrize("name", [name for name, info in ENCODERS.items() if not info.extra])
def test_missing_weights_are_answered_with_the_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=f"the weights {ENCODERS[name].weights[0]} are not in {tmp_path}") as caught:
        build(name, tmp_path)
    by_hand = " --from best_model.pth" if name.endswith("-cnn") else ""
    assert caught.value.hint == f"emoclim models fetch {ENCODERS[name].weights[0]}{by_hand}"


# --- weights that are damaged, but as long as their record says --------------------------------------------------------------------------


def safetensors(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


OTHER_TENSORS = safetensors({"proj": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))


@pytest.mark.parametrize("content", [b"", bytes(1000), b"garbage" * 1000, OTHER_TENSORS, OTHER_TENSORS[:-1]])
@pytest.mark.parametrize("name", ["clip-vit-b-16", "musicnn", "vibenet"])
def test_damaged_weights_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    put(name, content, tmp_path)
    with pytest.raises(ModelError, match=f"the weights of {name} cannot be loaded") as caught:
        build(name, tmp_path, "cpu")
    assert caught.value.hint == "emoclim models verify"


def test_weights_of_another_length_are_not_even_read(tmp_path: Path) -> None:
    put("musicnn", b"garbage", tmp_path)
    (tmp_path / "musicnn.onnx").write_bytes(b"garbag")
    with pytest.raises(MissingWeights, match="damaged"):
        build("musicnn", tmp_path)


def test_a_network_of_another_name_is_refused(weights_cache: Path, tmp_path: Path) -> None:
    put("musicnn", weights.path_of("vibenet", weights_cache).read_bytes(), tmp_path)
    encoder = build("musicnn", tmp_path)
    with pytest.raises(ModelError, match="the network musicnn cannot be run"):
        encoder.encode([AudioWindows(tone(10.0, RATE_HZ, 1), np.zeros(1), 10.0)])


def test_the_weights_are_only_read(weights_cache: Path, tmp_path: Path) -> None:
    """From a cache that is shared and cannot be written, as well."""
    for path in weights_cache.glob("musicnn.onnx*"):
        shutil.copy(path, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
    encoder = build("musicnn", tmp_path)
    encoder.encode([AudioWindows(tone(10.0, RATE_HZ, 1), np.zeros(1), 10.0)])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())} == before


# --- what is imported when ---------------------------------------------------------------------------------------------------------------

HEAVY = ("torch", "onnxruntime", "onnx", "scipy", "safetensors", "av", "PIL")


def loaded_after(code: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has imported after `code`."""
    code += f"\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_nothing_is_told_to_the_makers_of_onnx_runtime(weights_cache: Path, tmp_path: Path) -> None:
    """Where it reports its use, it keeps a device id and a queue of events in the home folder."""
    code = f"""
from pathlib import Path; from emoclim_cli.encoders import build; import time
build('vibenet', Path({str(weights_cache)!r})); time.sleep(0.5)"""
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")}
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env={**os.environ, **home, "ORT_DISABLE_TELEMETRY": ""}, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_the_table_costs_no_import() -> None:
    assert loaded_after("import emoclim_cli.encoders as e; e.encoder_info('clip-vit-b-16').digest") == set()


def test_music_needs_no_torch(weights_cache: Path) -> None:
    code = f"from pathlib import Path; from emoclim_cli.encoders import build; build('vibenet', Path({str(weights_cache)!r}))"
    assert loaded_after(code) == {"onnxruntime"}
