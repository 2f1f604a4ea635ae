"""The listing of an artifact: every instruction as text, with the ONNX nodes that it serves."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import EncodingError
from .artifact import Artifact
from .isa import Isa, disassemble


def listing(artifact: Artifact) -> Iterator[str]:
    """One line an instruction: launch, index, disassembly, origin.

    An instruction that decodes to nothing known is listed as its bytes.
    """
    isa = Isa.of(artifact.target)
    for launch in range(artifact.launches):
        origins = artifact.origins(launch)
        for index, (row, origin) in enumerate(
            zip(artifact.instructions(launch), origins, strict=True)
        ):
            data = row.tobytes()
            try:
                text = disassemble(artifact.target, isa.decode(data))
            except EncodingError:
                text = f"?? {data.hex()}"
            yield f"{launch}:{index:05d}  {text}" + (f"  ; {', '.join(origin)}" if origin else "")
