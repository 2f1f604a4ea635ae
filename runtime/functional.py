"""The functional simulator: binary instruction streams on simulated memory, exact to the byte.

`Launch` decodes and plans a stream once; `run` executes the plan for all images of a `Dram`, as
many in one pass as fit a limit of scratch memory, on all cores if that pays. The result is that
of the hardware executing one instruction at a time in the chosen order; races inside one
instruction (accumulators reused sooner than a pipeline allows) and queue lengths are not
simulated.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..backend.commands import Memory
from ..backend.isa import Isa, Stream
from ..backend.profile import Profile
from ..backend.target import Target
from ..backend.timing import micro_op_counts
from ..errors import EncodingError, StreamError
from .blas import one_thread
from .copies import SyncOut
from .counters import count
from .interleave import execution, instruction_name, require_tokens
from .machine import Action, Machine, Step
from .memory import Dram
from .plan import Planner
from .plan_memory import NotConstant

WORK_LIMIT = 1 << 30
"""Micro-ops that a launch may execute, 256 multiply-adds each with the default geometry."""

_SCRATCH_BYTES = 1 << 26
_THREAD_MICRO_OPS = 1 << 16  # of all images together; below, threads cost more than they bring

Lane = list[tuple[Machine, list[Action]]]
"""What one thread executes: the plan's actions for one group of images after the other."""


class Launch:
    """One instruction stream for one memory layout, ready to run.

    `insns` is uint8[n, 16], bound to the addresses of `dram`; `profile` (the target's own by
    default) says how the design behaves; `order` is one of `interleave.ORDERS`. The queues hold
    `tokens_before` at the start, and must hold `tokens_after` at the end. `sram` gives initial
    contents, uint8[bytes] by memory, where not zeros. `counters` and `order` (int64[n], positions
    in order of execution) do not depend on data.

    Raises StreamError naming the instruction if the stream breaks a rule of tokens, SRAM, DRAM
    or the profile (from the first micro-ops on that are no constants, only `run` finds out).
    """

    def __init__(
        self,
        target: Target,
        insns: NDArray[np.uint8],
        dram: Dram,
        *,
        profile: Profile | None = None,
        order: str = "program",
        tokens_before: Sequence[int] = (0, 0, 0, 0),
        tokens_after: Sequence[int] = (0, 0, 0, 0),
        sram: Mapping[Memory, NDArray[np.uint8]] | None = None,
    ) -> None:
        self._target, self._profile = target, profile or target.profile
        self._layout = dram
        self._stream = _decode(target, insns)
        self._initial = _initial(target, sram or {})
        executed = execution(self._stream, self._profile, order, tokens_before)
        require_tokens(executed.tokens_after, tokens_after)
        self.order = executed.order
        self.counters = count(target, self._stream)
        self._plan: Planner | None = self._planner(dram)
        self._out_in_acc = np.zeros(0, np.int64)
        try:
            for _ in self._plan.walk(self.order):
                pass
        except NotConstant:
            self._plan = None  # micro-ops depend on data: each run plans as it goes
        else:
            self._out_in_acc = self._plan.finish(prune=True)
        self._bound: tuple[Dram, list[Lane]] | None = None
        self._last: tuple[Machine, Planner] | None = None

    def _planner(self, dram: Dram, live: bool = False) -> Planner:
        limit = self._profile.uop_depth or self._target.depth(Memory.UOP)
        uops = np.zeros(min(limit, self._target.depth(Memory.UOP)), np.uint32)
        if Memory.UOP in self._initial:
            uops[:] = self._initial[Memory.UOP].view("<u4")[: len(uops)]
        return Planner(self._target, self._profile, self._stream, dram, uops, live)

    def run(self, dram: Dram | None = None) -> None:
        """Execute the launch on `dram` (the one it was planned on by default), in place.

        `dram` has the layout of the planned one and any number of images; its shared segments
        are the same arrays. Raises StreamError if shared memory would be stored to for several
        images, ValueError on another layout.
        """
        dram = dram or self._layout
        if not dram.same_layout(self._layout):
            raise ValueError("the memory differs in layout from the one that was planned")
        if self._plan is None:
            with one_thread():
                for image in range(dram.images):
                    self._run_live(dram.part(image, image + 1))
            return
        if self._plan.stores_shared and dram.images > 1:
            raise StreamError(
                f"the stream stores to memory that {dram.images} images share; give each its own"
            )
        if self._bound is None or self._bound[0] is not dram:
            self._bound = (dram, self._bind(dram, self._plan))
        lanes = self._bound[1]
        self._last = (lanes[0][0][0], self._plan)
        with one_thread():
            _together([partial(self._run_lane, lane, self._plan.unwritten) for lane in lanes])

    def _run_lane(self, lane: Lane, unwritten: set[Memory]) -> None:
        for machine, actions in lane:
            self._start(machine, unwritten)
            for action in actions:
                action()

    def sram(self, memory: Memory) -> NDArray[np.uint8]:
        """The bytes of an SRAM after a run on one image, uint8[bytes].

        Raises ValueError if the launch has not run, or not on one image.
        """
        if self._last is None or self._last[0].images != 1:
            raise ValueError("SRAM can be read after a run on one image")
        machine, planner = self._last
        if memory is Memory.UOP:
            return planner.uops.astype("<u4").view(np.uint8)
        late: list[Step] = [SyncOut(self._out_in_acc)] if memory is Memory.OUT else []
        late += planner.weights.remaining() if memory is Memory.WGT else []
        for step in late:
            step.bind(machine)()
        elements = machine.elements(memory)[0]
        wide = elements.astype(elements.dtype.newbyteorder("<"))
        return np.ascontiguousarray(wide).view(np.uint8).reshape(-1)

    def _bind(self, dram: Dram, plan: Planner) -> list[Lane]:
        """The plan's actions for each group of images that is run in one pass, by thread."""
        probe = Machine(self._target, dram.part(0, 1), plan.weights.per_image)
        for step in plan.steps:
            step.reserve(probe)
        busy = self.counters["gemm_counter"] * dram.images >= _THREAD_MICRO_OPS
        threads = min(dram.images, _cores()) if busy else 1
        fitting = _SCRATCH_BYTES // threads // max(1, probe.scratch_bytes)
        group = max(1, min(-(-dram.images // threads), fitting))
        lanes: list[Lane] = [[] for _ in range(threads)]
        for number, first in enumerate(range(0, dram.images, group)):
            part = dram.part(first, min(first + group, dram.images))
            lane = lanes[number % threads]
            if lane and lane[-1][0].images == part.images:
                machine = copy.copy(lane[-1][0])  # the same SRAM and scratch memory
                machine.dram = part
            else:
                machine = Machine(self._target, part, plan.weights.per_image)
                for step in plan.steps:
                    step.reserve(machine)
            lane.append((machine, [step.bind(machine) for step in plan.steps]))
        return [lane for lane in lanes if lane]

    def _start(self, machine: Machine, unwritten: set[Memory]) -> None:
        """Initial SRAM contents, where anybody can see them."""
        for memory in machine.sram:
            elements = machine.elements(memory)
            if memory in self._initial:
                flat = self._initial[memory].view(elements.dtype.newbyteorder("<"))
                elements[:] = flat.reshape(elements.shape[1:])
            elif memory in unwritten:
                elements[:] = 0

    def _run_live(self, dram: Dram) -> None:
        """Plan and execute instruction by instruction, on one image."""
        planner = self._planner(dram, live=True)
        machine = Machine(self._target, dram, weights_per_image=False)
        self._start(machine, set())
        for _ in planner.walk(self.order):
            for step in planner.steps:
                step.reserve(machine)
                step.bind(machine)()
            planner.steps.clear()
        self._out_in_acc = planner.finish(prune=False)
        for step in planner.steps:
            step.bind(machine)()
        self._last = (machine, planner)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _together(tasks: Sequence[Callable[[], None]]) -> None:
    """Run the tasks at once, the first one in this thread."""
    if len(tasks) == 1:
        tasks[0]()
        return
    with ThreadPoolExecutor(len(tasks) - 1) as pool:
        others = [pool.submit(task) for task in tasks[1:]]
        tasks[0]()
        for other in others:
            other.result()


def _decode(target: Target, insns: NDArray[np.uint8]) -> Stream:
    """The decoded stream. Raises StreamError if it is malformed or asks for absurd work."""
    try:
        stream = Isa.of(target).decode_stream(insns)
    except EncodingError as error:
        raise StreamError(str(error)) from None
    work = np.cumsum(micro_op_counts(stream))
    if len(work) and work[-1] > WORK_LIMIT:
        position = int(np.searchsorted(work, WORK_LIMIT, side="right"))
        name = instruction_name(position, int(stream.opcode[position]))
        raise StreamError(
            f"{name}: the stream executes {work[-1]} micro-ops, more than the {WORK_LIMIT} that "
            "the simulator takes in one launch"
        )
    return stream


def _initial(
    target: Target, sram: Mapping[Memory, NDArray[np.uint8]]
) -> dict[Memory, NDArray[np.uint8]]:
    """Copies of initial SRAM contents. Raises ValueError on a wrong type or size."""
    for memory, content in sram.items():
        size = target.depth(memory) * target.element_bytes(memory)
        if content.dtype != np.uint8 or content.shape != (size,):
            raise ValueError(f"initial {memory.name} is uint8[{size}]")
    return {memory: content.copy() for memory, content in sram.items()}
