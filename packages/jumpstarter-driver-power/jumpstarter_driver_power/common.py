"""Values that power drivers and their clients exchange."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from jumpstarter.common.exceptions import JumpstarterException

if TYPE_CHECKING:
    from .reading import PowerReading

__all__ = ["MAX_CYCLE_WAIT", "MIN_OFF_SECONDS", "PowerNotConfirmed", "PowerReading", "PowerState"]

MIN_OFF_SECONDS: Final = 2.0
"""Shortest pause, in seconds, that an interrupted power cycle still makes before it switches on again."""

MAX_CYCLE_WAIT: Final = 3600.0
"""Longest pause of a power cycle in seconds."""


class PowerState(StrEnum):
    """What a power driver knows about its supply."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class PowerNotConfirmed(JumpstarterException, RuntimeError):
    """The device took a command to switch, but does not report the state that was asked for."""


def __getattr__(name: str) -> Any:
    # Switching a device on needs no readings, so it need not wait for pydantic to be imported.
    if name == "PowerReading":
        from .reading import PowerReading

        return PowerReading
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
