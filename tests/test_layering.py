"""The rooms of the house import one way only, and importing any of them does nothing else.

The table below is the rule. Imports are read from the source with `ast`, those inside functions
and under TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FOLDERS = frozenset({"ops", "backend", "graph", "frontend", "schedules", "runtime"})

ROOMS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "ops": frozenset({"errors"}),
    "backend": frozenset({"errors"}),
    "graph": frozenset({"errors", "ops"}),
    "frontend": frozenset({"errors", "graph", "ops"}),
    "schedules": frozenset({"errors", "ops", "graph", "backend"}),
    "runtime": frozenset({"errors", "backend", "ops"}),
    "bundle": FOLDERS | {"errors"},
    "compiler": FOLDERS | {"errors", "bundle"},
    "workers": frozenset({"errors"}),
    "evaluate": FOLDERS | {"errors", "compiler", "workers"},
    "tuning": FOLDERS | {"errors", "compiler", "workers"},
    "ship_schedules": FOLDERS | {"compiler", "models", "tuning", "workers"},
    "report": frozenset({"errors", "runtime"}),
    "profiling": frozenset({"errors", "ops", "backend", "runtime", "report"}),
    "selftest_programs": FOLDERS | {"errors"},
    "support": frozenset({"frontend", "graph", "schedules"}),
    # The compiler lazily: a board serves without onnx.
    "cli": frozenset(
        {
            *("errors", "backend", "runtime", "compiler", "evaluate", "report"),
            *("profiling", "selftest_programs", "tuning", "workers"),
        }
    ),
    "models": frozenset({"errors"}),
    # The lazy front door names the homes of what it offers; only type checkers follow them.
    "__init__": frozenset({"backend", "compiler", "evaluate", "runtime"}),
    "__main__": frozenset({"cli"}),
}
"""Each room and the rooms that it may import, besides itself."""

NUMPY = frozenset({"numpy"})

THIRD_PARTY: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "ops": NUMPY,
    "backend": NUMPY,
    "graph": NUMPY | {"networkx"},
    "frontend": NUMPY | {"onnx", "google", "onnxruntime"},  # google.protobuf reads ONNX
    "schedules": NUMPY,
    "runtime": NUMPY | {"pynq"},  # on a board, and only when it is used
    "bundle": NUMPY,
    "compiler": NUMPY | {"tqdm"},
    "workers": frozenset({"distributed"}),  # where a cluster is asked for
    "evaluate": NUMPY,
    "tuning": frozenset(),
    "ship_schedules": frozenset({"tqdm"}),
    "report": frozenset(),
    "profiling": NUMPY | {"plotly"},
    "selftest_programs": NUMPY,
    "support": frozenset(),
    "cli": NUMPY | {"tqdm"},
    "models": NUMPY | {"onnx", "torch"},
    "__init__": frozenset(),
    "__main__": frozenset(),
}
"""What each room may import from outside the standard library; `onnx` has one door."""

DOORS: dict[str, frozenset[str]] = {"runtime/server": frozenset({"tornado"})}
"""What a folder of a room may import besides."""


def imports(source: str, package: str) -> list[str]:
    """Absolute names of every import in a module of `package`, such as `vtaflow.ops.layout`.

    `from x import y` gives `x.y`: whether y is a module or a value, its room is the same.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            base += [node.module] if node.module else []
            found += [".".join([*base, alias.name]) for alias in node.names]
    return found


def violations(room: str, package: str, source: str) -> list[str]:
    """The imports of one module that the tables forbid to its room."""
    bad = []
    folder = package.removeprefix("vtaflow").lstrip(".").replace(".", "/")
    outside = THIRD_PARTY[room] | DOORS.get(folder, frozenset())
    for name in imports(source, package):
        top, *rest = name.split(".")
        if name == "vtaflow.__version__":
            continue
        if top == "vtaflow":
            home = rest[0] if rest and rest[0] in ROOMS else "__init__"
            if home != room and home not in ROOMS[room]:
                bad.append(name)
        elif top not in sys.stdlib_module_names and top not in outside:
            bad.append(name)
    return bad


def rooms_and_files() -> list[tuple[str, Path]]:
    """Every module of the package with its room."""
    found = [(path.stem, path) for path in sorted(ROOT.glob("*.py"))]
    for room in ROOMS:
        found += [(room, path) for path in sorted((ROOT / room).rglob("*.py"))]
    return found


@pytest.mark.parametrize(
    ("room", "path"),
    [pytest.param(r, p, id=p.relative_to(ROOT).as_posix()) for r, p in rooms_and_files()],
)
def test_imports_go_one_way(room: str, path: Path) -> None:
    assert room in ROOMS, f"{path} belongs to no room: give it a line in the table"
    package = ".".join(["vtaflow", *path.relative_to(ROOT).parent.parts])
    assert violations(room, package, path.read_text(encoding="utf-8")) == []


def test_every_room_has_both_rules() -> None:
    assert ROOMS.keys() == THIRD_PARTY.keys()


def test_the_table_has_no_cycle() -> None:
    remaining = dict(ROOMS)
    del remaining["__init__"]  # lazy: it imports nothing when it is imported
    while remaining:
        free = {room for room, allowed in remaining.items() if not allowed & remaining.keys()}
        assert free, f"a cycle among {sorted(remaining)}"
        remaining = {room: allowed for room, allowed in remaining.items() if room not in free}


@pytest.mark.parametrize(
    ("room", "package", "source", "bad"),
    [
        ("ops", "vtaflow.ops", "from ..graph import graph", "vtaflow.graph.graph"),
        ("ops", "vtaflow.ops", "def f():\n    import vtaflow.backend", "vtaflow.backend"),
        ("backend", "vtaflow.backend", "from .. import compiler", "vtaflow.compiler"),
        ("graph", "vtaflow.graph.passes", "from ...backend import isa", "vtaflow.backend.isa"),
        ("runtime", "vtaflow.runtime", "import networkx as nx", "networkx"),
        ("runtime", "vtaflow.runtime", "from tornado import web", "tornado.web"),
        ("runtime", "vtaflow.runtime.server", "import onnx", "onnx"),
        ("errors", "vtaflow", "from .ops import types", "vtaflow.ops.types"),
        ("runtime", "vtaflow.runtime", "from .. import compile", "vtaflow.compile"),
        ("schedules", "vtaflow.schedules", "if TYPE_CHECKING:\n    import onnx", "onnx"),
    ],
)
def test_the_rule_can_fail(room: str, package: str, source: str, bad: str) -> None:
    assert violations(room, package, source) == [bad]


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter that turns warnings into errors."""
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def modules_of(*rooms: str) -> list[str]:
    """Names of the modules of the rooms, without entry points and the script that needs PyTorch."""
    names = []
    for room, path in rooms_and_files():
        if room in rooms and path.stem not in ("__main__", "train_fashion_resnet"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(["vtaflow", *(p for p in parts if p != "__init__")]))
    return names


@pytest.mark.parametrize("room", ["runtime", "backend", "ops", "report", "cli"])
def test_a_board_needs_neither_onnx_nor_networkx(room: str) -> None:
    result = run(
        "import importlib, sys\n"
        "import vtaflow.runtime\n"
        f"for name in {modules_of(room)!r}:\n"
        "    importlib.import_module(name)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'onnx', 'networkx'}))"
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


WATCH = """
import importlib, sys
for name in ("numpy", "networkx", "onnx", "onnx.helper", "onnx.checker", "tqdm",
             "plotly.subplots"):
    importlib.import_module(name)
opened = []
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(str(arguments[0])))
for name in {modules!r}:
    importlib.import_module(name)
opened = [name for name in opened if "vtaflow" in name or {root!r} in name]
print([name for name in opened if ".py" not in name[-4:]] + {extra})
"""


def test_importing_reads_no_file_and_prints_nothing() -> None:
    """Python's own reading of source and byte code apart."""
    modules = modules_of(*ROOMS)
    result = run(WATCH.format(modules=modules, root=str(ROOT), extra="[]"))
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_the_watch_can_fail() -> None:
    extra = f"[open({str(ROOT / 'LICENSE')!r}).close() or opened[-1]]"
    result = run(WATCH.format(modules=["vtaflow"], root=str(ROOT), extra=extra))
    assert "LICENSE" in result.stdout
