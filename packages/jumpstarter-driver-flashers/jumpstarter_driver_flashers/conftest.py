"""A virtual Arm board with U-Boot and a disk, its flasher, and images for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from jumpstarter.common.utils import serve
from jumpstarter_driver_composite.driver import Composite, Proxy
from jumpstarter_driver_http.driver import HttpServer
from jumpstarter_driver_qemu.driver import Qemu
from jumpstarter_driver_tftp.driver import Tftp
from jumpstarter_testbench.daemons import own_loopback_address
from jumpstarter_testbench.requirements import unavailable

from .driver import BaseFlasher

MIB = 1 << 20
DISK_SIZE = 64 * MIB
UBOOT = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"


def image_content(size: int = 8 * MIB, seed: int = 1) -> bytes:
    """Return the bytes of an image: data with a run of zeros in the middle."""
    noise = Random(seed)
    return noise.randbytes(2 * MIB + 4096) + bytes(size - 3 * MIB - 4096) + noise.randbytes(MIB)


class Bench:
    """The board and its flasher, as a client sees them, and what is on the board's disk."""

    def __init__(self, root: Any, client: Any, folder: Path) -> None:
        self.root, self.client, self.folder = root, client, folder

    @property
    def flasher(self) -> Any:
        return self.client.flasher

    def disk(self) -> bytes:
        """Return what is on the disk of the board, which is off."""
        path = self.folder / "dumped"
        self.client.qemu.flasher.dump(path)
        return path.read_bytes()

    def sha256_of_disk(self, size: int) -> str:
        return hashlib.sha256(self.disk()[:size]).hexdigest()


def make_flasher(folder: Path, bundle: str, **config: Any) -> BaseFlasher:
    """Return a flasher for the board beside it."""
    address = own_loopback_address()
    children = {
        "power": Proxy(ref="qemu.power"),
        "serial": Proxy(ref="qemu.console"),
        # From inside of the machine 10.0.2.2 is this one, and addresses 127.x.y.z are only so for U-Boot.
        "tftp": Tftp(root_dir=str(folder / "tftp"), host=address),
        "http": HttpServer(root_dir=str(folder / "http"), host="127.0.0.1", port=0, advertised_host="10.0.2.2"),
    }
    return BaseFlasher(flasher_bundle=bundle, cache_dir=str(folder / "cache"), children=children, **config)


@pytest.fixture
def bench(tmp_path: Path, flasher_bundle: Path) -> Iterator[Bench]:
    """A board that is off, with a blank disk of 64 MiB, and a flasher with the bundle for it."""
    if os.geteuid() != 0:
        unavailable("TFTP's port 69, the only one that this U-Boot knows, needs root")
    machine = Qemu(arch="aarch64", mem="1G", default_partitions={"bios": UBOOT}, disk_size="64M", display="none")
    flasher = make_flasher(tmp_path, str(flasher_bundle))
    with serve(Composite(children={"qemu": machine, "flasher": flasher})) as client:
        yield Bench(machine, client, tmp_path)
