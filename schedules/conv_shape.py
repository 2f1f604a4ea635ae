"""What a convolution asks of VTA: its extent in blocks, its axes, its weight tiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..backend.target import Target
from ..ops import fused_pool, shortcut
from ..ops.layout import ceil_div
from ..ops.taps import windows
from ..ops.types import Array
from .axes import Axis
from .blocks import Extent
from .conv_shortcut import Shortcut, tiles_of
from .planes import ALONE, Planes
from .template import Layer


@dataclass(frozen=True)
class Part:
    """A plain convolution from a range of input channel blocks to a range of output blocks.

    A diagonal part reads, for output block o, only input block o: its weight tiles are diagonal.
    """

    outputs: Extent
    inputs: Extent
    diagonal: bool = False

    def inputs_of(self, o: int, columns: int, i: int, depth: int) -> Extent:
        """Input blocks of a tile, counted within the tensor."""
        if self.diagonal:
            return Extent(self.inputs.start + o, columns)
        return Extent(self.inputs.start + i, depth)


def is_uniform(weight: Array) -> bool:
    """Whether all kernel elements (axes 2 and 3) of every channel pair are equal."""
    return bool((weight == weight[:, :, :1, :1]).all())


class ConvShape:
    """A VtaConv node in VTA's terms."""

    def __init__(self, layer: Layer, target: Target) -> None:
        node = layer.node
        data, weight, *_ = node.inputs
        self.x, self.y = layer.places[data], layer.places[node.outputs[0]]
        self.x_shape = layer.types[data].shape
        self.y_shape = layer.types[node.outputs[0]].shape
        self.weight = layer.constants[weight]
        self.group = int(node.attrs["group"])
        self.kernel = self.weight.shape[2:]
        self.batches = ceil_div(self.x_shape[0], target.batch)
        self.block = target.block_out
        self.outputs = ceil_div(self.y_shape[1], target.block_out)
        self.inputs = ceil_div(self.x_shape[1], target.block_in)
        pools = fused_pool.windows(node.attrs)
        self.pooled = pools is not None
        self.windows = windows(node.attrs, self.kernel)
        along = zip(self.windows, self.x_shape[2:], strict=True)
        self.rows, self.columns = (
            Planes(Axis(window, size, window.outputs(size)), pool)
            for (window, size), pool in zip(along, pools or (ALONE, ALONE), strict=True)
        )
        self.pool_origin = tuple(node.attrs.get(fused_pool.ORIGIN, ()))
        self.steps: tuple[tuple[Any, ...], ...] = tuple(
            tuple(step) for step in node.attrs["epilogue"]
        )
        self.input_cycles: dict[tuple[int, int, int, bool], int] = {}
        """Cycles to load an input tile by its channels, rows, columns and whether it carries."""
        self.has_bias = self.steps[0][0] == "add"
        self.bias: Array = (
            layer.constants[node.inputs[self.steps[0][1]]]
            if self.has_bias
            else np.zeros(self.y_shape[1], np.int32)
        )
        kinds = [step[0] for step in self.steps[self.has_bias :]]
        self.shift_vectors = kinds.count("shr_vector") + kinds.count("add")
        self.shortcut = Shortcut(layer, target) if shortcut.inputs(node.attrs) else None
        self.residuals = [
            (node.inputs[step[1]], step[2]) for step in self.steps if step[0] == "residual"
        ]

    @cached_property
    def uniform(self) -> bool:
        """Whether all weights of a channel pair are equal, as in a pool or an upsampling.

        One weight tile then serves every tap.
        """
        return is_uniform(self.weight)

    @cached_property
    def stored_kernel(self) -> tuple[int, int]:
        """Rows and columns of weight tiles that are stored for a pair of channel blocks."""
        return (1, 1) if self.uniform else (self.kernel[0], self.kernel[1])

    @property
    def taps(self) -> int:
        """Weight tiles that are stored for a pair of channel blocks."""
        return self.stored_kernel[0] * self.stored_kernel[1]

    def tap_steps(self) -> tuple[int, int]:
        """Distance between the weight tiles of neighbouring kernel rows, and columns."""
        return (0, 0) if self.uniform else (self.kernel[1], 1)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Plain and diagonal convolutions that make up the layer."""
        if self.group == 1:
            return (Part(Extent(0, self.outputs), Extent(0, self.inputs)),)
        ranges = [self._reads(block) for block in range(self.outputs)]
        if ranges == [(block, block + 1) for block in range(self.outputs)]:
            every = Extent(0, self.outputs)
            return (Part(every, every, diagonal=True),)
        parts: list[Part] = []
        for block, (low, high) in enumerate(ranges):
            inputs = Extent(low, high - low)
            if parts and parts[-1].inputs == inputs:
                grown = Extent(parts[-1].outputs.start, parts[-1].outputs.count + 1)
                parts[-1] = Part(grown, inputs)
            else:
                parts.append(Part(Extent(block, 1), inputs))
        return tuple(parts)

    @cached_property
    def largest_part(self) -> Part:
        """The part with the most weight tiles."""
        return max(self.parts, key=lambda one: one.outputs.count * one.inputs.count)

    def products(self, tile_h: int, tile_w: int, carries: bool) -> int:
        """GEMM micro-ops of the layer in such tiles, bias and residuals apart."""
        tiles = sum(
            one.outputs.count * (1 if one.diagonal else one.inputs.count) for one in self.parts
        )
        rows, columns = self.rows.products(tile_h, carries), self.columns.products(tile_w)
        products = tiles * rows * columns
        if self.shortcut is not None:
            pixels = self.rows.outputs * self.columns.outputs
            products += self.outputs * self.shortcut.inputs * pixels
        return products * self.batches

    def _reads(self, block: int) -> tuple[int, int]:
        """Input blocks [low, high) that an output block of a grouped layer reads."""
        per_group = self.y_shape[1] // self.group
        depth = self.weight.shape[1]
        last_channel = min((block + 1) * self.block, self.y_shape[1]) - 1
        first, last = block * self.block // per_group, last_channel // per_group
        return first * depth // self.block, ceil_div((last + 1) * depth, self.block)

    @cached_property
    def weight_tiles(self) -> list[Array]:
        """Per output block: int8[input blocks it reads, rows, columns, BLOCK_OUT, BLOCK_IN]."""
        rows, columns = self.stored_kernel
        weight = self.weight[:, :, :rows, :columns]
        if self.group == 1:
            return list(tiles_of(weight, self.block))
        tiles = []
        per_group = self.y_shape[1] // self.group
        depth, size = self.weight.shape[1], self.block
        for part in self.parts:
            for o in range(part.outputs.count):
                block = part.outputs.start + o
                first = part.inputs.start + (o if part.diagonal else 0)
                count = 1 if part.diagonal else part.inputs.count
                lanes = np.zeros((size, count * size, rows, columns), np.int8)
                for lane, channel in enumerate(
                    range(block * size, min((block + 1) * size, self.y_shape[1]))
                ):
                    start = channel // per_group * depth - first * size
                    lanes[lane, start : start + depth] = weight[channel]
                split = lanes.reshape(size, count, size, rows, columns)
                tiles.append(np.ascontiguousarray(split.transpose(1, 3, 4, 0, 2)))
        return tiles
