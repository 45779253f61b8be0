"""A lab on a clock that stands still, with peers that exist on paper only: for tests of the rules and benchmarks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from ..asks import Actor, LeaseRequest
from ..clock import ManualClock
from ..lab import Lab
from ..model.records import (
    Account,
    AuditEntry,
    Device,
    Exporter,
    ExporterStatus,
    Key,
    Kind,
    Lease,
    Meta,
    Policy,
    Record,
)
from ..model.records import Rule as Rule
from ..model.selector import Selector, parse
from ..settings import Leases, Settings
from ..store.base import Create, Unavailable, Update, Write
from ..store.memory import MemoryStore

NAMESPACE = "lab"
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)

OFFLINE_AFTER = timedelta(seconds=12)
"""After this an exporter whose connection is lost counts as offline, unless other settings are given."""

_QUIET = 40
"""After so many turns of the event loop without a write nothing more comes."""


class FaultyStore(MemoryStore):
    """A store that can be away, and that can die in the middle of a commit as stores without transactions do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.away = False
        self.commits = 0
        self.calls = 0
        self.audited = anyio.Event()
        """An entry of a test was written."""
        self.die_after: int | None = None
        """So many more writes are done, one by one; then it is away."""

    async def commit(self, *writes: Write) -> list[Record]:
        self.calls += 1
        if self.away:
            raise Unavailable("the disk is full")
        self.commits += 1
        if self.die_after is None:
            return await super().commit(*writes)
        done: list[Record] = []
        for write in writes:
            if self.die_after <= 0:
                self.away = True
                raise Unavailable("the disk is full")
            self.die_after -= 1
            done += await super().commit(write)
        return done

    async def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        if self.away:
            raise Unavailable("the disk is full")
        await super().record_audit(entries)
        if any(entry.action.startswith("test.") for entry in entries):
            self.audited.set()

    def mend(self) -> None:
        """Work again."""
        self.away, self.die_after = False, None


class Simulation:
    """One lab and its peers."""

    def __init__(self, settings: Settings | None = None, store: FaultyStore | None = None) -> None:
        self.clock = ManualClock()
        self.store = store or FaultyStore(clock=self.clock)
        self.settings = settings or Settings(leases=Leases(offline_after=OFFLINE_AFTER))
        self.lab = Lab(self.store, self.settings, self.clock)
        self.admin = Actor(kind="admin", key=Key(Kind.ADMIN, NAMESPACE, "root"))
        self._streams: dict[str, ExitStack] = {}
        self._count = 0

    @asynccontextmanager
    async def running(self, *, lead: bool = True) -> AsyncIterator[Simulation]:
        """Run the lab."""
        async with self.lab.run(lead=lead):
            yield self
            await self.settle()

    def restarted(self) -> Simulation:
        """Return another server on the same store and clock; nobody is connected to it."""
        other = Simulation(self.settings, self.store)
        other.clock = self.clock
        other.lab = Lab(self.store, self.settings, self.clock)
        return other

    async def settle(self) -> None:
        """Let everything happen that happens without time passing."""
        quiet, before = 0, -1
        while quiet < _QUIET:
            await checkpoint()
            quiet = quiet + 1 if self.store.calls == before else 0
            before = self.store.calls

    async def advance(self, by: timedelta) -> None:
        """Let time pass."""
        self.clock.advance(by)
        await self.settle()

    # -- peers -------------------------------------------------------------------------------------

    @staticmethod
    def key(kind: Kind, name: str) -> Key:
        return Key(kind, NAMESPACE, name)

    def client_actor(self, name: str) -> Actor:
        return Actor(kind="client", key=self.key(Kind.CLIENT, name))

    def exporter_actor(self, name: str) -> Actor:
        return Actor(kind="exporter", key=self.key(Kind.EXPORTER, name))

    async def clients(self, *names: str, **labels: str) -> None:
        """Make accounts of clients."""
        for name in names:
            meta = Meta(namespace=NAMESPACE, name=name, labels=labels)
            await self.lab.create_account(self.admin, Account(kind=Kind.CLIENT, meta=meta))

    async def account(self, name: str, labels: Mapping[str, str], **fields: Any) -> None:
        """Make the account of an exporter."""
        exporter = Exporter(meta=Meta(namespace=NAMESPACE, name=name, labels=labels), **fields)
        await self.lab.create_account(self.admin, exporter)

    async def exporter(
        self, name: str, *, board: str = "x", status: ExporterStatus | None = ExporterStatus.AVAILABLE, **fields: Any
    ) -> None:
        """Make an account and start its exporter; without a status it is one of those that report none."""
        await self.account(name, {"board": board}, **fields)
        await self.start(name, status)

    async def start(self, name: str, status: ExporterStatus | None = ExporterStatus.AVAILABLE) -> None:
        """Start an exporter: it registers, reports and connects."""
        await self.lab.register(self.exporter_actor(name), {}, [Device(uuid=f"{name}-device")])
        if status is not None:
            await self.report(name, status)
        self.connect(name)
        await self.settle()

    def connect(self, name: str) -> None:
        """Open one more stream of an exporter."""
        stack = self._streams.setdefault(name, ExitStack())
        stack.enter_context(self.lab.connected(self.exporter_actor(name)))

    async def cut(self, name: str) -> None:
        """Lose all streams of an exporter."""
        self._streams.pop(name).close()
        await self.settle()

    async def report(self, name: str, status: ExporterStatus, *, release: bool = False, message: str = "") -> None:
        """Have an exporter report."""
        await self.lab.report_status(self.exporter_actor(name), status, message, release=release)
        await self.settle()

    async def lease(self, client: str, selector: str = "board=x", **request: Any) -> Lease:
        """Have a client ask for a lease, of an hour if nothing else is said."""
        if not {"begin_time", "end_time"} <= request.keys():
            request.setdefault("duration", HOUR)
        # The clock stands still: names tell which of two is the older one.
        self._count += 1
        request.setdefault("name", f"lease-{self._count:05}")
        lease = await self.lab.create_lease(self.client_actor(client), LeaseRequest(selector=selector, **request))
        await self.settle()
        return lease

    async def release(self, lease: Lease) -> Lease:
        """Have the owner give a lease back."""
        ended = await self.lab.release_lease(self.client_actor(lease.client), lease.key)
        await self.settle()
        return ended

    @contextmanager
    def waits(self, lease: Lease) -> Iterator[None]:
        """Have the owner of a lease wait."""
        with self.lab.waits(lease.key):
            yield

    async def policy(self, name: str, *rules: Rule, exporters: str = "") -> None:
        """Add or replace a policy."""
        key = self.key(Kind.POLICY, name)
        present = next((policy for policy in self.lab.policies(NAMESPACE) if policy.key == key), None)
        meta = present.meta if present is not None else Meta(namespace=NAMESPACE, name=name)
        policy = Policy(meta=meta, exporters=parse(exporters), rules=rules)
        await self.lab.put_policy(self.admin, policy, create=present is None)
        await self.settle()

    @staticmethod
    def rule(clients: str = "", **terms: Any) -> Rule:
        """Return a rule for clients whose labels match; for everybody by default."""
        return Rule(clients=(parse(clients) if clients else Selector(),), **terms)

    # -- looking -----------------------------------------------------------------------------------

    async def now(self, lease: Lease) -> Lease:
        """Return a lease as it is now."""
        found = await self.lab.lease(lease.key)
        assert found is not None
        return found

    def board(self, name: str) -> Exporter:
        """Return an exporter as it is now."""
        found = self.lab.account(self.key(Kind.EXPORTER, name))
        assert isinstance(found, Exporter)
        return found

    async def audited(self, action: str = "") -> list[AuditEntry]:
        """Return audit entries, once they are written."""
        await self.lab.flush_audit()
        return list(await self.lab.read_audit(action=action, limit=0))

    async def write(self, record: Record) -> None:
        """Change a record past the lab, as other programs do."""
        create = await self.store.get(record.key) is None
        await MemoryStore.commit(self.store, Create(record) if create else Update(record))
        await self.settle()

    def check(self) -> None:
        """Raise unless what always has to hold does."""
        holders: dict[str, str] = {}
        for lease in self.lab._core.world.leases(NAMESPACE):
            assert not lease.ended
            if lease.exporter:
                assert lease.exporter not in holders, f"{lease.exporter} has two leases"
                holders[lease.exporter] = lease.meta.name
                assert lease.begun is not None
        for exporter in self.lab._core.world.exporters(NAMESPACE):
            assert exporter.lease == holders.get(exporter.meta.name, ""), exporter


def reasons(lease: Lease) -> list[tuple[str, str, str]]:
    """Return type, status and reason of the conditions of a lease."""
    return [(item.type, item.status, item.reason) for item in lease.conditions]


def last(lease: Lease) -> tuple[str, str, str]:
    """Return type, status and reason of the last condition, at which peers look."""
    return reasons(lease)[-1]
