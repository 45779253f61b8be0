"""A driver in the style of third-party packages, for both releases: only public names, all decoration styles."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from contextlib import asynccontextmanager

import pydantic.dataclasses
from anyio import EndOfStream, create_task_group
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.streams.common import create_memory_stream


class ProbeClient(DriverClient):
    """What the driving script calls through; no methods of its own are needed."""


class Plain(Driver):
    """A hand-written class without a dataclass decorator."""

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "interop_probe.ProbeClient"

    @export
    def kind(self) -> str:
        """Say which style this is."""
        return "plain"


@dataclasses.dataclass(kw_only=True)
class Stdlib(Driver):
    """A dataclass of the standard library."""

    size: int = 3

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "interop_probe.ProbeClient"

    @export
    def kind(self) -> str:
        """Say which style this is."""
        return f"stdlib {self.size}"


@pydantic.dataclasses.dataclass(kw_only=True)
class Probe(Driver):
    """A pydantic dataclass with every kind of exported method."""

    greeting: str = "hello"

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        self.children = {"plain": Plain(), "stdlib": Stdlib(size=4), **self.children}

    @classmethod
    def client(cls) -> str:
        """Name the client class."""
        return "interop_probe.ProbeClient"

    def extra_labels(self) -> dict[str, str]:
        """Add a label of our own."""
        return {"interop.example/greeting": self.greeting}

    @export
    def echo(self, value):
        """Return the argument, from a worker thread."""
        return value

    @export
    async def async_echo(self, *values):
        """Return the arguments, from the event loop."""
        return list(values)

    @export
    def fail(self, kind: str, text: str) -> None:
        """Raise a builtin exception."""
        raise getattr(__import__("builtins"), kind)(text)

    @export
    async def items(self, count):
        """Yield numbers from an async generator."""
        for number in range(int(count)):
            yield {"number": number}

    @export
    def blocking_items(self, count, failure=""):
        """Yield numbers from a blocking generator, then fail if asked."""
        yield from range(int(count))
        if failure:
            raise ValueError(failure)

    @export
    def say(self, level: str, text: str) -> None:
        """Write a log line."""
        self.logger.log(logging.getLevelName(level), text)

    @exportstream
    @asynccontextmanager
    async def echo_stream(self):
        """Send back every chunk, and the end when the client has finished sending."""
        near, far = create_memory_stream()

        async def run() -> None:
            try:
                while True:
                    await far.send(await far.receive())
            except EndOfStream:
                await far.send(b"bye")
                await far.send_eof()

        async with create_task_group() as tg:
            tg.start_soon(run)
            yield near

    @exportstream
    @asynccontextmanager
    async def talker(self):
        """Send a greeting and finish, then count what the client goes on sending."""
        near, far = create_memory_stream()
        self.counted = 0

        async def run() -> None:
            await far.send(self.greeting.encode())
            await far.send_eof()
            try:
                while True:
                    self.counted += len(await far.receive())
            except EndOfStream:
                return

        async with create_task_group() as tg:
            tg.start_soon(run)
            yield near

    @export
    def count(self) -> int:
        """Return how many bytes the last talker stream received; gives late ones two seconds."""
        deadline = time.monotonic() + 2
        while self.counted < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.counted

    @exportstream
    @asynccontextmanager
    async def broken_stream(self):
        """Fail to open."""
        raise OSError("no such port")
        yield

    @export
    async def upload(self, handle) -> list:
        """Return size and SHA-256 of a client's bytes."""
        digest, size = hashlib.sha256(), 0
        async with self.resource(handle) as stream:
            async for chunk in stream:
                digest.update(chunk)
                size += len(chunk)
        return [size, digest.hexdigest()]

    @export
    async def download(self, handle, size) -> str:
        """Send bytes to a client and return their SHA-256."""
        payload = pattern(int(size))
        async with self.resource(handle) as stream:
            for start in range(0, len(payload), 65536):
                await stream.send(payload[start : start + 65536])
            await stream.send_eof()
        return hashlib.sha256(payload).hexdigest()


def pattern(size: int) -> bytes:
    """Return `size` bytes that differ from block to block."""
    block = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(2048))
    return (block * (size // len(block) + 1))[:size]
