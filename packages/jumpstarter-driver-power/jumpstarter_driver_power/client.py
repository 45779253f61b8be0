"""Client of power drivers, with the `j power` commands."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import count as numbers
from typing import TYPE_CHECKING, Any

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverMethodNotImplemented
from jumpstarter.client.decorators import driver_click_group

from .common import PowerState

if TYPE_CHECKING:
    from .reading import PowerReading

__all__ = ["PowerClient", "PowerReading", "PowerState", "VirtualPowerClient"]


def __getattr__(name: str) -> Any:
    if name == "PowerReading":
        from .reading import PowerReading

        return PowerReading
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(kw_only=True)
class PowerClient(DriverClient):
    """Switches the supply of a device and reads its measurements."""

    def on(self) -> None:
        """Switch the supply on.

        Raises:
            DriverError: the device did not take the command, or did not confirm it.
        """
        self.call("on")

    def off(self) -> None:
        """Switch the supply off.

        Raises:
            DriverError: the device did not take the command, or did not confirm it.
        """
        self.call("off")

    def rescue(self) -> None:
        """Start the device in its rescue mode.

        Raises:
            DriverMethodNotImplemented: the device has none.
        """
        self.call("rescue")

    def status(self) -> PowerState:  # type: ignore[override]
        """Return the state of the supply, as the device itself reports it.

        Raises:
            DriverMethodNotImplemented: the device can't be asked.
        """
        reported = self.call("status")
        try:
            return PowerState(reported)
        except ValueError:
            return PowerState.UNKNOWN

    def cycle(self, wait: float = 2) -> None:
        """Switch off, wait `wait` seconds, and switch on.

        The exporter does it as one step, so that a client that dies in the pause does not leave the device off.
        """
        self.logger.info("Power cycle: off")
        self.logger.info("Power cycle: on again in %g seconds", wait)
        try:
            self.call("cycle", wait)
        except DriverMethodNotImplemented:
            self._cycle_here(wait)
        self.logger.info("Power cycle: on")

    def _cycle_here(self, wait: float) -> None:
        """Cycle step by step, for exporters and drivers that know no `cycle`."""
        self.off()
        try:
            time.sleep(wait)
        finally:
            self.on()

    def read(self) -> Generator[PowerReading, None, None]:
        """Yield measurements until the device has no more; that may be never, so take only as many as you need.

        Raises:
            DriverMethodNotImplemented: the device measures nothing.
        """
        from .reading import PowerReading

        with closing(self.streamingcall("read")) as values:
            for value in values:
                yield PowerReading.model_validate(value)

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Power of the device."""

        self._add_commands(base)
        return base

    def _add_commands(self, base: click.Group) -> None:
        self._add_off(base)

        @base.command()
        def on() -> None:
            """Switch on."""
            self.on()

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
            """Switch off, wait, switch on."""
            click.echo(f"Power cycling with {wait:g} seconds wait time...")
            self.cycle(wait)

        @base.command()
        def rescue() -> None:
            """Start the device in its rescue mode."""
            with explained("the rescue mode is not available"):
                self.rescue()

        @base.command()
        def status() -> None:
            """Print on, off or unknown, as the device reports it."""
            with explained("the state is not available"):
                click.echo(str(self.status()))

        @base.command()
        @click.option(
            "--count",
            "-n",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            help="Number of readings, 0 for no end.",
        )
        @click.option(
            "--interval",
            "-i",
            type=click.FloatRange(min=0),
            default=1.0,
            show_default=True,
            help="Seconds between two readings.",
        )
        def read(count: int, interval: float) -> None:
            """Print measurements."""
            with explained("readings are not available"):
                self._print_readings(count, interval)

    def _add_off(self, base: click.Group) -> None:
        @base.command()
        def off() -> None:
            """Switch off."""
            self.off()

    def _print_readings(self, count: int, interval: float) -> None:
        """Print `count` readings, or readings for ever when it is 0, with `interval` seconds between two."""
        with closing(self._sampled()) as readings:
            for number in numbers(1):
                reading = next(readings, None)
                if reading is None:
                    raise click.ClickException("the device gave no reading")
                click.echo(format_reading(reading))
                if number == count:
                    return
                time.sleep(interval)

    def _sampled(self) -> Generator[PowerReading, None, None]:
        """Yield readings, asking again when the device has given all it had; end when it gives none at all."""
        while True:
            any_reading = False
            with closing(self.read()) as readings:
                for reading in readings:
                    any_reading = True
                    yield reading
            if not any_reading:
                return


@dataclass(kw_only=True)
class VirtualPowerClient(PowerClient):
    """Switches a virtual machine, and can throw it away."""

    def off(self, destroy: bool = False) -> None:
        """Switch the machine off; with `destroy`, remove it and its state as well."""
        self.call("off", destroy)

    def _add_off(self, base: click.Group) -> None:
        @base.command()
        @click.option("--destroy", is_flag=True, help="Remove the machine and its state as well.")
        def off(destroy: bool) -> None:
            """Switch off."""
            self.off(destroy)


class explained:
    """Turn "not implemented" into a message that says what the device lacks."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DriverMethodNotImplemented):
            raise click.ClickException(f"{self.what}: this device does not offer it ({error})") from error


def format_reading(reading: PowerReading) -> str:
    """Return a reading as one line of text with its units."""
    # No meter tells a millionth; a product of two numbers has digits that mean nothing.
    volts, amperes, apparent = (round(value, 6) for value in (reading.voltage, reading.current, reading.apparent_power))
    line = f"voltage={volts} V  current={amperes} A  apparent_power={apparent} VA"
    return line if reading.power is None else f"{line}  power={round(reading.power, 6)} W"
