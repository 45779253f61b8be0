"""Driver clients on the event loop: calls, streams and resources over one session's stub."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jumpstarter.common.cancellation import answer
from jumpstarter.common.enums import ExporterStatus, LogSource
from jumpstarter.common.metadata import Metadata

from .errors import DriverError, DriverInvalidArgument, DriverMethodNotImplemented, ExporterNotReady

# What speaks gRPC or needs an event loop is imported by the methods that do: most commands that load
# driver clients only look at them.
if TYPE_CHECKING:
    from anyio.abc import ObjectStream
    from jumpstarter_protocol.jumpstarter.v1 import jumpstarter_pb2

    from jumpstarter.client.status_monitor import StatusMonitor
    from jumpstarter.streams.metadata import MetadataStream

LOG_RECONNECTS = 10
END_SESSION_TIMEOUT = 5.0
OPEN_TIMEOUT = 60.0
"""Seconds that a session may take to open a stream before the client gives up."""


@dataclass(kw_only=True)
class AsyncDriverClient(Metadata):
    """Mirrors one driver of an exporter; its methods are for use on the event loop."""

    stub: Any
    log_level: str = "INFO"
    logger: logging.Logger = field(init=False)

    def __post_init__(self) -> None:
        if (further := getattr(super(), "__post_init__", None)) is not None:
            further()
        self.logger = logging.getLogger(type(self).__name__)
        self.logger.setLevel(self.log_level)
        if not self.logger.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(name)s - %(levelname)s - %(message)s"))
            self.logger.addHandler(handler)

    # -- calls -----------------------------------------------------------------------------------

    async def call_async(self, method: str, *args: Any) -> Any:
        """Call an exported function and return its result; numbers come back as `float`.

        Raises:
            DriverError: or one of its subclasses, with what the driver said.
        """
        from .calls import call_async

        return await call_async(self, method, args)

    def streamingcall_async(self, method: str, *args: Any) -> AsyncGenerator[Any, None]:
        """Call an exported generator and return an asynchronous generator of its items.

        Raises:
            DriverError: or one of its subclasses, after the items before it.
        """
        from .calls import streamingcall_async

        return streamingcall_async(self, method, args)

    # -- streams ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream_async(self, method: str) -> AsyncGenerator[MetadataStream, None]:
        """Open the byte stream of an exported method.

        Raises:
            DriverError: the stream could not be opened; the message says why.
        """
        request = {"kind": "driver", "uuid": str(self.uuid), "method": method}
        async with self._open(request) as stream:
            yield stream

    @asynccontextmanager
    async def _open(self, request: dict[str, Any]) -> AsyncGenerator[MetadataStream, None]:
        import grpc
        from anyio import fail_after

        from .calls import raise_for_stream
        from .opening import open_by_call, open_directly

        if (direct := getattr(self.stub, "direct_path", None)) is not None:
            opened = open_directly(direct, request)
        else:
            opened = open_by_call(self.stub, request)
        name = request.get("method", "resource")
        async with AsyncExitStack() as stack:
            try:
                with fail_after(OPEN_TIMEOUT):
                    stream = await stack.enter_async_context(opened)
            except grpc.aio.AioRpcError as error:
                raise_for_stream(error)
            except TimeoutError:
                raise DriverError(
                    f"the exporter did not open the stream {name!r} within {OPEN_TIMEOUT:.0f} s"
                ) from None
            yield stream

    @asynccontextmanager
    async def resource_async(
        self, stream: ObjectStream[bytes], content_encoding: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """Offer `stream` to a driver call: yields the handle to pass as its argument.

        Args:
            stream: bytes to read for an upload, to write for a download. Leaving the context waits for
                both directions, so one that is only written must end its receiving side by itself.
            content_encoding: compression of the bytes in `stream` (gzip, xz, bz2 or zstd), which the
                exporter undoes or applies.
        """
        from .resources import offer

        async with offer(self, stream, content_encoding) as handle:
            yield handle

    # -- logs ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def log_stream_async(self, show_all_logs: bool = True) -> AsyncGenerator[None, None]:
        """Log what the exporter logs while the body runs.

        Args:
            show_all_logs: False keeps to the lines of hooks.
        """
        from anyio import create_task_group

        failure: Exception | None = None
        async with create_task_group() as tg:
            tg.start_soon(self._follow_logs, show_all_logs)
            try:
                yield
            except Exception as error:  # noqa: BLE001 (raised again below, outside the group that would wrap it)
                failure = error
            tg.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _follow_logs(self, show_all_logs: bool) -> None:
        import grpc
        from anyio import sleep
        from google.protobuf import empty_pb2

        delay = 0.1
        for _ in range(LOG_RECONNECTS):
            call = self.stub.LogStream(empty_pb2.Empty())
            try:
                async for response in call:
                    self._relay_log(response, show_all_logs)
                    delay = 0.1
                return
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNIMPLEMENTED):
                    return
            finally:
                call.cancel()
            await sleep(delay)
            delay = min(delay * 2, 2.0)

    def _relay_log(self, response: jumpstarter_pb2.LogStreamResponse, show_all_logs: bool) -> None:
        if "raised by servicer method" in response.message and "NotImplementedError" in response.message:
            return
        name, is_hook = _LOGGERS.get(response.source, _SYSTEM_LOGGER)
        if is_hook or show_all_logs:
            # The severity comes over the wire, so an unknown one must not end the log stream.
            level = logging.getLevelNamesMapping().get(response.severity.upper(), logging.INFO)
            self.__log(level, response.message, name)

    def __log(self, level: int, message: str, name: str | None = None) -> None:
        (logging.getLogger(name) if name else self.logger).log(level, "%s", message)

    # -- status ----------------------------------------------------------------------------------

    async def get_status_async(self) -> ExporterStatus | None:
        """Return the exporter's status, or None when it has no notion of one.

        Raises:
            DriverError: the exporter cannot be asked.
        """
        import grpc
        from jumpstarter_protocol.jumpstarter.v1 import jumpstarter_pb2

        if getattr(self, "_status_unsupported", False):
            return None
        try:
            response = await answer(self.stub.GetStatus(jumpstarter_pb2.GetStatusRequest()))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._status_unsupported = True
                return None
            raise DriverError(f"the exporter's status is not to be had: {error.details()}") from error
        return ExporterStatus.from_proto(response.status)

    async def check_exporter_status(self) -> None:
        """Raise ExporterNotReady unless the exporter serves a lease or runs its hooks."""
        status = await self.get_status_async()
        usable = (ExporterStatus.LEASE_READY, ExporterStatus.BEFORE_LEASE_HOOK, ExporterStatus.AFTER_LEASE_HOOK)
        if status is not None and status not in usable:
            raise ExporterNotReady(f"the exporter is not ready: its status is {status}")

    async def wait_for_lease_ready(self, timeout: float = 300.0) -> None:
        """Wait until the hook before the lease has ended, at most `timeout` seconds; only warns after that."""
        ends = (ExporterStatus.LEASE_READY, ExporterStatus.BEFORE_LEASE_HOOK_FAILED)
        if not await self._wait_for(ends, timeout):
            self.logger.warning("the exporter was not ready within %g s", timeout)

    async def wait_for_hook_status(self, target: ExporterStatus, timeout: float = 60.0) -> bool:
        """Wait for a status at most `timeout` seconds; a failed hook after the lease counts as well."""
        return await self._wait_for((target, ExporterStatus.AFTER_LEASE_HOOK_FAILED), timeout)

    async def _wait_for(self, ends: tuple[ExporterStatus, ...], timeout: float) -> bool:
        from anyio import move_on_after, sleep

        with move_on_after(timeout):
            while True:
                status = await self.get_status_async()
                if status is None or status in ends:
                    return True
                await sleep(0.5)
        return False

    async def end_session_async(self) -> bool:
        """Tell the exporter that this client is done; False when it has no notion of that, or refuses."""
        import grpc
        from jumpstarter_protocol.jumpstarter.v1 import jumpstarter_pb2

        try:
            response = await answer(
                self.stub.EndSession(jumpstarter_pb2.EndSessionRequest(), timeout=END_SESSION_TIMEOUT)
            )
        except grpc.aio.AioRpcError as error:
            match error.code():
                case grpc.StatusCode.UNIMPLEMENTED:
                    return False
                case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.DEADLINE_EXCEEDED:
                    return True
                case grpc.StatusCode.UNKNOWN if "Stream removed" in (error.details() or ""):
                    return True
            raise DriverError(f"the session could not be ended: {error.details()}") from error
        return response.success

    @asynccontextmanager
    async def status_monitor_async(self, poll_interval: float = 0.3) -> AsyncGenerator[StatusMonitor, None]:
        """Follow the exporter's status while the body runs."""
        from jumpstarter.client.status_monitor import StatusMonitor

        monitor = StatusMonitor(self.stub, poll_interval=poll_interval)
        self._status_monitor: StatusMonitor | None = monitor
        try:
            async with monitor:
                yield monitor
        finally:
            self._status_monitor = None

    @property
    def status(self) -> ExporterStatus | None:
        """The status that a running monitor saw last; None without one."""
        monitor = getattr(self, "_status_monitor", None)
        return monitor.current_status if monitor is not None else None

    async def wait_for_lease_ready_monitored(self, timeout: float = 300.0) -> None:
        """Wait for LEASE_READY with the running monitor.

        Raises:
            RuntimeError: there is no running monitor.
            DriverError: the hook failed, or the time was over before it was reached.
        """
        monitor = getattr(self, "_status_monitor", None)
        if monitor is None:
            raise RuntimeError("no status monitor is running: use this inside status_monitor_async()")
        ends = [ExporterStatus.LEASE_READY, ExporterStatus.BEFORE_LEASE_HOOK_FAILED]
        reached = await monitor.wait_for_any_of(ends, timeout=timeout)
        if reached is not ExporterStatus.LEASE_READY:
            reason = monitor.status_message or f"its status is {monitor.current_status}"
            raise DriverError(f"the exporter did not become ready within {timeout:g} s: {reason}")

    async def wait_for_hook_complete_monitored(self, timeout: float = 60.0) -> bool:
        """Wait with the running monitor until the hook after the lease has ended; True without one."""
        monitor = getattr(self, "_status_monitor", None)
        if monitor is None:
            return True
        ends = [ExporterStatus.AVAILABLE, ExporterStatus.AFTER_LEASE_HOOK_FAILED]
        return await monitor.wait_for_any_of(ends, timeout=timeout) is not None


_SYSTEM_LOGGER = ("exporter:system", False)
_LOGGERS: dict[int, tuple[str, bool]] = {
    LogSource.BEFORE_LEASE_HOOK: ("exporter:beforeLease", True),
    LogSource.AFTER_LEASE_HOOK: ("exporter:afterLease", True),
    LogSource.DRIVER: ("exporter:driver", False),
}


__all__ = [
    "AsyncDriverClient",
    "DriverError",
    "DriverInvalidArgument",
    "DriverMethodNotImplemented",
    "ExporterNotReady",
]
