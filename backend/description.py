"""Reading a hardware description: VTA's own JSON keys and ours, their ranges and their defaults.

A description is the file that configures VTA's own build (tvm-vta config/vta_config.json) plus
lower-case keys of ours for what the build does not fix: design, clock, bus, memory, timing. The
lower-case keys are optional: a missing one is taken from the bundled description of the same
TARGET, or from pynq's, which is also VTA's own default. What the values allow together is
`target.py`'s business.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import TargetError
from . import strict_json
from .profile import DESIGNS

BUNDLED = ("sim", "tsim", "pynq", "ultra96", "zcu104", "de10nano")
"""Names of the descriptions that ship with the package, one JSON file each in targets/."""

HW_VER = "0.0.2"
PAGE_BYTES = 4096

_FOLDER = Path(__file__).parent / "targets"
_MAX_FILE_BYTES = 1 << 16
_MAX_LISTED = 20


@dataclass(frozen=True)
class Timing:
    """Constants, in clock cycles, of the timing formulas (docs/timing.md).

    The defaults are exact for the RTL that Vivado HLS 2019.1 makes of the default configuration;
    the two memory latencies are parameters of the board. "row" and "fixed" costs exclude the
    latency. Bus words per element follow from the target's bus width and are not listed. The
    chisel design reads some of the constants otherwise, and the last three belong to it.
    """

    read_latency: int = 55  # read request accepted to first beat
    write_latency: int = 25  # last beat written to response
    gemm_fixed: int = 19
    gemm_interval: int = 1  # per micro-op
    alu_fixed: int = 19
    alu_interval: int = 2  # per micro-op, register operand
    alu_imm_interval: int = 2  # per micro-op, immediate operand
    empty_loops: int = 13  # GEMM or ALU without a micro-op
    finish: int = 5
    uop_fixed: int = 17
    uop_empty: int = 13  # x_size 0
    inp_fixed: int = 9
    inp_row: int = 18
    inp_empty_row: int = 13
    wgt_fixed: int = 5
    wgt_row: int = 14
    wgt_empty_row: int = 10
    wgt_cycles_per_beat: int = 2
    acc_fixed: int = 11
    acc_row: int = 18
    acc_empty_row: int = 13
    store_fixed: int = 3
    store_row: int = 13  # chisel: a burst
    undefined: int = 6  # unknown opcode or memory type: tokens only (chisel: any no-op)
    load_to_compute: int = 3  # token: producer's last cycle to consumer's first
    compute_to_load: int = 2
    compute_to_store: int = 3
    store_to_compute: int = 3
    fetch_start: int = 8  # launch to the read request of the instruction stream
    fetch_fixed: int = 7  # first beat (start + read_latency) to the first instruction leaving fetch
    fetch_interval: int = 1  # per instruction; 2 where a 64-bit port carries them
    queue_latency: int = 3  # instruction leaving fetch to its module's start
    burst_words: int = 16  # bus words that one burst moves at most
    store_element: int = 0  # per stored element, beside its bus words
    fetch_batch: int = 0  # instructions of one fetch request; 0 for the whole stream


class Invalid(Exception):
    """A JSON value that its key does not take; the message completes 'KEY ...'."""


@dataclass(frozen=True)
class Integer:
    """An integer key of the description: its JSON name, its field and its range."""

    key: str
    field: str
    low: int
    high: int
    why: str = ""

    def range_problem(self, value: int) -> str | None:
        """What is wrong with `value`, completing 'KEY ...', or None."""
        if self.low <= value <= self.high:
            return None
        allowed = str(self.low) if self.low == self.high else f"{self.low}..{self.high}"
        return f"is {show(value)}; it must be {allowed}{self.why and f' ({self.why})'}"

    def parse(self, value: object) -> int:
        """`value` as an int within the range. Raises Invalid."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise Invalid(f"is {show(value)}; it must be an integer")
        problem = self.range_problem(value)
        if problem:
            raise Invalid(problem)
        return value


_DATA_PATH = "vtaflow computes int8 x int8 -> int32"

GEOMETRY = (
    Integer("LOG_INP_WIDTH", "log_inp_width", 3, 3, _DATA_PATH),
    Integer("LOG_WGT_WIDTH", "log_wgt_width", 3, 3, _DATA_PATH),
    Integer("LOG_ACC_WIDTH", "log_acc_width", 5, 5, _DATA_PATH),
    Integer("LOG_BATCH", "log_batch", 0, 12),
    Integer("LOG_BLOCK", "log_block", 0, 12),
    Integer("LOG_UOP_BUFF_SIZE", "log_uop_buff_size", 0, 31),
    Integer("LOG_INP_BUFF_SIZE", "log_inp_buff_size", 0, 31),
    Integer("LOG_WGT_BUFF_SIZE", "log_wgt_buff_size", 0, 31),
    Integer("LOG_ACC_BUFF_SIZE", "log_acc_buff_size", 0, 31),
)
"""VTA's integer keys, all base-2 logarithms, in the order of its own file."""

OPTIONAL_INTEGERS = (
    Integer("clock_mhz", "clock_mhz", 1, 10_000),
    Integer("bus_bits", "bus_bits", 8, 1024),
    Integer("dram_bytes", "dram_bytes", 2 * PAGE_BYTES, 1 << 32, "addresses have 32 bits"),
    Integer("acc_dep_distance", "acc_dep_distance", 1, 1024),
)
TIMING = {f.name: Integer(f"timing.{f.name}", f.name, 0, 1_000_000) for f in fields(Timing)}

DEFAULT_GEOMETRY = {
    "LOG_INP_WIDTH": 3,
    "LOG_WGT_WIDTH": 3,
    "LOG_ACC_WIDTH": 5,
    "LOG_BATCH": 0,
    "LOG_BLOCK": 4,
    "LOG_UOP_BUFF_SIZE": 15,
    "LOG_INP_BUFF_SIZE": 15,
    "LOG_WGT_BUFF_SIZE": 18,
    "LOG_ACC_BUFF_SIZE": 17,
}


def show(value: object) -> str:
    """`value` for a message: short, one line, whatever was in the file."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, bool | int | float | str) or value is None:
        text = json.dumps(value)
        return text if len(text) <= 40 else text[:37] + "..."
    return "a list" if isinstance(value, list) else "an object"


def listed(problems: list[str]) -> str:
    """The problems in one line, cut after the first of very many."""
    more = len(problems) - _MAX_LISTED
    return "; ".join(problems[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def read(source: str) -> object:
    """The parsed JSON of a bundled name or of a path. Raises TargetError."""
    path = _FOLDER / f"{source}.json" if source in BUNDLED else Path(source)
    if not os.path.isfile(path):  # unlike Path.is_file, False for every hopeless name
        if os.path.exists(path):
            raise TargetError(f"{source}: not a file; a target is a JSON file or a bundled name")
        raise TargetError(
            f"{show(source)}: no such target and no such file; "
            f"bundled targets are {', '.join(BUNDLED)}"
        )
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TargetError(f"{source}: cannot be read ({error.strerror})") from None
    if len(data) > _MAX_FILE_BYTES:
        raise TargetError(f"{source}: larger than {_MAX_FILE_BYTES} bytes; no target description")
    try:
        return strict_json.parse(data)
    except (ValueError, RecursionError, Invalid) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise TargetError(f"{source}: not legal JSON ({reason})") from None


def parse(mapping: object) -> tuple[dict[str, Any], list[str]]:
    """Field values for Target, and every problem that the description has."""
    if not isinstance(mapping, Mapping):
        return {}, [f"the description is {show(mapping)}; it must be an object of VTA's keys"]
    required = {"TARGET": _name, "HW_VER": _version, **{k.key: k.parse for k in GEOMETRY}}
    optional = {
        "design": _design,
        "part": _part,
        **{k.key: k.parse for k in OPTIONAL_INTEGERS},
        "registers": _registers,
        "base_registers": _flag,
        "timing": _timing,
    }
    parsers = {**required, **optional}
    problems = [f"key {key} is missing" for key in required if key not in mapping]
    problems += [f"unknown key {show(key)}" for key in mapping if key not in parsers]
    defaults = _defaults(mapping.get("TARGET"))
    merged = {**defaults, **mapping}
    if isinstance(merged["timing"], Mapping):
        merged["timing"] = {**defaults["timing"], **merged["timing"]}
    values = {}
    for key, parser in parsers.items():
        if key not in merged:
            continue
        try:
            values[FIELDS.get(key, key)] = parser(merged[key])
        except Invalid as invalid:
            problems.append(f"{key} {invalid}")
    return values, problems


FIELDS = {
    "TARGET": "name",
    "HW_VER": "hw_ver",
    "registers": "register_map",
    **{k.key: k.field for k in GEOMETRY},
}
"""The Target field of each JSON key whose name differs."""


def _defaults(name: object) -> dict[str, Any]:
    """Lower-case keys of the bundled description of that TARGET, else of pynq's."""
    known = name if isinstance(name, str) and name in BUNDLED else "pynq"
    text = (_FOLDER / f"{known}.json").read_text(encoding="utf-8")
    return {key: value for key, value in json.loads(text).items() if key.islower()}


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise Invalid(
            f"is {show(value)}; it must be a name of 1..64 letters, digits, '_', '.' and '-'"
        )
    if value == "intelfocl":
        raise Invalid(
            "is the OpenCL design, which is not supported; use a target of another design"
        )
    return value


def _version(value: object) -> str:
    problem = version_problem(value)
    if problem:
        raise Invalid(problem)
    return HW_VER


def version_problem(value: object) -> str | None:
    """Why `value` is no supported HW_VER, completing 'HW_VER ...', or None."""
    if value == HW_VER:
        return None
    return (
        f'is {show(value)}; only "{HW_VER}" is supported: hardware of version 0.0.1 has another '
        "encoding (memory_type and alu_opcode are one bit narrower, so the fields after them lie "
        "one bit lower) and would run these streams as garbage; use a bitstream of version "
        f"{HW_VER}"
    )


def _design(value: object) -> str:
    if not isinstance(value, str) or value not in DESIGNS:
        raise Invalid(f"is {show(value)}; it must be one of {', '.join(DESIGNS)}")
    return value


def _part(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{0,64}", value):
        raise Invalid(f"is {show(value)}; it must be a device name")
    return value


def _registers(value: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, Mapping):
        raise Invalid(f"is {show(value)}; it must be an object of block names and addresses")
    return tuple((_block(block), _address(base)) for block, base in value.items())


def _block(value: object) -> str:
    if value not in ("fetch", "load", "compute", "store", "vcr"):
        raise Invalid(f"has block {show(value)}; blocks are fetch, load, compute, store, vcr")
    return str(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"is {show(value)}; it must be true or false")
    return value


def _address(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9A-Fa-f]{1,8}", value):
        raise Invalid(f'has address {show(value)}; write it as "0x43C00000", 32 bits')
    return int(value, 16)


def _timing(value: object) -> Timing:
    if not isinstance(value, Mapping):
        raise Invalid(f"is {show(value)}; it must be an object of constants in cycles")
    problems = [f"has unknown constant {show(key)}" for key in value if key not in TIMING]
    constants = {}
    for name in (name for name in TIMING if name in value):
        try:
            constants[name] = TIMING[name].parse(value[name])
        except Invalid as invalid:
            problems.append(f"constant {name} {invalid}")
    if problems:
        raise Invalid(listed(problems))
    return Timing(**constants)
