"""Prints the set-up commands of README.md, one a line, so that CI runs exactly what it promises.

They are the lines of the ```sh blocks under the heading "Set-up".
"""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def setup_commands(readme: str) -> list[str]:
    """The commands, in their order; raises ValueError when the section is missing."""
    section = re.search(r"^## Set-up$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    if section is None:
        raise ValueError(f"{README}: no section '## Set-up'")
    blocks = re.findall(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


if __name__ == "__main__":
    print("\n".join(setup_commands(README.read_text(encoding="utf-8"))))
