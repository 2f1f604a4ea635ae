"""The cycle simulator beside a board: five convolutions with published times.

    python benchmarks/board_agreement.py [--streams DIR] [--read-latency L] [--write-latency V]

The streams are TVM's own, recorded with the tuned schedules of the published times; they carry a
bias addition that the board's runs lacked, so its instructions are taken out first: the ALU ADD,
the LOAD ACC of the biases and the LOAD UOP of its micro-ops. DIR defaults to VTAFLOW_STREAMS.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtaflow.backend.commands import AluOp, Memory
from vtaflow.backend.isa import Isa, Opcode, Stream
from vtaflow.backend.target import Target
from vtaflow.runtime.cycles import simulate
from vtaflow.runtime.recording import Recording

TIMES = Path(__file__).parent / "tvm_board_times.json"

STREAMS = {
    "conv_C2_tophub_vthread": "56x56 64->64 3x3",
    "conv_C3_tophub": "56x56 64->128 3x3 /2",
    "conv_C4_tophub": "56x56 64->128 1x1 /2",
    "conv_C8_tophub": "14x14 256->256 3x3",
    "conv_C11_tophub": "7x7 512->512 3x3",
}
"""Recorded stream -> layer of the table of board times."""

LATENCIES = [(40, 25), (45, 25), (50, 25), (55, 15), (55, 25), (55, 40), (60, 25)]
"""Settings of the two latencies that the table compares."""


def without_bias(target: Target, stream: Stream) -> Stream:
    """The stream less its bias addition; what carries tokens becomes a no-op."""
    fields, opcode = stream.fields, stream.opcode
    adds = (opcode == Opcode.ALU) & (fields["alu_opcode"] == AluOp.ADD) & (fields["use_imm"] == 0)
    loads = opcode == Opcode.LOAD
    biases = loads & (fields["memory_type"] == Memory.ACC)
    kernels = loads & (fields["memory_type"] == Memory.UOP) & np.append(adds[1:], False)
    dropped = adds | biases | kernels
    tokens = sum(
        fields[name] for name in ("pop_prev_dep", "pop_next_dep", "push_prev_dep", "push_next_dep")
    )
    if np.any(tokens[dropped]):
        raise SystemExit("a bias instruction carries a token: this stream is no longer simple")
    columns = {name: column[~dropped] for name, column in fields.items()}
    return Isa.of(target).decode_stream(Isa.of(target).encode_stream(columns))


def board_times() -> dict[str, dict[str, Any]]:
    """Rows of the published table by layer."""
    table = json.loads(TIMES.read_text(encoding="utf-8"))
    return {row["layer"]: row for row in table["layers"]}


def agreement(folder: Path, target: Target) -> list[dict[str, Any]]:
    """Simulated beside measured milliseconds of every stream, and their ratio."""
    measured = board_times()
    rows = []
    for name, layer in STREAMS.items():
        insns: NDArray[np.uint8] = Recording.load(folder / f"{name}.npz").insns
        stream = without_bias(target, Isa.of(target).decode_stream(insns))
        simulated = simulate(target, stream).cycles / (1000 * target.clock_mhz)
        board = measured[layer]["ms"]
        rows.append(
            {"layer": layer, "simulated": simulated, "board": board, "ratio": simulated / board}
        )
    return rows


def with_latencies(target: Target, read: int, write: int) -> Target:
    """The target with other latencies."""
    constants = replace(target.timing, read_latency=read, write_latency=write)
    return replace(target, timing=constants)


def show(folder: Path, target: Target, latencies: Sequence[tuple[int, int]]) -> None:
    """Print the table of the target and the deviations at other latencies."""
    own = (target.timing.read_latency, target.timing.write_latency)
    print(f"Latencies {own[0]} and {own[1]}, target {target.name}")
    print(f"{'layer':24s}{'simulated ms':>14s}{'board ms':>10s}{'deviation':>11s}")
    for row in agreement(folder, target):
        print(
            f"{row['layer']:24s}{row['simulated']:14.3f}{row['board']:10.3f}"
            f"{100 * (row['ratio'] - 1):+10.1f} %"
        )
    print("\nDeviation in per cent at other latencies")
    print("  L   V  " + "".join(f"{layer:>22s}" for layer in STREAMS.values()) + "   worst")
    for read, write in latencies:
        ratios = [row["ratio"] for row in agreement(folder, with_latencies(target, read, write))]
        cells = "".join(f"{100 * (ratio - 1):+22.1f}" for ratio in ratios)
        worst = max(abs(ratio - 1) for ratio in ratios)
        print(f"{read:3d} {write:3d}  {cells}{100 * worst:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=Path, default=os.environ.get("VTAFLOW_STREAMS"))
    parser.add_argument("--read-latency", type=int)
    parser.add_argument("--write-latency", type=int)
    arguments = parser.parse_args()
    if arguments.streams is None:
        parser.error("say where the recorded streams are: --streams or VTAFLOW_STREAMS")
    target = Target.load("pynq")
    read = target.timing.read_latency if arguments.read_latency is None else arguments.read_latency
    write = (
        target.timing.write_latency if arguments.write_latency is None else arguments.write_latency
    )
    show(Path(arguments.streams), with_latencies(target, read, write), LATENCIES)


if __name__ == "__main__":
    main()
