"""ISO-TP connections (ISO 15765-2): by a stack in Python over any CAN interface, or by the Linux kernel."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from typing import Any, ClassVar, Final

import anyio
import can
import isotp
from anyio import move_on_after
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export
from pydantic import ConfigDict, Field, validate_call
from pydantic.dataclasses import dataclass

from . import kernel
from .addresses import Address
from .common import IsoTpAddress, IsoTpAsymmetricAddress, IsoTpMessage, IsoTpParams
from .inbox import Inbox
from .opening import advice, bus_arguments, bus_name, open_bus
from .steady import SteadyBus

CONFIG: Final = ConfigDict(arbitrary_types_allowed=True)

INBOX_BYTES: Final = 64 << 20
"""Bytes that received transfers may take until a client fetches them."""

INBOX_TRANSFERS: Final = 1024

QUEUED_SENDS: Final = 64
"""Transfers that may wait for their turn."""

SEND_TIMEOUT: Final = 60.0
"""Seconds that a blocking send takes at most, unless the client says otherwise."""

TURN_TIMEOUT: Final = 2.0
"""Seconds that the stack may take to hand one frame to the bus, which has a shorter time-out itself."""

PUMP_TIMEOUT: Final = 0.1
JOIN_TIMEOUT: Final = 5.0


class IsoTpError(RuntimeError):
    """A transfer failed."""


class StackBus(SteadyBus):
    """A bus for the stack, whose thread would end with an exception: failed frames are noted instead."""

    failure: Exception | None = None
    """What became of the last frame that failed, until somebody asks."""

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Send a frame, or note why it was not sent."""
        try:
            super().send(msg, timeout)
        except (can.CanError, ValueError) as error:
            if self.failure is None:
                self._logger.warning("%s: a frame of a transfer was not sent: %s", self.name, error)
            self.failure = error

    def take_failure(self) -> Exception | None:
        """Return the failure since this was called last."""
        failure, self.failure = self.failure, None
        return failure


class Stack(isotp.NotifierBasedCanStack):
    """The stack of can-isotp, which calls a transfer complete just before it hands its last frame to the bus."""

    turns = 0
    """How often its thread has looked for something to do, having done all it had to."""

    def _read_relay_queue(self, timeout: float | None) -> Any:
        self.turns += 1
        return super()._read_relay_queue(timeout)

    def wait_turn(self) -> None:
        """Wait until the last frame was handed over, TURN_TIMEOUT at most."""
        before, deadline = self.turns, time.monotonic() + TURN_TIMEOUT
        self.rx_relay_queue.put(None)
        while self.turns == before and time.monotonic() < deadline:
            time.sleep(0.0005)


@dataclass(kw_only=True, config=CONFIG)
class IsoTpPython(Driver):
    """An ISO-TP connection over any interface of python-can, by the stack of can-isotp.

    Received transfers wait for a client, the newest ones if there are more than 1,024, or 64 MiB.

    Raises:
        ConfigurationError: the settings can't work.
        can.CanError: the interface can't be opened.
    """

    driver_type: ClassVar[str] = "automotive"

    channel: str | int | None
    interface: str | None
    address: Address
    params: IsoTpParams = Field(default_factory=IsoTpParams)
    read_timeout: float = Field(default=0.05, gt=0, le=1)
    """Seconds after which the stack looks at its timers when the bus is silent."""
    bitrate: int | None = None
    data_bitrate: int | None = None
    fd: bool | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the interface, as python-can documents them."""

    bus: StackBus = Field(init=False, repr=False, default=None)  # type: ignore[assignment]
    notifier: can.Notifier = Field(init=False, repr=False, default=None)  # type: ignore[assignment]
    stack: Stack = Field(init=False, repr=False, default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments = bus_arguments(
            self.interface,
            self.channel,
            bitrate=self.bitrate,
            data_bitrate=self.data_bitrate,
            fd=self.fd if self.fd is not None or not self.params.can_fd else _fd_by_default(self.interface),
            receive_own_messages=None,
            options=self.options,
        )
        _check_params(self.params)
        self._name = f"ISO-TP on {bus_name(self.interface, self.channel)}"
        self._inbox = Inbox(max(16, min(INBOX_TRANSFERS, INBOX_BYTES // max(1, self.params.max_frame_size))))
        self._reader = self._inbox.reader()
        self._turn = anyio.Lock()
        self._stop_pump = threading.Event()
        self._pump: threading.Thread | None = None
        self._lock = threading.Lock()
        self.bus = StackBus(
            lambda: open_bus(self.interface, self.channel, arguments),
            name=bus_name(self.interface, self.channel),
            logger=self.logger,
        )
        self.bus.open()
        self.notifier = can.Notifier(self.bus, [], timeout=PUMP_TIMEOUT)
        self.stack = Stack(
            self.bus,
            self.notifier,
            address=self.address,
            error_handler=self._stack_error,
            params=self.params.model_dump(),
            read_timeout=self.read_timeout,
        )

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_can.client.IsoTpClient"

    def close(self) -> None:
        """End transfers and release the interface."""
        try:
            self._end()
            self.notifier.stop()
            self.bus.shutdown()
        finally:
            super().close()

    @export
    def start(self) -> None:
        """Begin to send and receive.

        Raises:
            ValueError: it has begun already.
        """
        with self._lock:
            if self.stack.started:
                raise ValueError(f"{self._name} is started already; call stop() first to start anew")
            self.stack.start()
            self._stop_pump = threading.Event()
            self._pump = threading.Thread(target=self._receive, args=(self._stop_pump,), name=self._name, daemon=True)
            self._pump.start()

    @export
    def stop(self) -> None:
        """End transfers."""
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._stop_pump.set()
            pump, self._pump = self._pump, None
            if pump is not None:
                pump.join(JOIN_TIMEOUT)
            if self.stack.started:
                self.stack.stop()

    def _receive(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if (data := self.stack.recv(block=True, timeout=PUMP_TIMEOUT)) is not None:
                self._inbox.put(bytes(data))

    def _stack_error(self, error: Exception) -> None:
        self.logger.log(logging.WARNING, "%s: %s: %s", self._name, type(error).__name__, error)

    @export
    @validate_call(validate_return=False)
    def send(
        self, msg: IsoTpMessage, target_address_type: int | None = None, send_timeout: float | None = None
    ) -> None:
        """Send the data of one transfer; with `blocking_send`, wait until it is complete.

        Args:
            msg: the data.
            target_address_type: 0 physical, 1 functional; None for that of the parameters.
            send_timeout: seconds that a blocking send takes at most.

        Raises:
            ValueError: there is no data, or too much for a functional address.
            TimeoutError: a blocking send did not end in time.
            IsoTpError: the transfer failed; or too many are waiting.
        """
        if not msg.data:
            raise ValueError(f"{self._name}: an ISO-TP transfer carries one byte at least")
        if not self.stack.started:
            raise ValueError(f"{self._name} is not started; call start() first")
        if self.bus.fault is not None:
            raise can.CanOperationError(self.bus.fault)
        if self.stack.tx_queue.qsize() >= QUEUED_SENDS:
            raise IsoTpError(f"{self._name}: {QUEUED_SENDS} transfers are waiting to be sent; send more slowly")
        kind = None if target_address_type is None else isotp.TargetAddressType(target_address_type)
        timeout = SEND_TIMEOUT if send_timeout is None else min(max(0.0, send_timeout), SEND_TIMEOUT)
        self.bus.take_failure()
        try:
            self.stack.send(msg.data, kind, timeout)
        except isotp.errors.BlockingSendTimeout as error:
            self.stack.stop_sending()
            raise TimeoutError(f"{self._name}: the transfer was not complete after {timeout:g} s") from error
        except (isotp.errors.IsoTpError, RuntimeError) as error:
            why = self.bus.take_failure() or "the log of the exporter has the reason"
            raise IsoTpError(f"{self._name}: {error}: {why}") from error
        if self.params.blocking_send:
            self.stack.wait_turn()
        if self.params.blocking_send and (failure := self.bus.take_failure()) is not None:
            raise IsoTpError(f"{self._name}: the transfer failed: {failure}") from failure

    @export
    async def recv(self, block: bool = False, timeout: float | None = None) -> IsoTpMessage:
        """Return the data of the next transfer; null when there is none (in time).

        Args:
            block: wait for one.
            timeout: seconds to wait; None for as long as the caller does.
        """
        if lost := self._reader.take_lost():
            self.logger.warning("%s: %d transfers were dropped because nobody took them in time", self._name, lost)
        if data := self._reader.take(1):
            return IsoTpMessage.construct(data[0])
        if block:
            with move_on_after(timeout if timeout is None else max(0.0, timeout)):
                async with self._turn:
                    while not (data := self._reader.take(1)):
                        await self._reader.wait()
                    return IsoTpMessage.construct(data[0])
        return IsoTpMessage.construct(None)

    @export(watch=True)
    def available(self) -> bool:
        """Tell whether a received transfer waits."""
        return self._inbox.received > self._reader.position or bool(self.stack.available())

    @export(watch=True)
    def transmitting(self) -> bool:
        """Tell whether a transfer is being sent."""
        return bool(self.stack.transmitting())

    @export
    @validate_call(validate_return=False)
    def set_address(self, address: IsoTpAddress | IsoTpAsymmetricAddress) -> None:
        """Use another address from now on."""
        self.stack.set_address(address.dump())

    @export
    def stop_sending(self) -> None:
        """Give up the transfer that is being sent."""
        self.stack.stop_sending()

    @export
    def stop_receiving(self) -> None:
        """Give up the transfer that is being received."""
        self.stack.stop_receiving()


@dataclass(kw_only=True, config=CONFIG)
class IsoTpSocket(Driver):
    """An ISO-TP connection of the Linux kernel, over a CAN network interface.

    Raises:
        ConfigurationError: the settings can't work.
    """

    driver_type: ClassVar[str] = "automotive"

    channel: str
    """Name of the network interface."""
    address: Address
    params: IsoTpParams = Field(default_factory=IsoTpParams)

    sock: isotp.socket | None = Field(init=False, repr=False, default=None)
    """The socket between `start` and `stop`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_params(self.params)
        if names := kernel.unsupported(self.params):
            self.logger.warning("%s: kernel sockets don't have: %s", self._name, ", ".join(names))
        self._turn = anyio.Lock()

    @property
    def _name(self) -> str:
        return f"ISO-TP socket on {self.channel}"

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_can.client.IsoTpClient"

    def close(self) -> None:
        """Close the socket."""
        try:
            if self.sock is not None:
                self.stop()
        finally:
            super().close()

    # Coroutines, and a socket that doesn't block: what is received stays in the socket until it can be returned.

    @export
    async def start(self) -> None:
        """Open the socket.

        Raises:
            ValueError: it is open already.
            OSError: the kernel can't open it; the message says what to do.
        """
        if self.sock is not None:
            raise ValueError(f"{self._name} is started already; call stop() first to start anew")
        try:
            opened = isotp.socket()
        except (OSError, AttributeError, NotImplementedError) as error:
            code = getattr(error, "errno", None) or errno.EPROTONOSUPPORT
            raise OSError(
                code,
                f"{self._name}: the exporter's kernel has no ISO-TP sockets ({error}): modprobe can_isotp "
                "(Linux 5.10 or newer), or use the driver IsoTpPython",
            ) from error
        try:
            self.params.apply(opened)
            opened.bind(self.channel, self.address)
            opened.settimeout(0)
        except OSError as error:
            opened.close()
            raise OSError(
                error.errno, f"{self._name}: {error.strerror}; {advice('socketcan', self.channel, error)}"
            ) from error
        except BaseException:
            opened.close()
            raise
        self.sock = opened

    @export
    def stop(self) -> None:
        """Close the socket.

        Raises:
            ValueError: it is not open.
        """
        sock = self._opened()
        self.sock = None
        sock.close()

    @export
    async def send(self, msg: Any, target_address_type: int | None = None, send_timeout: float | None = None) -> None:
        """Send the data of one transfer; with `blocking_send`, wait until it is complete.

        Raises:
            ValueError: the socket is not open, or there is no data; or the address is functional.
            TimeoutError: there was no room within `send_timeout` seconds.
            OSError: the transfer failed.
        """
        data = IsoTpMessage.model_validate(msg).data
        if not data:
            raise ValueError(f"{self._name}: an ISO-TP transfer carries one byte at least")
        if target_address_type not in (None, 0):
            raise ValueError(f"{self._name} sends to its own address only; configure a driver with the functional one")
        real = self._opened().real_socket()
        timeout = SEND_TIMEOUT if send_timeout is None else min(max(0.0, send_timeout), SEND_TIMEOUT)
        try:
            with anyio.fail_after(timeout):
                await self._write(real, data)
        except TimeoutError:
            raise TimeoutError(f"{self._name}: the transfer could not be sent within {timeout:g} s") from None
        except OSError as error:
            raise OSError(error.errno, f"{self._name}: {self._explain(error, len(data))}") from error

    async def _write(self, real: socket.socket, data: bytes) -> None:
        if self.params.blocking_send:
            # Only a blocking write waits for the end of the transfer.
            with real.dup() as waiting:
                waiting.settimeout(SEND_TIMEOUT)
                await anyio.to_thread.run_sync(waiting.send, data, abandon_on_cancel=True)
            return
        while True:
            try:
                real.send(data)
                return
            except BlockingIOError:
                # The one before it is under way. Such a socket is always called writable by older kernels.
                await anyio.sleep(0.002)

    @export
    async def recv(self, block: bool = True, timeout: float | None = None) -> IsoTpMessage:
        """Return the data of the next transfer; null when there is none after `timeout` seconds.

        Args:
            block: of no importance: without a `timeout` it waits for as long as the caller does.
            timeout: seconds.

        Raises:
            ValueError: the socket is not open.
            OSError: the interface is down, or a transfer failed.
        """
        if (data := self._take()) is None:
            with move_on_after(timeout if timeout is None else max(0.0, timeout)):
                async with self._turn:
                    while (data := self._take()) is None:
                        await anyio.wait_readable(self._opened().real_socket())
        return IsoTpMessage.construct(data)

    def _take(self) -> bytes | None:
        """Return a transfer that the socket holds, if there is one."""
        try:
            return bytes(self._opened().real_socket().recv(max(self.params.max_frame_size, kernel.KERNEL_MAX)))
        except BlockingIOError:
            return None
        except OSError as error:
            raise OSError(error.errno, f"{self._name}: {self._explain(error, 0)}") from error

    def _explain(self, error: OSError, size: int) -> str:
        match error.errno:
            case errno.EINVAL | errno.EMSGSIZE if size > kernel.KERNEL_MAX:
                return f"{size} bytes are more than this kernel sends in one transfer ({kernel.KERNEL_MAX} or so)"
            case errno.ECOMM:
                return "the receiver did not answer with a flow control in time; is it there, with this address?"
            case errno.ENETDOWN:
                return f"the interface is down: ip link set {self.channel} up"
            case errno.ENODEV | errno.ENXIO:
                return "the interface is gone; when it is back, call stop() and start()"
            case _:
                return error.strerror or str(error)

    def _opened(self) -> isotp.socket:
        if self.sock is None:
            raise ValueError(f"{self._name} is not started; call start() first")
        return self.sock

    @export
    def available(self) -> bool:
        """Not offered by kernel sockets."""
        raise self._lacking("available")

    @export
    def transmitting(self) -> bool:
        """Not offered by kernel sockets."""
        raise self._lacking("transmitting")

    @export
    def set_address(self, address: Any) -> None:
        """Not offered by kernel sockets."""
        raise self._lacking("set_address")

    @export
    def stop_sending(self) -> None:
        """Not offered by kernel sockets."""
        raise self._lacking("stop_sending")

    @export
    def stop_receiving(self) -> None:
        """Not offered by kernel sockets."""
        raise self._lacking("stop_receiving")

    def _lacking(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{self._name}: kernel sockets have no {method}; the driver IsoTpPython has")


def _fd_by_default(interface: str | None) -> bool | None:
    """Return what `fd` must be for CAN FD transfers where the interface has to be told."""
    return True if interface == "socketcan" else None


def _check_params(params: IsoTpParams) -> None:
    """Find out whether the stack accepts the parameters.

    Raises:
        ConfigurationError: it doesn't.
    """
    checked = isotp.TransportLayer.Params()
    try:
        for name, value in params.model_dump().items():
            checked.set(name, value, validate=False)
        checked.validate()
    except ValueError as error:
        raise ConfigurationError(f"ISO-TP parameters: {error}") from error
