"""What the checker says: its rules by name, its findings, and the limits on both.

Every rule has one short stable name and one line that states what a stream must do; they follow
docs/hardware.md. A `Report` collects the findings of one check and counts its work, and ends the
check when either is enough: a stream may be hostile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

WHOLE_STREAM = -1
"""The instruction number of a finding that concerns no single instruction."""

MAX_FINDINGS = 50

RULES: Mapping[str, str] = MappingProxyType(
    {
        "stream-size": "a stream has 1 instruction or more and at most 32 MiB",
        "region": "regions are aligned, named once, inside the arena, and apart from constants",
        "base": "the arena's address is aligned to every element and its end is below 4 GiB",
        "opcode": "opcodes are LOAD, STORE, GEMM, FINISH and ALU",
        "memory-type": "LOAD moves UOP, WGT, INP or ACC, STORE moves OUT",
        "padding-bits": "bits that belong to no field are 0",
        "dep-neighbour": "dependence bits point to a neighbour that exists",
        "zero-size": "only a NOP moves nothing, and a NOP has no other field set",
        "zero-loop": "GEMM and ALU have a micro-op and go round each loop at least once",
        "pads": "only LOAD INP inserts zeros",
        "uop-rows": "LOAD UOP copies one row, and its stride says so",
        "uop-depth": "micro-op indices stay below the least micro-op memory",
        "sram-range": "a transfer stays inside its SRAM",
        "alu-opcode": "ALU does MIN, MAX, ADD or SHR; no public hardware multiplies",
        "shift-immediate": "an immediate shift is -16..15",
        "shift-register": "a shift by register leaves the immediate field 0",
        "dram-zero": "element 0 of DRAM is not used",
        "first-compute": "the first compute instruction is a NOP without tokens",
        "finish": "FINISH comes once, as the last instruction",
        "token-underflow": "in program order every token is pushed before it is popped",
        "token-overflow": "no queue ever holds more tokens than its capacity",
        "token-leftover": "every token that is pushed is popped",
        "finish-order": "FINISH runs after every load and every store",
        "sram-raw": "a token orders a read of SRAM after the other module's write",
        "sram-war": "a token orders a write of SRAM after the other module's read",
        "dram-raw": "tokens order a LOAD after the STORE of the bytes it reads",
        "dram-war": "tokens order a STORE after the LOADs of the bytes it overwrites",
        "dram-range": "a transfer stays inside one region of the program",
        "dram-kind": "that region is of a kind and memory that fit the transfer",
        "uninitialised-uop": "a micro-op was loaded before it is used",
        "uninitialised-inp": "an INP element was loaded before it is read",
        "uninitialised-wgt": "a WGT element was loaded before it is read",
        "uninitialised-acc": "an ACC element was written before it is read",
        "uninitialised-dram": "a LOAD reads constants, inputs, or what was stored before",
        "dram-overwritten": "a LOAD does not read what a STORE to another region left there",
        "uop-index": "the indices that micro-ops and loops reach stay inside SRAM",
        "alu-source": "an immediate ALU operation has the same source and destination",
        "acc-distance": "an accumulator is not used again within the target's pipeline depth",
        "shift-lanes": "a register shift amount is a loaded constant of 0..15 in every lane",
        "store-unwritten": "STORE sends elements that GEMM or ALU wrote",
        "store-reset": "STORE does not send elements that were only reset",
        "store-loaded": "STORE does not send elements that LOAD ACC wrote last",
        "work-limit": "a stream takes a bounded amount of work to check",
    }
)


@dataclass(frozen=True)
class Finding:
    """One broken rule: instruction number (-1: the whole stream), rule name, text, ONNX nodes.

    `message` is one complete line; it names the instruction, its nodes and the rule.
    """

    instruction: int
    rule: str
    message: str
    node: str

    def __str__(self) -> str:
        return self.message


class Stop(Exception):
    """The check ends here; the report says why."""


class Report:
    """The findings of one check, at most MAX_FINDINGS, and the work it may still do.

    `origins` has the ONNX nodes of each instruction. A unit of work is about a microsecond.
    """

    def __init__(self, origins: Sequence[tuple[str, ...]] | None, work_limit: int) -> None:
        self.findings: list[Finding] = []
        self._origins = origins
        self._limit = work_limit
        self._left = work_limit

    def add(self, instruction: int, rule: str, detail: str) -> None:
        """Note a finding. Raises Stop when there are enough."""
        node = ""
        if self._origins is not None and 0 <= instruction < len(self._origins):
            node = ", ".join(self._origins[instruction])
        where = f"instruction {instruction}" if instruction >= 0 else "stream"
        if node:
            where += f" ({node})"
        self.findings.append(Finding(instruction, rule, f"{where}: {rule}: {detail}", node))
        if len(self.findings) >= MAX_FINDINGS:
            raise Stop

    def spend(self, instruction: int, steps: int) -> None:
        """Count work. Raises Stop, with a finding, when the limit is passed."""
        self._left -= steps
        if self._left < 0:
            self.exhausted(instruction, f"more than {self._limit:,} steps are needed to check it")

    def exhausted(self, instruction: int, detail: str) -> None:
        """Note that the check gave up. Raises Stop."""
        self.add(instruction, "work-limit", detail)
        raise Stop

    def stop_if_broken(self) -> None:
        """Raise Stop if there is any finding: what follows relies on what was checked."""
        if self.findings:
            raise Stop
