"""GPIO lines of Linux: outputs, inputs, and power that an output switches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from anyio import to_thread
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.driver import PowerInterface, PowerReading

from .common import DEFAULT_WAIT, EDGES, PinState
from .lines import GpioError, Line
from .settings import (
    BIASES,
    DRIVES,
    check_choice,
    check_flag,
    check_place,
    check_seconds,
    check_timeout,
    initial_state,
)
from .waits import InputWaits

__all__ = ["DigitalInput", "DigitalOutput", "GpioError", "PinState", "PowerSwitch"]

MAX_DEBOUNCE = 60.0
MAX_POLL_INTERVAL = 60.0


@dataclass(kw_only=True)
class _LineDriver(Driver):
    """What all drivers of a line have in common."""

    driver_type: ClassVar[str] = "gpio"

    device: str | int = "/dev/gpiochip0"
    """The GPIO chip: path, number, name or label."""
    line: int | str
    """Number of the line on its chip, or its name."""
    drive: str | None = None
    """`push_pull`, `open_drain` or `open_source`; push-pull unless given."""
    active_low: bool = False
    """Whether low means active, or on."""
    bias: str | None = None
    """`as_is`, `pull_up`, `pull_down` or `disabled`; as it is unless given."""

    _gpio: Line = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_place(name, self.device, self.line)
        check_choice(name, "drive", self.drive, DRIVES)
        check_choice(name, "bias", self.bias, BIASES)
        check_flag(name, "active_low", self.active_low)
        self._check()
        self._gpio = Line(
            self.device,
            self.line,
            active_low=self.active_low,
            drive=self.drive,
            bias=self.bias,
            debounce=self._debounce(),
        )
        self._claim()

    def _check(self) -> None:
        """Check what is the driver's own in the config, before anything is touched."""

    def _debounce(self) -> float:
        return 0

    def _claim(self) -> None:
        """Take the line."""

    def close(self) -> None:
        """Release the line."""
        try:
            self._gpio.close()
        finally:
            super().close()

    @export(watch=True)
    def read_pin(self) -> PinState:
        """Return 1 when the line is active, 0 when it is not.

        Raises:
            GpioError: the line can't be read.
        """
        return PinState(self._gpio.get())


@dataclass(kw_only=True)
class _OutputDriver(PowerInterface, _LineDriver):
    """An output that is on when it is active."""

    initial_value: str | bool = "inactive"
    """State when a session starts: `inactive`, `active`, `off`, `on`, or `as_is` for what it was."""

    def _check(self) -> None:
        self._initial = initial_state(type(self).__name__, self.initial_value)

    def _claim(self) -> None:
        self._gpio.claim_output(self._initial)

    @export
    async def on(self) -> None:
        """Make the line active; return when it is.

        Raises:
            GpioError: the line can't be set.
            PowerNotConfirmed: the line does not follow.
        """
        await self._set(True)

    @export
    async def off(self) -> None:
        """Make the line inactive; return when it is.

        Raises:
            GpioError: the line can't be set.
            PowerNotConfirmed: the line does not follow.
        """
        await self._set(False)

    @export
    def read(self) -> Iterator[PowerReading]:
        """Raises: NotImplementedError: a line measures nothing."""
        raise NotImplementedError("a GPIO line measures neither volts nor amperes; read_pin tells its state")
        yield

    @export(watch=True)
    async def status(self) -> str:
        """Return `on` when the line is active, `off` when it is not.

        Raises:
            GpioError: the line can't be read.
        """
        return "on" if await to_thread.run_sync(self._gpio.get) else "off"

    async def _set(self, active: bool) -> None:
        await to_thread.run_sync(self._gpio.set, active)
        if self._is_driven(active):
            await self.confirm("on" if active else "off")

    def _is_driven(self, active: bool) -> bool:
        """Whether the line itself makes the level, rather than letting go of it for others to make."""
        is_high = active is not self.active_low
        return not (self.drive == "open_drain" and is_high) and not (self.drive == "open_source" and not is_high)


@dataclass(kw_only=True)
class DigitalOutput(_OutputDriver):
    """An output line."""

    driver_type: ClassVar[str] = "gpio"

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_gpiod.client.DigitalOutputClient"

    async def switch_off(self) -> None:
        """Do nothing: it isn't known that the line switches power. `PowerSwitch` is for those that do."""


@dataclass(kw_only=True)
class PowerSwitch(_OutputDriver):
    """Power that an output line switches, by a relay or a transistor."""

    mode: Any = None
    """Has no meaning; accepted as existing configs have it."""


@dataclass(kw_only=True)
class DigitalInput(_LineDriver):
    """An input line."""

    debounce: float = 0
    """Seconds that the line has to be stable before a change counts."""
    poll_interval: float = 0.01
    """Seconds between two looks at the line while waiting, where its chip has no edge events."""

    _waits: InputWaits = field(init=False, repr=False)

    def _check(self) -> None:
        check_seconds("DigitalInput", "debounce", self.debounce, 0, MAX_DEBOUNCE)
        check_seconds("DigitalInput", "poll_interval", self.poll_interval, 0.001, MAX_POLL_INTERVAL)

    def _debounce(self) -> float:
        return self.debounce

    def _claim(self) -> None:
        self._gpio.claim_input()
        self._waits = InputWaits(self._gpio, self.poll_interval, self.logger)

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_gpiod.client.DigitalInputClient"

    def close(self) -> None:
        """Release the line; waits that go on end with an error."""
        self._waits.close()
        super().close()

    @export(watch=True)
    async def wait_for_active(self, timeout: float | None = None) -> None:
        """Wait until the line is active.

        Args:
            timeout: seconds; an hour when it isn't given.

        Raises:
            TimeoutError: the line is still inactive then.
            GpioError: the line can't be read.
        """
        await self._waits.level(True, check_timeout(timeout, DEFAULT_WAIT))

    @export(watch=True)
    async def wait_for_inactive(self, timeout: float | None = None) -> None:
        """Wait until the line is inactive.

        Args:
            timeout: seconds; an hour when it isn't given.

        Raises:
            TimeoutError: the line is still active then.
            GpioError: the line can't be read.
        """
        await self._waits.level(False, check_timeout(timeout, DEFAULT_WAIT))

    @export(watch=True)
    async def wait_for_edge(self, edge: str, timeout: float | None = None) -> None:
        """Wait until the line changes.

        Args:
            edge: `rising` for a change to active, `falling` for one to inactive.
            timeout: seconds; an hour when it isn't given.

        Raises:
            ValueError: there is no such edge.
            TimeoutError: there was no such change.
            GpioError: the line can't be read.
        """
        if edge not in EDGES:
            raise ValueError(f"edge must be {' or '.join(EDGES)}, not {edge!r}")
        await self._waits.edge(edge, check_timeout(timeout, DEFAULT_WAIT))
