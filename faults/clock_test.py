"""Clocks that are set while leases run: no lease ends early or late because of it, and nobody is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from jumpstarter_testbench.requirements import need

from .lab import FaultLab
from .life import Bystander, Life
from .report import Outcome

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

HOUR = 3600


class SteppedClock:
    """The time of day of a program, which a test sets while it runs."""

    def __init__(self, path: Path) -> None:
        need("faketime")
        self._path = path
        self.step(0)

    def step(self, seconds: int) -> None:
        """Set the clock to so many seconds from the true time."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}s\n")
        fresh.replace(self._path)

    @property
    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.mark.daemon
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_of_the_controller_that_is_set_ends_no_lease(
    seconds: int, fresh_lab: Callable[..., FaultLab], tmp_path: Path, note: Callable[[Outcome], None]
) -> None:
    outcome = Outcome(f"clock of the controller {seconds:+d} s", "stream")
    note(outcome)
    clock = SteppedClock(tmp_path / "clock")
    lab = fresh_lab(controller_env=clock.env)
    bystander = Bystander(lab)
    life = Life(lab)
    life.reach("stream")
    clock.step(seconds)
    bystander.check()
    assert life.worker.must("use") == life.lease
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    bystander.check()
    assert not lab.observer.leases[bystander.lease].ended
    life.check()
    outcome.passed = True


@pytest.mark.daemon
@pytest.mark.timeout(180)
def test_a_server_that_starts_with_a_clock_that_is_ahead_has_what_it_had(
    fresh_lab: Callable[..., FaultLab], tmp_path: Path, note: Callable[[Outcome], None]
) -> None:
    outcome = Outcome("clock of the server is ahead at its start", "stream")
    note(outcome)
    clock = SteppedClock(tmp_path / "clock")
    lab = fresh_lab(controller_env=clock.env)
    bystander = Bystander(lab, minutes=120)
    clock.step(HOUR)
    lab.controller.close()
    lab.start_controller()
    # Streams carry the time of the controller: a router has to be of the same opinion.
    lab.router.close()
    bystander.shell.close()
    lab.release("carol", bystander.lease)
    lab.start_router(**clock.env)
    life = Life(lab)
    life.reach("call")
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    life.check()
    outcome.passed = True


@pytest.mark.daemon
@pytest.mark.timeout(180)
def test_a_server_that_starts_with_a_clock_that_is_behind_says_so_and_has_what_it_had_when_that_is_put_right(
    fresh_lab: Callable[..., FaultLab], tmp_path: Path, note: Callable[[Outcome], None]
) -> None:
    outcome = Outcome("clock of the server is behind at its start", "stream")
    note(outcome)
    clock = SteppedClock(tmp_path / "clock")
    lab = fresh_lab(controller_env=clock.env)
    bystander = Bystander(lab)
    clock.step(-HOUR)
    lab.controller.close()
    lab.start_controller()
    refused = lab.jmp("alice", "create", "lease", "-n", "board-1", "--duration", "1m")
    assert refused.end() == 1
    assert "compare the clocks" in refused.text, refused.text
    bystander.check()
    clock.step(0)
    lab.controller.close()
    lab.start_controller()
    bystander.check()
    lab.observer.violations.clear()  # it was refused as well
    life = Life(lab)
    life.reach("call")
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    life.check()
    outcome.passed = True


@pytest.mark.daemon
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seconds", [HOUR], ids=["ahead"])
def test_a_client_whose_clock_is_wrong_keeps_its_lease_and_is_told_the_right_time_that_is_left(
    seconds: int, fresh_lab: Callable[..., FaultLab], tmp_path: Path, note: Callable[[Outcome], None]
) -> None:
    outcome = Outcome(f"clock of the client {seconds:+d} s", "stream")
    note(outcome)
    clock = SteppedClock(tmp_path / "clock")
    lab = fresh_lab(client_env=clock.env)
    life = Life(lab)
    life.reach("stream")
    waiting = life.waiting
    waiting.wait_for("in the queue")
    told = re.search(r"\((\d+)m", waiting.text)
    assert told, waiting.text
    assert 8 <= int(told[1]) <= 10, waiting.text
    clock.step(2 * seconds)
    assert life.worker.must("echo") == "echo"
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    life.check()
    outcome.passed = True
