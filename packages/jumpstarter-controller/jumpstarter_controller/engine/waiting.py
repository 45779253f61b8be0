"""Whether the owners of pending leases still wait: no exporter is kept for a client that died.

Who left before the grant is not forgotten by it: the lease ends when its owner isn't seen in time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from ..model.lease import WATCHED, State, state
from ..model.records import Key, Lease, Record
from ..store.base import Update, Write
from .core import Core

_MARK_AFTER = timedelta(seconds=2)
"""Only leases that wait for longer are marked in the store; what is granted at once is not worth a write."""


class Waits:
    """Counts who waits, and knows when the patience with those who left ends."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._counts: dict[Key, int] = {}
        self._left: dict[Key, datetime] = {}
        core.listeners.append(self._changed)

    def _changed(self, old: Record | None, new: Record | None) -> None:
        record = new or old
        if not isinstance(record, Lease):
            return
        key = record.key
        if not isinstance(new, Lease) or new.ended:
            self._left.pop(key, None)
        elif old is None and not new.exporter and WATCHED in new.meta.annotations and key not in self._counts:
            # Told by the store at the start, or waited for at another server: it may have died meanwhile.
            self._left[key] = self._core.now() + self._core.settings.leases.pending_grace

    @contextmanager
    def waits(self, key: Key) -> Iterator[None]:
        """Count the owner of a lease as waiting."""
        self._counts[key] = self._counts.get(key, 0) + 1
        self._left.pop(key, None)
        self._core.set_timer("mark", key, self._core.now() + _MARK_AFTER)
        try:
            yield
        finally:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
                lease = self._core.world.lease(key)
                # Who looks at a scheduled lease is not waiting for it yet, and may go.
                if lease is not None and state(lease, self._core.now()) is State.PENDING:
                    self._left[key] = self._core.now() + self._core.settings.leases.pending_grace
                    self._core.set_timer("lease", key, self._core.now())

    def here(self) -> list[Key]:
        """Return the leases that somebody waits for at this server."""
        return list(self._counts)

    def elsewhere(self, key: Key) -> None:
        """Take note that somebody waits for a lease at another server, which will say so again in time."""
        lease = self._core.world.lease(key)
        if lease is not None and not lease.ended and not lease.exporter and key not in self._counts:
            self._left[key] = self._core.now() + self._core.settings.leases.pending_grace
            self._core.set_timer("lease", key, self._core.now())

    def seen(self, key: Key) -> None:
        """Take note that the owner of a lease is there."""
        self._left.pop(key, None)

    def deadline(self, lease: Lease) -> tuple[datetime, str] | None:
        """Return until when a lease is kept although its owner is not seen, and what to say then."""
        key = lease.key
        if key in self._counts:
            return None
        left = self._left.get(key)
        if left is not None:
            return left, "its owner stopped waiting for it"
        if lease.exporter:
            return None
        limit = self._core.settings.leases.pending_limit
        if limit is None or lease.meta.created is None:
            return None
        since = max(lease.meta.created, lease.begin_time or lease.meta.created)
        return since + limit, f"it waited for longer than {limit}, the longest that this lab lets a lease wait"

    def look(self, key: Key) -> None:
        """Mark a lease whose owner has waited for a while."""
        lease = self._core.world.lease(key)
        if lease is None or key not in self._counts:
            return
        if state(lease, self._core.now()) is State.SCHEDULED and lease.begin_time is not None:
            self._core.set_timer("mark", key, lease.begin_time + _MARK_AFTER)
        elif not lease.exporter and WATCHED not in lease.meta.annotations:
            self._core.chores.add(("mark", key), lambda: self._mark(key))

    async def _mark(self, key: Key) -> None:
        def build() -> Sequence[Write]:
            lease = self._core.world.lease(key)
            if lease is None or lease.exporter or WATCHED in lease.meta.annotations:
                return ()
            annotations = {**lease.meta.annotations, WATCHED: "true"}
            return (Update(replace(lease, meta=replace(lease.meta, annotations=annotations))),)

        await self._core.ledger.transact(build)
