"""A flasher bundle for the virtual 64-bit Arm board: Debian's arm64 kernel and a busybox Linux that runs from memory.

The packages are fetched with apt's own program into a cache, for the architecture arm64, without touching this
machine's package lists. The board's U-Boot loads the result over TFTP and boots it with `booti`.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from jumpstarter_testbench import guest
from jumpstarter_testbench.requirements import unavailable

MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_net")
KERNEL_ADDRESS: Final = "0x40400000"
INITRAM_ADDRESS: Final = "0x48000000"

MANIFEST: Final = f"""\
apiVersion: jumpstarter.dev/v1alpha1
kind: FlashBundleManifest
metadata:
  name: qemu-arm64
spec:
  manufacturer: QEMU
  link: https://www.qemu.org/docs/master/system/arm/virt.html
  bootcmd: >-
    setenv bootargs console=ttyAMA0 loglevel=4 panic=-1;
    booti {KERNEL_ADDRESS} {INITRAM_ADDRESS}:${{filesize}} ${{fdtcontroladdr}}
  shelltype: busybox
  login:
    login_prompt: "login:"
    username: root
    prompt: "#"
  default_target: disk
  targets:
    disk: /dev/vda
    by-address: /sys/class/block#virtio
  kernel:
    file: data/kernel
    address: "{KERNEL_ADDRESS}"
  initram:
    file: data/initramfs
    address: "{INITRAM_ADDRESS}"
  preflash_commands:
    - 'echo "U-Boot had $dhcp_addr, gateway $gw_addr"'
"""

_INIT: Final = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
while read -r module; do
    insmod "/lib/modules/$module.ko"
done < /lib/modules/order
mdev -s
hostname flasher
ip link set lo up
exec /bin/busybox init
"""

_FILES: Final = {
    "etc/inittab": "ttyAMA0::respawn:/bin/getty -L 115200 ttyAMA0 vt100\n::ctrlaltdel:/bin/reboot\n",
    "etc/passwd": "root::0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/profile": "export PATH=/bin\n",
    "etc/issue": "Flasher on \\\\l, #1 of its kind\n",
}

_UDHCPC: Final = """#!/bin/sh
case $1 in
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -n "$router" ] && ip route add default via "${router%% *}"
    ;;
esac
exit 0
"""


def fetch(cache: Path) -> guest.Material:
    """Download and unpack Debian's arm64 kernel and busybox into `cache`, at once when they are there already.

    Raises:
        GuestError: the machine is no Debian, or a package can't be fetched.
    """
    cache = cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / "arm64"
    with guest._locked(cache / ".lock"):
        if not tree.exists():
            guest._require_tools("apt-get", "apt-cache", "dpkg-deb")
            _unpack(tree)
    kernels = sorted((tree / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise guest.GuestError(f"{tree} holds no kernel. Remove {cache} and start again.")
    release = kernels[-1].name.removeprefix("vmlinuz-")
    modules = next((each for each in guest._under(tree, f"lib/modules/{release}") if each.is_dir()), None)
    if modules is None:
        raise guest.GuestError(f"{tree} holds no modules for {release}. Remove {cache} and start again.")
    return guest.Material(kernel=kernels[-1], release=release, modules=modules, userland=tree)


def _unpack(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="arm64-", dir=target.parent) as name:
        scratch = Path(name)
        for folder in ("state/lists/partial", "cache/archives/partial", "tree"):
            (scratch / folder).mkdir(parents=True)
        (scratch / "status").touch()
        apt = [
            *("-o", "APT::Architecture=arm64", "-o", "APT::Architectures::=arm64"),
            *("-o", f"Dir::State={scratch}/state", "-o", f"Dir::State::status={scratch}/status"),
            *("-o", f"Dir::Cache={scratch}/cache", "-q"),
        ]
        guest._run(["apt-get", *apt, "update"], "read the lists of Debian's arm64 packages")
        metapackage = ["apt-cache", *apt, "depends", "linux-image-cloud-arm64"]
        kernels = [
            line.split()[-1]
            for line in _output(metapackage).splitlines()
            if line.strip().startswith("Depends: linux-image-")
        ]
        if not kernels:
            raise guest.GuestError("apt knows no linux-image-cloud-arm64")
        guest._run(
            ["apt-get", *apt, "download", kernels[0], "busybox-static"], "download Debian's arm64 kernel", cwd=scratch
        )
        for package in sorted(scratch.glob("*.deb")):
            guest._run(["dpkg-deb", "-x", str(package), str(scratch / "tree")], f"unpack {package.name}")
        (scratch / "tree").rename(target)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def write_initramfs(target: Path, material: guest.Material, files: Mapping[str, bytes] | None = None) -> Path:
    """Write the initial file system; return `target`."""
    buffer = io.BytesIO()
    with guest.CpioWriter(buffer) as archive:
        for directory in ("proc", "sys", "tmp", "root", "etc"):
            archive.directory(directory)
        archive.device("dev/console", 0o600, 5, 1)
        archive.device("dev/null", 0o666, 1, 3)
        archive.file("bin/busybox", guest.userland_file(material, "busybox").read_bytes(), 0o755)
        guest.add_modules(archive, material, MODULES)
        archive.file("init", _INIT.encode(), 0o755)
        archive.file("etc/udhcpc/default.script", _UDHCPC.encode(), 0o755)
        for name, text in _FILES.items():
            archive.file(name, text.encode())
        for name, content in (files or {}).items():
            archive.file(name, content, 0o755)
    target.write_bytes(gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0))
    return target


def write_bundle(folder: Path, material: guest.Material) -> Path:
    """Write a bundle as it is pushed to a registry: `manifest.yaml` and `data/`; return the folder."""
    data = folder / "data"
    data.mkdir(parents=True)
    (folder / "manifest.yaml").write_text(MANIFEST)
    (data / "kernel").symlink_to(os.path.relpath(material.kernel, data))
    write_initramfs(data / "initramfs", material)
    return folder


@pytest.fixture(scope="session")
def flasher_bundle(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a flasher bundle for the virtual Arm board; its first use downloads packages."""
    try:
        material = fetch(pytestconfig.rootpath / ".cache" / "guest")
    except guest.GuestError as error:
        unavailable(str(error))
    return write_bundle(tmp_path_factory.mktemp("flasher-bundle") / "bundle", material)
