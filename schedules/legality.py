"""Which float nodes VTA can run: the question that placement asks the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..backend.target import Target
from ..graph.device_forms import FORMS, refusal
from ..graph.graph import Graph, Node
from . import TEMPLATES


def accepts_on(
    target: Target, too_large: Mapping[str, str] | None = None
) -> Callable[[Node, Graph], str | None]:
    """A function that says why a float node cannot run on `target`; None means that it can.

    `too_large` maps ONNX nodes that were found to have no tile to the reason.
    """
    found = too_large or {}

    def accepts(node: Node, graph: Graph) -> str | None:
        for name in node.origin:
            if name in found:
                return found[name]
        if node.op in FORMS:
            return refusal(graph, node)
        reasons = []
        for template in TEMPLATES:
            if template.float_op == node.op:
                reason = template.accepts(node, graph, target)
                if reason is None:
                    return None
                reasons.append(f"{template.name} template: {reason}")
        return "; ".join(reasons) or f"no VTA template runs {node.op}"

    return accepts
