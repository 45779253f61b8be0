"""Exporters without a controller, over TCP: TLS, the passphrase, and hooks around each session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from anyio.from_thread import BlockingPortal
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc

from jumpstarter.client.client import client_from_path
from jumpstarter.client.core import DriverError
from jumpstarter.common.enums import ExporterStatus
from jumpstarter.config.exporter import HookConfigV1Alpha1
from jumpstarter.config.tls import TLSConfigV1Alpha1
from jumpstarter.driver import Driver, export
from jumpstarter.exporter import Exporter
from jumpstarter.exporter.auth import PassphraseInterceptor
from jumpstarter.exporter.hooks import HookExecutor

LIMIT = 8
SECRET = "correct horse"


class Lamp(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: Any) -> Any:
        return value


async def no_controller() -> Any:
    raise AssertionError("there is no controller")


def hooks(before: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> HookExecutor:
    return HookExecutor(config=HookConfigV1Alpha1.model_validate({"beforeLease": before, "afterLease": after}))


@asynccontextmanager
async def standalone(
    executor: HookExecutor | None = None, *, stop: bool = True, **options: Any
) -> AsyncIterator[tuple[Exporter, int]]:
    exporter = Exporter(channel_factory=no_controller, device_factory=Lamp, hook_executor=executor, show_time=0.5)
    done = anyio.Event()

    async def serve(*, task_status: Any) -> None:
        try:
            await exporter.serve_standalone_tcp("127.0.0.1", 0, task_status=task_status, **options)
        finally:
            done.set()

    async with exporter, anyio.create_task_group() as tasks:
        yield exporter, await tasks.start(serve)
        if stop:
            exporter.stop()
        with anyio.fail_after(2 * LIMIT):
            await done.wait()


@asynccontextmanager
async def stub_of(port: int) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield jumpstarter_pb2_grpc.ExporterServiceStub(channel)


async def reach(stub: Any, wanted: str) -> str:
    """Ask for the status until it is the wanted one; return the message."""
    with anyio.fail_after(LIMIT):
        while True:
            answer = await stub.GetStatus(jumpstarter_pb2.GetStatusRequest())
            if ExporterStatus.from_proto(answer.status).name == wanted:
                return answer.message
            await anyio.sleep(0.01)


async def echo(stub: Any) -> grpc.StatusCode:
    report = await stub.GetReport(empty_pb2.Empty())
    call = stub.DriverCall(
        jumpstarter_pb2.DriverCallRequest(uuid=report.reports[0].uuid, method="echo", args=[{"bool_value": True}])
    )
    return await call.code()


async def test_clients_connect_with_tls_and_the_passphrase(certificate: Any):
    credentials = grpc.ssl_server_credentials([(certificate.key, certificate.chain)])
    async with (
        standalone(tls_credentials=credentials, interceptors=[PassphraseInterceptor(SECRET)]) as (_, port),
        BlockingPortal() as portal,
    ):
        with ExitStack() as stack:
            async with client_from_path(
                f"127.0.0.1:{port}",
                portal,
                stack,
                allow=[],
                unsafe=True,
                tls_config=TLSConfigV1Alpha1(ca=certificate.ca),
                passphrase=SECRET,
            ) as client:
                assert await client.call_async("echo", "hello") == "hello"
                assert await client.get_status_async() is ExporterStatus.LEASE_READY


async def test_a_client_without_the_passphrase_is_told_what_is_missing(certificate: Any):
    credentials = grpc.ssl_server_credentials([(certificate.key, certificate.chain)])
    async with (
        standalone(tls_credentials=credentials, interceptors=[PassphraseInterceptor(SECRET)]) as (_, port),
        BlockingPortal() as portal,
    ):
        with ExitStack() as stack, pytest.raises(DriverError, match="passphrase"):
            async with client_from_path(
                f"127.0.0.1:{port}",
                portal,
                stack,
                allow=[],
                unsafe=True,
                tls_config=TLSConfigV1Alpha1(ca=certificate.ca),
            ):
                raise AssertionError("it got in")


async def test_clients_wait_for_the_hook_and_the_hook_runs_behind_the_passphrase(tmp_path: Path):
    """The script uses the drivers by its own socket, which asks for no passphrase."""
    script = tmp_path / "hook.py"
    script.write_text(
        "import os, grpc\n"
        "from google.protobuf import empty_pb2\n"
        "from jumpstarter_protocol import jumpstarter_pb2 as pb, jumpstarter_pb2_grpc\n"
        "with grpc.insecure_channel('unix://' + os.environ['JUMPSTARTER_HOST']) as channel:\n"
        "    stub = jumpstarter_pb2_grpc.ExporterServiceStub(channel)\n"
        "    report = stub.GetReport(empty_pb2.Empty()).reports[0]\n"
        "    stub.DriverCall(pb.DriverCallRequest(uuid=report.uuid, method='echo', args=[{'bool_value': True}]))\n"
        f"open({str(tmp_path / 'used')!r}, 'w').close()\n"
    )
    executor = hooks({"script": str(script), "onFailure": "exit"})
    async with standalone(executor) as (exporter, port), stub_of(port) as stub:
        assert await echo(stub) is grpc.StatusCode.FAILED_PRECONDITION  # the hook takes far longer to start
        await reach(stub, "LEASE_READY")
        assert await echo(stub) is grpc.StatusCode.OK
        assert exporter.exit_code is None
    assert (tmp_path / "used").exists()


async def test_ending_the_session_runs_the_hook_and_makes_ready_for_the_next_client(tmp_path: Path):
    log = tmp_path / "log"
    executor = hooks({"script": f"echo before >> {log}"}, {"script": f"echo after >> {log}"})
    async with standalone(executor) as (_, port), stub_of(port) as stub:
        for _ in range(2):
            await reach(stub, "LEASE_READY")
            assert await echo(stub) is grpc.StatusCode.OK
            assert (await stub.EndSession(jumpstarter_pb2.EndSessionRequest())).success
            await reach(stub, "AVAILABLE")
        await reach(stub, "LEASE_READY")
    assert log.read_text().split() == ["before", "after"] * 3


async def test_ending_the_session_without_hooks_makes_ready_again():
    async with standalone() as (_, port), stub_of(port) as stub:
        await reach(stub, "LEASE_READY")
        assert (await stub.EndSession(jumpstarter_pb2.EndSessionRequest())).success
        await reach(stub, "AVAILABLE")
        await reach(stub, "LEASE_READY")
        assert await echo(stub) is grpc.StatusCode.OK


async def test_a_stop_runs_the_hook_once_with_clients_kept_out(tmp_path: Path):
    log = tmp_path / "log"
    async with standalone(hooks(after={"script": f"echo after >> {log}"})) as (_, port), stub_of(port) as stub:
        await reach(stub, "LEASE_READY")
    assert log.read_text().split() == ["after"]


@pytest.mark.parametrize("on_failure", ["endLease", "exit"])
async def test_a_failed_preparation_ends_the_exporter_with_a_failure(on_failure: str):
    executor = hooks({"script": "sleep 0.3; exit 3", "onFailure": on_failure})
    async with standalone(executor, stop=False) as (exporter, port), stub_of(port) as stub:
        assert "exit code 3" in await reach(stub, "BEFORE_LEASE_HOOK_FAILED")
    assert exporter.exit_code == 1


async def test_an_address_that_is_taken_is_an_error_that_names_it():
    exporter = Exporter(channel_factory=no_controller, device_factory=Lamp)
    async with standalone() as (_, port), exporter:
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            await exporter.serve_standalone_tcp("127.0.0.1", port)


async def test_a_stop_after_the_lease_is_immediate():
    async with standalone(stop=False) as (exporter, port), stub_of(port) as stub:
        await reach(stub, "LEASE_READY")
        exporter.stop(wait_for_lease_exit=True)
