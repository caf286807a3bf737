"""The rules of the design, as far as a machine can see them (mypy and ruff hold the others)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "emoclim_cli"
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
CORE = [name for name in MODULES if name not in ("cli", "console", "__main__") and not name.startswith("commands")]

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "manager", "misc"}
LINE_LIMIT = 450

OWNERS = {
    "lancedb": {"library"},
    "pyarrow": {"library", "rows"},
    "torch": {
        *(
            "encoders.clap",
            "encoders.clip",
            "encoders.devices",
            "encoders.torch_music",
            "losses",
            "tagging",
            "torch_checkpoints",
            "training",
            "tuning",
        ),
        *("networks.frontends", "networks.taggers", "networks.vision"),
    },
    "onnxruntime": {"encoders.music"},
    "onnx": {"conversions"},
    "safetensors": {
        "checkpoints",
        "conversions",
        "encoders.clap",
        "encoders.clip",
        "encoders.cnn",
        "projections",
        "torch_checkpoints",
        "tuning",
    },
    "scipy": {"assignment", "gallery", "spectrograms"},
    "av": {"audio", "mixing", "slideshow"},
    "cv2": {"frames"},
    "PIL": {"photos", "tags"},
    "jinja2": {"gallery"},
    "pillow_heif": {"photos", "tags"},
    "rawpy": {"photos"},
    "mutagen": {"tags"},
    "filelock": {"state", "weights"},
    "huggingface_hub": {"sources"},
    "pebble": {"workers"},
    "ray": {"clusters"},
    "obstore": {"buckets"},
    "platformdirs": {"commands.places"},
    "rich": {"console"},
    "matplotlib": {"plots"},
    "sklearn": {"plots"},
    "threadpoolctl": {"plots"},
    "typer": {
        "cli",
        *(
            name
            for name in MODULES
            if name.startswith("commands.") and name not in ("commands.__init__", "commands.labelled", "commands.places")
        ),
    },
    "librosa": {"rhythm"},
    "open_clip": set(),
    "laion_clap": set(),
    "requests": set(),
    "urllib.request": set(),
    "http": set(),
    "socket": {"clusters"},
    "pickle": set(),
}
"""Package -> the modules that may import it."""

TESTED_THROUGH = {
    "__init__": "test_cli",
    "__main__": "test_cli",
    "commands": "test_cli",
    "changes": "test_indexing",
    "rows": "test_library",
    "snapshot": "test_library",
    "buckets": "test_remote_library",
    "folders": "test_remote_library",
}
"""Module -> the tests of the one module that it is a part of; all others have a file of their own."""

TORCH_THROUGHOUT = (
    *("encoders.clap", "encoders.clip", "encoders.cnn", "encoders.torch_music", "losses", "spaces", "tagging", "training", "tuning"),
    *("networks.frontends", "networks.taggers", "networks.vision"),
)
"""What imports torch, or one that does, before it is needed."""

HEAVY = (
    *("numpy", "torch", "lancedb", "pyarrow", "onnxruntime", "onnx", "scipy", "av", "cv2", "PIL", "mutagen", "safetensors"),
    *("matplotlib", "sklearn", "librosa", "numba"),
)


def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[str]:
    """The full names of all that a module imports, at any depth."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attributes(name: str) -> Iterator[tuple[str, str]]:
    """(function around it or "", dotted name) of everything that a module reads: names and attributes of names."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            yield function, ast.unparse(node)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function)

    return walk(tree(name), "")


# --- names and layers --------------------------------------------------------------------------------------------------------------------


def test_imports_point_down_only() -> None:
    lint_imports = Path(sysconfig.get_path("scripts"), "lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_is_exhaustive() -> None:
    """Or a module that nobody has put into a layer would go unseen."""
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    assert "exhaustive = true" in text
    assert 'exhaustive_ignores = ["__main__"]' in text
    assert "ignore_imports" not in text


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {part for name in MODULES for part in name.split(".")}
    assert not parts & FORBIDDEN_NAMES


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(tree(name))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_tests(name: str) -> None:
    top = name.split(".")[0]
    tests = CHECKOUT / "tests" / f"{TESTED_THROUGH.get(top, f'test_{top}')}.py"
    assert tests.is_file()
    if not top.startswith("__"):
        text = tests.read_text(encoding="utf-8")
        through = {"commands": "cli"}.get(top, top)  # the commands are run as the installed program's
        assert re.search(rf"\bemoclim_cli(\.| import .*\b){through}\b", text), f"{tests.name} does not import {through}"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_too_long_to_be_read(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= LINE_LIMIT, f"{name} has {lines} lines: split it by noun"


# --- what the core must not do -----------------------------------------------------------------------------------------------------------

SPEAKING = {"print", "input", "exit", "quit", "breakpoint", "sys.stdout", "sys.stderr", "sys.stdin", "sys.exit", "os._exit", "sys.argv"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv", "environ", "getenv"}


@pytest.mark.parametrize("name", CORE)
def test_the_core_never_prints_and_never_exits(name: str) -> None:
    used = {used for _, used in attributes(name)}
    assert not used & SPEAKING
    assert "SystemExit" not in used
    silences = {"logging"} if name == "clusters" else set()  # what tells Ray to keep to itself
    assert not ({"sys.stdout", "sys.stderr", "sys.exit", "logging"} - silences) & set(imports(name))


@pytest.mark.parametrize("name", CORE)
def test_the_core_never_reads_the_environment(name: str) -> None:
    """But for what hands its own to pip, and what tells ONNX Runtime and Ray to keep to themselves."""
    used = [(function, used) for function, used in attributes(name) if used in ENVIRONMENT]
    known = {
        "sources": [("_pip_download", "os.environ")],
        "encoders.music": [("__init__", "os.environ")],
        "clusters": [("_quieten_before", "os.environ")] * 2,
    }
    assert used == known.get(name, [])
    assert not {"os.environ", "os.getenv", "platformdirs"} & set(imports(name))


@pytest.mark.parametrize("package", OWNERS)
def test_a_package_is_imported_by_its_owners_alone(package: str) -> None:
    users = {name for name in MODULES if any(f"{used}.".startswith(f"{package}.") for used in imports(name))}
    assert users == OWNERS[package]


def test_no_exception_is_swallowed_whole() -> None:
    """`except: pass` and its kind hide bugs."""
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{name}, line {node.lineno}"
                everything = ast.unparse(node.type) in ("Exception", "BaseException")
                assert not (everything and isinstance(node.body[0], ast.Pass)), f"{name}, line {node.lineno}"


# --- what a start costs ------------------------------------------------------------------------------------------------------------------


def loaded_after(code: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has imported after `code`."""
    code += f"\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_starts_without_what_is_heavy() -> None:
    assert loaded_after("import emoclim_cli.cli") == set()


@pytest.mark.parametrize("module", sorted({name for name in CORE if name not in TORCH_THROUGHOUT}))
def test_no_module_imports_what_is_heavy_before_it_is_needed(module: str) -> None:
    """Only the modules that are torch from end to end do, and nobody imports them but inside functions."""
    top_level = {
        alias.name if isinstance(node, ast.Import) else f"{node.module}"
        for node in tree(module).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {name.split(".")[0] for name in top_level} & (set(HEAVY) - {"numpy"})
    assert not top_level & {f"emoclim_cli.{name}" for name in TORCH_THROUGHOUT}


# --- what is in the repository -----------------------------------------------------------------------------------------------------------

# Places of the machines this was written on, and hosts that packages and models come from: a user has others. In pieces, since this file is
# in the repository, too.
PLACES = re.compile(
    "|".join(
        [
            *(rf"(?<![\w.<>*-])/{folder}/" for folder in ("work", "root", "opt/wheels", "workspace", "mnt/data")),
            *(rf"\b{name}\.org\b" for name in ("pypi", "python" + "hosted", "test.pypi")),
            *(rf"\b{name}\.(?:co|com|cn)\b" for name in ("hugging" + "face", "hf", "hf-mirror", "model" + "scope", "kag" + "gle")),
            r"(?:extra-)?index" + r"-url[= ]+\w+://(?!127\.|localhost)",
            r"\b(?:10\.\d{1,3}|192\.168)\.\d{1,3}\.\d{1,3}\b",
        ]
    )
)


def repository_files() -> list[Path]:
    """What git keeps, or will with the next `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout
    return [path for name in listed.split(b"\0") if name and (path := CHECKOUT / os.fsdecode(name)).is_file()]


def test_the_repository_names_no_machine_and_no_host() -> None:
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this is no checkout")
    files = repository_files()
    assert Path(__file__) in files
    found = []
    for path in files:
        data = path.read_bytes()
        if b"\0" in data:  # weights and pictures
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            found += [f"{path.relative_to(CHECKOUT)}:{number}: {match[0]}" for match in PLACES.finditer(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["in /wo" + "rk/x", '"/ro' + 'ot/.cache"', "https://py" + "pi.org/simple", "at hugging" + "face.co/x", "10.0." + "0.7"]
)
def test_such_places_would_be_found(text: str) -> None:
    assert PLACES.search(text)


@pytest.mark.parametrize(
    "text",
    ["staging/wo" + "rk-1/x", "home/wo" + "rk/x", "work / sha256", "torch>=2.1" + "0.0", "version 10" + ".1.2", "ro" + "ot/1.jpg"],
)
def test_other_words_are_no_places(text: str) -> None:
    assert not PLACES.search(text)


def test_no_weights_and_no_media_are_in_the_repository() -> None:
    """But for the shipped spaces, which are small."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this is no checkout")
    for path in repository_files():
        name = path.relative_to(CHECKOUT)
        limit = 4_000_000 if name.parts[0] == "models" else 500_000
        assert path.stat().st_size <= limit, name
        assert path.suffix not in {".onnx", ".pt", ".pth", ".tflite", ".whl", ".pkl", ".mp3", ".opus", ".mid"}, name
        assert path.suffix != ".safetensors" or name.parts[0] == "models", name
