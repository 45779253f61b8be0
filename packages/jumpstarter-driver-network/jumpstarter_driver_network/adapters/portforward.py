"""Local ports and sockets whose connections go through a driver's stream to the target."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import blocking
from jumpstarter.common import TemporaryTcpListener, TemporaryUnixListener
from jumpstarter.streams.common import forward_stream


async def handler(client: DriverClient, method: str, conn: Any) -> None:
    """Serve one local connection: open a stream of `method`, and forward both ways until both directions end.

    Raises:
        DriverError: the target can't be reached; the local connection is closed.
    """
    async with conn, client.stream_async(method) as stream, forward_stream(conn, stream):
        pass


@blocking
@asynccontextmanager
async def TcpPortforwardAdapter(
    *, client: DriverClient, method: str = "connect", local_host: str = "127.0.0.1", local_port: int = 0
) -> AsyncGenerator[tuple[str, int], None]:
    """Listen on a local TCP port; each connection to it becomes a connection to the target.

    Args:
        client: client of a network driver.
        method: name of the driver's stream.
        local_host: address to listen on; anything but loopback opens the target to the network.
        local_port: 1 to 65535, or 0 for a free port.

    Yields the local address: host, port, and for IPv6 two numbers more.

    Raises:
        OSError: the port can't be had, because another program uses it for example.
    """
    async with TemporaryTcpListener(partial(handler, client, method), local_host, local_port) as address:
        yield address


@blocking
@asynccontextmanager
async def UnixPortforwardAdapter(
    *, client: DriverClient, method: str = "connect", path: str | PathLike[str] | None = None
) -> AsyncGenerator[Path, None]:
    """Listen on a Unix socket; each connection to it becomes a connection to the target.

    Args:
        client: client of a network driver.
        method: name of the driver's stream.
        path: where to make the socket, for this user alone; default is a private directory.

    Yields the path.
    """
    async with TemporaryUnixListener(partial(handler, client, method), path) as bound:
        yield bound


@blocking
@asynccontextmanager
async def UdpPortforwardAdapter(
    *, client: DriverClient, method: str = "connect", local_host: str = "127.0.0.1", local_port: int = 0
) -> AsyncGenerator[tuple[str, int], None]:
    """Listen on a local UDP port; datagrams of each sender go to the target from a socket of their own.

    The parameters are those of `TcpPortforwardAdapter`. Yields the local address.
    """
    from jumpstarter_driver_network.udp import forward_datagrams

    async with forward_datagrams(partial(client.stream_async, method), local_host, local_port) as address:
        yield address
