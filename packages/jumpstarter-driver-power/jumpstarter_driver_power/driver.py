"""Power control on the exporter: the interface that power drivers implement, and supplies that exist in memory only."""

from __future__ import annotations

import logging
from abc import ABCMeta, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterator
from dataclasses import dataclass, field
from math import isfinite
from time import monotonic
from typing import Any, ClassVar

import anyio
from jumpstarter.driver import Driver, export

from .common import MAX_CYCLE_WAIT, MIN_OFF_SECONDS, PowerNotConfirmed, PowerState
from .reading import PowerReading
from .uninterrupted import call, uninterrupted

__all__ = [
    "MockPower",
    "PowerInterface",
    "PowerNotConfirmed",
    "PowerReading",
    "PowerState",
    "SyncMockPower",
    "VirtualPowerInterface",
]

CONFIRM_TIMEOUT = 10.0
"""Seconds that a device may take until it reports the state that it was switched to."""

CONFIRM_INTERVAL = 0.1
"""Seconds between two looks at the state of a device."""

HISTORY_LENGTH = 1000
"""Commands that a mock remembers."""


class PowerInterface(metaclass=ABCMeta):
    """What a driver that switches the supply of a device has to offer.

    `on`, `off` and `read` are each driver's own, as ordinary functions or coroutines, and must be marked with
    `export`. `on` and `off` raise when the device did not take the command; a driver that can ask its device
    implements `status` as well and ends `on` and `off` with `confirm`.
    """

    driver_type: ClassVar[str] = "power"

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_power.client.PowerClient"

    @abstractmethod
    def on(self) -> Awaitable[None] | None:
        """Switch the supply on; return when it is on."""

    @abstractmethod
    def off(self) -> Awaitable[None] | None:
        """Switch the supply off; return when it is off."""

    @abstractmethod
    def read(self) -> Iterator[PowerReading] | AsyncIterator[PowerReading]:
        """Yield measurements, volts and amperes; endlessly, where the device can go on measuring."""

    @export(watch=True)
    async def status(self) -> str:
        """Return the state that the device itself reports: `on`, `off` or `unknown`.

        Raises:
            NotImplementedError: the device can't be asked.
        """
        raise NotImplementedError(f"{type(self).__name__} can't tell the state of its supply")

    @export
    async def rescue(self) -> None:
        """Start the device in its rescue mode.

        Raises:
            NotImplementedError: the device has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rescue mode")

    @export
    async def cycle(self, wait: float = 2) -> None:
        """Switch off, wait, switch on.

        A caller that goes away in between does not leave the device off: the pause is then cut to
        MIN_OFF_SECONDS at most, and the supply comes on again. Where the device reports its state, both
        steps are confirmed.

        Args:
            wait: seconds of the pause, 0 to MAX_CYCLE_WAIT.

        Raises:
            ValueError: `wait` is out of range; nothing was switched.
            PowerNotConfirmed: the device does not report the state that it was switched to.
        """
        if not isinstance(wait, (int, float)) or not isfinite(wait) or not 0 <= wait <= MAX_CYCLE_WAIT:
            raise ValueError(f"wait must be 0 to {MAX_CYCLE_WAIT:g} seconds, not {wait!r}")
        await uninterrupted(self._switch, PowerState.OFF)
        off_since = monotonic()
        try:
            await anyio.sleep(wait)
        except BaseException:
            rest = min(wait, MIN_OFF_SECONDS) - (monotonic() - off_since)
            await uninterrupted(self._switch_later, PowerState.ON, rest)
            raise
        await uninterrupted(self._switch, PowerState.ON)

    async def switch_off(self) -> None:
        """Switch the supply off at the end of a session whose exporter config asks for it."""
        await call(self.off, abandon_on_cancel=True)

    async def confirm(self, state: PowerState | str, timeout: float = CONFIRM_TIMEOUT) -> None:
        """Wait until `status` reports `state`.

        Raises:
            PowerNotConfirmed: it does not within `timeout` seconds.
            NotImplementedError: the driver has no `status`.
        """
        deadline = monotonic() + timeout
        while True:
            reported = await call(self.status)
            if reported == state:
                return
            if monotonic() >= deadline:
                raise PowerNotConfirmed(
                    f"{type(self).__name__} was switched {state}, but reports {reported!s} after {timeout:g} s. "
                    "Check the cabling and the outlet or channel that is configured."
                )
            await anyio.sleep(CONFIRM_INTERVAL)

    async def _switch(self, state: PowerState) -> None:
        await call(self.on if state is PowerState.ON else self.off)
        try:
            await self.confirm(state)
        except NotImplementedError:
            # A device that can't be asked has done what it can by taking the command.
            return

    async def _switch_later(self, state: PowerState, seconds: float) -> None:
        await anyio.sleep(max(0.0, seconds))
        await self._switch(state)


class VirtualPowerInterface(PowerInterface):
    """What a driver of a virtual machine has to offer: power, and a way to throw the machine away."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_power.client.VirtualPowerClient"

    @abstractmethod
    def off(self, destroy: bool = False) -> Awaitable[None] | None:
        """Switch the machine off; with `destroy`, remove it and its state as well."""


@dataclass(kw_only=True)
class _MemorySupply(PowerInterface, Driver):
    """A supply that is nothing but a state in memory, with a record of what it was told."""

    state: PowerState = field(init=False, default=PowerState.OFF)
    """Whether the supply is on; off to begin with."""
    history: deque[str] = field(init=False, repr=False)
    """The commands `on` and `off` in their order, the newest last; at most HISTORY_LENGTH."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.history = deque(maxlen=HISTORY_LENGTH)

    def _set(self, state: PowerState) -> None:
        self.logger.log(logging.INFO, "power %s", state)
        self.state = state
        self.history.append(str(state))

    @export(watch=True)
    async def status(self) -> str:
        """Return `on` or `off`."""
        return str(self.state)


@dataclass(kw_only=True)
class MockPower(_MemorySupply):
    """A supply for trials and tests, with coroutines: it logs what it is told and switches nothing."""

    @export
    async def on(self) -> None:
        """Note that the supply is on."""
        self._set(PowerState.ON)

    @export
    async def off(self) -> None:
        """Note that the supply is off."""
        self._set(PowerState.OFF)

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, Any]:
        """Yield the two readings 0 V, 0 A and 5 V, 2 A."""
        yield PowerReading(voltage=0.0, current=0.0)
        yield PowerReading(voltage=5.0, current=2.0)


@dataclass(kw_only=True)
class SyncMockPower(_MemorySupply):
    """The same supply with ordinary functions, which an exporter runs in worker threads."""

    @export
    def on(self) -> None:
        """Note that the supply is on."""
        self._set(PowerState.ON)

    @export
    def off(self) -> None:
        """Note that the supply is off."""
        self._set(PowerState.OFF)

    @export(watch=True)
    def read(self) -> Generator[PowerReading, Any, None]:
        """Yield the two readings 0 V, 0 A and 5 V, 2 A."""
        yield PowerReading(voltage=0.0, current=0.0)
        yield PowerReading(voltage=5.0, current=2.0)
