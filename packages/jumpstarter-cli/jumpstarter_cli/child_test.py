"""Ending the program of `jmp shell`."""

from __future__ import annotations

import signal
import subprocess
import threading

import anyio

from .child import Child


async def test_a_signal_that_comes_while_the_program_is_started_ends_it() -> None:
    child, reported = Child(interactive=False), threading.Event()
    codes: list[int] = []

    def launch() -> int:
        with subprocess.Popen(["sleep", "300"]) as process:
            reported.wait(30)
            child.started(process)
            return process.wait()

    async def run() -> None:
        codes.append(await child.run(launch))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(child.end, signal.SIGTERM)
            await anyio.wait_all_tasks_blocked()
            reported.set()
    assert codes == [-signal.SIGTERM]


async def test_without_a_program_there_is_nothing_to_end() -> None:
    with anyio.fail_after(1):
        await Child(interactive=True).end(signal.SIGTERM)
