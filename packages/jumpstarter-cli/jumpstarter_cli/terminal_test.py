"""An interactive shell at a real terminal."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import JMP, TIMEOUT, J

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash: apt-get install bash")


class Terminal:
    """A program with a terminal of its own, of which this is the person."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, env)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read on until the terminal has shown `text`, and forget what it has shown up to there."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.shown:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} is not shown: {self.shown!r}"
            self.shown += os.read(self.fd, 4096).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def exit_code(self) -> int:
        """Wait for the end; the terminal has to be read for that."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    break
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(process_env: dict[str, str], exporter_config: Path) -> Iterator[Terminal]:
    """An open shell with the devices of the exporter config."""
    env = process_env | {"SHELL": "/bin/bash", "TERM": "xterm", "HISTFILE": ""}
    opened = Terminal([*JMP, "shell", "--exporter-config", str(exporter_config)], env)
    opened.wait_for("➤")
    yield opened
    opened.close()


def test_the_shell_has_the_device_and_tells_its_exit_code(terminal: Terminal) -> None:
    terminal.type(f"{shlex.join(J)} power read\n")
    terminal.wait_for("voltage=0.0 V")
    terminal.type("exit 3\n")
    assert terminal.exit_code() == 3


def test_ctrl_c_ends_what_runs_in_the_shell_and_not_the_shell(terminal: Terminal) -> None:
    # One process says that it runs and then waits, so that Ctrl-C can't come before it is there.
    terminal.type("sh -c 'echo begin; exec sleep 300'\n")
    terminal.wait_for("begin\r\n")
    terminal.type("\x03")
    terminal.wait_for("➤")
    terminal.type("echo still $((40 + 2))\n")
    terminal.wait_for("still 42")
    terminal.type("exit\n")
    assert terminal.exit_code() == 0


def test_a_stopped_interactive_shell_ends(terminal: Terminal) -> None:
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.exit_code() == 143


@pytest.mark.daemon
@pytest.mark.need("shells")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_completes_the_commands_of_the_device(
    process_env: dict[str, str], exporter_config: Path, shell: str
) -> None:
    env = process_env | {"SHELL": str(shutil.which(shell)), "TERM": "xterm", "HISTFILE": ""}
    terminal = Terminal([*JMP, "shell", "--exporter-config", str(exporter_config)], env)
    try:
        terminal.wait_for("➤")
        # Completion is there from the first prompt on; the list of what is possible comes with the second key.
        terminal.type("j power cy\t\t")
        terminal.wait_for("cycle")
        terminal.type("\x15exit\n")
        assert terminal.exit_code() == 0
    finally:
        terminal.close()
