"""Byte streams over Unix sockets that may be cancelled at any moment, with reads large enough for bulk data.

anyio's own Unix sockets log a traceback through the event loop when a reader is cancelled in the same turn of the loop
in which data or the end of the stream arrives, which is how most tunnels end. These wait with `anyio.wait_readable`,
which has no such moment.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable
from os import PathLike
from pathlib import Path

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketListener, SocketStream
from anyio.lowlevel import checkpoint

__all__ = ["UnixListener", "UnixStream", "connect_unix", "create_unix_listener"]

READ_SIZE = 256 * 1024
"""Bytes that one `receive` takes at most unless told otherwise; a Linux socket holds about 208 KiB."""

CONNECT_PAUSE = 0.01
"""Seconds to wait before connecting again to a listener whose backlog is full."""


class UnixStream(SocketStream):
    """A connected Unix stream socket; takes ownership of a socket, which becomes non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._closed = False
        self._receiving = anyio.ResourceGuard("reading from")
        self._sending = anyio.ResourceGuard("writing to")

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

    async def aclose(self) -> None:
        """Close; a pending `receive` or `send` raises `ClosedResourceError`."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._sock)
            self._sock.close()
        await checkpoint()


class UnixListener(SocketListener):
    """A listening Unix stream socket; takes ownership of a socket, which becomes non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._closed = False
        self._accepting = anyio.ResourceGuard("accepting connections from")

    @property
    def _raw_socket(self) -> socket.socket:
        return self._sock

    async def accept(self) -> UnixStream:
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
                    return UnixStream(self._sock.accept()[0])
                except (BlockingIOError, InterruptedError):
                    await anyio.wait_readable(self._sock)

    async def aclose(self) -> None:
        """Close; a pending `accept` raises `ClosedResourceError`. The file of the socket stays."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._sock)
            self._sock.close()
        await checkpoint()


async def connect_unix(path: str | PathLike[str]) -> UnixStream:
    """Connect to the listener at `path`, waiting while its backlog is full.

    Raises:
        OSError: nobody listens there, or this user may not.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            await checkpoint()
            try:
                # Never waits: the kernel either queues the connection or answers EAGAIN (unix(7)).
                sock.connect(os.fspath(path))
            except (BlockingIOError, InterruptedError):
                await anyio.sleep(CONNECT_PAUSE)
            else:
                return UnixStream(sock)
    except BaseException:
        sock.close()
        raise


async def create_unix_listener(path: str | PathLike[str], *, mode: int = 0o600, backlog: int = 4096) -> UnixListener:
    """Listen at `path`, replacing a socket that an earlier process left there.

    Args:
        path: where to make the socket.
        mode: its permissions, in force before the first connection is accepted.
        backlog: connections that the kernel keeps until they are accepted; it applies a limit of its own.

    Raises:
        OSError: the path can't be bound, because it's something else than a socket for example.
    """
    path = Path(path)
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(backlog)
        return UnixListener(sock)
    except BaseException:
        sock.close()
        raise
