"""Where streams run: a device here or a server, and what a report says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .options import Options
from .outcome import UsageError

if TYPE_CHECKING:
    from ..backend.target import Target
    from ..runtime.client import Client
    from ..runtime.device import Device


def load_target(name: str) -> Target:
    """A bundled target or that of a file; raises TargetError."""
    from ..backend.target import Target

    return Target.load(name)


def open_place(options: Options, target: Target) -> str | Device | Client:
    """Where streams run, as a session takes it.

    Raises UsageError for options that contradict one another, DeviceError for a board or a server
    that cannot be had.
    """
    from ..runtime.bearer import read_token
    from ..runtime.client import Client, server_url

    if options.host and options.device:
        raise UsageError("--host runs on the server's device: leave --device out")
    hardware = bool(target.registers) and not options.device
    url = server_url(options.host, None if hardware else {})
    if url is not None and options.bitstream is None:
        token = read_token(options.token_file) if options.token_file else None
        return Client(url, token)
    if options.bitstream is None:
        return options.device or "sim"
    if options.device != "board":
        raise UsageError("--bitstream is for --device board; a server has its own")
    from ..runtime.board import open_board
    from ..runtime.board_device import BoardDevice

    return BoardDevice(open_board(target, options.bitstream), owns_board=True)


def server_notes(place: str | Device | Client, name: str) -> list[str]:
    """What a report says of a server. Raises DeviceError if none answers."""
    from ..runtime.client import Client, model_name

    if not isinstance(place, Client):
        return []
    status = place.status()
    place.close()  # the session connects again
    return [
        f"Ran on {place.url} (device {status['device']['name']}, target "
        f"{status['target']['TARGET']}), where the model stays loaded as {model_name(name)!r}"
    ]


def device_notes(target: Mapping[str, Any], device: object) -> list[str]:
    """Say so when a board's stream ran on the simulator."""
    if device != "sim" or target["design"] == "fsim":
        return []
    return [
        f"No board was used: this very stream for {target['TARGET']} ran on the simulator, with "
        f"the semantics of that design ({target['design']})"
    ]
