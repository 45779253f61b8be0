"""A whole lab for tests: real services over TLS on free ports of loopback, and accounts that are ready for use."""

from __future__ import annotations

import base64
import importlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from jumpstarter_protocol import admin_pb2_grpc, client_pb2_grpc, jumpstarter_pb2_grpc, lab_pb2_grpc

from .identity.issuing import issue_token
from .lab import Actor, Lab
from .model.records import Account, Exporter, ExporterStatus, Key, Kind, Meta, Policy, Rule
from .model.selector import Selector, parse
from .server import Endpoints, LabServer
from .settings import Settings

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from jumpstarter.config.client import ClientConfigV1Alpha1
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1

T = TypeVar("T")

STORE = "TESTBENCH_LAB_STORE"
"""Environment variable that has all labs of tests use another store: `module:function`, called with a folder."""

NAMESPACE = "default"

SERVER = Actor(kind="server", key=None)
"""Who makes the accounts of tests."""

WORDS = {Kind.CLIENT: "Client", Kind.EXPORTER: "Exporter", Kind.ADMIN: "Admin", Kind.ROUTER: "Router"}
"""Values of the metadata `jumpstarter-kind`."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """An account and its token."""

    key: Key
    token: str = field(repr=False)
    endpoint: str
    ca: str
    """PEM."""

    @property
    def tls(self) -> dict[str, str]:
        """The member `tls` of a config."""
        return {"ca": base64.b64encode(self.ca.encode()).decode()}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a peer sends with each call."""
        return (
            ("authorization", f"Bearer {self.token}"),
            ("jumpstarter-kind", WORDS[self.key.kind]),
            ("jumpstarter-namespace", self.key.namespace),
            ("jumpstarter-name", self.key.name),
        )

    def client_config(self, **changes: Any) -> ClientConfigV1Alpha1:
        """Return the config of a client that imports any driver."""
        from jumpstarter.config.client import ClientConfigV1Alpha1

        values: dict[str, Any] = {
            "alias": self.key.name,
            "metadata": {"namespace": self.key.namespace, "name": self.key.name},
            "endpoint": self.endpoint,
            "token": self.token,
            "tls": self.tls,
            "drivers": {"allow": [], "unsafe": True},
        }
        return ClientConfigV1Alpha1(**(values | changes))

    def exporter_config(self, export: Mapping[str, Any] | None = None, **changes: Any) -> ExporterConfigV1Alpha1:
        """Return the config of an exporter.

        Args:
            export: the drivers, as in the file; a mocked power switch named `power` when there are none.
        """
        from jumpstarter.config.exporter import ExporterConfigV1Alpha1

        values: dict[str, Any] = {
            "alias": self.key.name,
            "metadata": {"namespace": self.key.namespace, "name": self.key.name},
            "endpoint": self.endpoint,
            "token": self.token,
            "tls": self.tls,
            "export": {"power": {"type": "jumpstarter_driver_power.driver.MockPower"}} if export is None else export,
        }
        return ExporterConfigV1Alpha1.model_validate(values | changes)

    @asynccontextmanager
    async def channel(self, *options: tuple[str, Any]) -> AsyncGenerator[grpc.aio.Channel, None]:
        """Connect to the controller, without any credentials; see `metadata`."""
        credentials = grpc.ssl_channel_credentials(self.ca.encode())
        # Otherwise channels to one place share a connection, with the options of the first.
        own = ("grpc.use_local_subchannel_pool", 1)
        async with grpc.aio.secure_channel(self.endpoint, credentials, options=[own, *options]) as channel:
            yield channel

    @asynccontextmanager
    async def stubs(self, *options: tuple[str, Any]) -> AsyncGenerator[Stubs, None]:
        """Connect to the controller as this account."""
        async with self.channel(*options) as channel:
            yield Stubs(channel, self.metadata)


class Stubs:
    """The services as one account calls them."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.controller = _Bound(jumpstarter_pb2_grpc.ControllerServiceStub(channel), metadata)
        self.client = _Bound(client_pb2_grpc.ClientServiceStub(channel), metadata)
        self.lab = _Bound(lab_pb2_grpc.LabServiceStub(channel), metadata)
        self.admin = _Bound(admin_pb2_grpc.AdminServiceStub(channel), metadata)


class _Bound:
    """A stub that sends the metadata of an account with each call."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub, self._metadata = stub, metadata

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)

        def call(request: Any = None, **options: Any) -> Any:
            given = () if request is None else (request,)
            return method(*given, **{"metadata": self._metadata, **options})

        return call


@dataclass
class RunningLab:
    """A lab that serves, and what tests do with it; all methods are for the event loop that it runs on."""

    server: LabServer

    @property
    def lab(self) -> Lab:
        return self.server.lab

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    @property
    def ca(self) -> str:
        """PEM."""
        return self.server.ca

    async def account(
        self,
        kind: Kind,
        name: str,
        *,
        namespace: str = NAMESPACE,
        labels: Mapping[str, str] | None = None,
        life: timedelta | None = None,
    ) -> Login:
        """Make an account with a token; one that is there already gets a further token.

        Args:
            life: how long the token lasts; may lie in the past.
        """
        key = Key(kind, namespace, name)
        if self.lab.account(key) is None:
            meta = Meta(namespace=namespace, name=name, labels=dict(labels or {}))
            await self.lab.create_account(
                SERVER, Exporter(meta=meta) if kind is Kind.EXPORTER else Account(kind=kind, meta=meta)
            )
        token, _ = await issue_token(self.lab, self.server.authenticator.tokens, SERVER, key, life=life)
        return Login(key=key, token=token, endpoint=self.endpoint, ca=self.ca)

    async def client(self, name: str = "alice", **account: Any) -> Login:
        """Make a client; arguments as of `account`."""
        return await self.account(Kind.CLIENT, name, **account)

    async def exporter(self, name: str = "board", **account: Any) -> Login:
        """Make an exporter; arguments as of `account`."""
        return await self.account(Kind.EXPORTER, name, **account)

    async def admin(self, name: str = "admin", **account: Any) -> Login:
        """Make an admin; arguments as of `account`."""
        return await self.account(Kind.ADMIN, name, **account)

    async def router(self, name: str = "router", **account: Any) -> Login:
        """Make the account of a router; arguments as of `account`."""
        return await self.account(Kind.ROUTER, name, **account)

    async def policy(self, name: str, *rules: Rule, exporters: str = "", namespace: str = NAMESPACE) -> Policy:
        """Make an access policy for the exporters that a selector matches."""
        selector = parse(exporters) if exporters else Selector()
        policy = Policy(meta=Meta(namespace=namespace, name=name), exporters=selector, rules=rules)
        return await self.lab.put_policy(SERVER, policy, create=True)

    @asynccontextmanager
    async def serving_exporter(
        self, name: str = "board", export: Mapping[str, Any] | None = None, *, login: Login | None = None, **config: Any
    ) -> AsyncGenerator[Any, None]:
        """Run an exporter, a real one, in this process; yields it when it can be leased.

        Args:
            export: its drivers, as in a config.
            login: its account; None for one that is made.
            config: further members of the config.
        """
        import anyio
        from jumpstarter.config.serving import exporter_for

        login = login or await self.exporter(name)
        failure: Exception | None = None
        async with (
            exporter_for(login.exporter_config(export, **config), standalone=False) as exporter,
            anyio.create_task_group() as tasks,
        ):
            await tasks.start(lambda *, task_status: exporter.serve(task_status=task_status))
            await self.until(login.key, lambda record: record.online and record.status is ExporterStatus.AVAILABLE)
            try:
                yield exporter
            except Exception as error:  # noqa: BLE001 (raised again below, outside of the task group)
                failure = error
            exporter.stop(should_unregister=True)
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def until(self, key: Key, condition: Callable[[Any], bool], patience: float = 20.0) -> Any:
        """Wait until an account or a lease is as wanted, and return it then.

        Raises:
            TimeoutError: it did not become so in time; the text tells how it is.
        """
        import anyio

        record: Any = None
        with anyio.move_on_after(patience):
            async with self.lab.follow(key) as changes:
                async for _ in changes:
                    record = await self.lab.lease(key) if key.kind is Kind.LEASE else self.lab.account(key)
                    if record is not None and condition(record):
                        return record
        raise TimeoutError(f"{key} is not as it should be after {patience:g} s: {record}")


@asynccontextmanager
async def running_lab(
    folder: Path, *, server: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncGenerator[RunningLab, None]:
    """Run a lab in this process, on a free port of loopback.

    Args:
        folder: for its data; a lab that ran there before goes on.
        server: further arguments of `LabServer`.
        settings: members of `Settings`, such as `leases={"offline_after": 1}`.
    """
    arguments: dict[str, Any] = {"endpoints": Endpoints(listen="127.0.0.1:0"), **(server or {})}
    if (maker := os.environ.get(STORE)) and "store" not in arguments:
        module, _, name = maker.partition(":")
        arguments["store"] = getattr(importlib.import_module(module), name)(folder)
    async with LabServer(folder / "lab", Settings.model_validate(settings), **arguments) as running:
        yield RunningLab(running)


@dataclass
class ThreadedLab:
    """A lab on an event loop in a thread of its own, for tests of blocking code."""

    running: RunningLab
    portal: BlockingPortal

    @property
    def server(self) -> LabServer:
        return self.running.server

    @property
    def endpoint(self) -> str:
        return self.running.endpoint

    @property
    def ca(self) -> str:
        """PEM."""
        return self.running.ca

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop of the lab."""
        return self.portal.call(function)

    def client(self, name: str = "alice", **account: Any) -> Login:
        """Make a client; arguments as of `RunningLab.account`."""
        return self.call(lambda: self.running.client(name, **account))

    def exporter(self, name: str = "board", **account: Any) -> Login:
        """Make an exporter; arguments as of `RunningLab.account`."""
        return self.call(lambda: self.running.exporter(name, **account))

    def admin(self, name: str = "admin", **account: Any) -> Login:
        """Make an admin; arguments as of `RunningLab.account`."""
        return self.call(lambda: self.running.admin(name, **account))

    def router(self, name: str = "router", **account: Any) -> Login:
        """Make the account of a router; arguments as of `RunningLab.account`."""
        return self.call(lambda: self.running.router(name, **account))

    @contextmanager
    def serving_exporter(self, name: str = "board", **arguments: Any) -> Generator[Any, None, None]:
        """Run an exporter on the loop of the lab; arguments as of `RunningLab.serving_exporter`."""
        with self.portal.wrap_async_context_manager(self.running.serving_exporter(name, **arguments)) as exporter:
            yield exporter


@contextmanager
def threaded_lab(
    folder: Path, *, server: Mapping[str, Any] | None = None, **settings: Any
) -> Generator[ThreadedLab, None, None]:
    """Run a lab in a thread; arguments as of `running_lab`."""
    from anyio.from_thread import start_blocking_portal

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_lab(folder, server=server, **settings)) as running,
    ):
        yield ThreadedLab(running, portal)
