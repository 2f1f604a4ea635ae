"""Models that do not ship, in the folder that the environment variable VTAFLOW_MODELS names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vtaflow.ops.types import Array

SHIPPED = Path(__file__).parent.parent / "models"
PIXELS = ("mnist", "resnet8", "squeezenet", "yunet")
"""Parts of the names of models that take values of 0 to 255."""


def model_path(name: str) -> Path:
    """A model that ships, or one of that folder; the test is skipped where neither is there."""
    for folder in (SHIPPED, Path(os.environ.get("VTAFLOW_MODELS", SHIPPED))):
        if (folder / f"{name}.onnx").is_file():
            return folder / f"{name}.onnx"
    pytest.skip(f"VTAFLOW_MODELS names no folder with {name}.onnx")


def sample(name: str, shape: tuple[int, ...], seed: int = 1) -> Array:
    """Random inputs of the size that the model takes."""
    values = np.random.default_rng(seed).standard_normal(shape)
    pixels = any(word in name for word in PIXELS)
    return (np.clip(100 + 60 * values, 0, 255) if pixels else values).astype(np.float32)
