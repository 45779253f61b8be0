"""The interface `jumpstarter` of python-can: a bus of the session that this program runs in.

Inside `jmp shell`, `python -m can.viewer -i jumpstarter -c can` shows the driver called `can`, and so do all programs
that open buses by python-can. A driver inside others is named with dots, as in `board.can`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import can
from jumpstarter.client import DriverClient
from jumpstarter.common.utils import env

from .client import CanClient

HOST = "JUMPSTARTER_HOST"


class JumpstarterBus(can.BusABC):
    """A CAN bus of the exporter of the current session."""

    def __init__(self, channel: Any = "", can_filters: Any = None, **kwargs: Any) -> None:
        """
        Args:
            channel: name of the driver; may be empty when the session has one CAN bus only.
            can_filters: as of `can.BusABC`.
            **kwargs: bit rates and the like are those of the exporter, so they are not used.

        Raises:
            can.CanInitializationError: there is no session, or no such driver.
        """
        self._stack = ExitStack()
        if not os.environ.get(HOST):
            raise can.CanInitializationError(f"{HOST} is not set: run this inside `jmp shell`")
        try:
            root = self._stack.enter_context(env())
            self._bus: Any = find_bus(root, str(channel or ""))
            self.channel_info = f"{self._bus.channel_info} (Jumpstarter)"
            self._can_protocol = self._bus.protocol
            super().__init__(channel=channel, can_filters=can_filters)
        except BaseException:
            self._stack.close()
            raise

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Send a frame; see `jumpstarter_driver_can.bus.CanBus.send`."""
        self._bus.send(msg, timeout)

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        return self._bus._recv_internal(timeout)

    def _apply_filters(self, filters: Any) -> None:
        self._bus.set_filters(filters)

    def _send_periodic_internal(self, *args: Any, **kwargs: Any) -> Any:
        return self._bus._send_periodic_internal(*args, **kwargs)

    def flush_tx_buffer(self) -> None:
        """Discard what waits in the transmit queue of the exporter's interface."""
        self._bus.flush_tx_buffer()

    @property
    def state(self) -> can.BusState:
        """State of the controller."""
        return self._bus.state

    @state.setter
    def state(self, state: can.BusState) -> None:
        self._bus.state = state

    def shutdown(self) -> None:
        """End the periodic sends, wait until all frames are sent, and leave the session."""
        if self._is_shutdown:
            return
        try:
            super().shutdown()
            self._bus.shutdown()
        finally:
            self._stack.close()


def find_bus(root: DriverClient, name: str) -> CanClient:
    """Return the client that `name` (dots between the levels) leads to, or the only one if it is empty.

    Raises:
        can.CanInitializationError: there is none; the message lists those that there are.
    """
    buses = dict(_buses(root, ""))
    if name in buses:
        return buses[name]
    known = ", ".join(sorted(filter(None, buses))) or "none"
    if not name and len(buses) == 1:
        return next(iter(buses.values()))
    if not name:
        raise can.CanInitializationError(f"name the bus as the channel; CAN buses of this session: {known}")
    raise can.CanInitializationError(f"this session has no CAN bus {name!r}; its CAN buses: {known}")


def _buses(client: DriverClient, name: str) -> list[tuple[str, CanClient]]:
    found: list[tuple[str, CanClient]] = [(name, client)] if isinstance(client, CanClient) else []
    for child_name, child in client.children.items():
        found += _buses(child, f"{name}.{child_name}" if name else child_name)
    return found
