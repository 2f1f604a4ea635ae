"""The convolution template: whatever the shape, the hardware and the tiles, VTA computes the layer.

Each case is lowered, assembled, checked by the independent checker and executed by the functional
simulator; the bytes must be those of the operator's own definition.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.backend import program, timing
from vtaflow.backend.isa import Isa
from vtaflow.backend.profile import CHISEL, FSIM
from vtaflow.backend.target import Target
from vtaflow.errors import ScheduleError
from vtaflow.graph.interpret import interpret
from vtaflow.runtime.interleave import ORDERS
from vtaflow.schedules.conv import ORDERS as LOOP_ORDERS
from vtaflow.schedules.conv import ConvTemplate
from vtaflow.schedules.conv_shape import ConvShape
from vtaflow.schedules.conv_tiles import ConvSchedule, Room, overflow
from vtaflow.schedules.model import lower
from vtaflow.schedules.places import find_places
from vtaflow.schedules.template import Layer

from . import execution
from .image_layers import ConvCase, Pool, Side, conv_cases, feeds_of

PYNQ = Target.load("pynq")
TARGETS = {
    "default": PYNQ,
    "batch 2": replace(PYNQ, log_batch=1),
    "block 32": replace(PYNQ, log_block=5, log_inp_buff_size=16, log_wgt_buff_size=19),
    "small memories": replace(
        PYNQ,
        log_uop_buff_size=12,
        log_inp_buff_size=12,
        log_wgt_buff_size=15,
        log_acc_buff_size=13,
    ),
}

CASES = {
    "3x3": ConvCase(),
    "7x7 stride 2": ConvCase(
        channels=3, size=(21, 23), kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3)
    ),
    "1x1 stride 2": ConvCase(channels=40, outputs=70, kernel=(1, 1), strides=(2, 2), pads=(0,) * 4),
    "dilated": ConvCase(size=(15, 14), dilations=(2, 3), pads=(2, 3, 1, 0)),
    "depthwise": ConvCase(channels=50, outputs=50, group=50, strides=(2, 1)),
    "multiplier": ConvCase(channels=20, outputs=60, group=20),
    "grouped": ConvCase(channels=36, outputs=48, group=3),
    "transposed": ConvCase(
        channels=20, outputs=9, strides=(2, 2), transposed=True, output_padding=(1, 0)
    ),
    "residual": ConvCase(outputs=40, residual=2, n=2),
    "shortcut": ConvCase(channels=40, outputs=70, side=Side(33, (2, 2), (1, 0))),
    "shortcut without a shift": ConvCase(
        outputs=40, kernel=(1, 1), pads=(0,) * 4, n=3, side=Side(50, (1, 1), shift=0)
    ),
    "shortcut with channels innermost": ConvCase(order="NHWC", side=Side(20, (3, 2), (2, 1), 8)),
    "rows and channels mixed": ConvCase(channels=33, outputs=33, order="NHCW", residual=0),
    "channels innermost": ConvCase(channels=33, outputs=20, order="NHWC"),
    "no output reads an input": ConvCase(size=(1, 1), kernel=(2, 2), pads=(0, 0, 0, 0),
                                         strides=(5, 5), transposed=True, output_padding=(4, 4)),
    "global": ConvCase(channels=20, outputs=20, size=(7, 6), kernel=(7, 6), pads=(0,) * 4,
                       group=20),
    "bias too large for a GEMM": ConvCase(bias=1 << 30),
    "pool": ConvCase(channels=20, outputs=40, size=(13, 14), pool=Pool()),
    "overlapping pool": ConvCase(
        channels=3, outputs=40, size=(25, 23), kernel=(5, 5), strides=(2, 2), pads=(2, 2, 2, 2),
        pool=Pool((3, 3), (2, 2), (1, 1, 1, 1)), n=2,
    ),
    "overlapping pool without a border": ConvCase(
        outputs=20, size=(22, 17), pool=Pool((3, 3), (2, 2), ceil_mode=1), order="NHWC"
    ),
    "pool that leaves sums out": ConvCase(size=(17, 16), pool=Pool((1, 2), (3, 4)), order="NHCW"),
    "dilated pool": ConvCase(size=(19, 18), pool=Pool((2, 2), (2, 3), dilations=(3, 2))),
    "depthwise and a pool": ConvCase(
        channels=40, outputs=40, group=40, size=(12, 12), pool=Pool((3, 2), (3, 2))
    ),
    "groups and a pool": ConvCase(
        channels=36, outputs=48, group=3, size=(20, 9), pool=Pool((3, 3), (2, 2), (1, 0, 1, 0))
    ),
    "plain shift": ConvCase(vector=False, bias=0),
    "sections": ConvCase(channels=40, outputs=40, group=40, sections=((0, 1, 7), (0, 1, 7))),
    "sections along one axis": ConvCase(
        channels=20, outputs=20, size=(17, 16), kernel=(5, 1), pads=(2, 0, 2, 0), group=20,
        sections=((0, 1, 2, 15, 16), (0,)), n=2,
    ),
    "sections and strides": ConvCase(
        channels=33, outputs=20, size=(15, 19), strides=(2, 3), sections=((0, 7), (0, 6)),
        order="NHWC",
    ),
}


def prepare(
    case: ConvCase, target: Target, **wanted: Any
) -> tuple[Any, program.Program]:
    """Lower, assemble and check."""
    graph = case.graph(target)
    lowered = lower(graph, target, {"conv": wanted} if wanted else None)
    code = program.assemble(target, lowered.launches, lowered.buffers)
    assert execution.findings(target, code, graph.inputs) == []
    return graph, code


def run_and_compare(
    case: ConvCase, target: Target, orders: Any = ("program",), **wanted: Any
) -> None:
    graph, code = prepare(case, target, **wanted)
    feeds = feeds_of(graph)
    expected = interpret(graph, feeds)["y"]
    profiles = [None, FSIM] + [CHISEL] * target.is_default_geometry
    for profile in profiles:
        for order in orders:
            found = execution.run(target, code, feeds, order, profile)["y"].view(np.int8)
            assert np.array_equal(found.reshape(expected.shape), expected), (profile, order)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_vta_computes_the_layer(case: ConvCase, target: Target) -> None:
    run_and_compare(case, target)


@pytest.mark.parametrize(
    "name", ["3x3", "residual", "depthwise", "shortcut", "overlapping pool"]
)
def test_under_every_interleaving(name: str) -> None:
    run_and_compare(CASES[name], PYNQ, ORDERS)


def space(case: ConvCase, target: Target) -> list[ConvSchedule]:
    graph = case.graph(target)
    layer = Layer.of(graph, graph.nodes[0], find_places(graph, {"conv": 0}, apart=False))
    return [schedule for _, schedule in ConvTemplate().choices(layer, target)]


@settings(max_examples=30, deadline=None)
@given(conv_cases(), st.sampled_from(sorted(TARGETS)), st.floats(0, 0.999))
def test_any_layer_with_any_schedule(case: ConvCase, name: str, position: float) -> None:
    fitting = space(case, TARGETS[name])
    schedule = fitting[int(position * len(fitting))]
    run_and_compare(case, TARGETS[name], **schedule.to_json())


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(conv_cases(), st.sampled_from(sorted(TARGETS)), st.floats(0, 0.999))
def test_any_layer_with_any_schedule_at_length(
    case: ConvCase, name: str, position: float
) -> None:
    fitting = space(case, TARGETS[name])
    schedule = fitting[int(position * len(fitting))]
    run_and_compare(case, TARGETS[name], ORDERS, **schedule.to_json())


@pytest.mark.parametrize("order", LOOP_ORDERS)
def test_weights_are_loaded_once_when_they_fit(order: str) -> None:
    case = ConvCase(channels=64, outputs=64, size=(28, 28))
    graph, code = prepare(case, PYNQ, order=order, tile_o=2, tile_i=4, tile_h=4)
    stream = Isa.of(PYNQ).decode_stream(code.launches[0].insns)
    weights = (stream.fields["memory_type"] == 1) & (stream.opcode == 0)
    assert stream.fields["x_size"][weights].sum() <= 4 * 4 * 9 + 4


def test_padding_costs_no_products() -> None:
    """A 7x7 map with a 3x3 kernel has 19 * 19 products a channel pair, not 21 * 21."""
    case = ConvCase(channels=16, outputs=64, size=(7, 7), bias=0, vector=False)
    _, code = prepare(case, PYNQ)
    column = (stream := Isa.of(PYNQ).decode_stream(code.launches[0].insns)).fields
    products = (stream.opcode == 2) & (column["reset_reg"] == 0)
    executed = (column["uop_end"] - column["uop_bgn"]) * column["iter_out"] * column["iter_in"]
    assert executed[products].sum() == 4 * 19 * 19


def test_the_cost_is_near_the_timeline() -> None:
    """Within 20 %: the model takes every tile as one from the middle."""
    case = ConvCase(channels=64, outputs=64, size=(28, 28))
    graph, code = prepare(case, PYNQ)
    layer = Layer.of(graph, graph.nodes[0], find_places(graph, {"conv": 0}, apart=False))
    cost = ConvTemplate().choices(layer, PYNQ)[0][0]
    timeline = timing.schedule(PYNQ, Isa.of(PYNQ).decode_stream(code.launches[0].insns))
    assert abs(cost.total / timeline.cycles - 1) < 0.2


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"tile_o": 9}, "tile_o must be an integer from 1 to 1, found 9"),
        ({"order": "sideways"}, "order must be one of weights, inputs, found 'sideways'"),
        ({"speed": 1}, "no schedule field 'speed'; conv has tile_o"),
        ({"bias": "none"}, "bias must be one of gemm, add, found 'none'"),
    ],
)
def test_overrides_that_make_no_sense(wanted: dict[str, Any], message: str) -> None:
    graph = ConvCase().graph(PYNQ)
    with pytest.raises(ScheduleError, match=message):
        lower(graph, PYNQ, {"conv": wanted})


def test_an_override_that_does_not_fit_names_the_memory() -> None:
    case = ConvCase(size=(64, 64), outputs=64)
    with pytest.raises(ScheduleError, match="does not fit: INP has .* it needs"):
        lower(case.graph(PYNQ), PYNQ, {"Conv_0": {"tile_h": 64, "tile_w": 64, "tile_o": 4}})


def test_overflow_agrees_with_choices() -> None:
    case = ConvCase(channels=64, outputs=64, size=(20, 20))
    graph = case.graph(PYNQ)
    layer = Layer.of(graph, graph.nodes[0], find_places(graph, {"conv": 0}, apart=False))
    shape = ConvShape(layer, PYNQ)
    assert all(overflow(shape, schedule, Room.of(PYNQ)) is None for schedule in space(case, PYNQ))


def test_describe_sections() -> None:
    graph = CASES["sections along one axis"].graph(PYNQ)
    assert "for tap in 5 x 1:\n" in (text := lower(graph, PYNQ).layers[0].text)
    assert "ACC += GEMM(INP at tap, WGT of y's section)\n" in text


def test_describe() -> None:
    graph = ConvCase(channels=32, outputs=64, size=(28, 28), residual=1).graph(PYNQ)
    wanted = {"tile_o": 2, "tile_i": 1, "tile_h": 7, "tile_w": 28, "order": "weights"}
    text = lower(graph, PYNQ, {"conv": {**wanted, "bias": "gemm"}}).layers[0].text
    assert text == "\n".join(
        [
            "for o in tiles(4, 2):",
            "  for h in tiles(28, 7):",
            "    for w in tiles(28, 28):",
            "      ACC = 0",
            "      for i in tiles(2, 1):",
            "        WGT <- weight[o, i] and bias[o]",
            "        INP <- x[i, rows and columns that h, w read]",
            "        for tap in 3 x 3:",
            "          ACC += GEMM(INP at tap, WGT at tap)",
            "      ACC += GEMM(ones, bias[o])",
            "      ACC >>= shift[o]",
            "      ACC += GEMM(residual, identity * 2^1)",
            "      ACC >>= 1",
            "      ACC = max(ACC, -20)",
            "      ACC = min(ACC, 120)",
            "      y[o, h, w] <- OUT",
        ]
    )
