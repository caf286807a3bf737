"""Shows of photos whose vectors are given and of tracks that are real, in a real library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from media_makers import make_tone
from test_shots import space

from emoclim_cli import soundtrack
from emoclim_cli.cues import CueSheet
from emoclim_cli.errors import LibraryError, NoLibrary, UsageError
from emoclim_cli.indexing import space_ref
from emoclim_cli.library import Library
from emoclim_cli.media import MediaItem, MediaKind, content_digest, item_id
from emoclim_cli.projections import unit
from emoclim_cli.rhythm import Pulse
from emoclim_cli.rows import Row
from emoclim_cli.shots import Shots
from emoclim_cli.soundtrack import Settings, Show, Tracks, change_of, compose, match_of, slots_of

RATE_HZ = 22_050
HAPPY, SAD = (1.0, 0.1), (0.1, 1.0)


def clicks(seconds: float, period_s: float, seed: int = 0) -> np.ndarray:
    """(1, samples): a decaying note every `period_s`, beginning at 0."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    since = t % period_s
    pitch = 220 * 2 ** (np.random.default_rng(seed).integers(0, 12, int(seconds / period_s) + 2) / 12)
    return (0.5 * np.exp(-12 * since) * np.sin(2 * np.pi * pitch[(t / period_s).astype(int)] * since))[None].astype(np.float32)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tracks of 40 s and one of 8. Nobody may change them."""
    folder = tmp_path_factory.mktemp("music")
    for number, period_s in enumerate((0.5, 0.6, 0.75)):
        make_tone(folder / f"{number}.wav", samples=clicks(40, period_s, number), rate_hz=RATE_HZ)
    make_tone(folder / "short.wav", samples=clicks(8, 0.4, 9), rate_hz=RATE_HZ)
    return folder


def library_of(folder: Path, tracks: dict[Path, tuple[float, float]], artist: str = "") -> Library:
    library = Library.create(folder)
    with library.writing():
        library.set_space(space_ref(space()))
        rows = []
        for path, vector in tracks.items():
            there = path.exists()
            known = MediaItem(str(path), MediaKind.MUSIC, 1, 1, path.stem, artist, "", 8.0 if path.stem == "short" else 40.0)
            content = content_digest(str(path)) if there else item_id(str(path))
            rows.append(Row(known, content, np.array(vector, np.float32), unit(np.array([vector]))[0]))
        library.upsert(MediaKind.MUSIC, rows)
    return library


def shots_of(*runs: tuple[tuple[float, float], int]) -> Shots:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.tile(vector, (n, 1)) + 0.05 * rng.standard_normal((n, 2)) for vector, n in runs])
    return Shots(tuple(f"/p/{i}.jpg" for i in range(len(vectors))), unit(vectors), np.arange(len(vectors)) * 60.0, len(vectors))


def show(library: Library, shots: Shots, **settings: float) -> Show:
    return compose(library, space(), shots, replace(Settings(photo_s=2.0, crossfade_s=2.0), **settings), by_time=True)


def check(sheet: CueSheet, photos: int, photo_s: float) -> None:
    """What holds for every show."""
    assert sheet.duration_s == pytest.approx(photos * photo_s)
    assert len(sheet.photos) == photos
    assert sheet.photos[0].start_s == 0
    assert all(a.end_s == b.start_s for a, b in pairwise(sheet.photos))
    assert all(0.3 * photo_s - 1e-6 <= photo.end_s - photo.start_s <= 1.7 * photo_s + 1e-6 for photo in sheet.photos)
    assert all(b.fade_s <= min(a.end_s - a.start_s, b.end_s - b.start_s) + 1e-9 for a, b in pairwise(sheet.photos))
    assert sheet.tracks[0].start_s == 0
    assert sheet.tracks[-1].end_s == pytest.approx(sheet.duration_s)
    assert all(b.start_s <= a.end_s + 1e-6 for a, b in pairwise(sheet.tracks)), "silence between two tracks"
    for track in sheet.tracks:
        assert track.offset_s >= 0
        assert track.fade_in_s + track.fade_out_s <= track.end_s - track.start_s + 1e-6


def test_a_show_of_two_feelings(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "0.wav": HAPPY, music / "1.wav": SAD, music / "2.wav": (1.0, -1.0)})
    made = show(library, shots_of((HAPPY, 10), (SAD, 12)))
    check(made.sheet, 22, 2.0)
    assert [(slot.first, slot.stop, slot.scene) for slot in made.slots] == [(0, 10, 1), (10, 22, 2)]
    assert [slot.emotion for slot in made.slots] == ["happy", "sad"]
    first, second = made.sheet.tracks
    assert (Path(first.path).name, Path(second.path).name) == ("0.wav", "1.wav")
    assert (first.scene, second.scene) == (1, 2)
    # The second is half there when the scene changes, and the first fades out as it comes in.
    assert second.full_s == pytest.approx(made.sheet.photos[10].start_s, abs=0.02)
    assert [photo.scene for photo in made.sheet.photos] == [1] * 10 + [2] * 12
    assert made.notes == ()


def test_photos_change_with_the_music(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "0.wav": HAPPY, music / "1.wav": SAD})
    sheet = show(library, shots_of((HAPPY, 10), (SAD, 12))).sheet
    periods = {"0.wav": 0.5, "1.wav": 0.6}
    off = []
    for photo in sheet.photos[1:]:
        heard = sheet.heard(photo.start_s)
        assert heard is not None
        period_s = periods[Path(heard.path).name]
        at = heard.offset_s + photo.start_s - heard.start_s
        off.append(abs(at - round(at / period_s) * period_s))
    assert np.mean(np.array(off) < 0.08) >= 0.95, off


def test_the_same_show_again(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / f"{i}.wav": (1.0, 0.3 * i) for i in range(3)})
    shots = shots_of((HAPPY, 10), (SAD, 12))
    cache = tmp_path / "cache"
    first, *others = (compose(library, space(), shots, Settings(2.0), by_time=True, cache=folder) for folder in (cache, cache, None))
    assert all(other == first for other in others)


def test_loudness_is_levelled(tmp_path: Path, music: Path) -> None:
    quiet = tmp_path / "quiet.wav"
    make_tone(quiet, samples=0.2 * clicks(40, 0.6, 0), rate_hz=RATE_HZ)
    library = library_of(tmp_path / "library", {music / "0.wav": HAPPY, quiet: SAD})
    loud, soft = show(library, shots_of((HAPPY, 10), (SAD, 12))).sheet.tracks
    assert soft.gain_db - loud.gain_db == pytest.approx(14, abs=2)


def test_fewer_tracks_than_scenes(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "0.wav": HAPPY, music / "1.wav": SAD})
    made = show(library, shots_of((HAPPY, 10), (SAD, 10), (HAPPY, 10)))
    check(made.sheet, 30, 2.0)
    assert [Path(track.path).name for track in made.sheet.tracks] == ["0.wav", "1.wav", "0.wav"]
    assert "0 is chosen 2 times: there are only 2 tracks for 3 parts" in made.notes


def test_a_track_shorter_than_its_scene(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "short.wav": HAPPY})
    made = show(library, shots_of((HAPPY, 10)))
    check(made.sheet, 10, 2.0)
    assert len(made.sheet.tracks) >= 3
    assert any("short is shorter than the 20 s it is to fill" in note for note in made.notes)


def test_a_scene_longer_than_the_music_is_given_several_tracks(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / f"{i}.wav": HAPPY for i in range(3)})
    made = show(library, shots_of((HAPPY, 36)), photo_s=3.0)
    check(made.sheet, 36, 3.0)
    assert len({track.path for track in made.sheet.tracks}) == 3
    assert {slot.scene for slot in made.slots} == {1}


def test_a_track_that_cannot_be_played_is_replaced(tmp_path: Path, music: Path) -> None:
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"ID3\x04" + bytes(2000))
    library = library_of(tmp_path / "library", {broken: HAPPY, tmp_path / "gone.wav": (1.0, 0.11), music / "1.wav": SAD})
    made = show(library, shots_of((HAPPY, 10)))
    check(made.sheet, 10, 2.0)
    assert Path(made.sheet.tracks[0].path).name == "1.wav"
    assert sum("cannot be played" in note for note in made.notes) == 2


def test_a_disk_of_music_that_is_gone_is_noticed_at_once(tmp_path: Path, music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {tmp_path / "gone" / f"{i}.wav": (1.0, i / 1000) for i in range(100)}
    library = library_of(tmp_path / "library", {**gone, music / "1.wav": SAD})
    rounds: list[int] = []
    slots = soundtrack.slots_of
    monkeypatch.setattr(soundtrack, "slots_of", lambda *args, **options: rounds.append(1) or slots(*args, **options))
    made = show(library, shots_of((HAPPY, 10), (SAD, 10)))
    assert {Path(track.path).name for track in made.sheet.tracks} == {"1.wav"}
    assert len(rounds) == 2
    assert "95 more tracks cannot be played" in made.notes


def test_no_music(tmp_path: Path) -> None:
    with pytest.raises(NoLibrary, match="no music in the library") as caught:
        show(library_of(tmp_path / "library", {}), shots_of((HAPPY, 3)))
    assert "emoclim index" in caught.value.hint


def test_no_music_that_can_be_played(tmp_path: Path) -> None:
    library = library_of(tmp_path / "library", {tmp_path / "gone.wav": HAPPY})
    with pytest.raises(LibraryError, match=r"none of 1 tracks can be played; .*gone\.wav: it is not there now"):
        show(library, shots_of((HAPPY, 3)))


def test_what_is_known_of_the_order_and_the_scenes_is_said(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "0.wav": HAPPY})
    shots = shots_of((HAPPY, 16))
    undated = "no photo says when it was taken: they are in the order of the files' times; --order name goes by name"
    alike = "the photos feel much alike: they are one scene"
    assert show(library, replace(shots, dated=0)).notes == (undated, alike)
    partly = "2 of 16 photos do not say when they were taken: theirs is the time of the file"
    assert show(library, replace(shots, dated=14)).notes == (partly, alike)
    assert show(library, shots_of((HAPPY, 10))).notes == ("the show is too short for several scenes, which take 15 s each",)
    assert show(library, shots_of((HAPPY, 4))).notes == ()
    assert show(library, replace(shots_of((HAPPY, 1)), dated=0)).notes == ()


def test_what_feels_otherwise_is_said_to(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "0.wav": (-1.0, -0.1)})
    assert "no track feels much like the happy photos from number 1 on" in show(library, shots_of((HAPPY, 4))).notes


def test_silence_is_no_music(tmp_path: Path, music: Path) -> None:
    make_tone(tmp_path / "silence.wav", samples=np.zeros((1, 40 * RATE_HZ), np.float32), rate_hz=RATE_HZ)
    library = library_of(tmp_path / "library", {tmp_path / "silence.wav": HAPPY, music / "1.wav": SAD})
    made = show(library, shots_of((HAPPY, 4)))
    assert [Path(track.path).name for track in made.sheet.tracks] == ["1.wav"]
    assert any("silence.wav cannot be played: it is silent" in note for note in made.notes)


def test_jingles_are_for_want_of_other_music_only(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "short.wav": HAPPY, music / "1.wav": SAD})
    assert {Path(track.path).name for track in show(library, shots_of((HAPPY, 4))).sheet.tracks} == {"1.wav"}


@pytest.mark.parametrize("photos", [1, 2, 5])
def test_a_few_photos(tmp_path: Path, music: Path, photos: int) -> None:
    made = show(library_of(tmp_path / "library", {music / "0.wav": HAPPY}), shots_of((HAPPY, photos)))
    check(made.sheet, photos, 2.0)
    assert len(made.sheet.tracks) == 1


def test_no_crossfade_is_a_cut(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "0.wav": HAPPY, music / "1.wav": SAD})
    sheet = show(library, shots_of((HAPPY, 10), (SAD, 12)), crossfade_s=0.0).sheet
    check(sheet, 22, 2.0)
    assert sheet.tracks[1].start_s == pytest.approx(sheet.tracks[0].end_s, abs=0.03)
    assert sheet.heard(sheet.photos[10].start_s) == sheet.tracks[1]


def test_an_artist_has_a_share(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / f"{i}.wav": HAPPY if i else SAD for i in range(3)}, "Ann")
    made = show(library, shots_of((HAPPY, 10), (SAD, 10)), per_artist=1)
    assert "Ann is chosen 2 times, more than --per-artist 1: there is too little of others" in made.notes


def test_a_show_of_more_than_a_day(tmp_path: Path, music: Path) -> None:
    with pytest.raises(UsageError, match="longer than 24 hours"):
        show(library_of(tmp_path / "library", {music / "0.wav": HAPPY}), shots_of((HAPPY, 10)), photo_s=9000.0)


def test_a_track_that_comes_twice_plays_another_part(tmp_path: Path, music: Path) -> None:
    library = library_of(tmp_path / "library", {music / "0.wav": HAPPY, music / "1.wav": SAD})
    made = show(library, shots_of((HAPPY, 8), (SAD, 8), (HAPPY, 8)))
    first, _, again = made.sheet.tracks
    assert first.path == again.path
    ends = [track.offset_s + track.end_s - track.start_s for track in (first, again)]
    assert min(ends) - max(first.offset_s, again.offset_s) <= 2.0 + 1e-6  # no more than the crossfades


# --- formulas ----------------------------------------------------------------------------------------------------------------------------


def test_match_by_definition() -> None:
    rng = np.random.default_rng(0)
    vectors, tracks = unit(rng.standard_normal((3, 4))), unit(rng.standard_normal((5, 4)))
    durations = (10.0, 30.0, 0.0, 100.0, 60.0)
    items = tuple(MediaItem(f"{i}", MediaKind.MUSIC, 0, 0, duration_s=durations[i]) for i in range(5))
    lengths = np.array([20.0, 40.0, 80.0])
    match = match_of(vectors, lengths, Tracks(items, tracks))
    for slot in range(3):
        for track in range(5):
            cosine = sum(float(vectors[slot, k]) * float(tracks[track, k]) for k in range(4))
            left = max(0.0, 1 - durations[track] / lengths[slot]) if durations[track] else 0.0  # 0: not known
            assert match[slot, track] == pytest.approx(cosine - soundtrack.SHORT_COST * left, abs=1e-6)


def test_change_by_definition() -> None:
    pulses = [Pulse(120, 1.0), Pulse(60, 1.0), Pulse(85, 3.0), Pulse(0, 2.0)]
    change = change_of(pulses)
    spread = float(np.std([1.0, 1.0, 3.0, 2.0]))
    octaves = abs(np.log2(85 / 120))
    assert change[0, 1] == pytest.approx(0)  # twice as fast is the same
    tempo = soundtrack.TEMPO_COST * min(octaves, 1 - octaves) / 0.5
    assert change[0, 2] == pytest.approx(tempo + soundtrack.ENERGY_COST * 2 / spread)
    assert change[0, 3] == pytest.approx(soundtrack.ENERGY_COST * 1 / spread)
    assert np.allclose(change, change.T) and (change.diagonal() == soundtrack.AT_ONCE_COST).all()


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([200.0] * 20, [(0, 40)]),
        ([50.0] * 20, [(0, 10), (10, 20), (20, 30), (30, 40)]),  # 40 s and the crossfade
        ([200.0] * 4 + [5.0] * 8, [(0, 40)]),  # a third of them is enough
        ([5.0] * 20, [(0, 8), (8, 16), (16, 24), (24, 32), (32, 40)]),  # none is: no slot is shorter than half a minute
    ],
)
def test_slots(durations: Sequence[float], expected: list[tuple[int, int]]) -> None:
    slots = slots_of(space(), shots_of((HAPPY, 40)), Settings(4.0), np.array(durations), by_time=True)
    assert [(slot.first, slot.stop) for slot in slots] == expected
    assert {slot.emotion for slot in slots} == {"happy"}
