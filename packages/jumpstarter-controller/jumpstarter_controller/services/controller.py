"""`jumpstarter.v1.ControllerService`: what exporters tell and are told, and the calls of old clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from jumpstarter_protocol import jumpstarter_pb2

from ..errors import Code, Refused
from ..lab import Actor, Lab, LeaseRequest
from ..model.records import Exporter, ExporterStatus, Key, Kind, Lease
from ..model.selector import Selector
from . import convert
from .errors import Said
from .rpc import Call
from .switchboard import Switchboard

MOST_DEVICES = 4096
LONGEST_TEXT = 1024
"""Bounds of what an exporter may say of itself: drivers, and characters of messages and reasons."""

TOLD_PATIENCE = 1.0
"""Seconds for which the end of a lease waits until its exporter has been sent the news."""

SETTLING = 2.0
"""Seconds from a failed beforeLease hook until its exporter can be available again.

Exporters of 0.9 give a lease back one second after such a failure. When the client was faster, and the exporter has
another lease by then, they give back that one, and stay in the status of a failed hook.
"""

GIVES_BACK = 2.0
"""Seconds for which the end of a lease waits for its exporter, whose hook failed, to give it back by itself.

Exporters of 0.9 do so after one second, and are available afterwards. When their lease is over before that they never
say that they are available again.
"""

GAVE_UP = "hook failure"
"""What exporters of 0.9 say when they go offline because of a hook with `onFailure: exit`, and not to be restarted."""

_FAILED = (ExporterStatus.BEFORE_LEASE_HOOK_FAILED, ExporterStatus.AFTER_LEASE_HOOK_FAILED)


def _is_ours(exporter: Any) -> bool:
    """Tell whether an exporter is of a release that says what it can do."""
    return bool(exporter.meta.labels.get(convert.ROLES_LABEL) == "1")


async def wait_given_back(lab: Lab, lease: Lease) -> None:
    """Give the exporter of a lease that is to be released the time to give it back itself, if that matters to it."""
    exporter = lab.account(Key(Kind.EXPORTER, lease.meta.namespace, lease.exporter)) if lease.exporter else None
    if not isinstance(exporter, Exporter) or _is_ours(exporter) or exporter.status not in _FAILED:
        return
    with anyio.move_on_after(GIVES_BACK):
        async with lab.follow(lease.key) as changes:
            async for _ in changes:
                if lab.active_lease(lease.key) is None:
                    return


@dataclass(eq=False)
class _StatusStream:
    """One `Status` stream and what it told last."""

    call: Call
    told: tuple[str, str] | None = None
    """Lease and client; two empty texts for none."""

    async def tell(self, lease: str, client: str, context: Mapping[str, str]) -> None:
        if self.told == (lease, client):
            return
        if lease and self.told is not None and self.told[0] not in ("", lease):
            # Exporters of 0.9 begin a lease only after they were without.
            await self.tell("", "", {})
        # Noted first: a message that fails is the last one of its stream.
        self.told = lease, client
        message = jumpstarter_pb2.StatusResponse(leased=bool(lease))
        if lease:
            message.lease_name, message.client_name = lease, client
            message.context.update(context)
        await self.call.write(message)


@dataclass
class StatusStreams:
    """The `Status` streams of all exporters."""

    _streams: dict[Key, set[_StatusStream]] = field(default_factory=dict, init=False)
    _told: dict[Key, anyio.Event] = field(default_factory=dict, init=False)

    async def serve(self, call: Call, lab: Lab) -> None:
        """Tell an exporter by whom it is leased, at once and on every change."""
        key, stream = call.caller, _StatusStream(call)
        self._streams.setdefault(key, set()).add(stream)
        try:
            with lab.connected(call.actor):
                async with lab.follow(key) as changes:
                    async for _ in changes:
                        await stream.tell(*_leased(lab, key))
                        self._wake(key)
        finally:
            streams = self._streams[key]
            streams.discard(stream)
            if not streams:
                del self._streams[key]
            self._wake(key)

    def _wake(self, key: Key) -> None:
        event = self._told.pop(key, None)
        if event is not None:
            event.set()

    async def told_end(self, lease: Lease) -> None:
        """Wait until no stream of the exporter says that the lease, which has ended, is on; not for long."""
        key = Key(Kind.EXPORTER, lease.meta.namespace, lease.exporter)
        with anyio.move_on_after(TOLD_PATIENCE):
            while any(stream.told is not None and stream.told[0] == lease.meta.name for stream in self._of(key)):
                await self._told.setdefault(key, anyio.Event()).wait()

    def _of(self, key: Key) -> set[_StatusStream]:
        return self._streams.get(key, set())


def _leased(lab: Lab, key: Key) -> tuple[str, str, Mapping[str, str]]:
    exporter = lab.account(key)
    if not isinstance(exporter, Exporter):
        raise Said(Code.UNKNOWN, "EXPORTER_NOT_FOUND", f'exporters.jumpstarter.dev "{key.name}" not found')
    lease = lab.active_lease(Key(Kind.LEASE, key.namespace, exporter.lease)) if exporter.lease else None
    return (lease.meta.name, lease.client, lease.context) if lease is not None else ("", "", {})


@dataclass
class ControllerService:
    """The rpcs of exporters, `Dial`, and what clients up to 0.5 call."""

    lab: Lab
    switchboard: Switchboard
    statuses: StatusStreams
    _failed: dict[Key, float] = field(default_factory=dict, init=False)
    """When hooks before a lease failed, of exporters that may give back the wrong lease."""

    # -- exporters -------------------------------------------------------------------------------

    async def Register(self, call: Call, request: Any) -> Any:
        if len(request.reports) > MOST_DEVICES:
            raise Said(
                Code.INVALID_ARGUMENT,
                "TOO_MANY_DEVICES",
                f"exporter {call.caller.name} has {len(request.reports)} drivers; {MOST_DEVICES} are possible",
            )
        exporter = await self.lab.register(call.actor, dict(request.labels), convert.devices_of(request.reports))
        return jumpstarter_pb2.RegisterResponse(uuid=exporter.meta.uid)

    async def Unregister(self, call: Call, request: Any) -> Any:
        self._failed.pop(call.caller, None)
        await self.lab.unregister(call.actor, request.reason[:LONGEST_TEXT])
        return jumpstarter_pb2.UnregisterResponse()

    async def ReportStatus(self, call: Call, request: Any) -> Any:
        status = convert.status_of(request.status)
        if not await self._settled(call.caller, status):
            return jumpstarter_pb2.ReportStatusResponse()
        release = request.release_lease or self._gave_up(call.caller, status, request.message)
        released = None
        if release:
            exporter = self.lab.account(call.caller)
            assert isinstance(exporter, Exporter)
            released = self.lab.active_lease(Key(Kind.LEASE, call.namespace, exporter.lease))
        await self.lab.report_status(
            call.actor,
            status,
            request.message[:LONGEST_TEXT],
            release=release,
        )
        if released is not None:
            await self.statuses.told_end(released)
        return jumpstarter_pb2.ReportStatusResponse()

    def _gave_up(self, key: Key, status: ExporterStatus, message: str) -> bool:
        """Tell whether a published exporter ends because of a failed hook: it waits for the end of its lease then."""
        exporter = self.lab.account(key)
        return (
            status is ExporterStatus.OFFLINE
            and GAVE_UP in message
            and isinstance(exporter, Exporter)
            and not _is_ours(exporter)
        )

    async def _settled(self, key: Key, status: ExporterStatus) -> bool:
        """Wait until a status can be taken note of; False when another one came meanwhile."""
        exporter, now = self.lab.account(key), self.lab.clock.monotonic()
        if status is ExporterStatus.BEFORE_LEASE_HOOK_FAILED:
            if exporter is not None and not _is_ours(exporter):
                self._failed[key] = now
            return True
        if key not in self._failed:
            return True
        if status is not ExporterStatus.AVAILABLE:
            del self._failed[key]
            return True
        await anyio.sleep(self._failed[key] + SETTLING - now)
        return self._failed.pop(key, None) is not None

    async def Status(self, call: Call, request: Any) -> None:
        await self.statuses.serve(call, self.lab)

    async def Listen(self, call: Call, request: Any) -> None:
        await self.switchboard.listen(call.caller, request.lease_name, call.write)

    # -- clients ---------------------------------------------------------------------------------

    async def Dial(self, call: Call, request: Any) -> Any:
        return await self.switchboard.dial(call.caller, request.lease_name)

    async def ReleaseLease(self, call: Call, request: Any) -> Any:
        if call.caller.kind is Kind.EXPORTER:
            await self._release_by_exporter(call, request.name)
        else:
            lease = await self._own_lease(call, request.name)
            if not lease.ended:
                await self._release(call.actor, lease)
        return jumpstarter_pb2.ReleaseLeaseResponse()

    async def _release_by_exporter(self, call: Call, name: str) -> None:
        lease = await self._lease(call, name)
        if lease is None:
            raise Said(Code.NOT_FOUND, "LEASE_NOT_FOUND", f"lease {name[:300]!r} not found")
        if lease.exporter != call.caller.name:
            holder = f"exporter {lease.exporter} has it" if lease.exporter else "no exporter has it yet"
            raise Said(
                Code.FAILED_PRECONDITION,
                "NOT_YOUR_LEASE",
                f"lease {name} is not held by exporter {call.caller.name}: {holder}",
            )
        if not lease.ended:
            await self._release(call.actor, lease)

    async def _release(self, actor: Actor, lease: Lease) -> None:
        await self.statuses.told_end(await self.lab.release_lease(actor, lease.key))

    async def _lease(self, call: Call, name: str) -> Lease | None:
        key = Key(Kind.LEASE, call.namespace, name)
        return self.lab.active_lease(key) or await self.lab.lease(key)

    async def _own_lease(self, call: Call, name: str) -> Lease:
        lease = await self._lease(call, name)
        if lease is None:
            raise Said(Code.UNKNOWN, "LEASE_NOT_FOUND", f'leases.jumpstarter.dev "{name[:300]}" not found')
        if lease.client != call.caller.name:
            raise Said(
                Code.UNKNOWN,
                "NOT_YOUR_LEASE",
                f"{call.rpc} permission denied: lease {name} belongs to client {lease.client}",
                {"owner": lease.client},
            )
        return lease

    async def GetLease(self, call: Call, request: Any) -> Any:
        lease = await self._own_lease(call, request.name)
        answer = jumpstarter_pb2.GetLeaseResponse(
            selector=convert.selector_message(lease.selector), conditions=convert.conditions(lease.conditions)
        )
        if lease.duration is not None:
            answer.duration.CopyFrom(convert.duration(lease.duration))
        if lease.begun is not None:
            answer.begin_time.CopyFrom(convert.timestamp(lease.begun))
        if lease.ended_at is not None:
            answer.end_time.CopyFrom(convert.timestamp(lease.ended_at))
        exporter = self.lab.account(Key(Kind.EXPORTER, call.namespace, lease.exporter)) if lease.exporter else None
        if exporter is not None:
            answer.exporter_uuid = exporter.meta.uid
        return answer

    async def RequestLease(self, call: Call, request: Any) -> Any:
        selector: Selector = convert.selector_of_message(request.selector)
        if not selector:
            raise Refused(Code.INVALID_ARGUMENT, "SELECTOR_MISSING", "one of selector or exporter_name is required")
        wanted = LeaseRequest(selector=str(selector), duration=convert.length_of(request, "duration"))
        lease = await self.lab.create_lease(call.actor, wanted)
        return jumpstarter_pb2.RequestLeaseResponse(name=lease.meta.name)

    async def ListLeases(self, call: Call, request: Any) -> Any:
        leases = await self.lab.leases(call.namespace)
        return jumpstarter_pb2.ListLeasesResponse(
            names=[lease.meta.name for lease in leases if lease.client == call.caller.name]
        )
