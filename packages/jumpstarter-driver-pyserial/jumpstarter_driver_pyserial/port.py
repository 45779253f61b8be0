"""Opening serial ports by device path or pyserial URL, with errors that say what to do."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any, Final, Literal

import serial

POLL: Final = 0.5
"""Seconds that a read of a port without a descriptor blocks at most, so that it notices when it is to end."""


@dataclass(frozen=True, kw_only=True)
class PortSettings:
    """How to open a port; the names and values are those of pyserial."""

    baudrate: int = 115200
    bytesize: Literal[5, 6, 7, 8] = 8
    parity: Literal["N", "E", "O", "M", "S"] = "N"
    stopbits: float = 1
    xonxoff: bool = False
    rtscts: bool = False
    dsrdtr: bool = False
    exclusive: bool = True
    """Refuse to share the port with other programs that lock it too; for device files only."""
    dtr: bool | None = None
    """State of DTR from the moment of opening; None leaves it to the operating system, which raises it."""
    rts: bool | None = None
    """State of RTS, likewise."""
    disable_hupcl: bool = False
    """Keep DTR and RTS as they are when the port is closed; POSIX only."""


def open_port(url: str, settings: PortSettings) -> serial.SerialBase:
    """Open a port; blocking, for `rfc2217://` several seconds at worst.

    Raises:
        serial.SerialException: it can't be opened; the message says why and what to do.
        ValueError: the URL or a setting means nothing to pyserial.
    """
    try:
        port = serial.serial_for_url(url, do_not_open=True, timeout=POLL)
        port.baudrate = settings.baudrate
        port.bytesize = settings.bytesize
        port.parity = settings.parity
        port.stopbits = settings.stopbits
        port.xonxoff = settings.xonxoff
        port.rtscts = settings.rtscts
        port.dsrdtr = settings.dsrdtr
        if settings.exclusive and is_device(port):
            port.exclusive = True
        if settings.dtr is not None:
            port.dtr = settings.dtr
        if settings.rts is not None:
            port.rts = settings.rts
        port.open()
    except serial.SerialException as error:
        raise serial.SerialException(
            error.errno, f"serial port {url} can't be opened: {_reason(url, error)}"
        ) from error
    except OSError as error:
        raise serial.SerialException(error.errno, f"serial port {url} can't be opened: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"serial port {url} can't be opened: {error}") from error
    except Exception as error:
        # termios.error derives from nothing more special, and exists on POSIX only.
        if type(error).__module__ != "termios":
            raise
        port.close()
        raise serial.SerialException(
            f"serial port {url} can't be opened: it refuses the settings ({settings.baudrate} baud, "
            f"{settings.bytesize}{settings.parity}{settings.stopbits:g}): {error.args[-1]}"
        ) from error
    return port


def is_device(port: serial.SerialBase) -> bool:
    """Tell whether a port is a device file, with lines and settings of its own."""
    return isinstance(port, serial.Serial)


def descriptor_of(port: serial.SerialBase) -> int | None:
    """Return the descriptor that a port can be read and written by, or None when only its methods do."""
    kind = type(port)
    if kind is serial.Serial or kind.__module__ == "serial.urlhandler.protocol_socket":
        return int(port.fileno())
    return None


def disable_hupcl(port: serial.SerialBase) -> None:
    """Have the kernel leave DTR and RTS alone when the port is closed.

    Raises:
        OSError, NotImplementedError: the port or the system can't do that.
    """
    if os.name != "posix" or not is_device(port):
        raise NotImplementedError("only device files on POSIX systems have HUPCL")
    import termios

    attributes: list[Any] = termios.tcgetattr(port.fileno())
    attributes[2] &= ~termios.HUPCL
    try:
        termios.tcsetattr(port.fileno(), termios.TCSANOW, attributes)
    except termios.error as error:
        raise OSError(*error.args) from error


def _reason(url: str, error: serial.SerialException) -> str:
    match error.errno:
        case errno.ENOENT:
            return (
                "there is no such file. Check that the device is plugged in and powered; "
                "names under /dev/serial/by-id stay the same when it is plugged in again"
            )
        case errno.EACCES | errno.EPERM:
            return (
                f"permission denied. Give the exporter's user access to it; on Debian: usermod -aG dialout {_user()}, "
                "then start the exporter in a new login session"
            )
        case errno.EBUSY | errno.EAGAIN:
            return "another program uses it. Close that program, or set exclusive: false to share the port with it"
    return str(error)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "USER"
