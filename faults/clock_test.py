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
    # A server that starts with the clock as it is now finds all as it was.
    lab.controller.close()
    lab.start_controller(**clock.env)
    bystander.check()
    after = Life(lab)
    after.reach("call")
    after.let_go()
    assert after.finish() == 0, after.shell.text
    after.hand_on()
    after.check()
    outcome.passed = True


@pytest.mark.daemon
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "behind"])
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
