"""Buses for the tests: virtual ones, and one whose device can be pulled out."""

from __future__ import annotations

import errno
import itertools
import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import can
import pytest
from jumpstarter.common.utils import serve

from jumpstarter_driver_can import driver, isotp_drivers, opening
from jumpstarter_driver_can.driver import Can

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the threads of drivers look more often whether they are still wanted."""
    monkeypatch.setattr(driver, "READ_TIMEOUT", 0.01)
    monkeypatch.setattr(isotp_drivers, "PUMP_TIMEOUT", 0.01)


@pytest.fixture
def channel() -> str:
    """A virtual channel of the test's own."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def served() -> Iterator[Callable[[Any], Any]]:
    """Serve a driver until the end of the test; returns its client."""
    with ExitStack() as stack:
        yield lambda driver: stack.enter_context(serve(driver))


@pytest.fixture
def pair(served: Callable[[Any], Any], channel: str) -> tuple[Any, Any]:
    """Two clients whose drivers are on the same virtual bus."""
    return tuple(served(Can(channel=channel, interface="virtual")) for _ in range(2))  # type: ignore[return-value]


@pytest.fixture
def peer(channel: str) -> Iterator[can.BusABC]:
    """Another node on the virtual channel, without Jumpstarter."""
    with can.Bus(channel=channel, interface="virtual") as bus:
        yield bus


class Adapter:
    """A CAN adapter that a test can unplug, fill up, and make talk nonsense; what is sent comes out at `wire`."""

    def __init__(self) -> None:
        self.plugged = True
        self.full = False
        self.opened = 0
        self.wire: queue.Queue[can.Message] = queue.Queue()
        self.incoming: queue.Queue[can.Message | Exception] = queue.Queue()

    def open(self) -> can.BusABC:
        """Open it, as `can.Bus` would."""
        if not self.plugged:
            raise can.CanInitializationError("No such device", errno.ENODEV)
        self.opened += 1
        return AdapterBus(self)


class AdapterBus(can.BusABC):
    """The bus of an adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.channel_info = "test adapter"
        super().__init__(channel="adapter")

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        if not self.adapter.plugged:
            raise can.CanOperationError("Failed to receive: Network is down", errno.ENETDOWN)
        try:
            item = self.adapter.incoming.get(timeout=timeout)
        except queue.Empty:
            return None, False
        if isinstance(item, Exception):
            raise item
        return item, False

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        if not self.adapter.plugged:
            raise can.CanOperationError("Failed to transmit: Network is down", errno.ENETDOWN)
        if self.adapter.full:
            raise can.CanOperationError("Failed to transmit: No buffer space available", errno.ENOBUFS)
        self.adapter.wire.put(msg)


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Adapter:
    """An adapter, behind every bus that python-can opens during the test."""
    made = Adapter()
    monkeypatch.setattr(opening.can, "Bus", lambda **_: made.open())
    return made
