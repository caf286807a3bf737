from __future__ import annotations

import base64
import io
import itertools
import math
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import mutagen
import mutagen.flac
import mutagen.id3
import mutagen.mp4
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_makers import damaged_copies, make_photo, make_tone, picture, tone
from scipy.signal import resample_poly

from emoclim_cli import audio
from emoclim_cli.audio import AudioWindows, formats, read_track, read_windows, window_starts
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.photos import read_photo


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever is decoded, neither Python nor the libraries beneath it write to stdout or stderr."""
    yield
    assert capfd.readouterr() == ("", "")


def reason(read: Callable[[], object]) -> str:
    with pytest.raises(UnreadableMedia) as caught:
        read()
    return caught.value.message


def read(path: Path, rate_hz: int = 16000, window_s: float = 1.0, max_windows: int = 4, overlap: float = 0.0) -> AudioWindows:
    windows = read_windows(str(path), sample_rate_hz=rate_hz, window_s=window_s, max_windows=max_windows, overlap=overlap)
    count = len(windows.starts_s)
    assert 1 <= count <= max_windows
    assert windows.audio.shape == (count, round(window_s * rate_hz))
    assert windows.audio.dtype == np.float32
    assert np.isfinite(windows.audio).all()
    assert np.abs(windows.audio).max() <= 1.0
    assert (np.diff(windows.starts_s) > 0).all()
    assert windows.starts_s[0] >= 0
    return windows


WAYS = (audio._windows_by_seeking, audio._windows_by_streaming)


def read_by(way: Callable[..., AudioWindows | None], path: Path, rate_hz: int, samples: int, max_windows: int) -> AudioWindows:
    """`read_windows` without its choice between the two ways."""
    with audio.open_track(str(path)) as track:
        windows = way(track, rate_hz, samples, max_windows)
    assert windows is not None, "cannot be sought in"
    return windows


def decoded_whole(path: Path) -> tuple[np.ndarray, int]:
    """Oracle: all frames one after the other, as mono, and their rate."""
    parts = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = frame.to_ndarray()
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            if samples.dtype == np.uint8:
                samples = (samples.astype(float) - 128) / 128
            elif samples.dtype.kind == "i":
                samples = samples / (np.iinfo(samples.dtype).max + 1.0)
            parts.append(samples.mean(axis=0))
    return np.concatenate(parts), frame.sample_rate


def offset_of(window: np.ndarray, whole: np.ndarray, about: int, reach: int) -> tuple[int, float]:
    """Where near `about` the window lies in the whole, as an offset from `about`, and the correlation there."""
    best = (0, -1.0)
    for shift in range(-reach, reach + 1):
        there = whole[max(0, about + shift) :][: len(window)]
        if len(there) == len(window) and about + shift >= 0:
            best = max(best, (shift, float(np.corrcoef(there, window)[0, 1])), key=lambda pair: pair[1])
    return best


# (file, encoder, sample rate, most samples that a window cut by seeking may be off: containers that round times to milliseconds)
TRACKS = [
    ("a.mp3", "libmp3lame", 44100, 0), ("b.mp3", "libmp3lame", 22050, 0), ("a.mp2", "mp2", 44100, 0), ("a.m4a", "aac", 44100, 0),
    ("b.m4a", "alac", 44100, 0), ("a.aac", "aac", 44100, 0), ("a.flac", "flac", 44100, 0), ("a.ogg", "vorbis", 44100, 0),
    ("b.ogg", "flac", 44100, 0), ("a.opus", "libopus", 48000, 0), ("a.wma", "wmav2", 44100, 45), ("b.wma", "wmav1", 44100, 45),
    ("a.wav", "pcm_s16le", 44100, 0), ("b.wav", "pcm_s24le", 96000, 0), ("c.wav", "pcm_f32le", 44100, 0), ("d.wav", "pcm_u8", 11025, 0),
    ("e.wav", "pcm_f64le", 44100, 0), ("a.aiff", "pcm_s16be", 44100, 0), ("a.wv", "wavpack", 44100, 0), ("a.tta", "tta", 44100, 0),
    ("a.mka", "flac", 44100, 45), ("b.mka", "libopus", 48000, 45), ("a.caf", "pcm_s16be", 44100, 0), ("a.au", "pcm_s16be", 44100, 0),
]  # fmt: skip
# APE, DSD (DSF, DFF) and Musepack have no encoder in FFmpeg: they cannot be made here.


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    for name, codec, rate_hz, _ in TRACKS:
        container = "adts" if name.endswith(".aac") else None
        make_tone(folder / name, 12.0, codec=codec, rate_hz=rate_hz, container=container)
    return folder


@pytest.mark.parametrize(("name", "codec", "rate_hz", "slack"), TRACKS)
def test_every_codec_by_seeking_and_by_streaming(tracks: Path, name: str, codec: str, rate_hz: int, slack: int) -> None:
    path = tracks / name
    whole, decoded_hz = decoded_whole(path)
    assert decoded_hz == rate_hz
    for way in WAYS:
        # At the rate of the file nothing is resampled, so that the windows can be looked for in the whole.
        windows = read_by(way, path, rate_hz, rate_hz, 4)
        assert windows.duration_s == pytest.approx(len(whole) / rate_hz, abs=0.06)
        if way is audio._windows_by_seeking:
            assert windows.starts_s == pytest.approx([(i + 0.5) * windows.duration_s / 4 - 0.5 for i in range(4)], abs=0.001)
        for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
            shift, correlation = offset_of(window, whole, round(start_s * rate_hz), slack)
            assert correlation > (0.995 if codec == "aac" else 0.9999), (way.__name__, start_s, shift)  # AAC adds noise, new each time


def test_long_pages_of_flac_in_ogg(tmp_path: Path) -> None:
    """After a seek into them, a page's worth of frames is said to be where the next page is."""
    path = tmp_path / "a.ogg"
    make_tone(path, 70.0, codec="flac", channels=1)
    whole, rate_hz = decoded_whole(path)
    windows = read_by(audio._windows_by_seeking, path, rate_hz, rate_hz, 12)
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        assert offset_of(window, whole, round(start_s * rate_hz), 0)[1] > 0.9999


@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.m4a", "a.opus", "a.wav"])
def test_windows_show_the_music_that_is_there(tracks: Path, name: str) -> None:
    """Not only the same as a full decode: the same as what went into the encoder."""
    rate_hz = {n: r for n, _, r, _ in TRACKS}[name]
    original = tone(12.0, rate_hz).mean(axis=0)
    windows = read(tracks / name, rate_hz)
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        shift, correlation = offset_of(window, original, round(start_s * rate_hz), 20)
        assert abs(shift) <= 1
        assert correlation > 0.98


@pytest.mark.parametrize("target_hz", [16000, 44100, 48000])
@pytest.mark.parametrize("rate_hz", [22050, 44100, 96000])
def test_resampling_keeps_time_and_level_to_the_very_edge(tmp_path: Path, rate_hz: int, target_hz: int) -> None:
    """A pure tone is known at every moment: the first and last samples of a window are right too, as no filter has seen the cut."""
    make_tone(
        tmp_path / "a.wav",
        samples=0.5 * np.sin(2 * np.pi * 440 / rate_hz * np.arange(10 * rate_hz))[None].astype(np.float32),
        rate_hz=rate_hz,
    )
    for way in WAYS:
        windows = read_by(way, tmp_path / "a.wav", target_hz, target_hz, 4)
        for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
            expected = 0.5 * np.sin(2 * np.pi * 440 * (start_s + np.arange(target_hz) / target_hz))
            assert np.abs(window - expected).max() < 0.002


@pytest.mark.parametrize("target_hz", [8000, 16000, 48000])
def test_resampling_against_scipy(tracks: Path, target_hz: int) -> None:
    whole, rate_hz = decoded_whole(tracks / "a.flac")
    unit = math.gcd(rate_hz, target_hz)
    reference = resample_poly(whole, target_hz // unit, rate_hz // unit)
    for way in WAYS:
        windows = read_by(way, tracks / "a.flac", target_hz, target_hz, 4)
        for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
            assert offset_of(window, reference, round(start_s * target_hz), 1)[1] > 0.995


@pytest.mark.parametrize(("name", "codec"), [("a.mka", "flac"), ("a.ogg", "vorbis"), ("a.opus", "libopus")])
def test_a_track_whose_clock_does_not_begin_at_zero(tmp_path: Path, name: str, codec: str) -> None:
    """As cut out of a broadcast."""
    make_tone(tmp_path / name, 20.0, codec=codec, rate_hz=48000)
    late = tmp_path / f"late-{name}"
    with av.open(str(tmp_path / name)) as source, av.open(str(late), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.pts += int(1000 / packet.time_base)
                packet.dts = packet.pts
                packet.stream = stream
                target.mux(packet)
    for way in WAYS:
        early, shifted = read_by(way, tmp_path / name, 48000, 48000, 4), read_by(way, late, 48000, 48000, 4)
        assert shifted.duration_s == pytest.approx(20.0, abs=0.01)
        assert shifted.starts_s == pytest.approx(early.starts_s, abs=0.01)
        for window, other in zip(early.audio, shifted.audio, strict=True):
            assert np.corrcoef(window, other)[0, 1] > 0.99


@pytest.mark.parametrize(("seconds", "window_s", "max_windows", "starts"), [
    (0.1, 1.0, 4, [0.0]), (1.0, 1.0, 4, [0.0]), (1.5, 1.0, 4, [0.0, 0.5]), (2.0, 1.0, 4, [0.0, 1.0]), (2.5, 1.0, 4, [0.0, 0.75, 1.5]),
    (4.0, 1.0, 4, [0.0, 1.0, 2.0, 3.0]), (4.4, 1.0, 4, [0.05, 1.15, 2.25, 3.35]), (10.0, 1.0, 4, [0.75, 3.25, 5.75, 8.25]),
    (10.0, 1.0, 1, [4.5]), (10.0, 0.5, 2, [2.25, 7.25]), (1.01, 1.0, 1, [0.005]),
])  # fmt: skip
def test_windows_are_evenly_spaced(tmp_path: Path, seconds: float, window_s: float, max_windows: int, starts: list[float]) -> None:
    samples = make_tone(tmp_path / "a.wav", seconds, rate_hz=16000, channels=1, codec="pcm_f32le")[0]
    windows = read(tmp_path / "a.wav", 16000, window_s, max_windows)
    assert windows.duration_s == pytest.approx(seconds, abs=1e-4)
    assert windows.starts_s == pytest.approx(starts, abs=1e-4)
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        begin = round(start_s * 16000)
        assert np.array_equal(window, np.resize(samples[begin : begin + len(window)], len(window)))


@given(st.integers(1, 10_000), st.integers(10, 500), st.integers(1, 50), st.sampled_from([0.5, 0.75, 0.9]))
def test_where_overlapping_windows_begin(length: int, samples: int, max_windows: int, overlap: float) -> None:
    starts = window_starts(length, samples, max_windows, overlap)
    assert starts[0] == 0
    assert len(starts) <= max_windows
    assert len(set(np.diff(starts).tolist())) <= 1
    assert (np.diff(starts) > 0).all()
    if length <= samples:
        assert starts == [0]
    elif max_windows > 1:
        # The last ends with the track, but for less than a sample per window.
        assert 0 <= length - (starts[-1] + samples) < len(starts)
    if len(starts) < max_windows and len(starts) > 1:
        hop = samples * (1 - overlap)
        assert starts[1] <= hop + 1e-9
        assert (len(starts) - 2) * hop < length - samples, "one window more than the overlap asks for"


@pytest.mark.parametrize(("seconds", "max_windows", "starts"), [
    (0.3, 9, [0.0]), (1.0, 9, [0.0]), (1.1, 9, [0.0, 0.1]), (1.25, 9, [0.0, 0.25]), (2.0, 9, [0.0, 0.25, 0.5, 0.75, 1.0]),
    (1.6, 9, [0.0, 0.2, 0.4, 0.6]), (10.0, 4, [0.0, 3.0, 6.0, 9.0]), (10.0, 1, [0.0]),
])  # fmt: skip
def test_windows_that_overlap(tmp_path: Path, seconds: float, max_windows: int, starts: list[float]) -> None:
    samples = make_tone(tmp_path / "a.wav", seconds, rate_hz=16000, channels=1, codec="pcm_f32le")[0]
    windows = read(tmp_path / "a.wav", max_windows=max_windows, overlap=0.75)
    assert windows.duration_s == pytest.approx(seconds, abs=1e-4)
    assert windows.starts_s == pytest.approx(starts, abs=1e-4)
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        begin = round(start_s * 16000)
        assert np.array_equal(window, np.resize(samples[begin : begin + 16000], 16000))


def test_windows_that_overlap_by_seeking_and_in_a_long_stream(tracks: Path) -> None:
    """As many as are allowed, spread over all of the track."""
    whole, rate_hz = decoded_whole(tracks / "a.flac")
    samples = rate_hz // 10
    for way, slack_s in zip(WAYS, (0.001, 0.8), strict=True):  # of the stream, every eighth window is kept
        with audio.open_track(str(tracks / "a.flac")) as track:
            windows = way(track, rate_hz, samples, 5, 0.75)
        assert windows is not None
        assert windows.starts_s == pytest.approx(np.linspace(0, 11.9, 5), abs=slack_s)
        for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
            assert offset_of(window, whole, round(start_s * rate_hz), 0)[1] > 0.9999


def test_ten_minutes_of_overlapping_windows_take_the_memory_of_ten_minutes(tmp_path: Path) -> None:
    samples = np.tile(tone(10.0, 8000, 1), 60)
    make_tone(tmp_path / "a.wav", samples=samples, rate_hz=8000)
    tracemalloc.start()
    windows = read_windows(str(tmp_path / "a.wav"), sample_rate_hz=8000, window_s=10.0, max_windows=240, overlap=0.75)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(windows.audio) == 237
    assert windows.starts_s == pytest.approx(np.arange(237) * 2.5)
    assert windows.audio[100] == pytest.approx(samples[0, 250 * 8000 : 260 * 8000], abs=1e-3)
    assert peak < 2.5 * samples.nbytes  # as copies, the windows alone would be four times as much


def test_a_short_track_is_repeated(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.flac", "a.m4a"):
        make_tone(tmp_path / name, 0.1)
        whole, _ = decoded_whole(tmp_path / name)
        window = read(tmp_path / name, 44100).audio[0]
        assert np.abs(window - np.resize(whole, 44100)).max() < 1e-3
    make_tone(tmp_path / "one.wav", samples=np.full((1, 1), 0.5, dtype=np.float32), codec="pcm_f32le")
    assert (read(tmp_path / "one.wav", 44100).audio == 0.5).all()


def test_channels_are_averaged_and_do_not_clip(tmp_path: Path) -> None:
    n = 44100
    for channels in (2, 6):
        for codec in ("pcm_s16le", "pcm_f32le", "pcm_s32le", "pcm_u8", "flac"):
            path = tmp_path / ("a.flac" if codec == "flac" else "a.wav")
            loud = np.full((channels, n), 0.98, dtype=np.float32)
            make_tone(path, samples=loud, codec=codec)
            assert read(path, 44100).audio == pytest.approx(0.98, abs=0.02)
            loud[1:] = 0.0
            make_tone(path, samples=loud, codec=codec)
            assert read(path, 44100).audio == pytest.approx(0.98 / channels, abs=0.02)
    opposite = np.stack([np.full(n, 0.9), np.full(n, -0.9)]).astype(np.float32)
    make_tone(tmp_path / "b.wav", samples=opposite)
    assert reason(lambda: read(tmp_path / "b.wav")) == "is silent"


@pytest.mark.parametrize("length", [700, 16_385, 40_000])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s32le", "pcm_s64le", "pcm_f32le", "pcm_f64le", "flac", "wavpack"])
def test_joined_frames_miss_no_sample(tmp_path: Path, codec: str, channels: int, length: int) -> None:
    """Interleaved and planar samples of each type, in tracks that are shorter and longer than what is handled at once."""
    path = tmp_path / {"flac": "a.flac", "wavpack": "a.wv"}.get(codec, "a.wav")
    samples = np.random.default_rng(0).uniform(-1, 1, (channels, length)).astype(np.float32)
    make_tone(path, samples=samples, rate_hz=16000, codec=codec)
    with audio.open_track(str(path)) as track:
        pieces = list(track.pieces())
    mono = np.concatenate([piece.mono for piece in pieces])
    assert mono.shape == (length,)
    assert np.abs(mono - samples.mean(axis=0)).max() < (0.01 if codec in ("pcm_u8", "wavpack") else 1e-4)  # both of eight bits
    ends = np.cumsum([len(piece.mono) for piece in pieces])
    assert [piece.position for piece in pieces] == [0, *ends[:-1]]


def with_a_gap(path: Path, to: Path) -> None:
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size and not 7.25 <= packet.pts * packet.time_base < 7.75:
                packet.stream = stream
                target.mux(packet)


def test_a_gap_in_the_clock_stays_a_gap(tmp_path: Path) -> None:
    """Half a second that a recorder lost: what follows is not moved to where the gap began."""
    make_tone(tmp_path / "a.mka", 20.0, rate_hz=16000, channels=1)
    whole, _ = decoded_whole(tmp_path / "a.mka")
    with_a_gap(tmp_path / "a.mka", tmp_path / "b.mka")
    windows = read_by(audio._windows_by_seeking, tmp_path / "b.mka", 16000, 32000, 4)
    assert windows.starts_s[1] == pytest.approx(6.5, abs=0.01)
    begin = round(windows.starts_s[1] * 16000)
    window, there = windows.audio[1], whole[begin : begin + 32000]
    lost = window == 0.0
    assert lost.sum() == pytest.approx(8000, abs=4608)
    assert np.abs(window - there)[~lost].max() < 1e-3


# -- the whole of a track


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "b.m4a", "a.flac", "a.ogg", "a.opus", "a.wav", "a.mka"])
def test_a_whole_track(tracks: Path, name: str) -> None:
    whole, rate_hz = decoded_whole(tracks / name)
    track = read_track(str(tracks / name), sample_rate_hz=rate_hz, max_s=60)
    assert track.shape == whole.shape
    assert track.dtype == np.float32
    assert np.corrcoef(track, whole)[0, 1] > (0.995 if name == "a.m4a" else 0.9999)
    begun = read_track(str(tracks / name), sample_rate_hz=rate_hz, max_s=1.5)
    assert begun.shape == (round(1.5 * rate_hz),)
    assert np.corrcoef(begun, track[: len(begun)])[0, 1] > (0.995 if name == "a.m4a" else 0.9999)
    assert len(read_track(str(tracks / name), sample_rate_hz=16000, max_s=60)) == pytest.approx(len(whole) * 16000 / rate_hz, abs=2)


def test_a_gap_in_the_clock_of_a_whole_track(tmp_path: Path) -> None:
    """As in the windows: what follows is not moved to where the gap began."""
    make_tone(tmp_path / "a.mka", 20.0, rate_hz=16000, channels=1)
    whole, _ = decoded_whole(tmp_path / "a.mka")
    with_a_gap(tmp_path / "a.mka", tmp_path / "b.mka")
    track = read_track(str(tmp_path / "b.mka"), sample_rate_hz=16000, max_s=60)
    assert len(track) == pytest.approx(len(whole), abs=16)
    lost = track[: len(whole)] == 0.0
    assert lost.sum() == pytest.approx(8000, abs=4608)
    assert np.corrcoef(track[: len(whole)][~lost], whole[: len(track)][~lost])[0, 1] > 0.99  # of a clock of whole milliseconds
    assert len(read_track(str(tmp_path / "b.mka"), sample_rate_hz=16000, max_s=7.5)) == 7.5 * 16000


def test_a_timestamp_that_is_off_alone_is_no_gap() -> None:
    """As of the short blocks that FFmpeg's own Vorbis encoder does not write: each is stamped 10 ms late, and what follows it is not."""
    sound = np.arange(1, 9001, dtype=np.float32)
    cuts = [0, 2000, 2100, 5000, 5300, 9000]
    late = [0, 160, 0, 160, 0]
    pieces = [audio._Piece(sound[a:b], 16000, 700 + a + off) for (a, b), off in zip(itertools.pairwise(cuts), late, strict=True)]
    assert np.array_equal(np.concatenate([chunk for chunk, _ in audio._by_the_clock(iter(pieces))]), sound)
    gap = [audio._Piece(piece.mono, 16000, piece.position + 20_000 * (i >= 3)) for i, piece in enumerate(pieces)]
    expected = np.insert(sound, 5000, np.zeros(20_000))
    assert np.array_equal(np.concatenate([chunk for chunk, _ in audio._by_the_clock(iter(gap))]), expected)
    unknown = [audio._Piece(piece.mono, 16000, None) for piece in pieces]
    assert np.array_equal(np.concatenate([chunk for chunk, _ in audio._by_the_clock(iter(unknown))]), sound)


def test_the_first_timestamp_that_is_off_moves_nothing() -> None:
    """A window may begin with it."""
    sound = np.arange(1, 9001, dtype=np.float32)
    pieces = [audio._Piece(sound[:2000], 16000, 860), audio._Piece(sound[2000:], 16000, 2700)]
    assert [piece.position for piece in audio._placed(iter(pieces))] == [700, 2700]


def test_a_gap_that_nothing_follows() -> None:
    """No more of a window is decoded than it needs: a long gap is one, all the same."""
    sound = np.ones(2000, dtype=np.float32)
    for late, position in ((1500, 2000), (1700, 3700), (50, 2000)):
        pieces = [audio._Piece(sound, 16000, 0), audio._Piece(sound, 16000, 2000 + late)]
        assert [piece.position for piece in audio._placed(iter(pieces))] == [0, position]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
def test_windows_of_vorbis_have_no_holes_at_attacks(tmp_path: Path) -> None:
    """libvorbis writes short blocks there, whose timestamps are late."""
    rate_hz = 44_100
    rng = np.random.default_rng(0)
    sound = 0.2 * tone(30.0, rate_hz, 1)
    for begin in np.sort(rng.integers(0, sound.shape[1] - 4000, 60)):
        sound[:, begin : begin + 4000] += 0.5 * rng.standard_normal(4000) * np.exp(-np.arange(4000) / 800)
    make_tone(tmp_path / "a.wav", samples=np.clip(sound, -1, 1).astype(np.float32), rate_hz=rate_hz)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "libvorbis", "-q:a", "6", tmp_path / "a.ogg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unknown encoder" in done.stderr:
        pytest.skip("the ffmpeg program has no libvorbis")
    assert done.returncode == 0, done.stderr
    whole = read_track(str(tmp_path / "a.ogg"), sample_rate_hz=rate_hz, max_s=60)
    assert np.corrcoef(whole[: sound.shape[1]], sound[0, : len(whole)])[0, 1] > 0.98
    windows = read(tmp_path / "a.ogg", rate_hz, 3.0, 5)
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        begin = round(start_s * rate_hz)
        assert np.abs(window - whole[begin : begin + len(window)]).max() < 1e-4


def test_a_whole_track_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(bytes(1000))
    make_tone(tmp_path / "a.wav", samples=np.full((1, 16000), 3.0, dtype=np.float32), rate_hz=16000, codec="pcm_f32le")
    for name in ("a.mp3", "absent.mp3"):
        assert reason(lambda name=name: read_track(str(tmp_path / name), sample_rate_hz=16000, max_s=60))
    assert np.abs(read_track(str(tmp_path / "a.wav"), sample_rate_hz=16000, max_s=60)).max() == 1.0


def test_a_number_of_channels_that_changes(tmp_path: Path) -> None:
    for name, channels in (("m.aac", 1), ("s.aac", 2)):
        make_tone(tmp_path / name, 20.0, rate_hz=16000, channels=channels, container="adts", bit_rate=48_000)
    mono, stereo = (tmp_path / "m.aac").read_bytes(), (tmp_path / "s.aac").read_bytes()
    for first, second, quiet in ((mono, stereo, [False, True]), (stereo, mono, [True, False])):
        (tmp_path / "a.aac").write_bytes(first + second)
        for way in WAYS:
            windows = read_by(way, tmp_path / "a.aac", 16000, 16000, 4)
            assert windows.duration_s == pytest.approx(40.0, abs=0.5)
            level = windows.audio.std(axis=1)  # the second channel of `tone` has three quarters of the first's
            assert level == pytest.approx(np.repeat(np.where(quiet, 0.875, 1.0), 2) * level.max(), rel=0.03)


@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.wav", "a.m4a"])
@pytest.mark.parametrize("seconds", [2, 20])
def test_silence_is_refused_unless_it_may_be(tmp_path: Path, name: str, seconds: int) -> None:
    """Whether its windows are cut by seeking or by streaming."""
    make_tone(tmp_path / name, samples=np.zeros((2, seconds * 44100), dtype=np.float32))
    assert reason(lambda: read(tmp_path / name)) == "is silent"
    assert reason(lambda: read(tmp_path / name, overlap=0.5)) == "is silent"
    windows = read_windows(str(tmp_path / name), sample_rate_hz=16000, window_s=1.0, max_windows=4, may_be_silent=True)
    assert np.abs(windows.audio).max() < audio.SILENT


@pytest.mark.parametrize(("peak", "heard"), [(0.9e-4, False), (1.1e-4, True), (-1.1e-4, True)])
def test_what_is_silent(tmp_path: Path, peak: float, heard: bool) -> None:
    samples = np.zeros((1, 32000), dtype=np.float32)
    samples[0, 20_000] = peak
    make_tone(tmp_path / "a.wav", samples=samples, rate_hz=16000, codec="pcm_f32le")
    if heard:
        assert len(read(tmp_path / "a.wav").audio) == 2
    else:
        assert reason(lambda: read(tmp_path / "a.wav")) == "is silent"


@pytest.mark.parametrize(("rate_hz", "taken"), [(1, False), (999, False), (1000, True), (6_000_000, True), (6_000_001, False)])
def test_sample_rates_that_make_no_sense(tmp_path: Path, rate_hz: int, taken: bool) -> None:
    """A few minutes at 1 Hz would take hours to resample."""
    make_tone(tmp_path / "a.wav", 2.0, rate_hz=16000, channels=1)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    struct.pack_into("<I", data, data.index(b"fmt ") + 12, rate_hz)
    (tmp_path / "a.wav").write_bytes(data)
    if taken:
        assert read(tmp_path / "a.wav").duration_s == pytest.approx(32_000 / rate_hz, rel=0.01)
    else:
        assert reason(lambda: read(tmp_path / "a.wav")) == f"has a sample rate of {rate_hz:,} Hz"


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("seconds", [3, 20])
def test_samples_that_are_no_numbers(tmp_path: Path, codec: str, seconds: int) -> None:
    path = tmp_path / "a.wav"
    samples = tone(seconds, 16000, 1)
    good = samples.copy()
    samples[0, 5::1000] = np.nan
    samples[0, 6::1000] = np.inf
    samples[0, 7::1000] = -np.inf
    samples[0, 8::1000] = 3e38
    make_tone(path, samples=samples, rate_hz=16000, codec=codec)
    windows = read(path, 16000)
    begin = round(windows.starts_s[1] * 16000)
    there = good[0, begin : begin + 16000]
    assert (windows.audio[1] == there).mean() > 0.99
    make_tone(path, samples=np.full((2, seconds * 16000), np.nan, dtype=np.float32), rate_hz=16000, codec=codec)
    assert reason(lambda: read(path)) == "has no sample that is a number"


def test_louder_than_full_scale_is_clipped(tmp_path: Path) -> None:
    """However the windows are cut."""
    for seconds, overlap in ((3.0, 0.0), (3.0, 0.75), (30.0, 0.0)):
        make_tone(tmp_path / "a.wav", samples=tone(seconds) * 1e30, codec="pcm_f32le")
        assert np.abs(read(tmp_path / "a.wav", overlap=overlap).audio).max() == 1.0


# -- what is no track


def jpeg() -> bytes:
    file = io.BytesIO()
    picture().save(file, "JPEG")
    return file.getvalue()


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.flac", "a.m4a", "a.ogg"):
        make_tone(tmp_path / name, 2.5, codec="flac" if name == "a.ogg" else "")
        file: Any = mutagen.File(tmp_path / name)
        if file.tags is None:
            file.add_tags()
        cover = mutagen.flac.Picture()
        cover.data, cover.type, cover.mime, cover.width, cover.height = jpeg(), 3, "image/jpeg", 64, 48
        if name == "a.mp3":
            file.tags.add(mutagen.id3.APIC(encoding=3, mime="image/jpeg", type=3, desc="", data=jpeg()))
        elif name == "a.flac":
            file.add_picture(cover)
        elif name == "a.m4a":
            file.tags["covr"] = [mutagen.mp4.MP4Cover(jpeg(), mutagen.mp4.MP4Cover.FORMAT_JPEG)]
        else:
            file.tags["metadata_block_picture"] = [base64.b64encode(cover.write()).decode("ascii")]
        file.save()
        with av.open(str(tmp_path / name)) as container:
            assert len(container.streams.video) == 1
        assert len(read(tmp_path / name).audio) == 3


def test_cover_art_alone_is_no_track(tmp_path: Path) -> None:
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.APIC(encoding=3, mime="image/jpeg", type=3, desc="", data=jpeg()))
    tags.save(tmp_path / "a.mp3")
    assert "audio" in reason(lambda: read(tmp_path / "a.mp3"))


def make_video(path: Path, audio: bool) -> None:
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = file.add_stream("aac", rate=44100, layout="mono") if audio else None
        for _ in range(50):
            file.mux(video.encode(av.VideoFrame.from_image(picture())))
        file.mux(video.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
            frame.sample_rate = 44100
            file.mux(sound.encode(frame))
            file.mux(sound.encode(None))


def test_a_video_is_no_track(tmp_path: Path) -> None:
    for suffix in ("m4a", "mka"):
        for sound in (True, False):
            path = tmp_path / f"{sound}.{suffix}"
            make_video(tmp_path / f"a.{'mp4' if suffix == 'm4a' else 'mkv'}", sound)
            os.replace(tmp_path / f"a.{'mp4' if suffix == 'm4a' else 'mkv'}", path)
            assert reason(lambda path=path: read(path)) == "is a video"


def test_protected_tracks_are_named_so(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    make_tone(path, 3.0)
    whole = path.read_bytes()
    assert whole.count(b"mp4a") == 1
    for tag in (b"drms", b"enca"):
        (tmp_path / "a.m4p").write_bytes(whole.replace(b"mp4a", tag))
        assert reason(lambda: read(tmp_path / "a.m4p")) == "is protected (DRM)"


def test_protected_wma(tmp_path: Path) -> None:
    path = tmp_path / "a.wma"
    make_tone(path, 3.0)
    whole = path.read_bytes()
    fields = b"".join(struct.pack("<I", len(field)) + field for field in (b"secret", b"DRM\0", b"key\0", b"x:\0"))
    encryption = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + struct.pack("<Q", 24 + len(fields)) + fields
    size, count = struct.unpack_from("<QI", whole, 16)
    path.write_bytes(whole[:16] + struct.pack("<QI", size + len(encryption), count + 1) + whole[28:30] + encryption + whole[30:])
    assert reason(lambda: read(path)) == "is protected (DRM)"


def test_what_is_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    assert reason(lambda: read(path)) == "No such file or directory"
    assert reason(lambda: read(tmp_path)) == "is not a regular file"
    path.write_bytes(b"")
    assert reason(lambda: read(path)) == "is empty"
    for content in (b"\0", bytes(5000), b"hello\n" * 500, b"ID3\4\0\0\0\0\0\0", b"fLaC", b"<html>" * 300, b"OggS", b"RIFF\0\0\0\0WAVE"):
        path.write_bytes(content)
        assert "audio" in reason(lambda: read(path)), content
    make_photo(path, format="PNG")
    assert "audio" in reason(lambda: read(path))
    noise = np.random.default_rng(3).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    path.write_bytes(noise)
    assert reason(lambda: read(path))


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    make_tone(tmp_path / "real.aac", 3.0, container="adts")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nreal.aac\n#EXT-X-ENDLIST\n"
    for name, content in (("a.mp3", playlist), ("a.m3u8", playlist), ("a.flac", "ffconcat version 1.0\nfile real.aac\n")):
        (tmp_path / name).write_text(content)
        assert reason(lambda name=name: read(tmp_path / name)) == "is not audio that can be decoded"


def test_a_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a protocol, not a pattern."""
    make_tone(tmp_path / "a.wav", 1.0)
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.wav|b.wav", "pipe:0", "-", "%03d.wav", "http:", "file:a.wav", "subfile,,start,0,end,9,,:a.wav"):
        os.link("a.wav", name)
        assert len(read(Path(name)).audio) == 1


# -- headers that lie


def frames_of(path: Path) -> bytes:
    """A short track whose bytes can be repeated: MPEG frames without tags."""
    data = path.read_bytes()
    return data[data.index(b"\xff") :]


@pytest.fixture(scope="module")
def adts(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("adts") / "a.aac"
    make_tone(path, 20.0, rate_hz=16000, channels=1, container="adts", bit_rate=24_000)
    return path.read_bytes()


def test_raw_adts(tmp_path: Path, adts: bytes) -> None:
    (tmp_path / "a.aac").write_bytes(adts * 10)
    windows = read(tmp_path / "a.aac")
    assert windows.duration_s == pytest.approx(200.6, abs=0.7)
    assert windows.starts_s == pytest.approx([24.5, 74.7, 124.8, 174.9], abs=1.0)


def test_adts_whose_bit_rate_changes(tmp_path: Path, adts: bytes) -> None:
    """Its length is guessed from its first frames: here much too long, then much too short."""
    silent, loud = tmp_path / "s.aac", tmp_path / "l.aac"
    make_tone(silent, samples=np.zeros((1, 60 * 16000), dtype=np.float32), rate_hz=16000, container="adts", bit_rate=24_000)
    noise = (np.random.default_rng(0).standard_normal((1, 60 * 16000)) * 0.2).astype(np.float32)
    make_tone(loud, samples=noise, rate_hz=16000, container="adts", bit_rate=96_000)
    for first, second in ((silent, loud), (loud, silent)):
        (tmp_path / "a.aac").write_bytes(first.read_bytes() + second.read_bytes())
        windows = read(tmp_path / "a.aac")
        assert windows.duration_s == pytest.approx(120, abs=1)
        assert windows.starts_s == pytest.approx([14.5, 44.5, 74.5, 104.5], abs=1.0)
        level = windows.audio.std(axis=1)
        assert ((level > 0.05) == ([False, False, True, True] if first == silent else [True, True, False, False])).all()


def test_a_sample_rate_that_changes(tmp_path: Path, adts: bytes) -> None:
    make_tone(tmp_path / "b.aac", 20.0, rate_hz=44100, channels=2, container="adts", bit_rate=24_000)
    for data in (adts * 2 + (tmp_path / "b.aac").read_bytes() * 2, (tmp_path / "b.aac").read_bytes() + adts):
        (tmp_path / "a.aac").write_bytes(data)
        windows = read(tmp_path / "a.aac")
        assert windows.duration_s == pytest.approx(20 * (4 if data.startswith(adts) else 2), abs=0.5)
        assert (windows.audio.std(axis=1) > 0.1).all()


@pytest.fixture(scope="module")
def honest_mp3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    make_tone(path, 30.0, rate_hz=16000, channels=1)
    return path


@pytest.mark.parametrize("factor", [0.01, 0.3, 0.9, 1.5, 20, 1000])
def test_an_mp3_whose_header_lies_about_its_length(tmp_path: Path, honest_mp3: Path, factor: float) -> None:
    path = tmp_path / "a.mp3"
    whole, _ = decoded_whole(honest_mp3)
    data = bytearray(honest_mp3.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert at > 0
    (frames,) = struct.unpack_from(">I", data, at + 8)
    struct.pack_into(">I", data, at + 8, max(1, int(frames * factor)))
    path.write_bytes(data)
    windows = read(path)
    assert windows.duration_s == pytest.approx(30.0, abs=0.2)
    assert windows.starts_s == pytest.approx([3.25, 10.75, 18.25, 25.75], abs=1.2)  # by streaming: to the next block that was kept
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        assert offset_of(window, whole, round(start_s * 16000), 600)[1] > 0.99


def test_a_flac_of_unknown_length(tmp_path: Path) -> None:
    """As an encoder writes it into a pipe."""
    path = tmp_path / "a.flac"
    make_tone(path, 30.0, rate_hz=16000, channels=1)
    whole, _ = decoded_whole(path)
    data = bytearray(path.read_bytes())
    assert data[:4] == b"fLaC"
    data[8 + 13] &= 0xF0  # STREAMINFO: 36 bits of total samples
    data[8 + 14 : 8 + 18] = bytes(4)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.duration is None
    windows = read(path)
    assert windows.duration_s == 30.0
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        assert offset_of(window, whole, round(start_s * 16000), 0)[1] > 0.999


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_of_unknown_length(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.wav"
    make_tone(path, 30.0, rate_hz=16000, channels=1)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, length)
    struct.pack_into("<I", data, data.index(b"data") + 4, length)
    path.write_bytes(data)
    assert read(path).duration_s == pytest.approx(30.0, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.ogg", "a.wav", "a.aiff", "a.wma", "a.mka"])
def test_a_track_that_ends_too_soon_is_used_as_far_as_it_goes(tracks: Path, tmp_path: Path, name: str) -> None:
    whole = (tracks / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 3 // 4])
    windows = read(tmp_path / name)
    assert windows.duration_s == pytest.approx(9.0, abs=1.5)
    assert (windows.audio.std(axis=1) > 0.05).all()


def test_an_m4a_without_its_index_is_refused(tracks: Path, tmp_path: Path) -> None:
    whole = (tracks / "a.m4a").read_bytes()
    (tmp_path / "a.m4a").write_bytes(whole[: len(whole) // 2])
    assert reason(lambda: read(tmp_path / "a.m4a")) == "is not audio that can be decoded"


def test_bounded_memory_where_a_track_cannot_be_sought_in(tmp_path: Path, adts: bytes) -> None:
    path = tmp_path / "a.aac"
    path.write_bytes(adts * 45)  # a quarter of an hour: 58 MB of samples
    tracemalloc.start()
    windows = read_by(audio._windows_by_streaming, path, 16000, 16000, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    assert windows.duration_s == pytest.approx(903, abs=3)
    assert len(windows.audio) == 4
    assert windows.starts_s == pytest.approx([(i + 0.5) * 903 / 4 for i in range(4)], abs=903 / 16)


@pytest.mark.parametrize("length", [*range(1, 40), 60, 90, 91, 130, 200])
def test_streamed_windows_of_any_length_are_even(tmp_path: Path, length: int) -> None:
    """One sample of the track tells its own place, so that every window shows where it was cut."""
    path = tmp_path / "a.wav"
    n = length * 37 + 11
    ramp = (np.arange(n, dtype=np.float32) / 8192)[None]
    make_tone(path, samples=ramp, rate_hz=8000, codec="pcm_f32le")
    windows = read_by(audio._windows_by_streaming, path, 8000, 100, 3)
    assert windows.duration_s == n / 8000
    starts = np.round(windows.starts_s * 8000).astype(int)
    assert len(starts) == min(3, math.ceil(n / 100))
    for window, start in zip(windows.audio, starts, strict=True):
        assert np.array_equal(window, np.resize(ramp[0, start : start + 100], 100))
    if len(starts) == 3:
        assert starts == pytest.approx(
            [(i + 0.5) * n / 3 - 50 for i in range(3)] if n > 300 else [0, (n - 100) / 2, n - 100], abs=n / 12 + 1
        )


def test_eleven_hours(tmp_path: Path) -> None:
    """Repeated packets of a short track: neither the memory nor the time of eleven hours."""
    make_tone(tmp_path / "a.m4a", 30.0, rate_hz=16000, channels=1, bit_rate=16_000)
    with av.open(str(tmp_path / "a.m4a")) as source, av.open(str(tmp_path / "long.m4a"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        packets = [bytes(p) for p in source.demux(audio=0) if p.size][1:-1]
        time_base = source.streams.audio[0].time_base
        for i in range(11 * 3600 * 16000 // 1024):
            packet = av.Packet(packets[i % len(packets)])
            packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = stream, time_base, i * 1024, i * 1024, 1024
            target.mux(packet)
    make_tone(tmp_path / "a.mp3", 30.0, rate_hz=16000, channels=1, bit_rate=16_000)
    (tmp_path / "long.mp3").write_bytes(frames_of(tmp_path / "a.mp3") * (11 * 120))
    for name in ("long.m4a", "long.mp3"):
        tracemalloc.start()
        began = time.process_time()
        windows = read(tmp_path / name)
        took_s, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert windows.duration_s == pytest.approx(11 * 3600, rel=0.01)
        assert windows.starts_s == pytest.approx([(i + 0.5) * windows.duration_s / 4 - 0.5 for i in range(4)], abs=0.1)
        assert (windows.audio.std(axis=1) > 0.05).all()
        assert peak < 4_000_000
        assert took_s < 6


# -- damage


def test_a_few_bad_frames_are_skipped_and_many_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    make_tone(path, 30.0, rate_hz=16000, channels=1)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    data = bytearray(whole)
    for at in rng.integers(len(data) // 10, len(data), 6):
        data[at : at + 40] = rng.integers(0, 256, 40, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    windows = read(path)
    assert windows.duration_s == pytest.approx(30.0, abs=3.0)
    assert (windows.audio.std(axis=1) > 0.1).all()
    make_tone(tmp_path / "a.m4a", 30.0, rate_hz=16000, channels=1)  # its index stays whole while its packets are noise
    data = bytearray((tmp_path / "a.m4a").read_bytes())
    begin = data.index(b"mdat") + 4
    end = data.index(b"moov", begin) - 4
    data[begin:end] = rng.integers(0, 256, end - begin, dtype=np.uint8).tobytes()
    (tmp_path / "a.m4a").write_bytes(data)
    assert "damaged" in reason(lambda: read(tmp_path / "a.m4a"))


DAMAGED = "a.mp3 a.m4a b.m4a a.aac a.flac a.ogg a.opus a.wma a.wav a.aiff a.wv a.tta a.mka"


@pytest.mark.parametrize("name", DAMAGED.split())
def test_damaged_tracks_are_decoded_or_refused(tmp_path: Path, tracks: Path, name: str) -> None:
    path = tmp_path / name
    refusals = set()
    for content in damaged_copies((tracks / name).read_bytes(), 12, 7):
        path.write_bytes(content)
        try:
            read(path)
        except UnreadableMedia as error:
            refusals.add(error.message)
    assert "" not in refusals
    assert not any(str(tmp_path) in message for message in refusals)


# -- the process around


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe 100% [a].wav"
    try:
        with open(name, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    make_tone(tmp_path / "a.wav", 1.0)
    os.replace(tmp_path / "a.wav", name)
    assert len(read_windows(os.fsdecode(name), sample_rate_hz=8000, window_s=1.0, max_windows=2).audio) == 1


def test_the_same_file_gives_the_same_bytes(tracks: Path) -> None:
    for name in ("a.mp3", "a.m4a", "a.opus"):
        assert np.array_equal(read(tracks / name).audio, read(tracks / name).audio)


def test_many_threads(tracks: Path, tmp_path: Path) -> None:
    """Also beside threads that read photos, as indexing does."""
    names = ["a.mp3", "a.flac", "a.m4a", "a.opus", "a.wav"]
    photos = [str(tmp_path / f"a.{suffix}") for suffix in ("jpg", "png", "webp", "avif")]
    for photo in photos:
        make_photo(photo, picture((300, 200)), orientation=6)
    alone = [read(tracks / name).audio for name in names], [read_photo(path, 32) for path in photos]
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            warnings.filterwarnings("error", category=UserWarning)

    with ThreadPoolExecutor(8) as pool:
        other = pool.submit(disturb)
        pixels = pool.map(lambda path: read_photo(path, 32), photos * 6)
        together = list(pool.map(lambda name: read(tracks / name).audio, names * 4)), list(pixels)
        stop.set()
        other.result()
    for i, samples in enumerate(together[0]):
        assert np.array_equal(samples, alone[0][i % len(names)])
    for i, seen in enumerate(together[1]):
        assert np.array_equal(seen, alone[1][i % len(photos)])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be counted here")
def test_no_file_stays_open(tracks: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", True)
    make_tone(tmp_path / "a.mp3", 1.0)
    read(tmp_path / "a.mp3")
    before = len(os.listdir("/proc/self/fd"))
    read(tracks / "a.flac")
    assert reason(lambda: read(tmp_path / "a.mp4")) == "is a video"
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_are_not_written(tracks: Path) -> None:
    before = [(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(tracks.iterdir())]
    for name in ("a.mp3", "a.wav"):
        read(tracks / name)
    assert [(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(tracks.iterdir())] == before


def test_formats() -> None:
    found = formats()
    assert " ".join(found) == "mp3 aac alac flac vorbis opus wma ape wavpack tta aiff wav dsd"
    assert all(value is True for value in found.values())


def test_importing_the_module_imports_no_decoder() -> None:
    code = "import sys, emoclim_cli.audio; print([m for m in ('av', 'PIL', 'rawpy', 'pillow_heif') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
