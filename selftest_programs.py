"""Builds the programs of the self-test: from its cases to artifacts.

`python -m vtaflow.selftest_programs` writes the shipped ones anew; a test compares them. The
small programs are written as commands, so that each holds just what it is about; the matrix
multiply is lowered from the graph by the compiler's own template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .backend import program, timing
from .backend.artifact import Artifact
from .backend.checker import require_clean
from .backend.commands import Alu, AluOp, Buffer, Command, Gemm, Load, Loop, Memory, Store
from .backend.dram import CONSTANTS_START, Region
from .backend.isa import Isa
from .backend.target import Target
from .graph.graph import Graph, Node
from .ops.layout import Layout
from .ops.types import Array, TensorType
from .ops.vta_dense import weight_layout
from .runtime import selftest_cases as cases
from .runtime.selftest import FOLDER
from .runtime.selftest_cases import CASES, ELEMENTS, TILES, Case
from .schedules.model import lower

CHECK_BASE = 0x0100_0000
HIGH = 4096  # any bytes free of constants: where nothing else lies

Program = tuple[Sequence[Command], Sequence[Buffer]]


def build(target: Target, name: str) -> Artifact:
    """The program of that name for a target.

    Raises ScheduleError if the hardware is too small for it, StreamError if it is not clean.
    """
    case = next(case for case in CASES if case.__name__ == name)(target)
    commands, buffers = _matmul(target, case) if name == "blocked_matmul" else (
        PROGRAMS[name](target),
        [_buffer(target, *one) for one in _regions(case)],
    )
    return _artifact(target, name, case, commands, buffers)
