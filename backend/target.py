"""Hardware descriptions: `Target`, its derived sizes, and the limits that it must keep.

The derived sizes are those of tvm-vta hw_spec.h. The facts behind every limit stand in
docs/hardware.md, "Configurations that can be encoded".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import TargetError
from .commands import Memory
from .description import (
    BUNDLED,
    DEFAULT_GEOMETRY,
    FIELDS,
    GEOMETRY,
    OPTIONAL_INTEGERS,
    PAGE_BYTES,
    TIMING,
    Timing,
    listed,
    parse,
    read,
    show,
    version_problem,
)
from .profile import CHISEL, DESIGNS, PROFILES, Profile

__all__ = ["BUNDLED", "Target", "Timing"]

LOG_UOP_WIDTH = 5
SRAM_BASE_BITS = 16


@dataclass(frozen=True)
class Target:
    """One VTA: geometry, design, clock, memory and timing. Illegal combinations raise TargetError.

    Fields named `log_*` are base-2 logarithms (widths in bits, buffer sizes in bytes). `part` is
    the device name ("" for a simulator); `bus_bits` the width of the memory port; `dram_bytes`
    bounds the arena of a program; `acc_dep_distance` is the distance in micro-ops that compiled
    code keeps between two uses of one accumulator; `register_map` pairs a hardware block with
    the byte address of its registers. `base_registers` says that the hardware was seen to add its
    data base registers to every address, so that a driver may use them.
    """

    name: str
    hw_ver: str
    log_inp_width: int
    log_wgt_width: int
    log_acc_width: int
    log_batch: int
    log_block: int
    log_uop_buff_size: int
    log_inp_buff_size: int
    log_wgt_buff_size: int
    log_acc_buff_size: int
    design: str
    part: str
    clock_mhz: int
    bus_bits: int
    dram_bytes: int
    acc_dep_distance: int
    register_map: tuple[tuple[str, int], ...]
    timing: Timing
    base_registers: bool = False

    def __post_init__(self) -> None:
        problems = list(_range_problems(self)) or list(_limit_problems(self))
        if problems:
            raise TargetError(f"target {self.name}: " + "; ".join(problems))

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> Target:
        """The bundled description of that name, or the JSON file at that path.

        Raises TargetError if there is no such target, or the file is unreadable or illegal.
        """
        text = os.fspath(name_or_path)
        return cls.from_json(read(text), text)

    @classmethod
    def from_json(cls, mapping: object, source: str) -> Target:
        """The target that a parsed description (VTA's keys and ours) stands for.

        `source` names the description in messages. Raises TargetError listing every missing,
        unknown and malformed key at once, or every limit that the configuration breaks.
        """
        values, problems = parse(mapping)
        if problems:
            raise TargetError(f"{source}: {listed(problems)}")
        try:
            return cls(**values)
        except TargetError as error:
            raise TargetError(f"{source}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """The complete description; `from_json` of it equals this target."""
        return {
            "TARGET": self.name,
            **self.fingerprint(),
            "design": self.design,
            "part": self.part,
            **{k.key: getattr(self, k.field) for k in OPTIONAL_INTEGERS},
            "registers": {block: f"0x{base:08X}" for block, base in self.register_map},
            "base_registers": self.base_registers,
            "timing": {name: getattr(self.timing, name) for name in TIMING},
        }

    def fingerprint(self) -> dict[str, str | int]:
        """What a stream's bits and data layout depend on: ISA version and geometry, by VTA key."""
        return {"HW_VER": self.hw_ver, **{k.key: getattr(self, k.field) for k in GEOMETRY}}

    @property
    def profile(self) -> Profile:
        """What the target's design does where designs differ."""
        return PROFILES[self.design]

    @property
    def registers(self) -> dict[str, int]:
        """Byte address of each hardware block's registers."""
        return dict(self.register_map)

    @property
    def is_default_geometry(self) -> bool:
        """Whether this is the geometry of every public board file, the only one of Chisel."""
        return all(getattr(self, k.field) == DEFAULT_GEOMETRY[k.key] for k in GEOMETRY)

    @property
    def batch(self) -> int:
        """Rows of an INP, ACC or OUT element."""
        return 1 << self.log_batch

    @property
    def block_in(self) -> int:
        """Lanes that a GEMM reduces over: columns of an INP element and of a WGT element."""
        return 1 << self.log_block

    @property
    def block_out(self) -> int:
        """Lanes that a GEMM produces: columns of an ACC element, rows of a WGT element."""
        return 1 << self.log_block

    @property
    def log_out_width(self) -> int:
        """Width of an OUT lane, that of INP."""
        return self.log_inp_width

    @property
    def log_out_buff_size(self) -> int:
        """Bytes of OUT SRAM: one element for each of ACC's."""
        return self.log_acc_buff_size + self.log_out_width - self.log_acc_width

    @property
    def log_uop_depth(self) -> int:
        """Bits of a micro-op index."""
        return self.log_uop_buff_size + 3 - LOG_UOP_WIDTH

    @property
    def log_inp_depth(self) -> int:
        """Bits of an INP index."""
        return self.log_inp_buff_size + 3 - self.log_batch - self.log_block - self.log_inp_width

    @property
    def log_wgt_depth(self) -> int:
        """Bits of a WGT index."""
        return self.log_wgt_buff_size + 3 - 2 * self.log_block - self.log_wgt_width

    @property
    def log_acc_depth(self) -> int:
        """Bits of an ACC or OUT index."""
        return self.log_acc_buff_size + 3 - self.log_batch - self.log_block - self.log_acc_width

    @property
    def log_src_depth(self) -> int:
        """Bits of a micro-op's source index: INP for a GEMM, ACC for an ALU operation."""
        return max(self.log_acc_depth, self.log_inp_depth)

    def log_depth(self, memory: Memory) -> int:
        """Bits of an index into `memory`."""
        return {
            Memory.UOP: self.log_uop_depth,
            Memory.WGT: self.log_wgt_depth,
            Memory.INP: self.log_inp_depth,
            Memory.ACC: self.log_acc_depth,
            Memory.OUT: self.log_acc_depth,
        }[memory]

    def depth(self, memory: Memory) -> int:
        """Elements that the SRAM of `memory` holds."""
        return 1 << self.log_depth(memory)

    def element_bits(self, memory: Memory) -> int:
        """Bits of one element of `memory`."""
        rows = self.log_batch + self.log_block
        return {
            Memory.UOP: 1 << LOG_UOP_WIDTH,
            Memory.WGT: 1 << (2 * self.log_block + self.log_wgt_width),
            Memory.INP: 1 << (rows + self.log_inp_width),
            Memory.ACC: 1 << (rows + self.log_acc_width),
            Memory.OUT: 1 << (rows + self.log_out_width),
        }[memory]

    def element_bytes(self, memory: Memory) -> int:
        """Bytes of one element of `memory`: its unit of DRAM address, and its alignment."""
        return self.element_bits(memory) // 8

    @property
    def uop_limit(self) -> int:
        """Micro-op indices that portable code may use.

        Chisel holds fewer micro-ops than the geometry says, and knows the default geometry only.
        """
        depth = self.depth(Memory.UOP)
        if self.is_default_geometry and CHISEL.uop_depth is not None:
            return min(depth, CHISEL.uop_depth)
        return depth


def _range_problems(target: Target) -> Iterator[str]:
    """Fields outside their own range; the limits below need them inside."""
    version = version_problem(target.hw_ver)
    if version:
        yield f"HW_VER {version}"
    if target.design not in DESIGNS:
        yield f"design is {show(target.design)}; it must be one of {', '.join(DESIGNS)}"
    for integer in (*GEOMETRY, *OPTIONAL_INTEGERS):
        problem = integer.range_problem(getattr(target, integer.field))
        if problem:
            yield f"{integer.key} {problem}"
    if target.bus_bits & (target.bus_bits - 1):
        yield f"bus_bits is {show(target.bus_bits)}; it must be a power of two"


_UOP_KEYS = ("LOG_UOP_BUFF_SIZE",)
_INP_KEYS = ("LOG_INP_BUFF_SIZE", "LOG_BATCH", "LOG_BLOCK", "LOG_INP_WIDTH")
_WGT_KEYS = ("LOG_WGT_BUFF_SIZE", "LOG_BLOCK", "LOG_WGT_WIDTH")
_ACC_KEYS = ("LOG_ACC_BUFF_SIZE", "LOG_BATCH", "LOG_BLOCK", "LOG_ACC_WIDTH")
_DEPTH_KEYS = {
    Memory.UOP: _UOP_KEYS,
    Memory.INP: _INP_KEYS,
    Memory.WGT: _WGT_KEYS,
    Memory.ACC: _ACC_KEYS,
}
_ELEMENT_KEYS = {memory: keys[1:] for memory, keys in _DEPTH_KEYS.items()} | {
    Memory.OUT: ("LOG_BATCH", "LOG_BLOCK", "LOG_INP_WIDTH")
}


def _limit_problems(target: Target) -> Iterator[str]:
    """Every limit that the configuration breaks, each naming the keys that break it."""
    yield from _depth_problems(target)
    yield from _encoding_problems(target)
    yield from _element_problems(target)
    if target.design == "chisel" and not target.is_default_geometry:
        wrong = [key for key, value in DEFAULT_GEOMETRY.items() if _value(target, key) != value]
        yield (
            f"{_named(target, *wrong)}: the chisel design is hard-wired to the default geometry "
            f"({', '.join(f'{key}={DEFAULT_GEOMETRY[key]}' for key in wrong)}); "
            "use these, or design hls or fsim"
        )


def _depth_problems(target: Target) -> Iterator[str]:
    for memory, keys in _DEPTH_KEYS.items():
        bits = target.log_depth(memory)
        if bits < 1:
            yield f"{_named(target, *keys)}: the {memory.name} buffer holds fewer than 2 elements"
        elif bits > SRAM_BASE_BITS:
            yield (
                f"{_named(target, *keys)}: {memory.name} depth is 2^{bits}, but sram_base "
                f"addresses 2^{SRAM_BASE_BITS}; lower {keys[0]}"
            )


def _encoding_problems(target: Target) -> Iterator[str]:
    """Limits of the 128-bit formats and of the 32-bit micro-op."""
    u, i = target.log_uop_depth, target.log_inp_depth
    w, a = target.log_wgt_depth, target.log_acc_depth
    if u > 13:
        yield (
            f"{_named(target, *_UOP_KEYS)}: UOP depth is 2^{u}, but GEMM and ALU instructions "
            f"encode at most 2^13; lower LOG_UOP_BUFF_SIZE to 15"
        )
    if a > 11:
        yield (
            f"{_named(target, *_ACC_KEYS)}: ACC depth is 2^{a}, but an ALU instruction encodes "
            f"at most 2^11; lower LOG_ACC_BUFF_SIZE"
        )
    if a + max(a, i) + w > 32:
        holder = "a GEMM instruction and a micro-op hold" if a + i + w > 32 else "a micro-op holds"
        yield (
            f"{_named(target, *dict.fromkeys(_ACC_KEYS + _INP_KEYS + _WGT_KEYS))}: destination, "
            f"source and weight indices have {a}+{max(a, i)}+{w} bits, but {holder} 32; "
            "lower a LOG_*_BUFF_SIZE"
        )
    if i < a:
        yield (
            f"{_named(target, *dict.fromkeys(_INP_KEYS + _ACC_KEYS))}: INP depth 2^{i} is less "
            f"than ACC depth 2^{a}, and then HLS hardware decodes micro-ops differently from the "
            "software; raise LOG_INP_BUFF_SIZE or lower LOG_ACC_BUFF_SIZE"
        )


def _element_problems(target: Target) -> Iterator[str]:
    """An element must fill at least one bus word and at most one page."""
    for memory, keys in _ELEMENT_KEYS.items():
        if memory is Memory.UOP:
            continue
        bits = target.element_bits(memory)
        if bits < target.bus_bits:
            yield (
                f"{_named(target, *keys)}: one {memory.name} element has {bits} bits, fewer than "
                f"bus_bits={target.bus_bits}; raise LOG_BLOCK or LOG_BATCH, or use a narrower bus"
            )
        if bits // 8 > PAGE_BYTES:
            yield (
                f"{_named(target, *keys)}: one {memory.name} element has {bits // 8} bytes, more "
                f"than a page of {PAGE_BYTES}; lower {keys[0]}"
            )


def _value(target: Target, key: str) -> int:
    return int(getattr(target, FIELDS[key]))


def _named(target: Target, *keys: str) -> str:
    return ", ".join(f"{key}={_value(target, key)}" for key in keys)
