"""Tensor data kept in files beside the model, read without leaving the model's folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx


def read_external(tensor: onnx.TensorProto, folder: Path | None, size: int) -> bytes:
    """The `size` bytes of `tensor` from its external file; ValueError says what is wrong with it.

    The file has to be a regular one inside `folder` (links are followed first) and hold the
    range of bytes that the model names, so that nothing is allocated that is not there.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ValueError("has external data, but the model was not read from a file")
    try:
        return _read(_inside(folder, location), entries, size)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise ValueError(f"external file {location!r} cannot be read: {error}") from None


def _read(path: Path, entries: dict[str, str], size: int) -> bytes:
    offset = _count(entries, "offset", 0)
    length = _count(entries, "length", size)
    available = os.path.getsize(path)
    if length != size:
        raise ValueError(f"has {length} bytes of external data, its shape and dtype need {size}")
    if offset + length > available:
        raise ValueError(
            f"external file {path.name!r} has {available} bytes, not {length} from {offset} on"
        )
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _inside(folder: Path, location: str) -> Path:
    """The regular file at `location`, if it lies inside `folder`."""
    if not location or "\0" in location:
        raise ValueError("external data names no file")
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if absolute or ".." in location.replace("\\", "/").split("/"):
        raise ValueError(f"external file {location!r} is outside the model's folder")
    root = folder.resolve()
    path = (root / location).resolve()
    if root not in path.parents:
        raise ValueError(f"external file {location!r} leads outside the model's folder")
    if not path.is_file():
        raise ValueError(f"external file {location!r} is missing or not a file")
    return path


def _count(entries: dict[str, str], key: str, default: int) -> int:
    """A non-negative number among the entries."""
    given = entries.get(key, str(default))
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise ValueError(f"external {key} {given[:40]!r} is no position in a file")
    return int(given)
