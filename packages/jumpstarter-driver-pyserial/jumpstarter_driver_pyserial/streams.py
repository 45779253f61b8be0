"""Serial ports as anyio byte streams."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import serial
from anyio import to_thread
from anyio.abc import ObjectStream

from .mailbox import Mailbox
from .port import descriptor_of
from .reader import CHUNK, PortReader

UNREAD_LIMIT = 1 << 20
"""Bytes that are kept of a port without a descriptor when its listener is slower than it."""


@dataclass(kw_only=True)
class ThrottledStream(ObjectStream[bytes]):
    """`stream`, written at `cps` characters per second at most; None and 0 mean no limit.

    For devices that lose characters when their console is written at full speed.
    """

    stream: ObjectStream[bytes]
    cps: float | None = None

    async def send(self, item: bytes) -> None:
        """Send byte after byte with pauses between them."""
        if not self.cps or self.cps <= 0:
            await self.stream.send(item)
            return
        interval = 1 / self.cps
        for value in item:
            due = time.monotonic() + interval
            await self.stream.send(bytes((value,)))
            await anyio.sleep(max(0.0, due - time.monotonic()))

    async def receive(self) -> bytes:
        """Receive from the inner stream, at its own speed."""
        return await self.stream.receive()

    async def send_eof(self) -> None:
        """End the sending direction of the inner stream."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the inner stream."""
        await self.stream.aclose()


class DescriptorStream(ObjectStream[bytes]):
    """A port that is read and written by its descriptor: without threads, and with the port's own back-pressure."""

    def __init__(self, name: str, port: serial.SerialBase, descriptor: int, logger: logging.Logger) -> None:
        self._name = name
        self._port = port
        self._descriptor = descriptor
        self._logger = logger
        self._closed = False
        self._closing = anyio.Lock()
        os.set_blocking(descriptor, False)

    async def receive(self) -> bytes:
        """Return what the port has received.

        Raises:
            anyio.EndOfStream: the port is gone, or its other end hung up.
        """
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            await anyio.wait_readable(self._descriptor)
            try:
                data = os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                if self._closed:
                    raise anyio.ClosedResourceError from error
                self._logger.error("serial port %s is lost: %s", self._name, os.strerror(error.errno or errno.EIO))
                raise anyio.EndOfStream from error
            if not data:
                self._logger.error("serial port %s is lost: the other end hung up", self._name)
                raise anyio.EndOfStream
            return data

    async def send(self, item: bytes) -> None:
        """Write to the port; returns when its driver has taken everything.

        Raises:
            anyio.BrokenResourceError: the port is gone.
        """
        left = memoryview(item)
        while left:
            if self._closed:
                raise anyio.ClosedResourceError
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._descriptor)
            except OSError as error:
                self._logger.error("serial port %s is lost: %s", self._name, error.strerror)
                raise anyio.BrokenResourceError from error
        await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Do nothing: a serial line has no end."""

    async def aclose(self) -> None:
        """Close the port; returns when it is closed, whoever began with it."""
        with anyio.CancelScope(shield=True):
            async with self._closing:
                if not self._closed:
                    self._closed = True
                    anyio.notify_closing(self._descriptor)
                    # Closing a device can wait until its output has gone out.
                    await to_thread.run_sync(self._port.close)


class MailboxStream(ObjectStream[bytes]):
    """What a reader puts into a mailbox, and the reader's port to write to."""

    def __init__(self, mailbox: Mailbox, write: Callable[[bytes], None], logger: logging.Logger) -> None:
        self._mailbox = mailbox
        self._write = write
        self._logger = logger
        self._closed = False

    async def receive(self) -> bytes:
        """Return what was read since the last time.

        Raises:
            anyio.EndOfStream: nothing more will come.
        """
        while not (data := self._mailbox.take()):
            if self._closed:
                raise anyio.ClosedResourceError
            if data is None:
                raise anyio.EndOfStream
            await self._mailbox.wait()
        if dropped := self._mailbox.take_dropped():
            self._logger.warning("%d bytes of output were dropped because nobody received them in time", dropped)
        return data

    async def send(self, item: bytes) -> None:
        """Write to the port.

        Raises:
            anyio.BrokenResourceError: the port is gone.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        try:
            await to_thread.run_sync(self._write, item, abandon_on_cancel=True)
        except OSError as error:
            self._logger.error("%s", error)
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Do nothing: a serial line has no end."""

    async def aclose(self) -> None:
        """Stop using the mailbox, which stays as it is."""
        self._closed = True
        self._mailbox.nudge()
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def port_stream(
    name: str, opener: Callable[[], serial.SerialBase], logger: logging.Logger
) -> AsyncGenerator[tuple[ObjectStream[bytes], serial.SerialBase], None]:
    """Open a port, and yield it as a stream and as it is; it is closed with the context.

    Raises:
        serial.SerialException: it can't be opened.
    """
    port = await to_thread.run_sync(opener)
    descriptor = descriptor_of(port)
    if descriptor is not None:
        async with DescriptorStream(name, port, descriptor, logger) as stream:
            yield stream, port
        return
    mailbox = Mailbox(UNREAD_LIMIT)
    reader = PortReader(name, lambda: port, mailbox, logger, record=False)
    try:
        reader.start()
        async with MailboxStream(mailbox, reader.write, logger) as stream:
            yield stream, port
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(reader.stop)
        mailbox.close()
