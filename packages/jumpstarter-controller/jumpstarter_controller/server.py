"""A whole lab in one process: store, rules, identities, router and services, assembled and taken apart in order."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import anyio
import grpc
from jumpstarter.common.exceptions import ConfigurationError

from .clock import Clock, SystemClock
from .identity.authenticate import Authenticator
from .identity.authority import Authority
from .identity.certificates import Files, Issued, ServerCertificates
from .identity.keys import Keys
from .identity.streams import StreamTokens
from .lab import Lab
from .listening import LASTING, Keepalive, bind, join_address, open_listener, split_address
from .settings import Settings

if TYPE_CHECKING:
    from .cluster.member import Member
    from .router.pool import RouterPool, StaticRouter
    from .router.service import Relay
    from .services.assembly import Health
    from .services.rpc import Guard
    from .services.switchboard import Switchboard
    from .store.base import Store
    from .web.metrics import LabMetrics

logger = logging.getLogger(__name__)

STORE_FILE = "lab.db"
"""Name of the store in the data folder."""

STOP_TIMEOUT = 5.0
"""Seconds that calls get for ending when the server stops."""

KEY_INTERVAL = timedelta(hours=1)
"""Between two looks whether the keys of tokens are too old."""

SHARED_KEY_INTERVAL = timedelta(minutes=1)
"""The same where others may change them; well within the time for which a former key is accepted."""

UNSPECIFIED = ("", "0.0.0.0", "::")
"""Hosts that mean all addresses of the machine, so nobody can dial them."""


def avoid_pauses() -> None:
    """Have Python search for garbage less often, for a process that is a lab and nothing else.

    A search goes through everything there is. With 3000 peers that takes some 300 ms, in which nobody is answered, and
    finds next to nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where a server listens, and what peers are told to dial."""

    listen: str = "127.0.0.1:8082"
    """Address of the services, `host:port`; port 0 for a free one, an empty host for all addresses."""
    endpoint: str = ""
    """What peers dial, `host:port`; empty for the address that is listened on."""
    router_listen: str = ""
    """Address of the router, when it is to have a port of its own."""
    router_endpoint: str = ""
    """What peers dial for streams; empty for the router's own address, or the endpoint."""
    router: bool = True
    """Whether there is a router in this process; without one streams need routers that join."""
    names: tuple[str, ...] = ()
    """Further hosts that are dialled, for the certificate."""
    web_listen: str = ""
    """Address of REST, log-in and dashboard, over TLS; empty for none."""
    web_endpoint: str = ""
    """The URL of these that people are told; empty for the address."""
    metrics_listen: str = ""
    """Address of the metrics, without TLS; empty for none."""


@dataclass(frozen=True, kw_only=True)
class OwnCertificate:
    """A certificate that an administrator looks after."""

    certificate: Path
    """PEM, with what leads to the root."""
    key: Path
    """PEM, without passphrase."""
    ca: Path | None = None
    """What peers have to trust; None for what the certificate file says, or the roots of their systems."""


class LabServer:
    """A lab that serves while the asynchronous context is open.

    Args:
        folder: holds what has to be kept; made for its owner alone when it isn't there.
        endpoints: where it is reached.
        own_certificate: None for certificates of an authority of its own.
        store: of the records; None for SQLite in the folder. Is opened and closed here.
        member: what makes this one of several servers of the same store; None for the only one.
        keepalive: how connections are kept.
        static_routers: routers that know the key of stream tokens by their own means.
        grace: seconds that streams through the router get for ending when the server stops.
        reflection: tell callers what the services are like.

    Raises, when it is entered:
        ConfigurationError: an address or a certificate can't be used, or a setting is wrong.
        StoreError: the store can't be opened.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings | None = None,
        *,
        endpoints: Endpoints | None = None,
        own_certificate: OwnCertificate | None = None,
        store: Store | None = None,
        member: Member | None = None,
        clock: Clock | None = None,
        keepalive: Keepalive | None = None,
        static_routers: Sequence[StaticRouter] = (),
        grace: float = 0.0,
        reflection: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.settings = settings or Settings()
        self.clock: Clock = clock or SystemClock()
        self.version = version("jumpstarter-controller")
        self.store: Store
        self.lab: Lab
        self.keys: Keys
        self.authenticator: Authenticator
        self.certificates: ServerCertificates
        self.relay: Relay
        self.routers: RouterPool
        self.switchboard: Switchboard
        self.port = 0
        """Port of the services."""
        self.endpoint = ""
        """What peers dial."""
        self.router_endpoint = ""
        self.web_url = ""
        """Where people find REST, log-in and dashboard; empty when they aren't served."""
        self.metrics_port = 0
        """0 when metrics aren't served."""
        self.ready = False
        """Whether requests are served."""
        self._given_store = store
        self._member = member
        self._endpoints = endpoints or Endpoints()
        self._own_certificate = own_certificate
        self._keepalive = keepalive or Keepalive()
        self._static_routers = tuple(static_routers)
        self._grace = grace
        self._authority: Authority | None = None
        self._hosts: list[str] = []
        self._reflection = reflection
        self._exit: AsyncExitStack | None = None
        self._web_listener: socket.socket | None = None
        self._metrics_listener: socket.socket | None = None

    @property
    def ca(self) -> str:
        """What peers have to trust, as PEM; empty when the roots of their systems are enough."""
        return self.certificates.ca.decode()

    @property
    def place(self) -> str:
        """Where the lab is kept, for people."""
        return str(self.folder) if self._member is None else self._member.place

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._running())
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._exit is not None
        # Without the error of the body, which is to come out as it is: task groups would put it into groups of theirs.
        await self._exit.aclose()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None, None]:
        self.store = self._given_store or self._sqlite()
        async with self.store, AsyncExitStack() as stack:
            self.keys = await Keys.load(self.store, self.clock)
            server = self._server(self._keepalive)
            router = self._server(Keepalive(**LASTING)) if self._endpoints.router_listen else server
            # Listened on before the records are read: peers of a server that starts again wait, and aren't refused.
            await self._listen(server, router)
            stack.callback(self._close_listeners)
            self.lab = Lab(self.store, self.settings, self.clock)
            if self._member is not None:
                self.lab.join(self._member)
            metrics = self._lab_metrics()
            await stack.enter_async_context(self.lab.run(lead=self._member is None))
            guard, health = self._assemble(server, router)
            keep_keys = partial(self.keys.keep_fresh, KEY_INTERVAL if self._member is None else SHARED_KEY_INTERVAL)
            await stack.enter_async_context(_background(keep_keys, guard.keep_watch, self.routers.run))
            if self._member is not None:
                await stack.enter_async_context(self._member.running(self))
            await stack.enter_async_context(self.switchboard.running())
            await self._serve_http(stack, guard, metrics)
            servers = list(dict.fromkeys((server, router)))
            try:
                for each in servers:
                    await each.start()
                await health.set(ready=True)
                self.ready = True
                logger.info("the lab is served at %s", self.endpoint)
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop(guard, health, servers)

    def _sqlite(self) -> Store:
        from .store.sqlite import SQLiteStore

        return SQLiteStore(self.folder / STORE_FILE, clock=self.clock)

    @staticmethod
    def _server(keepalive: Keepalive) -> grpc.aio.Server:
        return grpc.aio.server(options=keepalive.options())

    # -- where it is reached ---------------------------------------------------------------------

    async def _listen(self, services: grpc.aio.Server, router: grpc.aio.Server) -> None:
        where = self._endpoints
        hosts = [_reachable(split_address(address)[0]) for address in (where.listen, where.router_listen) if address]
        hosts += [split_address(told, "endpoint")[0] for told in (where.endpoint, where.router_endpoint) if told]
        hosts += [*_web_hosts(where), *where.names]
        self._hosts = list(dict.fromkeys(hosts))
        self.certificates = ServerCertificates(await self._certificate_source())
        # Each port has credentials of its own, which remember what they showed last.
        self.port = bind(services, where.listen, self.certificates.grpc_credentials())
        self.endpoint = where.endpoint or _told(where.listen, self.port)
        self.router_endpoint = (where.router_endpoint or self.endpoint) if where.router else ""
        if where.router_listen:
            port = bind(router, where.router_listen, self.certificates.grpc_credentials())
            self.router_endpoint = where.router_endpoint or self._router_told(port)
        if where.web_listen:
            self._web_listener = open_listener(where.web_listen)
            port = self._web_listener.getsockname()[1]
            self.web_url = (where.web_endpoint or f"https://{_told(where.web_listen, port)}").rstrip("/")
        if where.metrics_listen:
            self._metrics_listener = open_listener(where.metrics_listen)
            self.metrics_port = self._metrics_listener.getsockname()[1]

    def _close_listeners(self) -> None:
        for listener in (self._web_listener, self._metrics_listener):
            if listener is not None:
                listener.close()

    def _router_told(self, port: int) -> str:
        """Return what peers dial for streams: the host of the endpoint, if the services have the same address."""
        where = self._endpoints
        if where.endpoint and split_address(where.router_listen)[0] == split_address(where.listen)[0]:
            return join_address(split_address(where.endpoint, "endpoint")[0], port)
        return _told(where.router_listen, port)

    async def _certificate_source(self) -> Files | Issued:
        own = self._own_certificate
        if own is not None:
            return Files(own.certificate, own.key, self._hosts, self.clock, ca=own.ca)
        self._authority = await Authority.load(self.store, self.clock)
        return Issued(self._authority, self._hosts, self.clock)

    # -- what is served --------------------------------------------------------------------------

    def _assemble(self, server: grpc.aio.Server, router: grpc.aio.Server) -> tuple[Guard, Health]:
        from .identity.certifying import RouterCertificates
        from .router.pool import RouterPool
        from .router.service import Relay
        from .services.assembly import Health, Parts, add_reflection, add_services
        from .services.rpc import Guard
        from .services.switchboard import Switchboard

        self.authenticator = Authenticator(self.lab, self.keys, self.settings)
        tokens = StreamTokens(self.keys.stream, self.clock)
        self.relay = Relay(tokens.verify)
        self.routers = RouterPool(self.keys.stream, self._static_routers)
        if self._endpoints.router:
            self.routers.add_built_in(self.relay, self.router_endpoint)
            router.add_generic_rpc_handlers((self.relay,))
        self.switchboard = Switchboard(
            self.lab,
            tokens,
            self.routers,
            built_in=self.router_endpoint,
            traffic=self.relay.traffic,
            alone=self.relay.client_waits,
        )
        guard = Guard(self.authenticator)
        parts = Parts(
            lab=self.lab,
            tokens=self.authenticator.tokens,
            switchboard=self.switchboard,
            routers=self.routers,
            certificates=RouterCertificates(self._authority, self._hosts),
            version=self.version,
            endpoint=self.endpoint,
            ca=self.ca,
        )
        add_services(server, guard, parts)
        health = Health(server, router)
        if self._reflection:
            add_reflection(server)
        return guard, health

    # -- what is served over HTTP ----------------------------------------------------------------

    def _lab_metrics(self) -> LabMetrics | None:
        if self._metrics_listener is None:
            return None
        from .web.metrics import LabMetrics

        return LabMetrics(self.lab, self.version)

    async def _serve_http(self, stack: AsyncExitStack, guard: Guard, metrics: LabMetrics | None) -> None:
        if metrics is not None and self._metrics_listener is not None:
            from .web.metrics_server import serve_metrics

            metrics.started(self.routers, self.relay, guard)
            await stack.enter_async_context(serve_metrics(metrics.registry, self._metrics_listener))
        if self._web_listener is not None:
            from .services.assembly import DESCRIPTORS
            from .web.server import Parts, serve_web

            parts = Parts(
                lab=self.lab,
                guard=guard,
                authenticator=self.authenticator,
                routers=self.routers,
                services=DESCRIPTORS,
                version=self.version,
                url=self.web_url,
                endpoint=self.endpoint,
                router_endpoint=self.router_endpoint,
                ca=self.ca,
                ready=lambda: self.ready,
            )
            context = self.certificates.ssl_context()
            await stack.enter_async_context(serve_web(parts, self._web_listener, context))

    async def _stop(self, guard: Guard, health: Health, servers: Sequence[grpc.aio.Server]) -> None:
        self.ready = False
        await health.set(ready=False)
        guard.close()
        await self.relay.stop(self._grace)
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(server.stop, STOP_TIMEOUT)


@asynccontextmanager
async def _background(*tasks: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None, None]:
    """Run tasks that end when they are cancelled while the body runs."""
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task)
        yield
        group.cancel_scope.cancel()


def _reachable(host: str) -> str:
    return socket.gethostname() if host in UNSPECIFIED else host


def _web_hosts(where: Endpoints) -> list[str]:
    """Return what browsers dial."""
    hosts = [_reachable(split_address(where.web_listen)[0])] if where.web_listen else []
    if where.web_endpoint:
        url = urlsplit(where.web_endpoint)
        if url.scheme not in ("https", "http") or not url.hostname:
            raise ConfigurationError(
                f"the web endpoint {where.web_endpoint!r} is no URL, such as https://lab.example.com:8086"
            )
        hosts.append(url.hostname)
    return hosts


def _told(address: str, port: int) -> str:
    return join_address(_reachable(split_address(address)[0]), port)
