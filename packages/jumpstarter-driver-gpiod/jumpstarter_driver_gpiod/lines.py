"""GPIO lines by libgpiod: claiming one, setting and reading it, and claiming it again when its adapter was away.

All calls block, for some milliseconds when the lines are behind USB or I2C. A line belongs to this process until it is
released, or the process ends. For Linux 5.10 and newer, whose character devices /dev/gpiochip* libgpiod 2 uses.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from gpiod import Chip, LineRequest, LineSettings

CONSUMER: Final = "jumpstarter"
"""Who uses a line, as `gpioinfo` shows it."""

_GONE: Final = frozenset({errno.ENODEV, errno.ESHUTDOWN})
"""Errors of a line whose adapter was unplugged."""

_MUTE: Final = frozenset({errno.EIO, errno.EREMOTEIO, errno.EPIPE, errno.ETIMEDOUT, errno.EPROTO, errno.EILSEQ})
"""Errors of an adapter that did not answer; on USB and I2C the next attempt usually works."""

ATTEMPTS: Final = 5
PAUSE: Final = 0.1
"""Seconds between two attempts."""

_NO_EDGES: Final = frozenset({errno.ENXIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of chips without interrupts."""

T = TypeVar("T")


class GpioError(OSError):
    """A GPIO line can't be used; the message says why and what to do."""

    def __str__(self) -> str:
        return str(self.strerror or (self.args[0] if self.args else ""))


class Line:
    """One line of a GPIO chip; safe to use from several threads.

    Args:
        device: path, number, name or label of the chip.
        line: number on the chip, or name.
        active_low: whether low means active.
        drive: `push_pull`, `open_drain`, `open_source`; None for push-pull.
        bias: `as_is`, `pull_up`, `pull_down`, `disabled`; None for as it is.
        debounce: seconds that an input has to be stable.
    """

    def __init__(
        self,
        device: str | int,
        line: int | str,
        *,
        active_low: bool = False,
        drive: str | None = None,
        bias: str | None = None,
        debounce: float = 0,
    ) -> None:
        self.name = f"line {line} of {_shown(device)}"
        self._device = device
        self._line = int(line) if isinstance(line, str) and line.isdigit() else line
        self._active_low = active_low
        self._drive = drive
        self._bias = bias
        self._debounce = debounce
        self._lock = threading.RLock()
        self._request: LineRequest | None = None
        self._direction = ""
        self._is_input = False
        self._has_edges: bool | None = None
        """Whether edges are reported; None when the line wasn't asked for that yet."""
        self._is_closed = False

    def claim_input(self) -> None:
        """Take the line as an input. Raises GpioError."""
        with self._lock:
            self._is_input = True
            self._claim("input", None)

    def claim_output(self, active: bool | None) -> None:
        """Take the line as an output; None keeps the level that it has. Raises GpioError."""
        with self._lock:
            if active is None:
                self._claim("as_is", None)
                active = self.get()
            self._claim("output", active)

    def set(self, active: bool) -> None:
        """Set an output, and take the line for that if need be. Raises GpioError."""
        with self._lock:
            if self._direction != "output":
                self._claim("output", active)
                return
            self._used(lambda request, line: request.set_value(line, _value(active)))

    def get(self) -> bool:
        """Tell whether the line is active.

        An output that was lost with its adapter is taken as it is: reading must not switch anything.

        Raises:
            GpioError: it can't be read.
        """
        with self._lock:
            if self._request is None:
                self._claim("input" if self._is_input else "as_is", None)
            return self._used(lambda request, line: bool(request.get_value(line).value))

    def watch_edges(self) -> bool:
        """Have the kernel report edges of an input until it is released; returns False when the chip can't do that.

        Raises:
            GpioError: the line can't be claimed, or its adapter went away.
        """
        with self._lock:
            if self._request is None:
                self._claim("input", None)
            if self._has_edges is None:
                settings = self._settings("input", None, edges=True)
                try:
                    self._used(lambda request, line: request.reconfigure_lines({line: settings}))
                except GpioError as error:
                    if error.errno not in _NO_EDGES:
                        raise
                    self._has_edges = False
                else:
                    self._has_edges = True
            return self._has_edges

    def descriptor(self) -> int:
        """Return a descriptor that is readable when an edge was reported; the caller closes it. Raises GpioError."""
        with self._lock:
            return self._used(lambda request, _: os.dup(request.fd))

    def edges(self) -> list[str]:
        """Return the edges that were reported since the last call, `rising` and `falling`.

        It takes a moment only, and waits neither for the line nor for other threads.

        Raises:
            GpioError: the line was released, or its adapter went away.
        """
        import gpiod

        request = self._request
        if request is None:
            raise GpioError(errno.EBADF, f"{self.name} is not claimed")
        found: list[str] = []
        try:
            while request.wait_edge_events(timedelta(0)):
                for event in request.read_edge_events():
                    found.append("rising" if event.event_type is gpiod.EdgeEvent.Type.RISING_EDGE else "falling")
        except gpiod.RequestReleasedError as error:
            raise GpioError(errno.EBADF, f"{self.name} was released") from error
        except OSError as error:
            raise GpioError(error.errno, f"{self.name} {_reason(error)}") from error
        return found

    def close(self) -> None:
        """Release the line for good."""
        with self._lock:
            self._is_closed = True
            self._release()

    def _release(self) -> None:
        request, self._request, self._direction = self._request, None, ""
        self._has_edges = None
        if request is not None:
            with suppress(OSError):
                request.release()

    def _claim(self, direction: str, active: bool | None) -> None:
        """Request the line, or change what was requested."""
        if self._is_closed:
            raise GpioError(errno.EBADF, f"{self.name} was released: its session has ended")
        settings = self._settings(direction, active)
        if self._request is not None:
            self._used(lambda request, line: request.reconfigure_lines({line: settings}))
        else:
            self._request = self._requested(settings)
        self._direction = direction

    def _requested(self, settings: LineSettings) -> LineRequest:
        import gpiod

        with self._explained():
            path = find_chip(self._device)
            if os.path.exists(path) and not gpiod.is_gpiochip_device(path):
                raise GpioError(errno.ENOTTY, f"{path} is no GPIO chip; 'gpiodetect' lists them")
            with gpiod.Chip(path) as chip:
                offset = self._offset(chip)
                try:
                    return self._retried(lambda: chip.request_lines({offset: settings}, consumer=CONSUMER))
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    user = chip.get_line_info(offset).consumer or "another program"
                    raise GpioError(
                        errno.EBUSY, f"{self.name} is in use by {user!r}. End that, or choose another line"
                    ) from error

    def _offset(self, chip: Chip) -> int:
        """The number of the line on its chip."""
        if isinstance(self._line, int):
            if self._line >= (count := chip.get_info().num_lines):
                raise GpioError(
                    errno.EINVAL, f"{_shown(self._device)} has no line {self._line}: it has lines 0 to {count - 1}"
                )
            return self._line
        try:
            return chip.line_offset_from_id(self._line)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            raise GpioError(
                errno.ENOENT, f"{_shown(self._device)} has no line called {self._line!r}; 'gpioinfo' lists them"
            ) from error

    def _settings(self, direction: str, active: bool | None, edges: bool = False) -> LineSettings:
        from gpiod import LineSettings
        from gpiod.line import Bias, Direction, Drive, Edge

        return LineSettings(
            direction={"input": Direction.INPUT, "output": Direction.OUTPUT}.get(direction, Direction.AS_IS),
            edge_detection=Edge.BOTH if edges else Edge.NONE,
            bias=Bias[(self._bias or "as_is").upper()] if direction != "as_is" else Bias.AS_IS,
            drive=Drive[self._drive.upper()] if self._drive and direction == "output" else Drive.PUSH_PULL,
            active_low=self._active_low,
            debounce_period=timedelta(seconds=self._debounce if direction == "input" else 0),
            output_value=_value(bool(active)),
        )

    def _used(self, use: Callable[[Any, int], T]) -> T:
        """Use the requested line; it is given up when its adapter is gone, to be claimed anew the next time."""
        if self._request is None:
            raise GpioError(errno.EBADF, f"{self.name} is not claimed")
        request, offset = self._request, self._request.offsets[0]
        try:
            with self._explained():
                return self._retried(lambda: use(request, offset))
        except GpioError as error:
            if error.errno in _GONE:
                self._release()
            raise

    def _retried(self, use: Callable[[], T]) -> T:
        for _ in range(ATTEMPTS - 1):
            try:
                return use()
            except OSError as error:
                if error.errno not in _MUTE:
                    raise
            time.sleep(PAUSE)
        return use()

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        """Say what failed, why, and what to do."""
        try:
            yield
        except GpioError:
            raise
        except OSError as error:
            raise GpioError(error.errno, f"{self.name} {_reason(error)}") from error


def find_chip(device: str | int) -> str:
    """Return the path of a GPIO chip that is given by path, number, name or label.

    Raises:
        GpioError: there is none, or several have that label.
    """
    import gpiod

    if isinstance(device, int) or device.isdigit():
        return f"/dev/gpiochip{device}"
    if "/" in device:
        return device
    labels: dict[str, str] = {}
    for path in sorted(str(path) for path in Path("/dev").glob("gpiochip*")):
        if path == f"/dev/{device}":
            return path
        with suppress(OSError), gpiod.Chip(path) as chip:
            labels[path] = chip.get_info().label
    found = [path for path, label in labels.items() if label == device]
    if len(found) == 1:
        return found[0]
    if found:
        raise GpioError(errno.EINVAL, f"{len(found)} GPIO chips are called {device!r}: {', '.join(found)}. Give a path")
    known = ", ".join(f"{path} ({label})" for path, label in labels.items()) or "none"
    raise GpioError(
        errno.ENOENT, f"there is no GPIO chip {device!r}; there are: {known}. Check that its adapter is plugged in"
    )


def _value(active: bool) -> Any:
    from gpiod.line import Value

    return Value.ACTIVE if active else Value.INACTIVE


def _shown(device: str | int) -> str:
    return f"/dev/gpiochip{device}" if isinstance(device, int) or device.isdigit() else device


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "can't be claimed: there is no such chip. Look at 'gpiodetect', and plug its adapter in"
        case errno.EACCES | errno.EPERM:
            return "can't be claimed: permission denied. Add the exporter's user to the group of the chip, often gpio"
        case errno.EOPNOTSUPP | errno.EINVAL:
            return "can't be set up: the chip doesn't know this bias, drive or debounce. Leave that out of the config"
        case number if number in _MUTE:
            return (
                f"does not answer ({error.strerror}), after {ATTEMPTS} attempts. Check the cable of its adapter, and "
                "plug it in again"
            )
        case number if number in _GONE:
            return f"is gone ({error.strerror}): its adapter was unplugged. Plug it in again, then repeat the command"
    return f"can't be used: {error.strerror or error}"
