"""The programs as a person at a terminal, a script and a service manager meet them."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jumpstarter_testing import eventually

BIN = Path(sys.executable).parent
JMP, J = str(BIN / "jmp"), str(BIN / "j")

LIMIT = 30.0
"""Seconds after which a program that should have ended or answered counts as hanging."""


class Outcome(NamedTuple):
    """How a program ended, and what it said."""

    code: int
    out: str
    err: str

    def failure(self, code: int = 1) -> str:
        """Return the message of a failure, having checked that it is exactly one and readable.

        The hint is on a line of its own; further lines belong to a message only when they are indented.
        """
        assert self.code == code, self
        errors = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, self
        lines = self.err.splitlines()
        first = lines.index(errors[0])
        rest = lines[first + 1 :]
        assert all(line.startswith(("Hint: ", "  ")) for line in rest), self
        text = "\n".join([errors[0].removeprefix("Error: "), *rest])
        message = text.splitlines()[0]
        assert len(message) >= 15, self
        assert_readable(text)
        return text


def assert_readable(text: str) -> None:
    """Nothing in the text is for developers only."""
    for word in (
        "Traceback",
        "ExceptionGroup",
        "unhandled errors",
        "AioRpcError",
        "grpc_status",
        "<class",
        "object at 0x",
    ):
        assert word not in text, text


class StillRunning(AssertionError):
    """A program should have ended by now."""


class Program:
    """A running program without a terminal, in a session of its own."""

    def __init__(self, command: Sequence[str], env: dict[str, str], folder: Path, **options: Any) -> None:
        self.out_path, self.err_path = folder / "stdout", folder / "stderr"
        with self.out_path.open("w") as out, self.err_path.open("w") as err:
            self.process = subprocess.Popen(
                command,
                env=env,
                stdin=options.pop("stdin", subprocess.DEVNULL),
                stdout=out,
                stderr=err,
                start_new_session=True,
                **options,
            )

    @property
    def out(self) -> str:
        return self.out_path.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.err_path.read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        """Wait until the program has printed `text`."""

        def shown() -> None:
            assert text in self.out + self.err, f"{text!r} is not in {self.out!r} {self.err!r}"

        eventually(shown, timeout=LIMIT, interval=0.02)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def child(self) -> int:
        """Return the process id of the program's only child, whichever thread has started it."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        (pid,) = " ".join(task.read_text() for task in tasks).split()
        return int(pid)

    def end(self) -> Outcome:
        """Wait for the end."""
        try:
            code = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {LIMIT} s: {self.out!r} {self.err!r}") from None
        return Outcome(code, self.out, self.err)

    def stop(self, number: int) -> Outcome:
        self.send(number)
        return self.end()

    def close(self) -> None:
        """Kill what still runs of the program and what it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(LIMIT)


class Terminal:
    """A program with a terminal of its own, of which this is the person."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        self.fd, outer = pty.openpty()
        self.shown = ""
        self._looked = 0
        self.mode = termios.tcgetattr(outer)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.fd)
            os.login_tty(outer)
            os.execvpe(command[0], command, env)
        # The terminal is kept open, so that its mode can be compared when the program has gone.
        self.outer = outer

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def press_ctrl_c(self) -> None:
        self.type("\x03")

    def press_ctrl_c_until_the_end(self) -> int:
        """Press again and again, as people do, and return the exit code.

        A signal that comes between two of Python's looks for signals and a system call that blocks is not seen before
        the next one, and of two that come at once only one is seen.
        """
        deadline = time.monotonic() + LIMIT
        while True:
            self.press_ctrl_c()
            with contextlib.suppress(StillRunning):
                return self.end(0.5)
            assert time.monotonic() < deadline, f"still running after {LIMIT} s: {self.shown!r}"

    def _read(self, seconds: float) -> None:
        if select.select([self.fd], [], [], seconds)[0]:
            self.shown += os.read(self.fd, 65536).decode(errors="replace")

    def wait_for(self, text: str) -> None:
        """Read on until the terminal shows `text`, after what was waited for before."""
        deadline = time.monotonic() + LIMIT
        while (found := self.shown.find(text, self._looked)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not shown: {self.shown!r}"
            self._read(0.1)
        self._looked = found + len(text)

    def end(self, limit: float = LIMIT) -> int:
        """Wait for the end of the program and return its exit code."""
        deadline = time.monotonic() + limit
        while True:
            self._read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                self._read(0)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                raise StillRunning(f"still running after {limit} s: {self.shown!r}")

    @property
    def restored(self) -> bool:
        """Whether the terminal is in the mode that it was in before the program."""
        return termios.tcgetattr(self.outer) == self.mode

    def close(self) -> None:
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
        os.close(self.outer)
