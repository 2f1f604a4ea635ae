"""The convolution template: plain, grouped, depthwise and transposed convolutions, directly.

A layer is cut into tiles of output channels, rows and columns; the reduction over input channels
may be cut too. A kernel element (tap) is applied to the rectangle of outputs whose input exists,
so that padding costs neither memory nor cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..backend.target import Target
from ..errors import ScheduleError
from ..graph.graph import Graph, Node
from ..ops.taps import SECTIONS
from . import conv_pool, epilogue
from .bias import fits_gemm
from .conv_cost import cost, step_by_step
from .conv_lowering import ConvLowering
from .conv_shape import ConvShape
from .conv_tiles import ConvSchedule, Room, needs, overflow
from .emitter import Emitter
from .template import Cost, Layer
from .tiling import tile_sizes

ORDERS = ("weights", "inputs")
"""What stays in place: output channels are the outer loop, or pixels are."""

MOST_SIZES = 12
"""Sizes of one axis that are tried; more are thinned out evenly."""

CLOSER_LOOKS = 400
"""Schedules of a layer with a shortcut whose cost is worked out step by step."""


class ConvTemplate:
    """Convolutions with constant weights."""

    name = "conv"
    float_op = "FusedConv"
    device_op = "VtaConv"
    onnx_operators: tuple[str, ...] = ("Conv", "ConvTranspose")

    def accepts(self, node: Node, graph: Graph, target: Target) -> str | None:
        """Two-dimensional convolutions with constant weights run tap by tap."""
        if len(graph.types[node.inputs[0]].shape) != 4:
            return f"its input is {graph.types[node.inputs[0]]}, not an image (N, C, H, W)"
        for value, role in zip(node.inputs[1:3], ("weight", "bias"), strict=False):
            if value and value not in graph.constants:
                return f"its {role} {value!r} is not a constant"
        return None

    def choices(self, layer: Layer, target: Target) -> Sequence[tuple[Cost, ConvSchedule]]:
        """Feasible schedules with their costs, best first."""
        shape, room = ConvShape(layer, target), Room.of(target)
        if not (shape.rows.can_pool and shape.columns.can_pool):
            return []
        ranked = [
            (cost(shape, schedule, target, room), schedule)
            for schedule in _space(shape, {})
            if overflow(shape, schedule, room) is None
        ]
        ranked.sort(key=_rank)
        if shape.shortcut is None:
            return ranked
        closer = [
            (step_by_step(shape, schedule, target, room, found), schedule)
            for found, schedule in ranked[:CLOSER_LOOKS]
        ]
        return sorted(closer, key=_rank) + ranked[CLOSER_LOOKS:]

    def override(self, layer: Layer, target: Target, values: Mapping[str, Any]) -> ConvSchedule:
        """The best schedule with the named fields fixed."""
        shape = ConvShape(layer, target)
        limits = {
            "tile_o": shape.outputs,
            "tile_i": shape.inputs,
            "tile_h": shape.rows.outputs,
            "tile_w": shape.columns.outputs,
        }
        words = {"order": ORDERS, "bias": _biases(shape)}
        where = f"layer {layer.node.name!r}"
        for key, value in values.items():
            if key in limits and not (type(value) is int and 1 <= value <= limits[key]):
                raise ScheduleError(
                    f"{where}: {key} must be an integer from 1 to {limits[key]}, found {value!r}"
                )
            if key in words and value not in words[key]:
                raise ScheduleError(
                    f"{where}: {key} must be one of {', '.join(words[key])}, found {value!r}"
                )
            if key not in limits and key not in words:
                known = ", ".join((*limits, *words))
                raise ScheduleError(f"{where}: no schedule field {key!r}; conv has {known}")
        room, every = Room.of(target), list(_space(shape, values))
        fitting = [one for one in every if overflow(shape, one, room) is None]
        if not fitting:
            raise ScheduleError(
                f"{where}: {dict(values)} does not fit: {overflow(shape, every[0], room)}"
            )
        return min(fitting, key=lambda one: cost(shape, one, target, room).total)

    def emit(self, layer: Layer, schedule: ConvSchedule, out: Emitter) -> None:
        """Write the layer's commands."""
        ConvLowering(layer, schedule, out).run()

    def describe(self, layer: Layer, schedule: ConvSchedule, target: Target) -> str:
        """The blocked loop nest as pseudo-code."""
        shape = ConvShape(layer, target)
        outer = [f"for o in tiles({shape.outputs}, {schedule.tile_o}):"]
        pixels = [
            f"for h in tiles({shape.rows.outputs}, {schedule.tile_h}):",
            f"for w in tiles({shape.columns.outputs}, {schedule.tile_w}):",
        ]
        loops = outer + pixels if schedule.order == "weights" else pixels + outer
        kernel = " x ".join(str(window.kernel) for window in shape.windows)
        weights = "of y's section" if SECTIONS in layer.node.attrs else "at tap"
        body = [
            "ACC = 0",
            *_describe_shortcut(shape, schedule),
            f"for i in tiles({shape.inputs}, {schedule.tile_i}):",
            "  WGT <- weight[o, i]" + (" and bias[o]" if schedule.bias == "gemm" else ""),
            "  INP <- x[i, rows and columns that h, w read]",
            f"  for tap in {kernel}:",
            f"    ACC += GEMM(INP at tap, WGT {weights})",
        ]
        body += conv_pool.describe(shape)
        if schedule.bias == "gemm":
            body.append("ACC += GEMM(ones, bias[o])")
        body += epilogue.describe(shape.steps, schedule.bias)
        body.append("y[o, h, w] <- OUT")
        lines = ["  " * depth + line for depth, line in enumerate(loops)]
        return "\n".join(lines + ["  " * len(loops) + line for line in body])


def _rank(one: tuple[Cost, ConvSchedule]) -> tuple[int, int, int]:
    found, schedule = one
    return found.total, found.load, schedule.tile_o


def _describe_shortcut(shape: ConvShape, schedule: ConvSchedule) -> list[str]:
    """The part of the loop nest that accumulates the shortcut."""
    if shape.shortcut is None:
        return []
    lines = [
        f"for i in tiles({shape.shortcut.inputs}, {needs(shape, schedule).tile_s}):",
        "  WGT <- shortcut_weight[o, i]",
        "  INP <- image[i, rows and columns that h, w read]",
        "  ACC += GEMM(INP, WGT)",
    ]
    if shape.shortcut.shift:
        lines.append(f"ACC <<= {shape.shortcut.shift}")
    return lines


def _biases(shape: ConvShape) -> tuple[str, ...]:
    """Ways to add the layer's bias."""
    if not shape.has_bias:
        return ("none",)
    return ("gemm", "add") if fits_gemm(shape.bias, shape.block) else ("add",)


def _thinned(sizes: Sequence[int]) -> list[int]:
    if len(sizes) <= MOST_SIZES:
        return list(sizes)
    last = len(sizes) - 1
    return [sizes[round(index * last / (MOST_SIZES - 1))] for index in range(MOST_SIZES)]


def _orders(shape: ConvShape, whole: bool) -> Sequence[str]:
    """Orders of the loops; `whole`: one of the loops has a single turn.

    Beside a shortcut the scratchpads keep all that fits whatever the order.
    """
    if len(shape.parts) > 1 or (whole and shape.shortcut is not None):
        return ORDERS[:1]
    return ORDERS


def _space(shape: ConvShape, fixed: Mapping[str, Any]) -> Iterator[ConvSchedule]:
    """Every schedule worth a look."""

    def values(key: str, free: Sequence[Any]) -> Sequence[Any]:
        return [fixed[key]] if key in fixed else free

    outputs = max(part.outputs.count for part in shape.parts)
    inputs = max(1 if part.diagonal else part.inputs.count for part in shape.parts)
    widths = tile_sizes(shape.columns.outputs)[:4]
    if (shape.shortcut is not None or shape.pooled) and widths[-1] > 1:
        widths.append(1)  # a result may read more than the layer's own kernel
    for tile_o in values("tile_o", _thinned(tile_sizes(outputs))):
        for tile_i in values("tile_i", _thinned(tile_sizes(inputs))):
            for tile_h in values("tile_h", _thinned(tile_sizes(shape.rows.outputs))):
                for tile_w in values("tile_w", widths):
                    pixels = shape.batches, tile_h, tile_w
                    whole = tile_o >= outputs or pixels == (1, *shape.y_shape[2:])
                    for order in values("order", _orders(shape, whole)):
                        for bias in values("bias", _biases(shape)):
                            yield ConvSchedule(tile_o, tile_i, tile_h, tile_w, order, bias)
