"""Tells a user who waits for a lease what is being waited for: one line on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger("jumpstarter.client.lease")

LOG_INTERVAL = 60.0
"""Seconds between two log lines that say the same."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The form of a name that says nothing to people, and is left out where there is no room."""

_INDICATOR_WIDTH = 2
"""Columns that rich puts before the text of a status."""


class LeaseAcquisitionSpinner:
    """Shows the progress of a lease while it is a context; `NONINTERACTIVE=1` (or `true`) keeps to log lines."""

    def __init__(self, lease_name: str | None = None) -> None:
        self.lease_name = lease_name
        self._display: Any = None
        self.message = ""
        """What was said last, without what changes from second to second."""
        self._render: Callable[[], str] | None = None
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

            console = Console(stderr=True)
            self._display = console.status(_Line(self, console))
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def update_status(self, message: str, render: Callable[[], str] | None = None) -> None:
        """Say what is being waited for.

        Args:
            message: compared with what was said before, to tell what is new.
            render: returns the message with what changes from second to second, such as the time that is left.
        """
        self.message, self._render = message, render
        self.tick()

    def tick(self) -> None:
        """Without a terminal, log what is new, and what is not once a minute; a terminal is kept current anyhow."""
        if self._display is not None:
            return
        message, logged = self._logged
        now = time.monotonic()
        if self.message and (self.message != message or now - logged >= LOG_INTERVAL):
            self._logged = (self.message, now)
            logger.info("%s", self.text())

    async def keep_current(self) -> None:
        """Tick each second, until cancelled."""
        from anyio import sleep

        while True:
            await sleep(1)
            self.tick()

    def text(self, width: int | None = None) -> str:
        """Return the line, shortened to `width` columns if there is a limit: first by the name, then in the message."""
        waited = int(time.monotonic() - self._started)
        elapsed = f" ({waited // 3600}:{waited // 60 % 60:02}:{waited % 60:02})"
        subject = f"Lease {self.lease_name}" if self.lease_name else "New lease"
        message = (self._render() if self._render is not None else self.message) or "requested"
        text = f"{subject}: {message}"
        if width is not None and len(text) + len(elapsed) > width:
            if self.lease_name and _UUID.fullmatch(self.lease_name):
                text = message.removeprefix("waiting: ")
                text = text[:1].upper() + text[1:]
            room = max(width - len(elapsed), 8)
            if len(text) > room:
                text = text[: room - 1] + "…"
        return text + elapsed


class _Line:
    """The line as rich draws it, each time anew."""

    def __init__(self, spinner: LeaseAcquisitionSpinner, console: Any) -> None:
        self._spinner, self._console = spinner, console

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(self._spinner.text(self._console.width - _INDICATOR_WIDTH), no_wrap=True, overflow="crop")
