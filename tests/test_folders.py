from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from test_library import PHOTO, fill, rows_of, space_of

from emoclim_cli.folders import EDGE_BYTES, Folder, _is_torn
from emoclim_cli.library import Library


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Three commits of one row each."""
    made = Library.create(tmp_path / "library")
    with made.writing():
        made.set_space(space_of("first"))
    for path in ("/a", "/b", "/c"):
        fill(made, rows_of([path]))
    return made


def newest(library: Library, folder: str) -> Path:
    (table,) = (library.folder / "tables").iterdir()
    return max((table / folder).glob("*.manifest" if folder == "_versions" else "*.lance"), key=lambda path: path.stat().st_mtime_ns)


def tear(path: Path, zeros: bool) -> None:
    """As a power cut leaves a file whose bytes were not on the disk yet."""
    path.write_bytes(bytes(path.stat().st_size if zeros else 0))


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("folder", ["_versions", "data"])
def test_a_commit_that_a_power_cut_has_torn_is_taken_back(library: Library, folder: str, zeros: bool) -> None:
    tear(newest(library, folder), zeros)
    library = Library.open(library.folder)
    with library.writing():
        assert sorted(library.view(PHOTO).paths()) == ["/a", "/b"]
        library.upsert(PHOTO, rows_of(["/c", "/d"]))
    view = Library.open(library.folder).view(PHOTO)
    assert sorted(view.paths()) == ["/a", "/b", "/c", "/d"]
    np.testing.assert_array_equal(library.features(PHOTO, [view.id(0)])[0], library.rows(PHOTO, [view.id(0)])[view.id(0)].features)


@pytest.mark.parametrize("zeros", [True, False])
def test_a_torn_deletion(library: Library, zeros: bool) -> None:
    """Rows that are written anew are deleted in the old fragment, by a file that no manifest names."""
    fill(library, rows_of(["/d", "/e"]))
    fill(library, rows_of(["/d"], title="new"))
    (table,) = (library.folder / "tables").iterdir()
    (deletion,) = (table / "_deletions").iterdir()
    tear(deletion, zeros)
    library = Library.open(library.folder)

    def titles() -> list[str]:
        with library.writing():
            view = library.view(PHOTO)
            return sorted(view.item(row).title for row in range(len(view)))

    assert titles() == [""] * 5
    fill(library, rows_of(["/d"], title="newer"))
    assert titles() == [""] * 4 + ["newer"]


def test_all_commits_torn(library: Library) -> None:
    (table,) = (library.folder / "tables").iterdir()
    for path in (table / "data").iterdir():
        tear(path, zeros=False)
    library = Library.open(library.folder)
    with library.writing():
        assert len(library.view(PHOTO)) == 0
        library.upsert(PHOTO, rows_of(["/d"]))
    assert Library.open(library.folder).view(PHOTO).paths() == ["/d"]


def test_what_is_whole_is_not_touched(library: Library) -> None:
    (table,) = (library.folder / "tables").iterdir()
    (table / "data" / "left behind by a run that was killed.lance").touch()
    before = sorted(os.listdir(table / "_versions"))
    with library.writing():
        assert len(library.view(PHOTO)) == 3
    assert sorted(os.listdir(table / "_versions")) == before


def test_a_bitmap_of_many_deletions_is_whole_although_it_ends_in_zeros(library: Library) -> None:
    fill(library, rows_of([f"/many/{i:05}" for i in range(12_000)]))
    with library.writing():
        view = library.view(PHOTO)
        library.remove(PHOTO, [view.id(row) for row in np.flatnonzero(view.below("/many")).tolist()[:6000]])
    (table,) = (library.folder / "tables").iterdir()
    assert [path for path in (table / "_deletions").iterdir() if path.suffix == ".bin"]
    before = sorted(os.listdir(table / "_versions"))
    for name in ("_deletions", "_versions", "data"):  # the rule itself, and not only what these rows happen to give
        for path in (table / name).iterdir():
            assert not _is_torn(path)
    bitmap = library.folder / "all but the last 128.bin"
    bitmap.write_bytes(b"\x3a\x30\0\0" + bytes(8) + b"\xff" * 4000 + bytes(EDGE_BYTES))
    assert not _is_torn(bitmap)
    with library.writing():
        assert len(library.view(PHOTO)) == 6003
    assert sorted(os.listdir(table / "_versions")) == before


def test_flush_takes_every_file(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    (table,) = (library.folder / "tables").iterdir()
    flushed: set[int] = set()
    fsync = os.fsync

    def noted(number: int) -> None:
        flushed.add(os.fstat(number).st_ino)
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    Folder(library.folder).flush(table.name.removesuffix(".lance"))
    assert flushed == {path.stat().st_ino for path in table.rglob("*") if path.is_file()}
