"""The float passes in their order: from ONNX operators to fused layers and host operators."""

from __future__ import annotations

from ..graph import Graph
from . import Stage, run_passes
from .drop_identities import drop_identities
from .fold_batch_normalization import fold_batch_normalization
from .fold_constants import fold_constants
from .fuse_activation import fuse_activation
from .make_dense import make_dense
from .merge_reshapes import merge_reshapes

SIMPLIFY: tuple[Stage, ...] = (
    Stage("fold_constants", fold_constants),
    Stage("merge_reshapes", merge_reshapes),
    Stage("drop_identities", drop_identities),
    Stage("make_dense", make_dense),
    Stage("fold_batch_normalization", fold_batch_normalization),
    Stage("fuse_activation", fuse_activation),
)


def simplify(graph: Graph) -> Graph:
    """`graph` after every stage of SIMPLIFY."""
    return run_passes(graph, SIMPLIFY)
