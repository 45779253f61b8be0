"""Serves a session's byte streams to clients on the same machine, on a Unix socket of their own."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from anyio import BrokenResourceError, ClosedResourceError, create_task_group, fail_after
from anyio.abc import AnyByteStream, ObjectStream

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.tempfile import TemporaryUnixListener
from jumpstarter.streams.direct import SUFFIX, Connection, DirectStream, read_object, write_object
from jumpstarter.streams.pump import PumpAttribute
from jumpstarter.streams.sockets import SocketByteStream

if TYPE_CHECKING:
    from .door import Door
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

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._code: grpc.StatusCode | None = None
        self.stream: DirectStream | None = None

    def code(self) -> grpc.StatusCode | None:
        """Return the status that the stream was ended with."""
        return self._code

    async def accept(self, stream: ObjectStream[bytes], metadata: dict[str, str]) -> AnyByteStream:
        """Tell the client that its stream is open, and return this end of it."""
        # Only a plain socket can be half-closed, and joined with another without a look at what passes.
        raw = all(PumpAttribute.socket in end.extra_attributes for end in (stream, self._connection))
        await write_object(self._connection, {"metadata": metadata, "raw": raw})
        if raw:
            return cast(SocketByteStream, self._connection)
        self.stream = DirectStream(self._connection)
        return self.stream

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> NoReturn:
        """End the stream with a status."""
        self._code = code
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
    await serve_request(session, connection, request)


async def serve_request(session: Session | Door, connection: Connection, request: dict[str, Any]) -> None:
    """Open the stream that a client asked for over its connection, and forward it until it ends."""
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
