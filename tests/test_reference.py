"""The CPU reference: what onnxruntime cannot run is a message, not a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from vtaflow.errors import ModelError
from vtaflow.frontend.reference import cpu_reference

from .onnx_models import build, floats, node

pytest.importorskip("onnxruntime")


def saved(folder: Path, **attrs: Any) -> Path:
    """A convolution of a picture."""
    nodes = [node("Conv", "x w", auto_pad="SAME_LOWER", **attrs)]
    model = build(nodes, {"w": floats(2, 3, 3, 3)}, {"x": ("N", 3, 9, 9)})
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def test_what_it_refuses_at_first(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: onnxruntime refuses the model: "):
        cpu_reference(saved(tmp_path, strides=[0, 0]))


def test_what_it_refuses_when_it_runs(tmp_path: Path) -> None:
    """Padding by itself and dilations are legal together, but not here."""
    reference = cpu_reference(saved(tmp_path, dilations=[2, 1]))
    with pytest.raises(ModelError, match=r"m\.onnx: onnxruntime cannot run the model: .*Dilation"):
        reference.run({"x": np.zeros((1, 3, 9, 9), np.float32)})
