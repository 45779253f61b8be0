"""Byte streams in router frames, over a real gRPC call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, fail_after, move_on_after, sleep_forever
from jumpstarter_protocol import router_pb2, router_pb2_grpc

from jumpstarter.common.tempfile import TemporaryUnixListener
from jumpstarter.streams.router import MAX_PAYLOAD, RouterStream

Handler = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def call(tmp_path: Path, handler: Handler, *, graceful: bool = False) -> AsyncGenerator[RouterStream, None]:
    """Yield the calling side of a stream whose serving side `handler` holds."""

    class Servicer(router_pb2_grpc.RouterServiceServicer):
        async def Stream(self, _: Any, context: Any) -> None:
            await handler(context)

    server = grpc.aio.server()
    router_pb2_grpc.add_RouterServiceServicer_to_server(Servicer(), server)
    address = f"unix://{tmp_path}/s"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            context = router_pb2_grpc.RouterServiceStub(channel).Stream()
            with fail_after(10):
                yield RouterStream(context=context, graceful=graceful)
    finally:
        await server.stop(None)


async def echo(context: Any) -> None:
    async with RouterStream(context=context) as stream:
        async for chunk in stream:
            await stream.send(chunk)
        await stream.send_eof()


@pytest.mark.parametrize("size", [0, 1, 48, 65536, MAX_PAYLOAD])
async def test_a_chunk_keeps_its_edges(tmp_path: Path, size: int) -> None:
    async with call(tmp_path, echo) as stream:
        await stream.send(b"x" * size)
        assert await stream.receive() == b"x" * size


async def test_a_chunk_beyond_the_message_limit_travels_in_pieces(tmp_path: Path) -> None:
    payload = bytes(range(256)) * 40000
    assert len(payload) > 4 << 20
    sizes: list[int] = []

    async def sink(context: Any) -> None:
        async for chunk in RouterStream(context=context):
            sizes.append(len(chunk))
        await RouterStream(context=context).send(b"done")

    async with call(tmp_path, sink) as stream:
        await stream.send(payload)
        await stream.send_eof()
        assert await stream.receive() == b"done"
    assert sum(sizes) == len(payload)
    assert max(sizes) <= MAX_PAYLOAD


async def test_both_ends_may_finish_sending_first(tmp_path: Path) -> None:
    async with call(tmp_path, echo) as stream:
        await stream.send(b"last")
        await stream.send_eof()
        assert [chunk async for chunk in stream] == [b"last"]
        with pytest.raises(EndOfStream):
            await stream.receive()
        with pytest.raises(ClosedResourceError):
            await stream.send(b"more")


async def test_pings_and_unknown_frames_are_no_data(tmp_path: Path) -> None:
    async def chatter(context: Any) -> None:
        await context.write(router_pb2.StreamResponse(frame_type=router_pb2.FRAME_TYPE_PING))
        await context.write(router_pb2.StreamResponse(payload=b"?", frame_type=99))  # type: ignore[arg-type]
        await context.write(router_pb2.StreamResponse(payload=b"data"))

    async with call(tmp_path, chatter) as stream:
        assert await stream.receive() == b"data"
        with pytest.raises(EndOfStream):
            await stream.receive()


async def test_a_reset_tells_its_reason(tmp_path: Path) -> None:
    async def reset(context: Any) -> None:
        await context.write(
            router_pb2.StreamResponse(payload=b"unplugged", frame_type=router_pb2.FRAME_TYPE_RST_STREAM)
        )

    async with call(tmp_path, reset) as stream:
        with pytest.raises(BrokenResourceError, match="unplugged"):
            await stream.receive()


async def test_the_status_of_a_failed_call_is_in_the_error(tmp_path: Path) -> None:
    async def fail(context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")

    async with call(tmp_path, fail) as stream:
        with pytest.raises(BrokenResourceError, match="PERMISSION_DENIED: not yours"):
            await stream.receive()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (None, "the other end has closed it; open it again"),
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: unplugged; open it again"),
        (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED: unplugged$"),
    ],
    ids=str,
)
async def test_the_end_of_a_call_is_told_by_every_later_use_of_the_stream(
    tmp_path: Path, status: grpc.StatusCode | None, told: str
) -> None:
    async def end(context: Any) -> None:
        if status is not None:
            await context.abort(status, "unplugged")

    async with call(tmp_path, end) as stream:
        await stream.context.code()
        for _ in range(2):
            with pytest.raises(BrokenResourceError, match=told):
                await stream.send(b"x")


async def test_closing_waits_until_everything_has_arrived(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def slow_sink(context: Any) -> None:
        stream = RouterStream(context=context)
        try:
            while True:
                received.append(await stream.receive())
        except BrokenResourceError:
            await stream.send_eof()

    async with call(tmp_path, slow_sink, graceful=True) as stream:
        for _ in range(20):
            await stream.send(b"x" * MAX_PAYLOAD)
        await stream.aclose()
        assert sum(map(len, received)) == 20 * MAX_PAYLOAD
        assert await stream.context.code() is grpc.StatusCode.OK


def test_anything_but_a_call_is_refused() -> None:
    with pytest.raises(ValueError, match="not a stream call"):
        RouterStream(context=object())


async def test_a_time_limit_on_receiving_works_before_the_other_end_has_answered() -> None:
    async def silence(_: Any) -> None:
        await sleep_forever()

    async with (
        TemporaryUnixListener(silence) as path,
        grpc.aio.insecure_channel(f"unix://{path}") as channel,
    ):
        stream = RouterStream(context=router_pb2_grpc.RouterServiceStub(channel).Stream(wait_for_ready=True))
        with pytest.raises(TimeoutError), fail_after(0.05):
            await stream.receive()


async def test_a_cancelled_receive_loses_neither_the_call_nor_a_chunk(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def sink(context: Any) -> None:
        stream = RouterStream(context=context)
        try:
            while True:
                received.append(await stream.receive())
                if len(received) == 1:
                    await stream.send(b"answer")
        except BrokenResourceError:
            pass

    async with call(tmp_path, sink, graceful=True) as stream:
        with move_on_after(0.05):
            await stream.receive()
        for _ in range(10):
            await stream.send(b"x" * MAX_PAYLOAD)
        assert await stream.receive() == b"answer"
        with move_on_after(0.05):
            await stream.receive()
        await stream.aclose()
    assert sum(map(len, received)) == 10 * MAX_PAYLOAD


async def test_waiting_until_all_is_taken_lets_a_slow_reader_have_everything(tmp_path: Path) -> None:
    received: list[int] = []

    async def slow(context: Any) -> None:
        async with RouterStream(context=context) as stream:
            await stream.send_eof()
            with move_on_after(0.3):
                await sleep_forever()
            received.extend([len(chunk) async for chunk in stream])

    async with call(tmp_path, slow) as stream:
        for _ in range(20):
            await stream.send(b"x" * 1000)
        await stream.send_eof()
        with pytest.raises(EndOfStream):
            await stream.receive()
        await stream.wait_taken()
        stream.abort()
    assert received == [1000] * 20


async def test_waiting_until_all_is_taken_is_bounded(tmp_path: Path) -> None:
    async def stuck(context: Any) -> None:
        await RouterStream(context=context).send_eof()
        await sleep_forever()

    async with call(tmp_path, stuck) as stream:
        await stream.send_eof()
        with pytest.raises(EndOfStream):
            await stream.receive()
        await stream.wait_taken(timeout=0.1)
