"""Consoles for pexpect: a driver's stream as an object with `send` and `expect`."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, Event, create_task_group, move_on_after
from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import blocking
from jumpstarter.streams.common import copy_stream
from jumpstarter.streams.sockets import SocketByteStream

if TYPE_CHECKING:
    from pexpect.fdpexpect import fdspawn

CHUNK = 1 << 16
"""Bytes that are taken at a time of what was typed."""

FLUSH_TIMEOUT = 5.0
"""Seconds that what was sent last may take on its way to the target when the context ends."""


@blocking
@asynccontextmanager
async def socket_adapter(*, client: DriverClient, method: str = "connect") -> AsyncGenerator[socket.socket, None]:
    """Yield a connected socket, which nobody else can reach, as the near end of a driver's stream.

    Raises:
        DriverError: the target can't be reached.
    """
    async with client.stream_async(method) as stream:
        near, far = socket.socketpair()
        with near:
            async with SocketByteStream(far) as local, create_task_group() as tg:
                sent = Event()

                async def outward() -> None:
                    try:
                        while True:
                            await stream.send(await local.receive(CHUNK))
                    except (EndOfStream, BrokenResourceError, ClosedResourceError):
                        # The end is not passed on: it would leave the stream half open until the target ends as well.
                        sent.set()

                tg.start_soon(outward)
                tg.start_soon(copy_stream, local, stream)
                try:
                    yield near
                    if near.fileno() >= 0:
                        near.shutdown(socket.SHUT_WR)
                    with move_on_after(FLUSH_TIMEOUT):
                        await sent.wait()
                finally:
                    tg.cancel_scope.cancel()


@contextmanager
def PexpectAdapter(*, client: DriverClient, method: str = "connect") -> Generator[fdspawn, None, None]:
    """Yield a `pexpect.fdpexpect.fdspawn` on a new connection to the target.

    Args:
        client: client of a network or serial driver.
        method: name of the driver's stream.

    Raises:
        DriverError: the target can't be reached.
    """
    from pexpect.fdpexpect import fdspawn

    with socket_adapter(client=client, method=method) as near:
        console = fdspawn(near)
        try:
            yield console
        finally:
            if console.closed:
                # fdspawn.close has closed the descriptor itself; it may belong to another file by now.
                near.detach()
