"""What each operator means: type inference and a NumPy evaluation, one short file an operator.

The list below is the registry: an operator that is not in it does not exist.
"""

from __future__ import annotations

from . import (
    add,
    batch_normalization,
    cast,
    clip,
    concat,
    dense,
    dequantize,
    div,
    dropout,
    flatten,
    gather,
    gemm,
    identity,
    log_softmax,
    matmul,
    mul,
    pack,
    quantize,
    relu,
    reshape,
    shape,
    sigmoid,
    slice,
    softmax,
    squeeze,
    sub,
    tanh,
    transpose,
    unpack,
    unsqueeze,
    vta_conv,
    vta_dense,
)
from .types import Operator

OPERATORS: tuple[Operator, ...] = (
    add.OPERATOR,
    batch_normalization.OPERATOR,
    cast.OPERATOR,
    clip.OPERATOR,
    concat.OPERATOR,
    dense.OPERATOR,
    dequantize.OPERATOR,
    div.OPERATOR,
    dropout.OPERATOR,
    flatten.OPERATOR,
    gather.OPERATOR,
    gemm.OPERATOR,
    identity.OPERATOR,
    log_softmax.OPERATOR,
    matmul.OPERATOR,
    mul.OPERATOR,
    pack.OPERATOR,
    quantize.OPERATOR,
    relu.OPERATOR,
    reshape.OPERATOR,
    shape.OPERATOR,
    sigmoid.OPERATOR,
    slice.OPERATOR,
    softmax.OPERATOR,
    squeeze.OPERATOR,
    sub.OPERATOR,
    tanh.OPERATOR,
    transpose.OPERATOR,
    unpack.OPERATOR,
    unsqueeze.OPERATOR,
    vta_conv.OPERATOR,
    vta_dense.OPERATOR,
)

_BY_NAME = {each.name: each for each in OPERATORS}


def operator(name: str) -> Operator:
    """The operator called `name`; KeyError if there is none."""
    return _BY_NAME[name]
