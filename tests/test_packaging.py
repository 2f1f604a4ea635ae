"""What is shipped: package lists, package data, registries against files, and a clean tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vtaflow.cli.verbs import ONE_SHOT, VERBS
from vtaflow.models import BUILDERS

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]

NOT_INSTALLED = ("tests", "benchmarks", "docs")
IGNORED = re.compile(
    r"\.git|\.venv|\.typing|\.\w+_cache|\.hypothesis|__pycache__|build|dist|.*\.egg-info"
)


def files(folder: Path) -> list[Path]:
    """Every file below the folder that .gitignore does not leave out."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if IGNORED.fullmatch(path.name):
            continue
        found += files(path) if path.is_dir() else [path]
    return found


TREE = [path.relative_to(ROOT) for path in files(ROOT)]


def dotted(folder: Path) -> str:
    """The package that a folder of the repository is."""
    return ".".join(["vtaflow", *folder.parts])


def shipped_packages() -> list[str]:
    """The packages in the tree, as they belong in pyproject.toml."""
    folders = {path.parent for path in TREE if path.name == "__init__.py"}
    return sorted(dotted(f) for f in folders if not f.parts or f.parts[0] not in NOT_INSTALLED)


def test_the_package_list_is_the_tree() -> None:
    assert SETUPTOOLS["packages"] == shipped_packages()


def test_every_python_file_is_in_a_package_or_not_installed() -> None:
    stray = [
        path.as_posix()
        for path in TREE
        if path.suffix == ".py"
        and path.parts[0] not in (*NOT_INSTALLED, ".ci")
        and dotted(path.parent) not in SETUPTOOLS["packages"]
    ]
    assert stray == []


def test_mypy_checks_every_module() -> None:
    """mypy descends into packages, and refuses to be told of one twice."""
    mypy = PYPROJECT["tool"]["mypy"]
    stems = [path.stem for path in TREE if path.suffix == ".py" and not path.parent.parts]
    assert mypy["modules"] == [dotted(Path(stem)).removesuffix(".__init__") for stem in stems]
    tops = {".".join(package.split(".")[:2]) for package in SETUPTOOLS["packages"]}
    assert mypy["packages"] == sorted(tops - {"vtaflow"} | {"vtaflow.tests"})


def package_data() -> dict[Path, str]:
    """The data files that pyproject.toml ships, each with the pattern that names it."""
    found = {}
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = Path(*package.split(".")[1:])
        for pattern in patterns:
            matches = [path for path in TREE if path in set(folder_glob(folder, pattern))]
            assert matches, f"package-data: {package}: {pattern!r} names no file"
            found.update(dict.fromkeys(matches, pattern))
    return found


def folder_glob(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder of the repository, relative to its root."""
    return [path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern)]


def test_every_data_file_of_a_package_is_shipped() -> None:
    rooms = {package.split(".")[1] for package in SETUPTOOLS["packages"] if "." in package}
    data = {path for path in TREE if path.parts[0] in rooms and path.suffix != ".py"}
    assert data == package_data().keys() - {Path("py.typed")}


def test_what_is_shipped_is_small() -> None:
    assert sum((ROOT / path).stat().st_size for path in TREE) < 8_000_000


# --- explicit registries ----------------------------------------------------------------------


def test_passes_are_used() -> None:
    """One pass a file, of the file's name, and each of them in the pipeline."""
    used = set()
    for path in ("compiler.py", "graph/passes/simplify.py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                used |= {alias.name for alias in node.names}
    stems = {path.stem for path in (ROOT / "graph/passes").glob("*.py")} - {"__init__"}
    assert stems - used - {"simplify"} == set()


def test_verbs_are_the_modules_of_the_command_line() -> None:
    modules = {verb.module for verb in (ONE_SHOT, *VERBS)}
    assert modules | {"__init__"} == {path.stem for path in (ROOT / "cli/verbs").glob("*.py")}


def test_builders_are_the_modules_of_models() -> None:
    assert [name for name, _ in BUILDERS] == sorted(name for name, _ in BUILDERS)
    for name, builder in BUILDERS:
        assert builder.__name__ == name
    modules = {builder.__module__.rpartition(".")[2] for _, builder in BUILDERS}
    others = {"__init__", "__main__", "onnx_writer", "random_net"}
    fashion = {"fashion_mnist", "make_sample", "train_fashion_mlp", "train_fashion_resnet"}
    assert modules | others | fashion == {path.stem for path in (ROOT / "models").glob("*.py")}


def test_every_trained_model_has_its_recipe() -> None:
    models, recipes = ({p.stem for p in (ROOT / "models").glob(f"*.{e}")} for e in ("onnx", "json"))
    assert models == recipes


# --- text -------------------------------------------------------------------------------------

MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|home|root|Users|usr/share)/\w|\.\./shared")
ALLOWED = {(".ci/run", "../shared")}
"""CI looks for third-party models beside the repository; nothing else knows of them."""


def test_no_path_of_a_machine() -> None:
    found = set()
    for path in TREE:
        if path.suffix not in (".onnx", ".npz", ".vta"):
            text = (ROOT / path).read_text(encoding="utf-8")
            found |= {(path.as_posix(), m[0]) for m in MACHINE_PATHS.finditer(text)}
    assert found - ALLOWED - {("tests/test_packaging.py", m) for m in SAMPLES} == set()


SAMPLES = ("../shared", "/work/x", "/home/x", "/usr/share/x")


@pytest.mark.parametrize("path", SAMPLES)
def test_the_pattern_can_fail(path: str) -> None:
    assert MACHINE_PATHS.search(f"see {path}/y")
    assert not MACHINE_PATHS.search("a/work/x, framework/home")


def setup_commands() -> list[str]:
    """What CI takes from README.md."""
    script = ROOT / ".ci" / "setup_commands.py"
    command = [sys.executable, str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_readme_has_exactly_two_setup_commands() -> None:
    deploy, tests = setup_commands()
    assert "pip install . " in deploy
    assert deploy.endswith("deploy models/fashion_mlp.onnx --target sim")
    assert 'pip install -e ".[dev,ort]"' in tests
    assert tests.endswith("python -m pytest")


def test_ci_fails_loudly() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
