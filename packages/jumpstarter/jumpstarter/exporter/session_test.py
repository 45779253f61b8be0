"""Sessions over gRPC: calls, streams, resources, logs, status, the gate, and clients that misbehave or vanish."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import grpc
import pytest
from anyio.from_thread import BlockingPortal
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2_grpc
from pydantic.dataclasses import dataclass as pydantic_dataclass

from jumpstarter.client.client import client_from_channel
from jumpstarter.common.enums import ExporterStatus, LogSource
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.exporter import Session
from jumpstarter.exporter.lease_context import LeaseContext
from jumpstarter.exporter.logging import BACKLOG
from jumpstarter.streams.common import create_memory_stream

LIMIT = 8
CLIENT = "jumpstarter.client.DriverClient"


class Board(Driver):
    """One method of each kind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.resets = 0
        self.closes = 0
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.ended_streams = 0
        self.stored = b""

    @classmethod
    def client(cls) -> str:
        return CLIENT

    def reset(self) -> None:
        self.resets += 1
        super().reset()

    def close(self) -> None:
        self.closes += 1
        self.gate.set()
        super().close()

    @export
    def echo(self, value: Any) -> Any:
        return value

    @export
    async def echo_async(self, value: Any) -> Any:
        return value

    @export
    def wait(self) -> str:
        self.entered.set()
        assert self.gate.wait(LIMIT)
        return "released"

    @export
    def fail(self, kind: str) -> None:
        raise {
            "value": ValueError("not a voltage"),
            "unsupported": NotImplementedError("no such relay"),
            "timeout": TimeoutError("the relay is silent"),
            "key": KeyError("relay"),
            "other": RuntimeError("broken"),
        }[kind]

    @export
    def count(self, last: int) -> Generator[int, None, None]:
        yield from range(last)

    @export
    async def count_async(self, last: int) -> AsyncGenerator[int, None]:
        for number in range(last):
            yield number

    @export
    def slow_generator(self) -> Generator[str, None, None]:
        self.entered.set()
        assert self.gate.wait(LIMIT)
        yield "released"

    @export
    def fail_after_one(self) -> Generator[int, None, None]:
        yield 1
        raise ValueError("no second one")

    @export
    def say(self, text: str) -> None:
        self.logger.warning("%s", text)

    @export
    async def store(self, handle: Any) -> int:
        self.stored = b""
        async with self.resource(handle) as stream:
            async for chunk in stream:
                self.stored += chunk
        return len(self.stored)

    @export
    async def fetch(self, handle: Any) -> None:
        async with self.resource(handle) as stream:
            await stream.send(self.stored)

    @exportstream
    @asynccontextmanager
    async def loop(self) -> AsyncIterator[Any]:
        """Gives back what it gets, and ends when its client has ended."""
        mine, theirs = create_memory_stream()
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                async with theirs:
                    async for chunk in theirs:
                        await theirs.send(chunk)
                    await theirs.send(b"end")

            tasks.start_soon(answer)
            try:
                async with mine:
                    yield mine
            finally:
                self.ended_streams += 1
                tasks.cancel_scope.cancel()

    @exportstream
    @asynccontextmanager
    async def broken(self) -> AsyncIterator[Any]:
        raise OSError("the cable is unplugged")
        yield


class Undecorated(Board):
    pass


@dataclass(kw_only=True)
class Standard(Board):
    pins: list[int] = field(default_factory=list)

    @export
    def total(self) -> int:
        return sum(self.pins)


@pydantic_dataclass(kw_only=True)
class Validated(Board):
    pins: list[int] = field(default_factory=list)

    @export
    def total(self) -> int:
        return sum(self.pins)


@dataclass
class Served:
    session: Session
    board: Any
    path: Any
    channel: grpc.aio.Channel
    client: Any

    @property
    def stub(self) -> Any:
        return jumpstarter_pb2_grpc.ExporterServiceStub(self.channel)


@asynccontextmanager
async def served(board: Board | None = None) -> AsyncIterator[Served]:
    board = board or Board()
    with Session(root_device=board) as session:
        async with (
            session.serve_unix_async() as path,
            grpc.aio.insecure_channel(f"unix://{path}") as channel,
            BlockingPortal() as portal,
        ):
            with ExitStack() as stack:
                client = await client_from_channel(channel, portal, stack, [], True)
                yield Served(session, board, path, channel, client)


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with anyio.fail_after(LIMIT):
        return await call.code(), await call.details()


async def in_thread(event: threading.Event) -> None:
    assert await anyio.to_thread.run_sync(event.wait, LIMIT)


# -- life --------------------------------------------------------------------------------------------


async def test_drivers_are_reset_when_a_session_begins_and_closed_when_it_ends():
    board = Board(children={"child": Board()})
    async with served(board):
        assert (board.resets, board.closes) == (1, 0)
    assert (board.closes, board.children["child"].closes) == (1, 1)


async def test_the_report_lists_parents_before_children():
    async with served(Board(children={"a": Board(children={"b": Board()})})) as it:
        reports = (await it.stub.GetReport(empty_pb2.Empty())).reports
    assert [report.labels.get("jumpstarter.dev/name") for report in reports] == [None, "a", "b"]
    assert [report.parent_uuid for report in reports] == ["", reports[0].uuid, reports[1].uuid]


# -- calls -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Undecorated, lambda: Standard(pins=[1, 2]), lambda: Validated(pins=[1, 2])])
@pytest.mark.parametrize("method", ["echo", "echo_async"])
async def test_methods_of_drivers_of_every_style_are_called(make: Any, method: str):
    async with served(make()) as it:
        value = {"text": "ü", "list": [1, None, True], "nested": {"a": 1.5}}
        assert await it.client.call_async(method, value) == value
        if not isinstance(it.board, Undecorated):
            assert await it.client.call_async("total") == 3


@pytest.mark.parametrize("method", ["count", "count_async"])
@pytest.mark.parametrize("length", [0, 1, 1000])
async def test_generators_of_both_kinds_stream_all_their_items_in_order(method: str, length: int):
    async with served() as it:
        assert [item async for item in it.client.streamingcall_async(method, length)] == list(range(length))


async def test_items_before_an_error_arrive():
    items = []
    async with served() as it:
        with pytest.raises(ValueError, match="no second one"):  # noqa: PT012 (the iteration raises it)
            async for item in it.client.streamingcall_async("fail_after_one"):
                items.append(item)
    assert items == [1]


@pytest.mark.parametrize("method", ["wait", "slow_generator"])
async def test_blocking_code_of_a_driver_keeps_nobody_else_waiting(method: str):
    async with served() as it, anyio.create_task_group() as tasks:
        if method == "wait":
            tasks.start_soon(it.client.call_async, method)
        else:

            async def follow() -> None:
                async for _ in it.client.streamingcall_async(method):
                    pass

            tasks.start_soon(follow)
        await in_thread(it.board.entered)
        started = time.monotonic()
        for number in range(20):
            assert await it.client.call_async("echo", number) == number
        assert time.monotonic() - started < LIMIT / 2
        it.board.gate.set()


async def test_fifty_blocked_calls_leave_room_for_more():
    async with served() as it, anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(it.client.call_async, "wait")
        await in_thread(it.board.entered)
        with anyio.fail_after(LIMIT):
            assert await it.client.call_async("echo", "through") == "through"
        it.board.gate.set()


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("value", "INVALID_ARGUMENT", "not a voltage"),
        ("unsupported", "UNIMPLEMENTED", "no such relay"),
        ("timeout", "DEADLINE_EXCEEDED", "the relay is silent"),
        ("key", "UNKNOWN", "KeyError: 'relay'"),
        ("other", "UNKNOWN", "broken"),
    ],
)
async def test_what_a_driver_raises_is_told_by_status_and_text(kind: str, status: str, text: str):
    async with served() as it:
        request = jumpstarter_pb2.DriverCallRequest(
            uuid=str(it.board.uuid), method="fail", args=[{"string_value": kind}]
        )
        assert await code_of(it.stub.DriverCall(request)) == (grpc.StatusCode[status], text)


@pytest.mark.parametrize("rpc", ["DriverCall", "StreamingDriverCall"])
@pytest.mark.parametrize(
    ("uuid", "method", "status"),
    [
        (None, "unknown", "NOT_FOUND"),
        (None, "reset", "NOT_FOUND"),
        (None, "__class__", "NOT_FOUND"),
        (None, "", "NOT_FOUND"),
        ("0b4c1a52-3f0e-4d0a-9d53-8a5a3c1f0f5e", "echo", "NOT_FOUND"),
        ("no uuid", "echo", "INVALID_ARGUMENT"),
        ("", "echo", "INVALID_ARGUMENT"),
    ],
)
async def test_calls_of_what_is_not_there_are_refused(rpc: str, uuid: str | None, method: str, status: str):
    async with served() as it:
        kind = getattr(jumpstarter_pb2, f"{rpc}Request")
        request = kind(uuid=str(it.board.uuid) if uuid is None else uuid, method=method)
        code, details = await code_of(getattr(it.stub, rpc)(request))
        assert code is grpc.StatusCode[status]
        assert details


async def test_a_client_that_knows_drivers_of_before_is_told_to_connect_again():
    async with served() as it:
        request = jumpstarter_pb2.DriverCallRequest(uuid="0b4c1a52-3f0e-4d0a-9d53-8a5a3c1f0f5e", method="echo")
        _, details = await code_of(it.stub.DriverCall(request))
        assert "set up anew" in details
        assert "connect again" in details


async def test_two_hundred_drivers_are_reported_and_reached():
    async with served(Board(children={f"d{number}": Board() for number in range(200)})) as it:
        assert len(it.client.children) == 200
        assert await it.client.children["d199"].call_async("echo", 199) == 199


# -- streams -----------------------------------------------------------------------------------------


async def test_a_stream_goes_on_in_one_direction_when_the_other_has_ended():
    async with served() as it, it.client.stream_async("loop") as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.send_eof()
        assert await stream.receive() == b"end"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_two_hundred_streams_at_once_keep_their_bytes_apart():
    async with served() as it:

        async def use(number: int) -> None:
            async with it.client.stream_async("loop") as stream:
                text = f"{number:04}".encode() * 1000
                await stream.send(text)
                received = b""
                while len(received) < len(text):
                    received += await stream.receive()
                assert received == text

        with anyio.fail_after(3 * LIMIT):
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(use, number)
            while it.board.ended_streams < 200:  # noqa: ASYNC110 (the other end closes in its own time)
                await anyio.sleep(0.01)


async def test_a_stream_whose_client_vanishes_is_closed():
    async with served() as it:
        async with grpc.aio.insecure_channel(f"unix://{it.path}") as channel:
            call = router_pb2_grpc.RouterServiceStub(channel).Stream(
                metadata=(("request", f'{{"kind":"driver","uuid":"{it.board.uuid}","method":"loop"}}'),)
            )
            await call.initial_metadata()
        with anyio.fail_after(LIMIT):
            while it.board.ended_streams == 0:  # noqa: ASYNC110 (the other end closes in its own time)
                await anyio.sleep(0.01)


async def test_a_stream_that_cannot_be_opened_says_why():
    async with served() as it:
        with pytest.raises(Exception, match="the cable is unplugged"):
            async with it.client.stream_async("broken"):
                raise AssertionError("it opened")


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (None, "INVALID_ARGUMENT"),
        ("", "INVALID_ARGUMENT"),
        ("no json", "INVALID_ARGUMENT"),
        ("[]", "INVALID_ARGUMENT"),
        ('{"kind":"other","uuid":"UUID"}', "INVALID_ARGUMENT"),
        ('{"kind":"driver","uuid":"no","method":"loop"}', "INVALID_ARGUMENT"),
        ('{"kind":"driver","uuid":"UUID"}', "INVALID_ARGUMENT"),
        ('{"kind":"driver","uuid":"UUID","method":"echo"}', "NOT_FOUND"),
        ('{"kind":"driver","uuid":"UUID","method":"nothing"}', "NOT_FOUND"),
        ('{"kind":"driver","uuid":"00000000-0000-4000-8000-000000000000","method":"loop"}', "NOT_FOUND"),
    ],
)
async def test_a_malformed_stream_request_is_refused(request_text: str | None, status: str):
    async with served() as it:
        metadata = () if request_text is None else (("request", request_text.replace("UUID", str(it.board.uuid))),)
        call = router_pb2_grpc.RouterServiceStub(it.channel).Stream(metadata=metadata)
        code, details = await code_of(call)
        assert code is grpc.StatusCode[status]
        assert details
        assert await it.client.call_async("echo", 1) == 1


# -- resources ---------------------------------------------------------------------------------------


@asynccontextmanager
async def offer(it: Served, content: bytes) -> AsyncIterator[Any]:
    mine, theirs = create_memory_stream()
    async with it.client.resource_async(theirs) as handle:
        await mine.send(content)
        await mine.send_eof()
        yield handle, mine


async def test_an_uploaded_resource_arrives_whole_and_can_be_downloaded():
    async with served() as it:
        content = bytes(range(256)) * 4000
        async with offer(it, content) as (handle, _):
            assert await it.client.call_async("store", handle) == len(content)
        assert it.board.stored == content
        async with offer(it, b"") as (handle, mine):
            received = bytearray()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(it.client.call_async, "fetch", handle)
                async for chunk in mine:
                    received += chunk
        assert received == content


async def test_a_handle_that_is_never_used_leaves_nothing():
    async with served() as it:
        async with offer(it, b""):
            assert len(it.board.resources) == 1
        await nothing_left(it.board)


async def test_a_handle_of_a_client_that_vanished_leaves_nothing():
    async with served() as it:
        async with grpc.aio.insecure_channel(f"unix://{it.path}") as channel:
            call = router_pb2_grpc.RouterServiceStub(channel).Stream(
                metadata=(("request", f'{{"kind":"resource","uuid":"{it.board.uuid}"}}'),)
            )
            metadata = {str(key): str(value) for key, value in await call.initial_metadata()}
            assert "resource" in metadata
            assert len(it.board.resources) == 1
        await nothing_left(it.board)


async def nothing_left(board: Board) -> None:
    with anyio.fail_after(LIMIT):
        while board.resources:  # noqa: ASYNC110 (the other end closes in its own time)
            await anyio.sleep(0.01)


async def test_a_handle_works_once_and_for_its_driver_alone():
    async with served(Board(children={"other": Board()})) as it, offer(it, b"x") as (handle, _):
        with pytest.raises(Exception, match="not open on this driver"):
            await it.client.children["other"].call_async("store", handle)
        assert await it.client.call_async("store", handle) == 1
        with pytest.raises(Exception, match="used before"):
            await it.client.call_async("store", handle)


# -- logs --------------------------------------------------------------------------------------------


async def messages(call: Any, last: str) -> list[Any]:
    records = []
    with anyio.fail_after(LIMIT):
        async for record in call:
            records.append(record)
            if record.message == last:
                return records
    raise AssertionError("the log ended")


async def test_every_reader_of_the_log_gets_every_line():
    async with served() as it:
        readers = [it.stub.LogStream(empty_pb2.Empty()) for _ in range(3)]
        for text in ("one", "two", "last"):
            await it.client.call_async("say", text)
        for reader in readers:
            records = await messages(reader, "last")
            said = [record for record in records if record.source == LogSource.DRIVER]
            assert [record.message for record in said] == ["one", "two", "last"]
            assert {record.severity for record in said} == {"WARNING"}


async def test_a_later_reader_gets_the_latest_lines_first():
    async with served() as it:
        for number in range(BACKLOG + 50):
            logging.getLogger("jumpstarter.test").warning("line %d", number)
        logging.getLogger("jumpstarter.test").warning("last")
        records = await messages(it.stub.LogStream(empty_pb2.Empty()), "last")
        assert records[-2].message == f"line {BACKLOG + 49}"
        assert len([record for record in records if record.message.startswith("line ")]) <= BACKLOG


async def test_lines_of_one_sessions_drivers_stay_out_of_anothers_log():
    async with served() as one, served() as other:
        await one.client.call_async("say", "private")
        await other.client.call_async("say", "mine")
        records = await messages(other.stub.LogStream(empty_pb2.Empty()), "mine")
        assert "private" not in [record.message for record in records]


# -- status, gate, end -------------------------------------------------------------------------------


async def test_the_status_counts_its_changes_and_remembers_the_one_before():
    async with served() as it:
        it.session.update_status(ExporterStatus.BEFORE_LEASE_HOOK, "preparing")
        it.session.update_status(4, "ready")
        answer = await it.stub.GetStatus(jumpstarter_pb2.GetStatusRequest())
        assert (answer.status, answer.message, answer.status_version, answer.previous_status) == (4, "ready", 2, 3)


async def test_waiting_for_a_client_to_see_the_status_ends_when_one_asked_for_the_latest():
    async with served() as it:
        it.session.update_status(ExporterStatus.LEASE_READY)
        await it.stub.GetStatus(jumpstarter_pb2.GetStatusRequest())
        with anyio.fail_after(LIMIT):
            await it.session.wait_status_seen()
        it.session.update_status(ExporterStatus.AVAILABLE)
        with anyio.move_on_after(0.05) as scope:
            await it.session.wait_status_seen()
        assert scope.cancelled_caught


async def test_a_bare_session_is_usable_in_every_status_and_has_no_lease_to_end():
    async with served() as it:
        for status in ExporterStatus:
            it.session.update_status(status)
            assert await it.client.call_async("echo", 1) == 1
        assert not (await it.stub.EndSession(jumpstarter_pb2.EndSessionRequest())).success


@pytest.mark.parametrize("status", [status for status in ExporterStatus if status != ExporterStatus.LEASE_READY])
async def test_a_lease_that_is_not_ready_serves_no_calls_of_any_kind(status: ExporterStatus):
    async with served() as it:
        it.session.lease_context = LeaseContext("lease", anyio.Event())
        it.session.update_status(status, "because")
        uuid = str(it.board.uuid)
        stream = router_pb2_grpc.RouterServiceStub(it.channel).Stream(
            metadata=(("request", f'{{"kind":"driver","uuid":"{uuid}","method":"loop"}}'),)
        )
        calls = [
            it.stub.DriverCall(jumpstarter_pb2.DriverCallRequest(uuid=uuid, method="echo")),
            it.stub.StreamingDriverCall(jumpstarter_pb2.StreamingDriverCallRequest(uuid=uuid, method="count")),
            it.stub.Reset(jumpstarter_pb2.ResetRequest()),
            stream,
        ]
        for call in calls:
            code, details = await code_of(call)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert status.name in details
            assert "because" in details
        assert (await it.stub.GetStatus(jumpstarter_pb2.GetStatusRequest())).status == status
        assert len((await it.stub.GetReport(empty_pb2.Empty())).reports) == 1


async def test_the_end_of_a_session_is_noted_in_its_lease():
    async with served() as it:
        it.session.lease_context = context = LeaseContext("lease", anyio.Event())
        it.session.update_status(ExporterStatus.LEASE_READY)
        assert (await it.stub.EndSession(jumpstarter_pb2.EndSessionRequest())).success
        assert context.end_session_requested.is_set()


async def test_a_reset_reaches_the_drivers():
    async with served() as it:
        before = it.board.resets
        await it.stub.Reset(jumpstarter_pb2.ResetRequest())
        assert it.board.resets == before + 1


async def test_a_port_that_is_taken_is_told_before_anything_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, Session(root_device=Board()) as session:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}: another program listens") as caught:
            async with session.serve_tcp_async("127.0.0.1", port):
                pytest.fail("listening")
    assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_of_another_machine_is_told() -> None:
    refused = pytest.raises(OSError, match="this machine has no such address")
    with Session(root_device=Board()) as session, refused as caught:
        async with session.serve_tcp_async("192.0.2.1", 0):
            pytest.fail("listening")
    assert caught.value.errno == errno.EADDRNOTAVAIL
