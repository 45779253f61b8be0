"""The Dutlink board: power, storage and console of one device."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
import serial
from anyio import to_thread
from jumpstarter.common.medium import Disk, WrongMedium, disks_with_serial, holds_medium
from jumpstarter.driver import Driver, export
from jumpstarter_driver_composite.driver import CompositeInterface
from jumpstarter_driver_opendal.medium_mux import MediumMux, Side
from jumpstarter_driver_power.driver import PowerInterface, PowerReading, PowerState
from jumpstarter_driver_pyserial.driver import PySerial

from .board import CONFIG_KEYS, LEVELS, PINS, Board, opened

__all__ = ["Dutlink", "DutlinkConfig", "DutlinkPower", "DutlinkSerial", "DutlinkSerialConfig", "DutlinkStorageMux"]

READ_INTERVAL: Final = 1.0
"""Seconds between two measurements."""

LEAST_CURRENT: Final = 0.01
"""Amperes; what the meter's last digit shows."""

LEAST_VOLTAGE: Final = 1.0
"""Volts below which a supply is off."""

TTY_TIMEOUT: Final = 5.0
"""Seconds until a board that was just plugged in has its serial port."""

POLL_PAUSE: Final = 0.1


@dataclass(kw_only=True)
class DutlinkConfig:
    """Which board it is.

    Raises:
        ValueError: a setting is wrong.
        FileNotFoundError: no such board is plugged in.
        RuntimeError: several are plugged in, and `serial` doesn't say which one is meant.
    """

    serial: str | None = None
    """Serial number of the board, eight hexadecimal digits; None for the only one."""
    timeout_s: float = 20
    """Seconds that a request may take; the board's power sequences are part of that."""

    def __post_init__(self) -> None:
        _check_text("serial", self.serial)
        _check_seconds("timeout_s", self.timeout_s)
        with self.board() as board:
            self._found(board)
        if (further := getattr(super(), "__post_init__", None)) is not None:
            further()

    def _found(self, board: Board) -> None:
        # Another board that is plugged in later must not take its place.
        self.serial = board.device.serial

    @contextmanager
    def board(self) -> Generator[Board, None, None]:
        """Use the board. Blocks."""
        with opened(self.serial, self.timeout_s) as board:
            yield board


@dataclass(kw_only=True)
class DutlinkPower(DutlinkConfig, PowerInterface, Driver):
    """The device's supply."""

    last_action: str | None = None
    """Not used: the board is told every time, as it may have been switched by its buttons or have started anew."""

    _sequences: dict[str, str] = field(init=False, repr=False, default_factory=dict)

    def control(self, action: str) -> None:
        """Switch: `on`, `off`, `force-on`, `force-off` or `rescue`; return when the board has done it. Blocks.

        Raises:
            OSError: the board can't be reached, or refused.
        """
        with self.board() as board:
            board.power(action)
        self.last_action = action
        self.logger.info("power: %s", action)

    @export
    async def on(self) -> None:
        """Switch on, by the board's `power_on` sequence if it has one.

        Raises:
            PowerNotConfirmed: the board's meter shows that it is off.
            OSError: the board can't be reached, or refused.
        """
        await self._switched("on", PowerState.ON)

    @export
    async def off(self) -> None:
        """Switch off, by the board's `power_off` sequence if it has one.

        Raises:
            PowerNotConfirmed: the board's meter shows that it is on.
            OSError: the board can't be reached, or refused.
        """
        await self._switched("off", PowerState.OFF)

    @export
    async def force_on(self) -> None:
        """Switch the supply itself on, whatever sequence the board has."""
        await self._switched("force-on", PowerState.ON)

    @export
    async def force_off(self) -> None:
        """Switch the supply itself off, whatever sequence the board has."""
        await self._switched("force-off", PowerState.OFF)

    @export
    async def rescue(self) -> None:
        """Start the device in its rescue mode, by the board's `power_rescue` sequence."""
        await to_thread.run_sync(self.control, "rescue")

    @export(watch=True)
    async def status(self) -> str:
        """Return what the board's meter tells: `on` while current flows, `off` without voltage, else `unknown`."""
        return await to_thread.run_sync(self._state)

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, Any]:
        """Yield a measurement each second, for ever."""
        while True:
            measured = await to_thread.run_sync(self._measure)
            yield PowerReading(voltage=measured.volts, current=measured.amperes, power=measured.watts)
            await anyio.sleep(READ_INTERVAL)

    async def confirm(self, state: PowerState | str, timeout: float = 10.0) -> None:
        """Wait until the meter shows `state`, as far as it tells.

        The board has acknowledged and executed the command by then. A device that draws no current while its voltage
        is there tells nothing, nor does a sequence that presses buttons instead of switching the supply.

        Raises:
            PowerNotConfirmed: it shows the opposite for `timeout` seconds.
        """
        if await to_thread.run_sync(self._state) is PowerState.UNKNOWN:
            return
        if await to_thread.run_sync(self._has_sequence, str(state)):
            return
        await super().confirm(state, timeout)

    async def _switched(self, action: str, state: PowerState) -> None:
        await to_thread.run_sync(self.control, action)
        await self.confirm(state)

    def _measure(self) -> Any:
        with self.board() as board:
            return board.measure()

    def _state(self) -> PowerState:
        measured = self._measure()
        if measured.volts < LEAST_VOLTAGE:
            return PowerState.OFF
        return PowerState.ON if measured.amperes >= LEAST_CURRENT else PowerState.UNKNOWN

    def _has_sequence(self, state: str) -> bool:
        with self.board() as board:
            return bool(board.get_config(f"power_{state}"))


@dataclass(kw_only=True)
class DutlinkStorageMux(DutlinkConfig, MediumMux, Driver):
    """The USB stick or disk in the board's storage port."""

    storage_device: str | None = None
    """Path of the medium on the exporter, best one below /dev/disk/by-id. A file or loop device stands in."""
    storage_serial: str | None = None
    """Serial number of the USB stick or disk; anything else is never written."""
    storage_timeout: float = 10
    """Seconds to wait for the medium."""
    storage_leeway: float = 6
    """Seconds to wait after writing, as some media say that they are done too early."""
    storage_fsync_timeout: float = 900
    """Seconds until the medium must have stored everything."""

    _learned: str | None = field(init=False, repr=False, default=None)
    _is_proven: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        _check_text("storage_device", self.storage_device)
        _check_text("storage_serial", self.storage_serial)
        for name in ("storage_timeout", "storage_leeway", "storage_fsync_timeout"):
            _check_seconds(name, getattr(self, name))
        if self.storage_device is None and self.storage_serial is None:
            raise ValueError(
                "storage_device or storage_serial is missing: say which medium is in the board's storage port, by a "
                "path such as /dev/disk/by-id/usb-... or by the serial number that lsusb -v shows"
            )
        super().__post_init__()

    def control(self, action: str) -> None:
        """Connect the storage: `host`, `dut` or `off`; return when the board has done it. Blocks.

        Raises:
            OSError: the board can't be reached, or refused.
        """
        with self.board() as board:
            board.storage(action)

    def switch_medium(self, side: Side) -> None:
        """Connect the medium, and make sure that the exporter has it no more when it must not.

        Raises:
            RuntimeError: the exporter still has it.
            OSError: the board can't be reached, or refused.
        """
        self.control(side)
        if side is not Side.HOST and not self._is_gone():
            raise RuntimeError(
                f"Dutlink board {self.serial} has connected its storage to {side}, but {self.storage_device or 'it'} "
                "is still there on the exporter. Check that storage_device is the medium in the board's storage port"
            )

    def prove_medium(self) -> None:
        """Make sure that the medium goes when the board disconnects it, unless its serial number is configured.

        Raises:
            WrongMedium: it stays.
        """
        if self._is_proven or self.storage_serial is not None:
            return
        self.control("off")
        if not self._is_gone():
            raise WrongMedium(
                f"{self.storage_device} stays on the exporter when Dutlink board {self.serial} disconnects its "
                "storage, so it is another disk; it is not touched. Correct storage_device"
            )
        self._is_proven = True

    def find_medium(self) -> Path | None:
        """Return the path of the medium, None when it isn't there."""
        if self.storage_device is not None:
            path = Path(self.storage_device)
            return path if path.exists() else None
        disks = disks_with_serial(self.storage_serial or "")
        if len(disks) > 1:
            raise WrongMedium(
                f"several disks have the serial number {self.storage_serial!r}: {', '.join(map(str, disks))}. Set "
                "storage_device as well"
            )
        return disks[0].node if disks else None

    def check_medium(self, disk: Disk | None) -> None:
        """Make sure that a disk is the medium of the board, and that the board is there."""
        if disk is None:
            if self.storage_device is None:
                raise WrongMedium("it is no disk")
        elif disk.usb is None:
            raise WrongMedium(f"{disk} is not in the board's storage port, which is USB; it is not touched")
        else:
            self._check_serial(disk)
        with self.board() as board:
            board.read("version")

    def _check_serial(self, disk: Disk) -> None:
        expected = self.storage_serial or self._learned
        if expected is not None and disk.serial != expected:
            raise WrongMedium(
                f"{disk} is not the medium with serial number {expected!r}"
                f"{' of this session' if self.storage_serial is None else ''}; it is not touched"
            )
        self._learned = disk.serial

    def _is_gone(self) -> bool:
        """Wait until the medium is no more on the exporter; files and loop devices, which stand in, stay there."""
        if self.storage_device is not None and _stands_in(Path(self.storage_device)):
            return True
        deadline = time.monotonic() + self.storage_timeout
        while (path := self.find_medium()) is not None and holds_medium(path):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_PAUSE)
        return True

    async def switch_off(self) -> None:
        """Disconnect the storage at the end of a session whose exporter config asks for it."""
        await self.off()


@dataclass(kw_only=True)
class DutlinkSerialConfig(DutlinkConfig, Driver):
    """The board's serial port: `url` is what the board has at the moment, and no setting."""

    url: str = field(init=False, default="")

    def _found(self, board: Board) -> None:
        super()._found(board)
        self.url = _tty_of(board)

    @property
    def tty(self) -> str:
        """The device file of the serial port at the moment. Blocks.

        Raises:
            FileNotFoundError: the board isn't plugged in.
            RuntimeError: the system has no serial port for it.
        """
        with self.board() as board:
            return _tty_of(board)


@dataclass(kw_only=True)
class DutlinkSerial(DutlinkSerialConfig, PySerial):
    """The device's serial console, by way of the board's serial port."""

    url: str = field(init=False, default="")

    def _open(self) -> serial.SerialBase:
        # The number of the port may be another one since the board was plugged in again.
        try:
            self.url = self.tty
        except FileNotFoundError as error:
            raise serial.SerialException(str(error)) from error
        return super()._open()


@dataclass(kw_only=True)
class Dutlink(DutlinkConfig, CompositeInterface, Driver):
    """A board with all it offers: children `power`, `storage` and `console`."""

    driver_type: ClassVar[str] = "composite"

    storage_device: str | None = None
    """Path of the medium in the storage port; see DutlinkStorageMux."""
    storage_serial: str | None = None
    """Serial number of that medium."""
    storage_timeout: float = 10
    storage_leeway: float = 6
    storage_fsync_timeout: float = 900
    alternate_console: str | None = None
    """Path or URL of a serial port to use instead of the board's own; it may be there only while the device is on."""
    baudrate: int = 115200

    def __post_init__(self) -> None:
        _check_text("alternate_console", self.alternate_console)
        super().__post_init__()
        which: dict[str, Any] = {"serial": self.serial, "timeout_s": self.timeout_s, "log_level": self.log_level}
        self.children["power"] = DutlinkPower(**which)
        self.children["storage"] = DutlinkStorageMux(
            **which,
            storage_device=self.storage_device,
            storage_serial=self.storage_serial,
            storage_timeout=self.storage_timeout,
            storage_leeway=self.storage_leeway,
            storage_fsync_timeout=self.storage_fsync_timeout,
        )
        if self.alternate_console is None:
            self.children["console"] = DutlinkSerial(**which, baudrate=self.baudrate)
        else:
            self.children["console"] = PySerial(
                url=self.alternate_console, baudrate=self.baudrate, check_present=False, log_level=self.log_level
            )

    @export
    def version(self) -> str:
        """Return the version of the board's firmware."""
        with self.board() as board:
            return board.read("version")

    @export
    def get_config(self, key: str) -> str:
        """Return a setting in the board's memory: name, tags, usb_console, power_on, power_off or power_rescue."""
        _check_one_of("key", key, CONFIG_KEYS)
        with self.board() as board:
            return board.get_config(key)

    @export
    def set_config(self, key: str, value: str) -> None:
        """Change a setting in the board's memory.

        Power sequences are orders with commas between them: pin `a`, `b`, `c`, `d` or `r` and state `h`, `l` or `z`,
        `w` and a number of tenths of a second, `p1` and `p0` for the supply.
        """
        _check_one_of("key", key, CONFIG_KEYS)
        with self.board() as board:
            board.set_config(key, value)

    @export
    def set_pin(self, pin: str, level: str) -> None:
        """Set a control pin, `reset` or `a` to `d`, to `low`, `high` or `floating`."""
        _check_one_of("pin", pin, PINS)
        _check_one_of("level", level, LEVELS)
        with self.board() as board:
            board.set_pin(pin, level)


def _tty_of(board: Board) -> str:
    """Wait for the board's serial port.

    Raises:
        RuntimeError: the system has none for it.
    """
    deadline = time.monotonic() + TTY_TIMEOUT
    while (path := board.tty()) is None or not Path(path).exists():
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{board} has no serial port on this machine after {TTY_TIMEOUT:g} s. Load the kernel module cdc_acm, "
                "and see 'dmesg'"
            )
        time.sleep(POLL_PAUSE)
    return path


def _stands_in(path: Path) -> bool:
    return path.is_file() or Path("/dev", path.resolve().name).match("/dev/loop*")


def _check_text(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{name} must be a text, not {value!r}; put it in quotes")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number of seconds, not {value!r}")


def _check_one_of(name: str, value: object, known: dict[str, int]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
