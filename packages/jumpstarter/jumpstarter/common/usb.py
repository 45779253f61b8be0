"""USB devices that drivers talk to through libusb: found anew for each use, with errors that say what to do.

Nothing is kept open between two uses, so a device that was unplugged works as soon as it is plugged in again, other
programs can use it meanwhile, and no claim outlives a session. `pyusb` is needed by those who call this, and is
imported only then.
"""

from __future__ import annotations

import errno
import getpass
import threading
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["UsbDevice", "find_devices", "first_match", "make_backend", "translated", "turn", "udev_rule"]

Ids = tuple[int, int]

_turns: dict[tuple[str, str], threading.Lock] = {}
_turns_guard = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class UsbDevice:
    """A USB device as it was found; only good for a moment."""

    handle: Any
    """The `usb.core.Device`."""
    vendor: int
    product: int
    serial: str | None
    """Serial number; None when it has none, or it can't be read."""
    problem: Exception | None = None
    """Why the serial number can't be read."""

    @property
    def ids(self) -> str:
        """Vendor and product, as lsusb shows them."""
        return f"{self.vendor:04x}:{self.product:04x}"

    @property
    def folder(self) -> Path:
        """The device in sysfs (Linux)."""
        ports = ".".join(str(number) for number in self.handle.port_numbers or ())
        return Path(f"/sys/bus/usb/devices/{self.handle.bus}-{ports}")

    def __str__(self) -> str:
        return f"{self.ids} serial {self.serial}" if self.serial else f"{self.ids} without a readable serial number"


def make_backend() -> Any:
    """Return a new libusb context that sees the devices of this moment.

    The one that pyusb shares learns of new devices from the udev daemon, which containers don't have.

    Raises:
        usb.core.NoBackendError: libusb is not installed.
    """
    import usb.core
    from usb.backend import libusb1

    shared = libusb1.get_backend()
    if shared is None:
        raise usb.core.NoBackendError(
            "the library libusb 1.0 is not installed. Install it: apt-get install libusb-1.0-0 (Debian), "
            "dnf install libusb1 (Fedora), brew install libusb (macOS)"
        )

    class Context(type(shared)):  # type: ignore[misc]
        def enumerate_devices(self) -> Iterator[Any]:
            for device in super().enumerate_devices():
                device.context = self  # libusb's context must outlive the devices in it
                yield device

    return Context(shared.lib)


@contextmanager
def find_devices(ids: Collection[Ids]) -> Generator[list[UsbDevice], None, None]:
    """Look for all devices of the given vendors and products, and release them in the end.

    A device whose serial number can't be read doesn't hide the others: it has a `problem` instead.

    Raises:
        usb.core.NoBackendError: libusb is not installed.
    """
    import usb.core
    import usb.util

    handles = list(
        usb.core.find(
            find_all=True,
            backend=make_backend(),
            custom_match=lambda device: (device.idVendor, device.idProduct) in ids,
        )
    )
    try:
        yield [_described(handle) for handle in handles]
    finally:
        for handle in handles:
            usb.util.dispose_resources(handle)


def first_match(devices: list[UsbDevice], serial: str | None, what: str) -> UsbDevice:
    """Return the device with this serial number, or the only one there is.

    Args:
        devices: what was found.
        serial: serial number, None for the only one.
        what: how such a device is called in messages.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: there is one that might be it, but it may not be opened.
        RuntimeError: there are several.
    """
    matching = [device for device in devices if serial is None or device.serial == serial]
    if len(matching) > 1:
        raise RuntimeError(
            f"there are multiple {what} devices: {_listed(matching)}. Set 'serial' in the exporter config to say which "
            "one is meant"
            + (", and give each a serial number of its own" if len({each.serial for each in matching}) == 1 else "")
        )
    if matching and matching[0].problem is None:
        return matching[0]
    for device in matching or devices:
        if isinstance(device.problem, PermissionError):
            raise device.problem
    if matching:
        return matching[0]
    wanted = f"{what} with serial number {serial!r}" if serial else what
    others = f"These are there: {_listed(devices)}" if devices else "None at all is there"
    raise FileNotFoundError(f"no {wanted} is plugged in. {others}. Check the cable, and see it with lsusb")


@contextmanager
def translated(what: str) -> Generator[None, None, None]:
    """Turn libusb's errors into ones that say what happened, on what, and what to do.

    Raises:
        ConnectionError: the device was unplugged.
        PermissionError: the user may not open it.
        TimeoutError: it does not answer.
        BlockingIOError: another program uses it.
        OSError: it refused the request, or the transfer failed.
    """
    import usb.core

    try:
        yield
    except usb.core.USBError as error:
        raise _explained(error, what) from error


def turn(device: UsbDevice) -> threading.Lock:
    """Return the lock that those who use one device in this process take turns by."""
    with _turns_guard:
        return _turns.setdefault((device.ids, device.serial or str(device.folder)), threading.Lock())


def udev_rule(vendor: int, product: int) -> str:
    """Return the udev rule that lets the group plugdev use a device."""
    ids = f'ATTR{{idVendor}}=="{vendor:04x}", ATTR{{idProduct}}=="{product:04x}"'
    return f'SUBSYSTEM=="usb", {ids}, MODE="0660", GROUP="plugdev"'


def _described(handle: Any) -> UsbDevice:
    import usb.core
    import usb.util

    serial: str | None = None
    problem: Exception | None = None
    if handle.iSerialNumber:
        try:
            serial = usb.util.get_string(handle, handle.iSerialNumber, 0x0409)
        except usb.core.USBError as error:
            problem = _explained(error, f"USB device {handle.idVendor:04x}:{handle.idProduct:04x}", handle)
        except (ValueError, UnicodeDecodeError) as error:
            problem = OSError(errno.EPROTO, f"its serial number can't be read: {error}")
    return UsbDevice(
        handle=handle, vendor=handle.idVendor, product=handle.idProduct, serial=serial or None, problem=problem
    )


def _explained(error: Any, what: str, handle: Any = None) -> OSError:
    number = error.errno
    if number == errno.ENODEV:
        return ConnectionError(
            number, f"{what} was unplugged, or has reset itself. It is found again as soon as it is plugged in"
        )
    if number in (errno.EACCES, errno.EPERM):
        rule = udev_rule(handle.idVendor, handle.idProduct) if handle is not None else "see the driver's README"
        return PermissionError(
            number,
            f"{what} may not be opened by user {_user()}. Let it: write {rule!r} to "
            "/etc/udev/rules.d/70-jumpstarter.rules, run 'udevadm control --reload', add the user to the group, and "
            "plug the device in again",
        )
    if number == errno.ETIMEDOUT:
        return TimeoutError(number, f"{what} does not answer. Unplug it and plug it in again if that stays so")
    if number == errno.EBUSY:
        return BlockingIOError(number, f"{what} is in use by another program (busy). End that program")
    if number == errno.EPIPE:
        return OSError(number, f"{what} refused the request. Check its firmware")
    return OSError(number or errno.EIO, f"USB transfer with {what} failed: {error.strerror}. Check cable and hub")


def _listed(devices: list[UsbDevice]) -> str:
    return ", ".join(str(device) for device in devices)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "of the exporter"
