"""The exporter's side: talks to the plate."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStream
from jumpstarter.driver import Driver, export, exportstream

TIMEOUT = 5.0
"""Seconds that the plate gets for an answer."""


@dataclass(kw_only=True)
class Heater(Driver):
    """A heating plate that obeys lines of text over TCP."""

    host: str
    port: int = 5025
    maximum: float = 80.0
    """Degrees Celsius that must not be exceeded."""

    def __post_init__(self) -> None:
        """Refuse a configuration that can't work, before any client comes."""
        super().__post_init__()
        if self.maximum <= 0:
            raise ValueError(f"maximum must be above 0 degrees, not {self.maximum:g}")

    @classmethod
    def client(cls) -> str:
        """Name the class that clients use."""
        return "jumpstarter_example_heater.client.HeaterClient"

    @export
    def set_temperature(self, celsius: float) -> None:
        """Head for a temperature in degrees Celsius; returns at once."""
        if not 0 <= celsius <= self.maximum:
            raise ValueError(f"this plate is limited to 0 to {self.maximum:g} degrees, so {celsius:g} is refused")
        self._ask(f"SET {celsius:g}")

    @export
    def off(self) -> None:
        """Stop heating."""
        self._ask("OFF")

    @export
    def temperature(self) -> float:
        """Return the temperature of this moment in degrees Celsius."""
        return float(self._ask("GET"))

    @export
    def readings(self, interval: float) -> Generator[float, None, None]:
        """Yield the temperature every `interval` seconds, for as long as the client listens."""
        while True:
            yield self.temperature()
            time.sleep(interval)

    @exportstream
    @asynccontextmanager
    async def console(self) -> AsyncGenerator[ByteStream, None]:
        """Give the client the plate's own connection."""
        async with await anyio.connect_tcp(self.host, self.port) as stream:
            yield stream

    def close(self) -> None:
        """Leave the plate cold, whatever the session did with it."""
        try:
            self.off()
        except OSError as error:
            self.logger.warning("the plate could not be switched off: %s", error)
        super().close()

    def _ask(self, line: str) -> str:
        with socket.create_connection((self.host, self.port), timeout=TIMEOUT) as connection:
            connection.sendall(f"{line}\n".encode())
            answer = connection.makefile("r").readline().strip()
        if not answer or answer.startswith("ERROR"):
            raise RuntimeError(f"the plate at {self.host}:{self.port} answered {answer!r} to {line!r}")
        return answer
