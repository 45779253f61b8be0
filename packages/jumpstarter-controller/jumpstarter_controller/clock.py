"""The time, which tests replace."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import anyio


class Clock(Protocol):
    """Tells the time of day, for records, and a time that never jumps, for waiting."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment, whatever is done to the clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait until so many seconds have passed."""
        ...


@dataclass
class SystemClock:
    """The clock of this machine, made steady: steps of the system's clock move no end of a lease.

    The time of day is taken once and advanced by a clock that is never set. A step of the system's clock by more than
    `tolerance` is followed slowly, see `discipline`.
    """

    tolerance: timedelta = timedelta(seconds=2)
    pace: float = 0.1
    """By what part of the time that passes this clock may be faster or slower while it follows the system's."""
    _base: datetime = field(default_factory=lambda: datetime.now(UTC), init=False)
    _started: float = field(default_factory=lambda: _steady(), init=False)
    _disciplined: float = field(default_factory=lambda: _steady(), init=False)

    def now(self) -> datetime:
        return self._base + timedelta(seconds=_steady() - self._started)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        # A moment to sleep until may pass while the length is computed.
        await anyio.sleep(max(seconds, 0.0))

    def drift(self) -> timedelta:
        """Return how far the system's clock is ahead of this one."""
        return datetime.now(UTC) - self.now()

    def discipline(self, *, jump: bool = False) -> timedelta:
        """Follow the system's clock, by at most `pace` of the time since the last call, and return what is left.

        Args:
            jump: follow at once, because no time that matters is running.
        """
        moment = _steady()
        passed, self._disciplined = moment - self._disciplined, moment
        drift = self.drift()
        if jump:
            step = drift
        elif abs(drift) <= self.tolerance:
            return drift
        else:
            most = timedelta(seconds=passed * self.pace)
            step = max(-most, min(most, drift))
        self._base += step
        return drift - step


def _steady() -> float:
    """Return seconds that no step of the system's clock moves, and that pass while the machine sleeps where it can."""
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class ManualClock:
    """A clock for tests and simulations: it stands still until it is moved."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._sleeping: set[tuple[float, anyio.Event]] = set()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        entry = (self._monotonic + seconds, anyio.Event())
        self._sleeping.add(entry)
        try:
            await entry[1].wait()
        finally:
            self._sleeping.discard(entry)

    def advance(self, by: timedelta) -> None:
        """Let time pass, and wake whoever slept for as long."""
        self._now += by
        self._monotonic += by.total_seconds()
        for until, event in self._sleeping:
            if until <= self._monotonic:
                event.set()

    def step(self, by: timedelta) -> None:
        """Set the time of day without letting time pass."""
        self._now += by
