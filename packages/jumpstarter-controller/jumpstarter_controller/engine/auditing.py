"""The audit record: entries are gathered in memory and written in batches, soon."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio

from ..clock import Clock
from ..model.records import AuditEntry
from ..store.base import Store, StoreError

logger = logging.getLogger(__name__)

MAXIMUM_WAITING = 50_000
"""So many entries wait for a store that is away; of further ones only the number is kept."""

_BATCH = 1000
_SECONDS = 0.25
_LONGEST_PAUSE = 10.0
_LAST_SECONDS = 5.0
_LONGEST_VALUE = 512


class Auditor:
    """Writes entries, in the order in which they came."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: deque[AuditEntry] = deque()
        self._dropped = 0
        self.dropped_total = 0
        """Entries that could not be kept, since the start."""
        self._wake = anyio.Event()
        self._writing = anyio.Lock()

    def note(
        self,
        namespace: str,
        actor_kind: str,
        actor: str,
        peer: str,
        action: str,
        details: Mapping[str, Any],
    ) -> None:
        """Add an entry; never blocks. `client`, `exporter` and `lease` of the details become fields of their own."""
        if len(self._waiting) >= MAXIMUM_WAITING:
            self._dropped += 1
            self.dropped_total += 1
            return
        rest = {
            key: value[:_LONGEST_VALUE] if isinstance(value, str) else value
            for key, value in details.items()
            if key not in ("client", "exporter", "lease") and value not in ("", None)
        }
        self._waiting.append(
            AuditEntry(
                time=self._clock.now(),
                namespace=namespace,
                actor_kind=actor_kind,
                actor=actor,
                action=action,
                peer=peer,
                client=str(details.get("client", "")),
                exporter=str(details.get("exporter", "")),
                lease=str(details.get("lease", "")),
                details=rest,
            )
        )
        self._wake.set()

    @property
    def waiting(self) -> int:
        """How many entries wait to be written."""
        return len(self._waiting)

    async def run(self) -> None:
        """Write what is noted, until cancelled, and then the rest."""
        gather: float = getattr(self._store, "audit_seconds", _SECONDS)
        pause = gather
        try:
            while True:
                await self._wake.wait()
                await anyio.sleep(pause)
                try:
                    await self.flush()
                    pause = gather
                except StoreError as error:
                    if pause == _SECONDS:
                        logger.warning("The audit record can't be written, entries are kept for later: %s", error)
                    pause = min(_LONGEST_PAUSE, pause * 2)
        finally:
            with anyio.move_on_after(_LAST_SECONDS, shield=True) as scope:
                try:
                    await self.flush()
                except StoreError as error:
                    logger.error("The last %d audit entries can't be written: %s", len(self._waiting), error)
            if scope.cancelled_caught:
                logger.error("The last %d audit entries were not written in time", len(self._waiting))

    async def flush(self) -> None:
        """Write all that waits.

        Raises:
            StoreError: it can't be written and stays.
        """
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(_BATCH, len(self._waiting)))]
            # Half a write can't be taken back: a cancelled one would be done again.
            with anyio.CancelScope(shield=True):
                await self._store.record_audit(batch)
            for _ in batch:
                self._waiting.popleft()
            if self._dropped:
                last = batch[-1]
                dropped, self._dropped = self._dropped, 0
                self._waiting.append(
                    replace(
                        last,
                        actor_kind="server",
                        actor="",
                        peer="",
                        client="",
                        exporter="",
                        lease="",
                        action="audit.drop",
                        details={"entries": dropped},
                    )
                )
        self._wake = anyio.Event()
