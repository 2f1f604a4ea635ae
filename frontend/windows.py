"""Converters of operators that slide a kernel: padding becomes explicit, defaults become values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ops.inference import text
from .call import Call, Converted, Unsupported


def conv(call: Call) -> Converted:
    """Conv: strides, pads and dilations for every spatial axis."""
    kernel = _kernel(call, call.shape(1)[2:])
    attrs = _window(call, kernel)
    return call.inputs, {**attrs, "group": call.attributes["group"]}


def conv_transpose(call: Call) -> Converted:
    """ConvTranspose: an output_shape becomes the pads that make it."""
    kernel = _kernel(call, call.shape(1)[2:])
    strides, dilations = _each(call, "strides", 1), _each(call, "dilations", 1)
    extra = _each(call, "output_padding", 0)
    auto, wanted = call.attributes["auto_pad"], call.attributes["output_shape"]
    attrs = {
        "strides": strides,
        "dilations": dilations,
        "group": call.attributes["group"],
        "output_padding": extra,
    }
    same = auto in ("SAME_UPPER", "SAME_LOWER")
    if wanted is None and not same:
        pads = (0,) * 2 * len(kernel) if auto == "VALID" else _given_pads(call)
        return call.inputs, {**attrs, "pads": pads}
    if wanted and len(wanted) < len(kernel):
        raise ValueError(f"output_shape {text(tuple(wanted))} has an entry for not every axis")
    ends = []
    for axis, size in enumerate(_spatial(call)):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        full = strides[axis] * (size - 1) + extra[axis] + reach
        target = wanted[axis - len(kernel)] if wanted else size * strides[axis]
        if wanted and target > full:
            raise ValueError(f"output_shape {text(tuple(wanted))} is larger than {full} on an axis")
        half, rest = _halves(max(0, full - target))
        ends.append((half, rest) if auto == "SAME_UPPER" else (rest, half))
    return call.inputs, {**attrs, "pads": _in_order(ends)}


def max_pool(call: Call) -> Converted:
    """MaxPool without its indices."""
    kernel = _kernel(call, None)
    attrs = {"kernel_shape": kernel, **_window(call, kernel)}
    return call.inputs, {**attrs, "ceil_mode": call.attributes.get("ceil_mode") or 0}


def average_pool(call: Call) -> Converted:
    """AveragePool."""
    operands, attrs = max_pool(call)
    return operands, {**attrs, "count_include_pad": call.attributes["count_include_pad"]}


def _spatial(call: Call) -> tuple[int, ...]:
    """Sizes of the spatial axes of the first operand."""
    shape = call.shape()
    if len(shape) > 4:
        raise Unsupported(f"has {len(shape) - 2} spatial axes, at most 2 are supported")
    if len(shape) < 3:
        raise ValueError(f"takes a batch, a channel and spatial axes, not {text(shape)}")
    return shape[2:]


def _kernel(call: Call, inferred: tuple[int, ...] | None) -> tuple[int, ...]:
    """kernel_shape, which has to agree with what the weights say."""
    given = call.attributes["kernel_shape"]
    spatial = len(_spatial(call))
    kernel = inferred if given is None else tuple(given)
    assert kernel is not None  # where there are no weights, the attribute is required
    if inferred is not None and kernel != inferred:
        raise ValueError(f"kernel_shape {text(kernel)} differs from the weight's {text(inferred)}")
    if len(kernel) != spatial:
        raise ValueError(f"a kernel {text(kernel)} does not slide over {text(call.shape())}")
    return kernel


def _window(call: Call, kernel: tuple[int, ...]) -> dict[str, Any]:
    strides, dilations = _each(call, "strides", 1), _each(call, "dilations", 1)
    auto = call.attributes["auto_pad"]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(_spatial(call), kernel, strides, dilations, auto == "SAME_UPPER")
    elif auto == "VALID":
        pads = (0,) * 2 * len(kernel)
    else:
        pads = _given_pads(call)
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _given_pads(call: Call) -> tuple[int, ...]:
    auto = call.attributes["auto_pad"]
    if auto != "NOTSET":
        raise Unsupported(f"auto_pad {auto!r} is not supported")
    given = call.attributes["pads"]
    return tuple(given) if given is not None else (0,) * 2 * len(_spatial(call))


def _same(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    more_behind: bool,
) -> tuple[int, ...]:
    """Pads that make ceil(size / stride) outputs; an odd one goes behind, or before."""
    if min(strides) < 1:
        raise ValueError(f"strides {text(tuple(strides))} has an entry below 1")
    ends = []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        outputs = -(-size // stride)
        total = max(0, (outputs - 1) * stride + (taps - 1) * dilation + 1 - size)
        half, rest = _halves(total)
        ends.append((half, rest) if more_behind else (rest, half))
    return _in_order(ends)


def _halves(total: int) -> tuple[int, int]:
    """The smaller and the larger half."""
    return total // 2, total - total // 2


def _in_order(ends: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """(begin, end) of every axis -> all begins, then all ends."""
    return (*(begin for begin, _ in ends), *(end for _, end in ends))


def _each(call: Call, name: str, default: int) -> tuple[int, ...]:
    """An attribute with an entry for every spatial axis."""
    spatial = len(_spatial(call))
    given = call.attributes.get(name)
    values = (default,) * spatial if given is None else tuple(given)
    if len(values) != spatial:
        raise ValueError(f"{name} {text(values)} has {len(values)} entries, needs {spatial}")
    return values
