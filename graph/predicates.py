"""Stage predicates: what holds of a graph from some stage of the compiler on.

Each takes a graph and yields one message a violation, naming the node. The tuples at the end
are what the stages promise (see vtaflow.graph.passes.Stage).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ops.epilogue import MAX_SHIFT
from ..ops.vta_dense import weight_layout
from .graph import Graph, Node
from .layers import MOVES
from .passes.place import DEVICES

_CONVERSIONS = ("Quantize", "Dequantize", "FoldPixels", "Pack", "Unpack")


def every_node_is_placed(graph: Graph) -> Iterator[str]:
    """Every node has a device and a reason for it."""
    for node in graph.nodes:
        if node.device not in DEVICES:
            yield f"node {node.name!r} has no device"
        elif not node.reason:
            yield f"node {node.name!r} has no reason for its device"


def device_values_are_integers(graph: Graph) -> Iterator[str]:
    """No float value reaches a VTA node or leaves it; its activations are int8 with a scale."""
    for node in _on_device(graph):
        for value in (*node.inputs, *node.outputs):
            kind = graph.types[value]
            if kind.dtype not in ("int8", "int32"):
                yield f"node {node.name!r}: value {value!r} is {kind.dtype}"
            elif value not in graph.constants and (kind.dtype != "int8" or kind.scale is None):
                yield f"node {node.name!r}: activation {value!r} is not int8 with a scale"


def host_values_are_unquantised(graph: Graph) -> Iterator[str]:
    """On the host only conversions and moves see quantised values."""
    for node in graph.nodes:
        if node.device == "vta" or node.op in (*_CONVERSIONS, *MOVES):
            continue
        for value in (*node.inputs, *node.outputs):
            if value and graph.types[value].scale is not None:
                yield f"node {node.name!r}: value {value!r} is quantised"


def shifts_fit(graph: Graph) -> Iterator[str]:
    """Vectors of shifts are constants within 0..15."""
    for node in _on_device(graph):
        for kind, *rest in node.attrs.get("epilogue", ()):
            if kind != "shr_vector":
                continue
            value = node.inputs[rest[0]]
            shifts = graph.constants.get(value)
            if shifts is None:
                yield f"node {node.name!r}: shifts {value!r} are no constant"
            elif shifts.min() < 0 or shifts.max() > MAX_SHIFT:
                yield f"node {node.name!r}: shifts {value!r} are not within 0..{MAX_SHIFT}"


def device_values_are_packed(graph: Graph) -> Iterator[str]:
    """Activations of VTA nodes are packed, all with one tile; those of host nodes are plain."""
    tiles = {}
    for node in graph.nodes:
        if node.op in ("Pack", "Unpack"):
            continue
        for value in (*node.inputs, *node.outputs):
            if not value or value in graph.constants:
                continue
            layout = graph.types[value].layout
            if layout.packed != (node.device == "vta"):
                yield f"node {node.name!r} ({node.device}): value {value!r} is {layout}"
            elif layout.packed:
                tiles[layout.batch, layout.block] = node.name
    if len(tiles) > 1:
        yield f"nodes {', '.join(map(repr, tiles.values()))} use different tiles"


def dense_weights_are_packed(graph: Graph) -> Iterator[str]:
    """Weights of dense layers are constants in tiles that match the activations'."""
    for node in _on_device(graph):
        if node.op != "VtaDense":
            continue
        layout = weight_layout(node.attrs["layout"])
        features = tuple(node.attrs.get("features", ()))
        value = node.inputs[1]
        if value not in graph.constants:
            yield f"node {node.name!r}: weights {value!r} are no constant"
        elif not layout.packed or graph.types[value].shape != layout.storage_shape(features):
            yield f"node {node.name!r}: weights {value!r} are not packed"


def no_value_goes_to_and_fro(graph: Graph) -> Iterator[str]:
    """Nothing is unpacked only to be packed again."""
    producers = graph.producers()
    for node in graph.nodes:
        source = producers.get(node.inputs[0]) if node.op == "Pack" else None
        if source is not None and source.op == "Unpack":
            yield f"node {node.name!r} packs again what {source.name!r} unpacked"


def _on_device(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if node.device == "vta")


PLACED = (every_node_is_placed,)
QUANTISED = (device_values_are_integers, host_values_are_unquantised, shifts_fit)
PACKED = (device_values_are_packed, dense_weights_are_packed, no_value_goes_to_and_fro)
