"""The kinds of routers that a controller may choose from, and what it knows of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio

from .book import Order
from .service import Relay

SILENCE = 5.0
"""Seconds without a report after which a router gets no new streams."""

BUSY = 10_000_000
"""Bytes per second that weigh as much as one open stream."""


@dataclass(eq=False, kw_only=True)
class Member:
    """A router that may be chosen."""

    name: str
    """`built-in`, the endpoint of a fixed one, or the account of one that joined."""
    endpoint: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False
    streams: int = 0
    waiting: int = 0
    bytes_per_second: int = 0
    bytes_total: int = 0
    streams_total: int = 0
    allotted: int = 0
    """Streams given to it since it last told its load."""
    seen: datetime | None = None
    """When it was last known to be there."""

    @property
    def alive(self) -> bool:
        """Whether new streams can go there."""
        return True

    def refresh(self) -> None:
        """Bring the load up to date, where that costs nothing."""

    def load(self) -> float:
        """Return how much it has to do, in streams."""
        return self.streams + self.waiting / 2 + self.allotted + self.bytes_per_second / BUSY

    def match(self, labels: Mapping[str, str]) -> int:
        """Rank it for an exporter: one for its labels, the more the better; one for any; one for others."""
        if not self.labels:
            return 0
        return len(self.labels) if all(labels.get(name) == value for name, value in self.labels.items()) else -1


class Rate:
    """Bytes per second out of a growing total, over about the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, span: float = 2.0) -> None:
        self._clock, self._span = clock, span
        self._since, self._from, self._rate = clock(), 0, 0

    def of(self, total: int) -> int:
        """Return the rate, given what the total is now."""
        passed = self._clock() - self._since
        if passed >= self._span:
            self._rate = int((total - self._from) / passed)
            self._since, self._from = self._clock(), total
        return self._rate


@dataclass(eq=False, kw_only=True)
class BuiltIn(Member):
    """The router of this process."""

    relay: Relay
    rate: Rate = field(default_factory=Rate)

    def refresh(self) -> None:
        counters = self.relay.counters()
        if (self.streams, self.waiting, self.streams_total) != (
            counters.streams,
            counters.waiting,
            counters.streams_total,
        ):
            self.allotted = 0
        self.streams, self.waiting = counters.streams, counters.waiting
        self.streams_total, self.bytes_total = counters.streams_total, counters.bytes_total
        self.bytes_per_second = self.rate.of(counters.bytes_total)
        self.draining = self.relay.draining
        self.seen = datetime.now(UTC)


@dataclass(eq=False, kw_only=True)
class Fixed(Member):
    """A router of the configuration; nothing is known of its load but what it was given."""

    reachable: bool = False

    @property
    def alive(self) -> bool:
        return self.reachable


@dataclass(eq=False, kw_only=True)
class Joined(Member):
    """One that has a stream of `LabService.ServeRouter` open."""

    scope: anyio.CancelScope
    """Of the call."""
    heard: float = -math.inf
    """When it reported last, in seconds that never jump."""
    pending: Order = field(default_factory=Order)
    wake: anyio.Event = field(default_factory=anyio.Event)

    @property
    def alive(self) -> bool:
        return time.monotonic() - self.heard < SILENCE

    def tell(self, order: Order) -> None:
        """Add to what it is told next."""
        self.pending.add(order)
        self.wake.set()
