"""Put Relu and Clip before the max-pool that they follow.

Both keep order, so the greatest of clipped values is the clipped greatest one. Before the pool an
activation goes into the layer that makes the values, behind it it would be a layer of its own.
"""

from __future__ import annotations

from dataclasses import replace

from ...ops import fused_pool
from ...ops.taps import windows
from ..edit import free_name
from ..graph import Graph, Node


def activate_first(graph: Graph) -> Graph:
    """The same values but for that between pool and activation, which nobody else may see."""
    nodes = {node.name: node for node in graph.nodes}
    makers, readers = graph.producers(), graph.consumers()
    taken = set(graph.types)
    for node in graph.nodes:
        pool = makers.get(node.inputs[0]) if node.op in ("Relu", "Clip") else None
        if pool is None or not _swaps(graph, pool) or readers[pool.outputs[0]] != (node,):
            continue
        between = free_name(f"{node.outputs[0]}.unpooled", taken)
        taken.add(between)
        nodes[node.name] = replace(node, inputs=pool.inputs, outputs=(between,))
        nodes[pool.name] = replace(pool, inputs=(between,), outputs=node.outputs)
    return graph.rebuild(nodes=nodes.values())


def _swaps(graph: Graph, pool: Node) -> bool:
    """Whether a node is a max-pool of what a layer makes for it, with a value in every window."""
    if pool.op != "MaxPool" or len(pool.outputs) > 1 or pool.outputs[0] in graph.outputs:
        return False
    value = pool.inputs[0]
    maker = graph.producers().get(value)
    if maker is None or maker.op != "FusedConv" or value in graph.outputs:
        return False
    along = zip(
        windows(pool.attrs, pool.attrs["kernel_shape"]), graph.types[value].shape[2:], strict=True
    )
    alone = graph.consumers()[value] == (pool,)
    return alone and all(fused_pool.sees_all(window, size) for window, size in along)
