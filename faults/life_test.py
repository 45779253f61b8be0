"""Processes that are killed or stopped at each step of a lease's life: whatever happens, boards are leasable again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from jumpstarter.common.exceptions import ConnectionError

from .beside import Job
from .faults import TABLE, WHOLE_TABLE, Fault, Injection, drawn
from .lab import RECOVERY
from .life import BOARD, STEPS, Life
from .report import Outcome
from .shared import Shared

Note = Callable[[Outcome], None]
Live = Callable[[Job], None]

TIMEOUT = 300
"""Seconds for a test, of which the last has to wait for those that are run beside it."""


SEED = int(os.environ.get("JMP_FAULT_SEED") or 1)
"""The same for everybody who checks a change; `./dev faults` throws the dice anew each time."""

ROUNDS = int(os.environ.get("JMP_FAULT_ROUNDS") or 2)

PROMPT = 3.0
"""Seconds that a grant may take that needs nothing but a decision, on a machine that is busy with everything else."""

HUNG_UP = 128 + signal.SIGHUP
"""Exit code of a shell of which the lease has ended."""

EVERYDAY = [
    *(Fault("kill", victim, step) for victim in ("controller", "exporter") for step in STEPS),
    *(Fault("kill", "client", step) for step in ("create", "wait", "before-hook", "stream", "after-hook")),
    *(Fault("kill", "supervisor", step) for step in ("call", "after-hook")),
    *(Fault("kill", "router", step) for step in ("dial", "call", "stream")),
    Fault("kill", "waiting", "release"),
    Fault("stop-3", "controller", "create"),
    Fault("stop-3", "exporter", "call"),
    Fault("stop-3", "client", "stream"),
    Fault("stop-3", "router", "dial"),
    Fault("stop-20", "controller", "release"),
    Fault("stop-20", "exporter", "stream"),
    Fault("stop-ever", "exporter", "ready"),
    Fault("stop-ever", "client", "stream"),
]
"""What is run each time; all the others are left to the dice and to `./dev faults --table`."""


def put_through(fault: Fault, shared: Shared, note: Note) -> None:
    """Live a life with a fault in it, and check what has to be so afterwards."""
    outcome = Outcome(f"{fault.kind} {fault.victim}", f"{fault.step}{f' +{fault.delay:.2f} s' if fault.delay else ''}")
    note(outcome)
    lab, bystander = shared.get()
    ends_client = fault.victim == "client" and fault.kind in ("kill", "stop-ever")
    life = Life(lab, owner="dora" if ends_client else "alice")
    life.reach(fault.step)
    injection = Injection(lab, life, fault)
    outcome.noticed = injection.make_good()
    healed = time.monotonic()
    life.let_go()
    if fault.victim != "client":
        ends = fault.victim in ("exporter", "supervisor", "router") and fault.kind in ("kill", "stop-ever")
        life.check_use(fault.step, broken=ends)
    code = None if injection.ends_client else life.finish()
    if injection.ends_client:
        assert life.shell.end() < 0
    if code:
        assert told_why(life, code), life.shell.text
    if life.change is not None:
        life.change.check()
        if life.change.what == "transfer":
            release_if_held(life)
    if injection.ends_waiting:
        assert life.waiting.end() < 0
        lab.observer.wait(lambda seen: seen.leases[life.wanted].ended, RECOVERY, "bob's request is withdrawn")
        lab.wait_available(BOARD, patience=RECOVERY)
    else:
        outcome.granted = life.hand_on(RECOVERY)
        assert outcome.granted < PROMPT, f"bob got the board {outcome.granted:.2f} s after it was free"
    outcome.recovered = time.monotonic() - healed
    assert outcome.recovered < RECOVERY, f"it took {outcome.recovered:.1f} s"
    if code is None and not injection.ends_client:
        outcome.remark = "client gave up its lease"
        life.finish()
        lab.wait_available(BOARD)
    if fault.victim == "router":
        shared.drop_bystander()
    else:
        bystander.check()
    life.check()
    lab.flag(BOARD, "go").unlink(missing_ok=True)
    outcome.passed = True


def told_why(life: Life, code: int) -> bool:
    """Tell whether alice was told why her shell failed: by an error, or that what ran in it was hung up at its end."""
    text = life.shell.text
    return "rror" in text or (code == HUNG_UP and f"{BOARD} has ended" in text)


def release_if_held(life: Life) -> None:
    """Have who was handed the lease give it back."""
    state = life.lab.observer.leases[life.lease]
    if state.ended:
        return
    try:
        life.lab.release(state.client, life.lease)
    except ConnectionError as error:
        assert "released already" in str(error)  # noqa: PT017 (or it was released just now)


def cases(faults: Iterable[Fault]) -> list[Any]:
    """Return faults as parameters of a test; those that last run beside the others."""
    return [
        pytest.param(
            fault, id=str(fault), marks=[pytest.mark.beside(job=partial(put_through, fault))] if fault.lasts else []
        )
        for fault in faults
    ]


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("fault", cases(TABLE if WHOLE_TABLE else EVERYDAY))
def test_whatever_dies_no_board_is_stranded_and_no_lease_is_lost(fault: Fault, live: Live) -> None:
    live(partial(put_through, fault))


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("fault", cases(drawn(SEED, ROUNDS)))
def test_the_same_at_random_moments(fault: Fault, live: Live) -> None:
    print(f"JMP_FAULT_SEED={SEED}")
    live(partial(put_through, fault))
