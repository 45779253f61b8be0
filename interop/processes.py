"""Runs programs of either release: their environment, their output, and an end for each of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROBE = Path(__file__).parent / "probe"
PATIENCE = 120.0
"""Seconds that anything may take that is not said to take longer, on a machine that runs other tests as well."""

TIMEOUT = 400
"""Seconds for a test, of which the first of each function waits for all pairs of releases."""

PASSING_FOREIGN = ("JMP_", "JUMPSTARTER_", "PYTHON", "VIRTUAL_ENV", "XDG_")


def environment(home: Path | None = None, **more: str) -> dict[str, str]:
    """Our environment without Jumpstarter's own variables, with a home of its own if one is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PASSING_FOREIGN)}
    if home is not None:
        kept["HOME"] = str(home)
    return kept | {"PYTHONPATH": str(PROBE), "TERM": "dumb", "COLUMNS": "200"} | more


class Process:
    """A program that runs while the context is open; standard output and standard error go to files."""

    def __init__(self, command: list[Any], log: Path, env: Mapping[str, str], *, grace: float = 15.0) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self._env = dict(env)
        self._grace = grace
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Process:
        with self.log.open("a") as output, self.log.with_suffix(".err").open("a") as errors:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=output, stderr=errors, env=self._env, text=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(self._grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """Standard output so far."""
        return self.log.read_text(errors="replace")

    @property
    def errors(self) -> str:
        """Standard error so far."""
        return self.log.with_suffix(".err").read_text(errors="replace")

    def say(self, text: str) -> None:
        """Write a line to standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for the end and return the exit code; standard input ends first."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end in {patience:g} s") from None

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """Wait until something holds while the program runs, and return what it was."""

        def check() -> Any:
            found = condition()
            if not found and not self.running:
                raise AssertionError(f"it ended with {self.process.returncode} before {what}\n{self}")
            return found

        return until(check, what, patience, about=self)

    def __str__(self) -> str:
        return f"{' '.join(self.command)}\n--- stdout\n{self.output[-4000:]}\n--- stderr\n{self.errors[-6000:]}"


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE, *, about: object = "") -> Any:
    """Wait until something holds, and return what it was."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {patience:g} s: {what}\n{about}")
        time.sleep(0.05)
    return found


def free_port() -> int:
    """Return a TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
