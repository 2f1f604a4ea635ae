"""The assembler: tokens, relocation, provenance; the independent checker is the judge."""

from __future__ import annotations

import numpy as np
import pytest

from vtaflow.backend import program
from vtaflow.backend.checker import check
from vtaflow.backend.commands import Alu, AluOp, Buffer, Command, Gemm, Load, Loop, Memory, Store
from vtaflow.backend.isa import Isa, Opcode
from vtaflow.backend.target import Target

TARGET = Target.load("sim")
BASE = 0x0100_0000


def copy_commands(tiles: int, source: str, result: str, origin: str) -> list[Command]:
    """Move `tiles` tiles of 4 elements through an identity GEMM in two contexts."""
    commands: list[Command] = [Load(Memory.WGT, 0, "identity", 0, 1, origin=(origin,))]
    for tile in range(tiles):
        inp, acc = 8 * (tile % 2), 16 * (tile % 2)
        loops = (Loop(4, dst=1, src=1),)
        commands += [
            Load(Memory.INP, inp, source, 4 * tile, 4, origin=(origin,)),
            Gemm(acc, 0, 0, (Loop(4, dst=1),), reset=True, origin=(origin,)),
            Gemm(acc, inp, 0, loops, origin=(origin,)),
            Alu(AluOp.MAX, acc, (Loop(4, dst=1),), imm=-128, origin=(origin,)),
            Store(acc, result, 4 * tile, 4, origin=(origin,)),
        ]
    return commands


def buffers(tiles: int, *names: tuple[str, str]) -> list[Buffer]:
    identity = np.eye(16, dtype=np.int8)
    return [
        Buffer("identity", Memory.WGT, 1, "constant", identity),
        *(Buffer(name, Memory.OUT, 4 * tiles, kind) for name, kind in names),
    ]


def findings(code: program.Program, initialised: tuple[str, ...]) -> list[str]:
    launch = code.launches[0]
    found = check(
        TARGET,
        program.bind(launch.insns, TARGET, BASE),
        base=BASE,
        regions=code.arena.regions,
        constants=code.constants,
        origins=launch.origins,
        initialised=initialised,
    )
    return [finding.rule for finding in found]


@pytest.mark.parametrize("tiles", [1, 2, 3, 7])
def test_a_chain_of_two_layers_is_clean(tiles: int) -> None:
    commands = copy_commands(tiles, "x", "h", "first") + copy_commands(tiles, "h", "y", "second")
    names = (("x", "input"), ("h", "activation"), ("y", "output"))
    code = program.assemble(TARGET, [commands], buffers(tiles, *names))
    assert findings(code, ("x",)) == []


def test_reused_memory_waits_for_its_readers() -> None:
    """x, h, g, y in a row: y may take h's place, and must not overtake the loads of h."""
    commands = [
        command
        for source, result in ("xh", "hg", "gy")
        for command in copy_commands(3, source, result, f"{source} to {result}")
    ]
    names = (("x", "input"), ("h", "activation"), ("g", "activation"), ("y", "output"))
    code = program.assemble(TARGET, [commands], buffers(3, *names))
    starts = {region.name: region.start for region in code.arena.regions}
    assert len({starts[name] for name in "xhgy"}) < 4
    assert findings(code, ("x",)) == []
    apart = program.assemble(TARGET, [commands], buffers(3, *names), keep_intermediates=True)
    assert len({region.start for region in apart.arena.regions}) == len(apart.arena.regions)
    assert findings(apart, ("x",)) == []


def test_every_instruction_names_its_nodes() -> None:
    code = program.assemble(
        TARGET, [copy_commands(2, "x", "y", "layer")], buffers(2, ("x", "input"), ("y", "output"))
    )
    launch = code.launches[0]
    assert len(launch.origins) == len(launch.insns)
    assert set(launch.origins[:-1]) <= {("layer",), ()}
    stream = Isa.of(TARGET).decode_stream(launch.insns)
    assert stream.opcode[-1] == Opcode.FINISH


def test_bind_moves_data_and_leaves_nops() -> None:
    code = program.assemble(
        TARGET, [copy_commands(2, "x", "y", "layer")], buffers(2, ("x", "input"), ("y", "output"))
    )
    isa = Isa.of(TARGET)
    before = isa.decode_stream(code.launches[0].insns)
    after = isa.decode_stream(program.bind(code.launches[0].insns, TARGET, BASE))
    moved = after.fields["dram_base"] - before.fields["dram_base"]
    expected = {Memory.UOP: BASE // 4, Memory.WGT: BASE // 256}
    for index, size in enumerate(before.fields["x_size"]):
        kind = Memory(before.fields["memory_type"][index])
        assert moved[index] == (expected.get(kind, BASE // 16) if size else 0)
    with pytest.raises(ValueError, match="not a multiple of 256"):
        program.bind(code.launches[0].insns, TARGET, BASE + 16)
