"""Offers a tree of drivers to the clients that a controller sends, lease after lease, or to whoever connects."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import grpc
from anyio import TASK_STATUS_IGNORED, CancelScope, to_thread
from anyio.abc import TaskStatus
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.metadata import Metadata
from jumpstarter.common.router import RouterChannels

from .callers import ROLES_LABEL
from .controller import Controller, Refused, StatusReporter, Transient
from .controller_host import ControllerHost
from .draining import Draining
from .lease_context import LeaseContext
from .lease_runner import SHOW_TIME, LeaseRunner
from .session import Session
from .shutdown import Shutdown, settle

if TYPE_CHECKING:
    from jumpstarter.common.grpc import TLSConfig
    from jumpstarter.driver import Driver

    from .direct_server import DirectListen, DirectServer
    from .hooks import HookExecutor

__all__ = ["Exporter"]

logger = logging.getLogger(__name__)

STANDALONE_LEASE = "standalone"
"""Name of the lease of an exporter without a controller, for hooks to see."""

SETUP_TIMEOUT = 300.0
"""Seconds that drivers may take to be set up or reset."""

CLOSE_TIMEOUT = 60.0
"""Seconds that drivers may take to be closed."""

SETTLE_TIMEOUT = 2.0
"""Seconds that the report of the last status of a lease gets when the exporter stops."""

FAREWELL_TIMEOUT = 10.0
"""Seconds that the controller gets to take note that the exporter goes."""


@dataclass(frozen=True)
class _SystemTrust:
    """TLS settings that check certificates with the authorities of the system."""

    ca: str = ""
    insecure: bool = False


@dataclass(kw_only=True)
class Exporter(AbstractAsyncContextManager["Exporter"], Metadata):
    """One exporter; a context manager that says good-bye to the controller and closes the connections to it."""

    channel_factory: Callable[[], Awaitable[grpc.aio.Channel]]
    """Opens a channel to the controller."""
    device_factory: Callable[[], Driver]
    """Makes the tree of drivers, anew for each lease."""
    lease_name: str = field(init=False, default="")
    """The lease that the controller says this exporter has; empty without one."""
    tls: TLSConfig = field(default_factory=_SystemTrust)
    """How the certificates of routers are checked."""
    grpc_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the channels to routers."""
    hook_executor: HookExecutor | None = None
    motd: str | None = None
    exit_on_lease_end: bool = False
    shutdown: Shutdown = Shutdown.LEAVE
    """The state that the devices are left in when a lease, or what stands for one, is over."""
    token: str = field(default="", repr=False)
    direct_listen: DirectListen | None = None
    """Where to listen for clients that reach this machine without a router; None for nowhere."""
    show_time: float = SHOW_TIME
    """Seconds that the last status of a lease stays to be seen by connected clients."""

    def __post_init__(self) -> None:
        self._controller = Controller(channel_factory=self.channel_factory)
        self._reporter = StatusReporter(controller=self._controller)
        self._routers = RouterChannels(self.tls, self.grpc_options)
        self._reports: list[jumpstarter_pb2.DriverInstanceReport] = []
        self._registered = False
        self._client_name = ""
        self._runner: LeaseRunner | None = None
        self._host: ControllerHost | None = None
        self._direct: DirectServer | None = None
        self._news = anyio.Event()
        self._startup = CancelScope()
        self._errands: deque[Callable[[], Awaitable[None]]] = deque()
        self._draining = Draining(
            controller=self._controller,
            register=lambda: self._register(self._reports),
            has_lease=lambda: bool(self._runner or self.lease_name),
        )
        self._is_standalone = False
        self._stopping = False
        self._stop_after_lease = False
        self._should_unregister = False
        self._turned_away: Refused | None = None
        self._exit_code: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with CancelScope(shield=True):
            self._should_unregister = True
            await self._say_goodbye()
            await self._routers.aclose()
            await self._controller.aclose()

    # -- stopping --------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int | None:
        """The status that the process should exit with; None when the exporter may be started again."""
        return self._exit_code

    def stop(
        self, wait_for_lease_exit: bool = False, should_unregister: bool = False, exit_code: int | None = None
    ) -> None:
        """Have `serve` end; a hook that runs may finish, unless this is called once more.

        Args:
            wait_for_lease_exit: serve the present lease to its end; without a controller there is none.
            should_unregister: take the drivers out of the controller's list.
            exit_code: status for the process to exit with.
        """
        self._should_unregister |= should_unregister
        if exit_code is not None:
            self._exit_code = exit_code
        runner = self._runner
        if wait_for_lease_exit and runner is not None and not self._is_standalone:
            self._stop_after_lease = True
            # Whoever waits for these devices is better served by others than in the moment in which this one goes.
            self._draining.set(True, "the exporter stops after this lease")
            return
        if runner is not None and self._stopping:
            runner.interrupt()
        self._stopping = True
        if runner is not None:
            runner.stop()
        self._startup.cancel()
        self._news.set()

    # -- between leases --------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether no further leases are taken."""
        return self._draining.wanted

    def drain(self, reason: str = "") -> None:
        """Serve the present lease to its end and take no further one until `resume`; serving goes on.

        Args:
            reason: for people who look at the exporter.
        """
        self._draining.set(True, reason)

    def resume(self) -> None:
        """Take leases again."""
        self._draining.set(False)

    def when_free(self, errand: Callable[[], Awaitable[None]]) -> None:
        """Have something done by `serve` when there is no lease, or when the present one is over, before the next one.

        Args:
            errand: may use the devices and stop the exporter; it must not raise.
        """
        self._errands.append(errand)
        self._news.set()

    async def try_drivers(self, factory: Callable[[], Driver]) -> None:
        """Find out whether drivers can be made; only for errands, as the devices must be free.

        Raises:
            Exception: what the drivers raised.
        """
        with anyio.fail_after(SETUP_TIMEOUT):
            root = await to_thread.run_sync(factory, abandon_on_cancel=True)
        try:
            await _describe(Session(uuid=self.uuid, labels=self.labels, root_device=root))
        finally:
            await _in_time(root.close)

    # -- sessions --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open_session(self) -> AsyncGenerator[Session, None]:
        """Make the drivers and reset them; close them in the end."""
        with anyio.fail_after(SETUP_TIMEOUT):
            root = await to_thread.run_sync(self.device_factory, abandon_on_cancel=True)
        session = Session(uuid=self.uuid, labels=self.labels, root_device=root, motd=self.motd)
        try:
            with anyio.fail_after(SETUP_TIMEOUT):
                await to_thread.run_sync(session.__enter__, abandon_on_cancel=True)
        except BaseException:
            await _in_time(root.close)
            raise
        try:
            yield session
        finally:
            await _in_time(lambda: session.__exit__(None, None, None))

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[tuple[Session, Path], None]:
        """Serve the drivers on a Unix socket, registered at the controller; yields session and path."""
        async with self._open_session() as session, session.serve_unix_async() as path:
            await self._register(await _describe(session))
            yield session, path

    @asynccontextmanager
    async def session_for_lease(self) -> AsyncGenerator[tuple[Session, Path, Path], None]:
        """Serve the drivers on two Unix sockets; yields session, path for clients, path for hooks."""
        async with (
            self._open_session() as session,
            session.serve_unix_with_hook_socket_async() as (main, hook),
        ):
            yield session, main, hook

    # -- serving through a controller ------------------------------------------------------------

    async def serve(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve the leases that the controller assigns until `stop` is called.

        The loss of the controller or of a router is waited out, and connections that don't pass through what was lost
        stay as they are.

        Args:
            task_status: told when the exporter is registered.

        Raises:
            ConnectionError: the controller refuses the exporter.
            ConfigurationError: the connection is configured in a way that can't work.
            Exception: what the drivers raised when they were set up.
        """
        try:
            await self._serve(task_status)
        except BaseException as error:
            self._should_unregister = True
            if isinstance(error, BaseExceptionGroup):
                raise _only(error) from None
            raise
        finally:
            with CancelScope(shield=True):
                await self._say_goodbye()

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        with self._startup:
            root = await to_thread.run_sync(self.device_factory)
            try:
                reports = await _describe(Session(uuid=self.uuid, labels=self.labels, root_device=root))
            finally:
                await _in_time(root.close)
            await self._register(reports)
        if self._stopping:
            return
        logger.info("registered with the controller; %d drivers", len(reports))
        self._reporter.report(ExporterStatus.AVAILABLE)
        async with self._listening_directly(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._reporter.run)
            tasks.start_soon(self._follow_status)
            tasks.start_soon(self._draining.run)
            task_status.started()
            await self._serve_leases()
            # So that no report that is still on its way overtakes the last one.
            with anyio.move_on_after(SETTLE_TIMEOUT):
                await self._reporter.settle()
            tasks.cancel_scope.cancel()
        if self._turned_away is not None:
            raise self._turned_away

    @asynccontextmanager
    async def _listening_directly(self) -> AsyncGenerator[None, None]:
        if self.direct_listen is None:
            yield
            return
        from .direct_server import DirectServer

        async with DirectServer.listening(self.direct_listen) as self._direct:
            try:
                yield
            finally:
                self._direct = None

    async def _register(self, reports: Sequence[jumpstarter_pb2.DriverInstanceReport]) -> None:
        self._reports = list(reports)
        await self._controller.register({**self.labels, ROLES_LABEL: "1"}, self._reports)
        self._registered = True

    async def _follow_status(self) -> None:
        async def resume() -> None:
            # The controller may be another one, or have given this exporter up meanwhile.
            if self._draining.registered:
                await self._register(self._reports)
            self._draining.repeat()
            self._reporter.repeat()

        try:
            await self._controller.follow(
                "no news from the controller",
                lambda stub: stub.Status(jumpstarter_pb2.StatusRequest()),
                self._take_status,
                resume=resume,
                is_lifeline=True,
            )
        except Refused as error:
            # The present lease comes to its end as at any stop, with the hook after it.
            self._turned_away = error
            self.stop()

    async def _take_status(self, response: jumpstarter_pb2.StatusResponse) -> None:
        name = response.lease_name if response.leased else ""
        runner = self._runner
        self.lease_name = name
        self._client_name = response.client_name
        if runner is not None:
            if runner.context.lease_name == name:
                if self._host is not None and runner.context.client_name != response.client_name:
                    self._host.handed_over(response.client_name)
                runner.context.update_client(response.client_name)
            else:
                runner.lease_ended()
        self._news.set()

    async def _serve_leases(self) -> None:
        while not self._stopping:
            self._news = anyio.Event()
            if self._errands:
                await self._errands.popleft()()
            elif self.lease_name:
                await self._serve_lease(self.lease_name)
            else:
                await self._news.wait()

    async def _serve_lease(self, name: str) -> None:
        logger.info("lease %s of client %s begins", name, self._client_name or "unknown")
        if self.exit_on_lease_end:
            self._draining.set(True, "the exporter stops after this lease")
        context = LeaseContext(name, anyio.Event(), client_name=self._client_name)
        host = ControllerHost(
            controller=self._controller,
            reporter=self._reporter,
            routers=self._routers,
            open_drivers=self._open_session,
            shutdown=self.shutdown,
            direct=self._direct,
        )
        self._host = host
        try:
            await self._run(context, host)
        finally:
            self._host = None
        logger.info("lease %s is over", name)
        self._draining.wake()
        if self._stop_after_lease or self.exit_on_lease_end:
            self.stop()
        if not self._stopping:
            # A warning of the hook is for everybody who looks at the exporter.
            warning = context.status_message if context.current_status is ExporterStatus.AVAILABLE else ""
            self._reporter.report(ExporterStatus.AVAILABLE, warning)

    async def _run(self, context: LeaseContext, host: ControllerHost | _StandaloneHost) -> None:
        """Serve one lease from its beginning to its end."""
        runner = LeaseRunner(context=context, host=host, hooks=self.hook_executor, show_time=self.show_time)
        self._runner = runner
        try:
            await runner.run()
        finally:
            self._runner = None
        if runner.wants_exit:
            self.stop(should_unregister=True, exit_code=1)
        if runner.failure is not None:
            raise runner.failure

    async def _say_goodbye(self) -> None:
        """Tell the controller that the exporter goes, if it knows of it, within FAREWELL_TIMEOUT."""
        if not self._registered:
            return
        self._registered = False
        with anyio.move_on_after(FAREWELL_TIMEOUT):
            with suppress(Refused, Transient):
                await self._controller.report_status(ExporterStatus.OFFLINE, "the exporter stopped")
            if self._should_unregister:
                with suppress(Refused):
                    await self._controller.unregister("the exporter stopped")

    # -- serving without a controller ------------------------------------------------------------

    async def serve_standalone_tcp(
        self,
        host: str,
        port: int,
        *,
        tls_credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[Any] | None = None,
        task_status: TaskStatus[int] = TASK_STATUS_IGNORED,
    ) -> None:
        """Serve whoever connects to a TCP port until `stop` is called, without any controller.

        The hooks run as around a lease: before the first client and after each that ends its session, and at the end.

        Args:
            host: name or address to listen on.
            port: TCP port, 0 for a free one.
            tls_credentials: certificate and key; without them everything is readable on the network.
            interceptors: of the TCP server, such as a `PassphraseInterceptor`.
            task_status: told the port when the server listens.

        Raises:
            OSError: the address can't be listened on.
            Exception: what the drivers raised when they were set up.
        """
        try:
            async with self._open_session() as session:
                session.lease_context = LeaseContext(STANDALONE_LEASE, anyio.Event())
                async with (
                    session.serve_hooks_async() as hook_path,
                    session.serve_tcp_async(
                        host, port, tls_credentials=tls_credentials, interceptors=interceptors
                    ) as bound,
                ):
                    logger.info("serving on %s port %d%s", host, bound, "" if tls_credentials else ", without TLS")
                    task_status.started(bound)
                    await self._serve_directly(session, f"{host}:{bound}", hook_path)
        except BaseExceptionGroup as group:
            raise _only(group) from None

    async def _serve_directly(self, session: Session, address: str, hook_path: Path) -> None:
        standalone = _StandaloneHost(session, address, str(hook_path), self.shutdown)
        self._is_standalone = True
        while not self._stopping:
            context = LeaseContext(STANDALONE_LEASE, anyio.Event())
            await self._run(context, standalone)
            if context.current_status is ExporterStatus.BEFORE_LEASE_HOOK_FAILED:
                # There is no lease to give back, and it would fail the same way for the next client.
                self.stop(exit_code=1)
        session.update_status(ExporterStatus.OFFLINE, "the exporter stopped")


@dataclass
class _StandaloneHost:
    """What serving without a controller needs of the exporter; one session lasts for all that stands for leases."""

    served: Session
    address: str
    hook_path: str
    shutdown: Shutdown
    used: bool = False

    @asynccontextmanager
    async def open_session(self, context: LeaseContext) -> AsyncGenerator[Session, None]:
        if self.used:
            with anyio.fail_after(SETUP_TIMEOUT):
                await to_thread.run_sync(self.served.root_device.reset, abandon_on_cancel=True)
        self.used = True
        try:
            yield self.served
        finally:
            await settle(self.served, self.shutdown)

    @asynccontextmanager
    async def serve_session(self, context: LeaseContext, session: Session) -> AsyncGenerator[None, None]:
        context.socket_path, context.hook_socket_path = self.address, self.hook_path
        yield

    async def listen(self, context: LeaseContext, accept: Callable[[Any], Any]) -> None:
        """Nothing to do: clients connect by themselves."""

    async def bridge(self, context: LeaseContext, connection: Any) -> None:
        raise AssertionError("clients connect by themselves")

    def report(self, status: ExporterStatus, message: str) -> None:
        """Nothing to do: only the clients of the session look at its status."""

    async def release(self, runner: LeaseRunner) -> None:
        runner.lease_ended()

    async def await_release(self, runner: LeaseRunner) -> None:
        await runner.let_clients_see()
        runner.lease_ended()

    def has_direct_clients(self, context: LeaseContext) -> bool:
        return self.served.status_watched


async def _describe(session: Session) -> list[jumpstarter_pb2.DriverInstanceReport]:
    response = await session.GetReport(empty_pb2.Empty(), None)
    return list(response.reports)


async def _in_time(close: Callable[[], None]) -> None:
    """Close drivers off the event loop, also when cancelled, but don't wait for ever.

    Raises:
        TimeoutError: they didn't close.
    """
    with CancelScope(shield=True):
        try:
            with anyio.fail_after(CLOSE_TIMEOUT):
                await to_thread.run_sync(close, abandon_on_cancel=True)
        except TimeoutError:
            raise TimeoutError(f"the drivers did not close within {CLOSE_TIMEOUT:g} s") from None


def _only(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first of the errors in a group that is no cancellation."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
