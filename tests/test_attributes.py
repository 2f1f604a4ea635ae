"""Attributes as JSON: every value comes back, and what has no JSON form is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vtaflow.errors import ArtifactError
from vtaflow.ops.layout import PLAIN, Layout
from vtaflow.runtime.attributes import (
    decode_attrs,
    encode_attrs,
    layout_from_json,
    layout_to_json,
)


def test_values_come_back() -> None:
    attrs: dict[str, Any] = {
        "layout": Layout("NCHW", 2, 16),
        "shape": (1, -1, (2, 3)),
        "scale": 0.1,
        "max": float("inf"),
        "min": -np.inf,
        "to": "int8",
        "none": None,
        "flag": True,
        "numpy": np.float32(0.5),
    }
    text = json.dumps(encode_attrs(attrs), allow_nan=False)
    assert decode_attrs(json.loads(text), "a") == attrs


def test_undefined_numbers_come_back() -> None:
    text = json.dumps(encode_attrs({"x": float("nan")}), allow_nan=False)
    assert np.isnan(decode_attrs(json.loads(text), "a")["x"])


def test_what_has_no_json_form() -> None:
    with pytest.raises(TypeError, match="type ndarray has no JSON form"):
        encode_attrs({"x": np.zeros(2)})


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"float": "big"}, {"float": []}, {"layout": 1}])
def test_refused_objects(value: Any) -> None:
    with pytest.raises(ArtifactError, match=r"a\.x"):
        decode_attrs({"x": value}, "a")


@pytest.mark.parametrize("layout", [PLAIN, Layout("NC", 1, 16), Layout("NHCW", 4, 8)])
def test_layouts(layout: Layout) -> None:
    assert layout_from_json(json.loads(json.dumps(layout_to_json(layout))), "a") == layout


@pytest.mark.parametrize(
    "change", [{"order": "CN "}, {"order": "NN"}, {"order": 5}, {"batch": 0}, {"block": True}]
)
def test_refused_layouts(change: Any) -> None:
    with pytest.raises(ArtifactError, match="a: there is no such layout"):
        layout_from_json({**layout_to_json(Layout("NC", 1, 16)), **change}, "a")
