"""`jumpstarter.lab.v1.LabService`: following leases and exporters, sharing, and what exporters tell of use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from jumpstarter_protocol import lab_pb2

from ..errors import Code
from ..lab import Actor, Lab, LeaseChange
from ..model.records import Exporter, Key, Kind, Lease, Role
from ..model.selector import Selector
from . import convert
from .errors import Said
from .rpc import Call
from .switchboard import Switchboard, keeps_watchers_from_driving, roles_not_enforced

MOST_STATES = 5000
"""Leases that are listed in one answer."""

MOST_USES = 1000
LONGEST_TEXT = 256
"""Bounds of a report of use: entries, and characters of each text."""

REPORT_INTERVAL = timedelta(seconds=30)
SHORTEST_INTERVAL = timedelta(seconds=1)

REMEMBERED = 16384
"""Leases whose last report of use is remembered."""

ROLES = {
    lab_pb2.ROLE_UNSPECIFIED: None,
    lab_pb2.ROLE_DRIVER: Role.DRIVER,
    lab_pb2.ROLE_WATCHER: Role.WATCHER,
}


class ServesRouters(Protocol):
    """What talks with routers on other machines, see `router.pool.RouterPool`."""

    async def serve(
        self, actor: Actor, reports: AsyncIterator[Any], write: Callable[[Any], Awaitable[None]]
    ) -> None: ...


class CertifiesRouters(Protocol):
    """What makes certificates for routers, see `identity.certifying.RouterCertificates`."""

    def certify(self, endpoint: str, public_key: bytes) -> tuple[bytes, datetime]: ...


@dataclass
class LabService:
    """What a lab offers beyond the published protocol."""

    lab: Lab
    messages: convert.Messages
    routers: ServesRouters
    switchboard: Switchboard
    certificates: CertifiesRouters
    _reports: OrderedDict[Key, int] = field(default_factory=OrderedDict, init=False)

    # -- leases ----------------------------------------------------------------------------------

    def _state(self, lease: Lease, client: Key) -> lab_pb2.LeaseState:
        role = self.lab.role(lease, client)
        return self.messages.lease_state(self.lab.view(lease), role, self.lab.clock.now())

    async def _lease(self, key: Key) -> Lease:
        lease = self.lab.active_lease(key) or await self.lab.lease(key)
        if lease is None:
            raise Said(Code.NOT_FOUND, "LEASE_NOT_FOUND", f"lease {key.name} not found in namespace {key.namespace}")
        return lease

    async def WatchLease(self, call: Call, request: Any) -> None:
        lease = await self._lease(call.named)
        with ExitStack() as stack:
            async with self.lab.follow(call.named) as changes:
                if lease.client == call.caller.name and not lease.ended:
                    stack.enter_context(self.lab.waits(call.named))
                async for _ in changes:
                    lease = await self._lease(call.named)
                    await call.write(self._state(lease, call.caller))
                    if lease.ended:
                        return

    async def WatchLeases(self, call: Call, request: Any) -> None:
        wanted = _Wanted.of(request)
        shown: set[Key] = set()
        async with self.lab.follow_all(Kind.LEASE, call.namespace) as changes:
            first = True
            async for keys in changes:
                if first:
                    for lease in await self._listed(call, wanted):
                        shown.add(lease.key)
                        await self._put(call, lease)
                    await call.write(lab_pb2.LeaseEvent(type=lab_pb2.EVENT_TYPE_CURRENT))
                    first = False
                    continue
                for key in sorted(keys):
                    await self._tell_lease(call, wanted, key, shown)

    async def _put(self, call: Call, lease: Lease) -> None:
        state = self._state(lease, call.caller)
        await call.write(lab_pb2.LeaseEvent(type=lab_pb2.EVENT_TYPE_PUT, state=state))

    async def _tell_lease(self, call: Call, wanted: _Wanted, key: Key, shown: set[Key]) -> None:
        found = self.lab.active_lease(key) or await self.lab.lease(key)
        if found is not None and wanted.matches(found):
            shown.add(key)
            await self._put(call, found)
        elif key in shown:
            shown.discard(key)
            event = lab_pb2.LeaseEvent(type=lab_pb2.EVENT_TYPE_DELETED)
            if found is not None:
                event.state.CopyFrom(self._state(found, call.caller))
            else:
                event.state.lease.name = str(key)
            await call.write(event)

    async def _listed(self, call: Call, wanted: _Wanted) -> list[Lease]:
        leases = await self.lab.leases(
            call.namespace, selector=wanted.selector, only_active=wanted.only_active, limit=MOST_STATES + 1
        )
        if len(leases) > MOST_STATES:
            raise Said(
                Code.RESOURCE_EXHAUSTED,
                "TOO_MANY_LEASES",
                f"more than {MOST_STATES} leases match; narrow the filter, leave out those that have ended, or list "
                "them page by page",
            )
        return [lease for lease in leases if not wanted.client or lease.client == wanted.client]

    async def ListLeaseStates(self, call: Call, request: Any) -> Any:
        leases = await self._listed(call, _Wanted.of(request))
        return lab_pb2.ListLeaseStatesResponse(states=[self._state(lease, call.caller) for lease in leases])

    async def ShareLease(self, call: Call, request: Any) -> Any:
        if request.role not in ROLES:
            raise Said(
                Code.INVALID_ARGUMENT,
                "INVALID_ROLE",
                "a lease is shared in the roles driver and watcher; to hand it over, change its client",
            )
        if not request.client:
            raise Said(Code.INVALID_ARGUMENT, "CLIENT_MISSING", "client is required: whom to share the lease with")
        role, client = ROLES[request.role], convert.plain_name(request.client)
        lease = await self._lease(call.named)
        if role is Role.WATCHER and lease.exporter:
            exporter = self.lab.account(Key(Kind.EXPORTER, call.namespace, lease.exporter))
            if isinstance(exporter, Exporter) and not keeps_watchers_from_driving(exporter):
                raise roles_not_enforced(lease.key, exporter)
        lease = await self.lab.update_lease(call.actor, call.named, LeaseChange(shares={client: role}))
        return self._state(lease, call.caller)

    # -- exporters -------------------------------------------------------------------------------

    def _exporter_state(self, exporter: Exporter, request: Any) -> lab_pb2.ExporterState:
        view = self.lab.exporter_view(exporter)
        return self.messages.exporter_state(view, self.lab.clock.now(), hidden=request.show_hidden_labels)

    async def ListExporterStates(self, call: Call, request: Any) -> Any:
        selector = convert.selector_of(request.filter, "filter")
        found = self.lab.accounts(Kind.EXPORTER, call.namespace, selector)
        return lab_pb2.ListExporterStatesResponse(
            states=[self._exporter_state(item, request) for item in found if isinstance(item, Exporter)]
        )

    async def WatchExporters(self, call: Call, request: Any) -> None:
        selector = convert.selector_of(request.filter, "filter")
        shown: set[Key] = set()
        async with self.lab.follow_all(Kind.EXPORTER, call.namespace) as changes:
            first = True
            async for keys in changes:
                for key in sorted(keys):
                    await self._tell_exporter(call, request, selector, key, shown)
                if first:
                    await call.write(lab_pb2.ExporterEvent(type=lab_pb2.EVENT_TYPE_CURRENT))
                    first = False

    async def _tell_exporter(self, call: Call, request: Any, selector: Selector, key: Key, shown: set[Key]) -> None:
        exporter = self.lab.account(key)
        if isinstance(exporter, Exporter) and selector.matches(exporter.meta.labels):
            shown.add(key)
            state = self._exporter_state(exporter, request)
            await call.write(lab_pb2.ExporterEvent(type=lab_pb2.EVENT_TYPE_PUT, state=state))
        elif key in shown:
            shown.discard(key)
            event = lab_pb2.ExporterEvent(type=lab_pb2.EVENT_TYPE_DELETED)
            event.state.exporter.name = str(key)
            await call.write(event)

    async def Drain(self, call: Call, request: Any) -> Any:
        await self.lab.drain(call.actor, request.draining, request.reason[:LONGEST_TEXT])
        return lab_pb2.DrainResponse()

    async def ReportUse(self, call: Call, request: Any) -> Any:
        key = Key(Kind.LEASE, call.namespace, request.lease_name)
        lease = await self._lease(key)
        if lease.exporter != call.caller.name:
            raise Said(
                Code.FAILED_PRECONDITION,
                "NOT_YOUR_LEASE",
                f"lease {lease.meta.name} is not one of exporter {call.caller.name}",
            )
        if len(request.uses) > MOST_USES:
            raise Said(
                Code.INVALID_ARGUMENT,
                "TOO_MANY_USES",
                f"{len(request.uses)} uses in one report; {MOST_USES} are possible",
            )
        if request.sequence > self._reports.get(key, -1):
            self._reports[key] = request.sequence
            self._reports.move_to_end(key)
            while len(self._reports) > REMEMBERED:
                self._reports.popitem(last=False)
            self._record(call, lease, request)
        self.switchboard.reports_use(key)
        if not lease.ended and (request.in_use or request.uses or request.dropped):
            await self.lab.used(call.actor, key, in_use=request.in_use)
        interval = REPORT_INTERVAL
        if lease.idle_timeout is not None:
            interval = max(min(interval, lease.idle_timeout / 4), SHORTEST_INTERVAL)
        return lab_pb2.ReportUseResponse(interval=convert.duration(interval))

    def _record(self, call: Call, lease: Lease, request: Any) -> None:
        for use in request.uses:
            self.lab.audit(
                call.actor,
                f"driver.{use.kind[:32] or 'call'}",
                client=use.client[:LONGEST_TEXT] or lease.client,
                exporter=call.caller.name,
                lease=lease.meta.name,
                driver=use.driver[:LONGEST_TEXT],
                method=use.method[:LONGEST_TEXT],
                outcome=use.outcome[:LONGEST_TEXT],
                count=str(use.count or 1),
                time=use.time.ToJsonString() if use.HasField("time") else "",
            )
        if request.dropped:
            self.lab.audit(
                call.actor,
                "driver.dropped",
                exporter=call.caller.name,
                lease=lease.meta.name,
                count=str(request.dropped),
            )

    # -- routers ---------------------------------------------------------------------------------

    async def ServeRouter(self, call: Call, requests: AsyncIterator[Any]) -> None:
        await self.routers.serve(call.actor, requests, call.write)

    async def CertifyRouter(self, call: Call, request: Any) -> Any:
        chain, expires = self.certificates.certify(request.endpoint, request.public_key)
        self.lab.audit(call.actor, "router.certify", endpoint=request.endpoint)
        return lab_pb2.CertifyRouterResponse(chain=chain, expires=convert.timestamp(expires))


@dataclass(frozen=True)
class _Wanted:
    """Which leases a request is about."""

    selector: Selector
    only_active: bool
    client: str

    @classmethod
    def of(cls, request: Any) -> _Wanted:
        return cls(
            convert.lease_filter(request.filter, request.tag_filter, published=False),
            not request.HasField("only_active") or request.only_active,
            convert.plain_name(request.client),
        )

    def matches(self, lease: Lease) -> bool:
        return (
            not (self.only_active and lease.ended)
            and (not self.client or lease.client == self.client)
            and self.selector.matches(lease.meta.labels)
        )
