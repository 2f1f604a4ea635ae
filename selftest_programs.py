"""Builds the programs of the self-test: from its cases to artifacts.

`python -m vtaflow.selftest_programs` writes the shipped ones anew; a test compares them. The
small programs are written as commands, so that each holds just what it is about; the matrix
multiply is lowered from a graph by the compiler's dense template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
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

Commands = list[Command]


def build(target: Target, name: str) -> Artifact:
    """The program of that name for a target.

    Raises a VtaflowError if the hardware is too small for it.
    """
    case = {one.__name__: one for one in CASES}[name](target)
    if name == "blocked_matmul":
        commands, buffers = _matmul(target)
    else:
        commands = [replace(one, origin=(name,)) for one in PROGRAMS[name](target)]
        buffers = _buffers(case)
    return _artifact(target, name, case, commands, buffers)


def write_all(folder: Path) -> None:
    """Build every program for the default geometry."""
    folder.mkdir(exist_ok=True)
    target = Target.load("sim")
    for case in CASES:
        build(target, case.__name__).save(folder / f"{case.__name__}.vta")


# --- the matrix multiply ------------------------------------------------------------------------


def _matmul(target: Target) -> tuple[Sequence[Command], Sequence[Buffer]]:
    layout = Layout("NC", target.batch, target.block_in)
    weight = cases.matmul_weight()
    low, high = cases.MATMUL_CLIP
    attrs = {
        "epilogue": (("shr", cases.MATMUL_SHIFT), ("max", low), ("min", high)),
        "scale": 1.0,
        "layout": layout,
        "features": weight.shape,
    }
    name = "blocked_matmul"
    node = Node(name, "VtaDense", ("x", "w"), ("y",), attrs, (name,), "vta")
    x = TensorType((target.batch, weight.shape[1]), "int8", layout, 1.0)
    constants = {"w": weight_layout(layout).pack(weight)}
    lowered = lower(Graph.build(name, {"x": x}, ["y"], [node], constants), target)
    return lowered.launches[0], lowered.buffers


# --- pieces of programs -------------------------------------------------------------------------


def each(count: int, src: int = 0) -> tuple[Loop, ...]:
    """One loop over neighbouring accumulators and, with `src` 1, over neighbouring sources."""
    return (Loop(count, dst=1, src=src),)


def _product(acc: int, inp: int, wgt: int, count: int) -> Commands:
    """ACC = INP . WGT for `count` elements and one weight tile."""
    return [
        Gemm(acc, 0, 0, each(count), reset=True),
        Gemm(acc, inp, wgt, each(count, src=1)),
    ]


def _clip(acc: int, count: int) -> Commands:
    return [
        Alu(AluOp.SHR, acc, each(count), imm=cases.ROUND_TRIP_SHIFT),
        Alu(AluOp.MAX, acc, each(count), imm=-128),
        Alu(AluOp.MIN, acc, each(count), imm=127),
    ]


def _bytes(count: int) -> Commands:
    """Store all four bytes of the accumulators from 0 on: STORE takes the lowest each time."""
    commands: Commands = [Store(0, "y", 0, count)]
    for byte in range(1, 4):
        commands.append(Alu(AluOp.SHR, 0, each(count), imm=8))
        commands.append(Store(0, "y", byte * count, count))
    return commands


# --- transfers ----------------------------------------------------------------------------------


def _copied(load: Load, count: int) -> Commands:
    """What `load` brings, moved to the accumulators from 0 on."""
    return [load, Load(Memory.WGT, 0, "eye", 0, 1), *_product(0, 0, 0, count)]


def _copy(target: Target) -> Commands:
    load = Load(Memory.INP, 0, "x", 0, ELEMENTS)
    return [*_copied(load, ELEMENTS), Store(0, "y", 0, ELEMENTS)]


def _strided_load(target: Target) -> Commands:
    load = Load(Memory.INP, 0, "x", 0, 2, rows=3, stride=5)
    return [*_copied(load, 6), Store(0, "y", 0, 6)]


def _repeated_row(target: Target) -> Commands:
    load = Load(Memory.INP, 0, "x", 0, 2, rows=3, stride=0)
    return [*_copied(load, 6), Store(0, "y", 0, 6)]


def _strided_store(target: Target) -> Commands:
    return [
        *_copied(Load(Memory.INP, 0, "x", 0, 12), 12),
        Store(0, "y", 0, 12),
        *_product(12, 0, 0, 6),
        Alu(AluOp.ADD, 12, each(6), imm=1),
        Store(12, "y", 0, 2, rows=3, stride=4),
    ]


def _padded_load(target: Target) -> Commands:
    above, below, left, right = cases.PADS
    count = (above + 2 + below) * (left + 3 + right)
    load = Load(Memory.INP, 0, "x", 0, 3, rows=2, stride=3, pads=cases.PADS)
    return [*_copied(load, count), Store(0, "y", 0, count)]


def _long_weight_burst(target: Target) -> Commands:
    depth, outputs = cases.burst(target)
    return [
        Load(Memory.INP, 0, "x", 0, depth),
        Load(Memory.WGT, 0, "w", 0, depth * outputs),
        Gemm(0, 0, 0, each(outputs), reset=True),
        Gemm(0, 0, 0, (Loop(depth, src=1, wgt=1), Loop(outputs, dst=1, wgt=depth))),
        *_bytes(outputs),
    ]


# --- the ALU ------------------------------------------------------------------------------------


def _registers(op: AluOp, target: Target) -> Commands:
    """a op b."""
    return [
        Load(Memory.ACC, 0, "a", 0, ELEMENTS),
        Load(Memory.ACC, ELEMENTS, "b", 0, ELEMENTS),
        Alu(op, 0, each(ELEMENTS, src=1), src=ELEMENTS),
        *_bytes(ELEMENTS),
    ]


def _immediates(steps: Sequence[tuple[AluOp, int]], target: Target) -> Commands:
    """a op immediate, for one group of elements after the other."""
    count = len(steps) * ELEMENTS
    operations = [
        Alu(op, group * ELEMENTS, each(ELEMENTS), imm=immediate)
        for group, (op, immediate) in enumerate(steps)
    ]
    return [Load(Memory.ACC, 0, "a", 0, count), *operations, *_bytes(count)]


NEGATIVES = (
    (AluOp.MIN, cases.NEGATIVE_MIN),
    (AluOp.MAX, cases.NEGATIVE_MAX),
    (AluOp.ADD, cases.NEGATIVE_ADD),
)


# --- GEMM and accumulators ----------------------------------------------------------------------


def _gemm_reset(target: Target) -> Commands:
    return [
        *_copied(Load(Memory.INP, 0, "x", 0, ELEMENTS), ELEMENTS),
        Store(0, "y", 0, ELEMENTS),
        Gemm(0, 0, 0, each(ELEMENTS), reset=True),
        Alu(AluOp.ADD, 0, each(ELEMENTS), imm=3),
        Store(0, "y", ELEMENTS, ELEMENTS),
    ]


def _gemm_accumulate(target: Target) -> Commands:
    return [
        Load(Memory.INP, 0, "x", 0, 2 * ELEMENTS),
        Load(Memory.WGT, 0, "w", 0, 2),
        *_product(0, 0, 0, ELEMENTS),
        Gemm(0, ELEMENTS, 1, each(ELEMENTS, src=1)),
        *_bytes(ELEMENTS),
    ]


def _loaded(count: int) -> Commands:
    """ACC = b + x . w."""
    return [
        Load(Memory.ACC, 0, "b", 0, count),
        Load(Memory.INP, 0, "x", 0, count),
        Load(Memory.WGT, 0, "w", 0, 1),
        Gemm(0, 0, 0, each(count, src=1)),
    ]


def _bias_load(target: Target) -> Commands:
    return [*_loaded(ELEMENTS), *_bytes(ELEMENTS)]


def _accumulator_wrap(target: Target) -> Commands:
    count = 2 * ELEMENTS
    add = Alu(AluOp.ADD, 0, each(count), imm=cases.WRAP_IMMEDIATE)
    return [*_loaded(count), add, *_bytes(count)]


def _accumulator_distance(target: Target) -> Commands:
    distance, waves = target.acc_dep_distance, cases.WAVES
    again = Loop(distance, dst=1, src=1)
    return [
        Load(Memory.INP, 0, "x", 0, cases.REDUCTION * distance),
        Load(Memory.WGT, 0, "w", 0, 1),
        Load(Memory.ACC, distance, "b", 0, waves * distance),
        Gemm(0, 0, 0, each(distance), reset=True),
        Gemm(0, 0, 0, (Loop(cases.REDUCTION, src=distance), again)),
        Alu(AluOp.ADD, 0, (Loop(waves, src=distance), again), src=distance),
        *_bytes(distance),
    ]


def _micro_op_loops(target: Target) -> Commands:
    instruction = (Loop(2, src=2, wgt=4), Loop(2, dst=6, wgt=2))
    kernel = (Loop(3, dst=2, src=4), Loop(2, dst=1, src=1, wgt=1))
    return [
        Load(Memory.INP, 0, "x", 0, 12),
        Load(Memory.WGT, 0, "w", 0, 8),
        Gemm(0, 0, 0, each(12), reset=True),
        Gemm(0, 0, 0, (*instruction, *kernel)),
        *_bytes(12),
    ]


# --- modules and tokens -------------------------------------------------------------------------


def _tiles(contexts: int, target: Target) -> Commands:
    """Tiles that take turns between `contexts` equal parts of each memory."""
    commands: Commands = []
    for tile in range(TILES):
        inp, wgt, acc = (
            target.depth(memory) // contexts * (tile % contexts)
            for memory in (Memory.INP, Memory.WGT, Memory.ACC)
        )
        commands += [
            Load(Memory.INP, inp, "x", tile * ELEMENTS, ELEMENTS),
            Load(Memory.WGT, wgt, "w", tile, 1),
            *_product(acc, inp, wgt, ELEMENTS),
            *_clip(acc, ELEMENTS),
            Store(acc, "y", tile * ELEMENTS, ELEMENTS),
        ]
    return commands


def _dram_round_trip(target: Target) -> Commands:
    return [
        Load(Memory.WGT, 0, "w", 0, 2),
        Load(Memory.INP, 0, "x", 0, ELEMENTS),
        *_product(0, 0, 0, ELEMENTS),
        *_clip(0, ELEMENTS),
        Store(0, "middle", 0, ELEMENTS),
        Load(Memory.INP, ELEMENTS, "middle", 0, ELEMENTS),
        *_product(ELEMENTS, ELEMENTS, 1, ELEMENTS),
        *_clip(ELEMENTS, ELEMENTS),
        Store(ELEMENTS, "y", 0, ELEMENTS),
    ]


PROGRAMS: Mapping[str, Callable[[Target], Commands]] = {
    "copy": _copy,
    "strided_load": _strided_load,
    "repeated_row": _repeated_row,
    "strided_store": _strided_store,
    "padded_load": _padded_load,
    "long_weight_burst": _long_weight_burst,
    "alu_min": partial(_registers, AluOp.MIN),
    "alu_max": partial(_registers, AluOp.MAX),
    "alu_add": partial(_registers, AluOp.ADD),
    "alu_shr": partial(_registers, AluOp.SHR),
    "alu_min_imm": partial(_immediates, ((AluOp.MIN, cases.MIN_IMMEDIATE),)),
    "alu_max_imm": partial(_immediates, ((AluOp.MAX, cases.MAX_IMMEDIATE),)),
    "alu_add_imm": partial(_immediates, ((AluOp.ADD, cases.ADD_IMMEDIATE),)),
    "alu_shr_imm": partial(_immediates, [(AluOp.SHR, shift) for shift in cases.SHIFTS]),
    "left_shift": partial(_immediates, [(AluOp.SHR, -shift) for shift in cases.LEFT_SHIFTS]),
    "negative_immediates": partial(_immediates, NEGATIVES),
    "gemm_reset": _gemm_reset,
    "gemm_accumulate": _gemm_accumulate,
    "bias_load": _bias_load,
    "accumulator_wrap": _accumulator_wrap,
    "accumulator_distance": _accumulator_distance,
    "micro_op_loops": _micro_op_loops,
    "double_buffering": partial(_tiles, 2),
    "context_reuse": partial(_tiles, 1),
    "dram_round_trip": _dram_round_trip,
}
"""The commands of every small program."""


# --- artifacts ----------------------------------------------------------------------------------


def _buffers(case: Case) -> list[Buffer]:
    """A buffer for every operand, output and activation."""
    found = []
    for name, operand in case.operands.items():
        kind, data = ("constant", operand.data) if operand.constant else ("input", None)
        found.append(Buffer(name, operand.memory, len(operand.data), kind, data))
    for name, array in case.expected.items():
        found.append(Buffer(name, Memory.OUT, len(array), "output"))
    for name, count in case.activations.items():
        found.append(Buffer(name, Memory.OUT, count, "activation"))
    return found


def _artifact(
    target: Target, name: str, case: Case, commands: Sequence[Command], buffers: Sequence[Buffer]
) -> Artifact:
    """Assemble, check and bundle; every buffer has memory of its own."""
    code = program.assemble(target, [commands], buffers, keep_intermediates=True)
    launch = code.launches[0]
    fed = [one for one, operand in case.operands.items() if not operand.constant]
    require_clean(
        target,
        program.bind(launch.insns, target, CHECK_BASE),
        base=CHECK_BASE,
        regions=code.arena.regions,
        constants=code.constants,
        origins=launch.origins,
        initialised=fed,
    )
    stream = Isa.of(target).decode_stream(launch.insns)
    origins = list(dict.fromkeys(launch.origins))
    tensors = {one: case.operands[one].data for one in fed} | dict(case.expected)
    manifest = {
        "producer": "vtaflow.selftest_programs",
        "model": {"name": name, "sha256": None},
        "target": target.to_json(),
        "fingerprint": target.fingerprint(),
        "profile": "portable",
        "batch": 1,
        "inputs": [_tensor(one, tensors[one]) for one in fed],
        "outputs": [_tensor(one, tensors[one]) for one in case.expected],
        "preprocessing": None,
        "steps": [{"kind": "launch", "index": 0, "inputs": fed, "outputs": list(case.expected)}],
        "host_constants": {},
        "launches": [
            {
                "member": "launch0.insns",
                "origins_member": "launch0.origins",
                "instructions": len(launch.insns),
                "estimated_cycles": timing.schedule(target, stream).cycles,
            }
        ],
        "origins": [list(one) for one in origins],
        "arena": {
            "bytes": code.arena.bytes,
            "keep_intermediates": False,
            "regions": [_region(one, tensors.get(one.name)) for one in code.arena.regions],
        },
        "constants": {"member": "constants.bin", "start": CONSTANTS_START},
        "layers": [],
        "placement": [],
    }
    places = np.array([origins.index(one) for one in launch.origins], "<i4")
    members = {
        "constants.bin": code.constants.tobytes(),
        "launch0.insns": launch.insns.tobytes(),
        "launch0.origins": places.tobytes(),
    }
    return Artifact.create(manifest, members, name)


def _tensor(name: str, data: Array) -> dict[str, Any]:
    """A program takes and gives elements as they lie in DRAM, under an axis for the batch."""
    shape = [1, *data.shape]
    return {"name": name, "shape": shape, "dtype": str(data.dtype), "quantisation": None}


def _region(region: Region, data: Array | None) -> dict[str, Any]:
    shape = None if data is None else [1, *data.shape]
    return {
        "name": region.name,
        "kind": region.kind,
        "memory": region.memory.name,
        "start": region.start,
        "bytes": region.bytes,
        "shape": shape,
        "logical_shape": shape,
        "dtype": None if data is None else str(data.dtype),
        "layout": None,
        "scale": None,
    }


if __name__ == "__main__":
    write_all(Path(__file__).parent / "runtime" / FOLDER)
