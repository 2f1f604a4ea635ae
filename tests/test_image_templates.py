"""Max-pooling and concatenation on VTA, and the pieces that image templates are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.backend import program
from vtaflow.backend.commands import Loop
from vtaflow.backend.profile import CHISEL, FSIM, HLS
from vtaflow.backend.target import Target
from vtaflow.errors import ScheduleError
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.ops.layout import Layout
from vtaflow.ops.types import TensorType
from vtaflow.runtime.interleave import ORDERS
from vtaflow.schedules import bias
from vtaflow.schedules.blocks import Block, Extent
from vtaflow.schedules.model import Lowered, lower
from vtaflow.schedules.nests import arrange

from . import execution
from .image_layers import feeds_of

PYNQ = Target.load("pynq")
TARGETS = {
    "default": PYNQ,
    "batch 2": replace(PYNQ, log_batch=1),
    "small memories": replace(
        PYNQ, log_uop_buff_size=12, log_inp_buff_size=12, log_wgt_buff_size=15,
        log_acc_buff_size=13,
    ),
}


def pool_graph(
    target: Target, shape: tuple[int, ...], kernel: tuple[int, int], **attrs: Any
) -> Graph:
    layout = Layout(attrs.pop("order", "NCHW"), target.batch, target.block_in)
    every = {
        "kernel_shape": kernel,
        "strides": (1, 1),
        "pads": (0, 0, 0, 0),
        "dilations": (1, 1),
        "ceil_mode": 0,
        "layout": layout,
        "in_layout": layout,
    } | attrs
    node = Node("pool", "VtaMaxPool", ("x",), ("y",), every, ("MaxPool_0",), "vta")
    return Graph.build("case", {"x": TensorType(shape, "int8", layout, 0.5)}, ["y"], [node], {})


def computes(
    graph: Graph, target: Target, lowered: Lowered, orders: Sequence[str] = ("program",)
) -> None:
    """The lowered graph is clean and gives the interpreter's bytes, on every design."""
    code = program.assemble(target, lowered.launches, lowered.buffers)
    assert execution.findings(target, code, graph.inputs) == []
    feeds = feeds_of(graph)
    expected = interpret(graph, feeds)
    for profile in [HLS, FSIM] + [CHISEL] * target.is_default_geometry:
        for order in orders:
            found = execution.run(target, code, feeds, order, profile)
            for name in graph.outputs:
                bytes_ = found[name].view(np.int8).reshape(expected[name].shape)
                assert np.array_equal(bytes_, expected[name]), (name, profile.name, order)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    """What `pool_graph` takes, beside the target; ONNX wants padding smaller than the kernel."""
    kernel = draw(st.tuples(*[st.integers(1, 4)] * 2))
    return {
        "shape": (3, draw(st.integers(1, 40)), *draw(st.tuples(*[st.integers(4, 20)] * 2))),
        "kernel": kernel,
        "strides": draw(st.tuples(*[st.integers(1, 3)] * 2)),
        "pads": tuple(draw(st.integers(0, min(3, kernel[axis % 2] - 1))) for axis in range(4)),
        "ceil_mode": draw(st.integers(0, 1)),
        "order": draw(st.sampled_from(("NCHW", "NHCW"))),
    }


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(TARGETS)), pools())
def test_max_pool(name: str, pool: dict[str, Any]) -> None:
    graph = pool_graph(TARGETS[name], **pool)
    computes(graph, TARGETS[name], lower(graph, TARGETS[name]))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(TARGETS)), pools())
def test_max_pool_at_length(name: str, pool: dict[str, Any]) -> None:
    graph = pool_graph(TARGETS[name], **pool)
    computes(graph, TARGETS[name], lower(graph, TARGETS[name]), ORDERS)


@pytest.mark.parametrize("wanted", [{"tile_h": 2}, {"tile_c": 1, "tile_w": 3}])
def test_max_pool_overrides(wanted: dict[str, int]) -> None:
    graph = pool_graph(PYNQ, (1, 40, 9, 9), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    computes(graph, PYNQ, lower(graph, PYNQ, {"pool": wanted}))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"tile_h": 99}, "tile_h must be from 1 to 60"),
        ({"tile": 1}, "no schedule field 'tile'; max_pool has tile_c, tile_h, tile_w"),
        ({"tile_h": 60, "tile_w": 60}, "does not fit: INP has"),
    ],
)
def test_max_pool_overrides_that_cannot_be(wanted: dict[str, int], message: str) -> None:
    graph = pool_graph(PYNQ, (1, 40, 60, 60), (1, 1))
    with pytest.raises(ScheduleError, match=message):
        lower(graph, PYNQ, {"pool": wanted})


def concat_graph(target: Target, channels: list[int], from_host: bool) -> Graph:
    """Inputs joined along channels, pooled first (1x1) unless they come from the host."""
    layout = Layout("NCHW", target.batch, target.block_in)
    kinds, nodes, values = {}, [], []
    for index, count in enumerate(channels):
        kinds[f"x{index}"] = TensorType((2, count, 5, 6), "int8", layout, 0.5)
        value = f"x{index}"
        if not from_host:
            pool = pool_graph(target, (2, count, 5, 6), (1, 1)).nodes[0]
            value = f"p{index}"
            nodes.append(
                replace(pool, name=f"pool{index}", inputs=(f"x{index}",), outputs=(value,))
            )
        values.append(value)
    attrs = {"channels": tuple(channels), "layout": layout}
    nodes.append(Node("join", "VtaConcat", tuple(values), ("y",), attrs, ("Concat_0",), "vta"))
    return Graph.build("case", kinds, ["y"], nodes, {})


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("from_host", [True, False])
@pytest.mark.parametrize("channels", [[16, 32], [32, 16, 5], [3, 20, 16], [7], [15, 1, 40]])
def test_concat(target: Target, channels: list[int], from_host: bool) -> None:
    graph = concat_graph(target, channels, from_host)
    computes(graph, target, lower(graph, target))
    computes(graph, target, lower(graph, target, apart=True))


def test_concat_of_whole_blocks_costs_nothing() -> None:
    lowered = lower(concat_graph(PYNQ, [16, 32, 5], from_host=False), PYNQ)
    assert lowered.layers[-1].text == "nothing: the inputs are written in place"
    assert lowered.layers[-1].bytes_stored == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 7), max_size=3),
    st.lists(st.integers(1, 7), max_size=3),
    st.integers(1, 4),
)
def test_arranged_loops_keep_the_distance(
    reductions: list[int], outputs: list[int], distance: int
) -> None:
    """Every index is visited once, and no accumulator twice within the distance."""
    inner, step = [], 1
    for extent in outputs:
        inner.append(Loop(extent, dst=step, wgt=7 * step))
        step *= extent
    outer = [Loop(extent, src=10**index) for index, extent in enumerate(reductions)]
    nest = arrange(tuple(outer), tuple(inner), distance)
    if nest is None:
        assert step < distance and prod(reductions) > 1
        return
    visits = [(0, 0)]
    for loop in nest:
        visits = [
            (dst + k * loop.dst, src + k * loop.src)
            for dst, src in visits
            for k in range(loop.extent)
        ]
    assert len(visits) == len(set(visits)) == prod(reductions) * step
    last: dict[int, int] = {}
    for moment, (dst, _) in enumerate(visits):
        assert moment - last.get(dst, -distance) >= distance
        last[dst] = moment


@given(
    st.sampled_from(("NCHW", "NHCW", "NHWC")),
    st.tuples(*[st.integers(1, 5)] * 4),
    st.data(),
)
def test_blocks_are_cut_out(order: str, tiles: tuple[int, ...], data: st.DataObject) -> None:
    """The rows of a block copy exactly its elements, in the tensor's own order."""
    layout, shape = Layout(order, 1, 2), (tiles[0], 2 * tiles[1], tiles[2], tiles[3])
    extents = []
    for extent in tiles[1:]:
        start = data.draw(st.integers(0, extent - 1))
        extents.append(Extent(start, data.draw(st.integers(1, extent - start))))
    n = data.draw(st.integers(0, tiles[0] - 1))
    numbers = np.arange(prod(tiles)).reshape([tiles["NCHW".index(axis)] for axis in order])
    block = Block(layout, shape, n, *extents)
    sram = np.full(block.elements, -1)
    for rows in block.rows():
        for row in range(rows.rows):
            to = rows.sram + row * rows.size
            at = rows.dram + row * rows.stride
            sram[to : to + rows.size] = numbers.ravel()[at : at + rows.size]
    cut = {"N": slice(n, n + 1)} | {
        axis: slice(one.start, one.start + one.count)
        for axis, one in zip("CHW", extents, strict=True)
    }
    assert np.array_equal(sram, numbers[tuple(cut[axis] for axis in order)].ravel())
    steps = block.steps()
    assert numbers[tuple(cut[axis] for axis in order)].size == block.elements
    assert set(steps) == set("NCHW")


@given(st.lists(st.integers(-(127 * 127 * 15), 127 * 127 * 15), min_size=1, max_size=40))
def test_bias_tiles_multiply_to_the_bias(values: list[int]) -> None:
    wanted = np.array(values, np.int32)
    assert bias.fits_gemm(wanted, 16)
    tiles, vector = bias.tiles(wanted, 16), bias.vector(1, 16)
    products = tiles.astype(np.int64) @ vector[0].astype(np.int64)
    assert np.array_equal(products.ravel()[: len(values)], wanted)
    assert not products.ravel()[len(values) :].any()


def test_a_bias_too_large_for_a_gemm() -> None:
    assert not bias.fits_gemm(np.array([127 * 127 * 15 + 1], np.int32), 16)
    assert not bias.fits_gemm(np.array([1], np.int32), 1)
