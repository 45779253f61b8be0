"""The whole procedure on a virtual board: U-Boot, TFTP, Linux, HTTP, disk."""

from __future__ import annotations

import pytest

from .conftest import DISK_SIZE, Bench, image_content

pytestmark = [pytest.mark.device, pytest.mark.need("qemu-aarch64", "qemu-img", "u-boot"), pytest.mark.slow]


def test_raw_image_arrives_on_the_disk(bench: Bench):
    content = image_content()
    image = bench.folder / "disk.img"
    image.write_bytes(content)
    bench.flasher.flash(image, retries=0, verify=True)
    disk = bench.disk()
    assert len(disk) == DISK_SIZE
    assert disk[: len(content)] == content
    assert bench.client.qemu.state() == "off"
