"""A YKUSH hub byte for byte, as its HID reports show it."""

from __future__ import annotations

from typing import ClassVar

from jumpstarter_testbench.usb_emulation import EmulatedDevice
from jumpstarter_testbench.usb_gadgets import Interface, Request, Stall

HID = bytes([9, 0x21, 0x11, 0x01, 0, 1, 0x22, 29, 0])
REPORT_DESCRIPTOR = bytes.fromhex(
    "0600ff0901a1010903150026ff0075089540810209041500 26ff00 750895409102 c0".replace(" ", "")
)


class EmulatedYkush(EmulatedDevice):
    """Three ports, all off; `up` and `down` commands as in Yepkit's manual."""

    vendor: ClassVar[int] = 0x04D8
    product: ClassVar[int] = 0xF2F7
    manufacturer: ClassVar[str] = "Yepkit Lda."
    product_name: ClassVar[str] = "YKUSH"
    interfaces: ClassVar[tuple[Interface, ...]] = (
        Interface(usb_class=3, extra=HID[:7] + bytes([len(REPORT_DESCRIPTOR), 0]), interrupt_in=64, interrupt_out=64),
    )
    numbers: ClassVar[tuple[int, ...]] = (1, 2, 3)
    has_all: ClassVar[bool] = True
    size: ClassVar[int] = 64

    def __init__(self, serial: str | None = "YK00001") -> None:
        super().__init__(serial)
        self.ports = dict.fromkeys(self.numbers, False)
        self.commands: list[int] = []
        self.refuses: set[int] = set()
        """Commands that it answers with 0xFF."""
        self.stuck = False
        """Whether its relays don't move."""
        self.garbage: list[bytes] = []
        """What it answers instead, one after the other."""

    def control(self, request: Request) -> bytes | None:
        """Give the report descriptor, and take SET_IDLE, as HID demands."""
        if request.is_in and request.request == 6 and request.value >> 8 == 0x22:
            return REPORT_DESCRIPTOR
        if not request.is_in and request.request == 0x0A:
            return None
        raise Stall

    def report(self, data: bytes) -> list[bytes]:
        """Do a command and answer it."""
        if self.is_silent:
            return []
        assert len(data) == self.size, "a report has a fixed size"
        assert not any(data[1:]), "the rest of a command is zero"
        command = data[0]
        self.commands.append(command)
        if self.garbage:
            return [self.garbage.pop(0)]
        return [self._answer(command).ljust(self.size, b"\0")]

    def _answer(self, command: int) -> bytes:
        kind, number = command >> 4, command & 0x0F
        if command in self.refuses:
            return b"\xff"
        if kind in (0, 1) and (number in self.ports or (number == 0xA and self.has_all)):
            for port in [number] if number in self.ports else [port for port in self.ports if port != 4]:
                if not self.stuck:
                    self.ports[port] = kind == 1
            return bytes([0x01, command])
        if kind == 2 and number in self.ports:
            return bytes([0x01, (0x10 if self.ports[number] else 0) | number])
        return b"\xff"


class EmulatedYkush3(EmulatedYkush):
    """With a switchable 5 V output as port 4."""

    product: ClassVar[int] = 0xF11B
    product_name: ClassVar[str] = "YKUSH3"
    numbers: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)


class EmulatedYkushXs(EmulatedYkush):
    """One port."""

    product: ClassVar[int] = 0xF0CD
    product_name: ClassVar[str] = "YKUSHXS"
    numbers: ClassVar[tuple[int, ...]] = (1,)
    has_all: ClassVar[bool] = False


class EmulatedLegacyYkush(EmulatedYkush):
    """Reports of six bytes."""

    product: ClassVar[int] = 0x0042
    interfaces: ClassVar[tuple[Interface, ...]] = (
        Interface(usb_class=3, extra=EmulatedYkush.interfaces[0].extra, interrupt_in=6, interrupt_out=6),
    )
    size: ClassVar[int] = 6
