"""One ONNX node as its converter sees it: operands, attributes with defaults, known values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto

from ..graph.known import Known
from ..ops.types import TensorType


class Unsupported(Exception):
    """This form of an operator cannot be imported; the message is the reason."""


@dataclass(frozen=True)
class Call:
    """An ONNX node at work.

    `inputs` has no trailing absent operands; an absent one between others is "". `attributes`
    holds Python values, with the operator set's own defaults where the model gives none, and
    None where there is no default. `known` holds values known before any data arrives. `results`
    counts the node's results.
    """

    opset: int
    inputs: tuple[str, ...]
    types: Mapping[str, TensorType]
    known: Mapping[str, Known]
    attributes: Mapping[str, Any]
    results: int = 1

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an operand."""
        return self.types[self.inputs[index]].shape

    def has(self, index: int) -> bool:
        """Whether an optional operand is there."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def value(self, index: int, what: str) -> Known:
        """The known value of an operand; Unsupported if it is computed from data."""
        name = self.inputs[index]
        if name not in self.known:
            raise Unsupported(f"{what} is computed at run time")
        return self.known[name]

    def fixed(self, index: int, what: str) -> Any:
        """The value of an operand as Python numbers; Unsupported if the batch or data decide it."""
        known = self.value(index, what)
        if not known.fixed:
            raise Unsupported(f"{what} depends on the batch")
        return known.value.tolist()

    def integers(self, index: int, what: str) -> tuple[int, ...]:
        """The value of an operand as a tuple of integers."""
        values = self.fixed(index, what)
        values = values if isinstance(values, list) else [values]
        if not all(type(value) is int for value in values):
            raise Unsupported(f"{what} is no vector of integers")
        return tuple(values)

    def number(self, index: int, what: str) -> Any:
        """The value of an operand of one element."""
        value = np.asarray(self.fixed(index, what)).reshape(-1).tolist()
        if len(value) != 1:
            raise Unsupported(f"{what} is no scalar")
        return value[0]


Converted = tuple[tuple[str, ...], dict[str, Any]]
"""Operands and attributes of a node in the form that `ops` defines."""

Converter = Callable[[Call], Converted]
"""Raises Unsupported, or ValueError as type inference does, for what cannot be imported."""


def read_attributes(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> dict[str, Any]:
    """Attributes of `node` with the defaults of `schema`; ValueError if they do not fit it."""
    values = attribute_values(node)
    for attribute in node.attribute:
        name = attribute.name
        if name not in schema.attributes:
            raise ValueError(f"attribute {name!r} is not one of its attributes at this opset")
        kind = AttributeProto.AttributeType.Name(attribute.type)
        if schema.attributes[name].type != getattr(onnx.defs.OpSchema.AttrType, kind, None):
            raise ValueError(f"attribute {name!r} is {kind}, which the operator does not take")
    for name, rule in schema.attributes.items():
        if name not in values and rule.required:
            raise ValueError(f"attribute {name!r} is missing")
        if name not in values:
            values[name] = _python(rule.default_value) if rule.default_value.type else None
    return values


def attribute_values(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that `node` gives; ValueError if one is given twice."""
    values = {attribute.name: _python(attribute) for attribute in node.attribute}
    if len(values) < len(node.attribute):
        raise ValueError("gives an attribute twice")
    return values


def _python(attribute: AttributeProto) -> Any:
    if attribute.ref_attr_name:
        raise ValueError(f"attribute {attribute.name!r} refers to a function's attribute")
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value
