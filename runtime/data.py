"""Arrays in the user's files: samples and labels read for a model, outputs written.

A reference is `file.npz#key`, `file.npz`, `file.npy` or a folder of such files. Pickled arrays are
never loaded. Every problem is a DataError of one line.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from ..backend.artifact import write_whole
from ..errors import DataError
from .preprocessing import PLAIN, Array, Preprocessing, batched
from .tensors import TensorInfo

_BEGINNINGS = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")  # of .npy and .npz files
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises on files that are damaged, pickled or no arrays at all."""


def load_feeds(
    reference: str,
    tensors: Sequence[TensorInfo],
    preprocessing: Mapping[str, Preprocessing],
) -> dict[str, Array]:
    """The samples at `reference`, preprocessed, for every input; raises DataError."""
    arrays = load_samples(reference, tensors)
    feeds = {
        tensor.name: preprocessing.get(tensor.name, PLAIN).apply(
            arrays[tensor.name], tensor, f"{reference}: input {tensor.name!r}"
        )
        for tensor in tensors
    }
    counts = {name: len(array) for name, array in feeds.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{reference}: the inputs have different numbers of samples: {listed}")
    return feeds


def load_labels(reference: str) -> Array:
    """Class indices, int64[n]; raises DataError."""
    path, key = _split(reference)
    arrays = _read(path, key)
    if len(arrays) != 1:
        raise DataError(f"{reference}: say which array holds the labels: {_choices(path, arrays)}")
    (labels,) = arrays.values()
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not labels.size:
        raise DataError(
            f"{reference}: labels are integers, one a sample, found {labels.dtype}{labels.shape}"
        )
    return labels.astype(np.int64)


def random_feeds(tensors: Sequence[TensorInfo], count: int, seed: int) -> dict[str, Array]:
    """Seeded samples: normal for floating point, 0 or 1 for everything else."""
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for tensor in tensors:
        shape = (count, *tensor.sample)
        if np.dtype(tensor.dtype).kind == "f":
            feeds[tensor.name] = generator.standard_normal(shape).astype(tensor.dtype)
        else:
            feeds[tensor.name] = generator.integers(0, 2, shape).astype(tensor.dtype)
    return feeds


def save_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file completely or not at all; raises DataError."""
    try:
        write_whole(path, lambda stream: _write_npz(stream, arrays))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot write: {_reason(error)}") from None


def _write_npz(stream: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """As numpy.savez, which takes no array that is named like one of its own parameters."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def load_samples(reference: str, tensors: Sequence[TensorInfo]) -> dict[str, Array]:
    """The samples at `reference` as they are, for every input; raises DataError."""
    path, key = _split(reference)
    names = [tensor.name for tensor in tensors]
    if path.is_dir():
        if len(tensors) != 1:
            raise DataError(f"{reference}: a folder feeds one input, the model has {len(names)}")
        return {names[0]: _folder(path, tensors[0])}
    arrays = _read(path, key)
    if set(names) <= set(arrays):
        return {name: arrays[name] for name in names}
    if len(tensors) == 1 and len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}
    if len(tensors) == 1:
        raise DataError(f"{reference}: say which array to use: {_choices(path, arrays)}")
    raise DataError(
        f"{reference}: the model's inputs are {', '.join(names)}, the file has "
        f"{', '.join(arrays) or 'nothing'}"
    )


def _split(reference: str) -> tuple[Path, str | None]:
    """`file.npz#key` -> path and key. A `#` in a path counts only behind a file's suffix."""
    head, mark, key = reference.rpartition("#")
    if mark and head.endswith((".npz", ".npy")):
        return Path(head), key
    return Path(reference), None


def _choices(path: Path, arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{path.name}#{name}" for name in arrays) or "the file is empty"


def _read(path: Path, key: str | None) -> dict[str, Array]:
    """The arrays of one file by name; an .npy file has one, named like its stem."""
    try:
        with open(path, "rb") as stream:  # NumPy leaves a damaged archive open
            start = stream.read(len(_BEGINNINGS[0]))
            if not start.startswith(_BEGINNINGS):  # NumPy would advise to unpickle it
                raise DataError(f"{path}: cannot read arrays: is no .npy and no .npz file")
            stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                loaded = {path.stem: loaded}
            names = list(loaded)
            arrays = {name: loaded[name] for name in names if key in (None, name)}
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot read arrays: {_reason(error)}") from None
    if key is not None and key not in arrays:
        raise DataError(f"{path}: there is no array {key!r}, only {', '.join(names) or 'nothing'}")
    return arrays


def _folder(path: Path, tensor: TensorInfo) -> Array:
    """All samples of a folder, in the order of the file names."""
    files = sorted(one for one in path.iterdir() if one.suffix in (".npy", ".npz"))
    batches = list(_batches(files, tensor))
    if not batches:
        raise DataError(f"{path}: the folder has no .npy or .npz files")
    shapes = {batch.shape[1:] for batch in batches}
    if len(shapes) > 1:
        listed = " and ".join(map(str, sorted(shapes)[:2]))
        raise DataError(f"{path}: the samples have different shapes: {listed}")
    return np.concatenate(batches)


def _batches(files: Sequence[Path], tensor: TensorInfo) -> Iterator[Array]:
    """The arrays of all files, each with a batch axis; a file may hold one sample without it."""
    for file in files:
        for array in _read(file, None).values():
            yield batched(array, tensor)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
