"""Networks that are cut, held or slow between any two of the programs, while a lease is used and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from .beside import Job
from .faults import WHOLE_TABLE
from .lab import NOTICE, RECOVERY, FaultLab
from .life import BOARD, Life
from .report import Outcome
from .shared import Shared

Note = Callable[[Outcome], None]
Live = Callable[[Job], None]

TIMEOUT = 300
"""Seconds for a test that may have to wait for others that are run beside it."""

WAYS = {
    "board-1": "exporter to controller",
    "alice": "client to controller",
    "bob": "waiting client to controller",
    "router": "all to router",
    "router-control": "router to controller",
}
"""Names of gates, and between whom they are."""

STEPS = ("wait", "before-hook", "call", "stream", "after-hook")


def cut(lab: FaultLab, way: str) -> None:
    lab.gates[way].cut()


def away(lab: FaultLab, way: str) -> None:
    lab.gates[way].refuse()
    time.sleep(3)


def half_open(lab: FaultLab, way: str) -> None:
    lab.gates[way].hold(forth=False, back=True)
    time.sleep(3)


def dropped(lab: FaultLab, way: str) -> None:
    """As a firewall that forgets a connection: silence, then a reset."""
    lab.gates[way].hold()
    time.sleep(3)
    lab.gates[way].cut()


def slow(lab: FaultLab, way: str) -> None:
    lab.gates[way].slow(0.3)
    time.sleep(2)


TROUBLES = {"cut": cut, "away": away, "half-open": half_open, "dropped": dropped, "slow": slow}

EVERYDAY = [
    *(("cut", way, step) for way in WAYS for step in ("call", "after-hook")),
    *(("away", way, "stream") for way in ("board-1", "alice", "bob")),
    *(("half-open", way, "call") for way in ("board-1", "router")),
    *(("dropped", way, step) for way, step in (("alice", "wait"), ("board-1", "before-hook"), ("router", "stream"))),
    *(("slow", way, "after-hook") for way in ("board-1", "alice")),
]


TABLE = [
    (trouble, way, step)
    for trouble in TROUBLES
    for way in WAYS
    for step in STEPS
    # There is no bob yet when alice waits.
    if not (way == "bob" and step == "wait")
]


def put_through(trouble: str, way: str, step: str, shared: Shared, note: Note) -> None:
    """Live a life with trouble in the network, and check what has to be so afterwards."""
    outcome = Outcome(f"{trouble}, {WAYS[way]}", step)
    note(outcome)
    lab, bystander = shared.get()
    life = Life(lab)
    life.reach(step)
    TROUBLES[trouble](lab, way)
    life.let_go()
    healed = time.monotonic()
    life.check_use(step, broken=way == "router" and trouble in ("cut", "away", "dropped"))
    code = life.finish()
    if code:
        assert "rror" in life.shell.text, life.shell.text
    outcome.granted = life.hand_on(RECOVERY)
    outcome.recovered = time.monotonic() - healed
    assert outcome.recovered < RECOVERY, f"it took {outcome.recovered:.1f} s"
    if code is None:
        outcome.remark = "client gave up its lease"
        life.finish()
        lab.wait_available(BOARD)
    if way == "router":
        shared.drop_bystander()
    else:
        bystander.check()
    life.check()
    lab.flag(BOARD, "go").unlink(missing_ok=True)
    outcome.passed = True


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("trouble", "way", "step"), TABLE if WHOLE_TABLE else EVERYDAY)
def test_trouble_in_the_network_strands_no_board(trouble: str, way: str, step: str, shared: Shared, note: Note) -> None:
    put_through(trouble, way, step, shared, note)


def put_behind_a_dead_network(shared: Shared, note: Note) -> None:
    """Have an exporter noticed to be away, and come back."""
    outcome = Outcome("half-open for ever, exporter to controller", "idle")
    note(outcome)
    lab, _ = shared.get()
    begun = time.monotonic()
    lab.gates[BOARD].hold()
    lab.observer.wait(lambda seen: not seen.exporters[BOARD].online, NOTICE + 1, f"{BOARD} is noticed to be away")
    outcome.noticed = time.monotonic() - begun
    assert outcome.noticed <= NOTICE
    waiting = lab.lease("bob", BOARD)
    healed = time.monotonic()
    lab.gates[BOARD].heal()
    lab.observer.wait(lambda seen: (item := seen.leases.get(waiting)) and item.exporter, RECOVERY, "bob has the board")
    lab.use("bob", waiting)
    lab.release("bob", waiting)
    lab.wait_available(BOARD)
    outcome.recovered = time.monotonic() - healed
    outcome.passed = True


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.beside(job=put_behind_a_dead_network)
def test_an_exporter_behind_a_dead_network_is_noticed_and_comes_back(live: Live) -> None:
    live(put_behind_a_dead_network)


def be_silent(shared: Shared, note: Note) -> None:
    """Have a stream outlast a silence of its network."""
    outcome = Outcome("half-open 20 s, all to router", "stream")
    note(outcome)
    lab, bystander = shared.get()
    bystander.check()
    lab.gates["router"].hold()
    time.sleep(20)
    lab.gates["router"].heal()
    bystander.check()
    outcome.passed = True


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.beside(job=be_silent)
def test_a_stream_goes_on_after_its_network_was_silent_for_20_s(live: Live) -> None:
    live(be_silent)
