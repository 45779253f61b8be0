"""What NOYITO relay boards understand: four-byte commands, and status lines as their answer.

Serial boards have a CH340 and run at 9600 baud; HID boards (5131:2007, decimal) take the same commands after a report
id of 0. A command is `A0`, the channel, the state and the low byte of their sum. A serial board answers the one byte
`FF`, a HID board the command for channel 15 with state 2, with one line per channel such as `CH1:ON`.
"""

from __future__ import annotations

import re
from typing import Final

BAUDRATE: Final = 9600
STATUS_QUERY: Final = b"\xff"
"""What a serial board answers with its status lines."""

MAX_CHANNEL: Final = 14
"""Channel 15 is the status query of HID boards."""

VENDOR_ID: Final = 5131
PRODUCT_ID: Final = 2007

_START = 0xA0
_STATUS_LINE = re.compile(rb"CH\s*(\d+)\s*:\s*(ON|OFF)", re.IGNORECASE)


class RelayBoardError(ConnectionError):
    """A relay board can't be reached or didn't do what it was told; the message says what to do."""


def command(channel: int, state: int) -> bytes:
    """Return the command that brings a channel into a state: 1 closes its relay, 0 opens it."""
    return bytes((_START, channel, state, (_START + channel + state) & 0xFF))


HID_STATUS_QUERY: Final = command(0x0F, 2)
"""What a HID board answers with its status lines."""


def parse_status(answer: bytes) -> dict[int, bool]:
    """Return the channels that an answer tells of, True where the relay is closed; it may still be incomplete."""
    return {int(channel): state.upper() == b"ON" for channel, state in _STATUS_LINE.findall(answer)}
