"""What is counted of the use of a lease, and how it is reported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import grpc
import pytest
from jumpstarter_protocol import lab_pb2, lab_pb2_grpc

from .backoff import Backoff
from .controller import Controller
from .use_reporter import UseReporter
from .uses import MOST_KINDS, Uses

LIMIT = 8


def test_equal_uses_are_one_with_a_count() -> None:
    uses = Uses()
    for _ in range(3):
        uses.begin()
        uses.end("alice", "u", "on", "call")
    uses.begin()
    uses.end("alice", "u", "on", "call", "NOT_FOUND")
    found, dropped = uses.take()
    assert [(use.outcome, use.count) for use in found] == [("OK", 3), ("NOT_FOUND", 1)]
    assert dropped == 0
    assert uses.take() == ([], 0)


def test_more_kinds_of_use_than_fit_are_counted_as_dropped() -> None:
    uses = Uses()
    for number in range(MOST_KINDS + 5):
        uses.begin()
        uses.end("alice", "u", f"method-{number}", "call")
    found, dropped = uses.take()
    assert (len(found), dropped) == (MOST_KINDS, 5)


async def test_who_rests_is_woken_by_the_next_use_alone() -> None:
    uses = Uses()
    uses.begin()
    event = uses.rest()
    assert not event.is_set()
    uses.begin()
    assert event.is_set()


class Recorder(lab_pb2_grpc.LabServiceServicer):
    """A controller that takes reports, or refuses them in turn."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.refuse: list[grpc.StatusCode] = []

    async def ReportUse(self, request: Any, context: Any) -> Any:
        self.reports.append(request)
        if self.refuse:
            await context.abort(self.refuse.pop(0), "not now")
        answer = lab_pb2.ReportUseResponse()
        answer.interval.FromMilliseconds(200)
        return answer


@pytest.fixture
async def recorder(one_loop: None) -> AsyncIterator[tuple[Recorder, Controller]]:
    server, recorder = grpc.aio.server(), Recorder()
    lab_pb2_grpc.add_LabServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def channel() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    controller = Controller(channel_factory=channel, backoff=lambda: Backoff(base=0.01, cap=0.05))
    yield recorder, controller
    await controller.aclose()
    await server.stop(None)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():  # noqa: ASYNC110 (what is waited for tells nobody)
            await anyio.sleep(0.01)


def reporter_of(controller: Controller, uses: Uses) -> UseReporter:
    return UseReporter(controller=controller, lease_name="x", uses=uses, names={"u": "board.power"}, gap=0.02)


async def test_a_lease_that_nobody_uses_is_not_reported(recorder: tuple[Recorder, Controller]) -> None:
    service, controller = recorder
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporter_of(controller, Uses()).run)
        await anyio.sleep(0.3)
        tasks.cancel_scope.cancel()
    assert service.reports == []


async def test_use_is_reported_while_it_lasts_and_once_when_it_is_over(recorder: tuple[Recorder, Controller]) -> None:
    service, controller = recorder
    uses = Uses()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporter_of(controller, uses).run)
        uses.begin()
        await until(lambda: len(service.reports) >= 3)
        assert all(report.in_use and not report.uses for report in service.reports)
        uses.end("alice", "u", "connect", "stream")
        await until(lambda: not service.reports[-1].in_use)
        count = len(service.reports)
        await anyio.sleep(0.5)
        assert len(service.reports) == count
        tasks.cancel_scope.cancel()
    (use,) = service.reports[-1].uses
    assert (use.client, use.driver, use.method, use.kind, use.outcome, use.count) == (
        "alice",
        "board.power",
        "connect",
        "stream",
        "OK",
        1,
    )
    assert use.time.seconds > 0


async def test_a_report_that_got_lost_is_repeated_with_its_number(recorder: tuple[Recorder, Controller]) -> None:
    service, controller = recorder
    service.refuse = [grpc.StatusCode.UNAVAILABLE] * 2
    uses = Uses()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporter_of(controller, uses).run)
        uses.begin()
        uses.end("alice", "u", "on", "call")
        await until(lambda: len(service.reports) >= 3)
        tasks.cancel_scope.cancel()
    assert len({report.sequence for report in service.reports[:3]}) == 1
    assert [use.count for report in service.reports[:3] for use in report.uses] == [1, 1, 1]


async def test_a_controller_that_takes_no_reports_is_asked_once(recorder: tuple[Recorder, Controller]) -> None:
    service, controller = recorder
    service.refuse = [grpc.StatusCode.UNIMPLEMENTED]
    uses = Uses()
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporter_of(controller, uses).run)
            uses.begin()
    await reporter_of(controller, uses).finish()
    assert len(service.reports) == 1


async def test_the_end_of_a_lease_reports_what_is_left(recorder: tuple[Recorder, Controller]) -> None:
    service, controller = recorder
    uses = Uses()
    uses.begin()
    uses.end("alice", "u", "on", "call")
    await reporter_of(controller, uses).finish()
    assert [use.method for use in service.reports[0].uses] == ["on"]


async def test_numbers_go_on_in_an_exporter_that_was_started_anew(recorder: tuple[Recorder, Controller]) -> None:
    service, controller = recorder
    for _ in range(2):
        uses = Uses()
        uses.begin()
        await reporter_of(controller, uses).finish()
        await anyio.sleep(0.01)
    assert service.reports[0].sequence < service.reports[1].sequence
