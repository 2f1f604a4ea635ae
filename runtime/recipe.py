"""Recipes: what a deployment needs besides its model, in a file, so that it can be repeated.

A recipe is a small JSON file beside the model with the same stem:

    {"inputs": {"image": {"preprocessing": {"scale": 0.0039, "mean": 0.5, "std": 0.5}}},
     "calibration": "data/sample.npz#calib_images",
     "test": "data/sample.npz#test_images",
     "labels": "data/sample.npz#test_labels"}

References (see `data.py`) are relative to the recipe. Every problem is a DataError of one line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .preprocessing import Preprocessing
from .tensors import TensorInfo

MAX_RECIPE_BYTES = 1 << 20
REFERENCES = ("calibration", "test", "labels")
FIELDS = ("inputs", *REFERENCES)


@dataclass(frozen=True)
class Recipe:
    """What a recipe says; an empty one says nothing. References are paths from here."""

    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)
    calibration: str | None = None
    test: str | None = None
    labels: str | None = None
    source: str = ""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read and check a recipe file."""
        where = os.fspath(path)
        try:
            with open(path, "rb") as stream:
                raw = stream.read(MAX_RECIPE_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{where}: cannot read: {reason}") from None
        if len(raw) > MAX_RECIPE_BYTES:
            raise DataError(f"{where}: a recipe has at most {MAX_RECIPE_BYTES} bytes")
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON: {error}") from None
        return cls.from_json(value, where)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Recipe:
        """Check a parsed recipe; references become paths relative to the recipe's folder."""
        _require_fields(value, FIELDS, where)
        preprocessing = {}
        inputs = value.get("inputs", {})
        if not isinstance(inputs, dict):
            raise DataError(f"{where}: inputs: expected an object with one entry an input")
        for name, entry in inputs.items():
            _require_fields(entry, ("preprocessing",), f"{where}: inputs.{name}")
            if "preprocessing" in entry:
                preprocessing[name] = Preprocessing.from_json(
                    entry["preprocessing"], f"{where}: inputs.{name}.preprocessing"
                )
        references = {}
        for key in REFERENCES:
            reference = value.get(key)
            if reference is not None and (not isinstance(reference, str) or not reference):
                raise DataError(f"{where}: {key}: expected a reference like file.npz#key")
            references[key] = reference and str(Path(where).parent / reference)
        return cls(preprocessing, **references, source=where)

    def require_inputs(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise DataError if the recipe speaks of an input that the model does not have."""
        known = [tensor.name for tensor in tensors]
        for name in self.preprocessing:
            if name not in known:
                raise DataError(
                    f"{self.source}: the model has no input {name!r}, it has {', '.join(known)}"
                )

    def note(self) -> dict[str, Any] | None:
        """The preprocessing as the artifact keeps it, by input name."""
        return {name: each.to_json() for name, each in self.preprocessing.items()} or None


def find_recipe(model: str | os.PathLike[str]) -> Recipe:
    """The recipe beside the model with the same stem, or an empty one."""
    path = Path(model).parent / f"{Path(model).stem}.json"
    return Recipe.load(path) if path.is_file() else Recipe()


def preprocessing_of(note: Any, where: str) -> dict[str, Preprocessing]:
    """The inverse of `Recipe.note`; raises DataError."""
    return {
        name: Preprocessing.from_json(value, f"{where}: preprocessing.{name}")
        for name, value in (note or {}).items()
    }


def _require_fields(value: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with {', '.join(known)}")
    for name in value:
        if name not in known:
            raise DataError(f"{where}: unknown field {name!r}, known: {', '.join(known)}")
