"""The lab at work: holds the records in memory, decides by the rules, writes to the store, and tells who waits.

Everything that serves somebody (gRPC, REST, pages) goes through here and holds no state of its own about records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .clock import Clock, SystemClock
from .model.records import Account, AuditEntry, Device, Exporter, ExporterStatus, Key, Kind, Lease, Policy, Role
from .model.selector import Selector
from .settings import Settings
from .store.base import Store


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


class Lab:
    """All records of a lab that matter now (everything but ended leases and audit), and all that can be done to them.

    Every method that changes something either does all of it, durably, and tells all who watch before it returns, or
    raises `Refused` and changes nothing. `Refused` with code UNAVAILABLE says that the store is away.

    Args:
        store: is opened by the caller and stays open as long as the lab.
        lead: whether this process decides (assigns exporters, ends leases); with several processes exactly one does.
    """

    def __init__(self, store: Store, settings: Settings | None = None, clock: Clock | None = None) -> None:
        self.store = store
        self.settings = settings or Settings()
        self.clock = clock or SystemClock()

    def run(self, *, lead: bool = True) -> AbstractAsyncContextManager[None]:
        """Load the records, end what expired meanwhile, then keep watch and decide while the body runs."""
        raise NotImplementedError

    # -- looking; from memory, so cheap and never blocking -----------------------------------------

    def account(self, key: Key) -> Account | Exporter | None:
        """Return a client, exporter, admin or router."""
        raise NotImplementedError

    def accounts(
        self, kind: Kind, namespace: str = "", selector: Selector | None = None
    ) -> Sequence[Account | Exporter]:
        """Return accounts by name, of all namespaces when none is given."""
        raise NotImplementedError

    def policies(self, namespace: str = "") -> Sequence[Policy]:
        """Return access policies by name."""
        raise NotImplementedError

    def active_lease(self, key: Key) -> Lease | None:
        """Return a lease that has not ended."""
        raise NotImplementedError

    async def lease(self, key: Key) -> Lease | None:
        """Return a lease, also one that has ended."""
        raise NotImplementedError

    async def leases(
        self,
        namespace: str,
        *,
        selector: Selector | None = None,
        only_active: bool = True,
        limit: int = 0,
        after: str = "",
    ) -> Sequence[Lease]:
        """Return leases by name whose labels match, from the one after the name `after`; 0 is no limit."""
        raise NotImplementedError

    def view(self, lease: Lease) -> LeaseView:
        """Return what is known of a lease now."""
        raise NotImplementedError

    def exporter_view(self, exporter: Exporter) -> ExporterView:
        """Return what is known of an exporter now."""
        raise NotImplementedError

    def follow(self, *keys: Key) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Iterate over the moments at which one of these records, or what a view tells of it, has changed.

        Changes that come while the reader is busy are told once. The first item comes at once. Changes of a mere place
        in the queue are told less often than others.
        """
        raise NotImplementedError

    def follow_all(self, kind: Kind, namespace: str) -> AbstractAsyncContextManager[AsyncIterator[frozenset[Key]]]:
        """Iterate over the sets of records that changed since the last item; the first item is all there are."""
        raise NotImplementedError

    # -- exporters -------------------------------------------------------------------------------

    async def register(self, actor: Actor, labels: Mapping[str, str], devices: Iterable[Device]) -> Exporter:
        """Take note of what an exporter offers: its own labels replace those of the prefix, others are dropped."""
        raise NotImplementedError

    async def unregister(self, actor: Actor, reason: str) -> None:
        """Take an exporter's devices out, offline at once; its lease stays."""
        raise NotImplementedError

    async def report_status(
        self, actor: Actor, status: ExporterStatus, message: str = "", *, release: bool = False
    ) -> None:
        """Take note of what an exporter does; with `release` its lease ends as well, if there is one."""
        raise NotImplementedError

    def connected(self, actor: Actor) -> AbstractContextManager[None]:
        """Count an exporter as connected while the body runs (one Status stream; there may be several)."""
        raise NotImplementedError

    async def drain(self, actor: Actor, draining: bool, reason: str = "") -> None:
        """Give an exporter no further lease, or leases again."""
        raise NotImplementedError

    async def used(self, actor: Actor, lease: Key, *, in_use: bool) -> None:
        """Take note that a lease is or was just in use; extends it, or puts off its end, as its rule says."""
        raise NotImplementedError

    # -- leases ----------------------------------------------------------------------------------

    async def create_lease(self, actor: Actor, request: LeaseRequest) -> Lease:
        """Make a lease for a client; it has its exporter already when there is a free one."""
        raise NotImplementedError

    async def update_lease(self, actor: Actor, key: Key, change: LeaseChange) -> Lease:
        """Extend, shorten, hand over or share a lease; for its owner and for admins."""
        raise NotImplementedError

    async def release_lease(self, actor: Actor, key: Key, reason: str = "") -> Lease:
        """End a lease: for its owner, for the exporter that has it, for admins.

        When this returns the lease has ended and the exporter is told that it is free. A lease that has ended already
        is returned as it is; the caller decides whether that is an error.
        """
        raise NotImplementedError

    def waits(self, key: Key) -> AbstractContextManager[None]:
        """Count the owner of a pending lease as waiting while the body runs; afterwards a grace time begins."""
        raise NotImplementedError

    def role(self, lease: Lease, client: Key) -> str:
        """Return `owner`, `driver`, `watcher`, or nothing."""
        raise NotImplementedError

    # -- accounts and policies -------------------------------------------------------------------

    async def create_account(self, actor: Actor, record: Account | Exporter) -> Account | Exporter:
        """Add a client, exporter, admin or router."""
        raise NotImplementedError

    async def update_account(self, actor: Actor, record: Account | Exporter) -> Account | Exporter:
        """Replace an account of the same version."""
        raise NotImplementedError

    async def delete_account(self, actor: Actor, key: Key) -> None:
        """Remove an account; ends its leases, and refuses its tokens from now on."""
        raise NotImplementedError

    async def put_policy(self, actor: Actor, policy: Policy, *, create: bool) -> Policy:
        """Add a policy or replace one of the same version."""
        raise NotImplementedError

    async def delete_policy(self, actor: Actor, key: Key) -> None:
        """Remove a policy."""
        raise NotImplementedError

    # -- audit -----------------------------------------------------------------------------------

    def audit(self, actor: Actor, action: str, **details: str) -> None:
        """Note something in the audit record.

        Args:
            action: `object.verb`.
            details: `client`, `exporter`, `lease` by plain name, and whatever else there is to tell.

        Never blocks; entries are written in batches, durably within a second, and also when the lab stops.
        """
        raise NotImplementedError

    async def read_audit(self, **query: object) -> Sequence[AuditEntry]:
        """Return audit entries; arguments as of `Store.audit`."""
        raise NotImplementedError
