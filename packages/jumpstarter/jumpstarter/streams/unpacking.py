"""Unpacking: from chunks of a compressed file to chunks of its content, of a bounded size, in worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import EndOfStream
from anyio.lowlevel import checkpoint

from ..common.exceptions import JumpstarterException
from .codecs import Decompressor
from .workers import begin, finished

__all__ = ["CHUNK_SIZE", "INLINE_INPUT", "Decoder", "DecompressionError", "Unpacker"]

CHUNK_SIZE = 1 << 20
"""Most bytes that one chunk holds, decompressed or compressed, however far the data expands."""

PIECE_SIZE = 128 * 1024
"""Bytes of input given to a decompressor at a time; it copies what it can't use yet, so this bounds the copying."""

INLINE_INPUT = 16 * 1024
INLINE_OUTPUT = 64 * 1024
"""Work of at most these sizes in bytes is done at once, because handing it to a thread would cost more."""


class DecompressionError(JumpstarterException, RuntimeError, ValueError):
    """Compressed data is corrupt, cut short or followed by something else."""


class Decoder:
    """Unpacks a file of one or more members, with output in chunks of a bounded size."""

    def __init__(self, name: str, create: Callable[[], Any], first: Decompressor | None = None) -> None:
        self._name = name
        self._create = create
        self._member: Decompressor | None = first
        self._started = False  # the first member is not padding, and may be missing altogether
        self._input = memoryview(b"")
        self._position = 0
        self._failure: DecompressionError | None = None

    def feed(self, data: bytes) -> None:
        """Take input; only when nothing is pending."""
        self._input, self._position = memoryview(data), 0

    @property
    def pending(self) -> int:
        """Bytes of input not looked at yet, or 1 when there may be output without them; 0: needs input."""
        held = self._started and self._member is not None and not self._member.needs_input
        return len(self._input) - self._position or int(held or self._failure is not None)

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes of output, empty when more input is needed.

        Raises:
            DecompressionError: the input is corrupt; all that could be unpacked before was returned.
        """
        if self._failure is not None:
            raise self._failure
        parts: list[bytes] = []
        room = limit
        try:
            while room and self.pending:
                if output := self._step(room):
                    parts.append(output)
                    room -= len(output)
        except Exception as error:  # noqa: BLE001 (each format has errors of its own, without a common base)
            reason = f"{str(error) or type(error).__name__}; the data is corrupt or not {self._name}"
            self._failure = DecompressionError(f"Failed to decompress {self._name}: {reason}")
            if not parts:
                raise self._failure from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _step(self, limit: int) -> bytes:
        if self._member is None:
            self._skip_padding()
            if self._position == len(self._input):
                return b""
            self._member = self._create()
        self._started = True
        member = self._member
        piece = self._input[self._position : self._position + PIECE_SIZE] if member.needs_input else memoryview(b"")
        self._position += len(piece)
        output = member.decompress(piece, limit)
        if member.eof:
            # A member takes new input when it has used up the old, so what it left lies just before the position.
            self._position -= len(member.unused_data)
            self._member = None
        return output

    def _skip_padding(self) -> None:
        """Pass over zeros between and after members: padding of tapes for gzip, of the format itself for xz."""
        while self._started and self._position < len(self._input):
            piece = bytes(self._input[self._position : self._position + PIECE_SIZE])
            rest = piece.lstrip(b"\0")
            self._position += len(piece) - len(rest)
            if rest:
                break

    def finish(self) -> None:
        """Accept the end of the input.

        Raises:
            DecompressionError: the input ends in the middle of a member.
        """
        if self._started and self._member is not None:
            raise DecompressionError(
                f"Failed to decompress {self._name}: the data is cut short; was the file copied completely?"
            )


class Unpacker:
    """Turns chunks that `pull` returns into unpacked ones; unpacks ahead while the reader uses a chunk."""

    def __init__(self, pull: Callable[[], Awaitable[bytes]], decoder: Decoder) -> None:
        self._pull = pull
        self._decoder = decoder
        self._job: asyncio.Future[bytes] | None = None
        self._ended = False
        self._more = False  # the last chunk was as large as it may be, so there is work for a thread

    async def read(self) -> bytes:
        """Return the next chunk; may be cancelled and called again.

        Raises:
            EndOfStream: all was unpacked.
            DecompressionError: the data is corrupt or cut short.
        """
        while True:
            if self._job is not None or self._decoder.pending:
                if chunk := await self._unpack():
                    return chunk
                continue
            if self._ended:
                self._decoder.finish()
                raise EndOfStream
            try:
                self._decoder.feed(await self._pull())
            except EndOfStream:
                self._ended = True

    async def _unpack(self) -> bytes:
        decoder = self._decoder
        if self._job is None:
            if decoder.pending <= INLINE_INPUT and not self._more:
                await checkpoint()
                chunk = decoder.read(INLINE_OUTPUT)
                self._more = len(chunk) == INLINE_OUTPUT
                return chunk
            self._job = begin(decoder.read, CHUNK_SIZE)
        job = self._job
        try:
            chunk = await finished(job)
        finally:
            if job.done():
                self._job = None
        self._more = len(chunk) == CHUNK_SIZE
        if decoder.pending > INLINE_INPUT or self._more:
            self._job = begin(decoder.read, CHUNK_SIZE)
        return chunk
