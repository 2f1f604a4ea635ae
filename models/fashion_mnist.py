"""Reading Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT licence) from its four IDX files.

The Debian package `dataset-fashion-mnist` installs them; so does the data set's own home,
https://github.com/zalandoresearch/fashion-mnist. The folder is always an argument.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

HERE = Path(__file__).parent

MEAN = 0.2860
"""Mean of the training pictures, scaled to 0..1."""
STD = 0.3530
"""Standard deviation of the training pictures, scaled to 0..1."""


@dataclass(frozen=True)
class FashionMnist:
    """60,000 training and 10,000 test pictures: uint8[n, 28, 28] with labels uint8[n], 0..9."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


def read_idx(path: Path) -> Bytes:
    """The uint8 array of one gzipped IDX file (magic 00 00 08 rank, then big-endian sizes)."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path}: not a gzipped IDX file of unsigned bytes")
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4).tolist()
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_fashion_mnist(folder: Path) -> FashionMnist:
    """The whole data set from the folder that holds its four `.gz` files."""
    return FashionMnist(
        read_idx(folder / "train-images-idx3-ubyte.gz"),
        read_idx(folder / "train-labels-idx1-ubyte.gz"),
        read_idx(folder / "t10k-images-idx3-ubyte.gz"),
        read_idx(folder / "t10k-labels-idx1-ubyte.gz"),
    )


def script_arguments(description: str, output: Path) -> Any:
    """Parse the arguments common to the scripts that read the data set: `folder`, `output`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="folder with the four *-ubyte.gz files")
    parser.add_argument("-o", "--output", type=Path, default=output, help="default: %(default)s")
    return parser.parse_args()
