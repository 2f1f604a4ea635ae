"""Weight tiles that a plan knows: constants go from DRAM to float matrices once, at plan time.

A tile that was loaded from shared DRAM which no STORE touches is known by its DRAM address. A
product whose tiles are all known needs no WGT SRAM at all: its float matrix is made here, and
kept for every other product of the same tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.target import Target
from .lift import GemmBlock, Indices
from .machine import Action, Machine, Plain, Step
from .memory import Dram
from .products import EXACT_FLOAT, EXACT_TERMS

_FLOAT_BUDGET_BYTES = 1 << 30
_MAX_REPEATS = 4  # copies of a tile in a large float matrix, beyond which SRAM is read instead
_SMALL_BYTES = 1 << 18


@dataclass(frozen=True, eq=False)
class FillTiles(Plain):
    """WGT elements [n] <- constant tiles at byte offsets [n] of one segment."""

    elements: Indices
    segment: int
    offsets: Indices

    def bind(self, machine: Machine) -> Action:
        """A gather of tiles and a fancy assignment."""
        wgt = machine.sram[Memory.WGT]
        data = machine.dram.segments[self.segment].data
        span = self.offsets[:, None] + np.arange(wgt.shape[2])

        def run() -> None:
            wgt[:, self.elements] = data[span].view(np.int8)

        return run


@dataclass(frozen=True, eq=False)
class Matrix:
    """Weights of a block: `floats` [B, R*block_in, C*block_out], or None if they are read from
    SRAM; `cuts` are the ends of the parts, in terms, in which float32 sums them exactly."""

    floats: NDArray[np.float32] | None
    cuts: tuple[int, ...]


class Weights:
    """Symbolic state of WGT: what each element holds, and whether SRAM really holds it."""

    def __init__(self, target: Target, dram: Dram) -> None:
        depth = target.depth(Memory.WGT)
        self._shape = (target.block_out, target.block_in)
        self._dram = dram
        self._address: Indices = np.full(depth, -1, np.int64)
        self._in_sram = np.zeros(depth, np.bool_)
        self._known: dict[tuple[object, ...], Matrix] = {}
        self._float_bytes = 0
        self.per_image = False
        self.unwritten = False

    def load_constant(self, start: int, addresses: Indices) -> None:
        """Elements from `start` now hold the constant tiles at these byte addresses."""
        self._address[start : start + len(addresses)] = addresses
        self._in_sram[start : start + len(addresses)] = False

    def load(self, elements: slice | Indices, per_image: bool) -> None:
        """Elements are filled by steps at run time."""
        self._address[elements] = -1
        self._in_sram[elements] = True
        self.per_image |= per_image

    def matrix(self, block: GemmBlock, base: int) -> Matrix:
        """The block's weights, tile indices moved by `base`.

        Without floats, SRAM is to be read, after `fills`.
        """
        addresses = self._address[block.wgt + base]
        key = (addresses.tobytes(), addresses.shape)
        if key in self._known:
            return self._known[key]
        size = 4 * addresses.size * self._shape[0] * self._shape[1]
        repeats = addresses.size / len(np.unique(addresses))
        room = self._float_bytes + size <= _FLOAT_BUDGET_BYTES
        room &= repeats <= _MAX_REPEATS or size <= _SMALL_BYTES
        if addresses.min() < 0 or not room:
            return Matrix(None, _exact_cuts(addresses.shape[1] * self._shape[1], None))
        self._float_bytes += size
        floats = self._gather(addresses)
        self._known[key] = Matrix(floats, _exact_cuts(floats.shape[1], floats))
        return self._known[key]

    def _gather(self, addresses: Indices) -> NDArray[np.float32]:
        """The tiles at [B, R, C] addresses as matrices."""
        (b, r, c), (bo, bi) = addresses.shape, self._shape
        floats = np.empty((b, r, bi, c, bo), np.float32)
        tiles = np.empty((b, r, c, bo, bi), np.int8)
        for segment, chosen in self._by_segment(addresses):
            offsets = addresses[chosen] - self._dram.segments[segment].address
            skew = int(offsets[0]) % (bo * bi)
            data = self._dram.segments[segment].data[skew:]
            rows = data[: len(data) // (bo * bi) * (bo * bi)].view(np.int8).reshape(-1, bo, bi)
            tiles[chosen] = rows[offsets // (bo * bi)]
        np.copyto(floats, tiles.transpose(0, 1, 4, 2, 3))
        return floats.reshape(b, r * bi, c * bo)

    def _by_segment(self, addresses: Indices) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """The segments that hold the addresses, each with the mask of its share."""
        rest = np.ones(addresses.shape, np.bool_)
        while rest.any():
            segment = self._dram.find(int(addresses[rest][0]))
            assert segment is not None
            low, high = self._dram.segments[segment].address, self._dram.segments[segment].end
            chosen = (addresses >= low) & (addresses < high)
            rest &= ~chosen
            yield segment, chosen

    def fills(self, elements: Indices, keep: bool = True) -> list[Step]:
        """Steps after which SRAM really holds the elements.

        With `keep`, these steps are sure to run, so that later products find the elements.
        """
        wanted = np.unique(elements)
        known = self._address[wanted] >= 0
        absent = wanted[known & ~self._in_sram[wanted]]
        if keep:
            self.unwritten |= not (known | self._in_sram[wanted]).all()
            self._in_sram[absent] = True
        addresses = self._address[absent]
        return [
            FillTiles(
                absent[chosen], segment, addresses[chosen] - self._dram.segments[segment].address
            )
            for segment, chosen in self._by_segment(addresses)
        ]

    def remaining(self) -> list[Step]:
        """Steps that bring into SRAM every constant that stands in DRAM alone."""
        return self.fills(np.flatnonzero(self._address >= 0), keep=False)


def _exact_cuts(terms: int, floats: NDArray[np.float32] | None) -> tuple[int, ...]:
    """Ends of the parts in which float32 holds every sum of `terms` products with int8."""
    if terms <= EXACT_TERMS:
        return (terms,)
    if floats is not None and float(np.abs(floats).sum(axis=1).max()) * 128 <= EXACT_FLOAT:
        return (terms,)
    return (*range(EXACT_TERMS, terms, EXACT_TERMS), terms)
