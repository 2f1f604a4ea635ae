"""What a caller is told of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH_AXIS = "batch"

_ONNX_NAMES = {"float32": "float", "float64": "double", "float16": "float16", "bool": "bool"}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: its name, one sample's shape, its NumPy dtype.

    `shape` and `type` read as onnxruntime's do: ["batch", 784] and "tensor(float)".
    """

    name: str
    sample: tuple[int, ...]
    dtype: str

    @property
    def shape(self) -> list[str | int]:
        """Axis 0 takes any size and so has a name."""
        return [BATCH_AXIS, *self.sample]

    @property
    def type(self) -> str:
        """The element type in ONNX's words."""
        return f"tensor({_ONNX_NAMES.get(self.dtype, self.dtype)})"

    def __str__(self) -> str:
        return f"{np.dtype(self.dtype).name}[{', '.join(map(str, self.shape))}]"


def tensors_of(entries: Iterable[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    """Inputs or outputs as an artifact's manifest lists them."""
    return tuple(
        TensorInfo(entry["name"], tuple(entry["shape"][1:]), entry["dtype"]) for entry in entries
    )
