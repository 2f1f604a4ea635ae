"""The DRAM plan: alignment, sharing by liveness, the limit."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtaflow.backend.commands import Buffer, Memory
from vtaflow.backend.dram import CONSTANTS_START, LiveRange, plan
from vtaflow.backend.target import Target
from vtaflow.errors import ArenaError

TARGET = Target.load("sim")

MEMORIES = st.sampled_from([Memory.WGT, Memory.INP, Memory.ACC, Memory.OUT])
RANGES = st.builds(
    lambda first, length: LiveRange(first, first + length),
    st.integers(0, 20),
    st.integers(0, 5),
)


@given(
    st.lists(st.tuples(MEMORIES, st.integers(1, 40), RANGES), min_size=1, max_size=12),
    st.lists(st.tuples(MEMORIES, st.integers(1, 40)), max_size=4),
)
def test_what_lives_together_lies_apart(
    dynamic: list[tuple[Memory, int, LiveRange]], constant: list[tuple[Memory, int]]
) -> None:
    buffers = [Buffer(f"c{i}", one[0], one[1], "constant") for i, one in enumerate(constant)]
    buffers += [Buffer(f"d{i}", one[0], one[1], "activation") for i, one in enumerate(dynamic)]
    live = {f"d{i}": one[2] for i, one in enumerate(dynamic)}
    arena = plan(TARGET, buffers, live)
    assert arena.bytes % 4096 == 0
    for region in arena.regions:
        assert region.start >= CONSTANTS_START
        assert region.start % TARGET.element_bytes(region.memory) == 0
        assert region.start + region.bytes <= arena.bytes
    constant_end = CONSTANTS_START + arena.constant_bytes
    for region in arena.regions:
        assert (region.start < constant_end) == (region.kind == "constant")
    for one, other in combinations(arena.regions, 2):
        apart = one.start + one.bytes <= other.start or other.start + other.bytes <= one.start
        together = (
            one.kind == "constant"
            or other.kind == "constant"
            or live[one.name].overlaps(live[other.name])
        )
        assert apart or not together


def test_dead_regions_are_reused() -> None:
    buffers = [Buffer(name, Memory.OUT, 100, "activation") for name in "abc"]
    chain = {"a": LiveRange(0, 1), "b": LiveRange(1, 2), "c": LiveRange(2, 3)}
    starts = {region.name: region.start for region in plan(TARGET, buffers, chain).regions}
    assert starts["a"] == starts["c"] != starts["b"]
    apart = plan(TARGET, buffers, {}).regions
    assert len({region.start for region in apart}) == 3


def test_the_limit_names_the_largest_tensors() -> None:
    small = replace(TARGET, dram_bytes=64 * 1024)
    buffers = [
        Buffer("tiny", Memory.OUT, 1, "activation"),
        Buffer("huge", Memory.WGT, 1000, "constant"),
    ]
    with pytest.raises(ArenaError, match=r"dram_bytes.*huge \(constant, 256,000 bytes\), tiny"):
        plan(small, buffers, {})
