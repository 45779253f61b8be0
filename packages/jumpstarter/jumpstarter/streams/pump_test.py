"""Moving bytes between two sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from anyio import create_task_group, fail_after, to_thread

from jumpstarter.streams.pump import pump

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
def pairs(request: pytest.FixtureRequest) -> Iterator[tuple[Pair, Pair]]:
    """Two connected pairs: the far ends for the test, the near ends for the pump."""

    def pair() -> Pair:
        if request.param == socket.AF_UNIX:
            return socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            return one, server.accept()[0]

    made = (pair(), pair())
    for far, near in made:
        far.settimeout(10)
        near.setblocking(False)
    yield made
    for far, near in made:
        far.close()
        near.close()


async def test_bytes_pass_both_ways_and_so_do_the_ends(pairs: tuple[Pair, Pair]) -> None:
    (left, a), (right, b) = pairs
    payload = bytes(range(256)) * 40_000

    def send() -> None:
        left.sendall(payload)
        left.shutdown(socket.SHUT_WR)

    def receive_and_answer() -> bytes:
        received = b"".join(iter(lambda: right.recv(65536), b""))
        right.sendall(b"answer")
        right.shutdown(socket.SHUT_WR)
        return received

    with fail_after(20):
        async with create_task_group() as tg:
            tg.start_soon(pump, a, b)
            tg.start_soon(to_thread.run_sync, send)
            assert await to_thread.run_sync(receive_and_answer) == payload
            assert await to_thread.run_sync(left.recv, 100) == b"answer"


async def test_a_reader_that_is_slow_holds_the_writer_up(pairs: tuple[Pair, Pair]) -> None:
    (left, a), (right, b) = pairs
    sent = 0

    def flood() -> None:
        nonlocal sent
        left.settimeout(0.5)
        try:
            while True:
                sent += left.send(b"x" * 65536)
        except TimeoutError:
            return

    with fail_after(20):
        async with create_task_group() as tg:
            tg.start_soon(pump, a, b)
            await to_thread.run_sync(flood)
            stuck = sent
            left.shutdown(socket.SHUT_WR)

            def drain() -> int:
                return sum(len(chunk) for chunk in iter(lambda: right.recv(1 << 20), b""))

            assert await to_thread.run_sync(drain) == stuck
            right.close()
    assert stuck < 64 << 20


async def test_a_peer_that_goes_away_after_finishing_ends_both_directions() -> None:
    left, a = socket.socketpair()
    right, b = socket.socketpair()
    with left, a, right, b:
        a.setblocking(False)
        b.setblocking(False)
        with fail_after(10):
            async with create_task_group() as tg:
                tg.start_soon(pump, a, b)
                left.shutdown(socket.SHUT_WR)
                right.settimeout(5)
                assert await to_thread.run_sync(right.recv, 1) == b""
                # The other end says nothing and stays, as a serial port does.
                left.close()


async def test_cancelling_leaves_the_sockets_to_their_owner() -> None:
    left, a = socket.socketpair()
    right, b = socket.socketpair()
    with left, a, right, b:
        a.setblocking(False)
        b.setblocking(False)
        async with create_task_group() as tg:
            tg.start_soon(pump, a, b)
            await to_thread.run_sync(left.sendall, b"one")
            right.settimeout(5)
            assert await to_thread.run_sync(right.recv, 10) == b"one"
            tg.cancel_scope.cancel()
        left.sendall(b"two")
        assert a.recv(10) == b"two"
    assert threading.active_count() < 50
