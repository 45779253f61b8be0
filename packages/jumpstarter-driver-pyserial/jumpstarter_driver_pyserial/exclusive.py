"""One connection at a time to a line that can't be shared."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from jumpstarter.common.exceptions import JumpstarterException

RELEASE_WAIT: Final = 3.0
"""Seconds that a new connection waits for the end of the one before, which may still be on its way."""


class LineInUse(JumpstarterException, RuntimeError):
    """Another connection has the line."""


class Exclusive:
    """Lets one task at a time use what is called `name` in messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = anyio.Lock()
        self._since = ""

    @asynccontextmanager
    async def acquired(self) -> AsyncGenerator[None, None]:
        """Have it to oneself.

        Raises:
            LineInUse: another task has it and keeps it.
        """
        with anyio.move_on_after(RELEASE_WAIT) as waiting:
            await self._lock.acquire()
        if waiting.cancelled_caught:
            raise LineInUse(
                f"{self._name} is in use by another connection since {self._since}. "
                "Close that one first: a console, a pexpect session or a stream that is still open"
            )
        self._since = time.strftime("%H:%M:%S")
        try:
            yield
        finally:
            self._lock.release()
