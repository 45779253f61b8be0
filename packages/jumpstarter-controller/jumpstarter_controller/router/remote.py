"""A router on a machine of its own, which has joined a controller: what `jmp router run` runs.

The controller tells it the keys of stream tokens and which streams to cut; it tells the controller how much it has to
do. Without the controller it goes on relaying, and accepts tokens of the keys it knows.
"""

from __future__ import annotations

import logging
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import grpc
from jumpstarter.common.exceptions import ConfigurationError, ConnectionError

from ..clock import Clock, SystemClock
from ..errors import Code, Refused
from ..identity.certificates import ServerCertificates
from ..identity.keys import StreamKeys
from ..identity.streams import StreamClaims, StreamTokens
from .certified import Certified
from .endpoints import parse_endpoint
from .joining import addresses_of, controller_channel
from .members import Rate
from .options import SERVER_OPTIONS
from .relay import GONE
from .service import Limits, Relay

if TYPE_CHECKING:
    from jumpstarter.common.tls import TLSConfigV1Alpha1
    from jumpstarter.config.common import ObjectMeta
    from jumpstarter_protocol.jumpstarter.lab.v1.lab_pb2 import RouterOrder, RouterReport

REPORT_INTERVAL = 1.0
"""Seconds between two reports; a controller gives no streams to a router that is silent for five."""

SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 5.0
"""Seconds between two attempts to reach the controller.

While a router is away new streams go to the one inside of the controller, and end with that.
"""

LOOKUP_INTERVAL = 10.0
"""Seconds between two looks at which addresses the controllers have."""

HEALTHY = 2.0
"""Seconds after which a connection counts as a success, and the next pause is a short one again."""

DIAL_TIMEOUT = 10.0
"""Seconds that the controller may take for its first order."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteSettings:
    """How a router joins and what it serves."""

    controller: str
    """Endpoint of the controller."""
    tls: TLSConfigV1Alpha1
    """How the certificate of the controller is checked."""
    metadata: ObjectMeta
    """Namespace and name of the router's account."""
    token: Callable[[], str]
    """Returns the token of the account; asked for each connection, so that it can be replaced."""
    endpoint: str
    """Where peers reach this router, host:port; empty for loopback and the port that it listens on."""
    listen: str
    """Address to listen on, host:port."""
    labels: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    """Endpoints of further controllers of the lab."""
    every_address: bool = False
    """Join a controller at each address of an endpoint's name."""
    drain: float = 30.0
    """Seconds that open streams get for ending when the router is told to end."""
    limits: Limits = field(default_factory=Limits)


@dataclass
class Pauses:
    """How long to wait before the controller is tried again."""

    failures: int = 0
    """Connections in a row that did not last, or were not to be had; the last one counts in any case."""

    def after(self, lasted: float) -> float:
        """Return the longest pause after a connection that lasted so many seconds."""
        self.failures = 1 if lasted > HEALTHY else self.failures + 1
        return float(min(SHORTEST_PAUSE * 2 ** min(self.failures - 1, 30), LONGEST_PAUSE))


class RemoteRouter:
    """The router and its connection to the controller.

    Args:
        settings: see there.
        certificates: what is shown to peers.
        clock: for the life of tokens.
    """

    def __init__(self, settings: RemoteSettings, certificates: ServerCertificates, clock: Clock | None = None) -> None:
        self.settings = settings
        self.endpoint = ""
        """Where peers reach it, once it serves."""
        self.relay = Relay(self._verify, settings.limits)
        self._certificates = certificates
        self._keys = StreamKeys()
        self._tokens = StreamTokens(self._keys, clock or SystemClock())
        self._rate = Rate()
        self._report_now = anyio.Event()

    def _verify(self, token: str) -> StreamClaims:
        if not self._keys.values:
            message = "the router has not reached its controller yet; dial again"
            raise Refused(Code.UNAVAILABLE, "ROUTER_STARTING", message)
        return self._tokens.verify(token)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Relay while the body runs, and keep in touch with the controller.

        Raises:
            ConfigurationError: the address can't be listened on.
        """
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers([self.relay])
        try:
            port = server.add_secure_port(self.settings.listen, self._certificates.grpc_credentials())
        except RuntimeError as error:
            raise ConfigurationError(
                f"the router can't listen on {self.settings.listen}: {error}; is something else there already?"
            ) from None
        try:
            self.endpoint = parse_endpoint(self.settings.endpoint or f"127.0.0.1:{port}")
        except Refused as refused:
            raise ConfigurationError(str(refused)) from None
        await server.start()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_joined)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self.relay.stop()
                await server.stop(None)

    async def drain(self) -> None:
        """Take no new streams, say so, and wait until the open ones have ended, or their time is up."""
        self.relay.drain()
        self._report_now.set()
        await self.relay.stop(self.settings.drain)

    # -- the controller --------------------------------------------------------------------------------

    async def _keep_joined(self) -> None:
        """Be linked to every controller there is."""
        endpoints = dict.fromkeys((self.settings.controller, *self.settings.others))
        if not self.settings.every_address:
            async with anyio.create_task_group() as tasks:
                for endpoint in endpoints:
                    tasks.start_soon(self._keep_linked, endpoint, "")
            return
        links: dict[tuple[str, str], anyio.CancelScope] = {}

        async def keep(endpoint: str, address: str) -> None:
            with links[endpoint, address]:
                await self._keep_linked(endpoint, address)

        async with anyio.create_task_group() as tasks:
            while True:
                wanted = {(endpoint, address) for endpoint in endpoints for address in await addresses_of(endpoint)}
                if wanted:
                    for gone in links.keys() - wanted:
                        links.pop(gone).cancel()
                for new in wanted - links.keys():
                    links[new] = anyio.CancelScope()
                    tasks.start_soon(keep, *new)
                await anyio.sleep(LOOKUP_INTERVAL)

    async def _keep_linked(self, endpoint: str, address: str) -> None:
        pauses, told = Pauses(), ""
        while True:
            began = anyio.current_time()
            why = await self._link(endpoint, address)
            pause = pauses.after(anyio.current_time() - began)
            if pauses.failures == 1 or why != told:
                logger.warning(
                    "no connection to the controller at %s: %s; open streams go on, and it is tried again",
                    address or endpoint,
                    why,
                )
                told = why
            await anyio.sleep(pause * random.uniform(0.5, 1))

    async def _link(self, endpoint: str, address: str) -> str:
        """Be connected to a controller; return why that came to its end."""
        try:
            channel = await controller_channel(self.settings, endpoint, address)
        except (ConfigurationError, ConnectionError, OSError, ValueError) as error:
            return str(error)
        try:
            return await self._talk(channel, address or endpoint)
        finally:
            with anyio.CancelScope(shield=True):
                await channel.close()

    async def _talk(self, channel: grpc.aio.Channel, where: str) -> str:
        from jumpstarter_protocol import lab_pb2_grpc

        call = lab_pb2_grpc.LabServiceStub(channel).ServeRouter()
        why = "it ended the connection"
        joined = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._report, call)
            try:
                with anyio.fail_after(DIAL_TIMEOUT) as patience:
                    while (order := await _next(call)) is not grpc.aio.EOF:
                        self._obey(order)
                        if order.keys and not joined:
                            joined = True
                            logger.info("joined the controller at %s, serving %s", where, self.endpoint)
                        patience.deadline = float("inf")
                if await call.code() != grpc.StatusCode.OK:
                    why = _reason(await call.code(), await call.details())
            except grpc.aio.AioRpcError as error:
                why = _reason(error.code(), error.details())
            except TimeoutError:
                why = f"it gave no answer within {DIAL_TIMEOUT:g} s"
            except ConfigurationError as error:
                why = f"what it sends can't be used: {error}"
            finally:
                call.cancel()
            tasks.cancel_scope.cancel()
        return why

    async def _report(self, call: Any) -> None:
        first = True
        while True:
            try:
                await call.write(self._report_of(first))
            except GONE:
                return  # the reader of the orders learns why
            first = False
            if self._report_now.is_set():
                # Other links that wait for the former one are awake by now.
                self._report_now = anyio.Event()
            with anyio.move_on_after(REPORT_INTERVAL):
                await self._report_now.wait()

    def _report_of(self, first: bool) -> RouterReport:
        from jumpstarter_protocol.jumpstarter.lab.v1.lab_pb2 import RouterReport

        counters = self.relay.counters()
        report = RouterReport(
            streams=counters.streams,
            waiting=counters.waiting,
            bytes_per_second=self._rate.of(counters.bytes_total),
            bytes_total=counters.bytes_total,
            streams_total=counters.streams_total,
            # Until it has keys it would have to refuse everybody.
            draining=self.relay.draining or not self._keys.values,
        )
        if first:
            report.endpoint = self.endpoint
            report.labels.update(self.settings.labels)
        return report

    def _obey(self, order: RouterOrder) -> None:
        if order.keys:
            had_keys = bool(self._keys.values)
            self._keys.replace(tuple(order.keys))
            if not had_keys:
                self._report_now.set()
        self.relay.cut(order.cut)
        for cut in order.cut_leases:
            self.relay.cut_lease(cut.lease, cut.client)


async def _next(call: Any) -> Any:
    """Read an order; see `jumpstarter.common.cancellation` for why this isn't a mere read."""
    from asyncio import CancelledError

    try:
        return await call.read()
    except CancelledError:
        await anyio.lowlevel.checkpoint()
        raise


def _reason(code: grpc.StatusCode, details: str | None) -> str:
    return f"{code.name}: {details or 'no details'}"


async def run_router(settings: RemoteSettings, certificates: ServerCertificates | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once.

    Args:
        settings: see there.
        certificates: what is shown to peers; None for what the controller issues.

    Raises:
        ConfigurationError: the address can't be listened on, the endpoint is not of the form host:port, or the
            controller gives no certificate.
    """
    certified: Certified | None = None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        if certificates is None:
            certified = Certified(settings, SystemClock())
            if not await _first(certified.obtain, signals):
                return
            certificates = ServerCertificates(certified)
        router = RemoteRouter(settings, certificates)
        async with router.serving(), anyio.create_task_group() as background:
            if certified is not None:
                background.start_soon(certified.keep_fresh)
            logger.info("router listening on %s for peers that dial %s", settings.listen, router.endpoint)
            await anext(aiter(signals))
            logger.info("router stops: %d streams get %g s", router.relay.counters().streams, settings.drain)
            await _first(router.drain, signals)
            background.cancel_scope.cancel()


async def _first(work: Callable[[], Awaitable[None]], signals: AsyncIterator[int]) -> bool:
    """Do some work until it is done or a signal comes; return whether it was done."""
    done = False
    failure: ConfigurationError | None = None
    async with anyio.create_task_group() as tasks:

        async def do() -> None:
            nonlocal done, failure
            try:
                await work()
                done = True
            except ConfigurationError as error:
                failure = error
            tasks.cancel_scope.cancel()

        tasks.start_soon(do)
        await anext(aiter(signals))
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return done
