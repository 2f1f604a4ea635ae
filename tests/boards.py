"""What tests of the board side share: a compiled model, streams that just take time, .bit files."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtaflow.backend.artifact import Artifact
from vtaflow.backend.commands import Memory
from vtaflow.backend.isa import Instruction, Isa, Opcode
from vtaflow.backend.target import Target
from vtaflow.compiler import CompileOptions, compile
from vtaflow.ops.types import Array
from vtaflow.runtime.driver import Job
from vtaflow.runtime.emulator import EmulatedBoard
from vtaflow.runtime.session import InferenceSession

PYNQ = Target.load("pynq")
DE10 = Target.load("de10nano")
MODELS = Path(__file__).parent.parent / "models"


@lru_cache(maxsize=4)
def compiled(
    name: str = "fashion_mlp", target: Target = PYNQ, keep_intermediates: bool = False
) -> Artifact:
    """A model of this repository."""
    options = CompileOptions(keep_intermediates=keep_intermediates)
    return compile(MODELS / f"{name}.onnx", target, options=options).artifact


def samples(artifact: Artifact, count: int) -> dict[str, Array]:
    """Random feeds."""
    (tensor,) = artifact.manifest["inputs"]
    rng = np.random.default_rng(count)
    return {tensor["name"]: rng.random((count, *tensor["shape"][1:])).astype(np.float32)}


def simulated(artifact: Artifact, feeds: dict[str, Array]) -> list[Array]:
    """What the functional simulator makes of the feeds."""
    return InferenceSession(artifact, "sim").run(None, feeds)


def waiting_stream(target: Target, cycles: int) -> NDArray[np.uint8]:
    """A token-free NOP, a GEMM reset that takes at least that many cycles, FINISH."""
    isa = Isa.of(target)
    inner = 1 << 10
    fields = {"uop_end": 1, "iter_in": inner, "iter_out": -(-cycles // inner), "reset_reg": 1}
    insns = [
        Instruction(Opcode.LOAD, {}),
        Instruction(Opcode.GEMM, fields),
        Instruction(Opcode.FINISH, {}),
    ]
    return np.frombuffer(b"".join(map(isa.encode, insns)), np.uint8).reshape(-1, 16)


def place(board: EmulatedBoard, insns: NDArray[np.uint8], cycles: int) -> Job:
    """Put a stream into the board's memory."""
    buffer = board.allocate(4096)
    buffer.data[: insns.size] = insns.reshape(-1)
    buffer.flush(0, 4096)
    return Job(buffer.address, len(insns), cycles)


def waiting_job(board: EmulatedBoard, target: Target, cycles: int) -> Job:
    """A run of that many cycles and a few more, ready in the board's memory."""
    return place(board, waiting_stream(target, cycles), cycles)


def element(target: Target, memory: Memory, value: int) -> NDArray[np.uint8]:
    """One element with every lane at `value`."""
    dtype = {Memory.ACC: "<i4", Memory.UOP: "<u4"}.get(memory, "i1")
    size = target.element_bytes(memory) // np.dtype(dtype).itemsize
    return np.full(size, value, dtype).view(np.uint8)


def bit_file(
    part: str = "7z020clg484", date: str = "2020/06/30", data: bytes = bytes(range(64))
) -> bytes:
    """A .bit file as Vivado writes it."""
    texts = {
        "a": "vta_wrapper;UserID=0XFFFFFFFF;Version=2018.3",
        "b": part,
        "c": date,
        "d": "12:34:56",
    }
    header = struct.pack(">H9sH", 9, bytes.fromhex("0ff00ff00ff00ff000"), 1)
    for key, text in texts.items():
        raw = text.encode() + b"\0"
        header += key.encode() + struct.pack(">H", len(raw)) + raw
    return header + b"e" + struct.pack(">I", len(data)) + data
