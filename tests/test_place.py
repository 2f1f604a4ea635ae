"""Placement by legality, with a reason for every node."""

from __future__ import annotations

import numpy as np
import pytest

from vtaflow.errors import ModelError
from vtaflow.graph.graph import Graph
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.place import place
from vtaflow.graph.predicates import PLACED, every_node_is_placed

from .networks import Builder, normal, only_dense


def mixed() -> Graph:
    builder = Builder(8)
    hidden = builder.host("Sigmoid", builder.random_dense("x", 8, 6))
    return builder.build(builder.random_dense(hidden, 6, 4))


def placement(graph: Graph) -> dict[str, tuple[str, str]]:
    return {node.name: (node.device, node.reason) for node in graph.nodes}


def test_every_node_gets_a_device_and_a_reason() -> None:
    assert placement(mixed()) == {
        "dense0": ("vta", "dense template"),
        "sigmoid1": ("host", "no template for Sigmoid"),
        "dense2": ("vta", "dense template"),
    }


def test_accepts_sees_node_and_graph() -> None:
    graph = place(mixed(), lambda node, graph: f"{node.op} of {len(graph.nodes)}")
    assert placement(graph)["dense2"] == ("host", "Dense of 3")


def test_placement_changes_no_value() -> None:
    graph, feeds = mixed(), normal(8, 1)
    moved = place(graph, only_dense, {"dense0": "host"})
    before, after = interpret(graph, feeds), interpret(moved, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in graph.outputs)


@pytest.mark.parametrize("name", ["dense2", "onnx_dense2"])
def test_an_override_sends_a_node_to_the_host(name: str) -> None:
    placed = placement(place(mixed(), only_dense, {name: "host"}))
    assert placed["dense2"] == ("host", "placed by an override")
    assert placed["dense0"] == ("vta", "dense template")


def test_an_override_keeps_the_reason_of_a_refusal() -> None:
    placed = placement(place(mixed(), only_dense, {"sigmoid1": "host", "dense0": "vta"}))
    assert placed["sigmoid1"] == ("host", "no template for Sigmoid")
    assert placed["dense0"] == ("vta", "dense template")


def test_overrides_that_cannot_be_met_are_listed_together() -> None:
    wishes = {"sigmoid1": "vta", "nothing": "host", "dense0": "gpu"}
    with pytest.raises(ModelError) as caught:
        place(mixed(), only_dense, wishes)
    assert len(caught.value.problems) == 3
    text = str(caught.value)
    assert "'sigmoid1' cannot be placed on VTA: no template for Sigmoid" in text
    assert "names no node: 'nothing' (nodes: dense0," in text
    assert "'dense0' asks for 'gpu', known are vta, host" in text
    assert "\n" not in text


def test_the_predicate_sees_what_is_not_placed() -> None:
    graph = mixed()
    assert [problem for promise in PLACED for problem in promise(graph)] == []
    bare = graph.rebuild(
        nodes=[n.__class__(n.name, n.op, n.inputs, n.outputs, n.attrs) for n in graph.nodes]
    )
    assert len(list(every_node_is_placed(bare))) == 3
    assert "'dense0' has no device" in next(every_node_is_placed(bare))
