"""Let a convolution pool its sums before it requantises them.

Apart, a max-pool loads the whole result of the convolution, moves it into the accumulators and
stores a part of it. Fused, only the greatest sums are shifted, clipped and stored. The bytes are
the same (see ops/fused_pool.py); whether it is faster is asked of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ...ops import fused_pool, shortcut
from ...ops.taps import SECTIONS, windows
from ..graph import Graph, Node

Pays = Callable[[Graph, tuple[Node, Node], Graph, Node], bool]
"""Whether a node of the graph given last is better than two nodes of the other graph."""


def fuse_pools(graph: Graph, pays: Pays, apart: Collection[str] = ()) -> Graph:
    """The packed graph with the max-pools that `pays` approves of in the convolutions before them.

    `apart` names pools, or the ONNX nodes that they came from, that stay layers of their own.
    """
    for pool in graph.nodes:
        makers = graph.producers()
        conv = makers.get(pool.inputs[0]) if pool.op == "VtaMaxPool" else None
        if conv is None or not _fits(graph, conv, pool):
            continue
        if not {pool.name, *pool.origin}.isdisjoint(apart):
            continue
        fused = _fused(conv, pool)
        nodes = [fused if one is conv else one for one in graph.nodes if one is not pool]
        after = graph.rebuild(nodes=nodes)
        if pays(graph, (conv, pool), after, fused):
            graph = after
    return graph


def _fits(graph: Graph, conv: Node, pool: Node) -> bool:
    """Whether nothing but the pool sees the sums, and pooling them gives the same bytes."""
    (value,) = conv.outputs
    if conv.op != "VtaConv" or graph.consumers()[value] != (pool,) or value in graph.outputs:
        return False
    if conv.attrs["transposed"] or shortcut.inputs(conv.attrs) or SECTIONS in conv.attrs:
        return False
    sizes = graph.types[value].shape[2:]
    try:
        along = windows(pool.attrs, pool.attrs["kernel_shape"])
        fused_pool.check(along, sizes, conv.attrs["epilogue"])
    except ValueError:
        return False
    return True


def _fused(conv: Node, pool: Node) -> Node:
    """`conv` with `pool` taken in."""
    attrs = {
        **conv.attrs,
        **fused_pool.attributes(pool.attrs),
        fused_pool.NAME: pool.name,
        fused_pool.ORIGIN: pool.origin or (pool.name,),
        "layout": pool.attrs["layout"],
    }
    return replace(conv, outputs=pool.outputs, attrs=attrs)
