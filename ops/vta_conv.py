"""VtaConv: a two-dimensional convolution, plain, grouped or transposed, in VTA's integers.

Inputs: x int8 (N, C, H, W); weight int8 (O, C/group, kh, kw); then whatever the epilogue refers
to; then image and weight, both int8, of a shortcut if there is one (see shortcut.py), whose
products are added before the epilogue. A fused pool (see fused_pool.py) comes between sums and
epilogue. Attributes are ONNX's (`strides`, `pads`, `dilations`, `group`; `transposed` with
`output_padding` for ConvTranspose, whose weights stand here with the output channels first;
`sections` with `kernel_shape` where weights belong to sections, see taps.py) and `epilogue`,
`scale` of the output and its `zero_point` if that is not 0, `layout` of the output and `in_layout`
of x and of the shortcut's image.

Weights stay logical: the schedule packs them in the order in which it reads them. Padding lanes
are computed as the hardware computes them, with zero weights, biases and shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import epilogue, fused_pool, shortcut
from .convolution import convolve_integers, output_shape
from .layout import Layout
from .pooling import max_pool
from .taps import windows
from .types import Array, Attrs, Operator, TensorType


def _infer(kinds: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """int8 (N, O, H, W); ValueError when shapes, dtypes or layouts do not fit."""
    x, weight = kinds[:2]
    if len(x.shape) != 4 or x.dtype != "int8" or weight.dtype != "int8":
        raise ValueError(f"takes int8 (N, C, H, W) and int8 weights, got {x} and {weight}")
    if x.layout != attrs["in_layout"]:
        raise ValueError(f"takes x in layout {attrs['in_layout']}, got {x.layout}")
    outputs, depth, *kernel = weight.shape
    group = attrs["group"]
    if len(kernel) != 2 or depth * group != x.shape[1] or outputs % group:
        raise ValueError(f"weights {weight} in {group} groups do not fit {x}")
    if x.zero_point and any(attrs["pads"]):
        raise ValueError(f"pads with 0, the zero point of x is {x.zero_point}")
    shape = output_shape(x.shape, outputs, windows(attrs, kernel))
    pool = fused_pool.windows(attrs)
    if pool is not None:
        fused_pool.check(pool, shape[2:], attrs["epilogue"])
        shape = output_shape(shape, outputs, pool)
    quantisation = float(attrs["scale"]), attrs.get("zero_point", 0)
    output = TensorType(shape, "int8", attrs["layout"], *quantisation)
    operands = kinds[: len(kinds) - shortcut.inputs(attrs)]
    epilogue.check(attrs["epilogue"], operands, output)
    if shortcut.inputs(attrs):
        shortcut.check(kinds, attrs, shape)
        image, factors = kinds[-2:]
        if (image.dtype, factors.dtype, image.layout) != ("int8", "int8", x.layout):
            raise ValueError(f"takes a shortcut in int8 that lies like {x}, got {image}, {factors}")
        if not 0 <= attrs[shortcut.SHIFT] <= shortcut.MOST_SHIFT:
            raise ValueError(f"shifts its shortcut by {attrs[shortcut.SHIFT]}")
    return [output]


def accumulate(x: Array, weight: Array, attrs: Attrs, *beside: Array) -> Array:
    """int32 (N, O, H, W) products of logical int8 operands, exact, wrapping.

    `beside` are the image and the weight of a shortcut.
    """
    products = convolve_integers(x, weight, windows(attrs, weight.shape[2:]), attrs["group"])
    if beside:
        image, factors = beside
        added = convolve_integers(image, factors, shortcut.windows(attrs))
        products += added << np.int32(attrs[shortcut.SHIFT])
    return products


def _evaluate(arrays: Sequence[Array], attrs: Attrs) -> list[Array]:
    """The layer's definition: exact products, perhaps the greatest of them, the epilogue."""
    data, weight = arrays[:2]
    layout: Layout = attrs["in_layout"]
    channels = weight.shape[1] * attrs["group"]
    operands, beside = list(arrays), []
    if shortcut.inputs(attrs):
        *operands, image, factors = arrays
        beside = [layout.whole(image)[:, : factors.shape[1]], factors]
    acc = accumulate(layout.whole(data)[:, :channels], weight, attrs, *beside)
    pool = fused_pool.windows(attrs)
    if pool is not None:
        acc = max_pool(acc, pool)
    return [epilogue.finish(acc, attrs, operands)]


OPERATOR = Operator("VtaConv", _infer, _evaluate, (2, 10))
