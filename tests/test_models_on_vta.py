"""Trained models on VTA: accuracy, launches, every design and interleaving.

Models that do not ship are used where the environment variable VTAFLOW_MODELS names their
folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vtaflow.backend.profile import DESIGNS
from vtaflow.backend.target import Target
from vtaflow.compiler import CompiledModel, compile
from vtaflow.evaluate import compare
from vtaflow.graph.interpret import interpret
from vtaflow.ops.types import Array
from vtaflow.runtime.interleave import ORDERS
from vtaflow.runtime.session import InferenceSession
from vtaflow.runtime.simdevice import SimDevice

from .shared_models import model_path

OWN = Path(__file__).parent.parent / "models"
PERCEPTRONS = ("fashion_mlp", "fashion_mlp_odd")
PYNQ = Target.load("pynq")


def fashion(model: str) -> tuple[CompiledModel, dict[str, Array], Array]:
    """One of our own models, compiled as its recipe says, with its test data."""
    data = np.load(OWN / "data" / "fashion_mnist_sample.npz")
    path = OWN / f"{model}.onnx"
    shape = compile_shape(path)
    calibration, test = (
        (data[key].astype(np.float32) * np.float32(1 / 255)).reshape(-1, *shape)
        for key in ("calib_images", "test_images")
    )
    compiled = compile(path, PYNQ, calibration)
    return compiled, {compiled.integer.inputs[0]: test}, data["test_labels"]


def compile_shape(path: Path) -> tuple[int, ...]:
    """The shape of one sample."""
    from vtaflow.compiler import model_inputs

    return model_inputs(path)[0].sample


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_perceptrons_keep_their_accuracy(name: str) -> None:
    compiled, feeds, labels = fashion(name)
    found = compare(compiled, feeds, labels)
    assert found.accuracy is not None
    assert round(1000 * (found.accuracy.cpu - found.accuracy.target)) <= 3
    assert found.mismatch is None
    assert found.launches == 1


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_every_design_and_interleaving_gives_the_same_bytes(name: str) -> None:
    compiled, feeds, _ = fashion(name)
    sample = {key: array[:1] for key, array in feeds.items()}
    expected = interpret(compiled.integer, sample)[compiled.integer.outputs[0]]
    for design in DESIGNS:
        for order in ORDERS:
            device = SimDevice(replace(PYNQ, design=design), order)
            session = InferenceSession(compiled.artifact, device)
            assert np.array_equal(session.run(None, sample)[0], expected), (design, order)


def test_the_autoencoder_runs_in_one_launch() -> None:
    path = model_path("ad_autoencoder_mlperftiny")
    random = np.random.default_rng(0)
    samples = random.standard_normal((96, 640)).astype(np.float32)
    compiled = compile(path, PYNQ, samples[:64])
    found = compare(compiled, {compiled.integer.inputs[0]: samples[64:]})
    assert found.launches == 1
    assert found.mismatch is None
    assert found.outputs[0].sqnr_db >= 20
