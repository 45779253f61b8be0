"""A CP2112 in software: a USB HID adapter with eight GPIO lines, which Linux drives; for the lab guest.

It answers the feature reports of the kernel's `hid-cp2112` module. Unlike those of a Viperboard, its lines have edge
events (the kernel makes them by looking at the lines every 40 ms; it hangs when a line is
released at that moment), and an output reads as what is at the pin, so that a
short circuit shows.

Source: Silicon Labs AN495, "CP2112 Interface Specification"; Linux, drivers/hid/hid-cp2112.c.
"""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path
from typing import Any

from jumpstarter_testbench.usb_gadgets import (
    TIMEOUT,
    Gadget,
    Interface,
    Protocol,
    Request,
    Stall,
    UsbGadgetError,
    modprobe,
    wait_until,
)

VENDOR, PRODUCT = 0x10C4, 0xEA90
LINES = 8

_REPORT_DESCRIPTOR = bytes.fromhex("0600ff0901a101150026ff007508953f850109018102850209 01b102c0")
"""Vendor-defined reports; the kernel's driver knows their contents by itself."""


class _Hid:
    """Requests of the HID class and of the standard."""

    GET_DESCRIPTOR, REPORT_DESCRIPTOR, GET_REPORT, SET_REPORT = 6, 0x22, 1, 9


class _Report:
    """Feature reports by their ids."""

    GPIO_CONFIG, GPIO_GET, GPIO_SET, VERSION, SMBUS_CONFIG = 2, 3, 4, 5, 6


class Cp2112:
    """The adapter and its pins; a `Gadget` once it is entered, plugged in from the beginning."""

    def __init__(self, serial: str = "") -> None:
        """Leave all pins open; open pins are low."""
        descriptor = bytes((9, 0x21, 0x11, 0x01, 0, 1, _Hid.REPORT_DESCRIPTOR, len(_REPORT_DESCRIPTOR), 0))
        interface = Interface(usb_class=3, extra=descriptor, interrupt_in=64)
        function = Protocol(self._control, interfaces=[interface])
        self._gadget = Gadget(vendor=VENDOR, product=PRODUCT, serial=serial, functions=[function])
        self._lock = threading.RLock()
        self._looked = threading.Event()
        self._smbus = struct.pack(">BIBBHHBH", _Report.SMBUS_CONFIG, 100_000, 2, 0, 0, 0, 0, 0)
        self._outside: dict[int, bool] = {}
        self._outputs = 0
        self._push_pull = 0
        self._latch = 0

    def __enter__(self) -> Cp2112:
        modprobe("usbhid", "hid_cp2112")
        self._gadget.__enter__()
        self._wait()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._gadget.close()

    def plug(self) -> None:
        """Plug it in again; all its lines are inputs then."""
        self._outputs = 0
        self._gadget.plug()
        self._wait()

    def unplug(self) -> None:
        """Pull it out."""
        self._gadget.unplug()

    def chip(self) -> str:
        """The device file of its GPIO chip."""
        return f"/dev/{self._chips()[0]}"

    def drive(self, line: int, high: bool | None) -> None:
        """Put a level to a pin from outside, so strongly that outputs give way; None lets go of it."""
        with self._lock:
            if high is None:
                self._outside.pop(line, None)
            else:
                self._outside[line] = high

    def level(self, line: int) -> bool | None:
        """The level that the adapter drives a pin to; None when the pin is an input."""
        with self._lock:
            return bool(self._latch >> line & 1) if self._outputs >> line & 1 else None

    def rest(self) -> None:
        """Return right after the kernel has looked at the lines, which is a good moment to release one with events.

        The kernel's driver waits for its look at the lines with a lock held when that happens in the middle of it.
        """
        self._looked.clear()
        if not self._looked.wait(TIMEOUT):
            raise UsbGadgetError("the kernel does not look at the lines of the CP2112: nobody has asked it for events")
        time.sleep(0.005)

    def _wait(self) -> None:
        wait_until(lambda: bool(self._chips()), "GPIO chip of the CP2112")

    def _chips(self) -> list[str]:
        found = self._gadget.path.glob("*/*/gpiochip*")
        return [path.name for path in found if (path / "dev").exists() and Path("/dev", path.name).exists()]

    def _control(self, request: Request) -> bytes | None:
        with self._lock:
            match request.request:
                case _Hid.GET_DESCRIPTOR if request.value >> 8 == _Hid.REPORT_DESCRIPTOR:
                    return _REPORT_DESCRIPTOR
                case _Hid.GET_REPORT:
                    return self._report(request.value & 0xFF)
                case _Hid.SET_REPORT:
                    self._take(request.receive())
                    return None
            raise Stall

    def _report(self, number: int) -> bytes:
        match number:
            case _Report.VERSION:
                return bytes((number, 0x0C, 0x02))
            case _Report.SMBUS_CONFIG:
                return self._smbus
            case _Report.GPIO_CONFIG:
                return bytes((number, self._outputs, self._push_pull, 0, 0))
            case _Report.GPIO_GET:
                self._looked.set()
                return bytes((number, sum(self._pin(line) << line for line in range(LINES))))
        raise Stall

    def _take(self, report: bytes) -> None:
        match report[0]:
            case _Report.SMBUS_CONFIG:
                self._smbus = report
            case _Report.GPIO_CONFIG:
                self._outputs, self._push_pull = report[1], report[2]
            case _Report.GPIO_SET:
                values, mask = report[1], report[2]
                self._latch = self._latch & ~mask | values & mask

    def _pin(self, line: int) -> bool:
        own = bool(self._latch >> line & 1) if self._outputs >> line & 1 else False
        return self._outside.get(line, own)
