"""The routers that a controller knows: which of them a new stream goes to, and what they are told.

There is the built-in one, those that joined through `LabService.ServeRouter`, and fixed ones that know the key of
stream tokens by their own means, such as published routers.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from ..errors import Code, Refused
from ..identity.keys import StreamKeys
from ..lab import Actor
from ..model.records import Exporter
from ..services.errors import only_refusal
from .book import CutBook, Order
from .endpoints import parse_endpoint, reachable
from .members import BuiltIn, Fixed, Joined, Member
from .relay import GONE
from .service import Relay

if TYPE_CHECKING:
    from jumpstarter_protocol.jumpstarter.admin.v1.admin_pb2 import Router

FIRST_REPORT = 10.0
"""Seconds that a router which has connected may take for its first report."""

SEND_TIMEOUT = 10.0
"""Seconds that a router may take for accepting an order."""

MARGIN = 2.0
"""Seconds before the last report of a lost router from which on it is told again what was cut."""

PROBE_INTERVAL = 2.0
PROBE_TIMEOUT = 2.0

MOST_LABELS = 64
MOST_TEXT = 253
"""Characters of a label."""

MOST_PARTED = 1000
"""Routers that are away, of which it is remembered since when."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StaticRouter:
    """A router that doesn't join by itself; it counts as healthy while its port accepts connections."""

    endpoint: str
    labels: Mapping[str, str] = field(default_factory=dict)


class RouterPool:
    """Chooses routers, and tells them keys and cuts.

    Args:
        keys: the keys of stream tokens; routers that joined are told when they change.
        static: further routers from the configuration.

    Raises:
        Refused: an endpoint is not of the form host:port.
    """

    def __init__(self, keys: StreamKeys, static: Iterable[StaticRouter] = ()) -> None:
        self._keys = keys
        self._built_in: list[BuiltIn] = []
        self._fixed = [
            Fixed(name=router.endpoint, endpoint=parse_endpoint(router.endpoint), labels=dict(router.labels))
            for router in static
        ]
        self._joined: dict[tuple[str, str], Joined] = {}
        self._parted: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._book = CutBook()

    def add_built_in(self, relay: Relay, endpoint: str, labels: Mapping[str, str] | None = None) -> None:
        """Use a router of this process, which peers reach at `endpoint`."""
        member = BuiltIn(name="built-in", endpoint=parse_endpoint(endpoint), labels=dict(labels or {}), relay=relay)
        self._built_in.append(member)

    async def run(self) -> None:
        """Watch fixed routers and the keys, until cancelled."""
        async with anyio.create_task_group() as tasks:
            for member in self._fixed:
                tasks.start_soon(self._probe, member)
            while True:
                await self._keys.changed()
                for joined in self._joined.values():
                    joined.tell(Order(keys=self._keys.values))

    # -- choice ------------------------------------------------------------------------------------

    def choose(self, exporter: Exporter, exclude: Collection[str] = ()) -> str:
        """Return the endpoint of the router for a new stream to an exporter.

        Of those that are healthy and not draining the ones are preferred whose labels the exporter has, all of them;
        then those without labels; then the others. Among equals the built-in one comes last, because its streams end
        with the controller, and of the others the one with the least to do is taken.

        Args:
            exporter: the one that the stream goes to.
            exclude: endpoints that a peer could not reach; used only when there is no other.

        Raises:
            Refused: there is none; with the code and text of published controllers.
        """
        ready = []
        for member in self.members():
            if member.alive and not member.draining:
                ready.append(member)
        candidates = [member for member in ready if member.endpoint not in exclude] or ready
        if not candidates:
            message = "no router available: none is connected to the controller and takes new streams; try again soon"
            raise Refused(Code.UNKNOWN, "NO_ROUTER", message)
        labels = exporter.meta.labels

        def rank(member: Member) -> tuple[float, ...]:
            return member.match(labels), not isinstance(member, BuiltIn), -member.load(), random.random()

        chosen = max(candidates, key=rank)
        chosen.allotted += 1
        return chosen.endpoint

    def describe(self) -> Iterable[Router]:
        """Tell what is known of each router."""
        from jumpstarter_protocol.jumpstarter.admin.v1.admin_pb2 import Router

        for member in self.members():
            router = Router(
                name=member.name,
                endpoint=member.endpoint,
                labels=member.labels,
                online=member.alive,
                streams=member.streams,
                bytes_per_second=member.bytes_per_second,
                draining=member.draining,
            )
            if member.seen is not None:
                router.last_seen.FromDatetime(member.seen)
            yield router

    def members(self) -> Sequence[Member]:
        """Return all routers, with their load of this moment."""
        found = [*self._built_in, *self._fixed, *self._joined.values()]
        for member in found:
            member.refresh()
        return found

    # -- cuts --------------------------------------------------------------------------------------

    def cut(self, streams: Iterable[str]) -> None:
        """End streams wherever they are, and have their tokens refused. Never waits.

        Routers that are away are told when they are back.
        """
        order = self._book.cut(streams=streams)
        if order.streams:
            for member in self._built_in:
                member.relay.cut(order.streams)
            self._tell_all(order)

    def cut_lease(self, lease: str, client: str = "") -> None:
        """End the open streams of a lease, or of one client of it, wherever they are. Never waits.

        Args:
            lease: as the claim `lease` of the stream tokens has it.
            client: as the claim `client` has it; empty for everybody's.
        """
        for member in self._built_in:
            member.relay.cut_lease(lease, client)
        self._tell_all(self._book.cut(leases=[(lease, client)]))

    def _tell_all(self, order: Order) -> None:
        for joined in self._joined.values():
            joined.tell(order)

    # -- routers that join ---------------------------------------------------------------------------

    async def serve(self, actor: Actor, reports: AsyncIterator[Any], write: Callable[[Any], Awaitable[None]]) -> None:
        """Serve one call of `LabService.ServeRouter` until its reports end.

        Args:
            actor: the account of the router. Several routers may share one, each with its endpoint.
            reports: what the router sends.
            write: sends it an order.

        Raises:
            Refused: a report is not as it should be, the router does not accept its orders, or another connection
                of the same account and endpoint took this one's place.
        """
        with anyio.CancelScope() as scope:
            router = Joined(name=actor.key.name if actor.key is not None else actor.kind, scope=scope)
            router.tell(Order(keys=self._keys.values))
            try:
                with only_refusal():
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._tell, router, write, tasks.cancel_scope)
                        await self._listen(router, reports)
                        tasks.cancel_scope.cancel()
            finally:
                self._part(router)
            return
        raise Refused(Code.ABORTED, "SUPERSEDED", "another router with this account and endpoint has connected")

    async def _listen(self, router: Joined, reports: AsyncIterator[Any]) -> None:
        while True:
            try:
                with anyio.fail_after(None if router.endpoint else FIRST_REPORT):
                    report = await anext(reports)
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"no report came within {FIRST_REPORT:g} s"
                raise Refused(Code.INVALID_ARGUMENT, "NO_REPORT", message) from None
            self._take(router, report)

    def _take(self, router: Joined, report: Any) -> None:
        if report.endpoint or not router.endpoint:
            labels = dict(report.labels)
            if len(labels) > MOST_LABELS or any(len(text) > MOST_TEXT for pair in labels.items() for text in pair):
                message = f"a router has at most {MOST_LABELS} labels, of {MOST_TEXT} characters each"
                raise Refused(Code.INVALID_ARGUMENT, "BAD_REPORT", message)
            self._move(router, parse_endpoint(report.endpoint))
            router.labels = labels
        router.streams, router.waiting, router.draining = report.streams, report.waiting, report.draining
        router.bytes_per_second, router.bytes_total = report.bytes_per_second, report.bytes_total
        router.streams_total, router.allotted = report.streams_total, 0
        router.heard, router.seen = time.monotonic(), datetime.now(UTC)

    def _move(self, router: Joined, endpoint: str) -> None:
        place = router.name, endpoint
        former = self._joined.get(place)
        if former is router:
            return
        if former is not None:
            self._part(former)
            former.scope.cancel()
        self._part(router)
        router.endpoint = endpoint
        self._joined[place] = router
        # New streams don't go to a router that is away, so only those are cut that were there before.
        router.tell(self._book.since(self._parted.pop(place, -math.inf)))
        logger.info("router %s serves at %s", router.name, endpoint)

    def _part(self, router: Joined) -> None:
        place = router.name, router.endpoint
        if self._joined.get(place) is not router:
            return
        del self._joined[place]
        # What it was sent after its last report may have got lost.
        self._parted[place] = router.heard - MARGIN
        self._parted.move_to_end(place)
        while len(self._parted) > MOST_PARTED:
            self._parted.popitem(last=False)
        logger.info("router %s at %s has left", router.name, router.endpoint)

    async def _tell(self, router: Joined, write: Callable[[Any], Awaitable[None]], scope: anyio.CancelScope) -> None:
        while True:
            await router.wake.wait()
            router.wake = anyio.Event()
            order, router.pending = router.pending, Order()
            try:
                with anyio.fail_after(SEND_TIMEOUT):
                    for message in order.messages():
                        await write(message)
            except GONE:
                scope.cancel()
                return
            except TimeoutError:
                text = f"the router did not accept an order within {SEND_TIMEOUT:g} s"
                raise Refused(Code.DEADLINE_EXCEEDED, "ROUTER_STALLED", text) from None

    async def _probe(self, member: Fixed) -> None:
        while True:
            was, member.reachable = member.reachable, await reachable(member.endpoint, PROBE_TIMEOUT)
            member.allotted //= 2  # its streams are not known; those given lately stand for them
            if member.reachable:
                member.seen = datetime.now(UTC)
            if was != member.reachable:
                logger.info("router at %s is %s", member.endpoint, "reachable" if member.reachable else "gone")
            await anyio.sleep(PROBE_INTERVAL)
