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


OLDER = """\
jumpstarter=={version}
jumpstarter-cli=={version}
jumpstarter-driver-composite=={version}
jumpstarter-driver-power=={version}
"""
"""What is installed of older releases: enough for leases."""


def install(version: str = "") -> Path:
    """Return the bin folder of the environment of a published release, making it when it is not there or outdated.

    Args:
        version: an older release; empty for the one that we are compared with.
    """
    folder = ROOT / f".venv-peer-{version}" if version else PEER
    requirements = OLDER.format(version=version) if version else REQUIREMENTS.read_text()
    stamp = folder / ".jumpstarter-stamp"
    wanted = hashlib.sha256(requirements.encode() + sys.version.encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=INSTALL_TIMEOUT)
        subprocess.run(
            [*_uv(), "pip", "install", "-q", "--python", folder / "bin" / "python", "-r", "-"],
            input=requirements,
            text=True,
            check=True,
            timeout=INSTALL_TIMEOUT,
        )
        stamp.write_text(wanted)
    return folder / "bin"


def _uv() -> list[str]:
    beside = Path(sys.executable).parent / "uv"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "uv"]


if __name__ == "__main__":
    print(install())
