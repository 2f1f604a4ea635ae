"""`deploy inspect`: what an artifact contains."""

from __future__ import annotations

import argparse
import json

from ...report.inspect import inspect_text
from ..options import Options, add_artifact
from ..outcome import FINE
from ..output import print_lines


def add_options(parser: argparse.ArgumentParser) -> None:
    """The artifact, and which of its parts."""
    add_artifact(parser)
    parser.add_argument("--schedule", action="store_true", help="each layer's blocked loop nest")
    parser.add_argument("--asm", action="store_true", help="the disassembly, with provenance")


def run(options: Options) -> int:
    """Show what an artifact contains. Raises ArtifactError."""
    from ...runtime.inspection import assembly_lines, open_artifact, schedule_lines

    artifact = open_artifact(options.artifact)
    if options.json:
        print_lines([json.dumps(artifact.manifest, indent=1)])
        return FINE
    if options.schedule:
        print_lines(schedule_lines(artifact))
    if options.asm:
        print_lines(assembly_lines(artifact))
    if not options.schedule and not options.asm:
        print_lines(inspect_text(artifact.manifest))
    return FINE
