"""What a lab consists of, to an administrator; the same for every kind of server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

Labels = Mapping[str, str]


class Kind(StrEnum):
    """Kinds of accounts."""

    CLIENT = "client"
    EXPORTER = "exporter"
    ADMIN = "admin"
    ROUTER = "router"

    @property
    def title(self) -> str:  # type: ignore[override]
        """The kind as messages and manifests have it, `Client`."""
        return self.value.capitalize()


@dataclass(frozen=True, kw_only=True)
class Device:
    """One driver of an exporter."""

    uuid: str
    parent_uuid: str | None = None
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Account:
    """A client, exporter, admin or router."""

    kind: Kind
    namespace: str
    name: str
    uid: str = ""
    version: str = ""
    """Changes with each change."""
    labels: Labels = field(default_factory=dict)
    username: str = ""
    """Name at a login provider."""
    enabled: bool = True
    created: datetime | None = None
    token_expires: datetime | None = None
    endpoint: str = ""
    """`host:port` of the controller."""

    status: str = ""
    """Of an exporter, as `LeaseReady`; empty when it has told none."""
    status_message: str = ""
    online: bool = False
    last_seen: datetime | None = None
    lease: str = ""
    """Of an exporter: the lease that holds it, and whose that is."""
    leased_by: str = ""
    devices: Sequence[Device] = ()
    device_count: int = 0


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a peer needs to act as an account."""

    account: Account
    endpoint: str
    ca: str = ""
    """PEM; empty when the roots of the system are enough."""
    token: str = field(repr=False)
    expires: datetime | None = None
    renewed: bool = False
    """Whether the former token stops working by this."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A condition on one label."""

    key: str
    operator: str
    """`In`, `NotIn`, `Exists` or `DoesNotExist`."""
    values: Sequence[str] = ()

    def __str__(self) -> str:
        match self.operator:
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
        return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A label selector; an empty one matches everything."""

    labels: Labels = field(default_factory=dict)
    requirements: Sequence[Requirement] = ()

    def __str__(self) -> str:
        return ",".join(
            [*(f"{key}={value}" for key, value in sorted(self.labels.items())), *map(str, self.requirements)]
        )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Clients that may have the exporters of a policy, and on what terms."""

    description: str = ""
    priority: int = 0
    clients: Sequence[Selector] = ()
    """Alternatives; none matches nobody."""
    maximum_duration: timedelta | None = None
    spot_access: bool = False
    maximum_leases: int = 0
    """0 for any number."""
    idle_timeout: timedelta | None = None
    extend_by_use: timedelta | None = None
    maximum_use: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Who may have which exporters."""

    namespace: str
    name: str
    uid: str = ""
    version: str = ""
    created: datetime | None = None
    exporters: Selector = field(default_factory=Selector)
    rules: Sequence[Rule] = ()


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Something that somebody did."""

    id: int
    time: datetime
    namespace: str
    actor_kind: str
    actor: str
    action: str
    peer: str = ""
    client: str = ""
    exporter: str = ""
    lease: str = ""
    details: Labels = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AuditQuery:
    """Which audit entries are wanted."""

    since: datetime | None = None
    until: datetime | None = None
    client: str = ""
    exporter: str = ""
    lease: str = ""
    action: str = ""
    """With a dot at the end, all that begin so."""


@dataclass(frozen=True, kw_only=True)
class Router:
    """A router, as the server sees it now."""

    name: str
    endpoint: str = ""
    labels: Labels = field(default_factory=dict)
    online: bool | None = False
    """None where the server doesn't know."""
    draining: bool = False
    streams: int = 0
    bytes_per_second: int = 0
    last_seen: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is administered, and as whom."""

    version: str
    namespace: str
    admin: str
    endpoint: str
    ca: str = ""
    everywhere: bool = True
    """Whether an administrator sees all namespaces."""
