"""Scripts on a pseudo terminal: what they print, how they end, what they leave behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from jumpstarter.exporter.script import MAX_LINE, PtyState, ScriptTimeout, command_for, run_script

LIMIT = 20


async def run(script: str, *, timeout: float = LIMIT, grace: float = 5.0) -> tuple[int, list[str]]:
    lines: list[str] = []
    status = await run_script(
        command_for(script, None), environment=dict(os.environ), timeout=timeout, emit=lines.append, grace=grace
    )
    return status, lines


async def gone(pid: int) -> None:
    """Wait until a process is dead; what is left of it may wait for its parent."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with anyio.fail_after(LIMIT):
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def pid_in(path: Path) -> int:
    return int(path.read_text())


async def test_every_line_is_handed_out_in_order_with_the_exit_status():
    status, lines = await run("echo one; echo two >&2; printf 'no end'; exit 3")
    assert (status, lines) == (3, ["one", "two", "no end"])


async def test_a_death_by_signal_is_a_negative_status():
    status, _ = await run("kill -USR1 $$")
    assert status == -signal.SIGUSR1


async def test_output_goes_to_a_terminal_and_input_is_empty():
    status, lines = await run("test -t 1 && test -t 2 && cat && echo done")
    assert (status, lines) == (0, ["done"])


async def test_much_output_arrives_whole_while_others_go_on_working():
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        status, lines = await run("i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done")
        tasks.cancel_scope.cancel()
    assert status == 0
    assert lines == [f"line {number}" for number in range(30000)]
    assert turns > 20


async def test_bytes_that_are_no_text_and_rewritten_lines_are_made_readable():
    _, lines = await run(r"printf '\377\376bad\n10%%\r20%%\r100%%\n\n   \nlast\r\n'")
    assert lines == ["\ufffd\ufffdbad", "100%", "last"]


def test_a_line_without_an_end_is_handed_out_in_pieces():
    lines: list[str] = []
    state = PtyState(-1, lines.append)
    state._feed(b"x" * (2 * MAX_LINE + 5))
    assert [len(line) for line in lines] == [MAX_LINE, MAX_LINE]
    state.flush()
    assert len(lines[-1]) == 5


async def test_a_script_that_takes_too_long_is_ended_by_a_signal_it_can_act_on(tmp_path: Path):
    with pytest.raises(ScriptTimeout):
        await run(f"trap 'echo tidied > {tmp_path}/tidied; exit' TERM; while :; do sleep 0.05; done", timeout=0.3)
    assert (tmp_path / "tidied").read_text() == "tidied\n"


async def test_a_script_that_ignores_the_signal_is_killed(tmp_path: Path):
    with pytest.raises(ScriptTimeout), anyio.fail_after(LIMIT):
        await run(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done", timeout=0.3, grace=0.3)
    await gone(pid_in(tmp_path / "pid"))


async def test_processes_in_the_background_do_not_outlive_the_script(tmp_path: Path):
    with anyio.fail_after(LIMIT):
        status, lines = await run(f"sleep 1000 & echo $! > {tmp_path}/pid; echo started")
    assert (status, lines) == (0, ["started"])
    await gone(pid_in(tmp_path / "pid"))


async def test_a_cancelled_script_is_gone_with_its_children():
    pids: list[int] = []
    printed = anyio.Event()

    def emit(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        printed.set()

    async def run_and_print() -> None:
        command = command_for("sleep 1000 & echo $! $$; wait", None)
        await run_script(command, environment=dict(os.environ), timeout=LIMIT, emit=emit)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_and_print)
        with anyio.fail_after(LIMIT):
            await printed.wait()
        tasks.cancel_scope.cancel()
    assert len(pids) == 2
    for pid in pids:
        await gone(pid)


async def test_nothing_is_left_open():
    before = set(os.listdir("/proc/self/fd"))
    await run("echo x")
    with pytest.raises(ScriptTimeout):
        await run("sleep 100", timeout=0.05)
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    ("script", "interpreter", "expected"),
    [
        ("echo a\necho b", None, ["/bin/sh", "-c", "echo a\necho b"]),
        ("echo a", "sh", ["sh", "-c", "echo a"]),
        ("echo a", "sh -e", ["sh", "-e", "-c", "echo a"]),
        ("no/such/file.py", None, ["/bin/sh", "-c", "no/such/file.py"]),
        ("x" * 10000, None, ["/bin/sh", "-c", "x" * 10000]),
        ("a\0b", None, ["/bin/sh", "-c", "a\0b"]),
    ],
)
def test_commands_go_to_the_shell_or_the_named_interpreter(script: str, interpreter: str | None, expected: list[str]):
    assert command_for(script, interpreter) == expected


@pytest.mark.parametrize(
    ("name", "interpreter", "expected"),
    [("a.py", None, sys.executable), ("a.sh", None, "/bin/sh"), ("a", None, "/bin/sh"), ("a.py", "sh", "sh")],
)
def test_a_file_is_run_by_what_its_name_or_the_config_says(
    tmp_path: Path, name: str, interpreter: str | None, expected: str
):
    path = tmp_path / name
    path.touch()
    assert command_for(f"  {path}\n", interpreter) == [expected, str(path)]


@pytest.mark.parametrize("interpreter", ["no-such-shell", "no-such-shell -e"])
def test_a_missing_interpreter_is_named(interpreter: str):
    with pytest.raises(FileNotFoundError, match="'no-such-shell' is not installed"):
        command_for("echo", interpreter)
