"""Scripts run with their output streamed, within their time, and leave no process behind."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from jumpstarter_driver_shell import script
from jumpstarter_driver_shell.script import TIMEOUT_STATUS, Item, collect, run_script

LIMIT = 1_000_000


def bash(text: str, timeout: float = 20) -> AsyncGenerator[Item, None]:
    """Run a bash script in the environment of the test."""
    return run_script(["bash", "-c", text], env=os.environ, cwd=None, timeout=timeout)


def is_running(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def wait_until_gone(pid: int) -> None:
    """Wait until a process has ended, at most ten seconds."""
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        await anyio.sleep(0.01)


async def test_both_outputs_and_the_status_arrive() -> None:
    assert await collect(bash("echo out; echo err >&2; exit 7"), LIMIT) == ("out\n", "err\n", 7)


async def test_output_arrives_while_the_script_runs(tmp_path: Path) -> None:
    # given a script that ends only when a file appears
    gate = tmp_path / "gate"
    async with aclosing(bash(f"echo first; until [ -e {gate} ]; do sleep 0.01; done; echo second")) as items:
        # when its first line has come
        with anyio.fail_after(10):
            assert await anext(items) == ("first\n", "", None)
            # then the script is still running and can be told to end
            gate.touch()
            assert [item async for item in items] == [("second\n", "", None), ("", "", 0)]


async def test_output_of_a_quick_script_is_complete() -> None:
    out, err, code = await collect(bash("seq 200000; seq 100000 >&2"), 10 * LIMIT)
    assert out.splitlines() == [str(number) for number in range(1, 200001)]
    assert len(err.splitlines()) == 100000
    assert code == 0


async def test_characters_split_between_reads_stay_whole() -> None:
    out, _, _ = await collect(bash(r"printf '\xc3'; sleep 0.1; printf '\xa9'"), LIMIT)
    assert out == "é"


async def test_bytes_that_are_no_text_are_replaced() -> None:
    assert await collect(bash(r"printf 'a\xffb\xc3'"), LIMIT) == ("a\ufffdb\ufffd", "", 0)


async def test_death_by_signal_is_a_negative_status() -> None:
    assert await collect(bash("kill -SEGV $$"), LIMIT) == ("", "", -11)


async def test_background_process_does_not_hold_up_the_end() -> None:
    # given a script that leaves a process behind which keeps the output open
    started = time.monotonic()
    out, _, code = await collect(bash("sleep 300 & echo $!"), LIMIT)
    try:
        # then the call ends with the script, and the process is left alone
        assert code == 0
        assert time.monotonic() - started < 10
        os.kill(int(out), 0)
    finally:
        os.kill(int(out), 9)


async def test_late_script_keeps_its_output_and_loses_its_processes() -> None:
    out, err, code = await collect(bash("sleep 300 & echo $!; wait", timeout=0.5), LIMIT)
    assert code == TIMEOUT_STATUS
    assert "Timeout expired after 0.5 s" in err
    await wait_until_gone(int(out))


async def test_late_script_may_clean_up_before_it_is_killed() -> None:
    out, _, code = await collect(bash("trap 'echo cleaned; exit 0' TERM; sleep 300 & wait", timeout=0.5), LIMIT)
    assert (out, code) == ("cleaned\n", TIMEOUT_STATUS)


async def test_late_script_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "GRACE", 0.2)
    out, _, code = await collect(bash("trap '' TERM; echo $$; while :; do sleep 300; done", timeout=0.5), LIMIT)
    assert code == TIMEOUT_STATUS
    await wait_until_gone(int(out))


async def test_caller_that_stops_listening_ends_the_script() -> None:
    items = bash("sleep 300 & echo $!; wait")
    with anyio.fail_after(10):
        out, _, _ = await anext(items)
        await items.aclose()
    await wait_until_gone(int(out))


async def test_cancelled_caller_ends_the_script() -> None:
    pids: list[int] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                async for out, _, _ in bash("sleep 300 & echo $!; wait"):
                    pids.append(int(out))
                    tasks.cancel_scope.cancel()

            tasks.start_soon(call)
    await wait_until_gone(pids[0])


async def test_script_cannot_read_the_input_of_the_exporter() -> None:
    assert await collect(bash("cat; echo end"), LIMIT) == ("end\n", "", 0)


async def test_missing_shell_is_a_status_of_127_with_its_name() -> None:
    items = run_script(["no-such-shell", "-c", "true"], env=os.environ, cwd=None, timeout=5)
    assert await collect(items, LIMIT) == ("", "no-such-shell: No such file or directory\n", 127)


async def test_collected_output_is_bounded_and_says_what_is_missing() -> None:
    out, _, _ = await collect(bash("printf %01000d 0; echo end"), 10)
    assert out == "[994 characters left out]\n000000end\n"


async def test_no_descriptor_stays_open() -> None:
    await collect(bash("true"), LIMIT)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await collect(bash("echo x"), LIMIT)
    assert len(os.listdir("/proc/self/fd")) <= before
