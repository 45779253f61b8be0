"""The client's end of a frame link: threads send and receive frames through it, in batches over one stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from . import wire
from .frames import Channel, Filter, Frame, FrameLike, check_frame, decode_frames, encode_frame

if TYPE_CHECKING:
    from anyio.abc import ObjectStream
    from jumpstarter.client import DriverClient

OPEN_TIMEOUT: Final = 30.0
"""Seconds that the exporter may take to answer the greeting."""

TAKE_TIMEOUT: Final = 30.0
"""Seconds that the exporter may take no frame at all before a send gives up."""

HELD_BYTES: Final = 4 << 20
"""Received frames, in bytes, that wait here for the program; beyond that they wait on the exporter."""

BUS_DOWN: Final = "BusDown"
"""Kind of the error that tells of a bus that may come back; the link to it lasts."""

UNCONFIRMED: Final = -1.0
"""Stands for the time-out of a frame whose sender doesn't wait."""


class LinkError(Exception):
    """The bus, or the connection to it, can't be used as asked for."""

    def __init__(self, message: str, kind: str = "CanOperationError", code: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        """Name of the exception on the exporter, or BUS_DOWN."""
        self.code = code
        """errno, where there is one."""


class Link:
    """An open link; all methods block and may be called from any thread but the event loop's.

    Frames are handed over in order. `send` doesn't wait for the bus, unless it is given a time-out: when a frame fails,
    those that were handed over after it are not sent either, and the next call of a thread that sent some raises.
    """

    def __init__(
        self,
        client: DriverClient,
        method: str = "frames",
        *,
        make: Callable[..., Any] = Frame,
        filters: Sequence[Filter] = (),
        start: str = "unread",
    ) -> None:
        """
        Args:
            client: the driver's.
            method: `frames`, or `monitor` to look on only.
            make: makes a frame of the members of `Frame`.
            filters: what to receive; everything without.
            start: `unread` begins with the frames that no client has had, `now` with those to come.
        """
        self.id = ""
        """Names this link to the exporter."""
        self.lost = 0
        """Frames that were dropped because this program did not take them in time."""
        self.channel: Channel = None
        self._client = client
        self._method = method
        self._make = make
        self._filters = list(filters)
        self._start = start
        self._news = threading.Condition(threading.RLock())
        self._frames: deque[Any] = deque()
        self._payloads: deque[bytes] = deque()
        self._held = 0
        self._fault: str | None = None
        self._fault_told = True
        self._broken: str | None = None
        self._outbox: deque[tuple[float, list[bytes]]] = deque()
        self._messages: deque[bytes] = deque()
        self._handed = 0
        self._answered = 0
        self._epoch = 0
        self._senders: set[int] = set()
        self._failures: dict[int, LinkError] = {}
        self._writer_idle = False
        self._stack = ExitStack()

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> Link:
        """Connect.

        Raises:
            DriverError: the exporter refuses.
            TimeoutError: it doesn't answer.
        """
        from jumpstarter.client.adapters import plain_errors

        self._stack.enter_context(plain_errors(self._client.portal.wrap_async_context_manager(self._run())))
        return self

    def close(self) -> None:
        """Disconnect; what has not been sent yet is not sent. Closing twice is fine."""
        self._break("the link to the bus was closed")
        self._stack.close()

    def __enter__(self) -> Link:
        return self.open()

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def broken(self) -> str | None:
        """Why the link can't be used any more; None while it can."""
        return self._broken

    # -- for threads -----------------------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next frame, or None when there is none within `timeout` seconds (None: no limit).

        A thread that is interrupted here has taken no frame.

        Raises:
            LinkError: the bus is down, the link is broken, or a frame of this thread could not be sent.
        """
        try:
            return self._frames.popleft()
        except IndexError:
            pass
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while True:
                if self._frames:
                    return self._frames.popleft()
                if self._payloads:
                    self._unpack()
                    continue
                self._raise_failure()
                if self._broken is not None:
                    raise LinkError(self._broken)
                left = None if deadline is None else deadline - time.monotonic()
                if self._fault is not None and (not self._fault_told or (left is not None and left <= 0)):
                    self._fault_told = True
                    raise LinkError(self._fault, BUS_DOWN)
                if left is not None and left <= 0:
                    return None
                self._news.wait(left)

    def send(self, frame: FrameLike, timeout: float | None = None) -> None:
        """Hand over a frame; with `timeout`, wait until the bus has taken it, for so many seconds.

        Raises:
            ValueError: the frame can't be on a CAN bus.
            LinkError: this frame could not be sent; or, without `timeout`, an earlier one could not.
        """
        check_frame(frame)
        record = encode_frame(frame, self.channel)
        thread = threading.get_ident()
        with self._news:
            self._raise_failure()
            self._wait_for(lambda: self._handed - self._answered < wire.WINDOW, TAKE_TIMEOUT)
            self._raise_failure()
            if timeout is not None:
                self._outbox.append((max(0.0, timeout), [record]))
            elif self._outbox and self._outbox[-1][0] == UNCONFIRMED and len(self._outbox[-1][1]) < wire.BATCH:
                self._outbox[-1][1].append(record)
            else:
                self._outbox.append((UNCONFIRMED, [record]))
            self._handed += 1
            self._senders.add(thread)
            self._wake_writer()
            if timeout is not None:
                mark = self._handed
                self._wait_for(lambda: self._answered >= mark, timeout + TAKE_TIMEOUT)
                self._raise_failure()

    def flush(self, timeout: float = TAKE_TIMEOUT) -> None:
        """Wait until the bus has taken all frames, `timeout` seconds at most.

        Raises:
            LinkError: one of this thread could not be sent; or they are not all sent in time.
        """
        with self._news:
            mark = self._handed
            self._wait_for(lambda: self._answered >= mark, timeout)
            self._raise_failure()

    def set_filters(self, filters: Sequence[Filter]) -> None:
        """Receive only what one of the filters lets pass; everything without filters."""
        with self._news:
            self._filters = list(filters)
            self._messages.append(wire.json_message(wire.FILTERS, [item.as_dict() for item in filters]))
            self._wake_writer()

    def _wait_for(self, done: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            if self._broken is not None:
                raise LinkError(self._broken)
            left = deadline - time.monotonic()
            if left <= 0:
                count = self._handed - self._answered
                raise LinkError(f"the exporter did not take {count} frames within {timeout:g} s", "CanTimeoutError")
            self._news.wait(left)
        if self._broken is not None:
            raise LinkError(self._broken)

    def _raise_failure(self) -> None:
        if self._failures and (failure := self._failures.pop(threading.get_ident(), None)) is not None:
            raise failure

    def _unpack(self) -> None:
        payload = self._payloads.popleft()
        was_full = self._held > HELD_BYTES
        self._held -= len(payload)
        try:
            self._frames.extend(decode_frames(payload, self._make, self.channel))
        except ValueError as error:
            self._break(f"the exporter sends something else than CAN frames: {error}")
        if was_full and self._held <= HELD_BYTES:
            self._loop.call_soon_threadsafe(self._room.set)

    def _wake_writer(self) -> None:
        if self._writer_idle:
            self._writer_idle = False
            self._loop.call_soon_threadsafe(self._work.set)

    def _break(self, reason: str) -> None:
        with self._news:
            if self._broken is None:
                self._broken = reason
            self._news.notify_all()

    # -- on the event loop -----------------------------------------------------------------------

    @asynccontextmanager
    async def _run(self) -> AsyncGenerator[None, None]:
        from anyio import create_task_group, fail_after

        self._loop = asyncio.get_running_loop()
        self._work, self._room, self._greeted = asyncio.Event(), asyncio.Event(), asyncio.Event()
        async with self._client.stream_async(self._method) as stream, create_task_group() as tg:
            hello = {"filters": [item.as_dict() for item in self._filters], "start": self._start}
            await stream.send(wire.json_message(wire.HELLO, hello))
            tg.start_soon(self._read, stream)
            with fail_after(OPEN_TIMEOUT):
                await self._greeted.wait()
            tg.start_soon(self._write, stream)
            try:
                yield
            finally:
                tg.cancel_scope.cancel()

    async def _read(self, stream: ObjectStream[bytes]) -> None:
        from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

        splitter = wire.Splitter()
        try:
            while True:
                for kind, body in splitter.feed(await stream.receive()):
                    self._take(kind, body)
                if self._held > HELD_BYTES:
                    await self._wait_for_room()
        except (EndOfStream, BrokenResourceError, ClosedResourceError) as error:
            text = str(error)
            self._break(f"the link to the bus has ended{f': {text}' if text else ', with the exporter or its session'}")
        except ValueError as error:
            self._break(f"the exporter sends something else than CAN frames: {error}")
        finally:
            self._greeted.set()

    async def _wait_for_room(self) -> None:
        while True:
            self._room.clear()
            # Checked under the lock, so that the thread that makes room sees that it is waited for.
            with self._news:
                if self._held <= HELD_BYTES:
                    return
            await self._room.wait()

    def _take(self, kind: int, body: bytes) -> None:
        with self._news:
            if kind == wire.FRAMES:
                self._payloads.append(body)
                self._held += len(body)
                self._news.notify_all()
            elif kind == wire.SENT:
                epoch, count = wire.SENT_BODY.unpack(body)
                if epoch == self._epoch:
                    self._answered += count
                    self._news.notify_all()
            else:
                self._take_rare(kind, body)

    def _take_rare(self, kind: int, body: bytes) -> None:
        if kind == wire.HELLO:
            hello = wire.read_json(body, dict)
            self.id, self.channel = str(hello.get("id", "")), hello.get("channel")
            self._take_fault(hello.get("fault"))
            self._greeted.set()
        elif kind == wire.FAULT:
            self._take_fault(wire.read_json(body, dict).get("fault"))
        elif kind == wire.OVERRUN:
            (lost,) = wire.OVERRUN_BODY.unpack(body)
            self.lost += lost
            self._client.logger.warning("%d CAN frames were dropped: they were not taken in time", lost)
        elif kind == wire.FAILED:
            self._take_failure(wire.read_json(body, dict))
        elif kind == wire.ENDED:
            self._break(f"the exporter has ended the link to the bus: {wire.read_json(body, dict).get('message')}")
        self._news.notify_all()

    def _take_fault(self, fault: Any) -> None:
        self._fault = None if fault is None else str(fault)
        self._fault_told = False

    def _take_failure(self, told: dict[str, Any]) -> None:
        if told.get("epoch") != self._epoch:
            return
        self._epoch += 1
        unsent = self._handed - self._answered
        self._answered = self._handed
        self._outbox.clear()
        text = str(told.get("message", "a frame was not sent"))
        if unsent > 1:
            text += f". {unsent - 1} frames that were handed over after this one were not sent either"
        code = told.get("code")
        failure = (text, str(told.get("error")), code if isinstance(code, int) else None)
        self._client.logger.debug("a CAN frame was not sent: %s", text)
        self._failures = {thread: LinkError(*failure) for thread in self._senders}
        self._senders.clear()

    async def _write(self, stream: ObjectStream[bytes]) -> None:
        from anyio import BrokenResourceError, ClosedResourceError

        try:
            while True:
                with self._news:
                    self._work.clear()
                    chunks = list(self._messages)
                    self._messages.clear()
                    if self._outbox:
                        timeout, records = self._outbox.popleft()
                        head = wire.SEND_HEAD.pack(self._epoch, len(records), timeout)
                        chunks.append(wire.message(wire.SEND, head + b"".join(records)))
                    self._writer_idle = not chunks
                if chunks:
                    await stream.send(b"".join(chunks))
                else:
                    await self._work.wait()
        except (BrokenResourceError, ClosedResourceError):
            # The reading side is told why.
            return
