"""Fusion: whether a pool is better in the convolution before it or apart.

Both ways have their best schedules timed exactly, the decisions go to the log like any other.
"""

from __future__ import annotations

from ..backend.target import Target
from ..graph.graph import Graph, Node
from .model import launch_stages
from .places import find_places
from .search import ScheduleLog, choose, known
from .template import Layer
from .trials import templates_of


def fits(graph: Graph, node: Node, target: Target) -> bool:
    """Whether a layer has a schedule at all."""
    layer = _layer(graph, node)
    return any(template.choices(layer, target) for template in templates_of(layer))


def is_faster(
    before: Graph,
    apart: tuple[Node, Node],
    after: Graph,
    fused: Node,
    *,
    target: Target,
    log: ScheduleLog,
) -> bool:
    """Whether a layer of `after` takes fewer cycles than the two of `before` that it replaces."""
    together = _cycles(after, fused, target, log)
    if together is None:
        return False
    alone = 0
    for node in apart:
        cycles = _cycles(before, node, target, log)
        if cycles is None:
            return True
        alone += cycles
    return together < alone


def _layer(graph: Graph, node: Node) -> Layer:
    return Layer.of(graph, node, find_places(graph, launch_stages(graph), apart=False))


def _cycles(graph: Graph, node: Node, target: Target, log: ScheduleLog) -> int | None:
    """Exact cycles of a layer with the schedule that it would get; None if no tile fits."""
    layer = _layer(graph, node)
    for template in templates_of(layer):
        choose(template, layer, target, log)
        found = known(template, layer, target, log)
        if found is not None:
            return found[1].cycles
    return None
