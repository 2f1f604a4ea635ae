"""Seconds and peak memory of the static checker on a stream the size of ResNet-18's.

The stream is synthetic: 3x3 convolutions of 64 channels at 56x56 in 14x14 tiles, double buffered,
each layer reading what the previous one stored. Run: python benchmarks/checker.py
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray

from vtaflow.backend.checker import WORK_LIMIT, check
from vtaflow.backend.commands import AluOp, Memory
from vtaflow.backend.dram import Region
from vtaflow.backend.isa import FIELD_NAMES, Isa, Opcode
from vtaflow.backend.target import Target

BASE = 0x1000_0000
IMAGE, TILE, BLOCKS, TAPS = 56, 14, 4, 9
PLANE, PIXELS, PADDED = IMAGE * IMAGE, TILE * TILE, (TILE + 2) * (TILE + 2)
TILES_ACROSS = IMAGE // TILE
BIAS = 2 * PIXELS
WEIGHTS = 45_000

Row = dict[str, int]


def uops() -> list[tuple[int, int, int]]:
    """Pixels for each pair of ACC and INP buffers, then elementwise and bias micro-ops."""
    pixels = [
        (acc * PIXELS + y * TILE + x, b * PADDED + y * (TILE + 2) + x, b * TAPS)
        for acc in (0, 1)
        for b in (0, 1)
        for y in range(TILE)
        for x in range(TILE)
    ]
    same = [(b * PIXELS, b * PIXELS, 0) for b in (0, 1)]
    return pixels + same + [(b * PIXELS, BIAS, 0) for b in (0, 1)]


def regions(layers: int) -> dict[str, Region]:
    """12 MB of constants, then one tensor a layer."""
    result, cursor = {}, 4096
    for name, kind, memory, count, unit in (
        ("uops", "constant", Memory.UOP, len(uops()), 4),
        ("bias", "constant", Memory.ACC, 64, 64),
        ("weights", "constant", Memory.WGT, WEIGHTS, 256),
        *((f"t{i}", "activation", Memory.OUT, BLOCKS * PLANE, 16) for i in range(layers + 1)),
    ):
        cursor = -(-cursor // unit) * unit
        result[name] = Region(name, kind, memory, cursor, count * unit)
        cursor += count * unit
    return result


class Stream:
    """Builds the instructions."""

    def __init__(self, layers: int) -> None:
        self.regions = regions(layers)
        self.rows: list[Row] = []
        self.tiles = layers * BLOCKS * TILES_ACROSS**2
        self.steps = 0
        self.build()

    def add(self, opcode: Opcode, **fields: int) -> None:
        """One instruction."""
        self.rows.append({"opcode": int(opcode), **fields})

    def move(self, opcode: Opcode, memory: Memory, name: str, at: int, sram: int, **f: int) -> None:
        """A LOAD or STORE of element `at` of a region; `x`, `y`, `stride` and other fields."""
        unit = {Memory.UOP: 4, Memory.WGT: 256, Memory.ACC: 64}.get(memory, 16)
        dram = (BASE + self.regions[name].start) // unit + at
        x, y = f.pop("x"), f.pop("y", 1)
        f = {"x_size": x, "y_size": y, "x_stride": f.pop("stride", x), **f}
        self.add(opcode, memory_type=int(memory), sram_base=sram, dram_base=dram, **f)

    def build(self) -> None:
        """The whole stream: every tile's loads stand one step before they are used."""
        self.add(Opcode.LOAD)
        self.move(Opcode.LOAD, Memory.UOP, "uops", 0, 0, x=len(uops()))
        self.move(Opcode.LOAD, Memory.ACC, "bias", 0, BIAS, x=1)
        total = self.tiles * BLOCKS
        self.load(0)
        for step in range(total):
            if step + 1 < total:
                self.load(step + 1)
            self.compute(step, total)
        self.add(Opcode.LOAD, pop_next_dep=1)
        self.add(Opcode.FINISH)

    def load(self, step: int) -> None:
        """One block of input channels of one tile, with its halo, and its weights."""
        tile, block, b = step // BLOCKS, step % BLOCKS, step % 2
        layer, place = divmod(tile, BLOCKS * TILES_ACROSS**2)
        y, x = (TILE * one for one in divmod(place % TILES_ACROSS**2, TILES_ACROSS))
        top, left = int(y > 0), int(x > 0)
        bottom, right = int(y + TILE < IMAGE), int(x + TILE < IMAGE)
        at = block * PLANE + (y - top) * IMAGE + x - left
        size = {"x": TILE + left + right, "y": TILE + top + bottom, "stride": IMAGE}
        pads = {
            "x_pad_0": 1 - left,
            "x_pad_1": 1 - right,
            "y_pad_0": 1 - top,
            "y_pad_1": 1 - bottom,
        }
        wait = {"pop_next_dep": int(step >= 2)}
        self.move(Opcode.LOAD, Memory.INP, f"t{layer}", at, b * PADDED, **size, **pads, **wait)
        weight = step * TAPS % (WEIGHTS - TAPS)
        self.move(Opcode.LOAD, Memory.WGT, "weights", weight, b * TAPS, x=TAPS, push_next_dep=1)

    def compute(self, step: int, total: int) -> None:
        """Accumulate; with the last block of input channels add, shift, clip and store."""
        tile, b = step // BLOCKS, step % 2
        acc = tile % 2
        square = {"iter_out": TILE, "iter_in": TILE, "dst_factor_out": TILE, "dst_factor_in": 1}
        same = {"uop_bgn": 4 * PIXELS + acc, "uop_end": 4 * PIXELS + acc + 1, **square}
        if step % BLOCKS == 0:
            self.add(Opcode.GEMM, reset_reg=1, pop_next_dep=int(tile >= 2), **same)
        window = (2 * acc + b) * PIXELS
        self.add(
            Opcode.GEMM,
            **{"uop_bgn": window, "uop_end": window + PIXELS, "iter_out": 3, "iter_in": 3},
            **{"src_factor_out": TILE + 2, "src_factor_in": 1},
            **{"wgt_factor_out": 3, "wgt_factor_in": 1},
            **{"pop_prev_dep": 1, "push_prev_dep": int(step < total - 2)},
        )
        if step % BLOCKS == BLOCKS - 1:
            self.epilogue(tile, acc, same)

    def epilogue(self, tile: int, acc: int, same: Row) -> None:
        """Bias, shift, clip, store."""
        bias = {**same, "uop_bgn": same["uop_bgn"] + 2, "uop_end": same["uop_end"] + 2}
        self.add(Opcode.ALU, alu_opcode=AluOp.ADD, **bias)
        own = {"src_factor_out": TILE, "src_factor_in": 1, "use_imm": 1}
        self.add(Opcode.ALU, alu_opcode=AluOp.SHR, imm=8, **same, **own)
        self.add(Opcode.ALU, alu_opcode=AluOp.MAX, imm=0, **same, **own)
        self.add(Opcode.ALU, alu_opcode=AluOp.MIN, imm=127, push_next_dep=1, **same, **own)
        layer, place = divmod(tile, BLOCKS * TILES_ACROSS**2)
        block, spot = divmod(place, TILES_ACROSS**2)
        y, x = (TILE * one for one in divmod(spot, TILES_ACROSS))
        at = block * PLANE + y * IMAGE + x
        tokens = {"pop_prev_dep": 1, "push_prev_dep": int(tile != self.tiles - 2)}
        size = {"x": TILE, "y": TILE, "stride": IMAGE}
        self.move(Opcode.STORE, Memory.OUT, f"t{layer + 1}", at, acc * PIXELS, **size, **tokens)

    def encoded(self, target: Target) -> NDArray[np.uint8]:
        """The bits."""
        columns = {
            name: np.array([row.get(name, 0) for row in self.rows], np.int64)
            for name in FIELD_NAMES
        }
        return Isa.of(target).encode_stream(columns)


def main() -> None:
    """Build, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30, help="convolutions of 64 tiles each")
    parser.add_argument("--limit", type=int, default=WORK_LIMIT, help="work limit of the check")
    options = parser.parse_args()
    target = Target.load("pynq")
    stream = Stream(options.layers)
    insns = stream.encoded(target)
    places = stream.regions.values()
    ends = [one.start + one.bytes for one in places if one.kind == "constant"]
    constants = np.zeros(max(ends) - 4096, np.uint8)
    words = Isa.of(target).encode_uops(np.array(uops())).view(np.uint8)
    constants[stream.regions["uops"].start - 4096 :][: words.size] = words
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    findings = check(
        target,
        insns,
        base=BASE,
        regions=places,
        constants=constants,
        initialised=["t0"],
        work_limit=options.limit,
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arena = max(one.start + one.bytes for one in places)
    print(f"{len(insns)} instructions, arena {arena / 1e6:.1f} MB, {len(findings)} findings")
    print(f"{seconds:.2f} s, peak RSS {after / 1024:.0f} MB ({before / 1024:.0f} MB before)")
    for finding in findings[:5]:
        print(finding)


if __name__ == "__main__":
    main()
