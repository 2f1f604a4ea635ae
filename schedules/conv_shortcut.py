"""A convolution's shortcut on VTA: a 1 x 1 convolution of a second image in the same accumulators.

It comes first in every tile: its products are shifted to the left before the others are added.
"""

from __future__ import annotations

import numpy as np

from ..backend.commands import Loop
from ..backend.target import Target
from ..ops import shortcut
from ..ops.layout import ceil_div
from ..ops.types import Array
from .axes import Axis
from .blocks import Block, Extent
from .template import Layer

ROLE = "shortcut"
"""What its commands are in profiles."""


class Shortcut:
    """The shortcut of a VtaConv node in VTA's terms."""

    def __init__(self, layer: Layer, target: Target) -> None:
        node = layer.node
        image, weight = node.inputs[-2:]
        shape, result = layer.types[image].shape, layer.types[node.outputs[0]].shape
        self.place = layer.places[image]
        self.tiles = tiles_of(layer.constants[weight], target.block_out)
        self.inputs = ceil_div(shape[1], target.block_in)
        self.shift = int(node.attrs[shortcut.SHIFT])
        self.origin = tuple(node.attrs[shortcut.ORIGIN])
        self.rows, self.columns = (
            Axis(window, shape[axis], result[axis])
            for axis, window in enumerate(shortcut.windows(node.attrs), start=2)
        )

    def block(self, n: int, channels: Extent, h: Extent, w: Extent) -> Block:
        """What outputs h, w of batch tile n read of some channel blocks.

        Columns are whole strides, so that a tile of whole rows is read in one transfer.
        """
        columns = self.columns.reads(w.start, w.count).start
        stride = self.columns.window.stride
        return Block(
            self.place.layout,
            self.place.shape,
            n,
            Extent(self.place.channel + channels.start, channels.count),
            self.rows.reads(h.start, h.count),
            Extent(columns, min(w.count * stride, self.columns.inputs - columns)),
        )

    def read(self, tile_h: int, tile_w: int) -> int:
        """Elements of one channel block that the greediest tile reads."""
        one = Extent(0, 1)
        return self.block(0, one, Extent(0, tile_h), Extent(0, tile_w)).elements

    def loops(
        self, source: Block, to: dict[str, int], tile: tuple[int, int, int]
    ) -> tuple[tuple[Loop, ...], tuple[Loop, ...]]:
        """Reductions and outputs of the products of a tile of (blocks, rows, columns).

        `to` are the steps between its accumulators.
        """
        blocks, height, width = tile
        at = source.steps()
        reductions = (Loop(source.c.count, src=at["C"], wgt=1),)
        outputs = (
            Loop(blocks, to["C"], 0, source.c.count),
            Loop(height, to["H"], self.rows.window.stride * at["H"]),
            Loop(width, to["W"], self.columns.window.stride * at["W"]),
        )
        return reductions, outputs


def tiles_of(weight: Array, size: int) -> Array:
    """(O, C, kh, kw) -> [output blocks, input blocks, kh, kw, size, size], zeros for padding."""
    outputs, depth, rows, columns = weight.shape
    padding = [(0, -outputs % size), (0, -depth % size), (0, 0), (0, 0)]
    padded = np.pad(weight, padding)
    blocks = ceil_div(outputs, size), ceil_div(depth, size)
    split = padded.reshape(blocks[0], size, blocks[1], size, rows, columns)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 1, 3))
