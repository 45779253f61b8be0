"""What sessions owe to peers of version 0.9 on the wire: frames, ends, sizes, metadata, and tunnels through a router.

The frames are written by hand here, as those peers write them, so that our own client can't make up for the session.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
import pytest
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2, router_pb2_grpc

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.router import RouterChannels
from jumpstarter.common.tempfile import TemporaryUnixListener
from jumpstarter.config.tls import TLSConfigV1Alpha1
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.exporter import Session
from jumpstarter.streams.common import create_memory_stream
from jumpstarter.streams.unix import connect_unix

LIMIT = 20
LARGEST = 4 * 1024 * 1024
"""Bytes of a message that no 0.9 peer takes more of."""

GOAWAY = router_pb2.FRAME_TYPE_GOAWAY
SIZES = [0, 1, 64 * 1024, LARGEST - 100, LARGEST + 1, 20 * 1024 * 1024]


class Wire(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: Any) -> Any:
        return value

    @export
    def large(self, size: float) -> str:
        return "x" * int(size)

    @export
    def count(self, last: float) -> Any:
        yield from range(int(last))

    @export
    async def store(self, handle: Any) -> str:
        async with self.resource(handle) as stream:
            return b"".join([chunk async for chunk in stream]).decode()

    @export
    async def fetch(self, handle: Any) -> None:
        async with self.resource(handle) as stream:
            await stream.send(b"fetched")

    @exportstream
    @asynccontextmanager
    async def loop(self) -> AsyncIterator[Any]:
        mine, theirs = create_memory_stream()
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                async with theirs:
                    async for chunk in theirs:
                        await theirs.send(chunk)

            tasks.start_soon(answer)
            async with mine:
                yield mine
            tasks.cancel_scope.cancel()

    @exportstream
    @asynccontextmanager
    async def pour(self) -> AsyncIterator[Any]:
        """Sends one chunk that is larger than any message may be, then ends."""
        mine, theirs = create_memory_stream()
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                async with theirs:
                    await theirs.send(b"x" * (2 * LARGEST))

            tasks.start_soon(send)
            async with mine:
                yield mine
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def session() -> AsyncIterator[tuple[Session, Any]]:
    with Session(root_device=Wire()) as served:
        async with served.serve_unix_async() as path:
            yield served, path


@asynccontextmanager
async def tunnel(lab: Any, path: Any, *, first: str = "client") -> AsyncIterator[Any]:
    """A path whose connections pass through the router to the session at `path`; either end may come first."""
    tls = TLSConfigV1Alpha1(ca=lab.certificate.ca)
    endpoint = lab.controller.router_endpoint
    number = 0
    async with (
        RouterChannels(tls) as client_side,
        RouterChannels(tls) as exporter_side,
        anyio.create_task_group() as exporter,
    ):

        async def serve(token: str) -> None:
            async with await connect_unix(path) as local, exporter_side.connect(endpoint, token, local):
                pass

        async def waiting(token: str) -> None:
            with anyio.fail_after(LIMIT):
                while f"Bearer {token}" not in lab.router.waiting:  # noqa: ASYNC110 (the router tells nobody)
                    await anyio.sleep(0.005)

        async def dial(local: Any) -> None:
            nonlocal number
            number += 1
            token = f"token-{number}"
            if first == "exporter":
                exporter.start_soon(serve, token)
                await waiting(token)
            async with client_side.connect(endpoint, token, local):
                if first == "client":
                    await waiting(token)
                    exporter.start_soon(serve, token)

        async with TemporaryUnixListener(dial) as tunnelled:
            yield tunnelled
        exporter.cancel_scope.cancel()


def request_of(served: Session, **members: Any) -> Any:
    text = json.dumps({"uuid": str(served.root_device.uuid), **members}, separators=(",", ":"))
    return (("request", text),)


def open_stream(channel: grpc.aio.Channel, served: Session, **members: Any) -> Any:
    return router_pb2_grpc.RouterServiceStub(channel).Stream(
        metadata=request_of(served, **members), wait_for_ready=True
    )


async def read_all(call: Any) -> bytes:
    """Read until the end of the direction, as a 0.9 client does; every message must be one that it takes."""
    received = bytearray()
    with anyio.fail_after(LIMIT):
        while (frame := await call.read()) is not grpc.aio.EOF and frame.frame_type != GOAWAY:
            assert frame.ByteSize() < LARGEST
            received += frame.payload
    return bytes(received)


async def write(call: Any, payload: bytes) -> None:
    for start in range(0, len(payload) or 1, 65536):
        await call.write(router_pb2.StreamRequest(payload=payload[start : start + 65536]))


async def end(call: Any) -> None:
    await call.write(router_pb2.StreamRequest(frame_type=GOAWAY))
    await call.done_writing()


@pytest.fixture(params=["near", "client first", "exporter first"])
async def reached(request: pytest.FixtureRequest, lab: Any) -> AsyncIterator[tuple[Session, grpc.aio.Channel]]:
    """A session and a channel to it: on the same machine, or through the router with either end first."""
    async with session() as (served, path):
        if request.param == "near":
            async with grpc.aio.insecure_channel(f"unix://{path}") as channel:
                yield served, channel
            return
        async with (
            tunnel(lab, path, first=request.param.split()[0]) as tunnelled,
            grpc.aio.insecure_channel(f"unix://{tunnelled}") as channel,
        ):
            yield served, channel


async def test_a_report_calls_and_streamed_calls_pass(reached: Any):
    served, channel = reached
    stub = jumpstarter_pb2_grpc.ExporterServiceStub(channel)
    with anyio.fail_after(LIMIT):
        report = await stub.GetReport(empty_pb2.Empty(), wait_for_ready=True)
        uuid = report.reports[0].uuid
        assert uuid == str(served.root_device.uuid)
        request = jumpstarter_pb2.DriverCallRequest(uuid=uuid, method="echo", args=[{"number_value": 2}])
        assert (await stub.DriverCall(request)).result.number_value == 2
        streamed = stub.StreamingDriverCall(
            jumpstarter_pb2.StreamingDriverCallRequest(uuid=uuid, method="count", args=[{"number_value": 500}])
        )
        assert [item.result.number_value async for item in streamed] == list(range(500))
        status = await stub.GetStatus(jumpstarter_pb2.GetStatusRequest())
        assert (status.status, status.status_version) == (ExporterStatus.AVAILABLE, 0)
        assert not (await stub.EndSession(jumpstarter_pb2.EndSessionRequest())).success


@pytest.mark.parametrize("size", SIZES)
async def test_payloads_of_any_size_come_back_whole(reached: Any, size: int):
    served, channel = reached
    call = open_stream(channel, served, kind="driver", method="loop")
    payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    await call.initial_metadata()
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            await write(call, payload)
            await end(call)

        tasks.start_soon(send)
        assert await read_all(call) == payload


async def test_many_small_payloads_come_back_whole(reached: Any):
    served, channel = reached
    call = open_stream(channel, served, kind="driver", method="loop")
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            for number in range(5000):
                await call.write(router_pb2.StreamRequest(payload=f"{number:05}".encode()))
            await end(call)

        tasks.start_soon(send)
        assert await read_all(call) == b"".join(f"{number:05}".encode() for number in range(5000))


async def test_a_chunk_larger_than_any_message_is_split(reached: Any):
    served, channel = reached
    call = open_stream(channel, served, kind="driver", method="pour")
    assert len(await read_all(call)) == 2 * LARGEST


async def test_a_client_that_stops_sending_at_once_still_receives(reached: Any):
    served, channel = reached
    call = open_stream(channel, served, kind="driver", method="pour")
    await end(call)
    assert len(await read_all(call)) == 2 * LARGEST


async def test_a_stream_whose_both_directions_have_ended_ends_in_a_way_peers_know(reached: Any):
    served, channel = reached
    call = open_stream(channel, served, kind="driver", method="loop")
    await write(call, b"x")
    await end(call)
    assert await read_all(call) == b"x"
    with anyio.fail_after(LIMIT):
        assert await call.code() in (grpc.StatusCode.OK, grpc.StatusCode.ABORTED)


@pytest.mark.parametrize("frame_type", [router_pb2.FRAME_TYPE_PING, 99], ids=["ping", "unknown"])
async def test_frames_without_data_never_reach_the_device(reached: Any, frame_type: int):
    served, channel = reached
    call = open_stream(channel, served, kind="driver", method="loop")
    await write(call, b"a")
    frame = router_pb2.StreamRequest(payload=b"noise")
    frame.frame_type = frame_type  # type: ignore[assignment]
    await call.write(frame)
    await write(call, b"b")
    await end(call)
    assert await read_all(call) == b"ab"


async def test_the_loss_of_a_client_leaves_the_session_to_others(reached: Any):
    served, channel = reached
    lost = open_stream(channel, served, kind="driver", method="loop")
    await write(lost, b"x")
    lost.cancel()
    call = open_stream(channel, served, kind="driver", method="loop")
    await write(call, b"y")
    await end(call)
    assert await read_all(call) == b"y"


async def test_the_loss_of_the_session_ends_the_streams_of_clients(lab: Any):
    async with session() as (served, path), tunnel(lab, path) as tunnelled:
        with Session(root_device=Wire()) as other:
            async with grpc.aio.insecure_channel(f"unix://{tunnelled}") as channel:
                async with other.serve_unix_async() as second:
                    async with tunnel(lab, second) as far, grpc.aio.insecure_channel(f"unix://{far}") as losing:
                        stub = jumpstarter_pb2_grpc.ExporterServiceStub(losing)
                        await stub.GetReport(empty_pb2.Empty(), wait_for_ready=True)
                        call = open_stream(losing, other, kind="driver", method="loop")
                        await call.initial_metadata()
                    with anyio.fail_after(LIMIT):
                        assert await call.code() is not grpc.StatusCode.OK
                still = open_stream(channel, served, kind="driver", method="loop")
                await write(still, b"z")
                await end(still)
                assert await read_all(still) == b"z"


async def test_initial_metadata_come_at_once_even_without_any_data(reached: Any):
    served, channel = reached
    call = open_stream(channel, served, kind="driver", method="loop")
    with anyio.fail_after(LIMIT):
        await call.initial_metadata()
    call.cancel()


async def open_resource(channel: grpc.aio.Channel, served: Session, **members: Any) -> tuple[Any, Any]:
    call = open_stream(channel, served, kind="resource", **members)
    with anyio.fail_after(LIMIT):
        metadata = {str(key): str(value) for key, value in await call.initial_metadata()}
    return call, metadata


async def call_with_handle(channel: grpc.aio.Channel, served: Session, method: str, handle: Any) -> Any:
    request = jumpstarter_pb2.DriverCallRequest(uuid=str(served.root_device.uuid), method=method)
    request.args.add().struct_value.update(handle)
    with anyio.fail_after(LIMIT):
        return (await jumpstarter_pb2_grpc.ExporterServiceStub(channel).DriverCall(request)).result


async def test_a_resource_is_uploaded_and_another_downloaded_as_0_9_does(reached: Any):
    served, channel = reached
    call, metadata = await open_resource(channel, served, x_jmp_content_encoding=None)
    handle = json.loads(metadata["resource"])
    assert handle["kind"] == "client_stream"
    await write(call, b"stored")
    await end(call)
    assert (await call_with_handle(channel, served, "store", handle)).string_value == "stored"
    call, metadata = await open_resource(channel, served)
    await end(call)  # files that are only written to end this direction right away
    await call_with_handle(channel, served, "fetch", json.loads(metadata["resource"]))
    assert await read_all(call) == b"fetched"


async def test_an_encoded_resource_travels_encoded_and_is_decoded_here(reached: Any):
    served, channel = reached
    call, metadata = await open_resource(channel, served, x_jmp_content_encoding="gzip")
    assert "x_jmp_accept_encoding" in metadata
    handle = {**json.loads(metadata["resource"]), "x_jmp_content_encoding": "gzip"}
    await write(call, gzip.compress(b"plain text"))
    await end(call)
    assert (await call_with_handle(channel, served, "store", handle)).string_value == "plain text"


async def test_a_refused_encoding_is_left_to_the_client(reached: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JMP_DISABLE_COMPRESSION", "1")
    served, channel = reached
    call, metadata = await open_resource(channel, served, x_jmp_content_encoding="gzip")
    assert "x_jmp_accept_encoding" not in metadata
    assert json.loads(metadata["resource"]).get("x_jmp_content_encoding") is None
    call.cancel()


async def test_unknown_members_and_metadata_are_ignored(reached: Any):
    served, channel = reached
    metadata = (*request_of(served, kind="driver", method="loop", later="member"), ("x-later", "key"))
    call = router_pb2_grpc.RouterServiceStub(channel).Stream(metadata=metadata, wait_for_ready=True)
    await write(call, b"x")
    await end(call)
    assert await read_all(call) == b"x"


async def test_a_result_that_no_message_can_carry_is_an_error_that_says_so():
    async with session() as (served, path), grpc.aio.insecure_channel(f"unix://{path}") as channel:
        request = jumpstarter_pb2.DriverCallRequest(
            uuid=str(served.root_device.uuid), method="large", args=[{"number_value": LARGEST + 1}]
        )
        stub = jumpstarter_pb2_grpc.ExporterServiceStub(channel)
        call = stub.DriverCall(request)
        with anyio.fail_after(LIMIT):
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        request.args[0].number_value = LARGEST - 1000
        assert len((await stub.DriverCall(request)).result.string_value) == LARGEST - 1000


async def test_a_client_that_pings_an_idle_connection_is_not_cut_off():
    """0.9 clients ping every 20 s; a server that counts that as misbehaviour shows it after a few pings."""
    from jumpstarter.exporter.session import SERVER_OPTIONS

    options = dict(SERVER_OPTIONS)
    assert options["grpc.http2.min_ping_interval_without_data_ms"] <= 10000
    assert options["grpc.keepalive_permit_without_calls"] == 1
