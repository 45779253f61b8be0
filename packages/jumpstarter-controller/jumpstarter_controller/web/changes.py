"""Tells pages that there is something new to see: once a second at most, whatever happens in the lab."""

from __future__ import annotations

import anyio

from ..lab import Lab
from ..model.records import Kind

PAUSE = 1.0
"""Seconds between two changes that are told."""


class Changes:
    """Follows exporters and leases of all namespaces for all pages."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._revisions: dict[str, int] = {}
        self._last = 0
        self._wake = anyio.Event()
        self._ended = False

    async def run(self) -> None:
        """Follow until cancelled, or until the lab stops."""
        async with anyio.create_task_group() as tasks:
            for kind in (Kind.EXPORTER, Kind.LEASE):
                tasks.start_soon(self._follow, kind)

    async def _follow(self, kind: Kind) -> None:
        async with self._lab.follow_all(kind, "") as changes:
            async for keys in changes:
                self._last += 1
                for namespace in {key.namespace for key in keys} | {""}:
                    self._revisions[namespace] = self._last
                self._tell()
                await anyio.sleep(PAUSE)

    def end(self) -> None:
        """Have those who wait go home."""
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        self._wake.set()
        self._wake = anyio.Event()

    @property
    def ended(self) -> bool:
        """Nothing is told any more."""
        return self._ended

    def revision(self, scope: str) -> int:
        """Return a number that grows when something of a namespace changes; empty for all of them."""
        return self._revisions.get(scope, 0)

    async def after(self, scope: str, revision: int) -> int:
        """Wait until something has changed since a revision, and return the present one."""
        while self.revision(scope) <= revision and not self._ended:
            await self._wake.wait()
        return self.revision(scope)
