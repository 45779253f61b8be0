"""Makes what the virtual board boots and is flashed with: kernel, initramfs and a firmware image.

The kernel and the programs come from Debian packages that are downloaded and unpacked, not installed. Run it from
anywhere; the files go to .cache/qemu-board at the top of the repository, where exporter.yaml refers to them.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from pathlib import Path

from jumpstarter_testbench.guest import GuestError, fetch, write_ext4_image, write_initramfs

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "guest"
MATERIAL = ROOT / ".cache" / "qemu-board"
FIRMWARE = MATERIAL / "firmware.img"
FIRMWARE_SIZE = 8 << 20
"""Bytes of the firmware image; a guest under emulation hashes about 3 to 10 MB in a second."""

SELFTEST = """#!/bin/sh
# Runs on the board, from the flashed disk.
echo "firmware $(cat "$(dirname "$0")/release") on $(hostname): all good"
"""


def make() -> None:
    """Write kernel, initramfs and a firmware image that is different every time.

    Raises:
        GuestError: they can't be made; the message says why and what to do.
    """
    material = fetch(CACHE)
    MATERIAL.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(material.kernel, MATERIAL / "vmlinuz")
    write_initramfs(MATERIAL / "initramfs.gz", material)
    release = f"1.0-{secrets.token_hex(4)}"
    files = {"release": release.encode(), "selftest": SELFTEST.encode(), "payload": secrets.token_bytes(1 << 20)}
    write_ext4_image(FIRMWARE, FIRMWARE_SIZE, files, label="firmware")


def main() -> int:
    """Make the material; return the exit code."""
    started = time.monotonic()
    try:
        make()
    except GuestError as error:
        print(f"board.py: {error}", file=sys.stderr)
        return 1
    print(f"made {MATERIAL.relative_to(ROOT)} in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
