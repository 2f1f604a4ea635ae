"""A scalar VTA: one micro-op at a time, for the tests to compare the lifted simulator with.

Written from the semantics alone (docs/hardware.md); it shares no code with the simulator, decodes
the bits itself and knows the three designs by name. It executes legal streams only and knows no
tokens: the caller gives the order of instructions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtaflow.backend.commands import Memory
from vtaflow.backend.target import Target

LOAD, STORE, GEMM, FINISH, ALU = range(5)
UOP, WGT, INP, ACC, OUT, ACC_8BIT = range(6)


def _wrap(values: Any) -> Any:
    """int64 to int32, modulo 2^32."""
    return (values + 2**31) % 2**32 - 2**31


class ScalarVta:
    """SRAM and the DRAM bytes [base, base + len(dram)) of one image."""

    def __init__(self, target: Target, design: str, dram: NDArray[np.uint8], base: int) -> None:
        self.design, self.dram, self.base = design, dram, base
        self.batch, self.block = target.batch, target.block_in
        self.bits = {m: target.log_depth(m) for m in Memory}
        self.unit = {m: target.element_bytes(m) for m in Memory}
        rows, block = (self.batch, self.block), (self.block, self.block)
        depth = {m: 1 << bits for m, bits in self.bits.items()}
        if design == "chisel":
            depth[Memory.UOP] = min(depth[Memory.UOP], 2048)
        self.uop = np.zeros(depth[Memory.UOP], np.int64)
        self.inp = np.zeros((depth[Memory.INP], *rows), np.int64)
        self.wgt = np.zeros((depth[Memory.WGT], *block), np.int64)
        self.acc = np.zeros((depth[Memory.ACC], *rows), np.int64)
        self.out = np.zeros((depth[Memory.ACC], *rows), np.int64)

    def run(self, insns: NDArray[np.uint8], order: Iterable[int]) -> None:
        """Execute the instructions at these positions, in this order."""
        for position in order:
            bits = int.from_bytes(insns[position].tobytes(), "little")
            opcode = bits & 7
            if opcode == LOAD:
                self._load(bits)
            elif opcode == STORE:
                self._store(bits)
            elif opcode in (GEMM, ALU):
                self._compute(bits, opcode)

    @staticmethod
    def _transfer_fields(bits: int) -> tuple[int, ...]:
        """type, sram, dram, y, x, stride, y_pad_0, y_pad_1, x_pad_0, x_pad_1."""
        places = ((7, 3), (10, 16), (26, 32), (64, 16), (80, 16), (96, 16), (112, 4), (116, 4),
                  (120, 4), (124, 4))
        return tuple(bits >> start & (1 << width) - 1 for start, width in places)

    def _bytes(self, element: int, unit: int) -> NDArray[np.uint8]:
        start = element * unit % 2**32 - self.base
        assert 0 <= start <= len(self.dram) - unit
        return self.dram[start : start + unit]

    def _load(self, bits: int) -> None:
        kind, sram, dram, rows, size, stride, y0, y1, x0, x1 = self._transfer_fields(bits)
        hls = self.design == "hls"
        if kind > ACC_8BIT or kind == OUT or (kind == ACC_8BIT and hls):
            return
        if size == 0 and not hls:
            return
        if hls and kind in (UOP, WGT):
            y0 = y1 = x0 = x1 = 0
        if hls and kind == UOP:
            rows = 1
        memory = {UOP: self.uop, WGT: self.wgt, INP: self.inp}.get(kind, self.acc)
        name = Memory(min(kind, ACC)) if kind != ACC_8BIT else Memory.ACC
        unit = self.unit[name] // (4 if kind == ACC_8BIT else 1)
        dtype = {UOP: "<u4", ACC: "<i4"}.get(kind, "i1")
        for y in range(-y0, rows + y1):
            for x in range(-x0, size + x1):
                value: Any = 0
                if 0 <= y < rows and 0 <= x < size:
                    raw = self._bytes(dram + y * stride + x, unit)
                    value = raw.copy().view(dtype).astype(np.int64).reshape(memory.shape[1:])
                memory[sram % len(memory)] = value
                sram += 1

    def _store(self, bits: int) -> None:
        _, sram, dram, rows, size, stride, *_ = self._transfer_fields(bits)
        source = self.acc if self.design == "fsim" else self.out
        for y in range(rows):
            for x in range(size):
                low = (source[sram % len(source)] & 255).astype(np.uint8)
                self._bytes(dram + y * stride + x, self.unit[Memory.OUT])[:] = low.reshape(-1)
                sram += 1

    def _compute(self, bits: int, opcode: int) -> None:
        u, a = self.bits[Memory.UOP], self.bits[Memory.ACC]
        i, w = self.bits[Memory.INP], self.bits[Memory.WGT]
        src = i if opcode == GEMM else a
        widths = [1, u, u + 1, 14, 14]
        tails = [a, a, src, src, *((w, w) if opcode == GEMM else (3, 1, 16))]
        start, values = 7, []
        for place, width in [*((None, n) for n in widths), (64, tails[0]),
                             *((None, n) for n in tails[1:])]:
            start = place or start
            values.append(bits >> start & (1 << width) - 1)
            start += width
        reset, begin, end, outer, inner, d_out, d_in, s_out, s_in, *rest = values
        for o in range(outer):
            for n in range(inner):
                for k in range(begin, end):
                    word = int(self.uop[k % len(self.uop)])
                    dst = (word & (1 << a) - 1) + o * d_out + n * d_in
                    source = (word >> a & (1 << max(a, i)) - 1) + o * s_out + n * s_in
                    tile = (word >> a + max(a, i) & (1 << w) - 1)
                    dst %= len(self.acc)
                    if opcode == GEMM:
                        tile += o * rest[0] + n * rest[1]
                        self._gemm(dst, source % len(self.inp), tile % len(self.wgt), reset)
                    else:
                        self._alu(dst, source % len(self.acc), *rest)

    def _gemm(self, dst: int, src: int, tile: int, reset: int) -> None:
        total = _wrap(self.acc[dst] + self.inp[src] @ self.wgt[tile].T)
        self.acc[dst] = 0 if reset else total
        if not (reset and self.design == "chisel"):
            self.out[dst] = total

    def _alu(self, dst: int, src: int, opcode: int, use_imm: int, imm: int) -> None:
        imm = imm - 65536 if imm & 32768 else imm
        from_source = self.design == "chisel" and use_imm
        for lane in np.ndindex(self.batch, self.block):
            first = int(self.acc[src][lane] if from_source else self.acc[dst][lane])
            second = imm if use_imm else int(self.acc[src][lane])
            result = self._operate(opcode, first, second, None if use_imm else imm)
            self.out[dst][lane] = result
            if opcode <= 3 or self.design == "fsim":
                self.acc[dst][lane] = result

    def _operate(self, opcode: int, a: int, b: int, field: int | None) -> int:
        if opcode == 0:
            return min(a, b)
        if opcode == 1:
            return max(a, b)
        if opcode == 2:
            return int(_wrap(a + b))
        if opcode == 4 and self.design == "fsim":
            return int(_wrap(a * b))
        amount = self._amount(b, field)
        return int(_wrap(a << -amount)) if amount < 0 else a >> amount

    def _amount(self, b: int, field: int | None) -> int:
        """How far SHR goes to the right; `field` is the unused immediate of a register form."""
        if self.design == "hls":
            return ((b & 31) ^ 16) - 16
        if self.design == "chisel" and field is not None:
            return -(-b & 31) if field < 0 else b & 31
        return b & 31 if b >= 0 else -(-b & 31)
