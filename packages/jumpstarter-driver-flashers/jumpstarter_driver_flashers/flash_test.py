"""The whole procedure on a virtual board: U-Boot, TFTP, Linux, HTTP, disk. What is on the disk is compared here."""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.common.utils import serve
from jumpstarter_driver_composite.driver import Composite
from jumpstarter_driver_qemu.driver import Qemu
from jumpstarter_testbench.oci_registry import OciRegistry

from .client import FlashError
from .conftest import DISK_SIZE, MIB, UBOOT, Bench, image_content, make_flasher
from .transfer_test import web_server

pytestmark = [
    pytest.mark.device,
    pytest.mark.need("qemu-aarch64", "qemu-img", "u-boot"),
    # A machine with other work emulates slowly, and the longest of these boot twice.
    pytest.mark.timeout(600),
]


def sparse_image(content: bytes) -> bytes:
    """Return an Android sparse image with one raw chunk, one of zeros and one that may hold anything."""
    block = 4096
    data = content + bytes(-len(content) % block)
    header = struct.pack("<IHHHHIIII", 0xED26FF3A, 1, 0, 28, 12, block, len(data) // block + 512, 3, 0)
    return b"".join(
        (
            header,
            struct.pack("<HHII", 0xCAC1, 0, len(data) // block, 12 + len(data)),
            data,
            struct.pack("<HHII", 0xCAC2, 0, 256, 16),
            bytes(4),
            struct.pack("<HHII", 0xCAC3, 0, 256, 12),
        )
    )


@pytest.mark.slow
def test_images_arrive_on_the_disk_and_are_sent_once(bench: Bench, caplog: pytest.LogCaptureFixture):
    """One boot writes a packed image from a web server and over it a local one, verified. Another boot finds the local
    one in the cache, and refuses an image that is larger than the disk."""
    caplog.set_level("INFO")
    content = image_content()
    image = bench.folder / "disk.img"
    image.write_bytes(content)
    other = image_content(4 * MIB, seed=2)
    with web_server({"other.img.xz": lzma.compress(other, preset=0)}) as server:
        bench.flasher.flash({"disk": f"{server.url}/other.img.xz", "by-address": image}, retries=0, verify=True)
    disk = bench.disk()
    assert len(disk) == DISK_SIZE
    assert disk[: len(content)] == content
    assert bench.client.qemu.state() == "off"
    for words in (
        *("fetching other.img.xz: ", "writing other.img.xz to /dev/vda: 4.0 MiB in", "sending disk.img: 8.0 MiB in"),
        *("writing disk.img to /dev/vda: 8.0 MiB in", "verifying /dev/vda: 8.0 MiB in"),
    ):
        assert words in caplog.text
    caplog.clear()
    large = bench.folder / "large.img"
    with large.open("wb") as file:
        file.truncate(DISK_SIZE + MIB)
    with pytest.raises(FlashError) as caught:
        bench.flasher.flash({"disk": image, "by-address": large}, retries=0)
    size = DISK_SIZE + MIB
    assert f"step 'target': large.img is for a disk of {size} bytes, /dev/vda has {DISK_SIZE}" in str(caught.value)
    assert "disk.img is in the exporter's cache" in caplog.text
    assert "sending disk.img" not in caplog.text
    assert "writing disk.img to /dev/vda: 8.0 MiB in" in caplog.text
    assert bench.disk() == disk


@pytest.mark.slow
def test_sparse_image_from_a_registry_goes_to_a_labelled_partition_and_the_board_reboots(
    tmp_path: Path, flasher_bundle: Path, oci_registry: OciRegistry, machine: Qemu
):
    """The bundle comes from the registry as well; the partition is found by its label; the rest of the disk stays."""
    folder = flasher_bundle
    files = {name: (folder / name).read_bytes() for name in ("manifest.yaml", "data/kernel", "data/initramfs")}
    oci_registry.push("org/bundle", "v1", files)
    content = image_content(3 * MIB + 8192)
    oci_registry.push("org/disk", "v1", {"disk.simg.gz": gzip.compress(sparse_image(content), 1)})
    table = "label: gpt\nstart=2048, size=32768, name=boot_a\nstart=34816, size=32768, name=boot_b\n"
    partitioned = tmp_path / "partitioned.img"
    with partitioned.open("wb") as file:
        file.truncate(DISK_SIZE)
    subprocess.run(["sfdisk", "-q", partitioned], input=table.encode(), check=True, timeout=30)
    bundle = f"http://{oci_registry.address}/org/bundle:v1"
    with serve(Composite(children={"qemu": machine, "flasher": make_flasher(tmp_path, bundle)})) as client:
        client.qemu.flasher.flash(partitioned)
        # As a user would: with `j`.
        command = [
            *("flash", f"oci://{oci_registry.address}/org/disk:v1", "--plain-http"),
            *("-t", "boot_b", "--no-power-off", "--retries", "0"),
        ]
        result = CliRunner().invoke(client.flasher.cli(), command)
        assert result.exit_code == 0, result.output
        assert client.qemu.state() == "running"
        client.qemu.power.off()
        bench = Bench(machine, client, tmp_path)
        disk = bench.disk()
    start = 34816 * 512
    assert disk[start : start + len(content)] == content
    assert disk[:start] == partitioned.read_bytes()[:start]


@pytest.fixture
def machine() -> Qemu:
    return Qemu(arch="aarch64", mem="1G", default_partitions={"bios": UBOOT}, disk_size="64M", display="none")


@pytest.fixture
def failing(bench: Bench, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Flash an image, expecting a failure; yield what flashes and returns the message."""
    caplog.set_level("INFO")
    image = bench.folder / "disk.img"
    image.write_bytes(image_content())

    def flash(path: Path = image, **options: Any) -> str:
        with pytest.raises(FlashError) as caught:
            bench.flasher.flash(path, retries=0, **options)
        assert bench.client.qemu.state() == "off"
        assert "Flashed in" not in caplog.text
        return str(caught.value)

    yield flash
    assert not any(bench.disk()), "nothing may be written"


def test_kernel_that_the_tftp_server_lacks_is_named(failing: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch):
    real = type(bench.flasher)._files
    monkeypatch.setattr(
        type(bench.flasher), "_files", lambda self: [(part, f"no-{name}", at) for part, name, at in real(self)]
    )
    assert "step 'load kernel': the TFTP server doesn't have 'no-kernel'" in failing()


@pytest.mark.slow
def test_kernel_that_is_none_is_named(failing: Any, bench: Bench, tmp_path: Path):
    (tmp_path / "garbage").write_bytes(b"garbage" * 1000)

    def instead(*arguments: Any) -> None:
        type(bench.flasher)._set_up_bundle(bench.flasher)
        bench.flasher.use_kernel(tmp_path / "garbage")

    bench.flasher.__dict__["_set_up_bundle"] = instead
    message = failing()
    assert "step 'login': 'setenv bootargs" in message
    assert "Bad Linux ARM64 Image magic!" in message


@pytest.mark.slow
def test_login_that_does_not_come_is_named_with_what_came(failing: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch):
    manifest = bench.flasher.manifest.model_copy(deep=True)
    manifest.spec.login.login_prompt = "password for the universe:"
    monkeypatch.setattr(type(bench.flasher), "manifest", property(lambda self: manifest))
    monkeypatch.setattr(type(bench.flasher), "login_timeout", 4.0)
    message = failing()
    assert "step 'login': no login prompt ('password for the universe:') came within 4 s" in message
    assert "The last lines of the console:" in message


@pytest.mark.slow
def test_damaged_image_ends_the_flash_before_the_board_writes(failing: Any, bench: Bench):
    damaged = bench.folder / "disk.img.gz"
    damaged.write_bytes(gzip.compress(image_content(), 1)[:-500])
    assert re.search(r"step 'image': .*cut short", failing(damaged))


@pytest.mark.slow
def test_board_without_a_network_is_named(tmp_path: Path, flasher_bundle: Path):
    class WithoutNetwork(Qemu):
        def _network_arguments(self) -> list[str]:
            return []

    machine = WithoutNetwork(arch="aarch64", mem="1G", default_partitions={"bios": UBOOT}, display="none")
    image = tmp_path / "disk.img"
    image.write_bytes(image_content())
    flasher = make_flasher(tmp_path, str(flasher_bundle))
    with serve(Composite(children={"qemu": machine, "flasher": flasher})) as client:
        with pytest.raises(FlashError, match=r"step 'network of U-Boot': .*dhcp"):
            client.flasher.flash(image, retries=0)
        assert client.qemu.state() == "off"


def test_interrupted_flash_leaves_the_board_off_and_nothing_running(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C in the middle of the dialogue."""
    from . import procedure

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(procedure, "_load", interrupted)
    image = bench.folder / "disk.img"
    image.write_bytes(image_content())
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        bench.flasher.flash(image)
    assert bench.client.qemu.state() == "off"
    assert not bench.flasher.http.is_running()
    assert not bench.flasher.tftp.is_running()
    assert threading.active_count() <= before + 8


@pytest.mark.slow
def test_shells_are_where_they_say(bench: Bench):
    with bench.flasher.bootloader_shell() as serial, serial.pexpect() as console:
        console.sendline("version")
        console.expect_exact("U-Boot 20", timeout=30)
    with bench.flasher.busybox_shell() as serial, serial.pexpect() as console:
        console.sendline("uname -m")
        console.expect_exact("aarch64", timeout=30)
    bench.client.qemu.power.off()
