"""A Viperboard in software: a USB adapter with two GPIO chips of 16 lines, which Linux drives; for the lab guest.

It answers the vendor requests of the kernel's `viperboard` and `gpio-viperboard` modules, so that tests use real GPIO
chips with real ioctls, and see here what arrives at the pins. The chips have no interrupts. A line that is an output
reads as it was set: the kernel doesn't ask the board then.

Source: Linux, include/linux/mfd/viperboard.h, drivers/mfd/viperboard.c and drivers/gpio/gpio-viperboard.c.
"""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Any

from jumpstarter_testbench.usb_gadgets import Gadget, Protocol, Request, Stall, modprobe, wait_until

VENDOR, PRODUCT = 0x2058, 0x1005
LINES = 16


class _Vendor:
    """Vendor requests."""

    MAJOR_VERSION, MINOR_VERSION, PORT_A, PORT_B = 0xEA, 0xEB, 0xED, 0xDD


class _PortA:
    """Commands in messages for port A."""

    SET_OUTPUT, SET_INPUT, GET = 0x03, 0x04, 0x06


_A_MESSAGE = struct.Struct(
    "<11B"
)  # command, clock, line, t1, t2, invert, PWM level, output value, edge, answer, filler
_B_SET_DIRECTION, _B_SET_VALUE = 0x00, 0x01
_B_MESSAGE = struct.Struct(">BHH")  # command, values, mask


class Viperboard:
    """The board and its pins; a `Gadget` once it is entered, plugged in from the beginning."""

    def __init__(self, serial: str = "") -> None:
        """Leave all pins open."""
        self._gadget = Gadget(vendor=VENDOR, product=PRODUCT, serial=serial, functions=[Protocol(self._control)])
        self._inputs = {(port, line): False for port in "ab" for line in range(LINES)}
        self._outputs: dict[tuple[str, int], bool] = {}
        self._asked = 0
        self._history: list[tuple[str, int, bool | None]] = []
        # A transfer is over for the host before its message is looked at here.
        self._lock = threading.RLock()

    def __enter__(self) -> Viperboard:
        modprobe("viperboard", "gpio_viperboard")
        self._gadget.__enter__()
        self._wait()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._gadget.close()

    def plug(self) -> None:
        """Plug it in again; it has lost what its lines were, as its supply was gone."""
        self._outputs.clear()
        self._gadget.plug()
        self._wait()

    def unplug(self) -> None:
        """Pull it out."""
        self._gadget.unplug()

    def chip(self, port: str = "a") -> str:
        """The device file of port `a` or `b`."""
        return f"/dev/{self._chips()[port]}"

    def drive(self, line: int, high: bool, port: str = "a") -> None:
        """Put a level to a pin from outside."""
        self._inputs[port, line] = high

    def level(self, line: int, port: str = "a") -> bool | None:
        """The level that the board drives a pin to; None when the pin is an input."""
        with self._lock:
            return self._outputs.get((port, line))

    @property
    def history(self) -> list[tuple[str, int, bool | None]]:
        """(port, line, level) of everything that the host did with a pin; None where it made it an input."""
        with self._lock:
            return list(self._history)

    def _wait(self) -> None:
        wait_until(lambda: len(self._chips()) == 2, "two GPIO chips of the Viperboard")

    def _chips(self) -> dict[str, str]:
        """Names of the GPIO chips by port."""
        found: dict[str, str] = {}
        for path in self._gadget.path.glob("*/viperboard-gpio*/gpiochip*"):
            if (path / "dev").exists() and Path("/dev", path.name).exists():
                found.setdefault("ab"[len(found)], path.name)
        names = sorted(found.values(), key=lambda name: int(name.removeprefix("gpiochip")))
        return dict(zip("ab", names, strict=False))

    def _control(self, request: Request) -> bytes | None:
        with self._lock:
            return self._answer(request)

    def _answer(self, request: Request) -> bytes | None:
        match request.request, request.is_in:
            case _Vendor.MAJOR_VERSION | _Vendor.MINOR_VERSION, True:
                return b"\x01"
            case _Vendor.PORT_A, True:
                return _A_MESSAGE.pack(_PortA.GET, 0, self._asked, 0, 0, 0, 0, 0, 0, self._inputs["a", self._asked], 0)
            case _Vendor.PORT_A, False:
                self._port_a(request.receive())
                return None
            case _Vendor.PORT_B, True:
                levels = sum(self._input_or_output("b", line) << line for line in range(LINES))
                return _B_MESSAGE.pack(0, levels, 0)
            case _Vendor.PORT_B, False:
                self._port_b(request.receive())
                return None
        raise Stall

    def _port_a(self, message: bytes) -> None:
        command, _, line, *_, value, _, _, _ = _A_MESSAGE.unpack(message)
        match command:
            case _PortA.SET_OUTPUT:
                self._set("a", line, bool(value))
            case _PortA.SET_INPUT:
                self._set("a", line, None)
            case _PortA.GET:
                self._asked = line

    def _port_b(self, message: bytes) -> None:
        command, values, mask = _B_MESSAGE.unpack(message)
        for line in range(LINES):
            if not mask >> line & 1:
                continue
            value = bool(values >> line & 1)
            if command == _B_SET_DIRECTION:
                self._set("b", line, self._outputs.get(("b", line), False) if value else None)
            elif command == _B_SET_VALUE and ("b", line) in self._outputs:
                self._set("b", line, value)

    def _input_or_output(self, port: str, line: int) -> bool:
        return self._outputs.get((port, line), self._inputs[port, line])

    def _set(self, port: str, line: int, level: bool | None) -> None:
        if level is None:
            self._outputs.pop((port, line), None)
        else:
            self._outputs[port, line] = level
        self._history.append((port, line, level))
