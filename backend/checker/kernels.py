"""What one GEMM or ALU instruction touches, in closed form and memoised.

A micro-op kernel is a window of micro-op words under two loops. Its sets of SRAM indices are bit
masks: those of the window, spread over the loops by doubling. Nothing here depends on trip counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..commands import Memory
from ..isa import Isa
from ..profile import Profile
from ..target import Target
from .findings import Report

GEMM, RESET, ALU_IMMEDIATE, ALU_REGISTER = range(4)
"""The four kinds of kernel."""

MEMO_ENTRIES = 2048
BLOCK = 1 << 18

Indices = NDArray[np.int64]


class Shape(NamedTuple):
    """The kind of a kernel, its trip counts, and (outer, inner) steps of each index."""

    kind: int
    trips: tuple[int, int]
    dst: tuple[int, int]
    src: tuple[int, int]
    wgt: tuple[int, int]


@dataclass(frozen=True)
class Kernel:
    """Masks of the indices reached: ACC written, ACC or INP as source, WGT; broken rules.

    An immediate operation has no source. All masks are 0 if an index lies outside its memory.
    """

    dst: int
    src: int
    wgt: int
    faults: tuple[tuple[str, str], ...]


class Kernels:
    """Analyses kernels for one target, each distinct one once."""

    def __init__(self, target: Target, profile: Profile, report: Report) -> None:
        self._isa = Isa.of(target)
        self._depth = {memory: target.depth(memory) for memory in Memory}
        self._distance = target.acc_dep_distance
        self._imm_reads_src = profile.alu_imm_reads_src
        self._report = report
        self._memo: dict[tuple[bytes, Shape], Kernel] = {}

    def get(self, words: NDArray[np.uint32], shape: Shape, index: int) -> Kernel:
        """The kernel of the micro-op `words`, at least one, under the loops of `shape`."""
        key = (words.tobytes(), shape)
        kernel = self._memo.get(key)
        if kernel is None:
            if len(self._memo) >= MEMO_ENTRIES:
                self._memo.clear()
            self._report.spend(index, 200 + len(words) // 4)
            kernel = self._memo[key] = self._analyse(words, shape, index)
        return kernel

    def _analyse(self, words: NDArray[np.uint32], shape: Shape, index: int) -> Kernel:
        dst, src, wgt = self._isa.decode_uops(words).T
        source = Memory.INP if shape.kind in (GEMM, RESET) else Memory.ACC
        used = [(dst, shape.dst, Memory.ACC), (src, shape.src, source)]
        if source is Memory.INP:
            used.append((wgt, shape.wgt, Memory.WGT))
        faults = tuple(self._beyond(shape, used))
        if faults:
            return Kernel(0, 0, 0, faults)
        if shape.kind == ALU_IMMEDIATE and self._imm_reads_src and _moves(dst, src, shape):
            faults += (("alu-source", "immediate ALU operation with another src than dst"),)
        masks = [_reached(one, steps, shape, self._depth[memory]) for one, steps, memory in used]
        faults += tuple(self._too_close(dst, src, shape, masks, index))
        read = 0 if shape.kind == ALU_IMMEDIATE else masks[1]
        return Kernel(masks[0], read, masks[2] if len(masks) > 2 else 0, faults)

    def _beyond(
        self, shape: Shape, used: list[tuple[Indices, tuple[int, int], Memory]]
    ) -> Iterator[tuple[str, str]]:
        """Indices that leave their SRAM."""
        for indices, steps, memory in used:
            top = int(indices.max()) + sum(
                (trip - 1) * step for trip, step in zip(shape.trips, steps, strict=True)
            )
            if top >= self._depth[memory]:
                yield "uop-index", f"{memory.name} index {top}, depth {self._depth[memory]}"

    def _too_close(
        self, dst: Indices, src: Indices, shape: Shape, masks: list[int], index: int
    ) -> Iterator[tuple[str, str]]:
        """Accumulators that are used again too soon after they were written."""
        if shape.kind == RESET:
            return
        reads = [("dst", dst, shape.dst)]
        if shape.kind == ALU_REGISTER and masks[0] & masks[1]:
            reads.append(("src", src, shape.src))
        for name, read, steps in reads:
            for gap in range(1, self._distance):
                if self._meets(dst, read, steps, shape, gap, index):
                    yield (
                        "acc-distance",
                        f"an accumulator is written and used as {name} {gap} micro-op(s) later; "
                        f"the target needs {self._distance}",
                    )
                    return

    def _meets(
        self,
        dst: Indices,
        read: Indices,
        steps: tuple[int, int],
        shape: Shape,
        gap: int,
        index: int,
    ) -> bool:
        """Whether some micro-op reads what the one `gap` before it in flattened order wrote.

        Position u of iteration (i, j) is followed by position (u + gap) mod n of the iteration
        `turns` later, which is (i + m, j + turns - m * inner) for one of two values of m.
        """
        outer, inner = shape.trips
        later = np.arange(len(dst)) + gap
        difference = read[later % len(dst)] - dst
        for turns in range(gap // len(dst), (gap + len(dst) - 1) // len(dst) + 1):
            rows = later // len(dst) == turns
            m, rest = divmod(turns, inner)
            for carry, j_low, j_high in ((m, 0, inner - rest), (m + 1, inner - rest, inner)):
                if carry >= outer or j_low >= j_high or not rows.any():
                    continue
                constant = difference[rows] + carry * steps[0] + (turns - carry * inner) * steps[1]
                slopes = (steps[0] - shape.dst[0], steps[1] - shape.dst[1])
                bounds = ((0, outer - carry), (j_low, j_high))
                if self._has_zero(constant, slopes, bounds, index):
                    return True
        return False

    def _has_zero(
        self,
        constant: Indices,
        slopes: tuple[int, int],
        bounds: tuple[tuple[int, int], tuple[int, int]],
        index: int,
    ) -> bool:
        """Whether constant[u] + i * slopes[0] + j * slopes[1] = 0 for an u and i, j in bounds.

        Bounds exclude their ends. A loop whose slope is 0 does not matter; one of the others is
        solved for and the remaining one is tried, in blocks: its trip count is below the ACC depth.
        """
        terms = [(s, low, high) for s, (low, high) in zip(slopes, bounds, strict=True) if s]
        terms.sort(key=lambda term: term[2] - term[1])
        if not terms:
            return bool((constant == 0).any())
        solved, low, high = terms.pop()
        tried, begin, end = terms[0] if terms else (0, 0, 1)
        block = max(1, BLOCK // len(constant))
        for start in range(begin, end, block):
            values = np.arange(start, min(start + block, end), dtype=np.int64)
            self._report.spend(index, 1 + len(values) * len(constant) // 64)
            target = -(constant[:, None] + tried * values)
            quotient = target // solved
            exact = (quotient * solved == target) & (quotient >= low) & (quotient < high)
            if exact.any():
                return True
        return False


def _moves(dst: Indices, src: Indices, shape: Shape) -> bool:
    """Whether source and destination differ anywhere."""
    factors = zip(shape.trips, shape.dst, shape.src, strict=True)
    return bool((dst != src).any()) or any(trip > 1 and a != b for trip, a, b in factors)


def _reached(indices: Indices, steps: tuple[int, int], shape: Shape, depth: int) -> int:
    """The mask of `indices` spread over both loops; all of it is known to lie below `depth`."""
    bits = np.zeros(depth, np.uint8)
    bits[indices] = 1
    mask = int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")
    for trips, step in zip(shape.trips, steps, strict=True):
        done = 1 if step else trips
        while done < trips:
            more = min(done, trips - done)
            mask |= mask << (more * step)
            done += more
    return mask
