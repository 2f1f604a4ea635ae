"""Dense: clip(x @ weight.T + bias, min, max), the fused float layer.

Inputs are x[N,I], weight[O,I] and bias[O]. ONNX has no such operator; the passes make it from
Gemm or MatMul and what follows them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .clip import clip
from .inference import numbers, text
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    if numbers(*kinds) != "float32":
        raise ValueError(f"takes float32, not {kinds[0].dtype}")
    x, weight, bias = (kind.shape for kind in kinds)
    if len(x) != 2 or len(weight) != 2 or x[1] != weight[1] or bias != weight[:1]:
        raise ValueError(
            f"x {text(x)}, weight {text(weight)} and bias {text(bias)} are not [N,I], [O,I], [O]"
        )
    return [TensorType((x[0], weight[0]), "float32")]


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, weight, bias = arrays
    with np.errstate(all="ignore"):
        return [clip(np.matmul(x, weight.T) + bias, attrs)]


OPERATOR = Operator("Dense", _infer, _evaluate, (3, 3))
