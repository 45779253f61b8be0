"""Clients of GPIO pins, with their `j` commands."""

from __future__ import annotations

from dataclasses import dataclass

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.decorators import driver_click_group
from jumpstarter_driver_power.client import PowerClient

from .common import DEFAULT_WAIT, PinState

__all__ = ["DigitalInputClient", "DigitalOutputClient", "PinState"]


@dataclass(kw_only=True)
class DigitalOutputClient(PowerClient):
    """An output, which has all that power drivers have."""

    def read_pin(self) -> PinState:
        """Return the state of the pin.

        Raises:
            DriverError: it can't be read.
        """
        return PinState(int(self.call("read_pin")))

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""
        base = super().cli()

        @base.command()
        def read_pin() -> None:
            """Print active or inactive."""
            click.echo(str(self.read_pin()))

        return base


@dataclass(kw_only=True)
class DigitalInputClient(DriverClient):
    """An input."""

    def read_pin(self) -> PinState:
        """Return the state of the pin.

        Raises:
            DriverError: it can't be read.
        """
        return PinState(int(self.call("read_pin")))

    def wait_for_active(self, timeout: float | None = None) -> None:
        """Wait until the pin is active.

        Args:
            timeout: seconds; an hour when it isn't given.

        Raises:
            DriverError: it isn't in that time, or can't be read.
        """
        self.call("wait_for_active", timeout)

    def wait_for_inactive(self, timeout: float | None = None) -> None:
        """Wait until the pin is inactive; see `wait_for_active`."""
        self.call("wait_for_inactive", timeout)

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Input pin."""

        timeout_option = click.option(
            "--timeout",
            "-t",
            type=click.FloatRange(min=0),
            default=DEFAULT_WAIT,
            show_default=True,
            help="Seconds to wait at most; the command fails then.",
        )

        @base.command()
        def read() -> None:
            """Print active or inactive."""
            click.echo(str(self.read_pin()))

        @base.command()
        @timeout_option
        def wait_for_active(timeout: float) -> None:
            """Wait until the pin is active."""
            self.wait_for_active(timeout)

        @base.command()
        @timeout_option
        def wait_for_inactive(timeout: float) -> None:
            """Wait until the pin is inactive."""
            self.wait_for_inactive(timeout)

        return base
