"""What a disk image says about a disk: runs of data, runs of zeros, and ranges that may hold anything."""

from __future__ import annotations

from typing import Final, Protocol

from jumpstarter.common.exceptions import JumpstarterException

__all__ = ["ImageError", "RawParser", "Sink"]

ZERO_RUN: Final = 256 << 10
"""Bytes, aligned likewise, that must all be zero to be told apart from data; shorter runs cost more than they save."""

_ZEROS: Final = bytes(ZERO_RUN)

BATCH: Final = 1 << 20
"""Bytes that are gathered before they are looked at, since a network gives small chunks."""


class ImageError(JumpstarterException, ValueError):
    """An image is damaged, incomplete, or of a kind that can't be written to a disk."""


class Sink(Protocol):
    """Takes what an image says, from the beginning of the disk to its end. Ranges left out may hold anything."""

    def data(self, offset: int, data: memoryview, /) -> None:
        """Bytes that belong at `offset`; the buffer is used again after the call."""

    def zeros(self, offset: int, length: int, /) -> None:
        """A range of zeros."""


class RawParser:
    """Takes the bytes of a disk as they are, and finds runs of zeros in them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = bytearray()
        self.position = 0
        """Bytes of the disk that the sink has been told."""

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._buffer += data
        if len(self._buffer) >= BATCH:
            self._flush(len(self._buffer) - len(self._buffer) % ZERO_RUN)

    def finish(self) -> int:
        """Take the end; return the size of the disk in bytes."""
        self._flush(len(self._buffer))
        return self.position

    def _flush(self, size: int) -> None:
        with memoryview(self._buffer) as view:
            start = 0  # of the run of data that isn't told yet
            for here in range(0, size, ZERO_RUN):
                end = min(here + ZERO_RUN, size)
                if view[here:end] != _ZEROS[: end - here]:
                    continue
                if start < here:
                    self._sink.data(self.position + start, view[start:here])
                self._sink.zeros(self.position + here, end - here)
                start = end
            if start < size:
                self._sink.data(self.position + start, view[start:size])
        self.position += size
        del self._buffer[:size]
