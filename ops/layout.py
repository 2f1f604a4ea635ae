"""Layouts: how a logical tensor lies in memory. This module owns all packing arithmetic.

VTA moves tiles of BATCH x BLOCK int8 values. An activation (N, C, ...) is stored as
`order` axes outside and one (batch, block) tile inside, ragged N and C padded with zeros:
a dense activation is (N/BATCH, C/BLOCK, BATCH, BLOCK).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray


def ceil_div(value: int, divisor: int) -> int:
    """The number of `divisor`-sized pieces that hold `value`."""
    return -(-value // divisor)


@dataclass(frozen=True)
class Layout:
    """Outer axis order and inner tile of a stored tensor.

    `order` names the outer axes, slowest first: "" is a plain row-major tensor, "NC" a packed
    (N, C) tensor, "NCHW" a packed image tensor whose channel blocks are outside the pixels.
    `batch` and `block` are the tile's sizes along N and C.
    """

    order: str = ""
    batch: int = 1
    block: int = 1

    @property
    def packed(self) -> bool:
        return bool(self.order)

    def tiles(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Extent of every outer axis, counted in tiles along N and C."""
        sizes = dict(zip("NCHW", shape, strict=False))
        sizes["N"] = ceil_div(sizes["N"], self.batch)
        sizes["C"] = ceil_div(sizes["C"], self.block)
        return sizes

    def storage_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in memory of a tensor whose logical shape is `shape`."""
        if not self.packed:
            return shape
        sizes = self.tiles(shape)
        return (*(sizes[axis] for axis in self.order), self.batch, self.block)

    def elements(self, shape: tuple[int, ...]) -> int:
        """Number of (batch, block) tiles in memory."""
        return prod(self.storage_shape(shape)[:-2])

    def pack(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Logical array -> storage array, padded with zeros."""
        if not self.packed:
            return array
        sizes = self.tiles(array.shape)
        full = np.zeros(
            (sizes["N"] * self.batch, sizes["C"] * self.block, *array.shape[2:]), array.dtype
        )
        full[: array.shape[0], : array.shape[1]] = array
        split = full.reshape(
            sizes["N"], self.batch, sizes["C"], self.block, *array.shape[2:]
        )
        return np.ascontiguousarray(split.transpose(self._permutation()))

    def unpack(
        self, stored: NDArray[np.generic], shape: tuple[int, ...]
    ) -> NDArray[np.generic]:
        """Storage array -> logical array of `shape`; padding is dropped."""
        if not self.packed:
            return stored
        split = stored.transpose(np.argsort(self._permutation()))
        sizes = self.tiles(shape)
        full = split.reshape(sizes["N"] * self.batch, sizes["C"] * self.block, *shape[2:])
        return np.ascontiguousarray(full[: shape[0], : shape[1]])

    def whole(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        """Storage array -> logical array with its padding rows and channels kept."""
        if not self.packed:
            return stored
        sizes = dict(zip(self.order, stored.shape, strict=False))
        rest = tuple(sizes[axis] for axis in "HW" if axis in sizes)
        return self.unpack(stored, (sizes["N"] * self.batch, sizes["C"] * self.block, *rest))

    def _permutation(self) -> tuple[int, ...]:
        """Axes of (N, batch, C, block, H, W) in storage order."""
        position = {"N": 0, "C": 2, "H": 4, "W": 5}
        return (*(position[axis] for axis in self.order), 1, 3)

    def __str__(self) -> str:
        return f"{self.order}{self.batch}n{self.block}c" if self.packed else "plain"


PLAIN = Layout()
