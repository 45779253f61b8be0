"""Moments to come, one for each of many things, and which of them have come."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from datetime import datetime
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """A heap of moments. What is set again or cancelled stays in the heap, out of date, until it comes up."""

    def __init__(self) -> None:
        self._moments: dict[K, tuple[datetime, int]] = {}
        self._heap: list[tuple[datetime, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._moments)

    def set(self, key: K, moment: datetime | None) -> None:
        """Replace the moment of a thing; None cancels it."""
        if moment is None:
            self._moments.pop(key, None)
            return
        former = self._moments.get(key)
        if former is not None and former[0] == moment:
            return
        self._count += 1
        self._moments[key] = (moment, self._count)
        if len(self._heap) > 2 * len(self._moments) + 64:
            self._heap = [(when, count, item) for item, (when, count) in self._moments.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (moment, self._count, key))

    def next(self) -> datetime | None:
        """Return the first moment to come."""
        while self._heap and self._moments.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: datetime) -> Iterator[K]:
        """Take out and yield what is due, the earliest first."""
        while (moment := self.next()) is not None and moment <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._moments[key]
            yield key
