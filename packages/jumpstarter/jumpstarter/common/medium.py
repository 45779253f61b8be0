"""Removable media that muxes connect to the exporter: which block device it is, held and checked while it is used.

Names such as /dev/sda are given to whatever comes first, so a medium is identified by the USB device that it belongs
to, and looked at again once it is open: the number of an open device is not given to another one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Disk",
    "Medium",
    "MediumBusy",
    "WrongMedium",
    "disk_of_descriptor",
    "disks_below",
    "disks_with_serial",
    "hold",
    "holds_medium",
    "usb_device_of",
]

LOOP_MAJOR = 7
"""Major number of loop devices (Linux, Documentation/admin-guide/devices.txt)."""


class WrongMedium(RuntimeError):
    """What was found is not the medium that is meant, or may not be written."""


class MediumBusy(WrongMedium):
    """The medium is in use."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A whole disk of the exporter, and the USB device it belongs to if it does."""

    name: str
    """As in /dev and /sys/block."""
    usb: Path | None
    """The USB device in sysfs."""

    @property
    def node(self) -> Path:
        """The device node."""
        return Path("/dev", self.name)

    @property
    def serial(self) -> str | None:
        """Serial number of the USB device."""
        return _attribute(self.usb, "serial") if self.usb else None

    @property
    def ids(self) -> str:
        """Vendor and product of the USB device, as lsusb shows them."""
        return (
            f"{_attribute(self.usb, 'idVendor')}:{_attribute(self.usb, 'idProduct')}" if self.usb else "no USB device"
        )

    def __str__(self) -> str:
        return f"{self.node} ({self.ids}, serial {self.serial or 'none'})" if self.usb else f"{self.node} (not on USB)"


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A medium that is open: its descriptor keeps the number of the device from being given to another one."""

    path: Path
    """By which it can be opened again as long as it is held."""
    disk: Disk | None
    """None for a plain file or a loop device, which stand in for a medium."""
    descriptor: int

    def close(self) -> None:
        """Let go of it. Blocks while the kernel still writes to it."""
        os.close(self.descriptor)

    def is_gone(self) -> bool:
        """Tell whether the device was unplugged, or its medium taken out, since it was opened."""
        status = os.fstat(self.descriptor)
        return stat.S_ISBLK(status.st_mode) and _sectors(status.st_rdev) == 0

    def check_stored(self) -> None:
        """Make sure that all writes since it was opened have reached the medium. Blocks.

        The kernel tells each descriptor once that writing failed, and forgets what it could not write: an fsync that
        succeeds on another one after it has failed there proves nothing.

        Raises:
            OSError: something was not written.
        """
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise OSError(error.errno, f"{self.path} has not stored everything: {error.strerror}") from error


def disks_below(folder: Path) -> list[Disk]:
    """Return the whole disks that belong to the USB device at `folder` in sysfs, or to one behind it."""
    parent = folder.resolve()
    return [disk for disk in _disks() if disk.usb is not None and (disk.usb == parent or parent in disk.usb.parents)]


def disks_with_serial(serial: str) -> list[Disk]:
    """Return the whole USB disks with this serial number."""
    return [disk for disk in _disks() if disk.serial == serial]


def _disks() -> list[Disk]:
    root = Path("/sys/block")
    return [_disk(path) for path in sorted(root.iterdir())] if root.is_dir() else []


def disk_of_descriptor(descriptor: int) -> Disk | None:
    """Return the disk that an open device is, or None for a file or a loop device.

    Raises:
        WrongMedium: it is a partition, or no block device at all.
    """
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        return None
    if not stat.S_ISBLK(status.st_mode):
        raise WrongMedium("it is neither a block device nor a file")
    if os.major(status.st_rdev) == LOOP_MAJOR:
        return None
    path = Path(f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}").resolve()
    if (path / "partition").exists():
        raise WrongMedium(f"it is a partition; name the whole disk, /dev/{path.parent.name}")
    return _disk(path)


def hold(path: Path, check: Callable[[Disk | None], None], *, writing: bool) -> Medium:
    """Open a medium so that nobody mounts it or changes what it is until it is closed. Blocks.

    Args:
        path: device node, link to one, or file.
        check: raises unless it gets the disk that is meant; called when the medium is open.
        writing: whether it is to be written.

    Raises:
        MediumBusy: it is in use, for instance mounted.
        WrongMedium: it is a partition, or `check` says so.
        OSError: it can't be opened.
    """
    real = Path(os.path.realpath(path))
    is_block = stat.S_ISBLK(os.stat(real).st_mode)
    flags = (os.O_RDWR if writing else os.O_RDONLY) | os.O_CLOEXEC | (os.O_EXCL if is_block else 0)
    try:
        descriptor = os.open(real, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise MediumBusy(
                f"{real} is busy: it is mounted, or another program uses it. Unmount it (umount {real}*), and keep the "
                "desktop from mounting media by itself"
            ) from error
        raise OSError(error.errno, f"{real} can't be opened: {error.strerror}") from error
    try:
        try:
            disk = disk_of_descriptor(descriptor)
        except WrongMedium as error:
            raise WrongMedium(f"{real} can't be used: {error}") from None
        check(disk)
    except BaseException:
        os.close(descriptor)
        raise
    return Medium(path=real, disk=disk, descriptor=descriptor)


def _disk(path: Path) -> Disk:
    real = path.resolve()
    return Disk(name=real.name, usb=usb_device_of(real))


def holds_medium(path: Path) -> bool:
    """Tell whether a path is a file, or a device with a medium in it as far as the kernel knows."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return not stat.S_ISBLK(status.st_mode) or _sectors(status.st_rdev) > 0


def _sectors(number: int) -> int:
    return int(_attribute(Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"), "size") or 0)


def usb_device_of(path: Path) -> Path | None:
    """Return the USB device in sysfs that something in sysfs belongs to, or None."""
    return next((parent for parent in path.resolve().parents if (parent / "idVendor").exists()), None)


def _attribute(folder: Path | None, name: str) -> str | None:
    try:
        return (folder / name).read_text(errors="replace").strip() or None if folder else None
    except OSError:
        return None
