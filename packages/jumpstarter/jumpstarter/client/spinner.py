"""Tells a user who waits for a lease what is being waited for: a spinner on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger("jumpstarter.client.lease")

LOG_INTERVAL = 60.0
"""Seconds between two log lines that say the same."""


class LeaseAcquisitionSpinner:
    """Shows the progress of a lease while it is a context; `NONINTERACTIVE=1` (or `true`) keeps to log lines."""

    def __init__(self, lease_name: str | None = None) -> None:
        self.lease_name = lease_name
        self._display: Any = None
        self.message = ""
        """What was said last."""
        self._started = 0.0
        self._logged = ("", 0.0)

    def _interactive(self) -> bool:
        if os.environ.get("NONINTERACTIVE", "").strip().lower() in ("1", "true"):
            return False
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._interactive():
            from rich.console import Console

            self._display = Console(stderr=True).status(self._text())
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def update_status(self, message: str) -> None:
        """Say what is being waited for."""
        self.message = message
        self.tick()

    def tick(self) -> None:
        """Show the time that has passed; without a terminal, log what is new, and what is not once a minute."""
        if self._display is not None:
            self._display.update(self._text())
            return
        message, logged = self._logged
        now = time.monotonic()
        if self.message and (self.message != message or now - logged >= LOG_INTERVAL):
            self._logged = (self.message, now)
            logger.info("%s", self._text())

    def _text(self) -> str:
        waited = int(time.monotonic() - self._started)
        elapsed = f"{waited // 3600}:{waited // 60 % 60:02}:{waited % 60:02}"
        subject = f"Lease {self.lease_name}" if self.lease_name else "New lease"
        return f"{subject}: {self.message or 'requested'} ({elapsed})"
