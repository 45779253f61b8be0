"""TFTP packets: reading requests and ACKs, writing DATA, OACK and ERROR, and agreeing on options.

Nothing here touches a socket. Sources: RFC 1350 (packets), RFC 2347 (options), RFC 2348 (`blksize`), RFC 2349
(`timeout`, `tsize`), RFC 7440 (`windowsize`).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "MAX_BLOCK_SIZE",
    "MIN_BLOCK_SIZE",
    "BadRequest",
    "Opcode",
    "Options",
    "ReadRequest",
    "TftpErrorCode",
    "ack_number",
    "data_packet",
    "error_packet",
    "error_text",
    "negotiate",
    "oack_packet",
    "opcode_of",
    "parse_request",
]

DEFAULT_BLOCK_SIZE = 512
MIN_BLOCK_SIZE = 8
MAX_BLOCK_SIZE = 65464
MAX_WINDOW_BYTES = 4 << 20
"""Most that one transfer keeps in memory for retransmission; a larger window is answered with a smaller one."""


class Opcode(enum.IntEnum):
    """The first two bytes of every packet."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class TftpErrorCode(enum.IntEnum):
    """The codes of an ERROR packet (RFC 1350, appendix)."""

    NOT_DEFINED = 0
    FILE_NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7


class BadRequest(ValueError):
    """A request that gets an ERROR packet; `code` and the text are what the peer is told."""

    def __init__(self, code: TftpErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """What an RRQ asks for. Option names are in lower case, values as sent."""

    filename: str
    netascii: bool
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What both sides agreed on, and what of it the OACK has to say (empty: no OACK)."""

    block_size: int
    timeout: float
    window_size: int = 1
    answer: Mapping[str, str] = field(default_factory=dict)


def opcode_of(packet: bytes) -> int | None:
    """The opcode, known or not, or None for a packet that is too short to have one."""
    return struct.unpack_from("!H", packet)[0] if len(packet) >= 2 else None


def parse_request(packet: bytes) -> ReadRequest:
    """Read an RRQ.

    Raises:
        BadRequest: the packet is malformed, asks to write, or names a mode that doesn't exist.
    """
    opcode = opcode_of(packet)
    if opcode == Opcode.WRQ:
        raise BadRequest(TftpErrorCode.ILLEGAL_OPERATION, "this server is read-only")
    if opcode != Opcode.RRQ:
        raise BadRequest(TftpErrorCode.ILLEGAL_OPERATION, "not a request")
    if len(packet) < 4 or not packet.endswith(b"\0"):
        raise BadRequest(TftpErrorCode.ILLEGAL_OPERATION, "malformed request")
    fields = packet[2:-1].split(b"\0")
    if len(fields) < 2 or not fields[0]:
        raise BadRequest(TftpErrorCode.ILLEGAL_OPERATION, "malformed request")
    try:
        filename = fields[0].decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(TftpErrorCode.ACCESS_VIOLATION, "file name is not UTF-8") from None
    mode = fields[1].lower()
    if mode not in (b"octet", b"netascii"):
        raise BadRequest(TftpErrorCode.ILLEGAL_OPERATION, "unknown transfer mode")
    options: dict[str, str] = {}
    # An odd field at the end is an option without a value; the rest of the request is still good.
    for name, value in zip(fields[2::2], fields[3::2], strict=False):
        options.setdefault(name.decode("ascii", "replace").lower(), value.decode("ascii", "replace"))
    return ReadRequest(filename=filename, netascii=mode == b"netascii", options=options)


def negotiate(request: ReadRequest, *, size: int | None, block_size: int, timeout: float) -> Options:
    """Take the options of a request that this server can keep, and leave the others out.

    Args:
        request: the request.
        size: bytes that the transfer will carry, None when that isn't known (then `tsize` is left out).
        block_size: bytes of a block when the client doesn't ask for another size.
        timeout: seconds before a retransmission when the client doesn't ask for another time.
    """
    answer: dict[str, str] = {}
    window = 1
    asked = {name: _number(value) for name, value in request.options.items()}
    if (blksize := asked.get("blksize")) is not None and blksize >= MIN_BLOCK_SIZE:
        block_size = min(blksize, MAX_BLOCK_SIZE)
        answer["blksize"] = str(block_size)
    if (seconds := asked.get("timeout")) is not None and 1 <= seconds <= 255:
        timeout = float(seconds)
        answer["timeout"] = str(seconds)
    if asked.get("tsize") is not None and size is not None:
        answer["tsize"] = str(size)
    if (blocks := asked.get("windowsize")) is not None and 1 <= blocks <= 65535:
        window = min(blocks, max(1, MAX_WINDOW_BYTES // block_size))
        answer["windowsize"] = str(window)
    return Options(block_size=block_size, timeout=timeout, window_size=window, answer=answer)


def data_packet(block: int, payload: bytes | memoryview) -> bytes:
    """A DATA packet; `block` counts from 1 without end, on the wire it wraps from 65535 to 0."""
    return b"".join((struct.pack("!HH", Opcode.DATA, block & 0xFFFF), payload))


def oack_packet(answer: Mapping[str, str]) -> bytes:
    """The OACK that states the accepted options."""
    text = "".join(f"{name}\0{value}\0" for name, value in answer.items())
    return struct.pack("!H", Opcode.OACK) + text.encode("ascii")


def error_packet(code: int, text: str) -> bytes:
    """An ERROR packet.

    Boot loaders print the text on their console, where scripts wait for a prompt such as `=> `: anything but letters,
    digits and harmless punctuation is replaced, and the text is kept short.
    """
    harmless = "".join(c if c.isascii() and (c.isalnum() or c in " -_.,:/()'") else "?" for c in text)[:120]
    return struct.pack("!HH", Opcode.ERROR, code) + harmless.encode("ascii") + b"\0"


def ack_number(packet: bytes) -> int | None:
    """The block number (0..65535) of an ACK, None if the packet isn't one."""
    if len(packet) < 4 or opcode_of(packet) != Opcode.ACK:
        return None
    return int(struct.unpack_from("!H", packet, 2)[0])


def error_text(packet: bytes) -> str:
    """What an ERROR packet says, fit for a log line."""
    code = struct.unpack_from("!H", packet, 2)[0] if len(packet) >= 4 else 0
    text = packet[4:].split(b"\0", 1)[0].decode("ascii", "replace")
    return f"error {code}: {text[:200]!r}" if text else f"error {code}"


def _number(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
