"""Moving bytes between two sockets on the event loop without a task or an object per chunk."""

from __future__ import annotations

import select
import socket
from asyncio import AbstractEventLoop, Future, get_running_loop
from collections.abc import Callable

from anyio import TypedAttributeSet, typed_attribute

CHUNK = 256 * 1024
"""Bytes read at a time; a Linux socket holds about 208 KiB."""


class PumpAttribute(TypedAttributeSet):
    """Typed attribute of streams that are nothing but a socket."""

    socket: socket.socket = typed_attribute()
    """The socket, non-blocking, with nothing buffered outside of it."""


async def pump(a: socket.socket, b: socket.socket) -> None:
    """Forward both directions between two non-blocking sockets until both have ended.

    The end of one direction is passed on, so half-closed connections work. When a socket breaks while it
    is read, or is closed altogether by its peer, both directions end. The sockets stay open; nothing else
    may use them meanwhile.
    """
    loop = get_running_loop()
    done: Future[None] = loop.create_future()
    directions = (_Direction(loop, a, b), _Direction(loop, b, a))

    def ended(broken: bool) -> None:
        if not done.done() and (broken or all(direction.ended for direction in directions)):
            done.set_result(None)

    for direction in directions:
        direction.start(ended)
    try:
        await done
    finally:
        for direction in directions:
            direction.stop()


class _Direction:
    """One direction: reads when there is room, writes what the destination didn't take at once."""

    def __init__(self, loop: AbstractEventLoop, src: socket.socket, dst: socket.socket) -> None:
        self._loop = loop
        self._src, self._dst = src, dst
        self._rest: memoryview | None = None
        self._hangup: select.epoll | None = None
        self.ended = False

    def start(self, on_end: Callable[[bool], None]) -> None:
        self._on_end = on_end
        self._loop.add_reader(self._src, self._readable)

    def stop(self) -> None:
        # A closed socket has no descriptor any more, and closing has removed its callbacks.
        if not self.ended and self._src.fileno() >= 0:
            self._loop.remove_reader(self._src)
        if self._rest is not None and self._dst.fileno() >= 0:
            self._loop.remove_writer(self._dst)
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None
        self.ended = True

    def _readable(self) -> None:
        try:
            data = self._src.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._finish(broken=True)
            return
        if not data:
            try:
                self._dst.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            self._finish()
            self._watch_for_hangup()
            return
        try:
            sent = self._dst.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._finish()
            return
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            self._loop.remove_reader(self._src)
            self._loop.add_writer(self._dst, self._writable)

    def _writable(self) -> None:
        assert self._rest is not None
        try:
            sent = self._dst.send(self._rest)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._finish()
            return
        self._rest = self._rest[sent:]
        if not self._rest:
            self._rest = None
            self._loop.remove_writer(self._dst)
            self._loop.add_reader(self._src, self._readable)

    def _watch_for_hangup(self) -> None:
        """Notice when a peer that has finished sending goes away, although nothing is sent to it."""
        if not hasattr(select, "epoll"):
            return
        # An epoll set of its own reports only hang-ups here (epoll_ctl(2)); readiness to read would be for ever.
        self._hangup = select.epoll()
        self._hangup.register(self._src, 0)
        self._loop.add_reader(self._hangup.fileno(), self._hung_up)

    def _hung_up(self) -> None:
        self._finish(broken=True)

    def _finish(self, *, broken: bool = False) -> None:
        self.stop()
        self._rest = None
        self._on_end(broken)
