"""The table of verbs, each of them a module here that is loaded when it is asked for.

A module has the functions of `Command`, and the options that no other verb has.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from ..options import Options


class Command(Protocol):
    """What the module of a verb has."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Say what the verb takes."""

    def run(self, options: Options) -> int:
        """Do it; returns the exit code, raises VtaflowError for what the user can mend."""


@dataclass(frozen=True)
class Verb:
    """One command: its name, one line of help, and its module."""

    name: str
    help: str
    module: str

    def load(self) -> Command:
        """Import the module."""
        return cast(Command, import_module(f".{self.module}", __name__))


ONE_SHOT = Verb("", "Compile an ONNX model for VTA, run it, compare it with the CPU.", "deploy")
VERBS = (
    Verb("compile", "Compile an ONNX model and write the artifact.", "compile"),
    Verb("run", "Run an artifact.", "run"),
    Verb("compare", "Compare a model on VTA with the CPU.", "compare"),
    Verb("tune", "Search for faster schedules and remember them.", "tune"),
    Verb("inspect", "Show what an artifact contains.", "inspect"),
    Verb("profile", "Show where the cycles of a model go.", "profile"),
    Verb("replay", "Execute recorded launches again.", "replay"),
    Verb("serve", "Serve models over HTTP (Open Inference Protocol v2).", "serve"),
    Verb("selftest", "Run the built-in test programs.", "selftest"),
)
