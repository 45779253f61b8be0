"""Whether leases are used: in memory, because it changes all the time. After a restart all count as just used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ..model import lease as life
from ..model.records import Key, Lease, Record
from ..store.base import Update, Write
from .core import SERVER, Core

_WORTH = timedelta(seconds=1)


class Uses:
    """Knows until when each active lease may stay unused, and until when use is to extend it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._idle_until: dict[Key, datetime] = {}
        self._extended: dict[Key, datetime] = {}
        core.listeners.append(self._changed)

    def _changed(self, old: Record | None, new: Record | None) -> None:
        record = new or old
        if not isinstance(record, Lease):
            return
        key = record.key
        if not isinstance(new, Lease) or new.ended or not new.exporter:
            self._idle_until.pop(key, None)
            self._extended.pop(key, None)
            return
        former = old.idle_timeout if isinstance(old, Lease) else None
        if new.idle_timeout is None:
            self._idle_until.pop(key, None)
        elif key not in self._idle_until or former != new.idle_timeout:
            self._idle_until[key] = self._core.now() + new.idle_timeout
        end = life.expiry(new)
        if key in self._extended and (end is None or end >= self._extended[key]):
            del self._extended[key]

    def idle_until(self, key: Key) -> datetime | None:
        """Return when a lease ends if nobody uses it until then."""
        return self._idle_until.get(key)

    def expiry(self, lease: Lease) -> datetime | None:
        """Return when a lease ends, with extensions that the store has not yet."""
        end = life.expiry(lease)
        wanted = self._extended.get(lease.key)
        return wanted if wanted is not None and (end is None or wanted > end) else end

    def used(self, lease: Lease) -> None:
        """Take note that a lease is used now."""
        key, now = lease.key, self._core.now()
        if lease.idle_timeout is not None:
            before = self._idle_until.get(key)
            self._idle_until[key] = now + lease.idle_timeout
            if before is None or self._idle_until[key] - before >= _WORTH:
                self._core.followers.tell(key)
        if lease.extend_by_use is None:
            return
        end = self.expiry(lease)
        wanted = now + lease.extend_by_use
        if lease.limit is not None:
            wanted = min(wanted, lease.limit)
        # Extending a little further than asked for, and less often, keeps writes rare.
        if end is not None and wanted - end >= max(_WORTH, lease.extend_by_use / 10):
            self._extended[key] = wanted
            self._core.chores.add(("extend", key), lambda: self._extend(key))

    async def _extend(self, key: Key) -> None:
        changed: list[Lease] = []

        def build() -> Sequence[Write]:
            changed.clear()
            lease = self._core.world.lease(key)
            wanted = self._extended.get(key)
            if lease is None or not lease.exporter or wanted is None:
                return ()
            end = life.expiry(lease)
            if end is None or wanted <= end:
                self._extended.pop(key, None)
                return ()
            changed.append(life.extend_to(lease, wanted))
            return (Update(changed[0]),)

        await self._core.ledger.transact(build)
        for lease in changed:
            self._core.audit(
                SERVER,
                "lease.extend",
                lease.meta.namespace,
                client=lease.client,
                exporter=lease.exporter,
                lease=lease.meta.name,
                reason="in use",
                until=str(life.expiry(lease)),
            )
