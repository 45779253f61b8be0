"""Waiting for edges and levels of an input: by the kernel's edge events, or by looking again and again.

Waits are coroutines: they end when they are cancelled, hold no thread meanwhile, and any number of them share a line.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio import to_thread

from .lines import GpioError, Line

CHECK_INTERVAL: Final = 1.0
"""Seconds after which a wait for events makes sure that the line is still there."""


@dataclass(eq=False)
class _Waiter:
    """Somebody who waits for one kind of edge."""

    edge: str
    happened: anyio.Event = field(default_factory=anyio.Event)
    failure: GpioError | None = None


class InputWaits:
    """Waits on one line.

    Args:
        line: the input.
        poll_interval: seconds between two looks at a line without edge events; shorter pulses are missed then.
        logger: told once when that is so.
    """

    def __init__(self, line: Line, poll_interval: float, logger: logging.Logger) -> None:
        self._line = line
        self._poll_interval = poll_interval
        self._logger = logger
        self._waiters: set[_Waiter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._setup = anyio.Lock()
        self._told = False
        self._closed = False

    async def level(self, active: bool, timeout: float) -> None:
        """Wait until the line is active, or inactive; at once when it is.

        Raises:
            TimeoutError: it isn't within `timeout` seconds.
            GpioError: the line can't be read any more.
        """
        if await to_thread.run_sync(self._read) is active:
            return
        what = "active" if active else "inactive"
        with self._bounded(timeout, f"did not become {what}"):
            await self._wait("rising" if active else "falling", active)

    async def edge(self, edge: str, timeout: float) -> None:
        """Wait for the next edge, `rising` (to active) or `falling`.

        Raises:
            TimeoutError: there is none within `timeout` seconds.
            GpioError: the line can't be read any more.
        """
        with self._bounded(timeout, f"had no {edge} edge"):
            await self._wait(edge, None)

    def close(self) -> None:
        """Let all waits fail; to be called before the line is closed, from any thread."""
        self._closed = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._fail, self._released())

    @contextmanager
    def _bounded(self, timeout: float, what: str) -> Generator[None, None, None]:
        with anyio.move_on_after(timeout) as scope:
            yield
        if scope.cancelled_caught:
            raise TimeoutError(f"{self._line.name} {what} within {timeout:g} s")

    async def _wait(self, edge: str, level: bool | None) -> None:
        # Events stay on until the line is closed: switching them for every wait costs some adapters dearly.
        async with self._setup:
            has_events = await to_thread.run_sync(self._line.watch_edges)
        if has_events:
            await self._wait_for_event(edge, level)
        else:
            self._tell()
            await self._poll(edge, level)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._logger.warning(
                "%s has no edge events; looking at it every %g s instead, so shorter pulses are missed",
                self._line.name,
                self._poll_interval,
            )

    async def _wait_for_event(self, edge: str, level: bool | None) -> None:
        waiter = _Waiter(edge)
        with self._registered(waiter):
            while not waiter.happened.is_set():
                # Beside noticing that the line is gone, this catches the level that it has from the beginning.
                state = await to_thread.run_sync(self._read)
                if level is not None and state is level:
                    return
                with anyio.move_on_after(CHECK_INTERVAL):
                    await waiter.happened.wait()
        if waiter.failure is not None:
            raise waiter.failure

    @contextmanager
    def _registered(self, waiter: _Waiter) -> Generator[None, None, None]:
        """Have events delivered to a waiter; the first one has the loop watch the line, the last one ends that."""
        if not self._waiters:
            self._watched = self._line.descriptor()
            self._line.edges()  # those from before are of no interest
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._watched, self._deliver)
        self._waiters.add(waiter)
        try:
            yield
        finally:
            self._waiters.discard(waiter)
            if not self._waiters and self._loop is not None:
                self._loop.remove_reader(self._watched)
                self._loop = None
                os.close(self._watched)

    def _deliver(self) -> None:
        """Tell waiters of edges; called by the loop when there are some."""
        try:
            edges = self._line.edges()
        except GpioError as error:
            self._fail(error)
            return
        for waiter in self._waiters:
            if waiter.edge in edges:
                waiter.happened.set()

    def _fail(self, error: GpioError) -> None:
        for waiter in self._waiters:
            waiter.failure = error
            waiter.happened.set()

    async def _poll(self, edge: str, level: bool | None) -> None:
        last = await to_thread.run_sync(self._read)
        while level is None or last is not level:
            await anyio.sleep(self._poll_interval)
            state = await to_thread.run_sync(self._read)
            if level is None and state is not last and state is (edge == "rising"):
                return
            last = state

    def _read(self) -> bool:
        # The session's end releases the line, which must not be claimed anew.
        if self._closed:
            raise self._released()
        return self._line.get()

    def _released(self) -> GpioError:
        return GpioError(f"{self._line.name} was released: its session has ended")
