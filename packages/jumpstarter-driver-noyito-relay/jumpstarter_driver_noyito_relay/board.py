"""Relay boards on a serial port or on USB HID: switching channels and asking for their states.

All calls block, for a few seconds at most. A board is opened for each of them, so it may be plugged in again in
between, and several drivers can share it, each with channels of its own.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

from .protocol import (
    BAUDRATE,
    HID_STATUS_QUERY,
    STATUS_QUERY,
    RelayBoardError,
    command,
    parse_status,
)

ANSWER_TIMEOUT: Final = 2.0
"""Seconds that a board may take to tell its states."""

QUIET: Final = 0.15
"""Seconds of silence after a status line that end the answer of a board whose number of channels isn't known."""

GAP: Final = 0.05
"""Seconds between two commands; the boards have no buffer for a second one."""

BUSY_TIMEOUT: Final = 10.0
"""Seconds to wait for a board that others use at the moment."""

MAX_ANSWER: Final = 4096
"""Bytes; a device that sends more is no relay board."""

_locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()
_locks_guard = threading.Lock()


class _Lock:
    """A lock that weak references can lead to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def _lock_of(board: str) -> _Lock:
    """Return the lock that all drivers of this process share for a board."""
    with _locks_guard:
        if (lock := _locks.get(board)) is None:
            lock = _locks[board] = _Lock()
        return lock


class Link(metaclass=ABCMeta):
    """An open board."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send a command. Raises OSError."""

    @abstractmethod
    def read(self, timeout: float) -> bytes:
        """Return what has come, after `timeout` seconds at most. Raises OSError."""


class Board(metaclass=ABCMeta):
    """A relay board that is opened for every call."""

    def __init__(self, name: str, channels: int | None) -> None:
        """Args:
        name: what messages call it.
        channels: how many it has, if that is known.
        """
        self.name = name
        self._channels = channels
        self._lock = _lock_of(self._identity())

    def switch(self, channels: Sequence[int], on: bool) -> None:
        """Close or open relays, one after the other.

        Raises:
            RelayBoardError: the board can't be reached.
        """
        with self._opened() as link:
            for channel in channels:
                link.write(command(channel, int(on)))
                time.sleep(GAP)

    def states(self) -> dict[int, bool]:
        """Return the channels of the board, True where the relay is closed.

        Raises:
            RelayBoardError: the board can't be reached, doesn't answer, or answers with something else.
        """
        with self._opened() as link:
            return self._ask(link)

    @property
    @abstractmethod
    def _query(self) -> bytes:
        """What the board answers with its states."""

    @abstractmethod
    def _identity(self) -> str:
        """What all drivers of the same board have in common."""

    @abstractmethod
    def _open(self) -> tuple[Link, Callable[[], None]]:
        """Open the board; returns how to close it as well. Raises RelayBoardError."""

    def _ask(self, link: Link) -> dict[int, bool]:
        while link.read(0):
            pass  # what an earlier user of the board left unread
        link.write(self._query)
        answer = b""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while (left := deadline - time.monotonic()) > 0 and len(answer) < MAX_ANSWER:
            states = parse_status(answer)
            if states and len(states) == self._channels:
                break
            data = link.read(min(left, QUIET) if states else left)
            if states and not data:
                break
            answer += data
        if states := parse_status(answer):
            return states
        if answer:
            raise RelayBoardError(
                f"{self.name} answered {answer[:40]!r} to the query for its states, which is no status line "
                "such as 'CH1:ON'. Check that the config names the relay board and no other device"
            )
        raise RelayBoardError(
            f"{self.name} did not answer the query for its states within {ANSWER_TIMEOUT:g} s. Check its supply and "
            "that the config names the right device; for a board that can't answer, set 'reports_status: false'"
        )

    @contextmanager
    def _opened(self) -> Generator[Link, None, None]:
        if not self._lock.lock.acquire(timeout=BUSY_TIMEOUT):
            raise RelayBoardError(f"{self.name} is in use by another driver since more than {BUSY_TIMEOUT:g} s")
        try:
            link, close = self._open()
            try:
                yield link
            except OSError as error:
                if isinstance(error, RelayBoardError):
                    raise
                raise RelayBoardError(
                    f"the connection to {self.name} broke: {error}. Plug it in again, then repeat the command"
                ) from error
            finally:
                close()
        finally:
            self._lock.lock.release()


class SerialBoard(Board):
    """A board with a CH340 on a serial port."""

    def __init__(self, port: str, channels: int | None = None) -> None:
        """Do nothing yet. `port` is a device path or a pyserial URL."""
        self._port = port
        super().__init__(f"relay board on {port}", channels)

    @property
    def _query(self) -> bytes:
        return STATUS_QUERY

    def _identity(self) -> str:
        return os.path.realpath(self._port) if "://" not in self._port else self._port

    def _open(self) -> tuple[Link, Callable[[], None]]:
        import serial

        deadline = time.monotonic() + BUSY_TIMEOUT
        while True:
            try:
                port = serial.serial_for_url(
                    self._port, BAUDRATE, timeout=0, write_timeout=ANSWER_TIMEOUT, do_not_open=True
                )
                if isinstance(port, serial.Serial):
                    port.exclusive = True  # others that lock it, such as another exporter, get their turn
                port.open()
            except (OSError, ValueError) as error:
                if isinstance(error, serial.SerialException) and _is_locked(error) and time.monotonic() < deadline:
                    time.sleep(GAP)
                    continue
                raise RelayBoardError(f"{self.name} can't be opened: {_reason(error)}") from error
            except Exception as error:
                # termios.error derives from nothing more special, and exists on POSIX only.
                if type(error).__module__ != "termios":
                    raise
                raise RelayBoardError(f"{self.name} can't be opened: it is no serial port ({error})") from error
            return _SerialLink(port), port.close


class _SerialLink(Link):
    def __init__(self, port: Any) -> None:
        self._port = port

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
            self._port.flush()
        except Exception as error:
            if type(error).__module__ != "termios":
                raise
            raise OSError(*error.args) from error  # flush on a port that is gone

    def read(self, timeout: float) -> bytes:
        self._port.timeout = timeout
        data: bytes = self._port.read(1)
        return data + self._port.read(self._port.in_waiting) if data else data


def _is_locked(error: Any) -> bool:
    import errno

    return error.errno in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error)


def _reason(error: Exception) -> str:
    import errno

    match getattr(error, "errno", None):
        case errno.ENOENT:
            return "there is no such device. Check that it is plugged in; names under /dev/serial/by-id stay the same"
        case errno.EACCES | errno.EPERM:
            return "permission denied. Add the exporter's user to the group of the device, on Debian dialout"
        case errno.EAGAIN | errno.EBUSY:
            return "another program has it open"
    return str(error)


class HidBoard(Board):
    """A board that is a USB HID device."""

    def __init__(self, vendor_id: int, product_id: int, serial: str | None, channels: int | None) -> None:
        """Do nothing yet. Without `serial` there must be one such board only."""
        self._ids = (vendor_id, product_id)
        self._serial = serial
        name = f"USB relay board {vendor_id:04x}:{product_id:04x}"
        super().__init__(f"{name} with serial number {serial}" if serial else name, channels)

    @property
    def _query(self) -> bytes:
        return HID_STATUS_QUERY

    def _identity(self) -> str:
        # Without a serial number it may be the same board as with one, but then the serial number tells it apart.
        return f"hid:{self._ids[0]}:{self._ids[1]}:{self._serial}"

    def _open(self) -> tuple[Link, Callable[[], None]]:
        hid = _hid()
        found = [
            each
            for each in hid.enumerate(*self._ids)
            if self._serial is None or each.get("serial_number") == self._serial
        ]
        paths = {each["path"]: each.get("serial_number") or "" for each in found}
        if not paths:
            raise RelayBoardError(
                f"{self.name} is not there. Check that it is plugged in ('lsusb' shows it) and that the exporter's "
                "user may open it (README: udev rule)"
            )
        if len(paths) > 1:
            raise RelayBoardError(
                f"there are {len(paths)} boards like {self.name}. Set 'serial' to one of "
                f"{sorted(paths.values())}; boards without or with the same serial number can't be told apart"
            )
        device = hid.device()
        try:
            device.open_path(next(iter(paths)))
        except OSError as error:
            raise RelayBoardError(
                f"{self.name} can't be opened: {error}. Check that the exporter's user may open it "
                "(README: udev rule) and that no other program uses it"
            ) from error
        return _HidLink(device), device.close


class _HidLink(Link):
    def __init__(self, device: Any) -> None:
        self._device = device

    def write(self, data: bytes) -> None:
        try:
            written = self._device.write(b"\0" + data)
        except ValueError as error:
            raise OSError(str(error)) from error
        if written < 0:
            raise OSError(self._device.error() or "the device took no data")

    def read(self, timeout: float) -> bytes:
        # 0 would mean "until something comes".
        report = bytes(self._device.read(64, max(1, round(timeout * 1000))))
        return report.rstrip(b"\0")


def _hid() -> Any:
    """The module of the `hidapi` distribution: on Linux the one that uses the kernel's HID driver, where it exists."""
    try:
        import hidraw
    except ImportError:
        import hid

        return hid
    return hidraw
