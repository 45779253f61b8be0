"""The one thread that writes to an SQLite database: whatever waits is written together and made durable once."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import anyio

from ..clock import Clock
from .base import Changed, Deleted, StoreError, Unavailable
from .sqlite_files import connect, error_code, identity, translate

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 256
"""So many transactions are made durable together at most."""

_WAITING = 1024
"""So many transactions may wait; further ones wait to be let in."""

_CLOSE_SECONDS = 60.0
"""For how long closing waits for a disk."""

_OF_THE_JOB = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE)
"""Errors that are the fault of what was to be written; all others are the database's."""

_KEEP_CONNECTION = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""Errors after which a connection works on; after others it is made anew."""


class Transaction:
    """What one transaction works with."""

    patience = 0.005
    """A transaction that can be cut into several should not last much longer than this, in seconds: others wait."""

    def __init__(self, writer: Writer, connection: sqlite3.Connection) -> None:
        self._writer = writer
        self._version = 0
        self.connection = connection
        self.now: datetime = writer.clock.now()
        self._begun = time.monotonic()
        self.events: list[Changed | Deleted] = []
        """What watchers are to be told when it is durable."""

    @property
    def long(self) -> bool:
        """Whether it has lasted long enough, so that the rest should be done in another one."""
        return time.monotonic() - self._begun > self.patience

    @property
    def version(self) -> int:
        """The number of this commit, larger than all before."""
        if not self._version:
            self._version = self._writer._draw()
        return self._version


class _Job(Generic[T]):
    """A transaction that waits, and who waits for it."""

    __slots__ = ("done", "error", "events", "result", "work")

    def __init__(self, work: Callable[[Transaction], T], done: asyncio.Future[T]) -> None:
        self.work = work
        self.done = done
        self.events: list[Changed | Deleted] = []
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """Runs transactions in the order in which they came, one by one, and makes those that wait durable together.

    Args:
        publish: is called on the event loop with the changes of each transaction that is durable, in order, before
            whoever waits for the transaction goes on.
    """

    def __init__(self, path: Path, clock: Clock, publish: Callable[[Sequence[Changed | Deleted]], None]) -> None:
        self.clock = clock
        self._path = path
        self._publish = publish
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._places = anyio.Semaphore(_WAITING, fast_acquire=True)
        self._loop = asyncio.get_running_loop()
        self._ended = anyio.Event()
        self._closing = False
        self._drawn = self._kept = 0
        self._connection: sqlite3.Connection | None = None
        self._identity = identity(path)
        self._thread = threading.Thread(target=self._main, name=f"store-writer {path.name}", daemon=True)

    def start(self, connection: sqlite3.Connection, version: int) -> None:
        """Begin to write, through a connection that is the writer's from now on.

        Args:
            version: the number of the last commit.
        """
        self._connection = connection
        self._drawn = self._kept = version
        self._thread.start()

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """Run a transaction in the writing thread and return its result when it is durable.

        When this is cancelled while the transaction waits to be let in, nothing happens. When it is cancelled later,
        the transaction is done nevertheless, as it would have been otherwise, and watchers are told.

        Raises:
            StoreError: it conflicts, or the database does not work; nothing was changed.
        """
        await self._places.acquire()
        if self._closing:
            self._places.release()
            raise StoreError(f"The store {self._path} is closed.")
        job = _Job(work, self._loop.create_future())
        self._jobs.put(job)
        return await job.done

    async def close(self) -> None:
        """Do what waits, move the log into the database and close it."""
        self._closing = True
        self._jobs.put(None)
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True) as scope:
            await self._ended.wait()
        if scope.cancelled_caught:
            logger.error("The disk of the store %s does not answer; what was not acknowledged may be lost.", self._path)

    # -- on the event loop -------------------------------------------------------------------------

    def _deliver(self, jobs: Sequence[_Job[Any]]) -> None:
        for job in jobs:
            self._places.release()
            try:
                if job.events:
                    self._publish(job.events)
            finally:
                if not job.done.done():
                    if job.error is None:
                        job.done.set_result(job.result)
                    else:
                        job.done.set_exception(job.error)

    # -- in the writing thread -----------------------------------------------------------------------

    def _main(self) -> None:
        try:
            open_still = True
            while open_still:
                jobs, open_still = self._waiting()
                if jobs:
                    self._write(jobs)
                    self._loop.call_soon_threadsafe(self._deliver, jobs)
            self._checkpoint()
            self._drop_connection()
            self._loop.call_soon_threadsafe(self._ended.set)
        except RuntimeError:
            # The event loop was closed without the store: nobody is left to be told.
            logger.warning("The event loop of the store %s ended before the store was closed.", self._path)
        finally:
            self._drop_connection()

    def _waiting(self) -> tuple[list[_Job[Any]], bool]:
        """Return what waits, at least one unless the store closes, and whether more may come."""
        jobs: list[_Job[Any]] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == _BATCH:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _write(self, jobs: Sequence[_Job[Any]]) -> None:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._attempt(job, connection)
            if self._drawn != self._kept:
                connection.execute("UPDATE counter SET version = ?", (self._drawn,))
            connection.execute("COMMIT")
            self._kept = self._drawn
        except Exception as error:  # noqa: BLE001 - all who wait are told
            self._fail(jobs, error)

    def _attempt(self, job: _Job[Any], connection: sqlite3.Connection) -> None:
        transaction = Transaction(self, connection)
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.work(transaction)
            job.events = transaction.events
        except sqlite3.Error as error:
            if error_code(error) not in (0, *_OF_THE_JOB):
                raise
            connection.execute("ROLLBACK TO job")
            job.error = translate(error, self._path)
        except Exception as error:  # noqa: BLE001 - whoever asked for it is told
            connection.execute("ROLLBACK TO job")
            job.error = error
        connection.execute("RELEASE job")

    def _fail(self, jobs: Sequence[_Job[Any]], error: Exception) -> None:
        """Take back all: also conflicts, because they may have been with what is taken back."""
        if isinstance(error, sqlite3.Error):
            told = translate(error, self._path)
        elif isinstance(error, StoreError):
            told = error
        else:
            logger.error("The store %s failed", self._path, exc_info=error)
            told = StoreError(f"The store {self._path} failed: {error!r}.")
        for job in jobs:
            job.result, job.events = None, []
            # One exception for each: they get a traceback of their own.
            job.error = type(told)(str(told))
        keep = isinstance(error, sqlite3.Error) and error_code(error) in _KEEP_CONNECTION
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            keep = False
        if not keep:
            self._drop_connection()

    def _connected(self) -> sqlite3.Connection:
        if identity(self._path) != self._identity:
            self._drop_connection()
            raise Unavailable(
                f"The store {self._path} was removed or replaced while it was in use. Put the file back, or restart "
                "the server to go on with what is there now."
            )
        if self._connection is None:
            self._connection = connect(self._path)
        return self._connection

    def _drop_connection(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.close()
        except sqlite3.Error as error:
            logger.warning("%s", translate(error, self._path))
        self._connection = None

    def _checkpoint(self) -> None:
        """Move the log into the database; when that fails now, the next start does it."""
        try:
            if self._connection is not None:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            logger.warning("%s", translate(error, self._path))

    def _draw(self) -> int:
        self._drawn += 1
        return self._drawn
