"""Takes connections of clients that reach the exporter of their lease without a router."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio import BrokenResourceError, CancelScope, to_thread

from jumpstarter.common.direct_tls import server_context
from jumpstarter.common.ipaddr import get_ip_address
from jumpstarter.common.tempfile import TemporaryTcpListener
from jumpstarter.streams.sockets import SocketByteStream
from jumpstarter.streams.tls import TLSByteStream

from .callers import Caller
from .grants import Grants

__all__ = ["DirectListen", "DirectServer"]

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client may take to show who it is."""

MOST_HANDSHAKES = 64
"""Connections at a time of whom it isn't known yet who they are; further ones are closed."""

MOST_CONNECTIONS = 512
"""Connections of clients at a time; further ones are closed, and their clients come through a router."""

Handle = Callable[[TLSByteStream, Caller], Awaitable[None]]


@dataclass(frozen=True)
class DirectListen:
    """Where an exporter listens for clients that come without a router, and what it says where that is."""

    host: str
    port: int
    """0 for a free one."""
    advertise: tuple[str, ...] = ()
    """`host` or `host:port` as clients reach it; by default the addresses that it listens on."""


@dataclass(frozen=True)
class _Lease:
    grants: Grants
    context: ssl.SSLContext
    handle: Handle


class DirectServer:
    """The listener of an exporter, which serves one lease at a time; made by `listening`."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.endpoints = endpoints
        """Where clients reach it, `host:port`."""
        self._lease: _Lease | None = None
        self._handshakes = 0
        self.connections = 0
        """Connections of clients that are open."""

    @classmethod
    @asynccontextmanager
    async def listening(cls, where: DirectListen) -> AsyncGenerator[DirectServer, None]:
        """Listen while the body runs.

        Raises:
            OSError: the address can't be listened on.
        """
        server = cls([])
        async with TemporaryTcpListener(server._accept, where.host, where.port) as address:
            server.endpoints = await to_thread.run_sync(_endpoints, where, address[1])
            logger.info("clients can reach the devices directly at %s", ", ".join(server.endpoints))
            yield server

    @asynccontextmanager
    async def serving(self, grants: Grants, handle: Handle) -> AsyncGenerator[None, None]:
        """Serve the clients of one lease while the body runs; all its connections end with it."""
        context = await to_thread.run_sync(lambda: server_context(*grants.exporter_certificate()))
        self._lease = _Lease(grants, context, handle)
        try:
            yield
        finally:
            self._lease = None
            grants.revoke_all()

    async def _accept(self, connection: SocketByteStream) -> None:
        lease = self._lease
        if lease is None or self._handshakes >= MOST_HANDSHAKES or self.connections >= MOST_CONNECTIONS:
            return
        connection.keep_alive()
        self._handshakes += 1
        stream: TLSByteStream | None = None
        try:
            with anyio.move_on_after(HANDSHAKE_TIMEOUT):
                stream = await TLSByteStream.wrap(connection, lease.context)
        except (ssl.SSLError, BrokenResourceError) as error:
            logger.info("refused a direct connection: %s", getattr(error, "reason", None) or error)
            return
        finally:
            self._handshakes -= 1
        if stream is not None:
            await self._serve(lease, stream)

    async def _serve(self, lease: _Lease, stream: TLSByteStream) -> None:
        grant = lease.grants.find(_common_name(stream))
        if grant is None or lease is not self._lease:
            logger.info("refused a direct connection: its right has ended")
            return
        self.connections += 1
        try:
            with grant.connection():
                async with _closing(stream):
                    await lease.handle(stream, grant.caller)
        finally:
            self.connections -= 1


@asynccontextmanager
async def _closing(stream: TLSByteStream) -> AsyncGenerator[None, None]:
    """Close a stream in the end, or break it off when the body is cancelled or fails."""
    try:
        yield
    except BaseException:
        stream.abort()
        raise
    finally:
        with CancelScope(shield=True):
            await stream.aclose()


def _common_name(stream: TLSByteStream) -> str:
    for relative in stream.certificate.get("subject", ()):
        for key, value in relative:
            if key == "commonName":
                return str(value)
    return ""


def _endpoints(where: DirectListen, port: int) -> list[str]:
    """Return the addresses to tell clients."""
    if where.advertise:
        return [_with_port(address, port) for address in where.advertise]
    try:
        anywhere = ipaddress.ip_address(where.host).is_unspecified
    except ValueError:
        anywhere = False
    if not anywhere:
        return [_joined(where.host, port)]
    return [_joined(address, port) for address in dict.fromkeys([get_ip_address(logger), *_own_addresses()])]


def _own_addresses() -> list[str]:
    """Return the addresses of this machine's name that other machines may reach."""
    try:
        infos = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    found = [str(info[4][0]) for info in infos]
    usable = [text for text in found if not ipaddress.ip_address(text.partition("%")[0]).is_loopback]
    return [text for text in usable if not ipaddress.ip_address(text.partition("%")[0]).is_link_local]


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _with_port(address: str, port: int) -> str:
    """Add the port to an address that has none."""
    host, colon, given = address.rpartition(":")
    if address.startswith("["):
        return address if colon and not address.endswith("]") else f"{address}:{port}"
    if colon and given.isdigit() and ":" not in host:
        return address
    return _joined(address, port)
