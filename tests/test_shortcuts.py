"""Projections that the layer which adds them accumulates: the passes, placement, reports, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, CompileOptions, compile
from vtaflow.evaluate import compare
from vtaflow.frontend.onnx_import import import_model
from vtaflow.graph.calibration import calibrate
from vtaflow.graph.graph import Graph
from vtaflow.graph.interpret import interpret
from vtaflow.graph.passes.place import place
from vtaflow.graph.passes.simplify import simplify
from vtaflow.graph.passes.take_in_shortcuts import take_in_shortcuts
from vtaflow.graph.passes.to_device_forms import to_device_forms
from vtaflow.graph.shortcuts import Branch, best_shift
from vtaflow.ops import operator
from vtaflow.ops.layout import PLAIN
from vtaflow.ops.types import Array, TensorType
from vtaflow.profiling.profile import profile
from vtaflow.profiling.subject import Subject
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice
from vtaflow.schedules.legality import accepts_on

from .onnx_models import build, node
from .test_end_to_end import TARGETS

PYNQ = Target.load("pynq")
SIZE = 7


@dataclass(frozen=True)
class Block:
    """A residual block with a projection behind a first layer, and a classifier.

    `kernels` are those of its two convolutions; `early` puts the projection before them;
    `gains` multiply the weights of the second convolution and of the projection.
    """

    channels: int = 16
    outputs: int = 24
    kernels: tuple[int, int] = (3, 3)
    stride: int = 2
    early: bool = False
    gains: tuple[float | tuple[float, ...], float | tuple[float, ...]] = (1.0, 1.0)
    projection: str = "plain"
    batch: int = 1
    seed: int = 0

    def weights(self) -> dict[str, Array]:
        """Constants by name: weights `wN`, biases `bN`."""
        random = np.random.default_rng(self.seed)
        first, second = self.kernels
        shapes = {
            "0": (self.channels, 3, 3, 3),
            "1": (self.outputs, self.channels, first, first),
            "2": (self.outputs, self.outputs, second, second),
            "p": (self.outputs, self.channels, 1, 1),
            "d": (10, self.outputs),
        }
        found: dict[str, Array] = {}
        for name, shape in shapes.items():
            weight = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            bias = random.standard_normal(shape[0]) / 4
            if name in ("2", "p"):
                gain = np.broadcast_to(self.gains[name == "p"], shape[:1])
                weight, bias = weight * gain[:, None, None, None], bias * gain
            found[f"w{name}"] = weight.astype(np.float32)
            found[f"b{name}"] = bias.astype(np.float32)
        return found

    def model(self) -> onnx.ModelProto:
        """The network in ONNX, from `x` to `y`."""
        first, second = ([kernel // 2] * 4 for kernel in self.kernels)
        strides = [self.stride] * 2
        projection = [node("Conv", "r wp bp", "p", name="projection", strides=strides)]
        if self.projection == "bounded":
            projection[0].output[0] = "q"
            projection.append(node("Relu", "q", "p", name="bound"))
        main = [
            node("Conv", "r w1 b1", "s", name="one", pads=first, strides=strides),
            node("Relu", "s", "t", name="between"),
            node("Conv", "t w2 b2", "u", name="two", pads=second),
        ]
        nodes = [
            node("Conv", "x w0 b0", "q0", name="stem", pads=[1] * 4),
            node("Relu", "q0", "r", name="start"),
            *(projection + main if self.early else main + projection),
            node("Add", "u p", "v", name="add"),
            node("Relu", "v", "z", name="end"),
            node("GlobalAveragePool", "z", "m", name="mean"),
            node("Flatten", "m", "f", name="flat"),
            node("Gemm", "f wd bd", "y", name="classify", transB=1),
        ]
        outputs: dict[str, Sequence[int | str | None] | None] = {"y": ("N", 10)}
        if self.projection == "seen":
            outputs["p"] = None
        inputs = {"x": ("N", 3, SIZE, SIZE)}
        return build(nodes, self.weights(), inputs, outputs)  # type: ignore[arg-type]


def images(count: int, seed: int = 1) -> Array:
    shape = (count, 3, SIZE, SIZE)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compiled(folder: Path, block: Block, target: Target = PYNQ, **options: object) -> CompiledModel:
    path = folder / "block.onnx"
    onnx.save(block.model(), path)
    chosen = CompileOptions(batch=block.batch, **options)  # type: ignore[arg-type]
    return compile(path, target, images(16), chosen)


def shortcuts(graph: Graph) -> list[str]:
    """Names of the nodes that have one."""
    return [one.name for one in graph.nodes if "shortcut_strides" in one.attrs]


def equal_bytes(model: CompiledModel, target: Target, orders: Sequence[str]) -> bool:
    """Whether the simulator gives what the integer graph says."""
    x = images(model.integer.batch, seed=2)
    expected = interpret(model.integer, {"x": x})["y"]
    sessions = (InferenceSession(model.artifact, SimDevice(target, order)) for order in orders)
    return all(np.array_equal(one.run(["y"], {"x": x})[0], expected) for one in sessions)


BLOCKS = {
    "3x3": Block(),
    "the projection comes first": Block(early=True),
    "bottleneck": Block(kernels=(1, 1), stride=1),
    "bottleneck with strides": Block(20, 40, (1, 1)),
    "a large shift": Block(gains=(0.02, 1.0)),
}


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_keeps_its_signal_and_its_bytes(
    tmp_path: Path, block: Block, rounding: str
) -> None:
    model = compiled(tmp_path, block, weight_rounding=rounding)
    assert len(shortcuts(model.integer)) == 1
    assert equal_bytes(model, PYNQ, ORDERS)
    found = compare(model, {"x": images(16, seed=3)})
    quality = {layer.name: layer.sqnr_db for layer in found.layers}
    (joined,) = shortcuts(model.placed)
    assert quality[joined] > 26
    assert found.mismatch is None and found.outputs[0].sqnr_db > 22


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    block=st.builds(
        Block,
        channels=st.integers(1, 40),
        outputs=st.integers(1, 40),
        kernels=st.tuples(*[st.sampled_from((1, 3))] * 2),
        stride=st.integers(1, 3),
        early=st.booleans(),
        gains=st.tuples(*[st.sampled_from((0.1, 1.0, 4.0))] * 2),
        batch=st.integers(1, 3),
        seed=st.integers(0, 999),
    ),
    name=st.sampled_from(sorted(TARGETS)),
)
def test_random_blocks(tmp_path: Path, block: Block, name: str) -> None:
    target = TARGETS[name]
    assert equal_bytes(compiled(tmp_path, block, target), target, ("program",))


def test_the_image_may_have_a_zero_point(tmp_path: Path) -> None:
    integer = compiled(tmp_path, BLOCKS["bottleneck"]).integer
    joined = next(one for one in integer.nodes if "shortcut_strides" in one.attrs)
    assert [integer.types[joined.inputs[place]].zero_point for place in (0, -2)] == [-128, -128]


def test_placement_and_layers_name_both(tmp_path: Path) -> None:
    model = compiled(tmp_path, Block())
    manifest = model.artifact.manifest
    reasons = {row["node"]: row["reason"] for row in manifest["placement"]}
    assert reasons["projection"] == "accumulated into two"
    assert reasons["add"] == "fused into two"
    rows = {row["name"]: row for row in manifest["layers"]}
    assert list(rows)[2:4] == ["two", "projection"]
    assert rows["projection"]["output"] == rows["two"]["output"]
    assert rows["projection"]["loop_nest"] == ["accumulated into two"]
    assert rows["projection"]["macs"] == 4 * 4 * 16 * 24
    assert rows["projection"]["bytes_loaded"] > 16 * 7 * 7
    assert rows["projection"]["bytes_stored"] == 0


def test_both_have_a_row_in_profiles(tmp_path: Path) -> None:
    model = compiled(tmp_path, Block())
    found = profile(Subject.of_artifact(model.artifact)).report
    names = [row["name"] for row in found["layers"]]
    assert names == ["stem", "one", "two", "projection [shortcut]", "mean", "classify"]
    assert sum(row["cycles"] for row in found["layers"]) == found["cycles"]
    cycles = {row["layer"]: row["cycles"] for row in found["layers"]}
    for row in model.artifact.manifest["layers"]:
        assert row["estimated_cycles"] == cycles[row["name"]]
    one = found["layers"][3]
    assert (one["macs"], one["micro_ops"]) == (4 * 4 * 16 * 24, 4 * 4 * 2)
    assert one["sqnr_db"] is None


@pytest.mark.parametrize("what", ["bounded", "seen"])
def test_a_result_that_is_more_than_an_operand_stays(tmp_path: Path, what: str) -> None:
    assert not shortcuts(compiled(tmp_path, Block(projection=what)).placed)


def floats(block: Block) -> Graph:
    """The placed float graph before anything is joined."""
    graph = simplify(import_model(block.model()))
    return to_device_forms(place(graph, accepts_on(PYNQ)))


def test_channels_that_share_no_shift_stay_apart() -> None:
    """Half of the channels want a large shift of the projection, the other half none.

    That matters where roundings of results count for little.
    """
    mixed = tuple(1.0 if channel % 2 else 0.01 for channel in range(24))
    graph = floats(Block(gains=(mixed, mixed[1:] + mixed[:1])))
    seen = calibrate(graph, {"x": images(8)})
    fine = {value: seen.limits[value] / 50 for value in ("p", "z")}
    assert shortcuts(take_in_shortcuts(graph, seen)) == ["two"]
    assert shortcuts(take_in_shortcuts(graph, seen.with_limits(fine))) == []


def test_what_is_joined_computes_the_same() -> None:
    before = floats(Block())
    after = take_in_shortcuts(before, calibrate(before, {"x": images(8)}))
    assert len(after.nodes) == len(before.nodes) - 1
    feeds = {"x": images(1, seed=4)}
    one, other = (interpret(each, feeds)["y"] for each in (before, after))
    assert np.allclose(one, other, atol=1e-5)


def test_the_shift_bridges_the_sizes_of_the_weights() -> None:
    random = np.random.default_rng(0)
    layer, other = random.standard_normal((2, 16, 32, 1, 1))
    main = Branch(layer, 0.01, 0.1, 400.0)
    shifts = [
        best_shift(main, Branch(other * gain, 0.01, 0.1, 400.0)) for gain in (0.5, 1, 4, 16, 1e9)
    ]
    assert [shift for shift, _ in shifts] == sorted(shift for shift, _ in shifts)
    assert [shift for shift, _ in shifts][0] == 0 and shifts[-1][0] == 8
    assert 1 <= shifts[2][0] <= 3 <= shifts[3][0] <= 5


WINDOW = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}
SIDE = {"shortcut_strides": (2, 2), "shortcut_shift": 0}


@pytest.mark.parametrize(
    "image, weight, message",
    [
        ((1, 5, 8, 8), (4, 3, 1, 1), r"are not \[N,C,H,W\], \[4,C,1,1\]"),
        ((1, 3, 8, 8), (4, 3, 3, 3), r"are not \[N,C,H,W\], \[4,C,1,1\]"),
        ((1, 3, 9, 8), (4, 3, 1, 1), "the shortcut is .*5.*, the result"),
    ],
)
def test_shortcuts_that_do_not_fit(
    image: tuple[int, ...], weight: tuple[int, ...], message: str
) -> None:
    floats = [TensorType(shape) for shape in ((1, 2, 4, 4), (4, 2, 1, 1), (4,), image, weight)]
    with pytest.raises(ValueError, match=message):
        operator("FusedConv").infer(floats, {**WINDOW, **SIDE})
    with pytest.raises(ValueError, match="takes one residual"):
        operator("FusedConv").infer(floats, WINDOW)


@pytest.mark.parametrize("dtype, shift, message", [("int32", 0, "in int8"), ("int8", 9, "by 9")])
def test_integer_shortcuts_that_do_not_fit(dtype: str, shift: int, message: str) -> None:
    x = TensorType((1, 2, 4, 4), "int8", PLAIN, 0.5)
    image = TensorType((1, 3, 8, 8), dtype, PLAIN, 0.5)
    weights = [TensorType((4, depth, 1, 1), "int8") for depth in (2, 3)]
    attrs = {**WINDOW, **SIDE, "shortcut_shift": shift, "layout": PLAIN, "in_layout": PLAIN}
    attrs |= {"scale": 1.0, "epilogue": (("max", -128), ("min", 127))}
    with pytest.raises(ValueError, match=message):
        operator("VtaConv").infer([x, weights[0], image, weights[1]], attrs)
