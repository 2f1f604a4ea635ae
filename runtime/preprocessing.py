"""Preprocessing: from raw samples to what a model's input takes, as a recipe says.

    y = (x * scale - mean) / std, in float32

`mean` and `std` are numbers or lists with one entry a channel (axis 1 of NCHW, last axis of
features). The description is plain JSON, so that it travels inside the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .tensors import TensorInfo

Array = NDArray[Any]

LAYOUTS = (None, "flat", "NCHW", "NHWC")
CHANNEL_ORDERS = (None, "RGB", "BGR")
FIELDS = ("scale", "mean", "std", "layout", "channel_order")
MAX_CHANNELS = 4096


@dataclass(frozen=True)
class Preprocessing:
    """How raw samples become the values of one input.

    `layout` is that of the raw samples: "NHWC" is turned to NCHW, "flat" means that each sample
    is flattened. `channel_order` is what the model was trained on; raw pictures are RGB, so
    "BGR" reverses axis 1 and "RGB" changes nothing. `mean` and `std` are in the model's order.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str | None = None
    channel_order: str | None = None

    @classmethod
    def from_json(cls, value: Any, where: str) -> Preprocessing:
        """Read the description; raises DataError that names the field."""
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: expected an object with {', '.join(FIELDS)}")
        unknown = sorted(set(value) - set(FIELDS))
        if unknown:
            raise DataError(f"{where}: unknown field {unknown[0]!r}, known: {', '.join(FIELDS)}")
        layout, order = value.get("layout"), value.get("channel_order")
        for name, choice, choices in (
            ("layout", layout, LAYOUTS),
            ("channel_order", order, CHANNEL_ORDERS),
        ):
            if choice not in choices:
                named = ", ".join("null" if one is None else one for one in choices)
                raise DataError(f"{where}.{name}: expected one of {named}, found {choice!r}")
        std = _numbers(value.get("std", 1.0), f"{where}.std")
        if 0.0 in std:
            raise DataError(f"{where}.std: 0 cannot divide")
        (scale,) = _numbers(value.get("scale", 1.0), f"{where}.scale", most=1)
        return cls(scale, _numbers(value.get("mean", 0.0), f"{where}.mean"), std, layout, order)

    def to_json(self) -> dict[str, Any]:
        """The description, complete."""
        return {
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "layout": self.layout,
            "channel_order": self.channel_order,
        }

    def apply(self, raw: Array, tensor: TensorInfo, where: str) -> Array:
        """Raw samples -> array of `tensor`'s shape and dtype; raises DataError.

        A single sample without a batch axis is taken as a batch of one.
        """
        if raw.dtype.kind not in "biuf":
            raise DataError(f"{where}: expected numbers, found dtype {raw.dtype}")
        if raw.size == 0 or raw.ndim == 0:
            raise DataError(f"{where}: there are no samples (shape {raw.shape})")
        raw = batched(raw, tensor)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            scaled = self._scale(self._order(raw, where), tensor, where)
        return require_finite(_fit(scaled, tensor, where), where)

    def _order(self, raw: Array, where: str) -> Array:
        """Axes and channels in the model's order."""
        if self.layout == "NHWC":
            if raw.ndim not in (3, 4):
                raise DataError(f"{where}: NHWC samples have shape {raw.shape}, expected 4 axes")
            raw = raw[:, np.newaxis] if raw.ndim == 3 else raw.transpose(0, 3, 1, 2)
        if self.channel_order == "BGR":
            if raw.ndim != 4 or raw.shape[1] != 3:
                raise DataError(
                    f"{where}: BGR needs 3 channels on axis 1, found shape {raw.shape}"
                )
            raw = raw[:, ::-1]
        return raw

    def _scale(self, raw: Array, tensor: TensorInfo, where: str) -> Array:
        """Scale, mean and std, unless they change nothing; in the input's dtype."""
        if (self.scale, self.mean, self.std) == (1.0, (0.0,), (1.0,)):
            return _cast(raw, tensor, where)
        if np.dtype(tensor.dtype).kind != "f":
            raise DataError(f"{where}: {tensor} takes no scaling")
        mean, std = (
            _per_channel(values, name, raw, where)
            for name, values in (("mean", self.mean), ("std", self.std))
        )
        scaled = (raw.astype(np.float32) * np.float32(self.scale) - mean) / std
        return scaled.astype(tensor.dtype)


PLAIN = Preprocessing()
"""What is done to samples where no recipe says anything."""


def batched(raw: Array, tensor: TensorInfo) -> Array:
    """Raw samples with a batch axis: a single sample may come without it."""
    single = raw.size == prod(tensor.sample) and raw.shape[:1] != (1,)
    return raw[np.newaxis] if single or not raw.ndim else raw


def require_finite(array: Array, where: str) -> Array:
    """`array`, or DataError that names the first NaN or infinity."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"{where}: {array[first]} at index {first}, expected finite numbers")
    return array


def _numbers(value: Any, where: str, most: int = MAX_CHANNELS) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(values) <= most or not all(
        type(one) in (int, float) and isfinite(one) for one in values
    ):
        expected = "a finite number" if most == 1 else "finite numbers"
        raise DataError(f"{where}: expected {expected}, found {str(value)[:60]}")
    return tuple(float(one) for one in values)


def _per_channel(values: tuple[float, ...], name: str, raw: Array, where: str) -> Array:
    """`values` shaped to broadcast over axis 1."""
    if len(values) > 1 and (raw.ndim < 2 or raw.shape[1] != len(values)):
        raise DataError(
            f"{where}: {name} has {len(values)} entries, but samples of shape {raw.shape} have "
            "another number of channels on axis 1"
        )
    return np.array(values, np.float32).reshape(-1, *(1,) * (raw.ndim - 2))


def _cast(raw: Array, tensor: TensorInfo, where: str) -> Array:
    """Integers become floats; anything else must keep its values."""
    wanted = np.dtype(tensor.dtype)
    if wanted.kind == "f" or np.can_cast(raw.dtype, wanted, "safe"):
        return raw.astype(wanted)
    raise DataError(f"{where}: samples of dtype {raw.dtype} do not fit {tensor}")


def _fit(array: Array, tensor: TensorInfo, where: str) -> Array:
    """Add or drop axes of size 1, or flatten: nothing that could reorder a picture."""
    found, wanted = array.shape[1:], tensor.sample
    if found != wanted:
        without_ones = [tuple(size for size in shape if size != 1) for shape in (found, wanted)]
        flattened = len(wanted) == 1 and prod(found) == wanted[0]
        if without_ones[0] != without_ones[1] and not flattened:
            hint = ""
            if len(found) == 3 and (found[2], found[0], found[1]) == wanted:
                hint = '; say "layout": "NHWC" in the recipe'
            raise DataError(f"{where}: samples have shape {found}, expected {wanted}{hint}")
        array = array.reshape(len(array), *wanted)
    return np.ascontiguousarray(array)
