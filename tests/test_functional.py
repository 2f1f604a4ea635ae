"""The functional simulator: equal to a scalar VTA on any stream, design by design; its errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vtaflow.backend.commands import Memory
from vtaflow.backend.isa import Instruction, Isa, MemoryType, Opcode
from vtaflow.backend.profile import PROFILES
from vtaflow.backend.target import Target
from vtaflow.errors import StreamError
from vtaflow.runtime import functional, plan, weights
from vtaflow.runtime.functional import Launch
from vtaflow.runtime.memory import Dram, Segment

from .scalar_vta import ScalarVta

from hypothesis import Phase
_PHASES=(Phase.explicit, Phase.generate)
BASE = 4096
SHARED = 6144
OWN = 4096
"""Bytes of shared memory at BASE, and of each image's own memory behind it."""


def small_target(log_batch: int, log_block: int, uop: int, inp: int, wgt: int, acc: int) -> Target:
    """A target with tiny SRAMs (log2 depths), so that indices meet and wrap."""
    return replace(
        Target.load("sim"),
        bus_bits=8,
        log_batch=log_batch,
        log_block=log_block,
        log_uop_buff_size=uop + 2,
        log_inp_buff_size=inp + log_batch + log_block,
        log_wgt_buff_size=wgt + 2 * log_block,
        log_acc_buff_size=acc + log_batch + log_block + 2,
    )


TARGETS = (
    small_target(0, 2, uop=5, inp=5, wgt=4, acc=4),
    small_target(1, 1, uop=4, inp=4, wgt=5, acc=3),
    small_target(2, 3, uop=5, inp=3, wgt=3, acc=3),
)
SIM = Target.load("sim")
FINISH = Instruction(Opcode.FINISH)


def encode(target: Target, *insns: Instruction) -> NDArray[np.uint8]:
    """uint8[n, 16]."""
    isa = Isa.of(target)
    return np.frombuffer(b"".join(isa.encode(insn) for insn in insns), np.uint8).reshape(-1, 16)


def load(kind: int, sram: int, dram: int, size: int, rows: int = 1, **more: int) -> Instruction:
    """A LOAD; its rows follow one another unless x_stride is given."""
    fields = {"x_stride": size, **more}
    return Instruction(
        Opcode.LOAD,
        {"memory_type": kind, "sram_base": sram, "dram_base": dram, "x_size": size,
         "y_size": rows, **fields},
    )


def store(sram: int, dram: int, size: int, rows: int = 1, **more: int) -> Instruction:
    """A STORE of OUT."""
    fields = {"memory_type": int(MemoryType.OUT), "x_stride": size, **more}
    return Instruction(
        Opcode.STORE,
        {"sram_base": sram, "dram_base": dram, "x_size": size, "y_size": rows, **fields},
    )


def loops(opcode: Opcode, begin: int, end: int, out: int = 1, inner: int = 1, **more: int
          ) -> Instruction:
    """A GEMM or ALU instruction over micro-ops [begin, end)."""
    return Instruction(
        opcode, {"uop_bgn": begin, "uop_end": end, "iter_out": out, "iter_in": inner, **more}
    )


def memory(images: int, seed: int, shared: bool, uops: NDArray[np.uint32]) -> Dram:
    """Random bytes, the micro-ops first; all memory is each image's own unless `shared`."""
    generator = np.random.default_rng(seed)
    common = generator.integers(0, 256, SHARED).astype(np.uint8)
    # Extreme values make sums and shifts overflow.
    extreme = generator.random(SHARED) < 0.3
    common[extreme] = generator.choice(np.array([127, 128, 255, 0], np.uint8), extreme.sum())
    common[: 4 * len(uops)] = uops.astype("<u4").view(np.uint8)
    own = generator.integers(0, 256, (images, OWN)).astype(np.uint8)
    if shared:
        return Dram([Segment(BASE, common), Segment(BASE + SHARED, own)])
    return Dram([Segment(BASE, np.concatenate([np.tile(common, (images, 1)), own], axis=1))])


def flat(dram: Dram, image: int) -> NDArray[np.uint8]:
    """A copy of everything that one image sees."""
    return np.concatenate(
        [s.data if s.shared else s.data[image] for s in dram.segments]
    )


def require_equal(target: Target, design: str, insns: NDArray[np.uint8], dram: Dram) -> Launch:
    """Run both simulators and compare DRAM and, for one image, every SRAM."""
    expected = []
    for image in range(dram.images):
        scalar = ScalarVta(target, design, flat(dram, image), BASE)
        scalar.run(insns, range(len(insns)))
        expected.append(scalar)
    launch = Launch(target, insns, dram, profile=PROFILES[design])
    launch.run()
    for image, scalar in enumerate(expected):
        np.testing.assert_array_equal(flat(dram, image), scalar.dram)
    if dram.images == 1:
        for name in ("uop", "inp", "wgt", "acc", "out"):
            if name == "out" and design == "fsim":
                continue
            content = launch.sram(Memory[name.upper()])
            dtype = {"uop": "<u4", "acc": "<i4"}.get(name, "i1")
            wanted = getattr(expected[0], name).reshape(-1).astype(dtype)
            np.testing.assert_array_equal(content.view(dtype)[: len(wanted)], wanted, name)
    return launch


class Streams:
    """Draws random legal streams for one target and design."""

    def __init__(self, draw: st.DrawFn, target: Target, design: str) -> None:
        self.draw, self.target, self.design = draw, target, design
        self.wraps = PROFILES[design].index_wraps

    def number(self, low: int, high: int) -> int:
        """One integer, both ends included."""
        return self.draw(st.integers(low, high))

    def transfer(self, opcode: Opcode) -> Instruction:
        """A LOAD or STORE inside the memory, and inside the SRAM unless that wraps."""
        fsim, hls = self.design == "fsim", self.design == "hls"
        # The functional simulator refuses indices, so its micro-ops stay as they were made.
        kinds = [1, 2, 3, 5] if fsim else [0, 1, 2, 3, 4, 5] if hls else [0, 1, 2, 3]
        kind = 4 if opcode is Opcode.STORE else self.draw(st.sampled_from(kinds))
        memory = Memory.ACC if kind == 5 else Memory(kind)
        unit = self.target.element_bytes(memory) // (4 if kind == 5 else 1)
        low = 0 if self.design != "chisel" and opcode is Opcode.LOAD else 1
        size, rows = self.number(low, 5), self.number(low, 3)
        stride = self.number(0, 6)
        pads = dict.fromkeys(("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1"), 0)
        if opcode is Opcode.LOAD and self.number(0, 2) == 0:
            pads = {name: self.number(0, 2) for name in pads}
        width = size + pads["x_pad_0"] + pads["x_pad_1"]
        length = width * (rows + pads["y_pad_0"] + pads["y_pad_1"])
        depth = self.target.depth(memory)
        if self.wraps:
            sram = self.number(0, depth + 3)
        elif length <= depth:
            sram = self.number(0, depth - length)
        else:
            sram, rows, size, pads = 0, 1, 1, dict.fromkeys(pads, 0)
        first, last = -(-BASE // unit), (BASE + SHARED + OWN) // unit
        reach = max(rows - 1, 0) * stride + size
        low = -(-(BASE + SHARED) // unit) if opcode is Opcode.STORE else first
        dram = self.number(low, last - reach)
        fields = {"memory_type": kind, "sram_base": sram, "dram_base": dram, "x_size": size,
                  "y_size": rows, "x_stride": stride, **pads}
        return Instruction(opcode, fields)

    def compute(self, opcode: Opcode, uops: NDArray[np.int64]) -> Instruction:
        """A GEMM or ALU whose indices stay within the depths unless they wrap."""
        names = ("dst", "src", "wgt") if opcode is Opcode.GEMM else ("dst", "src")
        second = Memory.INP if opcode is Opcode.GEMM else Memory.ACC
        depths = [self.target.depth(m) for m in (Memory.ACC, second, Memory.WGT)]
        begin = self.number(0, len(uops) - 1)
        end = self.number(begin + 1, min(len(uops), begin + 6))
        out, inner = self.number(1, 4), self.number(1, 4)
        fields = {"uop_bgn": begin, "uop_end": end, "iter_out": out, "iter_in": inner}
        for column, name in enumerate(names):
            room = depths[column] - 1 - int(uops[begin:end, column].max())
            far, near = self.number(0, 3), self.number(0, 3)
            if not self.wraps:
                near = min(near, room // max(1, inner - 1))
                far = min(far, (room - (inner - 1) * near) // max(1, out - 1))
            fields |= {f"{name}_factor_out": far, f"{name}_factor_in": near}
        if opcode is Opcode.GEMM:
            fields["reset_reg"] = int(self.number(0, 3) == 0)
        else:
            highest = {"fsim": 4, "hls": 7, "chisel": 3}[self.design]
            fields |= {
                "alu_opcode": self.number(0, highest),
                "use_imm": self.number(0, 1),
                "imm": self.draw(st.integers(-40, 40) | st.integers(-32768, 32767)),
            }
        return Instruction(opcode, fields)

    def uops(self, count: int) -> NDArray[np.int64]:
        """Micro-ops: regular, irregular or all alike; within the depths."""
        depths = [self.target.depth(m) for m in (Memory.ACC, Memory.INP, Memory.WGT)]
        depths[1] = min(depths[:2])
        columns = []
        for depth in depths:
            start, step = self.number(0, depth - 1), self.number(0, 3)
            regular = (start + step * np.arange(count)) % depth
            random = np.random.default_rng(self.number(0, 99)).integers(0, depth, count)
            columns.append(regular if self.number(0, 2) else random)
        return np.stack(columns, axis=1)

    def stream(self) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """Instructions, most often after loads of whole memories, and the micro-ops."""
        uops = self.uops(self.target.depth(Memory.UOP))
        isa = Isa.of(self.target)
        insns = [load(0, 0, BASE // 4, len(uops))]
        for memory in (Memory.INP, Memory.WGT, Memory.ACC):
            if self.number(0, 4):
                unit, depth = self.target.element_bytes(memory), self.target.depth(memory)
                place = self.number(-(-BASE // unit), (BASE + SHARED + OWN) // unit - depth)
                insns.append(load(int(memory), 0, place, depth))
        for _ in range(self.number(1, 10)):
            opcode = self.draw(
                st.sampled_from([Opcode.LOAD, Opcode.GEMM, Opcode.GEMM, Opcode.ALU, Opcode.STORE])
            )
            if opcode in (Opcode.LOAD, Opcode.STORE):
                insns.append(self.transfer(opcode))
            else:
                insns.append(self.compute(opcode, uops))
        return encode(self.target, *insns, FINISH), isa.encode_uops(uops)


@st.composite
def cases(draw: st.DrawFn, design: str) -> tuple[Any, ...]:
    """A target, a stream, its micro-ops, images, a seed, whether constants are shared."""
    target = draw(st.sampled_from(TARGETS))
    insns, uops = Streams(draw, target, design).stream()
    seed = draw(st.integers(0, 2**32 - 1))
    return target, insns, uops, draw(st.sampled_from([1, 1, 3])), seed, draw(st.booleans())


@settings(max_examples=150, deadline=None, phases=_PHASES)
@given(cases("fsim"))
def test_equals_the_scalar_vta_as_functional_simulator(case: tuple[Any, ...]) -> None:
    target, insns, uops, images, seed, shared = case
    require_equal(target, "fsim", insns, memory(images, seed, shared, uops))


@settings(max_examples=150, deadline=None, phases=_PHASES)
@given(cases("hls"))
def test_equals_the_scalar_vta_as_hls(case: tuple[Any, ...]) -> None:
    target, insns, uops, images, seed, shared = case
    require_equal(target, "hls", insns, memory(images, seed, shared, uops))


@settings(max_examples=150, deadline=None, phases=_PHASES)
@given(cases("chisel"))
def test_equals_the_scalar_vta_as_chisel(case: tuple[Any, ...]) -> None:
    target, insns, uops, images, seed, shared = case
    require_equal(target, "chisel", insns, memory(images, seed, shared, uops))
