"""Programs that a test starts: in the foreground, with their log kept, awaited until they answer, stopped by id."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

STOP_TIMEOUT = 10.0
"""Seconds that a program gets between SIGTERM and SIGKILL."""

LOG_LINES = 25
"""How many lines from the end of a log an error shows."""


class ProcessError(RuntimeError):
    """A program didn't start, died, or never answered; the message ends with its log."""


class Process:
    """One running program."""

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start `command` with its output in the file `log`.

        It dies with the process that starts it, however that ends, as long as it doesn't change its user.
        """
        self.command = [str(part) for part in command]
        self.log = log
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with log.open("ab") as file:
            self._popen = subprocess.Popen(
                [*prefix, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._popen.pid

    def running(self) -> bool:
        """Tell whether the program hasn't ended yet."""
        return self._popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout: float = 15) -> None:
        """Poll until `ready` returns True; an OSError that it raises means "not yet".

        Raises:
            ProcessError: the program ended, or `timeout` seconds went by.
        """
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError):
                if ready():
                    return
            if not self.running():
                raise ProcessError(self._report(f"ended with exit code {self._popen.returncode} before it was ready"))
            if time.monotonic() > deadline:
                raise ProcessError(self._report(f"was not ready after {timeout:g} s"))
            time.sleep(0.02)

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit code.

        Raises:
            ProcessError: it still runs after `timeout` seconds.
        """
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(self._report(f"still runs after {timeout:g} s")) from None

    def stop(self) -> int:
        """End the program, politely first, and return its exit code."""
        if self.running():
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()

    def _report(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        shown = "\n".join(f"  {line}" for line in lines) or "  (it printed nothing)"
        return f"{' '.join(self.command)} {what}.\n{self.log}:\n{shown}"


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 15,
) -> Iterator[Process]:
    """Run a program for the length of the block, which starts when `ready` has returned True."""
    process = Process(command, log=log, cwd=cwd, env=env)
    try:
        process.wait_until(ready, timeout)
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def running_on_free_port(
    command: Callable[[int], Sequence[str | Path]],
    *,
    log: Path,
    ready: Callable[[int], bool],
    host: str = "127.0.0.1",
    kind: socket.SocketKind = socket.SOCK_STREAM,
    env: Mapping[str, str] | None = None,
    timeout: float = 15,
) -> Iterator[int]:
    """Run a server that can't choose a free port by itself; yield the port it listens on.

    Between the choice and the server's bind another program may take the port, so a server that ends at once is given
    two more ports.
    """
    attempts = 3
    for attempt in range(attempts):
        port = free_port(host, kind)
        process = Process(command(port), log=log, env=env)
        try:
            try:
                process.wait_until(lambda port=port: ready(port), timeout)  # type: ignore[misc]
            except ProcessError:
                if process.running() or attempt == attempts - 1:
                    raise
                continue
            yield port
            return
        finally:
            process.stop()


def free_port(host: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody uses at this moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(host: str, port: int) -> bool:
    """Tell whether somebody accepts TCP connections there; raises OSError when nobody does."""
    with socket.create_connection((host, port), timeout=1):
        return True


def accepts_unix(path: Path) -> bool:
    """Tell whether somebody accepts connections on a Unix socket; raises OSError when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(str(path))
        return True


def python_program(path: Path, source: str) -> Path:
    """Write an executable that runs Python source, and return its path.

    A `#!` line could not name the interpreter: such a line has no room for a path with a blank in it.
    """
    code = path.with_name(f"{path.name}.py")
    code.write_text(source)
    path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(code)])} "$@"\n')
    path.chmod(0o755)
    return path
