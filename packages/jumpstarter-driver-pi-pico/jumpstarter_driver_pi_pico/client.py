"""Client of boards with a UF2 boot loader."""

from __future__ import annotations

import json
from dataclasses import dataclass

import click
from jumpstarter_driver_composite.client import CompositeClient
from jumpstarter_driver_opendal.client import FlasherClient

__all__ = ["PiPicoClient"]


@dataclass(kw_only=True)
class PiPicoClient(FlasherClient, CompositeClient):
    """Flashes UF2 images; `flash` returns when the board has restarted. The children are its attributes."""

    def bootloader_info(self) -> dict[str, str]:
        """Return what the board in its boot loader tells of itself, such as `Model` and `Board-ID`.

        Raises:
            DriverError: it isn't in its boot loader.
        """
        return dict(self.call("bootloader_info"))

    def enter_bootloader(self) -> None:
        """Bring the board into its boot loader.

        Raises:
            DriverMethodNotImplemented: the exporter config has no way to do that.
            DriverError: it didn't work.
        """
        self.call("enter_bootloader")

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""
        from jumpstarter_driver_opendal.commands import add_flasher_commands

        base = CompositeClient.cli(self)
        base.help = "Flash UF2 images to the board."
        add_flasher_commands(base, self)

        @base.command()
        def bootloader_info() -> None:
            """Print what the board in its boot loader tells of itself, as JSON."""
            click.echo(json.dumps(self.bootloader_info(), indent=2))

        @base.command()
        def enter_bootloader() -> None:
            """Bring the board into its boot loader."""
            self.enter_bootloader()

        return base
