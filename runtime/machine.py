"""The machine that a plan runs on: SRAM and scratch memory for several images, views of both.

A `Step` is independent of data and of the number of images. `bind` fixes it to one machine: all
views are made then, so that running it again costs its NumPy calls only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..backend.commands import Memory
from ..backend.target import Target
from .lift import GemmBlock
from .memory import Dram

Action = Callable[[], object]

_IMAGE_GAP_BYTES = 192  # keeps images from falling on the same cache sets


class Machine:
    """SRAM and scratch memory for `dram.images` images.

    `sram[memory]` is [images, depth + gap, lanes] (WGT has one image if all share the weights);
    lanes are batch x block of int8, int32 for ACC.
    """

    def __init__(self, target: Target, dram: Dram, weights_per_image: bool) -> None:
        self.target = target
        self.dram = dram
        self.images = dram.images
        self.sram: dict[Memory, NDArray[Any]] = {}
        for memory in (Memory.INP, Memory.WGT, Memory.ACC, Memory.OUT):
            dtype = np.dtype(np.int32 if memory is Memory.ACC else np.int8)
            lanes = target.element_bytes(memory) // dtype.itemsize
            gap = -(-_IMAGE_GAP_BYTES // target.element_bytes(memory))
            images = 1 if memory is Memory.WGT and not weights_per_image else self.images
            shape = (images, target.depth(memory) + gap, lanes)
            self.sram[memory] = np.zeros(shape, dtype)
        self._scratch: dict[str, NDArray[np.uint8]] = {}
        self._rows: dict[tuple[int, int], NDArray[np.intp]] = {}

    @property
    def scratch_bytes(self) -> int:
        """Bytes reserved so far."""
        return sum(buffer.size for buffer in self._scratch.values())

    def elements(self, memory: Memory) -> NDArray[Any]:
        """A view of the whole SRAM without its gaps: [images, depth, lanes]."""
        return self.sram[memory][:, : self.target.depth(memory)]

    def reserve(self, role: str, size: int) -> None:
        """Make the scratch buffer `role` hold at least `size` bytes; a larger one is kept."""
        if role not in self._scratch or self._scratch[role].size < size:
            self._scratch[role] = np.empty(size, np.uint8)

    def scratch(self, role: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The first bytes of a reserved buffer as an array."""
        return np.ndarray(shape, dtype, buffer=self._scratch[role])

    def source_rows(self, block: GemmBlock, base: int) -> NDArray[np.intp]:
        """[B,P,batch,R] numbers of the INP rows that `block` multiplies, sources moved by base."""
        key = (id(block), base)
        if key not in self._rows:
            batch = self.target.batch
            rows = (block.src + base)[:, :, None, :] * batch + np.arange(batch)[:, None]
            self._rows[key] = rows.astype(np.intp)
        return self._rows[key]

    def strided(
        self, memory: Memory, start: int, extents: tuple[int, ...], steps: tuple[int, ...]
    ) -> NDArray[Any]:
        """A view [images, *extents, lanes] of the elements start + nested steps."""
        array = self.sram[memory]
        image, element, lane = array.strides
        return np.ndarray(
            (array.shape[0], *extents, array.shape[2]),
            array.dtype,
            buffer=array,
            offset=start * element,
            strides=(image, *(step * element for step in steps), lane),
        )

    def dram_rows(
        self, segment: int, offset: int, shape: tuple[int, int], stride: int, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """A view [images or 1, rows, items] of rows `stride` bytes apart in one segment."""
        data = self.dram.segments[segment].data
        images, image = (1, 0) if data.ndim == 1 else (data.shape[0], data.strides[0])
        strides = (image, stride, dtype.itemsize)
        return np.ndarray((images, *shape), dtype, buffer=data, offset=offset, strides=strides)


class Step(Protocol):
    """One operation of a plan."""

    def reserve(self, machine: Machine) -> None:
        """Reserve scratch memory; called for every step before any is bound."""

    def bind(self, machine: Machine) -> Action:
        """The operation, fixed to the machine's arrays."""


class Plain:
    """A step that needs no scratch memory."""

    def reserve(self, machine: Machine) -> None:
        """Nothing to reserve."""
