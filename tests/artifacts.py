"""Hand-made artifacts: the smallest manifests that are legal, for tests that need no compiler."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtaflow.backend.isa import Instruction, Isa, Opcode
from vtaflow.backend.target import Target

Manifest = dict[str, Any]
Members = dict[str, bytes]
LAYOUT = {"order": "NC", "batch": 1, "block": 16}


def region(name: str, kind: str, start: int, **changes: Any) -> Manifest:
    """A region of one INP element that holds int8[1,10]."""
    entry: Manifest = {
        "name": name,
        "kind": kind,
        "memory": "OUT",
        "start": start,
        "bytes": 16,
        "shape": [1, 1, 1, 16],
        "logical_shape": [1, 10],
        "dtype": "int8",
        "layout": LAYOUT,
        "scale": 0.5,
    }
    return {**entry, **changes}


def host(op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> Manifest:
    """A host step."""
    return {
        "kind": "host",
        "name": f"{op}_{outputs[0]}",
        "op": op,
        "inputs": inputs,
        "outputs": outputs,
        "attrs": attrs,
    }


def finish() -> bytes:
    """The shortest legal stream: a compute NOP, then FINISH."""
    isa = Isa.of(Target.load("sim"))
    nop = isa.encode(Instruction(Opcode.LOAD, {}))
    return nop + isa.encode(Instruction(Opcode.FINISH, {}))


def example() -> tuple[Manifest, Members]:
    """A small legal manifest: x (float) is quantised, packed, handed to one launch and back."""
    target = Target.load("sim")
    nothing = {"shape": None, "logical_shape": None, "dtype": None, "layout": None, "scale": None}
    tensor = {"dtype": "float32", "quantisation": {"scale": 0.5}}
    packing = {"layout": {"layout": LAYOUT}, "shape": [1, 10]}
    manifest: Manifest = {
        "producer": "vtaflow test",
        "model": {"name": "tiny", "sha256": "0" * 64},
        "target": target.to_json(),
        "fingerprint": target.fingerprint(),
        "profile": "portable",
        "batch": 1,
        "inputs": [{"name": "x", "shape": [1, 10], **tensor}],
        "outputs": [{"name": "y", "shape": [1, 10], **tensor}],
        "preprocessing": None,
        "steps": [
            host("Add", ["x", "offset"], ["moved"]),
            host("Quantize", ["moved"], ["q"], scale=0.5),
            host("Pack", ["q"], ["x_packed"], **packing),
            {"kind": "launch", "index": 0, "inputs": ["x_packed"], "outputs": ["y_packed"]},
            host("Unpack", ["y_packed"], ["r"], **packing),
            host("Dequantize", ["r"], ["y"], scale=0.5),
        ],
        "host_constants": {"offset": {"member": "c0", "shape": [10], "dtype": "float32"}},
        "launches": [
            {
                "member": "launch0.insns",
                "origins_member": "launch0.origins",
                "instructions": 2,
                "estimated_cycles": 100,
            }
        ],
        "origins": [["Gemm_0", "Relu_1"], []],
        "arena": {
            "bytes": 12288,
            "keep_intermediates": False,
            "regions": [
                region("uops", "constant", 4096, memory="UOP", bytes=8, **nothing),
                region("x_packed", "input", 8192),
                region("y_packed", "output", 8208),
            ],
        },
        "constants": {"member": "constants.bin", "start": 4096},
        "layers": [
            {
                "name": "Gemm_0",
                "op": "VtaDense",
                "output": "y_packed",
                "macs": 100,
                "tiles": "tile_o=1",
                "bytes": 288,
                "estimated_cycles": 90,
                "loop_nest": ["for o", "  GEMM"],
            }
        ],
        "placement": [{"node": "Gemm_0", "op": "Gemm", "device": "vta", "reason": "fits"}],
    }
    members = {
        "launch0.insns": finish(),
        "launch0.origins": np.array([0, 1], "<i4").tobytes(),
        "constants.bin": bytes(16),
        "c0": np.arange(10, dtype="<f4").tobytes(),
    }
    return manifest, members
