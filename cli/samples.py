"""What goes through a model: samples and labels, given, of its recipe, or random.

What is wrong with them is a DataError of one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import DataError
from ..runtime.data import load_feeds, load_labels, load_samples, random_feeds
from ..runtime.preprocessing import Array
from ..runtime.recipe import Recipe, find_recipe
from ..runtime.tensors import TensorInfo
from .options import Options
from .outcome import UsageError

if TYPE_CHECKING:
    from ..runtime.session import InferenceSession

RANDOM_SAMPLES = 64


def recipe_of(options: Options) -> Recipe:
    """The recipe asked for, else the one beside the model; raises DataError."""
    return Recipe.load(options.recipe) if options.recipe else find_recipe(options.model)


def model_source(options: Options) -> tuple[Recipe, tuple[TensorInfo, ...]]:
    """The recipe and the inputs of the ONNX model; raises ModelError, DataError, UsageError."""
    from ..compiler import model_inputs

    if options.model.endswith(".vta"):
        raise UsageError(f"{options.model} is compiled already: deploy run {options.model}")
    recipe, inputs = recipe_of(options), model_inputs(options.model)
    recipe.require_inputs(inputs)
    return recipe, inputs


def calibration_samples(
    options: Options, recipe: Recipe, inputs: Sequence[TensorInfo]
) -> dict[str, Array] | None:
    """The calibration samples that were given, on the command line or by the recipe."""
    reference = options.calib or recipe.calibration
    return load_feeds(reference, inputs, recipe.preprocessing) if reference else None


def labelled_samples(
    options: Options, recipe: Recipe, inputs: Sequence[TensorInfo]
) -> tuple[dict[str, Array], Array | None]:
    """Samples and labels. The recipe's labels belong to the recipe's samples alone."""
    reference = options.input or recipe.test
    labels = options.labels or (None if options.input else recipe.labels)
    if reference is None:
        if labels:
            raise DataError(f"{labels}: labels need samples, give them with --input")
        return random_feeds(inputs, RANDOM_SAMPLES, options.seed), None
    feeds = load_feeds(reference, inputs, recipe.preprocessing)
    return feeds, _matching(load_labels(labels), labels, feeds) if labels else None


def session_samples(options: Options, session: InferenceSession) -> dict[str, Array]:
    """Samples for an artifact: raw from a file, else random feeds."""
    inputs = session.get_inputs()
    if options.input is None:
        if options.labels:
            raise DataError(f"{options.labels}: labels need samples, give them with --input")
        return random_feeds(inputs, RANDOM_SAMPLES, options.seed)
    if options.preprocessed:
        return load_feeds(options.input, inputs, {})
    return load_samples(options.input, inputs)


def count(feeds: Mapping[str, Array]) -> int:
    """How many samples there are."""
    return len(next(iter(feeds.values()), ()))


def _matching(labels: Array, reference: str, feeds: Mapping[str, Array]) -> Array:
    if len(labels) != count(feeds):
        raise DataError(f"{reference}: {len(labels)} labels for {count(feeds)} samples")
    return labels
