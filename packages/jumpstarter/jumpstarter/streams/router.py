"""Byte streams in the frames of `RouterService.Stream`, at either end of the call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, Event
from anyio.abc import ObjectStream
from anyio.lowlevel import checkpoint
from jumpstarter_protocol import router_pb2

MAX_PAYLOAD = 1 << 20
"""Largest payload of one frame in bytes; peers refuse messages above 4 MiB."""

CLOSE_KEY = "x-jmp-stream-close"
"""Initial metadata key of a session that ends a stream when it receives RST_STREAM.

Peers without it treat that frame as data, so it must not be sent to them.
"""

CLOSE_TIMEOUT = 2.0
"""Seconds that closing waits for the other end to have taken everything that was sent."""

TAKE_TIMEOUT = 30.0
"""Seconds that the other end may take for reading what is on its way when both directions have ended."""

_DATA = router_pb2.FRAME_TYPE_DATA
_GOAWAY = router_pb2.FRAME_TYPE_GOAWAY
_RST_STREAM = router_pb2.FRAME_TYPE_RST_STREAM
# What gRPC raises for reads and writes of a call that has ended, was cancelled, or whose server has stopped.
_GONE = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)

_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED)
"""Statuses of calls whose connection was lost, so that another one may do better."""


@dataclass(kw_only=True, slots=True)
class RouterStream(ObjectStream[bytes]):
    """The byte stream of a call; `context` is the call itself or the servicer's context of it.

    A client writes `StreamRequest` and reads `StreamResponse`, a servicer the reverse. Ends of
    direction travel as GOAWAY; PING and unknown frames are skipped; RST_STREAM breaks the stream.
    """

    context: Any
    graceful: bool = field(default=False, kw_only=True)
    """The other end understands RST_STREAM as "closed"; see CLOSE_KEY."""

    answered: bool = field(init=False, default=False)
    """Whether anything has come from the other end."""

    _frame: Any = field(init=False, default=None)
    _calling: bool = field(init=False, default=False)
    _eof_sent: bool = field(init=False, default=False)
    _eof_received: bool = field(init=False, default=False)
    _closed: bool = field(init=False, default=False)
    _reading: asyncio.Future[Any] | None = field(init=False, default=None)
    _half_closed: Event = field(init=False, default_factory=Event)

    def __post_init__(self) -> None:
        if isinstance(self.context, grpc.aio.StreamStreamCall):
            self._frame, self._calling = router_pb2.StreamRequest, True
        elif hasattr(self.context, "send_initial_metadata"):
            self._frame, self._calling = router_pb2.StreamResponse, False
        else:
            raise ValueError(f"not a stream call or its servicer context: {self.context!r}")

    async def send(self, item: bytes) -> None:
        """Send a chunk, in frames of at most MAX_PAYLOAD bytes.

        Raises:
            ClosedResourceError: this stream was closed, or its EOF was sent.
            BrokenResourceError: the call has ended; the cause says how.
        """
        if self._eof_sent or self._closed:
            raise ClosedResourceError
        if len(item) <= MAX_PAYLOAD:
            await self._write(self._frame(payload=item))
            return
        view = memoryview(item)
        for start in range(0, len(view), MAX_PAYLOAD):
            await self._write(self._frame(payload=bytes(view[start : start + MAX_PAYLOAD])))

    async def _write(self, frame: Any) -> None:
        try:
            await self.context.write(frame)
        except _GONE as error:
            raise BrokenResourceError(await self._why(error)) from error

    async def receive(self) -> bytes:
        """Return the payload of the next data frame.

        Raises:
            EndOfStream: the other end has finished sending.
            BrokenResourceError: the call has ended, or the other end reset the stream.
        """
        if self._closed:
            raise ClosedResourceError
        if self._eof_received:
            raise EndOfStream
        while True:
            try:
                frame = await self._read()
            except _GONE as error:
                raise BrokenResourceError(await self._why(error)) from error
            except asyncio.CancelledError:
                # Before the other end has answered, grpc.aio raises one of its own, which no cancel scope knows; see
                # `jumpstarter.common.cancellation`.
                await checkpoint()
                raise
            if frame is grpc.aio.EOF:
                self._eof_received = True
                raise EndOfStream
            self.answered = True
            kind = frame.frame_type
            if kind == _DATA:
                return frame.payload
            if kind == _GOAWAY:
                self._eof_received = True
                self._half_closed.set()
                raise EndOfStream
            if kind == _RST_STREAM:
                self._eof_received = True
                raise BrokenResourceError(frame.payload.decode(errors="replace") or "closed by the other end")

    async def _why(self, error: Exception) -> str:
        """Return why the stream can't be used any more; gRPC tells but once, and then only that the call has ended."""
        if isinstance(error, grpc.aio.AioRpcError):
            return _ended(error.code(), error.details())
        if not self._calling:
            return "the stream has ended: the other end has gone away"
        if not self.context.done():
            return str(error) or type(error).__name__
        return _ended(await self.context.code(), await self.context.details())

    async def _read(self) -> Any:
        """Read a frame; being cancelled leaves the call as it is, and the frame for the next reader."""
        if not self._calling:
            return await self.context.read()
        # A cancelled read of grpc.aio cancels the whole call, and with it what was sent and has not arrived yet.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self.context.read())
            self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
        await asyncio.wait([self._reading])
        reading, self._reading = self._reading, None
        return reading.result()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; receiving goes on."""
        if self._eof_sent:
            return
        self._eof_sent = True
        try:
            await self.context.write(self._frame(frame_type=_GOAWAY))
            # With RST_STREAM still to come the call itself stays open until aclose.
            if self._calling and not self.graceful:
                await self.context.done_writing()
        except _GONE:
            pass

    async def wait_reset(self) -> bool:
        """Wait until the other end, having finished sending, says that it has closed the stream.

        Returns False when it can't say so any more, as peers that don't know of it never do.
        """
        await self._half_closed.wait()
        try:
            while (frame := await self.context.read()) is not grpc.aio.EOF:
                if frame.frame_type == _RST_STREAM:
                    return True
        except _GONE:
            pass
        return False

    async def wait_taken(self, timeout: float = TAKE_TIMEOUT) -> None:
        """Wait until the other end has taken everything, when both directions have ended; after closing, too.

        A call that is cancelled before that loses what is on its way. The other end, a router in particular, gives the
        status when it has read all.
        """
        if self._calling and self._eof_sent and self._eof_received:
            try:
                async with asyncio.timeout(timeout):
                    await self.context.code()
            except TimeoutError:
                pass

    def abort(self) -> None:
        """Cancel the call, which tells the other end that this one has not got, or given, everything."""
        if self._calling:
            self.context.cancel()

    async def aclose(self) -> None:
        """Close the stream; everything that was sent before reaches the other end."""
        if self._closed:
            return
        if not (self._calling and self.graceful):
            await self.send_eof()
            self._closed = True
            return
        # No GOAWAY before it: the other end would take that for one direction's end, and read no further.
        self._eof_sent = self._closed = True
        try:
            await self.context.write(self._frame(frame_type=_RST_STREAM))
            await self.context.done_writing()
            async with asyncio.timeout(CLOSE_TIMEOUT):
                # The status comes after all that was sent before it, so that has to be read.
                while await self._read() is not grpc.aio.EOF:
                    pass
        except (*_GONE, TimeoutError):
            pass
        finally:
            if self._reading is not None:
                self._reading.cancel()


def _ended(code: grpc.StatusCode, details: str | None) -> str:
    """Return what the status of a stream's call says, for a person."""
    if code is grpc.StatusCode.OK:
        return "the stream has ended: the other end has closed it; open it again"
    return f"the stream has ended: {code.name}: {details or 'no details'}{'; open it again' if code in _LOST else ''}"
