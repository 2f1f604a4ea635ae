"""ONNX tensors and value types as NumPy arrays and TensorTypes.

Sizes are compared with the data before anything is allocated. Every function raises ValueError
with a short reason that the caller puts the tensor's name before.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from ..ops.types import Array
from .external_data import read_external

LARGEST = 2**31
"""Bytes of the largest tensor that is taken in; protobuf stops here as well."""

_DTYPES: dict[int, tuple[str, str]] = {
    TensorProto.FLOAT: ("float32", "float_data"),
    TensorProto.DOUBLE: ("float64", "double_data"),
    TensorProto.INT8: ("int8", "int32_data"),
    TensorProto.INT16: ("int16", "int32_data"),
    TensorProto.INT32: ("int32", "int32_data"),
    TensorProto.INT64: ("int64", "int64_data"),
    TensorProto.UINT8: ("uint8", "int32_data"),
    TensorProto.UINT16: ("uint16", "int32_data"),
    TensorProto.UINT32: ("uint32", "uint64_data"),
    TensorProto.UINT64: ("uint64", "uint64_data"),
    TensorProto.BOOL: ("bool", "int32_data"),
}


def dtype_of(code: int) -> str:
    """NumPy's name of an ONNX element type."""
    if code not in _DTYPES:
        names = {number: name for name, number in TensorProto.DataType.items()}
        kind = names.get(code, str(code))
        raise ValueError(f"has element type {kind}, which is not supported (export in float32)")
    return _DTYPES[code][0]


def to_array(tensor: TensorProto, folder: Path | None) -> Array:
    """The tensor's values, read-only where they are its raw bytes."""
    dtype = np.dtype(dtype_of(tensor.data_type))
    shape = tuple(tensor.dims)
    size = size_in_bytes(shape, dtype.name)
    if tensor.HasField("segment"):
        raise ValueError("is stored in segments, which is not supported")
    if tensor.data_location == TensorProto.EXTERNAL:
        raw = read_external(tensor, folder, size)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        return _from_field(tensor, dtype).reshape(shape)
    if len(raw) != size:
        raise ValueError(f"has {len(raw)} bytes of data, its shape and dtype need {size}")
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def size_in_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor, if that is a size a tensor may have."""
    if min(shape, default=0) < 0:
        raise ValueError(f"has a negative size among {list(shape)}")
    if len(shape) > 32:
        raise ValueError(f"has rank {len(shape)}, at most 32 is supported")
    size = prod(shape) * np.dtype(dtype).itemsize
    if size > LARGEST:
        raise ValueError(f"of shape {list(shape)} has {size} bytes, {LARGEST} are the limit")
    return size


def _from_field(tensor: TensorProto, dtype: np.dtype[np.generic]) -> Array:
    """Values kept as protobuf numbers instead of raw bytes."""
    field = getattr(tensor, _DTYPES[tensor.data_type][1])
    if len(field) != prod(tensor.dims):
        raise ValueError(f"has {len(field)} values, its shape needs {prod(tensor.dims)}")
    wide = {"i": np.int64, "u": np.uint64, "b": np.int64}.get(dtype.kind, dtype)
    if tensor.data_type in (TensorProto.UINT8, TensorProto.UINT16):
        wide = np.dtype(np.int64)
    return np.array(field, wide).astype(dtype)


def value_shape(info: onnx.ValueInfoProto) -> tuple[str, tuple[int | str, ...] | None]:
    """dtype and shape of a declared value; unknown sizes are their names, or "?".

    The shape is None where none is declared.
    """
    if info.type.WhichOneof("value") != "tensor_type":
        raise ValueError("is not a tensor")
    tensor = info.type.tensor_type
    dtype = dtype_of(tensor.elem_type)
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(
        dim.dim_value
        if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0
        else (dim.dim_param if dim.dim_param.isprintable() else "") or "?"
        for dim in tensor.shape.dim
    )
