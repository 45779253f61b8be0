"""Shows how a flash goes on: steps and bars on a terminal, lines in the log elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["Display", "Meter"]

LOG_INTERVAL: Final = 5.0
"""Seconds between two lines in the log."""

WINDOW: Final = 5.0
"""Seconds over which the rate is taken for the remaining time."""


class Meter:
    """Tells how far one piece of work is. May be used from any thread."""

    def __init__(self, display: Display, label: str, total: int | None) -> None:
        self._display = display
        self.label = label
        self.total = total
        self.done = 0
        self._started = self._due = time.monotonic()
        self._due += LOG_INTERVAL
        self._task = display._add(label, total)
        self._ended = False

    def update(self, done: int, total: int | None = None) -> None:
        """Say how many bytes are done, and how many there will be if that is news."""
        self.done = done
        self.total = total if total is not None else self.total
        if self._task is not None:
            self._display._update(self._task, done, self.total)
            return
        now = time.monotonic()
        if now >= self._due:
            self._due = now + LOG_INTERVAL
            self._display.logger.info("%s", str(self))

    def finish(self) -> None:
        """Say that all is done. May be called again."""
        if self._ended:
            return
        self._ended = True
        self.total = self.done
        if self._task is not None:
            self._display._update(self._task, self.done, self.done)
        else:
            self._display.logger.info("%s", str(self))

    @property
    def rate(self) -> float:
        """Bytes per second from the beginning."""
        return self.done / max(time.monotonic() - self._started, 1e-3)

    def __str__(self) -> str:
        rate = self.rate
        text = f"{self.label}: {size_text(self.done)}"
        if self._ended:
            return f"{text} in {time.monotonic() - self._started:.1f} s ({size_text(rate)}/s)"
        if self.total:
            text += f" of {size_text(self.total)} ({self.done / self.total:.0%})"
        text += f", {size_text(rate)}/s"
        if self.total and rate > 0:
            text += f", {max(self.total - self.done, 0) / rate:.0f} s left"
        return text


class Display:
    """The display of one flash; a context manager.

    Args:
        logger: gets lines where there is no terminal.
        terminal: whether to draw on stderr; None: if it is a terminal.
    """

    def __init__(self, logger: logging.Logger, terminal: bool | None = None) -> None:
        self.logger = logger
        self._terminal = is_terminal() if terminal is None else terminal
        self._bars: Bars | None = None
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._terminal:
            self._bars = self._stack.enter_context(_bars())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._bars = None
        self._stack.close()

    def step(self, text: str) -> None:
        """Say what is done now."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            self.logger.info("%s", text)

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Leave the terminal to somebody else meanwhile."""
        if self._bars is not None:
            self._bars.stop()
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.start()

    def meter(self, label: str, total: int | None = None) -> Meter:
        """Begin to show how far some work is, in bytes."""
        return Meter(self, label, total)

    def _add(self, label: str, total: int | None) -> Any:
        with self._lock:
            return self._bars.add_task(label, total=total) if self._bars is not None else None

    def _update(self, task: Any, done: int, total: int | None) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.update(task, completed=done, total=total)


def is_terminal() -> bool:
    """Tell whether bars can be drawn on stderr, and are wanted."""
    if os.environ.get("TERM") == "dumb" or os.environ.get("TQDM_DISABLE") == "1":
        return False
    return sys.stderr is not None and sys.stderr.isatty()


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        speed_estimate_period=WINDOW * 6,
    )


def size_text(size: float) -> str:
    """Return a number of bytes as text, in binary units."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"
