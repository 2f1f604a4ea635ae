"""Max-pools inside convolutions: planes of sums, the pass, reports, bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vtaflow.backend.isa import Isa, Opcode
from vtaflow.backend.target import Target
from vtaflow.backend.timing import micro_op_counts
from vtaflow.compiler import CompiledModel, CompileOptions, compile, prepare
from vtaflow.errors import ModelError
from vtaflow.evaluate import compare
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.fuse_pools import fuse_pools
from vtaflow.ops import fused_pool
from vtaflow.ops.taps import Window
from vtaflow.ops.types import Array
from vtaflow.profiling.profile import profile
from vtaflow.profiling.subject import Subject
from vtaflow.report.tuning import tuning_report, tuning_text
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice
from vtaflow.schedules.axes import Axis
from vtaflow.schedules.planes import Planes
from vtaflow.schedules.search import ScheduleLog
from vtaflow.tuning import Tuning, rows
from vtaflow.workers import workers

from .image_layers import ConvCase, Pool, conv_cases, feeds_of
from .onnx_models import build, node
from .test_conv_template import prepare as assembled

PYNQ = Target.load("pynq")

CONVS = st.builds(
    Window,
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pad_begin=st.integers(0, 2),
    pad_end=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
POOLS = st.builds(
    Window,
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    pad_begin=st.integers(0, 2),
    pad_end=st.integers(0, 2),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
)


@st.composite
def planes(draw: st.DrawFn) -> Planes:
    """An axis with a pool that can be fused."""
    conv, pool, inputs = draw(CONVS), draw(POOLS), draw(st.integers(1, 20))
    sums = conv.outputs(inputs)
    assume(sums > 0 and pool.outputs(sums) > 0 and fused_pool.sees_all(pool, sums))
    found = Planes(Axis(conv, inputs, sums), pool)
    assume(found.can_pool)
    return found


def pairs(axis: Axis) -> set[tuple[int, int, int]]:
    """(kernel element, output, input) of every product."""
    return {
        (tap.kernel, tap.out + i * tap.out_step, tap.inp + i * tap.inp_step)
        for tap in axis.window.taps(axis.inputs)
        for i in range(tap.count)
    }


@given(planes())
def test_planes_are_the_sums_dealt_out(axis: Planes) -> None:
    found = {
        (tap, position * axis.pool.stride + plane, inp)
        for plane, one in enumerate(axis.axes())
        for tap, position, inp in pairs(one)
    }
    assert found == pairs(axis.sums)
    assert sum(one.outputs for one in axis.axes()) == axis.sums.outputs


@given(planes())
def test_views_see_what_the_windows_see(axis: Planes) -> None:
    sizes = [one.outputs for one in axis.axes()]
    for output in range(axis.outputs):
        expected = {tap.inp + (output - tap.out) * tap.inp_step
                    for tap in axis.pool.taps(axis.sums.outputs)
                    if tap.out <= output < tap.out + tap.count}
        found = {
            (output + view.offset) * axis.pool.stride + view.plane
            for view in axis.views()
            if 0 <= output + view.offset < sizes[view.plane]
        }
        assert found == expected
        home = axis.home()
        assert home is not None
        assert (output + home.offset) * axis.pool.stride + home.plane in expected


@given(planes(), st.integers(1, 6))
def test_tiles_that_carry_sum_everything_once(axis: Planes, tile: int) -> None:
    starts = range(0, axis.outputs, tile)
    summed = [
        (plane, position)
        for low in starts
        for plane, span in enumerate(axis.spans(low, min(tile, axis.outputs - low), True))
        for position in range(span.start, span.start + span.count)
    ]
    needed = {
        (plane, position)
        for plane, span in enumerate(axis.spans(0, axis.outputs))
        for position in range(span.start, span.start + span.count)
    }
    assert len(summed) == len(set(summed))
    assert set(summed) == needed
    assert axis.products(tile, True) == axis.products(axis.outputs)
    assert axis.products(tile) >= axis.products(tile, True)


@pytest.mark.parametrize(
    "pool",
    [Window(3), Window(4, 2), Window(2, 5), Window(1, 3, pad_begin=1, pad_end=1)],
    ids=["stride 1", "no element of its own", "large strides", "no element for all"],
)
def test_pools_without_a_home(pool: Window) -> None:
    assert not Planes(Axis(Window(1), 12, 12), pool).can_pool


def apart(case: ConvCase, target: Target) -> Graph:
    """The case with the pool as a layer of its own."""
    assert case.pool is not None
    graph = replace(case, pool=None).graph(target)
    (conv,) = graph.nodes
    own = case.pool
    attrs = {
        "kernel_shape": own.kernel,
        "strides": own.strides,
        "pads": own.pads,
        "dilations": own.dilations,
        "ceil_mode": own.ceil_mode,
        "layout": conv.attrs["layout"],
        "in_layout": conv.attrs["layout"],
    }
    pool = Node("pool", "VtaMaxPool", ("s",), ("y",), attrs, ("MaxPool_2",), "vta")
    kinds = {name: graph.types[name] for name in graph.inputs}
    nodes = [replace(conv, outputs=("s",)), pool]
    return Graph.build("case", kinds, ["y"], nodes, graph.constants)


def always(before: Graph, pair: tuple[Node, Node], after: Graph, joined: Node) -> bool:
    return True


@settings(deadline=None)
@given(conv_cases().filter(lambda case: case.pool is not None))
def test_fused_or_apart_the_bytes_are_the_same(case: ConvCase) -> None:
    before = apart(case, PYNQ)
    after = fuse_pools(before, always)
    assert [one.op for one in after.nodes] == ["VtaConv"]
    assert after.types["y"] == before.types["y"]
    feeds = feeds_of(before)
    assert np.array_equal(interpret(after, feeds)["y"], interpret(before, feeds)["y"])


def test_what_stays_apart() -> None:
    case = ConvCase(pool=Pool())
    graph = apart(case, PYNQ)
    for one in (
        apart(replace(case, residual=0), PYNQ),
        graph.rebuild(outputs=("y", "s")),
        apart(replace(case, transposed=True, pads=(0,) * 4), PYNQ),
    ):
        assert len(fuse_pools(one, always).nodes) == 2
    assert len(fuse_pools(graph, always, apart={"MaxPool_2"}).nodes) == 2
    assert len(fuse_pools(graph, lambda *_: False).nodes) == 2


def test_windows_that_see_nothing_are_refused() -> None:
    graph = apart(ConvCase(pool=Pool((1, 1), (1, 1), (1, 0, 0, 0))), PYNQ)
    assert len(fuse_pools(graph, always).nodes) == 2
    with pytest.raises(ModelError, match="a window of the pool sees nothing of 8 sums"):
        ConvCase(pool=Pool((1, 1), (1, 1), (1, 0, 0, 0))).graph(PYNQ)
    with pytest.raises(ModelError, match="a pool does not come before a residual"):
        ConvCase(pool=Pool(), residual=0).graph(PYNQ)


def products(case: ConvCase, **wanted: object) -> int:
    _, code = assembled(case, PYNQ, **wanted)
    stream = Isa.of(PYNQ).decode_stream(code.launches[0].insns)
    multiplies = (stream.opcode == Opcode.GEMM) & (stream.fields["reset_reg"] == 0)
    return int(micro_op_counts(stream)[multiplies].sum())


def test_what_tiles_share_is_summed_once() -> None:
    """An overlapping pool costs as many products as none, the bias of fewer results apart."""
    case = ConvCase(channels=16, outputs=32, size=(32, 32), bias=0)
    pooled = replace(case, pool=Pool((3, 3), (2, 2), (1, 1, 1, 1)))
    once = products(case)
    assert products(pooled, tile_h=2, tile_w=16, tile_o=1, order="weights") == once
    assert products(pooled, tile_h=2, tile_w=16, tile_o=1, order="inputs") > once


def network() -> onnx.ModelProto:
    """Two convolutions with pools behind, the second one of which overlaps."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return np.asarray(values, np.float32)

    nodes = [
        node("Conv", "x w", "a", name="first", pads=[1] * 4),
        node("MaxPool", "a", "b", name="halve", kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", "b", "c", name="bend"),
        node("Conv", "c v", "d", name="second", pads=[1] * 4),
        node("Relu", "d", "e", name="bend_again"),
        node("MaxPool", "e", "y", name="shrink", kernel_shape=[3, 3], strides=[2, 2]),
    ]
    constants = {"w": weight(20, 3, 3, 3), "v": weight(40, 20, 3, 3)}
    return build(nodes, constants, {"x": ("N", 3, 32, 32)}, {"y": ("N", 40, 7, 7)})


def images(count: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32)).astype(np.float32)


def compiled(folder: Path, **options: object) -> CompiledModel:
    onnx.save(network(), folder / "net.onnx")
    return compile(folder / "net.onnx", PYNQ, images(16), CompileOptions(**options))  # type: ignore[arg-type]


def pools_of(graph: Graph) -> list[str]:
    return [one.attrs[fused_pool.NAME] for one in graph.nodes if fused_pool.NAME in one.attrs]


def test_a_network_with_fused_pools(tmp_path: Path) -> None:
    model = compiled(tmp_path)
    assert pools_of(model.integer) == ["halve", "shrink"]
    manifest = model.artifact.manifest
    reasons = {row["node"]: row["reason"] for row in manifest["placement"]}
    assert (reasons["halve"], reasons["shrink"]) == ("fused into first", "fused into second")
    rows = {row["name"]: row for row in manifest["layers"]}
    assert rows["halve"]["loop_nest"] == ["fused into first"]
    assert rows["first"]["macs"] == 32 * 32 * 20 * 3 * 9
    assert rows["shrink"]["macs"] == rows["shrink"]["bytes"] == 0
    x = images(1, seed=2)
    expected = interpret(model.integer, {"x": x})["y"]
    found = InferenceSession(model.artifact, SimDevice(PYNQ)).run(["y"], {"x": x})
    assert np.array_equal(found[0], expected)


def test_its_quality_goes_by_the_names_of_results(tmp_path: Path) -> None:
    found = compare(compiled(tmp_path), {"x": images(4, seed=3)})
    quality = {one.name: one.sqnr_db for one in found.layers}
    assert {"halve", "shrink"} <= quality.keys()
    assert min(quality.values()) > 25


def test_pools_have_a_row_in_profiles(tmp_path: Path) -> None:
    model = compiled(tmp_path)
    found = profile(Subject.of_artifact(model.artifact)).report
    cycles = {row["name"]: row["cycles"] for row in found["layers"]}
    assert list(cycles) == ["first", "halve [pool]", "second", "shrink [pool]"]
    assert sum(cycles.values()) == found["cycles"]
    assert 0 < cycles["shrink [pool]"] < cycles["second"]


def test_a_pool_that_is_scheduled_by_hand_stays_apart(tmp_path: Path) -> None:
    model = compiled(tmp_path, schedules={"halve": {"tile_h": 4}})
    assert pools_of(model.integer) == ["shrink"]


def test_tuning_looks_at_both_ways(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    graph = prepare(tmp_path / "net.onnx", PYNQ, images(2), CompileOptions()).integer
    assert pools_of(graph) == []
    found = Tuning.of(graph, PYNQ, ScheduleLog(), 4)
    nodes = [group[0].node for group in found.groups]
    assert [one.op for one in nodes].count("VtaMaxPool") == 2
    assert {one.attrs.get(fused_pool.NAME) for one in nodes} == {None, "halve", "shrink"}


def test_tuning_adds_up_the_faster_way(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    graph = prepare(tmp_path / "net.onnx", PYNQ, images(2), CompileOptions()).integer
    with workers(1) as crew:
        found = rows(Tuning.of(graph, PYNQ, ScheduleLog(), 4).run(crew))
    used = {row["layer"]: row["used"] for row in found}
    assert used == {
        "first": 0,
        "halve": 0,
        "second": 0,
        "shrink": 0,
        "first with halve": 1,
        "second with shrink": 1,
    }
    report = tuning_report("net", "pynq", 4, 1, found, 0.0)
    fused = [row["tuned_cycles"] for row in found if row["used"]]
    assert report["tuned_cycles"] == sum(fused)
    assert any("0 times: the slower way" in line for line in tuning_text(report))
