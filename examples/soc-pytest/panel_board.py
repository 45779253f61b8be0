"""Makes what the virtual board boots: a kernel, and a root file system in memory with the application `panel`.

The kernel and the programs come from Debian packages that are downloaded and unpacked, not installed. Run it from
anywhere; the files go to .cache/soc-pytest at the top of the repository, where exporter.yaml refers to them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from jumpstarter_testbench.guest import GuestError, fetch, write_initramfs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MATERIAL = ROOT / ".cache" / "soc-pytest"

START = b"#!/bin/sh\nexec panel start\n"
"""Runs before the login appears, as the first picture of a board does."""


def make() -> None:
    """Write kernel and root file system.

    Raises:
        GuestError: they can't be made; the message says why and what to do.
    """
    material = fetch(ROOT / ".cache" / "guest")
    MATERIAL.mkdir(parents=True, exist_ok=True)
    # In one step: another run may be booting it.
    with tempfile.TemporaryDirectory(dir=MATERIAL) as folder:
        Path(shutil.copy(material.kernel, folder)).replace(MATERIAL / "vmlinuz")
    programs: dict[str, bytes | Path] = {"bin/panel": HERE / "panel.sh", "etc/board.d/panel": START}
    write_initramfs(MATERIAL / "initramfs.gz", material, executables=programs)


if __name__ == "__main__":
    try:
        make()
    except GuestError as error:
        sys.exit(f"panel_board.py: {error}")
    print(f"made {MATERIAL.relative_to(ROOT)}")
