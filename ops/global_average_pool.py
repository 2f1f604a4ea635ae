"""GlobalAveragePool: the mean of every channel over its spatial axes."""

from __future__ import annotations

from .global_pool import global_pool

OPERATOR = global_pool("GlobalAveragePool", lambda x, axes: x.mean(axis=axes, keepdims=True))
