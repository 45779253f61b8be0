"""A client of a CAN bus as a bus of python-can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NoReturn
from uuid import UUID

import can
from can.broadcastmanager import LimitedDurationCyclicSendTaskABC, ModifiableCyclicTaskABC, RestartableCyclicTaskABC
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented

from .client import CanClient
from .frames import parse_filters
from .link import Link, LinkError
from .old_link import OldLink, members_of

FLUSH_TIMEOUT: Final = 10.0
"""Seconds that a bus which is shut down may take to send what was handed over."""

_classes: dict[type, type] = {}
_becoming = threading.Lock()


def bus_class(cls: type[CanClient]) -> type[CanBus]:
    """Return the class that clients of `cls` become: CanBus, or one that is both."""
    if cls is CanClient:
        return CanBus
    if cls not in _classes:
        _classes[cls] = type(cls.__name__, (cls, CanBus), {"__module__": cls.__module__, "__doc__": cls.__doc__})
    return _classes[cls]


def become_bus(client: CanClient) -> None:
    """Make `client` a bus of python-can, unless it is one."""
    with _becoming:
        if not client._is_bus:
            cls = bus_class(type(client))
            CanBus._init_bus(client)  # type: ignore[arg-type]
            # `client.__class__` is a property of its class, so the slot is set as `object` does it.
            object.__dict__["__class__"].__set__(client, cls)


def raise_can_error(error: LinkError) -> NoReturn:
    """Raise the exception of python-can that stands for an error on the exporter."""
    if error.kind == "CanTimeoutError":
        raise can.CanTimeoutError(str(error), error.code) from None
    if error.kind in ("ValueError", "TypeError"):
        raise ValueError(str(error)) from None
    raise can.CanOperationError(str(error), error.code) from None


class CanBus(CanClient, can.BusABC):
    """What a `CanClient` is once it is used.

    `send` hands frames over and doesn't wait for the bus, unless it is given a time-out; a frame that could not be sent
    makes the next call of the same thread raise, and those handed over after it are not sent either. `flush` waits.
    """

    _is_bus: ClassVar[bool] = True

    filters = can.BusABC.filters
    __iter__ = can.BusABC.__iter__

    def _init_bus(self) -> None:
        # The constructor of BusABC has not run: a client is made before it is known to be used as a bus.
        self._periodic_tasks = []
        self._filters = None
        self._is_shutdown = False
        self._link: Link | OldLink | None = None
        self._lost_before = 0
        self._link_lock = threading.RLock()
        # Whatever is open is closed with the client.
        self.stack.callback(lambda: self._close_link())

    # -- the link --------------------------------------------------------------------------------

    @property
    def link(self) -> Link | OldLink:
        """The connection to the exporter's bus, which is made at first use.

        Raises:
            can.CanOperationError: the bus was shut down.
        """
        link = self._link
        if link is not None and link.broken is None:
            return link
        with self._link_lock:
            return self._reconnect()

    def _reconnect(self) -> Link | OldLink:
        """Return the link, which another thread may have made meanwhile, or make one."""
        link = self._link
        if link is not None and link.broken is None:
            return link
        if self._is_shutdown:
            raise can.CanOperationError("this bus was shut down; enter it by `with` to use it again")
        if link is not None:
            raise can.CanOperationError(
                f"{link.broken}; shut the bus down, and enter it again when the exporter is back"
            )
        return self._connect()

    def _connect(self) -> Link | OldLink:
        filters = parse_filters(self._filters)
        link: Link | OldLink
        try:
            self.call("frame_link")
        except DriverMethodNotImplemented:
            link = OldLink(self, make=can.Message)
        else:
            link = Link(self, make=can.Message, filters=filters)
        self._link = link.open()
        return link

    def _close_link(self) -> None:
        with self._link_lock:
            link, self._link = self._link, None
        if link is not None:
            self._lost_before += link.lost
            link.close()

    @property
    def lost_frames(self) -> int:
        """Frames that were dropped because this program did not take them in time."""
        return self._lost_before + (self._link.lost if self._link is not None else 0)

    # -- frames ----------------------------------------------------------------------------------

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Send a frame.

        Args:
            msg: the frame.
            timeout: seconds to wait until the exporter's bus has taken it; None doesn't wait.

        Raises:
            ValueError: it can't be on a CAN bus.
            can.CanError: it was not sent; or, without `timeout`, an earlier one was not.
        """
        try:
            self.link.send(msg, timeout)
        except LinkError as error:
            raise_can_error(error)

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Wait until the exporter's bus has taken all frames, for `timeout` seconds.

        Raises:
            can.CanError: one was not sent.
        """
        if self._link is not None:
            try:
                self._link.flush(timeout)
            except LinkError as error:
                raise_can_error(error)

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        try:
            # What arrived before a change of filters was let pass by the old ones, so python-can looks again.
            return self.link.receive(timeout), False
        except LinkError as error:
            raise_can_error(error)

    def _apply_filters(self, filters: Any) -> None:
        checked = parse_filters(filters)
        if self._link is not None:
            self._link.set_filters(checked)

    # -- periodic sends --------------------------------------------------------------------------

    def _send_periodic_internal(
        self,
        msgs: Sequence[can.Message] | can.Message,
        period: float,
        duration: float | None = None,
        autostart: bool = True,
        modifier_callback: Callable[[can.Message], None] | None = None,
    ) -> can.broadcastmanager.CyclicSendTaskABC:
        if modifier_callback is not None:
            return super()._send_periodic_internal(msgs, period, duration, autostart, modifier_callback)
        messages = [msgs] if isinstance(msgs, can.Message) else list(msgs)
        link = self.link
        arguments: list[Any] = [[members_of(message) for message in messages], period, duration, autostart, None]
        if link.id:
            arguments.append(link.id)
        uuid = UUID(self._asked("_send_periodic_internal", *arguments))
        return RemoteCyclicSendTask(client=self, uuid=uuid, messages=messages, period=period, duration=duration)

    # -- the exporter's bus ----------------------------------------------------------------------

    def _asked(self, method: str, *args: Any) -> Any:
        self.flush()
        try:
            return self.call(method, *args)
        except DriverMethodNotImplemented:
            raise
        except DriverError as error:
            if isinstance(error, ValueError):
                raise
            raise can.CanOperationError(str(error)) from error

    @property
    def state(self) -> can.BusState:
        """State of the controller.

        Raises:
            NotImplementedError: on setting it, where the interface can't do that.
        """
        return can.BusState(int(self._asked("state")))

    @state.setter
    def state(self, state: can.BusState) -> None:
        self._asked("state", state.value)

    @property
    def protocol(self) -> can.CanProtocol:
        """The kind of frames that the exporter's interface is set up for."""
        return can.CanProtocol(int(self._asked("protocol")))

    @property
    def channel_info(self) -> str:  # type: ignore[override]
        """What the exporter's interface says of itself."""
        return str(self._asked("channel_info"))

    def __str__(self) -> str:
        return f"CAN bus {self.labels.get('jumpstarter.dev/name', self.uuid)} of the exporter"

    def flush_tx_buffer(self) -> None:
        """Discard what waits in the transmit queue of the exporter's interface.

        Raises:
            NotImplementedError: it can't do that.
        """
        self._asked("flush_tx_buffer")

    # -- the end ---------------------------------------------------------------------------------

    def __enter__(self) -> CanBus:
        if self._is_shutdown:
            # Like a bus that was just opened, which knows no filters.
            self._close_link()
            self._is_shutdown = False
            self._filters = None
        return self

    def __exit__(self, *error: Any) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """End the periodic sends of this client, wait until all frames are sent, and disconnect.

        The bus on the exporter stays open for others; entering this one by `with` connects again.

        Raises:
            can.CanError: a frame could not be sent.
        """
        if self._is_shutdown:
            return
        link = self._link
        try:
            if link is not None and link.broken is None:
                can.BusABC.shutdown(self)
                self.flush()
                if isinstance(link, OldLink):
                    self.call("shutdown")
        finally:
            self._is_shutdown = True
            self._close_link()

    def close(self) -> None:
        """Disconnect, and close everything that was opened with this client."""
        self._is_shutdown = True
        self._close_link()
        super().close()


class RemoteCyclicSendTask(LimitedDurationCyclicSendTaskABC, ModifiableCyclicTaskABC, RestartableCyclicTaskABC):
    """A periodic send that runs on the exporter, until it is stopped or its client goes."""

    def __init__(
        self,
        client: CanBus,
        uuid: UUID,
        messages: Sequence[can.Message] | can.Message,
        period: float,
        duration: float | None = None,
    ) -> None:
        super().__init__(messages, period, duration)
        self.client = client
        self.uuid = uuid

    def start(self) -> None:
        """Begin to send, again if it was stopped or is over.

        Raises:
            can.CanError: the bus is down.
        """
        self.client._asked("_start_task", str(self.uuid))

    def stop(self) -> None:
        """Send no more; stopping twice is fine."""
        link = self.client._link
        if link is None or link.broken is not None:
            # It has ended with the link.
            return
        self.client._asked("_stop_task", str(self.uuid))

    def modify_data(self, messages: Sequence[can.Message] | can.Message) -> None:
        """Send other data from now on.

        Raises:
            ValueError: these are not as many frames, or they have another identifier.
        """
        super().modify_data(messages)
        self.client._asked("_modify_task", str(self.uuid), [members_of(message) for message in self.messages])


can.BusABC.register(CanClient)  # type: ignore[type-abstract]
