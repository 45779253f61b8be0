"""The device of the tutorial: a heating plate that obeys lines of text over TCP. In real life this is hardware."""

from __future__ import annotations

import asyncio
import math
import sys
import time

ROOM = 21.0
"""Degrees Celsius around the plate."""

TIME_CONSTANT = 1.0
"""Seconds in which the plate covers 63 % of the way to its goal. Real plates are slower."""


class Plate:
    """Physics of a plate that heats up and cools down exponentially."""

    def __init__(self) -> None:
        """Start at room temperature with the heating off."""
        self._goal = self._start = ROOM
        self._since = time.monotonic()

    def temperature(self) -> float:
        """The temperature of this moment, in degrees Celsius."""
        passed = time.monotonic() - self._since
        return self._goal + (self._start - self._goal) * math.exp(-passed / TIME_CONSTANT)

    def answer(self, line: str) -> str:
        """Obey one line: `SET degrees`, `OFF` or `GET`."""
        match line.split():
            case ["GET"]:
                return f"{self.temperature():.2f}"
            case ["OFF"]:
                self._head_for(ROOM)
                return "OK"
            case ["SET", number] if number.replace(".", "", 1).isdigit():
                self._head_for(float(number))
                return "OK"
        return f"ERROR cannot obey {line!r}"

    def _head_for(self, goal: float) -> None:
        self._start, self._since = self.temperature(), time.monotonic()
        self._goal = goal


async def main(port: int) -> None:
    """Serve one plate on 127.0.0.1 until cancelled."""
    plate = Plate()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(f"{plate.answer(line.decode().strip())}\n".encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
