"""What a lease that a controller assigned needs of its exporter: a session, ways to it, and reports."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CancelScope, to_thread
from jumpstarter_protocol import jumpstarter_pb2

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter.common.router import RIGHT_LOST, RouterChannels, UnmetError
from jumpstarter.streams.direct import read_object, write_object
from jumpstarter.streams.relay import relay
from jumpstarter.streams.unix import connect_unix

from .callers import Caller, caller_of
from .controller import Controller, StatusReporter
from .direct import REQUEST_TIMEOUT, serve_request
from .doors import Doors
from .shutdown import Shutdown, settle
from .use_reporter import UseReporter
from .uses import Uses

if TYPE_CHECKING:
    from jumpstarter.streams.tls import TLSByteStream

    from .direct_server import DirectServer
    from .grants import Grants
    from .lease_context import LeaseContext
    from .lease_runner import LeaseRunner
    from .session import Session

__all__ = ["ControllerHost"]

logger = logging.getLogger(__name__)

MOST_MET = 64
"""Announced connections that are remembered; a controller announces its last 16 again."""

MOST_ATTEMPTS = 3
ATTEMPT_PAUSE = 0.5
"""How often, and after how many seconds, a client is waited for at a router that was lost before the client came."""

SPENT = frozenset({"STREAM_TOKEN_USED", "STREAM_CUT"})
"""Reasons by which a router tells that a connection which was announced has been and gone, or never will be."""


@dataclass(kw_only=True)
class ControllerHost:
    """The host of one lease, see `lease_runner.LeaseHost`."""

    controller: Controller
    reporter: StatusReporter
    routers: RouterChannels
    open_drivers: Callable[[], AbstractAsyncContextManager[Session]]
    shutdown: Shutdown
    direct: DirectServer | None
    """The listener for clients that need no router; None when there is none."""
    uses: Uses = field(default_factory=Uses, init=False)
    _met: dict[str, None] = field(default_factory=dict, init=False)
    """Tokens of connections that were announced here, the oldest first."""
    _doors: Doors = field(init=False)
    _grants: Grants | None = field(default=None, init=False)

    @asynccontextmanager
    async def open_session(self, context: LeaseContext) -> AsyncGenerator[Session, None]:
        """Set up the drivers."""
        async with self.open_drivers() as session:
            try:
                yield session
            finally:
                await settle(session, self.shutdown)

    @asynccontextmanager
    async def serve_session(self, context: LeaseContext, session: Session) -> AsyncGenerator[None, None]:
        """Serve the drivers and note in the context where; report what they are used for."""
        async with AsyncExitStack() as stack:
            if self.direct is not None:
                from .grants import Grants

                self._grants = await to_thread.run_sync(
                    Grants, self.direct.endpoints, lambda: self.controller.connected
                )
            main, hook = await stack.enter_async_context(session.serve_unix_with_hook_socket_async())
            endpoints = self._grants.endpoints if self._grants is not None else None
            self._doors = await stack.enter_async_context(Doors(session, self.uses, endpoints))
            context.socket_path, context.hook_socket_path = str(main), str(hook)
            await stack.enter_async_context(self._reporting(context, session))
            yield

    @asynccontextmanager
    async def _reporting(self, context: LeaseContext, session: Session) -> AsyncGenerator[None, None]:
        reporter = UseReporter(
            controller=self.controller, lease_name=context.lease_name, uses=self.uses, names=session.names()
        )
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporter.run)
            try:
                yield
            except Exception as error:  # noqa: BLE001 (raised again below, outside the group that would wrap it)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        with CancelScope(shield=True):
            await reporter.finish()

    # -- connections -----------------------------------------------------------------------------

    async def listen(self, context: LeaseContext, accept: Callable[[Any], Any]) -> None:
        """Pass each connection that the controller announces to `accept`, and serve those that come without it.

        What an exporter may have missed, because it or its connection was lost, is announced again.
        """

        async def accept_once(connection: Any) -> None:
            if connection.router_token in self._met:
                return
            self._met[connection.router_token] = None
            if len(self._met) > MOST_MET:
                del self._met[next(iter(self._met))]
            await accept(connection)

        request = jumpstarter_pb2.ListenRequest(lease_name=context.lease_name)
        what = f"lease {context.lease_name}: the controller announces no connections"
        async with AsyncExitStack() as stack:
            if self.direct is not None and self._grants is not None:

                async def handle(connection: TLSByteStream, caller: Caller) -> None:
                    await self._serve_directly(connection, caller)

                await stack.enter_async_context(self.direct.serving(self._grants, handle))
                tasks = await stack.enter_async_context(anyio.create_task_group())
                tasks.start_soon(self._grants.run)
            await self.controller.follow(what, lambda stub: stub.Listen(request), accept_once)

    async def bridge(self, context: LeaseContext, connection: Any) -> None:
        """Connect a client, which a router brings, to its door until one of them ends.

        Raises:
            ConnectionError: the router can't be reached, or failed.
        """
        attempts = 0
        try:
            while True:
                try:
                    await self._bridge(connection)
                    return
                except UnmetError as error:
                    attempts += 1
                    if attempts == MOST_ATTEMPTS:
                        raise
                    # The client may have its connection to the router still before it.
                    logger.info("a client is waited for again: %s", error)
                    await anyio.sleep(ATTEMPT_PAUSE)
        except Exception as error:
            if not (isinstance(error, ConnectionError) and error.reason in SPENT):
                self._met.pop(connection.router_token, None)
                raise
            logger.debug("nobody is there any more to connect to: %s", error)

    async def _bridge(self, connection: Any) -> None:
        caller = caller_of(connection.router_token)
        reasons: list[str] = []
        with ExitStack() as stack:
            if self._grants is not None:
                stack.enter_context(self._grants.routed(caller))
            async with (
                await connect_unix(await self._doors.path(caller)) as stream,
                self.routers.connect(connection.router_endpoint, connection.router_token, stream, told=reasons.append),
            ):
                pass
        if RIGHT_LOST in reasons and self._grants is not None:
            self._grants.cut(caller)

    async def _serve_directly(self, connection: TLSByteStream, caller: Caller) -> None:
        """Serve a client that came without a router: one byte stream, or all the services of the session."""
        with anyio.fail_after(REQUEST_TIMEOUT):
            request = await read_object(connection)
        if request.get("kind") != "session":
            await serve_request(self._doors.door(caller), connection, request)
            return
        async with await connect_unix(await self._doors.path(caller)) as stream:
            await write_object(connection, {"metadata": {}})
            await relay(connection, stream)

    def handed_over(self, owner: str) -> None:
        """Note that the lease has another owner."""
        if self._grants is not None:
            self._grants.handed_over(owner)

    def has_direct_clients(self, context: LeaseContext) -> bool:
        """Tell whether clients are connected without a router."""
        return self.direct is not None and self.direct.connections > 0

    # -- the controller --------------------------------------------------------------------------

    def report(self, status: ExporterStatus, message: str) -> None:
        """Tell the controller a status."""
        self.reporter.report(status, message)

    async def release(self, runner: LeaseRunner) -> None:
        """Give the lease back."""
        context = runner.context
        await self.controller.release(context.lease_name, context.current_status, context.status_message)

    async def await_release(self, runner: LeaseRunner) -> None:
        """Nothing to do: the client gives the lease back, or it lasts until its end."""
