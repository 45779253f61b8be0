"""Client of ESP32 boards, and the `j` commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click
from jumpstarter_driver_composite.client import CompositeClient
from jumpstarter_driver_opendal.client import FlasherClient

__all__ = ["Esp32FlasherClient"]


@dataclass(kw_only=True)
class Esp32FlasherClient(FlasherClient, CompositeClient):
    """Flashes a chip of Espressif; the serial port is the child `serial`.

    `flash(path, target="0x10000")` writes an image at an address; `dump(path, partition="0x0:0x1000")` reads.
    """

    def get_chip_info(self) -> dict[str, Any]:
        """Return what the chip is: `chip`, `description`, `features`, `crystal`, `mac`, `flash_id`, `flash_size`.

        Raises:
            DriverError: it can't be reached; the message says why. So do all methods here.
        """
        return dict(self.call("get_chip_info"))

    def erase(self) -> None:
        """Erase all of the flash."""
        self.call("erase")

    def hard_reset(self) -> None:
        """Restart the chip, which runs its firmware then.

        Raises:
            DriverMethodNotImplemented: the port has no modem lines.
        """
        self.call("hard_reset")

    def enter_bootloader(self) -> None:
        """Restart the chip into its ROM loader.

        Raises:
            DriverMethodNotImplemented: the port has no modem lines.
        """
        self.call("enter_bootloader")

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""
        base = CompositeClient.cli(self)
        base.help = "Flash, read and reset an ESP32 board."
        self._add_flash(base)
        self._add_chip(base)
        return base

    def _add_flash(self, base: click.Group) -> None:
        @base.command()
        @click.argument("files", nargs=-1, required=True, metavar="[ADDRESS:]FILE...")
        @click.option("--address", "-a", help="Address of a single FILE, such as 0x10000.  [default: 0]")
        def flash(files: tuple[str, ...], address: str | None) -> None:
            """Write images to the flash, compare them, and start the firmware.

            A FILE is a local file or an http(s) URL. Several are given with their addresses, such as
            0x1000:bootloader.bin 0x8000:partitions.bin 0x10000:app.bin; a single one with --address.
            """
            if address is not None and len(files) > 1:
                raise click.UsageError("--address is for a single file; give several as ADDRESS:FILE")
            images: dict[str, str] = {}
            for each in files:
                place, file = _split(each) if address is None else (address, each)
                if place in images:
                    raise click.UsageError(f"two files for the address {place}")
                images[place] = file
            for place, file in images.items():
                click.echo(f"Writing {file} at {place}", err=True)
                self.flash(file, target=place)

        @base.command()
        @click.argument("file")
        @click.option("--partition", "-p", default="0x0:0x400000", show_default=True, help="ADDRESS:SIZE")
        def dump(file: str, partition: str) -> None:
            """Read a part of the flash into FILE."""
            self.dump(file, partition=partition)

        @base.command()
        def erase() -> None:
            """Erase all of the flash."""
            self.erase()

    def _add_chip(self, base: click.Group) -> None:
        @base.command()
        def chip_info() -> None:
            """Print what the chip is, as JSON."""
            click.echo(json.dumps(self.get_chip_info(), indent=2))

        @base.command()
        def reset() -> None:
            """Restart the chip, which runs its firmware then."""
            self.hard_reset()

        @base.command()
        def bootloader() -> None:
            """Restart the chip into its ROM loader."""
            self.enter_bootloader()


def _split(text: str) -> tuple[str, str]:
    """Return the address and the file of `ADDRESS:FILE`; the address is 0 when there is none."""
    place, colon, file = text.partition(":")
    if colon and file:
        try:
            int(place, 0)
        except ValueError:
            return "0", text
        return place, file
    return "0", text
