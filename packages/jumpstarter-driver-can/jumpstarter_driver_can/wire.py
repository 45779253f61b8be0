"""The messages of a frame link, the byte stream between a client and the exporter's bus.

Each message is: length of what follows (u32), kind (u8), body; numbers are little-endian.

| kind | from | body |
|---|---|---|
| HELLO | both | JSON object; of the client: `filters`, `start` ("unread", "now"); else `id`, `channel`, `fault` |
| FRAMES | exporter | records of `jumpstarter_driver_can.frames`: what the bus received |
| SEND | client | epoch (u32), number of frames (u32), seconds each may wait (f32; negative: as the bus), records |
| SENT | exporter | epoch (u32), number of frames (u32) that the bus has taken |
| FAILED | exporter | JSON object: `epoch`, `error`, `message`, `code`, `lost` (frames of it not sent) |
| FILTERS | client | JSON list: the filters from now on |
| FAULT | exporter | JSON object: `fault`, why the bus is down, or null when it is up again |
| OVERRUN | exporter | number of frames (u64) that were dropped because this client did not take them in time |
| ENDED | exporter | JSON object: `message`, why the exporter ends the link |

After FAILED the exporter drops all frames of that epoch, so that nothing is sent after a frame that was not; the client
begins a new epoch when its user knows of the failure.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

HELLO: Final = 1
FRAMES: Final = 2
SEND: Final = 3
SENT: Final = 4
FAILED: Final = 5
FILTERS: Final = 6
FAULT: Final = 7
OVERRUN: Final = 8
ENDED: Final = 9

VERSION: Final = 1
"""Version of this protocol, which `frame_link` of the driver tells."""

MAX_MESSAGE: Final = 1 << 20
"""Bytes that a message may have."""

BATCH: Final = 512
"""Frames that are put into one message at most."""

WINDOW: Final = 4096
"""Frames that a client may have on their way to the bus before it waits for an answer."""

SEND_HEAD: Final = struct.Struct("<IIf")
SENT_BODY: Final = struct.Struct("<II")
OVERRUN_BODY: Final = struct.Struct("<Q")

_HEAD = struct.Struct("<IB")


class WireError(ValueError):
    """The other end sent something that is no message of a frame link."""


def message(kind: int, body: bytes) -> bytes:
    """Return a message."""
    return _HEAD.pack(len(body) + 1, kind) + body


def json_message(kind: int, value: Any) -> bytes:
    """Return a message whose body is JSON."""
    return message(kind, json.dumps(value, separators=(",", ":")).encode())


def read_json(body: bytes, kind: type) -> Any:
    """Return the JSON value of a body.

    Raises:
        WireError: it is none, or not of the type `kind`.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("a message of the frame link is no JSON") from None
    if not isinstance(value, kind):
        raise WireError(f"a message of the frame link holds no {kind.__name__}")
    return value


class Splitter:
    """Finds the messages in a stream of chunks, however they are cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Return the messages (kind and body) that are complete with this chunk.

        Raises:
            WireError: this is no stream of messages.
        """
        data = self._rest + chunk if self._rest else chunk
        found, at = [], 0
        while len(data) - at >= _HEAD.size:
            length, kind = _HEAD.unpack_from(data, at)
            if not 1 <= length <= MAX_MESSAGE:
                raise WireError(f"a message of the frame link announces {length} bytes")
            end = at + 4 + length
            if end > len(data):
                break
            found.append((kind, data[at + _HEAD.size : end]))
            at = end
        self._rest = data[at:]
        return found
