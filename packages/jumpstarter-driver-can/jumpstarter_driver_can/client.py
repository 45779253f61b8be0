"""Clients of CAN buses and ISO-TP connections."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from jumpstarter.client import DriverClient

if TYPE_CHECKING:
    import click
    import isotp
    from can import BusABC as _Bus

    from .bus import RemoteCyclicSendTask
else:
    # python-can takes ten times as long to import as Python itself, and most commands of `j` don't need it.
    _Bus = object

__all__ = ["CanClient", "IsoTpClient", "RemoteCyclicSendTask"]

BUS_MEMBERS: Final = frozenset(
    {
        *("recv", "send", "send_periodic", "stop_all_periodic_tasks", "set_filters", "flush_tx_buffer", "shutdown"),
        *("protocol", "channel_info", "fileno", "flush", "lost_frames", "link", "RECV_LOGGING_LEVEL"),
        *("_recv_internal", "_send_periodic_internal", "_apply_filters", "_matches_filters"),
        *("_filters", "_periodic_tasks", "_is_shutdown", "_can_protocol"),
    }
)
"""What makes a client a bus when it is asked for."""


COUNTS: Final = ("received", "sent", "buffer", "clients", "periodic")
INFO: Final = ("interface", "channel", "channel_info", "protocol", "state", "fault", *COUNTS)
"""Members of `info`, in the order in which they are shown."""


def __getattr__(name: str) -> Any:
    if name == "RemoteCyclicSendTask":
        from .bus import RemoteCyclicSendTask

        return RemoteCyclicSendTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class CanClient(DriverClient, _Bus):
    """A CAN bus of the exporter, which is a `can.BusABC`: whatever works with python-can's buses works with it.

    It becomes one, `jumpstarter_driver_can.bus.CanBus`, when it is first used as such, or asked whether it is one by a
    program that has imported python-can.
    """

    _is_bus: ClassVar[bool] = False

    # Buses are compared by identity.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def _as_bus(self) -> Any:
        from .bus import become_bus

        become_bus(self)
        return self

    def __getattr__(self, name: str) -> Any:
        if self._is_bus or name not in BUS_MEMBERS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._as_bus(), name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # `isinstance(client, can.BusABC)` looks here; nobody can ask that before python-can was imported.
        cls = type(self)
        if cls._is_bus or "can" not in sys.modules:
            return cls
        from .bus import bus_class

        return bus_class(cls)

    @property
    def state(self) -> Any:
        """State of the controller, a `can.BusState`; few interfaces let it be set."""
        return self._as_bus().state

    @state.setter
    def state(self, state: Any) -> None:
        self._as_bus().state = state

    @property
    def filters(self) -> Any:
        """What is received, as set by `set_filters`."""
        return self._as_bus().filters

    @filters.setter
    def filters(self, filters: Any) -> None:
        self._as_bus().filters = filters

    def __enter__(self) -> Any:
        return self._as_bus().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._as_bus().__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._as_bus())

    def info(self) -> dict[str, Any]:
        """Return the settings of the bus, its state, and counts of frames since the session began.

        Raises:
            DriverMethodNotImplemented: the exporter can't tell.
        """
        found = self.call("info")
        # Numbers travel as floats, and members in any order.
        known = {name: int(found[name]) if name in COUNTS else found[name] for name in INFO if name in found}
        return known | {name: value for name, value in found.items() if name not in known}

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""
        from .commands import can_commands

        return can_commands(self)


class IsoTpClient(DriverClient):
    """An ISO-TP connection of the exporter: transfers of up to 4095 bytes, or more where both ends can do that."""

    def start(self) -> None:
        """Begin to send and receive.

        Raises:
            DriverInvalidArgument: it has begun already.
        """
        self.call("start")

    def stop(self) -> None:
        """End transfers, and the connection."""
        self.call("stop")

    def send(self, data: bytes, target_address_type: int | None = None, send_timeout: float | None = None) -> None:
        """Send the data of one transfer; with the parameter `blocking_send`, return when it is complete.

        Args:
            data: one byte at least.
            target_address_type: 0 physical, 1 functional (`isotp.TargetAddressType`); None for that of the parameters.
            send_timeout: seconds that a blocking send takes at most.

        Raises:
            DriverInvalidArgument: the connection is not started, or can't send this.
            DriverError: the transfer failed.
        """
        kind = getattr(target_address_type, "value", target_address_type)
        self.call("send", {"data": base64.b64encode(bytes(data)).decode()}, kind, send_timeout)

    def recv(self, block: bool = False, timeout: float | None = None) -> bytes | None:
        """Return the data of the next transfer, or None when there is none (in time).

        Args:
            block: wait for one; a kernel socket always does.
            timeout: seconds to wait at most; None for no limit.
        """
        data = self.call("recv", block, timeout)["data"]
        return None if data is None else base64.b64decode(data)

    def available(self) -> bool:
        """Tell whether a received transfer waits.

        Raises:
            DriverMethodNotImplemented: a kernel socket can't tell.
        """
        return self.call("available")

    def transmitting(self) -> bool:
        """Tell whether a transfer is being sent.

        Raises:
            DriverMethodNotImplemented: a kernel socket can't tell.
        """
        return self.call("transmitting")

    def set_address(self, address: isotp.Address | isotp.AsymmetricAddress) -> None:
        """Use another address from now on.

        Raises:
            ValueError: this is no address.
            DriverMethodNotImplemented: a kernel socket can't do that.
        """
        import isotp

        from .common import IsoTpAddress, IsoTpAsymmetricAddress

        if isinstance(address, isotp.Address):
            self.call("set_address", IsoTpAddress.validate(address))
        elif isinstance(address, isotp.AsymmetricAddress):
            self.call("set_address", IsoTpAsymmetricAddress.validate(address))
        else:
            raise ValueError(f"not an ISO-TP address: {address!r}")

    def stop_sending(self) -> None:
        """Give up the transfer that is being sent."""
        self.call("stop_sending")

    def stop_receiving(self) -> None:
        """Give up the transfer that is being received."""
        self.call("stop_receiving")

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""
        from .commands import isotp_commands

        return isotp_commands(self)
