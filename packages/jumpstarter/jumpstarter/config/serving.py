"""Assembles drivers, sessions, exporters and clients into running things."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import CancelScope, to_thread
from anyio.from_thread import start_blocking_portal

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.metadata import NAME_LABEL

if TYPE_CHECKING:
    import grpc
    from anyio.from_thread import BlockingPortal

    from jumpstarter.client import DriverClient
    from jumpstarter.driver import Driver
    from jumpstarter.exporter import Exporter, Session
    from jumpstarter.exporter.shutdown import Shutdown

    from .exporter import ExporterConfigV1Alpha1

T = TypeVar("T")


WATCHFUL: dict[str, Any] = {"grpc.keepalive_timeout_ms": 20000}
"""Channel options of exporters, whose streams from the controller are silent for hours: one that doesn't answer a ping
within this time is given up, and connected to anew. No lease or stream of a client depends on it."""


@asynccontextmanager
async def _ready_session(session: Session, shutdown: Shutdown | None = None) -> AsyncGenerator[Path, None]:
    """Serve a session on a temporary Unix socket, ready for use; drivers are reset and closed off the event loop.

    They are closed in any case, also when resetting fails or is cancelled; before that a session that was ready leaves
    its devices in the state that `shutdown` says.
    """
    try:
        await to_thread.run_sync(session.__enter__)
        session.update_status(ExporterStatus.LEASE_READY)
        try:
            async with session.serve_unix_async() as path:
                yield path
        finally:
            if shutdown is not None:
                from jumpstarter.exporter.shutdown import settle

                await settle(session, shutdown)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(session.__exit__, None, None, None)


@asynccontextmanager
async def serve_async(
    root_device: Driver, portal: BlockingPortal, stack: ExitStack
) -> AsyncGenerator[DriverClient, None]:
    """Serve a driver on a temporary Unix socket and yield a client of it.

    Args:
        root_device: the driver with its children; it is reset first and closed in the end.
        portal: portal of the event loop that this runs on, for the blocking methods of the client.
        stack: holds what the client opens.
    """
    from jumpstarter.client.client import client_from_path
    from jumpstarter.exporter.session import Session

    async with (
        _ready_session(Session(root_device=root_device)) as path,
        client_from_path(str(path), portal, stack, allow=[], unsafe=True) as client,
    ):
        try:
            yield client
        finally:
            # What clients park on their stack uses the portal, so it must not be closed on the event loop.
            with CancelScope(shield=True):
                await to_thread.run_sync(client.close)


@contextmanager
def serve(root_device: Driver) -> Generator[DriverClient, None, None]:
    """Serve a driver and yield a client of it: the usual way to use a driver in a program or test of its own.

    The driver is reset first and closed in the end.
    """
    with ExitStack() as stack, in_portal(lambda portal: serve_async(root_device, portal, stack)) as client:
        yield client


@contextmanager
def in_portal(factory: Callable[[BlockingPortal], AbstractAsyncContextManager[T]]) -> Generator[T, None, None]:
    """Run an async context manager on an event loop in a thread of its own.

    An error of the body ends it as a normal end does and is raised as it is: inside the async context
    manager it would come out of task groups as an exception group.
    """
    with start_blocking_portal() as portal:
        manager = portal.wrap_async_context_manager(factory(portal))
        value = manager.__enter__()
        try:
            yield value
        finally:
            manager.__exit__(None, None, None)


@asynccontextmanager
async def serve_config_unix(config: ExporterConfigV1Alpha1) -> AsyncGenerator[Path, None]:
    """Serve the drivers of an exporter config to this machine; yields the path of a Unix socket."""
    from jumpstarter.exporter.session import Session
    from jumpstarter.exporter.shutdown import Shutdown

    root = await to_thread.run_sync(config.instantiate)
    session = Session(root_device=root, labels={NAME_LABEL: config.metadata.name}, motd=config.motd)
    async with _ready_session(session, Shutdown(config.shutdown)) as path:
        yield path


@asynccontextmanager
async def exporter_for(config: ExporterConfigV1Alpha1, *, standalone: bool) -> AsyncGenerator[Exporter, None]:
    """Yield an exporter for the drivers of a config, connected as the config says."""
    from jumpstarter.exporter import Exporter
    from jumpstarter.exporter.shutdown import Shutdown

    if not standalone:
        _check_connection(config)
    arguments: dict[str, Any] = {}
    if (hooks := config.hooks).before_lease or hooks.after_lease:
        from jumpstarter.exporter.hooks import HookExecutor

        arguments["hook_executor"] = HookExecutor(config=hooks)
    if config.direct is not None and not standalone:
        from jumpstarter.exporter.direct_server import DirectListen

        from .exporter import parse_listen

        host, port = parse_listen(config.direct.listen)
        arguments["direct_listen"] = DirectListen(host, port, tuple(config.direct.advertise))
    exporter = Exporter(
        channel_factory=lambda: controller_channel("Exporter", config),
        device_factory=config.instantiate,
        labels={NAME_LABEL: config.metadata.name},
        tls=config.tls,
        grpc_options=config.grpcOptions or {},
        motd=config.motd,
        exit_on_lease_end=config.exit_on_lease_end,
        shutdown=Shutdown(config.shutdown),
        **arguments,
    )
    async with exporter:
        yield exporter


def _check_connection(config: Any) -> None:
    from jumpstarter.common.exceptions import ConfigurationError

    missing = [name for name in ("endpoint", "token") if not getattr(config, name)]
    if missing:
        where = f" of '{config.path}'" if config.path else ""
        variables = " and ".join(f"JMP_{name.upper()}" for name in missing)
        raise ConfigurationError(
            f"{config.kind}{where}: {' and '.join(missing)} not set; add it to the config or set {variables}"
        )


RECONNECTING: dict[str, Any] = {
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 5000,
}
"""Options that bring a channel back soon after its controller was away; gRPC itself waits for up to two minutes."""


async def controller_channel(kind: str, config: Any) -> grpc.aio.Channel:
    """Open a channel to the controller of a client or exporter config.

    Args:
        kind: `Client` or `Exporter`.
        config: gives endpoint, token, metadata, tls and grpcOptions.

    Raises:
        ConfigurationError: endpoint or token is missing.
    """
    _check_connection(config)
    from jumpstarter.common.grpc import aio_secure_channel, composite_channel_credentials, ssl_channel_credentials

    from .grpc import call_credentials

    credentials = composite_channel_credentials(
        await ssl_channel_credentials(config.endpoint, config.tls),
        call_credentials(kind, config.metadata, config.token),
    )
    options = RECONNECTING | (WATCHFUL if kind == "Exporter" else {})
    return aio_secure_channel(config.endpoint, credentials, options | dict(config.grpcOptions or {}))
