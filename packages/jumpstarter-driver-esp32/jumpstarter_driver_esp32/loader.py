"""Operations on an ESP chip by esptool, each in a process that dies with this one; and resets by DTR and RTS."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jumpstarter.common.guard import GuardedProcess

GRACE: Final = 2.0
"""Seconds that esptool has to end when it is told to."""

MAX_LINE: Final = 1 << 16
"""Characters of a line of the worker."""

# Times of esptool: how long EN is held, and how long GPIO0 after it (esptool documentation, "Boot Mode Selection").
RESET_HOLD: Final = 0.1
BOOT_HOLD: Final = 0.05

CHIPS: Final = frozenset(
    {
        *("auto", "esp8266", "esp32", "esp32s2", "esp32s3", "esp32s31", "esp32c2", "esp32c3", "esp32c5", "esp32c6"),
        *("esp32c61", "esp32h2", "esp32h21", "esp32h4", "esp32p4", "esp32e22"),
    }
)


class Esp32Error(RuntimeError):
    """esptool failed; the message has what it said."""


class Esp32Timeout(Esp32Error, TimeoutError):
    """esptool did not end in time."""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How the chip is met."""

    chip: str
    baudrate: int
    stub: bool
    before: str
    attempts: int
    timeout: float
    logger: logging.Logger

    def run(self, port: str, operation: str, arguments: Mapping[str, Any], stop: threading.Event) -> Any:
        """Run an operation of the worker and return its result; blocking.

        Args:
            port: device path or pyserial URL, which nobody else has open.
            operation: `flash`, `dump`, `erase` or `info`.
            arguments: of the operation.
            stop: ends it when it is set.

        Raises:
            Esp32Timeout: it took too long.
            Esp32Error: it failed, or was stopped.
        """
        request = {
            "operation": operation,
            "port": port,
            "chip": self.chip,
            "baudrate": self.baudrate,
            "stub": self.stub,
            "before": self.before,
            "attempts": self.attempts,
            **arguments,
        }
        worker = GuardedProcess(
            [sys.executable, "-m", "jumpstarter_driver_esp32.worker", json.dumps(request)],
            grace=GRACE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
        )
        assert worker.popen.stdout is not None
        try:
            return self._follow(worker.popen.stdout.fileno(), operation, stop)
        finally:
            worker.stop()
            worker.popen.stdout.close()

    def _follow(self, output: int, operation: str, stop: threading.Event) -> Any:
        """Read what the worker tells until its result."""
        deadline = time.monotonic() + self.timeout
        rest = b""
        told = 0
        last = ""
        while True:
            if stop.is_set():
                raise Esp32Error(f"{operation} was stopped")
            if time.monotonic() >= deadline:
                raise Esp32Timeout(f"{operation} did not end within {self.timeout:g} s (timeout){_after(last)}")
            if not select.select([output], [], [], 0.1)[0]:
                continue
            piece = os.read(output, 1 << 16)
            if not piece:
                raise Esp32Error(f"esptool ended during {operation} without a result{_after(last)}")
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > MAX_LINE:
                raise Esp32Error(f"esptool printed what is no line during {operation}")
            for line in lines:
                item: dict[str, Any] = json.loads(line)
                if "error" in item:
                    raise Esp32Error(f"{operation} failed: {item['error']}")
                if "result" in item:
                    return item["result"]
                last = item.get("log", last)
                told = self._tell(operation, item, told)

    def _tell(self, operation: str, item: Mapping[str, Any], told: int) -> int:
        """Log what the worker tells; return the progress that was logged last, in tenths."""
        if "warning" in item:
            self.logger.warning("esptool: %s", item["warning"])
        if "log" in item:
            self.logger.debug("esptool: %s", item["log"])
        if item.get("progress", 0) // 10 > told:
            told = item["progress"] // 10
            self.logger.info("%s: %d %%", operation, told * 10)
        return told


def _after(line: str) -> str:
    return f"; its last words: {line}" if line else ""


def hard_reset(port: Any) -> None:
    """Restart the chip, which runs its firmware then: RTS pulls EN low.

    Args:
        port: an open pyserial port.
    """
    port.dtr = False
    port.rts = True
    time.sleep(RESET_HOLD)
    port.rts = False


def enter_bootloader(port: Any) -> None:
    """Restart the chip into its ROM loader: GPIO0 is low, by DTR, when EN goes high.

    Args:
        port: an open pyserial port.
    """
    port.dtr = False
    port.rts = True
    time.sleep(RESET_HOLD)
    port.dtr = True
    port.rts = False
    time.sleep(BOOT_HOLD)
    port.dtr = False
