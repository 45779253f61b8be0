"""The program that `jmp shell` runs, and what happens to it when `jmp shell` itself is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio import to_thread

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

GRACE = 5.0
"""Seconds that the program may take to end, before it is killed."""


class Child:
    """The program; it may not run yet, or not any more."""

    def __init__(self, *, interactive: bool) -> None:
        self.interactive = interactive
        self._process: subprocess.Popen[bytes] | None = None
        self._launched = False
        self._told_to_end: int | None = None
        self._ended = anyio.Event()

    async def run(self, launch: Callable[[], int]) -> int:
        """Run `launch`, which starts the program, reports it to `started` and waits for it, in a worker thread."""
        self._launched = True
        try:
            return await to_thread.run_sync(launch)
        finally:
            self._process = None
            self._ended.set()

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Take note of the running program; one that has to end gets the signal that came while it was started."""
        self._process = process
        if self._told_to_end is not None:
            process.send_signal(self._told_to_end)

    @property
    def pid(self) -> int | None:
        """Process id of the program, while it runs."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def running(self) -> bool:
        """Whether the program runs."""
        return self._process is not None

    def send(self, number: int) -> None:
        """Send a signal to the program, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    async def end(self, number: int) -> None:
        """End the program: by the signal, and after the grace time by SIGKILL."""
        if not self._launched or self._ended.is_set():
            return
        # Interactive shells ignore SIGTERM; the end of their terminal is what they obey.
        self._told_to_end = signal.SIGHUP if self.interactive else number
        self.send(self._told_to_end)
        with anyio.move_on_after(GRACE):
            await self._ended.wait()
        self.send(signal.SIGKILL)


def shares_terminal() -> bool:
    """Whether Ctrl-C reaches the program by itself: both are in the foreground of the same terminal."""
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno() if sys.__stdin__ is not None else 0) == os.getpgrp()
    except (OSError, ValueError):
        return False


async def obeying_signals(child: Child, work: Callable[[], Awaitable[int]]) -> int:
    """Run `work`, which runs the child, and return its exit code.

    SIGTERM and SIGHUP end the child, then `work`, which cleans up; the exit code is 128 + N then. SIGINT does so
    while there is no child; a running one gets it, and decides itself what it means.
    """
    received: list[int] = []
    result: list[int] = []

    async def watch(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, *END_SIGNALS) as signals:
            async for number in signals:
                if number == signal.SIGINT and child.running:
                    if not shares_terminal():
                        child.send(number)
                    continue
                received.append(number)
                await child.end(number)
                scope.cancel()
                return

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, tasks.cancel_scope)
        try:
            result.append(await work())
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if received:
        return 128 + received[0]
    if failure is not None:
        raise failure
    return result[0]


def use_profiles(config: Any) -> bool:
    """Whether an interactive shell reads the start-up files of the user, as the config says."""
    return getattr(getattr(config, "shell", None), "use_profiles", False) is True
