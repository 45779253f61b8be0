"""The exporter's side of a lab, against the real controller and router: roles, reports of use, the direct way."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from anyio.from_thread import BlockingPortal
from jumpstarter.client.core import DriverError
from jumpstarter.common.cancellation import answer
from jumpstarter.common.direct_tls import SERVER_NAME, client_context
from jumpstarter.common.tempfile import TemporaryUnixListener
from jumpstarter.exporter import grants as grants_module
from jumpstarter.exporter.backoff import Backoff
from jumpstarter.streams.direct import read_object, write_object
from jumpstarter.streams.sockets import connect_tcp
from jumpstarter.streams.tls import TLSByteStream
from jumpstarter_controller.model.records import Key, Kind
from jumpstarter_controller.testing import NAMESPACE, Login, RunningLab, running_lab
from jumpstarter_protocol import client_pb2, jumpstarter_pb2, jumpstarter_pb2_grpc, lab_pb2

LIMIT = 15
ROUNDS = int(os.environ.get("JMP_TEST_ROUNDS", "20"))
"""Connections that are broken in the longest test; 1000 for a thorough one."""
DIRECT = {"listen": "127.0.0.1:auto"}


@pytest.fixture(scope="module")
async def one_loop() -> AsyncIterator[None]:
    """Have all tests of this module use the same event loop, as grpc.aio asks for."""
    yield  # noqa: PT022 (the loop is kept as long as this fixture is)


@pytest.fixture
async def lab(tmp_path: Path, one_loop: None) -> AsyncIterator[RunningLab]:
    async with running_lab(tmp_path) as running:
        yield running


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A TCP server that sends back what it gets; its port."""

    async def serve(stream: Any) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


def drivers(port: int = 1) -> dict[str, Any]:
    return {
        "power": {"type": "jumpstarter_driver_power.driver.MockPower"},
        "echo": {
            "type": "jumpstarter_driver_network.driver.TcpNetwork",
            "config": {"host": "127.0.0.1", "port": port},
        },
    }


@asynccontextmanager
async def leased(login: Login, name: str | None = None) -> AsyncIterator[Any]:
    """A lease of the board, or that of another one, and its client: yields lease and client."""
    async with BlockingPortal() as portal:
        config = login.client_config()
        board = None if name else "board"
        async with config.lease_async(None, board, name, timedelta(hours=2), portal) as lease:
            with ExitStack() as stack:
                async with lease.connect_async(stack) as client:
                    yield lease, client


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():  # noqa: ASYNC110 (what is waited for tells nobody)
            await anyio.sleep(0.01)


async def share(owner: Login, lease: Any, client: str, role: Any) -> None:
    async with owner.stubs() as stubs:
        await stubs.lab.ShareLease(
            lab_pb2.ShareLeaseRequest(name=f"namespaces/{NAMESPACE}/leases/{lease.name}", client=client, role=role)
        )


async def hand_over(owner: Login, lease: Any, client: str) -> None:
    async with owner.stubs() as stubs:
        request = client_pb2.UpdateLeaseRequest()
        request.lease.name = f"namespaces/{NAMESPACE}/leases/{lease.name}"
        request.lease.client = f"namespaces/{NAMESPACE}/clients/{client}"
        request.update_mask.paths.append("client")
        await stubs.client.UpdateLease(request)


async def report_of(client: Any) -> Any:
    """What the exporter says over a connection that goes through the router."""
    from google.protobuf import empty_pb2

    return await jumpstarter_pb2_grpc.ExporterServiceStub(client.stub.channels[-1]).GetReport(empty_pb2.Empty())


# --- roles -----------------------------------------------------------------------------------------------------------


async def test_a_watcher_looks_on_and_can_not_drive(lab: RunningLab) -> None:
    alice, bob = await lab.client("alice"), await lab.client("bob")
    async with lab.serving_exporter(export=drivers()), leased(alice) as (lease, owned):
        await share(alice, lease, "bob", lab_pb2.ROLE_WATCHER)
        async with leased(bob, lease.name) as (_, watched):
            power = watched.children["power"]
            assert [reading async for reading in power.streamingcall_async("read")]
            assert str(await watched.get_status_async()) == "LEASE_READY"
            with pytest.raises(DriverError, match="client bob has the role watcher in this lease and can't use 'on'"):
                await power.call_async("on")
            with pytest.raises(DriverError, match="can't use 'connect'"):
                async with watched.children["echo"].stream_async("connect"):
                    pass
            with pytest.raises(DriverError, match="can't send or fetch files"):
                async with power.resource_async(None):
                    pass
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await watched.stub.Reset(jumpstarter_pb2.ResetRequest())
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert not await watched.end_session_async()
        await owned.children["power"].call_async("on")


async def test_a_driver_uses_the_devices_and_does_not_end_the_session(lab: RunningLab) -> None:
    alice, carol = await lab.client("alice"), await lab.client("carol")
    async with lab.serving_exporter(export=drivers()) as exporter, leased(alice) as (lease, owned):
        await share(alice, lease, "carol", lab_pb2.ROLE_DRIVER)
        async with leased(carol, lease.name) as (_, shared):
            await shared.children["power"].call_async("on")
            assert not await shared.end_session_async()
        assert not exporter._runner.context.end_session_requested.is_set()
        await owned.children["power"].call_async("off")
        assert await owned.end_session_async()


# --- use -------------------------------------------------------------------------------------------------------------


async def test_what_a_lease_is_used_for_is_in_the_record(lab: RunningLab, echo: int) -> None:
    alice = await lab.client("alice")
    async with lab.serving_exporter(export=drivers(echo)), leased(alice) as (_, client):
        power = client.children["power"]
        for _ in range(5):
            await power.call_async("on")
        with pytest.raises(DriverError):
            await power.call_async("nonesuch")
        async with client.children["echo"].stream_async("connect") as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
    wanted = {
        ("driver.call", "alice", "power", "on", "OK"): 5,
        ("driver.call", "alice", "power", "nonesuch", "NOT_FOUND"): 1,
        ("driver.stream", "alice", "echo", "connect", "OK"): 1,
    }
    found: Counter[tuple[str, ...]] = Counter()
    with anyio.move_on_after(LIMIT):
        while found != wanted:
            await anyio.sleep(0.1)
            found = await recorded_uses(lab)
    assert found == wanted


async def recorded_uses(lab: RunningLab) -> Counter[tuple[str, ...]]:
    """How often what was used, as the audit record says, which has it in several entries maybe."""
    found: Counter[tuple[str, ...]] = Counter()
    for entry in await lab.lab.read_audit():
        if entry.action.startswith("driver."):
            details = entry.details
            use = entry.action, entry.client, details["driver"], details["method"], details["outcome"]
            found[use] += int(details.get("count", 1))
    return found


# --- the direct way --------------------------------------------------------------------------------------------------


async def test_data_goes_directly_where_the_client_can_reach_the_exporter(lab: RunningLab, echo: int) -> None:
    alice = await lab.client("alice")
    async with lab.serving_exporter(export=drivers(echo), direct=DIRECT) as exporter, leased(alice) as (_, client):
        await until(lambda: client.stub.direct_path)
        await until(lambda: exporter._direct.connections)
        async with client.children["echo"].stream_async("connect") as stream:
            before = exporter._direct.connections
            await stream.send(b"x" * 100_000)
            received = b""
            while len(received) < 100_000:
                received += await stream.receive()
            assert before >= 2
        await client.children["power"].call_async("on")


async def test_without_the_key_nothing_listens_and_all_goes_through_the_router(lab: RunningLab) -> None:
    alice = await lab.client("alice")
    async with lab.serving_exporter(export=drivers()) as exporter, leased(alice) as (_, client):
        assert not (await report_of(client)).alternative_endpoints
        assert exporter._direct is None
        assert client.stub.direct_path is None


async def test_a_client_can_be_told_to_use_the_router(lab: RunningLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_DIRECT", "0")
    alice = await lab.client("alice")
    async with lab.serving_exporter(export=drivers(), direct=DIRECT) as exporter, leased(alice) as (_, client):
        await client.children["power"].call_async("on")
        assert (await report_of(client)).alternative_endpoints
        assert exporter._direct.connections == 0
        assert client.stub.direct_path is None


async def test_a_watcher_is_not_given_the_direct_way(lab: RunningLab) -> None:
    alice, bob = await lab.client("alice"), await lab.client("bob")
    async with lab.serving_exporter(export=drivers(), direct=DIRECT), leased(alice) as (lease, owned):
        assert (await report_of(owned)).alternative_endpoints
        await share(alice, lease, "bob", lab_pb2.ROLE_WATCHER)
        async with leased(bob, lease.name) as (_, watched):
            assert not (await report_of(watched)).alternative_endpoints


class Proxy:
    """A TCP forward that can be cut, as a network between client and exporter can."""

    def __init__(self) -> None:
        self.target = ""
        self.taken = 0
        self._scope = anyio.CancelScope()
        self._connections: set[anyio.CancelScope] = set()

    async def serve(self, port: int) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        with self._scope:
            async with listener:
                await listener.serve(self._forward)

    async def _forward(self, near: Any) -> None:
        self.taken += 1
        host, _, port = self.target.rpartition(":")
        with anyio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await self._join(near, host, int(port))
            finally:
                self._connections.discard(scope)

    async def _join(self, near: Any, host: str, port: int) -> None:
        async with near, await anyio.connect_tcp(host, port) as far, anyio.create_task_group() as tasks:

            async def copy(source: Any, sink: Any) -> None:
                try:
                    async for chunk in source:
                        await sink.send(chunk)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(copy, near, far)
            tasks.start_soon(copy, far, near)

    def break_all(self) -> None:
        """Break the connections that there are; new ones are possible."""
        for scope in self._connections:
            scope.cancel()

    def cut(self) -> None:
        """Break all connections, and take no more."""
        self._scope.cancel()


async def test_a_direct_way_that_breaks_is_replaced_by_the_router(
    lab: RunningLab, echo: int, free_port: Callable[[], int]
) -> None:
    alice, port, inner = await lab.client("alice"), free_port(), free_port()
    proxy = Proxy()
    proxy.target = f"127.0.0.1:{inner}"
    direct = {"listen": f"127.0.0.1:{inner}", "advertise": [f"127.0.0.1:{port}"]}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.serve, port)
        async with lab.serving_exporter(export=drivers(echo), direct=direct), leased(alice) as (_, client):
            await until(lambda: client.stub.direct_path and proxy.taken >= 2)
            power, network = client.children["power"], client.children["echo"]
            await power.call_async("on")
            proxy.cut()
            for _ in range(20):
                async with network.stream_async("connect") as stream:
                    await stream.send(b"still there")
                    assert await stream.receive() == b"still there"
            await until(lambda: client.stub.channels[0].get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE)
            for _ in range(5):
                await power.call_async("on")


async def test_an_endpoint_that_nobody_can_reach_is_no_trouble(lab: RunningLab, free_port: Callable[[], int]) -> None:
    alice = await lab.client("alice")
    direct = {"listen": "127.0.0.1:auto", "advertise": [f"127.0.0.1:{free_port()}", "nonesuch.invalid"]}
    async with lab.serving_exporter(export=drivers(), direct=direct) as exporter, leased(alice) as (_, client):
        for _ in range(20):
            await client.children["power"].call_async("on")
        assert exporter._direct.connections == 0


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


async def connect(endpoint: Any) -> TLSByteStream:
    """Come directly, as a client does."""
    host, _, port = endpoint.endpoint.rpartition(":")
    context = client_context(endpoint.certificate, endpoint.client_certificate, endpoint.client_private_key)
    return await TLSByteStream.wrap(await connect_tcp(host, int(port)), context, server_name=SERVER_NAME)


async def is_served(endpoint: Any) -> bool:
    try:
        with anyio.fail_after(5):
            stream = await connect(endpoint)
            await write_object(stream, {"kind": "session"})
            return "metadata" in await read_object(stream)
    except (OSError, anyio.BrokenResourceError):
        return False


async def is_cut(stream: TLSByteStream) -> None:
    """Wait until a connection has ended."""
    with anyio.fail_after(LIMIT):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


async def test_the_direct_way_is_for_certificates_of_the_lease_alone(lab: RunningLab) -> None:
    alice = await lab.client("alice")
    async with lab.serving_exporter(export=drivers(), direct=DIRECT):
        async with leased(alice) as (_, client):
            first = (await report_of(client)).alternative_endpoints[0]
            assert await is_served(first)
        async with leased(alice) as (_, client):
            second = (await report_of(client)).alternative_endpoints[0]
            assert first.endpoint == second.endpoint
            assert await is_served(second)
            assert not await is_served(first)
            mixed = jumpstarter_pb2.Endpoint()
            mixed.CopyFrom(second)
            mixed.client_certificate, mixed.client_private_key = first.client_certificate, first.client_private_key
            assert not await is_served(mixed)
        assert not await is_served(second)


async def test_the_end_of_the_lease_cuts_direct_connections(lab: RunningLab) -> None:
    alice = await lab.client("alice")
    async with lab.serving_exporter(export=drivers(), direct=DIRECT):
        async with leased(alice) as (_, client):
            endpoint = (await report_of(client)).alternative_endpoints[0]
            stream = await connect(endpoint)
            await write_object(stream, {"kind": "session"})
            await read_object(stream)
        await is_cut(stream)
        assert not await is_served(endpoint)


async def test_a_former_owner_and_a_former_driver_are_cut(lab: RunningLab) -> None:
    alice, bob, carol = await lab.client("alice"), await lab.client("bob"), await lab.client("carol")
    async with lab.serving_exporter(export=drivers(), direct=DIRECT), leased(alice) as (lease, owned):
        for name in ("bob", "carol"):
            await share(alice, lease, name, lab_pb2.ROLE_DRIVER)
        async with leased(bob, lease.name) as (_, of_bob), leased(carol, lease.name) as (_, of_carol):
            streams = {}
            endpoints = {}
            for name, client in {"alice": owned, "bob": of_bob, "carol": of_carol}.items():
                endpoints[name] = (await report_of(client)).alternative_endpoints[0]
                streams[name] = await connect(endpoints[name])
                await write_object(streams[name], {"kind": "session"})
                await read_object(streams[name])
            await share(alice, lease, "carol", lab_pb2.ROLE_UNSPECIFIED)
            await is_cut(streams["carol"])
            assert not await is_served(endpoints["carol"])
            assert await is_served(endpoints["bob"])
            assert await is_served(endpoints["alice"])
            await hand_over(alice, lease, "bob")
            await is_cut(streams["alice"])
            assert not await is_served(endpoints["alice"])


async def test_who_comes_only_directly_loses_the_right_after_a_while(
    lab: RunningLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants_module.Grants.__init__, "__defaults__", (0.2,))
    alice, bob = await lab.client("alice"), await lab.client("bob")
    async with lab.serving_exporter(export=drivers(), direct=DIRECT), leased(alice) as (lease, _):
        await share(alice, lease, "bob", lab_pb2.ROLE_DRIVER)
        async with leased(bob, lease.name) as (_, shared):
            endpoint = (await report_of(shared)).alternative_endpoints[0]
            await anyio.sleep(0.5)
            assert await is_served(endpoint)
            stream = await connect(endpoint)
        await is_cut(stream)
        assert not await is_served(endpoint)
        key = Key(Kind.LEASE, NAMESPACE, lease.name)
        assert lab.lab.active_lease(key) is not None


# --- for a long time -------------------------------------------------------------------------------------------------


async def test_an_exporter_whose_connection_breaks_again_and_again_serves_clients_all_the_while(
    lab: RunningLab, free_port: Callable[[], int]
) -> None:
    rounds, port = ROUNDS, free_port()
    login, alice = await lab.exporter("board"), await lab.client("alice")
    proxy = Proxy()
    proxy.target = login.endpoint
    behind = replace(login, endpoint=f"127.0.0.1:{port}")
    async with anyio.create_task_group() as proxies:
        proxies.start_soon(proxy.serve, port)
        async with lab.serving_exporter(export=drivers(), login=behind) as exporter, leased(alice) as (lease, client):
            exporter._controller.backoff = lambda: Backoff(base=0.002, cap=0.005)
            dialled = 0

            async def dial() -> None:
                """Come as a further client, again and again."""
                nonlocal dialled
                while True:
                    async with (
                        TemporaryUnixListener(lease.handle_async) as path,
                        grpc.aio.insecure_channel(f"unix://{path}") as channel,
                    ):
                        stub = jumpstarter_pb2_grpc.ExporterServiceStub(channel)
                        # An offer that was on its way when the connection broke is lost; such a client comes again.
                        with anyio.move_on_after(2):
                            await answer(stub.GetStatus(jumpstarter_pb2.GetStatusRequest(), wait_for_ready=True))
                            dialled += 1

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(dial)
                for number in range(rounds):
                    await until(lambda: exporter._controller.connected)
                    if number % 10 == 0:
                        # The client that was there from the beginning notices nothing.
                        await client.children["power"].call_async("on")
                    proxy.break_all()
                    await until(lambda: not exporter._controller.connected)
                reached = dialled
                await until(lambda: dialled > reached + 5)
                tasks.cancel_scope.cancel()
            assert reached >= rounds
        proxies.cancel_scope.cancel()
