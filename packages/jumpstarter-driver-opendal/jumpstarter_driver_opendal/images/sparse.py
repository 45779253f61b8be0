"""Android sparse images, which `img2simg` and `fastboot` use.

The format is that of `libsparse` in the Android Open Source Project (`system/core/libsparse/sparse_format.h`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

from .extents import ImageError, Sink

__all__ = ["MAGIC", "SparseParser"]

MAGIC: Final = b"\x3a\xff\x26\xed"
"""First bytes of a sparse image."""

_HEADER: Final = struct.Struct("<IHHHHIIII")
_CHUNK: Final = struct.Struct("<HHII")
_RAW, _FILL, _DONT_CARE, _CRC32 = 0xCAC1, 0xCAC2, 0xCAC3, 0xCAC4

MAX_HEADER: Final = 4096
"""Bytes that a header may have; larger ones are damage."""

MAX_BLOCK: Final = 64 << 20
"""Bytes that a block may have."""

FILL_PIECE: Final = 1 << 20
"""Bytes of a repeated pattern that are told at a time."""


class SparseParser:
    """Takes the bytes of a sparse image and tells the sink about the disk.

    Raises:
        ImageError: the image is damaged; the sink may have been told a part of it.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._held = bytearray()  # the beginning of a header that isn't complete yet
        self._wanted = _HEADER.size
        self._take: Callable[[bytes], None] = self._file_header
        self._left = 0  # bytes of the running raw chunk that are still to come
        self._block = 0
        self._blocks = 0
        self._chunks = 0
        self._chunk_header = 0
        self._checksum = 0
        self._crc = 0
        self.position = 0
        """Bytes of the disk that the sink has been told."""

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            if self._left:
                run = view[: self._left]
                self._sink.data(self.position, run)
                self._crc = zlib.crc32(run, self._crc)
                self.position += len(run)
                self._left -= len(run)
                view = view[len(run) :]
            else:
                piece = view[: self._wanted - len(self._held)]
                self._held += piece
                view = view[len(piece) :]
                if len(self._held) == self._wanted:
                    header = bytes(self._held)
                    self._held.clear()
                    self._take(header)

    def finish(self) -> int:
        """Take the end; return the size of the disk in bytes."""
        if self._left or self._held or self._chunks or not self._block:
            raise ImageError("the Android sparse image is cut short; was the file copied completely?")
        size = self._blocks * self._block
        if self.position != size:
            raise ImageError(f"the Android sparse image is damaged: it describes {self.position} of {size} bytes")
        self._check(self._checksum)
        return size

    def _file_header(self, header: bytes) -> None:
        magic, major, minor, size, chunk_size, block, blocks, chunks, checksum = _HEADER.unpack(header)
        if magic != int.from_bytes(MAGIC, "little"):
            raise ImageError("this is no Android sparse image")
        if major != 1:
            raise ImageError(f"Android sparse images of version {major}.{minor} are not known, only 1.x")
        sizes_fit = _HEADER.size <= size <= MAX_HEADER and _CHUNK.size <= chunk_size <= MAX_HEADER
        if not sizes_fit or not 0 < block <= MAX_BLOCK or block % 4:
            raise ImageError("the Android sparse image is damaged: its header has impossible sizes")
        self._block, self._blocks, self._chunks, self._checksum = block, blocks, chunks, checksum
        self._chunk_header = chunk_size
        self._skip(size - _HEADER.size)

    def _skip(self, size: int) -> None:
        """Pass over what a longer header holds, then expect a chunk."""
        if size:
            self._wanted, self._take = size, lambda _: self._expect_chunk()
        else:
            self._expect_chunk()

    def _expect_chunk(self) -> None:
        self._wanted, self._take = _CHUNK.size, self._start_chunk

    def _start_chunk(self, header: bytes) -> None:
        if not self._chunks:
            raise ImageError("the Android sparse image goes on after its last chunk")
        kind, _, blocks, total = _CHUNK.unpack(header)
        length = blocks * self._block
        body = {_RAW: length, _FILL: 4, _DONT_CARE: 0, _CRC32: 4}.get(kind)
        if body is None or total != self._chunk_header + body or self.position + length > self._blocks * self._block:
            raise ImageError(f"the Android sparse image is damaged: bad chunk at byte {self.position} of the disk")
        self._chunks -= 1
        extra = self._chunk_header - _CHUNK.size
        self._wanted = extra + (body if kind in (_FILL, _CRC32) else 0)
        self._take = lambda rest: self._body(kind, length, rest[extra:])
        if not self._wanted:
            self._body(kind, length, b"")

    def _body(self, kind: int, length: int, body: bytes) -> None:
        self._expect_chunk()
        if kind == _RAW:
            self._left = length
        elif kind == _DONT_CARE:
            self._count_zeros(length)
            self.position += length
        elif kind == _CRC32:
            self._check(int.from_bytes(body, "little"))
        elif body == bytes(4):
            self._sink.zeros(self.position, length)
            self._count_zeros(length)
            self.position += length
        else:
            pattern = memoryview(body * (min(length, FILL_PIECE) // 4))
            while length:
                run = pattern[:length]
                self._sink.data(self.position, run)
                self._crc = zlib.crc32(run, self._crc)
                self.position += len(run)
                length -= len(run)

    def _count_zeros(self, length: int) -> None:
        """What nobody cares about counts as zeros in the check sum."""
        zeros = bytes(min(length, FILL_PIECE))
        while length:
            run = zeros[:length]
            self._crc = zlib.crc32(run, self._crc)
            length -= len(run)

    def _check(self, expected: int) -> None:
        """Writers that compute no check sum leave it 0."""
        if expected and expected != self._crc:
            raise ImageError(
                f"the Android sparse image is damaged: its check sum is {expected:#010x}, its content has "
                f"{self._crc:#010x}. Fetch it again"
            )
