"""Following the status of a session: changes, waiting, and exporters that don't answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from anyio import Event, create_task_group, fail_after
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc

from jumpstarter.client import status_monitor
from jumpstarter.client.status_monitor import StatusMonitor
from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.tempfile import TemporarySocket
from jumpstarter.driver import Driver
from jumpstarter.exporter.session import Session

BOUND = 10
READY, AVAILABLE = ExporterStatus.LEASE_READY, ExporterStatus.AVAILABLE


class Nothing(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"


@asynccontextmanager
async def stub_of(path: Any) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix://{path}") as channel:
        yield jumpstarter_pb2_grpc.ExporterServiceStub(channel)


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    with Session(root_device=Nothing()) as running:
        async with running.serve_unix_async() as path:
            running.path = path  # type: ignore[attr-defined]
            yield running


@pytest.fixture
async def monitor(session: Session) -> AsyncIterator[StatusMonitor]:
    async with stub_of(session.path) as stub, StatusMonitor(stub, poll_interval=0.02) as running:  # type: ignore[attr-defined]
        yield running


async def test_status_is_known_before_long(monitor: StatusMonitor) -> None:
    assert await monitor.wait_for_status(AVAILABLE, timeout=BOUND)
    assert (monitor.current_status, monitor.status_version, monitor.connection_lost) == (AVAILABLE, 0, False)


async def test_change_is_seen_with_its_message(monitor: StatusMonitor, session: Session) -> None:
    await monitor.wait_for_status(AVAILABLE, timeout=BOUND)
    session.update_status(ExporterStatus.BEFORE_LEASE_HOOK, "cleaning")
    assert await monitor.wait_for_any_of([READY, ExporterStatus.BEFORE_LEASE_HOOK], timeout=BOUND) == (
        ExporterStatus.BEFORE_LEASE_HOOK
    )
    assert (monitor.status_message, monitor.previous_status, monitor.status_version) == ("cleaning", AVAILABLE, 1)


async def test_changes_between_two_questions_are_counted(monitor: StatusMonitor, session: Session) -> None:
    await monitor.wait_for_status(AVAILABLE, timeout=BOUND)
    session.update_status(ExporterStatus.BEFORE_LEASE_HOOK)
    session.update_status(ExporterStatus.LEASE_READY)
    session.update_status(ExporterStatus.AFTER_LEASE_HOOK)
    await monitor.wait_for_status(ExporterStatus.AFTER_LEASE_HOOK, timeout=BOUND)
    assert monitor.missed_transitions == 2


async def test_callbacks_are_told_and_a_failing_one_harms_nobody(
    monitor: StatusMonitor, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    done = Event()

    async def fail(new: ExporterStatus, old: ExporterStatus | None) -> None:
        raise RuntimeError("cannot beep")

    async def note(new: ExporterStatus, old: ExporterStatus | None) -> None:
        told.append((new, old))
        if new is READY:
            done.set()

    await monitor.wait_for_status(AVAILABLE, timeout=BOUND)
    monitor.on_status_change(fail)
    monitor.on_status_change(note)
    session.update_status(READY)
    with fail_after(BOUND):
        await done.wait()
    assert told == [(READY, AVAILABLE)]
    assert "cannot beep" in caplog.text


async def test_waiting_ends_in_time(monitor: StatusMonitor) -> None:
    assert not await monitor.wait_for_status(ExporterStatus.OFFLINE, timeout=0.1)
    assert await monitor.wait_for_any_of([ExporterStatus.OFFLINE], timeout=0.1) is None


async def test_waiter_is_not_kept_by_a_monitor_that_is_idle(monitor: StatusMonitor, session: Session) -> None:
    session.update_status(READY)
    await monitor.wait_for_status(READY, timeout=BOUND)
    async with create_task_group() as tg:

        async def wait() -> None:
            with fail_after(status_monitor.IDLE_INTERVAL / 2):
                assert await monitor.wait_for_status(ExporterStatus.AFTER_LEASE_HOOK)

        tg.start_soon(wait)
        session.update_status(ExporterStatus.AFTER_LEASE_HOOK)


async def test_start_and_stop_with_a_task_group_of_the_caller(session: Session) -> None:
    async with stub_of(session.path) as stub, create_task_group() as tg:  # type: ignore[attr-defined]
        monitor = StatusMonitor(stub, poll_interval=0.02)
        await monitor.start(tg)
        assert await monitor.wait_for_status(AVAILABLE, timeout=BOUND)
        await monitor.stop()
        await monitor.stop()


# -- exporters that don't answer -----------------------------------------------------------------


class Answering(jumpstarter_pb2_grpc.ExporterServiceServicer):
    """Answers with the errors that it was given, then with AVAILABLE."""

    def __init__(self, *errors: grpc.StatusCode) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def GetStatus(self, request: Any, context: Any) -> Any:
        self.asked += 1
        if self.errors:
            await context.abort(self.errors.pop(0), "refused")
        return jumpstarter_pb2.GetStatusResponse(status=2)


@asynccontextmanager
async def monitor_of(servicer: Any) -> AsyncIterator[StatusMonitor]:
    server = grpc.aio.server()
    jumpstarter_pb2_grpc.add_ExporterServiceServicer_to_server(servicer, server)
    with TemporarySocket() as path:
        server.add_insecure_port(f"unix://{path}")
        await server.start()
        try:
            async with stub_of(path) as stub, StatusMonitor(stub, poll_interval=0.01) as monitor:
                yield monitor
        finally:
            await server.stop(None)


async def test_exporter_without_a_status_counts_as_ready() -> None:
    async with monitor_of(Answering(grpc.StatusCode.UNIMPLEMENTED)) as monitor:
        assert await monitor.wait_for_status(READY, timeout=BOUND)
        assert not monitor.connection_lost


async def test_exporter_that_is_known_to_have_no_status_is_not_asked() -> None:
    servicer = Answering()
    async with monitor_of(servicer) as asking:
        known = StatusMonitor(asking._stub, get_status_unsupported=True)
        async with known:
            assert await known.wait_for_status(READY, timeout=BOUND)
            assert known.current_status is READY


async def test_exporter_that_is_away_for_a_while_is_asked_again() -> None:
    async with monitor_of(Answering(*[grpc.StatusCode.UNAVAILABLE] * 3)) as monitor:
        assert await monitor.wait_for_status(AVAILABLE, timeout=BOUND)


async def test_exporter_that_refuses_is_lost_and_releases_those_who_wait() -> None:
    async with monitor_of(Answering(grpc.StatusCode.INTERNAL)) as monitor:
        with fail_after(BOUND):
            assert await monitor.wait_for_any_of([READY]) is None
        assert monitor.connection_lost


async def test_exporter_that_never_answers_in_time_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_monitor, "LOST_AFTER", 3)
    servicer = Answering(*[grpc.StatusCode.DEADLINE_EXCEEDED] * 3)
    async with monitor_of(servicer) as monitor:
        with fail_after(BOUND):
            assert await monitor.wait_for_any_of([READY]) is None
    assert (monitor.connection_lost, servicer.asked) == (True, 3)


async def test_answer_after_some_delays_starts_the_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_monitor, "LOST_AFTER", 3)
    async with monitor_of(Answering(*[grpc.StatusCode.DEADLINE_EXCEEDED] * 2)) as monitor:
        assert await monitor.wait_for_status(AVAILABLE, timeout=BOUND)
        assert not monitor.connection_lost
