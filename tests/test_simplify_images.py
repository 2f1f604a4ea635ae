"""The float passes over images: fused convolutions that compute what the model does.

Folding scales rounds in another order: results are compared within 1e-5 of the largest
magnitude of any value on the way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.graph.graph import Graph
from vtaflow.graph.passes.activate_first import activate_first
from vtaflow.graph.passes.canonicalise import canonicalise
from vtaflow.graph.passes.fold_batch_normalization import fold_batch_normalization
from vtaflow.graph.passes.fold_pads import fold_pads
from vtaflow.graph.passes.fuse_residual import fuse_residual
from vtaflow.graph.passes.lift_sequences import lift_sequences
from vtaflow.graph.passes.make_conv import make_conv
from vtaflow.graph.passes.make_flatten import make_flatten
from vtaflow.graph.passes.simplify import simplify
from vtaflow.graph.signs import non_negative

from .test_simplify import Net, agree, changed, floats

CHANNELS = 4
WINDOW = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}


class Image(Net):
    """A graph of images under construction, (2, 4, 6, 5) unless told."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*(shape or (2, CHANNELS, 6, 5)))

    def conv(
        self,
        result: str,
        value: str,
        outputs: int = CHANNELS,
        kernel: tuple[int, ...] = (3, 3),
        inputs: int = CHANNELS,
        bias: bool = True,
        **attrs: Any,
    ) -> Image:
        """A Conv; pads of one keep the size."""
        group = attrs.get("group", 1)
        self.constants[f"{result}.w"] = floats(outputs, inputs // group, *kernel)
        names = f"{value} {result}.w"
        if bias:
            self.constants[f"{result}.b"] = floats(outputs)
            names += f" {result}.b"
        pads = tuple((taps - 1) // 2 for taps in kernel) * 2
        self.add(result, "Conv", names, **{**WINDOW, "pads": pads, "group": 1, **attrs})
        return self

    def transposed(self, result: str, value: str, group: int = 1, **attrs: Any) -> Image:
        self.constants[f"{result}.w"] = floats(CHANNELS, CHANNELS // group, 2, 3)
        attrs = {**WINDOW, "output_padding": (0, 0), "group": group, **attrs}
        self.add(result, "ConvTranspose", f"{value} {result}.w", **attrs)
        return self

    def normalise(self, result: str, value: str) -> Image:
        for part in ("s", "b", "m"):
            self.constants[f"{result}.{part}"] = floats(CHANNELS)
        self.constants[f"{result}.v"] = np.abs(floats(CHANNELS)) + np.float32(0.2)
        names = " ".join(f"{result}.{part}" for part in "sbmv")
        self.add(result, "BatchNormalization", f"{value} {names}", epsilon=1e-3)
        return self

    def pool(self, result: str, op: str, value: str, **attrs: Any) -> Image:
        attrs = {"kernel_shape": (2, 2), **WINDOW, "ceil_mode": 0, **attrs}
        if op == "AveragePool":
            attrs.setdefault("count_include_pad", 0)
        self.add(result, op, value, **attrs)
        return self

    def pad(self, result: str, value: str, *ends: int, fill: float = 0.0) -> Image:
        top, left, bottom, right = ends
        pads = (0, 0, top, left, 0, 0, bottom, right)
        self.add(result, "Pad", value, pads=pads, mode="constant", value=fill)
        return self


# make_conv


def test_convolutions_take_one_form() -> None:
    net = Image().conv("a", "x", strides=(2, 1)).conv("b", "a", group=2, bias=False)
    net.transposed("y", "b", group=2, strides=(2, 3), output_padding=(1, 0))
    graph, ops = changed(net.build(), make_conv, exactly=True)
    assert ops == ["FusedConv"] * 3
    first, second, third = graph.nodes
    assert first.inputs == ("x", "a.w", "a.b")
    assert first.attrs == {
        **WINDOW,
        "strides": (2, 1),
        "pads": (1, 1, 1, 1),
        "group": 1,
        "transposed": False,
        "output_padding": (0, 0),
        "min": None,
        "max": None,
    }
    assert second.inputs == ("a", "b.w", "Conv.b.bias")
    assert not graph.constants["Conv.b.bias"].any()
    assert third.attrs["transposed"] and third.attrs["output_padding"] == (1, 0)
    assert graph.types[third.inputs[1]].shape == (4, 2, 2, 3)
    assert np.array_equal(graph.constants[third.inputs[1]][2, 1], net.constants["y.w"][3, 0])


def test_computed_parameters_stay_convolutions() -> None:
    net = Image().conv("a", "x").conv("b", "a")
    net.nodes[0] = replace(net.nodes[0], inputs=("x", "w"))
    net.constant("k", floats(CHANNELS, CHANNELS, 3, 3))
    net.add("s", "ReduceSum", "x", axes=(0, 1, 2, 3), keepdims=1).add("w", "Mul", "k s")
    graph = net.build("b")
    assert sorted(node.op for node in make_conv(graph).nodes if "onv" in node.op) == [
        "Conv",
        "FusedConv",
    ]


# fold_batch_normalization


@pytest.mark.parametrize("group", [1, 2, 4])
def test_scales_fold_into_the_convolution_before(group: int) -> None:
    net = Image().conv("a", "x", group=group).normalise("b", "a").add("c", "Mul", "b k")
    net.constant("k", floats(CHANNELS, 1, 1))
    net.constant("o", floats(1, CHANNELS, 1, 1))
    net.add("y", "Add", "o c")
    graph, ops = changed(make_conv(net.build()), fold_batch_normalization)
    assert ops == ["FusedConv"]
    assert graph.nodes[0].origin == ("Conv.a", "BatchNormalization.b", "Mul.c", "Add.y")


@pytest.mark.parametrize("group", [1, 2, 4])
def test_scales_fold_into_the_convolutions_after(group: int) -> None:
    net = Image().normalise("a", "x").conv("b", "a", 8, (1, 1), group=group)
    net.conv("c", "a", 8, (1, 1)).add("y", "Concat", "b c", axis=1)
    graph, ops = changed(make_conv(net.build()), fold_batch_normalization)
    assert ops == ["FusedConv", "FusedConv", "Concat"]


def test_scales_fold_before_padding_but_shifts_do_not() -> None:
    net = Image().add("a", "Mul", "x k").conv("y", "a")
    net.constant("k", floats(CHANNELS, 1, 1))
    assert changed(make_conv(net.build()), fold_batch_normalization)[1] == ["FusedConv"]
    net = Image().add("a", "Mul", "x k").transposed("y", "a")
    net.constant("k", floats(CHANNELS, 1, 1))
    assert changed(make_conv(net.build()), fold_batch_normalization)[1] == ["FusedConv"]
    for layer in ("conv", "transposed"):
        net = Image().normalise("a", "x")
        net = net.conv("y", "a") if layer == "conv" else net.transposed("y", "a")
        kept = changed(make_conv(net.build()), fold_batch_normalization, exactly=True)[1]
        assert kept == ["BatchNormalization", "FusedConv"]


def test_what_varies_within_a_channel_stays() -> None:
    net = Image(2, CHANNELS, 5, 4).conv("a", "x")
    net.constant("row", floats(CHANNELS))
    net.constant("whole", floats(1, CHANNELS, 5, 4))
    net.add("b", "Add", "a row").conv("c", "b").add("y", "Mul", "c whole")
    kept = changed(make_conv(net.build()), fold_batch_normalization, exactly=True)[1]
    assert kept == ["FusedConv", "Add", "FusedConv", "Mul"]


def test_what_is_not_finite_is_not_folded() -> None:
    net = Image().conv("a", "x").add("b", "Mul", "a k").normalise("c", "x").conv("d", "c")
    net.constant("k", np.float32(np.inf))
    net.constants["c.v"] = np.full(CHANNELS, -1, np.float32)
    graph = make_conv(net.build("b", "d"))
    kept = [node.op for node in fold_batch_normalization(graph).nodes]
    assert sorted(kept) == ["BatchNormalization", "FusedConv", "FusedConv", "Mul"]


def test_a_residual_is_not_scaled() -> None:
    net = Image().conv("a", "x").add("b", "Add", "a x").normalise("y", "b")
    graph = fuse_residual(make_conv(net.build()))
    assert changed(graph, fold_batch_normalization, exactly=True)[1] == [
        "FusedConv",
        "BatchNormalization",
    ]


# fold_pads


def test_pads_fold_into_windows() -> None:
    net = Image().pad("p", "x", 1, 0, 2, 3).conv("a", "p").pool("b", "AveragePool", "p")
    net.add("r", "Relu", "x").pad("q", "r", 0, 1, 1, 0).pool("m", "MaxPool", "q")
    graph, ops = changed(make_conv(net.build("a", "b", "m")), fold_pads, exactly=True)
    assert sorted(ops) == ["AveragePool", "FusedConv", "MaxPool", "Relu"]
    pads = {node.op: node.attrs["pads"] for node in graph.nodes if "pads" in node.attrs}
    assert pads == {
        "FusedConv": (2, 1, 3, 4),
        "AveragePool": (1, 0, 2, 3),
        "MaxPool": (0, 1, 1, 0),
    }
    assert next(node for node in graph.nodes if node.op == "FusedConv").origin == (
        "Pad.p",
        "Conv.a",
    )


def kept_pads(net: Image, *outputs: str) -> bool:
    graph = make_conv(net.build(*outputs))
    return "Pad" in changed(graph, fold_pads, exactly=True)[1]


def test_pads_that_mean_something_else_stay() -> None:
    assert kept_pads(Image().pad("p", "x", 1, 1, 1, 1, fill=0.5).conv("y", "p"))
    assert kept_pads(Image().pad("p", "x", -1, 0, 0, 0).conv("y", "p"))
    assert kept_pads(Image().pad("p", "x", 1, 1, 1, 1).conv("y", "p"), "p", "y")
    other = Image().pad("p", "x", 1, 1, 1, 1).conv("a", "p").add("b", "Tanh", "p")
    assert kept_pads(other, "a", "b")
    assert kept_pads(Image().pad("p", "x", 1, 1, 1, 1).transposed("y", "p"))
    assert kept_pads(Image().pad("p", "x", 1, 1, 1, 1).pool("y", "MaxPool", "p"))
    assert kept_pads(Image().pad("p", "x", 1, 1, 1, 1).pool("y", "AveragePool", "p", ceil_mode=1))
    padded = {"pads": (1, 1, 1, 1)}
    assert kept_pads(Image().pad("p", "x", 1, 1, 1, 1).pool("y", "AveragePool", "p", **padded))
    wide = Image().add("r", "Relu", "x").pad("p", "r", 2, 0, 0, 0).pool("y", "MaxPool", "p")
    assert kept_pads(wide)
    edge = Image()
    edge.add("p", "Pad", "x", pads=(0, 0, 1, 1, 0, 0, 1, 1), mode="edge", value=0.0)
    assert kept_pads(edge.conv("y", "p"))
    channels = Image()
    channels.add("p", "Pad", "x", pads=(0, 1, 0, 0, 0, 1, 0, 0), mode="constant", value=0.0)
    assert kept_pads(channels.conv("y", "p", inputs=CHANNELS + 2))


def test_a_pad_that_is_a_residual_stays() -> None:
    net = Image().pad("p", "x", 1, 1, 1, 1).conv("a", "p").add("y", "Add", "a p")
    graph = fuse_residual(make_conv(net.build()))
    assert changed(graph, fold_pads, exactly=True)[1] == ["Pad", "FusedConv"]


# fuse_residual


def test_additions_become_residuals() -> None:
    net = Image().conv("a", "x").add("r", "Relu", "a").conv("b", "r").add("s", "Add", "b r")
    net.conv("c", "s").conv("d", "s").add("y", "Add", "d c")
    graph, ops = changed(make_conv(net.build()), fuse_residual, exactly=True)
    assert ops == ["FusedConv", "Relu", "FusedConv", "FusedConv", "FusedConv"]
    inputs = [node.inputs[3] for node in graph.nodes if len(node.inputs) > 3]
    assert inputs == ["r", "c"]  # d comes after c
    assert graph.nodes[2].origin == ("Conv.b", "Add.s")


def test_a_projection_is_added_by_the_layer_beside_it() -> None:
    """Whichever comes first."""
    narrow: dict[str, Any] = {"kernel": (1, 1), "strides": (2, 2)}
    first = Image().conv("a", "x", **narrow).conv("b", "x", strides=(2, 2))
    second = Image().conv("b", "x", strides=(2, 2)).conv("a", "x", **narrow)
    for net in (first, second):
        graph, _ = changed(make_conv(net.add("y", "Add", "a b").build()), fuse_residual)
        assert [node.inputs[3] for node in graph.nodes if len(node.inputs) > 3] == ["a"]
    equal = Image(2, CHANNELS, 6, 6).conv("s", "x", strides=(2, 2))
    near = equal.conv("a", "s", kernel=(1, 1)).conv("b", "x", **narrow).add("y", "Add", "a b")
    graph, _ = changed(make_conv(near.build()), fuse_residual)
    assert graph.nodes[-1].inputs[3] == "b"


def test_long_chains_of_additions_fuse_once_a_convolution() -> None:
    net = Image().conv("a", "x").add("b", "Add", "x a").add("c", "Add", "b x").conv("d", "x")
    net.add("y", "Add", "c d")
    graph, ops = changed(make_conv(net.build()), fuse_residual, exactly=True)
    assert ops == ["FusedConv", "Add", "FusedConv"]


def test_additions_that_stay() -> None:
    def kept(net: Image, *outputs: str) -> bool:
        graph = make_conv(net.build(*outputs))
        return "Add" in changed(graph, fuse_residual, exactly=True)[1]

    assert kept(Image().conv("a", "x").add("y", "Add", "a a"))
    assert kept(Image().conv("a", "x").add("y", "Add", "a x"), "a", "y")
    assert kept(Image().conv("a", "x").add("b", "Tanh", "a").add("y", "Add", "a b"))
    broad = Image().conv("a", "x").add("b", "GlobalAveragePool", "x").add("y", "Add", "a b")
    assert kept(broad)
    constant = Image().conv("a", "x").add("y", "Add", "a k")
    constant.constant("k", floats(1, CHANNELS, 6, 5))
    assert kept(constant)
    assert kept(Image().add("a", "Relu", "x").add("y", "Add", "a x"))


# canonicalise and make_flatten


def test_means_become_pools() -> None:
    net = Image().add("a", "ReduceMean", "x", axes=(2, 3), keepdims=1)
    net.add("b", "ReduceMax", "x", axes=(3, 2), keepdims=0)
    net.add("c", "ReduceMean", "x", axes=(1, 2), keepdims=0)
    graph, ops = changed(net.build("a", "b", "c"), canonicalise, exactly=True)
    assert sorted(ops) == ["Flatten", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"]
    assert {node.origin for node in graph.nodes if node.op in ("GlobalMaxPool", "Flatten")} == {
        ("ReduceMax.b",)
    }


def test_limits_become_clips() -> None:
    net = Image().add("a", "Max", "x low").add("b", "Min", "high a")
    net.add("c", "Max", "b many").add("d", "Max", "c x").add("y", "Max", "d low high")
    net.constant("low", np.float32(-0.25))
    net.constant("high", np.array([[0.5]], np.float32))
    net.constant("many", floats(5))
    graph, ops = changed(net.build(), canonicalise, exactly=True)
    assert ops == ["Clip", "Clip", "Max", "Max", "Max"]
    assert [node.attrs for node in graph.nodes[:2]] == [
        {"min": -0.25, "max": None},
        {"min": None, "max": 0.5},
    ]


def test_reshapes_to_features_become_flatten() -> None:
    net = Image().add("a", "Reshape", "x", shape=(0, 120)).add("p", "GlobalAveragePool", "x")
    net.add("b", "Squeeze", "p", axes=(2, 3)).add("c", "Reshape", "x", shape=(0, 4, 30))
    net.add("d", "Reshape", "a", shape=(0, 120)).add("e", "Reshape", "x", shape=(-1, 1))
    graph, ops = changed(net.build("a", "b", "c", "d", "e"), make_flatten, exactly=True)
    assert sorted(ops) == ["Flatten", "Flatten", "GlobalAveragePool", *["Reshape"] * 3]


# lift_sequences


def sequence_net() -> Image:
    net = Image(2, CHANNELS, 9).conv("a", "x", kernel=(3,), strides=(2,), pads=(1, 1),
                                     dilations=(1,))
    net.normalise("b", "a").add("c", "Relu", "b").add("d", "Mul", "c k")
    net.constant("k", floats(1, CHANNELS, 1))
    net.add("e", "MaxPool", "d", kernel_shape=(2,), strides=(1,), pads=(0, 1), dilations=(1,),
            ceil_mode=0)
    net.add("f", "Concat", "e d", axis=2).add("g", "GlobalAveragePool", "f")
    return net.add("y", "Flatten", "g", axis=1)


def test_sequences_become_images() -> None:
    graph, ops = changed(sequence_net().build(), lift_sequences)
    assert ops == [
        "Unsqueeze", "Conv", "BatchNormalization", "Relu", "Mul", "MaxPool", "Concat",
        "GlobalAveragePool", "Squeeze", "Flatten",
    ]  # fmt: skip
    assert graph.types["f.image"].shape == (2, CHANNELS, 1, 10)
    _, ops = changed(sequence_net().build(), simplify)
    assert ops == [
        "Unsqueeze", "FusedConv", "Mul", "MaxPool", "Concat", "GlobalAveragePool", "Flatten",
    ]  # fmt: skip


def test_lifted_values_are_lowered_where_others_read_them() -> None:
    net = sequence_net().add("t", "Transpose", "c", perm=(0, 2, 1)).add("u", "Add", "c z")
    net.add("z", "Tanh", "x").conv("v", "x", kernel=(3,), strides=(1,), pads=(0, 0), dilations=(1,))
    net.add("w", "Slice", "z", starts=(0,), ends=(5,), axes=(2,), steps=(1,))
    net.nodes = [node for node in net.nodes if node.outputs != ("u",)]
    net.add("u", "Add", "c w")
    graph, ops = changed(net.build("y", "t", "u", "d", "v"), lift_sequences)
    assert ops.count("Unsqueeze") == 2  # x once, w once
    assert ops.count("Squeeze") == 5  # c, d, g, u, v


def test_sequences_without_windows_stay() -> None:
    net = Image(2, 3, 4).add("a", "Relu", "x").add("y", "Add", "a x")
    assert changed(net.build(), lift_sequences, exactly=True)[1] == ["Relu", "Add"]


# signs


def test_signs() -> None:
    net = Image().add("a", "Relu", "x").add("b", "Clip", "x", min=0.0, max=None)
    net.add("c", "Add", "a b").add("d", "Clip", "x", min=0.0, max=-1.0).add("e", "Add", "a x")
    net.add("f", "Clip", "x", min=-1.0, max=None).add("g", "Mul", "c k").add("h", "Tanh", "a")
    net.constant("k", np.float32(2))
    graph = net.build(*"abcdefgh")
    assert non_negative(graph) == {"a", "b", "c", "g", "k"}


# all of them


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """A chain with side branches over images of four channels, some values seen from outside."""
    net = Image()
    values: dict[str, tuple[int, ...]] = {"x": (6, 5)}
    outputs: list[str] = []
    value = "x"
    for index in range(draw(st.integers(2, 8))):
        result = f"v{index}"
        op = draw(
            st.sampled_from(
                ["Conv", "Conv", "Norm", "Mul", "Pad", "Relu", "Clip", "Add", "Add", "Max",
                 "Average", "Transposed", "Identity"]
            )
        )  # fmt: skip
        if op == "Conv":
            net.conv(result, value, kernel=draw(st.sampled_from([(3, 3), (1, 1), (1, 3)])),
                     group=draw(st.sampled_from([1, 2, 4])), bias=draw(st.booleans()))
        elif op == "Norm":
            net.normalise(result, value)
        elif op == "Mul":
            net.constant(f"k{index}", floats(CHANNELS, 1, 1))
            net.add(result, draw(st.sampled_from(["Mul", "Sub"])), f"{value} k{index}")
        elif op == "Pad":
            net.pad(result, value, *(draw(st.integers(0, 1)) for _ in range(4)))
        elif op == "Clip":
            net.add(result, op, value, min=-0.5, max=draw(st.sampled_from([None, 0.5])))
        elif op == "Add":
            shape = net.build(value).types[value].shape[2:]
            same = [name for name, other in values.items() if other == shape]
            net.add(result, op, f"{draw(st.sampled_from(same))} {value}")
        elif op == "Transposed":
            net.transposed(result, value, group=draw(st.sampled_from([1, 2])))
        elif op in ("Max", "Average"):
            kernel = draw(st.sampled_from([(1, 1), (2, 1)]))
            net.pool(result, f"{op}Pool", value, kernel_shape=kernel)
        else:
            net.add(result, op, value)
        values[result] = net.build(result).types[result].shape[2:]
        if draw(st.integers(0, 5)) == 0:
            outputs.append(result)
        value = result if draw(st.integers(0, 4)) else value
    return net.build(*dict.fromkeys([*outputs, result]))


@settings(max_examples=100, deadline=None)
@given(networks())
def test_random_networks_stay_the_same(graph: Graph) -> None:
    after = simplify(graph)
    agree(graph, after)
    assert not any(node.op in ("Conv", "ConvTranspose", "Identity") for node in after.nodes
                   if node.outputs[0] not in after.outputs)


# activate_first


def pooled(*, kernel: tuple[int, int] = (2, 2), pads: tuple[int, ...] = (0, 0, 0, 0)) -> Image:
    """A convolution, a max-pool, and what may follow."""
    net = Image().conv("c", "x")
    return net.pool("p", "MaxPool", "c", kernel_shape=kernel, pads=pads, strides=(2, 2))


@pytest.mark.parametrize(
    ("op", "attrs"), [("Relu", {}), ("Clip", {"min": -0.5, "max": 0.25})], ids=["Relu", "Clip"]
)
def test_activations_go_before_pools(op: str, attrs: dict[str, Any]) -> None:
    graph = make_conv(pooled().add("y", op, "p", **attrs).build())
    after, ops = changed(graph, activate_first, exactly=True)
    assert ops == ["FusedConv", op, "MaxPool"]
    fused = simplify(pooled().add("y", op, "p", **attrs).build())
    assert [one.op for one in fused.nodes] == ["FusedConv", "MaxPool"]
    assert fused.nodes[0].origin == ("Conv.c", f"{op}.y")


def test_activations_that_stay_behind_pools() -> None:
    seen = pooled().add("y", "Relu", "p").add("z", "Tanh", "p").build("y", "z")
    wanted = pooled().add("y", "Relu", "p").build("y", "p")
    early = pooled().add("y", "Relu", "p").add("z", "Tanh", "c").build("y", "z")
    made = Image().add("c", "Tanh", "x").pool("p", "MaxPool", "c").add("y", "Relu", "p").build()
    blind = pooled(kernel=(1, 1), pads=(1, 1, 1, 1)).add("y", "Relu", "p").build()
    other = pooled().add("y", "Tanh", "p").build()
    for graph in map(make_conv, (seen, wanted, early, made, blind, other)):
        ops = [node.op for node in graph.nodes]
        assert changed(graph, activate_first, exactly=True)[1] == ops
