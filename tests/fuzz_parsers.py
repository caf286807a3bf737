"""Coverage-guided fuzzing (atheris) of what emoclim itself parses: `python tests/fuzz_parsers.py [TARGET...] [--seconds N] [--input FILE]`.

Each target is a property: what is wrong raises the error that is meant for it and no other, and what is written is read back. Without a
target, all run, as many at once as there are cores, each in a process of its own. An input that breaks a property is kept in the current
folder and named; `--input` tries one again. What was found here is a test of the module in question.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path

import atheris

PARSERS = (
    *("checkpoints", "conversions", "cues", "labels", "magnatagatune", "media", "playlists", "projections", "published", "tags"),
    "torch_checkpoints",
)
if __name__ == "__main__":  # before anything else imports them; a test that takes the properties alone has no use for it
    with atheris.instrument_imports(include=["emoclim_cli"]):
        for name in PARSERS:
            import_module(f"emoclim_cli.{name}")

import numpy as np
from media_makers import picture
from safetensors.numpy import save
from test_cues import SHEET
from test_playlists import read_back
from test_projections import a_space

from emoclim_cli import (
    checkpoints,
    conversions,
    cues,
    labels,
    magnatagatune,
    media,
    playlists,
    projections,
    published,
    tags,
    torch_checkpoints,
)
from emoclim_cli.errors import CueError, LabelError, ModelError


@dataclass(frozen=True, slots=True)
class Target:
    check: Callable[[bytes, Path], None]
    """Of any bytes; the folder is one to write to."""
    seeds: Callable[[], list[bytes]]
    """Inputs to begin with."""


def _written(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


# --- properties --------------------------------------------------------------------------------------------------------------------------


def sniff(data: bytes, _: Path) -> None:
    """By its first bytes alone; another suffix only decides where they leave it open."""
    suffix, _, head = data.partition(b"\n")
    kind = media.sniff(head, suffix.decode("latin-1"))
    assert kind is None or kind in media.MediaKind
    bare = media.sniff(head, "")
    assert bare is None or bare is kind
    assert (
        media.sniff(head[: media.HEAD_BYTES], "") is media.sniff(head[: media.HEAD_BYTES] + b"\0", "")
        or b"theora" in head
        or len(head) < 26
    )


def _sniff_seeds() -> list[bytes]:
    heads = [signature + bytes(60) for signature, _ in media.SIGNATURES]
    heads += [
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WEBP",
        b"FORM\0\0\0\0AIFF",
        b"OggS\0theora",
        b"\0\0\0\x18ftypavif",
        b"\xff\xfb\x90\0",
        b"\xff\xf1\x50",
    ]
    return [b"mp3\n" + head for head in heads]


def exif(data: bytes, folder: Path) -> None:
    """Any EXIF: a time is one, and a title is a line."""
    jpeg = _photo()[:2] + b"\xff\xe1" + struct.pack(">H", min(len(data), 65_000) + 8) + b"Exif\0\0" + data[:65_000] + _photo()[2:]
    for found in (tags.read_photo_tags(_written(folder, "a.jpg", jpeg)), tags.PhotoTags(tags._time(data), tags._title(tags._utf16(data)))):
        assert not found.taken or datetime.fromisoformat(found.taken).year >= tags.FIRST_PHOTO_YEAR
        assert found.title == " ".join(found.title.split()) and len(found.title) <= tags.MAX_CHARACTERS


@cache
def _photo() -> bytes:
    out = io.BytesIO()
    picture().save(out, "JPEG")
    return out.getvalue()


def _exif_seeds() -> list[bytes]:
    from PIL import Image

    whole = Image.Exif()
    whole[0x0132], whole[0x010E], whole[0x9C9B] = "2024:05:01 10:00:00", "A walk", "Ein Weg".encode("utf-16-le")
    whole.get_ifd(0x8769)[0x9003] = "2024:05:01 10:00:00"
    return [whole.tobytes()[6:], b"2024:05:01 10:00:00", b" 2024-5-1 1:2:3 "]


def playlist(data: bytes, _: Path) -> None:
    """Whatever names and titles hold: every path is read back by a reader that knows nothing of emoclim."""
    provider = atheris.FuzzedDataProvider(data)

    def text(limit: int) -> str:
        return str(provider.ConsumeUnicode(limit))

    def path() -> str:
        name = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 60)).translate(None, b"/\0") or b"x"
        return os.fsdecode(b"/no such folder/" + (b"x" if name in (b".", b"..") else name))

    base = os.path.dirname(path()) if provider.ConsumeBool() else None
    entries = [
        playlists.Entry(path(), text(20), text(20), provider.ConsumeFloat(), provider.ConsumeProbability())
        for _ in range(provider.ConsumeIntInRange(0, 4))
    ]
    title = text(20)
    for name in playlists.FORMATS:
        rendered = playlists.render(playlists.Playlist(title, entries), name, base)
        assert read_back(rendered, name, base or "/elsewhere") == [os.path.normpath(os.fsencode(entry.path)) for entry in entries], name


def cue_sheet(data: bytes, folder: Path) -> None:
    """What can be read can be written and read again, and is the same show."""
    try:
        sheet = cues.read(_written(folder, "show.json", data))
    except CueError:
        return
    assert sheet.photos and 0 < sheet.duration_s <= cues.MOST_S
    again = cues.read(_written(folder, "again.json", cues.write(sheet, str(folder))))
    assert cues.rounded(again) == cues.rounded(sheet)
    rendered = playlists.render(playlists.of_sheet(sheet, "x", str(folder)), "m3u8", str(folder))
    assert cues.rounded(cues.read(_written(folder, "again.m3u8", rendered))) == cues.rounded(sheet)


def _cue_seeds() -> list[bytes]:
    return [cues.write(SHEET, None), playlists.render(playlists.of_sheet(SHEET, "x", None), "m3u8", None)]


def labels_csv(data: bytes, folder: Path) -> None:
    _written(folder, "a.jpg", b"a")
    path = _written(folder, "labels.csv", data)
    with suppress(LabelError):
        items = labels.read_labels(path)
        assert items and all(os.path.isfile(item.path) and item.emotions and item.where for item in items)
        with suppress(LabelError):
            assert {item.split for item in labels.assign_splits(items, 0, path)} <= {"", *labels.SPLITS}
    with suppress(LabelError):
        found = magnatagatune.read_tag_set(path)
        assert found.carried.shape == (len(found.items), len(found.tags)) and found.carried.any(axis=1).all()


def _csv_seeds() -> list[bytes]:
    rows = [
        f"a.jpg,{emotion},{quadrant},g,s,{split}"
        for emotion, quadrant, split in (("sad", "Q3", "train"), ("", "Q1", "val"), ("awe", "", ""))
    ]
    tagged = ["clip_id\tguitar\tmp3_path", "1\t1\ta.jpg"]
    return [
        "\n".join(["file,emotion,quadrant,group,source,split", *rows]).encode(),
        "\n".join(tagged).encode(),
        b'file;emotion\n"a.jpg";"funny"\n',
    ]


def audioset(data: bytes, folder: Path) -> None:
    ontology, _, segments = data.partition(b"\n\n")
    _written(folder, "ontology.json", ontology)
    _written(folder, "segments.csv", segments)
    _written(folder, "abc.wav", b"a")
    with suppress(LabelError):
        assert published.audioset_clips(str(folder))


def _audioset_seeds() -> list[bytes]:
    ontology = json.dumps([{"id": f"/m/{emotion}", "name": f"{emotion} music"} for emotion in labels.EMOTIONS])
    return [f'{ontology}\n\n# Segments\nabc, 30.000, 40.000, "/m/sad,/m/other"\n'.encode()]


def space(data: bytes, folder: Path) -> None:
    """A description beside good weights, or weights beside a good description."""
    which, _, content = data.partition(b"\n")
    a_space().save(folder)
    _written(folder, "space.json" if which == b"json" else "weights.safetensors", content)
    try:
        loaded = projections.EmotionSpace.load(folder)
    except ModelError:
        return
    assert loaded.name.isprintable() and loaded.emotions and all(emotion.isprintable() for emotion in loaded.emotions)
    for kind in media.MediaKind:
        vectors = loaded.project(kind, np.ones((2, loaded.projections[kind].features_dim), np.float32))
        shares = loaded.probabilities(vectors)
        assert np.isfinite(vectors).all() and shares.shape == (2, len(loaded.emotions))


def _space_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        a_space().save(Path(name))
        return [b"json\n" + Path(name, "space.json").read_bytes(), b"weights\n" + Path(name, "weights.safetensors").read_bytes()]


def training_state(data: bytes, folder: Path) -> None:
    with suppress(ModelError):
        arrays, state = checkpoints.read(Path(_written(folder, checkpoints.NAME, data))) or ({}, {})
        assert isinstance(state, dict) and all(isinstance(array, np.ndarray) for array in arrays.values())


def _state_seeds() -> list[bytes]:
    return [save({"weights": np.arange(6, dtype=np.float32).reshape(2, 3)}, metadata={"state": json.dumps({"epoch": 3, "best": [1.5]})})]


def tensorflow(data: bytes, _: Path) -> None:
    """The first two bytes say how many are the index."""
    size = int.from_bytes(data[:2], "big")
    with suppress(ModelError):
        for name, array in conversions.read_checkpoint(data[2 : 2 + size], data[2 + size :]).items():
            assert isinstance(name, str) and array.dtype == np.float32 and array.nbytes <= len(data)


def _tensorflow_seeds() -> list[bytes]:
    from test_conversions import checkpoint

    made = checkpoint({"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a/bias": np.ones(2, np.float32)})
    return [len(made.index).to_bytes(2, "big") + made.index + made.data]


def pytorch(data: bytes, folder: Path) -> None:
    """What comes through is plain tensors by name."""
    import torch

    with suppress(ModelError):
        for name, tensor in torch_checkpoints._read(Path(_written(folder, "a.pth", data))).items():
            assert isinstance(name, str) and isinstance(tensor, torch.Tensor)


def _pytorch_seeds() -> list[bytes]:
    import torch

    made = []
    for zipped in (True, False):
        for content in ({"a": torch.ones(2, 3)}, {"state_dict": {"module.a": torch.ones(2)}, "epoch": 3}):
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=zipped)
            made.append(out.getvalue())
    return [*made, save({"a": np.ones((2, 3), np.float32)})]


def onnx_graph(data: bytes, folder: Path) -> None:
    path = Path(_written(folder, "a.onnx", data))
    for convert in (conversions.clip_from_onnx, conversions.vibenet_from_onnx):
        with suppress(ModelError):
            convert({path.name: path}, folder / "out")


def _onnx_seeds() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(np.ones((2, 2), np.float32), f"vision_model.{name}") for name in ("embeddings.class_embedding", "x.weight")
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in ("x", "mean_16")]
    nodes = [helper.make_node("MatMul", ["x", weights[1].name], ["mean_16"])]
    return [helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)).SerializeToString()]


TARGETS = {
    "sniff": Target(sniff, _sniff_seeds),
    "exif": Target(exif, _exif_seeds),
    "playlist": Target(playlist, lambda: [bytes(range(256)), b"\x01" * 80]),
    "cue-sheet": Target(cue_sheet, _cue_seeds),
    "labels": Target(labels_csv, _csv_seeds),
    "audioset": Target(audioset, _audioset_seeds),
    "space": Target(space, _space_seeds),
    "training-state": Target(training_state, _state_seeds),
    "tensorflow": Target(tensorflow, _tensorflow_seeds),
    "pytorch": Target(pytorch, _pytorch_seeds),
    "onnx": Target(onnx_graph, _onnx_seeds),
}


# --- running ----------------------------------------------------------------------------------------------------------------------------


def run(name: str, seconds: int, input_: str) -> None:
    """Never returns: libFuzzer ends the process, with an exit code other than 0 where the property was broken."""
    target = TARGETS[name]
    if name == "pytorch":  # of torch, this alone: all of it would take minutes
        from torch._weights_only_unpickler import Unpickler

        atheris.instrument_func(Unpickler.load)
    with tempfile.TemporaryDirectory(prefix="emoclim-fuzz-") as folder:
        corpus, work = Path(folder, "corpus"), Path(folder, "work")
        corpus.mkdir()
        work.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / str(number)).write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            "-timeout=20",
            "-rss_limit_mb=4096",
            "-max_len=20000",
            "-verbosity=0",
            "-print_final_stats=1",
            f"-artifact_prefix={name}-",
        ]
        atheris.Setup([sys.argv[0], *options, *([input_] if input_ else [str(corpus)])], lambda data: target.check(data, work))
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", default="", help="a file: the one input to try")
    chosen = parser.parse_args()
    names = chosen.targets or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if len(names) == 1:
        run(names[0], chosen.seconds, chosen.input)

    def code_of(name: str) -> int:
        return subprocess.run([sys.executable, __file__, name, "--seconds", str(chosen.seconds)], check=False).returncode

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = dict(zip(names, pool.map(code_of, names), strict=True))
    sys.stdout.write(f"{len(codes)} targets; broken: {', '.join(name for name, code in codes.items() if code) or 'none'}\n")
    return max(map(abs, codes.values()))


if __name__ == "__main__":
    sys.exit(main())
