"""Exporters against a controller and a router over TLS: whole leases, failures, losses, and stops at every moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import grpc
import pytest
from google.protobuf import empty_pb2
from jumpstarter_protocol import client_pb2, client_pb2_grpc, jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2_grpc

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.router import RouterChannels
from jumpstarter.common.serde import decode_value, write_value
from jumpstarter.common.tempfile import TemporaryUnixListener
from jumpstarter.config.exporter import HookConfigV1Alpha1
from jumpstarter.config.serving import controller_channel
from jumpstarter.config.tls import TLSConfigV1Alpha1
from jumpstarter.driver import Driver, export
from jumpstarter.exporter import Exporter, controller_host
from jumpstarter.exporter import lease_runner as lease_runner_module
from jumpstarter.exporter.backoff import Backoff
from jumpstarter.exporter.controller import Refused
from jumpstarter.exporter.hooks import HookExecutor
from jumpstarter.exporter.lease_machine import State

LIMIT = 8
BOARD = "rpi"
NAMES = {value: value.name for value in ExporterStatus}


class Lamp(Driver):
    """Counts its lives."""

    made = closed = 0

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: Any) -> Any:
        return value

    def close(self) -> None:
        type(self).closed += 1
        super().close()


@pytest.fixture
def lamp() -> type[Lamp]:
    class Counted(Lamp):
        made = closed = 0

        def __post_init__(self) -> None:
            super().__post_init__()
            type(self).made += 1

    return Counted


async def until(lab: Any, condition: Callable[[], bool]) -> None:
    """Wait for something that the controller is told of."""
    with anyio.fail_after(LIMIT):
        while True:
            news = lab.controller.news
            if condition():
                return
            await news.wait()


def statuses(lab: Any) -> list[str]:
    return [ExporterStatus.from_proto(report.status).name for report in lab.controller.reported]


def hooks(before: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> HookExecutor:
    return HookExecutor(config=HookConfigV1Alpha1.model_validate({"beforeLease": before, "afterLease": after}))


def make_exporter(lab: Any, device: Callable[[], Driver], **changes: Any) -> Exporter:
    tls = TLSConfigV1Alpha1(ca=lab.certificate.ca)
    config = SimpleNamespace(
        kind="ExporterConfig",
        path=None,
        endpoint=lab.endpoint,
        token="exporter-token",
        metadata=SimpleNamespace(namespace="lab", name=BOARD),
        tls=tls,
        grpcOptions=None,
    )
    values: dict[str, Any] = {
        "channel_factory": lambda: controller_channel("Exporter", config),
        "device_factory": device,
        "labels": {"jumpstarter.dev/name": BOARD},
        "tls": tls,
        "show_time": 0.05,
    }
    exporter = Exporter(**(values | changes))
    exporter._controller.backoff = lambda: Backoff(base=0.01, cap=0.05)
    return exporter


@asynccontextmanager
async def serving(lab: Any, device: Callable[[], Driver] = Lamp, **changes: Any) -> AsyncIterator[Exporter]:
    """An exporter that is registered and serves until the body is over."""
    exporter = make_exporter(lab, device, **changes)
    done = anyio.Event()

    async def serve(*, task_status: Any) -> None:
        try:
            await exporter.serve(task_status=task_status)
        finally:
            done.set()

    async with exporter, anyio.create_task_group() as tasks:
        await tasks.start(serve)
        yield exporter
        exporter.stop(should_unregister=True)
        with anyio.fail_after(LIMIT):
            await done.wait()


@dataclass
class Tenant:
    """A client's side of leases, as simple as it can be."""

    lab: Any
    channel: grpc.aio.Channel
    routers: RouterChannels

    @property
    def controller(self) -> Any:
        return jumpstarter_pb2_grpc.ControllerServiceStub(self.channel)

    async def lease(self, name: str = "lease-1") -> str:
        request = client_pb2.CreateLeaseRequest(parent="namespaces/lab", lease_id=name)
        request.lease.exporter_name = BOARD
        request.lease.duration.FromSeconds(600)
        await client_pb2_grpc.ClientServiceStub(self.channel).CreateLease(request, wait_for_ready=True)
        return name

    async def give_back(self, name: str = "lease-1") -> None:
        await client_pb2_grpc.ClientServiceStub(self.channel).DeleteLease(
            client_pb2.DeleteLeaseRequest(name=f"namespaces/lab/leases/{name}"), wait_for_ready=True
        )

    async def dial(self, name: str) -> Any:
        """Dial as soon as the exporter listens."""
        board = self.lab.controller.boards[BOARD]
        await until(self.lab, lambda: board.lease == name and board.listener is not None)
        return await self.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name), wait_for_ready=True)

    @asynccontextmanager
    async def session(self, name: str = "lease-1") -> AsyncIterator[ClientSession]:
        async def bridge(stream: Any) -> None:
            answer = await self.dial(name)
            async with self.routers.connect(answer.router_endpoint, answer.router_token, stream):
                pass

        async with (
            TemporaryUnixListener(bridge) as path,
            grpc.aio.insecure_channel(f"unix://{path}") as channel,
        ):
            yield ClientSession(jumpstarter_pb2_grpc.ExporterServiceStub(channel))


@dataclass
class ClientSession:
    stub: Any

    async def echo(self, value: Any) -> Any:
        with anyio.fail_after(LIMIT):
            report = await self.stub.GetReport(empty_pb2.Empty(), wait_for_ready=True)
            request = jumpstarter_pb2.DriverCallRequest(uuid=report.reports[0].uuid, method="echo")
            write_value(request.args.add(), value)
            return decode_value((await self.stub.DriverCall(request)).result)

    async def status(self) -> tuple[str, str]:
        with anyio.fail_after(LIMIT):
            answer = await self.stub.GetStatus(jumpstarter_pb2.GetStatusRequest(), wait_for_ready=True)
        return ExporterStatus.from_proto(answer.status).name, answer.message

    async def reach(self, *wanted: str) -> tuple[str, str]:
        """Ask for the status until it is one of those wanted, as clients do."""
        with anyio.fail_after(LIMIT):
            while (status := await self.status())[0] not in wanted:  # noqa: ASYNC110 (so do the clients)
                await anyio.sleep(0.01)
        return status

    async def end(self) -> bool:
        return (await self.stub.EndSession(jumpstarter_pb2.EndSessionRequest())).success


@pytest.fixture
async def tenant(lab: Any) -> AsyncIterator[Tenant]:
    config = lab.client("alice")
    async with await controller_channel("Client", config) as channel, RouterChannels(config.tls) as routers:
        yield Tenant(lab, channel, routers)


# -- registration ------------------------------------------------------------------------------------


async def test_an_exporter_registers_its_drivers_and_reports_itself_available(lab: Any, lamp: type[Lamp]):
    async with serving(lab, lambda: lamp(children={"a": lamp()})):
        request = lab.controller.registered[BOARD]
        assert [report.labels["jumpstarter.dev/client"] for report in request.reports] == [
            "jumpstarter.client.DriverClient"
        ] * 2
        assert request.reports[1].parent_uuid == request.reports[0].uuid
        assert dict(request.labels) == {"jumpstarter.dev/name": BOARD, "jumpstarter.dev/roles": "1"}
        await until(lab, lambda: statuses(lab) == ["AVAILABLE"])
    assert statuses(lab) == ["AVAILABLE", "OFFLINE"]
    assert lab.controller.unregistered == [BOARD]
    assert lamp.made == lamp.closed == 2


async def test_a_refused_registration_ends_the_exporter_with_the_reason(lab: Any):
    lab.faults.refuse["Register"].append((grpc.StatusCode.UNAUTHENTICATED, "token is expired"))
    async with make_exporter(lab, Lamp) as exporter:
        with pytest.raises(Refused, match="token is expired") as caught:
            await exporter.serve()
    assert caught.value.status == "UNAUTHENTICATED"
    assert lab.controller.reported == []


@pytest.mark.parametrize("reason", ["ACCOUNT_UNKNOWN", "IDENTITY_MISMATCH"])
async def test_an_exporter_whose_account_is_gone_ends_when_it_starts(lab: Any, reason: str):
    # With the status that published peers know, which says nothing by itself.
    lab.faults.refuse_for("Register", grpc.StatusCode.UNKNOWN, "exporter not found; ask an administrator", reason)
    async with make_exporter(lab, Lamp) as exporter:
        with pytest.raises(Refused, match="turns this exporter away: exporter not found; ask an administrator"):
            await exporter.serve()


async def test_an_exporter_whose_account_is_deleted_ends_after_its_hook(lab: Any, tenant: Tenant, tmp_path: Path):
    executor = hooks(after={"script": f"touch {tmp_path}/after"})
    exporter = make_exporter(lab, Lamp, hook_executor=executor)
    failures: list[Refused] = []
    ended = anyio.Event()

    async def serve(*, task_status: Any) -> None:
        try:
            await exporter.serve(task_status=task_status)
        except Refused as error:
            failures.append(error)
        ended.set()

    async with exporter, anyio.create_task_group() as tasks:
        await tasks.start(serve)
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            lab.faults.refuse_for("Status", grpc.StatusCode.UNKNOWN, "exporter not found", "ACCOUNT_UNKNOWN")
            lab.controller.boards[BOARD].notify()
            with anyio.fail_after(LIMIT):
                await ended.wait()
    assert [error.reason for error in failures] == ["ACCOUNT_UNKNOWN"]
    assert (tmp_path / "after").exists()


async def test_a_registration_that_fails_for_now_is_repeated(lab: Any):
    lab.faults.refuse["Register"] += [(grpc.StatusCode.UNAVAILABLE, "not yet")] * 5
    async with serving(lab):
        assert lab.faults.calls["Register"] == 6


async def test_drivers_that_cannot_be_made_are_never_registered(lab: Any):
    def broken() -> Driver:
        raise ConfigurationError("no such port: /dev/ttyUSB0")

    async with make_exporter(lab, broken) as exporter:
        with pytest.raises(ConfigurationError, match="ttyUSB0"):
            await exporter.serve()
    assert lab.controller.registered == {}


async def test_a_connection_that_is_configured_wrong_ends_the_exporter(lab: Any):
    async def channel() -> Any:
        raise ConfigurationError("tls.ca holds no certificate")

    async with make_exporter(lab, Lamp, channel_factory=channel) as exporter:
        with pytest.raises(ConfigurationError, match="no certificate"):
            await exporter.serve()


async def test_a_session_can_be_served_and_registered_by_hand(lab: Any):
    async with (
        make_exporter(lab, Lamp) as exporter,
        exporter.session() as (session, path),
        grpc.aio.insecure_channel(f"unix://{path}") as channel,
    ):
        assert await ClientSession(jumpstarter_pb2_grpc.ExporterServiceStub(channel)).echo("x") == "x"
        assert lab.controller.registered[BOARD].reports[0].uuid == str(session.root_device.uuid)
    assert lab.controller.unregistered == [BOARD]


# -- leases without hooks ----------------------------------------------------------------------------


async def test_a_lease_is_served_from_grant_to_end(lab: Any, tenant: Tenant, lamp: type[Lamp]):
    async with serving(lab, lamp):
        await tenant.lease()
        async with tenant.session() as session:
            assert await session.echo("hello") == "hello"
            assert await session.status() == ("LEASE_READY", "")
            await tenant.give_back()
            await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
        assert statuses(lab) == ["AVAILABLE", "LEASE_READY", "AVAILABLE"]
        assert lamp.made == lamp.closed == 2  # once for the registration, once for the lease


async def test_the_connections_of_an_ended_lease_are_cut(lab: Any, tenant: Tenant):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            following = session.stub.LogStream(empty_pb2.Empty(), wait_for_ready=True)
            await session.echo(1)
            await tenant.give_back()
            with anyio.fail_after(LIMIT), pytest.raises(grpc.aio.AioRpcError):
                async for _ in following:
                    pass


async def test_a_lease_that_follows_at_once_is_noticed(lab: Any, tenant: Tenant, lamp: type[Lamp]):
    """The controller never says in between that the exporter is free."""
    async with serving(lab, lamp):
        await tenant.lease("lease-1")
        await tenant.lease("lease-2")
        async with tenant.session("lease-1") as session:
            await session.echo(1)
        await tenant.give_back("lease-1")
        async with tenant.session("lease-2") as session:
            assert await session.echo(2) == 2
        assert lamp.made == 3


async def test_many_leases_in_a_row_leave_nothing_behind(lab: Any, tenant: Tenant, lamp: type[Lamp]):
    async with serving(lab, lamp):
        threads = threading.active_count()
        for number in range(10):
            name = await tenant.lease(f"lease-{number}")
            async with tenant.session(name) as session:
                assert await session.echo(number) == number
            await tenant.give_back(name)
        await until(lab, lambda: statuses(lab).count("AVAILABLE") == 11)
        assert lamp.made == lamp.closed == 11
        assert threading.active_count() <= threads + 5


async def test_connections_are_independent_of_each_other(lab: Any, tenant: Tenant):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as one, tenant.session() as other:
            await one.echo(1)
            await other.echo(2)
        async with tenant.session() as third:
            assert await third.echo(3) == 3


async def test_a_connection_that_never_carries_anything_disturbs_nobody(lab: Any, tenant: Tenant):
    """Clients of version 0.9 dial once for nothing."""
    async with serving(lab):
        await tenant.lease()
        await tenant.dial("lease-1")
        async with tenant.session() as session:
            assert await session.echo(1) == 1


async def test_ending_the_session_without_hooks_leaves_the_lease_to_its_client(lab: Any, tenant: Tenant):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            assert await session.end()
            assert (await session.reach("AVAILABLE"))[0] == "AVAILABLE"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await session.echo(2)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
            assert lab.controller.boards[BOARD].lease == "lease-1"
        await tenant.give_back()
        await tenant.lease("lease-2")
        async with tenant.session("lease-2") as session:
            assert await session.echo(3) == 3
    assert lab.faults.calls["ReleaseLease"] == 0


async def announce(lab: Any, token: str) -> None:
    """Have the controller tell the exporter of a connection."""
    await lab.controller.boards[BOARD].listener.send(
        jumpstarter_pb2.ListenResponse(router_endpoint=lab.controller.router_endpoint, router_token=token)
    )


async def test_a_connection_that_is_announced_twice_is_made_once(lab: Any, tenant: Tenant):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as first:
            await first.echo(1)
            await announce(lab, f"stream-{lab.controller.dials}")
            async with tenant.session() as second:
                await second.echo(2)
            assert lab.router.paired == 2
            assert lab.router.waiting == {}
            await first.echo(3)


async def test_a_connection_that_failed_is_tried_anew_when_it_is_announced_again(
    lab: Any, tenant: Tenant, caplog: pytest.LogCaptureFixture
):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            for attempt in (1, 2):
                await announce(lab, "two\nlines")  # which no header can carry
                with anyio.fail_after(LIMIT):
                    while caplog.text.count("a connection failed") < attempt:  # noqa: ASYNC110 (nobody tells)
                        await anyio.sleep(0.01)


async def test_a_client_is_waited_for_again_when_the_router_was_lost_before_it_came(lab: Any, tenant: Tenant):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            lab.router.lose = 1
            await announce(lab, "late")
            with anyio.fail_after(LIMIT):
                while "Bearer late" not in lab.router.waiting:  # noqa: ASYNC110 (nobody tells)
                    await anyio.sleep(0.01)
    assert lab.router.lose == 0


async def test_a_router_that_is_lost_again_and_again_is_given_up(
    lab: Any, tenant: Tenant, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(controller_host, "ATTEMPT_PAUSE", 0.01)
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            lab.router.lose = 10
            await announce(lab, "late")
            with anyio.fail_after(LIMIT):
                while "a connection failed" not in caplog.text:  # noqa: ASYNC110 (nobody tells)
                    await anyio.sleep(0.01)
    assert lab.router.lose == 10 - controller_host.MOST_ATTEMPTS


async def test_a_connection_that_has_been_and_gone_is_no_failure(
    lab: Any, tenant: Tenant, caplog: pytest.LogCaptureFixture
):
    lab.router.used.add("gone")
    with caplog.at_level(logging.DEBUG, "jumpstarter.exporter"):
        async with serving(lab):
            await tenant.lease()
            async with tenant.session() as session:
                await session.echo(1)
                await announce(lab, "gone")
                with anyio.fail_after(LIMIT):
                    while "nobody is there any more" not in caplog.text:  # noqa: ASYNC110 (nobody tells)
                        await anyio.sleep(0.01)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# -- hooks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [0.01, LIMIT], ids=["long", "short"])
async def test_hooks_run_around_a_lease_and_clients_wait_for_the_first(
    lab: Any, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: float
):
    monkeypatch.setattr(lease_runner_module, "HOLD", hold)
    gate = tmp_path / "gate"
    before = {"script": f"mkfifo {gate}; echo started > {tmp_path}/order; cat {gate}; echo before >> {tmp_path}/order"}
    after = {"script": f"echo after >> {tmp_path}/order"}
    async with serving(lab, hook_executor=hooks(before, after)):
        await tenant.lease()
        async with tenant.session() as session, anyio.create_task_group() as tasks:
            answered: list[str] = []

            async def use() -> None:
                answered.append(await session.echo("used"))

            tasks.start_soon(use)
            await until(lab, lambda: statuses(lab)[-1] == "BEFORE_LEASE_HOOK")
            if hold < 1:
                # It is connected, and sees what goes on.
                assert (await session.status())[0] == "BEFORE_LEASE_HOOK"
            else:
                with anyio.fail_after(LIMIT):
                    while lab.controller.dials == 0:  # noqa: ASYNC110 (a dial tells nobody)
                        await anyio.sleep(0.01)
            assert answered == []
            # Opening waits for the script, so it's done off the event loop.
            await anyio.to_thread.run_sync(gate.write_text, "go")
        assert answered == ["used"]
        await tenant.give_back()
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
    assert statuses(lab)[:-1] == ["AVAILABLE", "BEFORE_LEASE_HOOK", "LEASE_READY", "AFTER_LEASE_HOOK", "AVAILABLE"]
    assert (tmp_path / "order").read_text().split() == ["started", "before", "after"]


async def test_ending_the_session_runs_the_hook_and_gives_the_lease_back(lab: Any, tenant: Tenant):
    async with serving(lab, hook_executor=hooks(after={"script": "echo tidy"}), show_time=LIMIT):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            assert await session.end()
            assert (await session.reach("AVAILABLE"))[0] == "AVAILABLE"
            await until(lab, lambda: lab.controller.boards[BOARD].lease is None)
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
    assert lab.faults.calls["ReleaseLease"] == 1
    assert statuses(lab)[:-1] == ["AVAILABLE", "LEASE_READY", "AFTER_LEASE_HOOK", "AVAILABLE"]


@pytest.mark.parametrize("which", ["before", "after"])
async def test_a_failed_hook_that_only_warns_is_shown_to_the_client(lab: Any, tenant: Tenant, which: str):
    executor = hooks(**{which: {"script": "exit 3", "onFailure": "warn"}})
    async with serving(lab, hook_executor=executor, show_time=LIMIT):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            if which == "after":
                await session.end()
            _, message = await session.reach("LEASE_READY" if which == "before" else "AVAILABLE")
            assert message.startswith("[HOOK_WARNING] ")
            assert "exit code 3" in message
        if which == "before":
            await tenant.give_back()
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
        assert lab.controller.reported[-1].message.startswith("[HOOK_WARNING] ") is (which == "after")


async def test_a_client_that_waits_is_told_why_its_lease_ends_before_it_began(lab: Any, tenant: Tenant, tmp_path: Path):
    executor = hooks({"script": "exit 3", "onFailure": "endLease"}, {"script": f"touch {tmp_path}/after"})
    async with serving(lab, hook_executor=executor, show_time=LIMIT):
        await tenant.lease()
        async with tenant.session() as session:
            _, message = await session.reach("BEFORE_LEASE_HOOK_FAILED")
            assert "exit code 3" in message
            # The controller would have refused the client from then on.
            assert "BEFORE_LEASE_HOOK_FAILED" not in statuses(lab)
        await until(lab, lambda: lab.controller.boards[BOARD].lease is None)
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
        assert not (tmp_path / "after").exists()


@pytest.mark.parametrize("which", ["before", "after"])
async def test_a_failed_hook_that_ends_the_exporter_gives_the_lease_back_first(
    lab: Any, tenant: Tenant, which: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease_runner_module, "NOTICE_TIME", 0.1)
    exporter = make_exporter(lab, Lamp, hook_executor=hooks(**{which: {"script": "exit 3", "onFailure": "exit"}}))
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            if which == "after":
                async with tenant.session() as session:
                    await session.echo(1)
                    await session.end()
    failed = "BEFORE_LEASE_HOOK_FAILED" if which == "before" else "AFTER_LEASE_HOOK_FAILED"
    assert statuses(lab)[-2:] == [failed, "OFFLINE"]
    assert exporter.exit_code == 1
    assert lab.controller.unregistered == [BOARD]
    assert lab.controller.boards[BOARD].lease is None


async def test_a_failed_hook_after_the_lease_can_end_the_lease_alone(lab: Any, tenant: Tenant):
    async with serving(lab, hook_executor=hooks(after={"script": "exit 3", "onFailure": "endLease"}), show_time=LIMIT):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            await session.end()
            assert "exit code 3" in (await session.reach("AFTER_LEASE_HOOK_FAILED"))[1]
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
        assert lab.controller.boards[BOARD].lease is None


async def test_a_lease_that_ends_while_it_is_prepared_is_never_ready(lab: Any, tenant: Tenant, tmp_path: Path):
    gate = tmp_path / "gate"
    executor = hooks({"script": f"mkfifo {gate}; cat {gate}"}, {"script": f"touch {tmp_path}/after"})
    async with serving(lab, hook_executor=executor) as exporter:
        await tenant.lease()
        await until(lab, lambda: statuses(lab)[-1] == "BEFORE_LEASE_HOOK")
        await tenant.give_back()
        await state_is(exporter, State.PREPARING_LAST)
        await anyio.to_thread.run_sync(open_when_there, gate)
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
    assert "LEASE_READY" not in statuses(lab)
    assert (tmp_path / "after").exists()


def open_when_there(fifo: Path) -> None:
    """Let a script go on that reads a fifo which it makes first."""
    for _ in range(LIMIT * 100):
        if fifo.exists():
            fifo.write_text("go")
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{fifo} never appeared")


async def state_is(exporter: Exporter, state: State) -> None:
    with anyio.fail_after(LIMIT):
        while exporter._runner is None or exporter._runner.state is not state:  # noqa: ASYNC110 (a state tells nobody)
            await anyio.sleep(0.005)


# -- controllers of other versions -------------------------------------------------------------------


async def test_a_controller_that_cannot_release_is_asked_by_a_status_report(lab: Any, tenant: Tenant):
    lab.faults.refuse["ReleaseLease"].append((grpc.StatusCode.UNIMPLEMENTED, "unknown method"))
    async with serving(lab, hook_executor=hooks(after={"script": "true"})):
        for name in ("lease-1", "lease-2"):
            await tenant.lease(name)
            async with tenant.session(name) as session:
                await session.echo(1)
                await session.end()
            await until(lab, lambda: lab.controller.boards[BOARD].lease is None)
    assert lab.faults.calls["ReleaseLease"] == 1
    assert [report.release_lease for report in lab.controller.reported].count(True) == 2


async def test_a_controller_that_takes_no_status_reports_is_asked_once(lab: Any, tenant: Tenant):
    lab.faults.refuse["ReportStatus"] += [(grpc.StatusCode.UNIMPLEMENTED, "unknown method")] * 100
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            assert await session.echo(1) == 1
        assert lab.faults.calls["ReportStatus"] == 1


async def test_a_lease_that_is_not_ours_any_more_needs_no_release(lab: Any, tenant: Tenant):
    lab.faults.refuse["ReleaseLease"].append((grpc.StatusCode.FAILED_PRECONDITION, "held by another exporter"))
    async with serving(lab, hook_executor=hooks(after={"script": "true"})) as exporter:
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            await session.end()
            await state_is(exporter, State.RELEASING)
        await tenant.give_back()
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")
    assert not any(report.release_lease for report in lab.controller.reported)


async def test_H07_a_status_that_could_not_be_reported_is_repeated(lab: Any):
    lab.faults.refuse["ReportStatus"] += [(grpc.StatusCode.UNAVAILABLE, "busy")] * 3
    async with serving(lab):
        await until(lab, lambda: statuses(lab) == ["AVAILABLE"])
    assert lab.faults.calls["ReportStatus"] == 5  # the last one says that it goes


# -- between leases ----------------------------------------------------------------------------------


async def test_at_a_controller_that_does_not_know_of_draining_the_drivers_are_taken_out_of_the_list(
    lab: Any, tenant: Tenant
):
    async with serving(lab) as exporter:
        await tenant.lease()
        async with tenant.session() as session:
            assert await session.echo(1) == 1
            exporter.drain("maintenance")
            assert await session.echo(2) == 2
            assert lab.controller.unregistered == []
            await tenant.give_back()
            await until(lab, lambda: lab.controller.unregistered == [BOARD])
        assert exporter.draining
        registered = lab.faults.calls["Register"]
        exporter.resume()
        await until(lab, lambda: lab.faults.calls["Register"] == registered + 1)
        await tenant.lease("lease-2")
        async with tenant.session("lease-2") as session:
            assert await session.echo(3) == 3


async def test_an_errand_is_done_between_leases(lab: Any, tenant: Tenant):
    done: list[str] = []
    async with serving(lab) as exporter:
        await tenant.lease()
        async with tenant.session() as session:
            assert await session.echo(1) == 1

            async def errand() -> None:
                done.append(exporter.lease_name)
                await exporter.try_drivers(Lamp)

            exporter.when_free(errand)
            assert await session.echo(2) == 2
            assert done == []
            await tenant.give_back()
        with anyio.fail_after(LIMIT):
            while not done:  # noqa: ASYNC110 (the controller is told nothing)
                await anyio.sleep(0.01)
        assert done == [""]


# -- losses ------------------------------------------------------------------------------------------


OPTIONS = [("grpc.so_reuseport", 0)]


@pytest.fixture
async def servers() -> AsyncIterator[list[Any]]:
    """Servers to stop when all else is over."""
    started: list[Any] = []
    yield started
    for server in started:
        await server.stop(None)


async def serve_again(lab: Any, servers: list[Any], *, router: bool = False) -> None:
    """Start the controller, or the router, anew on the port that it had."""
    server = grpc.aio.server(options=OPTIONS)
    credentials = grpc.ssl_server_credentials([(lab.certificate.key, lab.certificate.chain)])
    if router:
        router_pb2_grpc.add_RouterServiceServicer_to_server(lab.router, server)
        server.add_secure_port(lab.controller.router_endpoint, credentials)
    else:
        jumpstarter_pb2_grpc.add_ControllerServiceServicer_to_server(lab.controller, server)
        client_pb2_grpc.add_ClientServiceServicer_to_server(lab.controller, server)
        server.add_secure_port(lab.endpoint, credentials)
    await server.start()
    servers.append(server)


async def test_a_session_outlives_its_controller(lab: Any, tenant: Tenant, lamp: type[Lamp], servers: list[Any]):
    async with serving(lab, lamp):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo("before")
            await until(lab, lambda: statuses(lab)[-1] == "LEASE_READY")
            await lab.servers[0].stop(None)
            assert await session.echo("without") == "without"
            lab.controller.boards[BOARD].listener = None
            registrations, reports = lab.faults.calls["Register"], len(lab.controller.reported)
            await serve_again(lab, servers)
            # The exporter is back by itself, says again what it has and how it is, and accepts connections.
            await until(lab, lambda: lab.faults.calls["Register"] > registrations)
            await until(lab, lambda: len(lab.controller.reported) > reports)
            assert statuses(lab)[-1] == "LEASE_READY"
            async with tenant.session() as another:
                assert await another.echo("again") == "again"
            assert await session.echo("still") == "still"
            assert lamp.made == 2
            await tenant.give_back()
            await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")


async def test_a_lease_that_ended_while_the_controller_was_away_is_ended_here_too(
    lab: Any, tenant: Tenant, servers: list[Any]
):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
            await lab.servers[0].stop(None)
            lab.controller.end("lease-1")
            await serve_again(lab, servers)
            await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")


async def test_an_exporter_that_starts_before_its_controller_waits_for_it(lab: Any, servers: list[Any]):
    await lab.servers[0].stop(None)
    exporter = make_exporter(lab, Lamp)
    async with exporter, anyio.create_task_group() as tasks:
        tasks.start_soon(exporter.serve)
        await serve_again(lab, servers)
        await until(lab, lambda: statuses(lab) == ["AVAILABLE"])
        exporter.stop()
        with anyio.fail_after(LIMIT):
            await until(lab, lambda: statuses(lab)[-1] == "OFFLINE")


async def test_connections_work_again_after_a_loss_of_the_router(lab: Any, tenant: Tenant, servers: list[Any]):
    async with serving(lab):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
        await lab.servers[1].stop(None)
        lab.router.waiting.clear()
        await serve_again(lab, servers, router=True)
        async with tenant.session() as session:
            assert await session.echo(2) == 2
        await tenant.give_back()
        await until(lab, lambda: statuses(lab)[-1] == "AVAILABLE")


async def test_one_channel_serves_all_connections_to_controller_and_router(lab: Any, tenant: Tenant):
    opened: list[str] = []
    async with serving(lab) as exporter:
        factory = exporter._controller.channel_factory

        async def counted() -> Any:
            opened.append("controller")
            return await factory()

        exporter._controller.channel_factory = counted
        await tenant.lease()
        for _ in range(3):
            async with tenant.session() as session:
                await session.echo(1)
        assert opened == []  # the one of the registration does
        assert [len(group) for group in exporter._routers._channels.values()] == [1]


async def test_a_router_that_cannot_be_reached_fails_its_connection_alone(
    lab: Any, tenant: Tenant, caplog: pytest.LogCaptureFixture
):
    async with serving(lab) as exporter:
        exporter._routers.connect_timeout = 0.2
        await tenant.lease()
        real, lab.controller.router_endpoint = lab.controller.router_endpoint, "127.0.0.1:1"
        with caplog.at_level(logging.WARNING, "jumpstarter.exporter"):
            await tenant.dial("lease-1")
            lab.controller.router_endpoint = real
            async with tenant.session() as session:
                assert await session.echo(1) == 1
            with anyio.fail_after(LIMIT):
                while "the router at 127.0.0.1:1 can't be reached" not in caplog.text:  # noqa: ASYNC110 (a log tells nobody)
                    await anyio.sleep(0.01)


# -- failing drivers ---------------------------------------------------------------------------------


async def test_drivers_that_fail_at_a_lease_end_it_and_the_exporter(lab: Any, tenant: Tenant):
    made = 0

    def device() -> Driver:
        nonlocal made
        made += 1
        if made > 1:
            raise OSError("the probe is gone")
        return Lamp()

    exporter = make_exporter(lab, device)
    with anyio.fail_after(LIMIT):
        async with exporter:
            with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 (the group raises it)
                async with anyio.create_task_group() as tasks:
                    await tasks.start(exporter.serve)
                    await tenant.lease()
    assert caught.group_contains(OSError, match="the probe is gone", depth=1)
    assert exporter.exit_code == 1
    assert statuses(lab)[-2:] == ["BEFORE_LEASE_HOOK_FAILED", "OFFLINE"]
    assert "the probe is gone" in lab.controller.reported[-2].message
    assert lab.controller.boards[BOARD].lease is None
    assert lab.controller.unregistered == [BOARD]


async def test_drivers_that_never_close_end_the_exporter(
    lab: Any, tenant: Tenant, lamp: type[Lamp], monkeypatch: pytest.MonkeyPatch
):
    from jumpstarter.exporter import exporter as exporter_module

    release = threading.Event()

    class Stuck(Lamp):
        def close(self) -> None:
            release.wait(LIMIT)

    devices = [Lamp, Stuck]
    exporter = make_exporter(lab, lambda: devices.pop(0)())
    try:
        with anyio.fail_after(LIMIT):
            async with exporter:
                with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 (the group raises it)
                    async with anyio.create_task_group() as tasks:
                        await tasks.start(exporter.serve)
                        monkeypatch.setattr(exporter_module, "CLOSE_TIMEOUT", 0.1)
                        await tenant.lease()
                        async with tenant.session() as session:
                            await session.echo(1)
                        await tenant.give_back()
    finally:
        release.set()
    assert caught.group_contains(TimeoutError, match="did not close", depth=1)
    assert exporter.exit_code == 1
    assert statuses(lab)[-1] == "OFFLINE"


# -- stops -------------------------------------------------------------------------------------------


async def test_a_stop_while_the_controller_cannot_be_reached_ends_at_once(lab: Any):
    await lab.servers[0].stop(None)
    exporter = make_exporter(lab, Lamp)
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            tasks.start_soon(exporter.serve)
            await anyio.lowlevel.checkpoint()
            exporter.stop(should_unregister=True)
    assert exporter.exit_code is None


@pytest.mark.parametrize("state", [State.OPENING, State.PREPARING, State.READY, State.CLEANING, State.ENDED])
async def test_a_stop_in_any_state_of_a_lease_closes_the_drivers_and_says_goodbye(
    lab: Any, tenant: Tenant, lamp: type[Lamp], tmp_path: Path, state: State
):
    gate = tmp_path / "gate"
    held = threading.Event()
    waiting = {"script": f"mkfifo {gate}; cat {gate}"}
    executor = {State.PREPARING: hooks(waiting, None), State.CLEANING: hooks(None, waiting)}.get(state)
    made = 0

    def device() -> Driver:
        nonlocal made
        made += 1
        if made > 1 and state is State.OPENING:
            held.wait(LIMIT)
        return lamp()

    exporter = make_exporter(lab, device, hook_executor=executor)
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            if state in (State.CLEANING, State.ENDED):
                async with tenant.session() as session:
                    await session.echo(1)
                    await session.end()
            await state_is(exporter, state)
            exporter.stop(should_unregister=True)
            held.set()
            if executor is not None:
                await anyio.to_thread.run_sync(open_when_there, gate)
    assert lamp.made == lamp.closed == 2
    assert statuses(lab)[-1] == "OFFLINE"
    assert lab.controller.unregistered == [BOARD]
    assert lab.controller.boards[BOARD].lease == "lease-1"  # a stop is no reason to take the lease away


async def test_a_stop_while_the_lease_is_given_back_does_not_wait_for_the_controller(lab: Any, tenant: Tenant):
    lab.faults.hold["ReleaseLease"] = anyio.Event()
    lab.faults.refuse["ReleaseLease"] += [(grpc.StatusCode.UNAVAILABLE, "busy")] * 10000
    exporter = make_exporter(lab, Lamp, hook_executor=hooks(after={"script": "true"}))
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            async with tenant.session() as session:
                await session.echo(1)
                await session.end()
                await state_is(exporter, State.RELEASING)
            exporter.stop()
    assert statuses(lab)[-1] == "OFFLINE"
    assert lab.controller.unregistered == []


async def test_a_second_stop_does_not_wait_for_the_hook(lab: Any, tenant: Tenant, tmp_path: Path):
    executor = hooks({"script": "sleep 1000", "timeout": 1000}, {"script": f"touch {tmp_path}/after"})
    exporter = make_exporter(lab, Lamp, hook_executor=executor)
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            await state_is(exporter, State.PREPARING)
            exporter.stop()
            await state_is(exporter, State.PREPARING_LAST)
            exporter.stop()
    assert not (tmp_path / "after").exists()


async def test_a_stop_runs_the_hook_that_tidies_up(lab: Any, tenant: Tenant, tmp_path: Path):
    async with serving(lab, hook_executor=hooks(after={"script": f"touch {tmp_path}/after"})):
        await tenant.lease()
        async with tenant.session() as session:
            await session.echo(1)
    assert (tmp_path / "after").exists()


async def test_a_stop_after_the_lease_waits_for_its_end(lab: Any, tenant: Tenant):
    exporter = make_exporter(lab, Lamp)
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            async with tenant.session() as session:
                await session.echo(1)
                exporter.stop(wait_for_lease_exit=True)
                assert await session.echo(2) == 2
            await tenant.give_back()
    assert statuses(lab) == ["AVAILABLE", "LEASE_READY", "OFFLINE"]
    assert lab.controller.unregistered == []


async def test_a_stop_after_the_lease_without_one_is_immediate(lab: Any):
    exporter = make_exporter(lab, Lamp)
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            exporter.stop(wait_for_lease_exit=True)


async def test_an_exporter_for_one_lease_ends_with_it(lab: Any, tenant: Tenant):
    exporter = make_exporter(lab, Lamp, exit_on_lease_end=True)
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            async with tenant.session() as session:
                await session.echo(1)
            await tenant.give_back()
    assert exporter.exit_code is None


async def test_a_cancelled_exporter_closes_everything_and_says_goodbye(lab: Any, tenant: Tenant, lamp: type[Lamp]):
    exporter = make_exporter(lab, lamp, hook_executor=hooks({"script": "sleep 1000", "timeout": 1000}))
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            await state_is(exporter, State.PREPARING)
            tasks.cancel_scope.cancel()
    assert lamp.made == lamp.closed == 2
    assert statuses(lab)[-1] == "OFFLINE"
    assert lab.controller.unregistered == [BOARD]


async def test_goodbye_to_a_controller_that_is_gone_is_bounded(lab: Any, monkeypatch: pytest.MonkeyPatch):
    from jumpstarter.exporter import exporter as exporter_module

    monkeypatch.setattr(exporter_module, "FAREWELL_TIMEOUT", 0.2)
    exporter = make_exporter(lab, Lamp)
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await lab.servers[0].stop(None)
            exporter.stop(should_unregister=True)


async def test_a_controller_that_never_answers_the_goodbye_is_left_behind(lab: Any, monkeypatch: pytest.MonkeyPatch):
    from jumpstarter.exporter import exporter as exporter_module

    monkeypatch.setattr(exporter_module, "FAREWELL_TIMEOUT", 0.2)
    lab.faults.hold["Unregister"] = anyio.Event()
    returned = []
    async with make_exporter(lab, Lamp) as exporter, anyio.create_task_group() as tasks:

        async def serve(*, task_status: Any) -> None:
            await exporter.serve(task_status=task_status)
            returned.append(True)

        await tasks.start(serve)
        exporter.stop(should_unregister=True)
    assert returned


async def test_a_failed_exporter_does_not_wait_for_a_controller_that_is_gone(
    lab: Any, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
):
    from jumpstarter.exporter import exporter as exporter_module

    monkeypatch.setattr(lease_runner_module, "EXIT_PATIENCE", 0.1)
    monkeypatch.setattr(exporter_module, "FAREWELL_TIMEOUT", 0.2)
    exporter = make_exporter(lab, Lamp, hook_executor=hooks(after={"script": "exit 1", "onFailure": "exit"}))
    with anyio.fail_after(LIMIT):
        async with exporter, anyio.create_task_group() as tasks:
            await tasks.start(exporter.serve)
            await tenant.lease()
            async with tenant.session() as session:
                await session.echo(1)
                await lab.servers[0].stop(None)
                await session.end()
    assert exporter.exit_code == 1
