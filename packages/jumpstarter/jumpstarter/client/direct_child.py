"""The direct way to an exporter as a program inside `jmp shell` uses it: by itself, without a detour over the shell."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from jumpstarter.common.env import JMP_DIRECT
from jumpstarter.streams.direct import available

if TYPE_CHECKING:
    from anyio.abc import AnyByteStream

    from .ways import Way

__all__ = ["DirectChild"]


class DirectChild:
    """What is known of an exporter whose lease another process has; see `local_paths.LocalPath`.

    Args:
        path: the socket of that process. It offers streams itself only while it reaches the exporter directly.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._endpoints: list[Any] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._way: Way | None = None

    def offered(self, response: Any, stub: Any) -> None:
        """Take note of where the exporter can be reached."""
        if os.environ.get(JMP_DIRECT) != "0":
            self._endpoints = list(response.alternative_endpoints)
            self._loop = asyncio.get_running_loop()

    async def open_stream(self, request: dict[str, Any]) -> tuple[dict[str, str], AnyByteStream] | None:
        """Open a byte stream directly, or leave it to the process that has the lease."""
        if not self._endpoints or asyncio.get_running_loop() is not self._loop or not available(self._path):
            return None
        from .ways import FAILURES, accepted, find_way

        if self._way is None:
            endpoints, self._endpoints = self._endpoints, []
            self._way = await find_way(endpoints)
            if self._way is None:
                return None
            self._endpoints = endpoints
        try:
            opened = await self._way.ask(request)
        except FAILURES:
            # The other process finds out whether there is a way again.
            self._endpoints = []
            return None
        return await accepted(*opened)
