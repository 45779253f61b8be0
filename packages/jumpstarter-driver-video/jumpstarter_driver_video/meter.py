"""What passes by in a live stream: the last picture, and how many arrive per second.

Many small cameras serve one stream at a time, so that a second look at them must come from the stream that is open.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from .mjpeg import MjpegError, MjpegReader

WINDOW: Final = 3.0
"""Seconds that the rate is counted over."""

MAX_COUNTED: Final = 1000


class Meter:
    """Reads along in a stream.

    Args:
        boundary: as for MjpegReader.
        clock: seconds that only grow.
    """

    def __init__(self, boundary: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader: MjpegReader | None = MjpegReader(boundary)
        self._clock = clock
        self._picture = b""
        self._times: deque[float] = deque(maxlen=MAX_COUNTED)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream; one that can't be read is measured no further."""
        if self._reader is None:
            return
        try:
            for picture in self._reader.feed(data):
                self._picture = picture
                self._times.append(self._clock())
        except MjpegError:
            self._reader = None

    def latest(self, max_age: float) -> bytes | None:
        """Return the last picture unless it came more than `max_age` seconds ago."""
        if not self._times or self._clock() - self._times[-1] > max_age:
            return None
        return self._picture

    def rate(self) -> float:
        """Return the pictures per second of the last WINDOW seconds."""
        recent = [when for when in self._times if self._clock() - when <= WINDOW]
        if len(recent) < 2 or recent[-1] == recent[0]:
            return 0
        return (len(recent) - 1) / (recent[-1] - recent[0])
