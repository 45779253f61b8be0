"""Compressed streams: whole files come out, broken ones are plain errors, and neither memory nor loop suffers."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import anyio
import pytest
from anyio import ClosedResourceError, EndOfStream, TypedAttributeSet, fail_after, typed_attribute
from anyio.abc import ObjectStream

from jumpstarter.streams.codecs import _zstd
from jumpstarter.streams.common import create_memory_stream
from jumpstarter.streams.encoding import (
    CHUNK_SIZE,
    COMPRESSION_SIGNATURES,
    SIGNATURE_BUFFER_SIZE,
    AutoDecompressIterator,
    CompressedStream,
    Compression,
    DecompressionError,
    ZlibCompressedStream,
    compress_stream,
    create_decompressor,
    detect_compression_from_signature,
)

PACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.XZ: lzma.compress,
    Compression.BZ2: bz2.compress,
    Compression.ZSTD: lambda data: _zstd().compress(data, options={_zstd().CompressionParameter.checksum_flag: 1}),
}
UNPACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.decompress,
    Compression.XZ: lzma.decompress,
    Compression.BZ2: bz2.decompress,
    Compression.ZSTD: lambda data: _zstd().decompress(data),
}
every_compression = pytest.mark.parametrize("compression", list(Compression))


def image(size: int) -> bytes:
    """Bytes that compress about as well as a disk image does."""
    dice = random.Random(1)
    block = dice.randbytes(1 << 16)
    return b"".join(block[dice.randrange(1 << 15) :][:4096] for _ in range(size // 4096 + 1))[:size]


class Attributes(TypedAttributeSet):
    total: float = typed_attribute()


class Wire(ObjectStream[bytes]):
    """A stream that yields the given chunks and records what is sent to it."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.sent: list[bytes] = []
        self.closed = False

    async def receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self.chunks:
            raise EndOfStream
        return self.chunks.pop(0)

    async def send(self, item: bytes) -> None:
        self.sent.append(item)

    async def send_eof(self) -> None:
        self.sent.append(b"EOF")

    async def aclose(self) -> None:
        self.closed = True

    @property
    def extra_attributes(self) -> dict[object, Callable[[], object]]:
        return {Attributes.total: lambda: 42.0}


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


async def unpacked(compression: Compression, *chunks: bytes) -> bytes:
    return b"".join([chunk async for chunk in compress_stream(Wire(*chunks), compression)])


@every_compression
@pytest.mark.parametrize("size", [1, 1000, 65536, 1 << 30])
async def test_received_bytes_are_unpacked_however_they_are_cut(compression: Compression, size: int) -> None:
    data = image(300_000 if size > 1 else 3000)
    assert await unpacked(compression, *pieces(PACK[compression](data), size)) == data


@every_compression
@pytest.mark.parametrize("size", [1, 1 << 30])
async def test_all_members_of_a_file_are_unpacked(compression: Compression, size: int) -> None:
    members = [b"first", b"", image(10_000), b"last"]
    packed = b"".join(map(PACK[compression], members))
    assert await unpacked(compression, *pieces(packed, size)) == b"".join(members)


@every_compression
async def test_many_small_members_are_unpacked(compression: Compression) -> None:
    member = PACK[compression](b"0123456789" * 100)
    assert await unpacked(compression, member * 2000) == b"0123456789" * 200_000


@every_compression
@pytest.mark.parametrize("size", [1, 1 << 30])
async def test_zeros_after_a_member_are_padding(compression: Compression, size: int) -> None:
    packed = PACK[compression](b"one") + bytes(512) + PACK[compression](b"two") + bytes(1024)
    assert await unpacked(compression, *pieces(packed, size)) == b"onetwo"


@every_compression
@pytest.mark.parametrize("missing", [1, 8, 1000])
async def test_data_that_is_cut_short_is_an_error_after_what_it_held(compression: Compression, missing: int) -> None:
    data = image(200_000)
    stream = compress_stream(Wire(*pieces(PACK[compression](data)[:-missing], 5000)), compression)
    received = b""
    error = None
    try:
        async for chunk in stream:
            received += chunk
    except DecompressionError as caught:
        error = caught
    assert f"Failed to decompress {compression}: the data is cut short" in str(error)
    assert data.startswith(received)


@every_compression
async def test_corrupt_data_is_one_plain_error(compression: Compression) -> None:
    packed = bytearray(PACK[compression](random.Random(1).randbytes(100_000)))
    packed[50_000] ^= 0xFF
    packed[-2] ^= 0xFF  # bzip2 and others check sums at the end
    stream = compress_stream(Wire(bytes(packed)), compression)
    for _ in range(2):  # and stays one
        with pytest.raises(DecompressionError, match=f"^Failed to decompress {compression}: .*corrupt") as caught:
            [chunk async for chunk in stream]
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, RuntimeError)


@every_compression
async def test_data_of_another_kind_is_an_error(compression: Compression) -> None:
    with pytest.raises(DecompressionError, match=f"or not {compression}"):
        await unpacked(compression, b"#!/bin/sh\nplain text that was never compressed\n")


@every_compression
async def test_something_else_after_the_last_member_is_an_error(compression: Compression) -> None:
    stream = compress_stream(Wire(PACK[compression](b"good") + b"and garbage, more than any header"), compression)
    assert await stream.receive() == b"good"
    with pytest.raises(DecompressionError):
        await stream.receive()


@every_compression
async def test_a_stream_that_ends_before_its_first_byte_is_empty(compression: Compression) -> None:
    assert await unpacked(compression) == b""
    assert await unpacked(compression, b"", b"") == b""


@every_compression
async def test_a_bomb_comes_out_in_bounded_chunks_and_memory(compression: Compression) -> None:
    bomb = PACK[compression](bytes(64 << 20))
    tracemalloc.start()
    try:
        total = 0
        async for chunk in compress_stream(Wire(bomb), compression):
            assert len(chunk) <= CHUNK_SIZE
            total += len(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 64 << 20
    assert peak < 16 << 20


async def test_an_xz_header_can_not_ask_for_all_memory() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    packer = lzma.LZMACompressor(filters=[{**filters[0], "dict_size": 1 << 20}])
    packed = bytearray(packer.compress(b"x") + packer.flush())
    # Block header: size, flags, filter id 0x21, size of properties 1, dictionary size, padding, CRC32.
    at = packed.index(b"\x21\x01", 12) + 2
    packed[at] = 36  # 1 GiB
    header = packed[12 : 12 + (packed[12] + 1) * 4]
    packed[12 + len(header) - 4 : 12 + len(header)] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    with pytest.raises(DecompressionError, match=r"[Mm]emory"):
        await unpacked(Compression.XZ, bytes(packed))


@every_compression
async def test_sent_bytes_are_packed_and_flushed_once(compression: Compression) -> None:
    data = image(3 << 20)
    wire = Wire()
    stream = compress_stream(wire, compression)
    for piece in [data[:100], data[100:50_000], data[50_000:]]:
        await stream.send(piece)
    await stream.send_eof()
    with pytest.raises(ClosedResourceError):
        await stream.send(b"late")
    await stream.aclose()
    assert wire.closed
    assert wire.sent[-1] == b"EOF"
    assert max(map(len, wire.sent)) <= CHUNK_SIZE
    assert UNPACK[compression](b"".join(wire.sent[:-1])) == data


@every_compression
async def test_closing_without_eof_sends_the_rest(compression: Compression) -> None:
    wire = Wire()
    async with compress_stream(wire, compression) as stream:
        await stream.send(b"data")
    assert UNPACK[compression](b"".join(wire.sent)) == b"data"


async def test_a_stream_that_is_only_read_sends_nothing() -> None:
    wire = Wire(gzip.compress(b"data"))
    async with compress_stream(wire, Compression.GZIP) as stream:
        assert await stream.receive() == b"data"
        await stream.send_eof()
    assert wire.sent == [b"EOF"]


async def test_the_inner_stream_is_closed_even_when_the_rest_can_not_be_sent() -> None:
    class Full(Wire):
        async def send(self, item: bytes) -> None:
            raise anyio.BrokenResourceError

    wire = Full()
    stream = compress_stream(wire, Compression.XZ)
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(image(1 << 20))
    with pytest.raises(anyio.BrokenResourceError):
        await stream.aclose()
    assert wire.closed


async def test_after_an_error_the_file_is_recognisably_incomplete() -> None:
    wire = Wire()

    async def dump() -> None:
        async with compress_stream(wire, Compression.GZIP) as stream:
            await stream.send(image(1 << 20))
            raise KeyError("device")

    with pytest.raises(KeyError):
        await dump()
    assert wire.closed
    with pytest.raises(EOFError):
        gzip.decompress(b"".join(wire.sent))


async def test_breaking_off_sends_nothing_more_and_breaks_off_the_inner_stream() -> None:
    class Abortable(Wire):
        def abort(self) -> None:
            self.sent.append(b"ABORTED")

    for wire in Wire(), Abortable():
        stream = compress_stream(wire, Compression.XZ)
        await stream.send(b"data")
        sent = list(wire.sent)
        stream.abort()
        await stream.aclose()
        assert wire.sent == sent + [b"ABORTED"] * isinstance(wire, Abortable)


async def test_chunks_that_are_there_are_unpacked_together() -> None:
    data = image(4 << 20)
    near, far = create_memory_stream()
    stream = compress_stream(near, Compression.GZIP)
    for piece in pieces(gzip.compress(data), 20_000):
        await far.send(piece)
    await far.send_eof()
    received = [chunk async for chunk in stream]
    assert b"".join(received) == data
    assert len(received) <= 8


async def test_no_compression_is_the_same_stream() -> None:
    wire = Wire()
    assert compress_stream(wire, None) is wire


async def test_attributes_are_those_of_the_inner_stream() -> None:
    assert compress_stream(Wire(), Compression.ZSTD).extra(Attributes.total) == 42.0


@pytest.mark.parametrize(
    ("kind", "compressor", "decompressor", "packed"),
    [
        (ZlibCompressedStream, zlib.compressobj(wbits=31), zlib.decompressobj(wbits=47), gzip.compress(b"a" * 99) * 2),
        (CompressedStream, lzma.LZMACompressor(), lzma.LZMADecompressor(), lzma.compress(b"a" * 99) * 2),
    ],
    ids=["gzip", "xz"],
)
async def test_streams_can_be_made_of_library_objects(
    kind: type[CompressedStream], compressor: object, decompressor: object, packed: bytes
) -> None:
    stream = kind(stream=Wire(packed), compressor=compressor, decompressor=decompressor)
    assert b"".join([chunk async for chunk in stream]) == b"a" * 198


async def test_zlib_data_is_taken_for_gzip() -> None:
    assert await unpacked(Compression.GZIP, zlib.compress(b"data")) == b"data"


@every_compression
async def test_a_cancelled_receive_loses_nothing(compression: Compression) -> None:
    data = image(20 << 20) if compression is not Compression.BZ2 else image(4 << 20)
    stream = compress_stream(Wire(*pieces(PACK[compression](data), 200_000)), compression)
    received = []
    cancelled = 0
    with fail_after(60):
        while True:
            with anyio.move_on_after(0 if len(received) % 2 == 0 and cancelled < 20 else 30) as scope:
                try:
                    received.append(await stream.receive())
                except EndOfStream:
                    break
            cancelled += scope.cancelled_caught
    assert cancelled
    assert b"".join(received) == data


async def test_the_event_loop_goes_on_while_a_large_chunk_is_unpacked() -> None:
    packed = lzma.compress(random.Random(1).randbytes(8 << 20), preset=0)
    longest = 0.0
    with fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal longest
                while True:
                    before = time.perf_counter()
                    await anyio.sleep(0.001)
                    longest = max(longest, time.perf_counter() - before)

            tasks.start_soon(watch)
            began = time.perf_counter()
            assert len(await unpacked(Compression.XZ, packed)) == 8 << 20
            whole = time.perf_counter() - began
            tasks.cancel_scope.cancel()
    assert longest < max(whole / 4, 0.05)


@every_compression
def test_signatures_tell_the_compression(compression: Compression) -> None:
    packed = PACK[compression](b"data")
    assert detect_compression_from_signature(packed[:SIGNATURE_BUFFER_SIZE]) is compression
    assert detect_compression_from_signature(packed[:2]) is None
    assert detect_compression_from_signature(b"plain") is None


def test_signatures_fit_into_the_buffer() -> None:
    assert max(len(known.signature) for known in COMPRESSION_SIGNATURES) <= SIGNATURE_BUFFER_SIZE


@every_compression
def test_a_decompressor_unpacks_one_member(compression: Compression) -> None:
    decompressor = create_decompressor(compression)
    assert decompressor.decompress(PACK[compression](b"data") + b"more") == b"data"
    assert decompressor.eof
    assert decompressor.unused_data == b"more"


async def source(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@every_compression
@pytest.mark.parametrize("size", [1, 7, 1 << 30])
async def test_the_iterator_unpacks_what_is_compressed(compression: Compression, size: int) -> None:
    data = image(3000 if size == 1 else 300_000)
    chunks = pieces(PACK[compression](data), size)
    assert b"".join([chunk async for chunk in AutoDecompressIterator(source=source(*chunks))]) == data


@pytest.mark.parametrize("chunks", [[], [b""], [b"x"], [b"#!/bin/sh\n", b"more", b"and more"]])
async def test_the_iterator_passes_plain_data_on(chunks: list[bytes]) -> None:
    result = [chunk async for chunk in AutoDecompressIterator(source=source(*chunks))]
    assert b"".join(result) == b"".join(chunks)


async def test_the_iterator_says_what_is_corrupt() -> None:
    with pytest.raises(RuntimeError, match="Failed to decompress gzip:"):
        async for _ in AutoDecompressIterator(source=source(b"\x1f\x8b\x08", b"not really gzip at all")):
            pass


def test_importing_loads_no_compression_library() -> None:
    code = "import sys, jumpstarter.streams.encoding as e; e.Compression('xz'); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert not {"lzma", "bz2", "backports.zstd"} & set(run.stdout.split())
