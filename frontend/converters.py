"""How each ONNX operator becomes a node: operands that are really attributes become attributes.

A converter takes a Call and returns the operands and attributes of the node of the same name (see
RENAMED for others), in the form that `ops` defines, whatever opset the model is written in.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, isinf, isnan

import numpy as np

from ..ops.inference import FLOATS, axes_within, axis_within
from ..ops.reshape import reshaped
from . import sizes, windows
from .call import Call, Converted, Converter, Unsupported
from .tensors import dtype_of


def _as_it_is(call: Call) -> Converted:
    return call.inputs, {}


def _with(*names: str) -> Converter:
    """The operands and these attributes, none of which depends on anything."""
    return lambda call: (call.inputs, {name: call.attributes[name] for name in names})


def _batch_normalization(call: Call) -> Converted:
    if call.attributes.get("training_mode"):
        raise Unsupported("training_mode is not supported")
    if call.attributes.get("spatial") == 0 and len(call.shape()) != 2:
        raise Unsupported("spatial=0 is not supported")
    return call.inputs, {"epsilon": call.attributes["epsilon"]}


def _dropout(call: Call) -> Converted:
    if call.has(2) and call.fixed(2, "training_mode"):
        raise Unsupported("training_mode is not supported")
    return call.inputs[:1], {}


def _cast(call: Call) -> Converted:
    return call.inputs, {"to": dtype_of(call.attributes["to"])}


def _clip(call: Call) -> Converted:
    bounds = {}
    for index, name in ((1, "min"), (2, "max")):
        bound = call.attributes.get(name)
        if call.has(index):
            bound = call.number(index, name)
        bounds[name] = _bound(name, bound, call.types[call.inputs[0]].dtype)
    return call.inputs[:1], bounds


def _bound(name: str, bound: float | None, dtype: str) -> float | None:
    """None for a bound that nothing can exceed."""
    if bound is None or dtype not in FLOATS:
        return bound
    if isnan(bound) or (isinf(bound) and (bound > 0) == (name == "min")):
        raise Unsupported(f"{name} is {bound}")
    widest = float(np.finfo(dtype).max)
    beyond = bound <= -widest if name == "min" else bound >= widest
    return None if beyond or not isfinite(bound) else bound


def _softmax(call: Call) -> Converted:
    rank = len(call.shape())
    axis = axis_within(call.attributes["axis"], rank)
    last = axis + 1 if call.opset >= 13 else rank  # before 13 all axes from `axis` on are one
    return call.inputs, {"axes": tuple(range(axis, last))}


def _flatten(call: Call) -> Converted:
    axis = call.attributes["axis"]
    return call.inputs, {"axis": axis + len(call.shape()) if axis < 0 else axis}


def _reshape(call: Call) -> Converted:
    shape = call.shape()
    target = call.value(1, "shape")
    if target.value.ndim != 1 or target.value.dtype != np.int64:
        raise Unsupported("shape is no vector of int64")
    entries, probe = target.value.tolist(), target.probe.tolist()
    if call.attributes.get("allowzero") and 0 in entries:
        raise Unsupported("a size of 0 (allowzero) is not supported")
    if len(entries) != len(probe) or entries[1:] != probe[1:]:
        raise Unsupported("shape depends on the batch beyond axis 0")
    result = reshaped(shape, entries)
    keeps_axis_0 = shape[:1] == result[:1]
    if entries != probe and (not keeps_axis_0 or call.inputs[0] in call.known):
        raise Unsupported("shape has the batch on axis 0, where the operand has none")
    if keeps_axis_0:
        result = (0, *result[1:])[: len(result)]  # copied, so that the batch may change
    return call.inputs[:1], {"shape": result}


def _squeeze(call: Call) -> Converted:
    shape = call.shape()
    axes = call.attributes.get("axes")
    if call.has(1):
        axes = call.integers(1, "axes")
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    return call.inputs[:1], {"axes": axes_within(axes, len(shape))}


def _unsqueeze(call: Call) -> Converted:
    axes = call.integers(1, "axes") if call.has(1) else call.attributes["axes"]
    return call.inputs[:1], {"axes": axes_within(axes, len(call.shape()) + len(axes))}


def _transpose(call: Call) -> Converted:
    perm = call.attributes["perm"]
    order = reversed(range(len(call.shape()))) if perm is None else perm
    return call.inputs, {"perm": tuple(order)}


def _shape(call: Call) -> Converted:
    start, end = call.attributes.get("start", 0), call.attributes.get("end")
    return call.inputs, {"start": start, "end": end}


def _axis(call: Call) -> Converted:
    return call.inputs, {"axis": axis_within(call.attributes["axis"], len(call.shape()))}


def _reduction(call: Call) -> Converted:
    rank, axes = len(call.shape()), call.attributes.get("axes")
    if call.has(1):
        axes = call.integers(1, "axes") if call.shape(1) != (0,) else ()
    if not axes:
        axes = () if call.attributes.get("noop_with_empty_axes") else range(rank)
    attrs = {"axes": axes_within(axes, rank), "keepdims": call.attributes["keepdims"]}
    return call.inputs[:1], attrs


def _arg_reduction(call: Call) -> Converted:
    attrs = {"keepdims": call.attributes["keepdims"]}
    attrs["select_last_index"] = call.attributes.get("select_last_index", 0)
    return call.inputs, {**_axis(call)[1], **attrs}


def _layer_normalization(call: Call) -> Converted:
    rank = len(call.shape())
    axes = tuple(range(axis_within(call.attributes["axis"], rank), rank))
    return call.inputs, {"axes": axes, "epsilon": call.attributes["epsilon"]}


def _depth_to_space(call: Call) -> Converted:
    mode = call.attributes.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise Unsupported(f"mode {mode!r} is not supported")
    return call.inputs, {"blocksize": call.attributes["blocksize"], "mode": mode}


def _gelu(call: Call) -> Converted:
    if call.attributes["approximate"] not in ("none", "tanh"):
        raise Unsupported(f"approximate {call.attributes['approximate']!r} is not supported")
    return _with("approximate")(call)


def _quantize_linear(call: Call) -> Converted:
    wanted = call.attributes.get("output_dtype")
    dtype = dtype_of(wanted) if wanted else "uint8"
    if call.has(2):
        dtype = call.types[call.inputs[2]].dtype
    return _dequantize_linear(call, dtype=dtype)


def _dequantize_linear(call: Call, **more: str) -> Converted:
    if call.attributes.get("block_size"):
        raise Unsupported("block_size is not supported")
    return call.inputs, {"axis": call.attributes.get("axis", 1), **more}


def _slice(call: Call) -> Converted:
    rank = len(call.shape())
    if call.opset < 10:
        given = {name: call.attributes[name] for name in ("starts", "ends", "axes")}
        given["steps"] = None
    else:
        names = ("starts", "ends", "axes", "steps")
        given = {
            name: call.integers(index, name) if call.has(index) else None
            for index, name in enumerate(names, start=1)
        }
    starts, ends = tuple(given["starts"]), tuple(given["ends"])
    axes = range(len(starts)) if given["axes"] is None else given["axes"]
    steps = (1,) * len(starts) if given["steps"] is None else given["steps"]
    attrs = {"starts": starts, "ends": ends, "axes": axes_within(axes, rank), "steps": tuple(steps)}
    return call.inputs[:1], attrs


CONVERTERS: Mapping[str, Converter] = {
    "Abs": _as_it_is,
    "Add": _as_it_is,
    "ArgMax": _arg_reduction,
    "ArgMin": _arg_reduction,
    "AveragePool": windows.average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Ceil": _as_it_is,
    "Clip": _clip,
    "Concat": _axis,
    "ConstantOfShape": sizes.constant_of_shape,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize_linear,
    "Div": _as_it_is,
    "Dropout": _dropout,
    "Elu": _with("alpha"),
    "Equal": _as_it_is,
    "Erf": _as_it_is,
    "Exp": _as_it_is,
    "Expand": sizes.expand,
    "Flatten": _flatten,
    "Floor": _as_it_is,
    "Gather": _axis,
    "Gelu": _gelu,
    "Gemm": _with("alpha", "beta", "transA", "transB"),
    "GlobalAveragePool": _as_it_is,
    "GlobalMaxPool": _as_it_is,
    "Greater": _as_it_is,
    "HardSigmoid": _with("alpha", "beta"),
    "HardSwish": _as_it_is,
    "Identity": _as_it_is,
    "InstanceNormalization": _with("epsilon"),
    "LRN": _with("size", "alpha", "beta", "bias"),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _with("alpha"),
    "Less": _as_it_is,
    "Log": _as_it_is,
    "LogSoftmax": _softmax,
    "MatMul": _as_it_is,
    "Max": _as_it_is,
    "MaxPool": windows.max_pool,
    "Min": _as_it_is,
    "Mish": _as_it_is,
    "Mul": _as_it_is,
    "Neg": _as_it_is,
    "PRelu": _as_it_is,
    "Pad": sizes.pad,
    "Pow": _as_it_is,
    "QuantizeLinear": _quantize_linear,
    "Reciprocal": _as_it_is,
    "ReduceMax": _reduction,
    "ReduceMean": _reduction,
    "ReduceMin": _reduction,
    "ReduceSum": _reduction,
    "Relu": _as_it_is,
    "Reshape": _reshape,
    "Resize": sizes.resize,
    "Selu": _with("alpha", "gamma"),
    "Shape": _shape,
    "Sigmoid": _as_it_is,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _as_it_is,
    "Softsign": _as_it_is,
    "SpaceToDepth": _with("blocksize"),
    "Split": sizes.split,
    "Sqrt": _as_it_is,
    "Squeeze": _squeeze,
    "Sub": _as_it_is,
    "Swish": _with("alpha"),
    "Tanh": _as_it_is,
    "Tile": sizes.tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": sizes.upsample,
    "Where": _as_it_is,
}

RENAMED: Mapping[str, str] = {"Upsample": "Resize"}
"""Operators that `ops` knows by another name."""
