from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emoclim_cli.errors import LibraryBusy, LibraryError, NoLibrary
from emoclim_cli.state import FORMAT, lock, read_state, unusable, write_state


def test_what_is_written_is_read(tmp_path: Path) -> None:
    state = {"format": FORMAT, "space": None, "roots": [{"path": os.fsdecode(b"/caf\xe9"), "exclude": ["*.tmp"]}]}
    write_state(tmp_path, {"format": FORMAT})
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert os.listdir(tmp_path) == ["library.json"]


def test_an_unfinished_state_changes_nothing(tmp_path: Path) -> None:
    """As a run leaves it that is killed while it writes."""
    write_state(tmp_path, {"format": FORMAT})
    (tmp_path / "library.json.unfinished").write_text('{"form')
    assert read_state(tmp_path) == {"format": FORMAT}
    write_state(tmp_path, {"format": FORMAT, "space": None})
    assert read_state(tmp_path) == {"format": FORMAT, "space": None}


def test_none_and_newer_and_damaged(tmp_path: Path) -> None:
    with pytest.raises(NoLibrary):
        read_state(tmp_path)
    with pytest.raises(NoLibrary):
        read_state(tmp_path / "nothing" / "here")
    for state, said in (({"format": FORMAT + 1}, "upgrade emoclim"), ({"format": "1"}, "upgrade emoclim"), ({}, "index again")):
        (tmp_path / "library.json").write_text(json.dumps(state))
        with pytest.raises(LibraryError) as caught:
            read_state(tmp_path)
        assert said in caught.value.hint


def test_the_lock_is_for_one_and_ends_with_its_process(tmp_path: Path) -> None:
    code = "import sys, os, time\nfrom pathlib import Path\nfrom emoclim_cli.state import lock\n"
    code += "with lock(Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(LibraryBusy, match="another emoclim is writing"), lock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with lock(tmp_path), pytest.raises(LibraryBusy), lock(tmp_path):
        pass


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(LibraryError, match="cannot be written"), lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (OSError(errno.ENOSPC, "whatever"), "No space left on device", "free some space"),
        (
            RuntimeError("lance error: Unable to copy data to file: No space left on device (os error 28), commit.rs:1"),
            "No space left",
            "free",
        ),
        (RuntimeError("LanceError(IO): Unable to open file: Permission denied (os error 13)"), "Permission denied", "permissions"),
        (OSError(errno.EROFS, "x"), "Read-only file system", "permissions"),
        (ValueError("not a manifest"), "not a manifest", ""),
        (OSError("without a number"), "without a number", ""),
    ],
)
def test_reasons_and_what_to_do(error: Exception, reason: str, hint: str) -> None:
    said = unusable(Path("/a library"), error, "used")
    assert said.message.startswith(f"the library /a library cannot be used: {reason}")
    assert hint in said.hint and bool(said.hint) == bool(hint)
    assert "commit.rs" not in said.message
