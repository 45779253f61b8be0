"""The lab at work: holds the records in memory, decides by the rules, writes to the store, and tells who waits.

Everything that serves somebody (gRPC, REST, pages) goes through here and holds no state of its own about records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from itertools import islice

import anyio
from anyio.abc import TaskGroup

from .asks import Actor as Actor
from .asks import ExporterView as ExporterView
from .asks import Holder as Holder
from .asks import LeaseChange as LeaseChange
from .asks import LeaseRequest as LeaseRequest
from .asks import LeaseView as LeaseView
from .clock import Clock, SystemClock
from .engine.accounts import Accounts
from .engine.changing import Changing
from .engine.core import Core, Listener
from .engine.deciding import Decider
from .engine.exporting import Exporting
from .engine.leasing import Leasing
from .engine.ledger import unavailable
from .engine.neighbours import Neighbours
from .engine.presence import Presence
from .engine.upkeep import Upkeep
from .engine.use import Uses
from .engine.views import Ripples, Views
from .engine.waiting import Waits
from .model.records import Account, AuditEntry, Device, Exporter, ExporterStatus, Key, Kind, Lease, Policy
from .model.selector import Selector
from .settings import Settings
from .store.base import Store, StoreError

_START_SECONDS = 10.0
"""For how long a start waits until what is over has ended, in case that the store can't be written."""

_PAGE = 500


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
        self.token_keeper: Callable[[Key, str], Awaitable[None]] | None = None
        """Is given each token that is issued, where others but its owner have to find it."""
        self._core = Core(store, self.settings, self.clock)
        self._presence = Presence(self._core)
        self._uses = Uses(self._core)
        self._waits = Waits(self._core)
        self._decider = Decider(self._core, self._uses, self._waits, self._presence)
        self._leasing = Leasing(self._core)
        self._changing = Changing(self._core)
        self._exporting = Exporting(self._core, self._presence, self._uses)
        self._accounts = Accounts(self._core)
        self._views = Views(self._core, self._presence, self._uses)
        self._ripples = Ripples(self._core)
        self._upkeep = Upkeep(self._core)

    @asynccontextmanager
    async def run(self, *, lead: bool = True) -> AsyncIterator[None]:
        """Load the records, end what expired meanwhile, then keep watch and decide while the body runs."""
        core = self._core
        core.leading = lead
        failure: Exception | None = None
        async with anyio.create_task_group() as auditing:
            auditing.start_soon(core.auditor.run)
            try:
                async with anyio.create_task_group() as tasks:
                    try:
                        await self._start(tasks)
                        yield
                    except Exception as error:  # noqa: BLE001 - raised below, as it is and not as one of a group
                        failure = error
                    finally:
                        core.followers.end()
                        tasks.cancel_scope.cancel()
            finally:
                # After all others, so that what they noted last is written.
                auditing.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _start(self, tasks: TaskGroup) -> None:
        core = self._core
        await tasks.start(core.ledger.keep_watch)
        core.loaded = True
        tasks.start_soon(core.chores.run)
        await self._decider.prepare()
        with anyio.move_on_after(_START_SECONDS):
            await core.chores.idle()
        for work in (self._decider.run, self._ripples.run, self._upkeep.run, self._upkeep.keep_time):
            tasks.start_soon(work)

    @property
    def leading(self) -> bool:
        """Whether this process decides."""
        return self._core.leading

    async def lead(self, leading: bool) -> None:
        """Begin or cease to decide, as an election has it."""
        if leading and not self._core.leading:
            self._core.leading = True
            await self._decider.prepare()
        self._core.leading = leading
        self._core.wake()

    # -- several servers ---------------------------------------------------------------------------

    def join(self, neighbours: Neighbours) -> None:
        """Be one of several servers of the same store; to be called before anybody is served."""
        self._core.neighbours = neighbours

    def expect_all(self) -> None:
        """Give exporters whose server is gone the time to connect to another one; for the server that decides."""
        if self._core.leading:
            self._presence.expect_all()

    def waited_for(self) -> Sequence[Key]:
        """Return the leases that somebody waits for at this server."""
        return self._waits.here()

    def reported(self, used: Iterable[Key], waiting: Iterable[Key]) -> None:
        """Take note of what another server sees: leases in use, and leases that somebody waits for there."""
        for key in used:
            lease = self._core.world.lease(key)
            if lease is not None and lease.exporter:
                self._uses.used(lease)
        for key in waiting:
            self._waits.elsewhere(key)

    def observe(self, listener: Listener) -> None:
        """Have a function called after each change of a record, with the old and the new one; None for none.

        For counting: it must be quick and must not fail. At the start it is called for everything there is.
        """
        self._core.observers.append(listener)

    def observe_commits(self, listener: Callable[[float], None]) -> None:
        """Have a function called after each commit of the store, with the seconds that it took."""
        self._core.ledger.commit_listeners.append(listener)

    # -- looking; from memory, so cheap and never blocking -----------------------------------------

    def account(self, key: Key) -> Account | Exporter | None:
        """Return a client, exporter, admin or router."""
        if key.kind in (Kind.LEASE, Kind.POLICY):
            return None
        return self._core.world.get(key)  # type: ignore[return-value]

    def accounts(
        self, kind: Kind, namespace: str = "", selector: Selector | None = None
    ) -> Sequence[Account | Exporter]:
        """Return accounts by name, of all namespaces when none is given."""
        world = self._core.world
        return [
            record
            for name in ([namespace] if namespace else world.namespaces(kind))
            for record in world.shelf(kind, name)
            if isinstance(record, Account | Exporter) and (not selector or selector.matches(record.meta.labels))
        ]

    def policies(self, namespace: str = "") -> Sequence[Policy]:
        """Return access policies by name."""
        world = self._core.world
        return [
            policy
            for name in ([namespace] if namespace else world.namespaces(Kind.POLICY))
            for policy in world.policies(name)
        ]

    def active_lease(self, key: Key) -> Lease | None:
        """Return a lease that has not ended."""
        lease = self._core.world.lease(key)
        return self._views.current(lease) if lease is not None else None

    async def lease(self, key: Key) -> Lease | None:
        """Return a lease, also one that has ended."""
        lease = self.active_lease(key)
        if lease is not None:
            return lease
        record = await self._core.ledger.get(key)
        return record if isinstance(record, Lease) else None

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
        active = (
            self._views.current(lease)
            for lease in self._core.world.leases(namespace).after(after)
            if not selector or selector.matches(lease.meta.labels)
        )
        if only_active:
            return list(islice(active, limit or None))
        # Both sources are ordered by name; the ended ones are read in pages until there are enough.
        found = {lease.meta.name: lease for lease in islice(active, limit or None)}
        ended: list[Lease] = []
        position = after
        while True:
            try:
                page = await self.store.ended_leases(namespace, limit=_PAGE, after=position)
            except StoreError as error:
                raise unavailable(error) from error
            ended += [
                lease
                for lease in page
                if isinstance(lease, Lease) and (not selector or selector.matches(lease.meta.labels))
            ]
            if len(page) < _PAGE or (limit and len(ended) >= limit):
                break
            position = page[-1].meta.name
            await anyio.lowlevel.checkpoint()
        # What ended while the pages were read is told as it is now.
        found.update({lease.meta.name: lease for lease in ended})
        return [found[name] for name in sorted(found)][: limit or None]

    def view(self, lease: Lease) -> LeaseView:
        """Return what is known of a lease now."""
        return self._views.lease(lease)

    def exporter_view(self, exporter: Exporter) -> ExporterView:
        """Return what is known of an exporter now."""
        return self._views.exporter(exporter)

    def follow(self, *keys: Key) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Iterate over the moments at which one of these records, or what a view tells of it, has changed.

        Changes that come while the reader is busy are told once. The first item comes at once. Changes of a mere place
        in the queue are told less often than others.
        """
        return self._core.followers.follow(*keys)

    def follow_all(self, kind: Kind, namespace: str) -> AbstractAsyncContextManager[AsyncIterator[frozenset[Key]]]:
        """Iterate over the sets of records that changed since the last item; the first item is all there are."""

        def present() -> Iterable[Key]:
            world = self._core.world
            for name in [namespace] if namespace else world.namespaces(kind):
                for record in world.shelf(kind, name):
                    yield record.key

        return self._core.followers.follow_all(kind, namespace, present)

    # -- exporters -------------------------------------------------------------------------------

    async def register(self, actor: Actor, labels: Mapping[str, str], devices: Iterable[Device]) -> Exporter:
        """Take note of what an exporter offers: its own labels replace those of the prefix, others are dropped."""
        return await self._exporting.register(actor, labels, devices)

    async def unregister(self, actor: Actor, reason: str) -> None:
        """Take an exporter's devices out, offline at once; its lease stays."""
        await self._exporting.unregister(actor, reason)

    async def report_status(
        self, actor: Actor, status: ExporterStatus, message: str = "", *, release: bool = False
    ) -> None:
        """Take note of what an exporter does; with `release` its lease ends as well, if there is one."""
        await self._exporting.report(actor, status, message, release)

    def connected(self, actor: Actor) -> AbstractContextManager[None]:
        """Count an exporter as connected while the body runs (one Status stream; there may be several)."""
        assert actor.key is not None
        return self._presence.connected(actor.key)

    async def drain(self, actor: Actor, draining: bool, reason: str = "") -> None:
        """Give an exporter no further lease, or leases again."""
        await self._exporting.drain(actor, draining, reason)

    async def used(self, actor: Actor, lease: Key, *, in_use: bool) -> None:
        """Take note that a lease is or was just in use; extends it, or puts off its end, as its rule says."""
        self._waits.seen(lease)
        self._exporting.used(actor, lease)

    # -- leases ----------------------------------------------------------------------------------

    async def create_lease(self, actor: Actor, request: LeaseRequest) -> Lease:
        """Make a lease for a client; it has its exporter already when there is a free one."""
        return await self._leasing.create(actor, request)

    async def update_lease(self, actor: Actor, key: Key, change: LeaseChange) -> Lease:
        """Extend, shorten, hand over or share a lease; for its owner and for admins."""
        self._waits.seen(key)
        return await self._changing.update(actor, key, change)

    async def release_lease(self, actor: Actor, key: Key, reason: str = "") -> Lease:
        """End a lease: for its owner, for the exporter that has it, for admins.

        When this returns the lease has ended and the exporter is told that it is free. A lease that has ended already
        is returned as it is; the caller decides whether that is an error.
        """
        return await self._changing.release(actor, key, reason)

    def waits(self, key: Key) -> AbstractContextManager[None]:
        """Count the owner of a pending lease as waiting while the body runs; afterwards a grace time begins."""
        return self._waits.waits(key)

    def role(self, lease: Lease, client: Key) -> str:
        """Return `owner`, `driver`, `watcher`, or nothing."""
        if client.kind is not Kind.CLIENT or client.namespace != lease.meta.namespace:
            return ""
        if client.name == lease.client:
            return "owner"
        role = lease.shares.get(client.name)
        return role.value if role is not None else ""

    # -- accounts and policies -------------------------------------------------------------------

    async def create_account(self, actor: Actor, record: Account | Exporter) -> Account | Exporter:
        """Add a client, exporter, admin or router."""
        return await self._accounts.create(actor, record)

    async def update_account(self, actor: Actor, record: Account | Exporter) -> Account | Exporter:
        """Replace an account of the same version."""
        return await self._accounts.update(actor, record)

    async def delete_account(self, actor: Actor, key: Key) -> None:
        """Remove an account; ends its leases, and refuses its tokens from now on."""
        await self._accounts.delete(actor, key)

    async def put_policy(self, actor: Actor, policy: Policy, *, create: bool) -> Policy:
        """Add a policy or replace one of the same version."""
        return await self._accounts.put_policy(actor, policy, create=create)

    async def delete_policy(self, actor: Actor, key: Key) -> None:
        """Remove a policy."""
        await self._accounts.delete_policy(actor, key)

    # -- audit -----------------------------------------------------------------------------------

    def audit(self, actor: Actor, action: str, **details: str) -> None:
        """Note something in the audit record.

        Args:
            action: `object.verb`.
            details: `client`, `exporter`, `lease` by plain name, and whatever else there is to tell.

        Never blocks; entries are written in batches, durably within a second, and also when the lab stops.
        """
        self._core.audit(actor, action, **details)

    @property
    def audit_waiting(self) -> int:
        """How many audit entries wait to be written."""
        return self._core.auditor.waiting

    @property
    def audit_dropped(self) -> int:
        """How many audit entries could not be kept since the start."""
        return self._core.auditor.dropped_total

    async def flush_audit(self) -> None:
        """Write the audit entries that wait, at once."""
        try:
            await self._core.auditor.flush()
        except StoreError as error:
            raise unavailable(error) from error

    async def read_audit(self, **query: object) -> Sequence[AuditEntry]:
        """Return audit entries; arguments as of `Store.audit`."""
        try:
            return await self.store.audit(**query)  # type: ignore[arg-type]
        except StoreError as error:
            raise unavailable(error) from error
