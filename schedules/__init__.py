"""Schedules: how each device node is blocked to fit the scratchpads."""

from __future__ import annotations

from .conv import ConvTemplate
from .dense import DenseTemplate
from .template import Template

TEMPLATES: tuple[Template, ...] = (DenseTemplate(), ConvTemplate())
"""Every template; the first that accepts a node takes it."""
