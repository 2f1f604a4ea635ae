"""The pass manager: runs named stages over a graph and checks what each one promises.

Passes are functions `Graph -> Graph`, one a file beside this one; a `Stage` gives one a name
and the predicates that hold from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...errors import VtaflowError
from ..graph import Graph
from ..printer import to_text

Predicate = Callable[[Graph], Iterable[str]]
"""Yields one message a violation, each naming its node; see vtaflow.graph.predicates."""

Dump = Callable[[str, str], None]
"""Takes a stage's name and the graph after it as text."""


@dataclass(frozen=True)
class Stage:
    """A named pass; `holds` are the predicates that hold after it and after all later stages."""

    name: str
    run: Callable[[Graph], Graph]
    holds: tuple[Predicate, ...] = ()


class PassError(Exception):
    """A pass failed or broke a promise: a bug of the compiler, never the user's mistake."""


def run_passes(graph: Graph, stages: Sequence[Stage], dump: Dump | None = None) -> Graph:
    """Run the stages in order and return the last graph.

    Raises PassError that names the stage and the nodes when a stage fails or a predicate does
    not hold. Errors addressed to the user pass through as they are.
    """
    promises: dict[Predicate, None] = {}
    for stage in stages:
        try:
            graph = stage.run(graph)
        except VtaflowError:
            raise
        except Exception as error:
            raise PassError(f"pass {stage.name!r}: {error!r}") from error
        if dump is not None:
            dump(stage.name, to_text(graph))
        promises.update(dict.fromkeys(stage.holds))
        broken = [problem for promise in promises for problem in promise(graph)]
        if broken:
            raise PassError(f"after pass {stage.name!r}: " + "; ".join(broken))
    return graph
