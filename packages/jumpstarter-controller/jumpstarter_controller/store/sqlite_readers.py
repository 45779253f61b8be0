"""Reads from an SQLite database, off the event loop and beside its writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from .base import StoreError
from .sqlite_files import connect, translate

T = TypeVar("T")

_AT_ONCE = 4
"""So many queries run side by side; a long one doesn't stop all others."""


class Readers:
    """A few connections that only read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        self._free: list[sqlite3.Connection] = []
        self._closed = False

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in a thread and return its result.

        Raises:
            StoreError: the database does not work.
        """
        return await anyio.to_thread.run_sync(self._run, query, limiter=self._limiter)

    def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreError(f"The store {self._path} is closed.")
        try:
            connection = self._free.pop() if self._free else connect(self._path, query_only=True)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        try:
            result = query(connection)
        except sqlite3.Error as error:
            # Another one is opened for the next query.
            connection.close()
            raise translate(error, self._path) from error
        except BaseException:
            connection.close()
            raise
        self._free.append(connection)
        return result

    async def close(self) -> None:
        """Close the connections, when the queries that run have ended."""
        self._closed = True
        places = [object() for _ in range(_AT_ONCE)]
        with anyio.CancelScope(shield=True):
            for place in places:
                await self._limiter.acquire_on_behalf_of(place)
            await anyio.to_thread.run_sync(self._close)
        # Those who still come are let in, to be told that it is closed.
        for place in places:
            self._limiter.release_on_behalf_of(place)

    def _close(self) -> None:
        while self._free:
            self._free.pop().close()
