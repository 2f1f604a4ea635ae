"""Schedules: how each device node is blocked to fit the scratchpads."""

from __future__ import annotations

from .concat import ConcatTemplate
from .conv import ConvTemplate
from .dense import DenseTemplate
from .max_pool import MaxPoolTemplate
from .template import Template

TEMPLATES: tuple[Template, ...] = (
    DenseTemplate(),
    ConvTemplate(),
    MaxPoolTemplate(),
    ConcatTemplate(),
)
"""Every template; the first that accepts a node takes it."""
