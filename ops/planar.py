"""Sliding windows over one or two spatial axes: a sequence is an image of height 1.

Conv, ConvTranspose and the pools share this. Attributes are ONNX's with everything explicit:
`strides` and `dilations` have an entry a spatial axis, `pads` one for every beginning, then one
for every end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from .inference import text
from .taps import Window, windows
from .types import Array, Attrs

_NEUTRAL = {"strides": 1, "dilations": 1, "output_padding": 0}


def planar(array: Array) -> Array:
    """(N, C, L) -> (N, C, 1, L); (N, C, H, W) as it is."""
    return array[:, :, None] if array.ndim == 3 else array


def flat(array: Array, rank: int) -> Array:
    """The inverse of `planar` for a result of `rank` axes."""
    return array[:, :, 0] if rank == 3 else array


def planar_windows(
    kernel: Sequence[int], attrs: Attrs, transposed: bool = False
) -> tuple[Window, Window]:
    """The windows of a kernel along H and W."""
    if len(kernel) == 2:
        return windows({**attrs, "transposed": transposed}, kernel)
    wide: dict[str, Any] = {**attrs, "transposed": transposed}
    for name, neutral in _NEUTRAL.items():
        if name in attrs:
            wide[name] = (neutral, *attrs[name])
    begin, end = attrs["pads"]
    wide["pads"] = (0, begin, 0, end)
    return windows(wide, (1, *kernel))


def slid_shape(
    shape: tuple[int, ...], kernel: Sequence[int], attrs: Attrs, transposed: bool = False
) -> tuple[int, ...]:
    """Spatial sizes after a kernel has slid over `shape` (N, C, ...).

    ValueError for other than one or two spatial axes, attributes out of their range, and kernels
    that do not fit.
    """
    spatial = len(shape) - 2
    if spatial not in (1, 2):
        raise ValueError(f"takes one or two spatial axes, not {text(shape)}")
    if len(kernel) != spatial or prod(kernel) < 1 or min(kernel) < 1:
        raise ValueError(f"a kernel {text(tuple(kernel))} does not slide over {text(shape)}")
    _check("strides", attrs, spatial, 1)
    _check("dilations", attrs, spatial, 1)
    _check("pads", attrs, 2 * spatial, 0)
    if transposed:
        _check("output_padding", attrs, spatial, 0)
    along = planar_windows(kernel, attrs, transposed)[-spatial:]
    sizes = tuple(window.outputs(size) for window, size in zip(along, shape[2:], strict=True))
    if min(sizes) < 1 or min(shape[2:]) < 1:
        raise ValueError(f"the kernel does not fit {text(shape)}, padded")
    return sizes


def _check(name: str, attrs: Mapping[str, Any], length: int, least: int) -> None:
    values = tuple(attrs[name])
    if len(values) != length:
        raise ValueError(f"{name} {text(values)} has {len(values)} entries, needs {length}")
    if min(values) < least:
        raise ValueError(f"{name} {text(values)} has an entry below {least}")
