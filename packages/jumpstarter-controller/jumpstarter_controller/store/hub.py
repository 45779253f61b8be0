"""Tells watchers of changes: everything there is first, then every change in order, and all anew to who lags behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import anyio
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..model.records import Key, Kind, Lease, Record
from .base import Changed, Current, Deleted, Event, Restarted

DEFAULT_LIMIT = 8192
"""So many changes wait for a reader before it has to start again."""

_BREATH = 64
"""So many events are handed out in a row before other tasks get a turn."""


class Hub:
    """Holds the records that matter now (all but leases that have ended) and those who want to hear of changes.

    Everything here runs on the event loop. A store calls `publish` with the changes of a commit after it is durable and
    before it tells the one who committed.

    Args:
        limit: how many changes may wait for one reader; when there are more they are dropped and the reader gets a
            `Restarted` and everything again.
    """

    def __init__(self, *, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._records: dict[Key, Record] = {}
        self._watchers: dict[Kind, set[Watcher]] = {kind: set() for kind in Kind}
        self._closed = False

    def load(self, records: Iterable[Record]) -> None:
        """Take what there is at the start."""
        self._records = {record.key: record for record in records if not ended(record)}

    def get(self, key: Key) -> Record | None:
        """Return a record, unless it is a lease that has ended."""
        return self._records.get(key)

    def snapshot(self, kinds: Iterable[Kind]) -> list[Record]:
        """Return all records of some kinds, except leases that have ended."""
        wanted = frozenset(kinds)
        return [record for key, record in self._records.items() if key.kind in wanted]

    def publish(self, events: Iterable[Changed | Deleted]) -> None:
        """Tell of the changes of one commit."""
        for event in events:
            key = event.record.key
            if isinstance(event, Deleted) or ended(event.record):
                self._records.pop(key, None)
            else:
                self._records[key] = event.record
            for watcher in self._watchers[key.kind]:
                watcher._add(event)

    def watch(self, *kinds: Kind) -> Watcher:
        """Return a stream of events, an asynchronous context manager, of some kinds or of all when none is given."""
        watcher = Watcher(self, frozenset(kinds or Kind), self._limit)
        if self._closed:
            watcher._end()
            return watcher
        for kind in watcher.kinds:
            self._watchers[kind].add(watcher)
        return watcher

    def close(self) -> None:
        """End the streams of all watchers, after what still waits for them."""
        self._closed = True
        for watcher in {watcher for watchers in self._watchers.values() for watcher in watchers}:
            watcher._end()

    def _forget(self, watcher: Watcher) -> None:
        for kind in watcher.kinds:
            self._watchers[kind].discard(watcher)


class Watcher(ObjectReceiveStream[Event]):
    """What one reader has yet to hear."""

    def __init__(self, hub: Hub, kinds: frozenset[Kind], limit: int) -> None:
        self.kinds = kinds
        self._hub = hub
        self._limit = limit
        self._first: deque[Event] = deque()
        """What there was; not counted, because it can't grow."""
        self._changes: deque[Event] = deque()
        self._lags = False
        self._ended = False
        self._closed = False
        self._wake = anyio.Event()
        self._given = 0
        self._look()

    def _look(self) -> None:
        self._first.extend(Changed(record) for record in self._hub.snapshot(self.kinds))
        self._first.append(Current())

    def _add(self, event: Event) -> None:
        if self._lags:
            return
        if len(self._changes) >= self._limit:
            self._lags = True
            self._first.clear()
            self._changes.clear()
        else:
            self._changes.append(event)
        self._wake.set()

    def _end(self) -> None:
        self._ended = True
        self._wake.set()

    def _next(self) -> Event | None:
        if self._lags:
            self._lags = False
            self._first.append(Restarted())
            self._look()
        if self._first:
            return self._first.popleft()
        return self._changes.popleft() if self._changes else None

    async def receive(self) -> Event:
        """Return the next event.

        Raises:
            anyio.EndOfStream: the store was closed.
            anyio.ClosedResourceError: this stream was closed.
        """
        self._given += 1
        await (checkpoint_if_cancelled() if self._given % _BREATH else checkpoint())
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if (event := self._next()) is not None:
                return event
            if self._ended:
                raise anyio.EndOfStream
            if self._wake.is_set():
                self._wake = anyio.Event()
            await self._wake.wait()

    async def aclose(self) -> None:
        """Hear no more."""
        self._hub._forget(self)
        self._closed = True
        self._first.clear()
        self._changes.clear()
        self._wake.set()


def ended(record: Record) -> bool:
    """Return whether a record is a lease that has ended."""
    return isinstance(record, Lease) and record.ended
