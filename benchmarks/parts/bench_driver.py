"""The driver that is measured, for both releases: it does nothing, so that what is left is the way to it."""

from __future__ import annotations

from contextlib import asynccontextmanager

from anyio import EndOfStream, create_task_group
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.streams.common import create_memory_stream


class BenchClient(DriverClient):
    """Calls by name suffice."""


class Bench(Driver):
    """Echoes values, items and bytes, and takes uploads."""

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "bench_driver.BenchClient"

    @export
    async def echo(self, value):
        """Return the argument from the event loop."""
        return value

    @export
    def blocking_echo(self, value):
        """Return the argument from a worker thread."""
        return value

    @export
    async def items(self, count):
        """Yield numbers."""
        for number in range(int(count)):
            yield number

    @exportstream
    @asynccontextmanager
    async def connect(self):
        """Send every chunk back."""
        near, far = create_memory_stream()

        async def run() -> None:
            try:
                while True:
                    await far.send(await far.receive())
            except EndOfStream:
                await far.send_eof()

        async with create_task_group() as tg:
            tg.start_soon(run)
            yield near


class Leaf(Driver):
    """One of many in a large tree."""

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "bench_driver.BenchClient"


def tree(count: int) -> Driver:
    """Return a driver with `count` children."""
    return Bench(children={f"leaf{number}": Leaf() for number in range(count)})
