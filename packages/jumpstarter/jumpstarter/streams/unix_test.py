"""Unix streams carry bytes both ways, close cleanly and survive cancellation at any moment."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, fail_after
from anyio.abc import SocketAttribute

from jumpstarter.common.tempfile import TemporarySocket
from jumpstarter.streams.sockets import SocketByteStream
from jumpstarter.streams.unix import connect_unix, create_unix_listener


def pair() -> tuple[SocketByteStream, SocketByteStream]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return SocketByteStream(a), SocketByteStream(b)


async def test_large_payloads_arrive_whole_through_back_pressure() -> None:
    a, b = pair()
    payload = os.urandom(8 << 20)
    received = bytearray()

    async def send() -> None:
        await a.send(payload)
        await a.send_eof()

    with fail_after(10):
        async with a, b, anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            async for chunk in b:
                received += chunk
            await b.send(b"still open")
            assert await a.receive() == b"still open"
    assert received == payload


async def test_a_receive_takes_no_more_than_it_is_told() -> None:
    a, b = pair()
    async with a, b:
        await a.send(b"abcdef")
        assert await b.receive(4) == b"abcd"
        assert await b.receive(4) == b"ef"
        with pytest.raises(ValueError, match="max_bytes"):
            await b.receive(0)


async def test_closing_wakes_a_pending_receive_and_send() -> None:
    a, b = pair()
    outcome: list[str] = []

    async def receive() -> None:
        with pytest.raises(ClosedResourceError):
            await a.receive()
        outcome.append("receive")

    async def send() -> None:
        with pytest.raises(ClosedResourceError):
            await a.send(bytes(8 << 20))
        outcome.append("send")

    with fail_after(5):
        async with b, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await a.aclose()
    assert sorted(outcome) == ["receive", "send"]


async def test_the_end_of_the_peer_is_the_end_of_the_stream_or_a_broken_one() -> None:
    a, b = pair()
    await b.aclose()
    async with a:
        with pytest.raises(EndOfStream):
            await a.receive()
        with pytest.raises(BrokenResourceError) as caught:
            await a.send(b"x")
        assert isinstance(caught.value.__cause__, BrokenPipeError)
    with pytest.raises(ClosedResourceError):
        await a.receive()


async def test_cancelling_a_reader_while_data_arrives_leaves_the_event_loop_quiet() -> None:
    # The test runner turns whatever the event loop would log into a failure.
    for _ in range(20):
        a, b = pair()
        async with a, b, anyio.create_task_group() as tasks:
            tasks.start_soon(a.receive)
            await anyio.wait_all_tasks_blocked()
            await b.send(b"x")
            tasks.cancel_scope.cancel()


async def test_connections_are_queued_until_they_are_accepted() -> None:
    with TemporarySocket() as path, fail_after(5):
        async with await create_unix_listener(path, backlog=1) as listener:
            clients: list[SocketByteStream] = []

            async def connect() -> None:
                clients.append(await connect_unix(path))

            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(connect)
                for _ in range(5):
                    await (await listener.accept()).aclose()
            assert len(clients) == 5
            for client in clients:
                await client.aclose()


async def test_closing_a_listener_wakes_a_pending_accept() -> None:
    with TemporarySocket() as path, fail_after(5):
        listener = await create_unix_listener(path)
        async with anyio.create_task_group() as tasks:

            async def accept() -> None:
                with pytest.raises(ClosedResourceError):
                    await listener.accept()

            tasks.start_soon(accept)
            await anyio.wait_all_tasks_blocked()
            await listener.aclose()


async def test_a_listener_is_private_and_replaces_a_stale_socket_only(tmp_path: Path) -> None:
    with TemporarySocket() as path:
        async with await create_unix_listener(path):
            pass
        async with await create_unix_listener(path) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert listener.extra(SocketAttribute.local_address) == str(path)
    precious = tmp_path / "file"
    precious.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await create_unix_listener(precious)
    assert precious.read_text() == "precious"


async def test_connecting_to_nobody_is_an_os_error() -> None:
    with TemporarySocket() as path, pytest.raises(FileNotFoundError):
        await connect_unix(path)
