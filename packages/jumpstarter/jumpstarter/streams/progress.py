"""Shows how a transfer goes on, as a bar on a terminal or as lines in a log."""

from __future__ import annotations

import logging as _logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anyio import EndOfStream, TypedAttributeSet, typed_attribute
from anyio.abc import ObjectStream

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressAttribute", "ProgressStream"]

logger = _logging.getLogger(__name__)

LOG_INTERVAL = 2.0
"""Seconds between two lines in the log."""

REFRESH_INTERVAL = 0.1
"""Seconds between two updates of the bar."""

LABEL = "transfer"


class ProgressAttribute(TypedAttributeSet):
    """Typed attributes of streams whose progress can be told."""

    total: float = typed_attribute()
    """Bytes that will be received in all."""

    shown: bool = typed_attribute()
    """Whether whoever made the stream shows its progress already."""


@dataclass(kw_only=True)
class ProgressStream(ObjectStream[bytes]):
    """Passes bytes on in both directions and shows how many there were.

    The bar appears on a terminal only, on stderr. With `TERM=dumb` or `TQDM_DISABLE=1` there is none, and the methods
    are those of the inner stream, so that counting costs nothing.
    """

    stream: ObjectStream[bytes]
    logging: bool = False
    """Write lines to the log instead of drawing a bar."""

    _meters: dict[str, _Meter] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if (not self.logging and not _terminal()) or self.stream.extra(ProgressAttribute.shown, False):
            self.receive = self.stream.receive  # type: ignore[method-assign]
            self.send = self.stream.send  # type: ignore[method-assign]

    async def receive(self) -> bytes:
        """Receive from the inner stream."""
        try:
            chunk = await self.stream.receive()
        except EndOfStream:
            self._finish("received")
            raise
        self._count("received", len(chunk))
        return chunk

    async def send(self, item: bytes) -> None:
        """Send to the inner stream."""
        await self.stream.send(item)
        self._count("sent", len(item))

    async def send_eof(self) -> None:
        """End the sending direction of the inner stream."""
        self._finish("sent")
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the inner stream; the bar goes."""
        for direction in list(self._meters):
            self._finish(direction)
        await self.stream.aclose()

    def abort(self) -> None:
        """Break off the inner stream if it can be."""
        if (abort := getattr(self.stream, "abort", None)) is not None:
            abort()

    def _count(self, direction: str, size: int) -> None:
        meter = self._meters.get(direction)
        if meter is None:
            total = self.stream.extra(ProgressAttribute.total, None) if direction == "received" else None
            meter = self._meters[direction] = (_Lines if self.logging else _Bar)(total)
        meter.count(size)

    def _finish(self, direction: str) -> None:
        if (meter := self._meters.pop(direction, None)) is not None:
            meter.finish()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the inner stream."""
        return self.stream.extra_attributes


def _terminal() -> bool:
    """Tell whether a bar can be drawn and is wanted."""
    if os.environ.get("TERM") == "dumb" or os.environ.get("TQDM_DISABLE") == "1":
        return False
    return sys.stderr is not None and sys.stderr.isatty()


class _Meter:
    """Counts the bytes of one direction, and looks at the clock rather than at each chunk."""

    interval: float

    def __init__(self, total: float | None) -> None:
        self.total = total
        self.done = 0
        self.started = time.monotonic()
        self._due = self.started + self.interval

    def count(self, size: int) -> None:
        self.done += size
        if (now := time.monotonic()) >= self._due:
            self._due = now + self.interval
            self.show(now)

    def show(self, now: float) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError


class _Lines(_Meter):
    """Tells a log."""

    interval = LOG_INTERVAL

    def show(self, now: float) -> None:
        logger.info("%s: %s", LABEL, self._text(now))

    def finish(self) -> None:
        logger.info("%s finished: %s", LABEL, self._text(time.monotonic()))

    def _text(self, now: float) -> str:
        amount = _size(self.done)
        if self.total:
            amount += f" of {_size(self.total)} ({self.done / self.total:.0%})"
        return f"{amount}, {_size(self.done / max(now - self.started, 1e-3))}/s"


def _size(size: float) -> str:
    """Return a number of bytes as text, in binary units."""
    if size < 1024:
        return f"{size:.0f} B"
    exponent, unit = next(((n, u) for n, u in ((1, "KiB"), (2, "MiB")) if size < 1024 ** (n + 1)), (3, "GiB"))
    return f"{size / 1024**exponent:.1f} {unit}"


class _Bar(_Meter):
    """Draws a bar; all bars of the process share one display, as a terminal has room for one only."""

    interval = REFRESH_INTERVAL

    _lock = threading.Lock()
    _display: Progress | None = None
    _open = 0

    def __init__(self, total: float | None) -> None:
        super().__init__(total)
        with _Bar._lock:
            if _Bar._display is None:
                _Bar._display = _new_display()
                _Bar._display.start()
            _Bar._open += 1
            self._task: TaskID = _Bar._display.add_task(LABEL, total=total)

    def show(self, now: float) -> None:
        with _Bar._lock:
            if _Bar._display is not None:
                _Bar._display.update(self._task, completed=self.done, refresh=True)

    def finish(self) -> None:
        with _Bar._lock:
            if _Bar._display is None:
                return
            _Bar._display.update(self._task, completed=self.done, total=self.total or self.done, refresh=True)
            _Bar._open -= 1
            if _Bar._open == 0:
                _Bar._display.stop()
                _Bar._display = None


def _new_display() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TransferSpeedColumn(),
        DownloadColumn(binary_units=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,  # no thread: a transfer that stands still shows nothing new
    )
