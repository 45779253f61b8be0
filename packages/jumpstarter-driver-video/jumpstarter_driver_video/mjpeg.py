"""Motion JPEG over HTTP, as cameras really send it: a multipart body whose parts are JPEG files.

The form is that of RFC 2046, 5.1.1, served as `multipart/x-mixed-replace`. Cameras take liberties that this reader
allows: a `boundary` parameter with or without the dashes that belong to the delimiter, or none at all; bare line feeds;
parts without Content-Length, or with a wrong one; parts that are no pictures; no line break before a delimiter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message
from typing import Final

from .common import MAX_PICTURE
from .jpeg import EOI, SOI

MAX_HEADERS: Final = 16 << 10
"""Bytes of the headers of one part, and of what may precede the first one."""

_LINE_END = re.compile(rb"\r?\n")
_HEADERS_END = re.compile(rb"(?:\A|\r?\n)\r?\n")


class MjpegError(ValueError):
    """The body is no motion JPEG, or too large."""


def boundary_of(content_type: str) -> str | None:
    """Return the parameter `boundary` of a Content-Type, or None when it has none."""
    message = Message()
    message["Content-Type"] = content_type
    value = message.get_param("boundary")
    return value if isinstance(value, str) and value else None


class MjpegReader:
    """Takes a body piece by piece and gives its pictures.

    Args:
        boundary: the parameter of the Content-Type; without one, the first line of the body tells.
    """

    def __init__(self, boundary: str | None = None) -> None:
        self._delimiter: bytes | None = None
        if boundary is not None:
            self._set_boundary(boundary.encode("latin-1", "replace"))
        self._buffer = bytearray()
        self._length: int | None = None
        """Content-Length of the current part."""
        self._in_part = False
        self._searched = 0
        """How far into the buffer there is no delimiter."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the pictures that are complete with `data`.

        Raises:
            MjpegError: this is no motion JPEG.
        """
        self._buffer += data
        while True:
            if not self._in_part and not self._begin_part():
                return
            part = self._take_part()
            if part is None:
                return
            if part.startswith(SOI):
                yield part

    def _set_boundary(self, boundary: bytes) -> None:
        # Whether the dashes are in the parameter too or not, the delimiter has two at least.
        self._delimiter = b"--" + boundary.lstrip(b"-")

    def _begin_part(self) -> bool:
        """Go behind the next delimiter and the headers after it; False when they aren't there yet."""
        if self._delimiter is None and not self._learn_delimiter():
            return False
        assert self._delimiter is not None
        found = self._buffer.find(self._delimiter)
        if found < 0:
            if len(self._buffer) > MAX_HEADERS:
                raise MjpegError(f"no delimiter {self._delimiter.decode('latin-1')!r} in {len(self._buffer)} bytes")
            return False
        line = _LINE_END.search(self._buffer, found)
        end = line and _HEADERS_END.search(self._buffer, line.start())
        if line is None or end is None:
            if len(self._buffer) - found > MAX_HEADERS:
                raise MjpegError(f"the headers of a part are longer than {MAX_HEADERS} bytes")
            return False
        self._length = _content_length(bytes(self._buffer[line.end() : end.start()]))
        del self._buffer[: end.end()]
        self._in_part, self._searched = True, 0
        return True

    def _learn_delimiter(self) -> bool:
        """Take the first line with something in it as the delimiter."""
        for line in bytes(self._buffer).splitlines(keepends=True):
            if not line.endswith((b"\r", b"\n")):
                break
            if text := line.strip():
                if not text.startswith(b"--"):
                    raise MjpegError("no boundary is given, and the body does not begin with one")
                self._set_boundary(text)
                return True
        if len(self._buffer) > MAX_HEADERS:
            raise MjpegError("no boundary is given, and the body does not begin with one")
        return False

    def _take_part(self) -> bytes | None:
        """Return the body of the current part, or None while it isn't complete."""
        assert self._delimiter is not None
        buffer = self._buffer
        # A part that is complete by its length needn't wait for the next one, unless the length is wrong.
        if self._length is not None and self._length <= len(buffer) and _looks_complete(buffer, self._length):
            return self._end_part(self._length)
        end = buffer.find(self._delimiter, self._searched)
        if end >= 0:
            return self._end_part(end)
        self._searched = max(0, len(buffer) - len(self._delimiter))
        if len(buffer) > MAX_PICTURE:
            raise MjpegError(f"a picture is larger than {MAX_PICTURE} bytes")
        return None

    def _end_part(self, end: int) -> bytes:
        part = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._in_part, self._length = False, None
        return part.rstrip(b"\r\n") if not part.endswith(EOI) else part


def _content_length(headers: bytes) -> int | None:
    for line in headers.splitlines():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def _looks_complete(buffer: bytearray, length: int) -> bool:
    """Whether the first `length` bytes are a whole JPEG file, as far as its ends tell."""
    tail = bytes(buffer[max(0, length - 64) : length]).rstrip(b"\0\r\n ")
    return length > 0 and buffer.startswith(SOI) and tail.endswith(EOI)
