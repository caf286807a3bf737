"""Published weights -> what the encoders read: on small files of the same formats written here, and on what was made of the real ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from emoclim_cli import conversions, weights
from emoclim_cli.conversions import clip_from_onnx, musicnn_from_checkpoint, read_checkpoint, vibenet_from_onnx
from emoclim_cli.encoders.clip import VisionTransformer
from emoclim_cli.errors import ModelError

# --- a writer of TensorFlow checkpoints --------------------------------------------------------------------------------------------------

FLOAT, INT64 = 1, 9


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message of varints and byte strings."""
    out = b""
    for number, value in fields:
        out += varint(number << 3) + varint(value) if isinstance(value, int) else varint(number << 3 | 2) + varint(len(value)) + value
    return out


def bundle_entry(shape: Sequence[int], offset: int, size: int, dtype: int = FLOAT) -> bytes:
    dims = b"".join(message((2, message((1, dim)))) for dim in shape)
    checksum = varint(6 << 3 | 5) + b"\xff\xff\xff\xff"
    return message((1, dtype), (2, dims), (3, 0), (4, offset), (5, size)) + checksum


def block(entries: Sequence[tuple[bytes, bytes]], restart_every: int = 16) -> bytes:
    """One block of a LevelDB table with its trailer: each key as what it does not share with the key before it."""
    out, restarts, before = b"", [], b""
    for n, (key, value) in enumerate(entries):
        shared = 0
        if n % restart_every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    out += b"".join(struct.pack("<I", restart) for restart in restarts or [0]) + struct.pack("<I", len(restarts or [0]))
    return out + b"\0" + b"\xff\xff\xff\xff"  # not compressed; a checksum that nobody looks at


def table(entries: Mapping[bytes, bytes], per_block: int = 3, restart_every: int = 16) -> bytes:
    ordered = sorted(entries.items())
    out, index = b"", []
    for start in range(0, len(ordered), per_block):
        part = ordered[start : start + per_block]
        made = block(part, restart_every)
        index.append((part[-1][0], varint(len(out)) + varint(len(made) - 5)))
        out += made
    handles = b""
    for made in (block([]), block(index, 1)):  # metaindex, index
        handles += varint(len(out)) + varint(len(made) - 5)
        out += made
    return out + handles.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


@dataclass(frozen=True)
class Checkpoint:
    index: bytes
    data: bytes


def checkpoint(tensors: Mapping[str, np.ndarray], *, per_block: int = 3, restart_every: int = 16) -> Checkpoint:
    data = b""
    entries = {b"": message((1, 1), (2, 0))}  # the header: one shard, little endian
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        entries[name.encode()] = bundle_entry(tensor.shape, len(data), len(raw), FLOAT if tensor.dtype == np.float32 else INT64)
        data += raw
    return Checkpoint(table(entries, per_block, restart_every), data)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


TENSORS = {
    "conv2d/kernel": numbers(3, 2, 1, 4),
    "conv2d/bias": numbers(4),
    "conv2d_1/bias": numbers(200),
    "conv2d_1/kernel": numbers(5, 40),
    "global_step": np.array(7, np.int64),
    "steps": np.arange(3),
    "beta": np.array(0.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "größe": numbers(1),
}
FLOATS = {name: tensor for name, tensor in TENSORS.items() if tensor.dtype == np.float32}


# --- the reader of TensorFlow checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_block", [1, 3, 100])
@pytest.mark.parametrize("restart_every", [1, 2, 16])
def test_every_float_tensor_is_read_as_it_was_written(per_block: int, restart_every: int) -> None:
    made = checkpoint(TENSORS, per_block=per_block, restart_every=restart_every)
    found = read_checkpoint(made.index, made.data)
    assert found.keys() == FLOATS.keys()
    for name, tensor in FLOATS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].shape == tensor.shape


def test_the_writer_shares_prefixes() -> None:
    """Or the test above would not see them."""
    assert checkpoint(TENSORS, per_block=100).index.count(b"conv2d") == 1


SMALL = checkpoint({name: TENSORS[name] for name in ("conv2d/bias", "conv2d/kernel", "global_step")}, per_block=2)


def test_an_index_cut_anywhere_is_refused() -> None:
    for length in range(len(SMALL.index)):
        with pytest.raises(ModelError, match=r"no TensorFlow checkpoint index|damaged"):
            read_checkpoint(SMALL.index[:length], SMALL.data)


def test_a_data_file_that_is_too_short_is_refused() -> None:
    needed = sum(FLOATS[name].nbytes for name in ("conv2d/bias", "conv2d/kernel"))
    for length in range(needed):
        with pytest.raises(ModelError, match="a tensor lies outside its data file"):
            read_checkpoint(SMALL.index, SMALL.data[:length])
    assert len(read_checkpoint(SMALL.index, SMALL.data[:needed])) == 2  # the integer behind them is not read


def only_model_errors(index: bytes, data: bytes) -> None:
    try:
        found = read_checkpoint(index, data)
    except ModelError:
        return
    assert all(tensor.dtype == np.float32 for tensor in found.values())


def test_any_byte_flipped_gives_tensors_or_a_model_error() -> None:
    for position in range(len(SMALL.index)):
        for value in {0x00, 0x7F, 0x80, 0xFF, SMALL.index[position] ^ 1}:
            only_model_errors(SMALL.index[:position] + bytes([value]) + SMALL.index[position + 1 :], SMALL.data)


@given(st.data())
def test_several_bytes_changed_give_tensors_or_a_model_error(data: st.DataObject) -> None:
    index = bytearray(SMALL.index)
    for _ in range(data.draw(st.integers(1, 6))):
        index[data.draw(st.integers(0, len(index) - 9))] = data.draw(st.integers(0, 255))
    only_model_errors(bytes(index), SMALL.data)


@given(st.binary(max_size=300))
def test_no_bytes_before_the_magic_number_give_anything_else(noise: bytes) -> None:
    only_model_errors(noise + SMALL.index[-8:], SMALL.data)
    only_model_errors(noise + SMALL.index[-48:], SMALL.data)


@pytest.mark.parametrize(
    ("shape", "offset", "size"),
    [
        ((4,), 0, 12),
        ((3,), 0, 16),
        ((2, 2), 0, 15),
        ((2**63, 2**63), 0, 16),
        ((2**33, 2**31), 0, 0),  # 2**64 numbers: none, to who counts in 64 bits
        ((0, 2**64), 0, 0),
        ((4,), 60, 16),
        ((4,), 2**64 - 16, 16),
    ],
)
def test_an_entry_that_does_not_fit_its_data_is_refused(shape: tuple[int, ...], offset: int, size: int) -> None:
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(table({b"": b"", b"tensor": bundle_entry(shape, offset, size)}), bytes(64))


def test_a_compressed_block_is_refused() -> None:
    made = checkpoint(TENSORS, per_block=100)
    trailer = made.index.index(b"\0\xff\xff\xff\xff", len(block([])))
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(made.index[:trailer] + b"\1" + made.index[trailer + 1 :], made.data)


@pytest.mark.parametrize("tag", [0x09, 0x0B, 0x0C, 0x0F])
def test_a_message_of_fields_that_no_entry_has_is_refused(tag: int) -> None:
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(table({b"": b"", b"tensor": bytes([tag]) + bytes(16)}), bytes(64))


# --- MusiCNN -----------------------------------------------------------------------------------------------------------------------------

KERNELS = [(7, 38), (7, 67), (128, 1), (64, 1), (32, 1), (7, 9), (7, 4), (7, 4)]
"""Frames and bands of each convolution, as published but for the bands of the last three, which are the channels before them."""
FILTERS = [2, 2, 1, 2, 2, 4, 4, 4]
"""Published: 204, 204, 51, 51, 51, 64, 64, 64."""


def toy_musicnn() -> dict[str, np.ndarray]:
    """All tensors of a MusiCNN with few channels."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {"global_step": np.array(1, np.int64)}

    def put(name: str, *shape: int) -> None:
        tensors[name] = (0.1 * rng.standard_normal(shape)).astype(np.float32)

    def batch_norm(number: int, width: int) -> None:
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            put(f"{name}/{part}", width)
        tensors[f"{name}/moving_variance"] = np.abs(tensors[f"{name}/moving_variance"]) + 0.5
        tensors[f"{name}/gamma"] += 1
        tensors[f"{name}/gamma"][1::2] *= -1  # published ones are negative as well, and turn the order of what they scale

    batch_norm(0, 1)
    for number, ((frames, bands), filters) in enumerate(zip(KERNELS, FILTERS, strict=True)):
        name = f"conv2d_{number}" if number else "conv2d"
        put(f"{name}/kernel", frames, bands, 1, filters)
        put(f"{name}/bias", filters)
        batch_norm(number + 1, filters)
    width = 2 * (sum(FILTERS[:5]) + sum(FILTERS[5:]))
    batch_norm(9, width)
    for name, rows, columns in (("dense", width, 200), ("dense_1", 200, 50)):
        put(f"{name}/kernel", rows, columns)
        put(f"{name}/bias", columns)
    batch_norm(10, 200)
    return tensors


def slow_musicnn(mel: np.ndarray, t: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One patch (187, 96) through the network as it is published, with TensorFlow's images (frames, bands, channels)."""

    def numbered(name: str, number: int) -> str:
        return f"{name}_{number}" if number else name

    def batch_norm(x: np.ndarray, number: int) -> np.ndarray:
        gamma, beta, mean, variance = (
            t[f"{numbered('batch_normalization', number)}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def conv(image: np.ndarray, number: int) -> np.ndarray:
        """(frames, bands) -> (187, bands', filters): "same" over time, "valid" over bands, as a sum over the kernel."""
        kernel, bias = t[f"{numbered('conv2d', number)}/kernel"][:, :, 0], t[f"{numbered('conv2d', number)}/bias"]
        frames, bands, _ = kernel.shape
        padded = np.pad(image, (((frames - 1) // 2, frames // 2), (0, 0)))
        out = np.zeros((187, image.shape[1] - bands + 1, kernel.shape[2])) + bias
        for frame in range(frames):
            for band in range(bands):
                out += padded[frame : frame + 187, band : band + out.shape[1], None] * kernel[frame, band]
        return batch_norm(np.maximum(out, 0), number + 1)

    image = batch_norm(mel.astype(np.float64), 0)
    front = np.concatenate([conv(image, number).max(axis=1) for number in range(5)], axis=1)  # (187, front)
    first = conv(front, 5)[:, 0]
    second = conv(first, 6)[:, 0] + first
    third = conv(second, 7)[:, 0] + second
    maps = np.concatenate([front, first, second, third], axis=1)
    pooled = batch_norm(np.stack([maps.max(axis=0), maps.mean(axis=0)], axis=1).reshape(-1), 9)
    features = pooled @ t["dense/kernel"] + t["dense/bias"]
    logits = batch_norm(np.maximum(features, 0), 10) @ t["dense_1/kernel"] + t["dense_1/bias"]
    return features, 1 / (1 + np.exp(-logits))


def convert_musicnn(made: Checkpoint, folder: Path) -> Path:
    (folder / "a").write_bytes(made.index)
    (folder / "b").write_bytes(made.data)
    # The members have names of their own; the files' names mean nothing.
    musicnn_from_checkpoint({"musicnn/.data-00000-of-00001": folder / "b", "musicnn/.index": folder / "a"}, folder / "out.onnx")
    return folder / "out.onnx"


def test_musicnn_computes_what_the_published_network_does(tmp_path: Path) -> None:
    tensors = toy_musicnn()
    session = ort.InferenceSession(str(convert_musicnn(checkpoint(tensors), tmp_path)))
    mel = np.random.default_rng(3).uniform(0, 4, (2, 187, 96)).astype(np.float32)
    features, tags = session.run(["features", "tags"], {"mel": mel})
    for n in range(2):
        slow_features, slow_tags = slow_musicnn(mel[n], tensors)
        np.testing.assert_allclose(features[n], slow_features, atol=1e-4)
        np.testing.assert_allclose(tags[n], slow_tags, atol=1e-5)
    assert np.ptp(features) > 0.1, "these features should differ"


def without(name: str) -> dict[str, np.ndarray]:
    return {key: tensor for key, tensor in toy_musicnn().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("dense_1/bias"), "has no tensor 'dense_1/bias'"),
        (without("conv2d/kernel"), "has no tensor 'conv2d/kernel'"),
        ({}, "has no tensor"),
        ({**toy_musicnn(), "conv2d_2/kernel": numbers(3, 4)}, "is not MusiCNN's"),
        ({**toy_musicnn(), "conv2d_6/kernel": numbers(4)}, "is not MusiCNN's"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tensors: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        convert_musicnn(checkpoint(tensors), tmp_path)
    assert not (tmp_path / "out.onnx").exists()


# --- CLIP --------------------------------------------------------------------------------------------------------------------------------

WIDTH, LAYERS, DIM = 8, 2, 6


def toy_clip() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """An int8 graph as it is published, only smaller, and each quantised matrix (out, in) by its name: (q - zero point) * scale, slowly."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    nodes, matrices = [], {}

    def put(name: str, *shape: int) -> None:
        arrays[f"vision_model.{name}"] = rng.standard_normal(shape).astype(np.float32)

    def quantised(name: str, wide: int, high: int) -> None:
        stem = f"onnx::MatMul_{1000 + len(nodes)}"
        q = rng.integers(-128, 128, (wide, high)).astype(np.int8)
        zero, scale = rng.integers(-128, 128, high).astype(np.int8), rng.uniform(0.01, 0.1, high).astype(np.float32)
        arrays.update({f"{stem}_quantized": q, f"{stem}_zero_point": zero, f"{stem}_scale": scale})
        inputs = ["x", f"{stem}_quantized", "z", f"{stem}_zero_point"]
        nodes.append(helper.make_node("MatMulInteger", inputs, [f"{stem}_out"], f"{name}_quant"))
        matrices[name] = np.array([[(int(q[i, o]) - int(zero[o])) * float(scale[o]) for i in range(wide)] for o in range(high)])

    put("embeddings.class_embedding", WIDTH)
    put("embeddings.patch_embedding.weight", WIDTH, 3, 2, 2)
    put("embeddings.position_embedding.weight", 5, WIDTH)
    for name in ("pre_layrnorm", "post_layernorm"):
        put(f"{name}.weight", WIDTH)
        put(f"{name}.bias", WIDTH)
    for layer in range(LAYERS):
        for part in "kvq":  # not in the order in which they are joined
            quantised(f"/vision_model/encoder/layers.{layer}/self_attn/{part}_proj/MatMul", WIDTH, WIDTH)
            put(f"encoder.layers.{layer}.self_attn.{part}_proj.bias", WIDTH)
        for part, wide, high in (("self_attn/out_proj", WIDTH, WIDTH), ("mlp/fc1", WIDTH, 4 * WIDTH), ("mlp/fc2", 4 * WIDTH, WIDTH)):
            quantised(f"/vision_model/encoder/layers.{layer}/{part}/MatMul", wide, high)
            put(f"encoder.layers.{layer}.{part.replace('/', '.')}.bias", high)
        for part in ("layer_norm1", "layer_norm2"):
            put(f"encoder.layers.{layer}.{part}.weight", WIDTH)
            put(f"encoder.layers.{layer}.{part}.bias", WIDTH)
    quantised("/visual_projection/MatMul", WIDTH, DIM)
    arrays["axis"] = np.array([1])  # a constant that is no weight
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, "clip", [], [], initializers)), {**arrays, **matrices}


def convert_clip(model: onnx.ModelProto, folder: Path) -> dict[str, np.ndarray]:
    onnx.save(model, folder / "in.onnx")
    clip_from_onnx({"clip.onnx": folder / "in.onnx"}, folder / "out.safetensors")
    return load_file(folder / "out.safetensors")


def test_clip_is_dequantised_and_renamed(tmp_path: Path) -> None:
    model, there = toy_clip()
    state = convert_clip(model, tmp_path)
    expected = {
        "class_embedding": there["vision_model.embeddings.class_embedding"],
        "positional_embedding": there["vision_model.embeddings.position_embedding.weight"],
        "conv1.weight": there["vision_model.embeddings.patch_embedding.weight"],
        "proj": there["/visual_projection/MatMul"].T,
    }
    for part in ("weight", "bias"):
        expected[f"ln_pre.{part}"] = there[f"vision_model.pre_layrnorm.{part}"]
        expected[f"ln_post.{part}"] = there[f"vision_model.post_layernorm.{part}"]
    for layer in range(LAYERS):
        ours, theirs = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
        graph = f"/vision_model/encoder/layers.{layer}"
        expected[f"{ours}.attn.in_proj_weight"] = np.concatenate([there[f"{graph}/self_attn/{p}_proj/MatMul"] for p in "qkv"])
        expected[f"{ours}.attn.in_proj_bias"] = np.concatenate([there[f"{theirs}.self_attn.{p}_proj.bias"] for p in "qkv"])
        for name, part in (("attn.out_proj", "self_attn/out_proj"), ("mlp.c_fc", "mlp/fc1"), ("mlp.c_proj", "mlp/fc2")):
            expected[f"{ours}.{name}.weight"] = there[f"{graph}/{part}/MatMul"]
            expected[f"{ours}.{name}.bias"] = there[f"{theirs}.{part.replace('/', '.')}.bias"]
        for number in (1, 2):
            for part in ("weight", "bias"):
                expected[f"{ours}.ln_{number}.{part}"] = there[f"{theirs}.layer_norm{number}.{part}"]
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        assert state[name].dtype == np.float32
        assert state[name].shape == array.shape, name
        np.testing.assert_allclose(state[name], array, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "lost", ["vision_model.pre_layrnorm.bias", "onnx::MatMul_1000_scale", "vision_model.encoder.layers.1.mlp.fc2.bias"]
)
def test_a_clip_graph_that_lacks_weights_is_refused(lost: str, tmp_path: Path) -> None:
    model, _ = toy_clip()
    kept = [tensor for tensor in model.graph.initializer if tensor.name != lost]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(ModelError, match=r"in.onnx: this graph is not CLIP's image tower: it has no "):
        convert_clip(model, tmp_path)


def test_a_clip_graph_with_more_weights_is_refused(tmp_path: Path) -> None:
    model, _ = toy_clip()
    model.graph.initializer.append(numpy_helper.from_array(numbers(3), "vision_model.adapter.weight"))
    with pytest.raises(ModelError, match=r"it holds weights that do not belong there: adapter\.weight"):
        convert_clip(model, tmp_path)


def test_the_real_clip_has_the_towers_parameters(weights_cache: Path) -> None:
    path = weights.path_of("clip-vit-b-16", weights_cache)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    with torch.device("meta"):
        tower = VisionTransformer(patch=16).state_dict()
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == {name: tuple(t.shape) for name, t in tower.items()}
    assert {entry["dtype"] for entry in header.values()} == {"F32"}

    patches = 768 * 3 * 16 * 16 + 768 + 197 * 768 + 2 * 768
    attention, mlp = 4 * (768 * 768 + 768), 768 * 3072 + 3072 + 3072 * 768 + 768
    layer = attention + mlp + 2 * 2 * 768
    count = patches + 12 * layer + 2 * 768 + 768 * 512
    assert count == 86_192_640  # OpenAI's ViT-B/16 image tower
    assert sum(int(np.prod(entry["shape"])) for entry in header.values()) == count


# --- VibeNet -----------------------------------------------------------------------------------------------------------------------------


def toy_vibenet(features: str = "mean_16") -> onnx.ModelProto:
    """A convolution, a mean pool, and heads that take one clip: a graph with the shape that makes trouble."""
    arrays = {"kernel": numbers(1280, 128, 1, 1), "two": np.array([2]), "axes": np.array([2, 3]), "one clip": np.array([1, 1280])}
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Unsqueeze", ["x", "two"], ["image"]),
        helper.make_node("Conv", ["image", "kernel"], ["maps"]),
        helper.make_node("ReduceMean", ["maps", "axes"], [features], keepdims=1),
        helper.make_node("Reshape", [features, "one clip"], ["out"]),
    ]
    clip = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 128, "t"])
    values = [
        helper.make_tensor_value_info("maps", TensorProto.FLOAT, [1, 1280, 1, "t"]),
        helper.make_tensor_value_info(features, TensorProto.FLOAT, [1, 1280, 1, 1]),
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1280])
    graph = helper.make_graph(nodes, "vibenet", [clip], [out], initializers, value_info=values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_vibenet_is_cut_and_takes_batches(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx.save(toy_vibenet(), tmp_path / "in.onnx")
    vibenet_from_onnx({"vibenet.onnx": tmp_path / "in.onnx"}, tmp_path / "out.onnx")
    session = ort.InferenceSession(str(tmp_path / "out.onnx"))
    x = np.random.default_rng(0).standard_normal((3, 128, 7)).astype(np.float32)
    (features,) = session.run(None, {"x": x})
    kernel = numbers(1280, 128, 1, 1)[:, :, 0, 0]
    np.testing.assert_allclose(features[:, :, 0, 0], x.mean(axis=2) @ kernel.T, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_a_graph_without_vibenets_features_is_refused(tmp_path: Path) -> None:
    onnx.save(toy_vibenet("mean_17"), tmp_path / "in.onnx")
    with pytest.raises(ModelError, match=r"in.onnx: this graph has no tensor 'mean_16'"):
        vibenet_from_onnx({"vibenet.onnx": tmp_path / "in.onnx"}, tmp_path / "out.onnx")


def test_the_real_vibenet_takes_batches_and_warns_of_nothing(weights_cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = weights.path_of("vibenet", weights_cache)
    graph = onnx.load(str(path)).graph
    (x,), (features,) = graph.input, graph.output
    assert (x.name, features.name) == (conversions.VIBENET_INPUT, conversions.VIBENET_FEATURES)
    batch, mels, frames = dims(x)
    assert isinstance(batch, str)
    assert isinstance(frames, str)
    assert mels == 128
    assert isinstance(dims(features)[0], str)
    assert dims(features)[1:] == [1280, 1, 1]

    options = ort.SessionOptions()
    options.log_severity_level = 2  # warnings, which our own sessions do not show
    session = ort.InferenceSession(str(path), options)
    mel = np.random.default_rng(0).uniform(-50, 20, (3, 128, 60)).astype(np.float32)
    (together,) = session.run(None, {"x": mel})
    assert together.shape == (3, 1280, 1, 1)
    for n in range(3):
        (alone,) = session.run(None, {"x": mel[n : n + 1]})
        np.testing.assert_allclose(alone[0], together[n], atol=1e-4)
    assert capfd.readouterr() == ("", "")


# --- what is no graph at all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [clip_from_onnx, vibenet_from_onnx])
@pytest.mark.parametrize("content", [b"", bytes(100), b"no protobuf"])
def test_bytes_that_are_no_graph_are_refused(convert: Callable[[Mapping[str, Path], Path], None], content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"in\.onnx"):
        convert({"graph": tmp_path / "in.onnx"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def graph_with(initializer: onnx.TensorProto) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in ("x", "mean_16")]
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["mean_16"])], "g", ends[:1], ends[1:], [initializer]))


@pytest.mark.parametrize("convert", [clip_from_onnx, vibenet_from_onnx])
@pytest.mark.parametrize("location", ["numbers.bin", "../numbers.bin", "/etc/passwd"])
def test_a_graph_that_keeps_its_weights_in_other_files_is_refused(
    convert: Callable[[Mapping[str, Path], Path], None], location: str, tmp_path: Path
) -> None:
    (tmp_path / "numbers.bin").write_bytes(np.ones((2, 2), np.float32).tobytes())
    tensor = numpy_helper.from_array(np.ones((2, 2), np.float32), "vision_model.x")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "in.onnx").write_bytes(graph_with(tensor).SerializeToString())
    with pytest.raises(ModelError, match=r"in\.onnx: this graph keeps its weights in other files"):
        convert({"graph": tmp_path / "in.onnx"}, tmp_path / "out")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Found by fuzz_parsers.py: protobuf gives bytes for it."""
    graph = graph_with(numpy_helper.from_array(np.ones((2, 2), np.float32), "vision_model.x.weight"))
    (tmp_path / "in.onnx").write_bytes(graph.SerializeToString().replace(b"x.weight", b"x.w\xff\xff\xff\xfft"))
    with pytest.raises(ModelError, match=r"in\.onnx: this graph is not CLIP's"):
        clip_from_onnx({"graph": tmp_path / "in.onnx"}, tmp_path / "out")


def test_a_shape_beyond_all_numbers_is_refused() -> None:
    """No size contradicts it: one of its sides is 0."""
    entries = {b"": message((1, 1), (2, 0)), b"a": bundle_entry((0, 2**66), 0, 0)}
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(table(entries), b"")
