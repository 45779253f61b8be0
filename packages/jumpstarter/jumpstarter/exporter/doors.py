"""The doors of a lease: a Unix socket for each client that has come, in each of its roles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from jumpstarter.common.exceptions import ConnectionError

from .callers import Caller
from .door import Door

if TYPE_CHECKING:
    from .session import Session
    from .uses import Uses

__all__ = ["Doors"]

MOST_DOORS = 256
"""Clients that come in one lease."""


class Doors:
    """The doors of one session, opened when somebody comes; an asynchronous context manager that closes them."""

    def __init__(self, session: Session, uses: Uses, endpoints: Callable[[Caller], list[Any]] | None = None) -> None:
        self._session = session
        self._uses = uses
        self._endpoints = endpoints
        self._doors: dict[Caller, Door] = {}
        self._paths: dict[Caller, Path] = {}
        self._opening = anyio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def door(self, caller: Caller) -> Door:
        """Return the door of a client.

        Raises:
            ConnectionError: too many clients have come.
        """
        found = self._doors.get(caller)
        if found is None:
            if len(self._doors) >= MOST_DOORS:
                raise ConnectionError(f"more than {MOST_DOORS} clients have come in this lease")
            found = self._doors[caller] = Door(self._session, caller, self._uses, self._endpoints)
        return found

    async def path(self, caller: Caller) -> Path:
        """Return the socket before which a client has to be brought; errors as of `door`."""
        door = self.door(caller)
        async with self._opening:
            if caller not in self._paths:
                self._paths[caller] = await self._stack.enter_async_context(self._session.serve_door_async(door))
            return self._paths[caller]
