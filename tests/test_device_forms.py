"""Operators of images that become convolutions: on VTA, near float, the same bytes as interpreted.

Of the float layers, onnxruntime says what they have to compute, within the bound of oracles.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from vtaflow.compiler import CompiledModel, compile
from vtaflow.evaluate import compare
from vtaflow.graph.interpret import interpret
from vtaflow.ops.types import Array

from .onnx_models import build, floats, ints, node, scalar
from .oracles import close, onnxruntime_says
from .targets import PYNQ, geometries

Constants = dict[str, Array]

CHANNELS, HEIGHT, WIDTH = 20, 9, 11
TARGETS = geometries(least_inputs=13)


def positive(count: int) -> Array:
    return np.abs(floats(count)) + np.float32(0.5)


FORMS: dict[str, tuple[list[onnx.NodeProto], Constants]] = {
    "add a number": ([node("Add", "c k")], {"k": scalar(0.7)}),
    "add a vector": ([node("Add", "c k")], {"k": floats(CHANNELS, 1, 1)}),
    "add an image": ([node("Add", "c k")], {"k": floats(CHANNELS, HEIGHT, WIDTH)}),
    "add an image of one sample": (
        [node("Relu", "c", "r"), node("Add", "k r")],
        {"k": floats(1, CHANNELS, HEIGHT, WIDTH)},
    ),
    "add a row": ([node("Add", "c k")], {"k": floats(WIDTH)}),
    "subtract an image": ([node("Sub", "c k")], {"k": floats(HEIGHT, 1)}),
    "subtract from an image": ([node("Sub", "k c")], {"k": floats(HEIGHT, WIDTH)}),
    "subtract from a vector": ([node("Sub", "k c")], {"k": floats(CHANNELS, 1, 1)}),
    "negative": ([node("Neg", "c")], {}),
    "factors": ([node("Mul", "c k")], {"k": floats(CHANNELS, 1, 1)}),
    "divisors": ([node("Div", "c k")], {"k": positive(CHANNELS).reshape(-1, 1, 1)}),
    "normalised": (
        [node("Relu", "c", "r"), node("BatchNormalization", "r a b m v")],
        {"a": positive(CHANNELS), "b": floats(CHANNELS), "m": floats(CHANNELS),
         "v": positive(CHANNELS)},
    ),
    "pad": ([node("Pad", "c p")], {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    "pad channels": ([node("Pad", "c p")], {"p": ints(0, 3, 0, 0, 0, 4, 0, 0)}),
    "leaky": ([node("LeakyRelu", "c", alpha=0.1)], {}),
    "one slope a channel": ([node("PRelu", "c k")], {"k": floats(CHANNELS, 1, 1) / 4}),
    "clip": ([node("Clip", "c a b")], {"a": scalar(-1), "b": scalar(0.5)}),
    "mean": ([node("ReduceMean", "c", axes=[2, 3])], {}),
}


def compiled(
    folder: Path, nodes: list[onnx.NodeProto], constants: Constants, **more: Any
) -> tuple[CompiledModel, onnx.ModelProto, Array]:
    """A 3 x 3 convolution from x to c, then `nodes`; the model and samples for it."""
    random = np.random.default_rng(11)
    weight = random.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 10
    first = node("Conv", "x w", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    shape = (CHANNELS, HEIGHT, WIDTH)
    model = build([first, *nodes], {"w": weight, **constants}, {"x": ("N", *shape)})
    onnx.save(model, folder / "m.onnx")
    x = random.standard_normal((6, *shape)).astype(np.float32) + np.float32(0.3)
    return compile(folder / "m.onnx", calibration=x, **more), model, x


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("name", FORMS)
def test_on_vta(tmp_path: Path, name: str, target: Any) -> None:
    found, model, x = compiled(tmp_path, *FORMS[name], target=target)
    assert {row["device"] for row in found.artifact.manifest["placement"]} == {"vta"}
    y = interpret(found.placed.rebatch(len(x)), {"x": x})["y"]
    close(y, *onnxruntime_says(model, {"x": x}))
    report = compare(found, {"x": x})
    assert (report.launches, report.mismatch) == (1, None)
    assert report.outputs[0].sqnr_db > 30


def test_a_constant_image_is_made_on_the_host_before_the_launch(tmp_path: Path) -> None:
    found, _, _ = compiled(tmp_path, *FORMS["add an image"], target=PYNQ)
    (made,) = (one for one in found.placed.nodes if one.op == "PerSample")
    assert (made.device, made.reason) == ("host", "a constant image for VTA")


REFUSED: dict[str, tuple[list[onnx.NodeProto], Constants, str]] = {
    "larger constant": (
        [node("GlobalAveragePool", "c", "g"), node("Add", "g k")], {"k": floats(HEIGHT, WIDTH)},
        "its constant 'k' is larger than an image",
    ),
    "factors of an image": (
        [node("Mul", "c k")], {"k": floats(HEIGHT, WIDTH)},
        "its constant 'k' differs within a channel",
    ),
    "reflection": (
        [node("Pad", "c p", mode="reflect")], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        "VTA pads with zeros only",
    ),
    "pad with a number": (
        [node("Pad", "c p v")], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": scalar(1.5)},
        "VTA pads with zeros only",
    ),
    "a mask": (
        [node("Add", "c k")], {"k": np.where(np.eye(HEIGHT, WIDTH) > 0, -1e9, 0).astype("f")},
        "its constant 'k' reaches beyond 10000",
    ),
    "crop": (
        [node("Pad", "c p")], {"p": ints(0, 0, -1, 1, 0, 0, 1, 1)},
        "it pads the batch, or cuts off",
    ),
    "an operand of another shape": (
        [node("GlobalAveragePool", "c", "g"), node("Add", "c g")], {},
        "its operands differ in shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_on_the_host(tmp_path: Path, name: str) -> None:
    nodes, constants, reason = REFUSED[name]
    found, _, x = compiled(tmp_path, nodes, constants, target=PYNQ)
    last = found.artifact.manifest["placement"][-1]
    assert (last["device"], last["reason"]) == ("host", reason)
    assert compare(found, {"x": x[:1]}).mismatch is None


MASK = np.where(np.eye(HEIGHT, WIDTH) > 0, -1000, 0).astype(np.float32)
POOL = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
MEAN = node("AveragePool", "c", "a", name="mean", **POOL)

FUSED: dict[str, tuple[list[onnx.NodeProto], Constants]] = {
    "image, activation": ([node("Add", "c k", "d"), node("Relu", "d")], {"k": MASK}),
    "first operand": (
        [node("Relu", "c", "r"), MEAN, node("Add", "a r", "d"), node("Relu", "d")], {}
    ),
    "second operand": (
        [node("Relu", "c", "r"), MEAN, node("Add", "r a", "d"), node("Relu", "d")], {}
    ),
    "difference": (
        [node("Relu", "c", "r"), MEAN, node("Sub", "r a", "d"), node("Relu", "d")], {}
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_sums_and_activations_are_fused(tmp_path: Path, name: str) -> None:
    """No layer of its own for what a layer before can add and limit."""
    found, model, x = compiled(tmp_path, *FUSED[name], target=PYNQ)
    rows = {row["op"]: row["reason"] for row in found.artifact.manifest["placement"]}
    assert rows["Relu"].startswith("fused into")
    if "operand" in name:
        assert rows["Add"] == "fused into mean"
    y = interpret(found.placed.rebatch(len(x)), {"x": x})["y"]
    close(y, *onnxruntime_says(model, {"x": x}))
    report = compare(found, {"x": x})
    assert report.mismatch is None
    assert report.outputs[0].sqnr_db > 30


def test_no_name_of_the_model_is_taken(tmp_path: Path) -> None:
    """Nodes named like their results, constants named like those of device forms."""
    kernel = np.random.default_rng(2).standard_normal((CHANNELS, 1, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", "c pool.weight", "d", name="d.image", group=CHANNELS, **POOL),
        node("AveragePool", "d", "pool", name="pool", **POOL),
        node("Add", "pool pool.bias", "sum", name="sum"),
        node("Neg", "sum", "sum.constant", name="sum.constant"),
        node("Relu", "sum.constant", "y", name="y"),
    ]
    constants = {"pool.weight": kernel, "pool.bias": floats(HEIGHT, WIDTH)}
    found, model, x = compiled(tmp_path, nodes, constants, target=PYNQ)
    y = interpret(found.placed.rebatch(len(x)), {"x": x})["y"]
    close(y, *onnxruntime_says(model, {"x": x}))
    assert compare(found, {"x": x}).mismatch is None


STATED: dict[str, list[onnx.NodeProto]] = {
    "leaky": [node("LeakyRelu", "q", "r", alpha=0.1)],
    "one step": [node("AveragePool", "q", "r", **POOL)],
    "two steps": [node("AveragePool", "q", "r", kernel_shape=[7, 7], pads=[3, 3, 3, 3])],
    "large image": [node("GlobalAveragePool", "q", "r")],
    "constant image": [node("Add", "q k", "r")],
}


@pytest.mark.parametrize("name", STATED)
def test_stated_ranges_bound_what_is_computed_on_the_way(tmp_path: Path, name: str) -> None:
    """Without calibration data, and without a warning that there are none."""

    def pair(value: str, result: str) -> list[onnx.NodeProto]:
        quantised = f"{value}.q"
        return [
            node("QuantizeLinear", f"{value} s z", quantised),
            node("DequantizeLinear", f"{quantised} s z", result),
        ]

    identity = np.eye(CHANNELS, dtype=np.float32)[:, :, None, None]
    nodes = [*pair("x", "p"), node("Conv", "p w", "c"), *pair("c", "q"), *STATED[name]]
    image = np.random.default_rng(4).integers(-50, 50, (40, 40)).astype(np.float32)
    constants = {"w": identity, "k": image, "s": scalar(1), "z": np.array(0, np.uint8)}
    used = {one for each in nodes for one in each.input}
    constants = {key: array for key, array in constants.items() if key in used}
    model = build([*nodes, *pair("r", "y")], constants, {"x": ("N", CHANNELS, 40, 40)})
    onnx.save(model, tmp_path / "m.onnx")
    found = compile(tmp_path / "m.onnx", PYNQ)
    assert found.warnings == ()
    x = np.random.default_rng(9).uniform(0, 255, (2, CHANNELS, 40, 40)).astype(np.float32)
    report = compare(found, {"x": x})
    assert report.mismatch is None
    assert report.outputs[0].sqnr_db > 28


def test_what_a_node_leaves_to_the_host_is_told(tmp_path: Path) -> None:
    mean = node("ReduceMean", "c", axes=[2, 3], keepdims=0)
    found, _, _ = compiled(tmp_path, [mean], {}, target=PYNQ)
    last = found.artifact.manifest["placement"][-1]
    assert (last["device"], last["reason"]) == ("vta", "as a convolution; Flatten on the host")
