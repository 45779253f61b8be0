"""Forwarding of datagrams: one local UDP port, one stream to the target per sender."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import ObjectStream, SocketAttribute, TaskGroup, UDPSocket
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

logger = logging.getLogger(__name__)

IDLE_SECONDS = 120.0
"""Seconds without a datagram in either direction after which a sender's stream is closed (RFC 4787 asks for 120)."""

MAX_SENDERS = 256
"""Senders that are served at the same time; datagrams of others are dropped meanwhile."""

MAX_WAITING = 64
"""Datagrams of one sender that wait for its stream; more are dropped, as a network does."""

Opener = Callable[[], AbstractAsyncContextManager[ObjectStream[bytes]]]


@asynccontextmanager
async def forward_datagrams(
    open_stream: Opener, local_host: str, local_port: int
) -> AsyncGenerator[tuple[str, int], None]:
    """Forward datagrams that arrive at a local port while the context lasts, and the answers back.

    Args:
        open_stream: opens a stream to the target whose items are datagrams.
        local_host: address to listen on.
        local_port: port to listen on, 0 for a free one.

    Yields the local address.

    Raises:
        OSError: the port can't be had.
    """
    try:
        local = await anyio.create_udp_socket(local_host=local_host, local_port=local_port)
    except OSError as error:
        raise OSError(
            error.errno, f"can't listen on UDP {local_host} port {local_port}: {error.strerror or error}"
        ) from error
    failure: Exception | None = None
    async with local, anyio.create_task_group() as tg:
        tg.start_soon(Forwarder(open_stream, local, tg).run)
        address: Any = local.extra(SocketAttribute.local_address)
        try:
            yield address
        except Exception as error:  # noqa: BLE001 - raised again below, outside the group that would wrap it
            failure = error
        tg.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Forwarder:
    """Sorts the datagrams of one local socket by sender."""

    def __init__(self, open_stream: Opener, local: UDPSocket, tasks: TaskGroup) -> None:
        self._open_stream = open_stream
        self._local = local
        self._tasks = tasks
        self._senders: dict[tuple[str, int], MemoryObjectSendStream[bytes]] = {}

    async def run(self) -> None:
        """Take datagrams until the socket is closed."""
        try:
            async for packet, sender in self._local:
                self._take(packet, sender)
        except (BrokenResourceError, ClosedResourceError) as error:
            logger.debug("local UDP socket was closed: %s", error)

    def _take(self, packet: bytes, sender: tuple[str, int]) -> None:
        queue = self._senders.get(sender)
        if queue is None:
            if len(self._senders) >= MAX_SENDERS:
                logger.warning("dropped a datagram of %s: %d senders are being served", sender, MAX_SENDERS)
                return
            queue, packets = anyio.create_memory_object_stream[bytes](MAX_WAITING)
            self._senders[sender] = queue
            self._tasks.start_soon(self._serve, sender, packets)
        try:
            queue.send_nowait(packet)
        except WouldBlock:
            logger.debug("dropped a datagram of %s: the target does not keep up", sender)

    async def _serve(self, sender: tuple[str, int], packets: MemoryObjectReceiveStream[bytes]) -> None:
        """Serve one sender until nothing has passed for IDLE_SECONDS, or its stream breaks."""
        try:
            async with packets, self._open_stream() as stream, anyio.create_task_group() as tg:
                idle = anyio.CancelScope(deadline=anyio.current_time() + IDLE_SECONDS)

                async def outward() -> None:
                    async for packet in packets:
                        await stream.send(packet)
                        idle.deadline = anyio.current_time() + IDLE_SECONDS

                async def homeward() -> None:
                    while True:
                        await self._local.sendto(await stream.receive(), *sender)
                        idle.deadline = anyio.current_time() + IDLE_SECONDS

                with idle:
                    tg.start_soon(outward)
                    await homeward()
                tg.cancel_scope.cancel()
        except* (EndOfStream, BrokenResourceError, ClosedResourceError) as group:
            logger.debug("stream of UDP sender %s ended: %s", sender, group.exceptions)
        except* Exception as group:  # noqa: BLE001 - concerns this sender alone
            logger.warning("datagrams of %s can't be forwarded: %s", sender, "; ".join(map(str, group.exceptions)))
        finally:
            self._senders.pop(sender).close()
