"""Geometries of VTA that whole networks are compiled for: batches, blocks, less memory."""

from __future__ import annotations

from dataclasses import replace

from vtaflow.backend.target import Target

PYNQ = Target.load("pynq")


def geometries(least_inputs: int) -> dict[str, Target]:
    """Targets by name; `least_inputs` is LOG_INP_BUFF_SIZE of the one with small memories.

    As little as the networks of a test can do with, so that their layers are divided.
    """
    return {
        "default": PYNQ,
        "batch 2": replace(PYNQ, log_batch=1),
        "batch 4, block 8": replace(
            PYNQ, log_batch=2, log_block=3, log_inp_buff_size=16, log_wgt_buff_size=16,
            log_acc_buff_size=18,
        ),
        "block 32": replace(PYNQ, log_block=5, log_inp_buff_size=16, log_wgt_buff_size=19),
        "small memories": replace(
            PYNQ, log_uop_buff_size=12, log_inp_buff_size=least_inputs, log_wgt_buff_size=14,
            log_acc_buff_size=12,
        ),
    }
