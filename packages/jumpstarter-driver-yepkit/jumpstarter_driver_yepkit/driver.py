"""Power by the ports of a YKUSH switchable USB hub."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from anyio import to_thread
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.driver import PowerInterface, PowerNotConfirmed, PowerReading, PowerState

from .hub import (
    PID,
    PORT_DOWN_COMMANDS,
    PORT_STATUS_COMMANDS,
    PORT_UP_COMMANDS,
    PORTS,
    VID,
    HubRefused,
    opened,
)

__all__ = [
    "PID",
    "PORT_DOWN_COMMANDS",
    "PORT_STATUS_COMMANDS",
    "PORT_UP_COMMANDS",
    "VALID_DEFAULTS",
    "VID",
    "HubRefused",
    "Ykush",
]

VALID_DEFAULTS: Final = ["on", "off", "keep"]


@dataclass(kw_only=True)
class Ykush(PowerInterface, Driver):
    """One port of a YKUSH hub, or all of them.

    Raises:
        ValueError: a setting is wrong.
        FileNotFoundError: no such hub is plugged in.
        RuntimeError: several hubs are plugged in, and `serial` doesn't say which one is meant.
    """

    serial: str | None = None
    """Serial number of the hub, such as YK25838; None for the only one."""
    default: str = "off"
    """What the port is switched to when a session starts: `on`, `off`, or `keep` to leave it."""
    port: str = "all"
    """`1`, `2`, `3`, `all`; `4` is the 5 V output of the YKUSH3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_config()
        with opened(self.serial) as hub:
            hub.check_port(self.port)
            if self.serial is None and hub.device.serial is not None:
                self.logger.warning("using %s, as the config names none; set serial to be sure of it", hub)
                # Another hub that is plugged in later must not take its place.
                self.serial = hub.device.serial

    def _check_config(self) -> None:
        # YAML reads `port: 1` as a number, and `default: off` as false.
        if isinstance(self.port, int) and not isinstance(self.port, bool):
            self.port = str(self.port)
        if isinstance(self.default, bool):
            self.default = "on" if self.default else "off"
        if self.port not in PORTS:
            raise ValueError(f"port must be one of {', '.join(PORTS)}, not {self.port!r}")
        if self.default not in VALID_DEFAULTS:
            raise ValueError(f"default must be one of {', '.join(VALID_DEFAULTS)}, not {self.default!r}")
        if self.serial is not None and (not isinstance(self.serial, str) or not self.serial):
            raise ValueError(
                f"serial must be the text of a serial number, such as 'YK25838', in quotes, not {self.serial!r}"
            )

    def reset(self) -> None:
        """Switch the port as `default` says.

        Raises:
            OSError, RuntimeError: that failed.
        """
        super().reset()
        if self.default != "keep":
            self._command(PowerState(self.default))
            if (state := self._state()) != self.default:
                raise PowerNotConfirmed(
                    f"port {self.port} was switched {self.default}, but reports {state}. Check the hub and its supply"
                )

    @export
    async def on(self) -> None:
        """Switch on; the hub confirms it.

        Raises:
            OSError: the hub can't be reached.
            RuntimeError: it refused the command, or reports another state.
        """
        await self._switched(PowerState.ON)

    @export
    async def off(self) -> None:
        """Switch off; the hub confirms it.

        Raises:
            OSError: the hub can't be reached.
            RuntimeError: it refused the command, or reports another state.
        """
        await self._switched(PowerState.OFF)

    @export(watch=True)
    async def status(self) -> str:
        """Return `on` or `off` as the hub reports it; `unknown` when its ports differ.

        Raises:
            OSError: the hub can't be reached.
            RuntimeError: it gave no sensible answer.
        """
        return await to_thread.run_sync(self._state)

    @export
    def read(self) -> Generator[PowerReading, Any, None]:
        """Not offered: the hub measures nothing.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("YKUSH hubs measure neither voltage nor current")
        yield

    async def _switched(self, state: PowerState) -> None:
        await to_thread.run_sync(partial(self._command, state))
        await self.confirm(state)

    def _state(self) -> PowerState:
        with opened(self.serial) as hub:
            state = hub.is_on(self.port)
        return PowerState.UNKNOWN if state is None else PowerState.ON if state else PowerState.OFF

    def _command(self, state: PowerState) -> None:
        with opened(self.serial) as hub:
            hub.switch(self.port, state is PowerState.ON)
        self.logger.info("port %s of hub %s: %s", self.port, self.serial or "without serial number", state)
