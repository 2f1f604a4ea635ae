"""Fold a Pad with zeros into the padding of the windows that slide over its result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from ...ops.pad import pairs
from ..graph import Graph, Node
from ..signs import non_negative


def fold_pads(graph: Graph) -> Graph:
    """Fold Pad of height and width into FusedConv, AveragePool and MaxPool.

    Only where all its readers take it: convolutions that are not transposed, average pools that
    count their padding (or have none), and max-pools of values that are never negative.
    """
    nodes = {node.name: node for node in graph.nodes}
    readers = graph.consumers()
    positives = non_negative(graph)
    for node in graph.nodes:
        result = node.outputs[0]
        ends = _ends(node)
        if ends is None or result in graph.outputs:
            continue
        after = [nodes[reader.name] for reader in readers.get(result, ())]
        wider = [_padded(one, node, ends) for one in after]
        positive = node.inputs[0] in positives
        if not all(map(partial(_takes, result, positive), after, wider)):
            continue
        nodes.update((one.name, one) for one in wider)
        del nodes[node.name]
    return graph.rebuild(nodes=nodes.values())


def _ends(node: Node) -> tuple[int, ...] | None:
    """Top, left, bottom, right of a Pad of images with zeros."""
    if node.op != "Pad" or node.attrs["mode"] != "constant" or node.attrs["value"] != 0:
        return None
    if len(node.attrs["pads"]) != 8 or min(node.attrs["pads"]) < 0:
        return None
    batch, channels, height, width = pairs(node.attrs)
    if any((*batch, *channels)):
        return None
    return (height[0], width[0], height[1], width[1])


def _padded(node: Node, pad: Node, ends: Collection[int]) -> Node:
    """`node` with the operand of `pad` and wider pads, if it slides a window over its result."""
    if node.op not in ("AveragePool", "FusedConv", "MaxPool"):
        return node
    pads = tuple(a + b for a, b in zip(node.attrs["pads"], ends, strict=True))
    counted = {"count_include_pad": 1} if node.op == "AveragePool" else {}
    return replace(
        node,
        inputs=(pad.inputs[0], *node.inputs[1:]),
        attrs={**node.attrs, **counted, "pads": pads},
        origin=(*pad.origin, *node.origin),
    )


def _takes(value: str, positive: bool, node: Node, wider: Node) -> bool:
    """Whether `wider` does on the operand what `node` does on the padded `value`."""
    if wider == node or value in node.inputs[1:]:
        return False
    if node.op == "FusedConv":
        return not node.attrs["transposed"]
    if node.attrs["ceil_mode"]:
        return False
    if node.op == "AveragePool":
        return bool(node.attrs["count_include_pad"] or not any(node.attrs["pads"]))
    # A window that sees padding alone has no maximum.
    kernel = tuple(node.attrs["kernel_shape"]) * 2
    covered = all(pad < size for pad, size in zip(wider.attrs["pads"], kernel, strict=True))
    return positive and covered and set(node.attrs["dilations"]) == {1}
