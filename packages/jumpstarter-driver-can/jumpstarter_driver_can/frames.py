"""CAN frames as bytes: a compact record for each, for thousands of them per second.

A record is, little-endian: timestamp (f64, seconds since the epoch), identifier (u32 with the flags that SocketCAN puts
into its upper bits, linux/can.h), flags (u8), DLC (u8, a number of bytes as in python-can), number of data bytes (u8),
data; with the flag CHANNEL also the length (u8) and text of a JSON value, the channel, where that is another one than
the link's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, Protocol, TypeVar

EXTENDED: Final = 0x80000000
REMOTE: Final = 0x40000000
ERROR: Final = 0x20000000
STANDARD_MASK: Final = 0x7FF
EXTENDED_MASK: Final = 0x1FFFFFFF

FD: Final = 1
BITRATE_SWITCH: Final = 2
ERROR_STATE: Final = 4
SENT: Final = 8
CHANNEL: Final = 16
ECHO: Final = 32
"""Sent by the exporter itself, and shown to those who watch."""

CLASSIC_BYTES: Final = 8
FD_BYTES: Final = 64

HEAD: Final = struct.Struct("<dIBBB")
IDENT_OFFSET: Final = 8
FLAGS_OFFSET: Final = 12

Channel = int | str | None


class FrameLike(Protocol):
    """What `can.Message` and `Frame` have in common."""

    timestamp: float
    arbitration_id: int
    is_extended_id: bool
    is_remote_frame: bool
    is_error_frame: bool
    channel: Any
    dlc: int
    data: Any
    is_fd: bool
    is_rx: bool
    bitrate_switch: bool
    error_state_indicator: bool


@dataclass(slots=True)
class Frame:
    """A frame without python-can, which commands need not wait for; members as of `can.Message`, in its order."""

    timestamp: float = 0.0
    arbitration_id: int = 0
    is_extended_id: bool = True
    is_remote_frame: bool = False
    is_error_frame: bool = False
    channel: Channel = None
    dlc: int = 0
    data: bytes = b""
    is_fd: bool = False
    is_rx: bool = True
    bitrate_switch: bool = False
    error_state_indicator: bool = False


F = TypeVar("F")


def check_frame(frame: FrameLike) -> None:
    """Find out whether a frame can be on a CAN bus.

    Raises:
        ValueError: it can't; the message says why.
    """
    ident, extended = frame.arbitration_id, frame.is_extended_id
    highest = EXTENDED_MASK if extended else STANDARD_MASK
    if not 0 <= ident <= highest:
        if not extended and 0 <= ident <= EXTENDED_MASK:
            raise ValueError(f"identifier {ident:#x} needs 29 bits: set is_extended_id, or use one up to {highest:#x}")
        raise ValueError(f"identifier {ident:#x} is out of range: CAN identifiers are 0 to {highest:#x}")
    room, size = FD_BYTES if frame.is_fd else CLASSIC_BYTES, len(frame.data)
    if size > room or not 0 <= frame.dlc <= room:
        count = max(size, frame.dlc)
        if not frame.is_fd and 0 <= count <= FD_BYTES:
            raise ValueError(
                f"{count} bytes don't fit into a classic CAN frame, which takes {room}: set is_fd for a CAN FD frame, "
                "or use ISO-TP for longer data"
            )
        raise ValueError(f"{count} bytes don't fit into a CAN{' FD' if frame.is_fd else ''} frame, which takes {room}")
    if frame.is_remote_frame:
        if frame.is_fd:
            raise ValueError("CAN FD has no remote frames")
        if size:
            raise ValueError("a remote frame carries no data")
    elif size != frame.dlc:
        raise ValueError(f"the DLC says {frame.dlc} bytes, but the frame has {size}")
    if not isfinite(frame.timestamp):
        raise ValueError("the timestamp of a frame must be a finite number")


def encode_frame(frame: FrameLike, channel: Channel = None) -> bytes:
    """Return the record of a frame; `channel` is that of the link, which needs not be in the record.

    Raises:
        ValueError: the frame doesn't fit into a record.
    """
    ident = frame.arbitration_id
    if frame.is_extended_id:
        ident |= EXTENDED
    if frame.is_remote_frame:
        ident |= REMOTE
    if frame.is_error_frame:
        ident |= ERROR
    flags = 0
    if frame.is_fd:
        flags = FD | BITRATE_SWITCH * frame.bitrate_switch | ERROR_STATE * frame.error_state_indicator
    if not frame.is_rx:
        flags |= SENT
    data = frame.data
    try:
        if frame.channel == channel:
            return HEAD.pack(frame.timestamp, ident, flags, frame.dlc, len(data)) + data
        name = _channel_text(frame.channel)
        return HEAD.pack(frame.timestamp, ident, flags | CHANNEL, frame.dlc, len(data)) + data + name
    except struct.error as error:
        raise ValueError(f"this is no CAN frame: {error}") from None


def decode_frames(records: bytes, make: Callable[..., F], channel: Channel = None) -> list[F]:
    """Return the frames in a series of records.

    Args:
        records: whole records, one after the other.
        make: called for each with the members of `Frame` as positional arguments.
        channel: of frames whose record has none.

    Raises:
        ValueError: these are no such records.
    """
    found: list[F] = []
    add, unpack, size, end, at = found.append, HEAD.unpack_from, HEAD.size, len(records), 0
    while at < end:
        try:
            timestamp, ident, flags, dlc, length = unpack(records, at)
        except struct.error:
            raise ValueError("a record of a CAN frame is cut short") from None
        start = at + size
        at = start + length
        if length > FD_BYTES or at > end:
            raise ValueError("a record of a CAN frame is malformed")
        data = records[start:at]
        frame_channel: Any = channel
        if flags & CHANNEL:
            frame_channel, at = _read_channel(records, at)
        extended = ident >= EXTENDED
        add(
            make(
                timestamp,
                ident & (EXTENDED_MASK if extended else STANDARD_MASK if not ident & ERROR else EXTENDED_MASK),
                extended,
                bool(ident & REMOTE),
                bool(ident & ERROR),
                frame_channel,
                dlc,
                data,
                bool(flags & FD),
                not flags & SENT,
                bool(flags & BITRATE_SWITCH),
                bool(flags & ERROR_STATE),
            )
        )
    return found


def mark_echo(record: bytes) -> bytes:
    """Return the record of a frame that was not received, but sent."""
    return record[:FLAGS_OFFSET] + bytes((record[FLAGS_OFFSET] | ECHO,)) + record[FLAGS_OFFSET + 1 :]


def is_echo(record: bytes) -> bool:
    """Tell whether a record is of a frame that was sent."""
    return bool(record[FLAGS_OFFSET] & ECHO)


def _channel_text(channel: Any) -> bytes:
    text = json.dumps(channel if isinstance(channel, int | str | None) else str(channel)).encode()
    if len(text) > 255:
        raise ValueError(f"the channel name {str(channel)[:40]!r}... is too long")
    return bytes((len(text),)) + text


def _read_channel(records: bytes, at: int) -> tuple[Channel, int]:
    start = at + 1
    end = start + (records[at] if at < len(records) else 256)
    if end > len(records):
        raise ValueError("a record of a CAN frame is cut short")
    try:
        channel = json.loads(records[start:end])
    except ValueError:
        channel = ()
    if not isinstance(channel, int | str | None):
        raise ValueError("a record of a CAN frame names no channel")
    return channel, end


@dataclass(frozen=True, slots=True)
class Filter:
    """Lets pass the frames with `id & mask == can_id & mask`, and of one kind of identifier if `extended` is given."""

    can_id: int
    can_mask: int
    extended: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the form that python-can uses."""
        found: dict[str, Any] = {"can_id": self.can_id, "can_mask": self.can_mask}
        return found if self.extended is None else found | {"extended": self.extended}


MAX_FILTERS: Final = 512
"""Filters that one reader may have; SocketCAN allows as many (CAN_RAW_FILTER_MAX)."""


def parse_filters(filters: Any) -> tuple[Filter, ...]:
    """Return the filters in a list of python-can's dictionaries; numbers may be floats, as they are on the wire.

    Raises:
        ValueError: this is no such list.
    """
    if not filters:
        return ()
    if not isinstance(filters, Sequence) or isinstance(filters, str | bytes):
        raise ValueError(f"filters must be a list of mappings with can_id and can_mask, not {filters!r}")
    if len(filters) > MAX_FILTERS:
        raise ValueError(f"{len(filters)} filters are too many: {MAX_FILTERS} are possible")
    return tuple(_parse_filter(item) for item in filters)


def _parse_filter(item: Any) -> Filter:
    if not isinstance(item, dict) or not {"can_id", "can_mask"} <= item.keys() <= {"can_id", "can_mask", "extended"}:
        raise ValueError(f"a filter has can_id, can_mask and perhaps extended, but this is {item!r}")
    numbers = []
    for key in ("can_id", "can_mask"):
        value = item[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ValueError(f"{key} of a filter must be a whole number, not {value!r}")
        if not 0 <= value <= 0xFFFFFFFF:
            raise ValueError(f"{key} of a filter must be 0 to 0xffffffff, not {value!r}")
        numbers.append(int(value))
    extended = item.get("extended")
    return Filter(numbers[0], numbers[1], None if extended is None else bool(extended))


def passing(records: Sequence[bytes], filters: Sequence[Filter]) -> list[bytes]:
    """Return the records of frames that at least one filter lets pass; all without filters."""
    if not filters:
        return list(records)
    return list(_passing(records, [(f.can_id, f.can_mask & EXTENDED_MASK, f.extended) for f in filters]))


_IDENT = struct.Struct("<I")


def _passing(records: Sequence[bytes], filters: list[tuple[int, int, bool | None]]) -> Iterator[bytes]:
    for record in records:
        ident = _IDENT.unpack_from(record, IDENT_OFFSET)[0]
        is_extended = ident >= EXTENDED
        for can_id, mask, extended in filters:
            if (extended is None or extended == is_extended) and not (ident ^ can_id) & mask:
                yield record
                break
