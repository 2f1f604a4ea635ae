"""Strided sets of bytes, and whether two of them meet, exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """`lines` rows of `width` bytes, `step` bytes apart, from byte `low` to `high` (exclusive).

    Rows neither touch nor overlap (`step` > `width`) unless there is only one: `rows_of` merges.
    """

    low: int
    high: int
    width: int
    lines: int
    step: int


def rows_of(low: int, width: int, lines: int, step: int) -> Rows:
    """The set of bytes of `lines` >= 1 rows of `width` bytes, in its normal form."""
    high = low + (lines - 1) * step + width
    if lines == 1 or step <= width:
        return Rows(low, high, high - low, 1, 0)
    return Rows(low, high, width, lines, step)


def overlap(a: Rows, b: Rows) -> bool:
    """Whether the two sets share a byte."""
    if a.low >= b.high or b.low >= a.high:
        return False
    if a.lines > b.lines:
        a, b = b, a
    if b.lines == 1:
        return True
    if a.lines == 1:
        first = max(0, (a.low - b.low - b.width) // b.step + 1)
        return first < b.lines and b.low + first * b.step < a.high
    if a.step == b.step:
        # Row i of a meets row j of b when (i - j) * step lies strictly between the two limits.
        apart = b.low - a.low
        least = max((apart - a.width) // a.step + 1, 1 - b.lines)
        return least < a.lines and least * a.step < apart + b.width
    lows = a.low + a.step * np.arange(a.lines, dtype=np.int64)
    firsts = np.maximum(0, (lows - b.low - b.width) // b.step + 1)
    meets = (firsts < b.lines) & (b.low + firsts * b.step < lows + a.width)
    return bool(meets.any())


def overlap_cost(a: Rows, b: Rows) -> int:
    """Steps that `overlap` takes."""
    return 1 if a.step == b.step else 20 + min(a.lines, b.lines) // 32
