"""What a service manager is told: that the server is ready, reloads, ends, and is alive (sd_notify of systemd)."""

from __future__ import annotations

import logging
import os
import socket
import time

import anyio

logger = logging.getLogger(__name__)

SOCKET = "NOTIFY_SOCKET"
"""Variable with the address of the service manager; a `@` stands for the zero byte of abstract addresses."""

WATCHDOG = "WATCHDOG_USEC"
"""Variable with the microseconds within which a sign of life is expected."""


def notify(*lines: str) -> bool:
    """Tell the service manager something, such as `READY=1`; does nothing where there is none.

    Returns:
        Whether it was told.
    """
    address = os.environ.get(SOCKET, "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)
            connection.sendto(
                "\n".join(lines).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address
            )
    except OSError as error:
        logger.warning("the service manager at %s can't be told '%s': %s", address, lines[0], error)
        return False
    return True


def notify_reloading() -> None:
    """Say that a reload begins; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


async def keep_alive() -> None:
    """Give signs of life, twice as often as the service manager wants, until cancelled; returns if it wants none."""
    text, pid = os.environ.get(WATCHDOG, ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return
    while True:
        if not notify("WATCHDOG=1"):
            return
        await anyio.sleep(int(text) / 1_000_000 / 2)
