"""Ways to bring a board into its UF2 boot loader: its buttons by GPIO lines, or its serial port at 1200 baud."""

from __future__ import annotations

import errno
import time
from typing import Any, Final

import anyio
from jumpstarter_driver_power.uninterrupted import call, uninterrupted

TOUCH_HOLD: Final = 0.1
"""Seconds that the port stays open; firmware looks at the speed when it is set."""

SETTLE: Final = 0.1
"""Seconds that BOOTSEL stays pressed after the reset, while the boot ROM looks at it."""

RETRY: Final = 2.0
"""Seconds to try to open a port that is just coming or going."""


class BootloaderError(ConnectionError):
    """A board can't be brought into its boot loader; the message says what to do."""


async def press_buttons(bootsel: Any, run: Any, hold: float) -> None:
    """Hold BOOTSEL, reset the board by pulling RUN for `hold` seconds, let go of both.

    Whatever happens, both are let go in the end; a board that stays in reset looks dead.

    Args:
        bootsel: driver of the line at BOOTSEL; `on` presses.
        run: driver of the line at RUN; `on` holds the board in reset.
        hold: seconds.
    """
    try:
        await call(bootsel.on)
        await call(run.on)
        await anyio.sleep(hold)
        await call(run.off)
        await anyio.sleep(SETTLE)
    finally:
        await uninterrupted(_let_go, bootsel, run)


async def _let_go(bootsel: Any, run: Any) -> None:
    try:
        await call(run.off)
    finally:
        await call(bootsel.off)


def touch(url: str, baudrate: int) -> None:
    """Open a serial port at the speed that means "go to the boot loader", and close it with DTR down; blocking.

    The port isn't locked, so it works beside a console that is open.

    Args:
        url: device path or pyserial URL.
        baudrate: 1200 for nearly all firmware.

    Raises:
        BootloaderError: the port can't be opened.
    """
    import serial

    deadline = time.monotonic() + RETRY
    while True:
        try:
            port = serial.serial_for_url(url, baudrate, timeout=0, write_timeout=0, do_not_open=True)
            port.open()
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in (errno.EIO, errno.EBUSY) and time.monotonic() < deadline:
                time.sleep(TOUCH_HOLD)
                continue
            raise BootloaderError(
                f"serial port {url} can't be opened to send the board to its boot loader: {_reason(error)}. Check "
                "that the board is plugged in and that its firmware has a USB serial port; else hold BOOTSEL while "
                "plugging it in"
            ) from error
        break
    try:
        time.sleep(TOUCH_HOLD)
        port.dtr = False
    except OSError:
        pass  # it went away at once, or has no such line
    finally:
        port.close()


def _reason(error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.ENOENT:
            return "there is no such device"
        case errno.EACCES | errno.EPERM:
            return "permission denied (add the exporter's user to its group, on Debian dialout)"
    return str(error)
