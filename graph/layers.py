"""Kinds of operators: float layers with weights that VTA runs; moves, which any device may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..ops import shortcut, vta_conv, vta_dense
from ..ops.types import Array
from .graph import Graph, Node


@dataclass(frozen=True)
class Layer:
    """How a float layer with inputs (x, weight, bias[, residual]) runs on the device.

    Instead of a residual it may have a shortcut (see ops/shortcut.py): an image and its weight.
    `accumulate(x, weight, attrs[, image, weight])` gives the int32 products (N, channels, ...) of
    int8 arrays.
    """

    op: str
    accumulate: Callable[..., Array]


LAYERS = {
    "Dense": Layer("VtaDense", lambda x, weight, attrs: vta_dense.accumulate(x, weight)),
    "FusedConv": Layer("VtaConv", vta_conv.accumulate),
}

MOVES = ("Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Host operators that move elements without changing them, in integers as in float."""


def device_layers(graph: Graph) -> list[Node]:
    """The layers of a float graph that are placed on VTA, in order."""
    return [node for node in graph.nodes if node.device == "vta" and node.op in LAYERS]


def residual_of(node: Node) -> str | None:
    """The value that a float layer adds to its products."""
    return node.inputs[3] if len(node.inputs) == 4 else None


def shortcut_of(node: Node) -> tuple[str, str] | None:
    """The image and the weight of a float layer's shortcut."""
    return (node.inputs[3], node.inputs[4]) if shortcut.inputs(node.attrs) else None
