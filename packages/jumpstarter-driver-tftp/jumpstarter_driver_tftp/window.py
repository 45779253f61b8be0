"""The sending side of a TFTP transfer without its socket: cuts a file into blocks and keeps those still unconfirmed."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from .packets import data_packet

__all__ = ["READ_SIZE", "BlockWindow", "Reader"]

READ_SIZE = 1 << 20
"""Bytes fetched from the file at a time: one trip to a worker thread serves hundreds of blocks."""


class Reader:
    """Reads a file in large pieces and hands it out in small ones.

    Args:
        read: returns up to so many bytes, nothing at the end of the file.
        netascii: translate line ends (RFC 764: LF becomes CR LF, CR becomes CR NUL).
    """

    def __init__(self, read: Callable[[int], Awaitable[bytes]], *, netascii: bool = False) -> None:
        self._read = read
        self._netascii = netascii
        self._buffer = b""
        self._position = 0
        self._ended = False

    async def take(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end of the file."""
        while not self._ended and len(self._buffer) - self._position < size:
            piece = bytes(await self._read(READ_SIZE))
            if not piece:
                self._ended = True
            elif self._netascii:
                piece = piece.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
            self._buffer = self._buffer[self._position :] + piece
            self._position = 0
        block = self._buffer[self._position : self._position + size]
        self._position += len(block)
        return block


class BlockWindow:
    """The blocks that are out and may have to be sent again.

    Blocks count from 1 without end; only on the wire they wrap from 65535 to 0.
    """

    def __init__(self, reader: Reader, *, block_size: int, size: int = 1) -> None:
        self.size = size
        self.first = 1
        self.sent_bytes = 0
        self._reader = reader
        self._block_size = block_size
        self._blocks: deque[bytes] = deque()
        self._last_block_read = False

    @property
    def finished(self) -> bool:
        """Whether everything was sent and acknowledged."""
        return self._last_block_read and not self._blocks

    async def fill(self) -> None:
        """Read blocks until the window is full or the file at its end. A short block, empty if need be, is the last."""
        while not self._last_block_read and len(self._blocks) < self.size:
            block = await self._reader.take(self._block_size)
            self._blocks.append(block)
            self._last_block_read = len(block) < self._block_size

    def packets(self) -> Iterator[bytes]:
        """The DATA packets of all blocks in the window."""
        for offset, block in enumerate(self._blocks):
            yield data_packet(self.first + offset, block)

    def acknowledge(self, number: int) -> bool:
        """Drop what an ACK of the wire's block `number` covers; False if that isn't one of the blocks that are out."""
        covered = ((number - self.first) & 0xFFFF) + 1
        if covered > len(self._blocks):
            return False
        for _ in range(covered):
            self.sent_bytes += len(self._blocks.popleft())
        self.first += covered
        return True

    def is_before(self, number: int) -> bool:
        """Whether the wire's block `number` is the one right before the window."""
        return number == (self.first - 1) & 0xFFFF
