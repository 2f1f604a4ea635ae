"""The float passes in their order: from ONNX operators to fused layers and host operators."""

from __future__ import annotations

from ..graph import Graph
from . import Stage, run_passes
from .activate_first import activate_first
from .canonicalise import canonicalise
from .drop_identities import drop_identities
from .fold_batch_normalization import fold_batch_normalization
from .fold_constants import fold_constants
from .fold_pads import fold_pads
from .fuse_activation import fuse_activation
from .fuse_residual import fuse_residual
from .lift_sequences import lift_sequences
from .make_conv import make_conv
from .make_dense import make_dense
from .make_flatten import make_flatten
from .merge_reshapes import merge_reshapes

SIMPLIFY: tuple[Stage, ...] = (
    Stage("fold_constants", fold_constants),
    Stage("canonicalise", canonicalise),
    Stage("lift_sequences", lift_sequences),
    Stage("merge_reshapes", merge_reshapes),
    Stage("drop_identities", drop_identities),
    Stage("make_flatten", make_flatten),
    Stage("make_dense", make_dense),
    Stage("make_conv", make_conv),
    Stage("fold_batch_normalization", fold_batch_normalization),
    Stage("fold_pads", fold_pads),
    Stage("fuse_residual", fuse_residual),
    Stage("activate_first", activate_first),
    Stage("fuse_activation", fuse_activation),
)


def simplify(graph: Graph) -> Graph:
    """`graph` after every stage of SIMPLIFY."""
    return run_passes(graph, SIMPLIFY)
