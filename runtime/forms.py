"""Forms: the lifted shapes of micro-op nests, kept so that repeated tiles cost nothing.

A form is relative: indices start at 0 in each column, the bases are the caller's. Tiles of one
layer differ in their bases only, so a network has few forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .lift import Affine, GemmBlock, Indices, affine, expand, gemm_blocks, waves

Form = TypeVar("Form")
Bases = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Nest:
    """The micro-ops of (a part of) one instruction: a kernel under two loops.

    `columns` is int64[u, 3] (dst, src, wgt); each loop has an extent and, for every column, a
    factor.
    """

    columns: NDArray[np.int64]
    extents: tuple[int, int]
    factors: tuple[tuple[int, ...], tuple[int, ...]]

    @cached_property
    def count(self) -> int:
        """Micro-ops executed."""
        return len(self.columns) * self.extents[0] * self.extents[1]

    @cached_property
    def highest(self) -> Bases:
        """The largest index that each column reaches."""
        last = np.array(self.extents) - 1
        reach = self.columns.max(axis=0) + last @ np.array(self.factors)
        return int(reach[0]), int(reach[1]), int(reach[2])

    def flat(self) -> list[Indices]:
        """Every index of each column in order of execution."""
        return [
            expand(
                self.columns[:, c],
                (self.extents[0], self.factors[0][c]),
                (self.extents[1], self.factors[1][c]),
            )
            for c in range(3)
        ]

    def parts(self, limit: int) -> Iterator[Nest]:
        """Nests of at most `limit` micro-ops, or of one kernel, that follow one another."""
        if self.count <= limit:
            yield self
            return
        (out, inner), (far, near) = self.extents, self.factors
        size = max(1, limit // len(self.columns))
        outs, inners = (size // inner, inner) if size >= inner else (1, size)
        for i in range(0, out, outs):
            for j in range(0, inner, inners):
                move = np.array(far) * i + np.array(near) * j
                extents = (min(outs, out - i), min(inners, inner - j))
                yield Nest(self.columns + move, extents, self.factors)


class FormCache(Generic[Form]):
    """Forms by nest. `build` makes one from flat columns; `depths` bound the indices.

    With `one_memory` dst and src index the same memory, so that they keep one base.
    """

    def __init__(
        self,
        build: Callable[[Indices, Indices, Indices], Form],
        depths: Bases,
        one_memory: bool = False,
    ) -> None:
        self._build = build
        self._depths = depths
        self._one_memory = one_memory
        self._known: dict[Nest, tuple[Form, Bases]] = {}
        self._forms: dict[tuple[object, ...], Form] = {}

    def of(self, nest: Nest) -> tuple[Form, Bases]:
        """The form of `nest` and the bases (dst, src, wgt) to be added to its indices.

        Indices beyond the depths wrap.
        """
        if nest not in self._known:
            self._known[nest] = self._lift(nest)
        return self._known[nest]

    def _lift(self, nest: Nest) -> tuple[Form, Bases]:
        if any(np.array(nest.highest) >= self._depths):
            flat = zip(nest.flat(), self._depths, strict=True)
            wrapped = [column % depth for column, depth in flat]
            return self._build(*wrapped), (0, 0, 0)
        low = nest.columns.min(axis=0)
        if self._one_memory:
            low[:2] = low[:2].min()
        moved = Nest(nest.columns - low, nest.extents, nest.factors)
        key = (moved.columns.tobytes(), moved.extents, moved.factors)
        if key not in self._forms:
            self._forms[key] = self._build(*moved.flat())
        return self._forms[key], (int(low[0]), int(low[1]), int(low[2]))


@dataclass(frozen=True, eq=False)
class GemmForm:
    """A GEMM as dense blocks; `src` are its distinct INP indices."""

    blocks: tuple[GemmBlock, ...]
    src: Indices

    @staticmethod
    def build(dst: Indices, src: Indices, wgt: Indices) -> GemmForm:
        """The form of flat micro-ops."""
        return GemmForm(gemm_blocks(dst, src, wgt), np.unique(src))


@dataclass(frozen=True, eq=False)
class ResetForm:
    """A reset: its distinct `dst`, and the last micro-op of each: whether it is also the first
    (`once`), its src and wgt."""

    dst: Indices
    once: NDArray[np.bool_]
    src: Indices
    wgt: Indices

    @staticmethod
    def build(dst: Indices, src: Indices, wgt: Indices) -> ResetForm:
        """The form of flat micro-ops."""
        distinct, first = np.unique(dst, return_index=True)
        last = last_occurrences(dst)
        return ResetForm(distinct, first == last, src[last], wgt[last])


@dataclass(frozen=True, eq=False)
class Wave:
    """Independent micro-ops dst op= src, int64[n] each, and both as strides if regular."""

    dst: Indices
    src: Indices
    nest: Affine | None


@dataclass(frozen=True, eq=False)
class AluForm:
    """An ALU operation as waves; `dst` and `src` are its distinct indices."""

    waves: tuple[Wave, ...]
    dst: Indices
    src: Indices

    @staticmethod
    def build(dst: Indices, src: Indices, wgt: Indices) -> AluForm:
        """The form of flat micro-ops that read src."""
        listed = []
        for chosen in waves(dst, src):
            columns = dst[chosen], src[chosen]
            listed.append(Wave(*columns, affine(*columns)))
        return AluForm(tuple(listed), np.unique(dst), np.unique(src))

    @staticmethod
    def build_in_place(dst: Indices, src: Indices, wgt: Indices) -> AluForm:
        """The form of flat micro-ops that read nothing but dst."""
        return AluForm.build(dst, dst, wgt)


def last_occurrences(indices: Indices) -> Indices:
    """Position of the last occurrence of each distinct index, in ascending order of index."""
    _, from_end = np.unique(indices[::-1], return_index=True)
    return len(indices) - 1 - from_end
