"""The time, which tests replace."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time of day, for records, and a time that never jumps, for waiting."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment, whatever is done to the clock."""
        ...


@dataclass
class SystemClock:
    """The clock of this machine, made steady: steps of the system's clock move no end of a lease.

    The time of day is taken once and advanced by the monotonic clock. A step of the system's clock by more than
    `tolerance` is followed slowly, see `discipline`.
    """

    tolerance: timedelta = timedelta(seconds=2)
    _base: datetime = field(default_factory=lambda: datetime.now(UTC), init=False)
    _started: float = field(default_factory=time.monotonic, init=False)

    def now(self) -> datetime:
        return self._base + timedelta(seconds=time.monotonic() - self._started)

    def monotonic(self) -> float:
        return time.monotonic()

    def drift(self) -> timedelta:
        """Return how far the system's clock is ahead of this one."""
        return datetime.now(UTC) - self.now()
