"""What has to be done now and then: old records are removed, and the clock is set."""

from __future__ import annotations

import logging

from ..clock import SystemClock
from ..model.records import Kind
from ..store.base import StoreError
from .core import Core

logger = logging.getLogger(__name__)

_FIRST_SECONDS = 30.0
_SECONDS = 600.0
_CLOCK_SECONDS = 10.0


class Upkeep:
    """Runs in the background."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self) -> None:
        """Remove what is too old, until cancelled."""
        await self._core.clock.sleep(_FIRST_SECONDS)
        while True:
            if self._core.leading:
                try:
                    await self.collect()
                except StoreError as error:
                    logger.warning("Old records can't be removed at present: %s", error)
            await self._core.clock.sleep(_SECONDS)

    async def collect(self) -> None:
        """Remove leases that ended long ago, and old audit entries.

        Raises:
            StoreError: the store is away.
        """
        settings, now = self._core.settings, self._core.now()
        if settings.leases.keep_ended is not None:
            count = await self._core.store.collect(Kind.LEASE, now - settings.leases.keep_ended)
            if count:
                logger.info("Removed %d leases that ended more than %s ago", count, settings.leases.keep_ended)
        before = now - settings.audit.keep if settings.audit.keep is not None else None
        if before is not None or settings.audit.max_entries:
            await self._core.store.collect_audit(before=before, keep=settings.audit.max_entries)

    async def keep_time(self) -> None:
        """Follow the clock of the system, at once when no lease runs and slowly otherwise, until cancelled."""
        clock = self._core.clock
        if not isinstance(clock, SystemClock):
            return
        warned = False
        while True:
            idle = not any(len(self._core.world.leases(name)) for name in self._core.world.namespaces(Kind.LEASE))
            ahead = clock.discipline(jump=idle)
            off = abs(ahead) > clock.tolerance
            if off and not warned:
                logger.warning("The clock of the system differs by %s from the lab's, which follows slowly", ahead)
            warned = off
            await clock.sleep(_CLOCK_SECONDS)
