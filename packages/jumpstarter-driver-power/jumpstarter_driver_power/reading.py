"""The measurement of a supply, as it travels from driver to client."""

from __future__ import annotations

from pydantic import BaseModel, Field


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
