"""The exporter's end of a frame link: the byte stream that one client receives and sends frames through."""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import can
from anyio import CapacityLimiter, ClosedResourceError, EndOfStream, to_thread
from anyio.abc import ObjectStream

from . import wire
from .frames import check_frame, decode_frames, is_echo, parse_filters, passing

if TYPE_CHECKING:
    from .frames import Filter
    from .inbox import Inbox, Reader

MAX_EVENTS = wire.WINDOW + 64
"""Messages other than frames that may wait for a client; each answers one of the client, which keeps to its window."""


class Port(Protocol):
    """What a link needs of the driver."""

    inbox: Inbox
    bus: Any
    link_channel: Any

    def echo(self, sent: Sequence[can.Message]) -> None:
        """Show frames that were sent to those who watch."""
        ...


class FrameStream(ObjectStream[bytes]):
    """Bytes from the client come in by `send`, bytes for it go out by `receive`; the messages are those of `wire`."""

    def __init__(self, port: Port, limiter: CapacityLimiter | None, *, monitor: bool) -> None:
        """
        Args:
            port: the driver.
            limiter: of the worker threads that send.
            monitor: for one who only looks on: it begins with the frames to come, shows what others send, and refuses
                to send.
        """
        self.id = str(uuid4())
        self._port = port
        self._limiter = limiter
        self.is_monitor = monitor
        self._splitter = wire.Splitter()
        self._reader: Reader = port.inbox.reader(unread=not monitor)
        self._filters: tuple[Filter, ...] = ()
        self._events: deque[bytes] = deque()
        self.greeted = False
        self._told_fault: str | None = None
        self._failed_epoch = -1
        self._finished = False
        self._closed = False

    # -- to the client ---------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Return the next messages for the client, waiting for one at least."""
        while True:
            if self._closed:
                raise ClosedResourceError
            found = list(self._events)
            self._events.clear()
            if self.greeted and not self._finished:
                found += self._frames()
            if found:
                return b"".join(found)
            if self._finished:
                raise EndOfStream
            await self._reader.wait(records=self.greeted)

    def _frames(self) -> list[bytes]:
        found = []
        if (fault := self._port.bus.fault) != self._told_fault:
            self._told_fault = fault
            found.append(wire.json_message(wire.FAULT, {"fault": fault}))
        records = self._reader.take(wire.BATCH)
        if lost := self._reader.take_lost():
            found.append(wire.message(wire.OVERRUN, wire.OVERRUN_BODY.pack(lost)))
        if not self.is_monitor:
            records = [record for record in records if not is_echo(record)]
        if records and (records := passing(records, self._filters)):
            found.append(wire.message(wire.FRAMES, b"".join(records)))
        elif self._reader.position < self._port.inbox.received:
            # Filtered out, so there is nothing to send, but more to look at.
            self._reader.wake()
        return found

    def look(self) -> None:
        """Have the client told of what has changed on the bus; called from any thread."""
        self._reader.wake_from_thread()

    def _add(self, event: bytes) -> None:
        if len(self._events) >= MAX_EVENTS:
            raise wire.WireError("the client sends, but does not read what it is told")
        self._events.append(event)
        self._reader.wake()

    # -- from the client -------------------------------------------------------------------------

    async def send(self, item: bytes) -> None:
        """Take bytes of the client; if these are no messages of a frame link, end it."""
        if self._finished:
            return
        try:
            await self._take(item)
        except ValueError as error:
            self._events.append(wire.json_message(wire.ENDED, {"message": str(error)}))
            self._finished = True
            self._reader.wake()

    async def _take(self, item: bytes) -> None:
        for kind, body in self._splitter.feed(item):
            if kind == wire.HELLO:
                self._greet(wire.read_json(body, dict))
            elif not self.greeted:
                raise wire.WireError("the first message of a frame link must be a HELLO")
            elif kind == wire.SEND:
                await self._send_frames(body)
            elif kind == wire.FILTERS:
                self._filters = parse_filters(wire.read_json(body, list))
            else:
                raise wire.WireError(f"unknown message {kind} on the frame link")

    def _greet(self, hello: dict[str, Any]) -> None:
        self._filters = parse_filters(hello.get("filters"))
        if hello.get("start") == "now":
            self._reader.skip()
        self.greeted = True
        self._told_fault = self._port.bus.fault
        self._add(
            wire.json_message(
                wire.HELLO, {"id": self.id, "channel": self._port.link_channel, "fault": self._told_fault}
            )
        )

    async def _send_frames(self, body: bytes) -> None:
        try:
            epoch, count, timeout = wire.SEND_HEAD.unpack_from(body)
        except struct.error:
            raise wire.WireError("a SEND message of the frame link is cut short") from None
        if epoch == self._failed_epoch:
            return
        try:
            if self.is_monitor:
                raise PermissionError("this link only receives")
            messages = decode_frames(body[wire.SEND_HEAD.size :], _message, self._port.link_channel)
            if len(messages) != count:
                raise wire.WireError(f"a SEND message announces {count} frames and has {len(messages)}")
        except (ValueError, PermissionError) as error:
            self._fail(epoch, 0, count, error)
            return
        batch = _Batch(self._port, messages, timeout if isfinite(timeout) and timeout >= 0 else None)
        try:
            await to_thread.run_sync(batch.run, limiter=self._limiter, abandon_on_cancel=True)
        except BaseException:
            # Nobody waits for the thread, so it has to end soon by itself.
            batch.stopped.set()
            raise
        if batch.error is None:
            self._add(wire.message(wire.SENT, wire.SENT_BODY.pack(epoch, count)))
        else:
            self._fail(epoch, batch.sent, count, batch.error)

    def _fail(self, epoch: int, sent: int, count: int, error: Exception) -> None:
        self._failed_epoch = epoch
        if sent:
            self._add(wire.message(wire.SENT, wire.SENT_BODY.pack(epoch, sent)))
        self._add(
            wire.json_message(
                wire.FAILED,
                {
                    "epoch": epoch,
                    "error": type(error).__name__,
                    "message": str(error),
                    "code": getattr(error, "error_code", None),
                    "lost": count - sent,
                },
            )
        )

    async def send_eof(self) -> None:
        """The client has finished: so has this end, when it has told all it had to."""
        self._finished = True
        self._reader.wake()

    async def aclose(self) -> None:
        """End the link."""
        if not self._closed:
            self._closed = True
            self._reader.wake()


class _Batch:
    """Sends frames one after the other, in a worker thread, until one fails."""

    def __init__(self, port: Port, messages: list[can.Message], timeout: float | None) -> None:
        self.sent = 0
        self.error: Exception | None = None
        self.stopped = threading.Event()
        self._port = port
        self._messages = messages
        self._timeout = timeout

    def run(self) -> None:
        try:
            for message in self._messages:
                if self.stopped.is_set():
                    return
                check_frame(message)
                self._port.bus.send(message, self._timeout)
                self.sent += 1
        except Exception as error:  # noqa: BLE001 (interfaces of any kind; the client is told)
            self.error = error
        finally:
            self._port.echo(self._messages[: self.sent])


def _message(*members: Any) -> can.Message:
    return can.Message(*members)
