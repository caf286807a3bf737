"""What is heard in files: of every codec, in silence and drones, and through the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from media_makers import damaged_copies, make_tone

from emoclim_cli.audio import read_track
from emoclim_cli.errors import UnreadableMedia
from emoclim_cli.rhythm import APART_S, LEAD_S, RATE_HZ, Pulse, Rhythm, analyse, pulse, tempo_distance

SOURCE_HZ = 44_100


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


def heard(path: Path, cache: Path | None = None) -> Rhythm:
    """`analyse`, and what is true of every track."""
    rhythm = analyse(str(path), cache)
    for times_s in (rhythm.onsets_s, rhythm.beats_s, rhythm.breaks_s):
        assert times_s.dtype == np.float64
        assert (np.diff(times_s) > 0).all()
        assert ((times_s >= 0) & (times_s <= rhythm.duration_s)).all()
    assert rhythm.strengths.shape == rhythm.onsets_s.shape
    assert rhythm.calm.shape == rhythm.breaks_s.shape
    for share in (rhythm.strengths, rhythm.calm):
        assert ((share >= 0) & (share <= 1)).all()
    assert len(rhythm.breaks_s) >= 2
    assert rhythm.calm[0] == rhythm.calm[-1] == 1.0
    assert (rhythm.tempo_bpm == 0.0) == (len(rhythm.beats_s) == 0)
    return rhythm


def clicks(times_s: np.ndarray, duration_s: float, rate_hz: int = SOURCE_HZ, pitch_hz: float = 1500.0) -> np.ndarray:
    """(2, s) float32."""
    audio = np.zeros(round(duration_s * rate_hz))
    t = np.arange(round(0.1 * rate_hz)) / rate_hz
    click = 0.5 * np.sin(2 * np.pi * pitch_hz * t) * np.exp(-t / 0.02)
    for time_s in times_s:
        begin = round(time_s * rate_hz)
        audio[begin : begin + len(click)] += click[: len(audio) - begin]
    return np.stack([audio, audio]).astype(np.float32)


def uneven(duration_s: float, seed: int = 0) -> np.ndarray:
    times_s = 0.4 + np.cumsum(np.random.default_rng(seed).uniform(0.3, 0.9, int(duration_s * 3)))
    return times_s[times_s < duration_s - 0.3]


def make(path: Path, samples: np.ndarray) -> Path:
    make_tone(path, samples=samples.astype(np.float32), rate_hz=SOURCE_HZ, codec="vorbis" if path.suffix == ".ogg" else "")
    return path


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s of clicks at 105 to the minute."""
    return make(tmp_path_factory.mktemp("steady") / "a.flac", clicks(np.arange(0.5, 19.5, 60 / 105), 20.0))


# --- onsets and beats --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("a.mp3", "libmp3lame", 44_100),
        ("b.mp3", "libmp3lame", 22_050),
        ("a.m4a", "aac", 44_100),
        ("a.flac", "flac", 44_100),
        ("a.ogg", "vorbis", 44_100),
        ("a.opus", "libopus", 48_000),
        ("a.wav", "pcm_s16le", 8_000),
    ],
)
def test_onsets_are_where_they_are_heard_whatever_the_codec(tmp_path: Path, name: str, codec: str, rate_hz: int) -> None:
    """No encoder's delay moves them."""
    import librosa

    times_s = uneven(12.0)
    make_tone(tmp_path / name, samples=clicks(times_s, 12.0, rate_hz), rate_hz=rate_hz, codec=codec, bit_rate=128_000)
    rhythm = heard(tmp_path / name)
    assert rhythm.duration_s == pytest.approx(12.0, abs=0.1)
    strong = rhythm.onsets_s[rhythm.strengths > 0.3]
    assert len(strong) == len(times_s)
    assert np.abs(strong - times_s).max() < 0.01
    audio = read_track(str(tmp_path / name), sample_rate_hz=RATE_HZ, max_s=60)
    theirs = librosa.onset.onset_detect(y=audio, sr=RATE_HZ, units="time")
    assert np.abs(rhythm.onsets_s[:, None] - theirs).min(axis=1).max() < 0.06


def notes(times_s: np.ndarray, duration_s: float, *, attack_s: float = 0.003, hiss: float = 0.0, seed: int = 0) -> np.ndarray:
    """(2, s) float32: notes of seven harmonics and random pitch, which die away in a quarter of a second."""
    rng = np.random.default_rng(seed)
    audio = hiss * rng.standard_normal(round(duration_s * SOURCE_HZ))
    t = np.arange(round(0.6 * SOURCE_HZ)) / SOURCE_HZ
    shape = np.minimum(1.0, t / attack_s) * np.exp(-t / 0.25) * np.minimum(1.0, (0.6 - t) / 0.05)
    for time_s in times_s:
        pitch_hz = 220.0 * 2 ** (rng.integers(24) / 12)
        note = shape * sum(np.sin(2 * np.pi * h * pitch_hz * t) / h for h in range(1, 8))
        begin = round(time_s * SOURCE_HZ)
        audio[begin : begin + len(note)] += 0.15 * note[: len(audio) - begin]
    return np.stack([audio, audio]).astype(np.float32)


@pytest.mark.parametrize("attack_s", [0.0005, 0.005, 0.04])
@pytest.mark.parametrize("hiss", [0.0, 0.003])
def test_onsets_of_notes(tmp_path: Path, attack_s: float, hiss: float) -> None:
    times_s = uneven(12.0)
    rhythm = heard(make(tmp_path / "a.flac", notes(times_s, 12.0, attack_s=attack_s, hiss=hiss)))
    error_s = rhythm.onsets_s[np.abs(rhythm.onsets_s[:, None] - times_s).argmin(axis=0)] - times_s
    assert error_s.min() > -0.01
    assert error_s.max() < 0.01 + attack_s / 2
    if attack_s < 0.04:
        assert abs(np.median(error_s)) < 0.003


def test_strengths_are_relative_to_the_strongest(tmp_path: Path) -> None:
    """What librosa finds with a higher threshold, which is relative to its strongest, is what is stronger here."""
    import librosa

    times_s = uneven(20.0)
    hiss = 0.01 * np.random.default_rng(1).standard_normal(round(20 * SOURCE_HZ))
    gains = np.random.default_rng(2).uniform(-26, 0, len(times_s))
    audio = hiss + sum(10 ** (gain / 20) * clicks(time_s[None], 20.0) for gain, time_s in zip(gains, times_s, strict=True))
    make_tone(tmp_path / "a.wav", samples=audio.astype(np.float32), rate_hz=SOURCE_HZ, codec="pcm_f32le")
    rhythm = heard(tmp_path / "a.wav")
    assert rhythm.strengths.max() == 1.0
    assert rhythm.strengths.min() < 0.3
    heard_again = read_track(str(tmp_path / "a.wav"), sample_rate_hz=RATE_HZ, max_s=60)
    for delta in (0.2, 0.4):
        theirs = librosa.onset.onset_detect(y=heard_again, sr=RATE_HZ, units="time", delta=delta)
        found = np.abs(rhythm.onsets_s[:, None] - theirs).min(axis=1) < 0.05
        assert 3 < found.sum() < len(found) - 3
        assert (found == (rhythm.strengths > delta)).mean() > 0.8
        assert rhythm.strengths[found].min() > delta / 2


@pytest.mark.parametrize("bpm", [61.3, 84.0, 97.3, 120.0, 141.2])
def test_any_tempo(tmp_path: Path, bpm: float) -> None:
    """Not only those that are whole frames from beat to beat. Every fourth click is stronger and higher."""
    times_s = np.arange(0.3, 19.8, 60 / bpm)
    hiss = 0.002 * np.random.default_rng(0).standard_normal(round(20 * SOURCE_HZ))
    audio = hiss + 0.6 * clicks(times_s, 20.0, pitch_hz=1000.0) + clicks(times_s[::4], 20.0)
    rhythm = heard(make(tmp_path / "a.flac", audio))
    assert rhythm.tempo_bpm == pytest.approx(bpm, rel=0.003)
    assert len(times_s) - 4 <= len(rhythm.beats_s) <= len(times_s), "librosa leaves out weak ones at the ends"
    assert np.abs(rhythm.beats_s[:, None] - times_s).min(axis=1).max() < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_no_tempo(tmp_path: Path, seed: int) -> None:
    """librosa hears one in anything."""
    rng = np.random.default_rng(seed)
    hiss = 0.1 * rng.standard_normal((1, 30 * SOURCE_HZ))
    for name, audio in (("a.flac", notes(np.sort(rng.uniform(0, 29, 60)), 30.0, seed=seed)), ("b.flac", np.repeat(hiss, 2, axis=0))):
        path = make(tmp_path / name, audio)
        assert heard(path).tempo_bpm == 0.0
        assert pulse(str(path)).tempo_bpm == 0.0


def test_a_long_silence_between(tmp_path: Path) -> None:
    """Parts without any onset do not hide the tempo of the others."""
    times_s = np.concatenate([np.arange(0.5, 12, 0.5), np.arange(34.5, 46, 0.5)])
    rhythm = heard(make(tmp_path / "a.flac", clicks(times_s, 46.0)))
    assert rhythm.tempo_bpm == pytest.approx(120, rel=0.015)
    assert np.abs(rhythm.onsets_s - times_s).max() < 0.01


def test_tempo_and_beats(steady: Path) -> None:
    rhythm, fast = heard(steady), pulse(str(steady))
    assert rhythm.tempo_bpm == pytest.approx(105, rel=0.005)
    assert fast.tempo_bpm == pytest.approx(105, rel=0.005)
    assert fast.energy > 0.3
    off_s = (rhythm.beats_s - 0.5) % (60 / 105)
    assert np.minimum(off_s, 60 / 105 - off_s).max() < 0.01
    assert len(rhythm.beats_s) >= 31


def test_loudness_is_no_energy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times_s = uneven(10.0)
    audio = clicks(times_s, 10.0) + 0.01 * rng.standard_normal(round(10 * SOURCE_HZ))
    make_tone(tmp_path / "loud.wav", samples=audio.astype(np.float32), codec="pcm_f32le")
    make_tone(tmp_path / "soft.wav", samples=(audio / 50).astype(np.float32), codec="pcm_f32le")
    assert pulse(str(tmp_path / "loud.wav")).energy == pytest.approx(pulse(str(tmp_path / "soft.wav")).energy, rel=1e-3)
    loud, soft = heard(tmp_path / "loud.wav"), heard(tmp_path / "soft.wav")
    assert loud.onsets_s == pytest.approx(soft.onsets_s)
    assert loud.strengths == pytest.approx(soft.strengths, abs=1e-3)


def test_busy_music_has_more_energy(tmp_path: Path) -> None:
    hiss = 0.001 * np.random.default_rng(0).standard_normal(round(12 * SOURCE_HZ))
    calm = make(tmp_path / "calm.flac", clicks(np.arange(0.5, 11.5, 2.0), 12.0) + hiss)
    busy = make(tmp_path / "busy.flac", clicks(np.arange(0.5, 11.5, 0.2), 12.0) + hiss)
    assert pulse(str(busy)).energy > 1.2 * pulse(str(calm)).energy


# --- breaks ------------------------------------------------------------------------------------------------------------------------------


def test_a_pause_is_a_break_and_silence_at_the_ends_is_left_out(tmp_path: Path) -> None:
    times_s = np.concatenate([np.arange(1.5, 9.0, 0.4), np.arange(12.0, 20.0, 0.4)])
    hum = np.zeros(round(24 * SOURCE_HZ))
    t = np.arange(len(hum)) / SOURCE_HZ
    hum[((t > 1.5) & (t < 9.2)) | ((t > 12.0) & (t < 21.0))] = 1.0
    rhythm = heard(make(tmp_path / "a.flac", clicks(times_s, 24.0) + 0.1 * hum * np.sin(2 * np.pi * 220 * t)))
    assert rhythm.breaks_s[0] == pytest.approx(1.5, abs=0.007)
    assert rhythm.breaks_s[0] <= 1.5
    assert rhythm.breaks_s[-1] == pytest.approx(21.0, abs=0.007)
    calmest = rhythm.breaks_s[1:-1][rhythm.calm[1:-1] > 0.95]
    assert len(calmest) == 2
    assert 9.2 <= calmest[0] < 9.6, "a part that ends here does not end with the pause"
    assert 12.0 - 2 * LEAD_S - 0.01 < calmest[1] <= 12.0, "a part that begins here begins with the attack"


def test_a_break_without_an_attack_after_it_is_at_the_quiet_point(tmp_path: Path) -> None:
    t = np.arange(round(30 * SOURCE_HZ)) / SOURCE_HZ
    swell = 0.3 * np.sin(2 * np.pi * 220 * t) * (0.52 - 0.48 * np.cos(2 * np.pi * t / 10))
    rhythm = heard(make(tmp_path / "a.flac", np.stack([swell, swell])))
    for time_s in (10.0, 20.0):
        near = np.abs(rhythm.breaks_s - time_s)
        assert near.min() < 0.2
        assert rhythm.calm[near.argmin()] > 0.9


def test_a_new_section_is_a_break(tmp_path: Path) -> None:
    """As loud as the one before, and without a pause."""
    t = np.arange(round(40 * SOURCE_HZ)) / SOURCE_HZ
    low, high = (0.1 * sum(np.sin(2 * np.pi * f * h * t) / h for h in range(1, 4)) for f in (110.0, 1760.0))
    audio = np.where(t < 20.25, low, high)
    rhythm = heard(make(tmp_path / "a.flac", clicks(np.arange(0.25, 39.5, 0.5), 40.0) + audio))
    inner, calm = rhythm.breaks_s[1:-1], rhythm.calm[1:-1]
    best = int(calm.argmax())
    assert calm[best] > 0.5
    assert 20.25 - 2 * LEAD_S - 0.01 < inner[best] <= 20.25
    assert (np.diff(rhythm.breaks_s) >= APART_S - 0.1).all()


# --- what has no rhythm ------------------------------------------------------------------------------------------------------------------


def test_silence(tmp_path: Path) -> None:
    for name in ("a.flac", "a.mp3"):
        path = make(tmp_path / name, np.zeros((2, 5 * SOURCE_HZ)))
        rhythm = heard(path)
        assert len(rhythm.onsets_s) == 0
        assert rhythm.tempo_bpm == 0.0
        assert rhythm.breaks_s.tolist() == [0.0, rhythm.duration_s]
        assert pulse(str(path)) == Pulse(0.0, 0.0)


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".m4a", ".ogg"])
def test_a_drone(tmp_path: Path, suffix: str) -> None:
    """What AAC adds to silent bands comes and goes, fifty times louder than before; but who would hear it?"""
    t = np.arange(round(8 * SOURCE_HZ)) / SOURCE_HZ
    drone = 0.1 * sum(np.sin(2 * np.pi * f * t) for f in (110.0, 165.0, 220.0, 277.2, 330.0))
    path = make(tmp_path / f"a{suffix}", np.stack([drone, drone]))
    rhythm = heard(path)
    assert len(rhythm.onsets_s) == 0
    assert rhythm.tempo_bpm == 0.0
    assert len(rhythm.breaks_s) == 2
    assert pulse(str(path)).tempo_bpm == 0.0
    assert pulse(str(path)).energy < 0.01


@pytest.mark.parametrize("seconds", [0.005, 0.02, 0.3, 1.0])
def test_short_tracks(tmp_path: Path, seconds: float) -> None:
    """They are repeated to fill a window, which is no rhythm."""
    path = make(tmp_path / "a.flac", clicks(np.array([0.0]), seconds) + 0.1)
    rhythm = heard(path)
    assert rhythm.duration_s == pytest.approx(seconds, abs=1e-3)
    assert rhythm.tempo_bpm == 0.0
    assert pulse(str(path)).tempo_bpm == 0.0


def test_what_cannot_be_read(tmp_path: Path, steady: Path) -> None:
    text, absent = tmp_path / "text.mp3", tmp_path / "absent.mp3"
    text.write_text("no music")
    for path in (text, absent, tmp_path):
        for cache in (None, tmp_path / "cache"):
            for listen in (pulse, analyse):
                with pytest.raises(UnreadableMedia):
                    listen(str(path), cache)
    assert not (tmp_path / "cache").exists()


def test_damaged_tracks_are_heard_or_refused(tmp_path: Path, steady: Path) -> None:
    make(tmp_path / "whole.mp3", clicks(uneven(5.0), 5.0))
    for content in damaged_copies((tmp_path / "whole.mp3").read_bytes(), 6, 3):
        (tmp_path / "a.mp3").write_bytes(content)
        with suppress(UnreadableMedia):
            heard(tmp_path / "a.mp3")
            pulse(str(tmp_path / "a.mp3"))


@pytest.mark.parametrize("seed", range(6))
def test_any_sound(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(int(rng.integers(1, 8))):
        length = int(rng.integers(1, 2 * SOURCE_HZ))
        t = np.arange(length) / SOURCE_HZ
        kinds = np.zeros(length), rng.standard_normal(length), np.sin(2 * np.pi * rng.uniform(50, 5000) * t)
        parts.append(kinds[rng.integers(3)] * 10 ** rng.uniform(-5, 0))
    audio = np.concatenate(parts)
    path = make(tmp_path / "a.flac", np.stack([audio, audio]))
    heard(path)
    assert pulse(str(path)).energy >= 0


# --- the cache ---------------------------------------------------------------------------------------------------------------------------


def same(a: Rhythm, b: Rhythm) -> bool:
    names = ("onsets_s", "strengths", "beats_s", "breaks_s", "calm")
    return (a.duration_s, a.tempo_bpm) == (b.duration_s, b.tempo_bpm) and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def test_the_cache_gives_back_what_was_heard(tmp_path: Path) -> None:
    path, cache = make(tmp_path / "a.flac", clicks(uneven(5.0), 5.0)), tmp_path / "new" / "cache"
    status = path.stat()
    first, fast = heard(path, cache), pulse(str(path), cache)
    assert same(first, heard(path))
    assert len(list(cache.iterdir())) == 2
    path.write_bytes(bytes(status.st_size))  # not to be decoded again
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert same(heard(path, cache), first)
    assert pulse(str(path), cache) == fast
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    for listen in (pulse, analyse):
        with pytest.raises(UnreadableMedia):
            listen(str(path), cache)


def test_a_track_that_changed_is_heard_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = heard(make(tmp_path / "a.flac", clicks(uneven(5.0), 5.0)), cache)
    after = heard(make(tmp_path / "a.flac", clicks(uneven(6.0, 1), 6.0)), cache)
    assert not same(before, after)
    assert same(after, heard(tmp_path / "a.flac"))
    assert len(list(cache.iterdir())) == 1, "in place of the one before"


def test_another_folder_is_another_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same relative name, size and time."""
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        make_tone("a.wav", samples=clicks(uneven(3.0, len(found)), 3.0), rate_hz=SOURCE_HZ)
        os.utime("a.wav", ns=(10**18, 10**18))
        found.append(heard(Path("a.wav"), tmp_path / "cache"))
    assert not same(*found)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"stamp": null}', "cut", "text", "rows", "format"],
)
def test_a_damaged_cache_is_heard_anew(tmp_path: Path, damage: bytes | str) -> None:
    path, cache = make(tmp_path / "a.flac", clicks(uneven(3.0), 3.0)), tmp_path / "cache"
    whole, fast = heard(path, cache), pulse(str(path), cache)
    for file in cache.iterdir():
        document = json.loads(file.read_bytes())
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-20])
        elif damage == "format":
            document["stamp"]["format"] += 1
            file.write_text(json.dumps(document | {"duration_s": 7.0, "energy": 7.0}))
        elif isinstance(damage, str):
            wrong = {"text": "x", "rows": {"a": 1}}[damage]
            file.write_text(json.dumps(document | dict.fromkeys(("onsets_s", "energy"), wrong)))
        else:
            file.write_bytes(damage)
    assert same(heard(path, cache), whole)
    assert pulse(str(path), cache) == fast
    assert all(json.loads(file.read_bytes())["stamp"]["format"] for file in cache.iterdir()), "whole again"


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    path = make(tmp_path / "a.flac", clicks(uneven(3.0), 3.0))
    (tmp_path / "file").write_bytes(b"")
    for cache in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        assert same(heard(path, cache), heard(path))
    inside = tmp_path / "cache"
    heard(path, inside)
    (file,) = inside.iterdir()
    file.unlink()
    file.mkdir()  # in the place of the entry
    assert same(heard(path, inside), heard(path))
    assert list(inside.iterdir()) == [file], "nothing half-written is left"


CODE = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from emoclim_cli.rhythm import analyse, pulse

def watch(event, args):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        seen.append((event, args))
    if event == "open" and isinstance(args[0], str) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        if args[0] != os.devnull and not any(cache in args[0] for cache in caches):
            seen.append((event, args))

seen = []
caches = "__pycache__", "numba", os.environ.get("NUMBA_CACHE_DIR") or "numba"
sys.addaudithook(watch)
with ThreadPoolExecutor(4) as pool:
    futures = [pool.submit(listen, sys.argv[1]) for listen in (pulse, analyse) * 3]
    for future in futures:
        future.result()
print(*seen)
"""


def test_a_new_process_of_many_threads(steady: Path) -> None:
    """They are the first to import librosa. It says nothing, writes nothing but what was compiled, and asks nobody."""
    done = subprocess.run([sys.executable, "-W", "always", "-c", CODE, str(steady)], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)


def test_many_threads(tmp_path: Path, steady: Path) -> None:
    cache = tmp_path / "cache"
    expected = heard(steady)
    with ThreadPoolExecutor(4) as pool:
        assert all(same(found, expected) for found in pool.map(lambda _: analyse(str(steady), cache), range(8)))
        assert len(set(pool.map(lambda _: pulse(str(steady)), range(8)))) == 1


# --- tempi -------------------------------------------------------------------------------------------------------------------------------


def test_tempo_distance_by_hand() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(30, 300, (20, 1)), rng.uniform(30, 300, (1, 30))
    by_hand = [[min(abs(np.log2(x / y) + octave) for octave in range(-5, 6)) for y in b[0]] for x in a[:, 0]]
    assert tempo_distance(a, b) == pytest.approx(np.array(by_hand))
    assert tempo_distance(a, b).max() <= 0.5


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [(120, 120, 0), (60, 120, 0), (120, 30, 0), (100, 141.42, 0.5), (100, 150, 0.415), (0, 90, 0), (90, 0, 0), (0, 0, 0)],
)
def test_tempo_distance(a: float, b: float, distance: float) -> None:
    assert tempo_distance(a, b) == pytest.approx(distance, abs=1e-3)
