"""Two callers with tokens of one stream are joined, and each learns in time when there is nothing more to come."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from jumpstarter_protocol import router_pb2

from jumpstarter_controller.clock import SystemClock
from jumpstarter_controller.identity.keys import StreamKeys
from jumpstarter_controller.identity.streams import StreamTokens

from .conftest import PATIENCE, Serve, until
from .relay import END_KEY
from .service import METHOD, Limits

GOAWAY = router_pb2.StreamRequest(frame_type=router_pb2.FRAME_TYPE_GOAWAY).SerializeToString()


async def soon(awaitable: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def ending(call: grpc.aio.StreamStreamCall) -> tuple[grpc.StatusCode, str]:
    """Return status and reason of the end, which has to be near, after reading what is left."""
    async with asyncio.timeout(PATIENCE):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await call.code(), dict(await call.trailing_metadata() or ()).get(END_KEY, "")


def reason(metadata: Any) -> str:
    """Return the reason in the error details of trailing metadata."""
    info = ErrorInfo()
    Status.FromString(dict(metadata)["grpc-status-details-bin"]).details[0].Unpack(info)
    return info.reason


async def waiting(relay: Any, count: int) -> None:
    await until(lambda: relay.counters().waiting == count)


# -- who is let in ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", "token"),), "TOKEN_MALFORMED"),
        ((("authorization", "Basic dXNlcg=="),), "TOKEN_MALFORMED"),
        ((("authorization", "Bearer "),), "TOKEN_MALFORMED"),
        ((("authorization", "Bearer a"), ("authorization", "Bearer b")), "TOKEN_MALFORMED"),
        ((("authorization", "Bearer not.a.token"),), "STREAM_TOKEN_INVALID"),
    ],
    ids=["missing", "no scheme", "other scheme", "empty", "twice", "no JWT"],
)
async def test_X01_caller_without_a_proper_token_is_unauthenticated(serve: Serve, metadata: Any, expected: str) -> None:
    async with serve() as router, router.certificate.channel(router.address) as channel:
        call = channel.stream_stream(METHOD)(metadata=metadata)
        assert await soon(call.code()) == grpc.StatusCode.UNAUTHENTICATED
        assert reason(await call.trailing_metadata()) == expected
        relay = router.relay
        assert relay.counters().waiting == 0


async def test_X01_token_of_another_controller_is_refused_and_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = StreamTokens(StreamKeys([b"f" * 32]), SystemClock()).issue("s")
    with caplog.at_level(logging.DEBUG):
        async with serve() as router:
            call = await router.call(foreign)
            assert await soon(call.code()) == grpc.StatusCode.UNAUTHENTICATED
            assert "invalid jwt token" in await call.details()
    logged = [record for record in caplog.records if "router authentication failed" in record.getMessage()]
    assert len(logged) == 1
    assert "127.0.0.1" in logged[0].getMessage()
    assert foreign not in caplog.text


async def test_tokens_of_published_controllers_without_a_side_are_joined(serve: Serve, tokens: StreamTokens) -> None:
    token = tokens.issue("s")
    async with serve() as router:
        one, other = await router.call(token), await router.call(token)
        await soon(one.write(b"a"))
        await soon(other.write(b"b"))
        assert (await soon(other.read()), await soon(one.read())) == (b"a", b"b")


async def test_third_caller_with_a_used_token_is_refused_and_the_stream_goes_on(
    serve: Serve, tokens: StreamTokens
) -> None:
    async with serve() as router:
        client, exporter = await router.pair(tokens)
        for third in (tokens.issue("s", side="client"), tokens.issue("s")):
            call = await router.call(third)
            assert await soon(call.code()) == grpc.StatusCode.UNAUTHENTICATED
            assert reason(await call.trailing_metadata()) == "STREAM_TOKEN_USED"
        await soon(exporter.write(b"still there"))
        assert await soon(client.read()) == b"still there"


async def test_callers_of_one_side_are_never_joined_and_the_newest_waits(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        relay = router.relay
        former = await router.call(tokens.issue("s", side="client"))
        await waiting(relay, 1)
        newest = await router.call(tokens.issue("s", side="client"))
        assert await ending(former) == (grpc.StatusCode.OK, "superseded")
        exporter = await router.call(tokens.issue("s", side="exporter"))
        await soon(exporter.write(b"x"))
        assert await soon(newest.read()) == b"x"


async def test_streams_are_not_mixed_up(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        pairs = [await router.pair(tokens, f"s{number}") for number in range(20)]
        for number, (client, _) in enumerate(pairs):
            await soon(client.write(b"%d" % number))
        for number, (_, exporter) in enumerate(pairs):
            assert await soon(exporter.read()) == b"%d" % number


# -- waiting ---------------------------------------------------------------------------------------


async def test_X05_lonely_caller_is_sent_home_and_forgotten(serve: Serve, tokens: StreamTokens) -> None:
    async with serve(Limits(wait=0.2)) as router:
        relay = router.relay
        call = await router.call(tokens.issue("s", side="client"))
        assert await ending(call) == (grpc.StatusCode.OK, "no-peer")
        assert relay.counters().waiting == 0
        assert relay.counters().ended_total == {"no-peer": 1}


async def test_token_of_a_caller_who_left_before_being_joined_is_still_good(serve: Serve, tokens: StreamTokens) -> None:
    token = tokens.issue("s", side="client")
    async with serve() as router:
        relay = router.relay
        call = await router.call(token)
        await waiting(relay, 1)
        call.cancel()
        await waiting(relay, 0)
        again = await router.call(token)
        exporter = await router.call(tokens.issue("s", side="exporter"))
        await soon(again.write(b"x"))
        assert await soon(exporter.read()) == b"x"


@pytest.mark.parametrize(
    "limits", [Limits(waiting=2), Limits(waiting_per_lease=2)], ids=["of the router", "of the lease"]
)
async def test_waiting_callers_are_limited(serve: Serve, tokens: StreamTokens, limits: Limits) -> None:
    async with serve(limits) as router:
        relay = router.relay
        for number in range(2):
            await router.call(tokens.issue(f"s{number}", side="client", lease="l"))
            await waiting(relay, number + 1)
        call = await router.call(tokens.issue("s2", side="client", lease="l"))
        assert await soon(call.code()) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(await call.trailing_metadata()) == "TOO_MANY_WAITING"
        # The other end of one who waits is no further one.
        exporter = await router.call(tokens.issue("s0", side="exporter", lease="l"))
        await waiting(relay, 1)
        exporter.cancel()


# -- how streams end -------------------------------------------------------------------------------


async def test_X03_half_close_ends_one_direction_only(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        client, exporter = await router.pair(tokens)
        await soon(client.write(GOAWAY))
        await soon(client.done_writing())
        assert await soon(exporter.read()) == GOAWAY
        for number in range(10):
            await soon(exporter.write(b"%d" % number))
            assert await soon(client.read()) == b"%d" % number
        await soon(exporter.write(GOAWAY))
        await soon(exporter.done_writing())
        assert await soon(client.read()) == GOAWAY
        assert await ending(client) == (grpc.StatusCode.OK, "")
        assert await ending(exporter) == (grpc.StatusCode.OK, "")


async def test_X04_when_one_caller_goes_away_the_idle_other_one_ends_well(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        client, exporter = await router.pair(tokens)
        exporter.cancel()
        assert await ending(client) == (grpc.StatusCode.OK, "peer-lost")


async def test_X04_what_was_relayed_before_a_loss_arrives_before_the_end(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        relay = router.relay
        client, exporter = await router.pair(tokens)
        before = relay.counters().bytes_total
        for number in range(50):
            await soon(exporter.write(b"%02d" % number))
        await until(lambda: relay.counters().bytes_total >= before + 100)
        exporter.cancel()
        received = []
        while (frame := await soon(client.read())) is not grpc.aio.EOF:
            received.append(frame)
        assert received == [b"%02d" % number for number in range(50)]
        assert await ending(client) == (grpc.StatusCode.OK, "peer-lost")


async def test_X06_streams_of_a_lease_are_cut_at_once_and_others_go_on(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        relay = router.relay
        ended = await router.pair(tokens, "1", lease="ended", client="a")
        other = await router.pair(tokens, "2", lease="other", client="a")
        assert relay.cut_lease("ended") == 2
        for call in ended:
            assert await ending(call) == (grpc.StatusCode.OK, "cut")
        late = await router.call(tokens.issue("1", side="client", lease="ended"))
        assert await soon(late.code()) == grpc.StatusCode.UNAUTHENTICATED
        assert reason(await late.trailing_metadata()) == "STREAM_CUT"
        await soon(other[0].write(b"x"))
        assert await soon(other[1].read()) == b"x"


async def test_X06_streams_of_a_former_owner_are_cut_and_those_of_the_new_one_stay(
    serve: Serve, tokens: StreamTokens
) -> None:
    async with serve() as router:
        relay = router.relay
        former = await router.pair(tokens, "1", lease="l", client="a")
        present = await router.pair(tokens, "2", lease="l", client="b")
        relay.cut_lease("l", client="a")
        for call in former:
            assert await ending(call) == (grpc.StatusCode.OK, "cut")
        await soon(present[0].write(b"x"))
        assert await soon(present[1].read()) == b"x"


async def test_X06_a_stream_is_cut_before_anybody_came_for_it_and_while_one_waits(
    serve: Serve, tokens: StreamTokens
) -> None:
    async with serve() as router:
        relay = router.relay
        relay.cut(["future"])
        call = await router.call(tokens.issue("future", side="client"))
        assert await soon(call.code()) == grpc.StatusCode.UNAUTHENTICATED
        lonely = await router.call(tokens.issue("s", side="client"))
        await waiting(relay, 1)
        assert relay.cut(["s"]) == 1
        assert await ending(lonely) == (grpc.StatusCode.OK, "cut")


async def test_X06_a_caller_who_does_not_read_can_be_cut(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        relay = router.relay
        client, _exporter = await router.pair(tokens, lease="l")

        async def pour() -> None:
            while True:
                await client.write(bytes(1 << 18))

        pouring = asyncio.create_task(pour())
        try:
            done, _ = await asyncio.wait([pouring], timeout=1)
            assert not done
            relay.cut_lease("l")
            await until(lambda: relay.counters().streams == 0)
            # grpc.aio tells the writer of a call that has ended well of an internal error.
            await asyncio.wait([pouring], timeout=PATIENCE)
            assert pouring.done()
            assert relay.counters().ended_total == {"cut": 2}
        finally:
            pouring.cancel()
            await asyncio.gather(pouring, return_exceptions=True)


async def test_stopping_router_takes_no_new_streams_and_lets_open_ones_end(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        relay = router.relay
        client, exporter = await router.pair(tokens)
        stopping = asyncio.create_task(relay.stop(PATIENCE))
        await until(lambda: relay.draining)
        refused = await router.call(tokens.issue("new", side="client"))
        assert await soon(refused.code()) == grpc.StatusCode.UNAVAILABLE
        assert reason(await refused.trailing_metadata()) == "ROUTER_STOPPING"
        await soon(client.write(b"still"))
        assert await soon(exporter.read()) == b"still"
        assert not stopping.done()
        await soon(client.done_writing())
        await soon(exporter.done_writing())
        assert await ending(client) == (grpc.StatusCode.OK, "")
        await soon(stopping)


async def test_stop_joins_who_waits_already_and_ends_all_in_time(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        relay = router.relay
        early = await router.call(tokens.issue("s", side="client"))
        lonely = await router.call(tokens.issue("t", side="client"))
        await waiting(relay, 2)
        stopping = asyncio.create_task(relay.stop(1.0))
        exporter = await router.call(tokens.issue("s", side="exporter"))
        await soon(exporter.write(b"x"))
        assert await soon(early.read()) == b"x"
        await soon(stopping)
        for call in (early, exporter, lonely):
            assert await ending(call) == (grpc.StatusCode.OK, "router-stopped")


# -- what is relayed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [b"", b"\xff\xff\xff", b"\x00" * 5, bytes(range(256))], ids=repr)
async def test_frames_that_are_no_messages_arrive_unchanged(serve: Serve, tokens: StreamTokens, frame: bytes) -> None:
    async with serve() as router:
        client, exporter = await router.pair(tokens)
        await soon(client.write(frame))
        assert await soon(exporter.read()) == frame


async def test_unknown_frame_types_and_fields_arrive_unchanged(serve: Serve, tokens: StreamTokens) -> None:
    frame = b"\x0a\x01x\x10\x63\x1a\x03new"  # payload x, frame type 99, and a field that nobody knows
    async with serve() as router:
        client, exporter = await router.pair(tokens)
        await soon(exporter.write(frame))
        assert await soon(client.read()) == frame


async def test_oversized_message_ends_its_stream_and_no_other(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        client, exporter = await router.pair(tokens, "1")
        other = await router.pair(tokens, "2")
        largest = bytes(4 << 20)
        await soon(other[0].write(largest[:-1024]))
        await soon(client.write(largest + b"x"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await soon(client.read())
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await ending(exporter) == (grpc.StatusCode.OK, "peer-lost")
        await soon(other[1].write(b"x"))
        assert await soon(other[0].read()) == b"x"


async def test_message_that_unpacks_to_an_oversized_one_ends_its_stream(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router, router.certificate.channel(router.address) as channel:
        metadata = (("authorization", f"Bearer {tokens.issue('s', side='client')}"),)
        bomb = channel.stream_stream(METHOD)(metadata=metadata, compression=grpc.Compression.Gzip)
        exporter = await router.call(tokens.issue("s", side="exporter"))
        await soon(bomb.write(b"x" * 1000))
        assert await soon(exporter.read()) == b"x" * 1000
        await soon(bomb.write(bytes(64 << 20)))
        assert await soon(bomb.code()) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await ending(exporter) == (grpc.StatusCode.OK, "peer-lost")


async def test_counters_tell_streams_and_bytes_of_each_side(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        relay = router.relay
        client, exporter = await router.pair(tokens)
        await soon(exporter.write(b"x" * 100))
        assert len(await soon(client.read())) == 100
        counters = relay.counters()
        assert (counters.streams, counters.streams_total, counters.waiting) == (1, 1, 0)
        assert counters.bytes_by_side == {"client": len(b"hello"), "exporter": 100}
        await soon(client.done_writing())
        await soon(exporter.done_writing())
        await ending(client)
        await ending(exporter)
        after = relay.counters()
        assert (after.streams, after.streams_total, after.bytes_total) == (0, 1, 105)
