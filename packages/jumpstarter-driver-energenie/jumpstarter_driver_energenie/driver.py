"""The driver of EnerGenie power strips with a network port."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import anyio
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.common import PowerReading
from jumpstarter_driver_power.driver import PowerInterface

from .common import EnerGenieError
from .strip import SLOTS, StripSession, session

__all__ = ["EnerGenie", "EnerGenieError"]

TURN_TIMEOUT: Final = 60.0
"""Seconds that a request may wait until the other outlets of the strip have had their turn."""

_current: ContextVar[StripSession | None] = ContextVar("energenie_session", default=None)


class _Turn:
    """One session at a time with a strip."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()


_turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()


@dataclass(kw_only=True)
class EnerGenie(PowerInterface, Driver):
    """An outlet of an EnerGenie power strip."""

    host: str | None = None
    """Name or address of the strip; required. `:PORT` may follow."""
    password: str | None = field(default="1", repr=False)
    """Password of the strip's web page; ex works it is 1."""
    slot: int = 1
    """Number of the outlet, 1 to 4."""
    timeout: float = 10.0
    """Seconds that a request may take, and that a strip is waited for that somebody else uses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.host, str) or not self.host.strip() or set(self.host) & set("/@?# "):
            raise ValueError(f"host must be the name or address of the power strip, not {self.host!r}")
        self.slot = self._checked_slot()
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not 0 < self.timeout <= 300:
            raise ValueError(f"timeout must be above 0 and at most 300 seconds, not {self.timeout!r}")
        # YAML reads a password of digits as a number.
        self.password = "" if self.password is None else str(self.password)
        self.base_url = f"http://{self.host.strip()}"
        self._turn = _turns.setdefault(self.base_url, _Turn())

    @export
    async def on(self) -> None:
        """Switch the outlet on; return when the strip says that it is on.

        Raises:
            EnerGenieError: the strip refused, or did not answer.
            PowerNotConfirmed: it reports another state.
        """
        await self._command(True)

    @export
    async def off(self) -> None:
        """Switch the outlet off; return when the strip says that it is off.

        Raises:
            EnerGenieError: the strip refused, or did not answer.
            PowerNotConfirmed: it reports another state.
        """
        await self._command(False)

    @export(watch=True)
    async def status(self) -> str:
        """Return `on` or `off`, as the strip reports it.

        Raises:
            EnerGenieError: the strip refused, or did not answer.
        """
        async with self._session() as strip:
            states = await strip.states()
        return "on" if states[self.slot - 1] else "off"

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, None]:
        """Not to be had from these strips."""
        raise NotImplementedError("EnerGenie power strips do not measure their outlets")
        yield

    async def _command(self, on: bool) -> None:
        async with self._session() as strip:
            await strip.switch(self.slot, on)
            await self.confirm("on" if on else "off")

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[StripSession, None]:
        """The session of this task; a new one, when it is our turn, if it has none."""
        if (running := _current.get()) is not None:
            yield running
            return
        with anyio.move_on_after(TURN_TIMEOUT) as patience:
            await self._turn.lock.acquire()
        if patience.cancelled_caught:
            raise TimeoutError(f"the power strip {self.host} was busy with other outlets for {TURN_TIMEOUT:g} s")
        try:
            async with session(self.base_url, self.password or "", float(self.timeout)) as strip:
                token = _current.set(strip)
                try:
                    yield strip
                finally:
                    _current.reset(token)
        finally:
            self._turn.lock.release()

    def _checked_slot(self) -> int:
        try:
            slot = int(self.slot) if not isinstance(self.slot, bool | float) else 0
        except (TypeError, ValueError):
            slot = 0
        if not 1 <= slot <= SLOTS:
            raise ValueError(f"slot must be a number from 1 to {SLOTS}, not {self.slot!r}")
        return slot
