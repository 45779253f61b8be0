"""UF2 images: checking one before anything is written, and taking from it what a board is meant to get.

A UF2 image is a row of 512-byte blocks. Each tells its own address, its number, how many there are for its family (kind
of processor), and carries up to 476 bytes; boards put the blocks together in whatever order they come.

Source: the UF2 specification, github.com/microsoft/uf2; families of Raspberry Pi: RP2040 and RP2350 datasheets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BLOCK: Final = 512
MAX_PAYLOAD: Final = 476

_START = struct.pack("<II", 0x0A324655, 0x9E5D5157)
_END = struct.pack("<I", 0x0AB16F30)
_NOT_MAIN_FLASH = 0x1
_HAS_FAMILY = 0x2000

RP2040: Final = 0xE48BFF56
ABSOLUTE: Final = 0xE48BFF57
DATA: Final = 0xE48BFF58
RP2350_ARM_S: Final = 0xE48BFF59
RP2350_RISCV: Final = 0xE48BFF5A
RP2350_ARM_NS: Final = 0xE48BFF5B

FAMILY_NAMES: Final = {
    RP2040: "RP2040",
    ABSOLUTE: "absolute",
    DATA: "data",
    RP2350_ARM_S: "RP2350 Arm",
    RP2350_RISCV: "RP2350 RISC-V",
    RP2350_ARM_NS: "RP2350 Arm, non-secure",
}

BOARD_FAMILIES: Final = {
    "RPI-RP2": frozenset({RP2040}),
    "RP2350": frozenset({ABSOLUTE, DATA, RP2350_ARM_S, RP2350_RISCV, RP2350_ARM_NS}),
}
"""What a board takes, by the `Board-ID` in its INFO_UF2.TXT."""


class Uf2Error(ValueError):
    """A file is no UF2 image, or not one for the board; nothing was written."""


@dataclass
class Part:
    """The blocks of one family."""

    family: int | None
    count: int
    numbers: set[int] = field(default_factory=set)

    @property
    def is_complete(self) -> bool:
        """Whether all its blocks are there."""
        return len(self.numbers) == self.count

    @property
    def is_workaround(self) -> bool:
        """Whether it is the single block that compilers add for RP2350 erratum E10: one of two that it claims."""
        return self.family == ABSOLUTE and self.count == 2 and len(self.numbers) == 1


def check(path: Path) -> dict[int | None, Part]:
    """Read a UF2 image; returns its parts by family, None for blocks that name none.

    Raises:
        Uf2Error: it is no UF2 image, or an incomplete one.
    """
    size = path.stat().st_size
    if size == 0:
        raise Uf2Error("the image is empty")
    parts: dict[int | None, Part] = {}
    for number, block in enumerate(_blocks(path)):
        if block[:8] != _START or block[-4:] != _END:
            hint = _hint(block) if number == 0 else "it is damaged"
            raise Uf2Error(f"the image is no UF2 file (block {number} of {-(-size // BLOCK)}): {hint}")
        _, _, flags, _, payload, index, count, family = struct.unpack_from("<8I", block)
        if payload > MAX_PAYLOAD or index >= count:
            raise Uf2Error(f"block {number} of the image is damaged: {payload} bytes, block {index} of {count}")
        if flags & _NOT_MAIN_FLASH:
            continue
        key = family if flags & _HAS_FAMILY else None
        parts.setdefault(key, Part(key, count)).numbers.add(index)
    if size % BLOCK:
        raise Uf2Error(f"the image was cut off: {size} bytes are no multiple of {BLOCK}")
    if not parts:
        raise Uf2Error("the image has nothing for the flash of a board")
    for family, part in parts.items():
        if not part.is_complete and not part.is_workaround:
            raise Uf2Error(
                f"the image is incomplete: it has {len(part.numbers)} of {part.count} blocks for {_name(family)}"
            )
    return parts


def select(path: Path, target: Path, families: frozenset[int], board: str) -> Path:
    """Return a file with the blocks that a board takes: the image itself, or `target`, to which they are copied.

    A board restarts as soon as it has all blocks of its own, so others after them would find no drive any more.

    Raises:
        Uf2Error: it has none for the board.
    """
    found = check(path)
    wanted = {family for family in found if family is None or family in families}
    if all(found[family].is_workaround for family in wanted):
        raise Uf2Error(
            f"the image is for {' and '.join(sorted(_name(family) for family in found))}, but the board is "
            f"{board!r}. Build it for this board"
        )
    if wanted == set(found):
        return path
    with open(target, "wb") as file:
        for block in _blocks(path):
            flags, family = struct.unpack_from("<I", block, 8)[0], struct.unpack_from("<I", block, 28)[0]
            if not flags & _HAS_FAMILY or family in wanted:
                file.write(block)
    return target


def parse_info(text: str) -> dict[str, str]:
    """Return what INFO_UF2.TXT says: `Model`, `Board-ID` and the like, and its first line as `Bootloader`."""
    info: dict[str, str] = {}
    for number, line in enumerate(text.splitlines()):
        key, colon, value = line.partition(":")
        if colon:
            info[key.strip()] = value.strip()
        elif number == 0 and line.strip():
            info["Bootloader"] = line.strip()
    return info


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            yield block.ljust(BLOCK, b"\0")


def _hint(block: bytes) -> str:
    if block.startswith(b"\x7fELF"):
        return "it is an ELF file; convert it ('picotool uf2 convert firmware.elf firmware.uf2')"
    if block.startswith(b":"):
        return "it is an Intel HEX file; convert it to UF2"
    return "it does not begin like one. A plain binary has to be converted ('picotool uf2 convert')"


def _name(family: int | None) -> str:
    if family is None:
        return "any processor"
    return FAMILY_NAMES.get(family, f"family {family:#010x}")
