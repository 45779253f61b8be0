"""Compression of byte streams: gzip, xz, bz2 and zstd, in worker threads, with bounded memory and honest errors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio import ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import ObjectStream

from .codecs import LazyCompressor, ZlibDecompressor, create_decompressor
from .formats import (
    COMPRESSION_SIGNATURES,
    SIGNATURE_BUFFER_SIZE,
    Compression,
    FileSignature,
    detect_compression_from_signature,
)
from .unpacking import CHUNK_SIZE, INLINE_INPUT, Decoder, DecompressionError, Unpacker
from .workers import begin, finished

__all__ = [
    "COMPRESSION_SIGNATURES",
    "SIGNATURE_BUFFER_SIZE",
    "AutoDecompressIterator",
    "CompressedStream",
    "Compression",
    "DecompressionError",
    "FileSignature",
    "ZlibCompressedStream",
    "compress_stream",
    "create_decompressor",
    "detect_compression_from_signature",
]


@dataclass(kw_only=True)
class CompressedStream(ObjectStream[bytes]):
    """Compresses what is sent to `stream`, and unpacks what is received from it.

    Files of several members are unpacked to their end, as by the command line tools. Chunks have at most 1 MiB.
    """

    stream: ObjectStream[bytes]
    compressor: Any
    """Packs all that is sent: `compress(data)`, `flush()`."""
    decompressor: Any
    """Unpacks the first member received; objects of `zlib`, `lzma`, `bz2` and `zstd` will do."""
    compression: Compression | None = None
    """The format, for messages and for further members; found out by the decompressor when None."""

    _unpacker: Unpacker = field(init=False, repr=False)
    _packed: bool = field(init=False, default=False, repr=False)
    _eof_sent: bool = field(init=False, default=False, repr=False)

    def __post_init__(self) -> None:
        first = self.decompressor if hasattr(self.decompressor, "needs_input") else ZlibDecompressor(self.decompressor)
        compression = self.compression or _COMPRESSIONS.get(type(first).__name__)
        decoder = (
            Decoder(compression, _creator(compression), first) if compression else Decoder("data", type(first), first)
        )
        self._unpacker = Unpacker(self._pull, decoder)

    async def _pull(self) -> bytes:
        """Receive a chunk, and with it the small ones that are there already, as each batch costs a thread switch."""
        chunk = await self.stream.receive()
        receive_nowait = getattr(self.stream, "receive_nowait", None)
        if receive_nowait is None or len(chunk) >= CHUNK_SIZE // 2:
            return chunk
        chunks, size = [chunk], len(chunk)
        with contextlib.suppress(WouldBlock):
            while size < CHUNK_SIZE:
                chunks.append(receive_nowait())
                size += len(chunks[-1])
        return b"".join(chunks)

    async def receive(self) -> bytes:
        """Return the next unpacked chunk.

        Raises:
            EndOfStream: the stream ended and all was unpacked, or it held nothing at all.
            DecompressionError: the data is corrupt or cut short.
        """
        return await self._unpacker.read()

    async def send(self, item: bytes) -> None:
        """Compress and send; the peer may get the bytes later only, together with more.

        Raises:
            ClosedResourceError: EOF was sent before.
        """
        if self._eof_sent:
            raise ClosedResourceError
        self._packed = True
        if len(item) <= INLINE_INPUT:
            await self._send(self.compressor.compress(item))
            return
        view = memoryview(item)
        for start in range(0, len(view), CHUNK_SIZE):
            await self._send(await finished(begin(self.compressor.compress, view[start : start + CHUNK_SIZE])))

    async def _send(self, packed: bytes) -> None:
        for start in range(0, len(packed), CHUNK_SIZE):
            await self.stream.send(packed[start : start + CHUNK_SIZE] if len(packed) > CHUNK_SIZE else packed)

    async def _flush(self) -> None:
        """Send what the compressor holds, once; nothing at all when nothing was ever sent."""
        if not self._eof_sent:
            self._eof_sent = True
            if self._packed:
                await self._send(await finished(begin(self.compressor.flush)))

    async def send_eof(self) -> None:
        """Send the rest of the compressed data and the end of the stream."""
        await self._flush()
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Send the rest of the compressed data and close the inner stream."""
        try:
            await self._flush()
        finally:
            await self.stream.aclose()

    async def __aexit__(self, *failure: object) -> None:
        """Close; after an error without the rest, so that an incomplete file can be told from a complete one."""
        if failure[0] is not None:
            self._eof_sent = True
        await self.aclose()

    def abort(self) -> None:
        """Break off: nothing more is sent, and the inner stream is aborted if it can be."""
        self._eof_sent = True
        if (abort := getattr(self.stream, "abort", None)) is not None:
            abort()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the inner stream."""
        return self.stream.extra_attributes


_COMPRESSIONS = {
    "ZlibDecompressor": Compression.GZIP,
    "LZMADecompressor": Compression.XZ,
    "BZ2Decompressor": Compression.BZ2,
    "ZstdDecompressor": Compression.ZSTD,
}
"""The formats of the decompressor classes that a caller may bring."""


class ZlibCompressedStream(CompressedStream):
    """A `CompressedStream` for the compressor and decompressor objects of `zlib`."""


def _creator(compression: Compression) -> Callable[[], Any]:
    return lambda: create_decompressor(compression)


def compress_stream(stream: ObjectStream[bytes], compression: Compression | None) -> ObjectStream[bytes]:
    """Wrap `stream`, which carries compressed bytes, in one that carries plain ones; None returns it as it is."""
    if compression is None:
        return stream
    compression = Compression(compression)
    return (ZlibCompressedStream if compression is Compression.GZIP else CompressedStream)(
        stream=stream,
        compressor=LazyCompressor(compression),
        decompressor=create_decompressor(compression),
        compression=compression,
    )


@dataclass(kw_only=True)
class AutoDecompressIterator(AsyncIterator[bytes]):
    """Iterates over the bytes of `source`, unpacked when their first bytes say that they are compressed.

    Unpacked chunks have at most 1 MiB; plain ones are those of the source.

    Raises:
        DecompressionError: compressed data is corrupt or cut short (a RuntimeError too).
    """

    source: AsyncIterator[bytes]

    _head: bytes = field(init=False, default=b"", repr=False)
    _unpacker: Unpacker | None = field(init=False, default=None, repr=False)
    _decided: bool = field(init=False, default=False, repr=False)

    def __aiter__(self) -> AutoDecompressIterator:
        return self

    async def __anext__(self) -> bytes:
        if not self._decided:
            await self._decide()
        try:
            return await (self._pull() if self._unpacker is None else self._unpacker.read())
        except EndOfStream:
            raise StopAsyncIteration from None

    async def _decide(self) -> None:
        """Read until the first bytes say what the data is."""
        while len(self._head) < SIGNATURE_BUFFER_SIZE:
            try:
                self._head += await anext(self.source)
            except StopAsyncIteration:
                break
        self._decided = True
        if compression := detect_compression_from_signature(self._head):
            self._unpacker = Unpacker(self._pull, Decoder(compression, _creator(compression)))

    async def _pull(self) -> bytes:
        head, self._head = self._head, b""
        if head:
            return head
        try:
            return await anext(self.source)
        except StopAsyncIteration:
            raise EndOfStream from None
