"""Programs as processes of their own, which a test kills, stops for a while, and reads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jumpstarter_testing import eventually

BIN = Path(sys.executable).parent
JMP = str(BIN / "jmp")

PATIENCE = 30.0
"""Seconds after which something that has to happen counts as not happening."""


class Process:
    """A running program in a session of its own, whose output goes to files."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], folder: Path) -> None:
        self.name = name
        self.path = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.path.open("w") as log:
            self.popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.path.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def wait_for(self, pattern: str, patience: float = PATIENCE) -> None:
        """Wait until it has printed what a regular expression matches."""

        def shown() -> None:
            assert re.search(pattern, self.text), f"{self.name} does not say {pattern!r}: {self.text!r}"
            if not self.running:
                return

        eventually(shown, timeout=patience, interval=0.02)

    def end(self, patience: float = PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {patience:g} s: {self.text!r}") from None

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def children(self) -> list[int]:
        """Return the process ids of what it has started itself."""
        found: list[int] = []
        for listed in Path(f"/proc/{self.pid}/task").glob("*/children"):
            found += map(int, listed.read_text().split())
        return found

    def child(self) -> int:
        """Return the process id of its only child, once it has one."""

        def only() -> int:
            (pid,) = self.children()
            return pid

        return eventually(only, timeout=PATIENCE, interval=0.02)

    def close(self) -> None:
        """Kill it and what it has started, frozen or not."""
        pids = [*descendants(self.pid), self.pid] if self.running else []
        for pid in reversed(pids):
            kill(pid)
        self.popen.wait(PATIENCE)


def descendants(pid: int) -> list[int]:
    """Return the process ids below a process."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in listed.read_text().split()]
        except OSError:  # it has ended meanwhile
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def kill(pid: int) -> None:
    """End a process at once; one that is gone is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"
