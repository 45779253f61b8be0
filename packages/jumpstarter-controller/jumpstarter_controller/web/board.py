"""What the dashboard shows: the state of a lab at a moment, as plain values that templates need only write down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..asks import ExporterView, LeaseView
from ..errors import Refused
from ..lab import Lab
from ..model.lease import State, state
from ..model.records import AuditEntry, Exporter, ExporterStatus, Kind, Lease
from ..services.convert import ROLES_LABEL

if TYPE_CHECKING:
    from ..router.members import Member
    from ..router.pool import RouterPool

MOST_EXPORTERS = 1000
MOST_LEASES = 300
"""Leases that are shown; those that are held and those that are next come first."""
MOST_READ = 1000
"""Leases of a namespace that are looked at."""
MOST_AUDIT = 50


@dataclass(frozen=True, kw_only=True)
class ExporterRow:
    """An exporter."""

    namespace: str
    name: str
    labels: tuple[tuple[str, str], ...]
    tone: str
    """good, busy, warn, bad or off."""
    status: str
    message: str
    client: str
    lease: str
    since: datetime | None
    until: datetime | None
    progress: int
    """Percent of the lease that are over."""
    waiting: int
    last_seen: datetime | None


@dataclass(frozen=True, kw_only=True)
class LeaseRow:
    """A lease that has not ended."""

    namespace: str
    name: str
    client: str
    exporter: str
    selector: str
    tone: str
    status: str
    reason: str
    since: datetime | None
    until: datetime | None
    idle_until: datetime | None
    tags: tuple[tuple[str, str], ...]
    shares: tuple[tuple[str, str], ...]
    rank: tuple[int, int, str]


@dataclass(frozen=True, kw_only=True)
class RouterRow:
    """A router."""

    name: str
    endpoint: str
    tone: str
    status: str
    streams: int
    waiting: int
    rate: str
    """Bytes per second, for people."""
    seen: datetime | None


@dataclass(frozen=True, kw_only=True)
class Board:
    """Everything on the page."""

    now: datetime
    scope: str
    """The namespace, empty for all of them."""
    namespaces: bool
    """There are several, so rows name theirs."""
    exporters: Sequence[ExporterRow]
    exporters_left_out: int
    leases: Sequence[LeaseRow]
    leases_left_out: int
    leases_unread: bool
    """There are more, which are not counted."""
    counts: Mapping[str, int]
    admin: bool
    routers: Sequence[RouterRow] = ()
    audit: Sequence[AuditEntry] | None = ()
    """None when it can't be read."""


async def look(lab: Lab, routers: RouterPool, scope: str, *, admin: bool) -> Board:
    """Return what there is to see.

    Args:
        scope: a namespace; empty for all of them.
        admin: with what only admins see.
    """
    now = lab.clock.now()
    exporters = [found for found in lab.accounts(Kind.EXPORTER, scope) if isinstance(found, Exporter)]
    accounts = [*exporters, *lab.accounts(Kind.CLIENT, scope)]
    namespaces = [scope] if scope else sorted({account.meta.namespace for account in accounts})
    leases = [lease for name in namespaces for lease in await lab.leases(name, limit=MOST_READ)]
    hidden = {*lab.settings.leases.hidden_labels, *lab.settings.leases.deprecated_labels, ROLES_LABEL}
    rows = sorted(
        (_exporter(lab.exporter_view(found), now, hidden) for found in exporters),
        key=lambda row: (row.namespace, _natural(row.name)),
    )
    lease_rows = sorted((_lease(lab.view(lease), now) for lease in leases), key=lambda row: row.rank)
    return Board(
        now=now,
        scope=scope,
        namespaces=len(namespaces) > 1,
        exporters=rows[:MOST_EXPORTERS],
        exporters_left_out=max(0, len(rows) - MOST_EXPORTERS),
        leases=lease_rows[:MOST_LEASES],
        leases_left_out=max(0, len(lease_rows) - MOST_LEASES),
        leases_unread=len(leases) >= MOST_READ,
        counts=_counts(exporters, rows, leases, now),
        admin=admin,
        routers=[_router(member) for member in routers.members()] if admin else (),
        audit=await _audit(lab) if admin else (),
    )


async def _audit(lab: Lab) -> Sequence[AuditEntry] | None:
    try:
        return await lab.read_audit(limit=MOST_AUDIT, newest_first=True)
    except Refused:
        # The store is away; what is in memory can be shown nevertheless.
        return None


def _counts(
    exporters: Sequence[Exporter], rows: Sequence[ExporterRow], leases: Sequence[Lease], now: datetime
) -> dict[str, int]:
    states = [state(lease, now) for lease in leases]
    return {
        "exporters": len(exporters),
        "free": sum(row.tone == "good" for row in rows),
        "leased": sum(bool(row.lease) for row in rows),
        "offline": sum(not exporter.online for exporter in exporters),
        "active": states.count(State.ACTIVE),
        "waiting": states.count(State.PENDING),
        "scheduled": states.count(State.SCHEDULED),
    }


# -- exporters -------------------------------------------------------------------------------------

_BUSY: Mapping[ExporterStatus, tuple[str, str]] = {
    ExporterStatus.BEFORE_LEASE_HOOK: ("busy", "Preparing"),
    ExporterStatus.AFTER_LEASE_HOOK: ("busy", "Cleaning up"),
    ExporterStatus.BEFORE_LEASE_HOOK_FAILED: ("bad", "Preparation failed"),
    ExporterStatus.AFTER_LEASE_HOOK_FAILED: ("bad", "Clean-up failed"),
    ExporterStatus.OFFLINE: ("off", "Offline"),
}


def _status(exporter: Exporter) -> tuple[str, str]:
    """Return tone and words for what an exporter does."""
    if not exporter.online:
        return ("off", "Offline") if exporter.last_seen or exporter.registered else ("off", "Never seen")
    if exporter.status is not None and exporter.status in _BUSY:
        return _BUSY[exporter.status]
    if exporter.lease:
        return "busy", "Leased"
    if exporter.draining:
        return "warn", "Draining"
    if not exporter.enabled:
        return "warn", "Disabled"
    return "good", "Free"


def _exporter(view: ExporterView, now: datetime, hidden: set[str]) -> ExporterRow:
    exporter, holder = view.exporter, view.holder
    tone, status = _status(exporter)
    until = holder.until if holder is not None else None
    progress = 0
    if view.since is not None and until is not None and until > view.since:
        progress = min(100, max(0, round((now - view.since) / (until - view.since) * 100)))
    return ExporterRow(
        namespace=exporter.meta.namespace,
        name=exporter.meta.name,
        labels=tuple(sorted(pair for pair in exporter.meta.labels.items() if pair[0] not in hidden)),
        tone=tone,
        status=status,
        message=exporter.status_message if exporter.online else "",
        client=holder.client if holder is not None else "",
        lease=holder.lease if holder is not None else "",
        since=view.since,
        until=until,
        progress=progress,
        waiting=view.waiting,
        last_seen=view.last_seen,
    )


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return what names are ordered by, so that board-2 comes before board-10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


# -- leases ----------------------------------------------------------------------------------------


def _lease(view: LeaseView, now: datetime) -> LeaseRow:
    lease = view.lease
    match state(lease, now):
        case State.ACTIVE:
            tone, status, group = "busy", "Active", 0
        case State.SCHEDULED:
            tone, status, group = "off", "Scheduled", 2
        case State.ENDED:
            tone, status, group = "off", "Ended", 3
        case _:
            tone, group = "warn", 1
            status = f"Waiting, {view.place} of {view.waiting}" if view.place else "Waiting"
    return LeaseRow(
        namespace=lease.meta.namespace,
        name=lease.meta.name,
        client=lease.client,
        exporter=lease.exporter or lease.exporter_name,
        selector=lease.selector_text or str(lease.selector),
        tone=tone,
        status=status,
        reason=view.reason if group == 1 else "",
        since=lease.begun or lease.begin_time or lease.meta.created,
        until=view.until,
        idle_until=view.idle_until,
        tags=tuple(sorted(lease.tags.items())),
        shares=tuple(sorted((name, role.value) for name, role in lease.shares.items())),
        rank=(group, view.place, lease.meta.name),
    )


# -- routers ---------------------------------------------------------------------------------------


def _router(member: Member) -> RouterRow:
    tone, status = ("good", "Up") if member.alive else ("bad", "Away")
    if member.alive and member.draining:
        tone, status = "warn", "Draining"
    return RouterRow(
        name=member.name,
        endpoint=member.endpoint,
        tone=tone,
        status=status,
        streams=member.streams,
        waiting=member.waiting,
        rate=f"{size(member.bytes_per_second)}/s",
        seen=member.seen,
    )


# -- words -----------------------------------------------------------------------------------------


def size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def ago(moment: datetime, now: datetime) -> str:
    """Return how far away a moment is: `in 5 min`, `5 min ago`."""
    text = span(abs(moment - now))
    if text == "0 s":
        return "now"
    return f"in {text}" if moment > now else f"{text} ago"


def span(length: timedelta) -> str:
    """Return a length of time in its two largest units."""
    seconds = round(length.total_seconds())
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for index, (unit, size) in enumerate(units):
        if seconds >= size:
            text = f"{seconds // size} {unit}"
            rest = seconds % size
            if index + 1 < len(units) - 1 and rest >= units[index + 1][1]:
                text += f" {rest // units[index + 1][1]} {units[index + 1][0]}"
            return text
    return "0 s"
