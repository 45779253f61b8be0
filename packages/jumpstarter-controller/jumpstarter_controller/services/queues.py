"""The queues of offered streams: what clients dialled waits here until the exporter's newest listener takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

Item = TypeVar("Item")

CAPACITY = 8
"""Offers that may wait for a listener that is there; published controllers have the same bound."""

MOST_EARLY = 64
"""Offers that may wait for a listener that is not there yet."""


class QueueError(Exception):
    """An offer reached nobody."""


class NoListener(QueueError):
    """No listener took the offer in time."""


class Full(QueueError):
    """There is a listener, and it is too far behind."""


class Closed(QueueError):
    """The line was closed: its lease is over."""


@dataclass(eq=False)
class _Offer(Generic[Item]):
    item: Item
    settled: anyio.Event = field(default_factory=anyio.Event)
    taken: bool = False
    """A listener is sending it."""
    outcome: QueueError | None = None

    def settle(self, outcome: QueueError | None = None) -> None:
        self.outcome = outcome
        self.settled.set()


@dataclass(eq=False)
class _Listener:
    wake: anyio.Event = field(default_factory=anyio.Event)
    superseded: bool = False


@dataclass(eq=False)
class _Line(Generic[Item]):
    offers: deque[_Offer[Item]] = field(default_factory=deque)
    listener: _Listener | None = None
    sending: int = 0

    def nudge(self) -> None:
        if self.listener is not None:
            self.listener.wake.set()


@dataclass
class Queues(Generic[Item]):
    """One line of offers for each lease; all methods are for one event loop."""

    capacity: int = CAPACITY
    most_early: int = MOST_EARLY
    _lines: dict[Hashable, _Line[Item]] = field(default_factory=dict, init=False)
    _awaited: dict[Hashable, list[anyio.Event]] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._lines)

    def listening(self, key: Hashable) -> bool:
        """Tell whether somebody listens."""
        line = self._lines.get(key)
        return line is not None and line.listener is not None

    def waiting(self, key: Hashable) -> int:
        """Return how many offers wait to be sent."""
        line = self._lines.get(key)
        return len(line.offers) if line is not None else 0

    async def arrival(self, key: Hashable) -> None:
        """Wait until somebody listens."""
        event = anyio.Event()
        awaited = self._awaited.setdefault(key, [])
        awaited.append(event)
        try:
            while not self.listening(key):
                await event.wait()
        finally:
            awaited.remove(event)
            if not awaited:
                self._awaited.pop(key, None)

    async def listen(self, key: Hashable, send: Callable[[Item], Awaitable[None]]) -> None:
        """Send each offer of a line to its listener, in order, until a newer listener takes over.

        What an older listener has not sent goes to the newer one, also an item whose sending fails.
        """
        line = self._lines.setdefault(key, _Line())
        if line.listener is not None:
            line.listener.superseded = True
            line.listener.wake.set()
        listener = line.listener = _Listener()
        for event in self._awaited.get(key, ()):
            event.set()
        try:
            while not listener.superseded:
                listener.wake = anyio.Event()
                if line.offers:
                    await self._send(line, send)
                else:
                    await listener.wake.wait()
        finally:
            if line.listener is listener:
                line.listener = None
            self._tidy(key, line)

    @staticmethod
    async def _send(line: _Line[Item], send: Callable[[Item], Awaitable[None]]) -> None:
        offer = line.offers.popleft()
        offer.taken = True
        line.sending += 1
        try:
            await send(offer.item)
        except BaseException:
            offer.taken = False
            if not offer.settled.is_set():
                line.offers.appendleft(offer)
                line.nudge()
            raise
        finally:
            line.sending -= 1
        offer.settle()

    async def offer(self, key: Hashable, item: Item, patience: float) -> None:
        """Wait until an item was sent to the listener of a line.

        Args:
            key: the line.
            item: what the listener gets.
            patience: seconds for which a listener is waited for.

        Raises:
            NoListener: none took it in time; the item was withdrawn.
            Full: the listener that there is has too many to send already.
            Closed: the line was closed meanwhile.
        """
        line = self._lines.setdefault(key, _Line())
        if len(line.offers) >= (self.most_early if line.listener is None else self.capacity):
            self._tidy(key, line)
            raise Full if line.listener is not None else NoListener
        offer = _Offer(item)
        line.offers.append(offer)
        line.nudge()
        try:
            with anyio.move_on_after(patience):
                await offer.settled.wait()
        finally:
            if not offer.settled.is_set():
                # One that is just being sent may still arrive; nobody comes to it then.
                offer.settle(NoListener())
                if not offer.taken:
                    line.offers.remove(offer)
            self._tidy(key, line)
        if offer.outcome is not None:
            raise offer.outcome

    def close(self, key: Hashable) -> None:
        """Drop what waits in a line; its listener stays and gets nothing more unless it is used again."""
        line = self._lines.get(key)
        if line is None:
            return
        while line.offers:
            line.offers.popleft().settle(Closed())
        self._tidy(key, line)

    def _tidy(self, key: Hashable, line: _Line[Item]) -> None:
        if line.listener is None and not line.offers and not line.sending and self._lines.get(key) is line:
            del self._lines[key]
