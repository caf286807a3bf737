from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from test_library import PHOTO, fill, rows_of, space_of

from emoclim_cli.folders import Folder
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


def test_flush_takes_every_file(library: Library) -> None:
    (table,) = (library.folder / "tables").iterdir()
    before = {path: path.read_bytes() for path in table.rglob("*") if path.is_file()}
    Folder(library.folder).flush(table.name.removesuffix(".lance"))
    assert {path: path.read_bytes() for path in table.rglob("*") if path.is_file()} == before
