"""Parsing, dispatch, and what happens on errors.

`deploy MODEL.onnx` does everything at once; verbs do parts of it. Results go to stdout, everything
else to stderr. Exit codes: 0 fine, 1 a comparison failed, 2 a mistake of the user (one line says
which); a bug keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..errors import VtaflowError
from .options import DEVICE_OF_EMULATOR, EMULATOR, TARGET_OF_EMULATOR, Options, add_talk
from .outcome import BROKEN_PIPE, FINE, INTERRUPTED, USER_ERROR, UsageError
from .verbs import ONE_SHOT, VERBS, Command, Verb

NOT_ON_A_BOARD = ("onnx", "networkx", "tqdm")
"""Packages that the server does without, so that they may be missing."""


class _Parser(argparse.ArgumentParser):
    """Problems become a `UsageError`, so that every user error looks the same."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Raises only what is a bug."""
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except SystemExit as finished:  # --help, --version
        return int(finished.code or FINE)
    except VtaflowError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("deploy: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in NOT_ON_A_BOARD:
            raise
        return _complain(
            f"this needs {missing}, which is not installed: pip install {missing}, or, on a board, "
            "compile on another machine and deploy run MODEL.vta here"
        )
    except MemoryError:
        return _complain("not enough memory: take a smaller model, batch or data set")
    except OSError as error:
        return _complain(f"{error.filename or 'system'}: {error.strerror or error}")


def _complain(message: str) -> int:
    print("deploy: error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR


def _dispatch(arguments: list[str]) -> int:
    by_name = {verb.name: verb for verb in VERBS}
    verb, rest = ONE_SHOT, arguments
    if arguments and arguments[0] in by_name:
        verb, rest = by_name[arguments[0]], arguments[1:]
    elif len(arguments) > 1 and re.fullmatch("[a-z]+", arguments[0]):
        raise UsageError(f"there is no verb {arguments[0]!r}; verbs: {', '.join(by_name)}")
    command = verb.load()
    return command.run(_parsed(verb, command, rest))


def _parsed(verb: Verb, command: Command, arguments: Sequence[str]) -> Options:
    """The options of a verb; a target that is short for a target on a device is spelt out."""
    options = _parser(verb, command).parse_args(arguments)
    if getattr(options, "target", None) == EMULATOR:
        options.target = TARGET_OF_EMULATOR
        options.device = getattr(options, "device", None) or DEVICE_OF_EMULATOR
    return options


def _parser(verb: Verb, command: Command) -> argparse.ArgumentParser:
    epilog = None
    if verb is ONE_SHOT:
        rows = "\n".join(f"  {one.name:<10}{one.help}" for one in VERBS)
        epilog = f"verbs (deploy VERB --help):\n{rows}"
    parser = _Parser(
        prog=f"deploy {verb.name}".strip(),
        description=verb.help,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vtaflow {__version__}")
    command.add_options(parser)
    add_talk(parser)
    return parser
