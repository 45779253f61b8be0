"""Commands under a guard end with the program that started them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jumpstarter.common.guard import GuardedProcess

BOUND = 10.0


def wait_until_gone(pid: int) -> None:
    """Wait until no process has this id any more."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")


def read_pids(process: subprocess.Popen[str], count: int) -> list[int]:
    """Read process ids that a script prints, one per line."""
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


@pytest.mark.parametrize("code", [0, 3])
def test_exit_status_is_that_of_the_command(code: int) -> None:
    process = GuardedProcess(["sh", "-c", f"exit {code}"])
    assert process.popen.wait(BOUND) == code
    process.stop()


def test_death_by_signal_shows_as_such() -> None:
    process = GuardedProcess(["sh", "-c", "kill -KILL $$"])
    assert process.popen.wait(BOUND) == -signal.SIGKILL
    process.stop()


def test_missing_program_is_named() -> None:
    process = GuardedProcess(["no-such-program"], stderr=subprocess.PIPE, text=True)
    _, stderr = process.popen.communicate(timeout=BOUND)
    assert process.popen.returncode == 127
    assert stderr == "no-such-program: No such file or directory\n"
    process.stop()


def test_stop_ends_descendants_that_ignore_sigterm_too() -> None:
    script = "trap '' TERM; (trap '' TERM; sleep 1000 & echo $!; wait) & echo $!; wait; sleep 1000"
    process = GuardedProcess(["bash", "-c", script], grace=0.1, stdout=subprocess.PIPE, text=True)
    pids = read_pids(process.popen, 2)
    process.stop()
    for pid in pids:
        wait_until_gone(pid)


def test_command_and_its_directory_go_when_the_program_is_killed(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "file").touch()
    program = (
        "import time; from jumpstarter.common.guard import GuardedProcess as G;"
        f"g = G(['sh', '-c', 'sleep 1000 & echo $!; wait'], grace=0.1, remove={str(doomed)!r}); time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        (pid,) = read_pids(parent, 1)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until_gone(pid)
        deadline = time.monotonic() + BOUND
        while doomed.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not doomed.exists()
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()


def test_end_of_the_command_can_be_waited_for_with_a_selector() -> None:
    process = GuardedProcess(["cat"], stdin=subprocess.PIPE)
    assert select.select([process], [], [], 0)[0] == []
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    assert select.select([process], [], [], BOUND)[0] == [process]
    assert process.popen.wait(BOUND) == 0
    process.stop()


def test_command_gets_default_signals() -> None:
    process = GuardedProcess(["sh", "-c", "grep SigIgn /proc/self/status"], stdout=subprocess.PIPE, text=True)
    output, _ = process.popen.communicate(timeout=BOUND)
    standard = (1 << 31) - 1  # above lie the realtime signals, which are the test runner's own affair
    assert int(output.split()[1], 16) & standard == 0
    process.stop()
