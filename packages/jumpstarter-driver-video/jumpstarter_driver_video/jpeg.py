"""Looking into JPEG files without decoding them (ITU-T T.81, annex B)."""

from __future__ import annotations

from typing import Final

SOI: Final = b"\xff\xd8"
"""How every JPEG file begins."""

EOI: Final = b"\xff\xd9"
"""How every JPEG file ends; some cameras append padding."""

# SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC), which lie among them.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM, RST0 to RST7, SOI, EOI.
_BARE: Final = frozenset({0x01, *range(0xD0, 0xDA)})


def dimensions(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels.

    Raises:
        ValueError: `data` is no JPEG file, or ends before its size.
    """
    if not data.startswith(SOI):
        raise ValueError("not a JPEG file")
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            raise ValueError(f"a damaged JPEG file: no marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _BARE:
            position += 2
        elif marker in _FRAMES:
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width), int.from_bytes(height)
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    raise ValueError("a JPEG file that ends before its size")
