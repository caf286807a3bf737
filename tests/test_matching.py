"""Matching in a real library. Emotions lie on a circle in the toy space, and a toy file holds its own direction."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from toys import ToyEncoder, toy_encoder, write_numbers

from emoclim_cli import matching
from emoclim_cli.emotions import EMOTIONS
from emoclim_cli.encoders import Encoder
from emoclim_cli.errors import LibraryError, ModelError, UnreadableMedia, UsageError
from emoclim_cli.indexing import space_ref
from emoclim_cli.library import Library
from emoclim_cli.matching import Query, emotion_counts, match, resolve
from emoclim_cli.media import Match, MediaItem, MediaKind, content_digest, item_id
from emoclim_cli.projections import EmotionSpace, Projection
from emoclim_cli.rows import Row

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
STEP = 360 / len(EMOTIONS)


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def angle(emotion: str) -> float:
    return EMOTIONS.index(emotion) * STEP


def make_space() -> EmotionSpace:
    """Emotion vectors are the features' directions: relu(x) - relu(-x) is x."""
    split = np.array([[1, 0, -1, 0], [0, 1, 0, -1]], np.float32)
    through = Projection(split, np.zeros(4, np.float32), split.T.copy(), np.zeros(2, np.float32))
    infos = {kind: toy_encoder(kind).info for kind in MediaKind}
    return EmotionSpace(
        name="toy",
        encoders={kind: info.name for kind, info in infos.items()},
        digests={kind: info.digest for kind, info in infos.items()},
        projections=dict.fromkeys(MediaKind, through),
        prototypes=np.array([at(angle(emotion)) for emotion in EMOTIONS], np.float32),
    )


SPACE = make_space()


def no_encoder(kind: MediaKind) -> Encoder:
    raise AssertionError(f"the {kind} encoder is not needed")


@dataclass
class Bench:
    library: Library
    media: Path

    def path(self, name: str) -> str:
        return str(self.media / name)

    def add(self, *rows: tuple[str, float] | tuple[str, float, str]) -> None:
        """Writes toy files and indexes them: name, direction in degrees, artist. `.jpg` are photos."""
        for kind, suffix in ((PHOTO, ".jpg"), (MUSIC, ".mp3")):
            self.index(kind, [(write_numbers(self.media / row[0], [at(row[1])]), *row[2:]) for row in rows if row[0].endswith(suffix)])

    def index(self, kind: MediaKind, files: Sequence[tuple[str, ...]]) -> None:
        """Indexes what is on the disk: path, artist."""
        encoder, found = toy_encoder(kind), []
        for path, *artist in files:
            status = os.stat(path)
            item = MediaItem(path, kind, status.st_size, status.st_mtime_ns, artist="".join(artist))
            features = encoder.encode([encoder.load(path)])
            found.append(Row(item, content_digest(path), features[0], SPACE.project(kind, features)[0]))
        if found:
            with self.library.writing():
                self.library.upsert(kind, found)

    def resolve(self, *texts: str, encoder: Callable[[MediaKind], Encoder] = no_encoder) -> Query:
        return resolve(texts, self.library, SPACE, encoder)

    def match(self, *texts: str, to: Sequence[MediaKind] = (MUSIC,), limit: int = 10, **options: float) -> list[Match]:
        return match(self.library, SPACE, self.resolve(*texts), to, limit=limit, **options)  # type: ignore[arg-type]

    def names(self, *texts: str, to: Sequence[MediaKind] = (MUSIC,), limit: int = 10, **options: float) -> list[str]:
        return [os.path.relpath(one.item.path, self.media) for one in self.match(*texts, to=to, limit=limit, **options)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    library = Library.create(tmp_path / "library")
    with library.writing():
        library.set_space(space_ref(SPACE))
    (tmp_path / "media").mkdir()
    return Bench(library, tmp_path / "media")


def direction(query: Query) -> float:
    assert float(query.vector @ query.vector) == pytest.approx(1, abs=1e-6)
    return math.degrees(math.atan2(query.vector[1], query.vector[0])) % 360


# --- moods ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_a_mood_is_its_prototype(bench: Bench, emotion: str) -> None:
    query = bench.resolve(emotion)
    assert direction(query) == pytest.approx(angle(emotion), abs=1e-3)
    assert (query.text, query.kind, query.contents) == (emotion, None, frozenset())


def test_a_photo_word_is_the_mood_it_stands_for(bench: Bench) -> None:
    assert direction(bench.resolve("sadness")) == pytest.approx(angle("sad"), abs=1e-3)


def test_a_blend_lies_between(bench: Bench) -> None:
    assert direction(bench.resolve("happy+funny")) == pytest.approx(STEP / 2, abs=1e-3)
    assert direction(bench.resolve("happy", "funny")) == pytest.approx(STEP / 2, abs=1e-3)
    assert direction(bench.resolve("funny+happy", "funny", "happy")) == pytest.approx(STEP / 2, abs=1e-3)
    assert bench.resolve("happy", "funny").text == "happy + funny"


def test_a_mood_and_a_photo(bench: Bench) -> None:
    bench.add(("a.jpg", STEP))
    query = bench.resolve("happy", bench.path("a.jpg"))
    assert direction(query) == pytest.approx(STEP / 2, abs=1e-3)
    assert query.kind is PHOTO


def test_the_best_match_of_a_mood_first(bench: Bench) -> None:
    bench.add(("near.mp3", 10), ("far.mp3", 180), ("nearer.mp3", -5), ("side.mp3", 90))
    found = bench.match("happy")
    assert [os.path.basename(one.item.path) for one in found] == ["nearer.mp3", "near.mp3", "side.mp3", "far.mp3"]
    assert [one.score for one in found] == pytest.approx([math.cos(math.radians(degrees)) for degrees in (5, 10, 90, 180)], abs=1e-5)


def test_a_match_says_what_it_is(bench: Bench) -> None:
    bench.add(("song.mp3", angle("tender"), "Someone"))
    (found,) = bench.match("happy")
    assert found.item == MediaItem(
        bench.path("song.mp3"), MUSIC, os.path.getsize(found.item.path), os.stat(found.item.path).st_mtime_ns, artist="Someone"
    )
    weights = {emotion: math.exp(math.cos(math.radians(angle(emotion) - angle("tender"))) / SPACE.temperature) for emotion in EMOTIONS}
    assert found.emotions == pytest.approx({emotion: weight / sum(weights.values()) for emotion, weight in weights.items()}, abs=1e-4)


def test_a_word_means_the_mood_and_a_path_the_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.media)
    bench.add(("sad/a.jpg", 10), ("happy.jpg", 20), ("fun+sad/b.jpg", 30))
    shutil.copy("happy.jpg", "sad+dog.jpg")
    bench.index(PHOTO, [(bench.path("sad+dog.jpg"),)])
    assert direction(bench.resolve("sad")) == pytest.approx(angle("sad"), abs=1e-3)
    assert direction(bench.resolve("./sad")) == pytest.approx(10, abs=1e-3)
    assert direction(bench.resolve("sad/")) == pytest.approx(10, abs=1e-3)
    assert direction(bench.resolve("happy.jpg")) == pytest.approx(20, abs=1e-3)
    assert direction(bench.resolve("./fun+sad")) == pytest.approx(30, abs=1e-3)
    assert direction(bench.resolve("sad+dog.jpg")) == pytest.approx(20, abs=1e-3)


def test_moods_that_cancel_each_other_are_no_error(bench: Bench) -> None:
    bench.add(("a.mp3", 0), ("b.mp3", 80), ("up.jpg", 90), ("down.jpg", -90))
    found = bench.match(bench.path("up.jpg"), bench.path("down.jpg"))
    assert len(found) == 2
    assert all(math.isfinite(one.score) for one in found)


# --- files ---------------------------------------------------------------------------------------------------------------


def test_an_indexed_file_needs_no_encoder_and_is_not_its_own_match(bench: Bench) -> None:
    bench.add(("a.jpg", 30), ("b.jpg", 40), ("a.mp3", 35))
    query = bench.resolve(bench.path("a.jpg"))
    assert direction(query) == pytest.approx(30, abs=1e-3)
    assert query.kind is PHOTO
    assert bench.names(bench.path("a.jpg"), to=[PHOTO]) == ["b.jpg"]
    assert bench.names(bench.path("a.jpg"), to=[MUSIC]) == ["a.mp3"]
    assert bench.resolve(bench.path("a.mp3")).kind is MUSIC


def test_a_copy_of_what_was_asked_for_is_no_match_either(bench: Bench) -> None:
    bench.add(("a.jpg", 30), ("b.jpg", 40))
    shutil.copy(bench.path("a.jpg"), bench.path("copy.jpg"))
    bench.index(PHOTO, [(bench.path("copy.jpg"),)])
    assert bench.names(bench.path("a.jpg"), to=[PHOTO]) == ["b.jpg"]


def test_a_relative_path_is_the_same_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add(("sub/a.jpg", 30), ("b.jpg", 40))
    monkeypatch.chdir(bench.media / "sub")
    for text in ("a.jpg", "./a.jpg", "../sub/a.jpg"):
        assert direction(bench.resolve(text)) == pytest.approx(30, abs=1e-3)


def test_a_name_that_is_not_utf_8(bench: Bench) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    bench.add((name, 30), ("b.jpg", 40))
    assert direction(bench.resolve(bench.path(name))) == pytest.approx(30, abs=1e-3)
    assert bench.names("happy", to=[PHOTO]) == [name, "b.jpg"]


def test_a_file_that_is_not_indexed_is_encoded(bench: Bench) -> None:
    bench.add(("a.mp3", 50), ("b.mp3", 60))
    write_numbers(bench.media / "new.jpg", [at(49)])
    asked: list[MediaKind] = []
    encoder = toy_encoder(PHOTO)

    def one(kind: MediaKind) -> ToyEncoder:
        asked.append(kind)
        return encoder

    query = bench.resolve(bench.path("new.jpg"), encoder=one)
    assert asked == [PHOTO]
    assert encoder.loaded == [bench.path("new.jpg")]
    assert direction(query) == pytest.approx(49, abs=1e-3)
    assert query.kind is PHOTO
    assert [os.path.basename(found.item.path) for found in match(bench.library, SPACE, query, [MUSIC], limit=5)] == ["a.mp3", "b.mp3"]


def test_a_new_copy_of_an_indexed_file_does_not_find_it(bench: Bench, tmp_path: Path) -> None:
    bench.add(("a.mp3", 50), ("b.mp3", 60))
    shutil.copy(bench.path("a.mp3"), tmp_path / "elsewhere.mp3")
    query = bench.resolve(str(tmp_path / "elsewhere.mp3"), encoder=toy_encoder)
    assert [os.path.basename(found.item.path) for found in match(bench.library, SPACE, query, [MUSIC], limit=5)] == ["b.mp3"]


def test_a_file_that_has_changed_is_encoded_again(bench: Bench) -> None:
    bench.add(("a.jpg", 50))
    write_numbers(bench.media / "a.jpg", [at(100)])
    os.utime(bench.path("a.jpg"), ns=(1, 1))
    assert direction(bench.resolve(bench.path("a.jpg"), encoder=toy_encoder)) == pytest.approx(100, abs=1e-3)


def test_an_indexed_file_on_a_disk_that_is_not_there_can_be_asked_for(bench: Bench) -> None:
    bench.add(("a.jpg", 50), ("b.jpg", 60))
    os.remove(bench.path("a.jpg"))
    assert direction(bench.resolve(bench.path("a.jpg"))) == pytest.approx(50, abs=1e-3)
    with bench.library.writing():
        bench.library.mark_gone(PHOTO, [item_id(bench.path("a.jpg"))])
    assert direction(bench.resolve(bench.path("a.jpg"))) == pytest.approx(50, abs=1e-3)


@pytest.mark.parametrize("name", ["missing.jpg", "no/such/thing", "a.mp3/x", "x" * 300 + ".jpg"])
def test_a_path_of_nothing_is_named(bench: Bench, name: str) -> None:
    bench.add(("a.mp3", 50))
    with pytest.raises(UnreadableMedia, match=r"No such file|Not a directory|File name too long") as caught:
        bench.resolve(bench.path(name))
    assert bench.path(name) in caught.value.message


@pytest.mark.parametrize("word", ["sadd", "awe", "-", " "])
def test_a_word_that_is_neither_file_nor_mood_lists_the_moods(bench: Bench, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.media)
    (bench.media / "other").write_text("")
    with pytest.raises(UsageError, match="is neither a file nor a mood") as caught:
        bench.resolve(word)
    assert all(emotion in caught.value.hint for emotion in EMOTIONS)


def test_no_query_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add(("a.jpg", 10))
    monkeypatch.chdir(bench.media)
    for texts in ([], [""], ["sad", ""]):  # "$UNSET" is not the current folder
        with pytest.raises(UsageError, match="no query"):
            bench.resolve(*texts)


def test_a_file_that_is_no_media(bench: Bench) -> None:
    (bench.media / "notes.txt").write_text("la la la")
    with pytest.raises(UnreadableMedia, match=r"notes\.txt: this is neither a photo nor music"):
        bench.resolve(bench.path("notes.txt"))


def test_a_file_that_cannot_be_decoded_is_named(bench: Bench) -> None:
    (bench.media / "a.jpg").write_text("la la la")
    with pytest.raises(UnreadableMedia, match=r"a\.jpg: these are not lines of 2 numbers"):
        bench.resolve(bench.path("a.jpg"), encoder=toy_encoder)


class Vanishing(ToyEncoder):
    """Between the look at a file and its reading, it goes."""

    def load(self, path: str) -> np.ndarray:
        os.remove(path)
        return super().load(path)


def test_a_file_that_vanishes_while_it_is_read_is_named(bench: Bench) -> None:
    write_numbers(bench.media / "a.jpg", [at(0)])
    with pytest.raises(UnreadableMedia, match=r"a\.jpg: No such file or directory"):
        bench.resolve(bench.path("a.jpg"), encoder=Vanishing)


def test_an_encoder_of_other_weights_is_refused(bench: Bench) -> None:
    """Its features fit the projection by their number only."""
    write_numbers(bench.media / "a.jpg", [at(0)])
    with pytest.raises(ModelError, match="other weights of toy-photo"):
        bench.resolve(bench.path("a.jpg"), encoder=lambda kind: toy_encoder(kind, name="newer"))


# --- folders -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_the_mean_of_what_is_indexed_below_it(bench: Bench) -> None:
    bench.add(("trip/a.jpg", 10), ("trip/deep/b.jpg", 50), ("trip2/c.jpg", 200), ("a.mp3", 30), ("b.mp3", 200))
    query = bench.resolve(bench.path("trip"))
    assert direction(query) == pytest.approx(30, abs=1e-3)
    assert query.kind is PHOTO
    assert bench.names(bench.path("trip") + "/", to=[MUSIC]) == ["a.mp3", "b.mp3"]
    assert bench.names(bench.path("trip"), to=[PHOTO]) == ["trip2/c.jpg"]


def test_a_folder_counts_as_the_kind_it_holds_more_of(bench: Bench) -> None:
    bench.add(("mixed/a.jpg", 10), ("mixed/a.mp3", 100), ("mixed/b.mp3", 120))
    query = bench.resolve(bench.path("mixed"))
    assert query.kind is MUSIC
    assert direction(query) == pytest.approx(110, abs=1e-3)


def test_what_is_gone_from_a_folder_does_not_count(bench: Bench) -> None:
    bench.add(("trip/a.jpg", 10), ("trip/b.jpg", 50))
    with bench.library.writing():
        bench.library.mark_gone(PHOTO, [item_id(bench.path("trip/b.jpg"))])
    assert direction(bench.resolve(bench.path("trip"))) == pytest.approx(10, abs=1e-3)


def test_a_folder_of_which_nothing_is_indexed(bench: Bench) -> None:
    bench.add(("trip2/a.jpg", 10))
    (bench.media / "trip").mkdir()
    with pytest.raises(LibraryError, match=r"nothing in .*trip is in the library") as caught:
        bench.resolve(bench.path("trip"))
    assert caught.value.hint == f"emoclim index {bench.path('trip')}"


# --- ranking -------------------------------------------------------------------------------------------------------------


def test_ties_are_ranked_by_path_bytes_and_the_order_of_indexing_does_not_matter(bench: Bench) -> None:
    names = ["c.mp3", "Z.mp3", "b/a.mp3", "é.mp3", "a.mp3"]
    for name in names:
        write_numbers(bench.media / name, [at(20), at(20)][: 1 + names.index(name) % 2])
        with open(bench.path(name), "a") as file:  # same direction, other content
            file.write("".join(f"{at(20)[0]!r} {at(20)[1]!r}\n" for _ in range(2 * names.index(name))))
        bench.index(MUSIC, [(bench.path(name),)])
    assert len({content_digest(bench.path(name)) for name in names}) == len(names)
    found = bench.match("happy")
    assert len({one.score for one in found}) == 1
    assert [os.path.relpath(one.item.path, bench.media) for one in found] == sorted(names, key=os.fsencode)
    assert bench.names("happy", limit=2) == sorted(names, key=os.fsencode)[:2]


def test_copies_appear_once_under_the_first_path(bench: Bench) -> None:
    bench.add(("m.mp3", 20), ("other.mp3", 40))
    for name in ("z.mp3", "b.mp3"):
        shutil.copy(bench.path("m.mp3"), bench.path(name))
        bench.index(MUSIC, [(bench.path(name),)])
    assert bench.names("happy") == ["b.mp3", "other.mp3"]
    with bench.library.writing():
        bench.library.mark_gone(MUSIC, [item_id(bench.path("b.mp3"))])
    assert bench.names("happy") == ["m.mp3", "other.mp3"]


def test_more_copies_than_are_ranked_at_first_hide_nothing(bench: Bench) -> None:
    bench.add(("a.mp3", 0), *((f"other{i}.mp3", 10 + i) for i in range(3)))
    copies = [bench.path(f"copy{i:03}.mp3") for i in range(6 * matching.FETCH_FACTOR)]
    for copy in copies:
        shutil.copy(bench.path("a.mp3"), copy)
    bench.index(MUSIC, [(copy,) for copy in copies])
    assert bench.names("happy", limit=4) == ["a.mp3", "other0.mp3", "other1.mp3", "other2.mp3"]
    assert bench.names(bench.path("a.mp3"), limit=2) == ["other0.mp3", "other1.mp3"]


def test_no_more_than_so_many_of_one_artist(bench: Bench) -> None:
    bench.add(
        *((f"a{i}.mp3", i, "Anna" if i % 2 else "ANNA") for i in range(30)),
        *((f"nobody{i}.mp3", 40 + i) for i in range(3)),
        ("b0.mp3", 50, "Björk"),
        ("b1.mp3", 51, "BJÖRK"),
    )
    assert bench.names("happy", limit=4, per_artist=1) == ["a0.mp3", "nobody0.mp3", "nobody1.mp3", "nobody2.mp3"]
    assert bench.names("happy", limit=9, per_artist=1) == ["a0.mp3", "nobody0.mp3", "nobody1.mp3", "nobody2.mp3", "b0.mp3"]
    assert bench.names("happy", limit=4, per_artist=3) == ["a0.mp3", "a1.mp3", "a2.mp3", "nobody0.mp3"]
    assert bench.names("happy", limit=4) == ["a0.mp3", "a1.mp3", "a2.mp3", "a3.mp3"]


def test_a_copy_does_not_use_up_its_artist(bench: Bench) -> None:
    bench.add(("a.mp3", 0, "Anna"), ("c.mp3", 10, "Anna"))
    shutil.copy(bench.path("a.mp3"), bench.path("b.mp3"))
    bench.index(MUSIC, [(bench.path("b.mp3"), "Anna")])
    assert bench.names("happy", per_artist=2) == ["a.mp3", "c.mp3"]


def test_a_lowest_score(bench: Bench) -> None:
    bench.add(("a.mp3", 0), ("b.mp3", 59), ("c.mp3", 61), ("d.mp3", 180))
    assert bench.names("happy", min_score=0.5) == ["a.mp3", "b.mp3"]
    assert bench.names("happy", min_score=1.0) == ["a.mp3"]
    assert bench.names("happy", min_score=-1.0) == ["a.mp3", "b.mp3", "c.mp3", "d.mp3"]
    bench.library.view(MUSIC)
    assert bench.names("tender", min_score=0.999) == []


@pytest.mark.parametrize("limit", [0, 1, 3, 100])
def test_the_limit(bench: Bench, limit: int) -> None:
    bench.add(*((f"{i}.mp3", 10 * i) for i in range(5)))
    assert bench.names("happy", limit=limit) == [f"{i}.mp3" for i in range(min(limit, 5))]


def test_both_kinds_in_one_ranking(bench: Bench) -> None:
    bench.add(("a.mp3", 10), ("b.jpg", 5), ("c.jpg", 20), ("b.mp3", 20), ("d.mp3", 40))
    assert bench.names("happy", to=[PHOTO, MUSIC]) == ["b.jpg", "a.mp3", "b.mp3", "c.jpg", "d.mp3"]
    assert bench.names("happy", to=[MUSIC, PHOTO], limit=3) == ["b.jpg", "a.mp3", "b.mp3"]


def test_what_is_gone_is_not_matched_until_it_is_back(bench: Bench) -> None:
    bench.add(("a.mp3", 0), ("b.mp3", 10))
    ids = [item_id(bench.path("a.mp3"))]
    with bench.library.writing():
        bench.library.mark_gone(MUSIC, ids)
    assert bench.names("happy") == ["b.mp3"]
    with bench.library.writing():
        bench.library.mark_gone(MUSIC, ids, gone=False)
    assert bench.names("happy") == ["a.mp3", "b.mp3"]


def test_as_a_brute_force_ranking(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    angles = {f"{i:03}.mp3": float(rng.integers(0, 360)) for i in range(120)}
    bench.add(*angles.items())
    first_of = {content_digest(bench.path(name)): name for name in sorted(angles, reverse=True)}
    for emotion in EMOTIONS:
        expected = sorted(first_of.values(), key=lambda name: (-round(math.cos(math.radians(angles[name] - angle(emotion))), 6), name))
        for limit in (1, 7, 200):
            assert bench.names(emotion, limit=limit) == expected[:limit]


# --- libraries -----------------------------------------------------------------------------------------------------------


def test_nothing_of_the_kind_is_indexed(bench: Bench) -> None:
    bench.add(("a.jpg", 10))
    with pytest.raises(LibraryError, match="no music in the library") as caught:
        bench.match("happy")
    assert caught.value.hint.startswith("emoclim index")
    assert bench.names("happy", to=[MUSIC, PHOTO]) == ["a.jpg"]
    with bench.library.writing():
        bench.library.mark_gone(PHOTO, [item_id(bench.path("a.jpg"))])
    with pytest.raises(LibraryError, match="no photos and music in the library"):
        bench.match("happy", to=[PHOTO, MUSIC])


def test_a_library_that_has_no_space_yet(tmp_path: Path) -> None:
    library = Library.create(tmp_path / "library")
    query = resolve(["sad"], library, SPACE, no_encoder)
    with pytest.raises(LibraryError, match="no music in the library"):
        match(library, SPACE, query, [MUSIC], limit=5)


def test_a_library_of_another_version_of_the_space_is_not_searched(bench: Bench) -> None:
    bench.add(("a.mp3", 10), ("a.jpg", 11))
    other = replace(SPACE, prototypes=SPACE.prototypes[::-1].copy())
    assert other.id != SPACE.id
    for text in ("sad", bench.path("a.jpg"), str(bench.media)):
        with pytest.raises(LibraryError, match="mapped by another version of the space toy") as caught:
            resolve([text], bench.library, other, no_encoder)
        assert "emoclim index" in caught.value.hint


def test_rows_of_an_earlier_space_are_neither_query_nor_match(bench: Bench) -> None:
    """An index run that was interrupted after the space had been set."""
    bench.add(("a.mp3", 10), ("a.jpg", 11))
    other = replace(SPACE, prototypes=SPACE.prototypes[::-1].copy())
    with bench.library.writing():
        bench.library.set_space(space_ref(other))
    query = resolve([bench.path("a.jpg")], bench.library, other, toy_encoder)
    with pytest.raises(LibraryError, match="no music in the library"):
        match(bench.library, other, query, [MUSIC], limit=5)
    with pytest.raises(LibraryError, match="nothing in"):
        resolve([str(bench.media)], bench.library, other, no_encoder)


def test_a_query_of_what_is_indexed_imports_neither_torch_nor_lancedb(bench: Bench) -> None:
    bench.add(("a.mp3", 10), ("a.jpg", 11))
    with bench.library.writing():
        bench.library.snapshot()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_matching import *\n"
        "assert not {'torch', 'lancedb'} & set(sys.modules)\n"
        "library = Library.open(sys.argv[2])\n"
        "query = resolve([sys.argv[3]], library, SPACE, no_encoder)\n"
        "print(match(library, SPACE, query, [MUSIC], limit=1)[0].item.path)\n"
        "assert not {'torch', 'lancedb'} & set(sys.modules)\n"
    )
    arguments = [str(Path(__file__).parent), str(bench.library.folder), bench.path("a.jpg")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.stderr == ""
    assert done.stdout == bench.path("a.mp3") + "\n"


def test_how_many_items_lie_nearest_to_each_emotion(bench: Bench) -> None:
    nothing = {"photos": dict.fromkeys(EMOTIONS, 0), "music": dict.fromkeys(EMOTIONS, 0)}
    assert emotion_counts(bench.library, SPACE) == nothing
    bench.add(("a.mp3", angle("sad") + 20), ("b.mp3", angle("sad") - 20), ("c.mp3", angle("tender")), ("a.jpg", angle("happy") - 20))
    with bench.library.writing():
        bench.library.mark_gone(MUSIC, [item_id(bench.path("c.mp3"))])
    counts = emotion_counts(bench.library, SPACE)
    assert counts["music"] == nothing["music"] | {"sad": 2}
    assert counts["photos"] == nothing["photos"] | {"happy": 1}


def test_ever_more_rows_are_ranked_until_there_are_enough(bench: Bench) -> None:
    """Copies and one artist take all the first places, more of them than are fetched at first, and at second."""
    bench.add(*((f"a{i:03}.mp3", i / 10, "Anna") for i in range(150)), ("b.mp3", 100, "Berta"), ("c.mp3", 170, "Cora"))
    assert bench.names("happy", limit=2, per_artist=1) == ["a000.mp3", "b.mp3"]
    assert bench.names("happy", limit=3, per_artist=1) == ["a000.mp3", "b.mp3", "c.mp3"]
    assert bench.names("happy", limit=4, per_artist=1) == ["a000.mp3", "b.mp3", "c.mp3"]
    assert bench.names("happy", limit=3, per_artist=1, min_score=0.5) == ["a000.mp3"]
