"""What both sides of the probe-rs driver know: widths of memory words, and formats of firmware files."""

from __future__ import annotations

from typing import Final

WIDTHS: Final = (8, 16, 32, 64)
"""Bits of a word that probe-rs reads and writes."""

FORMATS: Final = ("bin", "elf", "hex", "idf", "uf2")
"""Firmware files that probe-rs takes, by its option `--binary-format`."""

FORMAT_OF_SUFFIX: Final = {".bin": "bin", ".hex": "hex", ".ihex": "hex", ".uf2": "uf2"}
"""probe-rs doesn't look at the name of a file; the client does. ELF files are what it takes unless it is told."""

MAX_BYTES: Final = 1 << 20
"""Bytes that one call reads or writes at most."""
