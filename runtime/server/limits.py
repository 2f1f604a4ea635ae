"""Every limit of the server in one place: what a stranger can make it spend is bounded by these."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    `body` is one inference request or answer, `bodies` all that are held at once; `json` is the
    JSON of one; `upload` one artifact, `store` all of them; `loaded` the models on the device;
    `queue` the requests waiting for it, the running one included; `host_values` the values of
    one compiled batch on the host; `check_steps` the work of checking one stream.
    """

    body: int = 32 * MIB
    bodies: int = 96 * MIB
    json: int = 4 * MIB
    control: int = 64 << 10
    upload: int = 128 * MIB
    store: int = 2048 * MIB
    loaded: int = 16
    models: int = 256
    queue: int = 32
    connections: int = 128
    host_values: int = 96 * MIB
    check_steps: int = 5_000_000
    seconds: float = 60.0
    body_seconds: float = 60.0
    upload_seconds: float = 600.0
    idle_seconds: float = 120.0
    grace_seconds: float = 30.0
