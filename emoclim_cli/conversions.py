"""Published weights -> the one form that the encoders read: safetensors for torch, ONNX for ONNX Runtime.

Each function reads the verified `members` of a source (member name -> file) and writes `destination`. They run once, after a fetch.
Shape letters: b windows or photos, t frames.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emoclim_cli.errors import ModelError

if TYPE_CHECKING:
    import onnx

# --- CLIP --------------------------------------------------------------------------------------------------------------------------------

# Name of a part of a layer in the published graph -> its name in open_clip's visual tower, whose state dict we keep.
_CLIP_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def clip_from_onnx(members: Mapping[str, Path], destination: Path) -> None:
    """An int8 ONNX export of CLIP's image tower -> float32 state dict of open_clip's visual tower.

    Each quantised matrix is (q - zero point) * scale per output channel. The activations stay float32: quantised at run time, as in the
    published graph, they would make a photo's features depend on its neighbours in the batch.
    Raises ModelError where the graph is not the one expected.
    """
    from safetensors.numpy import save_file

    (path,) = members.values()
    try:
        state = _clip_state(_load_onnx(path).graph)
    except KeyError as error:
        raise ModelError(f"{path.name}: this graph is not CLIP's image tower: it has no {error}") from error
    except Exception as error:  # onnx checks neither types nor sizes of what it unpacks
        raise ModelError(f"{path.name}: this graph is not CLIP's image tower: {error}") from error
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, str(destination))


def _clip_state(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    named: dict[str, np.ndarray] = {
        name.removeprefix("vision_model."): array for name, array in arrays.items() if name.startswith("vision_model.")
    }
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            q, scale, zero = (arrays[stem + end] for end in ("_quantized", "_scale", "_zero_point"))
            where = node.name.removeprefix("/vision_model/").strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            named[where + ".weight"] = ((q.astype(np.float32) - zero.astype(np.float32)) * scale).T

    state = {
        "class_embedding": named.pop("embeddings.class_embedding"),
        "conv1.weight": named.pop("embeddings.patch_embedding.weight"),
        "positional_embedding": named.pop("embeddings.position_embedding.weight"),
        "proj": named.pop("visual_projection.weight").T,
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        for part in ("weight", "bias"):
            state[f"{ours}.{part}"] = named.pop(f"{theirs}.{part}")
    n_layers = len({name.split(".")[2] for name in named if name.startswith("encoder.layers.")})
    for layer in range(n_layers):
        theirs, ours = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for part in ("weight", "bias"):
            state[f"{ours}.attn.in_proj_{part}"] = np.concatenate([named.pop(f"{theirs}.self_attn.{x}_proj.{part}") for x in "qkv"])
            for their_part, our_part in _CLIP_PARTS.items():
                state[f"{ours}.{our_part}.{part}"] = named.pop(f"{theirs}.{their_part}.{part}")
    if named:
        raise ValueError(f"it holds weights that do not belong there: {', '.join(sorted(named)[:3])}")
    return state


def _load_onnx(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own
        raise ModelError(f"{path.name} is not an ONNX graph: {error}") from error
    # A graph may name other files for its numbers. None of ours does, and what is read is what was verified.
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError(f"{path.name}: this graph keeps its weights in other files")
    return model


# --- VibeNet -----------------------------------------------------------------------------------------------------------------------------

VIBENET_INPUT, VIBENET_FEATURES = "x", "mean_16"


def vibenet_from_onnx(members: Mapping[str, Path], destination: Path) -> None:
    """Cuts VibeNet's graph after its global mean pool: log-mel (b, 128, t) -> (b, 1280, 1, 1).

    What follows in the published graph (the seven heads) is fixed to one clip at a time. The network itself is fully convolutional:
    only the shapes noted beside its tensors say one clip, and they are dropped.
    Raises ModelError where the graph is not the one expected.
    """
    import onnx
    from onnx.utils import Extractor

    (path,) = members.values()
    model = _load_onnx(path)
    try:
        extracted = Extractor(model).extract_model([VIBENET_INPUT], [VIBENET_FEATURES])
        del extracted.graph.value_info[:]
        extracted.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "b"
        onnx.save(extracted, str(destination))
    except OSError:
        raise
    except Exception as error:  # as above
        raise ModelError(f"{path.name}: this graph has no tensor {VIBENET_FEATURES!r}, or is damaged") from error


# --- MusiCNN -----------------------------------------------------------------------------------------------------------------------------

MUSICNN_FRAMES, MUSICNN_MELS = 187, 96


def musicnn_from_checkpoint(members: Mapping[str, Path], destination: Path) -> None:
    """MusiCNN's TensorFlow checkpoint -> ONNX: log-mel (b, 187, 96) -> features (b, 200) and tags (b, 50).

    Raises ModelError where the checkpoint is damaged or not the one expected.
    """
    import onnx

    index = next(path for name, path in members.items() if name.endswith(".index"))
    data = next(path for name, path in members.items() if not name.endswith(".index"))
    tensors = read_checkpoint(index.read_bytes(), data.read_bytes())
    try:
        model = _musicnn_graph(tensors)
    except KeyError as error:
        raise ModelError(f"the MusiCNN checkpoint has no tensor {error}") from error
    except (ValueError, IndexError) as error:
        raise ModelError(f"this checkpoint is not MusiCNN's: {error}") from error
    onnx.save(model, str(destination))


def _musicnn_graph(tensors: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def numbered(kind: str, number: int) -> str:
        return kind + (f"_{number}" if number else "")

    def batch_norm(x: str, number: int) -> str:
        name = numbered("batch_normalization", number)
        parts = [constant(f"{name}/{part}", tensors[f"{name}/{part}"]) for part in ("gamma", "beta", "moving_mean", "moving_variance")]
        return node("BatchNormalization", [x, *parts], f"{name}/out", epsilon=1e-3)

    def relu_norm(x: str, number: int) -> str:
        return batch_norm(node("Relu", [x], f"{numbered('conv2d', number)}/relu"), number + 1)

    def conv(x: str, number: int, kernel: np.ndarray, bias: np.ndarray, pads: list[int]) -> str:
        """Kernel as (out, in, time[, band])."""
        name = numbered("conv2d", number)
        return node("Conv", [x, constant(f"{name}/kernel", kernel), constant(f"{name}/bias", bias)], f"{name}/conv", pads=pads)

    def dense(x: str, number: int, output: str) -> str:
        name = numbered("dense", number)
        return node("Gemm", [x, *(constant(f"{name}/{part}", tensors[f"{name}/{part}"]) for part in ("kernel", "bias"))], output)

    x = batch_norm(node("Unsqueeze", ["mel", constant("axis_1", np.array([1]))], "image"), 0)  # (b, 1, 187, 96)
    front = []
    for number in range(5):  # two timbral convolutions, 7 frames x 38 and 67 bands; three temporal ones, 128, 64 and 32 frames x 1
        name = numbered("conv2d", number)
        kernel = tensors[f"{name}/kernel"].transpose(3, 2, 0, 1)  # TensorFlow keeps (time, band, in, out)
        before = (kernel.shape[2] - 1) // 2  # "same" in time: where the kernel is even, the odd frame of padding goes to the end
        # The checkpoint takes the maximum over bands after relu and batch norm. Both are monotone in each filter, so it can be taken first,
        # which spares two passes over 9 MB a patch; where batch norm's factor is negative the order turns, and the minimum is the one.
        sign = np.where(tensors[f"{numbered('batch_normalization', number + 1)}/gamma"] < 0, -1, 1).astype(np.float32)
        pads = [before, 0, kernel.shape[2] - 1 - before, 0]
        y = conv(x, number, kernel * sign[:, None, None, None], tensors[f"{name}/bias"] * sign, pads)
        y = node("ReduceMax", [y, constant(f"bands_{number}", np.array([3]))], f"highest_{number}", keepdims=0)  # (b, filters, 187)
        front.append(relu_norm(node("Mul", [y, constant(f"sign_{number}", sign[:, None])], f"extreme_{number}"), number))
    y = node("Concat", front, "front", axis=1)  # (b, 561, 187)
    maps = [y]
    for number in range(5, 8):
        # In the checkpoint these see the channels as the bands of an image with one channel; as a convolution over time alone they
        # are the same sums in a fraction of the time.
        kernel = tensors[f"{numbered('conv2d', number)}/kernel"][:, :, 0, :].transpose(2, 1, 0)
        z = relu_norm(conv(y, number, kernel, tensors[f"{numbered('conv2d', number)}/bias"], [3, 3]), number)  # (b, 64, 187)
        y = z if number == 5 else node("Add", [z, y], f"residual_{number}")
        maps.append(y)
    x = node("Concat", maps, "all", axis=1)  # (b, 753, 187)
    time = constant("time", np.array([2]))
    pools = [node(op, [x, time], op, keepdims=1) for op in ("ReduceMax", "ReduceMean")]  # (b, 753, 1) each
    x = node("Flatten", [node("Concat", pools, "pooled", axis=2)], "interleaved", axis=1)  # (b, 1506)
    x = dense(batch_norm(x, 9), 0, "features")
    x = dense(batch_norm(node("Relu", [x], "features/relu"), 10), 1, "logits")
    node("Sigmoid", [x], "tags")
    graph = helper.make_graph(
        nodes,
        "musicnn",
        [helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["b", MUSICNN_FRAMES, MUSICNN_MELS])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", width]) for name, width in (("features", 200), ("tags", 50))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model)
    return model


# A TensorFlow V2 checkpoint: the index is a LevelDB table (uncompressed) of key -> BundleEntryProto, the data file holds the tensors
# end to end.
_TABLE_MAGIC = 0xDB4775248B80FB57
_FLOAT32 = 1


def read_checkpoint(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Tensor name -> float32 array; entries of other types are left out. Raises ModelError where the bytes are damaged."""
    try:
        if len(index) < 48 or struct.unpack_from("<Q", index, len(index) - 8)[0] != _TABLE_MAGIC:
            raise ModelError("this is no TensorFlow checkpoint index")
        position = len(index) - 48
        _, position = _varint(index, position)  # metaindex: offset and size
        _, position = _varint(index, position)
        offset, position = _varint(index, position)
        size, _ = _varint(index, position)
        tensors: dict[str, np.ndarray] = {}
        for _, handle in _block(index, offset, size):
            block_offset, position = _varint(handle, 0)
            block_size, _ = _varint(handle, position)
            for key, value in _block(index, block_offset, block_size):
                entry = _entry(value) if key else None  # the empty key is the header
                if entry is None:
                    continue
                shape, start, length = entry
                if start + length > len(data) or length != 4 * math.prod(shape):
                    raise ModelError("this TensorFlow checkpoint is damaged: a tensor lies outside its data file")
                tensors[key.decode()] = np.frombuffer(data, "<f4", length // 4, start).reshape(shape)
    except (IndexError, struct.error, ValueError, OverflowError) as error:
        raise ModelError("this TensorFlow checkpoint index is damaged") from error
    return tensors


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("number too long")


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of one block; keys share prefixes with the key before them."""
    block = table[offset : offset + size]
    if len(block) != size or size < 4 or table[offset + size] != 0:  # the byte behind a block is its compression
        raise ValueError("bad block")
    end = size - 4 - 4 * struct.unpack_from("<I", block, size - 4)[0]
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of a protobuf message: varints, byte strings and fixed 32-bit words."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire, value = tag & 7, b""
        if wire == 0:
            number, position = _varint(message, position)
            yield tag >> 3, number
            continue
        if wire not in (2, 5):
            raise ValueError("unknown wire type")
        length, position = _varint(message, position) if wire == 2 else (4, position)
        value = message[position : position + length]
        position += length
        yield tag >> 3, value


def _entry(message: bytes) -> tuple[tuple[int, ...], int, int] | None:
    """Shape, offset and size in bytes of a float32 tensor; None for another type."""
    dtype = offset = size = 0
    shape: tuple[int, ...] = ()
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            dims = [dim for field, dim in _fields(value) if field == 2 and isinstance(dim, bytes)]
            shape = tuple(next((v for f, v in _fields(dim) if f == 1 and isinstance(v, int)), 0) for dim in dims)
        elif isinstance(value, int):
            dtype = value if number == 1 else dtype
            offset = value if number == 4 else offset
            size = value if number == 5 else size
    return (shape, offset, size) if dtype == _FLOAT32 else None
