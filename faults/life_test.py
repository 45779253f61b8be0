"""Processes that are killed or stopped at each step of a lease's life: whatever happens, boards are leasable again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from .conftest import Shared
from .faults import TABLE, Fault, Injection, drawn
from .lab import RECOVERY
from .life import BOARD, STEPS, Life
from .report import Outcome

Note = Callable[[Outcome], None]

SEED = int(os.environ.get("JMP_FAULT_SEED") or random.randrange(1_000_000))
ROUNDS = int(os.environ.get("JMP_FAULT_ROUNDS") or 0)

PROMPT = 2.0
"""Seconds that a grant may take that needs nothing but a decision, on a machine that is busy with everything else."""

EVERYDAY = [
    *(Fault("kill", victim, step) for victim in ("controller", "exporter") for step in STEPS),
    *(Fault("kill", "client", step) for step in ("create", "wait", "before-hook", "call", "stream", "after-hook")),
    *(Fault("kill", "supervisor", step) for step in ("before-hook", "call", "after-hook")),
    *(Fault("kill", "router", step) for step in ("dial", "call", "stream")),
    *(Fault("kill", "waiting", step) for step in ("wait", "release")),
    *(
        Fault("stop-3", victim, step)
        for victim, step in zip(
            ("controller", "exporter", "client", "router"), ("create", "call", "stream", "dial"), strict=True
        )
    ),
    Fault("stop-20", "controller", "release"),
    Fault("stop-20", "exporter", "stream"),
    Fault("stop-20", "client", "call"),
    Fault("stop-ever", "exporter", "ready"),
    Fault("stop-ever", "exporter", "after-hook"),
    Fault("stop-ever", "client", "stream"),
]
"""What is run each time; all the others are left to the dice and to `./dev faults`."""


def put_through(shared: Shared, fault: Fault, note: Note) -> None:
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
    code = None if injection.ends_client else life.finish()
    if injection.ends_client:
        assert life.shell.end() < 0
    if code:
        assert "rror" in life.shell.text, life.shell.text
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


def release_if_held(life: Life) -> None:
    """Have who was handed the lease give it back."""
    state = life.lab.observer.leases[life.lease]
    if not state.ended:
        life.lab.release(state.client, life.lease)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", EVERYDAY, ids=str)
def test_whatever_dies_no_board_is_stranded_and_no_lease_is_lost(fault: Fault, shared: Shared, note: Note) -> None:
    put_through(shared, fault, note)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", drawn(SEED, ROUNDS or 4), ids=str)
def test_the_same_at_random_moments(fault: Fault, shared: Shared, note: Note) -> None:
    print(f"JMP_FAULT_SEED={SEED}")
    put_through(shared, fault, note)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", [fault for fault in TABLE if fault not in EVERYDAY], ids=str)
def test_the_rest_of_the_table(fault: Fault, shared: Shared, note: Note) -> None:
    put_through(shared, fault, note)
