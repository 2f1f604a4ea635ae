"""Accuracy of public models on VTA beside float32 on the CPU.

    python benchmarks/accuracy.py [--json] [--models DIR] [--data DIR] [MODEL ...]

MODEL is a name of the table below, all by default. A folder of models or data that is absent
leaves its rows out, with a message. Folders default to VTAFLOW_MODELS and VTAFLOW_DATA. Pictures
are read with Pillow (`pip install pillow`).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vtaflow
from vtaflow.compiler import CompileOptions
from vtaflow.frontend.reference import cpu_reference
from vtaflow.graph.calibration import batches
from vtaflow.graph.graph import Graph, Node
from vtaflow.graph.interpret import interpret

PART_BYTES = 1 << 16
"""Of logits at a time: a few dozen pictures."""

OWN_MODELS = Path(__file__).parent.parent / "models"

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Inputs as they enter the model; `labels` is None where there are none."""

    calibration: Array
    test: Array
    labels: Array | None


Loader = Callable[[Path], Samples]


def mnist(folder: Path) -> Samples:
    """28 x 28 pictures, 0..255."""
    data = np.load(folder / "mnist.npz")
    calibration, test = (
        data[key].reshape(-1, 1, 28, 28).astype(np.float32)
        for key in ("calib_images", "test_images")
    )
    return Samples(calibration, test, data["test_labels"])


def cifar(folder: Path, scale: float, mean: Sequence[float], std: Sequence[float]) -> Samples:
    """32 x 32 RGB pictures: (raw * scale - mean) / std."""
    data = np.load(folder / "cifar10.npz")

    def prepared(key: str) -> Array:
        scaled = (data[key].astype(np.float32) * scale - np.float32(mean)) / np.float32(std)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    return Samples(prepared("calib_images"), prepared("test_images"), data["test_labels"])


def speech(folder: Path) -> Samples:
    """49 x 10 cepstral coefficients, quantised by the data set's authors."""
    data = np.load(folder / "speech_commands_mfcc.npz")
    calibration, test = (
        ((data[key].astype(np.float32) - 83) * 0.5847029).transpose(0, 3, 1, 2).copy()
        for key in ("calib_mfcc", "test_mfcc")
    )
    return Samples(calibration, test, data["test_labels"])


@dataclass(frozen=True)
class Picture:
    """How a 256 x 256 picture becomes an input: centre crop, resize, (value - mean) / std."""

    crop: int
    size: int
    mean: tuple[float, ...] = (0.0,)
    std: float = 1.0
    blue_first: bool = False
    first_class: int = 0

    def prepare(self, raw: bytes) -> Array:
        """Encoded picture -> float32 (3, size, size)."""
        from PIL import Image

        image = Image.open(io.BytesIO(raw)).convert("RGB")
        edge = (image.width - self.crop) // 2
        image = image.crop((edge, edge, edge + self.crop, edge + self.crop))
        if self.size != self.crop:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        values = np.asarray(image, np.float32)
        if self.blue_first:
            values = values[:, :, ::-1]
        values = (values - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def imagenet(folder: Path, picture: Picture, most: int | None = None) -> Samples:
    """Pictures of the calibration and of the test split, at most `most` of the latter."""
    with zipfile.ZipFile(folder / "imagenet_sample.zip") as archive:
        parts: dict[str, tuple[Array, Array]] = {}
        for split in ("calib", "test"):
            rows = _labels(archive, split)[: most if split == "test" else None]
            images = np.stack([picture.prepare(archive.read(name)) for name, _ in rows])
            labels = np.array([label + picture.first_class for _, label in rows])
            parts[split] = images, labels
    return Samples(parts["calib"][0], *parts["test"])


def _labels(archive: zipfile.ZipFile, split: str) -> list[tuple[str, int]]:
    """(member, class) of every picture of a split."""
    listing = next(
        name for name in archive.namelist() if name.endswith("labels.csv") and split in name
    )
    lines = archive.read(listing).decode().splitlines()
    columns = lines[0].split(",")
    file, label = columns.index("file"), columns.index("class_index")
    parent = listing.rpartition("/")[0]
    found = []
    for line in lines[1:]:
        fields = line.split(",")
        name = fields[file] if fields[file] in archive.NameToInfo else f"{parent}/{fields[file]}"
        found.append((name, int(fields[label])))
    return found


def fashion(folder: Path) -> Samples:
    """The sample that ships with the models; `folder` is not used."""
    data = np.load(OWN_MODELS / "data" / "fashion_mnist_sample.npz")
    calibration, test = (
        ((data[key].reshape(-1, 1, 28, 28) / 255 - 0.286) / 0.353).astype(np.float32)
        for key in ("calib_images", "test_images")
    )
    return Samples(calibration, test, data["test_labels"])


TENSORFLOW = {"mean": (127.5,), "std": 127.5, "first_class": 1}

MODELS: dict[str, tuple[str, Loader]] = {
    "mnist_cntk": ("mnist_cntk.onnx", mnist),
    "resnet8": ("resnet8_cifar10_mlperftiny.onnx", partial(cifar, scale=1, mean=(0,), std=(1,))),
    "resnet20": (
        "resnet20_cifar10.onnx",
        partial(cifar, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ),
    "kws_dscnn": ("kws_dscnn_mlperftiny.onnx", speech),
    "fashion_resnet": ("fashion_resnet.onnx", fashion),
    "squeezenet1.1": (
        "squeezenet1.1_imagenet.onnx",
        partial(imagenet, picture=Picture(227, 227, (104, 117, 123), blue_first=True)),
    ),
    "mobilenetv1_0.25": (
        "mobilenetv1_0.25_128_imagenet_float.onnx",
        partial(imagenet, picture=Picture(224, 128, **TENSORFLOW)),  # type: ignore[arg-type]
    ),
    "mobilenetv2": (
        "mobilenetv2_1.0_224_imagenet_float.onnx",
        partial(imagenet, picture=Picture(224, 224, **TENSORFLOW)),  # type: ignore[arg-type]
    ),
    "efficientnet_lite0": (
        "efficientnet_lite0_imagenet.onnx",
        partial(imagenet, picture=Picture(224, 224, (127,), 128)),
    ),
    "vww": (
        "vww_mobilenetv1_0.25_96_mlperftiny.onnx",
        partial(imagenet, picture=Picture(256, 96, (0,), 255), most=50),
    ),
    "yunet": (
        "yunet_n_320.onnx",
        partial(imagenet, picture=Picture(256, 320, blue_first=True), most=10),
    ),
}
"""Name -> file and its preprocessing, as published with each model."""

UNLABELLED = ("vww", "yunet")
"""Models that the labels of the pictures do not fit."""


def evaluate(name: str, path: Path, samples: Samples, target: str) -> dict[str, Any]:
    """One row of the table."""
    options = CompileOptions(keep_intermediates=True)
    compiled = vtaflow.compile(path, target, samples.calibration, options)
    session = vtaflow.InferenceSession(compiled.artifact)
    feeds = {session.get_inputs()[0].name: samples.test}
    last = [node for node in compiled.integer.nodes if node.device == "vta"][-1]
    names = [tensor.name for tensor in session.get_outputs()]
    *found, logits = session.run([*names, last.outputs[0]], feeds)
    reference = cpu_reference(path).run(feeds)
    wanted = [reference[output] for output in names]
    row: dict[str, Any] = {
        "model": name,
        "n": len(samples.test),
        "logit_snr_db": logit_snr(compiled.placed, last, feeds, logits),
        "cosine": min(cosine(one, other) for one, other in zip(wanted, found, strict=True)),
        "max_abs_error": max(
            float(np.abs(one - other).max()) for one, other in zip(wanted, found, strict=True)
        ),
        "launches": compiled.artifact.launches,
        "host_operators": host_operators(compiled.artifact.manifest["placement"]),
        "agreement": float(np.mean(found[0].argmax(-1) == wanted[0].argmax(-1))),
    }
    if samples.labels is None or name in UNLABELLED:
        return row | dict.fromkeys(("float_top1", "target_top1", "drop", "drop_stderr"))
    right = wanted[0].argmax(1) == samples.labels
    kept = found[0].argmax(1) == samples.labels
    change = right.astype(float) - kept.astype(float)
    return row | {
        "float_top1": float(right.mean()),
        "target_top1": float(kept.mean()),
        "drop": float(change.mean()),
        "drop_stderr": float(change.std(ddof=1) / math.sqrt(len(change))),
    }


def host_operators(placement: list[dict[str, str]]) -> list[str]:
    """Operators that run on the host and are not folded away, each once."""
    return sorted({row["op"] for row in placement if row["device"] == "host"})


def logit_snr(placed: Graph, last: Node, feeds: dict[str, Array], logits: Array) -> float:
    """Mean over samples of 10 log10(signal / error) of the last layer on VTA, in dB."""
    (value,) = next(node.outputs for node in placed.nodes if node.name == last.name)
    exact = np.concatenate(
        [
            interpret(part, batch, keep=[value])[value]
            for part, batch in batches(placed, feeds, (value,), PART_BYTES)
        ]
    ).reshape(len(logits), -1)
    error = logits.reshape(len(logits), -1) * last.attrs["scale"] - exact
    ratio = (exact**2).sum(axis=1) / np.maximum((error**2).sum(axis=1), 1e-30)
    return float(np.mean(10 * np.log10(np.maximum(ratio, 1e-30))))


def cosine(one: Array, other: Array) -> float:
    """Of the angle between two arrays."""
    norms = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.vdot(one, other)) / norms if norms else float(np.allclose(one, other))


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    parts = [f"{row['model']:20s} n {row['n']:5d}"]
    if row["float_top1"] is not None:
        parts.append(
            f"float {100 * row['float_top1']:6.2f} %  VTA {100 * row['target_top1']:6.2f} %  "
            f"drop {100 * row['drop']:+5.2f} +- {100 * row['drop_stderr']:.2f} points"
        )
    parts.append(
        f"agreement {100 * row['agreement']:6.2f} %  logit SNR {row['logit_snr_db']:5.1f} dB  "
        f"cosine {row['cosine']:.5f}  max error {row['max_abs_error']:.3g}  "
        f"launches {row['launches']}  on the host: {', '.join(row['host_operators']) or 'nothing'}"
    )
    return "  ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--models", type=Path, default=os.environ.get("VTAFLOW_MODELS"))
    parser.add_argument("--data", type=Path, default=os.environ.get("VTAFLOW_DATA"))
    parser.add_argument("--target", default="sim")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in MODELS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(MODELS)}")
    rows = []
    for name in arguments.names or MODELS:
        file, load = MODELS[name]
        folder = OWN_MODELS if (OWN_MODELS / file).is_file() else arguments.models
        if folder is None or not (Path(folder) / file).is_file():
            print(f"{name}: no {file} in the folder of models, left out", file=sys.stderr)
            continue
        try:
            samples = load(Path(arguments.data or ""))
        except FileNotFoundError as error:
            print(f"{name}: no {error.filename}, left out", file=sys.stderr)
            continue
        rows.append(evaluate(name, Path(folder) / file, samples, arguments.target))
        if not arguments.json:
            print(line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
