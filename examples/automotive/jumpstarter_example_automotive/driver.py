"""The supply of the simulated control unit, so that tests can switch it like a real one."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import can
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.driver import PowerInterface, PowerReading, PowerState

from .ecu import EngineControlUnit


@dataclass(kw_only=True)
class SimulatedEcu(PowerInterface, Driver):
    """Switches an engine control unit that is simulated in the exporter."""

    interface: str
    """Interface of python-can that it is connected to."""
    channel: str
    vin: str = "WJMPZZZ00CAN00001"

    _ecu: EngineControlUnit | None = field(init=False, default=None, repr=False)
    _bus: can.BusABC | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.vin) != 17 or not self.vin.isalnum():
            raise ValueError(f"vin must be 17 letters and digits, not {self.vin!r}")
        self._lock = threading.Lock()

    def close(self) -> None:
        """Switch it off."""
        try:
            self.off()
        finally:
            super().close()

    @export
    def on(self) -> None:
        """Switch the control unit on."""
        with self._lock:
            if self._ecu is None:
                self._bus = can.Bus(interface=self.interface, channel=self.channel)
                self._ecu = EngineControlUnit(self._bus, self.vin)

    @export
    def off(self) -> None:
        """Switch it off."""
        with self._lock:
            ecu, self._ecu = self._ecu, None
            bus, self._bus = self._bus, None
            if ecu is not None:
                # What was written is in permanent memory.
                self.vin = ecu.diagnostics.vin
                ecu.stop()
            if bus is not None:
                bus.shutdown()

    @export(watch=True)
    async def status(self) -> str:
        """Return `on` or `off`."""
        return str(PowerState.OFF if self._ecu is None else PowerState.ON)

    @export(watch=True)
    def read(self) -> Generator[PowerReading, Any, None]:
        """Yield one reading of the supply."""
        yield PowerReading(voltage=13.8, current=0.0 if self._ecu is None else 0.9)
