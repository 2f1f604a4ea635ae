"""The one device behind a server: where its models' devices come from, and how it recovers."""

from __future__ import annotations

import os
from typing import Protocol

from ...backend.artifact import Artifact
from ...backend.target import Target
from ...errors import DeviceError
from ..bitstream import Bitstream
from ..board import Board, open_board, open_emulator
from ..device import Device
from ..driver import State
from ..faults import Faults
from ..simdevice import ARENA_BASE, SimDevice
from .admission import check_streams
from .limits import Limits


class Accelerator(Protocol):
    """Holds the models of a server; `name` is sim, emulator or board."""

    name: str
    target: Target

    @property
    def bitstream(self) -> Bitstream | None:
        """The file that the hardware was configured with."""

    @property
    def state(self) -> str:
        """What is known of the hardware, in words."""

    @property
    def usable(self) -> bool:
        """Whether it can run; if not, `recover` may help."""

    def device(self, artifact: Artifact) -> Device:
        """A place for an artifact; what is loaded there is checked where it lies."""

    def recover(self) -> None:
        """Make it usable again; what was loaded must be loaded again. Raises DeviceError."""

    def close(self) -> None:
        """Let go of the hardware."""


class SimAccelerator:
    """The functional simulator, playing `target`."""

    name = "sim"
    bitstream = None
    state = "simulated"
    usable = True

    def __init__(self, target: Target, limits: Limits) -> None:
        self.target, self._limits = target, limits

    def device(self, artifact: Artifact) -> Device:
        """A simulator of its own; raises StreamError if the artifact breaks a rule."""
        check_streams(artifact, self.target, ARENA_BASE, self._limits)
        return SimDevice(self.target)

    def recover(self) -> None:
        """Nothing breaks."""

    def close(self) -> None:
        """Nothing to let go of."""


class BoardAccelerator:
    """A board, real or emulated, which holds several artifacts."""

    def __init__(self, name: str, board: Board) -> None:
        self.name, self.target, self.board = name, board.target, board

    @property
    def bitstream(self) -> Bitstream | None:
        """The file that was loaded, if one was."""
        return self.board.bitstream

    @property
    def state(self) -> str:
        """What the driver knows of the hardware."""
        return self.board.state.value

    @property
    def usable(self) -> bool:
        """Whether the last run ended."""
        return self.board.state is State.READY

    def device(self, artifact: Artifact) -> Device:
        """A device on the board, which checks streams where they lie."""
        return self.board.device()

    def recover(self) -> None:
        """Load the bitstream again."""
        self.board.reprogram()

    def close(self) -> None:
        """Close the board."""
        self.board.close()


def open_accelerator(
    name: str,
    target: Target,
    limits: Limits,
    bitstream: str | os.PathLike[str] | None = None,
    faults: Faults | None = None,
) -> Accelerator:
    """The device called `name` (sim, emulator or board), programmed; raises DeviceError."""
    if name == "sim":
        return SimAccelerator(target, limits)
    if name == "emulator":
        return BoardAccelerator(name, open_emulator(target, bitstream, faults))
    if name == "board":
        return BoardAccelerator(name, open_board(target, bitstream))
    raise DeviceError(f"there is no device {name!r}; known: sim, emulator, board")
