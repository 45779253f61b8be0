"""A Dutlink board byte for byte: its vendor requests, and the shell on its serial port."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import Callable
from typing import ClassVar

from jumpstarter_testbench.usb_emulation import EmulatedDevice
from jumpstarter_testbench.usb_gadgets import Interface, Request, Stall

VERSION = "0.07 git-ref: 1a2b3c4"
SIZES = (64, 256, 64, 32, 32, 32)
PIN_NAMES = ("/RESET", "CTL_A", "CTL_B", "CTL_C", "CTL_D")


class EmulatedDutlink(EmulatedDevice):
    """The control part of the board; interfaces 0 and 1 are its serial port."""

    vendor: ClassVar[int] = 0x2B23
    product: ClassVar[int] = 0x1012
    manufacturer: ClassVar[str] = "Red Hat Inc."
    product_name: ClassVar[str] = "Dutlink"
    release: ClassVar[int] = 0x0007
    first_interface: ClassVar[int] = 2
    interfaces: ClassVar[tuple[Interface, ...]] = (
        Interface(usb_class=0xFE, subclass=1, protocol=1),
        Interface(usb_class=0xFF, subclass=1, protocol=1),
    )

    def __init__(self, serial: str | None = "1a2b3c4d", switched: Callable[[str], None] = lambda side: None) -> None:
        super().__init__(serial)
        self.is_on = False
        self.draws_current = True
        self.stuck = False
        """Whether its switch doesn't move."""
        self.storage = "off"
        self.pins = [2] * 5
        self.config = [b""] * 6
        self.requests: list[tuple[int, int, int]] = []
        self.answer: bytes | None = None
        """What it answers to every Read instead."""
        self._switched = switched
        """Told `host`, `dut` or `off`."""
        self._snapshot: dict[int, bytes] | None = None

    def control(self, request: Request) -> bytes | None:
        """Do a request: acknowledge it first, as the firmware does, unless it is unknown."""
        if request.request_type & 0x1F == 1 and request.index != 1:
            raise Stall
        self.requests.append((request.request_type, request.request, request.value))
        match request.request_type, request.request:
            case 0x41, 0:
                self._snapshot = self._readings()
            case 0x41, 1 if request.value <= 4:
                request.acknowledge()
                self._power(request.value)
            case 0x41, 2 if request.value <= 2:
                request.acknowledge()
                self._connect(("off", "host", "dut")[request.value])
            case 0x41, 3 if request.value < len(SIZES) and request.length <= SIZES[request.value]:
                self.config[request.value] = request.receive()
            case 0x41, 5 if request.value < len(self.pins) and request.length == 1:
                self.pins[request.value] = request.receive()[0]
            case 0xC1, 3 if request.value < len(SIZES) and self._snapshot is not None:
                return self.config[request.value].ljust(SIZES[request.value], b"\0")
            case 0xC1, 4 if self._snapshot is not None and request.value in self._snapshot:
                return self._snapshot[request.value] if self.answer is None else self.answer
            case _:
                raise Stall
        return None

    def _power(self, action: int) -> None:
        off, force_off = 0, 2
        sequence = {0: 4, 1: 3, 4: 5}.get(action)
        orders = self.config[sequence].decode() if sequence is not None else ""
        if orders:
            for order in orders.upper().split(","):
                self._do(order)
        elif not self.stuck:
            self.is_on = action not in (off, force_off)

    def _connect(self, side: str) -> None:
        if side != self.storage:
            self.storage = side
            self._switched(side)

    def _do(self, order: str) -> None:
        if order.startswith("W"):
            time.sleep(int(order[1:]) / 10)
        elif order.startswith("P"):
            self.is_on = order == "P1"
        else:
            self.pins["RABCD".index(order[0])] = "LHZ".index(order[1])

    def _readings(self) -> dict[int, bytes]:
        amperes = 0.42 if self.is_on and self.draws_current else 0.0
        volts = 12.0 if self.is_on else 0.0
        power = f"{amperes * volts:.2f}W {volts:.2f}V {amperes:.2f}A"
        texts = (VERSION, power, f"{volts:.2f}V", f"{amperes:.2f}A")
        return {number: text.encode() for number, text in enumerate(texts)}


class EmulatedShell:
    """The board's serial port: a console to the device, which here sends back what it gets, and a shell behind it."""

    def __init__(self, descriptor: int, board: EmulatedDutlink) -> None:
        """Serve the port with this descriptor, until `close`."""
        self._descriptor = descriptor
        self._board = board
        self._is_console = True
        self._controls = 0
        self._line = b""
        self._wake = os.eventfd(0)
        self._thread = threading.Thread(target=self._serve, name="dutlink-shell", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        os.eventfd_write(self._wake, 1)
        self._thread.join(30)
        os.close(self._wake)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            if self._wake in dict(poll.poll()):
                return
            try:
                data = os.read(self._descriptor, 256)
            except OSError:
                return  # unplugged
            for byte in data:
                self._take(bytes([byte]))

    def _take(self, byte: bytes) -> None:
        if self._is_console:
            self._controls = self._controls + 1 if byte == b"\x02" else 0
            if self._controls == 5:
                self._is_console = False
                self._controls = 0
                self._send("\r\nExiting console mode\r\n#> ")
            elif byte != b"\x02":
                os.write(self._descriptor, byte)  # TX is wired to RX
            return
        if byte not in b"\r\n":
            self._line += byte
            os.write(self._descriptor, byte)
            return
        line, self._line = self._line.decode(errors="replace").strip(), b""
        if line == "console":
            self._is_console = True
            self._send("\r\nEntering console mode, type CTRL+B 5 times to exit\r\n")
        elif line:
            self._send(f"\r\n{self._answer(line)}\r\n#> ")

    def _answer(self, line: str) -> str:
        if line == "about":
            return f"Jumpstarter test-harness version: {VERSION}"
        if line == "version":
            return VERSION
        if match := re.fullmatch(r"storage (host|dut|off)", line):
            connected = {"host": "connected to host", "dut": "connected to device under test", "off": "disconnected"}
            self._board.storage = match[1]
            return f"storage {connected[match[1]]}"
        return "unsupported command"

    def _send(self, text: str) -> None:
        os.write(self._descriptor, text.encode())
