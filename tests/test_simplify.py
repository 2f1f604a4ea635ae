"""The float passes: each changes the graph as it says and not what the graph computes.

Folding alpha, BatchNormalization and so on rounds in another order: results are compared within
1e-5 of the largest magnitude of any value on the way, everything else exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.errors import ModelError
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.drop_identities import drop_identities
from vtaflow.graph.passes.fold_batch_normalization import fold_batch_normalization
from vtaflow.graph.passes.fold_constants import fold_constants
from vtaflow.graph.passes.fuse_activation import fuse_activation
from vtaflow.graph.passes.make_dense import make_dense
from vtaflow.graph.passes.merge_reshapes import merge_reshapes
from vtaflow.graph.passes.simplify import SIMPLIFY, simplify
from vtaflow.ops.types import Array, TensorType

RNG = np.random.default_rng(11)
GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
FREE = {"min": None, "max": None}


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


N = TypeVar("N", bound="Net")


class Net:
    """A graph under construction; every node is named after its result."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape or (3, 6)
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def add(self: N, result: str, op: str, inputs: str, **attrs: Any) -> N:
        names = tuple(inputs.split())
        self.nodes.append(Node(f"{op}.{result}", op, names, (result,), attrs, (f"{op}.{result}",)))
        return self

    def dense(self: N, result: str, value: str, inputs: int = 6, outputs: int = 4) -> N:
        self.constants[f"{result}.w"] = floats(outputs, inputs)
        self.constants[f"{result}.b"] = floats(outputs)
        return self.add(result, "Dense", f"{value} {result}.w {result}.b", **FREE)

    def build(self, *outputs: str) -> Graph:
        types = {"x": TensorType(self.shape)}
        return Graph.build("net", types, outputs or ("y",), self.nodes, self.constants)


def agree(before: Graph, after: Graph, exactly: bool = False) -> None:
    """Both graphs have the same outputs, for their own batch and for another."""
    for batch in (before.batch, before.batch + 2):
        first, second = before.rebatch(batch), after.rebatch(batch)
        x = floats(*first.types["x"].shape)
        values = interpret(first, {"x": x}, keep=[node.outputs[0] for node in first.nodes])
        results = {name: values[name] for name in first.outputs}
        others = interpret(second, {"x": x})
        assert list(results) == list(others)
        largest = max(float(np.abs(array).max()) for array in values.values())
        bound = 0.0 if exactly else 1e-5 * max(1.0, largest)
        for name, array in results.items():
            np.testing.assert_allclose(others[name], array, rtol=0, atol=bound)


def changed(
    graph: Graph, apply: Callable[[Graph], Graph], exactly: bool = False
) -> tuple[Graph, list[str]]:
    """The graph after a pass and its operators, once it is seen to compute the same."""
    result = apply(graph)
    agree(graph, result, exactly)
    return result, [node.op for node in result.nodes]


def test_agree_refuses_what_differs() -> None:
    net, other = Net().add("y", "Relu", "x"), Net().add("y", "Tanh", "x")
    with pytest.raises(AssertionError):
        agree(net.build(), other.build())


# fold_constants


def test_constants_fold_through_several_nodes() -> None:
    net = Net()
    net.constant("w", floats(6, 4))
    net.constant("two", np.float32(2))
    net.add("t", "Transpose", "w", perm=(1, 0)).add("d", "Mul", "t two").add("dead", "Relu", "x")
    graph, ops = changed(net.add("y", "Gemm", "x d", **GEMM).build(), fold_constants, exactly=True)
    assert ops == ["Gemm"]
    assert np.array_equal(graph.constants["d"], 2 * net.constants["w"].T)
    assert set(graph.constants) == {"d"}


def test_shapes_fold_but_for_the_batch() -> None:
    net = Net(3, 2, 5)
    net.constant("one", np.int64(1))
    net.constant("zero", np.int64(0))
    net.add("s", "Shape", "x", start=0, end=None)
    net.add("c", "Gather", "s one", axis=0).add("f", "Cast", "c", to="float32")
    net.add("n", "Gather", "s zero", axis=0).add("g", "Cast", "n", to="float32")
    net.add("h", "Mul", "x f").add("y", "Div", "h g")
    graph, ops = changed(net.build(), fold_constants, exactly=True)
    assert ops == ["Shape", "Gather", "Cast", "Mul", "Div"]
    assert graph.constants["f"] == 2


def test_large_results_are_not_folded() -> None:
    net = Net(1, 100, 100)
    net.constant("a", floats(100, 1))
    net.constant("b", floats(1, 100))
    graph = net.add("c", "Add", "a b").add("y", "Add", "x c").build()
    assert len(fold_constants(graph).nodes) == 1
    assert len(fold_constants(graph, limit=39999).nodes) == 2


def test_bad_values_are_the_models_fault() -> None:
    net = Net()
    net.constant("c", floats(6))
    net.constant("i", np.int64(6))
    net.add("g", "Gather", "c i", axis=0).add("y", "Add", "x g")
    with pytest.raises(ModelError, match=r"net: node 'Gather.g' \(Gather\): an index is outside"):
        fold_constants(net.build())


# merge_reshapes


def test_runs_of_reshapes_become_one() -> None:
    net = Net(3, 2, 6).add("a", "Flatten", "x", axis=1).add("b", "Unsqueeze", "a", axes=(1,))
    net.add("y", "Reshape", "b", shape=(0, 4, 3)).add("z", "Relu", "a")
    graph, ops = changed(net.build("y", "z"), merge_reshapes, exactly=True)
    assert ops == ["Flatten", "Reshape", "Relu"]
    assert graph.nodes[1].attrs == {"shape": (0, 4, 3)}
    assert graph.nodes[1].inputs == ("x",)
    assert graph.nodes[1].origin == ("Flatten.a", "Unsqueeze.b", "Reshape.y")


def test_there_and_back_is_nothing() -> None:
    net = Net().dense("h", "x").add("a", "Unsqueeze", "h", axes=(1,))
    net.add("b", "Squeeze", "a", axes=(1,)).dense("y", "b", 4, 2)
    assert changed(net.build(), simplify, exactly=True)[1] == ["Dense", "Dense"]


def test_runs_that_lose_the_batch_stay() -> None:
    net = Net(3, 2).add("a", "Reshape", "x", shape=(-1, 1)).add("y", "Unsqueeze", "a", axes=(2,))
    assert changed(net.build(), merge_reshapes, exactly=True)[1] == ["Reshape", "Unsqueeze"]
    back = Net(3, 2).add("a", "Flatten", "x", axis=0).add("y", "Reshape", "a", shape=(-1, 2))
    assert changed(back.build(), merge_reshapes, exactly=True)[1] == ["Reshape"]


# drop_identities


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("Identity", {}),
        ("Dropout", {}),
        ("Cast", {"to": "float32"}),
        ("Reshape", {"shape": (0, 6)}),
        ("Flatten", {"axis": 1}),
        ("Squeeze", {"axes": ()}),
        ("Unsqueeze", {"axes": ()}),
        ("Transpose", {"perm": [0, 1]}),
        ("Concat", {"axis": 1}),
        ("Clip", {"min": None, "max": None}),
    ],
)
def test_identities_go(op: str, attrs: Mapping[str, Any]) -> None:
    middle = Net().add("a", "Relu", "x").add("b", op, "a", **attrs).add("y", "Tanh", "b").build()
    assert changed(middle, drop_identities, exactly=True)[1] == ["Relu", "Tanh"]
    last = Net().add("a", "Relu", "x").add("b", op, "a", **attrs).add("y", op, "b", **attrs).build()
    assert changed(last, drop_identities, exactly=True)[1] == ["Relu"]


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("Cast", {"to": "float64"}),
        ("Reshape", {"shape": (0, 2, 3)}),
        ("Unsqueeze", {"axes": (1,)}),
        ("Transpose", {"perm": (1, 0)}),
        ("Clip", {"min": 0.0, "max": None}),
        ("Relu", {}),
    ],
)
def test_others_stay(op: str, attrs: Mapping[str, Any]) -> None:
    graph = Net(3, 3 if op == "Transpose" else 6).add("y", op, "x", **attrs).build()
    assert [node.op for node in drop_identities(graph).nodes] == [op]
    twice = Net().add("y", "Concat", "x x", axis=1).build()
    assert len(drop_identities(twice).nodes) == 1


def test_names_of_outputs_stay() -> None:
    net = Net().add("a", "Relu", "x").add("y", "Identity", "a").add("z", "Identity", "a")
    graph, ops = changed(net.add("u", "Identity", "x").build("y", "z", "u"), drop_identities, True)
    assert ops == ["Relu", "Identity", "Identity"]
    assert graph.outputs == ("y", "z", "u")
    net = Net().add("a", "Relu", "x").add("y", "Identity", "a").add("z", "Tanh", "y")
    assert changed(net.build("a", "y", "z"), drop_identities, exactly=True)[1] == [
        "Relu",
        "Identity",
        "Tanh",
    ]


# make_dense


@pytest.mark.parametrize("transB", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("offset", [None, (), (1,), (4,), (1, 1), (1, 4)])
def test_gemm_becomes_dense(transB: int, alpha: float, offset: tuple[int, ...] | None) -> None:
    net = Net()
    net.constant("w", floats(4, 6) if transB else floats(6, 4))
    names = "x w"
    if offset is not None:
        names += " " + net.constant("c", floats(*offset))
    net.add("y", "Gemm", names, **{**GEMM, "transB": transB, "alpha": alpha, "beta": -2.0})
    graph, ops = changed(net.build(), make_dense)
    assert ops == ["Dense"]
    (node,) = graph.nodes
    assert node.name == "Gemm.y" and node.origin == ("Gemm.y",)
    assert node.inputs == ("x", "Gemm.y.weight", "Gemm.y.bias")
    assert node.attrs == {"min": None, "max": None}
    assert graph.constants["Gemm.y.weight"].flags.c_contiguous


def test_matmul_becomes_dense_and_shared_weights_are_its_own() -> None:
    net = Net()
    net.constant("w", floats(6, 6))
    net.constant("MatMul.y.bias", floats(6))
    net.add("h", "MatMul", "x w").add("y", "MatMul", "h w").add("z", "Add", "y MatMul.y.bias")
    graph, ops = changed(net.build("y", "z"), make_dense)
    assert ops == ["Dense", "Dense", "Add"]
    assert graph.nodes[1].inputs == ("h", "MatMul.y.weight", "MatMul.y.bias_2")
    assert not graph.constants["MatMul.y.bias_2"].any()


def test_what_is_no_dense_layer_stays() -> None:
    net = Net(3, 3)
    net.constant("w", floats(3, 3))
    net.constant("c", floats(3, 3))
    net.constant("v", floats(3))
    net.add("a", "MatMul", "x x").add("b", "MatMul", "w x").add("d", "MatMul", "x v")
    net.add("e", "Gemm", "x w c", **GEMM).add("f", "Gemm", "x w x", **GEMM)
    net.add("g", "Gemm", "x w", **{**GEMM, "transA": 1})
    net.add("k", "Cast", "x", to="float64").add("l", "Cast", "w", to="float64")
    graph = fold_constants(net.add("m", "MatMul", "k l").build(*"abdefgm"))
    assert not any(node.op == "Dense" for node in make_dense(graph).nodes)
    cube = Net(2, 3, 6)
    cube.constant("w", floats(6, 4))
    assert make_dense(cube.add("y", "MatMul", "x w").build()).nodes[0].op == "MatMul"


# fold_batch_normalization


def normalise(net: Net, result: str, value: str, channels: int = 4) -> Net:
    for name in ("scale", "B", "mean"):
        net.constant(f"{result}.{name}", floats(channels))
    net.constant(f"{result}.var", np.abs(floats(channels)) + np.float32(0.2))
    names = " ".join(f"{result}.{name}" for name in ("scale", "B", "mean", "var"))
    return net.add(result, "BatchNormalization", f"{value} {names}", epsilon=1e-5)


def test_batch_normalization_folds_into_the_layer_before() -> None:
    net = normalise(Net().dense("h", "x"), "y", "h")
    graph, ops = changed(net.build(), fold_batch_normalization)
    assert ops == ["Dense"]
    assert graph.nodes[0].origin == ("Dense.h", "BatchNormalization.y")
    assert graph.nodes[0].outputs == ("y",)
    assert set(graph.constants) == {"h.w", "h.b"}


def test_batch_normalization_folds_into_the_layers_after() -> None:
    net = normalise(Net().dense("h", "x").add("r", "Relu", "h"), "n", "r")
    net.dense("y", "n", 4).dense("z", "n", 4)
    graph, ops = changed(net.build("y", "z"), fold_batch_normalization)
    assert ops == ["Dense", "Relu", "Dense", "Dense"]
    assert graph.nodes[2].origin == ("BatchNormalization.n", "Dense.y")
    assert graph.nodes[2].inputs == ("r", "y.w", "y.b")


def test_weights_that_others_read_stay_theirs() -> None:
    net = Net().dense("h", "x")
    net.add("other", "Dense", "x h.w h.b", **FREE)
    graph, ops = changed(normalise(net, "y", "h").build("y", "other"), fold_batch_normalization)
    assert ops == ["Dense", "Dense"]
    assert graph.nodes[1].inputs == ("x", "h.w", "h.b")
    assert graph.nodes[0].inputs == ("x", "Dense.h.h.w", "Dense.h.h.b")


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1)])
@pytest.mark.parametrize("operands", ["h c", "c h"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_spelled_out_scales_fold(op: str, operands: str, shape: tuple[int, ...]) -> None:
    net = Net().dense("h", "x")
    net.constant("c", np.abs(floats(*shape)) + np.float32(0.5))
    _, ops = changed(net.add("y", op, operands).build(), fold_batch_normalization)
    assert ops == (["Dense", "Div"] if (op, operands) == ("Div", "c h") else ["Dense"])


def test_a_bias_folds_exactly() -> None:
    net = Net()
    net.constant("w", floats(6, 4))
    net.constant("c", floats(4))
    graph = make_dense(net.add("h", "MatMul", "x w").add("y", "Add", "h c").build())
    assert changed(graph, fold_batch_normalization, exactly=True)[1] == ["Dense"]


def test_input_normalisation_folds_into_the_first_layer() -> None:
    net = Net()
    net.constant("mean", floats(6))
    net.constant("deviation", np.float32(0.3))
    net.add("a", "Sub", "x mean").add("b", "Div", "a deviation").dense("y", "b")
    graph, ops = changed(net.build(), fold_batch_normalization)
    assert ops == ["Dense"]
    assert graph.nodes[0].origin == ("Sub.a", "Div.b", "Dense.y")


def test_chains_fold() -> None:
    net = Net().dense("a", "x")
    net.constant("c", floats(4))
    normalise(net.add("b", "Mul", "a c").add("d", "Add", "b c"), "e", "d")
    assert changed(net.add("y", "Relu", "e").build(), fold_batch_normalization)[1] == [
        "Dense",
        "Relu",
    ]


def scaled(net: Net, value: str = "h") -> Net:
    net.constant("c", floats(4))
    return net.add("y", "Mul", f"{value} c")


def test_what_cannot_be_folded_stays() -> None:
    seen = scaled(Net().dense("h", "x")).build("h", "y")
    shared = scaled(Net().dense("h", "x")).add("z", "Relu", "h").build("y", "z")
    clipped = scaled(fuse_activation_of(Net().dense("g", "x").add("h", "Relu", "g"))).build()
    lonely = normalise(Net(), "y", "x", 6).build()
    image = normalise(Net(2, 4, 5), "y", "x").build()
    for graph in (seen, shared, clipped, lonely, image):
        after = fold_batch_normalization(graph)
        assert [node.op for node in after.nodes] == [node.op for node in graph.nodes]


def fuse_activation_of(net: Net) -> Net:
    """`net` with its last Dense and Relu as one layer."""
    relu, dense = net.nodes.pop(), net.nodes.pop()
    return net.add(relu.outputs[0], "Dense", " ".join(dense.inputs), min=0.0, max=None)


def test_other_operands_stay() -> None:
    """Two activations, a constant for each row, another dtype, division by zero, no variance."""
    net = Net(4, 4).dense("h", "x", 4)
    net.constant("rows", floats(4, 1))
    net.constant("wider", floats(1, 1, 4))
    net.constant("zero", np.zeros(4, np.float32))
    net.add("a", "Add", "h x").add("b", "Mul", "h rows").add("c", "Mul", "h wider")
    net.add("d", "Div", "h zero").add("i", "Cast", "h", to="int64").add("e", "Add", "i i")
    net.add("f", "BatchNormalization", "h zero zero zero zero", epsilon=0.0)
    net.add("g", "BatchNormalization", "h m m m m", epsilon=1.0).add("k", "Softmax", "m", axes=(0,))
    net.add("m", "Reshape", "l", shape=(4,)).add("l", "Gather", "x one", axis=0)
    net.constant("one", np.int64(1))
    net.dense("n", "x", 4, 1).add("p", "Mul", "n zero")
    graph = net.build(*"abcdefgp")
    assert len(fold_batch_normalization(graph).nodes) == len(graph.nodes)


# fuse_activation


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("Relu", {})], (0.0, None)),
        ([("Clip", {"min": 0.0, "max": 6.0})], (0.0, 6.0)),
        ([("Clip", {"min": None, "max": 0.25})], (None, 0.25)),
        ([("Relu", {}), ("Clip", {"min": None, "max": 1.0})], (0.0, 1.0)),
        ([("Clip", {"min": -1.0, "max": 1.0}), ("Relu", {})], (0.0, 1.0)),
        ([("Clip", {"min": -2.0, "max": -1.0}), ("Relu", {})], (0.0, 0.0)),
        ([("Relu", {}), ("Clip", {"min": 0.5, "max": 0.25})], (0.25, 0.25)),
        ([("Relu", {}), ("Relu", {}), ("Relu", {})], (0.0, None)),
    ],
)
def test_activations_fuse(
    steps: list[tuple[str, dict[str, Any]]], expected: tuple[float | None, float | None]
) -> None:
    net = Net().dense("v0", "x")
    for index, (op, attrs) in enumerate(steps):
        net.add(f"v{index + 1}", op, f"v{index}", **attrs)
    last = f"v{len(steps)}"
    graph, ops = changed(net.build(last), fuse_activation, exactly=True)
    assert ops == ["Dense"]
    assert (graph.nodes[0].attrs["min"], graph.nodes[0].attrs["max"]) == expected
    assert graph.nodes[0].outputs == (last,)
    assert graph.nodes[0].origin == tuple(node.name for node in net.nodes)


def test_activations_of_seen_values_stay() -> None:
    net = Net().dense("h", "x").add("y", "Relu", "h")
    assert changed(net.build("h", "y"), fuse_activation, exactly=True)[1] == ["Dense", "Relu"]
    net.add("z", "Tanh", "h")
    assert changed(net.build("y", "z"), fuse_activation, exactly=True)[1] == [
        "Dense",
        "Relu",
        "Tanh",
    ]
    net = Net().add("h", "Tanh", "x").add("y", "Relu", "h").add("z", "Relu", "x")
    assert changed(net.build("y", "z"), fuse_activation, exactly=True)[1] == [
        "Tanh",
        "Relu",
        "Relu",
    ]


# all of them


def test_stages_are_named_after_their_functions() -> None:
    assert [stage.name for stage in SIMPLIFY] == [stage.run.__name__ for stage in SIMPLIFY]


def test_a_network_becomes_fused_layers() -> None:
    net = Net()
    net.constant("w", floats(6, 4))
    net.constant("b", floats(4))
    net.constant("v", floats(5, 4))
    net.add("a", "MatMul", "x w").add("c", "Add", "a b").add("d", "Identity", "c")
    normalise(net, "e", "d").add("f", "Relu", "e").add("g", "Dropout", "f")
    net.add("h", "Gemm", "g v", **GEMM).add("y", "Softmax", "h", axes=(1,))
    graph, ops = changed(net.build(), simplify)
    assert ops == ["Dense", "Dense", "Softmax"]
    assert graph.nodes[0].origin == ("MatMul.a", "Add.c", "BatchNormalization.e", "Relu.f")
    assert graph.nodes[0].attrs == {"min": 0.0, "max": None}
    assert [node.op for node in simplify(graph).nodes] == ops


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_random_chains_stay_the_same(data: st.DataObject) -> None:
    """Any chain of these, with any of its values seen from outside, computes the same."""
    net = Net(2, 4)
    value, outputs = "x", []
    for index in range(data.draw(st.integers(1, 8))):
        result = f"v{index}"
        op = data.draw(
            st.sampled_from(["Dense", "Mul", "Sub", "Norm", "Relu", "Clip", "Identity", "Tanh"])
        )
        if op == "Dense":
            net.dense(result, value, 4)
        elif op == "Norm":
            normalise(net, result, value)
        elif op in ("Mul", "Sub"):
            net.constant(f"c{index}", floats(4))
            operands = [value, f"c{index}"]
            net.add(result, op, " ".join(data.draw(st.permutations(operands))))
        elif op == "Clip":
            net.add(result, op, value, min=-0.5, max=0.5)
        else:
            net.add(result, op, value)
        if data.draw(st.integers(0, 4)) == 0:
            outputs.append(result)
        if data.draw(st.integers(0, 4)) > 0:
            value = result
    agree(graph := net.build(*dict.fromkeys([*outputs, result])), simplify(graph))
