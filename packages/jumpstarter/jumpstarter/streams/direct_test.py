"""Streams between peers on one machine: framing, ends, failures and bad input."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, create_task_group, fail_after

from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.streams.common import MemoryStream, create_memory_stream
from jumpstarter.streams.direct import MAX_OBJECT, WHOLE_CHUNK, DirectStream, read_object, write_object
from jumpstarter.streams.sockets import SocketByteStream


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[DirectStream, DirectStream], None]:
    one, other = socket.socketpair()
    a, b = DirectStream(SocketByteStream(one)), DirectStream(SocketByteStream(other))
    with fail_after(20):
        async with a, b:
            yield a, b


@pytest.mark.parametrize("size", [0, 1, 48, 65507, WHOLE_CHUNK])
async def test_a_chunk_keeps_its_edges(size: int) -> None:
    async with connected() as (a, b), create_task_group() as tg:
        tg.start_soon(a.send, b"x" * size)
        assert await b.receive() == b"x" * size
        tg.start_soon(a.send, b"next")
        assert await b.receive() == b"next"


async def test_a_large_chunk_may_come_in_parts_but_whole() -> None:
    payload = bytes(range(256)) * 20_000
    async with connected() as (a, b), create_task_group() as tg:

        async def send() -> None:
            await a.send(payload)
            await a.send(b"small")
            await a.send_eof()

        tg.start_soon(send)
        received = [chunk async for chunk in b]
    assert b"".join(received[:-1]) == payload
    assert received[-1] == b"small"


async def test_many_small_chunks_stay_apart() -> None:
    async with connected() as (a, b), create_task_group() as tg:

        async def send() -> None:
            for number in range(5000):
                await a.send(b"%d" % number)
            await a.send_eof()

        tg.start_soon(send)
        assert [chunk async for chunk in b] == [b"%d" % number for number in range(5000)]


async def test_each_direction_ends_by_itself() -> None:
    async with connected() as (a, b):
        await a.send_eof()
        with pytest.raises(EndOfStream):
            await b.receive()
        with pytest.raises(EndOfStream):
            await b.receive()
        with pytest.raises(ClosedResourceError):
            await a.send(b"more")
        await b.send(b"answer")
        assert await a.receive() == b"answer"


async def test_closing_is_an_end_and_dying_is_not() -> None:
    async with connected() as (a, b):
        await a.send(b"last")
        await a.aclose()
        assert await b.receive() == b"last"
        with pytest.raises(EndOfStream):
            await b.receive()
    async with connected() as (a, b):
        await a.send(b"some")
        await a._connection.aclose()
        assert await b.receive() == b"some"
        with pytest.raises(BrokenResourceError, match="without finishing"):
            await b.receive()


async def test_an_abort_is_no_end() -> None:
    async with connected() as (a, b):
        a.abort()
        await a.aclose()
        with pytest.raises(BrokenResourceError):
            await b.receive()


async def test_a_failure_tells_its_reason() -> None:
    async with connected() as (a, b):
        await a.fail("the disk is full")
        with pytest.raises(BrokenResourceError, match="the disk is full"):
            await b.receive()


async def test_dying_in_the_middle_of_a_chunk_is_noticed() -> None:
    one, other = socket.socketpair()
    one.sendall(struct.pack(">I", 1 << 20) + b"only this")
    one.close()
    async with DirectStream(SocketByteStream(other)) as stream:
        assert await stream.receive() == b"only this"
        with pytest.raises(BrokenResourceError, match="in the middle"):
            await stream.receive()


async def test_a_length_that_is_absurd_is_refused() -> None:
    one, other = socket.socketpair()
    one.sendall(struct.pack(">I", 0x7FFFFFFF))
    with one:
        async with DirectStream(SocketByteStream(other)) as stream:
            with pytest.raises(BrokenResourceError, match="announced a chunk"):
                await stream.receive()


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">I", MAX_OBJECT + 1),
        struct.pack(">I", 3) + b"not",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 9) + b"{",
        b"",
    ],
    ids=["too long", "no JSON", "no object", "cut short", "nothing"],
)
async def test_an_object_that_is_malformed_is_refused(sent: bytes) -> None:
    one, other = socket.socketpair()
    one.sendall(sent)
    one.close()
    async with SocketByteStream(other) as connection:
        with pytest.raises(BrokenResourceError):
            await read_object(connection)


async def test_reading_an_object_takes_nothing_beyond_it() -> None:
    one, other = socket.socketpair()
    async with SocketByteStream(one) as a, SocketByteStream(other) as b:
        await write_object(a, {"key": ["value"]})
        await a.send(b"rest")
        assert await read_object(b) == {"key": ["value"]}
        assert await b.receive() == b"rest"


class Silent(Driver):
    """A driver whose stream never says or ends anything, like an idle serial port."""

    ended = False

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[MemoryStream, None]:
        near, far = create_memory_stream()
        try:
            yield near
        finally:
            type(self).ended = True
            await far.aclose()

    @export
    def has_ended(self) -> bool:
        return self.ended


def test_leaving_a_stream_ends_it_at_the_driver_as_well() -> None:
    import time

    Silent.ended = False
    with serve(Silent()) as client:
        with client.stream() as stream:
            stream.send(b"x")
        deadline = time.monotonic() + 5
        while not client.call("has_ended"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
