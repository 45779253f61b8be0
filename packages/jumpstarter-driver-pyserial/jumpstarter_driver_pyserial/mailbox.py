"""A bounded buffer of bytes from a thread that reads a line to the task that listens, if one does."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress

import anyio


class Mailbox:
    """Keeps what nobody has received yet: at most `limit` bytes, of which the oldest are dropped when more come.

    Any thread may put; one task at a time may receive. It is bound to no event loop.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._finished = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._closed = False

    @property
    def unread(self) -> int:
        """Bytes that nobody has received yet."""
        return self._size

    @property
    def dropped(self) -> int:
        """Bytes that were dropped since take_dropped() was called last."""
        return self._dropped

    def put(self, data: bytes) -> None:
        """Add bytes, dropping the oldest beyond the limit."""
        with self._lock:
            self._chunks.append(data)
            self._size += len(data)
            while self._size > self._limit:
                excess = self._size - self._limit
                oldest = self._chunks.popleft()
                kept = oldest[excess:]
                self._size -= len(oldest) - len(kept)
                self._dropped += len(oldest) - len(kept)
                if kept:
                    self._chunks.appendleft(kept)
            self._wake()

    def finish(self) -> None:
        """Say that no more will come; what is there stays receivable."""
        with self._lock:
            self._finished = True
            self._wake()

    def clear(self) -> None:
        """Forget what nobody has received."""
        with self._lock:
            self._chunks.clear()
            self._size = self._dropped = 0

    def take(self) -> bytes | None:
        """Return all bytes that are there, b"" when there are none yet, None at the end."""
        with self._lock:
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
            return None if not data and self._finished else data

    def take_dropped(self) -> int:
        """Return how many bytes were dropped since the last time."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped

    async def wait(self) -> None:
        """Return when something was put, finished or nudged since the last time."""
        await anyio.wait_readable(self._wake_read)
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def nudge(self) -> None:
        """Let wait() return."""
        with self._lock:
            self._wake()

    def close(self) -> None:
        """Release the descriptors; nobody may be receiving."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._wake_read)
                os.close(self._wake_write)

    def _wake(self) -> None:
        if not self._closed:
            with suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")
