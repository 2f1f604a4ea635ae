"""The dense template: whatever the shape, the hardware and the tiles, VTA computes the layer.

Each case is lowered, assembled, checked by the independent checker and executed by the functional
simulator; the bytes must be those of the operator's own definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtaflow.backend import program, timing
from vtaflow.backend.isa import Isa
from vtaflow.backend.profile import CHISEL, FSIM, HLS, Profile
from vtaflow.backend.target import Target
from vtaflow.errors import ScheduleError
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret
from vtaflow.ops.layout import Layout
from vtaflow.ops.types import Array, TensorType
from vtaflow.ops.vta_dense import weight_layout
from vtaflow.runtime.interleave import ORDERS
from vtaflow.schedules import TEMPLATES
from vtaflow.schedules.dense import DenseSchedule, DenseTemplate
from vtaflow.schedules.legality import accepts_on
from vtaflow.schedules.model import Lowered, lower
from vtaflow.schedules.template import Layer

from . import execution

SIM = Target.load("sim")
Epilogue = tuple[tuple[Any, ...], ...]


def geometry(batch: int, block: int, inp: int, wgt: int, acc: int) -> Target:
    """An HLS target of that geometry; all numbers are base-2 logarithms."""
    return replace(
        Target.load("pynq"),
        log_batch=batch,
        log_block=block,
        log_inp_buff_size=inp,
        log_wgt_buff_size=wgt,
        log_acc_buff_size=acc,
    )


TARGETS = {
    "default": SIM,
    "block 32": geometry(0, 5, 16, 19, 17),
    "block 64": geometry(0, 6, 16, 20, 18),
    "batch 2": geometry(1, 4, 15, 18, 17),
    "batch 4, block 8": geometry(2, 3, 16, 16, 18),
    "batch 32, block 16": geometry(5, 4, 15, 18, 17),
    "small memories": geometry(0, 4, 11, 14, 12),
    "tiny memories": geometry(0, 4, 9, 12, 10),
    "accumulator distance 7": replace(SIM, acc_dep_distance=7),
}


@dataclass(frozen=True)
class Case:
    """One layer: x (n, i) times weights (o, i), then bias, shifts and a clip.

    `shift` is "none", "shr", "vector" or "both".
    """

    n: int
    o: int
    i: int
    bias: bool = True
    shift: str = "vector"
    clip: tuple[int, int] = (-128, 127)
    seed: int = 0

    def epilogue(self) -> Epilogue:
        steps: list[tuple[Any, ...]] = [("add", 2)] if self.bias else []
        if self.shift in ("vector", "both"):
            steps.append(("shr_vector", 2 + self.bias))
        if self.shift in ("shr", "both"):
            steps.append(("shr", 3))
        return (*steps, ("max", self.clip[0]), ("min", self.clip[1]))

    def vectors(self) -> dict[str, Array]:
        random = np.random.default_rng(self.seed + 1)
        found: dict[str, Array] = {}
        if self.bias:
            found["b"] = random.integers(-(1 << 31), 1 << 31, self.o).astype(np.int32)
            found["b"][::2] //= 1 << 18
        if self.shift in ("vector", "both"):
            found["k"] = random.integers(0, 16, self.o).astype(np.int32)
        return found

    def x(self) -> Array:
        return np.random.default_rng(self.seed + 2).integers(-128, 128, (self.n, self.i), np.int8)

    def graph(self, target: Target, epilogue: Epilogue | None = None) -> Graph:
        """The packed layer."""
        layout = Layout("NC", target.batch, target.block_in)
        random = np.random.default_rng(self.seed)
        weight = random.integers(-128, 128, (self.o, self.i), np.int8)
        constants = {"w": weight_layout(layout).pack(weight), **self.vectors()}
        attrs = {
            "epilogue": epilogue or self.epilogue(),
            "scale": 0.5,
            "layout": layout,
            "features": weight.shape,
        }
        inputs = ("x", *constants)
        node = Node("dense", "VtaDense", inputs, ("y",), attrs, ("Gemm_0", "Relu_1"), "vta")
        kind = TensorType((self.n, self.i), "int8", layout, 0.5)
        return Graph.build("case", {"x": kind}, ["y"], [node], constants)


CASES = {
    "one block": Case(1, 16, 16),
    "one number": Case(1, 1, 1, bias=False, shift="none"),
    "ragged": Case(1, 37, 50),
    "wide": Case(1, 300, 20, shift="shr"),
    "deep": Case(1, 10, 900, shift="both"),
    "square": Case(2, 130, 130, clip=(0, 127)),
    "batch": Case(9, 40, 70, shift="both"),
    "many rows": Case(70, 5, 33, bias=False),
    "rows and blocks": Case(20, 100, 60, shift="none", clip=(-3, 5)),
}


def prepare(
    case: Case, target: Target, **wanted: Any
) -> tuple[Graph, Lowered, program.Program]:
    """Lower, assemble and check."""
    graph = case.graph(target)
    lowered = lower(graph, target, {"dense": wanted} if wanted else None)
    code = program.assemble(target, lowered.launches, lowered.buffers)
    assert execution.findings(target, code, ("x",)) == []
    return graph, lowered, code


def expected(graph: Graph, case: Case) -> Array:
    x = graph.types["x"].layout.pack(case.x())
    return interpret(graph, {"x": x})["y"]


def execute(
    case: Case,
    target: Target,
    code: program.Program,
    order: str = "program",
    profile: Profile | None = None,
) -> Array:
    x = case.graph(target).types["x"].layout.pack(case.x())
    return execution.run(target, code, {"x": x}, order, profile)["y"].view(np.int8)


@pytest.mark.parametrize("hardware", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_cases(name: str, hardware: str) -> None:
    case, target = CASES[name], TARGETS[hardware]
    graph, _, code = prepare(case, target)
    right = expected(graph, case).ravel()
    for order in ORDERS:
        assert np.array_equal(execute(case, target, code, order), right), order
    profiles = [FSIM, HLS] + [CHISEL] * target.is_default_geometry
    for profile in profiles:
        assert np.array_equal(execute(case, target, code, "program", profile), right), profile.name


def test_a_wrong_weight_is_noticed() -> None:
    case = Case(1, 16, 16, bias=False, shift="shr")
    graph, _, code = prepare(case, SIM)
    code.constants[0] ^= 128
    assert not np.array_equal(execute(case, SIM, code), expected(graph, case).ravel())


RANDOM_CASES = st.builds(
    Case,
    n=st.integers(1, 40),
    o=st.integers(1, 150),
    i=st.integers(1, 300),
    bias=st.booleans(),
    shift=st.sampled_from(["none", "shr", "vector", "both"]),
    clip=st.sampled_from([(-128, 127), (0, 127), (-7, 3)]),
    seed=st.integers(0, 1 << 16),
)
HARDWARE = st.sampled_from(sorted(TARGETS))


@settings(max_examples=100, deadline=None)
@given(RANDOM_CASES, HARDWARE, st.sampled_from(ORDERS), st.sampled_from([FSIM, HLS]))
def test_random_layers(case: Case, hardware: str, order: str, profile: Profile) -> None:
    target = TARGETS[hardware]
    graph, _, code = prepare(case, target)
    found = execute(case, target, code, order, profile)
    assert np.array_equal(found, expected(graph, case).ravel())


@settings(max_examples=100, deadline=None)
@given(RANDOM_CASES, HARDWARE, st.data())
def test_random_tiles(case: Case, hardware: str, data: st.DataObject) -> None:
    """Any tile that the user asks for runs, or is refused with the memory that is too small."""
    target = TARGETS[hardware]
    graph = case.graph(target)
    rows, blocks = graph.types["y"].storage_shape[:2]
    depth = graph.types["x"].storage_shape[1]
    wanted: dict[str, Any] = {}
    for key, extent in (("tile_n", rows), ("tile_o", blocks), ("tile_i", depth)):
        if data.draw(st.booleans(), label=f"force {key}"):
            wanted[key] = data.draw(st.integers(1, extent), label=key)
    if case.bias and data.draw(st.booleans(), label="force bias"):
        wanted["bias"] = data.draw(st.sampled_from(["init", "add"]), label="bias")
    try:
        _, lowered, code = prepare(case, target, **wanted)
    except ScheduleError as error:
        assert "does not fit" in str(error)
        assert any(f": {memory} holds" in str(error) for memory in ("WGT", "INP", "ACC"))
        return
    assert wanted.items() <= lowered.layers[0].schedule.items()
    order = data.draw(st.sampled_from(ORDERS), label="order")
    assert np.array_equal(execute(case, target, code, order), expected(graph, case).ravel())


def test_a_bias_that_is_not_first_is_added_where_it_stands() -> None:
    case = Case(3, 40, 40)
    steps = (("shr", 4), ("add", 2), ("shr_vector", 3), ("add", 2), ("max", -128), ("min", 127))
    graph = case.graph(SIM, steps)
    lowered = lower(graph, SIM)
    assert lowered.layers[0].schedule["bias"] == "none"
    code = program.assemble(SIM, lowered.launches, lowered.buffers)
    assert execution.findings(SIM, code, ("x",)) == []
    assert np.array_equal(execute(case, SIM, code), expected(graph, case).ravel())


# --- the choice ---------------------------------------------------------------------------------


def layer_of(case: Case, target: Target = SIM) -> Layer:
    graph = case.graph(target)
    return Layer(graph.nodes[0], graph.types, graph.constants, places={})


@pytest.mark.parametrize("name", CASES)
def test_the_cost_is_near_what_the_timing_model_says(name: str) -> None:
    """Within a quarter and the length of the prologue, for the best and the worst choice."""
    case = CASES[name]
    ranked = DenseTemplate().choices(layer_of(case), SIM)
    assert [cost.total for cost, _ in ranked] == sorted(cost.total for cost, _ in ranked)
    for cost, schedule in (ranked[0], ranked[-1]):
        _, _, code = prepare(case, SIM, **schedule.to_json())
        stream = Isa.of(SIM).decode_stream(code.launches[0].insns)
        cycles = timing.schedule(SIM, stream).cycles
        assert abs(cycles - cost.total) <= 0.25 * cycles + 400


def test_the_choice_is_the_fastest_of_the_fastest() -> None:
    """No schedule of the ten that cost least beats the chosen one by more than a tenth."""
    case = Case(1, 320, 480, shift="both")
    cycles = []
    for _, schedule in DenseTemplate().choices(layer_of(case), SIM)[:10]:
        _, _, code = prepare(case, SIM, **schedule.to_json())
        stream = Isa.of(SIM).decode_stream(code.launches[0].insns)
        cycles.append(timing.schedule(SIM, stream).cycles)
    assert cycles[0] <= 1.1 * min(cycles)


def test_every_choice_fits_and_none_is_there_twice() -> None:
    case, target = Case(6, 100, 200), TARGETS["tiny memories"]
    choices = [schedule for _, schedule in DenseTemplate().choices(layer_of(case, target), target)]
    assert len(set(choices)) == len(choices) > 20
    for schedule in choices[:: len(choices) // 10]:
        prepare(case, target, **schedule.to_json())


def test_dense_runs_what_placement_asks_about() -> None:
    assert [template.name for template in TEMPLATES if template.float_op == "Dense"] == ["dense"]


@pytest.mark.parametrize(
    ("moved", "reason"),
    [("w", "dense template: its weight 'w' is not a constant"),
     ("b", "dense template: its bias 'b' is not a constant")],
)
def test_only_constant_weights_and_bias_are_accepted(moved: str, reason: str) -> None:
    accepts = accepts_on(SIM)
    arrays = {"w": np.ones((3, 4), np.float32), "b": np.ones(3, np.float32)}
    node = Node("dense", "Dense", ("x", "w", "b"), ("y",), {"min": None, "max": None})
    whole = Graph.build("case", {"x": TensorType((1, 4))}, ["y"], [node], arrays)
    assert accepts(node, whole) is None
    kept = {name: array for name, array in arrays.items() if name != moved}
    inputs = {"x": TensorType((1, 4)), moved: TensorType(arrays[moved].shape)}
    graph = Graph.build("case", inputs, ["y"], [node], kept)
    assert accepts(node, graph) == reason


# --- what the user reads -------------------------------------------------------------------------

NEST = """\
for n in tiles(1, 1):
  for o in tiles(3, 3):
    ACC <- bias[o]
    ACC <- vectors[o], behind the accumulators
    for i in tiles(4, 4):
      WGT <- w[o, i]
      INP <- x[n], the first time
      ACC += GEMM(INP, WGT)
    ACC = sum of 2 partial sums
    ACC >>= shift[o]
    ACC = max(ACC, -128)
    ACC = min(ACC, 127)
    y[n, o] <- OUT"""

STREAMED_NEST = """\
for n in tiles(20, 5):
  for o in tiles(3, 2):
    ACC = 0
    ACC <- vectors[o], behind the accumulators
    for i in tiles(4, 2):
      WGT <- w[o, i]
      INP <- x[n, i]
      ACC += GEMM(INP, WGT)
    ACC += bias[o]
    ACC >>= 3
    ACC = max(ACC, 0)
    ACC = min(ACC, 127)
    y[n, o] <- OUT"""


def test_the_loop_nest_of_a_resident_input() -> None:
    template = DenseTemplate()
    schedule = DenseSchedule(tile_n=1, tile_o=3, tile_i=4, bias="init")
    assert template.describe(layer_of(Case(1, 48, 64)), schedule, SIM) == NEST


def test_the_loop_nest_of_a_streamed_input() -> None:
    case, target = Case(20, 48, 64, shift="shr", clip=(0, 127)), TARGETS["tiny memories"]
    schedule = DenseSchedule(tile_n=5, tile_o=2, tile_i=2, bias="add")
    assert DenseTemplate().describe(layer_of(case, target), schedule, target) == STREAMED_NEST


REFUSED: dict[str, tuple[str, Case, Mapping[str, Any], str]] = {
    "unknown field": (
        "default", Case(1, 64, 64), {"tile_x": 1},
        "layer 'dense': no schedule field 'tile_x'; the dense template has tile_n, tile_o, "
        "tile_i, bias",
    ),
    "tile of nothing": (
        "default", Case(1, 64, 64), {"tile_o": 0},
        "layer 'dense': tile_o must be an integer from 1 to 4, found 0",
    ),
    "tile beyond the layer": (
        "default", Case(1, 64, 64), {"tile_i": 5},
        "layer 'dense': tile_i must be an integer from 1 to 4, found 5",
    ),
    "no integer": (
        "default", Case(1, 64, 64), {"tile_n": True},
        "layer 'dense': tile_n must be an integer from 1 to 1, found True",
    ),
    "unknown bias": (
        "default", Case(1, 64, 64), {"bias": "none"},
        "layer 'dense': bias must be 'init', 'add', found 'none'",
    ),
    "no bias": (
        "default", Case(1, 64, 64, bias=False), {"bias": "init", "tile_o": 2},
        "layer 'dense': bias must be 'none', found 'init'",
    ),
    "weights": (
        "tiny memories", Case(1, 64, 64), {"tile_o": 4, "tile_i": 4},
        "layer 'dense': {'tile_o': 4, 'tile_i': 4} does not fit whatever the other sizes: "
        "WGT holds 12 elements a context, the tile needs 16",
    ),
    "accumulators": (
        "tiny memories", Case(17, 16, 16, bias=False, shift="none"), {"tile_n": 17},
        "layer 'dense': {'tile_n': 17} does not fit whatever the other sizes: "
        "ACC holds 16 elements a context, the tile needs 17",
    ),
    "inputs": (
        "tiny memories", Case(12, 16, 160, shift="none"), {"tile_n": 6, "tile_i": 3},
        "layer 'dense': {'tile_n': 6, 'tile_i': 3} does not fit whatever the other sizes: "
        "INP holds 15 elements a context, the tile needs 18",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_overrides(name: str) -> None:
    hardware, case, wanted, message = REFUSED[name]
    with pytest.raises(ScheduleError) as caught:
        lower(case.graph(TARGETS[hardware]), TARGETS[hardware], {"dense": wanted})
    assert str(caught.value) == message


def test_a_short_last_tile_may_need_more_partial_sums() -> None:
    """Tiles of 4 and 3 blocks: the latter take two partial sums to keep the distance of 4."""
    target = geometry(0, 4, 9, 13, 9)
    case = Case(1, 7 * 16, 32, bias=False, shift="none")
    with pytest.raises(ScheduleError, match="ACC holds 4 elements a context, the tile needs 6"):
        lower(case.graph(target), target, {"dense": {"tile_o": 4, "tile_i": 2}})
    graph, _, code = prepare(case, target)
    assert np.array_equal(execute(case, target, code), expected(graph, case).ravel())


def test_a_loop_longer_than_an_instruction_can_run() -> None:
    """Only where memories are much larger than usual can a tile be too long for a loop."""
    target = geometry(0, 3, 18, 21, 7)
    case = Case(1, 8, 8 * 16400, bias=False, shift="none")
    message = "a loop has at most 16383 iterations, the tile 16400"
    with pytest.raises(ScheduleError, match=message):
        lower(case.graph(target), target, {"dense": {"tile_i": 16400}})
    prepare(case, target)


def test_a_target_on_which_no_tile_fits() -> None:
    target = geometry(0, 4, 9, 10, 7)
    with pytest.raises(ScheduleError, match="layer 'dense' .*the dense template finds no tile"):
        lower(Case(1, 16, 16).graph(target), target)
