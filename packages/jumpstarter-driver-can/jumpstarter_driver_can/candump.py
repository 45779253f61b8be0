"""Frames and filters as text, in the forms of can-utils: `cansend`, `candump` and its log files."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from .frames import EXTENDED_MASK, Filter, Frame, FrameLike, check_frame

TimestampMode = Literal["none", "absolute", "delta", "zero"]

_FRAME: Final = re.compile(
    r"(?P<id>[0-9A-F]{1,8})#(?:(?P<remote>R)(?P<length>\d{0,2})|(?:\#(?P<flags>[0-9A-F]))?(?P<data>[0-9A-F.]*))",
    re.IGNORECASE,
)

_FILTER: Final = re.compile(r"([0-9A-F]{1,8}):([0-9A-F]{1,8})", re.IGNORECASE)

HELP: Final = (
    "ID#DATA, ID#R or ID#R4 for a remote frame, ID##FLAGS+DATA for CAN FD, all hexadecimal, as in 123#DEADBEEF"
)


def parse_frame(text: str) -> Frame:
    """Return the frame of a text as `cansend` takes it: 3 digits are an 11-bit identifier, more are one of 29 bits.

    The digit after `##` holds the flags of CAN FD: 1 for the second bit rate, 2 for the error state.

    Raises:
        ValueError: this is no such text, or the frame can't be on a bus.
    """
    if (match := _FRAME.fullmatch(text.strip())) is None:
        raise ValueError(f"{text!r} is no frame; write {HELP}")
    digits = match["id"]
    data = b""
    if match["remote"] is None:
        try:
            data = bytes.fromhex(match["data"].replace(".", ""))
        except ValueError:
            raise ValueError(f"{text!r}: the data has an odd number of digits") from None
    flags = int(match["flags"] or "0", 16)
    frame = Frame(
        arbitration_id=int(digits, 16),
        is_extended_id=len(digits) > 3,
        is_remote_frame=match["remote"] is not None,
        dlc=int(match["length"] or "0") if match["remote"] else len(data),
        data=data,
        is_fd=match["flags"] is not None,
        bitrate_switch=bool(flags & 1),
        error_state_indicator=bool(flags & 2),
    )
    try:
        check_frame(frame)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return frame


def parse_filter(text: str) -> Filter:
    """Return the filter of a text ID:MASK as `candump` takes it; 8 digits on both sides mean 29-bit identifiers only.

    Raises:
        ValueError: this is no such text.
    """
    if (match := _FILTER.fullmatch(text.strip())) is None:
        raise ValueError(f"{text!r} is no filter; write ID:MASK in hexadecimal, as in 120:7F0")
    ident, mask = match.groups()
    wide = len(ident) == len(mask) == 8
    return Filter(int(ident, 16) & EXTENDED_MASK, int(mask, 16) & EXTENDED_MASK, True if wide else None)


def ident_text(frame: FrameLike) -> str:
    """Return the identifier: 3 digits or 8; error frames have the flag 0x20000000 of SocketCAN."""
    if frame.is_error_frame:
        return f"{frame.arbitration_id | 0x20000000:08X}"
    return f"{frame.arbitration_id:08X}" if frame.is_extended_id else f"{frame.arbitration_id:03X}"


def dump_line(frame: FrameLike, channel: str) -> str:
    """Return a line as `candump` prints it, without a timestamp."""
    length = f"[{frame.dlc:02d}]" if frame.is_fd else f" [{frame.dlc}]"
    line = f"{channel}  {ident_text(frame):>8}  {length}  {bytes(frame.data).hex(' ').upper()}"
    if frame.is_remote_frame:
        return f"{line}remote request"
    return f"{line}   ERRORFRAME" if frame.is_error_frame else line.rstrip()


def log_line(frame: FrameLike, channel: str) -> str:
    """Return a line of a `candump` log file."""
    data = bytes(frame.data).hex().upper()
    if frame.is_fd:
        body = f"##{frame.bitrate_switch * 1 | frame.error_state_indicator * 2:X}{data}"
    elif frame.is_remote_frame:
        body = f"#R{frame.dlc or ''}"
    else:
        body = f"#{data}"
    return f"({frame.timestamp:.6f}) {channel} {ident_text(frame)}{body}"


def json_form(frame: FrameLike) -> dict[str, Any]:
    """Return the members of a frame for JSON."""
    kind = "error" if frame.is_error_frame else "remote" if frame.is_remote_frame else "data"
    return {
        "timestamp": round(frame.timestamp, 6),
        "channel": frame.channel,
        "direction": "rx" if frame.is_rx else "tx",
        "id": frame.arbitration_id,
        "extended": bool(frame.is_extended_id),
        "type": kind,
        "fd": bool(frame.is_fd),
        "bitrate_switch": bool(frame.bitrate_switch),
        "error_state_indicator": bool(frame.error_state_indicator),
        "dlc": frame.dlc,
        "data": bytes(frame.data).hex(),
    }


class Timestamps:
    """Texts of timestamps, absolute or since an earlier frame, as the option -t of `candump` gives them."""

    def __init__(self, mode: TimestampMode) -> None:
        self._mode = mode
        self._since: float | None = None

    def text(self, frame: FrameLike) -> str:
        """Return the timestamp in front of a line; empty if none is wanted."""
        if self._mode == "none":
            return ""
        if self._mode == "absolute":
            return f" ({frame.timestamp:.6f})"
        since = frame.timestamp if self._since is None else self._since
        if self._mode == "delta" or self._since is None:
            self._since = frame.timestamp
        return f" ({frame.timestamp - since:010.6f})"
