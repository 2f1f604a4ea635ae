"""What an inference request asks for besides its tensors, and whether that is small enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FeedError
from ...ops.types import Array
from ..openinference import JSON_GROWTH, MAX_NAME, parameters
from ..runner import sample_bytes
from ..session import InferenceSession
from .limits import Limits
from .problems import TOO_LARGE, Problem

Json = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What an inference request asks for: outputs, and which of them as binary data."""

    names: list[str] | None
    binary: frozenset[str]
    binary_default: bool
    raw: bool
    statistics: bool
    id: str | None

    @classmethod
    def of(cls, head: Json) -> Wanted:
        """Read the JSON of a request; raises FeedError."""
        asked = parameters(head, "request")
        default = _flag(asked, "binary_data_output")
        identity = head.get("id")
        if identity is not None and (not isinstance(identity, str) or len(identity) > MAX_NAME):
            raise FeedError(f"id is text of at most {MAX_NAME} characters")
        names, binary = None, set()
        outputs = head.get("outputs")
        if outputs is not None:
            if not isinstance(outputs, list) or not 1 <= len(outputs) <= 256:
                raise FeedError("outputs is a list of 1 to 256 objects")
            names = []
            for index, entry in enumerate(outputs):
                name, flag = _output(entry, f"outputs[{index}]", default)
                if name in names:
                    raise FeedError(f"outputs[{index}]: {name!r} is there twice")
                names.append(name)
                binary |= {name} if flag else set()
        return cls(
            names=names,
            binary=frozenset(binary),
            binary_default=default,
            raw=_flag(asked, "raw"),
            statistics=_flag(asked, "statistics"),
            id=identity,
        )


def require_small(
    session: InferenceSession, wanted: Wanted, feeds: Mapping[str, Array], limits: Limits
) -> None:
    """Refuse what would be answered with more than the limit, before it is computed."""
    samples = max(len(array) for array in feeds.values())
    outputs = session.get_outputs()
    names = wanted.names or [tensor.name for tensor in outputs]
    known = [tensor.name for tensor in outputs]
    known += [*session.get_intermediates(), *session.get_device_outputs()]
    size = 0
    for name in names:
        if name not in known:
            raise FeedError(f"the model has no output {name!r}, it has {', '.join(known[:20])}")
        binary = name in wanted.binary or (wanted.binary_default and wanted.names is None)
        size += samples * sample_bytes(session.artifact, name) * (1 if binary else JSON_GROWTH)
    if size > limits.body:
        raise Problem(
            TOO_LARGE,
            f"the answer could have {size:,} bytes, the limit is {limits.body:,}: send fewer "
            "samples, or ask for binary data",
        )


def _output(entry: Any, where: str, default: bool) -> tuple[str, bool]:
    """Name of a wanted output, and whether it is wanted as binary data."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise FeedError(f"{where} is an object with a name")
    asked = parameters(entry, where)
    if asked.get("classification"):
        raise FeedError(f"{where}: classification is not supported")
    return entry["name"], _flag(asked, "binary_data", default)


def _flag(asked: Json, name: str, default: bool = False) -> bool:
    value = asked.get(name, default)
    if type(value) is not bool:
        raise FeedError(f"the parameter {name} is true or false")
    return value
