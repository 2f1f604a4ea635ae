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
from vtaflow.runtime import functional, lift, plan_compute, weights
from vtaflow.runtime.functional import Launch
from vtaflow.runtime.memory import Dram, Segment

from .scalar_vta import ScalarVta

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
            earlier = [insn for insn in insns if insn.opcode is opcode is Opcode.GEMM]
            if opcode in (Opcode.LOAD, Opcode.STORE):
                insns.append(self.transfer(opcode))
            elif earlier and self.number(0, 1):
                insns.append(earlier[self.number(0, len(earlier) - 1)])  # so plans can reuse
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


def check_case(design: str, case: tuple[Any, ...]) -> None:
    """Compare both simulators on one drawn case."""
    target, insns, uops, images, seed, shared = case
    require_equal(target, design, insns, memory(images, seed, shared, uops))


@settings(max_examples=120, deadline=None)
@given(cases("fsim"))
def test_equals_the_scalar_vta_as_functional_simulator(case: tuple[Any, ...]) -> None:
    check_case("fsim", case)


@settings(max_examples=120, deadline=None)
@given(cases("hls"))
def test_equals_the_scalar_vta_as_hls(case: tuple[Any, ...]) -> None:
    check_case("hls", case)


@settings(max_examples=120, deadline=None)
@given(cases("chisel"))
def test_equals_the_scalar_vta_as_chisel(case: tuple[Any, ...]) -> None:
    check_case("chisel", case)


@settings(max_examples=60, deadline=None)
@given(cases("hls"), st.sampled_from(["parts", "no floats", "small blocks", "groups", "threads"]))
def test_every_way_of_execution_is_exact(case: tuple[Any, ...], way: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if way == "parts":
            patch.setattr(plan_compute, "_PART_LIMIT", 3)
        elif way == "no floats":
            patch.setattr(weights, "_FLOAT_BUDGET_BYTES", 0)
        elif way == "small blocks":
            patch.setattr(lift, "_TILES_PER_BLOCK", 2)
        elif way == "groups":
            patch.setattr(functional, "_SCRATCH_BYTES", 600)
        else:
            patch.setattr(functional, "_THREAD_MICRO_OPS", 0)
            patch.setattr(functional, "_cores", lambda: 2)
        check_case("hls", case)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_images_run_in_groups_when_scratch_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    target = TARGETS[0]
    uops = np.array([[0, 0, 0], [1, 1, 0], [0, 2, 1]])
    insns = encode(
        target,
        load(0, 0, BASE // 4, 3),
        load(2, 0, (BASE + SHARED) // 4, 8),
        load(1, 0, BASE // 16 + 8, 4),
        loops(Opcode.GEMM, 0, 3, inner=4, src_factor_in=1, dst_factor_in=2),
        store(0, (BASE + SHARED) // 4 + 100, 8),
        FINISH,
    )
    words = Isa.of(target).encode_uops(uops)
    whole, grouped = memory(5, 1, True, words), memory(5, 1, True, words)
    Launch(target, insns, whole).run()
    monkeypatch.setattr(functional, "_SCRATCH_BYTES", 2000)
    monkeypatch.setattr(functional, "_THREAD_MICRO_OPS", 0)
    monkeypatch.setattr(functional, "_cores", lambda: cores)
    launch = Launch(target, insns, grouped)
    launch.run()
    np.testing.assert_array_equal(grouped.segments[1].data, whole.segments[1].data)
    with pytest.raises(ValueError, match="one image"):
        launch.sram(Memory.ACC)


def wide_sum(terms: int, own_weights: bool) -> tuple[Dram, NDArray[np.uint8]]:
    """A launch of the default target that sums `terms` blocks of extreme values into ACC[0]."""
    uops = Isa.of(SIM).encode_uops(np.stack([np.zeros(terms, int), *[np.arange(terms)] * 2], 1))
    generator = np.random.default_rng(terms)
    low = generator.choice(np.array([128, 129], np.uint8), (2, 1 << 19))  # -128 and -127
    words = np.zeros(8192, np.uint8)
    words[: 4 * terms] = uops.astype("<u4").view(np.uint8)
    weights_at, inputs_at, result_at = 1 << 16, 1 << 19, 1 << 20
    tiles = low if own_weights else low[1]
    dram = Dram([
        Segment(BASE, words),
        Segment(weights_at, np.ascontiguousarray(tiles[..., : 256 * terms])),
        Segment(inputs_at, np.ascontiguousarray(low[:, : 16 * terms])),
        Segment(result_at, np.zeros((2, 64), np.uint8)),
    ])
    insns = encode(
        SIM,
        load(0, 0, BASE // 4, terms),
        load(2, 0, inputs_at // 16, terms),
        load(1, 0, weights_at // 256, terms),
        loops(Opcode.GEMM, 0, 1, reset_reg=1),
        loops(Opcode.GEMM, 0, terms),
        store(0, result_at // 16, 1),
        loops(Opcode.ALU, 0, 1, alu_opcode=3, use_imm=1, imm=8),
        store(0, result_at // 16 + 1, 1),
        loops(Opcode.ALU, 0, 1, alu_opcode=3, use_imm=1, imm=8),
        store(0, result_at // 16 + 2, 1),
        loops(Opcode.ALU, 0, 1, alu_opcode=3, use_imm=1, imm=8),
        store(0, result_at // 16 + 3, 1),
        FINISH,
    )
    return dram, insns


@pytest.mark.parametrize("own_weights", [False, True])
@pytest.mark.parametrize("terms", [63, 64, 65, 100, 200, 1000])
def test_sums_beyond_the_integers_of_float32_are_exact(terms: int, own_weights: bool) -> None:
    dram, insns = wide_sum(terms, own_weights)
    Launch(SIM, insns, dram, profile=PROFILES["hls"]).run()
    for image in range(2):
        data = [s.data if s.shared else s.data[image] for s in dram.segments]
        tiles = data[1].view(np.int8).astype(np.int64).reshape(terms, 16, 16)
        rows = data[2].view(np.int8).astype(np.int64).reshape(terms, 16)
        wanted = np.einsum("ti,toi->o", rows, tiles).astype("<i4")
        found = data[3].reshape(4, 16).T.copy().view("<i4").reshape(-1)
        np.testing.assert_array_equal(found, wanted)


def test_the_scalar_comparison_can_fail() -> None:
    dram, insns = wide_sum(3, False)
    launch = Launch(SIM, insns, dram)
    launch.run()
    result = dram.segments[3].data.copy()
    dram.segments[2].data[0, 5] ^= 1
    launch.run()
    assert not np.array_equal(dram.segments[3].data, result)


def test_micro_op_loads_keep_rows_and_pads_where_the_design_does() -> None:
    target = TARGETS[0]
    words = Isa.of(target).encode_uops(np.array([[n, 0, 0] for n in range(12)]))
    insns = encode(
        target,
        load(0, 3, BASE // 4, 2, rows=3, x_stride=4, y_pad_0=1, x_pad_1=1, y_pad_1=1),
        FINISH,
    )
    for design in ("fsim", "hls", "chisel"):
        launch = require_equal(target, design, insns, memory(1, 0, True, words))
        first = launch.sram(Memory.UOP).view("<u4")[3:6].tolist()
        assert first == ([0, 1, 0] if design == "hls" else [0, 0, 0])


def test_constants_that_a_store_overwrites_are_read_again() -> None:
    """Weights and micro-ops that the stream itself stores are no constants."""
    target = TARGETS[0]
    uops = np.array([[0, 0, 0], [1, 1, 1]])
    words = Isa.of(target).encode_uops(uops)
    insns = encode(
        target,
        load(0, 0, BASE // 4, 2),
        load(3, 0, BASE // 16 + 30, 8),
        load(1, 0, BASE // 16 + 16, 4),
        load(2, 0, BASE // 4 + 100, 8),
        loops(Opcode.GEMM, 0, 2, inner=2, dst_factor_in=2, src_factor_in=2, wgt_factor_in=2),
        store(0, BASE // 4 + 64, 8),
        load(1, 0, BASE // 16 + 16, 4),
        loops(Opcode.GEMM, 0, 2, inner=2, dst_factor_in=2, src_factor_in=2, wgt_factor_in=2),
        store(0, BASE // 4, 1),
        load(0, 0, BASE // 4, 1),
        FINISH,
    )
    require_equal(target, "hls", insns, memory(1, 5, True, words))


def test_a_long_store_before_a_short_one_still_spoils_constants() -> None:
    target = TARGETS[0]
    uops = np.array([[0, 0, 0], [1, 1, 1]])
    insns = encode(
        target,
        load(0, 0, BASE // 4, 2),
        load(3, 0, BASE // 16 + 40, 16),
        loops(Opcode.ALU, 0, 2, inner=8, dst_factor_in=2, alu_opcode=2, use_imm=1, imm=1),
        load(2, 0, BASE // 4 + 300, 8),
        store(0, BASE // 4 + 64, 16),
        store(0, BASE // 4 + 68, 1),
        load(1, 0, BASE // 16 + 18, 2),
        loops(Opcode.GEMM, 0, 2, inner=2, dst_factor_in=2, src_factor_in=2),
        FINISH,
    )
    require_equal(target, "hls", insns, memory(1, 5, True, Isa.of(target).encode_uops(uops)))


def test_inputs_that_change_are_gathered_again() -> None:
    """Between two equal GEMMs a LOAD replaces one of the inputs, or none of them."""
    target = TARGETS[0]
    uops = np.array([[0, 2, 0], [1, 3, 1]])
    for element in (1, 2, 4, 5, 6):
        gemm = loops(Opcode.GEMM, 0, 2, inner=2, dst_factor_in=2, src_factor_in=2)
        insns = encode(
            target,
            load(0, 0, BASE // 4, 2),
            load(1, 0, BASE // 16 + 16, 4),
            load(2, 0, BASE // 4 + 100, 8),
            gemm,
            load(2, element, BASE // 4 + 200, 1),
            gemm,
            FINISH,
        )
        dram = memory(1, element, True, Isa.of(target).encode_uops(uops))
        require_equal(target, "fsim", insns, dram)


def test_constant_and_loaded_weights_can_be_mixed() -> None:
    """A product of tiles from shared memory and from each image's own, in changing places."""
    target = TARGETS[0]
    uops = np.array([[0, 0, 0], [1, 1, 1]])
    gemm = loops(Opcode.GEMM, 0, 2, inner=2, dst_factor_in=2, src_factor_in=2, wgt_factor_in=2)
    shared, own = BASE // 16 + 16, (BASE + SHARED) // 16 + 4
    insns = encode(
        target,
        load(0, 0, BASE // 4, 2),
        load(2, 0, BASE // 4 + 100, 8),
        load(1, 0, shared, 4),
        load(1, 1, own, 1),
        gemm,
        load(1, 0, shared + 9, 1),
        gemm,
        load(1, 1, shared + 12, 1),
        gemm,
        load(1, 2, own + 3, 2),
        gemm,
        FINISH,
    )
    for images in (1, 3):
        dram = memory(images, 1, True, Isa.of(target).encode_uops(uops))
        require_equal(target, "hls", insns, dram)


def test_zeros_of_a_reset_go_where_they_belong() -> None:
    """A GEMM of 2 pixels by 3 channels meets accumulators of which four were reset before."""
    target = TARGETS[0]
    uops = np.array([[p + 2 * c, p, c] for p in range(2) for c in range(3)])
    uops = np.concatenate([uops, [[1, 0, 0], [2, 0, 0], [3, 0, 0], [5, 0, 0]]])
    insns = encode(
        target,
        load(0, 0, BASE // 4, 10),
        load(3, 0, BASE // 16 + 20, 16),
        load(2, 0, BASE // 4 + 100, 8),
        load(1, 0, BASE // 16 + 16, 4),
        loops(Opcode.GEMM, 6, 10, reset_reg=1),
        loops(Opcode.GEMM, 0, 6),
        FINISH,
    )
    require_equal(target, "hls", insns, memory(1, 2, True, Isa.of(target).encode_uops(uops)))


def test_memory_that_nobody_wrote_reads_as_zero_in_every_run() -> None:
    target = TARGETS[0]
    insns = encode(
        target,
        load(0, 0, BASE // 4, 1),
        loops(Opcode.ALU, 0, 1, alu_opcode=2, use_imm=1, imm=3),
        store(0, (BASE + SHARED) // 4, 1),
        FINISH,
    )
    dram = memory(2, 0, True, np.zeros(1, np.uint32))
    launch = Launch(target, insns, dram)
    for _ in range(2):
        launch.run()
        assert (dram.segments[1].data[:, :4] == 3).all()


def test_initial_sram_contents_are_used() -> None:
    target = TARGETS[0]
    acc = np.arange(16 * 16, dtype=np.uint8)
    uops = Isa.of(target).encode_uops(np.array([[2, 2, 0]])).astype("<u4").view(np.uint8)
    sram = {Memory.ACC: acc, Memory.UOP: np.resize(uops, 128)}
    insns = encode(target, loops(Opcode.ALU, 0, 1, use_imm=1, imm=32767), FINISH)
    launch = Launch(target, insns, memory(1, 0, True, np.zeros(1, np.uint32)), sram=sram)
    launch.run()
    wanted = acc.view("<i4").copy()
    wanted[8:12] = np.minimum(wanted[8:12], 32767)
    np.testing.assert_array_equal(launch.sram(Memory.ACC).view("<i4"), wanted)
    with pytest.raises(ValueError, match="initial INP is uint8"):
        Launch(target, insns, memory(1, 0, True, uops[:0].view(np.uint32)),
               sram={Memory.INP: acc[:3]})


# Quirks by design: the value of OUT after each, on a target whose ACC[0] starts as 5s.

QUIRK_VALUE = 5


def out_after(design: str, *insns: Instruction) -> int:
    """Lane 0 of what STORE finds at index 0 after ACC LOAD, ADD 0 and `insns`."""
    target = TARGETS[0]
    dram = memory(1, 0, True, Isa.of(target).encode_uops(np.array([[0, 0, 0], [0, 1, 0]])))
    dram.segments[0].data[64:128] = np.array([QUIRK_VALUE] * 4 + [-3] * 12, "<i4").view(np.uint8)
    dram.segments[0].data[128:256] = 2
    acc = load(3, 0, BASE // 16 + 4, 4)
    add = loops(Opcode.ALU, 0, 1, alu_opcode=2, use_imm=1)
    prologue = [load(0, 0, BASE // 4, 2), acc, add, load(2, 0, BASE // 4 + 32, 1),
                load(1, 0, BASE // 16 + 8, 1)]
    result = store(0, (BASE + SHARED) // 4, 1)
    stream = encode(target, *prologue, *insns, result, FINISH)
    require_equal(target, design, stream, dram)
    return int(dram.segments[1].data[0, 0].view(np.int8))


@pytest.mark.parametrize(
    ("design", "insns", "value"),
    [
        ("fsim", [load(3, 0, BASE // 16 + 5, 1)], -3),
        ("hls", [load(3, 0, BASE // 16 + 5, 1)], 5),
        ("chisel", [load(3, 0, BASE // 16 + 5, 1)], 5),
        ("fsim", [loops(Opcode.GEMM, 0, 1, reset_reg=1)], 0),
        ("hls", [loops(Opcode.GEMM, 0, 1, reset_reg=1)], 5 + 4 * 2 * 2),
        ("chisel", [loops(Opcode.GEMM, 0, 1, reset_reg=1)], 5),
        ("hls", [loops(Opcode.GEMM, 0, 1, inner=2, reset_reg=1)], 4 * 2 * 2),
        ("fsim", [loops(Opcode.ALU, 0, 1, alu_opcode=4, use_imm=1, imm=2)], 10),
        ("hls", [loops(Opcode.ALU, 0, 1, alu_opcode=4, use_imm=1, imm=1)], 2),
        ("fsim", [loops(Opcode.ALU, 0, 1, alu_opcode=3, use_imm=1, imm=16)], 0),
        ("hls", [loops(Opcode.ALU, 0, 1, alu_opcode=3, use_imm=1, imm=30)], 20),
        ("hls", [loops(Opcode.ALU, 0, 1, alu_opcode=3, use_imm=1, imm=-31)], 2),
        ("chisel", [loops(Opcode.ALU, 0, 1, alu_opcode=3, use_imm=1, imm=-1)], 10),
        ("fsim", [loops(Opcode.ALU, 1, 2, alu_opcode=3)], 40),
        ("hls", [loops(Opcode.ALU, 1, 2, alu_opcode=3)], 40),
        ("chisel", [loops(Opcode.ALU, 1, 2, alu_opcode=3)], 0),
        ("chisel", [loops(Opcode.ALU, 1, 2, alu_opcode=3, imm=-1)], 40),
        ("fsim", [loops(Opcode.ALU, 1, 2, alu_opcode=2, use_imm=1, imm=1)], 6),
        ("chisel", [loops(Opcode.ALU, 1, 2, alu_opcode=2, use_imm=1, imm=1)], -2),
        ("fsim", [load(5, 0, BASE // 4 + 16, 1)], 5),
        ("hls", [load(5, 0, BASE // 4 + 17, 1), loops(Opcode.ALU, 0, 1, use_imm=1, imm=99)], 5),
        ("hls", [Instruction(Opcode.LOAD, {"memory_type": 3, "y_size": 1, "x_pad_0": 1}),
                 loops(Opcode.ALU, 0, 1, alu_opcode=2, use_imm=1, imm=7)], 7),
        ("fsim", [Instruction(Opcode.LOAD, {"memory_type": 3, "y_size": 1, "x_pad_0": 1})], 5),
        ("chisel", [Instruction(Opcode.LOAD, {"memory_type": 3, "y_size": 1, "x_pad_0": 1})], 5),
        ("hls", [store(0, BASE // 4 + 600, 1, memory_type=3, x_pad_0=2)], 5),
        ("hls", [loops(Opcode.GEMM, 0, 1, out=0)], 5),
    ],
)
def test_designs_differ_where_the_hardware_does(
    design: str, insns: list[Instruction], value: int
) -> None:
    assert out_after(design, *insns) == value


def unmapped(target: Target) -> Instruction:
    """A LOAD far outside every segment."""
    return load(2, 0, 1 << 20, 1)


@pytest.mark.parametrize(
    ("design", "insns", "message"),
    [
        ("fsim", [load(2, 30, BASE // 4, 3)], r"instruction 0 \(LOAD\): INP elements 30..32"),
        ("fsim", [load(0, 31, BASE // 4, 2)], "UOP elements 31..32 exceed the depth 32"),
        ("fsim", [store(15, BASE // 4, 2)], r"\(STORE\): OUT elements 15..16 exceed the depth 16"),
        ("fsim", [loops(Opcode.GEMM, 30, 34)], "micro-ops 30..34 exceed the UOP depth 32"),
        ("fsim", [loops(Opcode.GEMM, 0, 1, inner=9, dst_factor_in=2)], "reaches ACC index 16"),
        ("fsim", [loops(Opcode.GEMM, 0, 1, inner=9, src_factor_in=4)], "reaches INP index 32"),
        ("fsim", [loops(Opcode.GEMM, 0, 1, inner=9, wgt_factor_in=2)], "reaches WGT index 16"),
        ("fsim", [loops(Opcode.ALU, 0, 1, inner=9, src_factor_in=2)], "reaches ACC index 16"),
        ("fsim", [load(2, 0, 1 << 20, 1)], "DRAM address 0x400000 .* lies in no memory"),
        ("hls", [store(0, (BASE + SHARED + OWN) // 4 - 1, 2)], "DRAM address 0x3800 "),
        ("hls", [load(0, 0, BASE // 4 - 1, 1)], "DRAM address 0xffc "),
        ("fsim", [load(4, 0, BASE // 4, 1)], "profile fsim does not know LOAD of memory type 4"),
        ("portable", [load(5, 0, BASE // 4, 1)], "does not know LOAD of memory type 5"),
        ("chisel", [load(5, 0, BASE // 4, 1)], "fetch of profile chisel does not know this"),
        ("chisel", [loops(Opcode.ALU, 0, 1, alu_opcode=4)], "fetch of profile chisel"),
        ("fsim", [loops(Opcode.ALU, 0, 1, alu_opcode=5)], "does not know ALU opcode 5"),
        ("chisel", [load(2, 0, BASE // 4, 1, rows=0)], "y_size 0 with x_size 1 never ends"),
        ("chisel", [store(0, BASE // 4, 1, rows=0)], "y_size 0 with x_size 1 never ends"),
        ("chisel", [loops(Opcode.GEMM, 0, 1, out=0)], "iter_out 0, .* nothing to do"),
        ("chisel", [loops(Opcode.ALU, 1, 1)], "micro-ops 1..1: nothing to do"),
        ("fsim", [store(0, BASE // 4, 1, memory_type=3)], "memory_type 3 and pads"),
        ("fsim", [store(0, BASE // 4, 1, x_pad_1=1)], "memory type 4 without pads only"),
    ],
)
def test_what_a_design_refuses_is_one_line_naming_the_instruction(
    design: str, insns: list[Instruction], message: str
) -> None:
    target = TARGETS[0]
    dram = memory(1, 0, False, np.zeros(4, np.uint32))
    with pytest.raises(StreamError, match=message) as caught:
        Launch(target, encode(target, *insns, FINISH), dram, profile=PROFILES[design])
    assert "instruction 0 (" in str(caught.value) and "\n" not in str(caught.value)


def test_undefined_opcodes_are_refused_or_ignored() -> None:
    target = TARGETS[0]
    insns = encode(target, FINISH, FINISH)
    insns = np.concatenate([insns[:1], insns[1:]])
    insns[0, 0] = 6
    dram = memory(1, 0, True, np.zeros(1, np.uint32))
    Launch(target, insns, dram, profile=PROFILES["hls"]).run()
    for design in ("fsim", "chisel"):
        with pytest.raises(StreamError, match=r"instruction 0 \(opcode 6\)"):
            Launch(target, insns, dram, profile=PROFILES[design])


def test_absurd_work_and_malformed_streams_are_refused() -> None:
    dram = memory(1, 0, True, np.zeros(1, np.uint32))
    huge = loops(Opcode.GEMM, 0, 8192, out=16383, inner=16383)
    with pytest.raises(StreamError, match=r"instruction 1 \(GEMM\): the stream executes"):
        Launch(SIM, encode(SIM, loops(Opcode.ALU, 0, 1), huge, FINISH), dram)
    with pytest.raises(StreamError, match="a stream is uint8"):
        Launch(SIM, np.zeros((3, 15), np.uint8), dram)


def test_shared_memory_cannot_be_stored_to_for_several_images() -> None:
    target = TARGETS[0]
    insns = encode(target, store(0, BASE // 4, 1), FINISH)
    Launch(target, insns, memory(1, 0, True, np.zeros(1, np.uint32))).run()
    launch = Launch(target, insns, memory(2, 0, True, np.zeros(1, np.uint32)))
    with pytest.raises(StreamError, match="memory that 2 images share"):
        launch.run()


def test_a_plan_runs_on_memory_of_its_own_layout_only() -> None:
    target = TARGETS[0]
    insns = encode(target, FINISH)
    first = memory(1, 0, True, np.zeros(1, np.uint32))
    launch = Launch(target, insns, first)
    with pytest.raises(ValueError, match="after a run"):
        launch.sram(Memory.INP)
    other = Dram([first.segments[0], Segment(BASE + SHARED, np.zeros((4, OWN), np.uint8))])
    launch.run(other)
    for wrong in (
        memory(1, 0, True, np.zeros(1, np.uint32)),
        memory(1, 0, False, np.zeros(1, np.uint32)),
        Dram([first.segments[0], Segment(BASE + SHARED, np.zeros((1, OWN - 1), np.uint8))]),
    ):
        with pytest.raises(ValueError, match="differs in layout"):
            launch.run(wrong)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (lambda: [Segment(0, np.zeros(4, np.int8))], "C-contiguous uint8"),
        (lambda: [Segment(0, np.zeros((4, 4), np.uint8)[:, :2])], "C-contiguous uint8"),
        (lambda: [Segment(2**32 - 3, np.zeros(4, np.uint8))], "beyond 32 bits"),
        (lambda: [Segment(0, np.zeros(4, np.uint8)), Segment(3, np.zeros(4, np.uint8))],
         "overlap at address 0x3"),
        (lambda: [Segment(0, np.zeros((2, 4), np.uint8)), Segment(8, np.zeros((3, 4), np.uint8))],
         r"different numbers of images: \[2, 3\]"),
    ],
)
def test_memory_must_make_sense(segments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dram(segments())


def test_addresses_wrap_at_32_bits() -> None:
    """A row that passes the last address goes on at address 0."""
    target = TARGETS[0]
    top, bottom = np.arange(8, dtype=np.uint8), np.arange(100, 108, dtype=np.uint8)
    dram = Dram([Segment(2**32 - 8, top), Segment(0, bottom)])
    insns = encode(target, load(2, 0, (2**32 - 8) // 4, 4), FINISH)
    launch = Launch(target, insns, dram)
    launch.run()
    np.testing.assert_array_equal(launch.sram(Memory.INP)[:16], np.concatenate([top, bottom]))


def test_counters_count_what_the_profiler_of_vta_counts() -> None:
    insns = encode(
        SIM,
        load(2, 0, BASE // 16, 3, rows=2, x_pad_0=1, y_pad_1=2),
        load(1, 0, BASE // 256, 2),
        load(3, 0, BASE // 64, 5),
        load(5, 0, BASE // 16, 7),
        load(0, 0, BASE // 4, 4),
        loops(Opcode.GEMM, 0, 2, out=3, inner=5, reset_reg=1),
        loops(Opcode.GEMM, 0, 2, out=3, inner=5),
        loops(Opcode.ALU, 1, 4, out=2, inner=2, use_imm=1),
        loops(Opcode.ALU, 3, 1),
        store(0, (BASE + SHARED) // 16, 6, rows=2),
        FINISH,
    )
    launch = Launch(SIM, insns, memory(1, 0, True, np.zeros(4, np.uint32)))
    assert launch.counters == {
        "inp_load_nbytes": 6 * 16,
        "wgt_load_nbytes": 2 * 256,
        "acc_load_nbytes": 5 * 64 + 7 * 64,
        "uop_load_nbytes": 4 * 4,
        "out_store_nbytes": 12 * 16,
        "gemm_counter": 30,
        "alu_counter": 12,
        "insn_count": 11,
    }
