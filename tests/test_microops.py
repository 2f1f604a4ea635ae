"""Micro-op kernels: merging of loops, unrolling, sharing, phases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtaflow.backend.commands import Alu, AluOp, Gemm, Loop
from vtaflow.backend.microops import merge, nest, phases
from vtaflow.errors import ScheduleError


def walk(loops: tuple[Loop, ...], start: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Every index triple in order, by the definition of nested loops."""
    triples = [start]
    for loop in loops:
        triples = [
            (dst + step * loop.dst, src + step * loop.src, wgt + step * loop.wgt)
            for dst, src, wgt in triples
            for step in range(loop.extent)
        ]
    return triples


LOOPS = st.lists(
    st.builds(Loop, st.integers(1, 4), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)),
    max_size=4,
).map(tuple)


@given(LOOPS)
def test_nest_visits_the_same_indices_in_the_same_order(loops: tuple[Loop, ...]) -> None:
    split = nest(Gemm(1, 2, 3, loops))
    executed = [
        triple
        for base in walk((split.outer, split.inner), (0, 0, 0))
        for triple in [
            (base[0] + dst, base[1] + src, base[2] + wgt) for dst, src, wgt in split.kernel
        ]
    ]
    assert executed == walk(loops, (1, 2, 3))


def test_contiguous_loops_become_one() -> None:
    loops = (Loop(3, dst=8, src=8), Loop(1, dst=99), Loop(8, dst=1, src=1))
    assert merge(loops) == (Loop(24, dst=1, src=1),)


def test_immediate_reads_what_it_writes() -> None:
    split = nest(Alu(AluOp.MAX, 5, (Loop(4, dst=2),), imm=0, src=77))
    assert split.kernel == ((5, 5, 0),)
    assert (split.outer.dst, split.outer.src) == (2, 2)


def test_phases_cut_where_the_memory_is_full() -> None:
    commands = [Gemm(0, index, 0, ()) for index in (0, 1, 0, 2, 1)]
    cut = phases(commands, [nest(one) for one in commands], limit=2)
    assert [(phase.first, phase.size) for phase in cut] == [(0, 2), (3, 2)]
    assert cut[1].addresses() == {((0, 2, 0),): 0, ((0, 1, 0),): 1}


def test_a_kernel_larger_than_the_memory_is_refused() -> None:
    loops = (Loop(2, dst=1), Loop(2, dst=4), Loop(5, src=1))
    command = Gemm(0, 0, 0, loops, origin=("conv1",))
    with pytest.raises(ScheduleError, match="conv1: a kernel of 5 micro-ops exceeds the 4"):
        phases([command], [nest(command)], limit=4)
