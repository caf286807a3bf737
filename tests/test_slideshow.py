"""A cue sheet to a video."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from media_makers import make_photo, make_tone, picture
from PIL import Image

from emoclim_cli import cues, mixing, slideshow
from emoclim_cli.cues import CueSheet, PhotoCue, TrackCue
from emoclim_cli.errors import EmoclimError, MissingDecoder, UnreadableMedia, UsageError

SIZE = (320, 180)
COLOURS = ((200, 30, 40), (20, 180, 60), (30, 50, 190))


def sheet_of(folder: Path, seconds: float = 1.0, fade_s: float = 0.4, music: bool = True) -> CueSheet:
    """Three photos, each of one colour, and two tracks that overlap."""
    photos = []
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (160, 120), colour).save(folder / f"{i}.png")
        photos.append(PhotoCue(str(folder / f"{i}.png"), i * seconds, (i + 1) * seconds, fade_s, 1, "joy"))
    tracks = []
    if music:
        make_tone(folder / "a.wav", 5.0)
        end_s = photos[-1].end_s
        halves = ((0.0, end_s / 2 + 0.2), (end_s / 2 - 0.2, end_s))
        tracks = [TrackCue(str(folder / "a.wav"), s, e, 1.0, 0.4, 0.4, -3.0, 1) for s, e in halves]
    return CueSheet(tuple(photos), tuple(tracks))


def seen(file: Path) -> np.ndarray:
    """(frames, height, width, 3): RGB as a player shows it, which goes by the colour tags."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def heard(file: Path) -> np.ndarray:
    """(2, samples)."""
    with av.open(str(file)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def failed(run: Callable[[], object]) -> EmoclimError:
    with pytest.raises(EmoclimError) as caught:
        run()
    return caught.value


def test_what_is_seen_and_heard(tmp_path: Path) -> None:
    sheet, file = sheet_of(tmp_path), tmp_path / "show.mp4"
    done: list[int] = []
    assert slideshow.render(sheet, str(file), size=SIZE, progress=lambda n, _total: done.append(n)) is None
    assert done == list(range(1, 91))
    assert sorted(os.listdir(tmp_path)) == ["0.png", "1.png", "2.png", "a.wav", "show.mp4"]
    shown = seen(file)
    assert shown.shape == (90, 180, 320, 3)
    middle = shown[:, 80:100, 150:170].astype(float).mean(axis=(1, 2))
    for number, colour in ((18, 0), (45, 1)):  # in full light, and no crossfade
        assert np.abs(middle[number] - COLOURS[colour]).max() < 6
    assert [int(np.abs(middle[number] - np.array(COLOURS)).sum(axis=1).argmin()) for number in (28, 31, 58, 61)] == [0, 1, 1, 2]
    crossing = (middle[29] + middle[30]) / 2
    assert np.abs(crossing - (np.array(COLOURS[0]) + COLOURS[1]) / 2).max() < 8
    assert middle[0].max() < 6 and middle[-1].max() < 6
    sound = heard(file)
    mixed = np.concatenate(list(mixing.levelled(sheet.tracks, 3.0)), axis=1)
    assert abs(sound.shape[1] - mixed.shape[1]) <= 1024
    part = mixed[0, 60_000:80_000]  # is heard where it belongs, to the sample
    lags = range(-1500, 1500)
    likeness = [float(np.dot(part, sound[0, 60_000 + lag : 80_000 + lag])) for lag in lags]
    assert lags[int(np.argmax(likeness))] == 0
    assert max(likeness) > 0.95 * float(np.linalg.norm(part) * np.linalg.norm(sound[0, 60_000:80_000]))


def test_the_streams(tmp_path: Path) -> None:
    file = tmp_path / "show.mp4"
    slideshow.render(sheet_of(tmp_path, 0.777), str(file), size=SIZE, fps=25)
    with av.open(str(file)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        context = video.codec_context
        assert (context.name, context.profile, context.pix_fmt, context.width, context.height) == ("h264", "High", "yuv420p", *SIZE)
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert (video.frames, video.average_rate) == (round(3 * 0.777 * 25), 25)
        assert (audio.codec_context.name, audio.codec_context.sample_rate, audio.codec_context.layout.name) == ("aac", 48_000, "stereo")
        assert video.start_time == 0
        assert float(audio.duration * audio.time_base) == pytest.approx(3 * 0.777, abs=1024 / 48_000)
        assert "creation_time" not in container.metadata
        # In step: neither stream is far ahead of the other anywhere in the file.
        times: dict[str, float] = {"video": 0.0, "audio": 0.0}
        for packet in container.demux():
            if packet.dts is not None:
                times[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(times["video"] - times["audio"]) < 1.2
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a player on the net starts at once


def test_colours_are_right_in_rgb(tmp_path: Path) -> None:
    """FFmpeg reads the tags: with the wrong matrix, the green would be off by more than ten."""
    file = tmp_path / "show.mp4"
    slideshow.render(sheet_of(tmp_path, 2.0, 0.0, music=False), str(file), size=SIZE, fps=10)
    with av.open(str(file)) as container:
        frames = list(container.decode(video=0))
    for number, colour in ((12, 0), (30, 1), (45, 2)):
        pixels = frames[number].reformat(format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709").to_ndarray()
        assert np.abs(pixels[60:120, 130:190].astype(float).mean(axis=(0, 1)) - COLOURS[colour]).max() < 5


def test_without_tracks_there_is_no_sound(tmp_path: Path) -> None:
    file = tmp_path / "show.mp4"
    slideshow.render(sheet_of(tmp_path, 0.4, music=False), str(file), size=SIZE)
    with av.open(str(file)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].frames == 36


def test_one_photo_for_a_moment(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, 0.1)
    file = tmp_path / "show.mp4"
    slideshow.render(CueSheet(sheet.photos[:1], sheet.tracks[:1]), str(file), size=(64, 64))
    assert len(seen(file)) == 3
    assert heard(file).shape[1] >= 4800 - 1024


def test_the_same_sheet_gives_the_same_bytes(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        slideshow.render(sheet, str(tmp_path / name), size=SIZE)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_sheet_that_was_kept_gives_the_same_video(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path)
    (tmp_path / "show.json").write_bytes(cues.write(sheet, str(tmp_path)))
    slideshow.render(sheet, str(tmp_path / "a.mp4"), size=SIZE)
    slideshow.render(cues.read(str(tmp_path / "show.json")), str(tmp_path / "b.mp4"), size=SIZE)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("size", [(321, 180), (320, 181), (62, 180), (320, 0), (7682, 180), (-320, 180)])
def test_sizes_that_cannot_be(tmp_path: Path, size: tuple[int, int]) -> None:
    error = failed(lambda: slideshow.render(sheet_of(tmp_path, music=False), str(tmp_path / "show.mp4"), size=size))
    assert isinstance(error, UsageError)
    assert f"{size[0]}x{size[1]}" in error.message
    assert not (tmp_path / "show.mp4").exists()


def test_a_photo_that_is_not_there_is_named_before_anything_is_done(tmp_path: Path) -> None:
    sheet, file = sheet_of(tmp_path), tmp_path / "show.mp4"
    for content, reason in ((None, "No such file or directory"), (b"", "is empty"), (b"hello" * 9, "is not a photo that can be decoded")):
        (tmp_path / "2.png").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "2.png").write_bytes(content)
        done: list[int] = []
        error = failed(lambda done=done: slideshow.render(sheet, str(file), size=SIZE, progress=lambda n, _total: done.append(n)))
        assert isinstance(error, UnreadableMedia)
        assert error.message == f"{tmp_path / '2.png'}: {reason}"
        assert done == []
    assert not file.exists()


def test_a_photo_that_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = sheet_of(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "2.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    error = failed(lambda: slideshow.render(sheet, str(tmp_path / "show.mp4"), size=SIZE))
    assert isinstance(error, MissingDecoder)
    assert "heic" in error.hint


def test_a_photo_that_breaks_later_leaves_the_old_video(tmp_path: Path) -> None:
    sheet, file = sheet_of(tmp_path), tmp_path / "show.mp4"
    file.write_bytes(b"old")
    make_photo(tmp_path / "2.jpg", picture((300, 300)))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.jpg").read_bytes()[:3000])
    (tmp_path / "2.jpg").unlink()
    error = failed(lambda: slideshow.render(sheet, str(file), size=SIZE))
    assert isinstance(error, UnreadableMedia)
    assert error.message == f"{tmp_path / '2.png'}: is truncated"
    assert file.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["0.png", "1.png", "2.png", "a.wav", "show.mp4"]


def test_music_that_is_not_there_is_named(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path)
    (tmp_path / "a.wav").unlink()
    error = failed(lambda: slideshow.render(sheet, str(tmp_path / "show.mp4"), size=SIZE))
    assert isinstance(error, UnreadableMedia)
    assert str(tmp_path / "a.wav") in error.message
    assert sorted(os.listdir(tmp_path)) == ["0.png", "1.png", "2.png"]


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, music=False)
    for place in (tmp_path, tmp_path / "missing" / "show.mp4"):
        assert isinstance(failed(lambda place=place: slideshow.render(sheet, str(place), size=SIZE)), UsageError)


def test_awkward_names(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/concat:%d '\xff\n"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    sheet = sheet_of(folder, 0.3)
    slideshow.render(sheet, str(folder / "#1 %03d.mp4"), size=SIZE)
    assert (folder / "#1 %03d.mp4").stat().st_size > 3000


RENDER = """
import sys
from emoclim_cli import cues, mixing, slideshow
from emoclim_cli.errors import EmoclimError
if sys.argv[3] != "0":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    slideshow.render(cues.read(sys.argv[1]), sys.argv[2], size=(320, 180), progress=lambda n, _total: n == 20 and print("20", flush=True))
except EmoclimError as error:
    print(type(error).__name__, error.message)
except KeyboardInterrupt:
    print("stopped")
"""


def rendering(folder: Path, seconds: float, limit: int = 0) -> subprocess.Popen[str]:
    (folder / "show.json").write_bytes(cues.write(sheet_of(folder, seconds), str(folder)))
    command = [sys.executable, "-W", "error", "-c", RENDER, str(folder / "show.json"), str(folder / "show.mp4"), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit for the size of a file here")
@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_a_full_disk(tmp_path: Path, part: float) -> None:
    """At the beginning, in the middle, and at the end, when the index of the file is put before the rest."""
    slideshow.render(sheet_of(tmp_path), str(tmp_path / "whole.mp4"), size=SIZE)
    limit = max(200, int((tmp_path / "whole.mp4").stat().st_size * part))
    (tmp_path / "whole.mp4").unlink()
    out, err = rendering(tmp_path, 1.0, limit).communicate()
    assert out.splitlines()[-1] == f"MediaError cannot write {tmp_path / 'show.mp4'}: File too large", err
    assert err == ""
    assert sorted(os.listdir(tmp_path)) == ["0.png", "1.png", "2.png", "a.wav", "show.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for another process here")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    process = rendering(tmp_path, 60.0)
    assert process.stdout is not None
    assert process.stdout.readline() == "20\n"
    begin = time.perf_counter()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("stopped\n", "")
    assert time.perf_counter() - begin < 20
    assert sorted(os.listdir(tmp_path)) == ["0.png", "1.png", "2.png", "a.wav", "show.json"]
