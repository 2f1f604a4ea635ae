"""Published trained models on VTA: where their layers run, and that the simulator is exact.

The models that do not ship are used where the environment variable VTAFLOW_MODELS names their
folder. A few random samples calibrate: accuracy is not looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from vtaflow.backend.profile import DESIGNS
from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, compile, model_inputs
from vtaflow.frontend.structure import node_names
from vtaflow.graph.interpret import interpret
from vtaflow.models.resnet import resnet18
from vtaflow.ops import shortcut
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice

from .shared_models import model_path, sample

PYNQ = Target.load("pynq")
CALIBRATION_SAMPLES = 2

SMALL = (
    "fashion_resnet",
    "mnist_cntk",
    "resnet8_cifar10_mlperftiny",
    "resnet20_cifar10",
    "kws_dscnn_mlperftiny",
    "vww_mobilenetv1_0.25_96_mlperftiny",
    "mobilenetv1_0.25_128_imagenet_float",
)
MOBILENET = "mobilenetv2_1.0_224_imagenet_float"
YUNET = "yunet_n_320"
LARGE = ("squeezenet1.1_imagenet", "efficientnet_lite0_imagenet", YUNET)

LAYERS = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Gemm",
    "GlobalAveragePool", "MaxPool", "Relu", "Resize",
}  # fmt: skip
"""Operators of these models that belong on VTA."""

FIRST = {"Quantize", "FoldPixels", "Pack"}
LAST = {"Unpack", "Flatten", "Dequantize", "Softmax"}
HEADS = {"Transpose", "Reshape", "Sigmoid"}
"""Host steps before and after the launch; the heads of a detector have more at their ends."""


def slow(names: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@cache
def compiled(name: str) -> CompiledModel:
    return compile_file(model_path(name), name)


def compile_file(path: Path, name: str) -> CompiledModel:
    (given,) = model_inputs(path)
    return compile(path, PYNQ, sample(name, (CALIBRATION_SAMPLES, *given.sample)))


def is_layer(node: onnx.NodeProto) -> bool:
    """Whether a node belongs on VTA; numbers that are joined to a shape do not."""
    return node.op_type in LAYERS and not (
        node.op_type == "Concat" and onnx.helper.get_node_attr_value(node, "axis") != 1
    )


def layers_run_on_vta(model: CompiledModel) -> None:
    """Every node of the file that is a layer went into something on VTA, and into nothing else."""
    nodes = onnx.load(model.source).graph.node
    named = zip(node_names(nodes), nodes, strict=True)
    wanted = {name for name, node in named if is_layer(node)}
    origins: dict[str, set[str]] = {"vta": set(), "host": set()}
    for node in model.placed.nodes:
        origins[node.device].update(node.origin)
        origins[node.device].update(node.attrs.get(shortcut.ORIGIN, ()))
    assert wanted and not wanted - origins["vta"]
    assert not wanted & origins["host"]


def host_stays_at_the_ends(model: CompiledModel, last: set[str]) -> None:
    """One launch, and around it nothing but what is allowed there."""
    steps = model.artifact.manifest["steps"]
    kinds = [step["op"] if step["kind"] == "host" else "launch" for step in steps]
    assert kinds.count("launch") == model.artifact.launches == 1
    middle = kinds.index("launch")
    assert set(kinds[:middle]) <= FIRST
    assert set(kinds[middle + 1 :]) <= last


def bytes_agree(
    model: CompiledModel, name: str, designs: Sequence[str], orders: Sequence[str]
) -> None:
    """On one sample the simulator gives what the integer graph gives."""
    graph = model.integer
    (given,) = graph.inputs
    x = {given: sample(name, graph.types[given].shape, seed=2)}
    expected = interpret(graph, x)
    for design in designs:
        for order in orders:
            device = SimDevice(replace(PYNQ, design=design), order)
            with InferenceSession(model.artifact, device) as session:
                found = session.run(list(graph.outputs), x)
            for output, array in zip(graph.outputs, found, strict=True):
                assert np.array_equal(array, expected[output]), (output, design, order)


@pytest.mark.parametrize("name", [*SMALL, MOBILENET, *slow(LARGE)])
def test_one_launch_holds_every_layer(name: str) -> None:
    model = compiled(name)
    layers_run_on_vta(model)
    host_stays_at_the_ends(model, LAST | HEADS if name == YUNET else LAST)


@pytest.mark.parametrize("name", [*SMALL, *slow((MOBILENET, *LARGE))])
def test_every_design_and_interleaving_gives_the_same_bytes(name: str) -> None:
    bytes_agree(compiled(name), name, DESIGNS, ORDERS)


def test_a_large_model_gives_the_same_bytes() -> None:
    bytes_agree(compiled(MOBILENET), MOBILENET, [PYNQ.design], ORDERS[:1])


@pytest.mark.slow
def test_resnet18(tmp_path: Path) -> None:
    """With random weights: the builder's."""
    path = tmp_path / "resnet18.onnx"
    onnx.save(resnet18(), path)
    model = compile_file(path, "resnet18")
    layers_run_on_vta(model)
    host_stays_at_the_ends(model, LAST)
    bytes_agree(model, "resnet18", DESIGNS, ORDERS)
