"""Shells and commands with their way to an exporter: environment, prompts, exit statuses, end of the lease."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest
from jumpstarter_testbench.requirements import need

from jumpstarter.client.lease import DirectLease
from jumpstarter.client.shell import launch_shell, lease_ending_handler

BOUND = 20

DUMP = [sys.executable, "-c", "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"]


def fake_lease(**members: Any) -> Any:
    """What a shell reads of a lease, without the lease."""
    values = {"name": "lease-1", "exporter_name": "rpi-1", "exporter_labels": {}, "lease_ending_callback": None}
    return SimpleNamespace(**(values | members))


@pytest.fixture
def child_environment(tmp_path: Path) -> Any:
    def run(*arguments: Any, **keywords: Any) -> dict[str, str]:
        path = tmp_path / "environment.json"
        assert launch_shell(*arguments, command=[*DUMP, str(path)], **keywords) == 0
        environment: dict[str, str] = json.loads(path.read_text())
        return environment

    return run


# -- environment ---------------------------------------------------------------------------------


def test_command_finds_its_way_to_the_exporter(child_environment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PS1", "mine")
    environment = child_environment("/run/socket", "remote", ["a.*", "b.*"], False)
    assert environment["JUMPSTARTER_HOST"] == "/run/socket"
    assert environment["JMP_DRIVERS_ALLOW"] == "a.*,b.*"
    assert environment["_JMP_SUPPRESS_DRIVER_WARNINGS"] == "1"
    assert environment["PS1"] == "mine"
    assert {"JMP_EXPORTER", "JMP_LEASE", "JMP_GRPC_INSECURE", "JMP_GRPC_PASSPHRASE"}.isdisjoint(environment)


def test_command_is_told_the_lease(child_environment: Any) -> None:
    lease = fake_lease(exporter_labels={"rack": "7", "board": "rpi"})
    environment = child_environment("/run/socket", "rpi-1", ["a.*"], True, lease=lease)
    assert environment["JMP_DRIVERS_ALLOW"] == "UNSAFE"
    assert (environment["JMP_LEASE"], environment["JMP_EXPORTER"]) == ("lease-1", "rpi-1")
    assert environment["JMP_EXPORTER_LABELS"] == "board=rpi,rack=7"


def test_command_is_told_how_to_reach_an_exporter_directly(child_environment: Any) -> None:
    portal: Any = None
    lease = DirectLease(address="h:1", portal=portal, allow=[], unsafe=True)
    environment = child_environment("h:1", "direct", [], True, lease=lease, insecure=True, passphrase="sesame")
    assert (environment["JMP_GRPC_INSECURE"], environment["JMP_GRPC_PASSPHRASE"]) == ("1", "sesame")
    assert environment["JMP_EXPORTER"] == "direct"
    assert "JMP_LEASE" not in environment


def test_what_an_outer_shell_says_is_not_passed_on(child_environment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JMP_LEASE", "JMP_EXPORTER", "JMP_EXPORTER_LABELS"):
        monkeypatch.setenv(name, "outer")
    environment = child_environment("/run/socket", "local", [], True)
    assert {"JMP_LEASE", "JMP_EXPORTER", "JMP_EXPORTER_LABELS"}.isdisjoint(environment)


# -- exit statuses -------------------------------------------------------------------------------


def run_command(*command: str, **keywords: Any) -> int:
    return launch_shell("/run/socket", "remote", [], False, command=command, **keywords)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_status_of_the_command_is_returned_as_shells_do(script: str, status: int) -> None:
    assert run_command("/bin/sh", "-c", script) == status


def test_missing_program_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command("no-such-program-of-mine", "x") == 127
    assert "can't run 'no-such-program-of-mine': no such program" in capfd.readouterr().err


def test_missing_interpreter_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert run_command(str(script)) == 127
    assert "its interpreter" in capfd.readouterr().err


def test_file_that_is_no_program_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(str(tmp_path)) == 126
    assert "Permission denied" in capfd.readouterr().err


def test_missing_shell_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SHELL", "/no/such/shell")
    assert launch_shell("/run/socket", "remote", [], False) == 127
    assert "can't run '/no/such/shell'" in capfd.readouterr().err


# -- the end of the lease ------------------------------------------------------------------------


class Running:
    """A command that was launched in a thread and can be waited for."""

    def __init__(self, lease: Any, *command: str) -> None:
        self.started = Event()
        self.status: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._run, args=(lease, command))
        self._thread.start()
        assert self.started.wait(BOUND)

    def _run(self, lease: Any, command: tuple[str, ...]) -> None:
        self.status = run_command(*command, lease=lease, on_start=self._note)

    def _note(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.started.set()

    def join(self) -> int | None:
        self._thread.join(BOUND)
        return self.status


def test_command_is_hung_up_when_the_lease_ends() -> None:
    lease = fake_lease()
    running = Running(lease, "sleep", "60")
    lease.lease_ending_callback(lease, timedelta(0))
    assert running.join() == 128 + signal.SIGHUP
    assert lease.lease_ending_callback is None


def test_approaching_end_is_told_and_the_command_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    lease = fake_lease()
    running = Running(lease, "sleep", "60")
    lease.lease_ending_callback(lease, timedelta(minutes=4, seconds=5))
    assert "Lease lease-1 ends in 4 min 05 s" in capfd.readouterr().err
    assert running.process is not None
    assert running.process.poll() is None
    running.process.terminate()
    assert running.join() == 143


def test_callback_that_was_there_before_is_there_again() -> None:
    before = partial(print)
    lease = fake_lease(lease_ending_callback=before)
    assert run_command("true", lease=lease) == 0
    assert lease.lease_ending_callback is before


def test_end_after_the_command_harms_nobody() -> None:
    process = subprocess.Popen(["true"])
    process.wait(BOUND)
    lease_ending_handler(process, fake_lease(), timedelta(0))
    assert process.returncode == 0


# -- interactive ---------------------------------------------------------------------------------

LAUNCH = """
import sys
from jumpstarter.common.utils import launch_shell
sys.exit(launch_shell(*{arguments!r}, **{keywords!r}))
"""


class Terminal:
    """Programs on a terminal of their own, with a home directory whose start-up files tell on themselves."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._children: list[pexpect.spawn] = []
        for name in (".bashrc", ".zshrc", ".config/fish/config.fish"):
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("echo profile-was-read\n")
        # Else fish would read all manual pages when it is started for the first time.
        (home / ".local/share/fish/generated_completions").mkdir(parents=True)

    def run(self, code: str, **environment: str) -> pexpect.spawn:
        variables = {**os.environ, "HOME": str(self.home), "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment}
        variables.pop("XDG_CONFIG_HOME", None)
        child = pexpect.spawn(
            sys.executable, ["-c", code], env=variables, cwd=str(self.home), encoding="utf-8", timeout=BOUND
        )
        self._children.append(child)
        return child

    def launch(self, shell: str, context: str = "rpi-1", profiles: bool = False, **keywords: Any) -> pexpect.spawn:
        arguments = ["/run/socket", context, ["a.*"], False, profiles]
        return self.run(LAUNCH.format(arguments=arguments, keywords=keywords), SHELL=shell)

    def close(self) -> None:
        for child in self._children:
            child.close(force=True)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    need("shells")
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


SHELLS = ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", SHELLS)
def test_prompt_names_the_exporter_and_the_status_is_passed_on(terminal: Terminal, shell: str) -> None:
    child = terminal.launch(shell)
    child.expect("⚡")
    child.expect("rpi-1")
    child.expect("➤")
    assert "profile-was-read" not in child.before
    child.sendline("echo host=$JUMPSTARTER_HOST.")
    child.expect_exact("host=/run/socket.")
    child.sendline("exit 7")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 7


@pytest.mark.parametrize("shell", SHELLS)
def test_start_up_files_are_read_on_request(terminal: Terminal, shell: str) -> None:
    child = terminal.launch(shell, profiles=True)
    child.expect_exact("profile-was-read")
    child.sendline("exit")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("shell", SHELLS)
def test_name_of_an_exporter_is_not_executed(terminal: Terminal, shell: str) -> None:
    child = terminal.launch(shell, context="a$(touch owned)`touch owned`%(touch owned)'; touch owned; '")
    child.expect("➤")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    assert not (terminal.home / "owned").exists()


def test_other_shells_get_a_plain_prompt(terminal: Terminal) -> None:
    child = terminal.launch("/bin/sh")
    child.expect_exact("⚡rpi-1 ➤ ")
    child.sendline("exit 4")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 4


def test_greeting_of_the_exporter_is_shown_without_control_characters(terminal: Terminal) -> None:
    child = terminal.launch("bash", motd="Mind the fan.\x1b]0;owned\x07")
    child.expect_exact("Mind the fan.?]0;owned?")
    child.sendline("exit")
    child.expect(pexpect.EOF)


DISTURBED = """
import os, signal, subprocess, sys, termios, threading
from jumpstarter.common.utils import launch_shell
before = termios.tcgetattr(0)
# Like a job-control shell that dies: takes the terminal, leaves it in raw mode without echo.
victim = '''
import os, signal, sys, termios, tty
os.setpgid(0, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.tcsetpgrp(0, os.getpgrp())
tty.setraw(0)
os.kill(os.getpid(), signal.SIGKILL)
'''
status = []
thread = threading.Thread(
    target=lambda: status.append(launch_shell("h", "c", [], False, command=[sys.executable, "-c", victim]))
)
thread.start()
thread.join()
print("status", status[0], "mode", termios.tcgetattr(0) == before, "front", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
print("read", input())
"""


def test_terminal_is_taken_back_from_a_child_that_died_with_it(terminal: Terminal) -> None:
    child = terminal.run(DISTURBED)
    child.expect_exact("status 137 mode True front True")
    child.sendline("hello")
    child.expect_exact("read hello")


def test_python_that_is_not_on_a_terminal_launches_as_well(tmp_path: Path) -> None:
    code = LAUNCH.format(arguments=["h", "c", [], False], keywords={})
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="echo $JUMPSTARTER_HOST; exit 5\n",
        env={**os.environ, "SHELL": "/bin/bash"},
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (5, "h\n")


def test_secrets_stay_out_of_the_command_line() -> None:
    def look(process: subprocess.Popen[bytes]) -> None:
        seen.append(str(process.args))
        process.terminate()

    seen: list[str] = []
    run_command("sleep", "60", passphrase="sesame", on_start=look)
    assert not re.search("sesame", seen[0])


def test_scripts_need_their_execute_bit(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    assert run_command(str(script)) == 126
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert run_command(str(script)) == 0


def test_j_is_found_in_an_environment_that_is_not_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "j").write_text("#!/bin/sh\necho this is j\n")
    (programs / "j").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    assert launch_shell("/nowhere", "local", [], True, False, command=["j"]) == 0

    assert capfd.readouterr().out == "this is j\n"
