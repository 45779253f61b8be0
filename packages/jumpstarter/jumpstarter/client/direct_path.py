"""The way to the exporter of a lease that needs no router, where there is one; the user notices only that it's faster.

Connections to the local socket of a lease go through a router until an exporter has said, in its report of the
drivers, that it can be reached directly, and has been reached so. From then on new connections and byte streams go
directly, and through the router again as soon as that fails. One connection through the router stays open meanwhile:
by it the exporter knows that the controller still lets this client in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import anyio
import grpc
from anyio import CancelScope
from anyio.abc import AnyByteStream, TaskGroup
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2_grpc, router_pb2_grpc

from jumpstarter.common.cancellation import answer
from jumpstarter.common.env import JMP_DIRECT
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.tempfile import TemporaryUnixListener
from jumpstarter.streams.common import forward_stream
from jumpstarter.streams.direct import SUFFIX, DirectStream, read_object, write_object
from jumpstarter.streams.relay import relay
from jumpstarter.streams.sockets import SocketByteStream
from jumpstarter.streams.tls import TLSByteStream

from . import local_paths
from .opening import open_by_call
from .ways import FAILURES, Way, accepted, dropped_on_error, find_way, reason_of

__all__ = ["serve_path"]

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_LONGEST = 5.0, 300.0
"""Seconds until a direct way that failed is tried again, at first and after a while."""

REPORT_TIMEOUT = 60.0
"""Seconds that an exporter may take to say how to reach it."""

CHANNEL_OPTIONS = [
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    # A direct way may vanish without a word, in a laptop that changes its network for example.
    ("grpc.keepalive_time_ms", 20000),
    ("grpc.keepalive_timeout_ms", 20000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 5000),
]

Handler = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def serve_path(routed: Handler) -> AsyncGenerator[Path, None]:
    """Listen on a temporary Unix socket whose connections lead to an exporter, by the best way there is.

    Args:
        routed: connects a byte stream to the exporter through a router, until it has ended.
    """
    if os.environ.get(JMP_DIRECT) == "0":
        async with TemporaryUnixListener(routed) as path:
            yield path
        return
    ways = DirectPath(routed)
    async with TemporaryUnixListener(ways.handle) as path, ways.running(path):
        yield path


class DirectPath:
    """Connects to one exporter, directly where possible."""

    def __init__(self, routed: Handler) -> None:
        self._routed = routed
        self._loop = asyncio.get_running_loop()
        self._path = ""
        self._way: Way | None = None
        self._offered = anyio.Event()
        self._lost = anyio.Event()
        self._stubs: WeakSet[Any] = WeakSet()
        self._anchor: _Stub | None = None
        self._preferred: grpc.aio.Channel | None = None
        self._tasks: TaskGroup
        self._streams_served = False

    @asynccontextmanager
    async def running(self, path: Path) -> AsyncGenerator[None, None]:
        """Look for a direct way while the body runs, once the exporter has said that there may be one."""
        self._path = str(path)
        local_paths.paths[self._path] = self
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._run)
                try:
                    yield
                except Exception as error:  # noqa: BLE001 (raised again below, outside the group that would wrap it)
                    failure = error
                self._tasks.cancel_scope.cancel()
        finally:
            del local_paths.paths[self._path]
            if self._preferred is not None:
                with CancelScope(shield=True):
                    await self._preferred.close()
        if failure is not None:
            raise failure

    # -- using the way ---------------------------------------------------------------------------

    async def handle(self, stream: AnyByteStream) -> None:
        """Connect `stream` to the services of the exporter's session until one of them ends."""
        way = self._way
        if way is not None:
            try:
                remote = await way.open_session()
            except FAILURES as error:
                self._failed(way, error)
            else:
                async with dropped_on_error(remote):
                    await relay(_bytes(stream), remote)
                return
        await self._routed(stream)

    async def open_stream(self, request: dict[str, Any]) -> tuple[dict[str, str], AnyByteStream] | None:
        """Open a byte stream directly; see `local_paths.LocalPath`."""
        if asyncio.get_running_loop() is not self._loop or (opened := await self._open(request)) is None:
            return None
        return await accepted(*opened)

    async def _open(self, request: dict[str, Any]) -> tuple[TLSByteStream, dict[str, Any]] | None:
        """Ask the exporter for a stream; return connection and answer, or None when it isn't reached."""
        way = self._way
        if way is None:
            return None
        try:
            return await way.ask(request)
        except FAILURES as error:
            self._failed(way, error)
            return None

    async def _handle_stream(self, local: SocketByteStream) -> None:
        """Serve a client of another process that asks for a byte stream."""
        request = await read_object(local)
        opened = await self._open(request)
        if opened is None:
            await self._stream_by_call(local, request)
            return
        remote, reply = opened
        async with dropped_on_error(remote):
            await write_object(local, reply)
            if "code" not in reply:
                await relay(local, remote)

    async def _stream_by_call(self, local: SocketByteStream, request: dict[str, Any]) -> None:
        """Do what the exporter would do directly by a call through the router."""
        try:
            wanted = json.loads(request["request"])
            assert self._anchor is not None
            async with open_by_call(self._anchor, wanted) as stream:
                await write_object(local, {"metadata": stream.metadata, "raw": False})
                await _forward(DirectStream(local), stream)
        except grpc.aio.AioRpcError as error:
            await write_object(local, {"code": error.code().name, "details": error.details() or ""})
        except (KeyError, TypeError, ValueError):
            await write_object(local, {"code": "INVALID_ARGUMENT", "details": "the stream request is malformed"})

    def _failed(self, way: Way, error: BaseException) -> None:
        if self._way is way:
            logger.debug("the exporter can't be reached directly any more, a router is used: %s", reason_of(error))
            self._way = None
            self._lost.set()

    # -- finding the way -------------------------------------------------------------------------

    def offered(self, response: Any, stub: Any) -> None:
        """Take note that an exporter may be reached directly; see `local_paths.LocalPath`."""
        if response.alternative_endpoints:
            self._stubs.add(stub)
            if self._preferred is not None:
                stub.prefer_channel(self._preferred)
            self._offered.set()

    async def _run(self) -> None:
        await self._offered.wait()
        async with (
            TemporaryUnixListener(self._anchored) as path,
            grpc.aio.insecure_channel(f"unix://{path}", options=CHANNEL_OPTIONS) as channel,
        ):
            self._anchor = _Stub(channel)
            await self._keep(channel, self._anchor)

    async def _anchored(self, stream: AnyByteStream) -> None:
        try:
            await self._routed(stream)
        except Exception as error:  # noqa: BLE001 (of any kind; whoever uses the exporter is told by other connections)
            logger.debug("the connection that keeps the direct way open has failed: %s", error)

    async def _keep(self, channel: grpc.aio.Channel, anchor: _Stub) -> None:
        """Keep a connection through the router, learn by it how to reach the exporter directly, and try that."""
        delay = RETRY_FIRST
        while True:
            try:
                report = await answer(anchor.GetReport(empty_pb2.Empty(), timeout=REPORT_TIMEOUT, wait_for_ready=True))
            except grpc.aio.AioRpcError as error:
                logger.debug("the exporter doesn't say how to reach it directly: %s", error.details())
                await anyio.sleep(delay)
                delay = min(delay * 2, RETRY_LONGEST)
                continue
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                self._lost = anyio.Event()
                if self._way is None:
                    self._way = await find_way(report.alternative_endpoints)
                if self._way is not None:
                    delay = RETRY_FIRST
                    await self._begin()
                await self._until_changed(channel, delay)
                if self._way is None:
                    delay = min(delay * 2, RETRY_LONGEST)

    async def _until_changed(self, channel: grpc.aio.Channel, delay: float) -> None:
        """Wait until the connection through the router is lost, or it is time to try the direct way again."""
        with anyio.move_on_after(delay if self._way is None else None):
            async with anyio.create_task_group() as tasks:

                async def lost() -> None:
                    await self._lost.wait()
                    if self._way is None:
                        await anyio.sleep(delay)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(lost)
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
                tasks.cancel_scope.cancel()

    async def _begin(self) -> None:
        """Have clients use the way: by a new connection of those in this process, by byte streams of all."""
        if self._preferred is None:
            self._preferred = grpc.aio.insecure_channel(f"unix://{self._path}", options=CHANNEL_OPTIONS)
            self._preferred.get_state(try_to_connect=True)
            for stub in self._stubs:
                stub.prefer_channel(self._preferred)
        if not self._streams_served:
            self._streams_served = True
            await self._tasks.start(self._serve_streams)

    async def _serve_streams(self, *, task_status: Any) -> None:
        try:
            async with TemporaryUnixListener(self._handle_stream, f"{self._path}{SUFFIX}"):
                task_status.started()
                await anyio.sleep_forever()
        except ConfigurationError as error:
            # The suffix makes the path too long for a socket: clients do without.
            logger.debug("no direct streams: %s", error)
            task_status.started()


@dataclass(eq=False)
class _Stub:
    """The rpcs of a session that are needed here."""

    channel: grpc.aio.Channel
    GetReport: Any = field(init=False)
    Stream: Any = field(init=False)

    def __post_init__(self) -> None:
        self.GetReport = jumpstarter_pb2_grpc.ExporterServiceStub(self.channel).GetReport
        self.Stream = router_pb2_grpc.RouterServiceStub(self.channel).Stream


def _bytes(stream: Any) -> Any:
    """Return a connection that a listener accepted, which is one of bytes."""
    return stream


async def _forward(local: DirectStream, stream: AnyByteStream) -> None:
    """Forward both directions until they have ended, or the client has gone away."""
    async with anyio.create_task_group() as tasks:

        async def end_when_gone() -> None:
            await local.wait_gone()
            tasks.cancel_scope.cancel()

        tasks.start_soon(end_when_gone)
        async with forward_stream(local, stream):
            pass
        tasks.cancel_scope.cancel()
