"""A way between two programs that a test can cut, hold and slow down: a TCP proxy on a free port of loopback."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup
from anyio.from_thread import BlockingPortal

CHUNK = 65536

RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which closing a socket resets its connection."""


class Gate:
    """Passes connections on to a port of loopback. Its methods are for the thread of the test.

    Args:
        portal: runs the event loop of the proxy.
        target: port of loopback that connections are passed on to.
    """

    def __init__(self, portal: BlockingPortal, target: int) -> None:
        self.target = target
        self.port = 0
        self.taken = 0
        """Connections that came."""
        self._portal = portal
        self._tasks: TaskGroup
        self._open: set[tuple[SocketStream, SocketStream]] = set()
        self._flows = {True: _Flow(), False: _Flow()}
        """By direction: True is what goes to the target."""
        self._refused = False

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Gate, None]:
        """Pass connections on while the body runs."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(listener.serve, self._forward)
            yield self
            self._tasks.cancel_scope.cancel()

    async def _forward(self, near: SocketStream) -> None:
        self.taken += 1
        async with near:
            try:
                if self._refused:
                    raise OSError("refused")
                far = await anyio.connect_tcp("127.0.0.1", self.target)
            except OSError:
                _reset(near)
                return
            pair = near, far
            self._open.add(pair)
            try:
                async with far, anyio.create_task_group() as pumps:
                    pumps.start_soon(self._pump, near, far, self._flows[True])
                    pumps.start_soon(self._pump, far, near, self._flows[False])
            finally:
                self._open.discard(pair)

    async def _pump(self, source: SocketStream, sink: SocketStream, flow: _Flow) -> None:
        try:
            while True:
                try:
                    chunk = await source.receive(CHUNK)
                except anyio.EndOfStream:
                    await flow.passable()
                    await sink.send_eof()
                    return
                await flow.passable()
                await sink.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            _reset(source)
            _reset(sink)
            for end in (source, sink):
                with contextlib.suppress(OSError, anyio.ClosedResourceError):
                    await end.aclose()

    # -- faults ----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset all connections that there are; new ones pass."""
        self._portal.call(self._cut)

    async def _cut(self) -> None:
        for pair in list(self._open):
            for end in pair:
                _reset(end)
                await end.aclose()

    def refuse(self) -> None:
        """Reset all connections, also new ones, until `heal`."""
        self._refused = True
        self.cut()

    def hold(self, *, forth: bool = True, back: bool = True) -> None:
        """Let nothing pass, without a word to either end: a connection that is open on one or both sides only.

        Args:
            forth: hold what goes to the target.
            back: hold what comes from there.
        """
        self._portal.call(self._hold, forth, back)

    async def _hold(self, forth: bool, back: bool) -> None:
        for flow, held in ((self._flows[True], forth), (self._flows[False], back)):
            if held and flow.open.is_set():
                flow.open = anyio.Event()

    def slow(self, seconds: float) -> None:
        """Delay each piece of data, both ways."""
        for flow in self._flows.values():
            flow.delay = seconds

    def heal(self) -> None:
        """Let everything pass again, what was held first."""
        self._portal.call(self._heal)

    async def _heal(self) -> None:
        self._refused = False
        for flow in self._flows.values():
            flow.delay = 0.0
            flow.open.set()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)


class _Flow:
    def __init__(self) -> None:
        self.open = anyio.Event()
        self.open.set()
        self.delay = 0.0

    async def passable(self) -> None:
        if self.delay:
            await anyio.sleep(self.delay)
        while not self.open.is_set():
            await self.open.wait()


def _reset(stream: SocketStream) -> None:
    with contextlib.suppress(OSError, anyio.ClosedResourceError):
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
