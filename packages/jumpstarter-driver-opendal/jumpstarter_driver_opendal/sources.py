"""The client's end of a transfer: local files, bytes in memory and files of an opendal operator, as streams."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Protocol

from anyio import BrokenResourceError, EndOfStream, wait_readable
from anyio.abc import ObjectStream

from .transfer import CHUNK_SIZE, ReadAhead, WriteBehind

__all__ = ["BytesIOStream", "PipeStream", "SinkStream", "SourceStream"]


class Source(Protocol):
    """What a `SourceStream` reads."""

    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    """What a `SinkStream` writes."""

    def write(self, data: bytes, /) -> Any: ...


class SourceStream(ObjectStream[bytes]):
    """Streams what a blocking file holds, read in large pieces ahead of the network.

    Args:
        source: the file; it is not closed.
        total: its size in bytes where that is known, for the progress display.
    """

    def __init__(self, source: Source, total: int | None = None) -> None:
        self._ahead = ReadAhead(source.read)
        self._total = total
        self.sent = 0
        """Bytes handed out."""
        self.failure: Exception | None = None
        """Why reading ended before the end; the other side can't tell that from a complete file."""

    async def receive(self) -> bytes:
        """The next chunk; raises `BrokenResourceError` when the file can't be read, see `failure`."""
        try:
            chunk = await self._ahead.next()
        except Exception as error:
            self.failure = error
            raise BrokenResourceError from error
        if not chunk:
            raise EndOfStream
        self.sent += len(chunk)
        return chunk

    async def send(self, item: bytes) -> None:
        """Refuse: the file is only read."""
        raise BrokenResourceError

    async def send_eof(self) -> None:
        """Nothing will be written, and nothing was."""

    async def aclose(self) -> None:
        """Wait until no thread reads the file any more."""
        await self._ahead.settle()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The total size, where it is known."""
        if self._total is None:
            return {}
        from jumpstarter.streams.progress import ProgressAttribute

        total = float(self._total)
        return {ProgressAttribute.total: lambda: total}


class PipeStream(SourceStream):
    """Streams what comes through a pipe, a terminal or a socket, which may take for ever: no thread waits for it.

    Args:
        fd: its file descriptor; it is not closed.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(BytesIO())
        self._fd = fd

    async def receive(self) -> bytes:
        """The next chunk; raises `BrokenResourceError` when reading fails, see `failure`."""
        try:
            await wait_readable(self._fd)
            chunk = os.read(self._fd, CHUNK_SIZE)
        except OSError as error:
            self.failure = error
            raise BrokenResourceError from error
        if not chunk:
            raise EndOfStream
        self.sent += len(chunk)
        return chunk


class SinkStream(ObjectStream[bytes]):
    """Streams into a blocking file, written behind the network.

    Args:
        sink: the file; it is not closed.
    """

    def __init__(self, sink: Sink) -> None:
        self._behind = WriteBehind(sink.write)
        self.started = False
        """Whether anything came from the other side."""
        self.failure: Exception | None = None
        """Why writing failed."""
        self.complete = False
        """Whether the other side said that this was all, and all of it is written."""

    async def receive(self) -> bytes:
        """Nothing is sent: the file is only written."""
        raise EndOfStream

    async def send(self, item: bytes) -> None:
        """Write; raises `BrokenResourceError` when that fails, see `failure`."""
        self.started = True
        try:
            await self._behind.put(item)
        except Exception as error:
            self.failure = error
            raise BrokenResourceError from error

    async def send_eof(self) -> None:
        """Wait until all is written."""
        try:
            await self._behind.flush()
        except Exception as error:
            self.failure = error
            raise BrokenResourceError from error
        self.complete = True

    async def aclose(self) -> None:
        """Wait until no thread writes the file any more."""
        await self._behind.settle()


class BytesIOStream(ObjectStream[bytes]):
    """Reads from, and writes to, a buffer in memory."""

    def __init__(self, buf: BytesIO | None = None) -> None:
        self.buf = BytesIO() if buf is None else buf

    async def receive(self) -> bytes:
        """The next chunk of the buffer, from its position."""
        if data := self.buf.read(1 << 20):
            return data
        raise EndOfStream

    async def send(self, item: bytes) -> None:
        """Write at the position of the buffer."""
        self.buf.write(item)

    async def send_eof(self) -> None:
        """Nothing more will be written."""

    async def aclose(self) -> None:
        """Keep the buffer, whose contents are wanted."""
