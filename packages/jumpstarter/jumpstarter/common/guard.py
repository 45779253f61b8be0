"""Commands that never outlive the program that started them, not even when it is killed with SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GUARD = Path(__file__).with_name("guard_main.py")

KILL_MARGIN = 5.0
"""Seconds beyond the grace time after which the guard itself is killed with its whole process group."""


class Lifeline:
    """A pipe that a guard watches: when our end closes, the guard ends its command and all descendants of it.

    The kernel closes our end when this process dies, however it dies. Use `command` and `fd` to start the guard with
    `pass_fds=(lifeline.fd,)` and `start_new_session=True`, then call `attached`:

        lifeline = Lifeline()
        process = subprocess.Popen(
            lifeline.command(["qemu-system-x86_64", ...]), pass_fds=(lifeline.fd,), start_new_session=True
        )
        lifeline.attached()
        ...
        lifeline.cut()
    """

    def __init__(self) -> None:
        self.fd, self._ours = os.pipe()

    def command(self, argv: Sequence[str], *, grace: float = 5.0, remove: str | os.PathLike[str] = "") -> list[str]:
        """Return the command line that runs `argv` under a guard.

        Args:
            argv: the command to run.
            grace: seconds between SIGTERM and SIGKILL.
            remove: a directory that the guard removes when the command has ended, for whatever reason.
        """
        return [sys.executable, "-I", "-S", str(_GUARD), str(self.fd), str(grace), os.fspath(remove), *argv]

    def attached(self) -> None:
        """Close the guard's end in this process; call it as soon as the guard runs, or failed to start."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def cut(self) -> None:
        """Tell the guard to end its command. Does nothing the second time."""
        self.attached()
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1


class GuardedProcess:
    """A running command under a guard; blocking, for use in worker threads and in `close()`."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        grace: float = 5.0,
        remove: str | os.PathLike[str] = "",
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> None:
        """Start `argv`; `options` go to `subprocess.Popen`.

        A program that doesn't exist shows as exit status 127 with one line on its standard error.
        """
        self._grace = grace
        self._lifeline = Lifeline()
        try:
            self.popen = subprocess.Popen(
                self._lifeline.command(argv, grace=grace, remove=remove),
                pass_fds=(self._lifeline.fd, *pass_fds),
                start_new_session=True,
                **options,
            )
        except BaseException:
            self._lifeline.cut()
            raise
        self._lifeline.attached()

    def poll(self) -> int | None:
        """Return the exit status, negative for a death by signal, or None while it runs."""
        return self.popen.poll()

    def stop(self) -> None:
        """End the command and its descendants, by SIGKILL after the grace time; return when it is gone."""
        self._lifeline.cut()
        try:
            self.popen.wait(self._grace + KILL_MARGIN)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
