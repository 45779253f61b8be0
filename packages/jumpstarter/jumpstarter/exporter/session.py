"""Serves one tree of drivers to one tenant: calls, streams, resources, logs and status."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import grpc
from anyio import CancelScope, CapacityLimiter, Event, create_task_group, to_thread
from anyio.from_thread import start_blocking_portal
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2_grpc
from pydantic import ValidationError

from jumpstarter.common.enums import ExporterStatus, LogSource
from jumpstarter.common.metadata import Metadata
from jumpstarter.common.report_file import write_report
from jumpstarter.common.streams import StreamRequestMetadata
from jumpstarter.common.tempfile import TemporarySocket
from jumpstarter.driver.dispatch import abort_with, details_of, status_of, thread_limiter
from jumpstarter.exporter.direct import serve_direct
from jumpstarter.exporter.logging import LogBuffer, LogHandler, current_session
from jumpstarter.streams.common import forward_stream
from jumpstarter.streams.metadata import MetadataStreamAttributes
from jumpstarter.streams.router import CLOSE_KEY, RouterStream

if TYPE_CHECKING:
    from anyio.abc import AnyByteStream, ObjectStream

    from jumpstarter.driver import Driver
    from jumpstarter.exporter.door import Door
    from jumpstarter.exporter.lease_context import LeaseContext

logger = logging.getLogger(__name__)

MAX_THREADS = 128
"""Blocking driver functions that one session runs at a time; more wait for their turn."""

STOP_GRACE = 0.5
"""Seconds that calls in progress get to end when a server stops."""

SERVER_OPTIONS = [
    # Clients ping idle connections every 20 s; without these a server cuts them off for it.
    ("grpc.http2.min_ping_interval_without_data_ms", 10000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Frames and windows for bulk transfer; the defaults of 16 and 64 KiB cost a third of the rate.
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.so_reuseport", 0),
]

USABLE = frozenset({ExporterStatus.LEASE_READY})
"""States of a lease in which clients may use the drivers."""

USABLE_BY_HOOKS = frozenset(
    {ExporterStatus.LEASE_READY, ExporterStatus.BEFORE_LEASE_HOOK, ExporterStatus.AFTER_LEASE_HOOK}
)
"""States of a lease in which hooks, which have a socket of their own, may use the drivers."""

_from_hook: ContextVar[bool] = ContextVar("from_hook", default=False)
"""Whether the current call came over the socket for hooks."""


class _HookCalls(grpc.aio.ServerInterceptor):
    """Marks the calls of a server as those of hooks; interceptors run in the task that then serves the call."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        _from_hook.set(True)
        return await continuation(handler_call_details)


@dataclass(kw_only=True)
class Session(Metadata, jumpstarter_pb2_grpc.ExporterServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """The services of an exporter for one tree of drivers.

    A context manager: entering resets the drivers, leaving closes them. While a lease context is set,
    drivers can be used only in the states that allow it; a bare session is always usable.
    """

    root_device: Driver
    motd: str | None = None
    lease_context: LeaseContext | None = field(init=False, default=None)
    mapping: dict[UUID, Driver] = field(init=False, default_factory=dict)
    """Every driver of the tree by its UUID."""

    def __post_init__(self) -> None:
        self._report: jumpstarter_pb2.GetReportResponse | None = None
        self._enumerated = self.root_device.enumerate()
        self.mapping = {uuid: driver for uuid, _, _, driver in self._enumerated}
        self._by_text = {str(uuid): driver for uuid, driver in self.mapping.items()}
        self._logs = LogBuffer()
        self._handler = LogHandler(self._logs, LogSource.SYSTEM, owner=self)
        self._handler.add_child_handler("driver", LogSource.DRIVER)
        self._limiter = CapacityLimiter(MAX_THREADS)
        self._status = ExporterStatus.AVAILABLE
        self._previous: ExporterStatus | None = None
        self._status_message = ""
        self._status_version = 0
        self.status_changed = Event()
        self._status_seen = Event()
        self.status_watched = False
        """Whether a client has ever asked for the status."""

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._handler)
        try:
            self.root_device.reset()
        except BaseException:
            logging.getLogger().removeHandler(self._handler)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.root_device.close()
        except Exception as failure:
            logger.error("closing the drivers failed: %s", details_of(failure), exc_info=failure)
        finally:
            logging.getLogger().removeHandler(self._handler)

    def __getitem__(self, key: UUID) -> Driver:
        return self.mapping[key]

    def add_logger_source(self, logger_name: str, source: LogSource) -> None:
        """Attribute a logger's records to `source` in the log stream."""
        self._handler.add_child_handler(logger_name, source)

    @contextmanager
    def context_log_source(self, logger_name: str, source: LogSource) -> Generator[None, None, None]:
        """Attribute a logger's records to `source` while the body runs."""
        with self._handler.context_log_source(logger_name, source):
            yield

    def update_status(self, status: int | ExporterStatus, message: str = "") -> None:
        """Set the status that clients see."""
        self._previous, self._status = self._status, ExporterStatus(status)
        self._status_message = message
        self._status_version += 1
        self.status_changed.set()
        self.status_changed = Event()
        self._status_seen = Event()

    async def wait_status_seen(self) -> None:
        """Wait until a client has asked for the status since it changed last."""
        await self._status_seen.wait()

    # -- serving ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _serve(
        self,
        bind: Callable[[grpc.aio.Server], None],
        interceptors: Sequence[Any] | None = None,
        door: Door | None = None,
    ) -> AsyncGenerator[grpc.aio.Server, None]:
        server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
        servicer: Any = self if door is None else door
        jumpstarter_pb2_grpc.add_ExporterServiceServicer_to_server(servicer, server)
        router_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
        bind(server)
        await server.start()
        try:
            yield server
        finally:
            with CancelScope(shield=True):
                await server.stop(grace=None)

    @asynccontextmanager
    async def serve_port_async(self, port: str) -> AsyncGenerator[None, None]:
        """Serve on one insecure address in gRPC's syntax, such as `unix:///path`."""
        async with self.serve_multi_port_async(port):
            yield

    @asynccontextmanager
    async def serve_multi_port_async(self, *ports: str) -> AsyncGenerator[None, None]:
        """Serve on several insecure addresses in gRPC's syntax."""

        def bind(server: grpc.aio.Server) -> None:
            for port in ports:
                server.add_insecure_port(port)

        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._serve(bind))
            for port in ports:
                if port.startswith("unix:"):
                    path = Path(port.removeprefix("unix:").removeprefix("//"))
                    await stack.enter_async_context(serve_direct(self, path))
                    stack.enter_context(self._report_file(path))
            yield

    @contextmanager
    def _report_file(self, path: Path) -> Generator[None, None, None]:
        """Keep the report of the drivers beside a socket while the body runs, where that is possible."""
        try:
            file = write_report(path, [report_members(report) for report in self._make_report().reports])
        except OSError as error:
            logger.debug("no report beside %s: %s", path, error)
            yield
            return
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    @asynccontextmanager
    async def serve_unix_async(self) -> AsyncGenerator[Path, None]:
        """Serve on a temporary Unix socket; yields its path."""
        with TemporarySocket() as path:
            async with self.serve_port_async(f"unix://{path}"):
                yield path

    @asynccontextmanager
    async def serve_unix_with_hook_socket_async(self) -> AsyncGenerator[tuple[Path, Path], None]:
        """Serve on two temporary Unix sockets; yields the one for clients and the one for hooks."""
        async with self.serve_unix_async() as main, self.serve_hooks_async() as hook:
            yield main, hook

    @asynccontextmanager
    async def serve_door_async(self, door: Door) -> AsyncGenerator[Path, None]:
        """Serve one client of a lease on a temporary Unix socket, through its door; yields the socket's path."""
        with TemporarySocket() as path:
            async with self._serve(lambda server: server.add_insecure_port(f"unix://{path}"), door=door):
                yield path

    @asynccontextmanager
    async def serve_hooks_async(self) -> AsyncGenerator[Path, None]:
        """Serve hooks on a temporary Unix socket, also in the states that are theirs alone; yields its path."""
        with TemporarySocket() as path:
            async with self._serve(lambda server: server.add_insecure_port(f"unix://{path}"), [_HookCalls()]):
                yield path

    @asynccontextmanager
    async def serve_tcp_async(
        self,
        host: str,
        port: int,
        *,
        tls_credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[Any] | None = None,
    ) -> AsyncGenerator[int, None]:
        """Serve on TCP, with TLS when credentials are given; yields the bound port."""
        await to_thread.run_sync(_check_free, host, port)
        bound: list[int] = []
        async with self._serve(lambda server: bound.append(_bind(server, host, port, tls_credentials)), interceptors):
            yield bound[0]

    @asynccontextmanager
    async def serve_tcp_and_unix_async(
        self,
        host: str,
        port: int,
        unix_path: Path | str,
        *,
        tls_credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[Any] | None = None,
    ) -> AsyncGenerator[int, None]:
        """Serve on TCP and on a Unix socket at once; yields the bound TCP port."""
        await to_thread.run_sync(_check_free, host, port)
        bound: list[int] = []

        def bind(server: grpc.aio.Server) -> None:
            bound.append(_bind(server, host, port, tls_credentials))
            server.add_insecure_port(f"unix://{unix_path}")

        async with self._serve(bind, interceptors):
            yield bound[0]

    @contextmanager
    def serve_unix(self) -> Generator[Path, None, None]:
        """Serve on a temporary Unix socket from a thread of its own; yields the path."""
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.serve_unix_async()) as path:
            yield path

    # -- ExporterService -------------------------------------------------------------------------

    async def GetReport(self, request: empty_pb2.Empty, context: Any) -> jumpstarter_pb2.GetReportResponse:
        """Return the tree of drivers, parents first."""
        return self._make_report()

    def _make_report(self) -> jumpstarter_pb2.GetReportResponse:
        if self._report is None:
            self._report = jumpstarter_pb2.GetReportResponse(
                uuid=str(self.uuid),
                labels=self.labels,
                reports=[driver.report(parent=parent, name=name) for _, parent, name, driver in self._enumerated],
            )
        return self._report

    async def DriverCall(self, request: jumpstarter_pb2.DriverCallRequest, context: Any) -> Any:
        """Pass a call to the driver that it names."""
        driver = await self._admit(request.uuid, context)
        return await driver.DriverCall(request, context)

    # The streaming rpcs write to their context instead of yielding to gRPC: a cancelled call then ends inside of them,
    # where everything is closed in order, and not in a generator that nobody closes.

    async def StreamingDriverCall(self, request: jumpstarter_pb2.StreamingDriverCallRequest, context: Any) -> None:
        """Pass a streaming call to the driver that it names."""
        driver = await self._admit(request.uuid, context)
        async with aclosing(driver.StreamingDriverCall(request, context)) as items:
            async for item in items:
                await context.write(item)

    async def LogStream(self, request: empty_pb2.Empty, context: Any) -> None:
        """Send the latest log records, then every further one."""
        async with aclosing(self._logs.follow()) as records:
            async for record in records:
                await context.write(record)

    async def Reset(self, request: jumpstarter_pb2.ResetRequest, context: Any) -> Any:
        """Reset every driver."""
        self._enter_call()
        if (refusal := self._refusal()) is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        try:
            await to_thread.run_sync(self.root_device.reset, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001 (drivers of any kind)
            await context.abort(status_of(error), details_of(error))
        return jumpstarter_pb2.ResetResponse()

    async def GetStatus(self, request: jumpstarter_pb2.GetStatusRequest, context: Any) -> Any:
        """Return the status of the session and its version."""
        if not _from_hook.get():
            self.status_watched = True
            seen = self._status_seen
            context.add_done_callback(lambda _: seen.set())
        return jumpstarter_pb2.GetStatusResponse(
            status=self._status.to_proto(),
            message=self._status_message,
            status_version=self._status_version,
            previous_status=self._previous.to_proto() if self._previous is not None else None,
        )

    async def EndSession(self, request: jumpstarter_pb2.EndSessionRequest, context: Any) -> Any:
        """Note that the client is done; what follows a lease begins at once, or not at all without a lease."""
        if _from_hook.get():
            return jumpstarter_pb2.EndSessionResponse(success=False, message="a hook can't end the session")
        if self.lease_context is None:
            return jumpstarter_pb2.EndSessionResponse(success=False, message="this session serves no lease")
        self.lease_context.end_session_requested.set()
        return jumpstarter_pb2.EndSessionResponse(success=True)

    # -- RouterService ---------------------------------------------------------------------------

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        """Open the stream that the metadata name and forward both directions until they end."""
        await self.serve_call(self.serve_stream, context)

    async def serve_call(self, serve: Callable[..., Awaitable[None]], context: Any) -> None:
        """Serve a call of `Stream` by `serve`, which takes the arguments of `serve_stream`."""
        failure: Exception | None = None

        async def accept(stream: ObjectStream[bytes], metadata: dict[str, str]) -> ObjectStream[bytes]:
            await context.send_initial_metadata(tuple((metadata | {CLOSE_KEY: "1"}).items()))
            remote = RouterStream(context=context)
            tg.start_soon(end_when_reset, remote)
            return remote

        async def end_when_reset(remote: RouterStream) -> None:
            # A client that has finished sending and then goes away must not wait for a device that stays silent.
            if await remote.wait_reset():
                tg.cancel_scope.cancel()

        async with create_task_group() as tg:
            try:
                await serve(dict(context.invocation_metadata()), context, accept)
            except Exception as error:  # noqa: BLE001 (raised again below, outside the group that would wrap it)
                failure = error
            tg.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def serve_stream(
        self,
        metadata: dict[str, Any],
        context: Any,
        accept: Callable[[ObjectStream[bytes], dict[str, str]], Awaitable[AnyByteStream]],
    ) -> None:
        """Open a stream and forward both directions until they end.

        Args:
            metadata: has the member `request`, JSON text that says which stream.
            context: its `abort` ends the stream with a status, by raising.
            accept: called with the open stream and its metadata; tells the client and returns its end.
        """
        self._enter_call()
        try:
            request = StreamRequestMetadata(**metadata).request
        except (ValidationError, TypeError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the stream request is malformed: {problem}")
        driver = await self._admit(str(request.uuid), context)
        opened = False
        try:
            async with driver.Stream(request, context) as stream:
                opened = True
                remote = await accept(stream, dict(stream.extra(MetadataStreamAttributes.metadata, {})))
                async with forward_stream(remote, stream):
                    pass
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 (drivers of any kind)
            failure = _only(error)
            if opened:
                logger.warning("stream of %s ended: %s", type(driver).__name__, details_of(failure))
            await abort_with(context, driver, _Opening(getattr(request, "method", "resource")), failure)

    # -- admission -------------------------------------------------------------------------------

    def _enter_call(self) -> None:
        current_session.set(self)
        thread_limiter.set(self._limiter)

    def _refusal(self) -> str | None:
        usable = USABLE_BY_HOOKS if _from_hook.get() else USABLE
        if self.lease_context is None or self._status in usable:
            return None
        return f"the exporter is not ready for calls: its status is {self._status.name}" + (
            f" ({self._status_message})" if self._status_message else ""
        )

    def find(self, uuid: str) -> Driver | None:
        """Return the driver that a client names, if there is one."""
        return self._by_text.get(uuid.lower())

    def names(self) -> dict[str, str]:
        """Return the names from the root down to each driver, joined by dots, by UUID."""
        found: dict[str, str] = {}
        for uuid, parent, name, _ in self._enumerated:
            above = found.get(str(parent.uuid), "") if parent is not None else ""
            found.setdefault(str(uuid), f"{above}.{name}" if above else name or "")
        return found

    async def _admit(self, uuid: str, context: Any) -> Driver:
        """Return the driver that a call names, or end the call with the reason why not."""
        self._enter_call()
        if (refusal := self._refusal()) is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        driver = self._by_text.get(uuid)
        if driver is None:
            try:
                driver = self.mapping.get(UUID(uuid))
            except ValueError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not a driver uuid: {uuid[:64]!r}")
        if driver is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"this exporter has no driver with uuid {uuid}: its drivers were set up anew since this client asked "
                "for them, as after a restart; connect again",
            )
            raise AssertionError("abort returned")
        return driver


def report_members(report: jumpstarter_pb2.DriverInstanceReport) -> dict[str, Any]:
    """Return the members of a driver's report as plain values."""
    return {
        "uuid": report.uuid,
        "parent_uuid": report.parent_uuid if report.HasField("parent_uuid") else None,
        "labels": dict(report.labels),
        "description": report.description or None,
        "methods_description": dict(report.methods_description),
    }


@dataclass(frozen=True)
class _Opening:
    """Names the stream that failed in the way a call's request does."""

    method: str
    args: tuple[Any, ...] = ()


def _only(error: BaseException) -> Exception:
    """Return the one exception inside nested groups of one, else the exception itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if not isinstance(error, Exception):
        raise error
    return error


_LISTEN_ADVICE = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose one that it has, or 0.0.0.0 for all",
    errno.EACCES: "ports below 1024 are for privileged users; choose a higher one",
}


def _check_free(host: str, port: int) -> None:
    """Find out whether a TCP address can be listened on; gRPC would tell only that it can't.

    Raises:
        OSError: it can't, with the errno that says why; `socket.gaierror` for a name without an address.
    """
    failure: OSError | None = None
    addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
            return
        except OSError as error:
            failure = error
    if failure is not None:
        why = _LISTEN_ADVICE.get(failure.errno or 0, failure.strerror)
        raise OSError(failure.errno, f"can't listen on {host}:{port}: {why}")


def _bind(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: the address is in use or not one of this machine") from error
