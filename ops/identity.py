"""Identity: the value itself."""

from __future__ import annotations

from collections.abc import Sequence

from .types import Array, Attrs, Operator, TensorType


def same_type(kinds: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    """The operand's own type, layout and scale included."""
    return [kinds[0]]


def same_value(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    """The operand."""
    return [arrays[0]]


OPERATOR = Operator("Identity", same_type, same_value, (1, 1))
