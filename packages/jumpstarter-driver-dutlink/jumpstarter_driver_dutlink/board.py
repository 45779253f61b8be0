"""The USB protocol of the Dutlink board: vendor requests to its control interface.

Source: the board's firmware (jumpstarter test harness for STM32F411). Requests go to the interface of class 0xFF/1/1.
The board acknowledges a request first and executes it then, so the next transfer waits for its end. Readings are a
snapshot that the request Refresh takes.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from jumpstarter.common.usb import UsbDevice, find_devices, first_match, translated, turn, udev_rule

VID: Final = 0x2B23
PID: Final = 0x1012
CONTROL_INTERFACE: Final = (0xFF, 1, 1)

OUT: Final = 0x41
IN: Final = 0xC1
REFRESH: Final = 0
POWER: Final = 1
STORAGE: Final = 2
CONFIG: Final = 3
READ: Final = 4
SET: Final = 5

POWER_ACTIONS: Final = {"off": 0, "on": 1, "force-off": 2, "force-on": 3, "rescue": 4}
STORAGE_ACTIONS: Final = {"off": 0, "host": 1, "dut": 2}
CONFIG_KEYS: Final = {"name": 0, "tags": 1, "usb_console": 2, "power_on": 3, "power_off": 4, "power_rescue": 5}
CONFIG_SIZES: Final = {"name": 64, "tags": 256, "usb_console": 64, "power_on": 32, "power_off": 32, "power_rescue": 32}
READINGS: Final = {"version": 0, "power": 1, "voltage": 2, "current": 3}
PINS: Final = {"reset": 0, "a": 1, "b": 2, "c": 3, "d": 4}
LEVELS: Final = {"low": 0, "high": 1, "floating": 2}
READ_SIZE: Final = 512

UDEV_RULE: Final = udev_rule(VID, PID)

_VALUE = re.compile(r"(-?\d+(?:\.\d+)?)([VAW])")


@dataclass(frozen=True)
class Measurement:
    """What the board's meter shows."""

    volts: float
    amperes: float
    watts: float


class Board:
    """A board while it is in use."""

    def __init__(self, device: UsbDevice, timeout: float) -> None:
        self.device = device
        self._timeout = round(timeout * 1000)
        self._interface = _control_interface(device.handle)

    def __str__(self) -> str:
        return f"Dutlink board {self.device.serial or 'without serial number'}"

    def power(self, action: str) -> None:
        """Switch the device's supply, and return when the board has done it: `on`, `off`, `force-on`, `force-off` or
        `rescue`.
        """
        self._send(POWER, POWER_ACTIONS[action])
        self._settle()

    def storage(self, action: str) -> None:
        """Connect the storage, and return when the board has done it: `host`, `dut` or `off`."""
        self._send(STORAGE, STORAGE_ACTIONS[action])
        self._settle()

    def set_pin(self, pin: str, level: str) -> None:
        """Set one of the control pins: `reset`, `a` to `d`, to `low`, `high` or `floating`."""
        self._send(SET, PINS[pin], bytes([LEVELS[level]]))
        self._settle()

    def measure(self) -> Measurement:
        """Read the meter.

        Raises:
            ValueError: the board's answer is no measurement.
            OSError: it can't be reached.
        """
        text = self.read("power")
        values = {unit: float(number) for number, unit in _VALUE.findall(text)}
        if not {"V", "A"} <= values.keys():
            raise ValueError(f"{self} answered {text!r} where a measurement such as '5.04W 12.00V 0.42A' is due")
        return Measurement(values["V"], values["A"], values.get("W", round(values["V"] * values["A"], 4)))

    def read(self, what: str) -> str:
        """Read one of READINGS as the board writes it."""
        self._send(REFRESH, 0)
        return self._receive(READ, READINGS[what], READ_SIZE)

    def get_config(self, key: str) -> str:
        """Read one of CONFIG_KEYS from the board's memory."""
        self._send(REFRESH, 0)
        return self._receive(CONFIG, CONFIG_KEYS[key], CONFIG_SIZES[key])

    def set_config(self, key: str, value: str) -> None:
        """Write one of CONFIG_KEYS to the board's memory, and make sure that it is there.

        Raises:
            ValueError: the value is too long.
            RuntimeError: the board has another one.
        """
        data = value.encode()
        if len(data) > CONFIG_SIZES[key]:
            raise ValueError(f"{key} takes {CONFIG_SIZES[key]} bytes at most, not {len(data)}")
        self._send(CONFIG, CONFIG_KEYS[key], data)
        if (stored := self.get_config(key)) != value:
            raise RuntimeError(f"{self} was told to store {key} {value!r}, but has {stored!r}")

    def tty(self) -> str | None:
        """Return the device file of the board's serial port, None when the system has none for it."""
        files = sorted(path.name for path in self.device.folder.glob("*:*/tty/*"))
        return f"/dev/{files[0]}" if files else None

    def _settle(self) -> None:
        """Wait until the last request is executed: the board answers nothing before."""
        self._send(REFRESH, 0)

    def _send(self, request: int, value: int, data: bytes | None = None) -> None:
        with translated(str(self)):
            self.device.handle.ctrl_transfer(OUT, request, value, self._interface, data, self._timeout)

    def _receive(self, request: int, value: int, size: int) -> str:
        with translated(str(self)):
            answer = bytes(self.device.handle.ctrl_transfer(IN, request, value, self._interface, size, self._timeout))
        try:
            return answer.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise OSError(f"{self} answered bytes that are no text: {answer[:32]!r}. Update its firmware") from error


@contextmanager
def opened(serial: str | None, timeout: float) -> Generator[Board, None, None]:
    """Find a board, and let go of it in the end; one user at a time. Blocks.

    Args:
        serial: serial number, eight hexadecimal digits; None for the only board.
        timeout: seconds that a request may take, the power sequence before it included.

    Raises:
        FileNotFoundError: there is none.
        RuntimeError: there are several.
        usb.core.NoBackendError: libusb is not installed.
        OSError: it can't be opened.
    """
    with find_devices([(VID, PID)]) as devices:
        device = first_match(devices, serial, "Dutlink board")
        with turn(device):
            board = Board(device, timeout)
            yield board


def _control_interface(handle: Any) -> int:
    import usb.util

    with translated("Dutlink board"):
        configuration = handle.get_active_configuration()
    names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
    interface = usb.util.find_descriptor(configuration, **dict(zip(names, CONTROL_INTERFACE, strict=True)))
    if interface is None:
        raise OSError("the USB device has the ids of a Dutlink board, but no control interface. Update its firmware")
    return int(interface.bInterfaceNumber)
