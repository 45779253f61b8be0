"""Compression of byte streams: gzip, xz, bz2 and zstd, in worker threads, with bounded memory and honest errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Protocol, TypeVar

from anyio import ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import ObjectStream
from anyio.lowlevel import checkpoint

from ..common.exceptions import JumpstarterException

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

T = TypeVar("T")

CHUNK_SIZE = 1 << 20
"""Most bytes that one chunk holds, decompressed or compressed, however far the data expands."""

PIECE_SIZE = 128 * 1024
"""Bytes of input given to a decompressor at a time; it copies what it can't use yet, so this bounds the copying."""

INLINE_INPUT = 16 * 1024
INLINE_OUTPUT = 64 * 1024
"""Work of at most these sizes in bytes is done at once, because handing it to a thread would cost more."""

XZ_MEMORY_LIMIT = 512 << 20
"""Bytes of memory that unpacking xz may take; `xz -9` needs 65 MiB, a hostile header can ask for 4 GiB."""


class Compression(StrEnum):
    """Compressed formats that travel between client and exporter, named as on the wire."""

    GZIP = "gzip"
    XZ = "xz"
    BZ2 = "bz2"
    ZSTD = "zstd"


class DecompressionError(JumpstarterException, RuntimeError, ValueError):
    """Compressed data is corrupt, cut short or followed by something else."""


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


class Compressor(Protocol):
    """What the compressor objects of the standard library have in common."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Decompressor(Protocol):
    """What the decompressor objects of `bz2`, `lzma` and `zstd` have in common."""

    def decompress(self, data: Any, /, max_length: int = -1) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _ZlibDecompressor:
    """A zlib decompressor with the interface of the other ones, which keep input that they can't use yet."""

    def __init__(self, inner: Any = None) -> None:
        import zlib

        # 32 + 15: a gzip or a zlib header, the largest window.
        self._inner = zlib.decompressobj(wbits=47) if inner is None else inner
        self._full = False

    def decompress(self, data: Any, /, max_length: int = -1) -> bytes:
        tail = self._inner.unconsumed_tail
        if tail:
            data = tail + bytes(data)
        output: bytes = self._inner.decompress(data, max(max_length, 0))
        # zlib may hold output back when it had room for exactly this much.
        self._full = 0 < max_length <= len(output)
        return output

    def flush(self) -> bytes:
        output: bytes = self._inner.flush()
        return output

    @property
    def eof(self) -> bool:
        ended: bool = self._inner.eof
        return ended

    @property
    def needs_input(self) -> bool:
        return not (self.eof or self._inner.unconsumed_tail or self._full)

    @property
    def unused_data(self) -> bytes:
        unused: bytes = self._inner.unused_data
        return unused


def _zstd() -> Any:
    """The zstd module: in the standard library from Python 3.14 on, a backport before."""
    import importlib

    try:
        return importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return importlib.import_module("backports.zstd")


def create_decompressor(compression: Compression) -> Any:
    """Return an object that unpacks one member of a file: `decompress(data, max_length=-1)`, `eof`, `unused_data`."""
    match compression:
        case Compression.GZIP:
            return _ZlibDecompressor()
        case Compression.XZ:
            import lzma

            return lzma.LZMADecompressor(memlimit=XZ_MEMORY_LIMIT)
        case Compression.BZ2:
            import bz2

            return bz2.BZ2Decompressor()
        case Compression.ZSTD:
            return _zstd().ZstdDecompressor()


def _create_compressor(compression: Compression) -> Compressor:
    match compression:
        case Compression.GZIP:
            import zlib

            return zlib.compressobj(wbits=31)  # 16 + 15: a gzip header, the largest window
        case Compression.XZ:
            import lzma

            return lzma.LZMACompressor()
        case Compression.BZ2:
            import bz2

            return bz2.BZ2Compressor()
        case Compression.ZSTD:
            zstd = _zstd()
            # With the check sum that the command line tool adds as well, so that corruption is found.
            compressor: Compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
            return compressor


class _LazyCompressor:
    """A compressor that takes no memory before it is used (xz needs 94 MiB), since most streams go one way only."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._inner: Compressor | None = None

    def compress(self, data: bytes, /) -> bytes:
        self._inner = self._inner or _create_compressor(self._compression)
        return self._inner.compress(data)

    def flush(self) -> bytes:
        self._inner = self._inner or _create_compressor(self._compression)
        return self._inner.flush()


@cache
def _workers() -> ThreadPoolExecutor:
    """Threads of our own, so that drivers that block all of anyio's threads don't stop transfers."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="jumpstarter-compression")


async def _finished(job: asyncio.Future[T]) -> T:
    """Wait for a job; being cancelled leaves it running, to be waited for again."""
    await asyncio.wait([job])
    return job.result()


def _start(work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    job = asyncio.get_running_loop().run_in_executor(_workers(), work, *args)
    job.add_done_callback(lambda done: done.cancelled() or done.exception())  # a job may end after its stream
    return job


class _Decoder:
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


class _Unpacker:
    """Turns chunks that `pull` returns into unpacked ones; unpacks ahead while the reader uses a chunk."""

    def __init__(self, pull: Callable[[], Awaitable[bytes]], decoder: _Decoder) -> None:
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
            self._job = _start(decoder.read, CHUNK_SIZE)
        job = self._job
        try:
            chunk = await _finished(job)
        finally:
            if job.done():
                self._job = None
        self._more = len(chunk) == CHUNK_SIZE
        if decoder.pending > INLINE_INPUT or self._more:
            self._job = _start(decoder.read, CHUNK_SIZE)
        return chunk


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

    _unpacker: _Unpacker = field(init=False, repr=False)
    _packed: bool = field(init=False, default=False, repr=False)
    _eof_sent: bool = field(init=False, default=False, repr=False)

    def __post_init__(self) -> None:
        first = self.decompressor if hasattr(self.decompressor, "needs_input") else _ZlibDecompressor(self.decompressor)
        compression = self.compression or _COMPRESSIONS.get(type(first).__name__)
        decoder = (
            _Decoder(compression, _creator(compression), first) if compression else _Decoder("data", type(first), first)
        )
        self._unpacker = _Unpacker(self._pull, decoder)

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
            await self._send(await _finished(_start(self.compressor.compress, view[start : start + CHUNK_SIZE])))

    async def _send(self, packed: bytes) -> None:
        for start in range(0, len(packed), CHUNK_SIZE):
            await self.stream.send(packed[start : start + CHUNK_SIZE] if len(packed) > CHUNK_SIZE else packed)

    async def _flush(self) -> None:
        """Send what the compressor holds, once; nothing at all when nothing was ever sent."""
        if not self._eof_sent:
            self._eof_sent = True
            if self._packed:
                await self._send(await _finished(_start(self.compressor.flush)))

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
    "_ZlibDecompressor": Compression.GZIP,
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
        compressor=_LazyCompressor(compression),
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
    _unpacker: _Unpacker | None = field(init=False, default=None, repr=False)
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
            self._unpacker = _Unpacker(self._pull, _Decoder(compression, _creator(compression)))

    async def _pull(self) -> bytes:
        head, self._head = self._head, b""
        if head:
            return head
        try:
            return await anext(self.source)
        except StopAsyncIteration:
            raise EndOfStream from None
