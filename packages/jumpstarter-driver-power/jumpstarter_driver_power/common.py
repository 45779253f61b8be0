"""Values that power drivers and their clients exchange."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, Field

MIN_OFF_SECONDS: Final = 2.0
"""Shortest pause, in seconds, that an interrupted power cycle still makes before it switches on again."""

MAX_CYCLE_WAIT: Final = 3600.0
"""Longest pause of a power cycle in seconds."""


class PowerState(StrEnum):
    """What a power driver knows about its supply."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class PowerReading(BaseModel):
    """One measurement of a supply."""

    voltage: float = Field(allow_inf_nan=False)
    """Volts."""
    current: float = Field(allow_inf_nan=False)
    """Amperes."""
    power: float | None = Field(default=None, allow_inf_nan=False)
    """Active power in watts, where the device measures it."""

    @property
    def apparent_power(self) -> float:
        """Voltage times current, in volt-amperes."""
        return self.voltage * self.current


class PowerNotConfirmed(RuntimeError):
    """The device took a command to switch, but does not report the state that was asked for."""
