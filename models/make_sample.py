"""Cuts `data/fashion_mnist_sample.npz`, which the recipes and the tests use, from the data set.

    python -m vtaflow.models.make_sample FOLDER

The first 1000 test pictures with their labels, and for calibration the first 200 training
pictures. Fashion-MNIST carries the MIT licence (copyright 2017 Zalando SE).
"""

from __future__ import annotations

import numpy as np

from .fashion_mnist import HERE, read_fashion_mnist, script_arguments

TEST = 1000
CALIBRATION = 200


def main() -> None:
    """Read, cut, write; equal input gives equal bytes."""
    sample = HERE / "data" / "fashion_mnist_sample.npz"
    arguments = script_arguments("Write the sample of Fashion-MNIST.", sample)
    data = read_fashion_mnist(arguments.folder)
    arguments.output.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        arguments.output,
        test_images=data.test_images[:TEST],
        test_labels=data.test_labels[:TEST],
        calib_images=data.train_images[:CALIBRATION],
    )


if __name__ == "__main__":
    main()
