"""Compressed formats, and how a file in one of them is known by its first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "COMPRESSION_SIGNATURES",
    "SIGNATURE_BUFFER_SIZE",
    "Compression",
    "FileSignature",
    "detect_compression_from_signature",
]


class Compression(StrEnum):
    """Compressed formats that travel between client and exporter, named as on the wire."""

    GZIP = "gzip"
    XZ = "xz"
    BZ2 = "bz2"
    ZSTD = "zstd"


@dataclass(frozen=True)
class FileSignature:
    """First bytes by which a compressed file is known."""

    signature: bytes
    compression: Compression


COMPRESSION_SIGNATURES = (
    FileSignature(b"\x1f\x8b\x08", Compression.GZIP),  # RFC 1952 2.3.1, with the only method there is
    FileSignature(b"\xfd7zXZ\x00", Compression.XZ),  # The .xz File Format 2.1.1.1
    FileSignature(b"BZh", Compression.BZ2),
    FileSignature(b"\x28\xb5\x2f\xfd", Compression.ZSTD),  # RFC 8878 3.1.1
)

SIGNATURE_BUFFER_SIZE = 8
"""Bytes that decide about the compression of a file."""


def detect_compression_from_signature(data: bytes) -> Compression | None:
    """Return the compression of a file that begins with `data`; None when it is not compressed in a known way."""
    for known in COMPRESSION_SIGNATURES:
        if data.startswith(known.signature):
            return known.compression
    return None
