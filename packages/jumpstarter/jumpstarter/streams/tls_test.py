"""TLS streams: bytes arrive whole and in order, ends are told from cuts, and strangers are kept out."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from jumpstarter_testbench.requirements import need_module

from jumpstarter.common.direct_tls import SERVER_NAME, client_context, server_context

from .direct import DirectStream
from .pump import PumpAttribute
from .relay import relay
from .sockets import SocketByteStream
from .tls import TLSByteStream

LIMIT = 10


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    need_module("cryptography", "cryptography")
    from jumpstarter.exporter.authority import LeaseAuthority

    authority = LeaseAuthority()
    return (
        server_context(authority.certificate, *authority.exporter()),
        client_context(authority.certificate, *authority.client("someone")),
    )


@asynccontextmanager
async def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> AsyncIterator[tuple[TLSByteStream, TLSByteStream]]:
    """The two ends of a connection: client and server."""
    ends: list[TLSByteStream] = []
    near, far = map(SocketByteStream, socket.socketpair())

    async def accept() -> None:
        ends.append(await TLSByteStream.wrap(far, contexts[0]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(accept)
        client = await TLSByteStream.wrap(near, contexts[1], server_name=SERVER_NAME)
    async with client, ends[0]:
        with anyio.fail_after(LIMIT):
            yield client, ends[0]


async def read_to_end(stream: TLSByteStream | SocketByteStream) -> bytes:
    received = bytearray()
    while True:
        try:
            received += await stream.receive()
        except EndOfStream:
            return bytes(received)


async def test_bytes_arrive_whole_and_in_order_both_ways(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    blocks = [random.randbytes(size) for size in (1, 100, 16384, 16385, 300_000, 3_000_000)]
    everything = b"".join(blocks)

    async def read(stream: TLSByteStream, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            received += await stream.receive(size - len(received))
        return bytes(received)

    async with pair(contexts) as (client, server), anyio.create_task_group() as tasks:

        async def write(stream: TLSByteStream) -> None:
            for block in blocks:
                await stream.send(block)

        tasks.start_soon(write, client)
        tasks.start_soon(write, server)
        assert await read(server, len(everything)) == everything
        assert await read(client, len(everything)) == everything


async def test_a_read_takes_no_more_than_it_is_asked_for(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with pair(contexts) as (client, server):
        await client.send(b"abcdefgh")
        assert [await server.receive(3) for _ in range(3)] == [b"abc", b"def", b"gh"]


async def test_a_cancelled_read_loses_nothing(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with pair(contexts) as (client, server):
        with anyio.move_on_after(0.05) as scope:
            await server.receive()
        assert scope.cancelled_caught
        await client.send(b"later")
        assert await server.receive() == b"later"


async def test_an_end_is_told_from_a_cut(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with pair(contexts) as (client, server):
        await client.send(b"last words")
        await client.aclose()
        assert await server.receive() == b"last words"
        with pytest.raises(EndOfStream):
            await server.receive()
        with pytest.raises(ClosedResourceError):
            await client.send(b"more")
    async with pair(contexts) as (client, server):
        client.abort()
        with pytest.raises(BrokenResourceError):
            await server.receive()


async def test_a_write_that_was_broken_off_breaks_the_stream(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with pair(contexts) as (client, server):
        with anyio.move_on_after(0.1):
            await client.send(bytes(50_000_000))
        await client.aclose()
        with pytest.raises(BrokenResourceError):
            await read_to_end(server)


async def test_garbage_is_an_error(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    near, far = socket.socketpair()
    with near:
        near.send(b"GET / HTTP/1.1\r\nHost: board\r\n\r\n")
        connection = SocketByteStream(far)
        with pytest.raises(ssl.SSLError):
            await TLSByteStream.wrap(connection, contexts[0])
        await connection.aclose()


async def test_neither_side_takes_a_stranger(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    from jumpstarter.exporter.authority import LeaseAuthority

    other = LeaseAuthority()
    stranger = client_context(other.certificate, *other.client("someone"))
    with pytest.raises((ssl.SSLError, BrokenResourceError, BaseExceptionGroup)):
        async with pair((contexts[0], stranger)):
            pass


async def test_a_client_can_not_pose_as_the_exporter(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    from jumpstarter.exporter.authority import LeaseAuthority

    authority = LeaseAuthority()
    impostor = server_context(authority.certificate, *authority.client("someone"))
    client = client_context(authority.certificate, *authority.client("someone else"))
    with pytest.raises((ssl.SSLError, BrokenResourceError, BaseExceptionGroup)):
        async with pair((impostor, client)):
            pass


async def test_chunks_keep_their_edges_over_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with pair(contexts) as (client, server):
        near, far = DirectStream(client), DirectStream(server)
        assert PumpAttribute.socket not in near.extra_attributes
        for chunk in (b"a", b"bc", bytes(100_000)):
            await near.send(chunk)
            assert await far.receive() == chunk
        await near.send_eof()
        with pytest.raises(EndOfStream):
            await far.receive()
        await far.send(b"still open")
        assert await near.receive() == b"still open"


async def test_a_relay_ends_with_either_end_and_passes_on_what_came_before(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair(contexts) as (client, server):
        near, far = map(SocketByteStream, socket.socketpair())
        async with near, far, anyio.create_task_group() as tasks:

            async def forward() -> None:
                await relay(server, far)
                await far.aclose()

            tasks.start_soon(forward)
            await client.send(b"x" * 1_000_000)
            await client.aclose()
            assert len(await read_to_end(near)) == 1_000_000
