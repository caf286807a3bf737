"""What `emoclim doctor` finds, on a machine where all is well and on ones where something is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from emoclim_cli import checks, weights
from emoclim_cli.checks import Check
from emoclim_cli.encoders import encoder_info
from emoclim_cli.encoders.devices import choose_device
from emoclim_cli.errors import ModelError
from emoclim_cli.library import Library
from emoclim_cli.projections import DEFAULT_SPACE, EmotionSpace, load_space


def shipped(tmp_path: Path) -> Callable[[], EmotionSpace]:
    return lambda: load_space(DEFAULT_SPACE, tmp_path / "no spaces")


def run(tmp_path: Path, cache: Path | None = None, library: Path | None = None) -> dict[str, Check]:
    results = checks.run(str(library or tmp_path / "no library"), cache or tmp_path / "no cache", shipped(tmp_path))
    named = {check.name: check for check in results}
    assert len(named) == len(results)
    return named


def test_all_is_well(tmp_path: Path, weights_cache: Path) -> None:
    library = Library.create(tmp_path / "library")
    found = run(tmp_path, weights_cache, library.folder)
    assert [check.name for check in found.values() if check.needed and not check.ok] == []
    assert found["torch"].detail == metadata.version("torch")
    assert found["device"].detail.startswith(choose_device().name)
    assert found["space"].detail.startswith(DEFAULT_SPACE)
    assert found["library"].detail == f"{library.folder}: 0 photos, 0 music"
    assert found["weights musicnn"] == Check("weights musicnn", True, f"ISC, in {weights_cache}", needed=found["weights musicnn"].needed)
    assert found["video"] == Check("video", True, "H.264 and AAC", needed=False)
    assert not any(check.hint for check in found.values() if check.ok)


def test_every_failure_but_one_of_an_option_comes_with_a_command(tmp_path: Path) -> None:
    for check in run(tmp_path).values():
        if not check.ok:
            assert check.detail
            assert check.hint or check.name == "codecs"


def test_absent_weights_are_needed_where_the_space_needs_them(tmp_path: Path) -> None:
    needed = [name for encoder in shipped(tmp_path)().encoders.values() for name in encoder_info(encoder).weights]
    found = run(tmp_path)
    for name in weights.WEIGHTS:
        check = found[f"weights {name}"]
        assert not check.ok
        assert check.hint == weights.WEIGHTS[name].command
        assert check.needed == (name in needed)


def test_no_library_is_no_failure(tmp_path: Path) -> None:
    check = run(tmp_path)["library"]
    assert (check.ok, check.needed, check.hint) == (False, False, "emoclim index FOLDER...")


def test_a_damaged_library_is_one(tmp_path: Path) -> None:
    library = Library.create(tmp_path / "library")
    (library.folder / "library.json").write_text("{")
    check = run(tmp_path, library=library.folder)["library"]
    assert (check.ok, check.needed) == (False, True)
    assert "library.json is damaged" in check.detail


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_library_that_cannot_be_written_is_said_to_be_read_only(tmp_path: Path) -> None:
    library = Library.create(tmp_path / "library")
    library.folder.chmod(0o555)
    try:
        assert run(tmp_path, library=library.folder)["library"].detail.endswith("; read-only")
    finally:
        library.folder.chmod(0o755)


def test_a_package_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways: it is not there, and a library of the system that it loads is not."""
    (tmp_path / "half_installed.py").write_text("import ctypes\nctypes.CDLL('no such library.so')\n")
    monkeypatch.syspath_prepend(tmp_path)
    packages = {"torch": "no_such_module", "av": "half_installed", "mutagen": "mutagen"}
    monkeypatch.setattr(checks, "PACKAGES", {**checks.PACKAGES, **packages})
    found = run(tmp_path)
    assert not found["torch"].ok
    assert "no_such_module" in found["torch"].detail
    assert not found["av"].ok
    assert "no such library.so" in found["av"].detail
    assert found["av"].hint == "pip install --force-reinstall av"
    assert found["mutagen"].ok
    assert "device" not in found  # torch tells the device
    assert "codecs" not in found  # av tells the codecs
    assert "library" in found


def test_an_extra_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "EXTRAS", {"heic": (("json", "no_such_module"), "photos in HEIC"), "raw": (("json",), "anything")})
    found = run(tmp_path)
    assert found["extra heic"] == Check("extra heic", False, "photos in HEIC", "pip install 'emoclim[heic]'", needed=False)
    assert found["extra raw"] == Check("extra raw", True, "anything", "", needed=False)


def test_the_extras_are_those_of_the_package() -> None:
    assert set(checks.EXTRAS) == set(metadata.metadata("emoclim").get_all("Provides-Extra") or ()) - {"dev", "open-clip"}


def test_a_space_that_cannot_be_loaded(tmp_path: Path) -> None:
    def no_space() -> EmotionSpace:
        raise ModelError("there is no space 'x'", "known: emoclim-1")

    found = {check.name: check for check in checks.run(str(tmp_path), tmp_path, no_space)}
    assert found["space"] == Check("space", False, "there is no space 'x'", "known: emoclim-1")
    assert not any(found[f"weights {name}"].needed for name in weights.WEIGHTS)  # nobody knows which


def test_a_check_is_json() -> None:
    check = Check("pip", False, "fetches", "python -m ensurepip", needed=False)
    as_json = {"name": "pip", "ok": False, "detail": "fetches", "hint": "python -m ensurepip", "needed": False}
    assert json.loads(json.dumps(check.as_json())) == as_json
