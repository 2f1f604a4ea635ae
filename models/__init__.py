"""Models to deploy: trained ones with their recipes, and deterministic builders of well-known ones.

`BUILDERS` is the table of the latter; `python -m vtaflow.models NAME -o FILE.onnx` writes them.
This folder uses nothing else of vtaflow.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import ModelProto

from .mlp import mlp
from .mobilenet import mobilenet_v1, mobilenet_v2
from .resnet import resnet18, resnet50
from .vgg import vgg11

__all__ = ["BUILDERS"]

BUILDERS: tuple[tuple[str, Callable[[], ModelProto]], ...] = (
    ("mlp", mlp),
    ("mobilenet_v1", mobilenet_v1),
    ("mobilenet_v2", mobilenet_v2),
    ("resnet18", resnet18),
    ("resnet50", resnet50),
    ("vgg11", vgg11),
)
"""Name and builder, alphabetical; every builder has defaults for all its arguments."""
