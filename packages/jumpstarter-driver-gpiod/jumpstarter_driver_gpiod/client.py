"""Clients of GPIO lines, with their `j` commands."""

from __future__ import annotations

import time
from dataclasses import dataclass

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverMethodNotImplemented
from jumpstarter.client.decorators import driver_click_group

from .common import DEFAULT_WAIT, EDGES, PinState

__all__ = ["DigitalInputClient", "DigitalOutputClient", "PinState"]


@dataclass(kw_only=True)
class _LineClient(DriverClient):
    def read(self) -> PinState:
        """Return the state of the line.

        Raises:
            DriverError: it can't be read.
        """
        return PinState(int(self.call("read_pin")))

    def _add_read(self, base: click.Group) -> None:
        @base.command()
        def read() -> None:
            """Print active or inactive."""
            click.echo(str(self.read()))


@dataclass(kw_only=True)
class DigitalOutputClient(_LineClient):
    """An output line."""

    def on(self) -> None:
        """Make the line active.

        Raises:
            DriverError: it can't be set, or does not follow.
        """
        self.call("on")

    def off(self) -> None:
        """Make the line inactive.

        Raises:
            DriverError: it can't be set, or does not follow.
        """
        self.call("off")

    def cycle(self, wait: float = 2) -> None:
        """Make the line inactive, and active again after `wait` seconds.

        The exporter does it as one step, so that a client that dies in the pause does not leave the line inactive.
        """
        try:
            self.call("cycle", wait)
        except DriverMethodNotImplemented:
            self.off()
            try:
                time.sleep(wait)
            finally:
                self.on()

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Output line."""

        @base.command()
        def on() -> None:
            """Make the line active."""
            self.on()

        @base.command()
        def off() -> None:
            """Make the line inactive."""
            self.off()

        @base.command()
        @click.option(
            "--wait",
            "-w",
            type=click.FloatRange(min=0),
            default=2,
            show_default=True,
            help="Seconds between off and on.",
        )
        def cycle(wait: float) -> None:
            """Make the line inactive, wait, make it active."""
            self.cycle(wait)

        self._add_read(base)
        return base


@dataclass(kw_only=True)
class DigitalInputClient(_LineClient):
    """An input line."""

    def wait_for_active(self, timeout: float | None = None) -> None:
        """Wait until the line is active.

        Args:
            timeout: seconds; an hour when it isn't given.

        Raises:
            DriverError: it isn't in that time, or can't be read.
        """
        self.call("wait_for_active", timeout)

    def wait_for_inactive(self, timeout: float | None = None) -> None:
        """Wait until the line is inactive; see `wait_for_active`."""
        self.call("wait_for_inactive", timeout)

    def wait_for_edge(self, edge: str, timeout: float | None = None) -> None:
        """Wait until the line changes: `rising` to active, `falling` to inactive; see `wait_for_active`."""
        self.call("wait_for_edge", edge, timeout)

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Input line."""

        timeout_option = click.option(
            "--timeout",
            "-t",
            type=click.FloatRange(min=0),
            default=DEFAULT_WAIT,
            show_default=True,
            help="Seconds to wait at most; the command fails then.",
        )

        @base.command()
        @click.argument("edge", type=click.Choice(EDGES))
        @timeout_option
        def wait_for_edge(edge: str, timeout: float) -> None:
            """Wait until the line becomes active (rising) or inactive (falling)."""
            self.wait_for_edge(edge, timeout)

        @base.command()
        @timeout_option
        def wait_for_active(timeout: float) -> None:
            """Wait until the line is active."""
            self.wait_for_active(timeout)

        @base.command()
        @timeout_option
        def wait_for_inactive(timeout: float) -> None:
            """Wait until the line is inactive."""
            self.wait_for_inactive(timeout)

        self._add_read(base)
        return base
