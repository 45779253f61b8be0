"""What a bus received, for several readers: a ring that a thread fills and coroutines read, each at its own pace."""

from __future__ import annotations

import asyncio
from threading import Lock

from anyio.lowlevel import checkpoint


class Inbox:
    """Holds the newest `capacity` records; when it is full the oldest one is dropped, and readers learn how many."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"an inbox needs room for one record at least, not {capacity}")
        self.capacity = capacity
        self.unread = 0
        """Number of the first record that no reader has taken yet."""
        self._slots: list[bytes] = [b""] * capacity
        self._end = 0
        self._lock = Lock()
        self._waiting: set[Reader] = set()

    @property
    def received(self) -> int:
        """Number of all records since the beginning."""
        return self._end

    def put(self, record: bytes) -> None:
        """Add a record; called from any thread, never waits."""
        with self._lock:
            self._slots[self._end % self.capacity] = record
            self._end += 1
            if not self._waiting:
                return
            waiting, self._waiting = self._waiting, set()
        for reader in waiting:
            reader.wake_from_thread()

    def reader(self, *, unread: bool = True) -> Reader:
        """Return a reader that begins with the records that nobody has read, or with those that are yet to come."""
        return Reader(self, self.unread if unread else self._end, counts=unread)

    def _copy(self, position: int, limit: int) -> tuple[list[bytes], int]:
        """Return at most `limit` records from `position` on, or from the oldest one, and the position after them."""
        with self._lock:
            position = max(position, self._end - self.capacity)
            count = min(limit, self._end - position)
            begin = position % self.capacity
            records = self._slots[begin : begin + count]
            if len(records) < count:
                records += self._slots[: count - len(records)]
            return records, position + count

    def _arm(self, reader: Reader) -> bool:
        """Have `reader` woken by the next record; False when there is one already."""
        with self._lock:
            if self._end > reader.position:
                return False
            self._waiting.add(reader)
            return True

    def _disarm(self, reader: Reader) -> None:
        with self._lock:
            self._waiting.discard(reader)


class Reader:
    """A place in an inbox; used on one event loop."""

    def __init__(self, inbox: Inbox, position: int, *, counts: bool) -> None:
        self.position = position
        self.lost = 0
        """Records that were dropped before this reader took them, since `take_lost`."""
        self._inbox = inbox
        self._counts = counts
        self._loop: asyncio.AbstractEventLoop | None = _running_loop()
        self._news = asyncio.Event()

    def take(self, limit: int) -> list[bytes]:
        """Return the next records that are there, at most `limit`; without waiting, so nothing is lost in between."""
        if not self._inbox.received > self.position:
            return []
        records, after = self._inbox._copy(self.position, limit)
        self.lost += after - len(records) - self.position
        self.position = after
        if self._counts:
            self._inbox.unread = max(self._inbox.unread, after)
        return records

    def skip(self) -> None:
        """Go on with the records that are yet to come."""
        self.position = self._inbox.received

    def take_lost(self) -> int:
        """Return how many records were dropped since this was asked last."""
        lost, self.lost = self.lost, 0
        return lost

    async def wait(self, *, records: bool = True) -> None:
        """Wait until there is a record to take, unless `records` are not wanted, or until `wake` is called."""
        self._loop = asyncio.get_running_loop()
        if self._news.is_set() or (records and not self._inbox._arm(self)):
            await checkpoint()
        else:
            try:
                await self._news.wait()
            finally:
                self._inbox._disarm(self)
        self._news.clear()

    def wake(self) -> None:
        """End the present or the next `wait`."""
        self._news.set()

    def wake_from_thread(self) -> None:
        """Do so from another thread."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:
                # The loop has ended, and with it whoever waited.
                return


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
