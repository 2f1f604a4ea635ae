"""Lowering of whole models: launches, the host's steps around them, buffers, overrides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vtaflow.backend import program
from vtaflow.backend.commands import Load, Memory, Store
from vtaflow.backend.target import Target
from vtaflow.errors import ScheduleError
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.pack import pack
from vtaflow.ops.layout import PLAIN
from vtaflow.ops.types import Array, TensorType
from vtaflow.schedules.model import LaunchStep, launch_stages, lower

from . import execution

SIM = Target.load("sim")
EPILOGUE = (("shr", 4), ("max", -128), ("min", 127))


class Builder:
    """An integer graph, grown node by node; all values have 32 features."""

    def __init__(self, *inputs: str) -> None:
        self.inputs = {name: TensorType((2, 32), "int8", scale=0.5) for name in inputs}
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}

    def dense(self, name: str, source: str) -> str:
        """A layer on VTA; returns its output."""
        random = np.random.default_rng(len(self.nodes))
        self.constants[f"{name}.w"] = random.integers(-128, 128, (32, 32), np.int8)
        attrs = {"epilogue": EPILOGUE, "scale": 0.5, "layout": PLAIN}
        inputs, origin = (source, f"{name}.w"), (f"onnx_{name}", f"relu_{name}")
        self.nodes.append(
            Node(name, "VtaDense", inputs, (f"{name}.y",), attrs, origin, "vta")
        )
        return f"{name}.y"

    def host(self, op: str, name: str, *sources: str, **attrs: object) -> str:
        """A host node; returns its output."""
        self.nodes.append(Node(name, op, sources, (f"{name}.y",), attrs, (name,), "host"))
        return f"{name}.y"

    def between(self, name: str, source: str) -> str:
        """A host operator that VTA's integers go through."""
        real = self.host("Dequantize", f"{name}.real", source, scale=0.5)
        soft = self.host("Tanh", f"{name}.tanh", real)
        return self.host("Quantize", name, soft, scale=0.5)

    def build(self, *outputs: str) -> Graph:
        graph = Graph.build("net", self.inputs, outputs, self.nodes, self.constants)
        return pack(graph, SIM.batch, SIM.block_in)


def chain() -> Graph:
    """Two layers in a row."""
    net = Builder("x")
    return net.build(net.dense("second", net.dense("first", "x")))


def sandwich() -> Graph:
    """A host operator between two layers, and a third layer beside it."""
    net = Builder("x")
    first = net.dense("first", "x")
    after = net.dense("after", net.between("middle", first))
    return net.build(after, net.dense("beside", first))


def steps_of(graph: Graph) -> list[str]:
    """Host operators by name, launches as "launch: inputs -> outputs"."""
    return [
        f"launch {one.index}: {' '.join(one.inputs)} -> {' '.join(one.outputs)}"
        if isinstance(one, LaunchStep)
        else one.name
        for one in lower(graph, SIM).steps
    ]


def test_neighbours_share_a_launch() -> None:
    graph = chain()
    assert steps_of(graph) == [
        "x.pack",
        "launch 0: x.packed -> second.y.packed",
        "second.y.unpack",
    ]
    kinds = {one.name: one.kind for one in lower(graph, SIM).buffers if one.kind != "constant"}
    assert kinds == {
        "x.packed": "input",
        "first.y.packed": "activation",
        "second.y.packed": "output",
    }


def test_a_host_operator_cuts_the_launch() -> None:
    graph = sandwich()
    stages = launch_stages(graph)
    assert [stages[name] for name in ("first", "beside", "after")] == [0, 0, 1]
    assert [stages[name] for name in ("x.pack", "middle.tanh", "after.y.unpack")] == [0, 1, 2]
    steps = steps_of(graph)
    assert steps[0] == "x.pack"
    assert steps[1] == "launch 0: x.packed -> first.y.packed beside.y.packed"
    assert steps[-2] == "launch 1: middle.y.packed -> after.y.packed"
    assert steps[-1] == "after.y.unpack"
    assert set(steps[2:-2]) == {
        "first.y.unpack", "beside.y.unpack", "middle.real", "middle.tanh", "middle",
        "middle.y.pack",
    }


def test_steps_come_after_what_they_read() -> None:
    for graph in (chain(), sandwich()):
        known = {*graph.inputs, *graph.constants}
        for step in lower(graph, SIM).steps:
            assert known >= set(step.inputs)
            known |= set(step.outputs)
        assert known >= set(graph.outputs)


def test_a_model_without_device_nodes_has_no_launch() -> None:
    net = Builder("x")
    graph = net.build(net.host("Dequantize", "real", "x", scale=0.5))
    lowered = lower(graph, SIM)
    assert lowered.launches == () and lowered.buffers == () and lowered.layers == ()
    assert [step.name for step in lowered.steps if isinstance(step, Node)] == ["real"]


def test_a_value_that_both_sides_read_is_an_output() -> None:
    net = Builder("x")
    first = net.dense("first", "x")
    graph = net.build(first, net.dense("second", first))
    kinds = {one.name: one.kind for one in lower(graph, SIM).buffers}
    assert kinds["first.y.packed"] == kinds["second.y.packed"] == "output"


@pytest.mark.parametrize("keep", [False, True])
def test_a_chain_in_one_launch_computes_the_graph(keep: bool) -> None:
    graph = chain()
    lowered = lower(graph, SIM)
    code = program.assemble(SIM, lowered.launches, lowered.buffers, keep)
    assert execution.findings(SIM, code, ("x.packed",)) == []
    x = np.random.default_rng(1).integers(-128, 128, (2, 32), np.int8)
    feed = {"x.packed": graph.types["x.packed"].layout.pack(x)}
    values = interpret(graph, {"x": x})
    found = execution.run(SIM, code, feed)["second.y.packed"].view(np.int8)
    right = graph.types["second.y.packed"].layout.pack(values["second.y"])
    assert np.array_equal(found, right.ravel())


# --- the plans of layers ------------------------------------------------------------------------


def test_layers_tell_what_they_come_to() -> None:
    lowered = lower(sandwich(), SIM)
    rows = {plan.name: plan for plan in lowered.layers}
    assert {name: plan.launch for name, plan in rows.items()} == {
        "first": 0, "beside": 0, "after": 1,
    }
    first = rows["first"]
    assert first.origin == ("onnx_first", "relu_first")
    assert (first.op, first.template, first.macs) == ("VtaDense", "dense", 2 * 32 * 32)
    mine = [one for one in lowered.launches[0] if one.origin == first.origin]
    loads = [one for one in mine if isinstance(one, Load)]
    assert first.bytes_loaded == sum(
        one.size * one.rows * SIM.element_bytes(one.memory) for one in loads
    )
    assert first.bytes_loaded >= 32 * 32 + 2 * 32
    assert first.bytes_stored == 2 * 32
    assert first.text.startswith("for n in tiles(2, ")


def test_every_command_names_its_nodes() -> None:
    for launch in lower(sandwich(), SIM).launches:
        assert all(len(command.origin) == 2 for command in launch)


def tile_rows(names: Sequence[str], **overrides: dict[str, int]) -> list[int]:
    """`tile_n` of layers under overrides."""
    lowered = lower(chain(), SIM, overrides)
    rows = {plan.name: plan.schedule["tile_n"] for plan in lowered.layers}
    return [rows[name] for name in names]


def test_overrides_go_by_any_name_of_the_layer() -> None:
    names = ("first", "second")
    assert tile_rows(names) == [2, 2]
    assert tile_rows(names, first={"tile_n": 1}) == [1, 2]
    assert tile_rows(names, onnx_second={"tile_n": 1}) == [2, 1]
    assert tile_rows(names, relu_first={"tile_n": 1}, second={"tile_n": 1}) == [1, 1]


def test_the_layers_own_name_wins_and_fields_add_up() -> None:
    wanted = {"onnx_first": {"tile_n": 2, "tile_o": 1}, "first": {"tile_n": 1, "tile_i": 1}}
    schedule = lower(chain(), SIM, wanted).layers[0].schedule
    assert [schedule[key] for key in ("tile_n", "tile_o", "tile_i")] == [1, 1, 1]
    stores = [
        one
        for one in lower(chain(), SIM, wanted).launches[0]
        if isinstance(one, Store) and one.buffer == "first.y.packed"
    ]
    assert len(stores) == 4


def test_an_override_of_nothing_is_refused() -> None:
    message = "no VTA layer is named 'frist', 'x.pack'; layers: first, second"
    with pytest.raises(ScheduleError) as caught:
        lower(chain(), SIM, {"frist": {}, "first": {}, "x.pack": {"tile_n": 1}})
    assert str(caught.value) == message


def test_a_device_node_without_a_template_is_refused() -> None:
    node = Node("odd", "Relu", ("x",), ("y",), {}, ("odd",), "vta")
    graph = Graph.build("net", {"x": TensorType((1, 32))}, ["y"], [node], {})
    layout = chain().types["x.packed"].layout
    packed = {name: TensorType((1, 32), "float32", layout) for name in "xy"}
    graph = Graph(graph.name, graph.inputs, graph.outputs, graph.nodes, {}, packed)
    with pytest.raises(ScheduleError, match=r"layer 'odd' \(Relu\): no template lowers it"):
        lower(graph, SIM)


def test_constants_are_named_after_their_layer() -> None:
    constants = [one for one in lower(chain(), SIM).buffers if one.kind == "constant"]
    assert [one.name for one in constants] == ["first.weight", "second.weight"]
    assert all(one.memory is Memory.WGT and one.data is not None for one in constants)
