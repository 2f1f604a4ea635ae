"""The probe of the data base registers: does the hardware add them to every address?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backend.commands import Memory
from ..backend.isa import AluOpcode
from .probe import BIAS, INPUT, RESULT, UOPS, WEIGHT, Result, put_ones
from .probe_streams import Bench

BASE_OFFSET = 0x8000


def base_registers(bench: Bench) -> Result:
    """What the data base registers do. Their values are small: no outcome leaves the bench."""
    # With the offset's bit already set in the address, adding and OR-ing differ.
    bit_set = 0x10000 + (BASE_OFFSET - bench.address) % (2 * BASE_OFFSET)
    bit_clear = bit_set + BASE_OFFSET
    effects = {}
    for name, probe in _BASE_PROBES:
        moved = (probe(bench, bit_set), probe(bench, bit_clear))
        effects[name] = _EFFECTS.get(moved, "unclear")
    usable = all(effect == "added" for effect in effects.values())
    listed = ", ".join(f"{name} {effect}" for name, effect in effects.items())
    text = "added to every address" if usable else f"not usable: {listed}"
    return text, {"base_registers": usable}, effects


_EFFECTS = {(2, 2): "added", (1, 2): "OR-ed", (1, 1): "ignored"}


def _through_uop(bench: Bench, start: int) -> int:
    """1 if micro-ops come from `start` in spite of a base, 2 if from BASE_OFFSET behind it."""
    lanes = bench.target.batch * bench.target.block_out
    bench.put(BIAS, np.zeros((2, lanes)), "<i4")
    for place, first in ((start, 0), (start + BASE_OFFSET, 1)):
        bench.put_uops(place, [[first, first, 0], [0, 0, 0], [1, 1, 0]])
    script = bench.script()
    script.load(Memory.ACC, 0, BIAS, 2)
    script.load(Memory.UOP, 0, start, 3)
    script.alu(AluOpcode.ADD, 1, 0, 1)
    script.alu(AluOpcode.ADD, 0, 1, 2)
    script.store(0, RESULT, 2)
    bench.run(script, uop=BASE_OFFSET)
    return {(1, 0): 1, (0, 1): 2}.get(tuple(bench.get(RESULT, 2)[:, 0].tolist()), 0)


def _through_inp(bench: Bench, start: int) -> int:
    """The same for inputs."""
    put_ones(bench)
    inp = np.zeros((bench.target.batch, bench.target.block_in), np.int8)
    for place, value in ((start, 1), (start + BASE_OFFSET, 2)):
        inp[:, 0] = value
        bench.put(place, inp, "i1")
    return _product(bench, start, WEIGHT, inp=BASE_OFFSET)


def _through_wgt(bench: Bench, start: int) -> int:
    """The same for weights."""
    put_ones(bench)
    shape = (bench.target.block_out, bench.target.block_in)
    for place, value in ((start, 1), (start + BASE_OFFSET, 2)):
        bench.put(place, np.full(shape, value), "i1")
    return _product(bench, INPUT, start, wgt=BASE_OFFSET)


def _product(bench: Bench, inputs: int, weights: int, **bases: int) -> int:
    """One GEMM of the input and the weights at these places; what every lane is."""
    bench.put_uops(UOPS, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, UOPS, 1)
    script.load(Memory.INP, 0, inputs, 1)
    script.load(Memory.WGT, 0, weights, 1)
    script.gemm(1, reset=True)
    script.gemm(1)
    script.store(0, RESULT, 1)
    bench.run(script, **bases)
    return int(bench.get(RESULT, 1)[0, 0])


def _through_acc(bench: Bench, start: int) -> int:
    """The same for accumulators."""
    lanes = bench.target.batch * bench.target.block_out
    for place, value in ((start, 1), (start + BASE_OFFSET, 2)):
        bench.put(place, np.full(lanes, value), "<i4")
    bench.put_uops(UOPS, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, UOPS, 1)
    script.load(Memory.ACC, 0, start, 1)
    script.alu(AluOpcode.ADD, 0, 0, 1)
    script.store(0, RESULT, 1)
    bench.run(script, acc=BASE_OFFSET)
    return int(bench.get(RESULT, 1)[0, 0])


def _through_out(bench: Bench, start: int) -> int:
    """The same for results: where they arrive."""
    empty = np.zeros(bench.target.element_bytes(Memory.OUT))
    for place in (start, start + BASE_OFFSET):
        bench.put(place, empty, "i1")
    bench.put_uops(UOPS, [[0, 0, 0]])
    script = bench.script()
    script.load(Memory.UOP, 0, UOPS, 1)
    script.gemm(1, reset=True)
    script.alu(AluOpcode.ADD, 3, 0, 1)
    script.store(0, start, 1)
    bench.run(script, out=BASE_OFFSET)
    seen = [int(bench.get(place, 1)[0, 0]) for place in (start, start + BASE_OFFSET)]
    return {(3, 0): 1, (0, 3): 2}.get((seen[0], seen[1]), 0)


_BASE_PROBES: tuple[tuple[str, Callable[[Bench, int], int]], ...] = (
    ("uop", _through_uop),
    ("inp", _through_inp),
    ("wgt", _through_wgt),
    ("acc", _through_acc),
    ("out", _through_out),
)
