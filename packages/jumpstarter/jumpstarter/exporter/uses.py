"""Counts what the clients of one lease use, cheaply enough to be done for each call."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from anyio import Event

__all__ = ["MOST_KINDS", "Use", "Uses"]

MOST_KINDS = 512
"""Different uses that are remembered until they are reported; further ones are only counted as dropped."""

Key = tuple[str, str, str, str, str]
"""Client, driver's UUID, method, kind and outcome."""


@dataclass(slots=True)
class Use:
    """One or more equal uses."""

    client: str
    driver: str
    """UUID of the driver."""
    method: str
    kind: str
    """call, streamingcall or stream."""
    outcome: str
    """OK or the name of a gRPC status."""
    time: float
    """Of the first one; seconds since 1970."""
    count: int


@dataclass
class Uses:
    """What was used since it was asked for last, and what is in use; for the event loop alone."""

    open: int = field(default=0, init=False)
    """Calls and streams in progress."""
    total: int = field(default=0, init=False)
    """Calls and streams that have begun, ever."""
    dropped: int = field(default=0, init=False)
    """Uses that were not remembered since `take` was called last."""
    begun: Event = field(default_factory=Event, init=False)
    """Set by the first use after `rest`."""
    _counts: dict[Key, list[float]] = field(default_factory=dict, init=False)
    _rested: int = field(default=1, init=False)
    """Number of the use that sets `begun`."""

    def begin(self) -> None:
        """Note that a call or stream begins; each is followed by one `end`."""
        self.open += 1
        self.total += 1
        if self.total == self._rested:
            self.begun.set()

    def end(self, client: str, driver: str, method: str, kind: str, outcome: str = "OK") -> None:
        """Note how a call or stream has ended."""
        self.open -= 1
        key = (client, driver, method, kind, outcome)
        entry = self._counts.get(key)
        if entry is not None:
            entry[1] += 1
        elif len(self._counts) < MOST_KINDS:
            self._counts[key] = [time.time(), 1]
        else:
            self.dropped += 1

    def take(self) -> tuple[list[Use], int]:
        """Return the uses since the last time, and how many were dropped."""
        counts, self._counts = self._counts, {}
        dropped, self.dropped = self.dropped, 0
        return [Use(*key, time=entry[0], count=int(entry[1])) for key, entry in counts.items()], dropped

    def rest(self) -> Event:
        """Return an event that the next use sets."""
        self.begun = Event()
        self._rested = self.total + 1
        return self.begun
