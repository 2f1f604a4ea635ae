"""The board's part on 32-bit ARM: Debian's Python and NumPy under qemu-user, no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("armhf.sh")
NOTHING_TO_DO = 77


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with this Python as that of the host."""
    settings = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(
        [str(SCRIPT), str(folder)], capture_output=True, text=True, env=settings, check=False
    )


@pytest.mark.slow
def test_a_server_on_32_bit_arm(tmp_path: Path) -> None:
    """VTAFLOW_ARMHF names a folder that keeps the unpacked root for the next time."""
    done = run(Path(os.environ.get("VTAFLOW_ARMHF", tmp_path)))
    if done.returncode == NOTHING_TO_DO:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "armv7l 32 bits" in done.stdout and "(device emulator, target pynq)" in done.stdout
    assert "inference requests answered, ended well" in done.stdout


def test_without_its_tools_the_script_says_so(tmp_path: Path) -> None:
    for name in ("sh", "dirname", "mkdir"):
        found = next(p for p in (Path("/bin") / name, Path("/usr/bin") / name) if p.exists())
        (tmp_path / name).symlink_to(found)
    done = run(tmp_path / "work", PATH=str(tmp_path))
    assert done.returncode == NOTHING_TO_DO
    assert done.stderr == "armhf.sh: skipped: no qemu-arm (Debian: qemu-user-static)\n"
