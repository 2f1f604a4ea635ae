"""Device forms: float operators of images written as the few layers that VTA has.

A pool, an addition, an activation of its own, a resize or a padding is a convolution with
constant weights; what follows (quantisation, templates) then knows convolutions, max-pools and
little more. `device_form` gives the nodes that take an operator's place, `refusal` the reason why
there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt, prod
from typing import Any

import numpy as np

from ..ops.average_pool import counts
from ..ops.pad import pairs
from ..ops.resize import nearest
from ..ops.taps import SECTIONS, Window, windows
from ..ops.types import Array
from .edit import free_name
from .graph import Graph, Node

PLAIN_CONV: Mapping[str, Any] = {
    "strides": (1, 1),
    "pads": (0, 0, 0, 0),
    "dilations": (1, 1),
    "group": 1,
    "transposed": False,
    "output_padding": (0, 0),
    "min": None,
    "max": None,
}
"""Attributes of a FusedConv that does nothing beyond its weights."""


LARGEST_WINDOW = 32
"""Rows or columns beyond which a pool of the whole image is done in two steps."""


MOST_SECTIONS = 25
"""Of an average over rows and columns at once; beyond, rows come first and columns after them."""

LARGEST_CONSTANT = 10_000
"""In an image that is added: what masks with more would leave the other pixels no steps."""


class Refused(Exception):
    """The node has no device form; the message says why."""


@dataclass
class Form:
    """Nodes that take the place of `node`, and their constants.

    `taken` are names that nothing new may have; the new ones are added.
    """

    graph: Graph
    node: Node
    taken: set[str]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def conv(
        self,
        x: str,
        weight: Array,
        bias: Array | None = None,
        residual: str = "",
        part: str = "",
        **attrs: Any,
    ) -> str:
        """Add a FusedConv and return its result: that of `node`, or of a `part` on the way."""
        name, result = self._names(part)
        offset = np.zeros(len(weight)) if bias is None else bias
        constants = (("weight", weight), ("bias", offset))
        operands = (self._constant(f"{name}.{role}", array) for role, array in constants)
        inputs = (x, *operands, *([residual] if residual else []))
        self.nodes.append(
            replace(
                self.node,
                name=name,
                op="FusedConv",
                inputs=inputs,
                outputs=(result,),
                attrs={**PLAIN_CONV, **attrs},
            )
        )
        return result

    def diagonal(self, x: str, weight: Array, **rest: Any) -> str:
        """Add a depthwise FusedConv; `weight` is (C, kh, kw), or (C) for a factor a channel."""
        kernel = weight.reshape(len(weight), 1, *(weight.shape[1:] or (1, 1)))
        return self.conv(x, kernel, group=len(weight), **rest)

    def held(self, image: Array) -> str:
        """A constant image (1, C, H, W) as a value that the host makes for every sample."""
        name, result = self._names("constant")
        inputs = self.graph.inputs[0], self._constant(f"{name}.image", image)
        made = Node(name, "PerSample", inputs, (result,), {}, self.node.origin, "host")
        self.nodes.append(replace(made, reason="a constant image for VTA"))
        return result

    def max_pool(self, x: str, kernel: Sequence[int], part: str = "") -> str:
        """Add a MaxPool with as large strides; windows at the end may be cut off."""
        name, result = self._names(part)
        attrs = {key: PLAIN_CONV[key] for key in ("pads", "dilations")}
        attrs.update(strides=tuple(kernel), kernel_shape=tuple(kernel), ceil_mode=1)
        self.nodes.append(
            replace(
                self.node, name=name, op="MaxPool", inputs=(x,), outputs=(result,), attrs=attrs
            )
        )
        return result

    def _names(self, part: str) -> tuple[str, str]:
        """Names of a node and its result: those of `node`, or of a `part` on the way."""
        if not part:
            return self.node.name, self.node.outputs[0]
        return self._free(f"{self.node.name}.{part}"), self._free(f"{self.node.outputs[0]}.{part}")

    def _constant(self, wanted: str, array: Array) -> str:
        """Add a constant in float32 and return its name."""
        name = self._free(wanted)
        self.constants[name] = np.asarray(array, np.float32)
        return name

    def _free(self, wanted: str) -> str:
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        return name

    def image(self, value: str) -> tuple[int, ...]:
        """Shape of an image; Refused if it is something else."""
        kind = self.graph.types[value]
        if len(kind.shape) != 4 or kind.dtype != "float32":
            raise Refused(f"its operand is {kind}, not an image (N, C, H, W)")
        if value in self.graph.constants:
            raise Refused(f"its operand {value!r} is a constant")
        return kind.shape

    def per_channel(self, value: str, channels: int) -> Array:
        """A constant as float64 (channels); Refused if it differs within a channel."""
        if value not in self.graph.constants:
            raise Refused(f"its operand {value!r} is computed")
        array = self.graph.constants[value].astype(np.float64)
        shape = (1,) * (4 - array.ndim) + array.shape
        if shape[0] != 1 or shape[1] not in (1, channels) or shape[2:] != (1, 1):
            raise Refused(f"its constant {value!r} differs within a channel")
        return np.broadcast_to(array.reshape(-1), (channels,))


def device_form(graph: Graph, node: Node, taken: set[str]) -> Form:
    """What takes the place of `node`; raises Refused with the reason if nothing can.

    Its names are none of `taken`, to which they are added.
    """
    form = Form(graph, node, taken)
    FORMS[node.op](form)
    return form


def refusal(graph: Graph, node: Node) -> str | None:
    """Why `node`, an operator of FORMS, has no device form; None if it has one."""
    try:
        device_form(graph, node, set())
    except Refused as reason:
        return str(reason)
    return None


def _activation(form: Form) -> None:
    """Relu and Clip: an identity with bounds."""
    node = form.node
    channels = form.image(node.inputs[0])[1]
    bounds = {"min": node.attrs.get("min"), "max": node.attrs.get("max")}
    if node.op == "Relu":
        bounds = {"min": 0.0, "max": None}
    form.diagonal(node.inputs[0], np.ones(channels), **bounds)


def _leaky(form: Form) -> None:
    """LeakyRelu and PRelu: slope * x + (1 - slope) * max(x, 0)."""
    node = form.node
    channels = form.image(node.inputs[0])[1]
    if node.op == "PRelu":
        slope = form.per_channel(node.inputs[1], channels)
    else:
        slope = np.full(channels, float(node.attrs["alpha"]))
    if not (slope < 1).all():  # the factor of the positive part must be positive
        raise Refused("its slope is not below 1")
    positive = form.diagonal(node.inputs[0], 1 - slope, part="positive", min=0.0)
    form.diagonal(node.inputs[0], slope, residual=positive)


def _batch_normalization(form: Form) -> None:
    """BatchNormalization: a factor and an offset a channel."""
    x, *names = form.node.inputs
    channels = form.image(x)[1]
    if not all(name in form.graph.constants for name in names):
        raise Refused("its parameters are computed")
    scale, offset, mean, var = (form.graph.constants[name].astype(float) for name in names)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + form.node.attrs["epsilon"])
    if not np.isfinite(factor).all() or len(factor) != channels:
        raise Refused("its variance is not positive")
    form.diagonal(x, factor, bias=offset - mean * factor)


def _add(form: Form) -> None:
    """Add and Sub: an identity with a residual, perhaps constant, or an offset a channel."""
    left, right = form.node.inputs
    sign = -1.0 if form.node.op == "Sub" else 1.0
    if right in form.graph.constants:
        _add_constant(form, left, 1.0, right, sign)
    elif left in form.graph.constants:
        _add_constant(form, right, sign, left, 1.0)
    elif form.image(left) != form.image(right):
        raise Refused("its operands differ in shape")
    elif sign > 0:
        form.diagonal(left, np.ones(form.image(left)[1]), residual=right)
    else:
        form.diagonal(right, -np.ones(form.image(right)[1]), residual=left)


def _add_constant(form: Form, x: str, factor: float, constant: str, sign: float) -> None:
    """factor * x + sign * constant: an offset where that is one a channel, else a residual."""
    shape = (1, *form.image(x)[1:])
    array = sign * form.graph.constants[constant].astype(np.float64)
    if np.broadcast_shapes(array.shape, shape) != shape:
        raise Refused(f"its constant {constant!r} is larger than an image")
    weight, image = np.full(shape[1], factor), np.broadcast_to(array, shape)
    offset = image[:, :, :1, :1]
    if (image == offset).all():
        form.diagonal(x, weight, bias=offset.reshape(-1))
        return
    if not (np.abs(image) <= LARGEST_CONSTANT).all():
        raise Refused(f"its constant {constant!r} reaches beyond {LARGEST_CONSTANT}")
    form.diagonal(x, weight, residual=form.held(image))


def _neg(form: Form) -> None:
    """Neg: a convolution with -1."""
    (x,) = form.node.inputs
    form.diagonal(x, -np.ones(form.image(x)[1]))


def _multiply(form: Form) -> None:
    """Mul and Div: a factor a channel."""
    left, right = form.node.inputs
    if form.node.op == "Div":
        channels = form.image(left)[1]
        divisor = form.per_channel(right, channels)
        if not divisor.all():
            raise Refused("it divides by zero")
        form.diagonal(left, 1 / divisor)
        return
    constant, x = (left, right) if left in form.graph.constants else (right, left)
    channels = form.image(x)[1]
    form.diagonal(x, np.array(form.per_channel(constant, channels)))


def _average_pool(form: Form) -> None:
    """AveragePool: a depthwise convolution, in sections where the numbers of values differ."""
    node, x = form.node, form.node.inputs[0]
    sizes = form.image(x)[2:]
    along = windows(node.attrs, node.attrs["kernel_shape"])
    include = bool(node.attrs["count_include_pad"])
    rows, columns = (
        _Mean.of(size, window, include) for size, window in zip(sizes, along, strict=True)
    )
    if len(rows.sections) * len(columns.sections) > MOST_SECTIONS:
        x = _mean(form, x, rows, _Mean(), part="rows")
        rows = _Mean()
    _mean(form, x, rows, columns)


@dataclass(frozen=True)
class _Mean:
    """A mean along one axis: its window, where sections of outputs begin, and their weights."""

    window: Window = Window(1)
    sections: tuple[int, ...] = (0,)
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, size: int, window: Window, include_pad: bool) -> _Mean:
        """The mean over a window; what it reaches beyond its padding becomes padding."""
        values = np.maximum(counts(size, window, include_pad), 1)
        first = np.flatnonzero(np.diff(values, prepend=0))
        last = (window.outputs(size) - 1) * window.stride + window.reach
        end = max(window.pad_end, last - size - window.pad_begin)
        plain = replace(window, pad_end=end, ceil_mode=False)
        return cls(plain, tuple(first.tolist()), tuple((1 / values[first]).tolist()))


def _mean(form: Form, x: str, rows: _Mean, columns: _Mean, part: str = "") -> str:
    """Add the depthwise convolution that averages along both axes."""
    channels = form.graph.types[form.node.inputs[0]].shape[1]
    height, width = rows.window, columns.window
    attrs: dict[str, Any] = {
        "strides": (height.stride, width.stride),
        "dilations": (height.dilation, width.dilation),
        "pads": (height.pad_begin, width.pad_begin, height.pad_end, width.pad_end),
    }
    weight, kernel = np.outer(rows.weights, columns.weights), (height.kernel, width.kernel)
    if weight.size > 1:
        attrs.update({"kernel_shape": kernel, SECTIONS: (rows.sections, columns.sections)})
    else:
        weight = np.broadcast_to(weight, kernel)
    return form.diagonal(x, np.broadcast_to(weight, (channels, *weight.shape)), part=part, **attrs)


def _global_average_pool(form: Form) -> None:
    """GlobalAveragePool: a depthwise convolution with one output; of a large image, two."""
    (x,) = form.node.inputs
    _, channels, *sizes = form.image(x)
    rest, weight = tuple(sizes), 1 / prod(sizes)
    if max(sizes) > LARGEST_WINDOW:
        cells, rest = _cells(sizes)
        pads = (0, 0, *(n * cell - size for n, cell, size in zip(rest, cells, sizes, strict=True)))
        mean = np.full((channels, *cells), 1 / prod(cells))
        x = form.diagonal(x, mean, part="cells", strides=cells, pads=pads)
        weight *= prod(cells)
    form.diagonal(x, np.full((channels, *rest), weight))


def _global_max_pool(form: Form) -> None:
    """GlobalMaxPool: a max-pool with one output; of a large image, two."""
    sizes = form.image(form.node.inputs[0])[2:]
    if max(sizes) <= LARGEST_WINDOW:
        form.max_pool(form.node.inputs[0], sizes)
        return
    cells, rest = _cells(sizes)
    form.max_pool(form.max_pool(form.node.inputs[0], cells, part="cells"), rest)


def _cells(sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The size of the cells that an image is divided into, about its root, and their number."""
    cells = tuple(isqrt(size - 1) + 1 for size in sizes)
    return cells, tuple(-(-size // cell) for size, cell in zip(sizes, cells, strict=True))


def _reduce_mean(form: Form) -> None:
    """ReduceMean over height and width: a global average."""
    node = form.node
    form.image(node.inputs[0])
    if sorted(axis % 4 for axis in node.attrs["axes"]) != [2, 3] or not node.attrs["keepdims"]:
        raise Refused("only a mean over height and width that keeps them is a pool")
    _global_average_pool(form)


def _resize(form: Form) -> None:
    """Resize: the nearest pixel, where that repeats every pixel or keeps every n-th."""
    node = form.node
    shape = form.image(node.inputs[0])
    if node.attrs["mode"] != "nearest":
        raise Refused(f"{node.attrs['mode']} interpolation")
    if node.attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
        raise Refused("it crops")
    up, down = [1] * 4, [1] * 4
    for place, axis in enumerate(node.attrs["axes"]):
        size, result = shape[axis], node.attrs["sizes"][place]
        taken = nearest(size, result, place, node.attrs)
        up[axis], down[axis] = -(-result // size), -(-size // result)
        if not np.array_equal(taken, np.arange(result) // up[axis] * down[axis]):
            raise Refused("it does not scale by a whole number from the first pixel on")
    if up[:2] != [1, 1] or down[:2] != [1, 1] or (max(up) > 1 and max(down) > 1):
        raise Refused("it scales other axes than height and width, or one up and one down")
    if max(down) > 1:
        form.diagonal(node.inputs[0], np.ones(shape[1]), strides=tuple(down[2:]))
    elif max(up) > 1:
        strides = tuple(up[2:])
        weight = np.ones((shape[1], *strides))
        form.diagonal(node.inputs[0], weight, strides=strides, transposed=True)
    else:
        form.diagonal(node.inputs[0], np.ones(shape[1]))


def _pad(form: Form) -> None:
    """Pad with zeros: an identity with pads, or with more output channels."""
    node = form.node
    channels = form.image(node.inputs[0])[1]
    (front, back), (before, behind), (top, bottom), (left, right) = pairs(node.attrs)
    if node.attrs["mode"] != "constant" or node.attrs["value"] != 0:
        raise Refused("VTA pads with zeros only")
    if front or back or min(before, behind, top, bottom, left, right) < 0:
        raise Refused("it pads the batch, or cuts off")
    pads = (top, left, bottom, right)
    if not before + behind:
        form.diagonal(node.inputs[0], np.ones(channels), pads=pads)
        return
    weight = np.pad(np.eye(channels), ((before, behind), (0, 0)))
    form.conv(node.inputs[0], weight[:, :, None, None], pads=pads)


FORMS: dict[str, Callable[[Form], None]] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _activation,
    "Div": _multiply,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "LeakyRelu": _leaky,
    "Mul": _multiply,
    "Neg": _neg,
    "PRelu": _leaky,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _activation,
    "Resize": _resize,
    "Sub": _add,
}
"""How each operator is written as layers of the device."""
