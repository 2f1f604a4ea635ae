"""Converters of operators whose operands say how large the result is: Resize, Pad, Expand ..."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, isfinite
from typing import Any

import numpy as np

from ..ops import resize as resizing
from ..ops.inference import axes_within, axis_within, broadcast
from .call import Call, Converted, Unsupported
from .tensors import to_array


def upsample(call: Call) -> Converted:
    """Upsample (opset 7 to 9), and Resize of opset 10, which has the same meaning."""
    scales = call.attributes.get("scales")
    if scales is None:
        scales = call.fixed(1, "scales")
    rank = len(call.shape())
    return _resized(call, range(rank), scales, None, "asymmetric", "simple")


def resize(call: Call) -> Converted:
    """Resize: axes that keep their size are left out."""
    if call.opset < 11:
        return upsample(call)
    attrs, rank = call.attributes, len(call.shape())
    for name, only in (("antialias", 0), ("keep_aspect_ratio_policy", "stretch")):
        if attrs.get(name, only) != only:
            raise Unsupported(f"{name}={attrs[name]} is not supported")
    named = attrs.get("axes")
    axes = range(rank) if named is None else axes_within(named, rank)
    scales = call.fixed(2, "scales") if _filled(call, 2) else None
    sizes = _sizes(call, axes) if _filled(call, 3) else None
    if (scales is None) == (sizes is None):
        raise ValueError("needs either scales or sizes")
    return _resized(
        call, axes, scales, sizes, attrs["coordinate_transformation_mode"], attrs["nearest_mode"]
    )


def _filled(call: Call, index: int) -> bool:
    """Whether an operand is there and not empty."""
    return call.has(index) and call.shape(index) != (0,)


def _sizes(call: Call, axes: Sequence[int]) -> list[int]:
    """The sizes of the result; that of axis 0 may be the batch."""
    known = call.value(3, "sizes")
    for axis, size, probe in zip(axes, known.value.tolist(), known.probe.tolist(), strict=False):
        if size != probe and not (axis == 0 and probe - size == 1 and size == call.shape()[0]):
            raise Unsupported("sizes depend on the batch beyond axis 0")
    return [int(size) for size in known.value.reshape(-1)]


def _resized(
    call: Call,
    axes: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    transformation: str,
    nearest: str,
) -> Converted:
    mode = call.attributes["mode"]
    for given, known, what in (
        (mode, resizing.MODES, "mode"),
        (transformation, resizing.TRANSFORMATIONS, "coordinate_transformation_mode"),
        (nearest, resizing.NEAREST, "nearest_mode"),
    ):
        if given not in known:
            raise Unsupported(f"{what} {given!r} is not supported")
    if len(scales or sizes or ()) != len(axes):
        raise ValueError(f"has sizes for {len(scales or sizes or ())} axes of {len(axes)}")
    crops = transformation == "tf_crop_and_resize"
    changed = []
    for axis, (size, scale), part in zip(
        axes, _results(call, axes, scales, sizes), _parts(call, axes, crops), strict=True
    ):
        if (size, scale, part) != (call.shape()[axis], 1, (0, 1)):
            changed.append((axis, size, scale, part))
    attrs: dict[str, Any] = {
        "axes": tuple(axis for axis, *_ in changed),
        "sizes": tuple(size for _, size, *_ in changed),
        "scales": tuple(scale for _, _, scale, _ in changed),
        "mode": mode,
        "coordinate_transformation_mode": transformation,
        "nearest_mode": nearest,
    }
    if crops:
        starts, ends = zip(*(part for *_, part in changed), strict=True) if changed else ((), ())
        attrs.update(roi=(*starts, *ends))
        attrs.update(extrapolation_value=call.attributes["extrapolation_value"])
    return call.inputs[:1], attrs


def _results(
    call: Call,
    axes: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
) -> Iterator[tuple[int, float]]:
    """Size of the result and scale for each of `axes`, from one or the other."""
    for place, axis in enumerate(axes):
        before = call.shape()[axis]
        if scales is None:
            assert sizes is not None
            yield sizes[place], sizes[place] / before
            continue
        scale = float(scales[place])
        if not (isfinite(scale) and scale > 0):
            raise ValueError(f"scale {scale} is not positive")
        yield floor(float(np.float32(scale) * np.float32(before))), scale


def _parts(call: Call, axes: Sequence[int], crops: bool) -> list[tuple[float, float]]:
    """Where the part of each of `axes` that is resized begins and ends, in parts of the whole."""
    if not crops:
        return [(0, 1)] * len(axes)
    roi = call.fixed(1, "roi")
    if len(roi) != 2 * len(axes):
        raise ValueError(f"roi has {len(roi)} entries, needs {2 * len(axes)}")
    return list(zip(roi[: len(axes)], roi[len(axes) :], strict=True))


def pad(call: Call) -> Converted:
    """Pad: an entry for both ends of every axis."""
    rank, value = len(call.shape()), call.attributes.get("value")
    if call.opset < 11:
        given, axes = tuple(call.attributes["pads"]), tuple(range(rank))
    else:
        given = call.integers(1, "pads")
        axes = tuple(range(rank))
        if call.has(3):
            axes = axes_within(call.integers(3, "axes"), rank)
        value = call.number(2, "constant_value") if call.has(2) else 0
    if len(given) != 2 * len(axes):
        raise ValueError(f"has {len(given)} pads for {len(axes)} axes")
    pads = [0] * 2 * rank
    for place, axis in enumerate(axes):
        pads[axis], pads[rank + axis] = given[place], given[len(axes) + place]
    return call.inputs[:1], {"pads": tuple(pads), "mode": call.attributes["mode"], "value": value}


def expand(call: Call) -> Converted:
    """Expand: a leading 1 stands for the batch, which is there already."""
    shape, target = call.shape(), call.value(1, "shape")
    entries, probe = target.value.tolist(), target.probe.tolist()
    if entries[1:] != probe[1:]:
        raise Unsupported("shape depends on the batch beyond axis 0")
    result = broadcast(shape, tuple(entries))
    same = len(result) == len(shape) == len(entries) and result[:1] == shape[:1]
    if entries != probe and (not same or call.inputs[0] in call.known):
        raise Unsupported("shape has the batch on axis 0, where the operand has none")
    if same:
        entries[:1] = [1] * len(entries[:1])
    return call.inputs[:1], {"shape": tuple(entries)}


def tile(call: Call) -> Converted:
    """Tile: the repeats are an attribute."""
    return call.inputs[:1], {"repeats": call.integers(1, "repeats")}


def split(call: Call) -> Converted:
    """Split: the length of every piece."""
    shape = call.shape()
    axis = axis_within(call.attributes["axis"], len(shape))
    lengths = call.attributes.get("split")
    if call.has(1):
        lengths = call.integers(1, "split")
    if lengths is None:
        lengths = _equal_pieces(shape[axis], call.results, call.opset >= 18)
    if len(lengths) != call.results:
        raise ValueError(f"has {call.results} results, but {len(lengths)} lengths")
    return call.inputs[:1], {"axis": axis, "split": tuple(lengths)}


def _equal_pieces(size: int, count: int, last_smaller: bool) -> list[int]:
    length = -(-size // count)
    if size % count and not (last_smaller and size > length * (count - 1)):
        raise ValueError(f"{size} cannot be split into {count} equal pieces")
    return [length] * (count - 1) + [size - length * (count - 1)]


def constant_of_shape(call: Call) -> Converted:
    """ConstantOfShape: shape, value and dtype are attributes."""
    shape = call.integers(0, "shape") if call.shape() != (0,) else ()
    tensor = call.attributes["value"]
    if tensor is None:
        return (), {"shape": shape, "value": 0.0, "dtype": "float32"}
    value = to_array(tensor, None)
    if value.size != 1:
        raise ValueError("value is no single number")
    return (), {"shape": shape, "value": value.reshape(-1)[0].item(), "dtype": str(value.dtype)}
