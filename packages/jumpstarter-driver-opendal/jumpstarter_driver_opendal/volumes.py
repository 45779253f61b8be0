"""Drives of boards that take firmware as a file: finding the right one, copying onto it, noticing that it went away.

Boards with a UF2 boot loader, ST-LINK or DAPLink show a small FAT drive on USB, and program what is copied to it. Such
drives come and go, look alike, and swallow whatever is written, so a drive is identified by what its USB device tells,
looked at again through an open directory right before writing, and written in steps of which each is on the device
before the next one begins. For Linux, whose /proc/self/mountinfo and /sys tell all that.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import anyio
from anyio import to_thread

from .transfer import interruptible

__all__ = [
    "Drive",
    "OpenVolume",
    "Volume",
    "VolumeError",
    "VolumeMissing",
    "copy_image",
    "find_volume",
    "is_present",
    "open_volume",
    "volumes",
    "wait_for_volume",
    "wait_until_gone",
]

FAT: Final = ("vfat", "msdos")
"""Types of file systems that such drives have, as the kernel names them."""

STEP: Final = 256 * 1024
"""Bytes that are written before they are brought to the device; boards take 20 to 500 KB/s."""

TAIL: Final = 512
"""Bytes of the last step: one sector. A board may go away as soon as it has them."""

PROGRESS_INTERVAL: Final = 5.0
"""Seconds between two lines in the log about a copy."""

POLL: Final = 0.1
"""Seconds between two looks."""

MOUNT_TIMEOUT: Final = 30.0
TEXT_LIMIT: Final = 64 * 1024
"""Bytes of a text on a drive that are read."""

_GONE: Final = frozenset({errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.ESHUTDOWN, errno.ENOENT})
_ESCAPED = re.compile(r"\\([0-7]{3})")
_SYS = Path("/sys")
_MOUNTS = Path("/proc/self/mountinfo")


class VolumeError(OSError):
    """A drive can't be used; the message says why and what to do."""


class VolumeMissing(VolumeError):
    """There is no such drive at the moment."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """Which drive is meant. Everything that isn't None must fit; at least one of `markers` must be in its root."""

    what: str
    """What messages call it."""
    markers: tuple[str, ...]
    """Names of files that tell such a drive from others; upper and lower case are the same."""
    names: tuple[str, ...] = ()
    """How the label, or the name of the directory that it is mounted on, may begin instead of having a marker."""
    name: str | None = None
    """Label, or name of the directory that it is mounted on."""
    serial_number: str | None = None
    """Serial number of the USB device."""
    usb_port: str | None = None
    """USB port as in /sys/bus/usb/devices, such as `1-1.4`."""
    device: str | None = None
    """Device file, such as `/dev/disk/by-id/...`."""
    vendors: tuple[int, ...] = ()
    """USB vendors whose drives are mounted for a look when the config names none, if they aren't mounted yet."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A FAT file system on a drive that is there."""

    device: str
    """Device file."""
    number: tuple[int, int]
    """Major and minor number of the device."""
    mount_point: Path | None
    """Where it is mounted; None if it isn't."""
    mount_id: int | None
    serial_number: str | None
    usb_port: str | None
    vendor: int | None
    sequence: int | None
    """Number that the kernel gives to the medium in a drive; another medium has another one."""
    label: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        facts = [
            self.device,
            f"on {self.mount_point}" if self.mount_point else "not mounted",
            f"serial number {self.serial_number}" if self.serial_number else "",
            f"USB port {self.usb_port}" if self.usb_port else "",
        ]
        return ", ".join(filter(None, facts))


def volumes() -> list[Volume]:
    """Return all FAT file systems that are mounted, and those on USB drives that aren't, as far as this user may read.

    Raises:
        NotImplementedError: this system isn't Linux.
    """
    if sys.platform != "linux":
        raise NotImplementedError("drives of boards can be found on Linux only")
    mounted = list(_mounted())
    numbers = {volume.number for volume in mounted}
    return mounted + [volume for volume in _unmounted() if volume.number not in numbers]


def find_volume(drive: Drive) -> Volume:
    """Return the one volume that fits; blocking.

    Raises:
        VolumeMissing: there is none.
        VolumeError: there are several, or it isn't mounted and this user may not do that.
    """
    fitting = [volume for volume in volumes() if _fits(volume, drive)]
    found = [volume for volume in fitting if volume.mount_point is not None and _is_marked(volume, drive)]
    unmounted = [volume for volume in fitting if volume.mount_point is None]
    if os.geteuid() == 0:
        found += [volume for volume in unmounted if _is_marked(volume, drive)]
    if len(found) > 1:
        listed = "; ".join(map(str, found))
        raise VolumeError(
            f"there are {len(found)} drives that may be {drive.what}: {listed}. "
            "Tell the right one by 'serial_number' or 'usb_port' in the config"
        )
    if found:
        return found[0]
    if unmounted and os.geteuid() != 0:
        raise VolumeError(
            f"{drive.what} seems to be {unmounted[0]}. Mount it ('udisksctl mount -b {unmounted[0].device}'), have "
            "that done whenever it appears (udisks2 with an automounter, or udev and systemd-mount), or run the "
            "exporter as root, which mounts it by itself"
        )
    raise VolumeMissing(f"{drive.what} is not there: {_looked_for(drive)}. Check that it is plugged in")


def is_present(volume: Volume) -> bool:
    """Tell whether the very same medium is still there."""
    if volume.mount_id is None:
        try:
            # The kernel looks after the medium when the device is opened.
            os.close(os.open(volume.device, os.O_RDONLY | os.O_CLOEXEC))
        except PermissionError:
            pass
        except OSError:
            return False
    if volume.sequence != _sequence(volume.number) or _size(volume.number) in (None, 0):
        return False
    if volume.mount_id is None:
        return True
    return any(mount.mount_id == volume.mount_id and mount.number == volume.number for mount in _mounted())


async def wait_for_volume(drive: Drive, timeout: float) -> Volume:
    """Wait until there is one volume that fits.

    Raises:
        VolumeMissing: there is none within `timeout` seconds.
        VolumeError: see `find_volume`; told after that time, as mounting takes its time too.
    """
    deadline = monotonic() + timeout
    while True:
        try:
            return await to_thread.run_sync(find_volume, drive)
        except VolumeError:
            if monotonic() >= deadline:
                raise
        await anyio.sleep(POLL)


async def wait_until_gone(volume: Volume, timeout: float) -> bool:
    """Wait until a volume is unplugged, ejected or replaced; returns False when it still is there in the end."""
    deadline = monotonic() + timeout
    while await to_thread.run_sync(is_present, volume):
        if monotonic() >= deadline:
            return False
        await anyio.sleep(POLL)
    return True


async def copy_image(
    volume: Volume,
    drive: Drive,
    name: str,
    prepare: Callable[[OpenVolume], Path],
    logger: logging.Logger,
) -> None:
    """Copy a file onto a volume; what comes of it the board has to tell, see `OpenVolume.write`.

    When this task is cancelled, the copy ends with the step that it is at.

    Args:
        volume: where to.
        drive: what the volume has to be at that moment.
        name: name of the new file.
        prepare: is given the open volume, and returns the file to copy, or raises when the volume is not for it;
            called in a worker thread.
        logger: told how far it is.

    Raises:
        VolumeError: the volume isn't the right one any more, has no room, is read-only, or went away.
    """

    def work(stop: threading.Event) -> None:
        with open_volume(volume, drive) as opened:
            source = prepare(opened)
            size = source.stat().st_size
            logger.info("copying %d bytes to %s", size, volume)
            told = monotonic()
            for written in opened.write(name, source):
                if stop.is_set():
                    return
                if monotonic() - told >= PROGRESS_INTERVAL:
                    told = monotonic()
                    logger.info("copied %d of %d bytes (%d %%)", written, size, written * 100 // size)

    await interruptible(work)


# Using a volume


class OpenVolume:
    """The root directory of a volume, held open: what is written can't land anywhere else."""

    def __init__(self, volume: Volume, directory: int) -> None:
        self.volume = volume
        self._directory = directory

    def names(self) -> list[str]:
        """Return the names in the root directory. Raises OSError."""
        return os.listdir(self._directory)

    def is_of(self, drive: Drive) -> bool:
        """Tell whether it is a drive of that kind, by its files or its name. Raises OSError."""
        return _has_marker(self.names(), drive) or _has_name(self.volume, drive)

    def read_text(self, name: str) -> str | None:
        """Return a text file, whatever its case; None when there is none. Raises OSError."""
        real = next((each for each in self.names() if each.upper() == name.upper()), None)
        if real is None:
            return None
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(TEXT_LIMIT).decode("utf-8", errors="replace").strip("\0")

    def write(self, name: str, source: Path) -> Iterator[int]:
        """Copy a file into the root, step by step: every step is on the device when the next number is yielded.

        The last step is short. A board that programs itself may go away at any moment from then on, so an error in
        that step, and then only, is taken for that: the caller has to ask the board whether all is well.

        Yields:
            The bytes written so far.

        Raises:
            VolumeError: the volume has no room, is read-only, or went away.
        """
        size = source.stat().st_size
        self._check_room(name, size)
        written = 0
        file = -1
        try:
            with open(source, "rb") as image:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(name, flags, 0o644, dir_fd=self._directory)
                while written < size:
                    length = min(STEP, size - TAIL - written) if written < size - TAIL else size - written
                    data = image.read(length)
                    if len(data) != length:
                        raise VolumeError(f"the image changed while it was copied to {self.volume.device}")
                    _write_through(file, data)
                    if written + length == size:
                        os.fsync(self._directory)  # a long name is in entries that don't belong to the file
                    written += length
                    yield written
        except OSError as error:
            if isinstance(error, VolumeError):
                raise
            if written >= size - TAIL and error.errno in _GONE and written:
                return
            raise self._failure(error, written, size) from error
        finally:
            if file >= 0:
                with suppress(OSError):
                    os.close(file)

    def _check_room(self, name: str, size: int) -> None:
        try:
            space = os.fstatvfs(self._directory)
        except OSError as error:
            raise self._failure(error, 0, size) from error
        if space.f_flag & os.ST_RDONLY:
            raise VolumeError(
                f"{self.volume.device} is read-only; nothing was written. Plug the board in again; if that doesn't "
                "help, mount the drive writable"
            )
        free = space.f_bavail * space.f_frsize
        if size > free:
            raise VolumeError(
                f"{name} has {size} bytes, but {self.volume.device} has room for {free} only; nothing was written"
            )

    def _failure(self, error: OSError, written: int, size: int) -> VolumeError:
        reason = error.strerror or str(error)
        if error.errno in _GONE or not is_present(self.volume):
            return VolumeError(
                f"{self.volume.device} went away after {written} of {size} bytes ({reason}): the board was unplugged "
                "or restarted while it was written, and has half an image now. Plug it in and flash again"
            )
        return VolumeError(f"writing to {self.volume.device} failed after {written} of {size} bytes: {reason}")


@contextmanager
def open_volume(volume: Volume, drive: Drive) -> Generator[OpenVolume, None, None]:
    """Open a volume and look again whether it is the right one; blocking. It is mounted meanwhile if it wasn't.

    A mount of our own has no place in the directory tree and ends with the last open file, so none is ever left
    behind, not even by a process that is killed.

    Raises:
        VolumeError: it isn't there any more, another one has taken its place, or it can't be mounted.
    """
    try:
        directory = _mount(volume) if volume.mount_point is None else _open_directory(volume.mount_point)
    except OSError as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeMissing(f"{drive.what} ({volume}) can't be opened: {error.strerror}. Plug it in again") from error
    try:
        opened = OpenVolume(volume, directory)
        if not _is_device(directory, volume.number) or not is_present(volume) or not opened.is_of(drive):
            raise VolumeMissing(f"{drive.what} was {volume}, but is not there any more. Plug it in again")
        yield opened
    finally:
        with suppress(OSError):
            os.close(directory)


def _write_through(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _is_device(directory: int, number: tuple[int, int]) -> bool:
    device = os.fstat(directory).st_dev
    return (os.major(device), os.minor(device)) == number


def _mount(volume: Volume) -> int:
    """Mount a volume for this process alone; returns its open root directory."""
    with tempfile.TemporaryDirectory(prefix="jumpstarter-volume-") as place:
        options = ["-t", "vfat", "-o", "nosuid,nodev,noexec"]
        _run(["mount", *options, volume.device, place], f"{volume.device} can't be mounted")
        try:
            return _open_directory(Path(place))
        finally:
            # Lazily: the directory is free at once, and the file system is released with the last descriptor.
            _run(["umount", "-l", place], f"{volume.device} can't be taken from {place}")


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOUNT_TIMEOUT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise VolumeError(f"{what}: '{command[0]}' took more than {MOUNT_TIMEOUT:g} s") from error
    except FileNotFoundError as error:
        raise VolumeError(f"{what}: there is no program '{command[0]}'. Install the package 'mount'") from error
    if done.returncode:
        raise VolumeError(f"{what}: {done.stderr.strip() or f'exit code {done.returncode}'}")


# Looking for volumes


def _fits(volume: Volume, drive: Drive) -> bool:
    if drive.serial_number is not None and volume.serial_number != drive.serial_number:
        return False
    if drive.usb_port is not None and volume.usb_port != drive.usb_port:
        return False
    if drive.device is not None and not _is_node(drive.device, volume.number):
        return False
    if drive.name is not None and drive.name not in (volume.label, volume.mount_point and volume.mount_point.name):
        return False
    if volume.mount_point is not None:
        return True
    # Only what is likely the right one is mounted for a look: others may be in use by something else.
    return any((drive.serial_number, drive.usb_port, drive.device, drive.name)) or volume.vendor in drive.vendors


def _is_marked(volume: Volume, drive: Drive) -> bool:
    try:
        if volume.mount_point is None:
            with open_volume(volume, drive):
                return True
        return _has_marker(os.listdir(volume.mount_point), drive) or _has_name(volume, drive)
    except OSError:
        return False  # it went away, or isn't for this user


def _has_marker(names: list[str], drive: Drive) -> bool:
    return not {name.upper() for name in names}.isdisjoint(marker.upper() for marker in drive.markers)


def _has_name(volume: Volume, drive: Drive) -> bool:
    names = (volume.label or "", volume.mount_point.name if volume.mount_point else "")
    return any(name.upper().startswith(drive.names) for name in names if drive.names)


def _looked_for(drive: Drive) -> str:
    facts = {
        "serial number": drive.serial_number,
        "USB port": drive.usb_port,
        "device": drive.device,
        "name": drive.name,
    }
    wanted = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    return f"no drive with {wanted + ' and ' if wanted else ''}a file {' or '.join(drive.markers)}"


def _is_node(path: str, number: tuple[int, int]) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISBLK(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) == number


def _mounted() -> Iterator[Volume]:
    # proc(5): id, parent, major:minor, root, mount point, options, optional fields, -, type, source, super options
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, source, *_ = rest.split(" ")
        mount_id, _, number, root, place, *_ = fields.split(" ")
        if kind in FAT and root == "/":
            major, _, minor = number.partition(":")
            yield _volume((int(major), int(minor)), _unescaped(source), Path(_unescaped(place)), int(mount_id))


def _unmounted() -> Iterator[Volume]:
    for path in sorted(_SYS.glob("class/block/*")):
        try:
            number = _number(path)
            if _usb_device(number) is not None and _may_hold_fat(path):
                yield _volume(number, f"/dev/{path.name}", None, None)
        except OSError:
            continue  # unplugged meanwhile, or not for this user


def _volume(number: tuple[int, int], device: str, place: Path | None, mount_id: int | None) -> Volume:
    usb = _usb_device(number)
    vendor = _attribute(usb, "idVendor")
    return Volume(
        device=device,
        number=number,
        mount_point=place,
        mount_id=mount_id,
        serial_number=_attribute(usb, "serial"),
        usb_port=usb.name if usb is not None else None,
        vendor=int(vendor, 16) if vendor else None,
        sequence=_sequence(number),
        label=_label(number),
    )


def _number(path: Path) -> tuple[int, int]:
    major, _, minor = (path / "dev").read_text().strip().partition(":")
    return int(major), int(minor)


def _node(number: tuple[int, int]) -> Path:
    """The folder in sysfs of a block device."""
    return _SYS / f"dev/block/{number[0]}:{number[1]}"


def _disk(number: tuple[int, int]) -> Path:
    """The folder in sysfs of the disk that a block device is, or is a partition of."""
    node = Path(os.path.realpath(_node(number)))
    return node.parent if (node / "partition").exists() else node


def _sequence(number: tuple[int, int]) -> int | None:
    text = _attribute(_disk(number), "diskseq")  # Linux 5.15 and newer
    return int(text) if text else None


def _size(number: tuple[int, int]) -> int | None:
    text = _attribute(_node(number), "size")
    return int(text) if text else None


def _usb_device(number: tuple[int, int]) -> Path | None:
    node = Path(os.path.realpath(_node(number)))
    return next((path for path in node.parents if (path / "idVendor").exists() and (path / "devnum").exists()), None)


def _attribute(folder: Path | None, name: str) -> str | None:
    if folder is None:
        return None
    try:
        return (folder / name).read_text(errors="replace").strip()
    except OSError:
        return None


def _label(number: tuple[int, int]) -> str | None:
    """The label that udev noted for a block device."""
    for link in Path("/dev/disk/by-label").glob("*"):
        if _is_node(str(link), number):
            return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), link.name)
    return None


def _may_hold_fat(node: Path) -> bool:
    """Tell whether a block device begins with the boot sector of a FAT file system, or can't be read by this user."""
    try:
        descriptor = os.open(f"/dev/{node.name}", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return not any(node.glob("*/partition"))
    try:
        sector = os.read(descriptor, 512)
    finally:
        os.close(descriptor)
    return sector[510:512] == b"\x55\xaa" and (sector[0x36:0x39] == b"FAT" or sector[0x52:0x55] == b"FAT")


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
