"""Guest material: archives that the kernel can unpack, images, and messages when something is missing."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from jumpstarter_testbench import guest
from jumpstarter_testbench.guest import CpioWriter, GuestError, Material, write_ext4_image, write_initramfs
from jumpstarter_testbench.requirements import need


def unpack(archive: bytes, busybox: Path, target: Path) -> None:
    """Unpack an archive with busybox, which knows the format by heart."""
    target.mkdir()
    subprocess.run([busybox, "cpio", "-i", "-d"], input=archive, cwd=target, check=True, capture_output=True)


@pytest.fixture
def busybox(guest_material: Material) -> Path:
    """A real implementation of cpio."""
    return guest_material.userland / "bin" / "busybox"


def test_archive_unpacks_to_what_was_put_in(busybox: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with CpioWriter(buffer) as archive:
        archive.file("deep/er/file", b"content" * 3, 0o640)
        archive.symlink("deep/link", "er/file")
        archive.directory("empty", 0o700)
    unpack(buffer.getvalue(), busybox, tmp_path / "tree")
    assert (tmp_path / "tree/deep/link").read_bytes() == b"content" * 3
    assert (tmp_path / "tree/deep/er/file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "tree/empty").stat().st_mode & 0o777 == 0o700
    assert len(buffer.getvalue()) % 512 == 0


def test_equal_content_makes_equal_archives(guest_material: Material, tmp_path: Path) -> None:
    one, other = (write_initramfs(tmp_path / name, guest_material) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_name_can_be_used_once() -> None:
    with CpioWriter(io.BytesIO()) as archive:
        archive.file("x", b"")
        with pytest.raises(ValueError, match="x is in the archive already"):
            archive.file("/x", b"")


def test_modules_come_after_those_that_they_need(guest_material: Material, busybox: Path, tmp_path: Path) -> None:
    image = write_initramfs(tmp_path / "image", guest_material, modules=["virtio_net"])
    unpack(gzip.decompress(image.read_bytes()), busybox, tmp_path / "tree")
    order = (tmp_path / "tree/lib/modules/order").read_text().split()
    assert order[-1] == "virtio_net"
    assert order.index("failover") < order.index("net_failover") < order.index("virtio_net")
    assert all((tmp_path / f"tree/lib/modules/{name}.ko").exists() for name in order)


def test_unknown_module_is_named(guest_material: Material, tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="has no module warp_drive"):
        write_initramfs(tmp_path / "image", guest_material, modules=["warp_drive"])


def test_extra_files_are_added(guest_material: Material, busybox: Path, tmp_path: Path) -> None:
    image = write_initramfs(
        tmp_path / "image", guest_material, files={"etc/extra": b"x"}, executables={"etc/board.d/run": b"#!/bin/sh\n"}
    )
    unpack(gzip.decompress(image.read_bytes()), busybox, tmp_path / "tree")
    assert (tmp_path / "tree/etc/extra").read_bytes() == b"x"
    assert (tmp_path / "tree/etc/board.d/run").stat().st_mode & 0o111


def test_ext4_image_has_its_size_and_content(tmp_path: Path) -> None:
    need("e2fsprogs")
    image = write_ext4_image(tmp_path / "image", 4 << 20, {"etc/release": b"1.0\n"}, label="firmware")
    assert image.stat().st_size == 4 << 20
    tool = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin")
    assert tool is not None
    shown = subprocess.run([tool, "-R", "cat /etc/release", image], capture_output=True, check=True)
    assert shown.stdout == b"1.0\n"


def test_files_that_do_not_fit_are_reported(tmp_path: Path) -> None:
    need("e2fsprogs")
    with pytest.raises(GuestError, match="can't make the file system"):
        write_ext4_image(tmp_path / "image", 1 << 20, {"large": b"x" * (4 << 20)})
    assert not (tmp_path / "image").exists()


def test_machine_without_apt_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestError, match=r"apt-get, apt-cache, dpkg-deb not found: .* needs Debian"):
        guest.fetch(tmp_path / "cache")
