"""Waiting until a pin is active or inactive: told by the pin library, or by looking again and again.

Waits are coroutines: they end when they are cancelled, hold no thread meanwhile, and any number of them share a pin.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio import to_thread

from .pins import PinError

CHECK_INTERVAL: Final = 1.0
"""Seconds after which a wait looks at the pin although nothing was told."""


@dataclass(eq=False)
class _Waiter:
    active: bool
    loop: asyncio.AbstractEventLoop
    told: anyio.Event = field(default_factory=anyio.Event)
    has_happened: bool = False

    def tell(self, happened: bool) -> None:
        """Called from any thread."""
        self.has_happened = self.has_happened or happened
        self.loop.call_soon_threadsafe(self.told.set)


class LevelWaits:
    """Waits on one pin.

    Args:
        name: what messages call the pin.
        read: tells whether it is active; blocking.
        interval: seconds between two looks at it.
    """

    def __init__(self, name: str, read: Callable[[], bool], interval: float) -> None:
        self._name = name
        self._read = read
        self._interval = interval
        self._waiters: set[_Waiter] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def follow(self, device: Any) -> None:
        """Have a gpiozero device with events tell of changes."""
        device.when_activated = lambda: self._tell(True)
        device.when_deactivated = lambda: self._tell(False)

    async def wait(self, active: bool, timeout: float) -> None:
        """Wait until the pin is active, or inactive; at once when it is.

        Raises:
            TimeoutError: it isn't within `timeout` seconds.
            PinError: it can't be read, or the session has ended.
        """
        waiter = _Waiter(active, asyncio.get_running_loop())
        with self._lock:
            self._waiters.add(waiter)
        try:
            if await to_thread.run_sync(self._look) is active:
                return
            with anyio.move_on_after(timeout):
                while not waiter.has_happened:
                    with anyio.move_on_after(self._interval):
                        await waiter.told.wait()
                    if await to_thread.run_sync(self._look) is active:
                        break
                return
        finally:
            with self._lock:
                self._waiters.discard(waiter)
        raise TimeoutError(f"{self._name} did not become {'active' if active else 'inactive'} within {timeout:g} s")

    def close(self) -> None:
        """Let all waits fail; to be called before the device is closed, from any thread."""
        self._is_closed = True
        with self._lock:
            for waiter in self._waiters:
                waiter.tell(False)

    def _look(self) -> bool:
        if self._is_closed:
            raise PinError(f"{self._name} was released: its session has ended")
        return self._read()

    def _tell(self, active: bool) -> None:
        with self._lock:
            for waiter in self._waiters:
                if waiter.active is active:
                    waiter.tell(True)
