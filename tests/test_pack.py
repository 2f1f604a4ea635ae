"""Packing, the pass manager, and the predicates of the integer stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.errors import DataError, ModelError
from vtaflow.graph import predicates
from vtaflow.graph.calibration import calibrate
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes import PassError, Stage, run_passes
from vtaflow.graph.passes.pack import pack
from vtaflow.graph.passes.quantise import quantise
from vtaflow.graph.predicates import PACKED, PLACED, QUANTISED
from vtaflow.ops.layout import Layout

from .networks import RELU, Builder, mlp, normal


def quantised(graph: Graph, features: int) -> Graph:
    return quantise(graph, calibrate(graph, normal(features, 10)))


def branching(batch: int = 1) -> Graph:
    """A network whose values cross between host and VTA in every way."""
    builder = Builder(20, batch)
    hidden = builder.random_dense("x", 20, 17, RELU)
    left = builder.random_dense(hidden, 17, 5)
    right = builder.random_dense(builder.host("Sigmoid", hidden), 17, 33)
    flat = builder.host("Flatten", builder.random_dense(hidden, 17, 16), axis=1)
    return quantised(builder.build(left, right, hidden, builder.random_dense(flat, 16, 3)), 20)


def problems(graph: Graph, promises: tuple[Any, ...] = (*PLACED, *QUANTISED, *PACKED)) -> list[str]:
    return [problem for promise in promises for problem in promise(graph)]


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4),
    st.integers(1, 5),
    st.sampled_from([(1, 16), (2, 8), (4, 4), (1, 32)]),
    st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_packing_changes_no_value(
    widths: list[int], batch: int, tile: tuple[int, int], seed: int
) -> None:
    plain = quantised(mlp(widths, batch, seed), widths[0])
    packed = pack(plain, *tile)
    assert problems(packed) == []
    feeds = normal(widths[0], batch, seed)
    before, after = interpret(plain, feeds), interpret(packed, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in plain.outputs)


@pytest.mark.parametrize("batch, tile", [(1, (1, 16)), (3, (2, 8))])
def test_packing_a_branching_network_changes_no_value(batch: int, tile: tuple[int, int]) -> None:
    plain = branching(batch)
    packed = pack(plain, *tile)
    assert problems(packed) == []
    feeds = normal(20, batch)
    before, after = interpret(plain, feeds), interpret(packed, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in plain.outputs)


def test_only_the_ends_of_a_segment_are_converted() -> None:
    packed = pack(quantised(mlp([20, 17, 5]), 20), 1, 16)
    assert [node.op for node in packed.nodes] == [
        "Quantize",
        "Pack",
        "VtaDense",
        "VtaDense",
        "Unpack",
        "Dequantize",
    ]
    layers = [node for node in packed.nodes if node.op == "VtaDense"]
    layout = Layout("NC", 1, 16)
    assert [node.attrs["features"] for node in layers] == [(17, 20), (5, 17)]
    assert all(node.attrs["layout"] == layout for node in layers)
    assert [packed.constants[node.inputs[1]].shape for node in layers] == [
        (2, 2, 16, 16),
        (1, 2, 16, 16),
    ]
    vectors = [value for node in layers for value in node.inputs[2:]]
    assert {packed.constants[value].shape for value in vectors} == {(17,), (5,)}
    assert packed.types["x.int8.packed"].storage_shape == (1, 2, 1, 16)
    assert packed.nodes[1].attrs == {"layout": layout, "shape": (1, 20)}


def test_weights_shared_by_layers_are_packed_for_each() -> None:
    plain = quantised(mlp([8, 8, 8]), 8)
    first, second = (node for node in plain.nodes if node.op == "VtaDense")
    twin = replace(second, inputs=(second.inputs[0], first.inputs[1], *second.inputs[2:]))
    plain = plain.rebuild(nodes=[twin if node is second else node for node in plain.nodes])
    assert problems(pack(plain, 1, 16)) == []


def test_a_packed_graph_is_made_for_one_batch() -> None:
    packed = pack(quantised(mlp([8, 4]), 8), 1, 16)
    with pytest.raises(ModelError, match=r"packs a plain \(1, 8\)"):
        packed.rebatch(2)


# --- predicates ------------------------------------------------------------------------------


def changed(graph: Graph, name: str, **changes: Any) -> Graph:
    """`graph` with one node changed."""
    return graph.rebuild(
        nodes=[replace(node, **changes) if node.name == name else node for node in graph.nodes]
    )


def as_constant(graph: Graph, value: str, array: Any) -> Graph:
    return graph.rebuild(constants={**graph.constants, value: np.asarray(array)})


def test_predicates_hold_from_their_stage_on() -> None:
    placed = mlp([8, 4])
    plain = quantised(placed, 8)
    assert problems(placed, PLACED) == problems(plain, (*PLACED, *QUANTISED)) == []
    assert problems(placed, QUANTISED[:1])[0] == "node 'dense0': value 'x' is float32"
    assert "node 'dense0' (vta): value 'x.int8' is plain" in problems(plain, PACKED)
    assert "node 'dense0': weights 'dense0.weight.int8' are not packed" in problems(plain, PACKED)


def test_a_node_without_a_reason_is_seen() -> None:
    graph = changed(mlp([8, 4]), "dense0", reason="")
    assert problems(graph, PLACED) == ["node 'dense0' has no reason for its device"]


def test_an_integer_without_a_scale_is_seen() -> None:
    inputs = {"x": replace(mlp([8, 4]).types["x"], dtype="int8")}
    plain = quantised(mlp([8, 4]), 8)
    nodes = [replace(plain.nodes[1], inputs=("x", *plain.nodes[1].inputs[1:]))]
    graph = plain.rebuild(nodes=nodes, inputs=inputs, outputs=["dense0.y.int8"])
    found = problems(graph, (predicates.device_values_are_integers,))
    assert found == ["node 'dense0': activation 'x' is not int8 with a scale"]


def test_a_quantised_value_on_the_host_is_seen() -> None:
    plain = quantised(mlp([8, 4]), 8)
    gather = Node("take", "Gather", ("x.int8", "index"), ("z",), {"axis": 1}, (), "host", "test")
    graph = plain.rebuild(
        nodes=[*plain.nodes, gather],
        constants={**plain.constants, "index": np.zeros(1, np.int64)},
        outputs=[*plain.outputs, "z"],
    )
    found = problems(graph, (predicates.host_values_are_unquantised,))
    assert "node 'take': value 'x.int8' is quantised" in found


def test_illegal_shifts_are_seen() -> None:
    plain = quantised(mlp([8, 4]), 8)
    (dense,) = (node for node in plain.nodes if node.op == "VtaDense")
    value = next(name for name in dense.inputs if "shift" in name)
    beyond = as_constant(plain, value, np.array([0, 16, 0, 0], np.int32))
    expected = [f"node 'dense0': shifts {value!r} are not within 0..15"]
    assert problems(beyond, (predicates.shifts_fit,)) == expected
    moved = plain.rebuild(
        constants={name: array for name, array in plain.constants.items() if name != value},
        inputs={"x": plain.types["x"], value: plain.types[value]},
    )
    expected = [f"node 'dense0': shifts {value!r} are no constant"]
    assert problems(moved, (predicates.shifts_fit,)) == expected


def test_weights_that_are_computed_are_seen() -> None:
    packed = pack(quantised(mlp([8, 4]), 8), 1, 16)
    value = "dense0.weight.int8.packed"
    moved = packed.rebuild(
        constants={name: array for name, array in packed.constants.items() if name != value},
        inputs={"x": packed.types["x"], value: packed.types[value]},
    )
    assert f"node 'dense0': weights {value!r} are no constant" in problems(moved, PACKED)


def test_different_tiles_are_seen() -> None:
    builder = Builder(8)
    hidden = builder.host("Sigmoid", builder.random_dense("x", 8, 6))
    plain = quantised(builder.build(builder.random_dense(hidden, 6, 4)), 8)
    one, other = pack(plain, 1, 16), pack(plain, 1, 8)
    weight = "dense2.weight.int8.packed"
    half = next(place for place, node in enumerate(one.nodes) if node.op == "Sigmoid")
    graph = one.rebuild(
        nodes=[*one.nodes[:half], *other.nodes[half:]],
        constants={**one.constants, weight: other.constants[weight]},
    )
    assert problems(graph, PACKED) == ["nodes 'dense0', 'dense2' use different tiles"]


def test_going_to_and_fro_is_seen() -> None:
    packed = pack(quantised(mlp([8, 4]), 8), 1, 16)
    attrs = packed.nodes[1].attrs
    there = Node("there", "Unpack", ("x.int8.packed",), ("plain",), attrs, (), "host", "test")
    back = Node("back", "Pack", ("plain",), ("again",), attrs, (), "host", "test")
    graph = packed.rebuild(nodes=[*packed.nodes, there, back], outputs=[*packed.outputs, "again"])
    assert problems(graph, PACKED) == ["node 'back' packs again what 'there' unpacked"]


# --- the pass manager ------------------------------------------------------------------------


def test_stages_run_in_order_and_are_dumped() -> None:
    graph = mlp([8, 4])
    dumped: list[tuple[str, str]] = []
    quantising = Stage("quantise", lambda graph: quantised(graph, 8), QUANTISED)
    packing = Stage("pack", lambda graph: pack(graph, 1, 16), PACKED)
    result = run_passes(graph, [quantising, packing], lambda *each: dumped.append(each))
    assert [name for name, _ in dumped] == ["quantise", "pack"]
    assert "Pack(" not in dumped[0][1] and "Pack(" in dumped[1][1]
    assert problems(result) == []


def test_a_broken_promise_names_pass_and_node() -> None:
    lazy = Stage("quantise", lambda graph: graph, QUANTISED[:1])
    with pytest.raises(PassError, match=r"after pass 'quantise': node 'dense0': value 'x' is"):
        run_passes(mlp([8, 4]), [lazy])


def test_promises_hold_for_later_stages() -> None:
    def no_dense(graph: Graph) -> Iterator[str]:
        return (f"node {node.name!r} is back" for node in graph.nodes if node.op == "Dense")

    plain = quantised(mlp([8, 4]), 8)
    stages = [Stage("good", lambda graph: plain, (no_dense,)), Stage("bad", lambda _: mlp([8, 4]))]
    with pytest.raises(PassError, match="after pass 'bad': node 'dense0' is back"):
        run_passes(mlp([8, 4]), stages)


def test_a_failing_pass_is_named() -> None:
    def fail(graph: Graph) -> Graph:
        raise KeyError("dense0")

    with pytest.raises(PassError, match="pass 'worse': KeyError"):
        run_passes(mlp([8, 4]), [Stage("worse", fail)])


def test_errors_for_the_user_pass_through() -> None:
    def refuse(graph: Graph) -> Graph:
        raise DataError("mend this")

    with pytest.raises(DataError, match="^mend this$"):
        run_passes(mlp([8, 4]), [Stage("strict", refuse)])
