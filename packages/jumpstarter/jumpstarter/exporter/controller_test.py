"""How an exporter waits before it tries again, and which of its statuses it reports."""

from __future__ import annotations

from typing import Any

import anyio
import grpc
import pytest

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.exporter.backoff import BASE, CAP, Backoff
from jumpstarter.exporter.controller import Controller, Refused, StatusReporter, Transient

LIMIT = 8


def test_waits_double_up_to_a_bound_and_begin_anew_after_a_success():
    backoff = Backoff(base=1, cap=5, chance=lambda: 0)
    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next() == 1


def test_waits_differ_by_up_to_a_half():
    assert Backoff(base=4, chance=lambda: 1).next() == 2
    assert Backoff(base=4, chance=lambda: 0.5).next() == 3


def test_an_exporter_is_back_within_half_a_minute_however_long_it_waited():
    backoff = Backoff()
    waits = [backoff.next() for _ in range(5000)]
    assert max(waits) <= CAP <= 30
    assert waits[0] <= BASE


class Recorder(Controller):
    """A controller whose answers are given one by one."""

    def __init__(self, *answers: Exception | None) -> None:
        super().__init__(channel_factory=self.none, backoff=lambda: Backoff(base=0.001, cap=0.001))
        self.answers = list(answers)
        self.asked: list[str] = []
        self.gate = anyio.Event()
        self.gate.set()
        self.entered = anyio.Event()

    async def none(self) -> Any:
        raise AssertionError("nothing is to be sent")

    async def report_status(self, status: ExporterStatus, message: str) -> None:
        self.asked.append(status.name)
        self.entered.set()
        await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer


async def report(controller: Recorder, *given: ExporterStatus) -> StatusReporter:
    reporter = StatusReporter(controller=controller)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporter.run)
            for status in given:
                reporter.report(status)
                await reporter.settle()
            tasks.cancel_scope.cancel()
    return reporter


async def test_each_status_is_reported_once():
    controller = Recorder()
    await report(controller, ExporterStatus.AVAILABLE, ExporterStatus.AVAILABLE, ExporterStatus.LEASE_READY)
    assert controller.asked == ["AVAILABLE", "LEASE_READY"]


async def test_a_status_is_repeated_until_it_was_taken():
    controller = Recorder(Transient("busy"), Transient("busy"))
    await report(controller, ExporterStatus.AVAILABLE)
    assert controller.asked == ["AVAILABLE"] * 3


async def test_an_outdated_status_is_left_out_and_none_overtakes_another():
    controller = Recorder()
    controller.gate = anyio.Event()
    reporter = StatusReporter(controller=controller)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporter.run)
            reporter.report(ExporterStatus.BEFORE_LEASE_HOOK)
            await controller.entered.wait()
            reporter.report(ExporterStatus.LEASE_READY)
            reporter.report(ExporterStatus.AFTER_LEASE_HOOK)
            assert controller.asked == ["BEFORE_LEASE_HOOK"]
            controller.gate.set()
            await reporter.settle()
            tasks.cancel_scope.cancel()
    assert controller.asked == ["BEFORE_LEASE_HOOK", "AFTER_LEASE_HOOK"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, ["AVAILABLE"]),
        (grpc.StatusCode.PERMISSION_DENIED, ["AVAILABLE", "LEASE_READY"]),
    ],
)
async def test_a_refusal_ends_all_reports_only_when_they_are_unknown(code: grpc.StatusCode, expected: list[str]):
    controller = Recorder(Refused("no", code))
    await report(controller, ExporterStatus.AVAILABLE, ExporterStatus.LEASE_READY)
    assert controller.asked == expected
