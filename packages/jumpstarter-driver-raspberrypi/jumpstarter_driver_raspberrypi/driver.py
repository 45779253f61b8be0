"""GPIO pins of a Raspberry Pi by gpiozero: outputs, which may switch power, and inputs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

from anyio import to_thread
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.driver import PowerInterface, PowerReading, PowerState

from .common import DEFAULT_WAIT, PinState
from .pins import PinError, close_device, explained, open_device
from .waits import CHECK_INTERVAL, LevelWaits

if TYPE_CHECKING:
    from gpiozero import GPIODevice

__all__ = ["DigitalInput", "DigitalOutput", "PinError", "PinState"]

MAX_INTERVAL = 60.0


@dataclass(kw_only=True)
class _PinDriver(Driver):
    """What all drivers of a pin have in common."""

    driver_type: ClassVar[str] = "gpio"

    pin: int | str
    """The pin as gpiozero names it: 17, `GPIO17`, `BCM17`, `BOARD11`, `J8:11`, `WPI0`."""

    device: GPIODevice = field(init=False, repr=False)
    """The gpiozero device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.pin, bool) or not isinstance(self.pin, int | str) or self.pin == "":
            raise ConfigurationError(f"{type(self).__name__}: pin must be a number or a name, not {self.pin!r}")
        self._check()
        self._use = threading.RLock()
        self._claim()

    def _check(self) -> None:
        """Check what is the driver's own in the config, before anything is touched."""

    def _claim(self) -> None:
        """Take the pin."""

    def _check_choice(self, name: str, known: tuple[bool | None, ...]) -> None:
        value = getattr(self, name)
        if not any(value is each for each in known):
            choices = ", ".join("null" if each is None else str(each).lower() for each in known)
            raise ConfigurationError(f"{type(self).__name__}: {name} must be one of {choices}, not {value!r}")

    def _check_seconds(self, name: str, lowest: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= MAX_INTERVAL:
            raise ConfigurationError(
                f"{type(self).__name__}: {name} must be {lowest:g} to {MAX_INTERVAL:g} seconds, not {value!r}"
            )

    def close(self) -> None:
        """Release the pin."""
        try:
            with self._use:
                close_device(self.device)
        finally:
            super().close()

    @export(watch=True)
    def read_pin(self) -> PinState:
        """Return 1 when the pin is active, 0 when it is not.

        Raises:
            PinError: it can't be read.
        """
        return PinState(self._is_active())

    def _is_active(self) -> bool:
        with self._use, explained(self.pin):
            return bool(self.device.value)


@dataclass(kw_only=True)
class DigitalOutput(PowerInterface, _PinDriver):
    """An output. Until it is switched for the first time, it is an input, so that it drives nothing."""

    driver_type: ClassVar[str] = "power"

    active_high: bool = True
    """Whether high means on."""
    initial_value: bool | None = None
    """State when a session starts; none leaves the pin an input until it is switched."""

    _is_output: bool = field(init=False, default=False, repr=False)

    def _check(self) -> None:
        self._check_choice("active_high", (True, False))
        self._check_choice("initial_value", (True, False, None))

    def _claim(self) -> None:
        from gpiozero import InputDevice

        self.device = open_device(self.pin, lambda: InputDevice(self.pin, pull_up=None, active_state=self.active_high))
        if self.initial_value is not None:
            try:
                self._set(self.initial_value)
            except BaseException:
                close_device(self.device)
                raise

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_raspberrypi.client.DigitalOutputClient"

    @export
    async def on(self) -> None:
        """Make the pin active; return when it is.

        Raises:
            PinError: it can't be set.
            PowerNotConfirmed: it does not follow.
        """
        await to_thread.run_sync(self._set, True)
        await self.confirm(PowerState.ON)

    @export
    async def off(self) -> None:
        """Make the pin inactive; return when it is.

        Raises:
            PinError: it can't be set.
            PowerNotConfirmed: it does not follow.
        """
        await to_thread.run_sync(self._set, False)
        await self.confirm(PowerState.OFF)

    @export
    def read(self) -> Iterator[PowerReading]:
        """Raises: NotImplementedError: a pin measures nothing."""
        raise NotImplementedError("a GPIO pin measures neither volts nor amperes; read_pin tells its state")
        yield

    @export(watch=True)
    async def status(self) -> str:
        """Return `on` or `off` as the pin is; `unknown` until it is switched for the first time.

        Raises:
            PinError: it can't be read.
        """
        if not self._is_output:
            return PowerState.UNKNOWN
        return PowerState.ON if await to_thread.run_sync(self._is_active) else PowerState.OFF

    def _set(self, active: bool) -> None:
        from gpiozero import DigitalOutputDevice

        with self._use, explained(self.pin):
            if self.device.closed:
                raise PinError(f"pin {self.pin!r} was released: its session has ended")
            if not self._is_output:
                # The level is left alone until it is set to what is wanted.
                self.device = open_device(
                    self.pin,
                    lambda: DigitalOutputDevice(self.pin, active_high=self.active_high, initial_value=None),
                    instead_of=self.device,
                )
                self._is_output = True
            self.device.value = active


@dataclass(kw_only=True)
class DigitalInput(_PinDriver):
    """An input."""

    pull_up: bool | None = False
    """True and false for a resistor to 3.3 V or ground; none for no resistor."""
    active_state: bool | None = None
    """Whether high means active. Without it, high with a resistor to ground or none, low with one to 3.3 V."""
    bounce_time: float = 0
    """Seconds after a change during which others are ignored."""
    poll_interval: float = 0.01
    """Seconds between two looks at the pin while waiting, where the pin library can't tell of changes."""

    _waits: LevelWaits = field(init=False, repr=False)

    def _check(self) -> None:
        self._check_choice("pull_up", (True, False, None))
        self._check_choice("active_state", (True, False, None))
        if self.pull_up is not None and self.active_state is not None and self.active_state is self.pull_up:
            raise ConfigurationError(
                "DigitalInput: with a resistor, a pin is active at its other level: "
                f"leave active_state out, or set pull_up to null; not {self.active_state!r}"
            )
        self._check_seconds("bounce_time", 0)
        self._check_seconds("poll_interval", 0.001)

    def _claim(self) -> None:
        from gpiozero import DigitalInputDevice, InputDevice

        active_state = (self.active_state is not False) if self.pull_up is None else None
        interval, problem = CHECK_INTERVAL, ""
        try:
            self.device = open_device(
                self.pin,
                lambda: DigitalInputDevice(
                    self.pin, pull_up=self.pull_up, active_state=active_state, bounce_time=self.bounce_time or None
                ),
            )
        except PinError as error:
            problem = str(error.__cause__)
        if problem:
            # It may have been the events alone that this pin can't have. The failed device keeps the pin as long as the
            # error is known, so this comes after it.
            interval = self.poll_interval
            self.device = open_device(
                self.pin, lambda: InputDevice(self.pin, pull_up=self.pull_up, active_state=active_state)
            )
            self.logger.warning(
                "pin %r can't tell of changes (%s); looking at it every %g s instead, so shorter pulses are missed",
                self.pin,
                problem,
                self.poll_interval,
            )
        self._waits = LevelWaits(f"pin {self.pin!r}", self._is_active, interval)
        if not problem:
            self._waits.follow(self.device)

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_raspberrypi.client.DigitalInputClient"

    def close(self) -> None:
        """Release the pin; waits that go on end with an error."""
        self._waits.close()
        super().close()

    @export(watch=True)
    async def wait_for_active(self, timeout: float | None = None) -> None:
        """Wait until the pin is active.

        Args:
            timeout: seconds; an hour when it isn't given.

        Raises:
            TimeoutError: the pin is still inactive then.
            PinError: it can't be read.
        """
        await self._waits.wait(True, _seconds(timeout))

    @export(watch=True)
    async def wait_for_inactive(self, timeout: float | None = None) -> None:
        """Wait until the pin is inactive.

        Args:
            timeout: seconds; an hour when it isn't given.

        Raises:
            TimeoutError: the pin is still active then.
            PinError: it can't be read.
        """
        await self._waits.wait(False, _seconds(timeout))


def _seconds(timeout: Any) -> float:
    if timeout is None:
        return DEFAULT_WAIT
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not isfinite(timeout) or timeout < 0:
        raise ValueError(f"timeout must be a number of seconds, 0 or more, not {timeout!r}")
    return float(timeout)
