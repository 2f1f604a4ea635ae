"""Options that several verbs have, in groups, and what their values may be."""

from __future__ import annotations

import argparse
from pathlib import Path

Options = argparse.Namespace

EMULATOR = "emulator"
"""A target's name on the command line that is short for a target on a device, the two below."""
TARGET_OF_EMULATOR, DEVICE_OF_EMULATOR = "pynq", "emulator"

DATA_TITLE = "data (REF: FILE.npz#key, FILE.npz, FILE.npy or a folder; raw, as the recipe takes it)"
CALIBRATION_METHODS = ("mse", "minmax", "percentile", "entropy")
WEIGHT_ROUNDINGS = ("nearest", "compensated")
QUANTISER_STEPS = {
    "bias_correction": "correct biases by what rounding does to the means",
    "input_offset": "give lopsided inputs a zero point",
    "equalise": "even out the ranges of channels across layers",
    "activation_offsets": "give activations that are never negative a zero point",
}
"""Steps of the quantiser that can be left out -> what each does."""


def add_talk(parser: argparse.ArgumentParser) -> None:
    """What is printed; every verb has these."""
    group = parser.add_argument_group("what is printed")
    group.add_argument("--json", action="store_true", help="one JSON object alone on stdout")
    group.add_argument("-v", "--verbose", action="store_true", help="name the stages on stderr")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="nothing but warnings, errors and --json"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """An ONNX file."""
    parser.add_argument("model", metavar="MODEL.onnx", help="the float model")


def add_artifact(parser: argparse.ArgumentParser) -> None:
    """A compiled model."""
    parser.add_argument("artifact", metavar="MODEL.vta", help="a compiled model")


def add_target(parser: argparse.ArgumentParser, default: str | None = "sim") -> None:
    """The hardware that a model is for."""
    parser.add_argument(
        "--target",
        default=default,
        metavar="T",
        help=f"a bundled target's name or the path of a VTA JSON file; {EMULATOR} is short for "
        f"{TARGET_OF_EMULATOR} on device {DEVICE_OF_EMULATOR} "
        f"(default: {default or 'that of the artifact, else sim'})",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """What executes streams on this machine."""
    parser.add_argument(
        "--device", metavar="D", help="where streams run: sim (default), emulator or board"
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Where streams run: here or on a server."""
    add_device(parser)
    parser.add_argument("--bitstream", metavar="PATH",
                        help="of --device board (default: the target's in the cache)")
    group = parser.add_argument_group("a board across the network")
    group.add_argument("--host", metavar="URL",
                       help="run on the server there, such as http://192.168.2.99:8000 "
                       "(default for board targets: VTA_RPC_HOST and VTA_RPC_PORT)")
    group.add_argument("--token-file", metavar="FILE", help="the server's bearer token")


def add_data(parser: argparse.ArgumentParser) -> None:
    """The samples that go through an ONNX model."""
    group = parser.add_argument_group(DATA_TITLE)
    group.add_argument("--input", metavar="REF", help="samples to run (default: recipe, random)")
    group.add_argument("--labels", metavar="REF", help="their class indices")
    add_recipe(group)


def add_recipe(group: argparse._ArgumentGroup) -> None:
    """Where data comes from if it is not named."""
    group.add_argument("--recipe", metavar="FILE", help="default: MODEL.json beside the model")
    add_seed(group)


def add_seed(group: argparse._ArgumentGroup) -> None:
    """What random data begins with."""
    group.add_argument("--seed", type=int, default=0, help="of random data (default: 0)")


def add_compilation(parser: argparse.ArgumentParser, target: str | None = "sim") -> None:
    """All that a compilation takes besides its model."""
    add_target(parser, target)
    group = parser.add_argument_group("compilation")
    add_layers(group)
    group.add_argument("--tiles", type=_tiles, action="append", default=[],
                       metavar="LAYER:KEY=V,...", help="override a layer's schedule")
    group.add_argument("--dump-stages", metavar="DIR", help="write every stage's graph as text")
    group.add_argument("--stop-after", metavar="STAGE", help="print that stage's graph and stop")


def add_layers(group: argparse._ArgumentGroup) -> None:
    """What decides which layers a model has on VTA."""
    group.add_argument("--calib", metavar="REF", help="calibration samples")
    group.add_argument("--calib-method", choices=CALIBRATION_METHODS, default="mse")
    group.add_argument("--weight-rounding", choices=WEIGHT_ROUNDINGS, default="compensated",
                       help="compensated: each weight makes up for the errors of those before it")
    for name, what in QUANTISER_STEPS.items():
        group.add_argument(f"--no-{name.replace('_', '-')}", dest=name, action="store_false",
                           help=f"do not {what}")
    group.add_argument("--batch", type=positive, default=1, metavar="N", help="compiled batch")
    group.add_argument("--place", type=_placement, action="append", default=[],
                       metavar="NODE=DEVICE", help="put an ONNX node on vta or host")
    group.add_argument("--keep-intermediates", action="store_true",
                       help="let every layer's output be read after a run")
    group.add_argument("--log", metavar="FILE", type=Path,
                       help="decisions about schedules (default: the user's cache)")


def add_cluster(parser: argparse._ActionsContainer, what: str) -> None:
    """A cluster for what takes long; `what` it is for."""
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT",
                        help=f"{what} a Dask cluster (needs vtaflow[cluster])")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """What a comparison must keep."""
    group = parser.add_argument_group("limits (exit code 1 beyond them)")
    group.add_argument("--min-sqnr", type=float, metavar="DB", help="for every output")
    group.add_argument("--max-drop", type=float, metavar="POINTS",
                       help="of accuracy, in percentage points")


def positive(text: str) -> int:
    """The value of an option that counts; raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return int(text)


def _placement(text: str) -> tuple[str, str]:
    node, _, device = text.rpartition("=")
    if not node or device not in ("vta", "host"):
        raise argparse.ArgumentTypeError(f"expected NODE=vta or NODE=host, found {text!r}")
    return node, device


def _tiles(text: str) -> tuple[str, dict[str, int | str]]:
    layer, _, fields = text.rpartition(":")
    pairs = [field.partition("=") for field in fields.split(",")]
    if not layer or not all(key and value for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expected LAYER:KEY=VALUE,KEY=VALUE, found {text!r}")
    return layer, {key: int(value) if value.isdecimal() else value for key, _, value in pairs}
