"""TLS over a byte stream, with reads and writes large enough for bulk data.

anyio's TLS stream hands out one record of 16 KiB at a time; here all records that one read of the socket brought are
decrypted together, and a write is encrypted as a whole.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream

from .pump import PumpAttribute
from .sockets import READ_SIZE, SocketByteStream

__all__ = ["TLSByteStream"]

RECORD = 16384
"""Bytes of plain text in one record at most (RFC 8446, 5.1)."""

WRITE_SIZE = 1 << 20
"""Bytes that are encrypted at a time, off which copies are made."""

CLOSE_TIMEOUT = 1.0
"""Seconds that a peer which doesn't read gets to take the notice that the stream is closed."""


class TLSByteStream(ByteStream):
    """TLS over a connected socket; takes ownership of it. Neither side can end one direction alone."""

    def __init__(self, connection: SocketByteStream, tls: ssl.SSLObject, incoming: Any, outgoing: Any) -> None:
        self._connection = connection
        self._tls: Any = tls  # whose `read` into a buffer isn't known to type checkers
        self._incoming, self._outgoing = incoming, outgoing
        self._plain = bytearray(READ_SIZE + RECORD)
        self._sending = anyio.Lock()
        self._closed = False
        self._aborted = False

    @classmethod
    async def wrap(
        cls, connection: SocketByteStream, context: ssl.SSLContext, *, server_name: str | None = None
    ) -> TLSByteStream:
        """Return the stream after the handshake; without `server_name` this is the server's side.

        The connection stays the caller's when this fails.

        Raises:
            ssl.SSLError: one side doesn't trust the other, or doesn't speak TLS.
            BrokenResourceError: the peer went away.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=server_name is None, server_hostname=server_name)
        stream = cls(connection, tls, incoming, outgoing)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await stream._flush()
                await stream._fill()
            except ssl.SSLError:
                # The alert that tells the peer why.
                with anyio.move_on_after(CLOSE_TIMEOUT):
                    await stream._flush()
                raise
            else:
                await stream._flush()
                return stream

    @property
    def certificate(self) -> Mapping[str, Any]:
        """What the peer's certificate says, in the form of `ssl.SSLSocket.getpeercert`."""
        certificate: Mapping[str, Any] = self._tls.getpeercert() or {}
        return certificate

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket's attributes, but not the socket itself: what it carries is encrypted."""
        attributes = dict(self._connection.extra_attributes)
        attributes.pop(PumpAttribute.socket, None)
        return attributes

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._outgoing.read():
                await self._pass_on(data)

    async def _pass_on(self, data: bytes) -> None:
        try:
            await self._connection.send(data)
        except BaseException:
            # Nothing that comes after half of a record could be read.
            self._aborted = True
            raise

    async def _fill(self) -> None:
        try:
            self._incoming.write(await self._connection.receive(READ_SIZE))
        except EndOfStream:
            raise BrokenResourceError("the other end went away") from None

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return what is there, at least one byte and at most `max_bytes`.

        Raises:
            EndOfStream: the other end has closed the stream.
            BrokenResourceError: the other end is gone, or sent something else than TLS.
        """
        if self._closed:
            raise ClosedResourceError
        view, limit = memoryview(self._plain), min(max_bytes, READ_SIZE)
        while True:
            filled = 0
            try:
                while filled < limit:
                    count = self._tls.read(min(limit - filled, RECORD), view[filled:])
                    if not count:
                        break
                    filled += count
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                if not filled:
                    raise BrokenResourceError(f"TLS failed: {error.reason or error}") from error
            else:
                if not filled:
                    raise EndOfStream
            if self._outgoing.pending:
                await self._flush()
            if filled:
                return bytes(view[:filled])
            await self._fill()

    async def send(self, item: bytes) -> None:
        """Send all of `item`; waits while the peer doesn't read.

        Raises:
            ClosedResourceError: this stream was closed.
            BrokenResourceError: the other end is gone.
        """
        view = memoryview(item)
        async with self._sending:
            if self._closed:
                raise ClosedResourceError
            for start in range(0, len(view), WRITE_SIZE):
                try:
                    self._tls.write(view[start : start + WRITE_SIZE])
                except ssl.SSLError as error:
                    raise BrokenResourceError(f"TLS failed: {error.reason or error}") from error
                await self._pass_on(self._outgoing.read())

    async def send_eof(self) -> None:
        """Not possible: a half-closed TLS connection is more than most implementations know of."""
        raise NotImplementedError("TLS streams end in both directions at once")

    def abort(self) -> None:
        """End both directions at once, without the notice that tells the end from a cut."""
        self._aborted = True
        self._connection.abort()

    async def aclose(self) -> None:
        """Close; everything that was sent before reaches the other end."""
        if self._closed:
            return
        if not self._aborted:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await self._say_goodbye()
        self._closed = True
        await self._connection.aclose()

    async def _say_goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            # It waits for the other end's notice, which nobody needs.
            pass
        try:
            await self._flush()
        except (BrokenResourceError, ClosedResourceError):
            pass
