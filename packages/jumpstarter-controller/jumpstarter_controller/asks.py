"""What is asked of a lab, by whom, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .model.records import Exporter, Key, Lease, Role


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who asks for something."""

    kind: str
    """client, exporter, admin, router or server."""
    key: Key | None
    """None for the server itself."""
    peer: str = ""
    """Address without port."""


@dataclass(frozen=True, kw_only=True)
class LeaseRequest:
    """What a client asks for; the rules of the fields are those of `model.lease.reconcile_times` and the policies."""

    name: str = ""
    """Empty for one that the lab chooses, a UUIDv7."""
    selector: str = ""
    exporter_name: str = ""
    duration: timedelta | None = None
    begin_time: datetime | None = None
    end_time: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    allow_disabled: bool = False


@dataclass(frozen=True, kw_only=True)
class LeaseChange:
    """What is to change of a lease; None and "" leave a field as it is."""

    duration: timedelta | None = None
    begin_time: datetime | None = None
    end_time: datetime | None = None
    client: str = ""
    """Name of the client that is the owner from now on."""
    shares: Mapping[str, Role | None] = field(default_factory=dict)
    """Roles to give; None takes one away."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has an exporter that others wait for."""

    exporter: str
    client: str
    lease: str
    until: datetime | None


@dataclass(frozen=True, kw_only=True)
class LeaseView:
    """A lease and what is known of it at a moment."""

    lease: Lease
    place: int = 0
    """1 for the next one, 0 when it doesn't wait."""
    waiting: int = 0
    """How many wait for the same exporters, itself included."""
    holders: tuple[Holder, ...] = ()
    """Of the exporters that it waits for, those first that are free first; at most 8."""
    reason: str = ""
    until: datetime | None = None
    idle_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ExporterView:
    """An exporter and what is known of it at a moment."""

    exporter: Exporter
    holder: Holder | None = None
    since: datetime | None = None
    waiting: int = 0
    last_seen: datetime | None = None
    """Kept current while it is connected."""
