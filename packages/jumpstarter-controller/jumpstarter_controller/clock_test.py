"""The clock of a lab: never steps while leases run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from . import clock as module
from .clock import ManualClock, SystemClock


class _System:
    """The clocks of a machine, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.day = datetime(2026, 3, 1, tzinfo=UTC)
        self.steady = 100.0
        monkeypatch.setattr(module, "_steady", lambda: self.steady)
        monkeypatch.setattr(module, "datetime", self)

    def now(self, zone: object) -> datetime:
        return self.day

    def passes(self, seconds: float) -> None:
        self.day += timedelta(seconds=seconds)
        self.steady += seconds


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> _System:
    return _System(monkeypatch)


def test_the_time_passes_as_it_does(system: _System) -> None:
    clock = SystemClock()
    system.passes(10)
    assert clock.now() == system.day
    assert clock.drift() == timedelta(0)


@pytest.mark.parametrize("step", [timedelta(days=1), timedelta(days=-1)])
def test_a_step_of_the_clock_is_followed_slowly(system: _System, step: timedelta) -> None:
    clock = SystemClock()
    before = clock.now()
    system.day += step
    assert clock.now() == before
    assert clock.drift() == step
    system.passes(100)
    left = clock.discipline()
    moved = timedelta(seconds=10) if step > timedelta(0) else timedelta(seconds=-10)
    assert clock.now() == before + timedelta(seconds=100) + moved
    assert left == step - moved


def test_a_small_difference_is_left_alone(system: _System) -> None:
    clock = SystemClock()
    system.day += timedelta(seconds=1)
    system.passes(100)
    assert clock.discipline() == timedelta(seconds=1)


def test_the_clock_does_not_overshoot(system: _System) -> None:
    clock = SystemClock()
    system.day += timedelta(seconds=5)
    system.passes(1000)
    assert clock.discipline() == timedelta(0)
    assert clock.now() == system.day


def test_the_clock_jumps_when_nothing_runs(system: _System) -> None:
    clock = SystemClock()
    system.day += timedelta(days=365)
    assert clock.discipline(jump=True) == timedelta(0)
    assert clock.now() == system.day


def test_the_real_clock_tells_the_time() -> None:
    clock = SystemClock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
    assert clock.now().tzinfo is UTC


async def test_a_manual_clock_wakes_who_slept_for_long_enough() -> None:
    clock = ManualClock()
    woken: list[int] = []

    async def sleep(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (5, 20, 0):
            tasks.start_soon(sleep, seconds)
        await anyio.wait_all_tasks_blocked()
        assert woken == [0]
        clock.advance(timedelta(seconds=5))
        await anyio.wait_all_tasks_blocked()
        assert woken == [0, 5]
        clock.step(timedelta(days=1))
        await anyio.wait_all_tasks_blocked()
        assert woken == [0, 5]
        tasks.cancel_scope.cancel()
