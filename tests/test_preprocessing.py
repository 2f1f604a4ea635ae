"""Preprocessing: the formula, axes, channels, and every refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vtaflow.errors import DataError
from vtaflow.runtime.preprocessing import Preprocessing, require_finite
from vtaflow.runtime.tensors import TensorInfo

IMAGE = TensorInfo("image", (3, 2, 4), "float32")
FLAT = TensorInfo("x", (6,), "float32")


def apply(raw: Any, tensor: TensorInfo = FLAT, **fields: Any) -> Any:
    return Preprocessing.from_json(fields, "r").apply(np.asarray(raw), tensor, "data")


def test_tensor_info_reads_like_onnxruntime() -> None:
    assert (IMAGE.shape, IMAGE.type) == (["batch", 3, 2, 4], "tensor(float)")
    assert TensorInfo("i", (), "int8").type == "tensor(int8)"
    assert str(FLAT) == "float32[batch, 6]"


def test_scale_mean_and_std_in_this_order() -> None:
    raw = np.arange(12, dtype=np.uint8).reshape(2, 6)
    found = apply(raw, scale=0.5, mean=1.0, std=4.0)
    assert found.dtype == np.float32
    assert np.array_equal(found, (raw.astype(np.float32) * np.float32(0.5) - 1) / 4)


def test_channels_last_pictures_become_channels_first() -> None:
    raw = np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3)
    found = apply(raw, IMAGE, layout="NHWC", mean=[1, 2, 3], channel_order="RGB")
    assert np.array_equal(found, raw.transpose(0, 3, 1, 2) - np.array([1, 2, 3.0])[:, None, None])


def test_bgr_reverses_channels_before_the_mean() -> None:
    raw = np.arange(48, dtype=np.uint8).reshape(2, 3, 2, 4)
    found = apply(raw, IMAGE, mean=[1, 2, 3], channel_order="BGR")
    assert np.array_equal(found, raw[:, ::-1] - np.array([1, 2, 3.0])[:, None, None])


def test_grey_pictures_gain_or_lose_the_channel_axis() -> None:
    raw = np.arange(16, dtype=np.uint8).reshape(2, 2, 4)
    grey = TensorInfo("x", (1, 2, 4), "float32")
    assert np.array_equal(apply(raw, grey, layout="NHWC"), raw[:, None])
    assert np.array_equal(apply(raw, grey), raw[:, None])
    features = TensorInfo("x", (8,), "float32")
    assert np.array_equal(apply(raw[:, None], features), raw.reshape(2, 8))
    assert np.array_equal(apply(raw, features, layout="flat"), raw.reshape(2, 8))


def test_a_single_sample_becomes_a_batch_of_one() -> None:
    assert apply(np.zeros(6)).shape == (1, 6)
    assert apply(np.zeros((2, 3))).shape == (1, 6)
    assert apply(np.zeros((1, 6))).shape == (1, 6)


def test_integer_inputs_are_passed_on() -> None:
    tensor = TensorInfo("i", (6,), "int32")
    found = apply(np.arange(12, dtype=np.uint8).reshape(2, 6), tensor)
    assert found.dtype == np.int32


def test_the_note_is_complete_and_comes_back() -> None:
    note = {"scale": 2, "mean": [1, 2, 3], "layout": "NHWC", "channel_order": "BGR"}
    read = Preprocessing.from_json(note, "r")
    assert Preprocessing.from_json(read.to_json(), "r") == read
    assert read.to_json()["std"] == [1.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "r: expected an object with scale"),
        ({"sclae": 1}, "unknown field 'sclae', known: scale, mean"),
        ({"layout": "CHWN"}, "r.layout: expected one of null, flat, NCHW, NHWC, found 'CHWN'"),
        ({"channel_order": "RBG"}, "r.channel_order: expected one of"),
        ({"std": [1, 0]}, "r.std: 0 cannot divide"),
        ({"scale": [1, 2]}, "r.scale: expected a finite number"),
        ({"scale": "1"}, "r.scale: expected a finite number"),
        ({"mean": []}, "r.mean: expected finite numbers"),
        ({"mean": float("inf")}, "r.mean: expected finite numbers"),
        ({"mean": True}, "r.mean: expected finite numbers"),
    ],
)
def test_a_refused_description(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing.from_json(value, "r")


@pytest.mark.parametrize(
    ("raw", "tensor", "fields", "message"),
    [
        (np.array(["a"]), FLAT, {}, "expected numbers, found dtype <U1"),
        (np.zeros((0, 6)), FLAT, {}, "there are no samples"),
        (np.float32(1), FLAT, {}, "there are no samples"),
        (np.zeros((2, 7)), FLAT, {}, r"samples have shape \(7,\), expected \(6,\)"),
        (np.zeros((2, 2, 4, 3)), IMAGE, {}, 'say "layout": "NHWC"'),
        (np.zeros((2, 6)), FLAT, {"layout": "NHWC"}, "expected 4 axes"),
        (np.zeros((2, 6)), FLAT, {"channel_order": "BGR"}, "BGR needs 3 channels"),
        (np.zeros((2, 6)), FLAT, {"mean": [1, 2]}, "mean has 2 entries"),
        (np.zeros((2, 6)), FLAT, {"std": [1, 2]}, "std has 2 entries"),
        (np.array([[1, 2, 3, 4, 5, np.nan]]), FLAT, {}, r"data: nan at index \(0, 5\)"),
        (np.full((1, 6), 1e39), FLAT, {"scale": 1e39}, "inf at index"),
        (np.zeros((2, 6)), TensorInfo("i", (6,), "int8"), {}, "dtype float64 do not fit"),
        (np.zeros((2, 6)), TensorInfo("i", (6,), "int8"), {"scale": 2}, "takes no scaling"),
    ],
)
def test_refused_samples(raw: Any, tensor: TensorInfo, fields: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        apply(raw, tensor, **fields)


def test_require_finite_returns_what_is_finite() -> None:
    array = np.ones(3)
    assert require_finite(array, "x") is array
