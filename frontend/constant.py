"""The Constant operator: its attribute as an array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..ops.types import Array
from .call import Unsupported
from .tensors import to_array

_NUMBERS = {
    "value_float": "float32",
    "value_floats": "float32",
    "value_int": "int64",
    "value_ints": "int64",
}


def constant_array(attributes: Mapping[str, Any], folder: Path | None) -> Array:
    """What a Constant with `attributes` makes; Unsupported if it is no array of numbers."""
    given = {name: value for name, value in attributes.items() if value is not None}
    if len(given) != 1:
        raise ValueError("gives not exactly one value")
    ((name, value),) = given.items()
    if name == "value":
        return to_array(value, folder)
    if name not in _NUMBERS:
        raise Unsupported(f"{name} is not supported")
    return np.array(value, _NUMBERS[name])
