"""Datagrams: UDP sockets as streams, and a local port with one stream to the target per sender."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import ObjectStream, TaskGroup
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

logger = logging.getLogger(__name__)

IDLE_SECONDS = 120.0
"""Seconds without a datagram in either direction after which a sender's stream is closed (RFC 4787 asks for 120)."""

MAX_SENDERS = 256
"""Senders that are served at the same time; datagrams of others are dropped meanwhile."""

MAX_WAITING = 64
"""Datagrams of one sender that wait for its stream; more are dropped, as a network does."""

MAX_DATAGRAM = 65535
"""Bytes of the largest datagram that UDP has room for."""

Address = tuple[Any, ...]
Opener = Callable[[], AbstractAsyncContextManager[ObjectStream[bytes]]]


class UdpSocket:
    """A UDP socket on the event loop; unlike asyncio's, it passes empty datagrams as well."""

    def __init__(self, raw: socket.socket) -> None:
        """Take over `raw`, whatever it is bound or connected to."""
        raw.setblocking(False)
        self.raw = raw

    async def receive_from(self) -> tuple[bytes, Address]:
        """Return the next datagram and where it came from.

        Raises:
            ClosedResourceError: the socket was closed.
        """
        await checkpoint()
        while True:
            try:
                return self.raw.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                await anyio.wait_readable(self.raw)
            except OSError as error:
                self._check(error)

    async def send_to(self, data: bytes, address: Address | None = None) -> None:
        """Send a datagram to `address`, or to what the socket is connected to.

        Raises:
            ClosedResourceError: the socket was closed.
            BrokenResourceError: the datagram is larger than the network allows.
        """
        await checkpoint()
        while True:
            try:
                if address is None:
                    self.raw.send(data)
                else:
                    self.raw.sendto(data, address)
                return
            except BlockingIOError:
                await anyio.wait_writable(self.raw)
            except OSError as error:
                self._check(error)

    def _check(self, error: OSError) -> None:
        if self.raw.fileno() < 0:
            raise ClosedResourceError from None
        # The answer of a host to an earlier datagram; UDP promises nothing, and the port may open any time.
        if isinstance(error, ConnectionError):
            logger.debug("UDP peer is not there: %s", error)
            return
        raise BrokenResourceError(f"UDP: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the socket and wake those who wait for it."""
        if self.raw.fileno() >= 0:
            anyio.notify_closing(self.raw)
            self.raw.close()


class UdpStream(ObjectStream[bytes]):
    """A connected UDP socket as a stream; each item is one datagram."""

    def __init__(self, sock: UdpSocket) -> None:
        self._socket = sock

    async def send(self, item: bytes) -> None:
        """Send one datagram; it may get lost.

        Raises:
            BrokenResourceError: it is larger than the network allows.
        """
        await self._socket.send_to(item)

    async def receive(self) -> bytes:
        """Return the next datagram."""
        return (await self._socket.receive_from())[0]

    async def send_eof(self) -> None:
        """Do nothing: datagrams have no end."""

    async def aclose(self) -> None:
        """Close the socket."""
        self._socket.close()
        await checkpoint()


async def connect_udp(host: str, port: int) -> UdpStream:
    """Open a UDP socket that is connected to the first address of `host`.

    Raises:
        OSError: the host has no address, or there is no route to it.
    """
    return UdpStream(await _opened(host, port, socket.socket.connect))


async def _opened(host: str, port: int, use: Callable[[socket.socket, Any], None]) -> UdpSocket:
    """Make a socket for the first address of `host` that can be used."""
    failure: OSError | None = None
    for family, kind, protocol, _, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        raw = socket.socket(family, kind, protocol)
        try:
            use(raw, address)
            return UdpSocket(raw)
        except OSError as error:
            raw.close()
            failure = failure or error
    raise failure or OSError(f"{host} has no address")


@asynccontextmanager
async def forward_datagrams(open_stream: Opener, local_host: str, local_port: int) -> AsyncGenerator[Any, None]:
    """Forward datagrams that arrive at a local port while the context lasts, and the answers back.

    Args:
        open_stream: opens a stream to the target whose items are datagrams.
        local_host: address to listen on.
        local_port: port to listen on, 0 for a free one.

    Yields the local address: host, port, and for IPv6 two numbers more.

    Raises:
        OSError: the port can't be had.
    """
    try:
        local = await _opened(local_host, local_port, socket.socket.bind)
    except OSError as error:
        message = f"can't listen on UDP {local_host} port {local_port}: {error.strerror or error}"
        raise OSError(error.errno, message) from error
    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(Forwarder(open_stream, local, tg).run)
            yield local.raw.getsockname()
            tg.cancel_scope.cancel()
    finally:
        local.close()


class Forwarder:
    """Sorts the datagrams of one local socket by sender."""

    def __init__(self, open_stream: Opener, local: UdpSocket, tasks: TaskGroup) -> None:
        self._open_stream = open_stream
        self._local = local
        self._tasks = tasks
        self._senders: dict[Address, MemoryObjectSendStream[bytes]] = {}

    async def run(self) -> None:
        """Take datagrams until the socket is closed."""
        try:
            while True:
                self._take(*await self._local.receive_from())
        except (BrokenResourceError, ClosedResourceError) as error:
            logger.debug("local UDP socket was closed: %s", error)

    def _take(self, packet: bytes, sender: Address) -> None:
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

    async def _serve(self, sender: Address, packets: MemoryObjectReceiveStream[bytes]) -> None:
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
                        await self._local.send_to(await stream.receive(), sender)
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
