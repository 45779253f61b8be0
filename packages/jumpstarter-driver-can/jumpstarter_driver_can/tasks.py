"""Frames that the exporter sends periodically, in the kernel where the interface can do that, else from a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final
from uuid import UUID, uuid4

import can

from .steady import SteadyBus, reason_of

MIN_PERIOD: Final = 0.0005
"""Seconds between two periodic frames, at least."""

MAX_TASKS: Final = 256
"""Periodic sends that a driver keeps."""

MAX_MESSAGES: Final = 256
"""Frames that one periodic send may alternate between; the kernel allows as many."""

JOIN_TIMEOUT: Final = 5.0


class PeriodicSend:
    """Sends a series of frames in turn, one every `period` seconds."""

    def __init__(
        self,
        bus: SteadyBus,
        messages: Sequence[can.Message],
        period: float,
        duration: float | None,
        logger: logging.Logger,
        owner: str | None = None,
    ) -> None:
        """
        Args:
            bus: where to send.
            messages: frames with the same identifier.
            period: seconds, MIN_PERIOD at least.
            duration: seconds after which it ends by itself; None for never.
            logger: told when frames can't be sent.
            owner: the link that it ends with.

        Raises:
            ValueError: one of them is out of range.
        """
        if not isfinite(period) or period < MIN_PERIOD:
            raise ValueError(f"the period must be {MIN_PERIOD} seconds or longer, not {period!r}")
        if duration is not None and not (isfinite(duration) and duration > 0):
            raise ValueError(f"the duration must be above 0 seconds, not {duration!r}")
        self.uuid = uuid4()
        self.messages = _checked(messages)
        self.period = period
        self.duration = duration
        self.owner = owner
        self._bus = bus
        self._logger = logger
        self._lock = threading.Lock()
        self._started: float | None = None
        self._kernel: Any = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    @property
    def running(self) -> bool:
        """Whether it sends, or would if the bus were up."""
        if self._started is None:
            return False
        return self.duration is None or time.monotonic() < self._started + self.duration

    def start(self) -> None:
        """Begin to send, for the whole duration; nothing happens while it does."""
        with self._lock:
            if self.running:
                return
            self._end()
            self._started = time.monotonic()
            self._begin(self.duration)

    def stop(self) -> None:
        """Send no more; it can be started again."""
        with self._lock:
            self._started = None
            self._end()

    def modify(self, messages: Sequence[can.Message]) -> None:
        """Send other data from now on.

        Raises:
            ValueError: these are not as many frames, or they have another identifier.
        """
        changed = _checked(messages)
        if len(changed) != len(self.messages):
            raise ValueError(f"this sends {len(self.messages)} frames in turn, and {len(changed)} can't replace them")
        if changed[0].arbitration_id != self.messages[0].arbitration_id:
            raise ValueError("the identifier of a periodic send can't be changed; make a new one")
        with self._lock:
            self.messages = changed
            if self._kernel is not None:
                self._kernel.modify_data(changed)

    def resume(self) -> None:
        """Go on after the bus was opened anew, for what is left of the duration."""
        with self._lock:
            if self._kernel is None or not self.running:
                return
            left = None
            if self.duration is not None and self._started is not None:
                left = self._started + self.duration - time.monotonic()
            self._kernel = None
            self._begin(left)

    def _begin(self, duration: float | None) -> None:
        interface = self._bus.inner
        if type(interface)._send_periodic_internal is not can.BusABC._send_periodic_internal:
            self._kernel = interface.send_periodic(
                list(self.messages), self.period, duration=duration, store_task=False, autostart=True
            )
            return
        self._stopped = threading.Event()
        name = f"periodic {self.messages[0].arbitration_id:x}"
        self._thread = threading.Thread(target=self._run, args=(self._stopped, duration), name=name, daemon=True)
        self._thread.start()

    def _end(self) -> None:
        kernel, self._kernel = self._kernel, None
        thread, self._thread = self._thread, None
        self._stopped.set()
        if kernel is not None:
            try:
                kernel.stop()
            except (can.CanError, OSError) as error:
                # The interface is gone, and the task with it.
                self._logger.debug("stopping a periodic send: %s", error)
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_TIMEOUT)

    def _run(self, stopped: threading.Event, duration: float | None) -> None:
        due = time.monotonic()
        end = None if duration is None else due + duration
        sent, failing = 0, False
        while not stopped.is_set() and (end is None or due < end):
            messages = self.messages
            try:
                self._bus.send(messages[sent % len(messages)])
                failing = False
            except (can.CanError, ValueError) as error:
                if not failing:
                    self._logger.warning("periodic %x: %s", messages[0].arbitration_id, reason_of(error))
                failing = True
            sent += 1
            # After a long interruption the frames that were missed are not sent all at once.
            due = max(due + self.period, time.monotonic() - self.period)
            stopped.wait(max(0.0, due - time.monotonic()))


def _checked(messages: Sequence[can.Message]) -> tuple[can.Message, ...]:
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise ValueError(f"a periodic send has 1 to {MAX_MESSAGES} frames, not {len(messages)}")
    if len({message.arbitration_id for message in messages}) > 1:
        raise ValueError("the frames of a periodic send must have the same identifier")
    return tuple(messages)


class PeriodicSends:
    """The periodic sends of one bus."""

    def __init__(self, bus: SteadyBus, logger: logging.Logger) -> None:
        self._bus = bus
        self._logger = logger
        self._lock = threading.Lock()
        self._sends: dict[UUID, PeriodicSend] = {}

    def __len__(self) -> int:
        return sum(send.running for send in self._sends.values())

    def add(
        self,
        messages: Sequence[can.Message],
        period: float,
        duration: float | None,
        *,
        autostart: bool,
        owner: str | None,
    ) -> UUID:
        """Keep a periodic send, and start it if `autostart`.

        Raises:
            ValueError: it is malformed, or there are too many.
            can.CanError: the bus is down, or refuses it.
        """
        send = PeriodicSend(self._bus, messages, period, duration, self._logger, owner)
        with self._lock:
            if len(self._sends) >= MAX_TASKS:
                self._sends = {uuid: kept for uuid, kept in self._sends.items() if kept.running}
            if len(self._sends) >= MAX_TASKS:
                raise ValueError(f"{MAX_TASKS} periodic sends are running already; stop some of them first")
            self._sends[send.uuid] = send
        if autostart:
            try:
                send.start()
            except BaseException:
                with self._lock:
                    self._sends.pop(send.uuid, None)
                raise
        return send.uuid

    def get(self, uuid: UUID) -> PeriodicSend:
        """Return a periodic send.

        Raises:
            ValueError: there is none of that name.
        """
        with self._lock:
            if (send := self._sends.get(uuid)) is None:
                raise ValueError(f"there is no periodic send {uuid}; it may have ended with its client")
            return send

    def all(self) -> list[PeriodicSend]:
        """Return those that are running."""
        with self._lock:
            return [send for send in self._sends.values() if send.running]

    def resume(self) -> None:
        """Go on after the bus was opened anew."""
        for send in self.all():
            try:
                send.resume()
            except (can.CanError, OSError, ValueError) as error:
                self._logger.warning("periodic %x: %s", send.messages[0].arbitration_id, reason_of(error))

    def stop_owned(self, owner: str | None) -> None:
        """Stop and forget those of a link, or those of none."""
        self._stop([send for send in list(self._sends.values()) if send.owner == owner])

    def stop_all(self) -> None:
        """Stop and forget all."""
        self._stop(list(self._sends.values()))

    def _stop(self, ended: list[PeriodicSend]) -> None:
        with self._lock:
            for send in ended:
                self._sends.pop(send.uuid, None)
        for send in ended:
            send.stop()
