"""The assembler: commands and buffers in, a placed, ordered and encoded program out.

Streams hold arena-relative element indices; `bind` relocates them to a physical address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .access import Module, access_of, grain
from .commands import Alu, Buffer, Command, Gemm, Load, Memory, Store
from .dram import CONSTANTS_START, Arena, LiveRange, Region, plan
from .isa import Isa, Opcode
from .microops import Kernel, Nest, nest, phases
from .target import Target
from .tokens import Slot, TokenPass

UOPS = "uops"
"""Name of the constant buffer that holds every launch's micro-ops."""

LAUNCH_SPAN = 1 << 32
"""Moments reserved for one launch on the time axis of live ranges."""

Fields = dict[str, int]


@dataclass(frozen=True)
class LaunchCode:
    """One instruction stream, arena-relative.

    `insns` is uint8[n, 16]; `origins[i]` names the ONNX nodes of instruction i, `roles[i]` its
    part in them ("" for the main one), `layers[i]` the layer that it was written for.
    """

    insns: NDArray[np.uint8]
    origins: tuple[tuple[str, ...], ...]
    roles: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """Every launch of a model, its arena and the image of the arena's constant area."""

    launches: tuple[LaunchCode, ...]
    arena: Arena
    constants: NDArray[np.uint8]


@dataclass(frozen=True)
class _Launch:
    """A launch on its way through the assembler: micro-op loads are in `commands` already."""

    commands: tuple[Command, ...]
    nests: tuple[Nest | None, ...]
    kernel_base: tuple[int, ...]


def assemble(
    target: Target,
    launches: Sequence[Sequence[Command]],
    buffers: Sequence[Buffer],
    keep_intermediates: bool = False,
) -> Program:
    """Place the buffers, add micro-ops and tokens, encode.

    `keep_intermediates` gives every buffer its own addresses, so that all can be read afterwards.
    Raises ArenaError or ScheduleError when something does not fit the target.
    """
    words: list[Kernel] = []
    prepared = [_with_micro_ops(target, commands, words) for commands in launches]
    micro_ops = np.array([op for kernel in words for op in kernel], np.int64).reshape(-1, 3)
    encoded = Isa.of(target).encode_uops(micro_ops)
    everything = [
        *buffers,
        Buffer(UOPS, Memory.UOP, len(encoded), "constant", encoded.view(np.int32)),
    ]
    live = {} if keep_intermediates else live_ranges(everything, prepared)
    arena = plan(target, everything, live)
    regions = {region.name: region for region in arena.regions}
    codes = tuple(_encode(target, launch, regions, arena) for launch in prepared)
    return Program(codes, arena, _image(arena, everything))


def bind(insns: NDArray[np.uint8], target: Target, base: int) -> NDArray[np.uint8]:
    """Relocate a stream to an arena at physical byte address `base`.

    Zero-size NOPs keep `dram_base` 0. `base` must be a multiple of every element size; raises
    ValueError if it is not.
    """
    isa = Isa.of(target)
    stream = isa.decode_stream(insns)
    columns = {name: column.copy() for name, column in stream.fields.items()}
    moves = np.isin(stream.opcode, (Opcode.LOAD, Opcode.STORE)) & (stream.fields["x_size"] > 0)
    for memory in Memory:
        unit = target.element_bytes(memory)
        if base % unit:
            raise ValueError(f"arena base {base:#x} is not a multiple of {unit} bytes")
        chosen = moves & (stream.fields["memory_type"] == memory)
        columns["dram_base"][chosen] += base // unit
    return isa.encode_stream(columns)


def _with_micro_ops(
    target: Target, commands: Sequence[Command], words: list[Kernel]
) -> _Launch:
    """Insert the LOADs of micro-op kernels; their micro-ops are appended to `words`."""
    nests = [nest(one) if isinstance(one, Gemm | Alu) else None for one in commands]
    starts = {one.first: one for one in phases(commands, nests, target.uop_limit)}
    out: list[tuple[Command, Nest | None, int]] = []
    addresses: dict[Kernel, int] = {}
    offset = sum(map(len, words))
    for index, (command, split) in enumerate(zip(commands, nests, strict=True)):
        if index in starts:
            phase = starts[index]
            addresses = phase.addresses()
            kernels = Load(Memory.UOP, 0, UOPS, offset, phase.size)
            origin, role, layer = command.origin, command.role, command.layer
            kernels = replace(kernels, origin=origin, role=role, layer=layer)
            out.append((kernels, None, 0))
            words.extend(phase.kernels)
            offset += phase.size
        out.append((command, split, addresses[split.kernel] if split else 0))
    return _Launch(
        tuple(one[0] for one in out), tuple(one[1] for one in out), tuple(one[2] for one in out)
    )


def live_ranges(
    buffers: Sequence[Buffer], launches: Sequence[_Launch]
) -> dict[str, LiveRange]:
    """When each buffer that is not constant holds data that somebody still needs.

    Inputs are written by the host just before the first launch that loads them, outputs are read
    just after the launch that stores them.
    """
    kinds = {buffer.name: buffer.kind for buffer in buffers}
    moments: dict[str, list[int]] = {}
    for index, launch in enumerate(launches):
        start, end = index * LAUNCH_SPAN, (index + 1) * LAUNCH_SPAN - 1
        for position, command in enumerate(launch.commands):
            if not isinstance(command, Load | Store):
                continue
            seen = moments.setdefault(command.buffer, [])
            seen.append(start + 1 + position)
            if kinds[command.buffer] == "input":
                seen.append(start)
            if kinds[command.buffer] == "output" and isinstance(command, Store):
                seen.append(end)
    return {
        name: LiveRange(min(seen), max(seen))
        for name, seen in moments.items()
        if kinds[name] != "constant"
    }


def _encode(
    target: Target, launch: _Launch, regions: Mapping[str, Region], arena: Arena
) -> LaunchCode:
    depths = {memory: target.depth(memory) for memory in Memory}
    tokens = TokenPass(depths, arena.bytes // grain(target))
    for index, (one, split) in enumerate(zip(launch.commands, launch.nests, strict=True)):
        tokens.add(index, access_of(target, one, split, regions))
    tokens.finish()
    rows, purposes = [], []
    following: tuple[tuple[str, ...], str, str] = (), "", ""
    for slot in reversed(tokens.slots):
        if slot.command is None:
            fields = _nop(slot.module)
        else:
            fields = _fields(target, launch, slot.command, regions)
            command = launch.commands[slot.command]
            following = command.origin, command.role, command.layer
        rows.append(fields | _dependences(slot))
        purposes.append(following)
    rows.reverse()
    rows.append({"opcode": Opcode.FINISH})
    origins, roles, layers = zip(*reversed(purposes), ((), "", ""), strict=True)
    return LaunchCode(_encode_rows(target, rows), origins, roles, layers)


def _encode_rows(target: Target, rows: Sequence[Fields]) -> NDArray[np.uint8]:
    names = {name for row in rows for name in row}
    columns = {
        name: np.array([row.get(name, 0) for row in rows], np.int64) for name in sorted(names)
    }
    return Isa.of(target).encode_stream(columns)


def _nop(module: Module) -> Fields:
    """The NOP of a module: a transfer of nothing (docs/hardware.md)."""
    if module is Module.STORE:
        return {"opcode": Opcode.STORE}
    memory = Memory.INP if module is Module.LOAD else Memory.UOP
    return {"opcode": Opcode.LOAD, "memory_type": memory}


def _dependences(slot: Slot) -> Fields:
    """Dependence bits: load's next and store's previous module is compute."""
    before = {Module.COMPUTE: Module.LOAD, Module.STORE: Module.COMPUTE}.get(slot.module)
    after = {Module.LOAD: Module.COMPUTE, Module.COMPUTE: Module.STORE}.get(slot.module)
    return {
        "pop_prev_dep": int(before in slot.pops),
        "pop_next_dep": int(after in slot.pops),
        "push_prev_dep": int(before in slot.pushes),
        "push_next_dep": int(after in slot.pushes),
    }


def _fields(
    target: Target, launch: _Launch, index: int, regions: Mapping[str, Region]
) -> Fields:
    command, split = launch.commands[index], launch.nests[index]
    if isinstance(command, Load | Store):
        return _transfer(target, command, regions)
    assert split is not None
    begin = launch.kernel_base[index]
    fields = {
        "uop_bgn": begin,
        "uop_end": begin + len(split.kernel),
        "iter_out": split.outer.extent,
        "iter_in": split.inner.extent,
        "dst_factor_out": split.outer.dst,
        "dst_factor_in": split.inner.dst,
        "src_factor_out": split.outer.src,
        "src_factor_in": split.inner.src,
    }
    if isinstance(command, Gemm):
        return fields | {
            "opcode": Opcode.GEMM,
            "reset_reg": int(command.reset),
            "wgt_factor_out": split.outer.wgt,
            "wgt_factor_in": split.inner.wgt,
        }
    return fields | {
        "opcode": Opcode.ALU,
        "alu_opcode": command.op,
        "use_imm": int(command.imm is not None),
        "imm": command.imm or 0,
    }


def _transfer(target: Target, command: Load | Store, regions: Mapping[str, Region]) -> Fields:
    memory = command.memory if isinstance(command, Load) else Memory.OUT
    pads = command.pads if isinstance(command, Load) else (0, 0, 0, 0)
    if command.rows > 1 and command.stride == command.size and not any(pads):
        # Every row pays the memory's full latency, so dense rows are moved as one.
        command = replace(command, rows=1, size=command.rows * command.size)
    start = regions[command.buffer].start // target.element_bytes(memory)
    return {
        "opcode": Opcode.LOAD if isinstance(command, Load) else Opcode.STORE,
        "memory_type": memory,
        "sram_base": command.sram,
        "dram_base": start + command.offset,
        "y_size": command.rows,
        "x_size": command.size,
        "x_stride": command.stride if command.rows > 1 else command.size,
        **dict(zip(("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1"), pads, strict=True)),
    }


def _image(arena: Arena, buffers: Sequence[Buffer]) -> NDArray[np.uint8]:
    """Bytes of the constant area."""
    image = np.zeros(arena.constant_bytes, np.uint8)
    data = {buffer.name: buffer.data for buffer in buffers}
    for region in arena.regions:
        array = data[region.name]
        if region.kind == "constant" and array is not None:
            begin = region.start - CONSTANTS_START
            image[begin : begin + region.bytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
    return image
