"""Brings the clients of a lease and its exporter together at a router, and ends what has lost its right."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup
from jumpstarter_protocol import jumpstarter_pb2

from ..asks import Actor
from ..errors import Code, Refused
from ..model.records import Exporter, ExporterStatus, Key, Kind, Lease, Role
from .convert import ROLES_LABEL
from .errors import Said
from .queues import Closed, Full, NoListener, Queues

if TYPE_CHECKING:
    from ..lab import Lab

_SERVER = Actor(kind="server", key=None)

logger = logging.getLogger(__name__)

READY_PATIENCE = 27.5
"""Seconds for which a dial waits until the exporter has taken note of its lease; 0.9 clients give up after 30."""

LISTENER_PATIENCE = 5.0
"""Seconds for which a dial waits for the exporter's listener."""

TOKEN_LIFE = 30 * 60.0
"""Seconds after which a stream token that was not used is worth nothing."""

USE_INTERVAL = 5.0
"""Seconds between two looks at the traffic of leases whose exporters don't report their use."""

MOST_UNUSED = 4096
"""Stream tokens per lease that are remembered, for taking them back."""

MOST_UNMET = 16
"""Offers per lease that are given again to a new listener, when nobody came for them after they were sent."""

UNMET_LIFE = 60.0
"""Seconds after which nobody waits any more at a router for the exporter to come to an offer."""

Offer = jumpstarter_pb2.ListenResponse


@dataclass(frozen=True)
class _Offered:
    """An offer on its way to an exporter."""

    stream: str
    message: Offer
    until: float
    """When nobody waits for the exporter any more."""


class StreamTokens(Protocol):
    """What signs stream tokens, see `identity.streams.StreamTokens`."""

    def issue(
        self, stream: str = "", *, lease: str = "", client: str = "", exporter: str = "", role: str = "", side: str = ""
    ) -> str: ...


Elsewhere = Callable[[Key, Key, float], Awaitable["jumpstarter_pb2.DialResponse | None"]]
"""Has another server dial: with the client, the lease, and for how long its exporter is waited for."""


class Routers(Protocol):
    """What knows the routers, see `router.pool.RouterPool`."""

    def choose(self, exporter: Exporter) -> str:
        """Return the endpoint of the router that suits an exporter best; Refused when there is none."""
        ...

    def cut(self, streams: Iterable[str]) -> object:
        """Have all routers end streams, and refuse their tokens."""
        ...

    def cut_lease(self, lease: str, client: str = "") -> object:
        """Have all routers end the open streams of a lease, or of one client of it."""
        ...


@dataclass(frozen=True)
class _Grant:
    stream: str
    client: str
    role: str
    until: float


@dataclass(eq=False)
class _Grants:
    """What was granted in one lease: roles by client name, and the tokens that may be unused."""

    roles: dict[str, str] = field(default_factory=dict)
    unused: deque[_Grant] = field(default_factory=lambda: deque(maxlen=MOST_UNUSED))
    reported: bool = False
    """The exporter reports use."""
    elsewhere: bool = False
    """Some streams pass another router than the built-in one."""
    carried: int = 0
    """Bytes when it was looked last."""
    sent: deque[_Offered] = field(default_factory=lambda: deque(maxlen=MOST_UNMET))
    """The last offers that were sent to the exporter."""


def lease_claim(key: Key) -> str:
    """Return what stream tokens call a lease; unlike its name it is the only one of all namespaces."""
    return f"{key.namespace}/{key.name}"


class Switchboard:
    """Listening exporters, dialling clients.

    Args:
        built_in: endpoint of the built-in router.
        traffic: tells how many bytes the streams of a lease, by its claim, have carried through the built-in router.
        alone: tells whether a client waits at the built-in router for the exporter to come to a stream.
        ready_patience: seconds for which a dial waits until the exporter is ready.
        listener_patience: seconds for which a dial waits for the exporter's listener.
    """

    def __init__(
        self,
        lab: Lab,
        tokens: StreamTokens,
        routers: Routers,
        *,
        built_in: str = "",
        traffic: Callable[[str], int] = lambda claim: 0,
        alone: Callable[[str], bool] = lambda stream: False,
        ready_patience: float = READY_PATIENCE,
        listener_patience: float = LISTENER_PATIENCE,
    ) -> None:
        self.queues = Queues[_Offered]()
        self._lab = lab
        self._tokens = tokens
        self._routers = routers
        self._traffic = traffic
        self._alone = alone
        self._built_in = built_in
        self.ready_patience = ready_patience
        self.listener_patience = listener_patience
        self._grants: dict[Key, _Grants] = {}
        self._listening: dict[Key, dict[Key, anyio.CancelScope]] = {}
        self._tasks: TaskGroup | None = None
        self.elsewhere: Elsewhere | None = None
        """Dials at the other servers of the lab, where there are any."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Watch over the leases that streams were granted in while the body runs."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._keep_use)
            yield
            self._tasks.cancel_scope.cancel()

    # -- exporters -------------------------------------------------------------------------------

    async def listen(self, exporter: Key, lease_name: str, write: Callable[[Offer], Awaitable[None]]) -> None:
        """Pass what clients dial in a lease to its exporter, until a newer listener takes over.

        A listener of a lease that has ended is kept, silently: exporters of 0.9 come again at once, and give up after
        a few times, when they aren't.

        Raises:
            Refused: there is no such lease, or another exporter has it.
        """
        lease = await self._find(Key(Kind.LEASE, exporter.namespace, _named(lease_name)))
        if lease.exporter != exporter.name:
            raise Said(
                Code.UNKNOWN,
                "NOT_YOUR_LEASE",
                f"permission denied: lease {lease_name} is not one of exporter {exporter.name}",
                {"lease": lease_name},
            )
        own = self._listening.setdefault(exporter, {})
        for other, former in list(own.items()):
            if other != lease.key and self._lab.active_lease(other) is None:
                former.cancel()
        with anyio.CancelScope() as scope:
            own[lease.key] = scope
            try:
                await self._send_again(lease.key, write)
                await self.queues.listen(lease.key, partial(self._send, lease.key, write))
            finally:
                if own.get(lease.key) is scope:
                    del own[lease.key]
                if not own and self._listening.get(exporter) is own:
                    del self._listening[exporter]

    async def _send_again(self, key: Key, write: Callable[[Offer], Awaitable[None]]) -> None:
        """Repeat what was sent to a listener that was gone by then, as far as the clients may still wait for it.

        Who waits at a router of its own isn't known here. Such offers are repeated to exporters that don't come to one
        twice; those of 0.9 may.
        """
        grants = self._grants.get(key)
        for offered in list(grants.sent) if grants is not None else ():
            if offered.message.router_endpoint == self._built_in:
                lost = self._alone(offered.stream)
            else:
                lost = self._lab.clock.monotonic() < offered.until and self._is_ours(key)
            if lost:
                logger.info("lease %s: the exporter may not have come to a stream, and is told of it again", key)
                await write(offered.message)

    async def _send(self, key: Key, write: Callable[[Offer], Awaitable[None]], offered: _Offered) -> None:
        await write(offered.message)
        grants = self._grants.get(key)
        if grants is not None:
            grants.sent.append(offered)

    # -- clients ---------------------------------------------------------------------------------

    async def dial(self, client: Key, lease_name: str) -> jumpstarter_pb2.DialResponse:
        """Have the exporter of a lease meet a client at a router; the exporter knows when this returns.

        Raises:
            Refused: in the words of published controllers, see there.
        """
        key = Key(Kind.LEASE, client.namespace, _named(lease_name))
        await self._when_ready(client, key)
        if self.elsewhere is not None and not self.queues.listening(key):
            answer = await self._first_to_listen(client, key, self.elsewhere)
            if answer is not None:
                return answer
        return await self.dial_here(client, key)

    async def when_listening(self, key: Key, patience: float) -> bool:
        """Wait until the exporter of a lease listens here; return whether it does."""
        with anyio.move_on_after(patience):
            await self.queues.arrival(key)
        return self.queues.listening(key)

    async def _first_to_listen(
        self, client: Key, key: Key, elsewhere: Elsewhere
    ) -> jumpstarter_pb2.DialResponse | None:
        """Return the answer of the server at which the exporter listens, or None when it is this one, or none."""
        answer: jumpstarter_pb2.DialResponse | None = None
        failure: Exception | None = None

        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                nonlocal answer, failure
                try:
                    answer = await elsewhere(client, key, self.listener_patience)
                except Refused as refused:
                    failure = refused
                if answer is not None or failure is not None:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(ask)
            await self.when_listening(key, self.listener_patience)
            if self.queues.listening(key):
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return answer

    async def dial_here(self, client: Key, key: Key) -> jumpstarter_pb2.DialResponse:
        """Carry out a dial at this server.

        Raises:
            Refused: in the words of published controllers, see there.
        """
        exporter, role = await self._when_ready(client, key)
        if role == Role.WATCHER and not keeps_watchers_from_driving(exporter):
            raise roles_not_enforced(key, exporter)
        endpoint, stream = self._routers.choose(exporter), str(uuid4())
        sign = partial(
            self._tokens.issue,
            stream,
            lease=lease_claim(key),
            client=client.name,
            exporter=exporter.meta.name,
            role=role,
        )
        # Noted first, so that a change of the lease at any later moment takes it back.
        self._note(key, _Grant(stream, client.name, role, self._lab.clock.monotonic() + TOKEN_LIFE))
        self._grants[key].elsewhere |= endpoint != self._built_in
        await self._lab.used(_SERVER, key, in_use=True)
        message = Offer(router_endpoint=endpoint, router_token=sign(side="exporter"))
        await self._offer(key, _Offered(stream, message, self._lab.clock.monotonic() + UNMET_LIFE))
        return jumpstarter_pb2.DialResponse(router_endpoint=endpoint, router_token=sign(side="client"))

    async def _offer(self, key: Key, offer: _Offered) -> None:
        try:
            await self.queues.offer(key, offer, self.listener_patience)
        except NoListener:
            raise Said(
                Code.UNAVAILABLE,
                "EXPORTER_NOT_LISTENING",
                f"exporter is not listening on lease {key.name}; it may be connecting again, so try again",
                {"lease": key.name},
            ) from None
        except Full:
            raise Said(
                Code.RESOURCE_EXHAUSTED,
                "LISTENER_FULL",
                f"listener buffer full on lease {key.name}: the exporter takes connections too slowly; try again",
                {"lease": key.name},
            ) from None
        except Closed:
            _not_active(key)

    async def _find(self, key: Key) -> Lease:
        lease = self._lab.active_lease(key) or await self._lab.lease(key)
        if lease is None:
            raise Said(
                Code.UNKNOWN, "LEASE_NOT_FOUND", f'leases.jumpstarter.dev "{key.name}" not found', {"lease": key.name}
            )
        return lease

    async def _when_ready(self, client: Key, key: Key) -> tuple[Exporter, str]:
        """Return the exporter and the role of a client when the exporter has taken note of the lease."""
        found = self._look(client, key, await self._find(key))
        if _ready(found[0]):
            return found
        with anyio.move_on_after(self.ready_patience):
            async with self._lab.follow(found[0].key, key) as changes:
                async for _ in changes:
                    found = self._look(client, key, await self._find(key))
                    if _ready(found[0]):
                        return found
        raise Said(
            Code.FAILED_PRECONDITION,
            "EXPORTER_NOT_READY",
            f"exporter is not ready (status: {ExporterStatus.AVAILABLE})",
            {"exporter": found[0].meta.name},
        )

    def _look(self, client: Key, key: Key, lease: Lease) -> tuple[Exporter, str]:
        role = self._lab.role(lease, client)
        if not role:
            raise Said(
                Code.UNKNOWN,
                "NOT_YOUR_LEASE",
                f"permission denied: lease {key.name} belongs to client {lease.client}, who shares it with "
                f"{client.name} not or no longer",
                {"lease": key.name, "owner": lease.client},
            )
        if lease.ended or not lease.exporter:
            _not_active(key, "it has ended" if lease.ended else "it still waits for an exporter")
        exporter = self._lab.account(Key(Kind.EXPORTER, key.namespace, lease.exporter))
        if not isinstance(exporter, Exporter):
            raise Said(
                Code.UNKNOWN,
                "EXPORTER_NOT_FOUND",
                f'exporters.jumpstarter.dev "{lease.exporter}" not found',
                {"exporter": lease.exporter},
            )
        _check_status(exporter)
        return exporter, role

    # -- use -------------------------------------------------------------------------------------

    def reports_use(self, key: Key) -> None:
        """Take note that the exporter of a lease says itself when it is used."""
        if key in self._grants:
            self._grants[key].reported = True

    async def _keep_use(self) -> None:
        while True:
            await anyio.sleep(USE_INTERVAL)
            await self.note_use()

    async def note_use(self) -> None:
        """Have leases count as used whose streams carried something since the last call, where no exporter reports use.

        What passes other routers than the built-in one isn't seen here, so such a lease counts as used to its end.
        """
        for key, grants in list(self._grants.items()):
            lease = self._lab.active_lease(key)
            if lease is None or (lease.idle_timeout is None and lease.extend_by_use is None):
                continue
            # One that reports use has nothing to report when it is silent.
            if grants.reported or self._is_ours(key):
                continue
            carried = self._traffic(lease_claim(key))
            if carried != grants.carried or grants.elsewhere:
                grants.carried = carried
                await self._lab.used(_SERVER, key, in_use=True)

    def _is_ours(self, key: Key) -> bool:
        """Tell whether the exporter of a lease reports use, and comes but once to what it is offered twice."""
        lease = self._lab.active_lease(key)
        exporter = self._lab.account(Key(Kind.EXPORTER, key.namespace, lease.exporter)) if lease is not None else None
        # The same exporters know roles: all of this came with one release.
        return isinstance(exporter, Exporter) and keeps_watchers_from_driving(exporter)

    # -- rights ----------------------------------------------------------------------------------

    def _note(self, key: Key, grant: _Grant) -> None:
        grants = self._grants.get(key)
        if grants is None:
            grants = self._grants[key] = _Grants()
            assert self._tasks is not None, "the switchboard is not running"
            self._tasks.start_soon(self._watch, key, grants)
        now = self._lab.clock.monotonic()
        while grants.unused and grants.unused[0].until < now:
            grants.unused.popleft()
        grants.unused.append(grant)
        grants.roles[grant.client] = grant.role

    async def _watch(self, key: Key, grants: _Grants) -> None:
        """Take back what was granted in a lease when it is no one's right any more; ends with the lease."""
        try:
            async with self._lab.follow(key) as changes:
                async for _ in changes:
                    lease = self._lab.active_lease(key)
                    if lease is None:
                        return
                    for name, role in list(grants.roles.items()):
                        if self._lab.role(lease, Key(Kind.CLIENT, key.namespace, name)) != role:
                            self._revoke(key, grants, name)
        finally:
            del self._grants[key]
            if self._lab.active_lease(key) is None:
                self.queues.close(key)
                self._revoke(key, grants)

    def _revoke(self, key: Key, grants: _Grants, client: str = "") -> None:
        lost = [grant for grant in grants.unused if not client or grant.client == client]
        for grant in lost:
            grants.unused.remove(grant)
        grants.roles.pop(client, None)
        logger.debug("streams of %s %s have lost their right", key, client)
        self._routers.cut_lease(lease_claim(key), client)
        if lost:
            self._routers.cut([grant.stream for grant in lost])


def keeps_watchers_from_driving(exporter: Exporter) -> bool:
    """Tell whether an exporter looks at the role that stream tokens name; it says so when it registers."""
    return exporter.meta.labels.get(ROLES_LABEL) == "1"


def roles_not_enforced(lease: Key, exporter: Exporter) -> Said:
    """Make the refusal of watchers at an exporter that would let them drive."""
    return Said(
        Code.FAILED_PRECONDITION,
        "ROLES_NOT_ENFORCED",
        f"lease {lease.name} can't be watched: exporter {exporter.meta.name} runs a version that can't keep watchers "
        "from driving; have it updated, or have the owner give the role driver",
        {"lease": lease.name, "exporter": exporter.meta.name},
    )


def _named(lease_name: str) -> str:
    if not lease_name:
        raise Said(Code.UNKNOWN, "EMPTY_LEASE_NAME", "empty lease name")
    return lease_name


def _not_active(key: Key, why: str = "it has ended") -> NoReturn:
    raise Said(Code.UNKNOWN, "LEASE_NOT_ACTIVE", f"lease not active: {key.name}: {why}", {"lease": key.name})


def _ready(exporter: Exporter) -> bool:
    """Tell whether an exporter has taken note of its lease; those that report no status need no time."""
    return exporter.status is not ExporterStatus.AVAILABLE


_HOOKS = {
    ExporterStatus.BEFORE_LEASE_HOOK_FAILED: "beforeLease",
    ExporterStatus.AFTER_LEASE_HOOK_FAILED: "afterLease",
}


def _check_status(exporter: Exporter) -> None:
    reason, text = "EXPORTER_OFFLINE", ""
    # One that says that it doesn't know its status counts as offline for leases, and may be connected nevertheless.
    known = exporter.status is not ExporterStatus.UNSPECIFIED
    if (known and not exporter.online) or exporter.status is ExporterStatus.OFFLINE:
        text = "exporter is offline"
    elif exporter.status in _HOOKS:
        reason, text = "HOOK_FAILED", f"exporter hook {_HOOKS[exporter.status]} failed"
    if text:
        why = f": {exporter.status_message}" if exporter.status_message else ""
        raise Said(
            Code.FAILED_PRECONDITION,
            reason,
            f"{text} ({exporter.meta.name}){why}",
            {"exporter": exporter.meta.name},
        )
