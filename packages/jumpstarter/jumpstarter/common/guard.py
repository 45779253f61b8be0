"""Commands that never outlive the program that started them, not even when it is killed with SIGKILL."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_GUARD = Path(__file__).with_name("guard_main.py")

KILL_MARGIN = 5.0
"""Seconds beyond the grace time after which the guard itself is killed with its whole process group."""


class GuardedProcess:
    """A running command under a guard, a small program that watches a socket whose other end is ours.

    When our end closes, because stop() was called or because this process died in whatever way, the guard ends the
    command and all its descendants. The guard's own end closes when the command has ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        grace: float = 5.0,
        remove: str | os.PathLike[str] = "",
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> None:
        """Start a command.

        A program that doesn't exist shows as exit status 127 with one line on its standard error.

        Args:
            argv: program and arguments.
            grace: seconds between SIGTERM and SIGKILL when the command is stopped.
            remove: a directory that the guard removes when the command has ended, for whatever reason.
            pass_fds: descriptors that the command inherits under their numbers.
            options: go to `subprocess.Popen`.
        """
        self._grace = grace
        self._lifeline, theirs = socket.socketpair()
        try:
            with theirs:
                self.popen = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", str(_GUARD)),
                        *(str(theirs.fileno()), str(grace), os.fspath(remove)),
                        *argv,
                    ],
                    pass_fds=(theirs.fileno(), *pass_fds),
                    start_new_session=True,
                    **options,
                )
        except BaseException:
            self._lifeline.close()
            raise

    def fileno(self) -> int:
        """Return a descriptor that becomes readable, at its end, when the command has ended."""
        return self._lifeline.fileno()

    def poll(self) -> int | None:
        """Return the exit status, negative for a death by signal, or None while it runs."""
        return self.popen.poll()

    def begin_stop(self) -> None:
        """Have the guard end the command, without waiting for it; fileno() says when it has ended."""
        with suppress(OSError):  # the guard may be gone already
            self._lifeline.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        """End the command and its descendants, by SIGKILL after the grace time; return when it is gone."""
        self.begin_stop()
        try:
            self.popen.wait(self._grace + KILL_MARGIN)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
        self._lifeline.close()
