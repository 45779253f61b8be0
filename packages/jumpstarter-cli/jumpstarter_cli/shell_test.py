"""`jmp shell` and `j` as real processes, with real exporters."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import TIMEOUT, J

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def in_shell(run_jmp: Run, exporter_config: Path) -> Run:
    """Run a command with the devices of the exporter config."""

    def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run_jmp("shell", "--exporter-config", str(exporter_config), "--", *command, **env)

    return run


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- local -----------------------------------------------------------------------------------------------------------


def test_a_command_of_the_device_runs(in_shell: Run) -> None:
    result = in_shell(*J, "power", "read")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("voltage=0.0 V")


def test_the_exit_code_of_the_command_is_that_of_the_shell(in_shell: Run) -> None:
    assert in_shell("sh", "-c", "exit 7").returncode == 7


def test_a_command_that_dies_by_a_signal_has_its_exit_code(in_shell: Run) -> None:
    assert in_shell("sh", "-c", "kill -9 $$").returncode == 137


def test_a_missing_command_has_the_exit_code_of_shells_and_is_named(in_shell: Run) -> None:
    result = in_shell("no-such-program")
    assert result.returncode == 127
    assert "no-such-program" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_two_dashes_may_be_left_out(run_jmp: Run, exporter_config: Path) -> None:
    result = run_jmp("shell", "--exporter-config", str(exporter_config), "sh", "-c", "echo $0 --client", "x")
    assert result.stdout == "x --client\n"


def test_python_programs_reach_the_device(in_shell: Run) -> None:
    code = "from jumpstarter.common.utils import env\nwith env() as client:\n    client.power.on()\n"
    assert in_shell(sys.executable, "-c", code).returncode == 0


def test_the_log_of_the_drivers_is_shown_on_request_only(run_jmp: Run, exporter_config: Path) -> None:
    command = ["shell", "--exporter-config", str(exporter_config)]
    assert run_jmp(*command, *J, "power", "on").stderr == ""
    assert "[driver.MockPower] power on" in run_jmp(*command, "--exporter-logs", *J, "power", "on").stderr


def test_options_of_leases_are_not_ignored_in_silence(run_jmp: Run, exporter_config: Path) -> None:
    result = run_jmp("shell", "--exporter-config", str(exporter_config), "-l", "a=b", "--duration", "1h", "true")
    assert result.returncode == 0
    assert "Warning: --selector, --duration belong to leases" in result.stderr


def test_a_broken_exporter_config_is_told_with_line_and_key(run_jmp: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("metadata: {namespace: a, name: b}\nexport:\n  power: {tpye: x.Y}\n")
    result = run_jmp("shell", "--exporter-config", str(path), "true")
    assert result.returncode == 1
    assert "did you mean 'type'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_driver_is_told(run_jmp: Run, tmp_path: Path) -> None:
    path = tmp_path / "missing.yaml"
    path.write_text("metadata: {namespace: a, name: b}\nexport:\n  power: {type: no_such_package.driver.Power}\n")
    result = run_jmp("shell", "--exporter-config", str(path), "true")
    assert result.returncode == 1
    assert "no_such_package" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", ["--exporter", "--client"])
def test_a_config_that_does_not_exist_is_a_usage_error(option: str, run_jmp: Run) -> None:
    result = run_jmp("shell", option, "nope", "true")
    assert result.returncode == 2
    assert f"{option} nope" in result.stderr


def test_without_any_config_the_shell_says_what_to_do(run_jmp: Run) -> None:
    result = run_jmp("shell", "true")
    assert result.returncode == 2
    assert "jmp login" in result.stderr
    assert "--exporter-config PATH" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_shell_ends_its_command_and_tells_the_signal(
    number: signal.Signals, start_jmp: Start, exporter_config: Path
) -> None:
    shell = start_jmp("shell", "--exporter-config", str(exporter_config), "sh", "-c", "echo $$; exec sleep 300")
    child = int(first_line(shell))
    shell.send_signal(number)
    assert shell.wait(TIMEOUT) == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_command_that_ignores_the_end_is_killed(start_jmp: Start, exporter_config: Path) -> None:
    stubborn = "trap '' TERM; echo $$; while :; do sleep 0.1; done"
    shell = start_jmp("shell", "--exporter-config", str(exporter_config), "sh", "-c", stubborn)
    child = int(first_line(shell))
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(TIMEOUT) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_ctrl_c_belongs_to_the_command(start_jmp: Start, exporter_config: Path) -> None:
    careful = "trap 'echo tidied up; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    shell = start_jmp("shell", "--exporter-config", str(exporter_config), "sh", "-c", careful)
    assert first_line(shell) == "ready"
    shell.send_signal(signal.SIGINT)
    assert shell.wait(TIMEOUT) == 5
    assert first_line(shell) == "tidied up"


def test_a_stopped_shell_closes_its_drivers(start_jmp: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "closed"
    (tmp_path / "closing_driver.py").write_text(
        "from jumpstarter_driver_power.driver import MockPower\n"
        "class Closing(MockPower):\n"
        "    def close(self):\n"
        f"        open({str(mark)!r}, 'w').close()\n"
        "        super().close()\n"
    )
    config = tmp_path / "exporter.yaml"
    config.write_text("metadata: {namespace: a, name: b}\nexport:\n  power: {type: closing_driver.Closing}\n")
    shell = start_jmp(
        "shell",
        "--exporter-config",
        str(config),
        "sh",
        "-c",
        "echo up; exec sleep 300",
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert first_line(shell) == "up"
    assert not mark.exists()
    shell.send_signal(signal.SIGTERM)
    shell.wait(TIMEOUT)
    assert mark.exists()


# --- j ---------------------------------------------------------------------------------------------------------------


def test_j_outside_of_a_shell_says_where_it_belongs(process_env: dict[str, str]) -> None:
    result = subprocess.run([*J, "power", "on"], env=process_env, capture_output=True, text=True, timeout=TIMEOUT)
    assert result.returncode == 1
    assert "jmp shell" in result.stderr
    assert "Traceback" not in result.stderr


def test_j_with_nobody_at_the_other_end_says_so(process_env: dict[str, str], tmp_path: Path) -> None:
    env = process_env | {"JUMPSTARTER_HOST": str(tmp_path / "nobody"), "JMP_DRIVERS_ALLOW": "UNSAFE"}
    result = subprocess.run([*J, "power", "on"], env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "did not respond" in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_j_lists_the_commands_of_the_device(in_shell: Run) -> None:
    result = in_shell(*J, "--help")
    assert result.returncode == 0
    assert re.search(r"^  power +Power of the device\.$", result.stdout, re.M)


@pytest.mark.parametrize("args", [["nope"], ["power", "nope"], ["power", "cycle", "--wait", "x"]])
def test_wrong_usage_of_j_has_exit_code_2(args: list[str], in_shell: Run) -> None:
    result = in_shell(*J, *args)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: j")


def test_a_driver_that_fails_is_told_in_one_message(in_shell: Run) -> None:
    result = in_shell(*J, "power", "rescue")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


ODD_CLIENT = """\
import time
import click
from jumpstarter.client import DriverClient
from jumpstarter.driver import Driver

class OddClient(DriverClient):
    def cli(self):
        @click.group()
        def odd():
            "Commands with outcomes of all kinds."
        @odd.command()
        @click.pass_context
        def leave(ctx):
            ctx.exit(3)
        @odd.command()
        def number():
            return 4
        @odd.command()
        def bug():
            raise KeyError("bug")
        @odd.command()
        def wait():
            click.echo("waiting")
            time.sleep(300)
        return odd

class Odd(Driver):
    @classmethod
    def client(cls):
        return "odd_driver.OddClient"
"""


@pytest.fixture
def odd(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """The arguments for a shell with the odd driver, and the environment that finds it."""
    (tmp_path / "odd_driver.py").write_text(ODD_CLIENT)
    config = tmp_path / "odd.yaml"
    config.write_text("metadata: {namespace: a, name: b}\nexport:\n  odd: {type: odd_driver.Odd}\n")
    return ["shell", "--exporter-config", str(config), "--"], {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(("name", "code"), [("leave", 3), ("number", 4), ("bug", 1)])
def test_what_a_command_of_the_device_returns_is_the_exit_code(
    name: str, code: int, odd: tuple[list[str], dict[str, str]], run_jmp: Run
) -> None:
    args, env = odd
    result = run_jmp(*args, *J, "odd", name, **env)
    assert result.returncode == code
    assert "Traceback" not in result.stderr


def test_the_traceback_of_a_bug_is_shown_at_log_level_debug(
    odd: tuple[list[str], dict[str, str]], run_jmp: Run
) -> None:
    args, env = odd
    result = run_jmp(*args, *J, "--log-level", "debug", "odd", "bug", **env)
    assert "KeyError: 'bug'" in result.stderr
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_j_tells_the_signal(
    number: signal.Signals, code: int, odd: tuple[list[str], dict[str, str]], start_jmp: Start
) -> None:
    args, env = odd
    # The shell reports the child's exit code itself; exec makes j the child, which gets the signal directly.
    script = f"echo $$; exec {shlex.join(J)} odd wait"
    shell = start_jmp(*args, "sh", "-c", script, env=env)
    child = int(first_line(shell))
    assert first_line(shell) == "waiting"
    os.kill(child, number)
    assert shell.wait(TIMEOUT) == code


def test_j_completes_the_commands_of_the_device(in_shell: Run) -> None:
    result = in_shell(*J, _J_COMPLETE="bash_complete", COMP_WORDS="j power o", COMP_CWORD="2")
    assert result.stdout.split() == ["plain,on", "plain,off"] or result.stdout.split() == ["plain,off", "plain,on"]


def test_completion_of_j_outside_of_a_shell_is_quiet(process_env: dict[str, str]) -> None:
    env = process_env | {"_J_COMPLETE": "bash_complete", "COMP_WORDS": "j ", "COMP_CWORD": "1"}
    result = subprocess.run(J, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# --- what j costs ----------------------------------------------------------------------------------------------------

MEASURE = """\
import resource, subprocess, sys

def cost(command):
    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    once()
    return min(once() for _ in range(8))

print(min(cost(sys.argv[1:]) / cost([sys.executable, "-c", "pass"]) for _ in range(2)))
"""

PEAK = """\
import sys
from jumpstarter_cli.j import main
sys.argv = ["j", "--help"]
main()
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM:")), file=sys.stderr)
"""


@pytest.fixture
def compiled_shell(exporter_config: Path, tmp_path: Path, process_env: dict[str, str]) -> Run:
    """Run a command with a device where byte code is kept, as on a user's machine."""
    env = {name: value for name, value in process_env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path / "pycache")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        jmp = [sys.executable, "-m", "jumpstarter_cli", "shell", "--exporter-config", str(exporter_config), "--"]
        return subprocess.run([*jmp, *command], env=env, capture_output=True, text=True, timeout=TIMEOUT, check=True)

    return run


@pytest.mark.parametrize("args", [["--help"], ["power", "on"]])
def test_j_costs_at_most_fourteen_times_an_empty_python(args: list[str], compiled_shell: Run) -> None:
    program = f"import sys; from jumpstarter_cli.j import j; sys.argv = {['j', *args]!r}; j()"
    result = compiled_shell(sys.executable, "-c", MEASURE, sys.executable, "-c", program)
    assert float(result.stdout) <= 14


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")
def test_j_needs_at_most_fifty_mebibytes(compiled_shell: Run) -> None:
    assert int(compiled_shell(sys.executable, "-c", PEAK).stderr) <= 50 * 1024
