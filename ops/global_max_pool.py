"""GlobalMaxPool: the largest value of every channel over its spatial axes."""

from __future__ import annotations

from .global_pool import global_pool

OPERATOR = global_pool("GlobalMaxPool", lambda x, axes: x.max(axis=axes, keepdims=True))
