"""Firmware files as ST-LINK drives take them: plain binaries and Intel HEX, checked before anything is written.

Sources: Intel's "Hexadecimal Object File Format Specification" (revision A, 1988); the ELF and UF2 specifications, for
the beginnings of files that are often given by mistake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

BINARY: Final = ".bin"
HEX: Final = ".hex"
SUFFIXES: Final = (BINARY, HEX)

_MAX_LINE = 1 + 2 * (1 + 2 + 1 + 255 + 1) + 2
_RECORD_TYPES = range(6)
_END_OF_FILE = 1

_OTHERS = {
    b"\x7fELF": "an ELF file; convert it ('arm-none-eabi-objcopy -O binary firmware.elf firmware.bin')",
    b"UF2\n": "a UF2 file, which ST-LINK drives don't take",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\x1f\x8b": "compressed with gzip; flash it with --compression gzip",
}


class FirmwareError(ValueError):
    """A file can't be flashed by an ST-LINK drive; nothing was written."""


def suffix_of(name: str) -> str:
    """Return `.bin` or `.hex`, the end of a file's name in lower case.

    Raises:
        FirmwareError: it is another one.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise FirmwareError(f"{name!r} can't be flashed: ST-LINK drives take {' and '.join(SUFFIXES)} files only")
    return suffix


def kind_of(path: Path) -> str:
    """Return `.hex` for a file that looks like Intel HEX, and `.bin` for others."""
    with open(path, "rb") as file:
        start = file.read(9)
    return HEX if start[:1] == b":" and all(byte in b"0123456789abcdefABCDEF" for byte in start[1:]) else BINARY


def check(path: Path, suffix: str) -> None:
    """Look at a file that is to be flashed under a name with this end.

    Raises:
        FirmwareError: it is empty, damaged, or something else.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise FirmwareError("the image is empty")
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise FirmwareError(f"the image is {what}")
    if suffix == HEX:
        _check_hex(path)
    elif kind_of(path) == HEX:
        raise FirmwareError("the image is an Intel HEX file, but is called .bin; give a name that ends in .hex")


def _check_hex(path: Path) -> None:
    is_ended = False
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            record = line.strip()
            if not record:
                continue
            if is_ended:
                raise FirmwareError(f"line {number} of the Intel HEX file comes after its end record")
            is_ended = _record_type(record, number) == _END_OF_FILE
    if not is_ended:
        raise FirmwareError("the Intel HEX file has no end record; it was cut off")


def _record_type(record: bytes, number: int) -> int:
    """The type of a record: colon, length, address (2 bytes), type, data, checksum, in hexadecimal digits."""
    try:
        if record[:1] != b":":
            raise ValueError
        content = bytes.fromhex(record[1:].decode("ascii"))
    except ValueError:
        raise FirmwareError(f"line {number} is no record of an Intel HEX file") from None
    if len(content) < 5 or len(content) != content[0] + 5 or content[3] not in _RECORD_TYPES:
        raise FirmwareError(f"line {number} of the Intel HEX file is damaged")
    if sum(content) & 0xFF:
        raise FirmwareError(f"line {number} of the Intel HEX file has a wrong checksum")
    return content[3]
