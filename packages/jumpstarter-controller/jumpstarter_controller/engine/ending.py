"""Ends leases: the exporter is free and the lease over in one commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..asks import Actor
from ..model import lease as life
from ..model.records import Exporter, Key, Kind, Lease
from ..store.base import Update, Write
from .core import Core

Judge = Callable[[Lease], tuple[str, str] | None]
"""Returns reason and message of the end of a lease, or None when it is not to end; may raise `Refused`."""


def ending(core: Core, lease: Lease, ended: Lease) -> list[Write]:
    """Return the writes that end a lease, that of the exporter first."""
    writes: list[Write] = []
    exporter = core.world.exporter(Key(Kind.EXPORTER, lease.meta.namespace, lease.exporter)) if lease.exporter else None
    if exporter is not None and exporter.lease == lease.meta.name:
        writes.append(Update(life.free(exporter, core.now())))
    writes.append(Update(ended))
    return writes


async def end_lease(core: Core, actor: Actor, key: Key, judge: Judge) -> Lease | None:
    """End a lease, if it has not ended and is to; return it as it is then, or None.

    Raises:
        Refused: by the judge, or because the store is away.
    """
    found: list[Lease] = []
    reasons: list[tuple[str, str]] = []

    def build() -> list[Write]:
        found.clear()
        lease = core.world.lease(key)
        reason = judge(lease) if lease is not None else None
        if lease is None or reason is None:
            return []
        found.append(life.end(lease, *reason, core.now()))
        reasons.append(reason)
        return ending(core, lease, found[0])

    records = await core.ledger.transact(build)
    if not found:
        return None
    note_end(core, actor, found[0], *reasons[-1])
    ended = records[-1]
    assert isinstance(ended, Lease)
    return ended


def note_end(core: Core, actor: Actor, lease: Lease, reason: str, message: str) -> None:
    """Note in the audit record that a lease ended."""
    held = life.effective_duration(lease, core.now())
    core.audit(
        actor,
        "lease.end",
        lease.meta.namespace,
        client=lease.client,
        exporter=lease.exporter,
        lease=lease.meta.name,
        reason=reason,
        message=message,
        held_seconds=round(held.total_seconds()) if held is not None else None,
    )


def freed_of_shares(lease: Lease, client: str) -> Lease:
    """Return a lease in which a client has no role."""
    return replace(lease, shares={name: role for name, role in lease.shares.items() if name != client})


def exporters_lease(core: Core, exporter: Exporter) -> Lease | None:
    """Return the lease that an exporter has, if both agree."""
    lease = core.world.lease(Key(Kind.LEASE, exporter.meta.namespace, exporter.lease)) if exporter.lease else None
    return lease if lease is not None and lease.exporter == exporter.meta.name else None
