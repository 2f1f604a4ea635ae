"""`deploy serve`: models over HTTP."""

from __future__ import annotations

import argparse

from ..options import TARGET_OF_EMULATOR, Options, add_device, add_target, positive
from ..outcome import FINE, UsageError
from ..place import load_target


def add_options(parser: argparse.ArgumentParser) -> None:
    """The device, who may ask, and what is refused."""
    add_target(parser, TARGET_OF_EMULATOR)
    add_device(parser)
    parser.add_argument("--bitstream", metavar="PATH",
                        help="default: the target's in the cache; 'loaded' keeps what is there")
    parser.add_argument("--store", metavar="DIR",
                        help="where models are kept (default: ~/.local/share/vtaflow/models)")
    parser.add_argument("--inject", default="", metavar="FAULTS",
                        help="faults of the emulator, such as never-done,runs=1")
    group = parser.add_argument_group("who may ask")
    group.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS",
                       help="listen there; anything but loopback needs --token-file")
    group.add_argument("--port", type=_port, default=8000, help="0 takes a free one")
    group.add_argument("--token-file", metavar="FILE", help="the bearer token that clients show")
    group = parser.add_argument_group("limits")
    group.add_argument("--queue", type=positive, default=32, metavar="N",
                       help="requests that may wait for the device (then 429)")
    group.add_argument("--timeout", type=positive, default=60, metavar="SECONDS",
                       help="for one request, waiting included")
    group.add_argument("--max-request", type=positive, default=32, metavar="MIB")
    group.add_argument("--max-upload", type=positive, default=128, metavar="MIB")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, found {text!r}")
    return int(text)


def run(options: Options) -> int:
    """Serve models until a signal ends it. Raises VtaflowError."""
    try:
        from ...runtime.server.command import Settings, serve
        from ...runtime.server.limits import MIB, Limits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tornado":
            raise
        raise UsageError("deploy serve needs tornado: pip install 'vtaflow[serve]'") from None
    limits = Limits(
        queue=options.queue,
        seconds=float(options.timeout),
        body=options.max_request * MIB,
        bodies=3 * options.max_request * MIB,
        upload=options.max_upload * MIB,
    )
    hardware = bool(load_target(options.target).registers)
    device = options.device or ("board" if hardware else "sim")
    settings = Settings(
        target=options.target, device=device, bind=options.bind, port=options.port,
        token_file=options.token_file, store=options.store, bitstream=options.bitstream,
        faults=options.inject, limits=limits,
    )
    serve(settings, lambda url: _announce(options, f"serving {device} on {url}"))
    return FINE


def _announce(options: Options, message: str) -> None:
    """On stdout at once: whoever started the server may wait for it."""
    if not options.quiet:
        print(message, flush=True)
