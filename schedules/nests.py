"""Loop assignment: which loops of a product an instruction runs itself, and in which order.

An instruction has two loops around its micro-ops. Reductions revisit accumulators, so the loops
over outputs that are innermost must together be at least as long as the accumulator distance;
within that rule the fewest micro-ops win.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
from math import prod

from ..backend.commands import Loop
from ..backend.microops import merge

HARDWARE_LOOPS = 2
MOST_ITERATIONS = (1 << 14) - 1


@lru_cache(maxsize=4096)
def arrange(
    reductions: tuple[Loop, ...], outputs: tuple[Loop, ...], distance: int
) -> tuple[Loop, ...] | None:
    """The loops in the order that needs the fewest micro-ops, or None if none keeps `distance`.

    The result is outermost first; its first two loops are the instruction's own.
    """
    inner = [loop for loop in outputs if loop.extent > 1]
    outer = [loop for loop in reductions if loop.extent > 1]
    best: tuple[int, tuple[Loop, ...]] | None = None
    for nest in _orders(outer, inner):
        if outer and _distance(nest, outer) < distance:
            continue
        if any(loop.extent > MOST_ITERATIONS for loop in nest[:HARDWARE_LOOPS]):
            continue
        micro_ops = prod(loop.extent for loop in nest[HARDWARE_LOOPS:])
        if best is None or micro_ops < best[0]:
            best = micro_ops, nest
    return best[1] if best else None


def _orders(
    reductions: list[Loop], outputs: list[Loop]
) -> list[tuple[Loop, ...]]:
    """Every nest worth a look: any two loops outside, then reductions, then outputs."""
    nests: dict[tuple[Loop, ...], None] = {}
    for some in permutations(outputs):
        joined = merge(some)
        for order in permutations(reductions):
            loops = (*merge(order), *joined)
            nests[merge(loops)] = None
            for pair in permutations(loops, min(HARDWARE_LOOPS, len(loops))):
                rest = list(loops)
                for loop in pair:
                    rest.remove(loop)
                nests[(*pair, *rest)] = None
    return list(nests)


def _distance(nest: tuple[Loop, ...], reductions: list[Loop]) -> int:
    """Micro-ops between two visits of an accumulator: all loops inside the last reduction."""
    length = 1
    for loop in reversed(nest):
        if loop.dst == 0:
            return length
        length *= loop.extent
    return length
