"""Taps: which output positions a kernel element feeds, and from which input positions.

A convolution is a sum over taps, and every tap is a rectangle of outputs that reads a rectangle
of inputs; padding is what the rectangles leave out. A transposed convolution is the same with
the roles of the steps exchanged. The interpreter and the schedules share this arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .layout import ceil_div

SECTIONS = "sections"
"""The attribute of a convolution whose weights differ between outputs, not kernel elements."""


@dataclass(frozen=True)
class Tap:
    """Along one axis: outputs `out + i*out_step` read inputs `inp + i*inp_step`, i < count.

    `kernel` is the weight's place along the axis: the kernel element, or the section.
    """

    kernel: int
    out: int
    out_step: int
    inp: int
    inp_step: int
    count: int

    @property
    def out_slice(self) -> slice:
        return slice(self.out, self.out + (self.count - 1) * self.out_step + 1, self.out_step)

    @property
    def inp_slice(self) -> slice:
        return slice(self.inp, self.inp + (self.count - 1) * self.inp_step + 1, self.inp_step)

    def within(self, low: int, high: int) -> Tap | None:
        """The part whose outputs lie in [low, high), or None if there is none."""
        first = max(0, ceil_div(low - self.out, self.out_step))
        last = min(self.count - 1, (high - 1 - self.out) // self.out_step)
        if last < first:
            return None
        return Tap(
            self.kernel,
            self.out + first * self.out_step,
            self.out_step,
            self.inp + first * self.inp_step,
            self.inp_step,
            last - first + 1,
        )


@dataclass(frozen=True)
class Window:
    """A kernel along one axis, with ONNX's attributes.

    `sections` are the first outputs of runs that have a weight of their own, the same for every
    element of the kernel: that of a mean which counts fewer values at the border. Without them
    every element has a weight, the same for every output.
    """

    kernel: int
    stride: int = 1
    pad_begin: int = 0
    pad_end: int = 0
    dilation: int = 1
    transposed: bool = False
    output_padding: int = 0
    ceil_mode: bool = False
    sections: tuple[int, ...] = ()

    @property
    def reach(self) -> int:
        """Inputs spanned by one output."""
        return (self.kernel - 1) * self.dilation + 1

    def outputs(self, inputs: int) -> int:
        """Length of the output by ONNX's formulas (Conv, ConvTranspose, MaxPool)."""
        if self.transposed:
            full = self.stride * (inputs - 1) + self.output_padding + self.reach
            return full - self.pad_begin - self.pad_end
        span = inputs + self.pad_begin + self.pad_end - self.reach
        if not self.ceil_mode:
            return span // self.stride + 1
        count = ceil_div(span, self.stride) + 1
        # A window that would start in the padding behind the input is left out.
        starts_inside = (count - 1) * self.stride < inputs + self.pad_begin
        return count if starts_inside else count - 1

    def taps(self, inputs: int) -> list[Tap]:
        """A tap for every kernel element, in every section, that reads at least one input."""
        outputs = self.outputs(inputs)
        made = (self._tap(element, inputs, outputs) for element in range(self.kernel))
        taps = [tap for tap in made if tap is not None]
        if not self.sections:
            return taps
        ends = (*self.sections[1:], outputs)
        parts = (
            replace(tap, kernel=section).within(low, high)
            for section, (low, high) in enumerate(zip(self.sections, ends, strict=True))
            for tap in taps
        )
        return [part for part in parts if part is not None]

    def _tap(self, element: int, inputs: int, outputs: int) -> Tap | None:
        offset = element * self.dilation - self.pad_begin
        if self.transposed:
            fast, slow = outputs, inputs
        else:
            fast, slow = inputs, outputs
        # The fast side is at `slow position * stride + offset`.
        first = max(0, ceil_div(-offset, self.stride))
        last = min(slow - 1, (fast - 1 - offset) // self.stride)
        if last < first:
            return None
        start, count = first * self.stride + offset, last - first + 1
        if self.transposed:
            return Tap(element, start, self.stride, first, 1, count)
        return Tap(element, first, 1, start, self.stride, count)


def windows(attrs: Mapping[str, Any], kernel: Sequence[int]) -> tuple[Window, Window]:
    """The windows along H and W of a node with ONNX's attributes, all of them present.

    `kernel` are the rows and columns of its weights. Where these are sections (`SECTIONS` gives
    their first outputs along H and W), the kernel has `kernel_shape`. ValueError if the sections
    and the weights do not go together.
    """
    top, left, bottom, right = attrs["pads"]
    sections = attrs.get(SECTIONS, ((), ()))
    if SECTIONS in attrs:
        if [len(firsts) for firsts in sections] != list(kernel):
            raise ValueError(f"weights for {tuple(kernel)} sections do not fit {sections}")
        kernel = attrs["kernel_shape"]
    pads = ((top, bottom), (left, right))
    return tuple(  # type: ignore[return-value]
        Window(
            kernel[axis],
            attrs["strides"][axis],
            *pads[axis],
            attrs["dilations"][axis],
            bool(attrs.get("transposed", False)),
            attrs.get("output_padding", (0, 0))[axis],
            bool(attrs.get("ceil_mode", False)),
            tuple(sections[axis]),
        )
        for axis in range(2)
    )
