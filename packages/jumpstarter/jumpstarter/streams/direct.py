"""Byte streams over a Unix socket beside a session's own, for peers on one machine: without gRPC in between.

A client that reached a session at PATH connects to PATH with SUFFIX added, where the exporter listens, and sends one
JSON object: the members that it would send as metadata of `RouterService.Stream`. The answer is one JSON object,
either `{"metadata": {...}, "raw": bool}` or `{"code": STATUS, "details": TEXT}`. Each object has its length in front.

What follows on a raw stream is the bytes of the driver's socket, half-closed as sockets are. On every other stream
chunks keep their edges: each has its length in front. Two lengths that no chunk has stand for the end of a direction
and for a failure, whose text follows, so that a peer that dies is not taken for one that has finished.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, Event
from anyio.abc import AnyByteStream, ObjectStream

from .pump import PumpAttribute
from .unix import connect_unix

SUFFIX = ".streams"
"""Added to the path of a session's socket."""

MAX_OBJECT = 256 * 1024
"""Bytes of the request or the answer."""

MAX_CHUNK = 64 << 20
"""Bytes that a peer may announce for one chunk."""

WHOLE_CHUNK = 128 * 1024
"""Chunks up to this size are received whole, which keeps datagrams together; larger ones may come in parts."""

READ_SIZE = 256 * 1024

PART_SIZE = 1 << 20
"""Bytes of a large chunk that are received at a time: each part is a step for all that it passes through."""

_LENGTH = struct.Struct(">I")
_EOF = 0xFFFFFFFF
_FAILURE = 0xFFFFFFFE


class Connection(Protocol):
    """What carries a stream: a socket, or TLS over one."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]: ...
    async def receive(self, max_bytes: int = ...) -> bytes: ...
    async def send(self, item: bytes) -> None: ...
    def abort(self) -> None: ...
    async def aclose(self) -> None: ...


class Refused(Exception):
    """The session did not open the stream; `code` is the name of the gRPC status that says why."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def available(path: str) -> bool:
    """Tell whether the session at `path` offers direct streams to this user."""
    return os.access(path + SUFFIX, os.R_OK | os.W_OK)


async def open_direct(path: str, request: Mapping[str, Any]) -> tuple[dict[str, str], AnyByteStream]:
    """Ask the session at `path` for a stream; return its metadata and the stream, to be closed by the caller.

    Raises:
        Refused: the session did not open it.
        OSError: nobody listens there.
        BrokenResourceError: the session went away.
    """
    connection = await connect_unix(path + SUFFIX)
    try:
        await write_object(connection, request)
        answer = await read_object(connection)
        if "code" in answer:
            raise Refused(str(answer["code"]), str(answer.get("details", "")))
        metadata = {str(key): str(value) for key, value in answer.get("metadata", {}).items()}
        return metadata, connection if answer.get("raw") else DirectStream(connection)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await connection.aclose()
        raise


async def write_object(connection: Connection, value: Mapping[str, Any]) -> None:
    """Send one JSON object with its length in front."""
    text = json.dumps(value, separators=(",", ":")).encode()
    await connection.send(_LENGTH.pack(len(text)) + text)


async def read_object(connection: Connection) -> dict[str, Any]:
    """Receive one JSON object, and not a byte beyond it.

    Raises:
        BrokenResourceError: the peer went away, or sent something else.
    """
    length = _LENGTH.unpack(await _exactly(connection, _LENGTH.size))[0]
    if length > MAX_OBJECT:
        raise BrokenResourceError(f"the other end announced an object of {length} bytes")
    try:
        value = json.loads(await _exactly(connection, length))
    except (ValueError, RecursionError) as error:
        raise BrokenResourceError("the other end sent something else than JSON") from error
    if not isinstance(value, dict):
        raise BrokenResourceError("the other end sent something else than a JSON object")
    return value


async def _exactly(connection: Connection, size: int) -> bytes:
    received = b""
    while len(received) < size:
        try:
            received += await connection.receive(size - len(received))
        except EndOfStream as error:
            raise BrokenResourceError("the other end went away") from error
    return received


class DirectStream(ObjectStream[bytes]):
    """Chunks over a connected socket; see the module for their form."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer = b""
        self._offset = 0
        self._part = 0
        self._eof_sent = False
        self._aborted = False
        self._closed = False
        self.eof_received = Event()
        """Set when the other end has finished sending; after that it can only go away."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket's attributes, but not the socket itself: it carries more than the stream's bytes."""
        attributes = dict(self._connection.extra_attributes)
        attributes.pop(PumpAttribute.socket, None)
        return attributes

    async def send(self, item: bytes) -> None:
        """Send a chunk; waits while the other end doesn't read.

        Raises:
            ClosedResourceError: this stream was closed, or its EOF was sent.
            BrokenResourceError: the other end is gone.
        """
        if self._eof_sent or self._closed:
            raise ClosedResourceError
        header = _LENGTH.pack(len(item))
        if len(item) <= WHOLE_CHUNK:
            await self._connection.send(header + item)
        else:
            await self._connection.send(header)
            await self._connection.send(item)

    async def receive(self) -> bytes:
        """Return the next chunk, or the next part of a large one.

        Raises:
            EndOfStream: the other end has finished sending.
            BrokenResourceError: the other end is gone, or tells of a failure.
        """
        if self._closed:
            raise ClosedResourceError
        if self.eof_received.is_set():
            raise EndOfStream
        if self._part:
            return await self._next_part()
        length = _LENGTH.unpack(await self._take(_LENGTH.size))[0]
        if length == _EOF:
            self.eof_received.set()
            raise EndOfStream
        if length == _FAILURE:
            size = min(_LENGTH.unpack(await self._take(_LENGTH.size))[0], MAX_OBJECT)
            raise BrokenResourceError((await self._take(size)).decode(errors="replace"))
        if length > MAX_CHUNK:
            raise BrokenResourceError(f"the other end announced a chunk of {length} bytes")
        if length <= WHOLE_CHUNK:
            return await self._take(length)
        self._part = length
        return await self._next_part()

    async def _next_part(self) -> bytes:
        if self._offset < len(self._buffer):
            part = self._buffer[self._offset : self._offset + self._part]
            self._offset += len(part)
        else:
            try:
                part = await self._connection.receive(min(self._part, PART_SIZE))
            except EndOfStream as error:
                raise BrokenResourceError("the other end went away in the middle of a chunk") from error
        self._part -= len(part)
        return part

    async def _take(self, size: int) -> bytes:
        """Return exactly `size` bytes, reading ahead what is there."""
        while len(self._buffer) - self._offset < size:
            try:
                more = await self._connection.receive(READ_SIZE)
            except EndOfStream as error:
                raise BrokenResourceError("the other end went away without finishing") from error
            self._buffer = self._buffer[self._offset :] + more
            self._offset = 0
        taken = self._buffer[self._offset : self._offset + size]
        self._offset += size
        if self._offset == len(self._buffer):
            self._buffer, self._offset = b"", 0
        return taken

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; receiving goes on."""
        if self._eof_sent or self._closed:
            return
        self._eof_sent = True
        try:
            await self._connection.send(_LENGTH.pack(_EOF))
        except (BrokenResourceError, ClosedResourceError):
            pass

    async def fail(self, reason: str) -> None:
        """Tell the other end of a failure instead of the end."""
        if self._eof_sent or self._closed:
            return
        self._eof_sent = True
        text = reason.encode(errors="replace")[:MAX_OBJECT]
        try:
            await self._connection.send(_LENGTH.pack(_FAILURE) + _LENGTH.pack(len(text)) + text)
        except (BrokenResourceError, ClosedResourceError):
            pass

    async def wait_gone(self) -> None:
        """Wait until the other end, having finished sending, has closed the stream."""
        await self.eof_received.wait()
        try:
            while True:
                await self._connection.receive(1)
        except (EndOfStream, BrokenResourceError, ClosedResourceError):
            return

    def abort(self) -> None:
        """Break the stream at once: the other end sees a failure instead of the end."""
        self._aborted = True
        self._connection.abort()

    async def aclose(self) -> None:
        """Close; everything that was sent before reaches the other end."""
        if self._closed:
            return
        if not self._aborted:
            # One that doesn't read any more must not keep us.
            with anyio.move_on_after(1):
                await self.send_eof()
        self._closed = True
        await self._connection.aclose()
