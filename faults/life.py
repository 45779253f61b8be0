"""The life of a lease as a script that stops at each of its steps, so that something can be made to fail there.

Alice uses board-1 from a shell, bob waits for it, and carol has a byte stream of board-2 open all the time.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from .lab import NOTICE, RECOVERY, FaultLab
from .processes import PATIENCE, Process
from .worker import Worker

BOARD, OTHER = "board-1", "board-2"

STEPS = (
    "create",
    "wait",
    "assigned",
    "before-hook",
    "ready",
    "dial",
    "call",
    "stream",
    "extend",
    "transfer",
    "share",
    "end-session",
    "after-hook",
    "release",
    "expire",
)
"""In the order of a life."""

CAUSE = re.compile("connection to the exporter was lost|ended a stream|stream has ended|can't be reached")
"""What is said to who had a call or a stream open that a fault has ended."""

GIVEN_UP = "trying another lease"

SHORT = 6
"""Seconds that the lease lasts of a life that is followed to its expiry."""


@dataclass
class Bystander:
    """Carol, who has a byte stream open and must not notice what happens to others."""

    lab: FaultLab
    minutes: int = 60
    shell: Process = field(init=False)
    worker: Worker = field(init=False)
    lease: str = field(init=False)

    def __post_init__(self) -> None:
        self.shell, self.worker = self.lab.shell("carol", "-n", OTHER, "--duration", f"{self.minutes}m")
        assert self.worker.came(), self.shell.text
        for command in ("open", "stream", "echo"):
            self.worker.must(command)
        self.lease = self.worker.must("use")

    def check(self) -> None:
        """Use the stream that was opened at first."""
        assert self.worker.must("echo") == "echo", self.shell.text


@dataclass
class Life:
    """One lease of alice's, and bob's that waits for it."""

    lab: FaultLab
    owner: str = "alice"
    shell: Process = field(init=False)
    worker: Worker = field(init=False)
    lease: str = field(init=False, default="")
    waiting: Process = field(init=False)
    wanted: str = field(init=False, default="")
    """Bob's lease."""
    change: Change | None = field(init=False, default=None)
    _blocker: str = field(init=False, default="")

    # -- to a step -------------------------------------------------------------------------------

    def reach(self, step: str) -> None:
        """Bring the life to a step and leave it there."""
        if step in ("create", "wait"):
            self._blocker = self.lab.lease("prover", BOARD)
            self._until_ready(self._blocker)
        if step in ("before-hook", "after-hook", "release"):
            self.lab.flag(BOARD, "hold-before" if step == "before-hook" else "hold-after").touch()
        if step == "dial":
            self.lab.gates["router"].hold()
        duration = f"{SHORT}s" if step == "expire" else "10m"
        known = set(self.lab.observer.leases)
        self.shell, self.worker = self.lab.shell(self.owner, "-n", BOARD, "--duration", duration)
        self.lease = self.lab.observer.wait(
            lambda seen: next(
                (item.name for item in seen.leases.values() if item.name not in known and item.client == self.owner), ""
            ),
            PATIENCE,
            f"{self.owner} has a lease",
        )
        if step == "create":
            return
        if step == "wait":
            self.shell.wait_for("in the queue")
            self._queue()
            return
        self.lab.observer.wait(lambda seen: seen.leases[self.lease].exporter, PATIENCE, "the lease is assigned")
        if step == "assigned":
            return
        if step == "before-hook":
            self.lab.wait_journal(BOARD, "before", self.lease)
            self._queue()
            return
        self._until_ready(self.lease)
        if step == "dial":
            time.sleep(0.3)
        if step in ("ready", "dial"):
            return
        assert self.worker.came(), self.shell.text
        self.worker.must("open")
        assert self.worker.must("use") == self.lease
        self._queue()
        self._act(step)

    def _act(self, step: str) -> None:
        match step:
            case "call":
                self.worker.send("hold")
                self.lab.wait_journal(BOARD, "hold", self.lease)
            case "stream":
                self.worker.must("stream")
                self.worker.must("echo")
            case "extend" | "transfer" | "share":
                self.change = Change(self.lab, self.owner, self.lease, step)
            case "end-session":
                self.worker.send("exit")
            case "after-hook" | "release":
                self.worker.send("exit")
                self.lab.wait_journal(BOARD, "after", self.lease)
                if step == "release":
                    self.lab.flag(BOARD, "hold-after").unlink()
            case "expire":
                state = self.lab.observer.leases[self.lease]
                passed = time.monotonic() - self.lab.observer.moment(
                    "lease", lambda item: item.name == self.lease and item.exporter
                )
                assert state.exporter, state
                time.sleep(max(SHORT - passed - 0.1, 0))

    def _until_ready(self, lease: str) -> None:
        self.lab.observer.wait(
            lambda seen: (
                seen.exporters[BOARD].online
                and seen.exporters[BOARD].lease_name == lease
                and str(seen.exporters[BOARD].status) == "LEASE_READY"
            ),
            PATIENCE,
            f"{BOARD} is ready for {lease}",
        )

    def _queue(self, *, held: bool = True) -> None:
        """Have bob wait for the board, which somebody has if it is `held`."""
        if self.wanted:
            return
        words = ("create", "lease", "-n", BOARD, "--duration", "10m", "--wait", "-o", "name")
        self.waiting = self.lab.jmp("bob", *words)
        self.wanted = self.lab.observer.wait(
            lambda seen: next(
                (item.name for item in seen.leases.values() if item.client == "bob" and not item.ended), ""
            ),
            PATIENCE,
            "bob waits",
        )
        if held:
            self.waiting.wait_for("in the queue")

    # -- to the end ------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Hold nothing back any more."""
        for flag in ("hold-before", "hold-after"):
            self.lab.flag(BOARD, flag).unlink(missing_ok=True)
        self.lab.flag(BOARD, "go").touch()
        for gate in self.lab.gates.values():
            gate.heal()
        if self._blocker:
            self.lab.release("prover", self._blocker)
            self._blocker = ""

    @property
    def gave_up(self) -> bool:
        """Whether alice's shell has given up a lease whose exporter it couldn't reach, and waits for another one."""
        return GIVEN_UP in self.shell.text

    def check_use(self, step: str, *, broken: bool) -> None:
        """Check what came of the call or the stream that was open at a step.

        Args:
            step: at which the fault was.
            broken: whether the fault ends it, which has to be told; otherwise it goes on as if nothing had been.

        Raises:
            AssertionError: it was otherwise.
        """
        if step not in ("call", "stream"):
            return
        answer = self.worker.answer() if step == "call" else self.worker.do("echo")
        if not broken:
            assert answer.get("done"), (answer, self.shell.text)
            return
        # The program is told that it failed, and the person at the shell why, if the program isn't.
        told = answer.get("error", "")
        assert told, self.shell.text
        assert CAUSE.search(told + self.shell.text), (answer, self.shell.text)

    def finish(self, patience: float = 2 * RECOVERY) -> int | None:
        """Have alice leave, and return the exit code of her shell; None when she waits behind bob now.

        Raises:
            AssertionError: her shell hangs.
        """
        deadline = time.monotonic() + patience
        while self.shell.running and not self.worker.came(0.1):
            if self.gave_up and self.wanted and not self.lab.observer.leases[self.wanted].ended:
                return None
            assert time.monotonic() < deadline, f"the shell hangs: {self.shell.text!r}"
        self.worker.send("exit")
        return self.shell.end(max(deadline - time.monotonic(), 1))

    def hand_on(self, patience: float = RECOVERY) -> float:
        """Have bob get the board, use it and give it back; return how long he waited after it was free."""
        lab, observer = self.lab, self.lab.observer
        if not self.wanted:
            self._queue(held=False)
        assert self.waiting.end(patience + 5) == 0, self.waiting.text
        assert self.wanted in self.waiting.text, self.waiting.text
        state = observer.wait(
            lambda seen: (item := seen.leases[self.wanted]).exporter and item, patience, "bob has the board"
        )
        assert not state.ended, state
        granted = observer.moment("lease", lambda item: item.name == self.wanted and item.exporter)
        # One that was away may have to come back first.
        self._until_ready(self.wanted)
        lab.use("bob", self.wanted, patience)
        lab.release("bob", self.wanted)
        lab.wait_available(BOARD, patience=patience)
        return granted - self._freed(granted)

    def _freed(self, granted: float) -> float:
        """Return when the board could have been granted: asked for, ready for that, and the lease before had ended."""
        asked = self.lab.observer.moment("lease", lambda item: item.name == self.wanted)
        ready, ended, since = False, False, granted
        for seen in self.lab.observer.history:
            if seen.at > granted:
                break
            before = ready and ended
            if seen.what == "exporter" and seen.item.name == BOARD:
                ready = seen.item.online and str(seen.item.status) == "AVAILABLE" and not seen.item.lease_name
            elif seen.what == "lease" and seen.item.name == self.lease:
                ended = seen.item.ended
            if ready and ended and not before:
                since = seen.at
        return max(since, asked) if ready and ended else granted

    # -- what has to hold ------------------------------------------------------------------------

    def check(self) -> None:
        """Check that nobody was wronged.

        Raises:
            AssertionError: a board was given twice, or a lease was lost or counted twice.
        """
        self.lab.observer.settle()
        check_journal(self.lab.journal(BOARD))
        check_journal(self.lab.journal(OTHER))
        check_audit(self.lab.audit())
        for process in self.lab.processes:
            assert "Traceback" not in process.text, process.text


class Change:
    """A change of a lease that is on its way while something fails."""

    def __init__(self, lab: FaultLab, owner: str, lease: str, what: str) -> None:
        self.what, self.lease = what, lease
        self.error: Exception | None = None
        self.done = False
        self._lab, self._owner = lab, owner
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        config = self._lab.config(self._owner)
        request: dict[str, Callable[[], Any]] = {
            "extend": lambda: config.update_lease(self.lease, duration=timedelta(minutes=25)),
            "transfer": lambda: config.update_lease(self.lease, client="namespaces/default/clients/prover"),
            "share": lambda: config.share_lease(self.lease, "carol", "driver"),
        }
        try:
            self._lab.call(request[self.what], PATIENCE)
            self.done = True
        except (Exception, AssertionError) as error:  # noqa: BLE001 (kept for the test)
            self.error = error

    def check(self) -> None:
        """Check that what was acknowledged is there, and that what was not is told."""
        self._thread.join(PATIENCE + 5)
        assert not self._thread.is_alive(), f"{self.what} hangs"
        if not self.done:
            assert self.error is not None
            assert len(str(self.error)) > 15, self.error
            return
        state = self._lab.observer.leases[self.lease]
        match self.what:
            case "extend":
                assert state.duration == timedelta(minutes=25), state
            case "transfer":
                assert state.client == "prover", state
            case "share":
                assert state.shares.get("carol") == "driver", state


def check_journal(lines: list[list[str]]) -> None:
    """Check that who had a board before never comes back after somebody else had it.

    Raises:
        AssertionError: somebody did.
    """
    order: list[str] = []
    for line in lines:
        if len(line) < 4 or (order and order[-1] == line[3]):
            continue
        assert line[3] not in order, f"{line} although the board belonged to {order[-1]}: {lines}"
        order.append(line[3])


def check_audit(entries: list[Any]) -> None:
    """Check that each lease was made, granted and ended once at most, and boards were granted to one at a time.

    Raises:
        AssertionError: it was otherwise.
    """
    seen: set[tuple[str, str]] = set()
    holders: dict[str, str] = {}
    for entry in entries:
        if not entry.action.startswith("lease."):
            continue
        if entry.action in ("lease.create", "lease.assign", "lease.end"):
            step = entry.action, entry.lease
            assert step not in seen, f"{step} is there twice"
            seen.add(step)
        if entry.action == "lease.assign":
            # An end of which the record was lost with a killed server is made good for by the state of the lease.
            holder = holders.get(entry.exporter)
            assert holder is None, f"{entry.exporter} was granted to {entry.lease} while {holder} had it"
            holders[entry.exporter] = entry.lease
        if entry.action == "lease.end" and holders.get(entry.exporter) == entry.lease:
            del holders[entry.exporter]


__all__ = ["BOARD", "NOTICE", "OTHER", "STEPS", "Bystander", "Life"]
