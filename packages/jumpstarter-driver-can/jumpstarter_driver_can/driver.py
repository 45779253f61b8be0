"""CAN buses and ISO-TP connections on the exporter."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final
from uuid import UUID

import can
from anyio import move_on_after, to_thread
from anyio.abc import ObjectStream
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.driver.dispatch import thread_limiter
from pydantic import ConfigDict, Field, validate_call
from pydantic.dataclasses import dataclass

from . import wire
from .common import CanMessage, CanResult
from .frame_stream import FrameStream
from .frames import Channel, Filter, decode_frames, encode_frame, is_echo, mark_echo, parse_filters, passing
from .inbox import Inbox, Reader
from .isotp_drivers import IsoTpPython, IsoTpSocket
from .opening import bus_arguments, bus_name, open_bus
from .steady import SteadyBus
from .tasks import PeriodicSends

__all__ = ["Can", "IsoTpPython", "IsoTpSocket"]

CONFIG: Final = ConfigDict(arbitrary_types_allowed=True)

READ_TIMEOUT: Final = 0.1
"""Seconds after which the receiving thread looks whether it is still wanted; python-can can't be interrupted."""

JOIN_TIMEOUT: Final = 5.0

MAX_LINKS: Final = 64
"""Clients of one bus at a time."""


@dataclass(kw_only=True, config=CONFIG)
class Can(Driver):
    """A CAN bus, by any interface of python-can.

    Everything that the bus receives during a session is kept for the clients, the newest `buffer` frames; each client
    reads at its own pace and gets all frames.

    Raises:
        ConfigurationError: the settings can't work.
        can.CanError: the interface can't be opened.
    """

    driver_type: ClassVar[str] = "automotive"

    channel: str | int | None
    """Channel of the interface: `can0`, `PCAN_USBBUS1`, a serial port, ..."""
    interface: str | None
    """Name of python-can's interface: `socketcan`, `pcan`, `slcan`, `virtual`, ..."""
    bitrate: int | None = None
    """Bits per second; of the arbitration phase with CAN FD."""
    data_bitrate: int | None = None
    """Bits per second of the data phase of CAN FD."""
    fd: bool | None = None
    """Use CAN FD."""
    receive_own_messages: bool | None = None
    """Let the bus receive what it sends itself."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the interface, as python-can documents them."""
    check_present: bool = True
    """Open the interface when the exporter starts, which fails when that can't be done."""
    buffer: int = Field(default=65536, ge=16, le=1 << 22)
    """Frames that are kept; when there are more the oldest one is dropped, and those who missed it are told."""
    send_timeout: float = Field(default=1.0, ge=0, le=60)
    """Seconds that a frame waits for room in the transmit queue."""

    bus: SteadyBus = Field(init=False, repr=False, default=None)  # type: ignore[assignment]
    """The open bus."""

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments = bus_arguments(
            self.interface,
            self.channel,
            bitrate=self.bitrate,
            data_bitrate=self.data_bitrate,
            fd=self.fd,
            receive_own_messages=self.receive_own_messages,
            options=self.options,
        )
        self.inbox = Inbox(self.buffer)
        self.link_channel: Channel = self.channel
        self.bus = SteadyBus(
            lambda: open_bus(self.interface, self.channel, arguments),
            name=bus_name(self.interface, self.channel),
            logger=self.logger,
            send_timeout=self.send_timeout,
            on_change=self._bus_changed,
        )
        self._sends = PeriodicSends(self.bus, self.logger)
        self._links: dict[str, FrameStream] = {}
        self._reader: Reader = self.inbox.reader()
        self._turn = asyncio.Lock()
        self._filters: tuple[Filter, ...] = ()
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        self._closing = threading.Event()
        if self.check_present:
            self.bus.open()

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_can.client.CanClient"

    # -- life ------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Begin to receive."""
        super().reset()
        self._ensure_receiving()

    def close(self) -> None:
        """Stop the periodic sends and release the interface."""
        try:
            self._closing.set()
            self._sends.stop_all()
            with self._thread_lock:
                thread = self._thread
            if thread is not None and thread is not threading.current_thread():
                thread.join(JOIN_TIMEOUT)
            self.bus.shutdown()
        finally:
            super().close()

    def _ensure_receiving(self) -> None:
        with self._thread_lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._receive, name=f"receive {self.bus.name}", daemon=True)
                self._thread.start()

    def _receive(self) -> None:
        """Put what the bus receives into the inbox, until the driver is closed."""
        while not self._closing.is_set():
            message = self.bus.recv(READ_TIMEOUT)
            if message is None:
                continue
            try:
                self.inbox.put(encode_frame(message, self.link_channel))
            except ValueError as error:
                self.logger.warning("%s: a frame was dropped: %s", self.bus.name, error)

    def _bus_changed(self) -> None:
        if self.bus.fault is None:
            self._sends.resume()
        for link in list(self._links.values()):
            link.look()

    def echo(self, sent: Sequence[can.Message]) -> None:
        """Show frames that were sent to those who watch; `receive_own_messages` shows them to everybody."""
        if not self.receive_own_messages and any(link.is_monitor for link in list(self._links.values())):
            now = time.time()
            for message in sent:
                message.timestamp = now
                message.is_rx = False
                message.channel = self.link_channel
                self.inbox.put(mark_echo(encode_frame(message, self.link_channel)))

    # -- links -----------------------------------------------------------------------------------

    @export(watch=True)
    async def frame_link(self) -> dict[str, Any]:
        """Return what a client has to know before it opens `frames` or `monitor`."""
        return {"version": wire.VERSION, "window": wire.WINDOW}

    @exportstream
    @asynccontextmanager
    async def frames(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a link that receives frames and sends some; see `wire`."""
        async with self._link(monitor=False) as link:
            yield link

    @exportstream(watch=True)
    @asynccontextmanager
    async def monitor(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a link that shows what is received and sent from now on; see `wire`."""
        async with self._link(monitor=True) as link:
            yield link

    @asynccontextmanager
    async def _link(self, *, monitor: bool) -> AsyncGenerator[FrameStream, None]:
        if len(self._links) >= MAX_LINKS:
            raise RuntimeError(f"{self.bus.name} has {MAX_LINKS} clients already; end some of them first")
        self._ensure_receiving()
        link = FrameStream(self, thread_limiter.get(), monitor=monitor)
        self._links[link.id] = link
        try:
            async with link:
                yield link
        finally:
            del self._links[link.id]
            with move_on_after(JOIN_TIMEOUT, shield=True):
                await to_thread.run_sync(self._sends.stop_owned, link.id, abandon_on_cancel=True)

    # -- calls -----------------------------------------------------------------------------------

    @export(watch=True)
    async def info(self) -> dict[str, Any]:
        """Return the settings of the bus, its state, and counts of frames since the session began."""
        bus = self.bus
        return {
            "interface": self.interface,
            "channel": self.channel,
            "channel_info": bus.channel_info,
            "protocol": bus.protocol.name,
            "state": bus.state.name,
            "fault": bus.fault,
            "received": self.inbox.received,
            "sent": bus.sent,
            "buffer": self.buffer,
            "clients": sum(link.greeted for link in self._links.values()),
            "periodic": len(self._sends),
        }

    @export
    async def _recv_internal(self, timeout: float | None = None) -> CanResult:
        """Return the next frame that the clients of this call have not had; None after `timeout` seconds.

        Raises:
            can.CanOperationError: the bus is down.
        """
        self._ensure_receiving()
        with move_on_after(timeout if timeout is None else max(0.0, timeout)):
            async with self._turn:
                while True:
                    # Taking and returning is one step for the event loop: a call that is cancelled takes nothing.
                    if (message := self._take()) is not None:
                        return CanMessage.construct(message), bool(self._filters)
                    await self._reader.wait()
        if self.bus.fault is not None:
            raise can.CanOperationError(self.bus.fault)
        return None, bool(self._filters)

    def _take(self) -> can.Message | None:
        while records := self._reader.take(1):
            if lost := self._reader.take_lost():
                self.logger.warning("%s: %d frames were dropped because nobody took them in time", self.bus.name, lost)
            if not is_echo(records[0]) and passing(records, self._filters):
                return decode_frames(records[0], can.Message, self.link_channel)[0]
        return None

    @export
    @validate_call(validate_return=False)
    def send(self, msg: CanMessage, timeout: float | None = None) -> None:
        """Send a frame.

        Raises:
            ValueError: it can't be on a CAN bus.
            can.CanError: the bus is down, or did not take it within `timeout` seconds.
        """
        self._ensure_receiving()
        message = msg.to_message()
        self.bus.send(message, timeout)
        self.echo([message])

    @export
    @validate_call(validate_return=False)
    def _send_periodic_internal(
        self,
        msgs: CanMessage | list[CanMessage],
        period: float,
        duration: float | None = None,
        autostart: bool = True,
        modifier_callback: None = None,
        owner: str | None = None,
    ) -> UUID:
        """Send frames in turn, one every `period` seconds; return the name of the task.

        Args:
            msgs: frames with the same identifier.
            period: seconds.
            duration: seconds after which it ends; None for never.
            autostart: begin at once.
            modifier_callback: functions can't be sent, so this must be None.
            owner: id of the link that the task ends with; without one it ends with the session.
        """
        self._ensure_receiving()
        if owner is not None and owner not in self._links:
            raise ValueError(f"there is no link {owner[:64]!r}; it may have ended")
        messages = [message.to_message() for message in (msgs if isinstance(msgs, list) else [msgs])]
        return self._sends.add(messages, period, duration, autostart=autostart, owner=owner)

    @export
    @validate_call(validate_return=False)
    def _start_task(self, uuid: UUID) -> None:
        """Start a periodic send (again)."""
        self._sends.get(uuid).start()

    @export
    @validate_call(validate_return=False)
    def _stop_task(self, uuid: UUID) -> None:
        """Stop a periodic send; it can be started again."""
        self._sends.get(uuid).stop()

    @export
    @validate_call(validate_return=False)
    def _modify_task(self, uuid: UUID, msgs: list[CanMessage]) -> None:
        """Have a periodic send use other data."""
        self._sends.get(uuid).modify([message.to_message() for message in msgs])

    @export(watch=True)
    def periodic(self) -> list[dict[str, Any]]:
        """Return the periodic sends that are running."""
        return [
            {
                "uuid": str(send.uuid),
                "period": send.period,
                "duration": send.duration,
                "owner": send.owner,
                "messages": [CanMessage.construct(message).model_dump(mode="json") for message in send.messages],
            }
            for send in self._sends.all()
        ]

    @export
    @validate_call(validate_return=False)
    def state(self, value: can.BusState | None = None) -> can.BusState | None:
        """Return the state of the controller; with `value`, set it.

        Raises:
            NotImplementedError: the interface can't set it.
        """
        if value is None:
            return self.bus.state
        self.bus.state = value
        return None

    @export(watch=True)
    def protocol(self) -> can.CanProtocol:
        """Return the kind of frames that the interface is set up for."""
        return self.bus.protocol

    @export(watch=True)
    def channel_info(self) -> str:
        """Return what the interface says of itself."""
        return self.bus.channel_info

    @export
    def _apply_filters(self, filters: list[dict[str, Any]] | None = None) -> None:
        """Have `_recv_internal` return only frames that one of the filters lets pass; all without filters."""
        self._filters = parse_filters(filters)

    @export
    def flush_tx_buffer(self) -> None:
        """Discard what waits in the transmit queue.

        Raises:
            NotImplementedError: the interface can't do that.
        """
        self.bus.flush_tx_buffer()

    @export
    def shutdown(self) -> None:
        """Undo what clients without a link have set up: filters, and periodic sends. The bus stays open for others."""
        self._filters = ()
        self._sends.stop_owned(None)
