"""An SDWire byte for byte: the FTDI chip's requests, and the card reader beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from jumpstarter_testbench.usb_emulation import EmulatedDevice
from jumpstarter_testbench.usb_gadgets import Interface, Request, Stall


class EmulatedSDWire(EmulatedDevice):
    """The FT200X as `sd-mux-ctrl --init` leaves it."""

    vendor: ClassVar[int] = 0x04E8
    product: ClassVar[int] = 0x6001
    manufacturer: ClassVar[str] = "SRPOL"
    product_name: ClassVar[str] = "sd-wire"
    interfaces: ClassVar[tuple[Interface, ...]] = (Interface(subclass=0xFF, protocol=0xFF),)

    def __init__(self, serial: str | None = "sdw-00001", switched: Callable[[bool], None] = lambda host: None) -> None:
        super().__init__(serial)
        self.pins = 0x00
        self.has_gpio = True
        """Whether CBUS0 is set up as a GPIO in the EEPROM; otherwise the chip takes commands and does nothing."""
        self.requests: list[tuple[int, int, int, int, int]] = []
        self._switched = switched
        """Told whether the card is at the host."""

    @property
    def is_at_host(self) -> bool:
        """Whether the card is connected to the exporter."""
        return bool(self.pins & 1)

    def control(self, request: Request) -> bytes | None:
        """Answer SET_BITMODE and READ_PINS."""
        self.requests.append((request.request_type, request.request, request.value, request.index, request.length))
        match request.request_type, request.request:
            case 0x40, 0x0B:
                mode, mask = request.value >> 8, request.value & 0xFF
                if mode == 0x20 and mask >> 4 & 1 and self.has_gpio:
                    self.pins = mask & 0x0F
                    self._switched(self.is_at_host)
                return None
            case 0xC0, 0x0C:
                return bytes([self.pins])
        raise Stall


class EmulatedFt200x(EmulatedSDWire):
    """The chip with its factory settings."""

    vendor: ClassVar[int] = 0x0403
    product: ClassVar[int] = 0x6015
    manufacturer: ClassVar[str] = "FTDI"
    product_name: ClassVar[str] = "FT200X USB I2C"
