"""Client of relay boards, with the `j` commands of power and a `status` that knows of several channels."""

from __future__ import annotations

from dataclasses import dataclass

from jumpstarter_driver_power.client import PowerClient

from .common import RelayState

__all__ = ["NoyitoPowerClient", "RelayState"]


@dataclass(kw_only=True)
class NoyitoPowerClient(PowerClient):
    """Switches one relay of a board, or all of them together."""

    def status(self) -> RelayState:  # type: ignore[override]
        """Return what the board reports; `partial` when only some of all channels are on.

        Raises:
            DriverMethodNotImplemented: the config says that the board can't be asked.
        """
        try:
            return RelayState(self.call("status"))
        except ValueError:
            return RelayState.UNKNOWN
