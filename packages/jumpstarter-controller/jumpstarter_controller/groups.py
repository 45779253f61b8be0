"""Leases that ask for the same thing, and the exporters that they may have."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from .model.policy import Admission, Approval
from .model.records import Exporter, Key, Lease
from .model.selector import Selector

Rank = tuple[datetime, str]
"""When a lease was asked for, and its name: what orders equals."""

GroupKey = tuple[str, str, str, bool, tuple[tuple[str, int], ...]]


class Standing(IntEnum):
    """What keeps an exporter from being given."""

    OFFLINE = 0
    LEASED = 1
    NOT_READY = 2
    FREE = 3


@dataclass(frozen=True)
class Assignment:
    """The decision that a lease gets an exporter."""

    lease: Key
    exporter: Key
    approval: Approval


@dataclass(eq=False)
class Group:
    """Leases that ask for the same thing, and the exporters that they may have."""

    key: GroupKey
    selector: Selector
    admission: Admission
    members: dict[str, Approval] = field(default_factory=dict)
    waiting: list[Rank] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    heap: list[tuple[int, datetime, str]] = field(default_factory=list)
    """Free members, the best first; entries that are out of date are dropped when they come up."""
    hopeless_since: datetime | None = None
    overlaps: tuple[int, tuple[Group, ...]] = (-1, ())
    revision: int = 0
    """Changes whenever what its leases are told may have changed."""

    @property
    def namespace(self) -> str:
        return self.key[0]

    @property
    def pinned(self) -> str:
        return self.key[2]

    @property
    def allow_disabled(self) -> bool:
        return self.key[3]

    @property
    def priority(self) -> int:
        """The highest on which any of its exporters is had."""
        return max((approval.rule.priority for approval in self.members.values()), default=0)


def may_have(group: Group, exporter: Exporter) -> Approval | None:
    """Return on what terms the leases of a group may have an exporter; None when they may not."""
    if group.pinned and exporter.meta.name != group.pinned:
        return None
    if not exporter.enabled and not (group.pinned and group.allow_disabled):
        return None
    if not group.selector.matches(exporter.meta.labels):
        return None
    approval = group.admission.best(exporter.meta.labels)
    return None if approval is None or approval.rule.spot_access else approval


def asks(lease: Lease) -> tuple[object, ...]:
    """Return what of a lease decides on its group."""
    return lease.client, lease.duration, lease.begin_time, lease.end_time, lease.exporter, lease.ended
