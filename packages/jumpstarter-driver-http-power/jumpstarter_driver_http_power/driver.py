"""The driver of supplies that are switched by HTTP requests: plugs, relays, units with a REST interface."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import field
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.common import PowerReading
from jumpstarter_driver_power.driver import PowerInterface
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from .common import BadAnswer, HttpPowerError, NotConfigured
from .config import BODY_METHODS, Auth, Endpoint, ReadEndpoint, StatusEndpoint
from .web import Web, excerpt, value_at

__all__ = ["BadAnswer", "HttpPower", "HttpPowerError", "NotConfigured"]


@dataclass(kw_only=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class HttpPower(PowerInterface, Driver):
    """A supply that is switched by HTTP requests of the exporter config."""

    name: str = "device"
    """What the supply is called in messages."""
    power_on: Endpoint
    """The request that switches on."""
    power_off: Endpoint
    """The request that switches off."""
    power_status: StatusEndpoint | None = None
    """The request that tells the state; with it, `on` and `off` wait until the device reports the new one."""
    power_read: ReadEndpoint | None = None
    """The request that measures."""
    voltage_path: str | None = None
    """Where volts lie in the answer to `power_read`, unless that says it itself."""
    current_path: str | None = None
    """Where amperes lie in the answer to `power_read`, unless that says it itself."""
    auth: Auth | None = field(default=None, repr=False)
    timeout: Annotated[float, Field(gt=0, le=300)] = 10.0
    """Seconds that a request may take."""
    ca_file: str | None = None
    """PEM file of the authorities to trust for `https://`, instead of those of the system."""
    insecure_tls: bool = False
    """Accept any certificate; only for a network that is trusted as a whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ca_file is not None and not Path(self.ca_file).expanduser().is_file():
            raise ValueError(f"ca_file {self.ca_file}: there is no such file")
        for key in ("power_on", "power_off", "power_status", "power_read"):
            endpoint = getattr(self, key)
            if endpoint is not None and endpoint.data is not None and endpoint.method not in BODY_METHODS:
                self.logger.warning("%s: %s requests have no body, its `data` is not sent", key, endpoint.method)
        self._web = Web(
            timeout=self.timeout,
            auth=self.auth,
            ca_file=str(Path(self.ca_file).expanduser()) if self.ca_file else None,
            insecure_tls=self.insecure_tls,
        )

    @export
    async def on(self) -> None:
        """Switch on.

        Raises:
            HttpPowerError: the device refused, or did not answer.
            PowerNotConfirmed: it reports another state.
        """
        await self._command(self.power_on, "on")

    @export
    async def off(self) -> None:
        """Switch off.

        Raises:
            HttpPowerError: the device refused, or did not answer.
            PowerNotConfirmed: it reports another state.
        """
        await self._command(self.power_off, "off")

    @export(watch=True)
    async def status(self) -> str:
        """Return the state that the device reports: `on`, `off`, or `unknown` when it is another value.

        Raises:
            NotConfigured: the exporter config has no `power_status`.
            HttpPowerError: the device refused, or did not answer.
        """
        if self.power_status is None:
            raise NotConfigured(f"{self.name} can't be asked for its state: the exporter config has no `power_status`")
        text = await self._web.send(self.power_status)
        path = self.power_status.path
        return self.power_status.name(text if path is None else value_at(self.power_status, text, path))

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, None]:
        """Yield one measurement.

        Raises:
            NotConfigured: the exporter config has no `power_read`.
            BadAnswer: the answer has no such numbers.
            HttpPowerError: the device refused, or did not answer.
        """
        endpoint = self.power_read
        if endpoint is None:
            raise NotConfigured(f"{self.name} can't be measured: the exporter config has no `power_read`")
        text = await self._web.send(endpoint)
        power = None
        if endpoint.power_path is not None:
            power = self._number(endpoint, text, endpoint.power_path)
        yield PowerReading(
            voltage=self._number(endpoint, text, endpoint.voltage_path or self.voltage_path or "voltage"),
            current=self._number(endpoint, text, endpoint.current_path or self.current_path or "current"),
            power=power,
        )

    async def _command(self, endpoint: Endpoint, state: str) -> None:
        await self._web.send(endpoint)
        self.logger.debug("%s: %s sent", self.name, endpoint.shown)
        if self.power_status is not None:
            await self.confirm(state)

    def _number(self, endpoint: Endpoint, text: str, path: str) -> float:
        value: Any = value_at(endpoint, text, path)
        try:
            number = float(value) if not isinstance(value, bool) else float("nan")
        except (TypeError, ValueError):
            number = float("nan")
        if not isfinite(number):
            raise BadAnswer(f"{path} in the answer to {endpoint.shown} is no number: {excerpt(str(value))}")
        return number
