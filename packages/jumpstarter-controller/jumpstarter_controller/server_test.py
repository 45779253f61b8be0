"""A whole server: where it listens, when it is ready, how it starts again, stops, and notices peers that are lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import stat
import sys
import time
from datetime import timedelta
from pathlib import Path

import anyio
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter_protocol import client_pb2, jumpstarter_pb2

from .listening import Keepalive, join_address, split_address
from .model.records import ExporterStatus
from .scripted import PARENT, Messages, ScriptedExporter, lease_key, lease_of, scripted_exporter
from .server import Endpoints, LabServer, OwnCertificate
from .store.base import StoreError
from .testing import running_lab


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


# -- where it listens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:8082", "[::1]:8082", ":8082", "board.example:1"])
def test_addresses_are_taken_apart_and_put_together(address: str) -> None:
    host, port = split_address(address)
    assert join_address(host, port) == address


@pytest.mark.parametrize("address", ["", "8082", "127.0.0.1", "127.0.0.1:", "host:http", "host:70000", "::1:8082"])
def test_addresses_of_another_form_are_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="host:port"):
        split_address(address)


async def test_port_that_is_taken_is_said_to_be(tmp_path: Path) -> None:
    async with running_lab(tmp_path / "a") as first:
        server = LabServer(tmp_path / "b", endpoints=Endpoints(listen=f"127.0.0.1:{first.server.port}"))
        with pytest.raises(ConfigurationError, match="another program listens there"):
            await server.__aenter__()


async def test_address_of_another_machine_is_said_to_be(tmp_path: Path) -> None:
    server = LabServer(tmp_path, endpoints=Endpoints(listen="192.0.2.1:0"))
    with pytest.raises(ConfigurationError, match="no such address"):
        await server.__aenter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on any port")
async def test_privileged_port_is_said_to_be(tmp_path: Path) -> None:
    server = LabServer(tmp_path, endpoints=Endpoints(listen="127.0.0.1:81"))
    with pytest.raises(ConfigurationError, match="1024"):
        await server.__aenter__()


async def test_second_server_on_the_same_folder_is_refused_and_hurts_nobody(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as first:
        with pytest.raises(StoreError, match="lab"):
            await LabServer(tmp_path / "lab", endpoints=Endpoints(listen="127.0.0.1:0")).__aenter__()
        async with (await first.client()).channel() as channel:
            assert await health(channel) == health_pb2.HealthCheckResponse.SERVING


async def test_data_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with running_lab(tmp_path):
        assert stat.S_IMODE((tmp_path / "lab").stat().st_mode) == 0o700
        for path in (tmp_path / "lab").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_endpoints_that_peers_are_told_can_be_others_and_the_certificate_is_for_them(tmp_path: Path) -> None:
    given = Endpoints(listen="127.0.0.1:0", endpoint="lab.example:443", router_endpoint="router.example:444")
    async with LabServer(tmp_path, endpoints=given) as server:
        assert (server.endpoint, server.router_endpoint) == ("lab.example:443", "router.example:444")
        context = ssl.create_default_context(cadata=server.ca)
        for name in ("lab.example", "router.example", "localhost"):
            stream = await anyio.connect_tcp(
                "127.0.0.1",
                server.port,
                tls=True,
                ssl_context=context,
                tls_hostname=name,
                tls_standard_compatible=False,
            )
            await stream.aclose()


async def test_router_may_have_a_port_of_its_own(tmp_path: Path) -> None:
    endpoints = Endpoints(listen="127.0.0.1:0", router_listen="127.0.0.1:0")
    async with running_lab(tmp_path, server={"endpoints": endpoints}) as lab:
        assert lab.server.router_endpoint != lab.endpoint
        async with (await lab.client()).stubs() as alice, scripted_exporter(lab) as (exporter, status):
            name = await lease_of(alice)
            await status.next()
            await exporter.report(ExporterStatus.LEASE_READY)
            exporter.listen(name)
            answer = await alice.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name))
            assert answer.router_endpoint == lab.server.router_endpoint


async def test_own_certificate_is_shown_to_peers(tmp_path: Path) -> None:
    async with running_lab(tmp_path / "first") as lab:
        pair = lab.server.certificates.current()
    (tmp_path / "cert.pem").write_bytes(pair.chain)
    (tmp_path / "key.pem").write_bytes(pair.key)
    own = OwnCertificate(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    async with running_lab(tmp_path / "second", server={"own_certificate": own}) as lab:
        async with (await lab.client()).channel() as channel:
            assert await health(channel) == health_pb2.HealthCheckResponse.SERVING
        assert lab.server.certificates.current().chain == pair.chain


# -- ready or not -------------------------------------------------------------------------------------------


async def test_health_and_reflection_are_for_everybody(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab, (await lab.client()).channel() as channel:
        services = [
            "",
            "jumpstarter.v1.ControllerService",
            "jumpstarter.client.v1.ClientService",
            "jumpstarter.lab.v1.LabService",
            "jumpstarter.admin.v1.AdminService",
            "jumpstarter.v1.RouterService",
        ]
        for name in services:
            assert await health(channel, name) == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        assert {*services[1:], "grpc.health.v1.Health"} <= {
            service.name for service in answer.list_services_response.service
        }
        call.cancel()


async def test_health_says_that_the_server_stops_and_streams_end_so_that_peers_come_again(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab:
        login, board = await lab.client(), await lab.exporter()
        async with login.channel() as channel, board.stubs() as stubs:
            watching = Messages(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
            assert (await watching.next()).status == health_pb2.HealthCheckResponse.SERVING
            status = ScriptedExporter(lab, board, stubs).status()
            await status.next()
            began = time.monotonic()
            await lab.server.__aexit__(None, None, None)
            assert time.monotonic() - began < 8
            assert (await watching.next()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await status.next()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.aio.AioRpcError):
                await health(channel)
            watching.cancel()


async def test_error_of_the_body_comes_out_as_it_is_and_everything_is_closed(tmp_path: Path) -> None:
    ports: list[int] = []

    async def fail() -> None:
        async with running_lab(tmp_path) as lab:
            ports.append(lab.server.port)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=5)


# -- starting again ------------------------------------------------------------------------------------------


async def test_X08_server_starts_again_and_everybody_goes_on(tmp_path: Path) -> None:
    """Leases, tokens and certificates outlive the process, and the exporter is told its lease again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    same = {"endpoints": Endpoints(listen=f"127.0.0.1:{port}")}
    async with running_lab(tmp_path, server=same) as lab:
        alice, board = await lab.client(), await lab.exporter()
        async with alice.stubs() as client, scripted_exporter(lab) as (exporter, status):
            board = exporter.login
            name = await lease_of(client)
            await status.next()
            await exporter.report(ExporterStatus.LEASE_READY)
    async with running_lab(tmp_path, server=same) as lab, alice.stubs() as client, board.stubs() as stubs:
        exporter = ScriptedExporter(lab, board, stubs)
        told = await exporter.status().next()
        assert (told.leased, told.lease_name, told.client_name) == (True, name, "alice")
        listener = exporter.listen(name)
        answer = await client.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name))
        assert (await listener.next()).router_endpoint == answer.router_endpoint
        exporter.close()


async def test_T22_lease_that_ran_out_while_the_server_was_away_is_announced_to_nobody(tmp_path: Path) -> None:
    async with (
        running_lab(tmp_path) as lab,
        (await lab.client()).stubs() as client,
        scripted_exporter(lab) as (exporter, _),
    ):
        board = exporter.login
        name = await lease_of(client, seconds=1)
    await anyio.sleep(1.1)
    async with running_lab(tmp_path) as lab:
        ended = await lab.lab.lease(lease_key(name))
        assert ended is not None
        assert ended.ended
        login = await lab.exporter(board.key.name)
        async with login.stubs() as stubs:
            exporter = ScriptedExporter(lab, login, stubs)
            assert not (await exporter.status().next()).leased
            exporter.close()


# -- peers that are silent, or lost -----------------------------------------------------------------------------


async def test_R06_idle_streams_of_peers_that_ping_live(tmp_path: Path) -> None:
    """Peers of 0.9 ping each 20 s without data; a server by default ends their connection at the third ping."""
    keepalive = Keepalive(accept_every=0.05)
    pings = (("grpc.keepalive_time_ms", 100), ("grpc.keepalive_permit_without_calls", 1))
    endless = ("grpc.http2.max_pings_without_data", 0)
    async with running_lab(tmp_path, server={"keepalive": keepalive}) as lab:
        alice, board = await lab.client(), await lab.exporter()
        async with alice.stubs() as client, board.stubs(*pings, endless) as stubs:
            exporter = ScriptedExporter(lab, board, stubs)
            await exporter.register()
            status = exporter.status()
            await status.next()
            name = await lease_of(client)
            assert (await status.next()).lease_name == name
            listener = exporter.listen(name)
            # Some twenty pings, where three would be too many.
            assert await listener.silent(2.0)
            assert await status.silent(0.1)
            exporter.close()


async def test_R06_pings_too_often_are_still_refused(tmp_path: Path) -> None:
    pings = (("grpc.keepalive_time_ms", 100), ("grpc.keepalive_permit_without_calls", 1))
    endless = ("grpc.http2.max_pings_without_data", 0)
    async with running_lab(tmp_path, server={"keepalive": Keepalive(accept_every=300)}) as lab:
        board = await lab.exporter()
        async with board.stubs(*pings, endless) as stubs:
            exporter = ScriptedExporter(lab, board, stubs)
            status = exporter.status()
            await status.next()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await status.next()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


PEER = """
import asyncio, sys
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc
import grpc
async def main(endpoint, ca, *metadata):
    pairs = tuple(tuple(item.split("=", 1)) for item in metadata)
    credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
    async with grpc.aio.secure_channel(endpoint, credentials) as channel:
        stub = jumpstarter_pb2_grpc.ControllerServiceStub(channel)
        report = jumpstarter_pb2.DriverInstanceReport(uuid="u")
        await stub.Register(jumpstarter_pb2.RegisterRequest(reports=[report]), metadata=pairs)
        async for message in stub.Status(jumpstarter_pb2.StatusRequest(), metadata=pairs):
            print("told", message.leased, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_R11_exporter_that_falls_silent_without_closing_is_offline_in_15_seconds(tmp_path: Path) -> None:
    """A stopped process is to the network what a machine without power is: nothing comes, and nothing is closed."""
    async with running_lab(tmp_path) as lab:
        board = await lab.exporter()
        (tmp_path / "ca.pem").write_text(lab.ca)
        words = [f"{key}={value}" for key, value in board.metadata]
        command = [sys.executable, "-c", PEER, lab.endpoint, str(tmp_path / "ca.pem"), *words]
        async with await anyio.open_process(command, stdin=None, stderr=None) as process:
            try:
                await lab.until(board.key, lambda record: record.online)
                # Stopped for a moment only: nothing happens.
                assert process.stdout is not None
                assert b"told" in await process.stdout.receive()
                process.send_signal(signal.SIGSTOP)
                await anyio.sleep(2)
                process.send_signal(signal.SIGCONT)
                with pytest.raises(TimeoutError):
                    await lab.until(board.key, lambda record: not record.online, patience=3)
                process.send_signal(signal.SIGSTOP)
                began = time.monotonic()
                await lab.until(board.key, lambda record: not record.online, patience=30)
                assert time.monotonic() - began < 15
            finally:
                process.kill()


async def test_exporter_that_is_killed_is_offline_in_15_seconds_and_its_lease_goes_on(tmp_path: Path) -> None:
    async with running_lab(tmp_path, leases={"offline_after": timedelta(seconds=1)}) as lab:
        board, alice = await lab.exporter(), await lab.client()
        async with alice.stubs() as client, board.stubs() as stubs:
            exporter = ScriptedExporter(lab, board, stubs)
            await exporter.register()
            status = exporter.status()
            await status.next()
            name = await lease_of(client)
            await status.next()
            status.cancel()
            await lab.until(board.key, lambda record: not record.online)
            assert lab.lab.active_lease(lease_key(name)) is not None
            shown = await client.client.GetExporter(client_pb2.GetExporterRequest(name=f"{PARENT}/exporters/board"))
            assert re.search("connection lost", shown.status_message)
