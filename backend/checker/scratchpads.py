"""SRAM in program order: what each element holds, and who may still be using it.

Every memory is a Python integer with one bit an element. ACC and OUT share one index space: a
STORE of an element conflicts with every compute instruction that writes it, LOAD ACC included,
since a design without an OUT memory stores ACC itself (docs/hardware.md).
"""

from __future__ import annotations

from ..commands import Memory
from .columns import COMPUTE, LOAD, STORE
from .findings import Report
from .order import Clocks, OpenMasks

_UNINITIALISED = {
    Memory.UOP: "uninitialised-uop",
    Memory.INP: "uninitialised-inp",
    Memory.WGT: "uninitialised-wgt",
    Memory.ACC: "uninitialised-acc",
}


class Scratchpads:
    """The state of all SRAM, and the rules on reading and writing it."""

    def __init__(self, clocks: Clocks, separate_out: bool, report: Report) -> None:
        self._report = report
        self._separate_out = separate_out
        self._filled = {memory: 0 for memory in Memory}
        self._from_reset = 0
        self._from_load = 0
        self._small = 0
        self._open_writes = {
            Memory.INP: OpenMasks(clocks, LOAD, COMPUTE, report),
            Memory.WGT: OpenMasks(clocks, LOAD, COMPUTE, report),
            Memory.OUT: OpenMasks(clocks, COMPUTE, STORE, report),
        }
        self._open_reads = {
            Memory.INP: OpenMasks(clocks, COMPUTE, LOAD, report),
            Memory.WGT: OpenMasks(clocks, COMPUTE, LOAD, report),
            Memory.OUT: OpenMasks(clocks, STORE, COMPUTE, report),
        }

    def load(self, memory: Memory, mask: int, index: int) -> None:
        """LOAD INP or WGT (load module)."""
        other = self._open_reads[memory].clash(mask, index)
        if other is not None:
            self._race("sram-war", f"overwrites {memory.name}", "reads", other, index)
        self._open_writes[memory].add(mask, index)
        self._filled[memory] |= mask

    def read_loaded(self, memory: Memory, mask: int, index: int) -> None:
        """A GEMM reads INP or WGT."""
        other = self._open_writes[memory].clash(mask, index)
        if other is not None:
            self._race("sram-raw", f"reads {memory.name}", "loads", other, index)
        self._open_reads[memory].add(mask, index)
        self.require(memory, mask, index)

    def require(self, memory: Memory, mask: int, index: int) -> bool:
        """Elements of `memory` are read, so they must hold something; whether they do."""
        missing = mask & ~self._filled[memory]
        if missing:
            self._report.add(
                index, _UNINITIALISED[memory], f"{memory.name} {_span(missing)} is never written"
            )
            self._filled[memory] |= missing
        return not missing

    def load_uops(self, mask: int) -> None:
        """LOAD UOP."""
        self._filled[Memory.UOP] |= mask

    def load_acc(self, mask: int, small: int, index: int) -> None:
        """LOAD ACC; `small` are those elements that may serve as shift amounts."""
        self._overwrite_out(mask, index)
        self._filled[Memory.ACC] |= mask
        self._from_load |= mask
        self._from_reset &= ~mask
        self._small = self._small & ~mask | small

    def compute(self, mask: int, reset: bool, index: int) -> None:
        """A GEMM or ALU instruction writes ACC and OUT."""
        self._overwrite_out(mask, index)
        self._filled[Memory.ACC] |= mask
        self._from_load &= ~mask
        self._from_reset = self._from_reset | mask if reset else self._from_reset & ~mask
        self._small &= ~mask

    def shift_by(self, amounts: int, written: int, index: int) -> None:
        """SHR reads its amounts from the elements `amounts` and writes `written`."""
        wrong = amounts & ~self._small | amounts & written
        if wrong:
            self._report.add(
                index,
                "shift-lanes",
                f"ACC {_span(wrong)} is no loaded constant with every lane in the range of shifts",
            )

    def store(self, mask: int, index: int) -> None:
        """STORE reads OUT."""
        other = self._open_writes[Memory.OUT].clash(mask, index)
        if other is not None:
            self._race("sram-raw", "reads OUT", "writes", other, index)
        self._open_reads[Memory.OUT].add(mask, index)
        for rule, wrong, text in (
            ("store-unwritten", ~self._filled[Memory.ACC], "is never written"),
            ("store-reset", self._from_reset if self._separate_out else 0, "was only reset"),
            ("store-loaded", self._from_load if self._separate_out else 0, "was only loaded"),
        ):
            if mask & wrong:
                self._report.add(index, rule, f"OUT {_span(mask & wrong)} {text}")

    def _overwrite_out(self, mask: int, index: int) -> None:
        other = self._open_reads[Memory.OUT].clash(mask, index)
        if other is not None:
            self._race("sram-war", "overwrites OUT", "stores", other, index)
        self._open_writes[Memory.OUT].add(mask, index)

    def _race(self, rule: str, act: str, other_act: str, other: int, index: int) -> None:
        self._report.add(
            index, rule, f"{act} that instruction {other} {other_act}, with no token in between"
        )


def _span(mask: int) -> str:
    """The first run of elements in `mask`, for a message."""
    low = (mask & -mask).bit_length() - 1
    run = mask >> low
    length = (~run & (run + 1)).bit_length() - 1
    return f"{low}" if length == 1 else f"{low}..{low + length - 1}"
