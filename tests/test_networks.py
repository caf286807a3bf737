"""The published networks: sizes, names, every step against a slow or an independent computation."""

from __future__ import annotations

import importlib.util
import math
import re
import warnings
from collections.abc import Mapping

import librosa
import numpy as np
import pytest
import torch
from published_states import HARMONIC, HARMONIC_BUFFERS, SHORT_CHUNK, SHORT_CHUNK_BUFFERS, Shapes, clip_tower, random_state
from torch import Tensor, nn
from torch.nn import functional as F

from emoclim_cli.networks import frontends
from emoclim_cli.networks.frontends import HarmonicSpectrogram, MelSpectrogram
from emoclim_cli.networks.htsat import clap_shapes
from emoclim_cli.networks.taggers import HarmonicCnn, ShortChunkCnn, Tagger
from emoclim_cli.networks.vision import VisionTransformer
from emoclim_cli.spectrograms import hann

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TAGGERS: list[tuple[type[Tagger], Shapes]] = [(ShortChunkCnn, SHORT_CHUNK), (HarmonicCnn, HARMONIC)]


def noise(windows: int, samples: int, seed: int = 0) -> Tensor:
    """Noise that fades in over 60 dB."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.uniform(-1, 1, (windows, samples)) * np.geomspace(1e-3, 1, samples)).astype(np.float32))


# --- slow references ---------------------------------------------------------------------------------------------------------------------


def slow_power(audio: np.ndarray, frame: int) -> np.ndarray:
    """(s,) -> (f, t)."""
    half = frame // 2
    reflected = np.concatenate([audio[half:0:-1], audio, audio[-2 : -half - 2 : -1]]).astype(np.float64)
    n = np.arange(frame)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / frame)
    columns = []
    for start in range(0, len(reflected) - frame + 1, 256):
        piece = reflected[start : start + frame] * window
        columns.append([abs(np.sum(piece * np.exp(-2j * np.pi * k * n / frame))) ** 2 for k in range(half + 1)])
    return np.array(columns).T


def slow_decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-10))


def slow_mel_filters() -> np.ndarray:
    """(f, m)."""
    highest = 2595 * np.log10(1 + 8000 / 700)
    corners = [700 * (10 ** (highest * i / 129 / 2595) - 1) for i in range(130)]
    filters = np.zeros((257, 128))
    for k in range(257):
        hz = 8000 * k / 256
        for m in range(128):
            left, top, right = corners[m : m + 3]
            if left < hz <= top:
                filters[k, m] = (hz - left) / (top - left)
            elif top < hz < right:
                filters[k, m] = (right - hz) / (right - top)
    return filters


def slow_harmonic_filters(q: float) -> np.ndarray:
    """(f, h, m)."""
    filters = np.zeros((257, 6, 128))
    for k in range(257):
        hz = 8000 * k / 256
        for harmonic in range(6):
            for m in range(128):
                centre = (harmonic + 1) * 440 * 2 ** ((24 + m / 2 - 69) / 12)
                bandwidth = (0.1079 * centre + 24.7) / q
                filters[k, harmonic, m] = max(0, 1 - abs(hz - centre) * 2 / bandwidth)
    return filters


# --- the spectrograms --------------------------------------------------------------------------------------------------------------------


def test_constants_are_the_papers() -> None:
    assert (frontends.HIGHEST_NOTE, frontends.NOTES) == (88, 128)
    assert librosa.note_to_midi(librosa.hz_to_note(16_000 / 12)) == frontends.HIGHEST_NOTE
    assert librosa.note_to_midi("C1") == frontends.LOWEST_NOTE
    assert (frontends.MEL_BINS, frontends.HARMONIC_BINS) == (257, 257)


def test_mel_filters_are_those_of_the_slow_reference() -> None:
    filters = frontends.mel_filters()
    assert filters.dtype == np.float32
    np.testing.assert_allclose(filters, slow_mel_filters(), atol=1e-6)


def test_mel_filters_are_librosas() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a band between two bins
        theirs = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=128, fmin=0, fmax=8_000, htk=True, norm=None)
    np.testing.assert_allclose(frontends.mel_filters(), theirs.T, atol=1e-6)


@pytest.mark.parametrize("q", [1.0, 1.7, 0.4])
def test_harmonic_filters_are_those_of_the_slow_reference(q: float) -> None:
    front = HarmonicSpectrogram(513)
    front.bw_Q.data.fill_(q)
    filters = front.filters(torch.device("cpu")).detach()
    assert filters.shape == (257, 6 * 128)
    np.testing.assert_allclose(filters.view(257, 6, 128), slow_harmonic_filters(q), atol=1e-5)


@pytest.mark.parametrize("frame", [512, 513])
@pytest.mark.parametrize("samples", [257, 700, 1_024])
def test_power_is_that_of_the_slow_reference(frame: int, samples: int) -> None:
    audio = noise(2, samples)
    power = frontends.power(audio, frame)
    slow = np.stack([slow_power(row, frame) for row in audio.numpy()])
    assert power.shape == slow.shape == (2, 257, samples // 256 + 1 - (frame % 2 and samples % 256 == 0))
    np.testing.assert_allclose(power, slow, rtol=1e-4, atol=1e-8)


def test_mel_spectrogram_is_that_of_the_slow_reference() -> None:
    audio = noise(2, 700)
    slow = [slow_decibels(slow_mel_filters().T @ slow_power(row, 512)) for row in audio.numpy()]
    assert np.min(slow) == -100, "this test should see an empty band"
    np.testing.assert_allclose(MelSpectrogram()(audio), slow, atol=1e-3)


def test_harmonic_spectrogram_is_that_of_the_slow_reference() -> None:
    audio = noise(2, 700)
    front = HarmonicSpectrogram(513)
    front.bw_Q.data.fill_(1.3)
    slow = [slow_decibels(np.einsum("fhm,ft->hmt", slow_harmonic_filters(1.3), slow_power(row, 513))) for row in audio.numpy()]
    assert np.min(slow) == -100
    np.testing.assert_allclose(front(audio).detach(), slow, atol=1e-3)


def test_mel_spectrogram_is_librosas() -> None:
    audio = noise(2, 59_049)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = librosa.feature.melspectrogram(
            y=audio.numpy(), sr=16_000, n_fft=512, hop_length=256, pad_mode="reflect", n_mels=128, fmax=8_000, htk=True, norm=None
        )
    ours = MelSpectrogram()(audio)
    assert ours.shape == (2, 128, 231)
    np.testing.assert_allclose(ours, librosa.power_to_db(theirs, top_db=None), atol=1e-4)


def test_harmonic_spectrogram_is_librosas_but_for_the_filters() -> None:
    audio = noise(2, 80_000)
    theirs = np.abs(librosa.stft(audio.numpy(), n_fft=513, hop_length=256, pad_mode="reflect")) ** 2
    bands = np.einsum("fhm,bft->bhmt", slow_harmonic_filters(1.0), theirs)
    ours = HarmonicSpectrogram(513)(audio).detach()
    assert ours.shape == (2, 6, 128, 313)
    np.testing.assert_allclose(ours, librosa.power_to_db(bands, top_db=None), atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="torchaudio is not installed")
def test_spectrograms_are_torchaudios() -> None:
    from torchaudio.transforms import AmplitudeToDB, Spectrogram
    from torchaudio.transforms import MelSpectrogram as TheirMelSpectrogram

    audio, options = noise(2, 59_049), {"n_fft": 512, "f_min": 0.0, "f_max": 8_000.0, "n_mels": 128}
    to_db = AmplitudeToDB()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a band between two bins
        theirs = TheirMelSpectrogram(16_000, **options)
        torch.set_default_dtype(torch.float64)
        try:
            exact = TheirMelSpectrogram(16_000, **options).float()
        finally:
            torch.set_default_dtype(torch.float32)
    ours = MelSpectrogram()(audio)
    np.testing.assert_allclose(ours, to_db(exact(audio)), atol=1e-4)
    np.testing.assert_allclose(ours, to_db(theirs(audio)), atol=1e-3)  # its filters are off by up to 1e-5
    np.testing.assert_allclose(frontends.power(audio, 513), Spectrogram(n_fft=513, power=2)(audio), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("front", [MelSpectrogram(), HarmonicSpectrogram(513)])
def test_silence_is_finite_and_so_is_its_gradient(front: nn.Module) -> None:
    audio = torch.zeros(1, 1_000, requires_grad=True)
    out = front(audio)
    assert (out == -100).all()
    out.sum().backward()
    assert torch.isfinite(audio.grad).all()


@pytest.mark.parametrize("front", [MelSpectrogram(), HarmonicSpectrogram(513)])
def test_spectrograms_are_float32_under_autocast(front: nn.Module) -> None:
    audio = noise(1, 1_000)
    with torch.autocast("cpu", torch.bfloat16):
        under = front(audio)
    assert under.dtype == torch.float32
    np.testing.assert_array_equal(under.detach(), front(audio).detach())


def test_what_an_encoder_has_asked_for_can_be_trained_on() -> None:
    frontends._on.cache_clear()
    front = HarmonicSpectrogram(513)
    with torch.inference_mode():
        front(noise(1, 1_000))
    front(noise(1, 1_000)).sum().backward()
    assert front.bw_Q.grad is not None and front.bw_Q.grad.abs() > 0


# --- the taggers -------------------------------------------------------------------------------------------------------------------------


def reference(state: Mapping[str, Tensor], audio: Tensor) -> tuple[Tensor, Tensor]:
    """Features and tags by the published names alone, in evaluation."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding=1)

    def residual(x: Tensor, layer: str, stride: int = 1) -> Tensor:
        y = norm(conv(x, f"{layer}.conv_1", stride), f"{layer}.bn_1").relu()
        return norm(conv(y, f"{layer}.conv_2"), f"{layer}.bn_2")

    if "hstft.bw_Q" in state:
        front = HarmonicSpectrogram(513)
        front.bw_Q.data = state["hstft.bw_Q"]
        x = norm(front(audio), "hstft_bn")
        for layer in ("layer1", "layer2", "layer3", "layer4", "layer5", "layer6", "layer7"):
            plain = layer in ("layer1", "layer5")
            x = (norm(conv(x, f"{layer}.conv"), f"{layer}.bn") if plain else x + residual(x, layer)).relu()
            x = F.max_pool2d(x, (2, 3) if layer in ("layer6", "layer7") else (2, 2))
    else:
        x = norm(MelSpectrogram()(audio).unsqueeze(1), "spec_bn")
        for layer in ("layer1", "layer2", "layer3", "layer4", "layer5", "layer6", "layer7"):
            x = (norm(conv(x, f"{layer}.conv_3", 2), f"{layer}.bn_3") + residual(x, layer, 2)).relu()
    features = x.squeeze(2).max(dim=2).values
    hidden = norm(features @ state["dense1.weight"].T + state["dense1.bias"], "bn").relu()
    return features, 1 / (1 + (-(hidden @ state["dense2.weight"].T + state["dense2.bias"])).exp())


@pytest.mark.parametrize(("network", "count"), [(ShortChunkCnn, 12_104_244), (HarmonicCnn, 3_631_551)])
def test_parameters_are_as_many_as_published(network: type[Tagger], count: int) -> None:
    assert sum(parameter.numel() for parameter in network().parameters()) == count


@pytest.mark.parametrize(("network", "shapes"), TAGGERS)
def test_taggers_have_the_published_names_and_shapes(network: type[Tagger], shapes: Shapes) -> None:
    kept = HARMONIC_BUFFERS if network is HarmonicCnn else {}  # its length is a setting
    assert {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()} == {**shapes, **kept}


def test_the_buffers_of_published_checkpoints_are_known() -> None:
    assert set(SHORT_CHUNK_BUFFERS) == ShortChunkCnn.BUFFERS
    assert set(HARMONIC_BUFFERS) == {HarmonicCnn.WINDOW}


@pytest.mark.parametrize("frame", [512, 513])
def test_a_checkpoint_says_how_long_the_harmonic_frame_is(frame: int) -> None:
    """Either is said to have been used; the bins and frames are as many, and the features nearly the same."""
    state = {**random_state(HARMONIC), HarmonicCnn.WINDOW: torch.tensor(hann(frame))}
    network = HarmonicCnn.of(state)
    network.load_state_dict(state)
    audio = noise(1, 16_000)
    slow = [slow_decibels(np.einsum("fhm,ft->hmt", slow_harmonic_filters(network.hstft.bw_Q.item()), slow_power(audio[0].numpy(), frame)))]
    np.testing.assert_allclose(network.hstft(audio).detach(), slow, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("shape", [(256,), (), (1, 513), (513, 1), (0,)])
def test_another_frame_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"hstft\.spec\.window has the shape {re.escape(str(shape))}, not one of \[\(513,\), \(512,\)\]"):
        HarmonicCnn.of({HarmonicCnn.WINDOW: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("network", "first", "last"), [(ShortChunkCnn, (2, 1, 128, 231), (2, 512, 1, 2)), (HarmonicCnn, (2, 6, 128, 313), (2, 256, 1, 1))]
)
def test_shapes_are_the_papers(network: type[Tagger], first: tuple[int, ...], last: tuple[int, ...]) -> None:
    tagger, seen = network().eval(), []
    tagger.get_submodule("layer1").register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    tagger.get_submodule("layer7").register_forward_hook(lambda _, __, x: seen.append(tuple(x.shape)))
    with torch.inference_mode():
        features = tagger(noise(2, network.SAMPLES))
        tags = tagger.tags(features)
    assert seen == [first, last]
    assert (network.RATE_HZ, tuple(features.shape), tuple(tags.shape)) == (16_000, (2, network.DIM), (2, 50))


@pytest.mark.parametrize(("network", "shapes"), TAGGERS)
def test_features_and_tags_are_those_of_the_reference(network: type[Tagger], shapes: Shapes) -> None:
    state = random_state(shapes)
    tagger = network().eval()
    tagger.load_state_dict({**tagger.state_dict(), **state})
    audio = noise(2, network.SAMPLES)
    with torch.inference_mode():
        expected, expected_tags = reference(state, audio)
        features = tagger(audio)
        tags = tagger.tags(features)
    assert expected.std() > 0.05 and expected_tags.std() > 0.05, "this test should see numbers that differ"
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(tags, expected_tags, atol=1e-3)


def test_a_tagger_built_without_memory_takes_its_weights() -> None:
    state = {**random_state(HARMONIC), HarmonicCnn.WINDOW: torch.tensor(hann(513))}
    with torch.device("meta"):
        tagger = HarmonicCnn().eval()
    tagger.load_state_dict(state, assign=True)
    with torch.inference_mode():
        assert torch.isfinite(tagger(noise(1, HarmonicCnn.SAMPLES))).all()


def test_gradients_reach_every_parameter_of_the_body() -> None:
    tagger = HarmonicCnn()
    tagger(noise(2, HarmonicCnn.SAMPLES)).square().sum().backward()
    unreached = {name for name, parameter in tagger.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert {name.split(".")[0] for name in unreached} == {"dense1", "bn", "dense2"}  # the head is not asked
    assert tagger.hstft.bw_Q.grad.abs() > 0


def test_the_gradient_of_the_bandwidth_is_that_of_differences() -> None:
    front, audio = HarmonicSpectrogram(513), noise(1, 4_000)
    front(audio).mean().backward()
    with torch.no_grad():
        around = []
        for q in (1.01, 0.99):
            front.bw_Q.fill_(q)
            around.append(front(audio).mean(dtype=torch.float64))
    assert float(front.bw_Q.grad) == pytest.approx(float(around[0] - around[1]) / 0.02, rel=0.15)  # some bands empty in between


def test_dropout_is_only_in_training() -> None:
    tagger, features = HarmonicCnn(), torch.rand(4, 256)
    assert not torch.equal(tagger.tags(features), tagger.tags(features))
    tagger.eval()
    assert torch.equal(tagger.tags(features), tagger.tags(features))


# --- CLIP's image tower ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patch", "count"), [(16, 86_192_640), (32, 87_849_216)])
def test_the_image_tower_has_the_published_names_and_size(patch: int, count: int) -> None:
    with torch.device("meta"):
        tower = VisionTransformer(patch)
    assert {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()} == clip_tower(patch)
    assert sum(parameter.numel() for parameter in tower.parameters()) == count


# --- CLAP's audio tower ------------------------------------------------------------------------------------------------------------------

CLAP_NAMES: Shapes = {
    "audio_branch.spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
    "audio_branch.spectrogram_extractor.stft.conv_imag.weight": (513, 1, 1024),
    "audio_branch.logmel_extractor.melW": (513, 64),
    "audio_branch.bn0.weight": (64,),
    "audio_branch.bn0.running_mean": (64,),
    "audio_branch.bn0.running_var": (64,),
    "audio_branch.bn0.num_batches_tracked": (),
    "audio_branch.patch_embed.proj.weight": (96, 1, 4, 4),
    "audio_branch.patch_embed.norm.weight": (96,),
    "audio_branch.layers.0.blocks.0.attn.relative_position_index": (64, 64),
    "audio_branch.layers.0.blocks.0.attn.relative_position_bias_table": (225, 4),
    "audio_branch.layers.0.blocks.1.attn_mask": (64, 64, 64),
    "audio_branch.layers.0.downsample.reduction.weight": (192, 384),
    "audio_branch.layers.1.blocks.1.attn_mask": (16, 64, 64),
    "audio_branch.layers.1.blocks.1.norm1.weight": (192,),
    "audio_branch.layers.2.blocks.5.attn_mask": (4, 64, 64),
    "audio_branch.layers.2.blocks.5.attn.qkv.weight": (1152, 384),
    "audio_branch.layers.2.downsample.norm.bias": (1536,),
    "audio_branch.layers.3.blocks.1.attn.proj.bias": (768,),
    "audio_branch.layers.3.blocks.1.mlp.fc1.weight": (3072, 768),
    "audio_branch.layers.3.blocks.1.mlp.fc2.bias": (768,),
    "audio_branch.norm.weight": (768,),
    "audio_branch.tscam_conv.weight": (527, 768, 2, 3),
    "audio_branch.head.weight": (527, 527),
    "audio_projection.0.weight": (512, 768),
    "audio_projection.2.bias": (512,),
}
"""Some of those of the published checkpoint."""
CLAP_BUFFERS = ("attn_mask", "relative_position_index", "running_mean", "running_var", "num_batches_tracked")


def test_claps_audio_tower_has_the_published_names_and_size() -> None:
    """Where laion_clap is installed, test_clap holds them all against its network."""
    shapes = clap_shapes()
    assert shapes.items() >= CLAP_NAMES.items()
    assert len(shapes) == 204
    assert sum(name.endswith("attn_mask") for name in shapes) == 5, "of the odd blocks of all layers but the last"
    assert sum(name.endswith("relative_position_index") for name in shapes) == 12
    assert sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(CLAP_BUFFERS)) == 31_325_143 + 656_384
