"""The graph, its interpreter and its printed form."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from vtaflow.errors import FeedError, ModelError
from vtaflow.graph.edit import free_name, live_nodes
from vtaflow.graph.graph import Graph, Node, infer_node
from vtaflow.graph.interpret import interpret
from vtaflow.graph.known import Known, constants_known, derive
from vtaflow.graph.printer import to_text
from vtaflow.ops import OPERATORS
from vtaflow.ops.layout import Layout
from vtaflow.ops.types import Array, Attrs, Operator, TensorType

X = {"x": TensorType((2, 3))}


def node(name: str, op: str, inputs: str, output: str, **attrs: object) -> Node:
    return Node(name, op, tuple(inputs.split()), (output,), attrs, (name,))


def two_layers() -> Graph:
    nodes = [
        node("soft", "Softmax", "y", "z", axes=(1,)),
        node("fc", "Dense", "x w b", "h", min=None, max=None),
        node("act", "Relu", "h", "y"),
    ]
    constants = {
        "w": np.arange(12, dtype=np.float32).reshape(4, 3) - 6,
        "b": np.ones(4, np.float32),
        "unused": np.zeros(9, np.float32),
    }
    return Graph.build("net", X, ["z", "h"], nodes, constants)


def problems(nodes: Sequence[Node], outputs: Sequence[str] = ("y",)) -> tuple[str, ...]:
    constants = {"c": np.ones(5, np.float32)}
    with pytest.raises(ModelError, match="^net: ") as caught:
        Graph.build("net", X, outputs, nodes, constants)
    return caught.value.problems


def test_build_sorts_types_and_prunes() -> None:
    graph = two_layers()
    assert [each.name for each in graph.nodes] == ["fc", "act", "soft"]
    assert set(graph.constants) == {"w", "b"}
    assert graph.types["z"] == TensorType((2, 4))
    assert (graph.inputs, graph.outputs, graph.batch) == (("x",), ("z", "h"), 2)
    assert graph.producers()["y"].name == "act"
    assert [each.name for each in graph.consumers()["y"]] == ["soft"]
    assert "z" not in graph.consumers()
    assert list(graph.digraph().edges) == [("fc", "act"), ("act", "soft")]


def test_a_value_read_twice_by_a_node_counts_once() -> None:
    graph = Graph.build("net", X, ["y"], [node("n", "Add", "x x", "y")], {})
    assert [each.name for each in graph.consumers()["x"]] == ["n"]


def test_rebatch_types_everything_anew() -> None:
    graph = two_layers().rebatch(7)
    assert graph.batch == 7
    assert graph.types["z"].shape == (7, 4)
    assert graph.types["w"].shape == (4, 3)


def test_rebuild_replaces_parts() -> None:
    graph = two_layers()
    shorter = graph.rebuild(nodes=graph.nodes[:1], outputs=["h"])
    assert (shorter.outputs, len(shorter.nodes)) == (("h",), 1)
    doubled = graph.rebuild(constants={**graph.constants, "b": graph.constants["b"] * 2})
    assert doubled.constants["b"][0] == 2


def test_every_problem_is_listed() -> None:
    nodes = [
        node("first", "Add", "x c", "a"),
        node("second", "Relu", "missing", "b"),
        node("third", "Relu", "a", "y"),
        node("fourth", "Add", "x", "d"),
    ]
    assert problems(nodes, ["y", "nowhere"]) == (
        "node 'first' (Add): shapes [2,3] and [5] do not broadcast",
        "node 'second' (Relu): no such value 'missing'",
        "node 'fourth' (Add): 1 inputs, takes 2 to 2",
        "output 'nowhere' is produced by no node",
    )


def test_names_are_unique() -> None:
    same = node("n", "Relu", "x", "y")
    assert problems([same, same]) == (
        "two nodes are named 'n'",
        "value 'y' is produced twice",
    )
    assert problems([node("n", "Relu", "a", "c"), node("m", "Add", "c c", "x")], ["x"])[:2] == (
        "value 'c' is given and also produced by a node",
        "value 'x' is given and also produced by a node",
    )


def test_cycles_are_refused() -> None:
    (problem,) = problems([node("n", "Add", "x b", "a"), node("m", "Relu", "a", "b")])
    assert problem in ("nodes form a cycle: n, m", "nodes form a cycle: m, n")


def test_an_absent_operand_has_a_type_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        assert kinds[1] == TensorType((), "absent")
        return kinds[:1]

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        assert arrays[1].size == 0
        return arrays[:1]

    optional = Operator("Optional", infer, evaluate, (1, 2))
    known = {each.name: each for each in (*OPERATORS, optional)}
    monkeypatch.setattr("vtaflow.ops._BY_NAME", known)
    absent = Node("n", "Optional", ("x", ""), ("y",))
    graph = Graph.build("net", X, ["y"], [absent], {})
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(interpret(graph, {"x": x})["y"], x)
    assert "n = Optional(x, -) -> y" in to_text(graph)


def test_interpret_computes_outputs_and_what_is_kept() -> None:
    graph = two_layers()
    x = np.array([[1, -2, 0.5], [0, 0, 0]], np.float32)
    values = interpret(graph, {"x": x}, keep=["y", "x", "w"])
    assert list(values) == ["z", "h", "y", "x", "w"]
    hidden = x @ graph.constants["w"].T + 1
    assert np.array_equal(values["h"], hidden)
    assert np.array_equal(values["y"], np.maximum(hidden, 0))
    powers = np.exp(np.maximum(hidden, 0))
    np.testing.assert_allclose(values["z"], powers / powers.sum(1, keepdims=True), rtol=1e-6)
    assert list(interpret(graph, {"x": x})) == ["z", "h"]


def test_interpret_frees_what_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the operand and the result of the running node are alive in a long chain."""
    made: list[weakref.ref[Array]] = []

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        result = arrays[0] + 1
        made.append(weakref.ref(result))
        assert sum(each() is not None for each in made) <= 2
        return [result]

    watching = Operator("Watched", lambda kinds, attrs: kinds, evaluate, (1, 1))
    monkeypatch.setattr("vtaflow.ops._BY_NAME", {"Watched": watching})
    chain = [node(f"n{i}", "Watched", f"v{i}" if i else "x", f"v{i + 1}") for i in range(9)]
    graph = Graph.build("net", X, ["v9"], chain, {})
    assert interpret(graph, {"x": np.zeros((2, 3), np.float32)})["v9"][0, 0] == 9


def test_interpret_passes_inputs_and_constants_through() -> None:
    constant = np.ones((2, 3), np.float32)
    graph = Graph.build("net", X, ["x", "c"], [], {"c": constant})
    x = np.zeros((2, 3), np.float32)
    values = interpret(graph, {"x": x})
    assert values["x"] is x and values["c"] is constant


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "inputs none given, graph 'net' takes 'x'"),
        ({"y": (2, 3)}, "inputs 'y' given, graph 'net' takes 'x'"),
        ({"x": (2, 4)}, r"input 'x' is float32\[2,4\], graph 'net' takes float32\[2,3\]"),
    ],
)
def test_interpret_refuses_wrong_feeds(feeds: dict[str, tuple[int, ...]], message: str) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in feeds.items()}
    with pytest.raises(FeedError, match=message):
        interpret(two_layers(), arrays)


def test_interpret_refuses_wrong_dtypes_and_names_to_keep() -> None:
    with pytest.raises(FeedError, match=r"input 'x' is float64\[2,3\]"):
        interpret(two_layers(), {"x": np.zeros((2, 3))})
    with pytest.raises(FeedError, match="graph 'net' has no value 'nowhere'"):
        interpret(two_layers(), {"x": np.zeros((2, 3), np.float32)}, keep=["nowhere"])


def test_interpret_catches_operators_that_break_their_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        return [arrays[0][0]]

    wrong = Operator("Wrong", lambda kinds, attrs: kinds, evaluate, (1, 1))
    monkeypatch.setattr("vtaflow.ops._BY_NAME", {"Wrong": wrong})
    graph = Graph.build("net", X, ["y"], [node("n", "Wrong", "x", "y")], {})
    with pytest.raises(RuntimeError, match=r"Wrong 'n' made float32\(3,\) where float32\[2,3\]"):
        interpret(graph, {"x": np.zeros((2, 3), np.float32)})


GOLDEN = """\
graph net
  input x: float32[2,3]
  constant w: float32[4,3] (48 bytes)
  constant b: float32[4] (16 bytes)
  fc = Dense(x, w, b) {max=6, min=None} -> h: float32[2,4] @vta (fits) from fc, 'the clip'
  q = Quantize(h) {scale=0.5} -> i: int8[2,4] scale=0.5 @host
  p = Pack(i) {layout=NC1n16c, shape=(2, 4)} -> k: int8[2,4] NC1n16c scale=0.5
  output k: int8[2,4] NC1n16c scale=0.5
  output h: float32[2,4]
"""


def test_text_is_stable() -> None:
    graph = two_layers()
    dense = replace(
        graph.nodes[0],
        attrs={"min": None, "max": np.float32(6)},
        origin=("fc", "the clip"),
        device="vta",
        reason="fits",
    )
    quantize = replace(node("q", "Quantize", "h", "i", scale=0.5), device="host")
    pack = node("p", "Pack", "i", "k", layout=Layout("NC", 1, 16), shape=[2, 4])
    text = to_text(graph.rebuild(nodes=[pack, quantize, dense], outputs=["k", "h"]))
    assert text == GOLDEN


def test_text_of_strange_names_stays_one_line_a_node() -> None:
    strange = Node(
        "a b", "Relu", ("x",), ("line\nbreak",), {"mode": "it's"}, ("a b",), reason="no\nroom"
    )
    graph = Graph.build("net", X, ["line\nbreak"], [strange], {})
    assert to_text(graph).splitlines()[2:] == [
        "  'a b' = Relu(x) {mode=\"it's\"} -> 'line\\nbreak': float32[2,3] @nowhere (no room)",
        "  output 'line\\nbreak': float32[2,3]",
    ]


def test_known_values_follow_shapes_and_the_batch() -> None:
    types = {"x": TensorType((2, 3)), "i": TensorType((1,), "int64"), "j": TensorType((), "int64")}
    known = constants_known({"i": np.array([0]), "j": np.array(1)})
    found: dict[str, Known] = {}
    for each in (
        node("s", "Shape", "x", "s", start=0, end=None),
        node("n", "Gather", "s i", "n", axis=0),
        node("w", "Gather", "s j", "w", axis=0),
        node("p", "Mul", "n n", "p"),
        node("t", "Concat", "p p", "t", axis=0),
    ):
        infer_node(each, types)
        result = derive(each, types, known, limit=1000)
        known.update(result)
        found[each.name] = result[each.outputs[0]]
    values = {name: (item.value.tolist(), item.probe.tolist()) for name, item in found.items()}
    assert values == {
        "s": ([2, 3], [3, 3]),
        "n": ([2], [3]),
        "w": (3, 3),
        "p": ([4], [9]),
        "t": ([4, 4], [9, 9]),
    }
    assert {name for name, item in found.items() if item.fixed} == {"w"}


def test_known_values_have_a_limit() -> None:
    types = {"a": TensorType((100, 1)), "b": TensorType((100,)), "y": TensorType((100, 100))}
    known = constants_known({"a": np.zeros((100, 1), np.float32), "b": np.zeros(100, np.float32)})
    add = node("n", "Add", "a b", "y")
    assert set(derive(add, types, known, limit=40000)) == {"y"}
    assert derive(add, types, known, limit=39999) == {}
    assert derive(add, types, {}, limit=40000) == {}


def test_all_results_of_a_node_are_known() -> None:
    types = {"x": TensorType((2, 3, 5)), "s": TensorType((3,), "int64")}
    types |= {"n": TensorType((1,), "int64"), "r": TensorType((2,), "int64")}
    known = derive(node("shape", "Shape", "x", "s", start=0, end=None), types, {}, 100)
    split = Node("split", "Split", ("s",), ("n", "r"), {"axis": 0, "split": (1, 2)})
    pieces = derive(split, types, known, 100)
    assert {name: each.fixed for name, each in pieces.items()} == {"n": False, "r": True}
    assert pieces["r"].value.tolist() == [3, 5]


def test_edits() -> None:
    a, b, c = (node(name, "Relu", value, name.upper()) for name, value in ("ax", "bA", "cA"))
    assert live_nodes([a, b, c], ["C"]) == (a, c)
    assert free_name("w", {"v"}) == "w"
    assert free_name("w", {"w", "w_2"}) == "w_3"
