"""An exporter's conversation with its controller: one channel, and calls that are repeated until they work."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import grpc
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, lab_pb2, lab_pb2_grpc

from jumpstarter.common.cancellation import answer
from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter.common.grpc import error_info

from .backoff import Backoff

__all__ = ["Controller", "Refused", "StatusReporter", "Transient"]

logger = logging.getLogger(__name__)

RPC_TIMEOUT = 30.0
"""Seconds that one unary call may take."""

FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Statuses of answers that will be the same the next time; all others may pass."""

TURNED_AWAY = frozenset({"ACCOUNT_UNKNOWN", "IDENTITY_MISMATCH"})
"""Reasons by which a controller tells that it serves this exporter no more: its account was deleted, or made anew."""

RELEASE_UNKNOWN = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""How controllers before 0.9 answer an exporter that releases a lease."""

_CONNECTION_LOST = frozenset({grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.CONNECTING})


class Refused(ConnectionError):
    """The controller gave an answer that repeating the call won't change."""

    def __init__(self, message: str, code: grpc.StatusCode, details: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status, self.details, self.reason = code.name, details, reason


class Transient(Exception):
    """A call failed in a way that may pass; the text says what and why."""


@dataclass(eq=False)
class _Shared:
    channel: grpc.aio.Channel
    users: int = 0
    stale: bool = False


@dataclass(kw_only=True)
class Controller:
    """The controller as one exporter sees it, over one channel for everything."""

    channel_factory: Callable[[], Awaitable[grpc.aio.Channel]]
    backoff: Callable[[], Backoff] = Backoff
    _current: _Shared | None = field(default=None, init=False)
    _opening: anyio.Lock = field(default_factory=anyio.Lock, init=False)
    _releases_by_report: bool = field(default=False, init=False)
    connected: bool = field(default=False, init=False)
    """Whether the stream by which the controller tells of leases is open, as far as is known here."""
    takes_use_reports: bool = field(default=True, init=False)
    """Whether the controller may know of reports of use; False once it said that it doesn't."""

    async def aclose(self) -> None:
        """Close the channel; a later call opens another."""
        shared, self._current = self._current, None
        if shared is not None:
            with anyio.CancelScope(shield=True):
                await shared.channel.close()

    @asynccontextmanager
    async def _attempt(self, what: str, service: Callable[[Any], Any]) -> AsyncGenerator[Any, None]:
        """Yield a stub of a service; errors of the body become `Transient` or `Refused`."""
        shared: _Shared | None = None
        try:
            shared = await self._use()
            yield service(shared.channel)
        except grpc.aio.AioRpcError as error:
            text = f"{what}: {error.code().name}: {error.details() or 'no details'}"
            reason, _ = error_info(error.trailing_metadata())
            if reason in TURNED_AWAY:
                text = f"the controller turns this exporter away: {error.details()}"
            if error.code() in FINAL or reason in TURNED_AWAY:
                raise Refused(text, error.code(), error.details() or "", reason) from None
            raise Transient(text) from None
        except ConnectionError as error:
            if isinstance(error, Refused):
                raise
            raise Transient(f"{what}: {error}") from None
        finally:
            if shared is not None:
                await self._done(shared)

    async def _use(self) -> _Shared:
        async with self._opening:
            if self._current is None:
                self._current = _Shared(await self.channel_factory())
            self._current.users += 1
            return self._current

    async def _done(self, shared: _Shared) -> None:
        """Have the next call connect anew if the connection is lost; close what nobody uses any more.

        A channel that lost its connection waits longer and longer by itself before it connects again, and it knows
        the certificate of the controller as it was, which matters when certificates are not verified.
        """
        shared.users -= 1
        if not shared.stale and shared.channel.get_state() in _CONNECTION_LOST:
            shared.stale = True
            if self._current is shared:
                self._current = None
        if shared.stale and not shared.users:
            with anyio.CancelScope(shield=True):
                await shared.channel.close()

    async def call(
        self,
        what: str,
        rpc: Callable[[Any], Awaitable[Any]],
        service: Callable[[Any], Any] = jumpstarter_pb2_grpc.ControllerServiceStub,
    ) -> Any:
        """Make one unary call with a stub, again and again until there is an answer.

        Args:
            what: what is being tried, for the log.
            rpc: makes the call.
            service: makes the stub for a channel.

        Raises:
            Refused: the controller gave an answer that won't change.
        """
        backoff = self.backoff()
        while True:
            try:
                async with self._attempt(what, service) as stub:
                    return await answer(rpc(stub))
            except Transient as error:
                _log_failure(backoff, error)
            await anyio.sleep(backoff.next())

    async def follow(
        self,
        what: str,
        rpc: Callable[[Any], Any],
        handle: Callable[[Any], Awaitable[None]],
        *,
        resume: Callable[[], Awaitable[None]] | None = None,
        is_lifeline: bool = False,
    ) -> None:
        """Pass every message of a server's stream to `handle`, opening the stream again whenever it ends.

        Args:
            what: what is being tried, for the log.
            rpc: opens the stream with a stub.
            handle: takes a message.
            resume: called before the stream is opened again after a failure.
            is_lifeline: whether the controller is reachable is judged by this stream, see `connected`.

        Raises:
            Refused: the lifeline was refused for one of the reasons in TURNED_AWAY.
        """
        backoff = self.backoff()
        failed = False
        while True:
            try:
                if failed and resume is not None:
                    await resume()
                async with self._attempt(what, jumpstarter_pb2_grpc.ControllerServiceStub) as stub:
                    call = rpc(stub)
                    try:
                        async for message in call:
                            if is_lifeline:
                                self.connected = True
                            if failed:
                                logger.info("%s: connected again", what)
                            failed = False
                            backoff.reset()
                            await handle(message)
                    finally:
                        call.cancel()
                        if is_lifeline:
                            self.connected = False
            except (Transient, Refused) as error:
                if is_lifeline and isinstance(error, Refused) and error.reason in TURNED_AWAY:
                    raise
                _log_failure(backoff, error)
                failed = True
            await anyio.sleep(backoff.next())

    # -- rpcs ------------------------------------------------------------------------------------

    async def register(
        self, labels: Mapping[str, str], reports: Sequence[jumpstarter_pb2.DriverInstanceReport]
    ) -> None:
        """Tell the controller what this exporter offers; may be repeated at any time."""
        request = jumpstarter_pb2.RegisterRequest(labels=dict(labels), reports=reports)
        await self.call("can't register with the controller", lambda stub: stub.Register(request, timeout=RPC_TIMEOUT))

    async def unregister(self, reason: str) -> None:
        """Tell the controller that this exporter offers nothing any more."""
        request = jumpstarter_pb2.UnregisterRequest(reason=reason)
        await self.call(
            "can't unregister from the controller", lambda stub: stub.Unregister(request, timeout=RPC_TIMEOUT)
        )

    async def report_status(self, status: ExporterStatus, message: str) -> None:
        """Tell the controller the status of this exporter; tries once.

        Raises:
            Transient: the controller couldn't be reached, or failed.
            Refused: the controller refused.
        """
        request = jumpstarter_pb2.ReportStatusRequest(message=message)
        request.status = status.to_proto()
        what = "can't report the status to the controller"
        async with self._attempt(what, jumpstarter_pb2_grpc.ControllerServiceStub) as stub:
            await answer(stub.ReportStatus(request, timeout=RPC_TIMEOUT))

    async def release(self, lease_name: str, status: ExporterStatus, message: str) -> None:
        """Give a lease back, in the way that the controller knows; one that is over already is no error."""
        what = f"can't release lease {lease_name}"
        if not self._releases_by_report:
            request = jumpstarter_pb2.ReleaseLeaseRequest(name=lease_name)
            try:
                await self.call(what, lambda stub: stub.ReleaseLease(request, timeout=RPC_TIMEOUT))
                return
            except Refused as error:
                if error.code not in RELEASE_UNKNOWN:
                    logger.info("lease %s is not ours to release any more: %s", lease_name, error)
                    return
                self._releases_by_report = True
        report = jumpstarter_pb2.ReportStatusRequest(message=message, release_lease=True)
        report.status = status.to_proto()
        try:
            await self.call(what, lambda stub: stub.ReportStatus(report, timeout=RPC_TIMEOUT))
        except Refused as error:
            logger.warning("lease %s lasts until its end: %s", lease_name, error)

    async def drain(self, draining: bool, reason: str) -> None:
        """Have no further leases assigned after the present one, or have leases assigned again.

        Raises:
            Refused: with UNIMPLEMENTED by controllers that don't know of it.
        """
        request = lab_pb2.DrainRequest(draining=draining, reason=reason)
        what = "can't tell the controller whether to assign leases"
        await self.call(what, lambda stub: stub.Drain(request, timeout=RPC_TIMEOUT), lab_pb2_grpc.LabServiceStub)

    async def report_use(self, request: lab_pb2.ReportUseRequest) -> float | None:
        """Say what a lease is used for.

        Returns:
            Seconds after which an exporter in use should report again, or None when the controller takes no reports.

        Raises:
            Refused: the controller doesn't want this report.
        """
        what = f"lease {request.lease_name}: can't report its use to the controller"
        try:
            response = await self.call(
                what, lambda stub: stub.ReportUse(request, timeout=RPC_TIMEOUT), lab_pb2_grpc.LabServiceStub
            )
        except Refused as error:
            if error.code is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            self.takes_use_reports = False
            return None
        return float(response.interval.ToTimedelta().total_seconds())


def _log_failure(backoff: Backoff, error: Exception) -> None:
    level = logging.DEBUG if backoff.attempts else logging.WARNING
    logger.log(level, "%s; trying again until it works", error)


@dataclass(kw_only=True)
class StatusReporter:
    """Reports the latest status in the background; one that is outdated before it could be sent is left out."""

    controller: Controller
    _latest: tuple[ExporterStatus, str] | None = field(default=None, init=False)
    _sent: tuple[ExporterStatus, str] | None = field(default=None, init=False)
    _unsupported: bool = field(default=False, init=False)
    _news: anyio.Event = field(default_factory=anyio.Event, init=False)
    _settled: anyio.Event = field(default_factory=anyio.Event, init=False)

    def report(self, status: ExporterStatus, message: str = "") -> None:
        """Have a status sent."""
        self._latest = (status, message)
        self._wake()

    def repeat(self) -> None:
        """Have the latest status sent again, to a controller that may have forgotten it."""
        self._sent = None
        self._wake()

    def _wake(self) -> None:
        if self._settled.is_set():
            self._settled = anyio.Event()
        self._news.set()

    async def settle(self) -> None:
        """Wait until the latest status was sent, or refused."""
        if self._latest is not None and not self._unsupported:
            await self._settled.wait()

    async def run(self) -> None:
        """Send statuses until cancelled, one after the other so that none overtakes a later one."""
        backoff = self.controller.backoff()
        while True:
            self._news = anyio.Event()
            latest = self._latest
            if latest is None or latest == self._sent or self._unsupported:
                self._settled.set()
                await self._news.wait()
                continue
            try:
                await self.controller.report_status(*latest)
            except Refused as error:
                self._note_refusal(error)
            except Transient as error:
                _log_failure(backoff, error)
                with anyio.move_on_after(backoff.next()):
                    await self._news.wait()
                continue
            backoff.reset()
            self._sent = latest

    def _note_refusal(self, error: Refused) -> None:
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            logger.info("the controller is too old to take reports of the status")
            self._unsupported = True
        else:
            logger.warning("%s", error)
