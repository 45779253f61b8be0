"""A session as one client of its lease sees it: lets in what the client's role allows, and counts what it uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2_grpc
from pydantic import ValidationError

from jumpstarter.common.streams import StreamRequestMetadata
from jumpstarter.driver.decorators import MARKER_DRIVERCALL, MARKER_STREAMCALL, MARKER_STREAMING_DRIVERCALL
from jumpstarter.driver.methods import is_harmless

from .callers import Caller, Role

if TYPE_CHECKING:
    from anyio.abc import AnyByteStream, ObjectStream

    from .session import Session
    from .uses import Uses

__all__ = ["Door"]

MOST_TEXT = 200
"""Characters of a method's name, which is the client's choice, that are remembered."""


class Door(jumpstarter_pb2_grpc.ExporterServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """The services of a session for one client.

    Clients come while a long hook before their lease runs, and see its log and the status of the exporter; what they
    ask of the drivers waits until it is over.

    Args:
        session: what is behind the door.
        caller: who is before it.
        uses: where to count what is used.
        endpoints: returns where this client can reach the session without a router, with the right to do so.
    """

    def __init__(
        self,
        session: Session,
        caller: Caller,
        uses: Uses,
        endpoints: Callable[[Caller], list[jumpstarter_pb2.Endpoint]] | None = None,
    ) -> None:
        self.session = session
        self.caller = caller
        self._uses = uses
        self._endpoints = endpoints
        self._client = caller.client
        self._watches = caller.role is Role.WATCHER

    # -- ExporterService -------------------------------------------------------------------------

    async def GetReport(self, request: empty_pb2.Empty, context: Any) -> jumpstarter_pb2.GetReportResponse:
        """Return the tree of drivers, and ways to reach it that need no router to whoever may use it."""
        report = await self.session.GetReport(request, context)
        if self._watches or self._endpoints is None or not (endpoints := self._endpoints(self.caller)):
            return report
        answer = jumpstarter_pb2.GetReportResponse()
        answer.CopyFrom(report)
        answer.alternative_endpoints.extend(endpoints)
        return answer

    async def DriverCall(self, request: jumpstarter_pb2.DriverCallRequest, context: Any) -> Any:
        """Pass a call to the driver that it names."""
        await self._prepared()
        if self._watches:
            await self._check(request.uuid, request.method, MARKER_DRIVERCALL, context)
        uses = self._uses
        uses.begin()
        outcome = "OK"
        try:
            return await self.session.DriverCall(request, context)
        except BaseException:
            outcome = _outcome(context)
            raise
        finally:
            uses.end(self._client, request.uuid, request.method[:MOST_TEXT], "call", outcome)

    async def StreamingDriverCall(self, request: jumpstarter_pb2.StreamingDriverCallRequest, context: Any) -> None:
        """Pass a streaming call to the driver that it names."""
        await self._prepared()
        if self._watches:
            await self._check(request.uuid, request.method, MARKER_STREAMING_DRIVERCALL, context)
        self._uses.begin()
        outcome = "OK"
        try:
            await self.session.StreamingDriverCall(request, context)
        except BaseException:
            outcome = _outcome(context)
            raise
        finally:
            self._uses.end(self._client, request.uuid, request.method[:MOST_TEXT], "streamingcall", outcome)

    async def LogStream(self, request: empty_pb2.Empty, context: Any) -> None:
        """Send the latest log records, then every further one."""
        await self.session.LogStream(request, context)

    async def GetStatus(self, request: jumpstarter_pb2.GetStatusRequest, context: Any) -> Any:
        """Return the status of the session and its version."""
        return await self.session.GetStatus(request, context)

    async def Reset(self, request: jumpstarter_pb2.ResetRequest, context: Any) -> Any:
        """Reset every driver."""
        if self._watches:
            await self._refuse("reset the devices", context)
        await self._prepared()
        return await self.session.Reset(request, context)

    async def EndSession(self, request: jumpstarter_pb2.EndSessionRequest, context: Any) -> Any:
        """Note that the owner is done; others come and go without an effect on the session."""
        if self.caller.role is not Role.OWNER:
            return jumpstarter_pb2.EndSessionResponse(
                success=False, message="the session goes on: only the owner of the lease ends it"
            )
        return await self.session.EndSession(request, context)

    # -- RouterService ---------------------------------------------------------------------------

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        """Open the stream that the metadata name and forward both directions until they end."""
        await self.session.serve_call(self.serve_stream, context)

    async def serve_stream(
        self,
        metadata: dict[str, Any],
        context: Any,
        accept: Callable[[ObjectStream[bytes], dict[str, str]], Awaitable[AnyByteStream]],
    ) -> None:
        """Open a stream and forward both directions until they end; arguments as of `Session.serve_stream`."""
        uuid, method = _named(metadata)
        await self._prepared()
        if self._watches:
            await self._check(uuid, method, MARKER_STREAMCALL, context)
        self._uses.begin()
        outcome = "OK"
        try:
            await self.session.serve_stream(metadata, context, accept)
        except BaseException:
            outcome = _outcome(context)
            raise
        finally:
            self._uses.end(self._client, uuid, method[:MOST_TEXT], "stream", outcome)

    async def _prepared(self) -> None:
        """Wait until the hook before the lease is over; whether it passed is for the session to judge."""
        lease = self.session.lease_context
        if lease is not None:
            await lease.wait_for_drivers()

    # -- watchers --------------------------------------------------------------------------------

    async def _check(self, uuid: str, method: str, marker: str, context: Any) -> None:
        """End the call of a watcher unless the method is marked as harmless; what doesn't exist isn't."""
        driver = self.session.find(uuid)
        if driver is None or not is_harmless(driver, method, marker):
            await self._refuse(f"use {method[:MOST_TEXT]!r}" if method else "send or fetch files", context)

    async def _refuse(self, what: str, context: Any) -> NoReturn:
        name = f"client {self._client}" if self._client else "this client"
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            f"{name} has the role watcher in this lease and can't {what}; the owner can give it the role driver",
        )
        raise AssertionError("abort returned")


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _outcome(context: Any) -> str:
    """Return the name of the status that a call which didn't succeed has ended with."""
    code = context.code()
    code = _CODES.get(code, code)
    # Without one neither the driver nor the session said anything: the client has gone away.
    return str(code.name) if code else grpc.StatusCode.CANCELLED.name


def _named(metadata: dict[str, Any]) -> tuple[str, str]:
    """Return driver and method that a stream request names; what is wrong with it is for the session to tell."""
    try:
        request = StreamRequestMetadata(**metadata).request
    except (ValidationError, TypeError):
        return "", ""
    return str(request.uuid), getattr(request, "method", "")
