"""A python-can bus that survives its device: it tells when the interface is down, and opens it when it is back."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

import can

RETRY_FIRST: Final = 0.2
RETRY_LAST: Final = 2.0
"""Seconds between two attempts to open a bus that is gone, the first and the longest ones."""

BAD_READS: Final = 10
"""Reads in a row that may fail for what was received, before the bus is opened anew."""

FULL_PAUSE: Final = 0.0005
"""Seconds between two attempts to hand a frame to a full transmit queue."""

MAX_SEND_TIMEOUT: Final = 60.0


def reason_of(error: BaseException) -> str:
    """Return what an error of python-can says, with the name of the errno in place of its number."""
    text = str(error) or type(error).__name__
    code = getattr(error, "error_code", None)
    if isinstance(code, int) and code in errno.errorcode:
        return text.replace(f" [Error Code {code}]", f" ({errno.errorcode[code]})")
    return text


class SteadyBus(can.BusABC):
    """Wraps the bus that `open_bus` returns.

    Receiving never raises: while the bus is down it returns None, `fault` says why, and it is tried again until
    `shutdown`. Sending raises. One thread may receive while others send.
    """

    def __init__(
        self,
        open_bus: Callable[[], can.BusABC],
        *,
        name: str,
        logger: logging.Logger,
        send_timeout: float = 1.0,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            open_bus: opens the interface; called again when it was lost.
            name: of the bus, for messages.
            logger: told of what happens to the bus.
            send_timeout: seconds that a frame waits for room in the transmit queue.
            on_change: called when the bus goes down or comes up, in the thread that receives.
        """
        self.name = name
        self.fault: str | None = f"{name} was not opened yet"
        """Why the bus is down; None while it is up."""
        self.sent = 0
        self._open_bus = open_bus
        self._logger = logger
        self._send_timeout = send_timeout
        self.on_change = on_change or (lambda: None)
        self._inner: can.BusABC | None = None
        self._bad_reads = 0
        self._tested = True
        self._delay = RETRY_FIRST
        self._retry_at = 0.0
        self._stopped = threading.Event()
        self._send_lock = threading.Lock()
        self._error_state: can.BusState | None = None
        super().__init__(channel=name)

    # -- the bus inside --------------------------------------------------------------------------

    @property
    def inner(self) -> can.BusABC:
        """The interface itself.

        Raises:
            can.CanOperationError: it is down.
        """
        bus = self._inner
        if bus is None:
            raise can.CanOperationError(self.fault or f"{self.name} is closed")
        return bus

    def open(self) -> None:
        """Open the interface, for the first time.

        Raises:
            Exception: whatever the interface raises.
        """
        self._inner = self._open_bus()
        self._tested = True
        self.fault = None

    @property
    def channel_info(self) -> str:  # type: ignore[override]
        """What the interface says of itself, or the name of the bus while it is down."""
        bus = self._inner
        return bus.channel_info if bus is not None else self.name

    @property
    def protocol(self) -> can.CanProtocol:
        """The kind of frames that the interface is set up for."""
        bus = self._inner
        return bus.protocol if bus is not None else can.CanProtocol.CAN_20

    @property
    def state(self) -> can.BusState:
        """The state of the controller: as error frames told it last, else as the interface says."""
        if self._inner is None:
            return can.BusState.ERROR
        return self._error_state or self._inner.state

    @state.setter
    def state(self, state: can.BusState) -> None:
        self.inner.state = state

    def flush_tx_buffer(self) -> None:
        """Discard what waits in the transmit queue of the interface, where it can do that."""
        self.inner.flush_tx_buffer()

    # -- sending ---------------------------------------------------------------------------------

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Send a frame; waits while the transmit queue is full.

        Args:
            msg: the frame.
            timeout: seconds to wait, at most MAX_SEND_TIMEOUT; None for those of the bus.

        Raises:
            can.CanTimeoutError: the queue stayed full.
            can.CanOperationError: the bus is down, or refuses the frame.
        """
        if timeout is None or not isfinite(timeout) or timeout < 0:
            timeout = self._send_timeout
        deadline = time.monotonic() + min(timeout, MAX_SEND_TIMEOUT)
        with self._send_lock:
            while True:
                try:
                    # Interfaces wait by themselves where they can; none of them must do that for ever.
                    self.inner.send(msg, max(0.0, deadline - time.monotonic()))
                    self.sent += 1
                    return
                except can.CanError as error:
                    if not _is_full(error):
                        raise
                    if self._stopped.is_set() or time.monotonic() >= deadline:
                        raise can.CanTimeoutError(
                            f"{self.name}: the transmit queue was full for {timeout:g} s. Nobody acknowledges the "
                            "frames (is another node connected, with the same bit rate?), or the bus is overloaded"
                        ) from error
                except OSError as error:
                    raise can.CanOperationError(f"{self.name}: {error.strerror or error}", error.errno) from error
                time.sleep(FULL_PAUSE)

    # -- receiving -------------------------------------------------------------------------------

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        bus = self._inner
        if bus is None:
            self._reopen(timeout)
            return None, False
        try:
            received = bus.recv(timeout)
        except Exception as error:  # noqa: BLE001 (interfaces of any kind, on whatever the device does)
            self._read_failed(bus, error)
            return None, False
        self._bad_reads = 0
        if not self._tested:
            # An interface that is down can often be opened, and says so only when it is read.
            self._tested = True
            self._delay = RETRY_FIRST
            self._set_fault(None)
        if received is not None and received.is_error_frame:
            self._note_error_frame(received)
        return received, False

    def _read_failed(self, bus: can.BusABC, error: Exception) -> None:
        if self._stopped.is_set():
            return
        code = getattr(error, "error_code", None) or getattr(error, "errno", None)
        self._bad_reads += 1
        if code is None and isinstance(error, can.CanError | ValueError) and self._bad_reads < BAD_READS:
            self._logger.warning("%s: what was received is no frame: %s", self.name, reason_of(error))
            return
        self._bad_reads = 0
        self._inner = None
        self._error_state = None
        self._retry_at = time.monotonic() + self._delay
        try:
            bus.shutdown()
        except Exception as failure:  # noqa: BLE001 (its device is gone; what matters is that it is let go)
            self._logger.debug("%s: closing failed: %s", self.name, failure)
        self._set_fault(f"{self.name} is down: {reason_of(error)}")

    def _reopen(self, timeout: float | None) -> None:
        """Wait until it is time for another attempt, or `timeout` is over; make the attempt if it is time."""
        left = self._retry_at - time.monotonic()
        if left > 0 and (
            self._stopped.wait(left if timeout is None else min(left, timeout)) or left > (timeout or left)
        ):
            return
        if self._stopped.is_set():
            return
        self._retry_at = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, RETRY_LAST)
        try:
            bus = self._open_bus()
        except Exception as error:  # noqa: BLE001 (interfaces of any kind)
            self._set_fault(f"{self.name} is down: {reason_of(error)}")
            return
        self._tested = False
        self._inner = bus

    def _set_fault(self, fault: str | None) -> None:
        if fault == self.fault:
            return
        was, self.fault = self.fault, fault
        if fault is None:
            self._logger.info("%s is up again", self.name)
        elif was is None:
            self._logger.warning("%s", fault)
        self.on_change()

    def _note_error_frame(self, frame: can.Message) -> None:
        """Follow the controller's state by its error frames (linux/can/error.h).

        The identifier has the classes: 0x004 a controller problem, detailed in data byte 1 (0x10 and 0x20 for
        error-passive, 0x40 for active again), 0x040 bus-off, 0x100 restarted.
        """
        classes, detail = frame.arbitration_id, frame.data[1] if len(frame.data) > 1 else 0
        before = self._error_state
        if classes & 0x040:
            self._error_state = can.BusState.ERROR
        elif classes & 0x100 or (classes & 0x004 and detail & 0x40):
            self._error_state = None
        elif classes & 0x004 and detail & 0x30:
            self._error_state = can.BusState.PASSIVE
        if before is not self._error_state:
            self._logger.warning(
                "%s: the controller is %s", self.name, (self._error_state or can.BusState.ACTIVE).name.lower()
            )

    # -- the end ---------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close the interface for good."""
        self._stopped.set()
        super().shutdown()
        bus, self._inner = self._inner, None
        self.fault = f"{self.name} is closed"
        if bus is not None:
            with self._send_lock:
                bus.shutdown()

    def _apply_filters(self, filters: Any) -> None:
        """Leave filtering to the readers, each of which has its own."""


def _is_full(error: can.CanError) -> bool:
    """Tell whether an interface refused a frame because its queue is full."""
    return error.error_code == errno.ENOBUFS or "buffer full" in str(error).lower()
