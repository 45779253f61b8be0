"""Moving bytes between streams: copying, forwarding both ways, and a stream pair in memory."""

from __future__ import annotations

import errno
import logging
from asyncio import InvalidStateError
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    WouldBlock,
    create_task_group,
)
from anyio.abc import AnyByteStream, ByteReceiveStream, ObjectStream
from anyio.lowlevel import checkpoint

from .pump import PumpAttribute, pump

logger = logging.getLogger(__name__)

CHUNK_SIZE = 1 << 20
"""Bytes asked of a byte stream at a time; large, because each chunk costs the same to handle."""

MEMORY_STREAM_LIMIT = 4 << 20
"""Bytes that one direction of a memory stream buffers before the sender waits."""


class Receiver(Protocol):
    """Anything that bytes are received from."""

    async def receive(self) -> bytes:
        """Return the next chunk or raise EndOfStream."""
        ...


class Sender(Protocol):
    """Anything that bytes are sent to."""

    async def send(self, item: bytes, /) -> None:
        """Take one chunk."""
        ...


class SourceBroken(Exception):
    """The stream that was read broke, as opposed to the one that was written."""


async def copy_stream(dst: Sender, src: Receiver) -> None:
    """Forward chunks from `src` to `dst` until `src` ends, then send EOF to `dst`.

    A stream that breaks or is closed on either side ends the copy quietly.
    """
    try:
        await _pump(dst, src)
    except SourceBroken as error:
        logger.debug("stream broke while it was read: %s", error)


async def _pump(dst: Sender, src: Receiver) -> None:
    """Copy until the end of `src`; raise SourceBroken when it breaks, return when `dst` does."""
    receive = partial(src.receive, CHUNK_SIZE) if isinstance(src, ByteReceiveStream) else src.receive
    while True:
        try:
            chunk = await receive()
        except EndOfStream:
            break
        except (BrokenResourceError, ClosedResourceError, InvalidStateError) as error:
            raise SourceBroken(str(error)) from error
        try:
            await dst.send(chunk)
        except (BrokenResourceError, ClosedResourceError, InvalidStateError) as error:
            _log_broken_destination(error)
            return
    try:
        await dst.send_eof()  # type: ignore[attr-defined]
    except (AttributeError, NotImplementedError, OSError, InvalidStateError):
        pass
    except (BrokenResourceError, ClosedResourceError) as error:
        logger.debug("stream was gone before its end could be sent: %s", error)


def _log_broken_destination(error: BaseException) -> None:
    cause = error.__cause__
    quiet = isinstance(cause, OSError) and cause.errno == errno.EPIPE
    logger.debug("stream broke while it was written%s: %r", " (EPIPE)" if quiet else "", cause or error)


@asynccontextmanager
async def forward_stream(a: AnyByteStream, b: AnyByteStream) -> AsyncGenerator[None, None]:
    """Forward both directions between `a` and `b` while the body runs.

    Each direction ends by itself and passes its end on, so half-closed connections work. Leaving the
    body normally waits for both directions; leaving it by an exception cancels them. When a stream
    breaks while it is read, nothing more can be exchanged, and both directions end. Both streams are
    closed in the end; if it wasn't an end that they agreed on, those with a method `abort` are aborted, so
    that nobody takes half of the bytes for all.
    """
    failure: Exception | None = None
    async with a, b, _aborted_on_error(a, b), create_task_group() as tg:

        async def direction(dst: AnyByteStream, src: AnyByteStream) -> None:
            try:
                await _pump(dst, src)
            except SourceBroken as error:
                logger.debug("stream broke: %s", error)
                _abort(dst)
                pumps.cancel()

        async def both() -> None:
            one, other = (stream.extra(PumpAttribute.socket, None) for stream in (a, b))
            with pumps:
                if one is not None and other is not None:
                    await pump(one, other)
                    return
                async with create_task_group() as inner:
                    inner.start_soon(direction, a, b)
                    inner.start_soon(direction, b, a)

        pumps = CancelScope()
        tg.start_soon(both)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised again below, outside the group that would wrap it)
            failure = error
            _abort(a)
            _abort(b)
            tg.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _abort(stream: object) -> None:
    """Break a stream that can tell its other end so; others look to it as if they had ended."""
    if (abort := getattr(stream, "abort", None)) is not None:
        abort()


@asynccontextmanager
async def _aborted_on_error(*streams: object) -> AsyncGenerator[None, None]:
    """Abort the streams when the body is cancelled or fails, before they are closed."""
    try:
        yield
    except BaseException:
        for stream in streams:
            _abort(stream)
        raise


class MemoryStream(ObjectStream[bytes]):
    """One end of a stream pair in memory; see `create_memory_stream`."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def send(self, item: bytes) -> None:
        """Send a chunk; waits while the other end has too much unread.

        Raises:
            ClosedResourceError: this end was closed, or its EOF was sent.
            BrokenResourceError: the other end was closed.
        """
        await self._outgoing.put(item)

    async def receive(self) -> bytes:
        """Return the next chunk.

        Raises:
            EndOfStream: the other end sent EOF or was closed.
            BrokenResourceError: the other end was broken off before its EOF.
            ClosedResourceError: this end was closed.
        """
        return await self._incoming.get()

    def receive_nowait(self) -> bytes:
        """Return the next chunk if it is there already.

        Raises:
            WouldBlock: it is not, or there will be none.
        """
        return self._incoming.get_nowait()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        self._outgoing.finish()
        await checkpoint()

    async def aclose(self) -> None:
        """Close both directions; what the other end has not read yet stays readable."""
        self._outgoing.finish()
        self._incoming.abandon()
        await checkpoint()

    def break_off(self) -> None:
        """Close both directions without an EOF: the other end learns that bytes are missing, unless all were sent."""
        self._outgoing.break_off()
        self._incoming.abandon()


class _Pipe:
    """One direction of a memory stream: chunks in order, bounded by their bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._finished = False
        self._broken = False
        self._abandoned = False
        self._readable: Event | None = None
        self._writable: Event | None = None

    async def put(self, chunk: bytes) -> None:
        while True:
            if self._abandoned:
                raise BrokenResourceError
            if self._finished:
                raise ClosedResourceError
            # A chunk larger than the limit must pass through an empty pipe.
            if not self._chunks or self._size + len(chunk) <= self._limit:
                break
            self._writable = self._writable or Event()
            await self._writable.wait()
        # Many empty chunks must not fill the memory either, so each counts as one byte at least.
        self._size += len(chunk) or 1
        self._chunks.append(chunk)
        self._wake_reader()
        await checkpoint()

    async def get(self) -> bytes:
        while not self._chunks:
            if self._abandoned:
                raise ClosedResourceError
            if self._broken:
                raise BrokenResourceError
            if self._finished:
                raise EndOfStream
            self._readable = self._readable or Event()
            await self._readable.wait()
        return self.get_nowait()

    def get_nowait(self) -> bytes:
        if not self._chunks:
            raise WouldBlock
        chunk = self._chunks.popleft()
        self._size -= len(chunk) or 1
        self._wake_writer()
        return chunk

    def finish(self) -> None:
        self._finished = True
        self._wake_reader()
        self._wake_writer()

    def break_off(self) -> None:
        if not self._finished:
            self._broken = True
            self.finish()

    def abandon(self) -> None:
        self._abandoned = True
        self._chunks.clear()
        self._size = 0
        self._wake_reader()
        self._wake_writer()

    def _wake_reader(self) -> None:
        if self._readable is not None:
            self._readable.set()
            self._readable = None

    def _wake_writer(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None


def create_memory_stream(limit: int = MEMORY_STREAM_LIMIT) -> tuple[MemoryStream, MemoryStream]:
    """Return two connected streams: what one sends the other receives.

    Each direction buffers at most `limit` bytes; a sender waits beyond that.
    """
    one, other = _Pipe(limit), _Pipe(limit)
    return MemoryStream(one, other), MemoryStream(other, one)
