"""The protocol of the SDWire: vendor requests to its FTDI chip, whose pin CBUS0 switches the card.

Source: the SDWire's hardware documentation, the sd-mux tool, and libftdi (SIO_SET_BITMODE_REQUEST,
SIO_READ_PINS_REQUEST, BITMODE_CBUS).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jumpstarter.common.medium import Disk, WrongMedium, disks_below
from jumpstarter.common.usb import UsbDevice, find_devices, first_match, translated, udev_rule

PROGRAMMED: Final = (0x04E8, 0x6001)
"""Ids after `sd-mux-ctrl --init`; Samsung uses them for other things too, hence the product string."""
PRODUCT: Final = "sd-wire"
FACTORY: Final = (0x0403, 0x6015)
"""Ids of any FT200X, also of serial cables: only good together with a serial number."""
READER: Final = "0424:4050"
HUB: Final = ("0424", "2640")

SET_BITMODE: Final = 0x0B
READ_PINS: Final = 0x0C
CBUS_BITBANG: Final = 0x20
HOST: Final = 0xF1
"""All four CBUS pins are outputs, CBUS0 is high."""
DUT: Final = 0xF0
TIMEOUT: Final = 2.0
"""Seconds for one request."""

UDEV_RULES: Final = "\n".join(udev_rule(*ids) for ids in (PROGRAMMED, FACTORY))


class Mux:
    """A mux while it is in use."""

    def __init__(self, device: UsbDevice) -> None:
        self.device = device

    def __str__(self) -> str:
        return f"SDWire {self.device.serial or 'without serial number'}"

    def select(self, mask: int) -> None:
        """Connect the card: HOST or DUT.

        Raises:
            OSError: the mux can't be reached.
        """
        with translated(str(self)):
            self.device.handle.ctrl_transfer(
                0x40, SET_BITMODE, CBUS_BITBANG << 8 | mask, 0, None, round(TIMEOUT * 1000)
            )

    def position(self) -> int:
        """Ask what the card is connected to: HOST or DUT.

        Raises:
            OSError: the mux can't be reached, or doesn't tell.
        """
        with translated(str(self)):
            answer = self.device.handle.ctrl_transfer(0xC0, READ_PINS, 0, 0, 1, round(TIMEOUT * 1000))
        if len(answer) != 1:
            raise OSError(f"{self} did not tell the state of its pins: {len(answer)} bytes instead of 1")
        return HOST if answer[0] & 1 else DUT

    def move(self, mask: int) -> None:
        """Connect the card, and make sure that it is.

        Raises:
            RuntimeError: the mux says that it isn't.
            OSError: it can't be reached.
        """
        self.select(mask)
        if self.position() != mask:
            raise RuntimeError(
                f"{self} was told to connect the card to the {side(mask)}, but it is still connected to the "
                f"{side(self.position())}: the pin CBUS0 of its FTDI chip isn't set up as an output. Run "
                "'sd-mux-ctrl --device-id=NUMBER --init' once"
            )

    def readers(self) -> list[Disk]:
        """Return the card reader: the disk behind the same hub, if its type says that it belongs to an SDWire."""
        hub = self.device.folder.resolve().parent
        is_sdwire = (_text(hub / "idVendor"), _text(hub / "idProduct")) == HUB
        siblings = [disk for disk in disks_below(hub) if disk.usb is not None and disk.usb.parent == hub]
        return [disk for disk in siblings if disk.ids == READER or is_sdwire]

    def reader(self) -> Disk | None:
        """Return the card reader, None when it isn't there yet.

        Raises:
            WrongMedium: there are several.
        """
        disks = self.readers()
        if len(disks) > 1:
            raise WrongMedium(
                f"several disks are behind the hub of {self}: {', '.join(map(str, disks))}. Plug it into a port of its "
                "own"
            )
        return disks[0] if disks else None


def side(mask: int) -> str:
    """The name of what a mask connects the card to."""
    return "host" if mask == HOST else "dut"


@contextmanager
def opened(serial: str | None) -> Generator[Mux, None, None]:
    """Find a mux, and let go of it in the end. Blocks.

    Args:
        serial: serial number; None for the only one there is. Chips with factory settings need one.

    Raises:
        FileNotFoundError: there is none.
        RuntimeError: there are several.
        usb.core.NoBackendError: libusb is not installed.
        OSError: it can't be opened.
    """
    with find_devices([PROGRAMMED, FACTORY]) as devices:
        yield Mux(first_match([each for each in devices if _is_mux(each, serial)], serial, "sd-wire"))


def _is_mux(device: UsbDevice, serial: str | None) -> bool:
    if (device.vendor, device.product) == FACTORY:
        return serial is not None and device.serial == serial
    import usb.core
    import usb.util

    try:
        return usb.util.get_string(device.handle, device.handle.iProduct, 0x0409) == PRODUCT
    except (usb.core.USBError, ValueError):
        # It may be the one: first_match tells about it when no other is.
        return device.problem is not None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
