"""The published release that we are compared with: an environment of its own, only ever run as a black box."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).with_name("peer-requirements.txt")
PEER = ROOT / ".venv-peer"
INSTALL_TIMEOUT = 300


def install() -> Path:
    """Return the bin folder of the peer's environment, making it when it is not there or outdated."""
    stamp = PEER / ".jumpstarter-stamp"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        shutil.rmtree(PEER, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", PEER], check=True, timeout=INSTALL_TIMEOUT)
        subprocess.run(
            [*_uv(), "pip", "install", "-q", "--python", PEER / "bin" / "python", "-r", REQUIREMENTS],
            check=True,
            timeout=INSTALL_TIMEOUT,
        )
        stamp.write_text(wanted)
    return PEER / "bin"


def _uv() -> list[str]:
    beside = Path(sys.executable).parent / "uv"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "uv"]


if __name__ == "__main__":
    print(install())
