"""What is done to the processes of a lab: killed, or stopped for a while, and how it is made good again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from .lab import NOTICE, FaultLab
from .life import BOARD, STEPS, Life
from .processes import descendants, is_running, kill

VICTIMS = ("controller", "exporter", "supervisor", "router", "client", "waiting")
"""The exporter is the child of `jmp run`, which is the supervisor; the client is the one with the lease."""

KINDS = ("kill", "stop-3", "stop-20", "stop-ever")
"""SIGKILL, or SIGSTOP for so many seconds; what is stopped for ever is killed when that has been noticed."""

WHOLE_TABLE = os.environ.get("JMP_FAULT_TABLE") == "1"
"""Whether every fault is tried at every step, and not just a selection."""

RESTART = 0.5
"""Seconds after which a service manager starts again what was killed."""


@dataclass(frozen=True)
class Fault:
    """One cell of the table."""

    kind: str
    victim: str
    step: str
    delay: float = 0.0
    """Seconds after the step."""

    def __str__(self) -> str:
        return f"{self.kind}-{self.victim}-at-{self.step}{f'+{self.delay:.2f}' if self.delay else ''}"

    @property
    def lasts(self) -> bool:
        """Whether it takes long to be over."""
        return self.kind in ("stop-20", "stop-ever")

    @property
    def possible(self) -> bool:
        """Whether there is such a process at that step."""
        if self.victim == "waiting":
            return self.step not in ("create", "assigned", "ready", "dial")
        return True


TABLE = tuple(
    fault for kind in KINDS for victim in VICTIMS for step in STEPS if (fault := Fault(kind, victim, step)).possible
)
"""Every fault at every step."""


def drawn(seed: int, number: int) -> list[Fault]:
    """Return faults at random moments, the same ones for the same seed."""
    chance = random.Random(seed)
    return [
        Fault(fault.kind, fault.victim, fault.step, round(chance.uniform(0, 1.5), 2))
        for fault in (chance.choice(TABLE) for _ in range(number))
    ]


class Injection:
    """A fault that has been made, and can be made good."""

    def __init__(self, lab: FaultLab, life: Life, fault: Fault) -> None:
        self._lab, self._life, self._fault = lab, life, fault
        if fault.victim == "waiting":
            assert life.wanted
        self._pids = self._find()
        time.sleep(fault.delay)
        self.at = time.monotonic()
        for pid in self._pids:
            _signal(pid, signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)

    def _find(self) -> list[int]:
        lab, life = self._lab, self._life
        match self._fault.victim:
            case "controller":
                return [lab.controller.pid]
            case "exporter":
                return [lab.exporters[BOARD].child()]
            case "supervisor":
                return [lab.exporters[BOARD].pid]
            case "router":
                return [lab.router.pid]
            case "client":
                return [life.shell.pid, *descendants(life.shell.pid)]
            case _:
                return [life.waiting.pid, *descendants(life.waiting.pid)]

    @property
    def ends_client(self) -> bool:
        return self._fault.victim == "client" and self._fault.kind in ("kill", "stop-ever")

    @property
    def ends_waiting(self) -> bool:
        return self._fault.victim == "waiting" and self._fault.kind in ("kill", "stop-ever")

    def make_good(self) -> float | None:
        """Wait for as long as the fault lasts, and end it; return after how long it was noticed, where it must be."""
        kind = self._fault.kind
        noticed: float | None = None
        if kind in ("stop-3", "stop-20"):
            time.sleep(float(kind.removeprefix("stop-")))
            for pid in self._pids:
                _signal(pid, signal.SIGCONT)
            return None
        if self._fault.victim == "exporter":
            noticed = self._until_noticed() if kind == "stop-ever" else None
        elif kind == "stop-ever":
            time.sleep(5)
        for pid in self._pids:
            kill(pid)
        self._restart()
        return noticed

    def _until_noticed(self) -> float:
        observer = self._lab.observer
        observer.wait(lambda seen: not seen.exporters[BOARD].online, NOTICE + 1, f"{BOARD} is noticed to be offline")
        noticed = observer.moment("exporter", lambda item: item.name == BOARD and not item.online, self.at) - self.at
        assert noticed <= NOTICE, f"it took {noticed:.1f} s to notice that {BOARD} is dead"
        return noticed

    def _restart(self) -> None:
        """Do what a service manager does."""
        lab = self._lab
        restarts: dict[str, Callable[[], object]] = {
            "controller": lab.start_controller,
            "router": lab.start_router,
            "supervisor": lambda: lab.keep_exporter(BOARD),
        }
        if self._fault.victim in restarts:
            time.sleep(RESTART)
            restarts[self._fault.victim]()


def _signal(pid: int, number: int) -> None:
    if is_running(pid):
        os.kill(pid, number)
