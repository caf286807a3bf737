from __future__ import annotations

import math
import os
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_makers import make_tone, tone

from emoclim_cli import mixing
from emoclim_cli.audio import open_track, read_windows
from emoclim_cli.cues import TrackCue
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.mixing import BLOCK, PEAK_DBTP, RATE_HZ, SILENT_LUFS, TARGET_LUFS, levelled, loudness, mix

ALL = 1 << 40


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Neither Python nor FFmpeg's filters write to stdout or stderr."""
    yield
    assert capfd.readouterr() == ("", "")


def cue(path: Path | str, start_s: float, end_s: float, offset_s: float = 0.0, fades_s: tuple[float, float] = (0, 0), gain_db: float = 0.0):
    return TrackCue(str(path), start_s, end_s, offset_s, *fades_s, gain_db, 1)


def joined(blocks: Iterator[np.ndarray]) -> np.ndarray:
    kept = list(blocks)
    assert all(block.dtype == np.float32 and block.shape[0] == 2 for block in kept)
    return np.concatenate(kept, axis=1) if kept else np.zeros((2, 0), dtype=np.float32)


def heard(path: Path, offset: int = 0, length: int = ALL) -> np.ndarray:
    return joined(mixing._sound(str(path), offset, length))


def sine(seconds: float, level_db: float, hz: float = 997.0, rate_hz: int = RATE_HZ, channels: int = 2) -> np.ndarray:
    wave = 10 ** (level_db / 20) * np.sin(2 * np.pi * hz / rate_hz * np.arange(round(seconds * rate_hz)))
    return np.stack([wave] * channels).astype(np.float32)


def noise(seconds: float, rms_db: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal((2, round(seconds * RATE_HZ)))
    return (10 ** (rms_db / 20) * samples).astype(np.float32)


def wav(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    make_tone(path, samples=samples, rate_hz=rate_hz, codec="pcm_f32le")
    return path


def shift(part: np.ndarray, whole: np.ndarray, about: int, reach: int = 4800) -> tuple[int, float]:
    """By how many samples after `about` the part lies in the whole, and the correlation there."""
    low = max(0, about - reach)
    there = whole[low : about + len(part) + reach].astype(float)
    size = 1 << (len(there) + len(part)).bit_length()
    products = np.fft.irfft(np.fft.rfft(there, size) * np.conj(np.fft.rfft(part.astype(float), size)), size)[: len(there) - len(part) + 1]
    best = int(products.argmax())
    return low + best - about, float(np.corrcoef(there[best : best + len(part)], part)[0, 1])


# -- decoding from anywhere

# (file, encoder, sample rate, channels, most samples that a part may be off: containers that round times to milliseconds)
TRACKS = [
    ("a.mp3", "libmp3lame", 44100, 2, 0), ("b.mp3", "libmp3lame", 22050, 1, 0), ("a.m4a", "aac", 44100, 2, 0),
    ("b.m4a", "alac", 48000, 2, 0), ("a.ogg", "vorbis", 44100, 2, 0), ("a.opus", "libopus", 48000, 2, 0), ("a.flac", "flac", 44100, 2, 0),
    ("b.flac", "flac", 96000, 1, 0), ("a.wav", "pcm_s16le", 44100, 2, 0), ("b.wav", "pcm_u8", 11025, 1, 0), ("a.aac", "aac", 44100, 2, 0),
    ("a.wv", "wavpack", 44100, 2, 0), ("a.wma", "wmav2", 44100, 2, 48), ("a.mka", "flac", 44100, 2, 48),
]  # fmt: skip


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    for name, codec, rate_hz, channels, _ in TRACKS:
        container = "adts" if name.endswith(".aac") else None
        make_tone(folder / name, 8.0, codec=codec, rate_hz=rate_hz, channels=channels, container=container)
    return folder


@pytest.mark.parametrize(("name", "codec", "rate_hz", "channels", "slack"), TRACKS)
def test_a_part_is_what_a_decode_from_the_beginning_has_there(
    tracks: Path, name: str, codec: str, rate_hz: int, channels: int, slack: int
) -> None:
    whole = heard(tracks / name)
    assert whole.shape[1] == pytest.approx(8 * RATE_HZ, abs=0.06 * RATE_HZ)
    for offset in (1, 12_345, 100_003, 233_333, 330_001):
        with open_track(str(tracks / name)) as track:
            assert mixing._frames(track, offset) is not None, "found without decoding all of it"
        part = heard(tracks / name, offset, RATE_HZ)
        there = whole[:, offset : offset + RATE_HZ]
        assert part.shape == there.shape
        if slack or codec == "aac":  # AAC adds noise, new each time
            off, correlation = shift(part[0], whole[0], offset)
            assert abs(off) <= slack and correlation > 0.99
        else:
            assert np.abs(part - there).max() < 1e-4


@pytest.mark.parametrize(("name", "codec", "rate_hz", "channels", "slack"), TRACKS)
def test_its_clock_is_that_of_the_windows_that_features_are_made_of(
    tracks: Path, name: str, codec: str, rate_hz: int, channels: int, slack: int
) -> None:
    windows = read_windows(str(tracks / name), sample_rate_hz=RATE_HZ, window_s=0.5, max_windows=3)
    for window, start_s in zip(windows.audio, windows.starts_s, strict=True):
        there = heard(tracks / name, round(start_s * RATE_HZ) - 4800, len(window) + 9600).mean(axis=0)
        off, correlation = shift(window, there, 4800)
        assert abs(off) <= slack and correlation > 0.99


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.opus", "a.flac", "a.wav"])
def test_it_is_what_went_into_the_encoder(tracks: Path, name: str) -> None:
    """Encoder delay and padding are not heard."""
    row = next(row for row in TRACKS if row[0] == name)
    wav(tracks / "original.wav", tone(8.0, row[2]), row[2])
    off, correlation = shift(heard(tracks / name, 150_000, RATE_HZ)[0], heard(tracks / "original.wav")[0], 150_000)
    assert abs(off) <= 1 and correlation > 0.98


def vorbis_with_short_blocks(path: Path) -> None:
    """Clicks in noise: an encoder that switches its blocks, as real ones do and FFmpeg's own does not."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the ffmpeg program, which encodes with libvorbis, is not installed")
    samples = noise(20.0, -40)
    samples[:, 7919::7919] = 0.9
    wav(path.with_suffix(".wav"), samples)
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path.with_suffix(".wav"), "-c:a", "libvorbis", path], capture_output=True, text=True, check=False
    )
    if "Unknown encoder" in done.stderr:
        pytest.skip("the ffmpeg program here has no libvorbis")
    assert done.returncode == 0, done.stderr


def test_vorbis_with_short_blocks(tmp_path: Path) -> None:
    """FFmpeg's timestamps are ten milliseconds late wherever a short block follows a long one: that is no gap, and no place to begin at."""
    vorbis_with_short_blocks(tmp_path / "a.ogg")
    with open_track(str(tmp_path / "a.ogg")) as track:
        frames = list(track.frames())
    ends = np.cumsum([frame.samples for frame in frames])
    late = np.array([frame.pts - frames[0].pts for frame in frames[1:]]) - ends[:-1]
    assert (late > 400).sum() > 20, "such a track was to be made"
    plain = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    whole = heard(tmp_path / "a.ogg")
    assert np.array_equal(whole, plain)
    for offset in range(50_000, 800_000, 37_777):
        assert np.array_equal(heard(tmp_path / "a.ogg", offset, 5000), plain[:, offset : offset + 5000])


@pytest.mark.parametrize(("stamps", "settled", "places"), [
    ([0, 1, 2, 3, 4], 0, [0, 1, 2, 3, 4]),
    ([0, 1, 2.5, 3, 4, 5.5, 6], 0, [0, 1, 2, 3, 4, 5, 6]),  # a single one is off
    ([0.5, 1, 2, 3.5, 4, 5], 9, [0.5, 1.5, 2, 3, 4, 5]),  # the first is
    ([0, 1, 9, 10, 11, 12.5, 13], 0, [0, 1, 2, 10, 11, 12, 13]),  # a gap is noticed one frame late
    ([7, 8, 0, 1, 2, 3], 0, [7, 8, 9, 10, 11, 12]),  # another file
    ([0, None, 9, 10, 11], 0, [0, 1, 2, 3, 4]),
])  # fmt: skip
def test_where_frames_are(tracks: Path, stamps: list[float | None], settled: float, places: list[float]) -> None:
    """In units of a frame of a tenth of a second."""
    frames = []
    for stamp in stamps:
        frame = av.AudioFrame(format="s16", layout="mono", samples=4410)
        frame.sample_rate, frame.pts = 44100, None if stamp is None else round(stamp * 4410)
        frames.append(frame)
    with open_track(str(tracks / "a.flac")) as track:
        found = [place_s for place_s, _ in mixing._placed(track, frames, 0, settled / 10)]
    assert np.multiply(found, 10) == pytest.approx(places)


def test_a_gap_in_the_clock_is_silent(tmp_path: Path) -> None:
    """Half a second that a recorder lost: what follows is heard when it is due, from wherever the track is begun."""
    make_tone(tmp_path / "a.mka", 10.0, rate_hz=RATE_HZ)
    whole = heard(tmp_path / "a.mka")
    with av.open(str(tmp_path / "a.mka")) as source, av.open(str(tmp_path / "b.mka"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size and not 5.0 <= packet.pts * packet.time_base < 5.5:
                packet.stream = stream
                target.mux(packet)
    for offset in (0, 4 * RATE_HZ, round(5.25 * RATE_HZ), 7 * RATE_HZ):
        part = heard(tmp_path / "b.mka", offset)
        assert part.shape[1] == pytest.approx(whole.shape[1] - offset, abs=48)
        last = part[0, -3 * RATE_HZ :]
        assert shift(last, whole[0], offset + part.shape[1] - 3 * RATE_HZ)[0] == pytest.approx(0, abs=48)
        if offset < 5 * RATE_HZ:
            lost = part[0, round(5.3 * RATE_HZ) - offset : round(5.45 * RATE_HZ) - offset]
            assert (lost == 0.0).all()


def test_seeking_too_far_is_noticed(tracks: Path) -> None:
    """As FFmpeg does in a file whose header lies about its bit rate."""

    class Overshooting:
        def __init__(self, container: av.container.InputContainer) -> None:
            self.container = container
            self.demux = container.demux

        def seek(self, timestamp: int, stream: av.AudioStream) -> None:
            self.container.seek(timestamp + round(1 / stream.time_base), stream=stream)

    with open_track(str(tracks / "a.flac")) as track:
        track.container = Overshooting(track.container)  # type: ignore[assignment]
        assert mixing._frames(track, 4 * RATE_HZ) is None


@pytest.mark.parametrize("names", [("a.ogg", "a.ogg"), ("m.aac", "a.aac"), ("a.aac", "m.aac")])
def test_a_file_appended_to_another_goes_on(tracks: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    """Its clock begins again, or its sample rate is another: nothing is missing, and what lies behind the seam is found."""
    make_tone(tracks / "m.aac", 8.0, rate_hz=22050, channels=1, container="adts")
    path = tmp_path / names[0]
    path.write_bytes(b"".join((tracks / name).read_bytes() for name in names))
    whole = heard(path)
    assert whole.shape[1] == pytest.approx(16 * RATE_HZ, abs=0.2 * RATE_HZ)
    with open_track(str(path)) as track:
        assert mixing._frames(track, 14 * RATE_HZ) is None, "which seeking does not find"
    for offset in (2 * RATE_HZ, 11 * RATE_HZ, 14 * RATE_HZ):
        off, correlation = shift(heard(path, offset, RATE_HZ)[0], whole[0], offset)
        assert off == 0 and correlation > 0.99


def test_samples_that_need_no_decoding_are_kept_as_they_are(tmp_path: Path) -> None:
    samples = noise(6.0, -20)
    wav(tmp_path / "a.wav", samples)
    for offset in (0, 1, 3 * RATE_HZ, 7 * RATE_HZ):
        assert np.array_equal(heard(tmp_path / "a.wav", offset), samples[:, offset:])
        assert np.array_equal(heard(tmp_path / "a.wav", offset, 1000), samples[:, offset : offset + 1000])


def test_one_channel_and_six(tmp_path: Path) -> None:
    one = sine(1.0, -12, channels=1)
    stereo = heard(wav(tmp_path / "1.wav", one))
    assert np.array_equal(stereo[0], stereo[1])
    assert loudness(str(tmp_path / "1.wav"), 0, 1) == pytest.approx(-12 - 3.01, abs=0.1)  # 3 dB for the power of two loudspeakers
    for channel, expected in enumerate([(1, 0), (0, 1), (0.7071, 0.7071), (0, 0), (0.7071, 0), (0, 0.7071)]):  # FL FR FC LFE BL BR
        six = np.zeros((6, RATE_HZ), dtype=np.float32)
        six[channel] = one[0]
        mixed = heard(wav(tmp_path / "6.wav", six))
        assert mixed.std(axis=1) / one.std() == pytest.approx(expected, abs=0.001)


def test_what_is_no_number_is_silent(tmp_path: Path) -> None:
    samples = noise(2.0, -20)
    good = samples.copy()
    samples[0, 5::1000], samples[1, 6::1000], samples[0, 7::1000], samples[1, 8::1000] = np.nan, np.inf, -np.inf, 3e38
    part = heard(wav(tmp_path / "a.wav", samples))
    off = part != good
    assert (part[0, 5::1000] == 0).all() and (part[1, 6::1000] == 0).all() and (part[0, 7::1000] == 0).all()
    assert (part[1, 8::1000] == mixing.LOUDEST).all()
    assert off.sum() == 4 * 96
    resampled = heard(wav(tmp_path / "b.wav", samples, 44100))
    assert np.isfinite(resampled).all() and np.abs(resampled).max() <= mixing.LOUDEST
    assert (np.abs(resampled) > 1).mean() < 0.05
    nothing = heard(wav(tmp_path / "c.wav", np.full((2, 5000), np.nan, dtype=np.float32)))
    assert nothing.shape == (2, 5000) and not nothing.any()


# -- the mix


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Path -> the whole track, as one decode and one resampling give it."""
    folder = tmp_path_factory.mktemp("known")
    wav(folder / "a.wav", noise(3.0, -20, 1))
    wav(folder / "b.wav", noise(1.7, -25, 2))
    make_tone(folder / "c.mp3", 2.5)
    make_tone(folder / "d.opus", 2.0, rate_hz=48000, channels=1)
    found = {}
    for path in sorted(folder.iterdir()):
        resampler = av.AudioResampler("fltp", "stereo", RATE_HZ)
        with av.open(str(path)) as container:
            frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        found[str(path)] = np.concatenate([frame.to_ndarray() for frame in [*frames, *resampler.resample(None)]], axis=1)
    return found


def oracle(tracks: list[TrackCue], duration_s: float, known: dict[str, np.ndarray]) -> np.ndarray:
    """Everything in memory, sample by sample where it matters."""
    total = round(duration_s * RATE_HZ)
    show = np.zeros((2, total))
    for part in tracks:
        track, begin, end = known[part.path], round(part.start_s * RATE_HZ), round(part.end_s * RATE_HZ)
        for n in range(max(0, begin), min(end, total)):
            at = n - begin + round(part.offset_s * RATE_HZ)
            if at >= track.shape[1]:
                break
            gain = 10 ** (part.gain_db / 20)
            since, left = (n + 0.5 - begin) / RATE_HZ, (end - n - 0.5) / RATE_HZ
            if since < part.fade_in_s:
                gain *= math.sin(math.pi / 2 * since / part.fade_in_s)
            if left < part.fade_out_s:
                gain *= math.sin(math.pi / 2 * left / part.fade_out_s)
            show[:, n] += gain * track[:, at]
    return show


@pytest.mark.parametrize("block", [BLOCK, 4801, 48_000])
@pytest.mark.parametrize("seed", range(4))
def test_mix_against_brute_force(known: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, seed: int, block: int) -> None:
    """Parts that overlap, follow each other, leave gaps, go beyond their track or the show, or fade longer than they last."""
    monkeypatch.setattr(mixing, "BLOCK", block)
    rng = random.Random(seed)
    duration_s = rng.uniform(1.5, 2.5)
    parts = []
    for _ in range(5):
        start_s = rng.choice([0.0, rng.uniform(0, 2.8)])
        fades_s = (rng.choice([0.0, rng.uniform(0, 0.5)]), rng.choice([0.0, rng.uniform(0, 0.5)]))
        length_s, offset_s = rng.choice([0.000001, rng.uniform(0.01, 0.3), rng.uniform(0.3, 2.0)]), rng.choice([0.0, rng.uniform(0, 3.2)])
        parts.append(cue(rng.choice(list(known)), start_s, start_s + length_s, offset_s, fades_s, rng.uniform(-6, 6)))
    mixed = joined(mix(parts, duration_s))
    expected = oracle(parts, duration_s, known)
    assert mixed.shape == expected.shape
    assert np.abs(mixed - expected).max() < 2e-5
    assert np.array_equal(mixed, joined(mix(parts, duration_s))), "the same tracks, the same samples"


def test_a_crossfade_keeps_the_power(tmp_path: Path) -> None:
    """In tracks of one channel each, the gains themselves are seen."""
    flat = np.zeros((2, 4 * RATE_HZ), dtype=np.float32)
    flat[0] = 0.5
    left, right = wav(tmp_path / "l.wav", flat), wav(tmp_path / "r.wav", flat[::-1].copy())
    mixed = joined(mix([cue(left, 0, 2.5, 0, (0, 1.5)), cue(right, 1.0, 4.0, 0.3, (1.5, 0))], 4.0)) / 0.5
    assert np.abs((mixed**2).sum(axis=0) - 1).max() < 1e-5
    middle = round(1.75 * RATE_HZ)
    assert mixed[:, middle] == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-4)
    assert (mixed[0, :RATE_HZ] == 1).all() and (mixed[1, :RATE_HZ] == 0).all() and (mixed[1, round(2.5 * RATE_HZ) :] == 1).all()
    one, other = wav(tmp_path / "1.wav", noise(4, -20, 1)), wav(tmp_path / "2.wav", noise(4, -20, 2))
    mixed = joined(mix([cue(one, 0, 3, 0, (0, 2)), cue(other, 1, 4, 0, (2, 0))], 4.0))
    powers = (mixed.reshape(2, 40, -1) ** 2).mean(axis=(0, 2))  # of every tenth of a second
    assert 10 * np.log10(powers) == pytest.approx(-20, abs=0.4)


@given(st.integers(0, 3 * BLOCK), st.integers(1, 3 * BLOCK), st.integers(0, BLOCK))
@settings(max_examples=30)
def test_every_length_is_exact(known: dict[str, np.ndarray], total: int, length: int, start: int) -> None:
    part = cue(next(iter(known)), start / RATE_HZ, (start + length) / RATE_HZ)
    mixed = joined(mix([part], total / RATE_HZ))
    assert mixed.shape == (2, total)
    begin, end = min(start, total), min(start + length, total, start + 3 * RATE_HZ)
    assert not mixed[:, :begin].any() and not mixed[:, end:].any()
    assert np.array_equal(mixed[:, begin:end], known[part.path][:, : end - begin])


@pytest.mark.parametrize("duration_s", [0.0, 0.000_01, 0.7, 1.000_01, 3.333_333, 5.123_456])
def test_odd_durations(known: dict[str, np.ndarray], duration_s: float) -> None:
    part = cue(list(known)[2], 0.1, duration_s + 1, 0, (0.05, 0.1), 12.0)
    for sound in (mix([part], duration_s), levelled([part], duration_s), mix([], duration_s), levelled([], duration_s)):
        assert joined(sound).shape == (2, round(duration_s * RATE_HZ))


def test_a_cue_sheet_may_ask_for_anything(known: dict[str, np.ndarray]) -> None:
    path = next(iter(known))
    loud = joined(mix([cue(path, 0, 1, 0, (0, 0), 1e300)], 1.0))
    assert np.isfinite(loud).all() and np.abs(loud).max() == pytest.approx(np.abs(known[path][:, :RATE_HZ]).max() * 1000)
    for part in (cue(path, 0, 1, 0, (0, 0), -1e300), cue(path, 0, 1, 1e300), cue(path, 1e300, 1e301), cue(path, 0, 1, 0, (1e300, 0))):
        assert np.abs(joined(mix([part], 1.0))).max() < 0.001


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.path.basename(os.readlink(f"/proc/self/fd/{name}")))
        except OSError:  # that of the listing itself
            continue
    return [name for name in found if name.endswith((".mp3", ".wav"))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be counted here")
def test_only_what_sounds_is_open(known: dict[str, np.ndarray]) -> None:
    paths = list(known)[:3]
    parts = [cue(paths[i % 3], 2.0 * i, 2.0 * i + 2.5, 0.1, (0.5, 0.5)) for i in range(40)]
    before = len(open_files())
    most = 0
    for _ in mix(parts, 80.0):
        most = max(most, len(open_files()) - before)
    assert most == 2
    assert len(open_files()) == before
    blocks = mix(parts, 80.0)
    next(blocks)
    assert len(open_files()) == before + 1
    blocks.close()  # type: ignore[attr-defined]
    assert len(open_files()) == before
    with pytest.raises(UnreadableMedia) as caught:
        joined(mix([cue(paths[0], 0, 3), cue("gone.mp3", 1, 2)], 3.0))
    assert caught.value.__traceback__ is not None, "which keeps what was there"
    assert len(open_files()) == before


def test_memory_does_not_grow_with_the_show(known: dict[str, np.ndarray]) -> None:
    peaks = []
    for count in (10, 100):
        parts = [cue(list(known)[2 * (i % 2)], 2.0 * i, 2.0 * i + 2.5, 0.0, (0.5, 0.5)) for i in range(count)]
        tracemalloc.start()
        for _ in mix(parts, 2.0 * count):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 8_000_000


# -- tracks that cannot be heard


def reason(parts: list[TrackCue], duration_s: float = 3.0) -> tuple[str, float]:
    """Why a mix stops, and after how many seconds."""
    done = 0
    try:
        for block in mix(parts, duration_s):
            done += block.shape[1]
    except UnreadableMedia as error:
        return error.message, done / RATE_HZ
    pytest.fail("nothing stopped it")


def test_a_track_that_is_gone_is_named(known: dict[str, np.ndarray], tmp_path: Path) -> None:
    good = cue(next(iter(known)), 0, 2)
    gone = cue(tmp_path / "it is\ngone.mp3", 1.6, 3)
    assert reason([gone, good]) == (f"{tmp_path}/it is\\ngone.mp3: No such file or directory", 1.5)
    with pytest.raises(UnreadableMedia, match=r"gone\.mp3: No such"):
        next(levelled([good, gone], 3.0))
    assert joined(mix([good, gone], 1.5)).any(), "what begins after the show is not looked for"
    with pytest.raises(UnreadableMedia) as caught:
        loudness(gone.path, 0, 1)
    assert caught.value.message == "No such file or directory"


def test_what_is_no_track_or_damaged_is_refused(tmp_path: Path) -> None:
    for name, content, why in (
        ("text.mp3", b"hello\n" * 500, "is not audio that can be decoded"),
        ("empty.mp3", b"", "is empty"),
        ("list.mp3", b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nreal.aac\n#EXT-X-ENDLIST\n", "is not audio that can be decoded"),
    ):
        (tmp_path / name).write_bytes(content)
        assert reason([cue(tmp_path / name, 0, 1)])[0] == f"{tmp_path / name}: {why}"
    make_tone(tmp_path / "a.m4a", 10.0)
    data = bytearray((tmp_path / "a.m4a").read_bytes())
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    middle = (begin + end) // 2
    data[middle:end] = np.random.default_rng(0).integers(0, 256, end - middle, dtype=np.uint8).tobytes()
    (tmp_path / "a.m4a").write_bytes(data)
    assert joined(mix([cue(tmp_path / "a.m4a", 0, 3)], 3.0)).any()
    assert "a.m4a: is damaged" in reason([cue(tmp_path / "a.m4a", 0, 3, 6.5)])[0]
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        video = file.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8))
        file.mux(video.encode(frame))
        file.mux(video.encode(None))
    assert reason([cue(tmp_path / "a.mp4", 0, 1)])[0].endswith("a.mp4: is a video")


def test_a_disk_that_fails_is_no_end_of_a_track(known: dict[str, np.ndarray]) -> None:
    class FailingContainer:
        def __init__(self, container: av.container.InputContainer) -> None:
            self.container = container

        def demux(self, stream: av.AudioStream) -> Iterator[av.Packet]:
            for _, packet in zip(range(20), self.container.demux(stream), strict=False):
                yield packet
            raise av.error.OSError(5, "Input/output error")

    with open_track(next(iter(known))) as track:
        track.container = FailingContainer(track.container)  # type: ignore[assignment]
        assert len(list(track.frames())) >= 10
        assert isinstance(track.lost, OSError)
        with pytest.raises(OSError, match="Input/output"):
            mixing._check(track)


# -- loudness


@pytest.mark.parametrize("level_db", [-23.0, -33.0, -3.0])
def test_loudness_of_a_sine(tmp_path: Path, level_db: float) -> None:
    """EBU Tech 3341, cases 1 and 2: a stereo sine of -23 dBFS has -23 LUFS."""
    assert loudness(str(wav(tmp_path / "a.wav", sine(20.0, level_db, 1000.0))), 0, 20) == pytest.approx(level_db, abs=0.1)


def test_loudness_leaves_out_what_is_quiet(tmp_path: Path) -> None:
    """EBU Tech 3341, case 4, at half its length."""
    levels = [(5.0, -72), (5.0, -36), (30.0, -23), (5.0, -36), (5.0, -72)]
    wav(tmp_path / "a.wav", np.concatenate([sine(seconds, level, 1000.0) for seconds, level in levels], axis=1))
    assert loudness(str(tmp_path / "a.wav"), 0, 50) == pytest.approx(-23, abs=0.1)
    assert loudness(str(tmp_path / "a.wav"), 5, 5) == pytest.approx(-36, abs=0.1)  # of a part
    assert loudness(str(tmp_path / "a.wav"), 10, 7.7) == pytest.approx(-23, abs=0.05)
    assert loudness(str(tmp_path / "a.wav"), 42, 1e9) == pytest.approx(-36, abs=0.5)  # as far as it goes


def test_what_is_silent_has_no_loudness(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", np.concatenate([np.zeros((2, RATE_HZ), dtype=np.float32), sine(1.0, -20)], axis=1))
    assert loudness(str(tmp_path / "a.wav"), 0, 1) == SILENT_LUFS
    assert loudness(str(tmp_path / "a.wav"), 5, 1) == SILENT_LUFS  # behind the end
    assert loudness(str(tmp_path / "a.wav"), 1, 0) == SILENT_LUFS
    assert loudness(str(tmp_path / "a.wav"), 1, 0.3) == SILENT_LUFS


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
def test_loudness_against_the_ffmpeg_program(tracks: Path) -> None:
    for name, offset_s, seconds in (("a.flac", 1.5, 4), ("a.opus", 0, 8), ("a.wav", 3, 2.5)):
        command = ["ffmpeg", "-hide_banner", "-nostats", "-ss", str(offset_s), "-t", str(seconds), "-i", tracks / name]
        done = subprocess.run([*command, "-af", "ebur128", "-f", "null", "-"], capture_output=True, text=True, check=True)
        said = float(re.findall(r"I: +(-[\d.]+) LUFS", done.stderr)[-1])
        assert loudness(str(tracks / name), offset_s, seconds) == pytest.approx(said, abs=0.1)


# -- levelling


def measured(sound: np.ndarray) -> tuple[float, float]:
    return mixing._measured([sound])


def beats(seconds: float, peak: float, rate_hz: float = 2.0) -> np.ndarray:
    """Drums over a soft chord: peaks far above its loudness."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    chord = sum(np.sin(2 * np.pi * hz * t) for hz in (220, 277, 330)) * 0.03
    drum = np.exp(-(t % (1 / rate_hz)) * 12) * np.random.default_rng(0).standard_normal(len(t)) * 0.25
    both = np.stack([chord + drum, chord - 0.8 * drum])
    return (peak * both / np.abs(both).max()).astype(np.float32)


@pytest.mark.parametrize("peak", [0.05, 0.5, 1.0, 3.0])
def test_levelled_reaches_its_target_below_its_peak(tmp_path: Path, peak: float) -> None:
    part = cue(wav(tmp_path / "a.wav", beats(8.0, peak)), 0, 8, 0, (0.5, 0.5))
    plain = joined(mix([part], 8.0))
    sound = joined(levelled([part], 8.0))
    lufs, peak_db = measured(sound)
    assert lufs == pytest.approx(TARGET_LUFS, abs=0.3)
    assert peak_db <= PEAK_DBTP + 0.02
    assert measured(plain)[1] + TARGET_LUFS - measured(plain)[0] > PEAK_DBTP + 1, "the limiter had to work"
    assert shift(sound[0, RATE_HZ : 3 * RATE_HZ], plain[0], RATE_HZ)[0] == 0, "not a sample later"
    assert np.array_equal(sound, joined(levelled([part], 8.0)))


def test_levelled_is_one_gain_where_nothing_has_to_be_limited(tmp_path: Path) -> None:
    """What is quiet within the show stays so."""
    samples = np.concatenate([noise(4.0, -30), noise(4.0, -40)], axis=1)
    part = cue(wav(tmp_path / "a.wav", samples), 0, 8)
    sound = joined(levelled([part], 8.0))
    assert measured(sound)[0] == pytest.approx(TARGET_LUFS, abs=0.1)
    gains = sound / samples
    assert np.allclose(gains, gains[0, 0], rtol=1e-5)
    silence = joined(levelled([cue(part.path, 0, 5, 30)], 5.0))
    assert silence.shape == (2, 5 * RATE_HZ) and not silence.any()


def test_what_is_nearly_silent_stays_quiet(tmp_path: Path) -> None:
    part = cue(wav(tmp_path / "a.wav", noise(4.0, -66)), 0, 4)
    sound = joined(levelled([part], 4.0))
    assert np.allclose(sound, joined(mix([part], 4.0)) * 10 ** (mixing.MOST_GAIN_DB / 20), rtol=1e-5)


@pytest.mark.parametrize("limit_db", [-0.5, -6.0, -12.0])
def test_the_limiter_moves_nothing(limit_db: float) -> None:
    """Its lookahead is made up for at both ends."""
    pulses = np.zeros((2, 2 * RATE_HZ + 37), dtype=np.float32)
    places = [0, 1000, 50_001, pulses.shape[1] - 1]
    pulses[:, places] = [0.2, 0.3, 0.9, 0.1]
    limited = joined(mixing._limited([pulses[:, :777], pulses[:, 777:]], 0.0, limit_db))
    assert limited.shape == pulses.shape
    assert np.flatnonzero(limited[0]).tolist() == places
    limit = 10 ** (limit_db / 20)
    assert limited[0, places] == pytest.approx(np.minimum(pulses[0, places], limit), abs=0.001)


def test_real_music(shared_data: Path, tmp_path: Path) -> None:
    """A show of five parts of the labelled music."""
    music = sorted(path for path in shared_data.rglob("*") if path.suffix in (".mp3", ".opus", ".ogg", ".flac"))[::7][:5]
    if not music:
        pytest.skip("there is no music among the labelled data")
    parts = [cue(path, 5.0 * i, 5.0 * i + 6, 3.0, (1.0, 1.0), 2.0 * (i % 3)) for i, path in enumerate(music)]
    sound = joined(levelled(parts, 26.0))
    assert sound.shape == (2, 26 * RATE_HZ)
    lufs, peak_db = measured(sound)
    assert lufs == pytest.approx(TARGET_LUFS, abs=0.5)
    assert peak_db <= PEAK_DBTP + 0.1


def test_importing_the_module_imports_no_decoder() -> None:
    code = "import sys, emoclim_cli.mixing; print('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
