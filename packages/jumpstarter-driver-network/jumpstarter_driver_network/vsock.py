"""Connections to vsock ports, between a virtual machine and its host."""

from __future__ import annotations

import asyncio
import socket

from jumpstarter.streams.sockets import SocketByteStream


async def connect_vsock(cid: int, port: int) -> SocketByteStream:
    """Connect to `port` of the machine with the context id `cid`.

    Raises:
        OSError: the system has no vsock, or nobody listens there.
    """
    if not hasattr(socket, "AF_VSOCK"):
        raise OSError("this system has no vsock sockets; they exist on Linux only")
    raw = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (cid, port))
        return SocketByteStream(raw)
    except BaseException:
        raw.close()
        raise
