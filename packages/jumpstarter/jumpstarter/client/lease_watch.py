"""Watches over a lease that is in use: tells when its end comes near, is put off and has come, and who has it.

What happens is told by the controller; while that can't be reached, the clock says when the lease has ended.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from anyio import Event, create_task_group, move_on_after, sleep

from jumpstarter.common.exceptions import ConnectionError

from .retry import pauses
from .states import LeaseState, end_reason
from .wording import clock_time, left

if TYPE_CHECKING:
    from .lease import Lease
    from .records import Lease as LeaseRecord

__all__ = ["Clock", "deadline_of", "end_reason", "watch"]

logger = logging.getLogger("jumpstarter.client.lease")

MONITOR_INTERVAL = 30.0
"""Seconds between two looks at a running lease of a controller that doesn't tell by itself, at most."""

BLIND_INTERVAL = 5.0
"""Seconds between two looks at a lease of which nothing is known yet."""

EXPIRY_GRACE = 30.0
"""Seconds after which a lease counts as ended by the clock while the controller can't be asked."""

ANSWER_DELAY = 1.0
"""Seconds that a message of the controller may take."""


async def watch(lease: Lease, clock: Clock, threshold: timedelta) -> None:
    """Watch a lease until it has ended; tell when less than `threshold` is left, and when it is over."""
    await _Watch(lease, clock, threshold.total_seconds()).run()


class _Watch:
    """What is known of the lease, and what was told of it."""

    def __init__(self, lease: Lease, clock: Clock, threshold: float) -> None:
        self._lease, self._clock, self._threshold = lease, clock, threshold
        self._state: LeaseState | None = None
        self._changed = Event()
        self._gone = self._lost = False
        self._deadline: float | None = None
        self._warned = self._idle_warned = False
        self._told: float | None = None
        """The end that was told last."""
        self._idle: tuple[datetime, float] | None = None
        """The end for want of use, and when, on the monotonic clock, it was set: at the last use."""

    async def run(self) -> None:
        """Watch until the end."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._listen)
            while not self._over():
                due = self._tell()
                changed = self._changed
                with move_on_after(due):
                    await changed.wait()
            tasks.cancel_scope.cancel()
        self._lease.lease_ended = True
        logger.info("%s has ended%s", self._subject, f": {reason}" if (reason := self._end_reason()) else "")
        self._notify(timedelta(0), "")

    def _end_reason(self) -> str:
        state = self._state
        if state is not None and state.ended:
            return state.reason or (end_reason(state) or "").lower()
        return "" if self._gone else "its time is over"

    @property
    def _subject(self) -> str:
        """What people know it by: the exporter, of which there is one at a time."""
        exporter = self._state.exporter if self._state is not None else ""
        return f"lease of {exporter}" if exporter else f"lease {self._lease.name}"

    # -- listening -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Take note of what the controller tells."""
        waits = pauses()
        while True:
            try:
                async with aclosing(self._lease.svc.watch_lease(self._name)) as states:
                    async for state in states:
                        if state.now is not None:
                            self._clock.observe(state.now, ANSWER_DELAY)
                        waits = pauses()
                        self._take(state)
                self._lose("the controller ended the watch")
            except ConnectionError as error:
                if error.status == "UNIMPLEMENTED":
                    break
                if not self._survives(error):
                    return
            await sleep(next(waits))
        await self._look()

    async def _look(self) -> None:
        """Ask a controller that doesn't tell by itself, again and again."""
        while True:
            try:
                self._take(LeaseState.of(await self._lease.get(), self._lease.client_name))
            except ConnectionError as error:
                if not self._survives(error):
                    return
            if self._deadline is None:
                await sleep(BLIND_INTERVAL)
            else:
                await sleep(_next_look(self._deadline - self._clock.monotonic(), self._threshold))

    @property
    def _name(self) -> str:
        return self._lease.name or ""

    def _take(self, state: LeaseState) -> None:
        if self._lost:
            logger.info("%s is watched again", self._subject)
        self._lost, self._state = False, state
        self._deadline = deadline_of(state, self._clock)
        if state.idle_until is None:
            self._idle = None
        elif self._idle is None or self._idle[0] != state.idle_until:
            self._idle = (state.idle_until, self._clock.monotonic())
        self._wake()

    def _survives(self, error: ConnectionError) -> bool:
        """Tell whether the controller may answer later."""
        if error.status == "NOT_FOUND":
            self._gone = True
            self._wake()
            return False
        self._lose(str(error))
        return True

    def _lose(self, text: str) -> None:
        if self._over():
            return
        if not self._lost:
            logger.warning("%s can't be watched for now: %s", self._subject, text)
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = Event()

    # -- telling ---------------------------------------------------------------------------------

    def _over(self) -> bool:
        if self._gone or (self._state is not None and (self._state.ended or end_reason(self._state) is not None)):
            return True
        return self._lost and self._deadline is not None and self._left(self._deadline) <= -EXPIRY_GRACE

    def _left(self, deadline: float) -> float:
        return deadline - self._clock.monotonic()

    def _tell(self) -> float:
        """Tell what is due, and return the seconds until something else is."""
        if self._state is None:
            return math.inf
        self._check_owner(self._state)
        due = self._tell_idle(self._state)
        if self._deadline is None:
            return due
        remaining = self._left(self._deadline)
        self._tell_extension(self._state, self._deadline, remaining)
        if remaining > self._threshold:
            self._warned = False
            return min(due, remaining - self._threshold)
        if not self._warned:
            self._warned = True
            self._told = self._deadline
            self._warn(remaining, self._ending_text(self._state, remaining))
        return min(due, remaining if remaining > 0 else max(remaining + EXPIRY_GRACE, 0.1))

    def _tell_extension(self, state: LeaseState, deadline: float, remaining: float) -> None:
        """Tell that the end was put off: always when it was near, else when it makes a difference."""
        told = self._told if self._told is not None else deadline
        self._told = told
        moved = deadline - told
        if moved >= self._threshold or (self._warned and moved > 1):
            self._told = deadline
            self._warned = False
            limit = f"; {self._at(state.limit)} is its limit" if state.limit is not None else ""
            logger.info(
                "%s was extended and ends at %s now (%s left)%s",
                self._subject,
                self._at_end(deadline),
                left(remaining),
                limit,
            )
        elif moved <= -self._threshold and remaining > self._threshold:
            self._told = deadline
            logger.info(
                "%s was shortened and ends at %s now (%s left)",
                self._subject,
                self._at_end(deadline),
                left(remaining),
            )

    def _ending_text(self, state: LeaseState, remaining: float) -> str:
        text = f"{self._subject} ends in {left(remaining)}"
        if self._deadline is not None:
            text += f", at {self._at_end(self._deadline)}"
        if state.limit is not None and state.until is not None and state.until >= state.limit:
            return f"{text}; it can't be extended any further"
        if self._lease.role != "owner":
            return f"{text}; {state.client}, whose it is, can extend it"
        # A shell, which has a callback, finds the name in its environment.
        name = "" if self._lease.lease_ending_callback is not None else f" {self._lease.name}"
        return f"{text}; to keep it: jmp update lease{name} --extend 30m"

    def _tell_idle(self, state: LeaseState) -> float:
        """Tell that the lease ends for want of use; return the seconds until that is due."""
        if self._idle is None:
            return math.inf
        idle_until, used = self._idle
        end = self._clock.at(idle_until)
        if self._deadline is not None and end >= self._deadline:
            return math.inf
        # Half of a short time without use is not yet worth a word.
        ahead = min(self._threshold, (end - used) / 2)
        remaining = self._left(end)
        if remaining > ahead:
            if self._idle_warned:
                self._idle_warned = False
                logger.info("%s is used again", self._subject)
            return remaining - ahead
        if not self._idle_warned:
            self._idle_warned = True
            unused = left(self._clock.monotonic() - used)
            self._warn(
                remaining,
                f"{self._subject} was not used for {unused} and ends in {left(remaining)}, "
                f"at {self._at(idle_until)}, unless it is used",
            )
        return math.inf

    def _at(self, moment: datetime) -> str:
        return clock_time(self._clock.here(moment))

    def _at_end(self, deadline: float) -> str:
        return clock_time(datetime.now().astimezone() + timedelta(seconds=self._left(deadline)))

    def _check_owner(self, state: LeaseState) -> None:
        lease = self._lease
        if lease.lease_transferred or not lease.client_name or not state.client:
            return
        if state.client == lease.client_name:
            if lease.role != "owner":
                logger.info("%s is yours now", self._subject)
                lease.role = "owner"
            return
        if state.role in ("driver", "watcher"):
            if lease.role != state.role:
                if lease.role == "owner":
                    logger.warning("%s belongs to client '%s' now", self._subject, state.client)
                logger.info("%s: you are a %s now", self._subject, state.role)
                lease.role, lease.release = state.role, False
            return
        lease.lease_transferred = True
        if lease.role == "owner":
            logger.warning("%s belongs to client '%s' now", self._subject, state.client)
        else:
            logger.warning("%s of client '%s' is not shared with you any more", self._subject, state.client)

    def _warn(self, remaining: float, text: str) -> None:
        if self._lease.lease_ending_callback is None:
            logger.info("%s", text)
        self._notify(timedelta(seconds=max(remaining, 0.001)), text)

    def _notify(self, remaining: timedelta, text: str) -> None:
        lease = self._lease
        lease.ending_notice = text
        if lease.lease_ending_callback is None:
            return
        try:
            lease.lease_ending_callback(lease, remaining)
        except Exception as error:  # noqa: BLE001 (a callback of any kind must not end the watch)
            logger.warning("telling of the end of the %s failed: %s", self._subject, error)


def deadline_of(state: LeaseRecord, clock: Clock) -> float | None:
    """Return when a lease will end, on the monotonic clock, or None when that can't be told."""
    if isinstance(state, LeaseState) and state.until is not None and state.effective_begin_time is not None:
        return clock.at(state.until)
    if state.effective_begin_time is None or state.duration is None:
        return None
    return clock.at(state.effective_begin_time + state.duration)


def _next_look(left: float, threshold: float) -> float:
    """Seconds until the lease is looked at again: when its end comes near, when it has come, or in a while."""
    until = left - threshold if left > threshold else left
    return min(MONITOR_INTERVAL, max(until, 1.0))


class Clock:
    """Places times of the controller on this machine's monotonic clock, although their clocks may differ."""

    TOLERANCE = timedelta(seconds=2)

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.monotonic = monotonic
        self._wall = wall
        self._ahead = timedelta(0)

    def observe(self, event: datetime, within: float) -> None:
        """Learn from an event that the controller dates and that happened within the last seconds."""
        low = event - self._wall()
        high = low + timedelta(seconds=within)
        # A difference that the delay explains, or that doesn't matter, is not taken for one of the clocks.
        self._ahead = timedelta(0) if low - self.TOLERANCE <= timedelta(0) <= high + self.TOLERANCE else low

    def at(self, moment: datetime) -> float:
        """Return the monotonic time of a moment that the controller names."""
        return self.monotonic() + (moment - self._wall() - self._ahead).total_seconds()

    def here(self, moment: datetime) -> datetime:
        """Return a moment that the controller names by the clock of this machine, in local time."""
        return (moment - self._ahead).astimezone()
