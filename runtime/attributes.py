"""Attributes of host operators as JSON and back.

Tuples become lists and come back as tuples; a `Layout` becomes {"layout": {...}} and an infinite
or undefined number {"float": "inf"}, so that every manifest stays plain JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from ..errors import ArtifactError
from ..ops.layout import Layout

_FLOATS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


def encode_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes -> JSON; TypeError on a value that has no JSON form."""
    return {name: _encode(value) for name, value in attrs.items()}


def decode_attrs(attrs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """JSON -> attributes; raises ArtifactError."""
    return {name: _decode(value, f"{where}.{name}") for name, value in attrs.items()}


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """The three fields of a layout."""
    return {"order": layout.order, "batch": layout.batch, "block": layout.block}


def layout_from_json(value: Any, where: str) -> Layout:
    """The inverse of `layout_to_json`; raises ArtifactError."""
    if not isinstance(value, Mapping) or set(value) != {"order", "batch", "block"}:
        raise ArtifactError(f"{where}: a layout has order, batch and block")
    order, sizes = value["order"], (value["batch"], value["block"])
    known = isinstance(order, str) and (not order or sorted(order) in (["C", "N"], list("CHNW")))
    if not known or not all(type(size) is int and 1 <= size <= 1024 for size in sizes):
        raise ArtifactError(f"{where}: there is no such layout")
    return Layout(order, *sizes)


def _encode(value: Any) -> Any:
    if isinstance(value, Layout):
        return {"layout": layout_to_json(value)}
    if isinstance(value, np.generic):
        return _encode(value.item())
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"an attribute of type {type(value).__name__} has no JSON form")


def _decode(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, where) for item in value)
    if isinstance(value, Mapping):
        if set(value) == {"layout"}:
            return layout_from_json(value["layout"], where)
        if set(value) == {"float"} and value["float"] in tuple(_FLOATS):
            return _FLOATS[value["float"]]
        raise ArtifactError(f"{where}: an attribute is no such object")
    return value
