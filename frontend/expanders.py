"""Operators that become several nodes: sums of many, and those on quantised operands.

The latter are defined, by ONNX and by onnxruntime, as their float operator between
DequantizeLinear and QuantizeLinear. The operators of onnxruntime's domain com.microsoft have no
schema in the onnx package; MICROSOFT says what they take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from . import windows
from .call import Call, Unsupported, attribute_values
from .converters import CONVERTERS
from .expansion import Expander, Expansion


@dataclass(frozen=True)
class Signature:
    """Least and greatest number of operands; attributes with their defaults, or needed ones."""

    min_input: int
    max_input: int
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needed: tuple[str, ...] = ()

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Attributes of `node`; ValueError if they do not fit."""
        given = attribute_values(node)
        for name in given:
            if name not in self.defaults and name not in self.needed:
                raise ValueError(f"attribute {name!r} is not one of its attributes")
        for name in self.needed:
            if name not in given:
                raise ValueError(f"attribute {name!r} is missing")
        return {**self.defaults, **given}


_POOL = {
    "auto_pad": "NOTSET",
    "ceil_mode": 0,
    "channels_last": 0,
    "count_include_pad": 0,
    "pads": None,
    "strides": None,
}

MICROSOFT: Mapping[str, Signature] = {
    "DequantizeLinear": Signature(2, 3, {"axis": 1}),
    "QGemm": Signature(6, 9, {"alpha": 1.0, "transA": 0, "transB": 0}),
    "QLinearAdd": Signature(7, 8),
    "QLinearAveragePool": Signature(4, 5, _POOL, ("kernel_shape",)),
    "QLinearConcat": Signature(4, 2**31, {}, ("axis",)),
    "QLinearGlobalAveragePool": Signature(4, 5, {"channels_last": 0}),
    "QLinearLeakyRelu": Signature(4, 5, {"alpha": 0.01}),
    "QLinearMul": Signature(7, 8),
    "QLinearSigmoid": Signature(4, 5),
    "QLinearSoftmax": Signature(4, 5, {"axis": -1}, ("opset",)),
    "QuantizeLinear": Signature(2, 3, {"axis": 1}),
}


def _sum(call: Call, parts: Expansion) -> None:
    _added(call, parts, "Add")


def _mean(call: Call, parts: Expansion) -> None:
    share = parts.constant("share", np.asarray(1 / len(call.inputs), np.float32))
    total = _added(call, parts, "")
    parts.last("Mul", total, share)


def _added(call: Call, parts: Expansion, last: str) -> str:
    """The sum of all operands, the `last` addition being the result."""
    total, *others = call.inputs
    for place, value in enumerate(others):
        if last and place == len(others) - 1:
            parts.last(last, total, value)
        else:
            total = parts.part("sum", "Add", total, value)
    if last and not others:
        parts.last("Identity", total)
    return total


def _conv(call: Call, parts: Expansion) -> None:
    attrs = windows.conv(replace(call, inputs=(call.inputs[0], call.inputs[3])))[1]
    operands = [_float(call, parts, "x", 0), _float(call, parts, "weight", 3, axis=0)]
    if call.has(8):
        operands.append(_bias(call, parts, 8))
    _quantised(call, parts, 6, parts.part("float", "Conv", *operands, **attrs))


def _matmul(call: Call, parts: Expansion) -> None:
    left = _float(call, parts, "a", 0, axis=max(0, len(call.shape(0)) - 2))
    right = _float(call, parts, "b", 3, axis=max(0, len(call.shape(3)) - 1))
    _quantised(call, parts, 6, parts.part("float", "MatMul", left, right))


def _gemm(call: Call, parts: Expansion) -> None:
    alpha = call.attributes["alpha"]
    attrs = {"alpha": alpha, "beta": alpha}  # C is added before the product is scaled
    attrs.update({name: call.attributes[name] for name in ("transA", "transB")})
    columns = 0 if call.attributes["transB"] else 1
    operands = [_float(call, parts, "a", 0), _float(call, parts, "b", 3, axis=columns)]
    if call.has(6):
        operands.append(_bias(call, parts, 6))
    if call.has(7):
        _quantised(call, parts, 7, parts.part("float", "Gemm", *operands, **attrs))
    else:
        parts.last("Gemm", *operands, **attrs)


def _binary(op: str) -> Expander:
    def expand(call: Call, parts: Expansion) -> None:
        operands = [_float(call, parts, "a", 0), _float(call, parts, "b", 3)]
        _quantised(call, parts, 6, parts.part("float", op, *operands))

    return expand


def _unary(op: str) -> Expander:
    def expand(call: Call, parts: Expansion) -> None:
        if call.attributes.get("channels_last"):
            raise Unsupported("channels_last is not supported")
        opset = call.attributes.get("opset", call.opset)
        attrs = CONVERTERS[op](replace(call, inputs=call.inputs[:1], opset=opset))[1]
        value = parts.part("float", op, _float(call, parts, "x", 0), **attrs)
        _quantised(call, parts, 3, value)

    return expand


def _concat(call: Call, parts: Expansion) -> None:
    if len(call.inputs) % 3 != 2:
        raise ValueError("has operands that are no value, scale and zero point")
    attrs = CONVERTERS["Concat"](replace(call, inputs=call.inputs[2:3]))[1]
    operands = [_float(call, parts, "x", index) for index in range(2, len(call.inputs), 3)]
    _quantised(call, parts, 0, parts.part("float", "Concat", *operands, **attrs))


def _float(call: Call, parts: Expansion, what: str, index: int, axis: int = 1) -> str:
    """The operand `index`, which its scale and zero point follow, in float."""
    names = tuple(call.inputs[place] for place in range(index, index + 3) if call.has(place))
    return parts.part(what, "DequantizeLinear", *names, axis=axis)


def _quantised(call: Call, parts: Expansion, index: int, value: str) -> None:
    """The result: `value` in the scale that is operand `index` and the zero point after it."""
    names = [call.inputs[place] for place in (index, index + 1) if call.has(place)]
    dtype = call.types[names[1]].dtype if len(names) == 2 else "uint8"
    parts.last("QuantizeLinear", value, *names, axis=1, dtype=dtype)


def _bias(call: Call, parts: Expansion, index: int) -> str:
    """A bias in the scale of the products, of operands 0 and 3."""
    left, right = (np.asarray(call.fixed(place, "scale"), np.float32) for place in (1, 4))
    scale = parts.constant("bias_scale", np.asarray(left.reshape(-1)[:1] * right.reshape(-1)))
    return parts.part("bias", "DequantizeLinear", call.inputs[index], scale, axis=-1)


EXPANDERS: Mapping[str, Expander] = {
    "Mean": _mean,
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearConcat": _concat,
    "QLinearConv": _conv,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearMatMul": _matmul,
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": _unary("Softmax"),
    "Sum": _sum,
}
