"""Runs one script on a pseudo terminal and hands out what it prints, line by line."""

from __future__ import annotations

import errno
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from anyio import CancelScope, create_task_group, move_on_after, to_thread, wait_readable

from jumpstarter.common.guard import GuardedProcess

__all__ = ["PtyState", "ScriptTimeout", "command_for", "run_script"]

MAX_DRAIN_BYTES = 262144
"""Bytes that are still read after the script has ended."""

DRAIN_TIMEOUT_SECONDS = 2.0
"""Seconds that what the script left running in the background may go on printing."""

DRAIN_MAX_EMPTY_POLLS = 10
"""Waits in that time that may pass without any output."""

TERMINATE_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a script that is stopped."""

READ_SIZE = 4096
"""Bytes read at a time; few, because each line costs and other tasks wait meanwhile."""

MAX_LINE = 16 * 1024
"""Bytes of one line; longer ones are handed out in pieces."""


class ScriptTimeout(Exception):
    """The script was stopped because it took too long."""


def command_for(script: str, interpreter: str | None) -> list[str]:
    """Return the arguments that run `script`: commands, or the path of an existing file on a line of its own.

    Raises:
        FileNotFoundError: the interpreter isn't installed; the text names it.
    """
    path = _existing_file(script)
    if interpreter:
        command = [interpreter] if shutil.which(interpreter) else shlex.split(interpreter)
        if not command or shutil.which(command[0]) is None:
            name = command[0] if command else interpreter
            raise FileNotFoundError(
                f"the interpreter {name!r} is not installed on the exporter's machine; install it or change 'exec'"
            )
        return [*command, str(path)] if path else [*command, "-c", script]
    if path is None:
        return ["/bin/sh", "-c", script]
    return [sys.executable if path.suffix == ".py" else "/bin/sh", str(path)]


def _existing_file(script: str) -> Path | None:
    line = script.strip()
    if not line or "\n" in line:
        return None
    try:
        path = Path(line)
        return path if path.is_file() else None
    except (OSError, ValueError):  # too long for a path, or with a zero byte
        return None


@dataclass
class PtyState:
    """The reading end of a pseudo terminal, and the part of a line that came last."""

    fd: int
    emit: Callable[[str], None]
    """Takes one line, without its end."""
    pending: bytes = b""
    ended: bool = field(default=False)
    """Nobody holds the other end any more."""

    def read(self) -> int:
        """Hand out what is there and return the number of bytes, 0 when there is nothing now or ever."""
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the other end is closed
                raise
            data = b""
        if not data:
            self.ended = True
            return 0
        self._feed(data)
        return len(data)

    def _feed(self, data: bytes) -> None:
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(self.pending) > MAX_LINE:
            self._emit(self.pending[:MAX_LINE])
            self.pending = self.pending[MAX_LINE:]

    def _emit(self, line: bytes) -> None:
        # A progress display rewrites its line; what it showed last counts.
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        if text.strip():
            self.emit(text)

    def flush(self) -> None:
        """Hand out a last line without an end."""
        line, self.pending = self.pending, b""
        if line:
            self._emit(line)


async def run_script(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    timeout: float,
    emit: Callable[[str], None],
    grace: float = TERMINATE_GRACE,
) -> int:
    """Run a command to its end and return its exit status, negative for a death by signal.

    Whatever it leaves running in its process group is ended, also when the caller is cancelled or killed.

    Args:
        command: program and arguments.
        environment: the whole environment.
        timeout: seconds after which it is stopped.
        emit: takes each line that it prints.
        grace: seconds between SIGTERM and SIGKILL when it is stopped.

    Raises:
        ScriptTimeout: it was stopped.
        OSError: it can't be started.
    """
    master, slave = pty.openpty()
    try:
        os.set_blocking(master, False)
        _plain_output(slave)
        state = PtyState(master, emit)
        try:
            process = await to_thread.run_sync(_start, list(command), slave, dict(environment), grace)
        finally:
            os.close(slave)
        try:
            return await _attend(process, state, timeout, grace)
        finally:
            state.flush()
    finally:
        os.close(master)


def _start(command: list[str], slave: int, environment: dict[str, str], grace: float) -> GuardedProcess:
    # No input: nobody is there to answer a question.
    return GuardedProcess(
        command, grace=grace, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=environment, close_fds=True
    )


def _plain_output(slave: int) -> None:
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST  # line feeds stay line feeds
    termios.tcsetattr(slave, termios.TCSANOW, attributes)


async def _attend(process: GuardedProcess, state: PtyState, timeout: float, grace: float) -> int:
    """Read the output until the command has ended or the time is over, and leave no process behind."""
    ended = False
    try:
        async with create_task_group() as tasks:
            tasks.start_soon(_read_until_end, state)
            with move_on_after(timeout):
                await wait_readable(process)
                ended = True
            if not ended:
                process.begin_stop()
                with move_on_after(2 * grace):
                    await wait_readable(process)
            tasks.cancel_scope.cancel()
        _signal_group(process, signal.SIGTERM)
        await _drain(state)
    finally:
        with CancelScope(shield=True):
            await _reap(process, grace)
    if not ended:
        raise ScriptTimeout
    return process.popen.returncode


async def _read_until_end(state: PtyState) -> None:
    while not state.ended:
        await wait_readable(state.fd)
        state.read()


async def _drain(state: PtyState) -> None:
    """Read what is still to come, within bounds."""
    size = empty = 0
    with move_on_after(DRAIN_TIMEOUT_SECONDS):
        while not state.ended and size < MAX_DRAIN_BYTES and empty < DRAIN_MAX_EMPTY_POLLS:
            with move_on_after(DRAIN_TIMEOUT_SECONDS / DRAIN_MAX_EMPTY_POLLS) as wait:
                await wait_readable(state.fd)
            read = state.read()
            size += read
            empty += wait.cancelled_caught or not read


def _signal_group(process: GuardedProcess, number: int) -> None:
    # The group's number is not given to others before its leader, the guard, is reaped.
    if process.popen.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.popen.pid, number)


async def _reap(process: GuardedProcess, grace: float) -> None:
    """End what is still there, at first gently unless the command itself has ended."""
    process.begin_stop()
    with move_on_after(2 * grace):
        await wait_readable(process)
    _signal_group(process, signal.SIGKILL)
    await to_thread.run_sync(process.stop)
