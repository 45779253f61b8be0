"""The user's side: calls what the driver exports, and holds the commands of `j heater`."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.decorators import driver_click_group


@dataclass(kw_only=True)
class HeaterClient(DriverClient):
    """Heats a plate and watches its temperature."""

    def set_temperature(self, celsius: float) -> None:
        """Head for a temperature in degrees Celsius; returns at once."""
        self.call("set_temperature", celsius)

    def off(self) -> None:
        """Stop heating."""
        self.call("off")

    def temperature(self) -> float:
        """Return the temperature of this moment in degrees Celsius."""
        return float(self.call("temperature"))

    def readings(self, interval: float = 1.0) -> Generator[float, None, None]:
        """Yield the temperature every `interval` seconds, without end."""
        with closing(self.streamingcall("readings", interval)) as values:
            yield from values

    def wait_until(self, celsius: float, *, tolerance: float = 0.5, timeout: float = 60) -> float:
        """Wait until the plate is as hot as that and return its temperature.

        Raises:
            TimeoutError: it is not after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with closing(self.readings(0.1)) as values:
            for temperature in values:
                if abs(temperature - celsius) <= tolerance:
                    return temperature
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{temperature:.1f} degrees after {timeout:g} s instead of {celsius:g}")
        raise RuntimeError("the readings of the plate ended")

    def cli(self) -> click.Group:
        """Return the commands of `j heater`."""

        @driver_click_group(self)
        def heater() -> None:
            """A heating plate."""

        @heater.command("set")
        @click.argument("celsius", type=float)
        def set_temperature(celsius: float) -> None:
            """Head for a temperature."""
            self.set_temperature(celsius)

        @heater.command()
        def off() -> None:
            """Stop heating."""
            self.off()

        @heater.command()
        def read() -> None:
            """Print the temperature."""
            click.echo(f"{self.temperature():.1f}")

        @heater.command()
        @click.argument("celsius", type=float)
        def wait(celsius: float) -> None:
            """Wait until the plate is as hot as CELSIUS."""
            click.echo(f"{self.wait_until(celsius):.1f}")

        return heater
