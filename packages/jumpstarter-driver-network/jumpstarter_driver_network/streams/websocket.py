"""WebSocket ends as byte streams: the client's around a connection, the server's on top of a raw byte stream."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    create_memory_object_stream,
    create_task_group,
    move_on_after,
)
from anyio.abc import ObjectStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

logger = logging.getLogger(__name__)

SUBPROTOCOL = "binary"
"""The subprotocol that VNC viewers in browsers ask for; the only one that is accepted."""

MAX_FRAME = 1 << 16
"""Bytes of one WebSocket frame that goes out."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the other end may take to read the close frame."""


@dataclass(kw_only=True)
class WebsocketClientStream(ObjectStream[bytes]):
    """A `websockets` connection as a stream: chunks go out as binary messages, text comes in as UTF-8."""

    conn: Any
    """The connection, as `websockets.connect` returns it."""

    async def send(self, item: bytes) -> None:
        """Send one binary message.

        Raises:
            BrokenResourceError: the connection has ended; the message tells the close code and reason.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            await self.conn.send(item)
        except ConnectionClosed as error:
            raise BrokenResourceError(f"WebSocket closed: {error}") from error

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            EndOfStream: the server closed the connection in the normal way.
            BrokenResourceError: it ended otherwise; the message tells the close code and reason.
        """
        from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

        try:
            message = await self.conn.recv()
        except ConnectionClosedOK:
            raise EndOfStream from None
        except ConnectionClosed as error:
            logger.warning("WebSocket closed: %s", error)
            raise BrokenResourceError(f"WebSocket closed: {error}") from error
        return message.encode() if isinstance(message, str) else bytes(message)

    async def send_eof(self) -> None:
        """Do nothing: a WebSocket has no way to end one direction only."""

    async def aclose(self) -> None:
        """Close the connection in the normal way."""
        await self.conn.close()


@dataclass(kw_only=True)
class WebsocketServerStream(ObjectStream[bytes]):
    """The server's end of a WebSocket over a raw byte stream, the opening handshake included.

    `send` and `receive` carry the raw bytes from and to the WebSocket client; the messages in them go to and
    come from `stream`. It works only as a context manager, which runs the task that reads `stream`; as an
    operand of `forward_stream` it is used as one.
    """

    stream: ObjectStream[bytes]
    """Takes the payload of incoming messages and gives that of outgoing ones."""

    _protocol: Any = field(init=False, repr=False)
    _open: Event = field(init=False, default_factory=Event, repr=False)
    _closing: bool = field(init=False, default=False)
    _out: MemoryObjectSendStream[bytes] = field(init=False, repr=False)
    _wire: MemoryObjectReceiveStream[bytes] = field(init=False, repr=False)
    _stack: AsyncExitStack | None = field(init=False, default=None, repr=False)
    _scope: CancelScope | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        from wsproto import ConnectionType, WSConnection

        self._protocol = WSConnection(ConnectionType.SERVER)
        self._out, self._wire = create_memory_object_stream[bytes](8)

    async def __aenter__(self) -> WebsocketServerStream:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.stream)
            tg = await stack.enter_async_context(create_task_group())
            self._scope = tg.cancel_scope
            tg.start_soon(self._pump)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def send(self, item: bytes) -> None:
        """Take raw bytes of the WebSocket client.

        Raises:
            BrokenResourceError: it does not speak WebSocket, or has closed the connection.
        """
        from wsproto.utilities import RemoteProtocolError

        try:
            self._protocol.receive_data(item)
            for event in self._protocol.events():
                await self._handle(event)
        except RemoteProtocolError as error:
            if error.event_hint is not None:
                await self._emit(error.event_hint)
            self._closing = True
            self._out.close()
            raise BrokenResourceError(f"the WebSocket client broke the protocol: {error}") from error

    async def receive(self) -> bytes:
        """Return raw bytes for the WebSocket client.

        Raises:
            EndOfStream: the connection is closed.
        """
        if self._stack is None:
            raise ClosedResourceError
        return await self._wire.receive()

    async def send_eof(self) -> None:
        """The WebSocket client hung up: nothing more will come for `stream`."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close `stream` and stop."""
        stack, self._stack = self._stack, None
        self._out.close()
        self._wire.close()
        if self._scope is not None:
            self._scope.cancel()
        if stack is not None:
            await stack.aclose()
        else:
            await self.stream.aclose()

    async def _handle(self, event: Any) -> None:
        from wsproto import events

        match event:
            case events.Request():
                chosen = SUBPROTOCOL if SUBPROTOCOL in event.subprotocols else None
                await self._emit(events.AcceptConnection(subprotocol=chosen))
                self._open.set()
            case events.BytesMessage():
                await self.stream.send(bytes(event.data))
            case events.TextMessage():
                await self.stream.send(event.data.encode())
            case events.Ping():
                await self._emit(event.response())
            case events.CloseConnection():
                if self._closing:
                    return
                self._closing = True
                await self._emit(event.response())
                self._out.close()
                await self.stream.send_eof()

    async def _emit(self, event: Any) -> None:
        """Put the bytes of an event on the way to the WebSocket client."""
        try:
            await self._out.send(self._protocol.send(event))
        except (BrokenResourceError, ClosedResourceError) as error:
            raise BrokenResourceError("the WebSocket is closed") from error

    async def _pump(self) -> None:
        """Frame what `stream` gives, and close the WebSocket when it ends."""
        from wsproto import events

        # The other side may speak first, but no frame may go out before the handshake.
        await self._open.wait()
        code, text = 1000, ""
        try:
            while True:
                chunk = await self.stream.receive()
                view = memoryview(chunk)
                for start in range(0, len(view), MAX_FRAME):
                    await self._emit(events.BytesMessage(data=bytes(view[start : start + MAX_FRAME])))
        except EndOfStream:
            pass
        except (BrokenResourceError, ClosedResourceError) as error:
            code, text = 1011, str(error)[:100]
        if self._closing:
            return
        self._closing = True
        with move_on_after(CLOSE_TIMEOUT):
            try:
                await self._emit(events.CloseConnection(code=code, reason=text or None))
            except BrokenResourceError:
                pass
        self._out.close()
