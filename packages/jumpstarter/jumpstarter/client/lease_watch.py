"""Watches for the end of a lease, by the controller's word and, while that can't be had, by the clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from anyio import sleep

from jumpstarter.common.condition import condition_present_and_equal
from jumpstarter.common.exceptions import ConnectionError

if TYPE_CHECKING:
    from .lease import Lease
    from .records import Lease as LeaseState

logger = logging.getLogger("jumpstarter.client.lease")

MONITOR_INTERVAL = 30.0
"""Seconds between two looks at a running lease, at most."""

BLIND_INTERVAL = 5.0
"""Seconds between two looks at a lease of which nothing is known yet."""

EXPIRY_GRACE = 30.0
"""Seconds after which a lease counts as ended by the clock while the controller can't be asked."""

_ENDED_REASONS = ("Released", "Expired")


def end_reason(lease: LeaseState) -> str | None:
    """Return why a lease has ended, or None while it has not."""
    for reason in _ENDED_REASONS:
        if condition_present_and_equal(lease.conditions, "Ready", "False", reason):
            return reason
    return "Ended" if lease.effective_end_time is not None else None


async def watch(lease: Lease, clock: Clock, threshold: timedelta) -> None:
    """Look at a lease until it has ended; tell it when less than `threshold` is left, and when it is over."""
    deadline: float | None = None
    warned = lost = False
    while True:
        try:
            state = await lease.get()
            lost = False
            if end_reason(state) is not None:
                break
            deadline = deadline_of(state, clock)
            _check_owner(lease, state)
        except ConnectionError as error:
            if error.status == "NOT_FOUND":
                break
            if not lost:
                logger.warning("the lease %s can't be watched for now: %s", lease.name, error)
            lost = True
        if deadline is None:
            await sleep(BLIND_INTERVAL)
            continue
        left = deadline - clock.monotonic()
        if left <= -EXPIRY_GRACE and lost:
            break
        if not warned and left <= threshold.total_seconds():
            warned = True
            remaining = timedelta(seconds=max(left, 0))
            logger.info("lease %s ends in %s", lease.name, timedelta(seconds=int(max(left, 0))))
            _notify(lease, remaining)
        elif left > threshold.total_seconds():
            warned = False  # it was extended
        await sleep(_next_look(left, threshold.total_seconds()))
    lease.lease_ended = True
    logger.info("lease %s has ended", lease.name)
    _notify(lease, timedelta(0))


def deadline_of(state: LeaseState, clock: Clock) -> float | None:
    """Return when a lease will end, on the monotonic clock, or None when that can't be told."""
    if state.effective_begin_time is None or state.duration is None:
        return None
    return clock.at(state.effective_begin_time + state.duration)


def _check_owner(lease: Lease, state: LeaseState) -> None:
    if lease.client_name and state.client and state.client != lease.client_name and not lease.lease_transferred:
        lease.lease_transferred = True
        logger.warning("lease %s belongs to client '%s' now", lease.name, state.client)


def _notify(lease: Lease, left: timedelta) -> None:
    if lease.lease_ending_callback is None:
        return
    try:
        lease.lease_ending_callback(lease, left)
    except Exception as error:  # noqa: BLE001 (a callback of any kind must not end the watch)
        logger.warning("telling of the end of lease %s failed: %s", lease.name, error)


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
