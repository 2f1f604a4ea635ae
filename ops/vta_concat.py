"""VtaConcat: VTA's integers of one scale joined along the channels.

Inputs: int8 (N, C, ...), any number of them. Attributes: `channels`, the logical channels of each
input, which packed storage does not tell, and `layout` of all inputs and of the output. Lanes
that pad the output's last block are zero.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .layout import Layout
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 with the channels of all inputs; ValueError when the inputs do not go together."""
    first = kinds[0]
    if tuple(kind.shape[1] for kind in kinds) != tuple(attrs["channels"]):
        raise ValueError(f"joins channels {tuple(attrs['channels'])}, got {_listed(kinds)}")
    for kind in kinds:
        shape = (kind.shape[0], first.shape[1], *kind.shape[2:])
        if replace(kind, shape=shape) != first or first.dtype != "int8":
            raise ValueError(f"joins int8 alike but for their channels, got {_listed(kinds)}")
        if kind.layout != attrs["layout"]:
            raise ValueError(f"takes inputs in layout {attrs['layout']}, got {kind.layout}")
    total = sum(kind.shape[1] for kind in kinds)
    return [replace(first, shape=(first.shape[0], total, *first.shape[2:]))]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """Storage to storage: padding lanes of the inputs are dropped."""
    layout: Layout = attrs["layout"]
    logical = [
        layout.whole(array)[:, :count]
        for array, count in zip(arrays, attrs["channels"], strict=True)
    ]
    return [layout.pack(np.concatenate(logical, axis=1))]


def _listed(kinds: Sequence[TensorType]) -> str:
    return ", ".join(map(str, kinds))


OPERATOR = Operator("VtaConcat", _infer, _evaluate, (1, sys.maxsize))
