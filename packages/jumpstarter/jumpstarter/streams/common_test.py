"""Copying and forwarding between streams, and the stream pair in memory."""

from __future__ import annotations

import pytest
from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
    connect_tcp,
    create_task_group,
    create_tcp_listener,
    fail_after,
    move_on_after,
    wait_all_tasks_blocked,
)
from anyio.abc import SocketAttribute, SocketStream

from jumpstarter.streams.common import MemoryStream, copy_stream, create_memory_stream, forward_stream


class Breaking(MemoryStream):
    """A stream whose reading side breaks when asked."""

    def __init__(self) -> None:
        one, other = create_memory_stream()
        super().__init__(one._incoming, one._outgoing)
        self.far = other
        self.broken = False

    async def receive(self) -> bytes:
        item = await super().receive()
        if item == b"break":
            raise BrokenResourceError
        return item


async def test_chunks_arrive_in_order_and_keep_their_edges() -> None:
    a, b = create_memory_stream()

    await a.send(b"one")
    await a.send(b"")
    await a.send(b"two")
    await a.send_eof()

    assert [chunk async for chunk in b] == [b"one", b"", b"two"]


async def test_each_direction_ends_by_itself() -> None:
    a, b = create_memory_stream()

    await a.send_eof()
    with pytest.raises(EndOfStream):
        await b.receive()
    await b.send(b"still open")

    assert await a.receive() == b"still open"


async def test_a_sender_waits_when_too_many_bytes_are_unread() -> None:
    a, b = create_memory_stream(limit=100)
    await a.send(b"x" * 80)

    with move_on_after(0.05) as scope:
        await a.send(b"x" * 80)
    assert scope.cancelled_caught

    async with create_task_group() as tg:
        tg.start_soon(a.send, b"y" * 80)
        await wait_all_tasks_blocked()
        assert await b.receive() == b"x" * 80
        with fail_after(1):
            assert await b.receive() == b"y" * 80


async def test_a_chunk_beyond_the_limit_passes_an_empty_pipe() -> None:
    a, b = create_memory_stream(limit=10)
    with fail_after(1):
        await a.send(b"x" * 1000)
    assert len(await b.receive()) == 1000


async def test_empty_chunks_count_against_the_limit() -> None:
    a, _ = create_memory_stream(limit=10)
    with move_on_after(0.05) as scope:
        for _unused in range(100):
            await a.send(b"")
    assert scope.cancelled_caught


async def test_a_closed_end_refuses_its_owner_and_breaks_for_its_peer() -> None:
    a, b = create_memory_stream()
    await a.send(b"last")
    await a.aclose()

    assert await b.receive() == b"last"
    with pytest.raises(EndOfStream):
        await b.receive()
    with pytest.raises(BrokenResourceError):
        await b.send(b"x")
    with pytest.raises(ClosedResourceError):
        await a.send(b"x")
    with pytest.raises(ClosedResourceError):
        await a.receive()


async def test_closing_wakes_a_waiting_sender_and_receiver() -> None:
    a, b = create_memory_stream(limit=1)
    await a.send(b"x")

    async def blocked_sender() -> None:
        with pytest.raises(BrokenResourceError):
            await a.send(b"y")

    async def blocked_receiver() -> None:
        with pytest.raises(EndOfStream):
            await a.receive()

    with fail_after(1):
        async with create_task_group() as tg:
            tg.start_soon(blocked_sender)
            tg.start_soon(blocked_receiver)
            await wait_all_tasks_blocked()
            await b.aclose()


async def test_copying_passes_the_end_on() -> None:
    source, feed = create_memory_stream()
    sink, far = create_memory_stream()
    await feed.send(b"data")
    await feed.send_eof()

    await copy_stream(sink, source)

    assert [chunk async for chunk in far] == [b"data"]


async def test_copying_ends_quietly_when_either_side_is_gone() -> None:
    source, feed = create_memory_stream()
    sink, far = create_memory_stream()
    await far.aclose()
    await feed.send(b"data")
    with fail_after(1):
        await copy_stream(sink, source)

    breaking = Breaking()
    await breaking.far.send(b"break")
    with fail_after(1):
        await copy_stream(create_memory_stream()[0], breaking)


async def test_forwarding_keeps_half_closed_connections_working() -> None:
    near, a = create_memory_stream()
    b, far = create_memory_stream()
    with fail_after(2):
        async with forward_stream(a, b):
            await near.send(b"request")
            await near.send_eof()
            assert [chunk async for chunk in far] == [b"request"]
            await far.send(b"answer")
            await far.send_eof()
            assert [chunk async for chunk in near] == [b"answer"]


async def test_leaving_by_an_exception_cancels_and_raises_that_exception() -> None:
    near, a = create_memory_stream()
    b, far = create_memory_stream()
    with fail_after(2), pytest.raises(LookupError, match="mine"):
        async with forward_stream(a, b):
            raise LookupError("mine")
    with pytest.raises(EndOfStream):
        await far.receive()
    with pytest.raises(BrokenResourceError):
        await near.send(b"x")


async def test_a_broken_source_ends_both_directions() -> None:
    breaking = Breaking()
    b, far = create_memory_stream()
    with fail_after(2):
        async with forward_stream(breaking, b):
            await breaking.far.send(b"break")
    with pytest.raises(EndOfStream):
        await far.receive()


async def test_sockets_are_forwarded_byte_for_byte() -> None:
    payload = bytes(range(256)) * 4096 * 4

    async def answer(stream: SocketStream) -> None:
        async with stream:
            received = b"".join([chunk async for chunk in stream])
            await stream.send(received[::-1])

    async with await create_tcp_listener(local_host="127.0.0.1") as listener, create_task_group() as tg:
        tg.start_soon(listener.serve, answer)
        port = listener.listeners[0].extra(SocketAttribute.local_port)
        near, a = create_memory_stream()
        with fail_after(20):
            async with forward_stream(a, await connect_tcp("127.0.0.1", port)):

                async def feed() -> None:
                    for start in range(0, len(payload), 300_000):
                        await near.send(payload[start : start + 300_000])
                    await near.send_eof()

                tg.start_soon(feed)
                received = b"".join([chunk async for chunk in near])
        assert received == payload[::-1]
        tg.cancel_scope.cancel()


async def test_a_memory_stream_that_is_broken_off_lets_the_other_end_read_what_came_before():
    near, far = create_memory_stream()
    await near.send(b"half")

    near.break_off()

    assert await far.receive() == b"half"
    with pytest.raises(BrokenResourceError):
        await far.receive()


async def test_breaking_off_after_the_end_was_sent_changes_nothing():
    near, far = create_memory_stream()
    await near.send(b"all")
    await near.send_eof()

    near.break_off()

    assert await far.receive() == b"all"
    with pytest.raises(EndOfStream):
        await far.receive()


class Abortable:
    """A stream that records whether it was aborted."""

    def __init__(self, stream):
        self.stream = stream
        self.aborted = False

    def __getattr__(self, name):
        return getattr(self.stream, name)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.stream.aclose()

    def abort(self):
        self.aborted = True
        self.stream.break_off()


async def test_a_source_that_breaks_aborts_its_destination():
    source, source_end = create_memory_stream()
    middle, sink = create_memory_stream()
    destination = Abortable(middle)
    async with forward_stream(source, destination):
        await source_end.send(b"half")
        assert await sink.receive() == b"half"
        source_end.break_off()
        with pytest.raises(BrokenResourceError):
            await sink.receive()
    assert destination.aborted


async def test_leaving_by_an_exception_aborts():
    near, _near_end = create_memory_stream()
    middle, _far_end = create_memory_stream()
    stream = Abortable(middle)
    with pytest.raises(KeyError):
        async with forward_stream(near, stream):
            raise KeyError
    assert stream.aborted


async def test_an_end_that_both_sides_agree_on_aborts_nothing():
    near, near_end = create_memory_stream()
    middle, far_end = create_memory_stream()
    stream = Abortable(middle)
    async with forward_stream(near, stream):
        await near_end.send_eof()
        await far_end.send_eof()
    assert not stream.aborted


async def test_what_is_there_is_received_without_waiting():
    near, far = create_memory_stream()
    with pytest.raises(WouldBlock):
        near.receive_nowait()
    await far.send(b"one")
    await far.send(b"two")
    assert near.receive_nowait() == b"one"
    assert await near.receive() == b"two"
    await far.aclose()
    with pytest.raises(WouldBlock):
        near.receive_nowait()
