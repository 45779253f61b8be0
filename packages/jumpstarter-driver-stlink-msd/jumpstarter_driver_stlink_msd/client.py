"""Client of boards with an ST-LINK drive."""

from __future__ import annotations

import json
from dataclasses import dataclass

import click
from jumpstarter_driver_opendal.client import FlasherClient

__all__ = ["StlinkMsdFlasherClient"]


@dataclass(kw_only=True)
class StlinkMsdFlasherClient(FlasherClient):
    """Flashes `.bin` and `.hex` files; `flash` returns when the ST-LINK has programmed the board."""

    def info(self) -> dict[str, str]:
        """Return what the ST-LINK tells of itself, such as `Version`, and where its drive is.

        Raises:
            DriverError: the drive isn't there.
        """
        return dict(self.call("info"))

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""
        base = super().cli()

        @base.command()
        def info() -> None:
            """Print what the ST-LINK tells of itself, as JSON."""
            click.echo(json.dumps(self.info(), indent=2))

        return base
