"""Tensors as the Open Inference Protocol v2 writes them over HTTP: JSON, or JSON and raw bytes.

Owns datatypes and the form of a body: a JSON object, and behind it, where the header
`Inference-Header-Content-Length` gives the length of the JSON, the bytes of the tensors that say
`binary_data_size`. Client and server both read bodies that may come from a stranger: sizes are
checked before anything is allocated, every problem is a FeedError of one line.
Public source: https://github.com/kserve/open-inference-protocol and Triton's
"Binary tensor data extension".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from ..backend import strict_json
from ..errors import FeedError
from ..ops.types import Array

HEADER_LENGTH = "Inference-Header-Content-Length"

DATATYPES: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "INT8": "int8",
        "UINT8": "uint8",
        "INT16": "int16",
        "UINT16": "uint16",
        "INT32": "int32",
        "UINT32": "uint32",
        "INT64": "int64",
        "UINT64": "uint64",
        "FP16": "float16",
        "FP32": "float32",
        "FP64": "float64",
    }
)
"""The protocol's names of NumPy's dtypes."""

DATATYPE_OF: Mapping[str, str] = MappingProxyType({v: k for k, v in DATATYPES.items()})

MAX_TENSORS = 256
MAX_NAME = 512
MAX_RANK = 8
MAX_JSON_BYTES = 4 << 20
"""JSON grows when it is read: this bounds what one body can cost."""

JSON_GROWTH = 6
"""How many bytes of JSON one byte of a tensor can become: 24 digits and more for a float32."""

_ELEMENTS: Mapping[str, frozenset[type]] = MappingProxyType(
    {
        "b": frozenset({bool}),
        "i": frozenset({int}),
        "u": frozenset({int}),
        "f": frozenset({int, float}),
    }
)
"""What JSON elements may be, by kind of dtype."""

Json = dict[str, Any]


def parse_json(data: bytes, limit: int = MAX_JSON_BYTES) -> Json:
    """A JSON object of at most `limit` bytes, strictly; raises FeedError."""
    if len(data) > limit:
        raise FeedError(
            f"the JSON has {len(data):,} bytes, the limit is {limit:,}: send tensors as binary data"
        )
    try:
        value = strict_json.parse(data)
    except RecursionError:
        raise FeedError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise FeedError(f"the body is not valid JSON: {_short(error)}") from None
    if not isinstance(value, dict):
        raise FeedError(f"the body is a JSON {type(value).__name__}, expected an object")
    return value


def header_length(text: str | None, size: int) -> int | None:
    """The value of `Inference-Header-Content-Length`, for a body of `size` bytes."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > size:
        raise FeedError(
            f"{HEADER_LENGTH} {text[:40]!r} is no number of at most the body's {size} bytes"
        )
    return int(text)


def encode(
    head: Mapping[str, Any], key: str, tensors: Mapping[str, Array], binary: Sequence[str]
) -> tuple[bytes, int | None]:
    """A body: `head` with the list `key` of `tensors`, those named in `binary` as raw bytes.

    Returns the body and the length of its JSON, None if it is nothing else. Raises FeedError for
    values that JSON has no words for.
    """
    entries, blobs = [], []
    for name, array in tensors.items():
        entry: Json = {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPE_OF[str(array.dtype)],
        }
        if name in binary:
            blobs.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    try:
        text = json.dumps({**head, key: entries}, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise FeedError(
            "a result is infinite or not a number, which JSON cannot say: ask for binary data"
        ) from None
    return b"".join([text, *blobs]), len(text) if blobs else None


def decode(
    body: bytes, length: int | None, key: str, limit: int = MAX_JSON_BYTES
) -> tuple[Json, dict[str, Array]]:
    """The JSON of a body and the tensors in its list `key`, by name; raises FeedError."""
    head = parse_json(body if length is None else body[:length], limit)
    entries = head.get(key)
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_TENSORS:
        raise FeedError(f"{key!r} is a list of 1 to {MAX_TENSORS} tensors")
    tensors: dict[str, Array] = {}
    position = len(body) if length is None else length
    for index, entry in enumerate(entries):
        where = f"{key}[{index}]"
        name, shape, dtype = _declaration(entry, where)
        if name in tensors:
            raise FeedError(f"{where}: {name!r} is there twice")
        size = parameters(entry, where).get("binary_data_size")
        if size is None:
            tensors[name] = _from_json(entry.get("data"), shape, dtype, where)
        else:
            expected = prod(shape) * dtype.itemsize
            if "data" in entry or type(size) is not int or size != expected:
                raise FeedError(f"{where}: binary_data_size is {expected} for that shape, alone")
            if size > len(body) - position:
                raise FeedError(f"{where}: the body ends before the tensor's {size} bytes")
            flat = np.frombuffer(body, dtype.newbyteorder("<"), prod(shape), position)
            tensors[name] = _whole(flat.reshape(shape).astype(dtype), where)
            position += size
    if position != len(body):
        raise FeedError(f"{len(body) - position} bytes follow the last tensor")
    return head, tensors


def parameters(holder: Mapping[str, Any], where: str) -> Json:
    """The `parameters` of a request or tensor, a small object of plain values."""
    found = holder.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict) or len(found) > 64:
        raise FeedError(f"{where}: parameters is an object of at most 64 fields")
    for name, value in found.items():
        if type(value) not in (bool, int, float, str):
            raise FeedError(f"{where}: parameters: {name[:60]!r} is no text, number or boolean")
    return found


def _declaration(entry: Any, where: str) -> tuple[str, tuple[int, ...], np.dtype[Any]]:
    """Name, shape and dtype of a tensor."""
    if not isinstance(entry, dict):
        _wrong(where, "an object", entry)
    name, shape, datatype = entry.get("name"), entry.get("shape"), entry.get("datatype")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        _wrong(f"{where}.name", f"text of at most {MAX_NAME} characters", name)
    if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_RANK:
        _wrong(f"{where}.shape", f"a list of 1 to {MAX_RANK} sizes", shape)
    if any(type(size) is not int or not 1 <= size < 1 << 31 for size in shape):
        _wrong(f"{where}.shape", "sizes from 1 on", shape)
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        _wrong(f"{where}.datatype", f"one of {', '.join(DATATYPES)}", datatype)
    return name, tuple(shape), np.dtype(DATATYPES[datatype])


def _from_json(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Array:
    """Flat or nested lists as an array. Types are looked at before NumPy can guess any."""
    flat = _flatten(data, shape, where)
    if not set(map(type, flat)) <= _ELEMENTS[dtype.kind]:
        raise FeedError(f"{where}.data: an element is no {dtype.name}")
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused as an input
            if dtype.kind == "f":
                return np.array(flat, np.float64).astype(dtype).reshape(shape)
            if dtype.kind in "iu" and not _within(flat, np.iinfo(dtype)):
                raise FeedError(f"{where}.data: an element does not fit {dtype.name}")
            return np.array(flat, dtype).reshape(shape)
    except OverflowError:
        raise FeedError(f"{where}.data: an element does not fit {dtype.name}") from None


def _within(flat: Sequence[int], limits: np.iinfo[Any]) -> bool:
    return int(limits.min) <= min(flat) and max(flat) <= int(limits.max)


def _flatten(data: Any, shape: tuple[int, ...], where: str) -> list[Any]:
    """All elements in row-major order; `data` is flat, or nested exactly as `shape` says."""
    expected = f"{prod(shape)} elements for the shape {list(shape)}, flat or nested"
    if not isinstance(data, list) or not data:
        _wrong(f"{where}.data", expected, data)
    level: list[Any] = data
    if isinstance(data[0], list):
        for depth, size in enumerate(shape):
            lists = [data] if depth == 0 else level
            if any(type(one) is not list or len(one) != size for one in lists):
                _wrong(f"{where}.data", expected, "another nesting")
            level = list(chain.from_iterable(lists))
    if len(level) != prod(shape):
        _wrong(f"{where}.data", expected, len(level))
    return level


def _whole(array: Array, where: str) -> Array:
    """A boolean is one byte that is 0 or 1; anything else would be trouble later."""
    if array.dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise FeedError(f"{where}: a byte of a BOOL is neither 0 nor 1")
    return array


def _wrong(where: str, expected: str, value: Any) -> NoReturn:
    found = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    raise FeedError(f"{where}: expected {expected}, found {found[:60]}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100]
