"""`python -m vtaflow.models NAME -o FILE.onnx` writes a builder's model."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import BUILDERS
from .onnx_writer import write_model


def main() -> None:
    """Parse the arguments, build, write."""
    builders = dict(BUILDERS)
    parser = argparse.ArgumentParser(
        prog="python -m vtaflow.models", description="Write a model with seeded random weights."
    )
    parser.add_argument("name", choices=sorted(builders), help="which model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    arguments = parser.parse_args()
    write_model(builders[arguments.name](), arguments.output)


if __name__ == "__main__":
    main()
