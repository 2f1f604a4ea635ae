"""The driver of the Chisel design: one block of registers, VCR (docs/hardware.md)."""

from __future__ import annotations

from ..backend.target import Target
from ..errors import DeviceError
from . import registers as reg
from .driver import Driver, Job, Patience
from .transport import Transport

STREAM_ALIGNMENT = 2048
"""Fetch reads bursts of up to 256 beats of 8 bytes and does not split them."""


class ChiselDriver(Driver):
    """VTA in Chisel, as on the DE10-Nano. Its base registers are OR-ed and stay 0."""

    def __init__(
        self, target: Target, transport: Transport, patience: Patience | None = None
    ) -> None:
        super().__init__(target, transport, patience)
        if "vcr" not in target.registers:
            raise DeviceError(
                f"target {target.name!r} names no registers of vcr; add them to its description"
            )
        self._base = target.registers["vcr"]

    def run(self, job: Job, spin: bool = False) -> float:
        """Run a stream to its end; the seconds it took by the hardware's own cycle counter."""
        if job.address % STREAM_ALIGNMENT:
            raise DeviceError(
                f"a stream at {job.address:#x} is not aligned to {STREAM_ALIGNMENT} bytes, as "
                "the Chisel design needs"
            )
        super().run(job, spin)
        cycles = self._transport.read(self._base + reg.VCR_CYCLES)
        return cycles / (self._target.clock_mhz * 1e6)

    def dump(self) -> dict[str, int]:
        """Every register by `vcr.name`."""
        return {
            f"vcr.{name}": self._transport.read(self._base + offset)
            for offset, name in reg.VCR_REGISTERS
        }

    def _start(self, job: Job) -> bool:
        bases = job.bases
        self._write(reg.VCR_CYCLES, 0)
        self._write(reg.VCR_COUNT, job.count)
        self._write(reg.VCR_ADDRESS, job.address)
        for offset, base in zip(
            reg.VCR_BASES, (bases.uop, bases.inp, bases.wgt, bases.acc, bases.out), strict=True
        ):
            self._write(offset, base)
        self._write(reg.VCR_CONTROL, reg.VCR_LAUNCH)  # clears finish as well
        return False

    def _done(self) -> bool:
        return bool(self._transport.read(self._base + reg.VCR_CONTROL) & reg.VCR_FINISH)

    def _finished(self) -> bool:
        return self._done()

    def _write(self, offset: int, value: int) -> None:
        self._transport.write(self._base + offset, value)
