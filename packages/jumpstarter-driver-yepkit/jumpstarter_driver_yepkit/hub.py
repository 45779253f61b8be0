"""The protocol of YKUSH hubs: 64-byte HID reports that switch ports and tell their state.

Source: Yepkit's YKUSH product manuals and its command-line tool ykushcmd. A report is a command byte, padded with
zeros; the answer begins with 1 if the hub took the command. The answer to a status command has the port in the low
half of its second byte and 1 in the high half if the port is on.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from jumpstarter.common.usb import UsbDevice, find_devices, first_match, translated, turn, udev_rule

VID: Final = 0x04D8
PID: Final = 0xF2F7

PORT_UP_COMMANDS: Final = {"1": 0x11, "2": 0x12, "3": 0x13, "all": 0x1A}
PORT_DOWN_COMMANDS: Final = {"1": 0x01, "2": 0x02, "3": 0x03, "all": 0x0A}
PORT_STATUS_COMMANDS: Final = {"1": 0x21, "2": 0x22, "3": 0x23}

TOOK_IT: Final = 0x01
TIMEOUT: Final = 2.0
"""Seconds that the hub may take for one report."""
DRAIN_TIMEOUT: Final = 0.01
"""Seconds to look for the answer to a command of somebody who did not wait for it."""
CLAIM_TIMEOUT: Final = 3.0
"""Seconds that another program may use the hub."""
CLAIM_PAUSE: Final = 0.05


@dataclass(frozen=True)
class Model:
    """What a product of the family can do."""

    name: str
    ports: tuple[str, ...]
    report_size: int = 64
    has_all: bool = True


MODELS: Final = {
    PID: Model("YKUSH", ("1", "2", "3")),
    0x0042: Model("YKUSH (legacy)", ("1", "2", "3"), report_size=6),
    0xF11B: Model("YKUSH3", ("1", "2", "3", "4")),
    0xF0CD: Model("YKUSHXS", ("1",), has_all=False),
}
"""By USB product id."""

UDEV_RULES: Final = "\n".join(udev_rule(VID, product) for product in MODELS)

PORTS: Final = ("1", "2", "3", "4", "all")
"""Names of ports that a configuration may have; 4 is the 5 V output of the YKUSH3."""


class HubRefused(RuntimeError):
    """The hub did not take a command, or answered something that is no answer to it."""


class Hub:
    """A hub while it is in use: its interface is claimed, and nobody else in this process uses it."""

    def __init__(self, device: UsbDevice) -> None:
        self.device = device
        self.model = MODELS[device.product]
        self._handle = device.handle
        self._out, self._in = _endpoints(device.handle)

    def __str__(self) -> str:
        return f"{self.model.name} hub {self.device.serial or 'without serial number'}"

    def check_port(self, port: str) -> None:
        """Raises: ValueError: this model has no such port."""
        if port != "all" and port not in self.model.ports:
            raise ValueError(f"{self} has no port {port!r}; it has {', '.join(self.model.ports)} and 'all'")

    def switch(self, port: str, on: bool) -> None:
        """Switch one port or all.

        Raises:
            HubRefused: the hub did not take the command.
            OSError: it can't be reached.
        """
        self.check_port(port)
        if port == "all" and not self.model.has_all:
            port = self.model.ports[0]
        commands = PORT_UP_COMMANDS if on else PORT_DOWN_COMMANDS
        command = commands.get(port, 0x14 if on else 0x04)
        answer = self._exchange(command)
        if answer[0] != TOOK_IT:
            raise HubRefused(
                f"{self} refused to switch port {port} {'on' if on else 'off'} (command {command:#04x}, answer "
                f"{answer[:2].hex(' ')}). Update its firmware, or unplug it and plug it in again"
            )

    def is_on(self, port: str) -> bool | None:
        """Ask for the state of a port; for all ports None if they differ.

        Raises:
            HubRefused: the hub gave no such answer.
            OSError: it can't be reached.
        """
        self.check_port(port)
        if port == "all":
            # Port 4 of the YKUSH3 isn't a USB port, and the commands for all ports leave it alone.
            states = {self._port_is_on(name) for name in self.model.ports if name != "4"}
            return states.pop() if len(states) == 1 else None
        return self._port_is_on(port)

    def _port_is_on(self, port: str) -> bool:
        command = PORT_STATUS_COMMANDS.get(port, 0x24)
        answer = self._exchange(command)
        if answer[0] != TOOK_IT or answer[1] & 0x0F != int(port) or answer[1] >> 4 not in (0, 1):
            raise HubRefused(
                f"{self} did not tell the state of port {port} (command {command:#04x}, answer {answer[:2].hex(' ')}). "
                "Unplug the hub and plug it in again; if that stays so, update its firmware"
            )
        return answer[1] >> 4 == 1

    def _exchange(self, command: int) -> bytes:
        import usb.core

        size = self.model.report_size
        with translated(str(self)):
            # Whoever was killed between command and answer left the answer in the hub, for the next one to take.
            with suppress(usb.core.USBTimeoutError):
                for _ in range(64):
                    self._handle.read(self._in, size, round(DRAIN_TIMEOUT * 1000))
            self._handle.write(self._out, bytes([command]).ljust(size, b"\0"), round(TIMEOUT * 1000))
            answer = bytes(self._handle.read(self._in, size, round(TIMEOUT * 1000)))
        if len(answer) < 2:
            raise HubRefused(f"{self} answered {len(answer)} bytes to command {command:#04x}; an answer has {size}")
        return answer


@contextmanager
def opened(serial: str | None) -> Generator[Hub, None, None]:
    """Find a hub, claim it, and release it in the end. Blocks.

    Args:
        serial: serial number; None for the only hub there is.

    Raises:
        FileNotFoundError: there is none.
        RuntimeError: there are several.
        usb.core.NoBackendError: libusb is not installed.
        OSError: it can't be opened, or another program keeps it.
    """
    with find_devices([(VID, product) for product in MODELS]) as devices:
        device = first_match(devices, serial, "YKUSH hub")
        # An answer must not go to the command of another port's driver.
        with turn(device), _claimed(device):
            yield Hub(device)


@contextmanager
def _claimed(device: UsbDevice) -> Generator[None, None, None]:
    """Take the interface from the kernel's HID driver and give it back, so that Yepkit's own tool finds it too."""
    import usb.core
    import usb.util

    handle: Any = device.handle
    number = handle[0][(0, 0)].bInterfaceNumber
    with translated(f"YKUSH hub {device.serial or ''}".strip()):
        detached = _claim(handle, number)
    try:
        yield
    finally:
        # An unplugged hub can't be released, and needn't be.
        with suppress(usb.core.USBError):
            usb.util.release_interface(handle, number)
        if detached:
            with suppress(usb.core.USBError):
                handle.attach_kernel_driver(number)


def _claim(handle: Any, number: int) -> bool:
    """Claim an interface; return whether the kernel's driver was detached for that."""
    import usb.core
    import usb.util

    deadline = time.monotonic() + CLAIM_TIMEOUT
    detached = False
    while True:
        try:
            if handle.is_kernel_driver_active(number):
                handle.detach_kernel_driver(number)
                detached = True
        except NotImplementedError:
            pass  # systems other than Linux
        except usb.core.USBError as error:
            # Another program has claimed it, or detached the driver just now.
            if error.errno not in (errno.EBUSY, errno.ENOENT, errno.EINVAL):
                raise
        try:
            usb.util.claim_interface(handle, number)
        except usb.core.USBError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(CLAIM_PAUSE)
        else:
            return detached


def _endpoints(handle: Any) -> tuple[Any, Any]:
    """The first OUT and the first IN endpoint of the first interface."""
    import usb.util

    endpoints = list(handle[0][(0, 0)])
    way = usb.util.endpoint_direction
    outward = next((each for each in endpoints if way(each.bEndpointAddress) == usb.util.ENDPOINT_OUT), None)
    inward = next((each for each in endpoints if way(each.bEndpointAddress) == usb.util.ENDPOINT_IN), None)
    if outward is None or inward is None:
        raise HubRefused("the USB device has the ids of a YKUSH hub, but not its endpoints")
    return outward, inward
