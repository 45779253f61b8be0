"""Serves a session's byte streams to clients on the same machine, on a Unix socket of their own."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from anyio import BrokenResourceError, ClosedResourceError, create_task_group, fail_after
from anyio.abc import AnyByteStream, ObjectStream

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.tempfile import TemporaryUnixListener
from jumpstarter.streams.direct import SUFFIX, DirectStream, read_object, write_object
from jumpstarter.streams.pump import PumpAttribute
from jumpstarter.streams.sockets import SocketByteStream

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 10.0
"""Seconds that a client may take to say what it wants."""


@asynccontextmanager
async def serve_direct(session: Session, path: Path) -> AsyncGenerator[None, None]:
    """Offer the streams of `session` beside its socket at `path` while the body runs."""

    async def handle(connection: SocketByteStream) -> None:
        await _serve_one(session, connection)

    try:
        listener = TemporaryUnixListener(handle, f"{path}{SUFFIX}")
        async with listener:
            yield
    except ConfigurationError as error:
        # The suffix makes the path too long for a socket: clients do without.
        logger.debug("no direct streams: %s", error)
        yield


class _Aborted(Exception):
    """The stream has ended with a status, and the client was told."""


class _Call:
    """Answers over a connection what a gRPC call would: metadata, or a status instead."""

    def __init__(self, connection: SocketByteStream) -> None:
        self._connection = connection
        self.stream: DirectStream | None = None

    async def accept(self, stream: ObjectStream[bytes], metadata: dict[str, str]) -> AnyByteStream:
        """Tell the client that its stream is open, and return this end of it."""
        raw = stream.extra(PumpAttribute.socket, None) is not None
        await write_object(self._connection, {"metadata": metadata, "raw": raw})
        if raw:
            return self._connection
        self.stream = DirectStream(self._connection)
        return self.stream

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> NoReturn:
        """End the stream with a status."""
        try:
            if self.stream is not None:
                await self.stream.fail(details)
            else:
                await write_object(self._connection, {"code": code.name, "details": details})
        except (BrokenResourceError, ClosedResourceError):
            pass
        raise _Aborted


async def _serve_one(session: Session, connection: SocketByteStream) -> None:
    with fail_after(REQUEST_TIMEOUT):
        try:
            request = await read_object(connection)
        except BrokenResourceError as error:
            logger.debug("a client asked for no stream: %s", error)
            return
    call = _Call(connection)
    try:
        async with create_task_group() as tg:

            async def accept(stream: ObjectStream[bytes], metadata: dict[str, str]) -> AnyByteStream:
                remote = await call.accept(stream, metadata)
                if call.stream is not None:
                    tg.start_soon(end_when_gone, call.stream)
                return remote

            async def end_when_gone(stream: DirectStream) -> None:
                await stream.wait_gone()
                tg.cancel_scope.cancel()

            await session.serve_stream(request, call, accept)
            tg.cancel_scope.cancel()
    except* _Aborted:
        pass
