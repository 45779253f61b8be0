"""What is known of leases and exporters at a moment, beyond their records."""

from __future__ import annotations

import heapq
from datetime import datetime

import anyio

from ..asks import ExporterView, Holder, LeaseView
from ..model import lease as life
from ..model.records import Exporter, Key, Kind, Lease
from ..scheduler import Group
from .core import Core
from .presence import Presence
from .use import Uses

MAXIMUM_HOLDERS = 8

_FEW = 32
"""Holders of so many exporters are looked up each time; of more, at most twice a second."""

_FRESH_SECONDS = 0.5


class Views:
    """Looks at the world for those who want to see more than a record."""

    def __init__(self, core: Core, presence: Presence, uses: Uses) -> None:
        self._core = core
        self._presence = presence
        self._uses = uses
        self._holders: dict[Group, tuple[float, tuple[Holder, ...]]] = {}

    def current(self, lease: Lease) -> Lease:
        """Return a lease with the reason for which it waits now; the store has the first one only."""
        if lease.ended or lease.exporter or self._core.scheduler.group_of(lease.key) is None:
            return lease
        verdict = self._core.scheduler.verdict(lease, self._core.now())
        if verdict.final:
            # Whether it is given up is decided a little later.
            return lease
        pending = life.condition(lease, "Pending")
        if pending is not None and (pending.reason, pending.message) == (verdict.reason, verdict.message):
            return lease
        return life.pend(lease, verdict.reason, verdict.message, self._core.now())

    def lease(self, lease: Lease) -> LeaseView:
        """Return what is known of a lease."""
        now = self._core.now()
        lease = self.current(lease)
        state = life.state(lease, now)
        last = lease.conditions[-1] if lease.conditions else None
        reason = ""
        if last is not None and state in (life.State.PENDING, life.State.ENDED):
            reason = last.message or last.reason
        if state is not life.State.PENDING:
            until = lease.ended_at if lease.ended else self._uses.expiry(lease)
            return LeaseView(lease=lease, reason=reason, until=until, idle_until=self._uses.idle_until(lease.key))
        place, waiting = self._core.scheduler.place(lease.key)
        group = self._core.scheduler.group_of(lease.key)
        return LeaseView(
            lease=lease,
            place=place,
            waiting=waiting,
            holders=self._holders_of(group) if group is not None else (),
            reason=reason,
            until=life.expiry(lease),
        )

    def _holders_of(self, group: Group) -> tuple[Holder, ...]:
        if len(group.members) <= _FEW:
            return self._find_holders(group)
        now = self._core.clock.monotonic()
        known = self._holders.get(group)
        if known is not None and now - known[0] < _FRESH_SECONDS:
            return known[1]
        if len(self._holders) > 1024:
            self._holders.clear()
        holders = self._find_holders(group)
        self._holders[group] = now, holders
        return holders

    def _find_holders(self, group: Group) -> tuple[Holder, ...]:
        latest = datetime.max.replace(tzinfo=self._core.now().tzinfo)
        exporters = self._core.world.exporters(group.namespace)
        found = (self.holder(exporter) for name in group.members if (exporter := exporters.get(name)) is not None)
        return tuple(
            heapq.nsmallest(
                MAXIMUM_HOLDERS,
                (holder for holder in found if holder is not None),
                key=lambda holder: (holder.until or latest, holder.exporter),
            )
        )

    def holder(self, exporter: Exporter) -> Holder | None:
        """Return who has an exporter."""
        if not exporter.lease:
            return None
        lease = self._core.world.lease(Key(Kind.LEASE, exporter.meta.namespace, exporter.lease))
        if lease is None:
            return None
        return Holder(
            exporter=exporter.meta.name, client=lease.client, lease=lease.meta.name, until=self._uses.expiry(lease)
        )

    def exporter(self, exporter: Exporter) -> ExporterView:
        """Return what is known of an exporter."""
        holder = self.holder(exporter)
        lease = self._core.world.lease(Key(Kind.LEASE, exporter.meta.namespace, exporter.lease)) if holder else None
        return ExporterView(
            exporter=exporter,
            holder=holder,
            since=lease.begun if lease is not None else None,
            waiting=self._core.scheduler.waiting_for(exporter.key),
            last_seen=self._presence.last_seen(exporter),
        )


class Ripples:
    """Tells those who wait that their place, or why they wait, may have changed: the nearer their turn, the sooner."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._told: dict[Key, tuple[int, float]] = {}

    async def run(self) -> None:
        """Tell once a second at most, until cancelled."""
        while True:
            await self._core.clock.sleep(1.0)
            self.tell()
            await anyio.lowlevel.checkpoint()

    def tell(self) -> None:
        """Tell those whose time it is."""
        now, told = self._core.clock.monotonic(), self._told
        self._told = {}
        for group, revision in self._core.scheduler.waiting():
            for index, (_, name) in enumerate(group.waiting):
                key = Key(Kind.LEASE, group.namespace, name)
                if not self._core.followers.followed(key):
                    continue
                known, when = told.get(key, (-1, 0.0))
                if known != revision and now - when >= max(1.0, index / 10):
                    self._core.followers.tell(key)
                    known, when = revision, now
                self._told[key] = known, when
