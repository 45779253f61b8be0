"""Reaching the exporter of a lease without a router, with what it gave this client for that."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, to_thread
from anyio.abc import AnyByteStream

from jumpstarter.common.direct_tls import SERVER_NAME, client_context
from jumpstarter.streams.direct import DirectStream, Refused, read_object, write_object
from jumpstarter.streams.sockets import connect_tcp
from jumpstarter.streams.tls import TLSByteStream

__all__ = ["FAILURES", "Way", "accepted", "drop", "dropped_on_error", "find_way", "reason_of"]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 3.0
"""Seconds that an exporter may take to accept a direct connection; then a router is used."""

MOST_ENDPOINTS = 8
"""Endpoints of one exporter that are tried."""

LARGEST_PEM = 65536
"""Characters of certificates and keys that are looked at."""

FAILURES = (OSError, BrokenResourceError, ClosedResourceError, ValueError)
"""What shows that a direct way isn't one; `ssl.SSLError` and `TimeoutError` are OSErrors."""


@dataclass(frozen=True, eq=False)
class Way:
    """One endpoint of an exporter."""

    host: str
    port: int
    context: ssl.SSLContext

    async def connect(self) -> TLSByteStream:
        """Return a connection; raises one of FAILURES when the exporter can't be reached so."""
        with anyio.fail_after(CONNECT_TIMEOUT):
            connection = await connect_tcp(self.host, self.port)
            try:
                connection.keep_alive()
                return await TLSByteStream.wrap(connection, self.context, server_name=SERVER_NAME)
            except BaseException:
                with CancelScope(shield=True):
                    await connection.aclose()
                raise

    async def open_session(self) -> TLSByteStream:
        """Return a connection that leads to all the services of the session; raises one of FAILURES."""
        stream = await self.connect()
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                await write_object(stream, {"kind": "session"})
                await read_object(stream)
            return stream
        except BaseException:
            await drop(stream)
            raise

    async def ask(self, request: dict[str, Any]) -> tuple[TLSByteStream, dict[str, Any]]:
        """Ask for a byte stream; return the connection and the answer; raises one of FAILURES."""
        stream = await self.connect()
        try:
            await write_object(stream, request)
            return stream, await read_object(stream)
        except BaseException:
            await drop(stream)
            raise


async def accepted(stream: TLSByteStream, answer: dict[str, Any]) -> tuple[dict[str, str], AnyByteStream]:
    """Return metadata and byte stream of a connection that was asked for one.

    Raises:
        Refused: the session did not open it; the connection is closed.
    """
    if "code" in answer:
        await drop(stream)
        raise Refused(str(answer["code"]), str(answer.get("details", "")))
    metadata = {str(key): str(value) for key, value in answer.get("metadata", {}).items()}
    return metadata, DirectStream(stream)


async def find_way(endpoints: Iterable[Any]) -> Way | None:
    """Return the endpoint that answers first, or None when none does.

    Args:
        endpoints: `GetReportResponse.alternative_endpoints`.
    """
    found: list[Way] = []
    async with anyio.create_task_group() as tasks:

        async def attempt(endpoint: Any) -> None:
            try:
                way = await _try(endpoint)
            except FAILURES as error:
                logger.debug(
                    "the exporter can't be reached directly at %r: %s", endpoint.endpoint[:300], reason_of(error)
                )
                return
            found.append(way)
            tasks.cancel_scope.cancel()

        for endpoint in list(endpoints)[:MOST_ENDPOINTS]:
            tasks.start_soon(attempt, endpoint)
    if not found:
        return None
    logger.debug("the exporter is reached directly at %s port %d", found[0].host, found[0].port)
    return found[0]


async def _try(endpoint: Any) -> Way:
    parts = urlsplit(f"//{endpoint.endpoint[:300]}")
    if not parts.hostname or not parts.port:
        raise ValueError("it is not of the form host:port")
    material = endpoint.certificate, endpoint.client_certificate, endpoint.client_private_key
    if sum(map(len, material)) > LARGEST_PEM:
        raise ValueError("its certificates are too large")
    way = Way(parts.hostname, parts.port, await to_thread.run_sync(client_context, *material))
    await drop(await way.open_session())
    return way


def reason_of(error: BaseException) -> str:
    """Return what an error says, for a person."""
    return getattr(error, "reason", None) or str(error) or type(error).__name__


async def drop(stream: TLSByteStream) -> None:
    """Close a connection, also when cancelled."""
    with CancelScope(shield=True):
        await stream.aclose()


@asynccontextmanager
async def dropped_on_error(stream: TLSByteStream) -> AsyncGenerator[None, None]:
    """Close a connection in the end, or break it off when the body is cancelled or fails."""
    try:
        yield
    except BaseException:
        stream.abort()
        raise
    finally:
        await drop(stream)
