"""Power switched by NOYITO relay boards, with a serial port or as USB HID devices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from anyio import to_thread
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.driver import PowerInterface, PowerReading

from .board import Board, HidBoard, SerialBoard
from .common import RelayState
from .protocol import MAX_CHANNEL, PRODUCT_ID, VENDOR_ID, RelayBoardError

__all__ = ["NoyitoPowerHID", "NoyitoPowerSerial"]


@dataclass(kw_only=True)
class _RelayPower(PowerInterface, Driver):
    """One relay of a board, or all of them together."""

    channel: int = 1
    """Number of the relay as it is printed on the board, from 1."""
    all_channels: bool = False
    """Switch all relays of the board together; `channel` has no meaning then."""

    _board: Board = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        what = type(self).__name__
        for name in ("all_channels", *self._flags):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{what}: {name} must be true or false, not {getattr(self, name)!r}")
        highest = self._channel_count or MAX_CHANNEL
        if not _is_number(self.channel) or not 1 <= self.channel <= highest:
            raise ValueError(f"{what}: channel must be a whole number from 1 to {highest}, not {self.channel!r}")
        self._board = self._make_board()

    _flags: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_noyito_relay.client.NoyitoPowerClient"

    @property
    @abstractmethod
    def _channel_count(self) -> int | None:
        """How many relays the board has, if the config tells."""

    @abstractmethod
    def _make_board(self) -> Board:
        """Return the board, which isn't opened yet."""

    @property
    def _can_report(self) -> bool:
        return True

    @export
    async def on(self) -> None:
        """Close the relay; return when the board reports that.

        Raises:
            RelayBoardError: the board can't be reached, or has no such relay.
            PowerNotConfirmed: the board reports something else.
        """
        await self._switch_to(RelayState.ON)

    @export
    async def off(self) -> None:
        """Open the relay; return when the board reports that.

        Raises:
            RelayBoardError: the board can't be reached, or has no such relay.
            PowerNotConfirmed: the board reports something else.
        """
        await self._switch_to(RelayState.OFF)

    @export
    def read(self) -> Iterator[PowerReading]:
        """Raises: NotImplementedError: relay boards measure nothing."""
        raise NotImplementedError("relay boards measure nothing")
        yield

    @export(watch=True)
    async def status(self) -> str:
        """Return what the board reports: `on`, `off`, or, for all channels together, `partial`.

        Raises:
            RelayBoardError: the board can't be reached, or has no such relay.
            NotImplementedError: the config says that the board can't be asked.
        """
        if not self._can_report:
            raise NotImplementedError(f"{self._board.name} can't tell its states, says the config (reports_status)")
        states = await to_thread.run_sync(self._states)
        if all(states.values()):
            return RelayState.ON
        return RelayState.PARTIAL if any(states.values()) else RelayState.OFF

    async def _switch_to(self, state: RelayState) -> None:
        await to_thread.run_sync(self._switch_channels, state is RelayState.ON)
        if self._can_report:
            await self.confirm(state)

    def _switch_channels(self, on: bool) -> None:
        channels = list(self._states()) if self._can_report else self._configured_channels()
        self._board.switch(channels, on)

    def _states(self) -> dict[int, bool]:
        """The states of this driver's channels, as the board reports them."""
        states = self._board.states()
        wanted = sorted(states) if self.all_channels and self._channel_count is None else self._configured_channels()
        if missing := [str(channel) for channel in wanted if channel not in states]:
            raise RelayBoardError(
                f"{self._board.name} has no channel {', '.join(missing)}; it reports "
                f"{', '.join(str(channel) for channel in sorted(states))}. Correct the config"
            )
        return {channel: states[channel] for channel in wanted}

    def _configured_channels(self) -> list[int]:
        return list(range(1, (self._channel_count or 1) + 1)) if self.all_channels else [self.channel]


@dataclass(kw_only=True)
class NoyitoPowerSerial(_RelayPower):
    """A relay of a board with a serial port (CH340, 9600 baud)."""

    _flags: ClassVar[tuple[str, ...]] = ("reports_status",)

    port: str
    """Device path, or a pyserial URL."""
    num_channels: int | None = None
    """How many relays the board has; it is asked unless that is given."""
    reports_status: bool = True
    """Whether the board answers the query for its states. Those with one relay often don't: then nothing that is
    switched can be confirmed."""

    def __post_init__(self) -> None:
        if not isinstance(self.port, str) or not self.port:
            raise ValueError(f"NoyitoPowerSerial: port must be a device path such as /dev/ttyUSB0, not {self.port!r}")
        count = self.num_channels
        if count is not None and not (_is_number(count) and 1 <= count <= MAX_CHANNEL):
            raise ValueError(
                f"NoyitoPowerSerial: num_channels must be a whole number from 1 to {MAX_CHANNEL}, not {count!r}"
            )
        super().__post_init__()
        if self.all_channels and not self.reports_status and count is None:
            raise ValueError(
                "NoyitoPowerSerial: all_channels needs num_channels when the board can't be asked (reports_status)"
            )

    @property
    def _channel_count(self) -> int | None:
        return self.num_channels

    @property
    def _can_report(self) -> bool:
        return self.reports_status

    def _make_board(self) -> Board:
        return SerialBoard(self.port, self.num_channels)


@dataclass(kw_only=True)
class NoyitoPowerHID(_RelayPower):
    """A relay of a board that is a USB HID device."""

    num_channels: int = 4
    """How many relays the board has: 4 or 8."""
    vendor_id: int = VENDOR_ID
    product_id: int = PRODUCT_ID
    serial: str | None = None
    """Serial number of the board, where there are several."""

    def __post_init__(self) -> None:
        if self.num_channels not in (4, 8) or isinstance(self.num_channels, bool):
            raise ValueError(f"NoyitoPowerHID: num_channels must be 4 or 8, not {self.num_channels!r}")
        for name in ("vendor_id", "product_id"):
            if not _is_number(value := getattr(self, name)) or not 0 < value <= 0xFFFF:
                raise ValueError(f"NoyitoPowerHID: {name} must be a number from 1 to 65535, not {value!r}")
        if self.serial is not None and (not isinstance(self.serial, str) or not self.serial):
            raise ValueError(f"NoyitoPowerHID: serial must be text (put it into quotes), not {self.serial!r}")
        super().__post_init__()

    @property
    def _channel_count(self) -> int | None:
        return self.num_channels

    def _make_board(self) -> Board:
        return HidBoard(self.vendor_id, self.product_id, self.serial, self.num_channels)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
