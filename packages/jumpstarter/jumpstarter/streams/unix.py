"""Connecting to and listening on Unix sockets."""

from __future__ import annotations

import os
import socket
import stat
from os import PathLike
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from .sockets import SocketByteListener, SocketByteStream

__all__ = ["connect_unix", "create_unix_listener"]

CONNECT_PAUSE = 0.01
"""Seconds to wait before connecting again to a listener whose backlog is full."""


async def connect_unix(path: str | PathLike[str]) -> SocketByteStream:
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
                return SocketByteStream(sock)
    except BaseException:
        sock.close()
        raise


async def create_unix_listener(
    path: str | PathLike[str], *, mode: int = 0o600, backlog: int = 4096
) -> SocketByteListener:
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
        return SocketByteListener(sock)
    except BaseException:
        sock.close()
        raise
