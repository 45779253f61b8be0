"""The records of a lab, as they are kept in a store: accounts, leases and access policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic.dataclasses import dataclass

from .selector import Selector

ENDED_LABEL = "jumpstarter.dev/lease-ended"
"""Label of leases that have ended; its value is `true`."""

OWN_LABEL_PREFIX = "jumpstarter.dev/"
"""Prefix of the labels that exporters may give themselves."""

TAG_PREFIX = "metadata.jumpstarter.dev/"
"""Prefix of the labels that hold the tags of a lease."""

Labels = Mapping[str, str]


class Kind(StrEnum):
    """The kinds of records."""

    CLIENT = "clients"
    EXPORTER = "exporters"
    LEASE = "leases"
    POLICY = "policies"
    ADMIN = "admins"
    ROUTER = "routers"


@dataclass(frozen=True, order=True)
class Key:
    """What identifies a record."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/{self.kind}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What all records have; filled in by the store where it isn't given."""

    namespace: str
    name: str
    uid: str = ""
    """A UUID that the store mints at creation."""
    version: str = ""
    """Changes with every change of the record; opaque."""
    created: datetime | None = None
    labels: Labels = field(default_factory=dict)
    annotations: Labels = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that is known of a record, in the form of Kubernetes."""

    type: str
    status: str
    """`True`, `False` or `Unknown`."""
    reason: str
    message: str = ""
    since: datetime
    """When the status changed last."""


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What the server remembers of the token of an account; never the token itself."""

    jti: str = ""
    """Identity of the valid token; empty for none."""
    expires: datetime | None = None
    former: tuple[tuple[str, datetime], ...] = ()
    """Replaced tokens that are still accepted, each until a time."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who may call the server, of kind CLIENT, ADMIN or ROUTER; exporters are a record of their own."""

    kind: Kind
    meta: Meta
    username: str = ""
    """Name at a login provider, with its prefix; empty when only tokens of the server are used."""
    enabled: bool = True
    credential: Credential = field(default_factory=Credential)

    @property
    def key(self) -> Key:
        return Key(self.kind, self.meta.namespace, self.meta.name)


class ExporterStatus(StrEnum):
    """What an exporter says of itself; texts as in the resources of Kubernetes installations."""

    UNSPECIFIED = "Unspecified"
    OFFLINE = "Offline"
    AVAILABLE = "Available"
    BEFORE_LEASE_HOOK = "BeforeLeaseHook"
    LEASE_READY = "LeaseReady"
    AFTER_LEASE_HOOK = "AfterLeaseHook"
    BEFORE_LEASE_HOOK_FAILED = "BeforeLeaseHookFailed"
    AFTER_LEASE_HOOK_FAILED = "AfterLeaseHookFailed"


@dataclass(frozen=True, kw_only=True)
class Device:
    """One driver of an exporter's tree."""

    uuid: str
    parent_uuid: str | None = None
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """An account that owns hardware, with what is known of it."""

    meta: Meta
    username: str = ""
    enabled: bool = True
    credential: Credential = field(default_factory=Credential)
    devices: tuple[Device, ...] = ()
    """Empty while it is not registered."""
    online: bool = False
    """Whether it is connected; kept as it was for the grace time of a lost connection."""
    last_seen: datetime | None = None
    """When it was connected last, not kept current while it is."""
    status: ExporterStatus | None = None
    """The last one reported; None for exporters that report none, which then count as ready."""
    status_message: str = ""
    lease: str = ""
    """Name of the lease that holds it. Set and cleared together with `Lease.exporter` and `Lease.ended`."""
    freed: datetime | None = None
    """When it was leased last, for giving the least recently used one."""
    draining: bool = False
    """It asked not to be given another lease."""
    via: str = ""
    """Of several servers the one that it is, or was last, connected to."""

    @property
    def key(self) -> Key:
        return Key(Kind.EXPORTER, self.meta.namespace, self.meta.name)

    @property
    def registered(self) -> bool:
        return bool(self.devices)

    @property
    def ready(self) -> bool:
        """Whether it says that it may take a lease."""
        return self.status in (None, ExporterStatus.AVAILABLE, ExporterStatus.UNSPECIFIED)


class Role(StrEnum):
    """What another client than the owner may do with a lease."""

    DRIVER = "driver"
    WATCHER = "watcher"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A client's right, or wish, to have an exporter for a time."""

    meta: Meta
    client: str
    """Name of the owner, of the same namespace."""
    selector: Selector = field(default_factory=Selector)
    selector_text: str = ""
    """The selector as the requester wrote it; given back while it means the same."""
    exporter_name: str = ""
    """The exporter asked for by name; empty for any."""
    duration: timedelta | None = None
    begin_time: datetime | None = None
    """When it should begin."""
    end_time: datetime | None = None
    """When it should end."""
    tags: Labels = field(default_factory=dict)
    context: Labels = field(default_factory=dict)
    allow_disabled: bool = False
    release: bool = False
    """Its end was asked for."""

    exporter: str = ""
    """Name of the exporter that was assigned; stays after the end."""
    begun: datetime | None = None
    ended_at: datetime | None = None
    ended: bool = False
    conditions: tuple[Condition, ...] = ()
    priority: int = 0
    spot: bool = False

    shares: Mapping[str, Role] = field(default_factory=dict)
    """Names of other clients, of the same namespace, and what they may do."""
    policy: str = ""
    """The rule through which it was granted, as `policy` or `policy/description`."""
    limit: datetime | None = None
    """Beyond this it is not extended."""
    idle_timeout: timedelta | None = None
    """It ends when it was not used for this long."""
    extend_by_use: timedelta | None = None
    """So much is always left while it is used."""

    @property
    def key(self) -> Key:
        return Key(Kind.LEASE, self.meta.namespace, self.meta.name)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Clients that may have the exporters of a policy, and on what terms."""

    description: str = ""
    priority: int = 0
    clients: tuple[Selector, ...] = ()
    """Alternatives; an empty selector matches every client, no selector nobody."""
    maximum_duration: timedelta | None = None
    spot_access: bool = False
    maximum_leases: int = 0
    """Leases that one client may hold or wait for through this rule; 0 for any number."""
    idle_timeout: timedelta | None = None
    extend_by_use: timedelta | None = None
    maximum_use: timedelta | None = None
    """Hard limit from the begin of a lease; None for the maximum duration."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Who may have which exporters."""

    meta: Meta
    exporters: Selector = field(default_factory=Selector)
    """The exporters it is about; empty for all."""
    rules: tuple[Rule, ...] = ()

    @property
    def key(self) -> Key:
        return Key(Kind.POLICY, self.meta.namespace, self.meta.name)


Record = Account | Exporter | Lease | Policy


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Something that somebody did; entries are only ever added."""

    time: datetime
    namespace: str
    actor_kind: str
    """client, exporter, admin, router or server."""
    actor: str
    action: str
    """What was done, as `object.verb`: lease.create, driver.call, account.rotate, ..."""
    peer: str = ""
    client: str = ""
    exporter: str = ""
    lease: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Never arguments of driver calls, and never secrets."""
    id: int = 0
    """Given by the store; grows."""
