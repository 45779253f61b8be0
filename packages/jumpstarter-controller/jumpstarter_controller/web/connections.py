"""Connections of the HTTP servers: their number and all times are limited, so that nobody can hold one for nothing.

aiohttp limits headers and bodies; it does not limit how long a connection may take for its first request, for sending a
body, or for taking an answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from anyio.abc import TaskGroup

logger = logging.getLogger(__name__)

BODY_LIMIT = 256 << 10
"""Bytes of a request's body at most; a lease has a few hundred."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a connection may take, in seconds, and how many there may be."""

    handshake: float = 5.0
    """For TLS."""
    idle: float = 20.0
    """From the begin of the connection, or the end of a request, until a request's headers have come, and an answer has
    been taken."""
    request: float = 30.0
    """From the headers of a request until its body has come and it is answered."""
    connections: int = 1024
    per_address: int = 256


class Connections:
    """Accepts connections for an aiohttp application and ends those that take too long."""

    def __init__(self, application: web.Application, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        application.middlewares.insert(0, self._timing())
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            keepalive_timeout=self.limits.idle,
            lingering_time=1.0,
            max_line_size=8 << 10,
            max_field_size=32 << 10,
            max_headers=64,
            shutdown_timeout=1.0,
        )
        self._open: dict[object, _Connection] = {}
        self._count = 0
        self._by_address: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many connections there are, those in the handshake included."""
        return self._count

    @asynccontextmanager
    async def serve(self, listener: socket.socket, context: ssl.SSLContext | None) -> AsyncGenerator[None, None]:
        """Serve while the body runs; closes the listener and all connections."""
        await self._runner.setup()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._accept, listener, context, tasks)
                yield
                listener.close()
                tasks.cancel_scope.cancel()
        finally:
            listener.close()
            with anyio.CancelScope(shield=True):
                await self._runner.cleanup()
                for connection in list(self._open.values()):
                    connection.abort()

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext | None, tasks: TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                # Out of file descriptors, mostly; or a connection that was gone before it was taken.
                logger.warning("a connection can't be accepted: %s", error)
                await anyio.sleep(0.1)
                continue
            host = address[0]
            if self._count >= self.limits.connections or self._by_address[host] >= self.limits.per_address:
                connection.close()
                continue
            self._enter(host)
            tasks.start_soon(self._begin, connection, host, context)

    async def _begin(self, connection: socket.socket, host: str, context: ssl.SSLContext | None) -> None:
        server = self._runner.server
        assert server is not None
        protocol = _Connection(self, server(), host)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=self.limits.handshake if context else None,
                ssl_shutdown_timeout=1.0 if context else None,
            )
        except OSError as error:
            # Strangers knock at every port; that is no news.
            logger.debug("handshake with %s failed: %s", host, error)
        finally:
            if not protocol.made:
                connection.close()
                self._leave(host)

    def _enter(self, host: str) -> None:
        self._count += 1
        self._by_address[host] += 1

    def _leave(self, host: str) -> None:
        self._count -= 1
        self._by_address[host] -= 1
        if not self._by_address[host]:
            del self._by_address[host]

    def _timing(self) -> Middleware:
        @web.middleware
        async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._open.get(request.protocol)
            if connection is None:
                # Lost meanwhile.
                return await handler(request)
            connection.allow(self.limits.request)
            try:
                return await handler(request)
            finally:
                connection.allow(self.limits.idle)

        return timed

    def allow_long(self, request: web.Request) -> None:
        """Let a request take any time; it has to end by itself when the peer takes no more of its answer."""
        connection = self._open.get(request.protocol)
        if connection is not None:
            connection.allow(None)


class _Connection(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, and ends the connection when its time is over."""

    def __init__(self, owner: Connections, protocol: web.RequestHandler, host: str) -> None:
        self.made = False
        self._owner = owner
        self._protocol = protocol
        self._host = host
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def allow(self, seconds: float | None) -> None:
        """Let it go on for so many seconds from now; None for any time."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made, self._transport = True, transport
        self._owner._open[self._protocol] = self
        self.allow(self._owner.limits.idle)
        self._protocol.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.allow(None)
        self._owner._open.pop(self._protocol, None)
        self._owner._leave(self._host)
        self._protocol.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> None:
        self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
