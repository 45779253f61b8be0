"""Drivers that fail, block and stream on request, and keep a journal of what happens to them."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio import create_memory_object_stream
from anyio.abc import ObjectStream
from anyio.streams.stapled import StapledObjectStream
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter_driver_opendal.driver import FlasherInterface, store

LIMIT = 60.0
"""Seconds that a driver waits at most for what a test has forgotten."""

ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (RuntimeError, ValueError, KeyError, OSError, TimeoutError, NotImplementedError, ZeroDivisionError)
}


class NoPlainError(Exception):
    """An exception of a library that knows none of the built-in families."""


@dataclass(kw_only=True)
class Witness(Driver):
    """Writes to `journal` when it is made and closed."""

    journal: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.note("opened")

    @classmethod
    def client(cls) -> str:
        return "trouble_client.TroubleClient"

    def note(self, text: str) -> None:
        with Path(self.journal).open("a") as journal:
            journal.write(f"{text}\n")

    def close(self) -> None:
        self.note("closed")
        super().close()


@dataclass(kw_only=True)
class Trouble(Witness):
    """Answers, fails, blocks or streams, as it is told."""

    _released: threading.Event = field(init=False, repr=False, default_factory=threading.Event)

    @export
    def ping(self) -> str:
        return "pong"

    @export
    def fail(self, kind: str, text: str) -> None:
        raise ERRORS[kind](*([text] if text else []))

    @export
    def block(self) -> str:
        """Block a thread until another call releases it."""
        self.note("blocking")
        return "released" if self._released.wait(LIMIT) else "nobody came"

    @export
    def drip(self) -> Generator[str, None, None]:
        """Yield once, block until another call releases it, and yield again."""
        yield "first"
        self.note("blocking")
        yield "released" if self._released.wait(LIMIT) else "nobody came"

    @export
    def fail_midway(self) -> Generator[str, None, None]:
        yield "first"
        raise RuntimeError("the needle is stuck")

    @export
    def release(self) -> None:
        self._released.set()

    @exportstream
    @asynccontextmanager
    async def echo(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        send, receive = create_memory_object_stream[bytes](8)
        async with StapledObjectStream(send, receive) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def broken(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        raise RuntimeError("the probe is unplugged")
        yield  # type: ignore[unreachable]


@dataclass(kw_only=True)
class FailingSetup(Witness):
    """Can't be made."""

    kind: str = "OSError"

    def __post_init__(self) -> None:
        super().__post_init__()
        raise ERRORS.get(self.kind, NoPlainError)("the board does not answer")


@dataclass(kw_only=True)
class SlowSetup(Witness):
    """Is made as soon as the file `until` exists."""

    until: str

    def __post_init__(self) -> None:
        super().__post_init__()
        deadline = time.monotonic() + LIMIT
        while not Path(self.until).exists() and time.monotonic() < deadline:
            time.sleep(0.02)


@dataclass(kw_only=True)
class FailingClose(Witness):
    """Can't be closed properly."""

    def close(self) -> None:
        super().close()
        raise RuntimeError("the relay is stuck")


@dataclass(kw_only=True)
class Disk(FlasherInterface, Witness):
    """A flasher that keeps one image in `directory`."""

    directory: str
    max_size: int = 1 << 40

    @classmethod
    def client(cls) -> str:
        return FlasherInterface.client()

    @export
    async def flash(self, source: Any, target: str | None = None) -> None:
        self.note("flashing")
        try:
            async with self.resource(source) as stream:
                await store(stream, Path(self.directory) / "image", self.max_size)
        except BaseException as error:
            self.note(f"aborted: {type(error).__name__}")
            raise
        self.note("flashed")

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        raise NotImplementedError("this disk can't be read")


class Foreign(Witness):
    """Wants a client class that careful clients don't allow."""

    @classmethod
    def client(cls) -> str:
        return "foreign_client.ForeignClient"
