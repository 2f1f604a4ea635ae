"""vtaflow: deploys neural networks on VTA, the open Versatile Tensor Accelerator.

The front door is lazy (PEP 562): importing the package reads no file and imports no room, so a
board without onnx can still import `vtaflow.runtime`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend.artifact import Artifact
    from .backend.target import Target
    from .compiler import compile
    from .evaluate import compare
    from .runtime.session import InferenceSession

__version__ = "0.1.0"

__all__ = ["Artifact", "InferenceSession", "Target", "compare", "compile"]

_HOME = {
    "Artifact": "backend.artifact",
    "InferenceSession": "runtime.session",
    "Target": "backend.target",
    "compare": "evaluate",
    "compile": "compiler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vtaflow' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
