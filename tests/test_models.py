"""The builders give the same bytes every time, and the trained models do what README says."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from vtaflow.models import BUILDERS, __main__
from vtaflow.models.fashion_mnist import read_idx
from vtaflow.models.mlp import mlp
from vtaflow.models.mobilenet import mobilenet_v1, mobilenet_v2
from vtaflow.models.onnx_writer import OnnxWriter
from vtaflow.models.random_net import RandomNet, Signal
from vtaflow.models.resnet import resnet18, resnet50
from vtaflow.models.vgg import vgg11
from vtaflow.runtime.data import load_feeds, load_labels
from vtaflow.runtime.recipe import Recipe, find_recipe
from vtaflow.runtime.tensors import TensorInfo

MODELS = Path(__file__).parent.parent / "models"


def small_vgg(size: int = 32, classes: int = 10, seed: int = 0) -> ModelProto:
    return vgg11(size, classes, seed, hidden=64)


SMALL: tuple[tuple[str, Callable[..., ModelProto]], ...] = (
    ("mobilenet_v1", mobilenet_v1),
    ("mobilenet_v2", mobilenet_v2),
    ("resnet18", resnet18),
    ("resnet50", resnet50),
    ("vgg11", small_vgg),
)
"""The builders of pictures' networks; 10 classes and a small picture keep the tests quick."""


def digest(model: ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def parameters(model: ModelProto) -> int:
    """Weights and biases; a BatchNormalization counts with its scale and bias alone."""
    statistics = {
        name
        for node in model.graph.node
        for name in (node.input[3:] if node.op_type == "BatchNormalization" else ())
    }
    limits = {n for node in model.graph.node if node.op_type == "Clip" for n in node.input[1:]}
    return sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.name not in statistics | limits
    )


def shape(value: Any) -> list[Any]:
    """The dimensions of an input or output: numbers, or the symbolic batch "N"."""
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


# --- builders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "builder"), SMALL, ids=[name for name, _ in SMALL])
def test_builders_repeat_themselves(name: str, builder: Callable[..., ModelProto]) -> None:
    model = builder(64, 10)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.name == name
    assert shape(model.graph.input[0]) == ["N", 3, 64, 64]
    assert shape(model.graph.output[0]) == ["N", 10]
    assert [one.name for one in (model.graph.input[0], model.graph.output[0])] == ["data", "logits"]
    assert digest(model) == digest(builder(64, 10))
    assert digest(model) != digest(builder(64, 10, seed=1))


@pytest.mark.parametrize(
    ("builder", "count"),
    [
        (mlp, 235_146),
        (mobilenet_v1, 4_231_976),
        (mobilenet_v2, 3_504_872),
        (resnet18, 11_689_512),
        (resnet50, 25_557_032),
    ],
)
def test_the_published_numbers_of_parameters(builder: Callable[[], ModelProto], count: int) -> None:
    """As torchvision counts them (MobileNetV1: TensorFlow's model with 1000 classes)."""
    model = builder()
    assert parameters(model) == count
    assert model.opset_import[0].version == 17


def test_vgg_has_its_published_convolutions() -> None:
    model = vgg11(32, 10, hidden=64)
    shapes = [t.dims[:2] for t in model.graph.initializer if len(t.dims) == 4]
    expected = [(64, 3), (128, 64), (256, 128), (256, 256), (512, 256)] + [(512, 512)] * 3
    assert [tuple(each) for each in shapes] == expected


def activations(model: ModelProto, count: int) -> dict[str, NDArray[np.float32]]:
    """Every value of the model on standard normal pictures."""
    dims = shape(model.graph.input[0])[1:]
    del model.graph.output[1:]
    names = [node.output[0] for node in model.graph.node]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names[:-1])
    data = np.random.RandomState(7).standard_normal((count, *dims)).astype(np.float32)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString())
    return dict(zip(names, session.run(names, {"data": data}), strict=True))


@pytest.mark.parametrize(("name", "builder"), SMALL, ids=[name for name, _ in SMALL])
def test_activations_keep_their_size(name: str, builder: Callable[..., ModelProto]) -> None:
    """No layer explodes or dies, and different pictures end in different logits."""
    values = activations(builder(96, 10), 4)
    normal = [v for k, v in values.items() if k.startswith(("BatchNormalization", "Relu", "Add"))]
    deviations = [float(value.std()) for value in normal]
    assert 0.2 < min(deviations) and max(deviations) < 5, name
    assert float(values["logits"].std(axis=0).mean()) > 0.05


def test_the_prediction_of_moments() -> None:
    """On independent normal channels the predicted mean and variance are the measured ones."""
    net = RandomNet("net", 8, seed=0)
    stream = np.random.RandomState(1)
    x = Signal("x", np.array([-1.0, 0.0, 0.5]), np.array([1.0, 4.0, 0.25]))
    samples = stream.standard_normal((200_000, 3)) * np.sqrt(x.variance) + x.mean
    rectified = net.relu(x)
    measured = np.maximum(samples, 0)
    assert np.allclose(rectified.mean, measured.mean(axis=0), atol=0.02)
    assert np.allclose(rectified.variance, measured.var(axis=0), atol=0.02)
    total = net.add(x, rectified)
    assert np.allclose(total.mean, x.mean + rectified.mean)
    assert np.allclose(total.variance, x.variance + rectified.variance)


def test_a_writer_ends_with_its_last_node() -> None:
    writer = OnnxWriter("m", "x", (4,))
    first = writer.node("Relu", "x")
    writer.node("Relu", first)
    with pytest.raises(AssertionError, match="last node"):
        writer.finish(first, "y", 4)


def test_python_m_writes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        arguments = ["vtaflow.models", "mlp", "-o", str(tmp_path / f"{name}.onnx")]
        monkeypatch.setattr("sys.argv", arguments)
        __main__.main()
    written = (tmp_path / "a.onnx").read_bytes()
    assert written == (tmp_path / "b.onnx").read_bytes()
    assert onnx.load_from_string(written) == mlp()


def test_python_m_lists_the_builders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["vtaflow.models", "lenet", "-o", "x.onnx"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert all(name in message for name, _ in BUILDERS)


# --- trained models and their data ------------------------------------------------------------

TRAINED: tuple[tuple[str, list[Any], float], ...] = (
    ("fashion_mlp", ["N", 784], 0.88),
    ("fashion_mlp_odd", ["N", 1, 28, 28], 0.88),
    ("fashion_resnet", ["N", 1, 28, 28], 0.91),
)
"""Name, input shape, and the least accuracy on the sample."""

SHAPES = {name: input_shape for name, input_shape, _ in TRAINED}


def recipe_and_feeds(name: str, reference: str) -> tuple[Recipe, dict[str, NDArray[Any]]]:
    """The recipe beside a model, and the preprocessed samples that it names."""
    recipe = find_recipe(MODELS / f"{name}.onnx")
    tensor = TensorInfo("image", tuple(SHAPES[name][1:]), "float32")
    recipe.require_inputs([tensor])
    where = getattr(recipe, reference)
    assert where is not None
    return recipe, load_feeds(where, [tensor], recipe.preprocessing)


@pytest.mark.parametrize(("name", "input_shape", "least"), TRAINED)
def test_accuracy_on_the_sample(name: str, input_shape: list[Any], least: float) -> None:
    """1000 test pictures through the recipe; onnx's own evaluator needs no further package."""
    model = onnx.load(MODELS / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert shape(model.graph.input[0]) == input_shape
    assert shape(model.graph.output[0]) == ["N", 10]
    recipe, feeds = recipe_and_feeds(name, "test")
    assert recipe.labels is not None
    labels = load_labels(recipe.labels)
    outputs: Any = ReferenceEvaluator(model).run(None, feeds)
    logits = outputs[0]
    assert logits.shape == (1000, 10)
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    assert accuracy >= least
    assert float((logits.argmax(axis=1) == labels[::-1]).mean()) < 0.3


@pytest.mark.parametrize("name", [name for name, _, _ in TRAINED])
def test_calibration_data_fits_the_model(name: str) -> None:
    _, feeds = recipe_and_feeds(name, "calibration")
    assert feeds["image"].shape == (200, *SHAPES[name][1:])
    assert feeds["image"].dtype == np.float32


def test_the_odd_network_is_odd() -> None:
    model = onnx.load(MODELS / "fashion_mlp_odd.onnx")
    weights = [t for t in model.graph.initializer if len(t.dims) == 2]
    widths = [numpy_helper.to_array(t).shape[1] for t in weights]
    assert widths == [203, 151, 99, 67, 45, 10]
    assert all(t.data_type == TensorProto.FLOAT for t in weights)
    assert not any(width % 16 == 0 for width in widths)


def test_the_sample() -> None:
    with np.load(MODELS / "data" / "fashion_mnist_sample.npz") as sample:
        shapes = {name: (sample[name].shape, str(sample[name].dtype)) for name in sample.files}
        classes = np.bincount(sample["test_labels"])
    assert shapes == {
        "test_images": ((1000, 28, 28), "uint8"),
        "test_labels": ((1000,), "uint8"),
        "calib_images": ((200, 28, 28), "uint8"),
    }
    assert len(classes) == 10 and classes.min() > 80


def test_reading_idx(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    body = bytes(range(6))
    path.write_bytes(gzip.compress(b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + body))
    assert np.array_equal(read_idx(path), np.arange(6).reshape(2, 3))
    path.write_bytes(gzip.compress(b"\0\0\x0d\x01\0\0\0\0"))
    with pytest.raises(SystemExit, match="not a gzipped IDX file"):
        read_idx(path)
