"""Colours of a profile's page: one for each kind of work and wait, distinguishable to colour-blind
readers (after Okabe and Ito) and legible on a light and on a dark ground."""

from __future__ import annotations

GEMM, ALU, SMALL = "#1f77c9", "#63b4e8", "#12a37c"
WEIGHTS, INPUTS, LATENCY = "#d9601a", "#e8a317", "#c978ab"
STORES, OTHER, FETCH = "#8d7b1c", "#9b8c7a", "#8a94a0"

KINDS = {
    "GEMM": GEMM,
    "ALU": ALU,
    "micro-ops and biases": SMALL,
    "weights": WEIGHTS,
    "inputs": INPUTS,
    "memory latency": LATENCY,
    "memory port": OTHER,
    "stores": STORES,
    "waits for weights": WEIGHTS,
    "waits for inputs": INPUTS,
    "waits for memory latency": LATENCY,
    "waits for load": OTHER,
    "waits for store": STORES,
    "waits for instructions": FETCH,
}
"""By the names of `activity.BUSY` and `rows.PARTS`."""

LIMITS = {
    "compute": GEMM,
    "ALU": ALU,
    "weight load": WEIGHTS,
    "input load": INPUTS,
    "store": STORES,
    "latency": LATENCY,
}
"""By the names of `bounds.limit`."""
