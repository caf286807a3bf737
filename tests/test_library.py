from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emoclim_cli import library as library_module
from emoclim_cli import rows as rows_module
from emoclim_cli import snapshot
from emoclim_cli.errors import LibraryBusy, LibraryError, NoLibrary
from emoclim_cli.library import FRAGMENTS_AT_REST, FeatureSource, Library, Root, SpaceRef
from emoclim_cli.media import MediaItem, MediaKind, item_id
from emoclim_cli.rows import Row, SkippedFile
from emoclim_cli.snapshot import View, raw_ids

PHOTO, MUSIC = MediaKind.PHOTO, MediaKind.MUSIC
SOURCES = {PHOTO: FeatureSource("toy", "0123456789abcdef", 12), MUSIC: FeatureSource("one+two", "77", 7)}


def space_of(name: str, dim: int = 5) -> SpaceRef:
    return SpaceRef(f"id-of-{name}", name, dim, SOURCES)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rows_of(paths: Sequence[str], kind: MediaKind = PHOTO, dim: int = 5, seed: int = 0, **details: str) -> list[Row]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(paths), SOURCES[kind].dim)).astype(np.float32)
    emotion = unit(rng.normal(size=(len(paths), dim)))
    return [Row(MediaItem(path, kind, 100 + i, 1000 + i, **details), f"{i:032x}", features[i], emotion[i]) for i, path in enumerate(paths)]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    made = Library.create(tmp_path / "library")
    with made.writing():
        made.set_space(space_of("first"))
    return made


def fill(library: Library, rows: Sequence[Row], kind: MediaKind = PHOTO) -> View:
    with library.writing():
        library.upsert(kind, rows)
    return library.view(kind)


class TestFolder:
    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(NoLibrary) as caught:
            Library.open(tmp_path / "nothing")
        assert caught.value.exit_code == 3
        assert caught.value.hint.startswith("emoclim index")

    def test_create_opens_what_is_there(self, library: Library) -> None:
        with library.writing():
            library.set_roots([Root("/a")])
        assert Library.create(library.folder).roots == (Root("/a"),)

    def test_create_refuses_a_folder_with_other_things(self, tmp_path: Path) -> None:
        (tmp_path / "holiday.jpg").touch()
        with pytest.raises(LibraryError, match="not empty"):
            Library.create(tmp_path)
        assert os.listdir(tmp_path) == ["holiday.jpg"]

    def test_create_where_nothing_can_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(LibraryError, match="cannot be made"):
            Library.create(tmp_path / "file" / "library")

    def test_newer_format(self, library: Library) -> None:
        state = json.loads((library.folder / "library.json").read_text())
        (library.folder / "library.json").write_text(json.dumps({**state, "format": state["format"] + 1}))
        with pytest.raises(LibraryError, match="format 2") as caught:
            Library.open(library.folder)
        assert caught.value.hint == "upgrade emoclim"

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "x"}', "\xff"])
    def test_damaged_state(self, library: Library, text: str) -> None:
        (library.folder / "library.json").write_text(text, encoding="latin-1")
        with pytest.raises(LibraryError, match=r"library"):
            Library.open(library.folder)

    def test_roots_keep_names_that_are_not_utf8(self, library: Library) -> None:
        roots = (Root(os.fsdecode(b"/caf\xe9"), ("*.tmp", os.fsdecode(b"\xff*"))), Root('/with\nnewline and "quote" it\'s'))
        with library.writing():
            library.set_roots(roots)
        assert Library.open(library.folder).roots == roots

    def test_the_folder_may_have_any_name(self, tmp_path: Path) -> None:
        library = Library.create(tmp_path / "a %20b#c?é 'quoted'")
        with library.writing():
            library.set_space(space_of("first"))
        assert len(fill(library, rows_of(["/a", "/b"]))) == 2

    def test_second_writer_is_told(self, library: Library) -> None:
        other = Library.open(library.folder)
        with library.writing():
            with library.writing():
                pass
            with pytest.raises(LibraryBusy, match="another emoclim"), other.writing():
                pass
            assert other.view(PHOTO) is not None  # readers go on
        with other.writing():
            pass

    def test_a_writer_knows_what_the_last_one_wrote(self, library: Library) -> None:
        other = Library.open(library.folder)
        with library.writing():
            library.set_roots([Root("/a")])
        with other.writing():
            other.set_roots([*other.roots, Root("/b")])
        assert Library.open(library.folder).roots == (Root("/a"), Root("/b"))

    def test_writing_needs_the_lock(self, library: Library) -> None:
        with pytest.raises(RuntimeError):
            library.upsert(PHOTO, rows_of(["/a"]))


class TestRows:
    def test_what_goes_in_comes_out(self, library: Library) -> None:
        path = os.fsdecode(b"/caf\xe9 'q' \"d\"\n\\.jpg")
        row = Row(
            MediaItem(path, MUSIC, 1 << 40, 1_700_000_000_123_456_789, "tïtle", "a'b", "c", 12.34, ""), "ab" * 16, np.ones(7), np.eye(5)[2]
        )
        view = fill(library, [row], MUSIC)
        assert view.item(0) == row.item
        assert view.id(0) == item_id(path)
        assert view.paths() == [path]
        assert view.content.tobytes().hex() == "ab" * 16
        np.testing.assert_array_equal(view.emotion, [[0, 0, 1, 0, 0]])
        back = library.rows(MUSIC, [item_id(path)])[item_id(path)]
        assert (back.item, back.content) == (row.item, row.content)
        np.testing.assert_array_equal(back.features, np.ones(7))
        np.testing.assert_array_equal(back.emotion, np.eye(5)[2])

    def test_text_that_utf8_cannot_hold_costs_no_batch(self, library: Library) -> None:
        view = fill(library, rows_of(["/a"], title="caf\udce9\0"))
        assert view.item(0).title == "caf\\udce9\0"

    def test_view_is_sorted_and_found(self, library: Library) -> None:
        paths = [f"/p/{i}.jpg" for i in range(300)]
        rows = rows_of(paths)
        view = fill(library, rows)
        assert view.ids.tolist() == sorted(view.ids.tolist())
        found = view.find([*map(item_id, paths), item_id("/unknown")])
        assert found[-1] == -1
        assert [view.path(row) for row in found[:-1]] == paths
        assert [view.item(row) for row in found[:-1]] == [row.item for row in rows]
        np.testing.assert_array_equal(view.emotion[found[:-1]], [row.emotion for row in rows])
        assert view.size[found[:-1]].tolist() == [row.item.size for row in rows]
        assert View.empty().find([item_id("/a")]).tolist() == [-1]
        assert view.find([]).tolist() == []

    def test_ids_that_end_in_zero_bytes(self) -> None:
        ids = ["00" * 16, "ab" + "00" * 15, "ab" + "00" * 14 + "01", "ab" * 16]
        view = View.empty()
        view = View(**{**vars(view), "ids": raw_ids(ids)})
        assert view.find(ids).tolist() == [0, 1, 2, 3]
        assert [view.id(row) for row in range(4)] == ids

    def test_upsert_replaces(self, library: Library) -> None:
        fill(library, rows_of(["/a", "/b"]))
        with library.writing():
            library.mark_gone(PHOTO, [item_id("/a")])
        view = fill(library, rows_of(["/a", "/a"], seed=9, title="new"))
        assert len(view) == 2
        row = int(view.find([item_id("/a")])[0])
        assert view.item(row).title == "new"
        assert not view.gone.any()

    def test_features_in_the_order_asked(self, library: Library) -> None:
        rows = rows_of(["/a", "/b", "/c"])
        fill(library, rows)
        features = library.features(PHOTO, [item_id("/c"), item_id("/a")])
        np.testing.assert_array_equal(features, [rows[2].features, rows[0].features])
        with pytest.raises(LibraryError, match="1 of 2 photo"):
            library.features(PHOTO, [item_id("/c"), item_id("/x")])

    def test_mark_touch_remove_forget(self, library: Library) -> None:
        rows = rows_of(["/a", "/b", "/c"])
        fill(library, rows)
        a, b, c = map(item_id, ("/a", "/b", "/c"))
        with library.writing():
            library.mark_gone(PHOTO, [a, c, c])
            assert library.view(PHOTO).gone[library.view(PHOTO).find([a, b, c])].tolist() == [True, False, True]
            library.mark_gone(PHOTO, [a], gone=False)
            library.touch(PHOTO, {c: (5, 6)})
            view = library.view(PHOTO)
            found = view.find([a, b, c])
            assert not view.gone.any()
            assert (view.size[found[2]], view.mtime_ns[found[2]]) == (5, 6)
            np.testing.assert_array_equal(library.features(PHOTO, [c])[0], rows[2].features)
            library.remove(PHOTO, [a, "00" * 16])
            library.skip([SkippedFile("/b", PHOTO, 1, 1, "bad")])
            library.forget([b])
        assert library.view(PHOTO).paths() == ["/c"]
        assert library.skipped_files() == []

    def test_rows_that_do_not_exist_are_not_made(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        with library.writing():
            library.mark_gone(PHOTO, [item_id("/x")])
            library.touch(PHOTO, {item_id("/y"): (1, 1)})
        assert library.view(PHOTO).paths() == ["/a"]

    def test_skipped(self, library: Library) -> None:
        bad = os.fsdecode(b"/caf\xe9.mp3")
        with library.writing():
            library.skip([SkippedFile("/z", PHOTO, 10, 20, "old"), SkippedFile(bad, MUSIC, 1, 2, "no audio \udcff")])
            library.skip([SkippedFile("/z", PHOTO, 11, 21, "truncated")])
        assert library.skipped_files() == [
            SkippedFile(bad, MUSIC, 1, 2, "no audio \\udcff"),
            SkippedFile("/z", PHOTO, 11, 21, "truncated"),
        ]
        with library.writing():
            library.unskip([item_id(bad)])
        assert [file.path for file in library.skipped_files()] == ["/z"]

    def test_another_encoder_costs_no_features(self, library: Library) -> None:
        rows = rows_of(["/a", "/b"])
        fill(library, rows)
        other = SpaceRef("other", "other", 3, {**SOURCES, PHOTO: FeatureSource("larger", "ffff", 20)})
        with library.writing():
            library.set_space(other)
            assert len(library.view(PHOTO)) == 0
            library.set_space(space_of("first"))
        assert len(library.view(PHOTO)) == 2

    def test_other_weights_of_an_encoder_are_another_source(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        assert len(library.view(PHOTO, FeatureSource("toy", "fedcba9876543210", 12))) == 0

    def test_many_commits_are_compacted(self, library: Library) -> None:
        rows = rows_of([f"/{i}" for i in range(60)])
        with library.writing():
            for row in rows:
                library.upsert(PHOTO, [row])
            table = library.folder / "tables" / "photo.toy.01234567.lance"
            library.compact()
            assert len(library.view(PHOTO)) == 60
            assert len(library.rows(PHOTO, [row.item.id for row in rows])) == 60
            import lancedb

            stats = lancedb.connect(table.parent).open_table("photo.toy.01234567").stats()
            assert stats["fragment_stats"]["num_fragments"] == 1


class TestSearch:
    def test_like_brute_force(self, library: Library) -> None:
        rows = rows_of([f"/{i}" for i in range(200)])
        view = fill(library, rows)
        query = np.random.default_rng(5).normal(size=5) * 7
        expected = sorted(rows, key=lambda row: -float(row.emotion @ query) / float(np.linalg.norm(query)))[:10]
        found, scores = view.search(query, 10)
        assert [view.path(row) for row in found] == [row.item.path for row in expected]
        np.testing.assert_allclose(scores, [float(row.emotion @ query) / np.linalg.norm(query) for row in expected], atol=2e-6)
        assert len(view.search(query)[0]) == 200
        assert len(view.search(query, 0)[0]) == 0
        among = np.zeros(200, bool)
        among[[3, 7]] = True
        assert sorted(view.search(query, 10, among)[0].tolist()) == [3, 7]

    def test_ties_go_by_path_at_every_length(self, library: Library) -> None:
        rows = rows_of([f"/{i:04}" for i in range(999)])
        same = [Row(row.item, row.content, row.features, rows[0].emotion) for row in rows]
        view = fill(library, same)
        for k in (1, 2, 500, 998, None):
            found, scores = view.search(rows[0].emotion, k)
            assert [view.path(row) for row in found] == sorted(view.paths())[:k]
            assert (scores == 1).all()

    def test_only_present_rows_of_the_current_space(self, library: Library) -> None:
        rows = rows_of(["/a", "/b", "/c"])
        fill(library, rows)
        with library.writing():
            library.mark_gone(PHOTO, [item_id("/b")])
            view = library.view(PHOTO)
            assert sorted(view.path(row) for row in view.search(rows[1].emotion, 5)[0]) == ["/a", "/c"]
            library.set_space(space_of("second"))
        view = library.view(PHOTO)
        assert len(view) == 3
        assert len(view.search(rows[1].emotion, 5)[0]) == 0
        assert len(View.empty().search(rows[1].emotion, 5)[0]) == 0

    def test_a_query_of_zeros(self, library: Library) -> None:
        view = fill(library, rows_of(["/a", "/b"]))
        assert view.search(np.zeros(5), 5)[1].tolist() == [0, 0]


class TestRemap:
    matrix = np.random.default_rng(3).normal(size=(12, 5)).astype(np.float32)

    def project(self, features: np.ndarray) -> np.ndarray:
        return unit(features @ self.matrix)

    def check(self, library: Library, rows: Sequence[Row], matrix: np.ndarray) -> None:
        view = library.view(PHOTO)
        assert view.current.all()
        found = view.find([row.item.id for row in rows])
        np.testing.assert_allclose(view.emotion[found], unit(np.stack([row.features for row in rows]) @ matrix), atol=1e-6)

    def test_all_rows_and_nothing_twice(self, library: Library) -> None:
        rows = rows_of([f"/{i}" for i in range(50)])
        fill(library, rows)
        with library.writing():
            library.mark_gone(PHOTO, [item_id("/7")])
            library.set_space(space_of("second"))
            assert not library.view(PHOTO).current.any()
            assert library.remap(PHOTO, self.project) == 50
            assert library.remap(PHOTO, self.project) == 0
            assert library.remap(MUSIC, self.project) == 0
        self.check(library, rows, self.matrix)
        assert library.view(PHOTO).gone.sum() == 1

    def test_another_width_and_back(self, library: Library) -> None:
        rows = rows_of([f"/{i}" for i in range(20)])
        fill(library, rows)
        wide = np.random.default_rng(4).normal(size=(12, 9)).astype(np.float32)
        with library.writing():
            library.set_space(space_of("wide", 9))
            assert library.remap(PHOTO, lambda features: unit(features @ wide)) == 20
            self.check(library, rows, wide)
            library.upsert(PHOTO, rows_of(["/new"], dim=9))
            library.set_space(space_of("first"))
            library.upsert(PHOTO, rows_of(["/newer"]))  # makes the column narrow again, before anything is mapped
            assert library.view(PHOTO).current.sum() == 1
            assert library.remap(PHOTO, self.project) == 21
        self.check(library, rows, self.matrix)

    def test_interrupted_half_way(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("emoclim_cli.library.ROWS_PER_REMAP", 16)
        rows = rows_of([f"/{i}" for i in range(64)])
        fill(library, rows)
        calls = 0

        def interrupted(features: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt
            return self.project(features)

        with library.writing():
            library.set_space(space_of("second"))
            with pytest.raises(KeyboardInterrupt):
                library.remap(PHOTO, interrupted)
        library = Library.open(library.folder)
        view = library.view(PHOTO)
        assert 0 < view.current.sum() < 64
        found, scores = view.search(np.ones(5), 64)
        assert len(found) == view.current.sum()
        expected = view.emotion[found] @ (np.ones(5) / np.sqrt(5))
        np.testing.assert_allclose(scores, expected, atol=2e-6)
        with library.writing():
            assert library.remap(PHOTO, self.project) == 64 - view.current.sum()
        self.check(library, rows, self.matrix)


class TestSnapshot:
    def folder(self, library: Library) -> Path:
        return library.folder / "snapshots" / "photo.toy.01234567"

    def test_is_written_once_per_version_and_replaced(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        (first,) = os.listdir(self.folder(library))
        fill(library, rows_of(["/b"]))
        (second,) = os.listdir(self.folder(library))
        assert first != second

    def test_stale_or_deleted_or_damaged_is_made_again(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        with library.writing():
            library.upsert(PHOTO, rows_of(["/b"]))  # no reader yet: the snapshot is older than the table
        assert sorted(Library.open(library.folder).view(PHOTO).paths()) == ["/a", "/b"]
        shutil.rmtree(library.folder / "snapshots")
        assert sorted(Library.open(library.folder).view(PHOTO).paths()) == ["/a", "/b"]
        (name,) = os.listdir(self.folder(library))
        for damage in (b"", b"\x93NUMPY"):
            (self.folder(library) / name / "ids.npy").write_bytes(damage)
            assert sorted(Library.open(library.folder).view(PHOTO).paths()) == ["/a", "/b"]
        (self.folder(library) / name / "emotion.npy").unlink()
        assert sorted(Library.open(library.folder).view(PHOTO).paths()) == ["/a", "/b"]
        assert os.listdir(self.folder(library)) == [name]

    def test_a_table_made_anew_is_not_taken_for_the_old_one(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        shutil.rmtree(library.folder / "tables")
        assert fill(Library.open(library.folder), rows_of(["/b"])).paths() == ["/b"]

    def test_a_library_that_cannot_be_written_is_read(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        shutil.rmtree(library.folder / "snapshots")
        (library.folder / "snapshots").write_text("in the way")  # fails for root too, which permissions do not
        assert Library.open(library.folder).view(PHOTO).paths() == ["/a"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
    def test_a_read_only_folder(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        shutil.rmtree(library.folder / "snapshots")
        folders = [Path(folder) for folder, _, _ in os.walk(library.folder)]
        for folder in folders:
            folder.chmod(0o555)
        try:
            assert Library.open(library.folder).view(PHOTO).paths() == ["/a"]
            with pytest.raises(LibraryError, match="cannot be written"), library.writing():
                pass
        finally:
            for folder in folders:
                folder.chmod(0o755)

    def test_reading_needs_no_lancedb(self, library: Library) -> None:
        fill(library, rows_of(["/a", "/b"]))
        with library.writing():
            library.skip([SkippedFile("/z", PHOTO, 10, 20, "bad")])
            library.snapshot()
        code = """if True:
            import sys
            from emoclim_cli.library import Library, MediaKind
            library = Library.open(sys.argv[1])
            view = library.view(MediaKind.PHOTO)
            rows, _ = view.search(view.emotion[0], 2)
            assert len(library.skipped_files()) == 1 and len(rows) == 2
            view.item(0)
            assert not {"lancedb", "pyarrow", "torch", "filelock"} & set(sys.modules)
        """
        subprocess.run([sys.executable, "-W", "error", "-c", code, str(library.folder)], check=True)

    def test_both_ways_of_naming_versions(self, tmp_path: Path) -> None:
        assert snapshot.latest_version(tmp_path) is None
        versions = tmp_path / "_versions"
        versions.mkdir()
        for number in (1, 9, 10):
            (versions / f"{number}.manifest").write_text(str(number))
        (versions / "d99.manifest").touch()
        (versions / "11.manifest-tmp").touch()
        assert (found := snapshot.latest_version(tmp_path)) is not None
        assert found.number == 10
        for number in (11, 12):
            (versions / f"{2**64 - 1 - number:020}.manifest").write_text(str(number))
        assert (found := snapshot.latest_version(tmp_path)) is not None
        assert found.number == 12

    def test_the_number_is_the_one_that_lancedb_says(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        with library.writing():
            library.mark_gone(PHOTO, [item_id("/a")])
        import lancedb

        table = lancedb.connect(library.folder / "tables").open_table("photo.toy.01234567")
        found = snapshot.latest_version(library.folder / "tables" / "photo.toy.01234567.lance")
        assert found is not None
        assert found.number == table.version

    def test_an_abandoned_temporary_folder_goes(self, library: Library) -> None:
        fill(library, rows_of(["/a"]))
        old, young = self.folder(library) / "unfinished-1", self.folder(library) / "unfinished-2"
        old.mkdir()
        young.mkdir()
        os.utime(old, (1, 1))
        fill(library, rows_of(["/b"]))
        assert not old.exists()
        assert young.exists()


def test_damaged_tables_are_a_library_error(library: Library) -> None:
    fill(library, rows_of(["/a"]))
    for manifest in (library.folder / "tables" / "photo.toy.01234567.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"rubbish")
    with pytest.raises(LibraryError, match="cannot be used"):
        Library.open(library.folder).view(PHOTO)


def test_a_run_that_died_while_the_vectors_changed_width(library: Library) -> None:
    rows = rows_of(["/a", "/b"])
    fill(library, rows)
    import lancedb

    lancedb.connect(library.folder / "tables").open_table("photo.toy.01234567").drop_columns(["emotion"])
    library = Library.open(library.folder)
    view = library.view(PHOTO)
    assert (len(view), view.current.sum(), len(view.search(np.ones(5))[0])) == (2, 0, 0)
    with library.writing():
        assert library.remap(PHOTO, lambda features: unit(features[:, :5])) == 2
    assert library.view(PHOTO).current.all()


class TestLargeTable:
    """What is only done for many rows, with few."""

    def test_an_index_of_ids_changes_nothing_but_the_time(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library_module, "ROWS_INDEXED", 20)
        monkeypatch.setattr(library_module, "FRAGMENTS_AT_WORK", 6)
        rng = np.random.default_rng(0)
        known: dict[str, tuple[int, bool]] = {}
        with library.writing():
            for step in range(40):
                paths = sorted({f"/{n}" for n in rng.integers(0, 80, 6).tolist()})
                ids = [item_id(path) for path in paths]
                match step % 4:
                    case 0 | 1:
                        library.upsert(PHOTO, [replace(row, item=replace(row.item, size=step)) for row in rows_of(paths)])
                        known |= dict.fromkeys(paths, (step, False))
                    case 2:
                        library.mark_gone(PHOTO, ids)
                        known |= {path: (known[path][0], True) for path in paths if path in known}
                    case _:
                        library.remove(PHOTO, ids[:2])
                        known = {path: state for path, state in known.items() if path not in paths[:2]}
                view = library.view(PHOTO)
                found = zip(view.paths(), zip(view.size.tolist(), view.gone.tolist(), strict=True), strict=True)
                assert sorted(found) == sorted(known.items())
            (index,) = library._tables["photo.toy.01234567"].list_indices()
            assert index.columns == ["id"]
            assert set(library.rows(PHOTO, [item_id(path) for path in known])) == set(map(item_id, known))

    def test_a_large_table_may_have_more_fragments(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        def fragments() -> int:
            return int(library._tables["photo.toy.01234567"].stats()["fragment_stats"]["num_fragments"])

        def commits(first: int, count: int) -> None:
            for i in range(first, first + count):
                library.upsert(PHOTO, rows_of([f"/{i}"]))

        monkeypatch.setattr(library_module, "ROWS_PER_FRAGMENT", 10)
        with library.writing():
            library.upsert(PHOTO, rows_of([f"/row {i}" for i in range(200)]))
            commits(0, FRAGMENTS_AT_REST + 20)
            library.compact()
            assert fragments() == FRAGMENTS_AT_REST + 21
            commits(1000, 10)
            library.compact()
            assert fragments() == 1


class TestSketchedSearch:
    """A view of many rows, made with few: the result is that of a search without a sketch."""

    @pytest.fixture
    def view(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> View:
        monkeypatch.setattr(rows_module, "SKETCHED_ROWS", 100)
        rng = np.random.default_rng(4)
        rows = rows_of([f"/{n}" for n in rng.permutation(3000).tolist()], dim=40)
        centres = rng.normal(size=(7, 40))
        emotion = unit(centres[rng.integers(0, 7, 3000)] + 0.2 * rng.normal(size=(3000, 40)))
        emotion[1000:1200] = emotion[0]  # copies
        rows = [replace(row, emotion=vector) for row, vector in zip(rows, emotion, strict=True)]
        with library.writing():
            library.set_space(space_of("other", 40))
            library.upsert(PHOTO, rows[:300])
            library.set_space(space_of("first", 40))
            library.upsert(PHOTO, rows[300:])
            library.mark_gone(PHOTO, [row.item.id for row in rows[400:500]])
        library.snapshot()
        return Library.open(library.folder).view(PHOTO)

    def test_it_is_kept_in_the_snapshot(self, library: Library, view: View) -> None:
        assert view.sketch is not None
        made = library.view(PHOTO).sketch
        assert made is not None
        np.testing.assert_array_equal(view.sketch.rows, made.rows)
        np.testing.assert_array_equal(view.sketch.axes, made.axes)
        assert view.searchable_count == view.searchable.sum() == 2600

    @pytest.mark.parametrize("k", [1, 5, 50, 150, 250, 374, 375, 2599, 2600, 5000, None])
    @pytest.mark.parametrize("share", [None, 1.0, 0.5, 0.1, 0.003, 0.0])
    def test_as_without_it(self, view: View, k: int | None, share: float | None) -> None:
        rng = np.random.default_rng(0)
        plain = replace(view, sketch=None)
        copied = view.emotion[view.find([item_id("/" + str(np.random.default_rng(4).permutation(3000)[1100]))])[0]]
        for query in [*rng.normal(size=(4, 40)), *view.emotion[rng.integers(0, 3000, 3)], copied, np.zeros(40)]:
            among = None if share is None else rng.random(3000) < share
            found, scores = view.search(query, k, among)
            expected, expected_scores = plain.search(query, k, among)
            np.testing.assert_allclose(scores, expected_scores, atol=2e-6)
            assert found.tolist() == expected.tolist()

    def test_by_brute_force(self, view: View) -> None:
        eligible = [row for row in range(3000) if not view.gone[row] and view.spaces[view.space_index[row]] == "id-of-first"]
        for query in view.emotion[::500]:
            cosines = {row: round(float(view.emotion[row].astype(np.float64) @ query.astype(np.float64)), 6) for row in eligible}
            expected = sorted(eligible, key=lambda row: (-cosines[row], view.path_bytes[row]))[:60]
            found, scores = view.search(query, 60)
            np.testing.assert_allclose(scores, [cosines[row] for row in expected], atol=2e-6)
            assert len(set(found.tolist()) ^ set(expected)) <= 2  # the last place may be a matter of the seventh decimal

    def test_it_compares_a_part_of_the_rows(self, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
        compared = []
        products = View._products
        monkeypatch.setattr(View, "_products", lambda self, rows, unit: compared.append(len(rows)) or products(self, rows, unit))
        view.search(view.emotion[5], 5)
        assert compared[0] < 1000


def test_which_rows_are_below_a_folder(library: Library) -> None:
    paths = ["/a/b", "/a/b/c", "/a/bc", "/a/b/d/e", "/a", "/b/a/b/x", os.fsdecode(b"/a/b/\xff"), "/a/b/é", "/z/" + "long" * 500]
    view = fill(library, rows_of(paths))
    for folder in ("/a/b", "/a/b/", "/a", "/", "/nothing", "/z", "/a/b/é", "/" + "x" * 5000):
        inside = {path for path in paths if path.startswith(folder.rstrip("/") + "/")}
        assert {view.path(row) for row in np.flatnonzero(view.below(folder))} == inside
    assert not View.empty().below("/a").any()


def test_details_of_every_kind_survive_the_snapshot(library: Library) -> None:
    rows = rows_of(["/1", "/2", "/3"])
    about = [{"title": "a", "artist": "Ä", "album": "", "taken": "2020-01-01T00:00:00"}, {}, {"title": "\u200d日本", "duration_s": 1e-3}]
    rows = [replace(row, item=replace(row.item, **detail)) for row, detail in zip(rows, about, strict=True)]
    fill(library, rows)
    view = Library.open(library.folder).view(PHOTO)
    assert sorted((view.item(row) for row in range(3)), key=lambda item: item.path) == [row.item for row in rows]


def test_a_view_is_the_same_until_something_changes(library: Library) -> None:
    """What it has worked out, the rows that can be searched, is then there for the next query."""
    fill(library, rows_of(["/a"]))
    first = library.view(PHOTO)
    assert library.view(PHOTO) is first
    with library.writing():
        library.set_space(space_of("second"))
    assert library.view(PHOTO) is not first
    assert not library.view(PHOTO).searchable.any()
