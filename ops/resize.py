"""Resize: another number of elements along the attribute `axes`, nearest or linear.

`sizes` and `scales` belong to `axes`; a scale is what the coordinates are divided by, whether or
not it gives exactly the size. `coordinate_transformation_mode` and `nearest_mode` are ONNX's,
besides "simple", which is what operators before opset 11 do. `roi` has the starts of `axes`,
then their ends, for "tf_crop_and_resize", with `extrapolation_value` outside the operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .inference import axes_within, floats, plain, text
from .types import Array, Attrs, Operator, TensorType

MODES = ("nearest", "linear")
TRANSFORMATIONS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")


def coordinates(inputs: int, outputs: int, place: int, attrs: Attrs) -> Array:
    """Where in the operand each output along axis number `place` of `axes` lies: float32."""
    # So are ties broken as onnxruntime breaks them, which centres pixels in float32.
    centres = "half_pixel" in attrs["coordinate_transformation_mode"]
    steps = np.arange(outputs, dtype=np.float32 if centres else np.float64)
    return np.asarray(_where(steps, inputs, place, attrs), np.float32)


def _where(steps: Array, inputs: int, place: int, attrs: Attrs) -> Any:
    scale, mode = attrs["scales"][place], attrs["coordinate_transformation_mode"]
    outputs, scale = len(steps), steps.dtype.type(scale)
    if mode == "align_corners":
        return steps * (inputs - 1) / max(outputs - 1, 1)
    if mode == "asymmetric":
        return steps / scale
    if mode == "tf_half_pixel_for_nn":
        return (steps + 0.5) / scale
    if mode == "tf_crop_and_resize":
        start, end = (attrs["roi"][index] for index in (place, len(attrs["axes"]) + place))
        if outputs == 1:
            return (steps + 0.5) * (start + end) * (inputs - 1)
        return start * (inputs - 1) + steps * ((end - start) * (inputs - 1)) / (outputs - 1)
    if mode == "pytorch_half_pixel" and outputs == 1:
        return steps
    centred = (steps + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return inputs / 2 * (1 - outputs / (scale * inputs)) + centred
    return centred


def nearest(inputs: int, outputs: int, place: int, attrs: Attrs) -> Array:
    """Which element of the operand each output along axis number `place` is: int64."""
    where, mode = coordinates(inputs, outputs, place, attrs), attrs["nearest_mode"]
    if mode == "simple":
        mode = "ceil" if attrs["scales"][place] < 1 else "floor"
    rounded = {
        "round_prefer_floor": np.ceil(where - 0.5),
        "round_prefer_ceil": np.floor(where + 0.5),
        "floor": np.floor(where),
        "ceil": np.ceil(where),
    }[mode]
    return np.clip(rounded, 0, inputs - 1).astype(np.int64)


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    shape, axes = list(kinds[0].shape), axes_within(attrs["axes"], len(kinds[0].shape))
    sizes, scales = tuple(attrs["sizes"]), tuple(attrs["scales"])
    if attrs["mode"] == "linear":
        floats(*kinds)
    plain(*kinds)
    if len(sizes) != len(axes) or len(scales) != len(axes):
        raise ValueError(f"sizes {text(sizes)} do not fit axes {text(axes)}")
    if min(sizes, default=1) < 1 or not all(0 < scale < np.inf for scale in scales):
        raise ValueError(f"{text(tuple(shape))} cannot become {text(sizes)} on axes {text(axes)}")
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    return [replace(kinds[0], shape=tuple(shape))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = arrays[0]
    for place, (axis, outputs) in enumerate(zip(attrs["axes"], attrs["sizes"], strict=True)):
        inputs = x.shape[axis]
        if attrs["mode"] == "nearest":
            result = np.take(x, nearest(inputs, outputs, place, attrs), axis=axis)
        else:
            result = _linear(x, axis, coordinates(inputs, outputs, place, attrs))
        if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
            where = coordinates(inputs, outputs, place, attrs)
            outside = np.flatnonzero((where < 0) | (where > inputs - 1))
            result[(slice(None),) * axis + (outside,)] = attrs["extrapolation_value"]
        x = result
    return [np.array(x)]


def _linear(x: Array, axis: int, where: Array) -> Array:
    """Between the two elements around each of the coordinates `where` along `axis`."""
    last = x.shape[axis] - 1
    where = np.clip(where, 0, last)
    low = np.floor(where).astype(np.int64)
    share = (where - low).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
    before, behind = (np.take(x, np.minimum(at, last), axis=axis) for at in (low, low + 1))
    with np.errstate(all="ignore"):
        return np.asarray(before + (behind - before) * share)


OPERATOR = Operator("Resize", _infer, _evaluate, (1, 1))
