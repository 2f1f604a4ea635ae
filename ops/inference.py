"""Type rules that several operators share: broadcasting, axes, dtypes.

Every function raises ValueError with a short reason, as `Operator.infer` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from .types import TensorType

FLOATS = ("float32", "float64")
INDICES = ("int32", "int64")


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of `shapes` by NumPy's (and ONNX's multidirectional) rule."""
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise ValueError("shapes " + " and ".join(map(text, shapes)) + " do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def axis_within(axis: int, rank: int) -> int:
    """`axis` counted from the front; negative ones count from the end."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank


def axes_within(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """`axes` counted from the front, all different."""
    result = tuple(axis_within(axis, rank) for axis in axes)
    if len(set(result)) < len(result):
        raise ValueError(f"axes {text(tuple(axes))} name an axis twice")
    return result


def plain(*kinds: TensorType) -> None:
    """Only unpacked values."""
    for kind in kinds:
        if kind.layout.packed:
            raise ValueError(f"takes plain values, not layout {kind.layout}")


def numbers(*kinds: TensorType) -> str:
    """Only plain, unquantised numbers of one dtype, which is returned."""
    plain(*kinds)
    for kind in kinds:
        if kind.scale is not None:
            raise ValueError("takes unquantised values")
        if kind.dtype == "bool":
            raise ValueError("takes numbers, not bool")
        if kind.dtype != kinds[0].dtype:
            raise ValueError(f"mixes {kinds[0].dtype} and {kind.dtype}")
    return kinds[0].dtype


def floats(*kinds: TensorType) -> str:
    """Only plain floating-point values of one dtype, which is returned."""
    dtype = numbers(*kinds)
    if dtype not in FLOATS:
        raise ValueError(f"takes {' or '.join(FLOATS)}, not {dtype}")
    return dtype


def text(shape: tuple[int, ...]) -> str:
    """A shape as messages show it."""
    return "[" + ",".join(map(str, shape)) + "]"
