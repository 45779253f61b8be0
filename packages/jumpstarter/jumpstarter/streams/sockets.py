"""Byte streams over stream sockets that may be cancelled at any moment, with reads large enough for bulk data.

anyio's own Unix sockets log a traceback through the event loop when a reader is cancelled in the same turn of the loop
in which data or the end of the stream arrives, which is how most tunnels end, and its TCP sockets read through a
transport that nothing else can take over. These wait with `anyio.wait_readable`, and two of them can be joined by
`pump`.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketListener, SocketStream
from anyio.lowlevel import checkpoint

from .pump import PumpAttribute

__all__ = ["SocketByteListener", "SocketByteStream", "connect_tcp"]

READ_SIZE = 256 * 1024
"""Bytes that one `receive` takes at most unless told otherwise; a Linux socket holds about 208 KiB."""

UNIX_BUFFER = 1 << 20
"""Bytes that a Unix socket may hold, or as many as the system allows: each time it is full, two processes switch."""

_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Options of tcp(7) for `keep_alive`, as far as a system has them."""

ATTEMPT_DELAY = 0.25
"""Seconds until the next address is tried beside the one before it (RFC 8305)."""


class SocketByteStream(SocketStream):
    """A connected stream socket, Unix or TCP; takes ownership of a socket, which becomes non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        elif sock.family == socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER)
        self._sock = sock
        self._closed = False
        self._receiving = anyio.ResourceGuard("reading from")
        self._sending = anyio.ResourceGuard("writing to")

    def keep_alive(self) -> None:
        """Have the system notice within a minute of silence that the peer's machine, or the way to it, is gone."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if (option := getattr(socket, name, None)) is not None:
                self._sock.setsockopt(socket.IPPROTO_TCP, option, value)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket's attributes as anyio names them, and the socket itself for `pump`."""
        return {**super().extra_attributes, PumpAttribute.socket: lambda: self._sock}

    @property
    def _raw_socket(self) -> socket.socket:
        return self._sock

    def _error(self, error: OSError) -> Exception:
        if self._closed:
            return ClosedResourceError()
        broken = BrokenResourceError()
        broken.__cause__ = error
        return broken

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return what is there, at least one byte and at most `max_bytes`."""
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await checkpoint()
        with self._receiving:
            while True:
                try:
                    data = self._sock.recv(max_bytes)
                except (BlockingIOError, InterruptedError):
                    await self._wait(anyio.wait_readable)
                except OSError as error:
                    raise self._error(error) from error
                else:
                    if not data:
                        raise EndOfStream
                    return data

    async def send(self, item: bytes) -> None:
        """Send all of `item`; waits while the peer doesn't read."""
        await checkpoint()
        with self._sending, memoryview(item) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self._sock.send(view[sent:])
                except (BlockingIOError, InterruptedError):
                    await self._wait(anyio.wait_writable)
                except OSError as error:
                    raise self._error(error) from error

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self._closed:
            raise ClosedResourceError
        await ready(self._sock)

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on."""
        with self._sending:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise self._error(error) from error

    def abort(self) -> None:
        """End both directions at once; closing is still the owner's task."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    async def aclose(self) -> None:
        """Close; a pending `receive` or `send` raises `ClosedResourceError`."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._sock)
            self._sock.close()
        await checkpoint()


class SocketByteListener(SocketListener):
    """A listening stream socket, Unix or TCP; takes ownership of a socket, which becomes non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._closed = False
        self._accepting = anyio.ResourceGuard("accepting connections from")

    @property
    def _raw_socket(self) -> socket.socket:
        return self._sock

    async def accept(self) -> SocketByteStream:
        """Wait for a connection.

        Raises:
            ClosedResourceError: the listener was closed.
            OSError: the system refuses, say for want of descriptors; accepting may be tried again.
        """
        await checkpoint()
        with self._accepting:
            while True:
                if self._closed:
                    raise ClosedResourceError
                try:
                    return SocketByteStream(self._sock.accept()[0])
                except (BlockingIOError, InterruptedError):
                    await anyio.wait_readable(self._sock)

    async def aclose(self) -> None:
        """Close; a pending `accept` raises `ClosedResourceError`. The file of the socket stays."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._sock)
            self._sock.close()
        await checkpoint()


async def connect_tcp(host: str, port: int) -> SocketByteStream:
    """Connect to the first address of `host` that answers, trying the next one after a quarter of a second.

    Raises:
        OSError: nobody answers there.
    """
    from aiohappyeyeballs import start_connection

    infos = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(family, kind, protocol, "", address) for family, kind, protocol, _, address in infos]
    return SocketByteStream(await start_connection(addresses, happy_eyeballs_delay=ATTEMPT_DELAY))
