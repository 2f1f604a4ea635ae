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
    "pad with a number": (
        [node("Pad", "c p v")], {"p": ints(0, 0, 1, 2, 0, 0, 3, 0), "v": scalar(1.5)}
    ),
    "pad channels and rows with a number": (
        [node("Pad", "c p v")], {"p": ints(0, 3, 0, 2, 0, 4, 1, 0), "v": scalar(-0.5)}
    ),
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
        "VTA pads with one number only",
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


def test_what_a_node_leaves_to_the_host_is_told(tmp_path: Path) -> None:
    mean = node("ReduceMean", "c", axes=[2, 3], keepdims=0)
    found, _, _ = compiled(tmp_path, [mean], {}, target=PYNQ)
    last = found.artifact.manifest["placement"][-1]
    assert (last["device"], last["reason"]) == ("vta", "as a convolution; Flatten on the host")
