"""Moving bytes between blocking files and the event loop: reads one chunk ahead, writes one chunk behind.

While a worker thread reads or writes one chunk, the event loop sends or receives the one before or after it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from anyio import BrokenResourceError, CancelScope, EndOfStream
from anyio.abc import ObjectReceiveStream, ObjectSendStream

__all__ = ["CHUNK_SIZE", "ReadAhead", "WriteBehind", "finish", "interruptible", "receive_into", "send_from"]

CHUNK_SIZE = 1 << 20
"""Bytes moved at a time: large enough that a trip to a thread costs nothing beside it, below gRPC's 4 MiB."""

T = TypeVar("T")


@cache
def _workers() -> ThreadPoolExecutor:
    """Threads of our own, so that drivers that block all others don't stop transfers."""
    return ThreadPoolExecutor(8, thread_name_prefix="jumpstarter-storage")


def _start(work: Callable[..., T], *args: object) -> asyncio.Future[T]:
    job = asyncio.get_running_loop().run_in_executor(_workers(), work, *args)
    job.add_done_callback(lambda done: done.cancelled() or done.exception())  # its reader may have been cancelled
    return job


async def _finished(job: asyncio.Future[T]) -> T:
    """Wait for a job; being cancelled leaves it running."""
    await asyncio.wait([job])
    return job.result()


async def _settled(job: asyncio.Future[Any]) -> None:
    """Wait until a job is over, whatever came of it.

    gRPC cancels the task of a call directly, which no scope shields from, and may do so in the middle of the clean-up
    after another failure. A job that uses a file must be over before the file is closed, so that has to wait.
    """
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def finish(work: Callable[[], object]) -> None:
    """Run blocking clean-up in a worker thread, to its end, however often this task is cancelled meanwhile.

    Raises what `work` raised.
    """
    job = _start(work)
    await _settled(job)
    job.result()


async def interruptible(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work in a worker thread; when this task is cancelled, tell it to stop, and wait until it has.

    Args:
        work: looks at the event that it is given every now and then, and returns when that is set.

    Returns what `work` returned, and raises what it raised.
    """
    stop = threading.Event()
    job = _start(work, stop)
    try:
        return await _finished(job)
    finally:
        stop.set()
        await _settled(job)


class ReadAhead:
    """Reads chunks in a worker thread, one ahead of its user.

    Args:
        read: returns up to so many bytes, nothing at the end.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._job: asyncio.Future[bytes] | None = None

    async def next(self) -> bytes:
        """The next chunk, empty at the end. Raises what `read` raised."""
        if self._job is None:
            self._job = _start(self._read, CHUNK_SIZE)
        chunk = await _finished(self._job)
        self._job = _start(self._read, CHUNK_SIZE) if chunk else None
        return chunk

    async def settle(self) -> None:
        """Wait until no thread reads any more, so that the file can be closed."""
        if self._job is not None:
            await _settled(self._job)


class WriteBehind:
    """Writes chunks in a worker thread, one behind its user.

    Args:
        write: writes all of a chunk.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._job: asyncio.Future[object] | None = None
        self.written = 0
        """Bytes given to `write`."""

    async def put(self, chunk: bytes) -> None:
        """Write a chunk as soon as the one before it is written. Raises what writing that one raised."""
        if self._job is not None:
            await _finished(self._job)
        self.written += len(chunk)
        self._job = _start(self._write, chunk)

    async def flush(self) -> None:
        """Wait until everything is written. Raises what the last write raised."""
        if self._job is not None:
            await _finished(self._job)
            self._job = None

    async def settle(self) -> None:
        """Wait until no thread writes any more, whatever came of it, so that the file can be closed."""
        if self._job is not None:
            await _settled(self._job)


async def send_from(read: Callable[[int], bytes], stream: ObjectSendStream[bytes]) -> int:
    """Send all that `read` returns to `stream`; returns the number of bytes."""
    ahead = ReadAhead(read)
    sent = 0
    try:
        while chunk := await ahead.next():
            await stream.send(chunk)
            sent += len(chunk)
    finally:
        await ahead.settle()
    return sent


async def receive_into(stream: ObjectReceiveStream[bytes], write: Callable[[bytes], object]) -> int:
    """Write all that comes from `stream`; returns the number of bytes.

    Raises:
        ConnectionAbortedError: the stream broke before its end.
        Exception: what `write` raised.
    """
    behind = WriteBehind(write)
    try:
        while True:
            try:
                chunk = await stream.receive()
            except EndOfStream:
                break
            except BrokenResourceError as error:
                raise ConnectionAbortedError(
                    f"the connection to the client ended after {behind.written} bytes, before all was there"
                ) from error
            if chunk:
                await behind.put(chunk)
        await behind.flush()
    finally:
        await behind.settle()
    return behind.written
